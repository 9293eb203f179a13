//! Who this node is: its id and cluster, made once and kept in the state directory; the boot it runs in; what the host has.
//!
//! Owns `STATE/node/identity.json` and `STATE/node/lock`, and [`write_atomically`] that all files of the node go through.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carrack_api::fact::{Fact, Verdict};
use carrack_api::{Bytes, ClusterId, MilliCpus, NodeId, NodeInfo, fail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::NodeError;

/// Format of `identity.json`.
const IDENTITY_VERSION: u32 = 1;

/// The node's identity, held with the lock on its directory.
#[derive(Debug)]
pub(crate) struct Identity {
    /// `STATE/node`.
    pub(crate) directory: PathBuf,
    /// The node.
    pub(crate) node: NodeId,
    /// The cluster it joined.
    pub(crate) cluster: Option<ClusterId>,
    lock: Arc<Lock>,
}

/// An exclusive flock on the directory. It is given back when this is dropped, and not only closed: a child that is being started
/// has a copy of the descriptor until its `execve`, and would hold the lock for that long.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock of the node's directory is given back by closing it alone");
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct IdentityFile {
    version: u32,
    node: NodeId,
    cluster: Option<ClusterId>,
}

impl Identity {
    /// Takes the directory of a node, making identity and directory at the first start.
    pub(crate) fn open(state_dir: &Path, cluster: Option<ClusterId>) -> Result<Self, NodeError> {
        let directory = state_dir.join("node");
        fs::create_dir_all(&directory).map_err(file_error("create", &directory))?;
        let lock = Arc::new(take_lock(state_dir, &directory.join("lock"))?);
        let path = directory.join("identity.json");
        let known: Option<IdentityFile> =
            read_json(&path, IDENTITY_VERSION, |file: &IdentityFile| file.version)?;
        let mut identity = match known {
            Some(file) => Self { directory, node: file.node, cluster: file.cluster, lock },
            None => {
                let node = NodeId::new(random_hex()?)
                    .map_err(|error| NodeError::Format { path: path.clone(), reason: error.to_string() })?;
                let identity = Self { directory, node, cluster: None, lock };
                identity.write()?;
                identity
            }
        };
        if let Some(cluster) = cluster {
            identity.join(cluster)?;
        }
        Ok(identity)
    }

    /// Belongs to this cluster from now on; an error when it belongs to another.
    pub(crate) fn join(&mut self, cluster: ClusterId) -> Result<(), NodeError> {
        match &self.cluster {
            Some(own) if *own == cluster => Ok(()),
            Some(own) => Err(NodeError::ForeignCluster { own: own.clone(), foreign: cluster }),
            None => {
                self.cluster = Some(cluster);
                self.write()
            }
        }
    }

    /// The lock of the directory, for whoever may still write there after the node is gone.
    pub(crate) fn lock(&self) -> Arc<Lock> {
        self.lock.clone()
    }

    fn write(&self) -> Result<(), NodeError> {
        let file = IdentityFile {
            version: IDENTITY_VERSION,
            node: self.node.clone(),
            cluster: self.cluster.clone(),
        };
        write_json(&self.directory.join("identity.json"), ["identity.1-write", "identity.2-rename"], &file)
    }
}

/// The id of the node that has a state directory, as far as it can be read: for whoever takes the node away.
pub(crate) fn known(state_dir: &Path) -> Option<String> {
    let path = state_dir.join("node/identity.json");
    let file: Option<IdentityFile> =
        read_json(&path, IDENTITY_VERSION, |file: &IdentityFile| file.version).ok()?;
    file.map(|file| file.node.as_str().to_owned())
}

/// The kernel's id of this boot.
pub(crate) fn boot_id() -> Result<String, NodeError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(PATH).map(|text| text.trim().to_owned()).map_err(file_error("read", Path::new(PATH)))
}

