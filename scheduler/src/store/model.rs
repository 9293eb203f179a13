//! The durable objects. Owns their shape on disk; states and health are not here, they are re-learned from nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use carrack_api::{
    ClusterId, ContentKind, ContentName, Desired, Exit, NetworkName, NodeId, NodeInfo, PublishedPort,
    ServiceKey, ServiceName, ServiceSpec, SlotKey, StackName, StackSpec, TaskId, TaskState, Timestamp,
    VolumeName,
};
use serde::{Deserialize, Serialize};

/// The cluster itself: identity and counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterRecord {
    pub(crate) id: ClusterId,
    /// Rises with every start of the scheduler.
    pub(crate) epoch: u64,
    /// All addresses of the cluster, fixed at the first start.
    pub(crate) cidr: String,
    /// The number of the next task.
    pub(crate) next_task: u64,
    /// The VIP given last, as an offset into the VIP range; the next search starts after it.
    pub(crate) vip_cursor: u32,
}

/// A node that was heard from once, and what it owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// What it last said it is.
    pub(crate) info: NodeInfo,
    /// First addresses of its /24 blocks.
    pub(crate) blocks: Vec<Ipv4Addr>,
    /// The address given last, as an index over all its blocks; the next search starts after it.
    pub(crate) cursor: u32,
}

/// A stack by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StackRecord {
    pub(crate) name: StackName,
    /// The revision in force; never falls, not even when the stack is removed and made again.
    pub(crate) revision: u64,
    /// Rises with every deploy, also of an equal spec: what holds until the next deploy names it.
    pub(crate) deploy: u64,
    pub(crate) deployed_at: Timestamp,
    pub(crate) phase: StackPhase,
    /// What the registries answered, by image as written, for pull policies that ask again only after some time.
    #[serde(default)]
    pub(crate) resolved: BTreeMap<String, Resolved>,
    /// Services kept at zero until a start or a deploy.
    #[serde(default)]
    pub(crate) stopped: BTreeSet<ServiceName>,
    /// Tasks of these services that were made from an earlier revision are replaced although their spec is the same.
    #[serde(default)]
    pub(crate) fresh: BTreeMap<ServiceName, u64>,
    /// Services that differ from the file deployed last by command.
    #[serde(default)]
    pub(crate) set: BTreeSet<ServiceName>,
}

/// What a registry said a tag means, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resolved {
    pub(crate) digest: String,
    pub(crate) at: Timestamp,
}

/// Whether a stack is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StackPhase {
    Active,
    /// Its tasks are being stopped.
    Removing,
    /// Nothing is left but the number of its last revision.
    Removed,
}

/// One accepted spec of a stack, with resolved image digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RevisionRecord {
    pub(crate) stack: StackName,
    pub(crate) revision: u64,
    pub(crate) at: Timestamp,
    pub(crate) spec: StackSpec,
}

/// What the system decided about a service, beside the user's spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub(crate) key: ServiceKey,
    /// The first revision with the task spec in force; tasks made from it are current.
    pub(crate) template: u64,
    /// The last template that all slots ran and passed with.
    pub(crate) converged: Option<u64>,
    /// Its dependencies came far enough once, so tasks may be made.
    pub(crate) started: bool,
    /// The deploy in which the tasks were given up, and why.
    pub(crate) failed: Option<RolloutVerdict>,
    pub(crate) scale: Option<ScaleOverride>,
    pub(crate) vips: Vec<IpAddr>,
    /// Published ports with their numbers.
    pub(crate) ports: Vec<PublishedPort>,
}

/// A rollout that was given up. Holds until the next deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RolloutVerdict {
    pub(crate) deploy: u64,
    pub(crate) template: u64,
    pub(crate) reason: String,
    pub(crate) at: Timestamp,
}

/// Replicas by command. Holds until the next deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScaleOverride {
    pub(crate) replicas: u32,
    pub(crate) deploy: u64,
}

/// A slot's stay on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub(crate) id: TaskId,
    pub(crate) service: ServiceKey,
    pub(crate) slot: u32,
    /// The template it was made from.
    pub(crate) revision: u64,
    /// The deploy in which it was made: failures of earlier ones do not count.
    pub(crate) deploy: u64,
    /// Its node, once placed; it never changes after that.
    pub(crate) node: Option<NodeId>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) desired: Desired,
    /// Why it is where it is, or why it is nowhere.
    pub(crate) placement: String,
    /// Crashes of its slot before it, for the back-off.
    pub(crate) crashes: u32,
    pub(crate) created_at: Timestamp,
    /// How it ended, once it did.
    pub(crate) verdict: Option<Verdict>,
}

/// The end of a task, as a later decision and users need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) state: TaskState,
    pub(crate) reason: Option<String>,
    pub(crate) exit: Option<Exit>,
    pub(crate) run: u32,
    pub(crate) crashes: u32,
    pub(crate) at: Timestamp,
}

impl TaskRecord {
    /// It has not ended, as far as the store knows.
    pub(crate) fn is_live(&self) -> bool {
        self.verdict.is_none()
    }

    /// It is wanted and has not ended.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_live() && self.desired == Desired::Run
    }

    /// The state it ended in.
    pub(crate) fn final_state(&self) -> Option<TaskState> {
        self.verdict.as_ref().map(|v| v.state)
    }

    /// `stack/service.slot`.
    pub(crate) fn slot_key(&self) -> SlotKey {
        SlotKey { service: self.service.clone(), slot: self.slot }
    }
}

