//! Looking after a cluster: what names resolve to, what images hold, and taking away what nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::VolumeStatus;
use crate::id::{NetworkName, ServiceKey, StackName, TaskId};
use crate::state::HeldImage;
use crate::units::{Bytes, Timestamp};

/// A name as one viewer gets it; `GET /v1/dns?name=NAME` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsAnswer {
    /// Who asks.
    pub viewer: DnsViewer,
    /// The name as it was looked up: lower case, without a final dot.
    pub name: String,
    /// Where the answer comes from.
    pub source: DnsSource,
    /// Addresses, in order; none when the name does not exist or has none now.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Names that an address stands for.
    pub names: Vec<String>,
    /// Seconds for which the answer may be kept; for an answer without records, how long its absence may.
    pub ttl: u32,
}

/// Who asks for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DnsViewer {
    /// The node itself.
    Host,
    /// A task, by its address.
    Task {
        /// The task.
        task: TaskId,
        /// `hello/web.1`.
        name: String,
    },
    /// Any task that is on this network alone.
    Network {
        /// The network's name in the cluster.
        name: String,
    },
}

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DnsSource {
    /// The name of services: their virtual addresses, or their passing tasks where they have none.
    Service {
        /// The services.
        services: Vec<ServiceKey>,
        /// The addresses are virtual ones.
        virtual_address: bool,
    },
    /// A further name of services or tasks on a network: an alias, a container's or host's name.
    Alias {
        /// `hello/web` or `hello/web.1`.
        targets: Vec<String>,
        /// The addresses are virtual ones.
        virtual_address: bool,
    },
    /// `tasks.SERVICE`: its passing tasks.
    Tasks {
        /// The services.
        services: Vec<ServiceKey>,
    },
    /// `2.SERVICE`: the task of one slot.
    Slot {
        /// `hello/web.2`.
        targets: Vec<String>,
    },
    /// `extra_hosts` of everybody or of the task alone.
    Extra,
    /// A task or service by its address.
    Reverse,
    /// Not ours: what the resolvers of the host, or of the task, answered.
    Forwarded {
        /// The resolvers.
        #[schema(value_type = Vec<String>)]
        resolvers: Vec<SocketAddr>,
        /// `NOERROR`, `NXDOMAIN`, `SERVFAIL`, or why there is no answer.
        result: String,
    },
    /// The name does not exist for this viewer.
    Unknown,
}

/// An image in full; `GET /v1/images/inspect?reference=NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDetails {
    /// Its names, normalised.
    pub names: Vec<String>,
    /// What its names resolve to: the digest of an index, or of the manifest.
    pub digest: String,
    /// Digest of the manifest for this machine.
    pub manifest: String,
    /// Digest of its configuration, Docker's image id.
    pub config: String,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// Bytes of its unpacked files.
    pub size: Bytes,
    /// `linux/amd64`.
    pub platform: String,
    /// Program that is always run.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program when there is no entrypoint.
    pub command: Vec<String>,
    /// Environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// User, when the image names one.
    pub user: Option<String>,
    /// Working directory, when the image names one.
    pub working_dir: Option<String>,
    /// Ports it says it serves, `80/tcp`.
    pub ports: Vec<String>,
    /// Directories that become volumes.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that stops it, when the image names one.
    pub stop_signal: Option<String>,
    /// Its layers, base first.
    pub layers: Vec<ImageLayer>,
    /// Services that use it.
    #[serde(default)]
    pub used_by: BTreeSet<ServiceKey>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageLayer {
    /// Digest as it was received.
    pub digest: String,
    /// Digest of the uncompressed layer.
    pub diff_id: String,
    /// Bytes as it was received.
    pub compressed: Bytes,
    /// Bytes of its files.
    pub size: Bytes,
}

/// `POST /v1/images/tag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagImage {
    /// Name, digest or id of an image that a node holds.
    pub source: String,
    /// The name it gets.
    pub target: String,
}

/// `POST /v1/images/prune`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneImages {
    /// Also images with a name, when no stack and no task needs them.
    pub all: bool,
    /// Says what would go, and takes nothing.
    pub dry_run: bool,
}

/// What a prune of images took, or would take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PrunedImages {
    /// Images, one entry a name; those without a name have an empty one.
    pub images: Vec<HeldImage>,
    /// Bytes freed; for a dry run those of files that no other image shares.
    pub freed: Bytes,
}

/// A volume in full; `GET /v1/volumes/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeDetails {
    /// Where it is and who has it mounted.
    #[serde(flatten)]
    pub status: VolumeStatus,
    /// Services of stacks in force that use it.
    pub services: BTreeSet<ServiceKey>,
    /// What a prune would do with it.
    pub keep: VolumeKeep,
}

/// Why a volume is kept, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKeep {
    /// A service or a task uses it: never taken.
    Used,
    /// No service uses it, but its stack exists, or its name is that of no stack (an external volume, one with a name of its
    /// own): taken only with `all`.
    Kept,
    /// It has the name of a stack that was removed.
    Orphan,
}

/// `POST /v1/volumes/prune`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneVolumes {
    /// Also volumes of stacks that exist and of none, when no service uses them any more.
    pub all: bool,
    /// Says what would go, and takes nothing.
    pub dry_run: bool,
}

/// What a prune of volumes took, or would take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PrunedVolumes {
    /// The volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Bytes of their files.
    pub freed: Bytes,
}

/// `POST /v1/networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name in the whole cluster.
    pub name: NetworkName,
    /// No way out of the cluster.
    #[serde(default)]
    pub internal: bool,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A network as users see it; `GET /v1/networks` and `GET /v1/networks/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// Its name in the whole cluster.
    pub name: NetworkName,
    /// No way out of the cluster.
    pub internal: bool,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The stack that it belongs to and goes with; `None` for one made by command.
    pub stack: Option<StackName>,
    /// When it was made by command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Services that are on it.
    pub services: BTreeSet<ServiceKey>,
}

/// `POST /v1/networks/prune`: takes networks away that were made by command and that nothing uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneNetworks {
    /// Says what would go, and takes nothing.
    pub dry_run: bool,
}
