#!/usr/bin/env bash
# Runs every test of the workspace and ends with a table of layers.
#
#   test.sh            all tests, then the table and `N passed, N failed`
#   test.sh --long     after such a run: the long forms of tests and the VM, added to its table (`make test-all`)
#
# A layer is told by where a test stands: src/ is pure, tests/ of the crates that need no kernel are scenarios, of integration
# live, of the others kernel. Cargo names test files without their crate, so the table asks the tree. What runs in a VM says so
# (`Running vm/...`).
set -uo pipefail
cd "$(dirname "$0")/.."
: "${CARRACK:?run it with make test}" "${IMAGES:?run it with make test}"
log=${CARGO_TARGET_DIR:-target}/test.log
if [ "${1:-}" != --long ]; then
    cargo test --workspace --all-features --locked --no-fail-fast 2>&1 | tee "$log"
    echo "${PIPESTATUS[0]}" >"$log.code"
else
    # One line each: settings of its length, then the target and the tests.
    long() {
        cargo test --workspace --all-features --locked --no-fail-fast "$@" 2>&1 | tee -a "$log"
        [ "${PIPESTATUS[0]}" = 0 ] || echo 1 >"$log.code"
    }
    CARRACK_RACE_SECONDS=60 long --test containers -- races::
    make --no-print-directory fuzz 2>&1 | tee -a "$log"
    [ "${PIPESTATUS[0]}" = 0 ] || echo 1 >"$log.code"
    LONG=1 long --test live_failpoints -- step_of_a_deploy step_of_a_crash
    LONG=1 long --test live_kill_cycles
    # Two VMs, each with a core of its own: nothing else runs beside them.
    echo "     Running vm/make test-vm" | tee -a "$log"
    make --no-print-directory test-vm KERNEL=6.1 2>&1 | tee "$log.vm" | tee -a "$log"
    if [ "${PIPESTATUS[0]}" != 0 ]; then
        echo 1 >"$log.code"
        # What ends before it has a result, as a build does, is one failure of this layer.
        grep -q '^test result: FAILED' "$log.vm" ||
            echo "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out" | tee -a "$log"
    fi
fi
awk -v code="$(cat "$log.code")" '
    function layer_of_crate(crate) {
        if (crate ~ /^(api|compose|scheduler|cli)$/) return "scenarios"
        return crate == "integration" ? "live" : "kernel"
    }
    # The files of tests come first, one a line: CRATE/tests/NAME.rs or CRATE/tests/NAME/main.rs.
    NR == FNR {
        crate = path = $0
        sub(/\/.*/, "", crate)
        sub(/^[^\/]*\//, "", path)
        layers[path] = layer_of_crate(crate)
        # Two crates with a file of one name: only a layer that they share can be told.
        if (path in crates && layer_of_crate(crates[path]) != layers[path]) {
            print "test.sh: " path " is in " crate " and in " crates[path] "; rename one"
            broken = 1
        }
        crates[path] = crate
        next
    }
    /^ +Running / { layer = ($2 ~ /^vm\//) ? "vm" : ($2 == "unittests") ? "pure" : ($2 in layers) ? layers[$2] : "kernel" }
    /^ +Doc-tests / { layer = "pure" }
    /^test result:/ { ran[layer] = 1; passed[layer] += $4; failed[layer] += $6; skipped[layer] += $8 }
    END {
        printf "\n%-10s %7s %7s %8s\n", "layer", "passed", "failed", "skipped"
        count = split("pure scenarios kernel live vm", order, " ")
        for (i = 1; i <= count; i++) {
            l = order[i]
            if (!(l in ran)) continue
            printf "%-10s %7d %7d %8d\n", l, passed[l], failed[l], skipped[l]
            p += passed[l]; f += failed[l]; s += skipped[l]
        }
        # What does not compile, or ends without a result line, counts too.
        if (broken || (code != 0 && f == 0)) f += 1
        printf "\n%d passed, %d failed, %d skipped\n", p, f, s
        exit f > 0
    }' <(ls -- */tests/*.rs */tests/*/main.rs) "$log"
