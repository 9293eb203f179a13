#!/usr/bin/env bash
# Docker, ufw, firewalld, a plain ruleset, NetworkManager and systemd-networkd beside a running stack, in a VM whose PID 1 is
# systemd. Part of `make test-vm`; guest/firewalls is what runs inside.
#
#   KERNEL=6.1|6.12    the guest's kernel
#   VM_SECONDS=N       longest life of the VM
cd "$(dirname "$0")/../.." || exit 1
. integration/vm/scenario.sh

cp "$CARRACK" "$work/share/carrack"
cp -r "$IMAGES"/{hello-web,hello-redis}.tar integration/vm/guest/firewalls cli/package/{90-carrack.conf,05-carrack.network,firewalld,postinst,prerm,postrm} \
    "$work/share/" || exit 1

echo "     Running vm/firewalls (kernel $kernel, systemd)"
boot firewalls 1800 firewalls -s -m 2048
result firewalls
