#!/usr/bin/env bash
# Makes real OCI images from Debian packages, without any registry: busybox, nginx, redis, the two of examples/hello, and, when it
# is asked for, python with what examples/flask-redis installs.
#
#   images/build.sh OUTDIR [IMAGE...]      IMAGE: busybox nginx redis hello-web hello-redis (all of these when none is named) python
#
# Each image becomes OUTDIR/NAME.tar, an archive as `docker save` writes it (`carrack image load -i` reads it), and a tag in the
# OCI layout OUTDIR/oci. An image that is there already is left alone, so a second run costs nothing.
set -euo pipefail
out=$(mkdir -p "${1:?usage: build.sh OUTDIR [IMAGE...]}" && cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for tool in umoci skopeo busybox; do
    command -v "$tool" >/dev/null || { echo "build.sh: $tool is missing; run \`make setup\`" >&2; exit 1; }
done

# skeleton ROOT: directories, users and busybox with all its applets
skeleton() {
    mkdir -p "$1"/{bin,sbin,etc,tmp,run,proc,sys,dev,root,var/log,var/tmp,srv,usr/bin,usr/sbin,lib64}
    chmod 1777 "$1/tmp" "$1/var/tmp"
    cat >"$1/etc/passwd" <<'P'
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
redis:x:101:101:redis:/data:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
P
    printf 'root:x:0:\nwww-data:x:33:\nredis:x:101:\nnogroup:x:65534:\n' >"$1/etc/group"
    cp "$(command -v busybox)" "$1/bin/busybox"
    local applet
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -sf busybox "$1/bin/$applet"
    done
}

# program ROOT FILE: a dynamic program with every library it loads, at the same paths
program() {
    local lib
    install -D -m 755 "$2" "$1$2"
    ldd "$2" | grep -o '/[^ ]*' | while read -r lib; do install -D -m 755 "$(readlink -f "$lib")" "$1$lib"; done
    for lib in libnss_files.so.2 libnss_dns.so.2; do
        lib=$(find /lib/*-linux-gnu -maxdepth 1 -name "$lib" | head -1)
        [ -z "$lib" ] || install -D -m 755 "$(readlink -f "$lib")" "$1$lib"
    done
}

# image NAME ROOT CONFIG...: one layer with times and owners fixed, so that its digest is the same on every run
image() {
    local name=$1 root=$2
    shift 2
    tar --sort=name --mtime=@1700000000 --numeric-owner --format=posix \
        --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$root" -cf "$work/$name.layer" .
    [ -d "$out/oci" ] || umoci init --layout "$out/oci"
    umoci new --image "$out/oci:$name"
    umoci raw add-layer --image "$out/oci:$name" "$work/$name.layer"
    umoci config --image "$out/oci:$name" "$@"
    skopeo --insecure-policy copy -q "oci:$out/oci:$name" "docker-archive:$work/$name.tar:$name:1"
    mv "$work/$name.tar" "$out/$name.tar"
}

make_busybox() {
    skeleton "$work/busybox"
    image busybox "$work/busybox" --config.cmd /bin/sh --config.env PATH=/bin:/sbin:/usr/bin:/usr/sbin
}

nginx_root() {
    skeleton "$1"
    program "$1" /usr/sbin/nginx
    mkdir -p "$1"/var/lib/nginx "$1"/var/log/nginx "$1"/etc/nginx "$1"/srv/www
    cp /etc/nginx/mime.types "$1/etc/nginx/"
    echo 'it works' >"$1/srv/www/index.html"
}

make_nginx() {
    nginx_root "$work/nginx"
    cp "$here/nginx.conf" "$work/nginx/etc/nginx/nginx.conf"
    image nginx "$work/nginx" --config.entrypoint /usr/sbin/nginx --config.cmd -g --config.cmd 'daemon off;' \
        --config.stopsignal SIGQUIT --config.exposedports 80/tcp --config.env PATH=/bin:/sbin:/usr/bin:/usr/sbin
}

redis_root() {
    skeleton "$1"
    program "$1" /usr/bin/redis-server
    mkdir -p "$1/data"
    chown 101:101 "$1/data"
}

make_redis() {
    redis_root "$work/redis"
    image redis "$work/redis" --config.cmd redis-server --config.cmd --save --config.cmd '60 1' \
        --config.cmd --protected-mode --config.cmd no --config.workingdir /data --config.volume /data --config.user redis \
        --config.env PATH=/bin:/sbin:/usr/bin:/usr/sbin
}

make_hello-web() {
    nginx_root "$work/hello-web"
    cp "$here/hello-web/nginx.conf" "$work/hello-web/etc/nginx/nginx.conf"
    install -D -m 755 "$here/hello-web/visits" "$work/hello-web/srv/cgi/cgi-bin/visits"
    install -D -m 755 "$here/hello-web/start" "$work/hello-web/bin/start"
    image hello-web "$work/hello-web" --config.cmd /bin/start --config.stopsignal SIGQUIT --config.exposedports 80/tcp \
        --config.env PATH=/bin:/sbin:/usr/bin:/usr/sbin
}

make_hello-redis() {
    redis_root "$work/hello-redis"
    image hello-redis "$work/hello-redis" --config.cmd redis-server --config.cmd --save --config.cmd '1 1' \
        --config.cmd --protected-mode --config.cmd no --config.workingdir /data --config.volume /data --config.user redis \
        --config.env PATH=/bin:/sbin:/usr/bin:/usr/sbin
}

# Python's own modules, pip, flask, redis and all that these two need, so that `pip3 install flask redis` finds them installed and
# asks no index. Byte code is made here: what Debian made names times of files, which an image has not.
make_python() {
    local root=$work/python version lib file
    version=$(basename "$(readlink -f /usr/bin/python3)")
    lib=/usr/lib/$version
    skeleton "$root"
    program "$root" "/usr/bin/$version"
    ln -s "$version" "$root/usr/bin/python3"
    install -m 755 /usr/bin/pip3 "$root/usr/bin/pip3"
    dpkg -L python3-{pip,distutils,flask,werkzeug,jinja2,markupsafe,itsdangerous,click,colorama} \
        python3-{redis,async-timeout,deprecated,wrapt,packaging} "lib$version"-{minimal,stdlib} |
        grep -E '^/usr/lib/python3' | grep -vE '/(idlelib|lib2to3|ensurepip|pydoc_data|config-[^/]*)(/|$)|EXTERNALLY-MANAGED' |
        while read -r file; do if [ ! -d "$file" ] || [ -L "$file" ]; then echo "${file#/}"; fi; done |
        tar -C / -T - -cf - | tar -C "$root" -xf -
    # Libraries of its extension modules.
    ldd "$root$lib"/lib-dynload/*.so | sed -n 's,.*=> \(/[^ ]*\).*,\1,p' | sort -u | while read -r file; do
        [ -e "$root$file" ] || install -D -m 755 "$(readlink -f "$file")" "$root$file"
    done
    /usr/bin/python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$root" "$root$lib" "$root/usr/lib/python3"
    image python "$root" --config.cmd python3 --config.env PATH=/usr/bin:/usr/sbin:/bin:/sbin --config.env PYTHONUNBUFFERED=1 \
        --config.env PIP_DISABLE_PIP_VERSION_CHECK=1 --config.env PIP_ROOT_USER_ACTION=ignore
}

[ $# -gt 0 ] || set -- busybox nginx redis hello-web hello-redis
for name in "$@"; do
    [ -f "$out/$name.tar" ] || "make_$name"
done