/// A one-off task: asked for by command, outside of its stack's services, their VIPs and their rollouts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// Its name; no service has it.
    pub(crate) key: ServiceKey,
    /// The service whose definition it came from.
    pub(crate) service: ServiceName,
    /// The revision of the stack whose networks it is on.
    pub(crate) revision: u64,
    /// What it is, image resolved.
    pub(crate) spec: ServiceSpec,
    /// It is taken away with its log once it has ended.
    pub(crate) remove: bool,
    /// Its dependencies have come far enough, or are not waited for.
    pub(crate) started: bool,
    /// Somebody asked to take it away.
    pub(crate) doomed: bool,
    pub(crate) created_at: Timestamp,
    /// A virtual address, when it publishes ports.
    pub(crate) vips: Vec<IpAddr>,
}

/// A named volume and the node that holds its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) name: VolumeName,
    pub(crate) node: NodeId,
    /// Services that used it, for messages.
    pub(crate) services: BTreeSet<ServiceKey>,
}

/// Credentials of a stack for a registry, sealed (see [`crate::credentials`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LoginRecord {
    pub(crate) stack: StackName,
    pub(crate) registry: String,
    pub(crate) sealed: String,
    pub(crate) at: Timestamp,
}

/// Content of a secret or config, by what it is (see [`crate::contents`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentRecord {
    pub(crate) digest: String,
    pub(crate) kind: ContentKind,
    /// Of the whole content, bytes.
    pub(crate) size: u64,
    pub(crate) at: Timestamp,
    /// Its beginning; sealed when it is a secret, else base64.
    pub(crate) first: String,
    /// How many further parts it has.
    pub(crate) parts: u32,
}

/// A further part of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentPartRecord {
    pub(crate) digest: String,
    /// From 1.
    pub(crate) number: u32,
    pub(crate) data: String,
}

/// A secret or config that was made by command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentNameRecord {
    pub(crate) kind: ContentKind,
    pub(crate) name: ContentName,
    pub(crate) digest: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) at: Timestamp,
}

/// A network that was made by command; those of stacks stand in their specs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub(crate) name: NetworkName,
    pub(crate) internal: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) at: Timestamp,
}

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key {
    Cluster,
    Node(NodeId),
    Stack(StackName),
    Revision(StackName, u64),
    Service(ServiceKey),
    Task(TaskId),
    Volume(VolumeName),
    Run(ServiceKey),
    Network(NetworkName),
    /// Of a stack for a registry.
    Login(StackName, String),
    /// By digest.
    Content(String),
    /// By digest and number.
    ContentPart(String, u32),
    ContentName(ContentKind, ContentName),
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Stack(name) => write!(f, "stack {name}"),
            Self::Revision(name, revision) => write!(f, "revision {revision} of stack {name}"),
            Self::Service(key) => write!(f, "service {key}"),
            Self::Task(id) => write!(f, "task {id}"),
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::Run(key) => write!(f, "one-off task {key}"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::Login(stack, registry) => write!(f, "credentials of stack {stack} for {registry}"),
            Self::Content(digest) => write!(f, "content {digest}"),
            Self::ContentPart(digest, number) => write!(f, "part {number} of content {digest}"),
            Self::ContentName(kind, name) => write!(f, "{kind} {name}"),
        }
    }
}

/// An object whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "it lives only between a plan or a file and the tables")]
pub(crate) enum Object {
    Cluster(ClusterRecord),
    Node(NodeRecord),
    Stack(StackRecord),
    Revision(RevisionRecord),
    Service(ServiceRecord),
    Task(TaskRecord),
    Volume(VolumeRecord),
    Run(RunRecord),
    Network(NetworkRecord),
    Login(LoginRecord),
    Content(ContentRecord),
    ContentPart(ContentPartRecord),
    ContentName(ContentNameRecord),
}

impl Object {
    /// Its name.
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Cluster(_) => Key::Cluster,
            Self::Node(r) => Key::Node(r.info.id.clone()),
            Self::Stack(r) => Key::Stack(r.name.clone()),
            Self::Revision(r) => Key::Revision(r.stack.clone(), r.revision),
            Self::Service(r) => Key::Service(r.key.clone()),
            Self::Task(r) => Key::Task(r.id),
            Self::Volume(r) => Key::Volume(r.name.clone()),
            Self::Run(r) => Key::Run(r.key.clone()),
            Self::Network(r) => Key::Network(r.name.clone()),
            Self::Login(r) => Key::Login(r.stack.clone(), r.registry.clone()),
            Self::Content(r) => Key::Content(r.digest.clone()),
            Self::ContentPart(r) => Key::ContentPart(r.digest.clone(), r.number),
            Self::ContentName(r) => Key::ContentName(r.kind, r.name.clone()),
        }
    }
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "an op lives only from plan to log")]
pub(crate) enum Op {
    Put(Object),
    Delete(Key),
}

impl Op {
    /// The object it changes.
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Put(object) => object.key(),
            Self::Delete(key) => key.clone(),
        }
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Txn {
    /// Versions that objects must still have; `None` means absent.
    pub(crate) expect: Vec<(Key, Option<u64>)>,
    pub(crate) ops: Vec<Op>,
}
