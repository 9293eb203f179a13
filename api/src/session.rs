//! What the scheduler and a node say to each other: whole assignments down, whole reports up, and requests with a stream.
//!
//! Everything down carries (cluster, epoch, generation); a node refuses older ones and foreign clusters. How the bytes travel
//! is not owned here: in one process it is a channel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::http::RegistryCredentials;
use crate::id::{ClusterId, NetworkName, NodeId, ServiceKey, StackName, TaskId};
use crate::spec::{ExposedPort, PublishedPort, TaskSpec};

/// The version of [`Assignment`] and [`crate::NodeReport`] that this binary writes; it reads this one and the one before.
pub const SESSION_VERSION: u32 = 1;

/// The whole desired state of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// [`SESSION_VERSION`] of the writer.
    pub version: u32,
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// The scheduler start it comes from.
    pub epoch: u64,
    /// Rises with every change within an epoch.
    pub generation: u64,
    /// The node it is for.
    pub node: NodeId,
    /// Addresses of the cluster, the VIPs and this node.
    pub addresses: AddressPlan,
    /// Tasks that are to run or to stop here. A task that is in neither list is removed with all it left.
    pub tasks: BTreeMap<TaskId, AssignedTask>,
    /// Ended tasks whose logs and exit records are kept.
    pub retained: BTreeSet<TaskId>,
    /// Services that tasks here may talk to or that publish ports.
    pub services: BTreeMap<ServiceKey, ServiceTable>,
    /// Networks of those services, by cluster-wide name.
    pub networks: BTreeMap<NetworkName, NetworkTable>,
    /// Credentials for the registries of the tasks' images, by stack and registry. Never written to disk in plain.
    #[serde(default)]
    pub credentials: BTreeMap<StackName, BTreeMap<String, RegistryCredentials>>,
    /// Content of the secrets and configs of the tasks, by digest. Never written to disk in plain.
    #[serde(default)]
    pub contents: BTreeMap<String, Content>,
    /// Digests of images that revisions need, of tasks here or not: the node's image collection spares them.
    #[serde(default)]
    pub images_needed: BTreeSet<String>,
}

/// The address ranges in force. CIDRs as text, for example `10.192.0.0/10`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPlan {
    /// All addresses of the cluster.
    pub cluster: String,
    /// The part of it that holds the VIPs: its last /14.
    pub vips: String,
    /// The /24 blocks of this node; the first address of the first one is the node's own.
    pub blocks: Vec<String>,
}

/// One task for a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignedTask {
    /// Its service.
    pub service: ServiceKey,
    /// Its slot, from 1.
    pub slot: u32,
    /// The revision of the stack it was made from.
    pub revision: u64,
    /// What it is.
    pub spec: TaskSpec,
    /// Its networks by cluster-wide name; empty with the host's network or none.
    pub networks: BTreeSet<NetworkName>,
    /// Its addresses, from the node's blocks; empty with the host's network or none.
    pub addresses: Vec<IpAddr>,
    /// What is wanted of it.
    pub desired: Desired,
    /// Crashes of its slot so far, for the back-off.
    pub crashes: u32,
}

/// What is wanted of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Be running, restarted by its policy.
    Run,
    /// Be gone in order: out of the tables, drained, stop signal, grace, SIGKILL, unwired.
    Stop,
}

/// A service as the network of a node needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTable {
    /// Its virtual addresses; empty when its tasks use the host's network or none.
    pub vips: Vec<IpAddr>,
    /// Its networks by cluster-wide name, with its further names there.
    pub networks: BTreeMap<NetworkName, BTreeSet<String>>,
    /// Published ports; `published` is always set here.
    pub ports: Vec<PublishedPort>,
    /// Target ports of published and exposed ports; the first TCP one decides readiness without a healthcheck.
    pub targets: Vec<ExposedPort>,
    /// Its tasks in order of slots.
    pub endpoints: Vec<Endpoint>,
}

/// A task behind a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The task.
    pub task: TaskId,
    /// Its slot.
    pub slot: u32,
    /// Its node. A node takes the health of its own tasks from itself, not from this table.
    pub node: NodeId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It may get traffic, as far as the scheduler knows.
    pub passing: bool,
}

/// A network as a node needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTable {
    /// No way out of the cluster.
    pub internal: bool,
}

