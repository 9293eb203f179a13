#!/usr/bin/env bash
# The life of the Debian package in a VM whose PID 1 is systemd: install, deploy, restarts under load, upgrade, reboot, removal,
# purge; then, without systemd, a short one. Part of `make test-vm`; guest/package is what runs inside.
#
#   KERNEL=6.1|6.12    the guest's kernel
#   VM_SECONDS=N       longest life of a VM
#
# Two boots of one disk: what is between them is the reboot. The third VM has a disk of its own. Prints `test NAME ... ok` lines and one `test result:` line.
set -uo pipefail
cd "$(dirname "$0")/../.."
: "${CARRACK:?run it with make test-vm}" "${IMAGES:?run it with make test-vm}"
kernel=${KERNEL:-6.1}
# On the disk of the tree: /tmp may be small.
work=$(mktemp -d "${CARGO_TARGET_DIR:-target}/vm-package.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/share"
# Not compressed: an emulated machine unpacks them seven times. The second is rebuilt: another program, as a build of a later
# commit gives, and another configuration.
export DEB_COMPRESSION=none
DEB_REVISION=1 cli/package/build.sh "$work/share" >/dev/null || exit 1
cp -r cli/package "$work/rebuilt"
printf '\n# The second revision says more.\n' >>"$work/rebuilt/config.toml"
{ cat "$CARRACK" && printf rebuilt; } >"$work/rebuilt/carrack" && chmod 755 "$work/rebuilt/carrack" || exit 1
DEB_REVISION=2 CARRACK=$work/rebuilt/carrack "$work/rebuilt/build.sh" "$work/share" >/dev/null || exit 1
cp "$IMAGES"/{hello-web,hello-redis}.tar "$(dirname "$CARRACK")/carrack-load" integration/vm/guest/package "$work/share/"

echo "     Running vm/package (kernel $kernel, systemd)"
# The second boot goes on where the first has left the disk; after a failure there it would only repeat it.
for boot in first second plain; do
    disk=(-s -d "$work/disk")
    [ $boot != plain ] || disk=()
    integration/vm/run.sh -k "$kernel" "${disk[@]}" -t "${VM_SECONDS:-2400}" -c "$work/console" "$work/share" \
        "CARRACK_TEST_SLOW=${CARRACK_TEST_SLOW:-10} ./package $boot" | tee "$work/$boot.out"
    code=${PIPESTATUS[0]}
    [ "$code" = 0 ] || break
done
passed=$(cat "$work"/*.out | grep -c '^test .* \.\.\. ok')
failed=$(cat "$work"/*.out | grep -c '^test .* \.\.\. FAILED')
if [ "$code" != 0 ] && [ "$failed" = 0 ]; then
    echo "test boot_$boot ... FAILED"
    echo "the VM ended with $code"
    failed=1
fi
[ "$failed" = 0 ] && verdict=ok || verdict=FAILED
echo
echo "test result: $verdict. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
[ "$failed" = 0 ]
