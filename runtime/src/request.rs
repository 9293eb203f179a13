//! The values that cross the boundary of this crate: what is asked for, what was started, what is found.
//!
//! Owns no behaviour. All of them are plain data; those that are written to disk say so and carry a version there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use carrack_api::{Bytes, ContainerSpec, Content, Exit};
use serde::{Deserialize, Serialize};

pub use crate::image::ImageConfig;

/// One run of one task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId {
    /// The task, named by the caller: letters, digits, `-`, `_`; at most 63 bytes.
    pub task: String,
    /// The start's number within the task, from 1.
    pub run: u32,
}

impl RunId {
    /// A run of a task.
    pub fn new(task: impl Into<String>, run: u32) -> Self {
        Self { task: task.into(), run }
    }

    /// Whether the task's name may become a directory and a cgroup.
    pub fn is_valid(&self) -> bool {
        const MAX_BYTES: usize = 63;
        let name = self.task.as_bytes();
        !name.is_empty()
            && name.len() <= MAX_BYTES
            && name[0].is_ascii_alphanumeric()
            && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.task, self.run))
    }
}

/// Where the container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A network namespace made by others, by a path that can be opened (`/run/netns/x`, `/proc/7/ns/net`).
    Namespace(PathBuf),
    /// The host's.
    Host,
    /// A new one with only a loopback device, which is up.
    None,
}

/// How much log a task may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimit {
    /// Of all files of the task together; the oldest go first.
    pub total: Bytes,
    /// Of one file.
    pub file: Bytes,
}

impl Default for LogLimit {
    fn default() -> Self {
        let total = carrack_api::defaults::TASK_LOG_MAX;
        Self { total, file: Bytes(total.0 / 5) }
    }
}

/// Everything one run needs. Written to the run's directory as `request.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// Which run this is.
    pub id: RunId,
    /// What the user wants.
    pub spec: ContainerSpec,
    /// What the image says.
    pub image: ImageConfig,
    /// The image's unpacked layers, the uppermost first.
    pub lowerdirs: Vec<PathBuf>,
    /// The network.
    pub network: Network,
    /// Host name, used when the spec has none; also resolved to `addresses` in `/etc/hosts`.
    pub hostname: String,
    /// The container's own addresses; may be empty.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Content of `/etc/resolv.conf`; `None` leaves the image's own file.
    #[serde(default)]
    pub resolv_conf: Option<String>,
    /// What `host-gateway` in `extra_hosts` means.
    #[serde(default)]
    pub host_gateway: Option<IpAddr>,
    /// Variables given by the node; image and spec win over them.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files put into the container, read-only: secrets and configs.
    #[serde(default)]
    pub files: Vec<InjectedFile>,
    /// Size of the log.
    #[serde(default)]
    pub log: LogLimit,
}

/// A file whose content the caller gives; rests on a tmpfs of the run's own and is mounted read-only.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct InjectedFile {
    /// Absolute path in the container.
    pub target: String,
    /// The content. It is not in what is written to disk.
    #[serde(skip)]
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl fmt::Debug for InjectedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content may be a secret.
        f.debug_struct("InjectedFile")
            .field("target", &self.target)
            .field("bytes", &self.content.bytes().len())
            .finish()
    }
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Process id of the container's first process, as the host sees it.
    pub init_pid: u32,
    /// Process id of its supervisor.
    pub supervisor_pid: u32,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// What was asked for and only partly given, for people.
    pub warnings: Vec<String>,
}

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Which run.
    pub id: RunId,
    /// Its state.
    pub state: RunState,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
}

/// The state of a run as the files and processes of this host tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Its supervisor lives and has not reported the container's start yet.
    Starting,
    /// Container and supervisor live.
    Running {
        /// First process of the container.
        init_pid: u32,
        /// Its supervisor.
        supervisor_pid: u32,
    },
    /// It ended.
    Exited(Exit),
}

/// A command in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables on top of the container's.
    pub env: BTreeMap<String, String>,
    /// As in [`ContainerSpec::user`]; `None` means the container's user.
    pub user: Option<String>,
    /// `None` means the container's.
    pub working_dir: Option<String>,
    /// Allocates a terminal of (columns, rows).
    pub tty: Option<(u16, u16)>,
    /// Connects stdin; otherwise it reads end of file.
    pub stdin: bool,
    /// Gives all capabilities.
    pub privileged: bool,
}