/// What this host is and has, as it is told to the scheduler.
pub(crate) fn describe_host(id: NodeId, hostname: String, labels: BTreeMap<String, String>) -> NodeInfo {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    NodeInfo {
        id,
        hostname,
        os: std::env::consts::OS.to_owned(),
        arch: arch.to_owned(),
        cpus: MilliCpus(cpus as u64 * 1000),
        memory: Bytes(
            rustix::system::sysinfo().totalram as u64 * u64::from(rustix::system::sysinfo().mem_unit),
        ),
        labels,
        addresses: host_addresses(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lacks: carrack_runtime::doctor::lacks(),
    }
}

/// Says once, at the start, what works with less on this host; what is missing is said with what it costs, too.
pub(crate) fn tell_lacks(facts: &[Fact]) {
    for fact in facts {
        match fact.verdict {
            Verdict::Ok | Verdict::Untried => {}
            Verdict::Note => {
                tracing::warn!(
                    name = fact.name,
                    found = fact.found,
                    cost = fact.cost,
                    help = fact.hint,
                    "this host has less"
                );
            }
            Verdict::Missing => {
                tracing::error!(
                    name = fact.name,
                    found = fact.found,
                    cost = fact.cost,
                    help = fact.hint,
                    "this host lacks"
                );
            }
        }
    }
}

/// The name the kernel has for this host.
pub(crate) fn kernel_hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Addresses of the host that others could reach it by: no loopback, no link-local, none of a link of ours.
fn host_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = interfaces
        .filter(|interface| !interface.interface_name.starts_with(carrack_net::model::LINK_PREFIX))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && (v6.segments()[0] & 0xffc0) != 0xfe80,
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn take_lock(state_dir: &Path, path: &Path) -> Result<Lock, NodeError> {
    let mut lock = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(file_error("open", path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(NodeError::InUse { path: state_dir.to_path_buf(), pid });
        }
        Err(errno) => return Err(file_error("lock", path)(errno.into())),
    }
    let write_pid = |lock: &mut File| {
        lock.set_len(0)?;
        lock.write_all(format!("{}\n", std::process::id()).as_bytes())
    };
    write_pid(&mut lock).map_err(file_error("write", path))?;
    Ok(Lock(lock))
}

fn random_hex() -> Result<String, NodeError> {
    const SOURCE: &str = "/dev/urandom";
    let mut bytes = [0_u8; 6];
    File::open(SOURCE)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(file_error("read", Path::new(SOURCE)))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads a versioned JSON file; `None` when there is none.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
    known: u32,
    version: impl Fn(&T) -> u32,
) -> Result<Option<T>, NodeError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("read", path)(error)),
    };
    let format =
        |error: serde_json::Error| NodeError::Format { path: path.to_path_buf(), reason: error.to_string() };
    let found = serde_json::from_slice::<Versioned>(&bytes).map_err(format)?.version;
    if found > known {
        return Err(NodeError::Newer { path: path.to_path_buf(), found, known });
    }
    let value: T = serde_json::from_slice(&bytes).map_err(format)?;
    debug_assert!(version(&value) <= known);
    Ok(Some(value))
}

/// Writes a JSON file so that after a crash the old or the new content is there, whole. Only root may read it. `steps` are
/// passed before it is written and before it is renamed.
pub(crate) fn write_json(
    path: &Path,
    steps: [&'static str; 2],
    value: &impl Serialize,
) -> Result<(), NodeError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| NodeError::Format { path: path.to_path_buf(), reason: error.to_string() })?;
    write_atomically(path, &bytes, steps).map_err(file_error("write", path))
}

/// Temporary file, fsync, rename, fsync of the directory.
fn write_atomically(path: &Path, bytes: &[u8], steps: [&'static str; 2]) -> io::Result<()> {
    fail::point(steps[0])?;
    replace(path, bytes, || fail::point(steps[1]))
}

/// The same; `synced` is passed between the file's fsync and its rename.
pub(crate) fn replace(path: &Path, bytes: &[u8], synced: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    synced()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// A [`NodeError::File`] of an operation on a path.
pub(crate) fn file_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NodeError {
    let path = path.to_path_buf();
    move |source| NodeError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_made_once_and_guards_its_directory() {
        let state = tempfile::tempdir().unwrap();
        let first = Identity::open(state.path(), None).unwrap();
        let error = Identity::open(state.path(), None).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains(&std::process::id().to_string()), "{error}");
        let node = first.node.clone();
        drop(first);
        assert_eq!(Identity::open(state.path(), None).unwrap().node, node);
    }

    #[test]
    fn a_node_belongs_to_one_cluster() {
        let state = tempfile::tempdir().unwrap();
        let own = ClusterId::new("0123456789ab").unwrap();
        drop(Identity::open(state.path(), Some(own.clone())).unwrap());
        assert_eq!(Identity::open(state.path(), None).unwrap().cluster, Some(own));
        let foreign = ClusterId::new("ba9876543210").unwrap();
        let error = Identity::open(state.path(), Some(foreign)).unwrap_err().to_string();
        assert!(error.contains("0123456789ab") && error.contains("ba9876543210"), "{error}");
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_clearly() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("node")).unwrap();
        fs::write(state.path().join("node/identity.json"), r#"{"version":99,"shape":"new"}"#).unwrap();
        let error = Identity::open(state.path(), None).unwrap_err().to_string();
        assert!(error.contains("newer version") && error.contains("99"), "{error}");
    }
}
