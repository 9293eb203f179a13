#!/usr/bin/env bash
# Fuzzes what reads hostile input: layers (`unpack`), manifests and what else registries and images say (`documents`),
# Compose files (`compose`), and variables with their files (`variables`).
#
#   fuzz.sh [TARGET...]    FUZZ_SECONDS=40 for each target
#
# libFuzzer needs no nightly toolchain: its instrumentation is LLVM's, which any rustc can be asked for. What it finds new is
# kept in $CARGO_TARGET_DIR/fuzz, input that crashes too; seeds are in fuzz/seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-40}
host=$(rustc -vV | sed -n 's/^host: //p')
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(unpack documents compose variables)

# With --target build scripts and procedural macros stay as they are.
CARGO_TARGET_DIR=$out RUSTFLAGS="-C passes=sancov-module -C codegen-units=1 -C llvm-args=-sanitizer-coverage-level=4 \
-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
-C llvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing" \
    cargo build --manifest-path fuzz/Cargo.toml --target "$host"

failed=0
for target in "${targets[@]}"; do
    corpus=$out/corpus/$target artifacts=$out/artifacts/$target work=$out/work/$target
    rm -rf "$work"
    mkdir -p "$corpus" "$artifacts" "$work"
    echo "     Running fuzz/$target for $seconds s"
    code=0
    # Each unit makes a directory below $work; an aborted one leaves its own, which goes with it.
    TMPDIR=$work "$out/$host/debug/$target" "$corpus" "fuzz/seeds/$target" -max_total_time="$seconds" -timeout=20 \
        -rss_limit_mb=1024 -max_len=65536 -artifact_prefix="$artifacts/" -verbosity=0 -print_final_stats=1 \
        >"$out/$target.log" 2>&1 || code=$?
    rm -rf "$work"
    grep -E '^stat::number_of_executed_units|^stat::peak_rss_mb' "$out/$target.log" || true
    if [ $code = 0 ]; then
        echo "test result: ok. 1 passed; 0 failed; 0 ignored"
    else
        failed=1
        tail -n 40 "$out/$target.log"
        echo "input that crashes: $artifacts"
        echo "test result: FAILED. 0 passed; 1 failed; 0 ignored"
    fi
done
exit $failed
