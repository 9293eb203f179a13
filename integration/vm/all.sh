#!/usr/bin/env bash
# What `make test-vm` runs: the tests of the repository in one VM, and beside it, in VMs whose PID 1 is systemd, the life of the
# package and the firewalls of others. Two VMs at a time: each has one vCPU. Whoever needs the image first builds it (image.sh).
#
#   KERNEL=6.1|6.12    the guests' kernel; FULL=1, ONLY and the others: see test.sh
set -uo pipefail
cd "$(dirname "$0")/../.."
[ -z "${ONLY:-}" ] || exec integration/vm/test.sh
beside=${CARGO_TARGET_DIR:-target}/vm-beside.out
# Each job is a process group of its own, so that a signal to this script ends all that the job has started.
set -m
jobs=()
cleanup() {
    for job in "${jobs[@]}"; do kill -- "-$job" 2>/dev/null; done
    wait
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

scenarios() {
    local code=0 scenario
    for scenario in systemd firewalls; do
        integration/vm/$scenario.sh || code=1
    done
    return $code
}
scenarios >"$beside" 2>&1 &
jobs+=($!)
integration/vm/test.sh &
jobs+=($!)
code=0
wait "${jobs[1]}" || code=1
wait "${jobs[0]}" || code=1
jobs=()
cat "$beside"
exit $code
