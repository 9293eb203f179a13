//! What one container is to be: the part of a service's spec that a runtime needs.
//!
//! Everything here is as the user wrote it or `None`/empty for "as the image says"; the image's own config is joined in by
//! the runtime. Owns no identity (which task, which run) and no network (a netns is given beside it).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::content::ContentFile;
use crate::id::VolumeName;
use crate::units::{Bytes, MilliCpus, option_duration_ms};

/// One container, independent of the host and of its place in the cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerSpec {
    /// The image as the user wrote it, for example `nginx:1.27`.
    pub image: String,
    /// The digest the tag was resolved to at deploy (`sha256:...`); empty before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// When to ask a registry although the image is held.
    pub pull: PullPolicy,
    /// Replaces the image's entrypoint; an empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command; an empty list clears it.
    pub command: Option<Vec<String>>,
    /// Added to the image's environment; `None` removes a variable of the image.
    pub env: BTreeMap<String, Option<String>>,
    /// `user`, `uid`, `user:group` or `uid:gid`, looked up in the image.
    pub user: Option<String>,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// Host name; the node gives one when empty.
    pub hostname: Option<String>,
    /// Domain name.
    pub domainname: Option<String>,
    /// Replaces the image's stop signal: `SIGTERM`, `TERM` or a number.
    pub stop_signal: Option<String>,
    /// Time from the stop signal to SIGKILL.
    #[serde(with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub stop_grace: Option<Duration>,
    /// Runs a reaper as PID 1; `None` means yes, unless the program is an init itself (its file is named `init` or `systemd`).
    pub init: Option<bool>,
    /// Allocates a terminal.
    pub tty: bool,
    /// Keeps stdin open.
    pub stdin_open: bool,
    /// Mounts the root filesystem read-only.
    pub read_only: bool,
    /// Binds, volumes and tmpfs in the order of the file.
    pub mounts: Vec<Mount>,
    /// Secrets and configs, each a read-only file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ContentFile>,
    /// Size of `/dev/shm`; `None` means 64 MiB.
    pub shm_size: Option<Bytes>,
    /// Limits on what it may use.
    pub limits: Limits,
    /// Linux resource limits by name without `RLIMIT_`, lower-case, for example `nofile`.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Capabilities, privilege and profile.
    pub security: Security,
    /// Device nodes of the host.
    pub devices: Vec<Device>,
    /// Devices that it may use wherever their nodes come from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_rules: Vec<DeviceRule>,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Lines for `/etc/hosts`: name and address; the address `host-gateway` means the node.
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers in place of the node's own.
    pub dns: Vec<String>,
    /// Search domains in place of the node's own.
    pub dns_search: Vec<String>,
    /// Resolver options in place of the node's own.
    pub dns_options: Vec<String>,
    /// Labels; they carry meaning only for their readers.
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's healthcheck; `None` keeps it.
    pub healthcheck: Option<Healthcheck>,
    /// `host` shares the node's PID namespace.
    pub pid: Namespace,
    /// `host` shares the node's IPC namespace.
    pub ipc: Namespace,
    /// `host` shares the node's UTS namespace.
    pub uts: Namespace,
    /// `host` shows the node's cgroups.
    pub cgroup: Namespace,
    /// Run in the container once it runs, in this order; one that fails ends the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub post_start: Vec<Hook>,
    /// Run in the container before its stop signal, in this order, within the time it has to stop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<Hook>,
}

impl ContainerSpec {
    /// A kernel parameter by name (`net.core.somaxconn`) that is of the container's own namespaces, so that setting it changes
    /// nothing of the node. `network` says whether it has a network namespace of its own.
    pub fn owns_sysctl(&self, name: &str, network: bool) -> bool {
        let of_ipc = ["kernel.msg", "kernel.shm", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
            || name == "kernel.sem";
        of_ipc && self.ipc == Namespace::Private || network && name.starts_with("net.")
    }
}

/// A program that is run in a container at a moment of its life.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hook {
    /// Program and arguments.
    pub command: Vec<String>,
    /// In place of the container's user.
    pub user: Option<String>,
    /// In place of the container's working directory.
    pub working_dir: Option<String>,
    /// Added to the container's environment.
    pub env: BTreeMap<String, String>,
    /// With all capabilities.
    pub privileged: bool,
}

/// A namespace of the container's own, or the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// Its own.
    #[default]
    Private,
    /// The node's.
    Host,
}

/// When a registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When no node holds the name.
    #[default]
    Missing,
    /// At each deploy.
    Always,
    /// Never; it must be loaded.
    Never,
    /// At a deploy, when the answer of the last time is older than this.
    Every {
        /// Seconds.
        seconds: u64,
    },
}

