//! Bodies, paths and errors of the HTTP API. Owns their shape; the scheduler serves them, [`crate::client`] speaks them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::container::{Exit, PullProgress, Usage};
use crate::content::Contents;
use crate::id::{ClusterId, NodeId, ServiceKey, ServiceName, StackName, TaskId, VolumeName};
use crate::session::Desired;
use crate::spec::{PublishedPort, StackSpec};
use crate::state::{Health, HeldImage, NodeInfo, ProbeResult, TaskState};
use crate::units::{Bytes, MilliCpus, Timestamp};

/// Media type of problems (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Value of the `Upgrade` header for a stream of [`crate::stream::Frame`]s.
pub const UPGRADE_STREAM: &str = "carrack-stream";
/// Media type of a response body of [`crate::stream::Frame`]s.
pub const FRAMES: &str = "application/vnd.carrack.frames";

/// An error of the API, as RFC 9457 problem details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// A short name that programs can match, for example `image-not-found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// HTTP status.
    pub status: u16,
    /// One sentence, lower case, that names the object.
    pub detail: String,
    /// What to do next, when there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Single problems with field paths, when the body was not valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<FieldProblem>,
}

impl Problem {
    /// A problem without hint.
    pub fn new(status: u16, kind: &str, detail: impl Into<String>) -> Self {
        Self { kind: kind.into(), status, detail: detail.into(), hint: None, problems: Vec::new() }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An object that does not exist: `no stack "x"`.
    pub fn not_found(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(404, kind, detail)
    }

    /// Something that is ours to mend.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(500, "internal", detail)
    }
}

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// Where, for example `services.web.ports[0].published`.
    pub path: String,
    /// What is wrong, lower case.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// Version of the server's binary.
    pub version: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// Starts of the scheduler so far.
    pub epoch: u64,
    /// PID of the daemon that answers.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// Where it keeps its state.
    pub state_dir: String,
    /// Addresses of the cluster.
    pub cluster_cidr: String,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node as users see it; `GET /v1/nodes` lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// What it says it is.
    #[serde(flatten)]
    pub info: NodeInfo,
    /// Heard from lately.
    pub ready: bool,
    /// When it was heard from last.
    pub seen_at: Timestamp,
    /// Tasks that run there.
    pub tasks: u32,
}

/// `PUT /v1/stacks/{name}`. `If-Match` carries the revision it was based on (`"3"`, or `"0"` for none), or is left out.
/// With `?dry_run=true` nothing is changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutStack {
    /// The wanted state, whole.
    pub spec: StackSpec,
    /// Credentials by registry host.
    #[serde(default)]
    pub credentials: BTreeMap<String, RegistryCredentials>,
    /// Content of the stack's own secrets and configs. What is not given stays as the revision in force has it.
    #[serde(default, skip_serializing_if = "Contents::is_empty")]
    pub contents: Contents,
}

/// The answer to a deploy or its dry run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StackChange {
    /// The revision in force after it (before it, for a dry run).
    pub revision: u64,
    /// What changes, by service.
    pub services: Vec<ServiceChange>,
    /// Things worth saying, for example a scale that returns to the file's value.
    pub notes: Vec<String>,
}

/// What a deploy does to one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceChange {
    /// The service.
    pub service: ServiceKey,
    /// What is done.
    pub kind: ChangeKind,
    /// Why: fields of the spec that differ.
    pub fields: Vec<FieldChange>,
}

/// What is done to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Create,
    /// Its tasks are replaced, in order.
    Replace,
    /// Only what stands beside its tasks changes (scale, ports, labels).
    Adjust,
    /// It goes.
    Remove,
    /// Nothing.
    Unchanged,
}

/// A field that differs. A secret-looking environment value is shown as `(changed)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldChange {
    /// Path below the service.
    pub path: String,
    /// Before, as JSON text; `None` when it was absent.
    pub from: Option<String>,
    /// After; `None` when it is gone.
    pub to: Option<String>,
}

/// A stack as users see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StackStatus {
    /// Its name.
    pub name: StackName,
    /// The revision in force.
    pub revision: u64,
    /// When that revision was accepted.
    pub deployed_at: Timestamp,
    /// Being taken away.
    pub removing: bool,
    /// Its services.
    pub services: Vec<ServiceStatus>,
    /// One-off tasks that `carrack run` made in it.
    #[serde(default)]
    pub runs: Vec<RunStatus>,
}

