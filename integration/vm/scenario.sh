# Sourced by systemd.sh and firewalls.sh: a scenario is one script of guest/ that prints `test NAME ... ok` lines, in VMs of
# their own, with what it needs in $work/share.
set -uo pipefail
: "${CARRACK:?run it with make test-vm}" "${IMAGES:?run it with make test-vm}"
kernel=${KERNEL:-6.1}
# On the disk of the tree: /tmp may be small.
work=$(mktemp -d "${CARGO_TARGET_DIR:-target}/vm-scenario.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$work/share"
: >"$work/out"

# boot NAME SECONDS COMMAND [OPTION...]: one VM, with options of run.sh; fails as the command does
boot() {
    local name=$1 seconds=$2 command=$3 code before
    shift 3
    before=$(grep -c '^test .* \.\.\. FAILED' "$work/out")
    integration/vm/run.sh -k "$kernel" -t "${VM_SECONDS:-$seconds}" "$@" "$work/share" \
        "CARRACK_TEST_SLOW=${CARRACK_TEST_SLOW:-10} bash ./$command" | tee -a "$work/out"
    code=${PIPESTATUS[0]}
    # A VM that ended early has not told which test it was.
    if [ "$code" != 0 ] && [ "$(grep -c '^test .* \.\.\. FAILED' "$work/out")" = "$before" ]; then
        echo "test the_vm_of_$name ... FAILED (it ended with $code)" | tee -a "$work/out"
    fi
    return "$code"
}

# result SCRIPT: the line that cargo test ends with; every `check` line of the guest's script must have passed
result() {
    local passed failed verdict=ok
    passed=$(grep -c '^test .* \.\.\. ok' "$work/out")
    failed=$(grep -c '^test .* \.\.\. FAILED' "$work/out")
    if [ "$failed" = 0 ] && [ "$passed" != "$(grep -cE '^ *check [a-z_]+$' "integration/vm/guest/$1")" ]; then
        echo "vm: not every test of guest/$1 has run"
        failed=1
    fi
    [ "$failed" = 0 ] || verdict=FAILED
    printf '\ntest result: %s. %s passed; %s failed; 0 ignored; 0 measured; 0 filtered out\n' $verdict "$passed" "$failed"
    [ $verdict = ok ]
}