/// Something mounted into the container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: String,
    /// What is mounted there.
    pub source: MountSource,
    /// Mounted read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute path on the host.
        path: String,
        /// Makes a directory when nothing is there.
        create: bool,
        /// `rprivate`, `private`, `rshared`, `shared`, `rslave` or `slave`; empty means `rprivate`.
        #[serde(default)]
        propagation: String,
        /// Leaves out what is mounted below the path.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        alone: bool,
    },
    /// A named volume.
    Volume {
        /// The volume's cluster-wide name.
        name: VolumeName,
        /// Leaves out the copy of the image's content on first use.
        #[serde(default)]
        nocopy: bool,
        /// A path below the volume's root.
        #[serde(default)]
        subpath: Option<String>,
    },
    /// A volume that lives as long as the task; the runtime names it.
    Anonymous,
    /// Memory.
    Tmpfs {
        /// Largest size; `None` means half of the memory.
        #[serde(default)]
        size: Option<Bytes>,
        /// Permission bits; `None` means 1777.
        #[serde(default)]
        mode: Option<u32>,
        /// Further options of mount(8): `uid=33`, `exec` and the like; it is `noexec`, `nosuid` and `nodev` otherwise.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
    },
}

/// Limits; `None` means not limited, except `pids`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// CPU time.
    pub cpus: Option<MilliCpus>,
    /// Relative CPU weight as Docker's `cpu_shares` (2 to 262144, default 1024).
    pub cpu_shares: Option<u64>,
    /// CPUs it may run on, as `0-3,5`.
    pub cpuset: Option<String>,
    /// Memory.
    pub memory: Option<Bytes>,
    /// Memory plus swap; `None` means no swap beyond `memory`.
    pub memory_swap: Option<Bytes>,
    /// Memory below which the kernel reclaims elsewhere first.
    pub memory_reservation: Option<Bytes>,
    /// Processes and threads; `None` means 4096, 0 means unlimited.
    pub pids: Option<u64>,
    /// Time within which `cpus` holds, microseconds; `None` means 100,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// How gladly the kernel swaps, 0 to 100; cgroup v1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swappiness: Option<u64>,
    /// Use of block devices.
    #[serde(skip_serializing_if = "IoLimits::is_empty")]
    pub io: IoLimits,
}

/// Limits on the use of block devices of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IoLimits {
    /// Bytes read a second.
    pub read_bps: Vec<IoRate>,
    /// Bytes written a second.
    pub write_bps: Vec<IoRate>,
    /// Reads a second.
    pub read_iops: Vec<IoRate>,
    /// Writes a second.
    pub write_iops: Vec<IoRate>,
}

impl IoLimits {
    /// Nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A number for one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IoRate {
    /// Path of the device on the node.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A soft and a hard limit; -1 is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// The limit in force.
    pub soft: i64,
    /// How far the process may raise it.
    pub hard: i64,
}

/// Capabilities, privilege and profiles.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// All capabilities, no profile, all devices.
    pub privileged: bool,
    /// Capabilities added, without `CAP_`, upper-case; `ALL` for all.
    pub cap_add: Vec<String>,
    /// Capabilities taken away; `ALL` for all.
    pub cap_drop: Vec<String>,
    /// `None` means yes.
    pub no_new_privileges: Option<bool>,
    /// Runs without our seccomp profile.
    pub seccomp_unconfined: bool,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Path on the host.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Devices that a container may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceRule {
    /// Character or block devices; `None` is both.
    pub kind: Option<DeviceKind>,
    /// Major number; `None` is all.
    pub major: Option<u32>,
    /// Minor number; `None` is all.
    pub minor: Option<u32>,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// How health is asked; times not written take the defaults of DESIGN section 8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// What is run.
    pub test: HealthTest,
    /// Between probes.
    #[serde(default, with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub interval: Option<Duration>,
    /// For one probe.
    #[serde(default, with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub timeout: Option<Duration>,
    /// Failures in a row that make it failing.
    #[serde(default)]
    pub retries: Option<u32>,
    /// Time in which failures do not count.
    #[serde(default, with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub start_period: Option<Duration>,
    /// Between probes in the start period.
    #[serde(default, with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub start_interval: Option<Duration>,
}

/// What a probe runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// Off, whatever the image says.
    Disabled,
    /// The image's own test with the times given here.
    Inherit,
    /// A program and its arguments.
    Exec(Vec<String>),
    /// A line for the container's `/bin/sh -c`.
    Shell(String),
}

/// How a container ended. Written by the supervisor, kept by the node, shown to users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it, as a shell shows it.
    pub code: i32,
    /// The signal's number when a signal ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// The kernel killed a process of it for lack of memory.
    #[serde(default)]
    pub oom: bool,
    /// Largest memory use seen, when the kernel tells.
    #[serde(default)]
    pub peak_memory: Option<Bytes>,
    /// Wall-clock end, milliseconds since the epoch.
    pub at: crate::units::Timestamp,
    /// Set when the end was not the container's own doing, for example a lost supervisor.
    #[serde(default)]
    pub error: Option<String>,
}