/// A one-off task as users see it. Its task has slot 0 of the service that is named like it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunStatus {
    /// Its name, for example `hello/web.run-1`.
    pub run: ServiceKey,
    /// The service whose definition it came from.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// Image as written.
    pub image: String,
    /// Published ports, with the numbers in force.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// It is taken away with its log once it has ended.
    pub remove: bool,
    /// Its task, once there is one.
    #[schema(value_type = Option<String>)]
    pub task: Option<TaskId>,
    /// How far it is; rejected when it can never start.
    pub state: TaskState,
    /// What it waits for, or why it cannot start, while it has no task.
    pub reason: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// `POST /v1/stacks/{name}/stop`, `start` and `restart`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Services of the stack; none for all.
    #[schema(value_type = Vec<String>)]
    pub services: Vec<ServiceName>,
}

/// `POST /v1/tasks/{id}/signal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendSignal {
    /// `TERM`, `SIGTERM` or `15`.
    pub signal: String,
}

/// `PATCH /v1/services/{stack}/{service}`: a new revision that differs from the one in force in what is given here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SetService {
    /// Another image.
    pub image: Option<String>,
    /// Variables; `null` takes one away.
    pub env: BTreeMap<String, Option<String>>,
    /// Slots; a scale by command ends.
    pub replicas: Option<u32>,
    /// Limit on CPU time; 0 is none.
    pub cpus: Option<MilliCpus>,
    /// Limit on memory; 0 is none.
    pub memory: Option<Bytes>,
    /// Credentials by registry host.
    pub credentials: BTreeMap<String, RegistryCredentials>,
}

/// `POST /v1/runs`: a one-off task of a service's definition, on its networks and with its volumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The service.
    pub service: ServiceKey,
    /// In place of the service's command; empty keeps it.
    #[serde(default)]
    pub command: Vec<String>,
    /// In place of the service's entrypoint; an empty list clears it. The service's command is then dropped, too.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Added to the service's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// In place of the service's user.
    #[serde(default)]
    pub user: Option<String>,
    /// In place of the service's working directory.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// The last part of its name; a number when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Mounts beside those of the service; one at the same place takes its turn.
    #[serde(default)]
    pub mounts: Vec<crate::container::Mount>,
    /// Labels beside those of the service.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Does not start services it depends on that are stopped, and waits for none.
    #[serde(default)]
    pub no_deps: bool,
    /// Takes it away with its log once it has ended.
    #[serde(default)]
    pub remove: bool,
    /// Allocates a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Keeps standard input open.
    #[serde(default)]
    pub stdin: bool,
    /// Published ports; none by default.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
}

/// A service as users see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub service: ServiceKey,
    /// Image as written.
    pub image: String,
    /// Slots wanted now.
    pub replicas: u32,
    /// `true` when `carrack scale` set them.
    pub scaled: bool,
    /// Tasks of it that run.
    pub running: u32,
    /// Tasks of it that are passing.
    pub passing: u32,
    /// Tasks of the newest revision that are passing or completed.
    pub current: u32,
    /// Virtual addresses.
    #[schema(value_type = Vec<String>)]
    pub vips: Vec<IpAddr>,
    /// Published ports, with the numbers in force.
    pub ports: Vec<PublishedPort>,
    /// How far the newest revision has come.
    pub rollout: Rollout,
    /// `carrack stop` keeps it at zero until a start or a deploy.
    #[serde(default)]
    pub stopped: bool,
    /// Slots whose task has completed: they are satisfied without running.
    #[serde(default)]
    pub completed: u32,
}

