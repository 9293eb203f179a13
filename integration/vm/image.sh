#!/usr/bin/env bash
# Builds, once, what run.sh boots: a Debian root as an ext4 image, and for each kernel its image and an initial RAM disk (which
# run.sh adds the scripts of guest/ to).
#
#   image.sh           prints the directory of the image; builds it first where it is not in the cache
#
# Everything comes from the Debian sources that this machine's own apt knows. Kernels are downloaded and unpacked, never
# installed. The cache (${XDG_CACHE_HOME:-~/.cache}/carrack/vm) holds one entry, named by a hash of all package versions and of
# this script; entries of other versions are removed unless a VM runs on them.
set -euo pipefail
umask 022
cd "$(dirname "$0")"

# A kernel's short name and the meta package that depends on its newest version.
KERNELS="6.1:linux-image-cloud-amd64 6.12:linux-image-6.12-cloud-amd64"
DISK_SIZE=6G
PACKAGES="systemd systemd-sysv dbus udev kmod iproute2 iptables nftables procps iputils-ping ipvsadm wireguard-tools ethtool \
    crun runc docker.io ufw firewalld network-manager apparmor curl jq strace conntrack socat netcat-openbsd \
    busybox-static e2fsprogs util-linux bsdutils libc-bin openssl ca-certificates \
    umoci skopeo docker-registry nginx-light redis-server man-db python3-minimal xz-utils"
# Units that a plain boot leaves alone: a test starts what it needs. A package installed later starts as it does anywhere.
# apparmor.service compiles Debian's own profiles, which takes 20 s here; the kernel's AppArmor is on without it.
DISABLED="docker.service docker.socket containerd.service ufw.service firewalld.service NetworkManager.service \
    NetworkManager-dispatcher.service NetworkManager-wait-online.service nginx.service redis-server.service docker-registry.service \
    systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service nftables.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer \
    systemd-pstore.service remote-fs.target apparmor.service"

say() { echo "vm image: $*" >&2; }
die() { say "$*"; exit 1; }

arch=$(dpkg --print-architecture)
[ "$arch" = amd64 ] || die "only amd64 has a VM so far; this is $arch"
for tool in mmdebstrap mke2fs cpio xz busybox; do
    command -v $tool >/dev/null || die "$tool is missing; run: make test-vm, which installs what it needs"
done