/// Something asked of a node beside its assignment. It is answered over a byte stream of [`crate::stream::Frame`]s: the asker
/// may send `Data`, `Resize` and `Signal` frames; the node sends `Data`/`Error` frames of output, `Message` frames of JSON
/// where the request says so, and at last exactly one `Done` (JSON result) or `Problem` frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum NodeRequest {
    /// Runs a program in a task's container. Done: [`crate::http::ExecResult`].
    Exec {
        /// The task; its current run.
        task: TaskId,
        /// The program.
        exec: crate::http::ExecRequest,
    },
    /// Joins the streams of a task's container. Messages: [`crate::AttachEvent`]. Done: [`crate::http::ExecResult`].
    Attach {
        /// The task; its current run, or the one that comes.
        task: TaskId,
        /// What is joined.
        attach: crate::AttachRequest,
    },
    /// A file or directory of a running task as a tar archive in `Data` frames. Message, first: [`crate::CopiedFile`]. Done:
    /// [`crate::Copied`].
    CopyOut {
        /// The task.
        task: TaskId,
        /// What is copied.
        copy: crate::CopyOut,
    },
    /// Reads a tar archive from `Data` frames up to an empty one into a running task. Done: [`crate::Copied`].
    CopyIn {
        /// The task.
        task: TaskId,
        /// Where it goes.
        copy: crate::CopyIn,
    },
    /// What a name is here. Done: list of [`crate::DnsAnswer`].
    DnsLookup {
        /// The name or address.
        name: String,
        /// As this task sees it; `None` is the host and every network.
        from: Option<TaskId>,
    },
    /// Log records as `Message` frames of [`crate::http::LogRecord`], merged in order of time over the tasks. Done: null.
    Logs {
        /// The tasks, ended ones included.
        tasks: Vec<TaskId>,
        /// Which records.
        query: crate::http::LogQuery,
    },
    /// Reads an archive from `Data` frames up to an empty one. Messages: `PullProgress`. Done: [`crate::http::LoadedImages`].
    ImageLoad,
    /// Brings an image. Messages: `PullProgress`. Done: `HeldImage`.
    ImagePull {
        /// As the user wrote it.
        reference: String,
        /// For its registry.
        #[serde(default)]
        credentials: Option<RegistryCredentials>,
    },
    /// The digest a name stands for. Done: [`crate::http::ResolvedImage`].
    ImageResolve {
        /// As the user wrote it.
        reference: String,
        /// Whether to ask the registry.
        policy: crate::container::PullPolicy,
        /// For its registry.
        #[serde(default)]
        credentials: Option<RegistryCredentials>,
    },
    /// Shows credentials to a registry. Done: null when it accepts them.
    RegistryCheck {
        /// The registry's host.
        registry: String,
        /// What it is shown.
        credentials: RegistryCredentials,
    },
    /// Images on this node, as of now. Done: list of [`crate::state::HeldImage`].
    ImageList,
    /// Takes an image away. Done: null.
    ImageRemove {
        /// Name or digest.
        reference: String,
    },
    /// An image in full. Done: [`crate::ImageDetails`].
    ImageInspect {
        /// Name, digest or id.
        reference: String,
    },
    /// Gives an image one more name. Done: `HeldImage`.
    ImageTag {
        /// The image and its new name.
        tag: crate::TagImage,
    },
    /// Images as an OCI layout in a tar archive, in `Data` frames. Done: null.
    ImageSave {
        /// Names, digests or ids.
        references: Vec<String>,
    },
    /// Takes away images that nobody needs. Done: [`crate::PrunedImages`].
    ImagePrune {
        /// Which.
        prune: crate::PruneImages,
        /// Digests and normalised names that stacks and tasks need.
        needed: BTreeSet<String>,
    },
    /// Volumes on this node. Done: list of [`crate::http::VolumeStatus`].
    VolumeList,
    /// Takes a volume and its data away. Done: null.
    VolumeRemove {
        /// Its cluster-wide name.
        name: crate::id::VolumeName,
    },
    /// Sends a signal to the first process of a task's current run. Done: null.
    Signal {
        /// The task.
        task: TaskId,
        /// The signal's number.
        signal: i32,
    },
    /// What the node knows of a task beyond its report, as JSON for people. Done: object.
    TaskInspect {
        /// The task.
        task: TaskId,
    },
}