/// How far a service is from what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Rollout {
    /// All slots are as wanted and passing (or completed).
    Converged,
    /// Under way.
    Progressing {
        /// What it waits for.
        reason: String,
    },
    /// Given up; old tasks, if any, go on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A task as users see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskStatus {
    /// Its id.
    pub id: TaskId,
    /// Its service.
    pub service: ServiceKey,
    /// Its slot.
    pub slot: u32,
    /// Its node, once placed.
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeId>,
    /// That node's host name.
    pub hostname: Option<String>,
    /// The revision it was made from.
    pub revision: u64,
    /// It is of its service's newest spec.
    pub current: bool,
    /// What is wanted of it.
    pub desired: Desired,
    /// Starts of its container so far.
    pub run: u32,
    /// State of the newest run.
    pub state: TaskState,
    /// Health of the newest run.
    pub health: Health,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Why it was put where it is, or why it could not be placed.
    pub placement: Option<String>,
    /// How its last run ended.
    pub exit: Option<Exit>,
    /// Image as written.
    pub image: String,
    /// Digest it runs.
    pub image_digest: Option<String>,
    /// Addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the newest run started.
    pub started_at: Option<Timestamp>,
    /// Bytes of the image, while it is brought.
    pub progress: Option<PullProgress>,
    /// The last probe.
    pub probe: Option<ProbeResult>,
    /// PID of its first process.
    pub pid: Option<u32>,
    /// Newest sample of its cgroup.
    pub usage: Option<Usage>,
}

/// Data of a `stack` event of `GET /v1/watch?stack=NAME`: the whole view, sent again whenever it changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StackView {
    /// The stack; `None` once it is gone.
    pub stack: Option<StackStatus>,
    /// Its tasks, past ones included, newest last in each slot.
    pub tasks: Vec<TaskStatus>,
}

/// `PUT /v1/services/{stack}/{service}/scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Slots wanted.
    pub replicas: u32,
}

/// Most slots of one service.
pub const REPLICAS_MAX: u32 = 10_000;

/// Something that happened; `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Rises by one with each event.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// What kind, for example `task.failed`, `stack.deployed`, `service.scaled`.
    pub kind: String,
    /// Of what: `hello`, `hello/web` or `hello/web.2`.
    pub subject: String,
    /// One sentence for people.
    pub message: String,
    /// The task, when it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The run of that task, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u32>,
}

/// Which log records.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogQuery {
    /// Stays and sends new ones.
    pub follow: bool,
    /// Only the last this many of each task.
    pub tail: Option<u64>,
    /// Only from this moment on.
    pub since: Option<Timestamp>,
    /// Only up to this moment.
    pub until: Option<Timestamp>,
}

/// One piece of a task's output: mostly a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogRecord {
    /// The task.
    pub task: TaskId,
    /// Its run.
    pub run: u32,
    /// Nanoseconds since the epoch.
    pub at_ns: u64,
    /// Where it was written.
    pub stream: LogStream,
    /// The text, its newline included when there was one; invalid UTF-8 is replaced.
    pub text: String,
}

/// Where output was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// `POST /v1/tasks/{id}/exec`, as JSON in the `carrack-exec` header, with `Upgrade: carrack-stream`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the container's environment.
    pub env: BTreeMap<String, String>,
    /// In place of the container's user.
    pub user: Option<String>,
    /// In place of the container's working directory.
    pub working_dir: Option<String>,
    /// Allocates a terminal of this size.
    pub tty: Option<WindowSize>,
    /// Sends stdin.
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
}

/// Images that an archive brought.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct LoadedImages {
    /// Each with name and digest.
    pub images: Vec<HeldImage>,
}

/// `POST /v1/images/pull`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// As the user wrote it.
    pub reference: String,
    /// For its registry.
    #[serde(default)]
    pub credentials: Option<RegistryCredentials>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResolvedImage {
    /// Normalised name.
    pub name: String,
    /// Digest.
    pub digest: String,
}

/// `POST /v1/registries/login`: the credentials are checked with the registry; when it accepts them, they replace those that
/// stacks keep for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryLogin {
    /// Its host, for example `ghcr.io` or `registry.example:5000`.
    pub registry: String,
    /// What it is shown.
    pub credentials: RegistryCredentials,
}

/// A registry and the stacks that keep credentials for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistryStacks {
    /// Its host.
    pub registry: String,
    /// Stacks whose credentials were replaced or forgotten.
    pub stacks: Vec<StackName>,
}

/// User and password, or a token. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryCredentials(not shown)")
    }
}

/// A volume as users see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeStatus {
    /// Cluster-wide name.
    pub name: VolumeName,
    /// Where its data is.
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeId>,
    /// Path on that node.
    pub path: String,
    /// Bytes of its files.
    pub size: Bytes,
    /// When it was made.
    pub created_at: Timestamp,
    /// Tasks that have it mounted.
    pub used_by: Vec<TaskId>,
}
