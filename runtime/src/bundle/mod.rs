//! From what is wanted to an OCI runtime spec. Pure: every fact of host and image is an argument.
//!
//! Docker's merge rules for command, environment and working directory; safer defaults for privileges. What can be met only
//! in part is a warning, what cannot be met at all is an error that names the field.

mod capability;
mod mounts;
mod process;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use carrack_api::Namespace;
use libcontainer::oci_spec::runtime::Spec;
use serde_json::{Value, json};

pub(crate) use capability::{ALL as ALL_CAPABILITIES, may_make_devices};
pub use mounts::{MountKind, ReadyMount};
pub use process::User;

use crate::cgroup::CgroupFacts;
use crate::error::StartError;
use crate::request::{ImageConfig, Network, StartRequest};

/// Facts about the host that decide what a spec can have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// CPUs on line.
    pub cpus: u64,
    /// Capabilities we may hand on, without `CAP_`.
    pub capabilities: BTreeSet<String>,
    /// Our own limits (soft, hard) by lower-case name; `u64::MAX` is unlimited.
    pub ulimits: BTreeMap<String, (u64, u64)>,
    /// Files that one process can have open, whatever its limits (`fs.nr_open`).
    pub most_open_files: u64,
    /// Our own `oom_score_adj`, which children inherit.
    pub oom_score_adj: i32,
    /// What the container's cgroup can limit.
    pub cgroup: CgroupFacts,
    /// Device nodes of the host, for privileged containers.
    pub devices: Vec<DeviceNode>,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// What was prepared for this run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The mounted root filesystem.
    pub rootfs: PathBuf,
    /// The cgroup below each hierarchy's root.
    pub cgroup: String,
    /// A read-only view of the container's own cgroup.
    pub cgroup_view: PathBuf,
    /// A path under which the network namespace can be opened.
    pub netns: Option<PathBuf>,
    /// The user, resolved in the image.
    pub user: User,
    /// Binds, volumes and tmpfs.
    pub mounts: Vec<ReadyMount>,
    /// Devices of the spec, looked up on the host.
    pub devices: Vec<DeviceNode>,
    /// Major and minor numbers of the block devices whose use is limited, by path.
    pub disks: BTreeMap<String, (i64, i64)>,
    /// The working directory is there, and no mount can lead it elsewhere.
    pub working_dir_is_plain: bool,
}

/// An OCI spec and what goes with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// `config.json`.
    pub spec: Spec,
    /// Capabilities that the program ends up with, without `CAP_`.
    pub capabilities: BTreeSet<String>,
    /// The seccomp profile is to be loaded.
    pub seccomp: bool,
    /// PID 1 is our reaper.
    pub init: bool,
    /// no_new_privs is set; without it the executor must hold CAP_SYS_ADMIN until the filter is loaded.
    pub no_new_privileges: bool,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// What is only partly met.
    pub warnings: Vec<String>,
}

/// Paths that say too much about the host or reach its hardware: the union of what moby and podman mask.
const MASKED_PATHS: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Builds the bundle of a run.
pub fn build(request: &StartRequest, prepared: &Prepared, host: &HostFacts) -> Result<Bundle, StartError> {
    let spec = &request.spec;
    let mut warnings = Vec::new();
    let privileged = spec.security.privileged;
    let capabilities = capability::resolve(&spec.security, host, &mut warnings)?;
    let no_new_privileges = spec.security.no_new_privileges.unwrap_or(!privileged);
    let seccomp = !privileged && !spec.security.seccomp_unconfined;
    let mut granted = capabilities.clone();
    if seccomp && !no_new_privileges {
        // Loading a filter without no_new_privs needs SYS_ADMIN, giving it up again needs SETPCAP; see the executor.
        granted.extend(["SYS_ADMIN".to_owned(), "SETPCAP".to_owned()]);
    }
    let uts_private = spec.uts == Namespace::Private;
    let mut value = json!({
        "ociVersion": "1.2.0",
        "root": { "path": prepared.rootfs, "readonly": spec.read_only },
        "process": process::build(request, &prepared.user, &granted, no_new_privileges, host, &mut warnings)?,
        "mounts": mounts::build(request, prepared),
        "linux": {
            "cgroupsPath": prepared.cgroup,
            "namespaces": namespaces(request, prepared),
            "resources": resources::build(spec, prepared, host, &mut warnings)?,
            "devices": devices(prepared, host, privileged),
            "sysctl": sysctls(request)?,
        },
    });
    if uts_private {
        value["hostname"] = json!(hostname(request));
        if let Some(domain) = &spec.domainname {
            value["domainname"] = json!(domain);
        }
    }
    if !privileged {
        let thermal = (0..host.cpus).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
        let masked: Vec<String> = MASKED_PATHS.iter().map(|path| (*path).to_owned()).chain(thermal).collect();
        value["linux"]["maskedPaths"] = json!(masked);
        value["linux"]["readonlyPaths"] = json!(READ_ONLY_PATHS);
    }
    let stop_signal = stop_signal(request, &mut warnings)?;
    let spec_value: Spec = serde_json::from_value(value)
        .map_err(|error| StartError::System { step: "build the OCI spec".into(), why: error.to_string() })?;
    Ok(Bundle {
        spec: spec_value,
        capabilities,
        seccomp,
        init: spec.init.unwrap_or(!is_init(&command(request)?)) && spec.pid == Namespace::Private,
        no_new_privileges,
        stop_signal,
        warnings,
    })
}

