//! What is: states of tasks, their health, and what a node reports. Owns the ladder of states and who may set each.
//!
//! ```text
//! Pending < Placed < Preparing < Starting < Running < { Completed | Failed | Rejected | Stopped | Lost }
//! scheduler: Pending, Placed, Lost     node: all others
//! ```
//! The pair (run, state) only rises. Health is a separate value, so that the ladder stays monotonic.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::container::{Exit, PullProgress, Usage};
use crate::id::{ClusterId, NodeId, TaskId};
use crate::units::{Bytes, MilliCpus, Timestamp};

/// How far a task's current run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Wanted; no node yet.
    Pending,
    /// Given to a node.
    Placed,
    /// The node brings image, volumes and network.
    Preparing,
    /// The container is being started, or waits for its next run after a crash.
    Starting,
    /// The container's process runs.
    Running,
    /// Ended by itself with success, for good.
    Completed,
    /// Ended otherwise, for good.
    Failed,
    /// The node cannot run it at all (no image, no such user, no entrypoint).
    Rejected,
    /// Ended because it was asked to.
    Stopped,
    /// Its node is gone.
    Lost,
}

impl TaskState {
    /// No further state follows.
    pub fn is_final(self) -> bool {
        self >= Self::Completed
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Placed => "placed",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        })
    }
}

/// Whether a running task may get traffic.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not known yet: no probe has answered.
    #[default]
    Unknown,
    /// Ready for traffic.
    Passing,
    /// Not ready; it gets none.
    Failing,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Passing => "passing",
            Self::Failing => "failing",
        })
    }
}

/// The last probe of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeResult {
    /// It passed.
    pub passed: bool,
    /// What it said: output of the command, or what was found at the port; at most 4 KiB.
    pub output: String,
    /// When it ended.
    pub at: Timestamp,
    /// Failures in a row up to this one.
    pub failures: u32,
}

/// Longest probe output kept, bytes.
pub const PROBE_OUTPUT_MAX_BYTES: usize = 4096;

/// What a node says of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// Starts of its container so far; 0 before the first.
    pub run: u32,
    /// State of that run.
    pub state: TaskState,
    /// Health of that run.
    pub health: Health,
    /// Why it is in this state, for people: the error of a rejected task, `restarts in 0.4s`, ...
    #[serde(default)]
    pub reason: Option<String>,
    /// How the last run ended, when one did.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// When the current run's container started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Since when the current health holds.
    #[serde(default)]
    pub health_since: Option<Timestamp>,
    /// Runs in a row that ended too early or in failure.
    #[serde(default)]
    pub crashes: u32,
    /// Bytes of the image, while it is brought.
    #[serde(default)]
    pub progress: Option<PullProgress>,
    /// The last probe.
    #[serde(default)]
    pub probe: Option<ProbeResult>,
    /// PID of the container's first process on the node, while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The newest sample of its cgroup.
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// What a node is and has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Identity.
    pub id: NodeId,
    /// Host name, a label.
    pub hostname: String,
    /// `linux`.
    pub os: String,
    /// `amd64` or `arm64`, as images name it.
    pub arch: String,
    /// CPU time tasks may reserve.
    pub cpus: MilliCpus,
    /// Memory tasks may reserve.
    pub memory: Bytes,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Addresses of the host that others reach it by.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Version of its binary.
    pub version: String,
    /// What its kernel cannot do for services that need it, with why.
    #[serde(default)]
    pub lacks: crate::fact::Lacks,
}

/// An image that a node holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct HeldImage {
    /// Normalised name with tag, for example `docker.io/library/nginx:1.27`.
    pub name: String,
    /// Digest the name stands for here.
    pub digest: String,
    /// Bytes on disk.
    pub size: Bytes,
    /// When it arrived.
    pub created_at: Timestamp,
}

/// Everything a node says at once. Whole by meaning; a newer one replaces the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The epoch of the assignment it follows; 0 before its first.
    pub epoch: u64,
    /// Rises with every report of one daemon start.
    pub sequence: u64,
    /// The generation of the assignment it follows.
    pub generation: u64,
    /// Who says it.
    pub node: NodeInfo,
    /// All tasks it has, dead ones it keeps included.
    pub tasks: Vec<TaskReport>,
    /// Images it holds.
    pub images: Vec<HeldImage>,
    /// Host ports that a process outside Carrack holds, with who holds them: a service that wants one cannot have it.
    #[serde(default)]
    pub port_conflicts: Vec<PortConflict>,
    /// The last time that images were taken away to make room.
    #[serde(default)]
    pub collection: Option<ImageCollection>,
}

/// Images that a node took away to make room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageCollection {
    /// When.
    pub at: Timestamp,
    /// Their names, or digests of those without one.
    pub images: Vec<String>,
    /// Bytes that are free again.
    pub freed: Bytes,
    /// Use of the disk before, percent.
    pub used_before: u8,
    /// Use of the disk after, percent.
    pub used_after: u8,
}

/// A published port that could not be reserved on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct PortConflict {
    /// Address wanted; `None` is all.
    #[schema(value_type = Option<String>)]
    pub host_ip: Option<IpAddr>,
    /// Port wanted.
    pub port: u16,
    /// Transport.
    pub protocol: crate::spec::Protocol,
    /// Who holds it: `nginx (pid 4711)`.
    pub holder: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_stand_above_all_others() {
        assert!(TaskState::Pending < TaskState::Placed && TaskState::Starting < TaskState::Running);
        for state in [
            TaskState::Completed,
            TaskState::Failed,
            TaskState::Rejected,
            TaskState::Stopped,
            TaskState::Lost,
        ] {
            assert!(state.is_final() && state > TaskState::Running, "{state}");
        }
        assert!(!TaskState::Running.is_final());
    }
}
