#!/usr/bin/env bash
# Runs the tests that depend on a kernel in a VM on pure cgroup v2 (`make test-vm`). Output and `test result:` lines are those of
# cargo test; `Running vm/...` tells integration/test.sh that they are of the layer "vm".
#
#   KERNEL=6.1|6.12    the guest's kernel
#   FULL=1             also what takes long and depends little on the kernel (suite.sh says which)
#   ONLY="NAME ..."    only these test binaries, all of each, e.g. runtime/containers; FILTER="..." are words for their harness
#   VM_SECONDS=N       longest life of the VM
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CARRACK:?run it with make test-vm}" "${IMAGES:?run it with make test-vm}" "${TARGET:?run it with make test-vm}"
kernel=${KERNEL:-6.1}
# Four times what it takes on a machine of its own.
longest=2400
[ -z "${FULL:-}" ] || longest=5400
tree=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
. integration/vm/suite.sh

# Optimised and static as the product: an emulated machine runs what is not optimised several times slower. The product is named
# too: with its features, most of what is needed is what `make build` has built.
built=$target/vm-tests
tests=()
for name in $(suite | sed 's|^[^/]*/||; s| .*||' | sort -u); do tests+=(--test "$name"); done
cargo test --no-run --release --locked --target "$TARGET" -p carrack -p carrack-integration -p carrack-runtime -p carrack-net \
    -p carrack-node "${tests[@]}" --message-format=json 2>"$target/vm-build.log" |
    jq -r 'select(.reason == "compiler-artifact" and .profile.test and .target.kind == ["test"] and .executable)
        | "\(.manifest_path | split("/")[-2])/\(.target.name) \(.executable)"' >"$built" ||
    { cat "$target/vm-build.log" >&2; exit 1; }

stage=$(mktemp -d "$target/vm-stage.XXXXXX")
mkdir -p "$stage/bin" "$stage/tree/integration"
trap 'rm -rf "$stage" "$stage.out"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
while read -r name seconds filters; do
    [ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $name "* ]] || continue
    [ -z "${ONLY:-}${FULL:-}" ] || filters=
    [ "$filters" != - ] || continue
    binary=$(sed -n "s|^$name ||p" "$built")
    [ -n "$binary" ] || { echo "vm: there is no test binary $name (integration/vm/suite.sh)" >&2; exit 1; }
    cp "$binary" "$stage/bin/${name/\//.}"
    echo "$name $seconds ${FILTER:-$filters}"
done < <(suite) >"$stage/suite"
[ -s "$stage/suite" ] || { echo "vm: nothing of the suite is called $ONLY" >&2; exit 1; }
cp "$CARRACK" "$stage/bin/carrack"
cp -r "$IMAGES" "$stage/images"
# What tests read of the tree, at the same place: the directories that cargo runs them in, and these.
cp -r docs "$stage/tree/"
cp -r integration/images "$stage/tree/integration/"
sed -n 's|/.*||p' "$built" | sort -u | while read -r crate; do mkdir -p "$stage/tree/$crate"; done
cp integration/vm/guest/run-tests "$stage/run-tests"

code=0
integration/vm/run.sh -k "$kernel" -m 3072 -t "${VM_SECONDS:-$longest}" "$stage" \
    "./run-tests '$tree' '$target' '${CARRACK_TEST_SLOW:-10}'" | tee "$stage.out" || code=$?
# A VM that ended early has told nothing of the rest: that is one failure.
if [ $code != 0 ] && ! grep -q '^test result: FAILED' "$stage.out"; then
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"
fi
exit $code
