#!/usr/bin/env bash
# Makes the Debian package from a built binary:  build.sh OUTDIR  ->  OUTDIR/carrack_VERSION-REVISION_ARCH.deb
#
# CARRACK names the static binary (`make deb` sets it); DEB_REVISION (1) is what a rebuilt package of one version raises;
# DEB_COMPRESSION (xz) may be a fast one, or none, for tests. The same binary gives the same bytes: times are those of the last commit
# (SOURCE_DATE_EPOCH), owners root, compression single-threaded.
set -euo pipefail
out=$(mkdir -p "${1:?usage: build.sh OUTDIR}" && cd "$1" && pwd)
: "${CARRACK:?run it with make deb}"
here=$(cd "$(dirname "$0")" && pwd)
umask 022

version=$("$CARRACK" --version | cut -d ' ' -f 2)-${DEB_REVISION:-1}
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || stat -c %Y "$here/build.sh")}
export SOURCE_DATE_EPOCH
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# put MODE SOURCE PLACE: one file of the package
put() { install -D -m "$1" "$2" "$root$3"; }

put 755 "$CARRACK" /usr/bin/carrack
put 644 "$here/carrack.service" /usr/lib/systemd/system/carrack.service
put 644 "$here/config.toml" /etc/carrack/config.toml
put 644 "$here/90-carrack.conf" /usr/lib/NetworkManager/conf.d/90-carrack.conf
put 644 "$here/05-carrack.network" /usr/lib/systemd/network/05-carrack.network
put 644 "$here/firewalld/zone.xml" /usr/lib/firewalld/zones/carrack.xml
put 644 "$here/firewalld/policy-out.xml" /usr/lib/firewalld/policies/carrack-out.xml
put 644 "$here/firewalld/policy-in.xml" /usr/lib/firewalld/policies/carrack-in.xml
put 644 "$here/copyright" /usr/share/doc/carrack/copyright
put 644 "$here/lintian-overrides" /usr/share/lintian/overrides/carrack
put 644 <("$CARRACK" completions bash) /usr/share/bash-completion/completions/carrack
put 644 <("$CARRACK" completions zsh) /usr/share/zsh/vendor-completions/_carrack
put 644 <("$CARRACK" completions fish) /usr/share/fish/vendor_completions.d/carrack.fish
"$CARRACK" man "$root/usr/share/man/man1" >/dev/null
cat >"$root/usr/share/doc/carrack/changelog.Debian" <<CHANGES
carrack ($version) unstable; urgency=medium

  * Built from the source of this version; its history is in the repository.

 -- Carrack maintainers <maintainers@carrack.invalid>  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGES
gzip -9n "$root"/usr/share/man/man1/* "$root/usr/share/doc/carrack/changelog.Debian"

mkdir "$root/DEBIAN"
for script in preinst postinst prerm postrm; do
    put 755 "$here/$script" "/DEBIAN/$script"
done
echo /etc/carrack/config.toml >"$root/DEBIAN/conffiles"
(cd "$root" && find . -path ./DEBIAN -prune -o -type f ! -path ./etc/carrack/config.toml -printf '%P\n' | LC_ALL=C sort |
    xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"
{
    cat <<CONTROL
Package: carrack
Version: $version
Architecture: $arch
Maintainer: Carrack maintainers <maintainers@carrack.invalid>
Installed-Size: $(du -k --apparent-size -s --exclude=DEBIAN "$root" | cut -f 1)
Depends: adduser
Recommends: ca-certificates, systemd
Suggests: nftables
Section: admin
Priority: optional
CONTROL
    cat "$here/description"
} >"$root/DEBIAN/control"

find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
level=$([ "${DEB_COMPRESSION:-xz}" = xz ] && echo 6 || echo 1)
deb=$out/carrack_${version}_$arch.deb
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" -z"$level" --threads-max=1 --build "$root" "$deb" >/dev/null
echo "$deb"
