//! What users want: stacks of services. Made by the Compose loader, kept by the scheduler as revisions.
//!
//! A spec is the user's; the system never edits it. What the system decides (placement, addresses, scale by command) stands
//! beside it in the store.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::container::ContainerSpec;
use crate::content::{ContentKind, ContentSpec};
use crate::id::{ContentName, NetworkName, ServiceName, StackName, VolumeName};
use crate::units::{Bytes, MilliCpus, option_duration_ms};

/// One deployed Compose project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StackSpec {
    /// The project's name.
    pub name: StackName,
    /// Its services by name.
    #[schema(value_type = BTreeMap<String, ServiceSpec>)]
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// Its networks by the key the file gives them.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, NetworkSpec>)]
    pub networks: BTreeMap<NetworkName, NetworkSpec>,
    /// Its named volumes by cluster-wide name.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, VolumeSpec>)]
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
    /// Its secrets by cluster-wide name; their content is not here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, ContentSpec>)]
    pub secrets: BTreeMap<ContentName, ContentSpec>,
    /// Its configs by cluster-wide name; their content is not here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, ContentSpec>)]
    pub configs: BTreeMap<ContentName, ContentSpec>,
}

impl StackSpec {
    /// Its secrets or its configs.
    pub fn contents(&self, kind: ContentKind) -> &BTreeMap<ContentName, ContentSpec> {
        match kind {
            ContentKind::Secret => &self.secrets,
            ContentKind::Config => &self.configs,
        }
    }
}

/// A desired number of equal tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What each task is. A change here makes new tasks; a change elsewhere in the service does not.
    pub task: TaskSpec,
    /// How many.
    #[serde(default)]
    pub mode: ServiceMode,
    /// Where.
    #[serde(default)]
    pub placement: Placement,
    /// How tasks are replaced when `task` changes.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// Ports published on the nodes.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// Ports it listens on without publishing them, as (port, protocol).
    #[serde(default)]
    pub expose: Vec<ExposedPort>,
    /// Services that must have come so far before the first task of this one is made.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Dependency>)]
    pub depends_on: BTreeMap<ServiceName, Dependency>,
    /// Labels of the service (not of its containers).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What one task is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskSpec {
    /// The container.
    pub container: ContainerSpec,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// Its networks.
    pub network: TaskNetwork,
    /// What placement sets aside for it.
    pub reservations: Reservations,
}

/// The network a task sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskNetwork {
    /// One interface; its networks by the stack's key decide whom it reaches.
    #[schema(value_type = BTreeMap<String, Attachment>)]
    Networks(BTreeMap<NetworkName, Attachment>),
    /// The node's own network.
    Host,
    /// Loopback only.
    None,
}

impl Default for TaskNetwork {
    fn default() -> Self {
        Self::Networks(BTreeMap::new())
    }
}

/// How a service is on a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Attachment {
    /// Further names of the service on that network.
    pub aliases: Vec<String>,
}

/// What happens when a run ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestartPolicy {
    /// Which ends are followed by a new run.
    pub condition: RestartCondition,
    /// New runs at most; `None` is no limit.
    pub max_attempts: Option<u32>,
    /// Fixed delay in place of the growing back-off.
    #[serde(with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub delay: Option<Duration>,
}

/// Which ends are followed by a new run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartCondition {
    /// A non-zero exit code or a signal; exit 0 completes the slot. The default when nothing is written.
    #[default]
    OnFailure,
    /// Any end.
    Any,
    /// None.
    Never,
}

/// What placement sets aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reservations {
    /// CPU time.
    pub cpus: MilliCpus,
    /// Memory.
    pub memory: Bytes,
}

/// How many tasks a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceMode {
    /// This many.
    Replicated {
        /// The number the file gives.
        replicas: u32,
    },
    /// One on each node that fits.
    Global,
}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

/// Where tasks may go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Swarm's syntax: `node.labels.disk == ssd`, `node.hostname != a`; all must hold.
    pub constraints: Vec<String>,
    /// Tasks of the service on one node at most.
    pub max_replicas_per_node: Option<u32>,
    /// Operating system and architecture the image needs, as `linux/amd64`.
    pub platform: Option<String>,
}

/// How tasks are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdatePolicy {
    /// New before old or old before new; `None` lets the scheduler choose and say which.
    pub order: Option<UpdateOrder>,
    /// At a time; `None` is 1.
    pub parallelism: Option<u32>,
    /// Between steps.
    #[serde(with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub delay: Option<Duration>,
    /// A new task is watched this long; `None` is 5 s.
    #[serde(with = "option_duration_ms")]
    #[schema(value_type = Option<u64>)]
    pub monitor: Option<Duration>,
}

/// Which of the old and the new task of a slot is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The new one is passing before the old one stops.
    StartFirst,
    /// The old one has stopped before the new one starts.
    StopFirst,
}

/// Transport protocol of a port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of a service as seen on the nodes. Ranges of a file are written out, one entry a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// Port in the container.
    pub target: u16,
    /// Port on the node; `None` lets the scheduler choose one of 30000-32767.
    #[serde(default)]
    pub published: Option<u16>,
    /// First and last of the ports to choose from where `published` leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u16, u16)>,
    /// Address of the node it is bound to; `None` is all.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub host_ip: Option<IpAddr>,
    /// Transport.
    #[serde(default)]
    pub protocol: Protocol,
    /// On every node, or only where a task runs.
    #[serde(default)]
    pub mode: PortMode,
}

/// Where a published port is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortMode {
    /// On every node, balanced over all tasks.
    #[default]
    Ingress,
    /// On the task's node, leading to that task.
    Host,
}

/// A port that is listened on and not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExposedPort {
    /// Port in the container.
    pub port: u16,
    /// Transport.
    #[serde(default)]
    pub protocol: Protocol,
}

/// How far another service must have come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// How far.
    pub condition: DependencyCondition,
    /// An absent service is an error.
    pub required: bool,
    /// New tasks of this service follow new tasks of the dependency: after an update or a restart by command, not after a crash.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

/// How far a dependency must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// One task runs.
    #[default]
    Started,
    /// One task is passing.
    Healthy,
    /// All slots are completed.
    Completed,
}

/// A network: an isolation group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Cluster-wide name: `STACK_KEY` unless the file names it.
    pub name: NetworkName,
    /// No way out of the cluster.
    #[serde(default)]
    pub internal: bool,
    /// Made elsewhere; several stacks may share it.
    #[serde(default)]
    pub external: bool,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeSpec {
    /// Must exist already.
    pub external: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl ServiceSpec {
    /// Target ports with their protocol, of both published and exposed ports, each once.
    pub fn target_ports(&self) -> Vec<ExposedPort> {
        let mut ports: Vec<ExposedPort> = self
            .ports
            .iter()
            .map(|p| ExposedPort { port: p.target, protocol: p.protocol })
            .chain(self.expose.iter().copied())
            .collect();
        ports.sort();
        ports.dedup();
        ports
    }

    /// The number of slots the file asks for; `None` for a global service.
    pub fn replicas(&self) -> Option<u32> {
        match self.mode {
            ServiceMode::Replicated { replicas } => Some(replicas),
            ServiceMode::Global => None,
        }
    }
}
