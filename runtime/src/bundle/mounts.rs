//! The mounts of a container in the order in which they are made.

use std::path::PathBuf;

use carrack_api::{Namespace, defaults};
use serde_json::{Value, json};

use super::Prepared;
use crate::request::StartRequest;

/// A mount whose source is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyMount {
    /// Path in the container.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
    /// Mounted read-only.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A path in the supervisor's mount namespace, where its propagation is as it is to be.
    Bind {
        /// The path.
        source: PathBuf,
        /// Device nodes in it can be opened, as far as the container's device rules go.
        devices: bool,
    },
    /// Memory.
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
        /// Options of mount(8) that win over those it has otherwise.
        options: Vec<String>,
    },
}

/// The mounts of the spec.
pub(super) fn build(request: &StartRequest, prepared: &Prepared) -> Value {
    let mut mounts = base(request, prepared);
    let mut own: Vec<&ReadyMount> = prepared.mounts.iter().collect();
    // Parents before children; the order of the file otherwise.
    own.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    for mount in own {
        // A mount of the user's replaces the one every container has.
        mounts.retain(|base| base["destination"] != json!(mount.target));
        mounts.push(ready(mount));
    }
    Value::Array(mounts)
}

fn base(request: &StartRequest, prepared: &Prepared) -> Vec<Value> {
    let privileged = request.spec.security.privileged;
    let shm = request.spec.shm_size.unwrap_or(defaults::SHM_SIZE).0;
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let write = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", write]),
        json!({
            "destination": "/sys/fs/cgroup", "type": "bind", "source": prepared.cgroup_view,
            "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", write],
        }),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    mounts.push(if request.spec.ipc == Namespace::Host {
        json!({ "destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind", "rprivate"] })
    } else {
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={shm}")])
    });
    mounts
}

fn ready(mount: &ReadyMount) -> Value {
    let write = if mount.read_only { "ro" } else { "rw" };
    match &mount.kind {
        MountKind::Bind { source, devices } => {
            let mut options = vec!["rbind", write];
            // What is mounted below the source is read-only and without devices too.
            options.extend(mount.read_only.then_some("rro"));
            options.extend((!devices).then_some("rnodev"));
            json!({ "destination": mount.target, "type": "bind", "source": source, "options": options })
        }
        MountKind::Tmpfs { size, mode, options: own } => {
            let mut options =
                vec!["nosuid".to_owned(), "nodev".into(), "noexec".into(), format!("mode={mode:o}")];
            options.extend(size.map(|size| format!("size={size}")));
            options.extend(own.iter().cloned());
            options.push(write.into());
            json!({ "destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options })
        }
    }
}
