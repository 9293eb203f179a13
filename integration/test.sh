#!/usr/bin/env bash
# Runs every test of the workspace and ends with a table of layers.
#
#   test.sh            all tests, then the table and `N passed, N failed`
#   test.sh --closing-line   only the closing line of the run before (for `make test-all`)
#
# A layer is told by where a test stands: src/ is pure, tests/live_* is live, scheduler and compose tests are scenarios, other
# tests/ are kernel.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${CARRACK:?run it with make test}" "${IMAGES:?run it with make test}"
log=${CARGO_TARGET_DIR:-target}/test.log
if [ "${1:-}" != --closing-line ]; then
    cargo test --workspace --all-features --locked --no-fail-fast 2>&1 | tee "$log"
    echo "${PIPESTATUS[0]}" >"$log.code"
fi
awk '
    function layer_of(path, name) {
        if (path ~ /^src\//) return "pure"
        if (path ~ /live_/) return "live"
        if (name ~ /carrack_(scheduler|compose)/ || path ~ /scenario|golden|help|cases/) return "scenarios"
        return "kernel"
    }
    /^ +Running / { layer = ($2 == "unittests") ? "pure" : layer_of($2, $0) }
    /^ +Doc-tests / { layer = "pure" }
    /^test result:/ { passed[layer] += $4; failed[layer] += $6; skipped[layer] += $8 }
    /^error: could not compile|^error: test failed, to rerun/ { if (/compile/) broken = 1 }
    END {
        printf "\n%-10s %7s %7s %8s\n", "layer", "passed", "failed", "skipped"
        split("pure scenarios kernel live", order, " ")
        for (i = 1; i <= 4; i++) {
            l = order[i]
            printf "%-10s %7d %7d %8d\n", l, passed[l], failed[l], skipped[l]
            p += passed[l]; f += failed[l]; s += skipped[l]
        }
        if (broken) f += 1
        printf "\n%d passed, %d failed, %d skipped\n", p, f, s
    }' "$log"
exit "$(cat "$log.code")"
