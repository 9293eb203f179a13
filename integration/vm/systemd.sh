#!/usr/bin/env bash
# The life of the Debian package in a VM whose PID 1 is systemd: install, deploy, restarts under load, upgrade, reboot, removal,
# purge; then, without systemd, a short one. Part of `make test-vm`; guest/package is what runs inside.
#
#   KERNEL=6.1|6.12    the guest's kernel
#   VM_SECONDS=N       longest life of a VM
#
# Two boots of one disk: what is between them is the reboot. The third VM has a disk of its own.
cd "$(dirname "$0")/../.." || exit 1
. integration/vm/scenario.sh

# Not compressed: an emulated machine unpacks them seven times. The second is rebuilt: another program, as a build of a later
# commit gives, and another configuration.
export DEB_COMPRESSION=none
DEB_REVISION=1 cli/package/build.sh "$work/share" >/dev/null || exit 1
cp -r cli/package "$work/rebuilt"
printf '\n# The second revision says more.\n' >>"$work/rebuilt/config.toml"
{ cat "$CARRACK" && printf rebuilt; } >"$work/rebuilt/carrack" && chmod 755 "$work/rebuilt/carrack" || exit 1
DEB_REVISION=2 CARRACK=$work/rebuilt/carrack "$work/rebuilt/build.sh" "$work/share" >/dev/null || exit 1
cp "$IMAGES"/{hello-web,hello-redis}.tar "$(dirname "$CARRACK")/carrack-load" integration/vm/guest/package "$work/share/" || exit 1

echo "     Running vm/package (kernel $kernel, systemd)"
# The second boot goes on where the first has left the disk; after a failure there it would only repeat it.
boot first 2400 "package first" -s -d "$work/disk" && boot second 2400 "package second" -s -d "$work/disk" &&
    boot plain 2400 "package plain"
result package
