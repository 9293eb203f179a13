//! What a supervisor looks up on the host before it leaves the host's mount namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use carrack_api::{Device, IoLimits};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::bundle::{ALL_CAPABILITIES, DeviceNode, HostFacts};
use crate::cgroup::CgroupFacts;
use crate::child;
use crate::error::StartError;
use crate::request::Network;
use crate::template::unshare_namespace;

/// Most device nodes of a directory given as a device.
const DEVICES_MAX: usize = 1024;
/// Largest `/etc/hosts` of the host that is copied, in bytes.
const HOSTS_MAX_BYTES: usize = 1 << 20;

/// Facts that the bundle depends on.
pub(super) fn host(with_devices: bool) -> io::Result<HostFacts> {
    let capabilities = own_capabilities()?;
    let mut devices = Vec::new();
    if with_devices {
        collect_devices(Path::new("/dev"), &mut devices);
    }
    Ok(HostFacts {
        cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        capabilities,
        ulimits: ulimits(),
        most_open_files: fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse().unwrap_or(u64::MAX),
        // Known once it is made.
        cgroup: CgroupFacts::default(),
        oom_score_adj: fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0),
        devices,
    })
}

/// Capabilities that we may hand on.
pub(crate) fn own_capabilities() -> io::Result<BTreeSet<String>> {
    let bounding = fs::read_to_string("/proc/self/status")?
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok())
        .unwrap_or(0);
    let held = ALL_CAPABILITIES.iter().enumerate().filter(|(number, _)| bounding & (1 << number) != 0);
    Ok(held.map(|(_, name)| (*name).to_owned()).collect())
}

fn ulimits() -> BTreeMap<String, (u64, u64)> {
    let known = [
        ("as", Resource::As),
        ("core", Resource::Core),
        ("cpu", Resource::Cpu),
        ("data", Resource::Data),
        ("fsize", Resource::Fsize),
        ("locks", Resource::Locks),
        ("memlock", Resource::Memlock),
        ("msgqueue", Resource::Msgqueue),
        ("nice", Resource::Nice),
        ("nofile", Resource::Nofile),
        ("nproc", Resource::Nproc),
        ("rss", Resource::Rss),
        ("rtprio", Resource::Rtprio),
        ("rttime", Resource::Rttime),
        ("sigpending", Resource::Sigpending),
        ("stack", Resource::Stack),
    ];
    known
        .into_iter()
        .map(|(name, resource)| {
            let limit = getrlimit(resource);
            (name.to_owned(), (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX)))
        })
        .collect()
}

/// The network namespace, opened.
pub(super) fn open_netns(network: &Network) -> Result<Option<OwnedFd>, StartError> {
    let path = match network {
        Network::Host => return Ok(None),
        Network::None => {
            return empty_netns()
                .map(Some)
                .map_err(|error| StartError::Network { path: "(empty)".into(), why: error.to_string() });
        }
        Network::Namespace(path) => path,
    };
    let fail = |why: String| StartError::Network { path: path.display().to_string(), why };
    let file = File::open(path).map_err(|error| fail(error.to_string()))?;
    let own = fs::metadata("/proc/self/ns/net").map_err(|error| fail(error.to_string()))?;
    let found = file.metadata().map_err(|error| fail(error.to_string()))?;
    // A namespace file is on nsfs; an unmounted one in /run/netns is an empty file on tmpfs.
    if found.dev() != own.dev() {
        return Err(fail("is not a network namespace".into()));
    }
    Ok(Some(file.into()))
}

/// A new network namespace in which only the loopback device is, and is up.
fn empty_netns() -> io::Result<OwnedFd> {
    let own = File::open("/proc/self/ns/net")?;
    unshare_namespace(UnshareFlags::NEWNET)?;
    let made = File::open("/proc/self/ns/net");
    let up = child::loopback_up();
    // Back before any error is told: the supervisor belongs to the host's network.
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    up?;
    Ok(made?.into())
}

/// The host's own hosts file, for containers on the host's network.
pub(super) fn host_hosts(network: &Network) -> Option<String> {
    if *network != Network::Host {
        return None;
    }
    let mut text = fs::read_to_string("/etc/hosts").ok()?;
    if text.len() > HOSTS_MAX_BYTES {
        return None;
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Some(text)
}

/// The devices of a spec; a directory means all nodes in it.
pub(super) fn devices(wanted: &[Device]) -> Result<Vec<DeviceNode>, StartError> {
    let mut nodes = Vec::new();
    for device in wanted {
        let fail = |why: String| StartError::Device { path: device.source.clone(), why };
        if device.permissions.is_empty() || device.permissions.chars().any(|c| !"rwm".contains(c)) {
            return Err(fail(format!("permissions {:?} are not of r, w, m", device.permissions)));
        }
        let mut found = Vec::new();
        let source = Path::new(&device.source);
        let metadata = fs::metadata(source).map_err(|error| fail(error.to_string()))?;
        if metadata.is_dir() {
            collect_devices(source, &mut found);
        } else {
            found.extend(node(source, &metadata));
        }
        if found.is_empty() {
            return Err(fail("is not a device".into()));
        }
        for mut node in found {
            let below = node.path.strip_prefix(&device.source).unwrap_or_default();
            node.path = format!("{}{below}", device.target);
            node.permissions = device.permissions.clone();
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// The block devices whose use is limited, by their path.
pub(super) fn disks(limits: &IoLimits) -> Result<BTreeMap<String, (i64, i64)>, StartError> {
    let all = [&limits.read_bps, &limits.write_bps, &limits.read_iops, &limits.write_iops];
    let mut disks = BTreeMap::new();
    for path in all.into_iter().flatten().map(|rate| &rate.path) {
        let fail = |why: String| StartError::Device { path: path.clone(), why };
        let metadata = fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        match node(Path::new(path), &metadata) {
            Some(node) if node.kind == 'b' => disks.insert(path.clone(), (node.major, node.minor)),
            Some(_) | None => return Err(fail("is no block device".into())),
        };
    }
    Ok(disks)
}

fn collect_devices(dir: &Path, nodes: &mut Vec<DeviceNode>) {
    // Those that every container has of its own.
    const OWN: [&str; 6] = ["pts", "shm", "mqueue", "console", "ptmx", "fd"];
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name());
        if nodes.len() >= DEVICES_MAX || OWN.iter().any(|own| name == *own) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            collect_devices(&path, nodes);
        } else {
            nodes.extend(node(&path, &metadata));
        }
    }
}

fn node(path: &Path, metadata: &fs::Metadata) -> Option<DeviceNode> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(DeviceNode {
        path: path.to_str()?.to_owned(),
        kind,
        major: i64::from(rustix::fs::major(metadata.rdev())),
        minor: i64::from(rustix::fs::minor(metadata.rdev())),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: "rwm".into(),
    })
}
