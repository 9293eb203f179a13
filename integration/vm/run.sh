#!/usr/bin/env bash
# Runs a command in a throw-away VM: a distribution's kernel, pure cgroup v2, software emulation (no /dev/kvm needed).
#
#   run.sh [-k 6.1|6.12] [-s] [-m MiB] [-t SECONDS] [-d DISK] [-c FILE] DIR COMMAND
#
#   DIR COMMAND   bash runs COMMAND in the guest with DIR, shared read-write, as its /work; its output comes live on stdout
#   -k KERNEL     6.1 (the default) or 6.12
#   -s            PID 1 is systemd and the command runs in a unit; without it PID 1 is a shell script, which boots in a third of
#                 the time
#   -m MiB        memory (1536)
#   -t SECONDS    longest life of the VM (900)
#   -d DISK       a disk that stays: made from the image where the file does not exist, and shut down in good order, so that a
#                 second run with the same DISK is the reboot of the first. Without it every write is thrown away.
#   -c FILE       where to leave what the kernel and systemd say on the console
#
# Exit code: the command's; 124 when the time was over, 125 when the VM died or did not start (the end of its console follows).
# One vCPU, always: under emulation two are slower than one. Copy what runs often from /work to the guest's own disk first:
# starting a program over virtiofs costs 20 times as much.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernel=6.1 init=/sbin/vminit memory=1536 seconds=900 disk='' console=''
usage() { sed -n '4p' "$0" | cut -c5- >&2; exit 125; }
while getopts k:sm:t:d:c: option; do
    case $option in
    k) kernel=$OPTARG ;;
    s) init=/lib/systemd/systemd ;;
    m) memory=$OPTARG ;;
    t) seconds=$OPTARG ;;
    d) disk=$OPTARG ;;
    c) console=$OPTARG ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# = 2 ] || usage
dir=$1 command=$2
[ -d "$dir" ] || { echo "vm: no directory $dir" >&2; exit 125; }
dir=$(cd "$dir" && pwd)

virtiofsd=
for candidate in /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd; do
    [ -x $candidate ] && virtiofsd=$candidate && break
done
[ -n "$virtiofsd" ] && command -v qemu-system-x86_64 >/dev/null ||
    { echo "vm: qemu-system-x86_64 or virtiofsd is missing; run: make test-vm, which installs what it needs" >&2; exit 125; }

# The image may be replaced by a newer one at any time, but not while this lock is held.
for _ in 1 2 3; do
    image=$("$here/image.sh") || exit 125
    exec 8<"$image/in-use" && flock -s 8 && [ -e "$image/complete" ] && break
done
[ -e "$image/vmlinuz-$kernel" ] || { echo "vm: no kernel $kernel; there are:" "$image"/vmlinuz-* >&2; exit 125; }

run=$(mktemp -d "${TMPDIR:-/var/tmp}/carrack-vm.XXXXXX")
pids=()
cleanup() {
    trap - EXIT
    trap '' INT TERM HUP
    # Killed, not asked: the guest's writes are thrown away, or were synced by its own shutdown.
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    # The last line: what this shell has waited for, QEMU most of all.
    times >"$run/times"
    awk -v kernel="$kernel" -v wall=$SECONDS 'END { split($1, user, /[ms]/); split($2, system_, /[ms]/)
        printf "vm: kernel %s, %d s, %d CPU-s\n", kernel, wall, (user[1] + system_[1]) * 60 + user[2] + system_[2] }' "$run/times" >&2
    rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
[ -n "$console" ] || console=$run/console
: >"$console"

# What the guest finds: the command, how to end, and on its root the scripts of guest/, in a RAM disk after the image's own.
mkdir -p "$run/ctl" "$run/extra/guest/usr/sbin" "$run/extra/guest/etc/systemd/system/multi-user.target.wants"
printf '%s\n' "$command" >"$run/ctl/cmd"
if [ -n "$disk" ]; then echo 'exec systemctl poweroff --no-block'; else echo 'exec systemctl poweroff -ff'; fi >"$run/ctl/poweroff"
install -m755 "$here/guest/initramfs-init" "$run/extra/init"
install -m755 "$here/guest/vminit" "$here/guest/vm-command" "$run/extra/guest/usr/sbin/"
install -m644 "$here/guest/carrack-vm.service" "$run/extra/guest/etc/systemd/system/"
ln -s ../carrack-vm.service "$run/extra/guest/etc/systemd/system/multi-user.target.wants/"
cp "$image/initrd-$kernel" "$run/initrd"
# The kernel wants a second archive at a multiple of four bytes.
truncate -s %4 "$run/initrd"
(cd "$run/extra" && find . | cpio --quiet -o -H newc | gzip -1) >>"$run/initrd"

if [ -z "$disk" ]; then
    drive=file=$image/root.ext4,snapshot=on
else
    if [ ! -e "$disk" ]; then
        cp --sparse=always --reflink=auto "$image/root.ext4" "$disk.new" && mv "$disk.new" "$disk"
    fi
    drive=file=$disk
fi

share() { # NAME DIRECTORY
    "$virtiofsd" --socket-path="$run/$1.sock" -o source="$2" -o cache=auto -o xattr >"$run/$1.log" 2>&1 8<&- &
    pids+=($!)
    for _ in $(seq 200); do [ -S "$run/$1.sock" ] && return; sleep 0.05; done
    echo "vm: virtiofsd does not start: $(tail -n3 "$run/$1.log")" >&2
    exit 125
}
share ctl "$run/ctl"
share work "$dir"

# snapshot=on writes to a file in TMPDIR that has no name.
TMPDIR=$run qemu-system-x86_64 -accel tcg,thread=multi,tb-size=512 -cpu max -smp 1 -m "$memory" \
    -M q35,memory-backend=mem,vmport=off,hpet=off -object "memory-backend-memfd,id=mem,size=${memory}M,share=on" \
    -nodefaults -no-user-config -display none -no-reboot -kernel "$image/vmlinuz-$kernel" -initrd "$run/initrd" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off audit=0 nokaslr random.trust_cpu=on cgroup_no_v1=all vminit=$init systemd.getty_auto=no systemd.mask=getty.target" \
    -serial "file:$console" -drive "$drive,if=virtio,format=raw,cache=unsafe" \
    -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng \
    -chardev "socket,id=c0,path=$run/ctl.sock" -device vhost-user-fs-pci,chardev=c0,tag=ctl \
    -chardev "socket,id=c1,path=$run/work.sock" -device vhost-user-fs-pci,chardev=c1,tag=work \
    -chardev stdio,id=con,signal=off -device virtio-serial-pci -device virtconsole,chardev=con </dev/null 8<&- &
qemu=$!
pids+=($qemu)
# A shell that waits for its children still takes a signal at once.
sleep "$seconds" 8<&- &
clock=$!
pids+=($clock)
code=0 ended=
wait -n -p ended $qemu $clock 2>/dev/null || code=$?
if [ -e "$run/ctl/rc" ]; then
    exit "$(cat "$run/ctl/rc")"
fi
if [ "$ended" = $clock ]; then
    echo "vm: no end within $seconds s; the end of its console:" >&2
    code=124
else
    echo "vm: it died (qemu ended with $code); the end of its console:" >&2
    code=125
fi
tail -n 40 "$console" >&2
exit $code