# LABEL lines of apt's own sources, Debian's only.
sources() {
    apt-get indextargets --format '$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        sed -n 's/^Debian|//p' | sort -u
}
# The package of the newest kernel that META depends on.
kernel_package() { apt-cache show --no-all-versions "$1" | sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p'; }
# NAME VERSION of everything that the root would hold.
resolve() {
    # shellcheck disable=SC2086  # lists of words
    apt-get install -s -q --no-install-recommends -o Dir::State::status=/dev/null -o APT::Get::Show-User-Simulation-Note=0 \
        $PACKAGES 2>/dev/null | sed -n 's/^Inst \([^ ]*\) (\([^ ]*\).*/\1 \2/p' | sort
}

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/carrack/vm
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
# Asking apt takes seconds. As long as what it knows is what it was, so is its answer.
known() {
    find /var/lib/apt/lists -maxdepth 1 -type f ! -name lock -printf '%f %s %t\n' | sort | cat - image.sh | sha256sum | cut -c1-16
}
known=$(known)
if [ -e "$cache/known-$known" ] && entry=$(cat "$cache/known-$known") && [ -e "$entry/complete" ]; then
    echo "$entry"
    exit 0
fi
# Sets `versions`, what the image would be made of, and `key`, the name of its entry.
look_up() {
    [ -n "$(sources)" ] || die "apt knows no Debian source on this machine"
    versions=$(resolve)
    [ -n "$versions" ] || die "apt cannot resolve the packages of the image; run: apt-get update"
    local kernel package
    for kernel in $KERNELS; do
        package=$(kernel_package "${kernel#*:}")
        [ -n "$package" ] || die "apt knows no package ${kernel#*:}"
        versions+=$'\n'"${kernel%:*} $package $(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')"
    done
    key=$(printf '%s\n' "$versions" | cat - image.sh | sha256sum | cut -c1-16)
    entry=$cache/$key
}
# Ends the script where the entry is there.
found() {
    [ -e "$entry/complete" ] || return 0
    rm -f "$cache"/known-*
    echo "$entry" >"$cache/known-$(known)"
    echo "$entry"
    exit 0
}

[ -n "$(apt-cache show --no-all-versions linux-image-6.12-cloud-amd64 2>/dev/null)" ] || apt-get update -q >/dev/null
look_up
found
# A mirror has the newest versions only, and what apt knows here may be old.
[ "$(id -u)" = 0 ] || die "building it needs root"
apt-get update -q >/dev/null || die "apt-get update failed"
look_up
found

started=$SECONDS
say "building $key (a few minutes, once for these package versions)"
# What an interrupted build left: the lock says that nobody is at it.
rm -rf "$cache"/build.*
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$work/out" "$work/kernels"

# Apt's settings of this machine that decide whether and how sources are reached.
options=()
while IFS= read -r option; do options+=(--aptopt="$option"); done < <(
    apt-config dump Acquire | grep -iE '^Acquire::(Check-Valid-Until|Check-Date|http|https)\b.*"[^"]+";$' || true)
sources >"$work/sources.list"
suite=$(sed -n 's/^deb [^ ]* \([a-z]*\) .*/\1/p' "$work/sources.list" | head -n1)
# In a mount namespace of its own: whatever ends the build, no mount stays behind.
unshare --mount --propagation private mmdebstrap --quiet --variant=minbase --mode=root --format=directory \
    --components=main "${options[@]}" --aptopt='Acquire::Languages "none"' \
    --dpkgopt=path-exclude=/usr/share/man/'*' --dpkgopt=path-exclude=/usr/share/locale/'*' \
    --dpkgopt=path-exclude=/usr/share/doc/'*' --dpkgopt=path-exclude=/usr/share/info/'*' \
    --include="$(echo $PACKAGES | tr ' ' ,)" "$suite" "$work/root" - <"$work/sources.list" >&2 ||
    die "mmdebstrap failed"
root=$work/root
# Nothing in the guest reaches a network; and what is installed in it later keeps its manual pages.
rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap \
    "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
echo vm >"$root/etc/hostname"
printf '127.0.0.1 localhost vm\n::1 localhost ip6-localhost\n' >"$root/etc/hosts"
echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
printf '/dev/vda / ext4 defaults 0 0\n' >"$root/etc/fstab"
: >"$root/etc/machine-id"
for unit in $DISABLED; do
    rm -f "$root"/etc/systemd/system/*.wants/"$unit"
done

for kernel in $KERNELS; do
    name=${kernel%:*}
    package=$(kernel_package "${kernel#*:}")
    mkdir "$work/kernels/$name"
    (cd "$work/kernels/$name" && apt-get download -q -o APT::Sandbox::User=root "$package" >/dev/null && dpkg -x ./*.deb unpacked)
    release=${package#linux-image-}
    cp "$work/kernels/$name/unpacked/boot/vmlinuz-$release" "$work/out/vmlinuz-$name"
    mkdir -p "$root/lib/modules"
    cp -a "$work/kernels/$name/unpacked/lib/modules/$release" "$root/lib/modules/"
    cp "$work/kernels/$name/unpacked/boot/config-$release" "$root/boot/"
    chroot "$root" depmod "$release"

    # Only what finds the disk; everything else is loaded from it.
    ram=$work/initramfs-$name
    mkdir -p "$ram"/{bin,dev,proc,sys,root,guest,modules}
    cp /bin/busybox "$ram/bin/busybox"
    chroot "$root" modprobe -S "$release" -a --show-depends virtio_pci virtio_blk | sed -n 's/^insmod \([^ ]*\).*/\1/p' |
        awk '!seen[$0]++' | while read -r module; do
        file=$(basename "$module")
        case $file in
        *.xz) file=${file%.xz} && xz -dc "$root$module" >"$ram/modules/$file" ;;
        *) cp "$root$module" "$ram/modules/$file" ;;
        esac
        echo "$file" >>"$ram/modules/order"
    done
    (cd "$ram" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/out/initrd-$name"
done

# No journal: nobody needs this disk after a crash, and a boot is quicker.
truncate -s $DISK_SIZE "$work/out/root.ext4"
mke2fs -q -F -t ext4 -O ^has_journal -m 0 -d "$root" "$work/out/root.ext4"
printf '%s\n' "$versions" >"$work/out/versions"
: >"$work/out/in-use"
: >"$work/out/complete"
rm -rf "$entry"
mv "$work/out" "$entry"

for old in "$cache"/*/; do
    old=${old%/}
    [ "$old" != "$entry" ] && [ -e "$old/in-use" ] || continue
    # A VM holds this lock shared as long as it runs.
    flock -n "$old/in-use" rm -rf "$old" || say "$old stays: a VM runs on it"
done
rm -f "$cache"/known-*
echo "$entry" >"$cache/known-$(known)"
say "built in $((SECONDS - started)) s, $(du -sh "$entry" | cut -f1)"
echo "$entry"
