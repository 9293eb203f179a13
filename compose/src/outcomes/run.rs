//! Keys of a service: what it may do and use, and what is mounted into it.

use super::{Key, anyway, exact, later, mapped, never, place};

const JOINING: &str = "sharing the namespace of another container is not built yet";
const HOST_OR_OWN: &str = "use host, or leave it out";
const REALTIME: &str = "realtime shares of the CPU are kept by few kernels and not built";
const SHARES: &str = "shares of a disk are kept by few kernels (BFQ) and not built yet";
const SHARES_HINT: &str = "limit bytes or operations a second: device_read_bps and the like";
const GPUS: &str = "GPUs are not built yet";
const GPUS_HINT: &str =
    "name the device nodes in `devices`, and keep tasks on nodes that have them with a constraint";
const BIND: &str = "{} is a path of the node that takes the deploy; the tasks stay there";

pub(super) const KEYS: &[Key] = &[
    exact("services.privileged", "privileged: true"),
    exact("services.cap_add", "cap_add: [SYS_PTRACE]"),
    exact("services.cap_drop", "cap_drop: [ALL]"),
    exact("services.security_opt", "security_opt: ['no-new-privileges:false']").of("no-new-privileges"),
    exact("services.security_opt", "security_opt: ['seccomp:unconfined']").of("seccomp:unconfined"),
    later(
        "services.security_opt",
        "security_opt: ['seccomp:./p.json']",
        "seccomp profiles of your own are not built yet",
        "use seccomp:unconfined, or leave it out for our profile",
    )
    .of("seccomp:FILE"),
    mapped(
        "services.security_opt",
        "security_opt: ['apparmor:unconfined']",
        "no AppArmor profile is used here anyway",
    )
    .of("apparmor:unconfined"),
    mapped(
        "services.security_opt",
        "security_opt: ['label:disable']",
        "containers are not labelled for SELinux",
    )
    .of("label"),
    later(
        "services.security_opt",
        "security_opt: ['systempaths=unconfined']",
        "the option {:?} is not built yet",
        "no-new-privileges and seccomp:unconfined are there",
    )
    .of("others"),
    exact("services.read_only", "read_only: true"),
    exact("services.sysctls", "sysctls: {net.core.somaxconn: 1024}"),
    place("services.ulimits"),
    exact("services.ulimits.soft", "ulimits: {nofile: {soft: 1, hard: 2}}"),
    exact("services.ulimits.hard", "ulimits: {nofile: {soft: 1, hard: 2}}"),
    exact("services.oom_score_adj", "oom_score_adj: 500"),
    never(
        "services.oom_kill_disable",
        "oom_kill_disable: true",
        "a container without memory would hang",
        "raise its memory limit",
    )
    .cosmetic(),
    exact("services.ipc", "ipc: host").of("host"),
    anyway("services.ipc", "ipc: private").of("private"),
    mapped("services.ipc", "ipc: shareable", "no other container joins it yet").of("shareable"),
    later("services.ipc", "ipc: service:t", JOINING, HOST_OR_OWN).of("service:NAME, container:NAME, none"),
    exact("services.pid", "pid: host").of("host"),
    later("services.pid", "pid: service:t", JOINING, HOST_OR_OWN).of("service:NAME, container:NAME"),
    exact("services.uts", "uts: host").of("host"),
    exact("services.cgroup", "cgroup: host").of("host"),
    anyway("services.cgroup", "cgroup: private").of("private"),
    anyway("services.userns_mode", "userns_mode: host").of("host"),
    later("services.userns_mode", "userns_mode: private", "user namespaces are not built yet", HOST_OR_OWN)
        .of("others"),
    place("services.devices"),
    exact("services.devices.source", "devices: ['/dev/fuse:/dev/f:r']"),
    exact("services.devices.target", "devices: ['/dev/fuse:/dev/f:r']"),
    exact("services.devices.permissions", "devices: ['/dev/fuse:/dev/f:r']"),
    later(
        "services.devices",
        "devices: ['vendor.com/gpu=0']",
        "devices by name (CDI) are not built yet",
        "name a device by its path, for example /dev/ttyUSB0",
    )
    .of("VENDOR/CLASS=NAME (CDI)"),
    exact("services.device_cgroup_rules", "device_cgroup_rules: ['c 10:229 rw']"),
    later("services.gpus", "gpus: all", GPUS, GPUS_HINT),
    later("services.gpus.*", "gpus: [{count: 1}]", GPUS, GPUS_HINT),
    exact("services.cpus", "cpus: 0.5"),
    exact("services.cpu_shares", "cpu_shares: 512"),
    exact("services.cpuset", "cpuset: '0'"),
    exact("services.cpu_quota", "cpu_quota: 50000"),
    exact("services.cpu_period", "{cpu_quota: 50000, cpu_period: 50000}"),
    mapped("services.cpu_period", "cpu_period: 50000", "says nothing without `cpu_quota` or `cpus`")
        .of("alone"),
    never("services.cpu_rt_period", "cpu_rt_period: 1000", REALTIME, "use `cpu_shares` or `cpuset`")
        .cosmetic(),
    never("services.cpu_rt_runtime", "cpu_rt_runtime: 1000", REALTIME, "use `cpu_shares` or `cpuset`")
        .cosmetic(),
    exact("services.mem_limit", "mem_limit: 64m"),
    exact("services.mem_reservation", "mem_reservation: 32m"),
    exact("services.memswap_limit", "{mem_limit: 64m, memswap_limit: 128m}"),
    exact("services.mem_swappiness", "mem_swappiness: 10"),
    exact("services.pids_limit", "pids_limit: 50"),
    exact("services.shm_size", "shm_size: 8m"),
    place("services.blkio_config"),
    later("services.blkio_config.weight", "blkio_config: {weight: 300}", SHARES, SHARES_HINT).cosmetic(),
    later(
        "services.blkio_config.weight_device",
        "blkio_config: {weight_device: [{path: /dev/vda, weight: 300}]}",
        SHARES,
        SHARES_HINT,
    )
    .cosmetic(),
    later(
        "services.blkio_config.weight_device.*",
        "blkio_config: {weight_device: [{path: /dev/vda, weight: 300}]}",
        SHARES,
        SHARES_HINT,
    )
    .cosmetic(),
    place("services.blkio_config.device_read_bps"),
    exact(
        "services.blkio_config.device_read_bps.path",
        "blkio_config: {device_read_bps: [{path: /dev/vda, rate: 1m}]}",
    ),
    exact(
        "services.blkio_config.device_read_bps.rate",
        "blkio_config: {device_read_bps: [{path: /dev/vda, rate: 1m}]}",
    ),
    place("services.blkio_config.device_write_bps"),
    exact(
        "services.blkio_config.device_write_bps.path",
        "blkio_config: {device_write_bps: [{path: /dev/vda, rate: 1m}]}",
    ),
    exact(
        "services.blkio_config.device_write_bps.rate",
        "blkio_config: {device_write_bps: [{path: /dev/vda, rate: 1m}]}",
    ),
    place("services.blkio_config.device_read_iops"),
    exact(
        "services.blkio_config.device_read_iops.path",
        "blkio_config: {device_read_iops: [{path: /dev/vda, rate: 100}]}",
    ),
    exact(
        "services.blkio_config.device_read_iops.rate",
        "blkio_config: {device_read_iops: [{path: /dev/vda, rate: 100}]}",
    ),
    place("services.blkio_config.device_write_iops"),
    exact(
        "services.blkio_config.device_write_iops.path",
        "blkio_config: {device_write_iops: [{path: /dev/vda, rate: 100}]}",
    ),
    exact(
        "services.blkio_config.device_write_iops.rate",
        "blkio_config: {device_write_iops: [{path: /dev/vda, rate: 100}]}",
    ),
    never(
        "services.cgroup_parent",
        "cgroup_parent: x",
        "Carrack owns the cgroups of its tasks",
        "take it away; limits are kept without it",
    )
    .cosmetic(),
    later(
        "services.storage_opt",
        "storage_opt: {size: 1G}",
        "limits on the writable layer are not built yet",
        "take it away, or write to a tmpfs with a size",
    )
    .cosmetic(),
    place("services.volumes"),
    exact("services.volumes.type", "volumes: [{type: tmpfs, target: /t}]"),
    later(
        "services.volumes.type",
        "volumes: [{type: image, source: i, target: /t}]",
        "images as volumes are not built yet",
        "copy the files into the image of the service",
    )
    .of("image"),
    later(
        "services.volumes.type",
        "volumes: [{type: cluster, source: c, target: /t}]",
        "cluster volumes are not built yet",
        "use a volume of the node, type: volume",
    )
    .of("cluster"),
    never(
        "services.volumes.type",
        "volumes: [{type: npipe, source: p, target: /t}]",
        "is a setting of Windows",
        "use bind, volume or tmpfs",
    )
    .of("npipe"),
    exact("services.volumes.source", "volumes: ['vol:/t']"),
    mapped("services.volumes.source", "volumes: ['/srv:/t']", BIND).of("of a bind mount"),
    mapped(
        "services.volumes.source",
        "volumes: [/t]",
        "{} has no name to be kept by: it lives as long as its task, and a new task begins anew",
    )
    .of("none, of a volume"),
    mapped(
        "services.volumes.source",
        "volumes: ['./small.conf:/t:ro']",
        "{} becomes a config: it is read at each deploy, and every node has it",
    )
    .of("of a bind mount of a small file of the project, read-only"),
    exact("services.volumes.target", "volumes: ['vol:/t']"),
    exact("services.volumes.read_only", "volumes: ['vol:/t:ro']"),
    mapped(
        "services.volumes.consistency",
        "volumes: [{type: volume, source: vol, target: /t, consistency: cached}]",
        "is for Docker Desktop; nothing lies between here",
    ),
    place("services.volumes.bind"),
    exact(
        "services.volumes.bind.propagation",
        "volumes: [{type: bind, source: /srv, target: /t, bind: {propagation: rslave}}]",
    ),
    later(
        "services.volumes.bind.propagation",
        "volumes: [{type: bind, source: /srv, target: /t, bind: {propagation: rshared}}]",
        "what a container mounts stays in it: {} is not built yet",
        "use rslave when it is to see what the node mounts later, or leave it out",
    )
    .of("rshared, shared"),
    exact(
        "services.volumes.bind.create_host_path",
        "volumes: [{type: bind, source: /srv, target: /t, bind: {create_host_path: false}}]",
    ),
    exact(
        "services.volumes.bind.recursive",
        "volumes: [{type: bind, source: /srv, target: /t, bind: {recursive: disabled}}]",
    ),
    later(
        "services.volumes.bind.recursive",
        "volumes: [{type: bind, source: /srv, target: /t, bind: {recursive: writable}}]",
        "what is mounted below a read-only mount is always read-only, too",
        "leave it out, or mount what is below by itself",
    )
    .of("writable"),
    mapped(
        "services.volumes.bind.selinux",
        "volumes: [{type: bind, source: /srv, target: /t, bind: {selinux: z}}]",
        "files are not labelled for SELinux",
    ),
    place("services.volumes.volume"),
    exact("services.volumes.volume.nocopy", "volumes: ['vol:/t:nocopy']"),
    exact(
        "services.volumes.volume.subpath",
        "volumes: [{type: volume, source: vol, target: /t, volume: {subpath: a}}]",
    ),
    mapped(
        "services.volumes.volume.labels",
        "volumes: [{type: volume, source: vol, target: /t, volume: {labels: {a: b}}}]",
        "labels of volumes stand at the top of the file",
    ),
    place("services.volumes.tmpfs"),
    exact("services.volumes.tmpfs.size", "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m}}]"),
    exact("services.volumes.tmpfs.mode", "volumes: [{type: tmpfs, target: /t, tmpfs: {mode: 0o700}}]"),
    place("services.volumes.image"),
    later(
        "services.volumes.image.subpath",
        "volumes: [{type: image, source: i, target: /t, image: {subpath: a}}]",
        "images as volumes are not built yet",
        "copy the files into the image of the service",
    ),
    exact("services.tmpfs", "tmpfs: /t"),
    later(
        "services.tmpfs",
        "tmpfs: '/t:huge=always'",
        "the option {:?} of tmpfs is not built yet",
        "size, mode, uid, gid and exec are there, among others",
    )
    .of("options beyond size, mode, uid, gid, nr_inodes, nr_blocks and flags of mount(8)"),
    exact("services.volumes_from", "volumes_from: [u]"),
    later(
        "services.volumes_from",
        "volumes_from: ['container:x']",
        "containers that Carrack did not make have no volumes here",
        "name the volumes in `volumes`",
    )
    .of("container:NAME"),
];
