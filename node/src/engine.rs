//! The two seams of the node: containers ([`Engine`]) and network ([`Network`]). Each has a real implementation and a
//! simulated one for tests.
//!
//! Owns the values that cross them, in the node's words. All calls are idempotent: asked again after a crash at any point
//! they end in the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carrack_api::{
    AddressPlan, AssignedTask, ContainerSpec, Content, Exit, Healthcheck, HeldImage, Hook, ImageCollection,
    PortConflict, PullProgress, RegistryCredentials, TaskId, Usage,
};

use crate::tables::NodeTables;

/// A run that the runtime knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRun {
    /// Its task.
    pub(crate) task: TaskId,
    /// Its number.
    pub(crate) run: u32,
    /// How it is.
    pub(crate) state: FoundState,
}

/// How a found run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FoundState {
    /// It runs.
    Running {
        /// First process.
        pid: u32,
        /// What asks it to stop.
        stop_signal: i32,
    },
    /// It has ended.
    Ended(Exit),
}

/// Why something cannot be done for a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It will not work at a second try either.
    #[error("{0}")]
    Final(String),
    /// It may work later.
    #[error("{0}")]
    Retry(String),
}

/// A container that started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    /// First process.
    pub(crate) pid: u32,
    /// What asks it to stop.
    pub(crate) stop_signal: i32,
}

/// The network a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attachment {
    /// A namespace that was wired for it, by a path that can be opened.
    Wired(PathBuf),
    /// The host's.
    Host,
    /// Loopback only.
    None,
}

/// Everything a start needs beside the spec.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StartOrder {
    /// The task.
    pub(crate) task: TaskId,
    /// Which run this is.
    pub(crate) run: u32,
    /// What was assigned.
    pub(crate) assigned: AssignedTask,
    /// Content of its secrets and configs by digest, as far as this node has it.
    pub(crate) contents: BTreeMap<String, Content>,
    /// Its network.
    pub(crate) attachment: Attachment,
    /// The node's own address, once it has one.
    pub(crate) node_address: Option<Ipv4Addr>,
}

/// Credentials of a stack by registry.
pub(crate) type RegistryLogins = BTreeMap<String, RegistryCredentials>;

/// Receives how far an image is; called often.
pub(crate) type ProgressSink = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// Containers and images of this host.
pub(crate) trait Engine: Send + Sync + 'static {
    /// All runs that left a trace, each task's oldest first. Runs whose supervisor is gone have been ended.
    fn runs(&self) -> impl Future<Output = Result<Vec<FoundRun>, Refusal>> + Send;

    /// Brings the image, with the credentials for its registry when there are any; dropped, it breaks off without leaving
    /// anything half done.
    fn prepare(
        &self,
        spec: &ContainerSpec,
        credentials: &RegistryLogins,
        progress: ProgressSink,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The healthcheck in force: of the spec, else of the image. `None` when there is none or it is switched off.
    fn healthcheck(&self, spec: &ContainerSpec) -> impl Future<Output = Option<Healthcheck>> + Send;

    /// Starts a run and returns when its program runs. On failure nothing of the run is left.
    fn start(&self, order: StartOrder) -> impl Future<Output = Result<Started, Refusal>> + Send;

    /// Waits until the run has ended, all its processes are gone and its exit is recorded.
    fn ended(&self, task: TaskId, run: u32) -> impl Future<Output = Result<Exit, Refusal>> + Send;

    /// Sends a signal to the run's first process; an ended run is no error.
    fn signal(&self, task: TaskId, run: u32, signal: i32)
    -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Kills all processes of the run; an ended run is no error.
    fn kill(&self, task: TaskId, run: u32) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes away an ended run but not its log.
    fn remove_run(&self, task: TaskId, run: u32) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes away all runs and anonymous volumes of a task, with `logs` also its log.
    fn remove_task(&self, task: TaskId, logs: bool) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes away what all runs share, once none is left.
    fn release(&self) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Runs a probe in the run's container: whether it ended with 0 in time, and what it said. `None` when the run
    /// has ended, which its exit tells better.
    fn probe(
        &self,
        task: TaskId,
        run: u32,
        argv: Vec<String>,
        timeout: Duration,
    ) -> impl Future<Output = Option<(bool, String)>> + Send;

    /// Runs a hook in the run's container; as [`Engine::probe`].
    fn hook(
        &self,
        task: TaskId,
        run: u32,
        hook: Hook,
        timeout: Duration,
    ) -> impl Future<Output = Option<(bool, String)>> + Send;

    /// A sample of the run's cgroup on kept descriptors: microseconds, so that it may be called from the loop.
    fn sample(&self, task: TaskId, run: u32) -> Option<Usage>;

    /// Takes images away when their disk is too full, but none that is needed (digests and names). `None` when it is not.
    fn collect(
        &self,
        needed: BTreeSet<String>,
    ) -> impl Future<Output = Result<Option<ImageCollection>, Refusal>> + Send;

    /// Images this host holds.
    fn images(&self) -> Vec<HeldImage>;
}

/// What the network was made to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Programmed {
    /// Ports that could not be had.
    pub(crate) conflicts: Vec<PortConflict>,
    /// What was changed, for the log; empty when the kernel held it already.
    pub(crate) changes: Vec<String>,
}

/// The network of this host.
pub(crate) trait Network: Send + Sync + 'static {
    /// Takes the address plan of the cluster; the first call adopts what the kernel holds. Later ones take further blocks.
    fn open(&self, addresses: &AddressPlan) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The node's own address, once open.
    fn node_address(&self) -> Option<Ipv4Addr>;

    /// A wired namespace for the task with this address: that of process `pid` when it runs already, else the one held for
    /// it, else a new one.
    fn wire(
        &self,
        task: TaskId,
        address: IpAddr,
        pid: Option<u32>,
    ) -> impl Future<Output = Result<PathBuf, Refusal>> + Send;

    /// Takes the task's link and namespace away; what is not there is no error.
    fn unwire(&self, task: TaskId) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// All tasks that run were wired again: links of ours that nobody owns may go.
    fn settle(&self) -> impl Future<Output = ()> + Send;

    /// Makes kernel tables, port reservations and DNS those of the value.
    fn program(&self, tables: Arc<NodeTables>) -> impl Future<Output = Result<Programmed, Refusal>> + Send;

    /// Compares the kernel with what it is to hold, repairs it and says what was repaired.
    fn audit(&self) -> impl Future<Output = Result<Vec<String>, Refusal>> + Send;

    /// Waits until somebody else has changed what an audit would repair. Nothing is lost when the wait is broken off.
    fn disturbed(&self) -> impl Future<Output = ()> + Send;

    /// Connections to the address that are open.
    fn open_connections(&self, address: IpAddr) -> impl Future<Output = Result<usize, Refusal>> + Send;

    /// Forgets datagram flows to the address, and with `streams` its connections too.
    fn forget_flows(
        &self,
        address: IpAddr,
        streams: bool,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Whether something listens on the TCP port in the namespace of the process, where others reach it.
    fn listens(&self, pid: u32, port: u16) -> impl Future<Output = Result<bool, String>> + Send;

    /// Takes everything of ours out of the kernel and ends the data plane.
    fn remove_all(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
}
