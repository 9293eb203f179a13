#!/usr/bin/env bash
# Docker, ufw, firewalld, a plain ruleset, NetworkManager and systemd-networkd beside a running stack, in a VM whose PID 1 is
# systemd. Part of `make test-vm`; guest/firewalls is what runs inside.
#
#   KERNEL=6.1|6.12    the guest's kernel
#
# Prints `test NAME ... ok` lines and one `test result:` line.
set -uo pipefail
cd "$(dirname "$0")/../.."
: "${CARRACK:?run it with make test-vm}" "${IMAGES:?run it with make test-vm}"
kernel=${KERNEL:-6.1}
work=$(mktemp -d "${CARGO_TARGET_DIR:-target}/vm-firewalls.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/share"
cp "$CARRACK" "$work/share/carrack"
cp -r "$IMAGES"/{hello-web,hello-redis}.tar integration/vm/guest/firewalls cli/package/{90-carrack.conf,05-carrack.network,firewalld} \
    "$work/share/"

echo "     Running vm/firewalls (kernel $kernel, systemd)"
integration/vm/run.sh -k "$kernel" -s -m 2048 -t "${VM_SECONDS:-1800}" -c "$work/console" "$work/share" \
    "CARRACK_TEST_SLOW=${CARRACK_TEST_SLOW:-10} bash ./firewalls" | tee "$work/out"
code=${PIPESTATUS[0]}
passed=$(grep -c '^test .* \.\.\. ok' "$work/out")
failed=$(grep -c '^test .* \.\.\. FAILED' "$work/out")
if [ "$code" != 0 ] && [ "$failed" = 0 ]; then
    echo "test the_vm ... FAILED"
    echo "the VM ended with $code"
    failed=1
fi
[ "$failed" = 0 ] && verdict=ok || verdict=FAILED
echo
echo "test result: $verdict. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
[ "$failed" = 0 ]
