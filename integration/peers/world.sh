#!/usr/bin/env bash
# A world of its own for benchmarks: ours and the peers run in it, and nothing of theirs can outlive it.
#
#   world.sh CGROUP COMMAND...          (stage 1, on the host; root)
#
# COMMAND runs as the child of a PID 1 of a new pid namespace: when that ends, by itself or by a kill of this process, the kernel
# ends everything in it, and with it all mounts, links and nftables tables. The control groups CGROUP/* are left for the caller,
# who made CGROUP below each hierarchy's root and removes it.
#
#   /sys/fs/cgroup   the host's hierarchies as seen from CGROUP, without the empty cgroup2 tree of hybrid hosts: crun 1.8 and podman
#                    4.3 refuse hybrid hosts
#   /run             an empty tmpfs
#   network          a loopback device, nothing else
set -euo pipefail

enter() { # HIERARCHY: this shell joins CGROUP there
    echo $$ >"$1/$cgroup/cgroup.procs"
}

case $1 in
--inside)
    shift
    mount -t tmpfs -o mode=755 bench-run /run
    mkdir -p /run/netns /run/lock
    ip link set lo up
    links=$(mktemp -d)
    if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
        # Processes may only be in leaves.
        umount -l /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mkdir -p /sys/fs/cgroup/harness
        while read -r pid; do echo "$pid" >/sys/fs/cgroup/harness/cgroup.procs || true; done </sys/fs/cgroup/cgroup.procs
        for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
            echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
        done
    else
        find /sys/fs/cgroup -maxdepth 1 -type l -exec cp -a {} "$links" \;
        hierarchies=$(awk '{ for (i = 7; $i != "-"; i++); if ($(i + 1) == "cgroup") print $5, $(i + 3) }' /proc/self/mountinfo)
        umount -R -l /sys/fs/cgroup
        mount -t tmpfs -o mode=755 bench-cgroup /sys/fs/cgroup
        while read -r at options; do
            options=$(tr , '\n' <<<"$options" | grep -vxE 'rw|ro|clone_children|xattr|release_agent=.*' | paste -sd ,)
            case $options in *name=*) options="none,$options" ;; esac
            mkdir -p "$at"
            mount -t cgroup -o "$options" cgroup "$at"
        done <<<"$hierarchies"
        cp -a "$links/." /sys/fs/cgroup/
    fi
    rm -rf "$links"
    # PID 1 is this shell: it reaps what loses its parent.
    code=0
    "$@" || code=$?
    exit $code
    ;;
*)
    cgroup=$1
    shift
    if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
        enter /sys/fs/cgroup
    else
        for hierarchy in /sys/fs/cgroup/*/; do
            [ ! -L "${hierarchy%/}" ] && [ -d "$hierarchy$cgroup" ] && enter "${hierarchy%/}"
        done
    fi
    exec unshare --cgroup --net --mount --propagation private --pid --fork --kill-child --mount-proc \
        bash "$0" --inside "$@"
    ;;
esac