/// The name the container has.
pub(crate) fn hostname(request: &StartRequest) -> &str {
    request.spec.hostname.as_deref().unwrap_or(&request.hostname)
}

/// The working directory, absolute and without `.` and empty parts.
pub(crate) fn working_dir(request: &StartRequest) -> Result<String, StartError> {
    let given = request.spec.working_dir.as_deref().unwrap_or(&request.image.working_dir);
    let refuse = |why: &str| Err(StartError::WorkingDir { path: given.into(), why: why.into() });
    let mut path = String::new();
    for part in given.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return refuse("must not contain `..`");
        }
        path.push('/');
        path.push_str(part);
    }
    // A directory below these is a door to descriptors of others, never a place of work (CVE-2024-21626).
    if ["/proc", "/sys", "/dev"].iter().any(|root| path == *root || path.starts_with(&format!("{root}/"))) {
        return refuse("must not be below /proc, /sys or /dev");
    }
    Ok(if path.is_empty() { "/".into() } else { path })
}

/// Whether the program is an init itself, which reaps and insists on being PID 1: `/init` of s6-overlay, `/sbin/init`, systemd.
fn is_init(argv: &[String]) -> bool {
    let name = argv.first().and_then(|program| program.rsplit('/').next());
    matches!(name, Some("init" | "systemd"))
}

/// The program and its arguments, merged as Docker does.
pub(crate) fn command(request: &StartRequest) -> Result<Vec<String>, StartError> {
    let (spec, image): (_, &ImageConfig) = (&request.spec, &request.image);
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    // A new entrypoint also clears the image's command, which was meant for the old one.
    let no_command = Vec::new();
    let image_command = if spec.entrypoint.is_some() { &no_command } else { &image.cmd };
    let command = spec.command.as_ref().unwrap_or(image_command);
    let argv: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    if argv.first().is_none_or(String::is_empty) {
        return Err(StartError::NoCommand);
    }
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err(StartError::Spec { field: "command".into(), why: "contains a NUL byte".into() });
    }
    if argv.iter().any(|argument| argument.len() > process::TEXT_MAX_BYTES) {
        let why =
            format!("an argument is longer than the {} bytes that the kernel takes", process::TEXT_MAX_BYTES);
        return Err(StartError::Spec { field: "command".into(), why });
    }
    Ok(argv)
}

fn stop_signal(request: &StartRequest, warnings: &mut Vec<String>) -> Result<i32, StartError> {
    const SIGTERM: i32 = 15;
    if let Some(text) = &request.spec.stop_signal {
        return carrack_api::parse_signal(text).ok_or_else(|| StartError::Spec {
            field: "stop_signal".into(),
            why: format!("{text:?} is no signal"),
        });
    }
    let Some(text) = request.image.stop_signal.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(SIGTERM);
    };
    Ok(carrack_api::parse_signal(text).unwrap_or_else(|| {
        warnings.push(format!("the image's stop signal {text:?} is unknown; SIGTERM is used"));
        SIGTERM
    }))
}

fn namespaces(request: &StartRequest, prepared: &Prepared) -> Value {
    let spec = &request.spec;
    let mut list = vec![json!({ "type": "mount" })];
    for (name, namespace) in
        [("cgroup", spec.cgroup), ("pid", spec.pid), ("ipc", spec.ipc), ("uts", spec.uts)]
    {
        if namespace == Namespace::Private {
            list.push(json!({ "type": name }));
        }
    }
    match (&request.network, &prepared.netns) {
        (Network::Host, _) => {}
        (Network::None | Network::Namespace(_), Some(path)) => {
            list.push(json!({ "type": "network", "path": path }))
        }
        (Network::None | Network::Namespace(_), None) => list.push(json!({ "type": "network" })),
    }
    Value::Array(list)
}

fn sysctls(request: &StartRequest) -> Result<BTreeMap<String, String>, StartError> {
    let private_network = request.network != Network::Host;
    let mut all = BTreeMap::new();
    if private_network {
        // As Docker: a program without privileges may ping and listen on low ports of its own namespace.
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    for (name, value) in &request.spec.sysctls {
        if !request.spec.owns_sysctl(name, private_network) {
            let why = format!("{name:?} is not a parameter of the container's own namespaces");
            return Err(StartError::Spec { field: "sysctls".into(), why });
        }
        all.insert(name.clone(), value.clone());
    }
    Ok(all)
}

fn devices(prepared: &Prepared, host: &HostFacts, privileged: bool) -> Value {
    let mut nodes: BTreeMap<&str, &DeviceNode> = BTreeMap::new();
    if privileged {
        // Where something else is mounted, the host's nodes come with it or are not wanted.
        let covered = |device: &DeviceNode| {
            prepared.mounts.iter().any(|mount| Path::new(&device.path).starts_with(&mount.target))
        };
        let free = host.devices.iter().filter(|device| !covered(device));
        nodes.extend(free.map(|device| (device.path.as_str(), device)));
    }
    nodes.extend(prepared.devices.iter().map(|device| (device.path.as_str(), device)));
    nodes
        .values()
        .map(|device| {
            json!({
                "path": device.path, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
                "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
            })
        })
        .collect()
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