impl Exit {
    /// Ended with code 0 by itself.
    pub fn success(&self) -> bool {
        self.code == 0 && self.signal.is_none() && self.error.is_none()
    }

    /// One line for people: `exit code 1`, `killed by SIGKILL (out of memory)`.
    pub fn describe(&self) -> String {
        if let Some(error) = &self.error {
            return error.clone();
        }
        match (self.oom, self.signal) {
            (true, _) => match self.peak_memory {
                Some(peak) => format!("out of memory (peak {peak})"),
                None => "out of memory".into(),
            },
            (false, Some(signal)) => format!("killed by {}", signal_name(signal)),
            (false, None) => match self.code {
                126 => "exit code 126 (not executable)".into(),
                127 => "exit code 127 (command not found)".into(),
                code => format!("exit code {code}"),
            },
        }
    }
}

/// Signals by name, for the ones users meet; others as `signal N`.
pub const SIGNALS: [(&str, i32); 17] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("WINCH", 28),
    ("SYS", 31),
];

/// `SIGTERM` for 15; `signal 40` for what has no common name.
pub fn signal_name(number: i32) -> String {
    match SIGNALS.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

/// Reads `SIGTERM`, `term`, `15`, `SIGRTMIN+3`; `None` for what is no signal.
pub fn parse_signal(text: &str) -> Option<i32> {
    const SIGRTMIN: i32 = 34;
    const SIGRTMAX: i32 = 64;
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return Some(SIGRTMIN + offset).filter(|n| *n <= SIGRTMAX);
    }
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// One sample of a task's cgroup. Counters rise over the life of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// CPU time used, microseconds.
    pub cpu_us: u64,
    /// Memory in use without what the page cache could give back, bytes; absent where the host controls no memory.
    #[serde(default)]
    pub memory: Option<Bytes>,
    /// Processes and threads.
    pub pids: u64,
    /// Wall-clock moment of the sample.
    pub at: crate::units::Timestamp,
    /// The rest of what the kernel tells; only the newest sample carries it, histories do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<UsageDetail>>,
}

impl Usage {
    /// The sample as histories keep it.
    pub fn without_detail(&self) -> Self {
        Self { detail: None, ..*self }
    }
}

/// What the newest sample of a task's cgroup says beyond its use. The counters rise over the life of a run and mean the same on
/// cgroup v1 and v2.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct UsageDetail {
    /// Largest memory use so far, page cache included; absent where the host controls no memory.
    pub memory_peak: Option<Bytes>,
    /// Processes that the kernel killed for lack of memory.
    pub oom_kills: u64,
    /// Periods in which its CPU limit was looked at; 0 without a limit.
    pub cpu_periods: u64,
    /// Those of them in which it had used up its share and stood still.
    pub throttled_periods: u64,
    /// How long it stood still, microseconds, over all CPUs.
    pub throttled_us: u64,
    /// Read from block devices, summed over all; absent where the host does not account for them.
    pub disk_read: Option<Bytes>,
    /// Written to block devices, likewise.
    pub disk_written: Option<Bytes>,
    /// How long it waited for what it lacked; the kernel tells on cgroup v2 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// Time in which at least one thread could not go on for lack of something (PSI `some`), microseconds so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Pressure {
    /// A CPU.
    pub cpu_us: u64,
    /// Memory: reclaim, swap, refaults.
    pub memory_us: u64,
    /// A disk.
    pub io_us: u64,
}

/// Progress of bringing an image to a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PullProgress {
    /// Bytes that arrived.
    pub done: Bytes,
    /// Bytes to come in all; 0 while not known.
    pub total: Bytes,
    /// Layers unpacked and all layers.
    pub layers: (u32, u32),
    /// Seconds that the registry asked to wait for, while that is what is done; else 0.
    #[serde(default)]
    pub waiting: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_says_what_happened() {
        let exit = Exit {
            code: 137,
            signal: Some(9),
            oom: false,
            peak_memory: None,
            at: Default::default(),
            error: None,
        };
        assert_eq!(exit.describe(), "killed by SIGKILL");
        let oom = Exit { oom: true, peak_memory: Some(Bytes(64 << 20)), ..exit.clone() };
        assert_eq!(oom.describe(), "out of memory (peak 64 MiB)");
        assert_eq!(Exit { code: 3, signal: None, ..exit }.describe(), "exit code 3");
    }

    #[test]
    fn signals_are_read_in_all_their_forms() {
        for text in ["SIGTERM", "term", "15", " TERM "] {
            assert_eq!(parse_signal(text), Some(15), "{text}");
        }
        assert_eq!(parse_signal("SIGRTMIN+3"), Some(37));
        for bad in ["", "SIG", "0", "65", "-9", "NOPE", "RTMIN+31"] {
            assert_eq!(parse_signal(bad), None, "{bad}");
        }
    }
}
