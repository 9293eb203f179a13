//! How a scheduler is opened and joined to its nodes within one process. Owns the public handles; decides nothing.

use std::path::PathBuf;
use std::sync::Arc;

use carrack_api::{Assignment, ClusterId, NodeId, NodeInfo, NodeReport, NodeRequest, Problem};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// What a scheduler needs to start.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// The node's state directory; the store lives in `scheduler/` below it.
    pub state_dir: PathBuf,
    /// Cluster addresses, for example `10.192.0.0/10`. Fixed at the first start: later starts use what the store says.
    pub cluster_cidr: String,
    /// Version of the binary, shown to users.
    pub version: String,
}

/// Why a scheduler could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Placeholder until the store lands.
    #[error("store")]
    Store,
}

/// Reaches nodes for what is not in an assignment: exec, logs, images, volumes. Implemented over the node by whoever joins
/// the two, and by a fake in tests.
pub trait NodeGateway: Send + Sync + 'static {
    /// Opens a stream of [`carrack_api::stream::Frame`]s on which the node answers `request`.
    fn open(
        &self,
        node: &NodeId,
        request: NodeRequest,
    ) -> BoxFuture<'static, Result<tokio::io::DuplexStream, Problem>>;
}

/// A running scheduler. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct Scheduler {}

/// A node's end of the session within one process.
#[derive(Debug)]
pub struct LocalSession {
    /// The cluster the node belongs to; goes into its reports.
    pub cluster: ClusterId,
    /// The newest assignment. `None` until the node's first report has been heard.
    pub assignments: watch::Receiver<Option<Arc<Assignment>>>,
    /// Where its reports go.
    pub reports: ReportHandle,
}

/// Takes a node's reports. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReportHandle {}

impl ReportHandle {
    /// Hands in a report; never blocks. A newer report replaces one that was not read yet.
    pub fn report(&self, report: NodeReport) {
        let _ = report;
    }
}

impl Scheduler {
    /// Opens the store in `config.state_dir` and starts the loop. Must be called within a tokio runtime.
    pub fn open(config: SchedulerConfig) -> Result<Self, OpenError> {
        let _ = config;
        Err(OpenError::Store)
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> ClusterId {
        unimplemented!()
    }

    /// Says how nodes are reached; call it once, after the nodes exist. Before it, exec, logs and images answer 503.
    pub fn set_gateway(&self, gateway: Arc<dyn NodeGateway>) {
        let _ = gateway;
    }

    /// Joins a node of this process. A second call for the same node replaces the first session.
    pub fn attach_node(&self, info: NodeInfo) -> LocalSession {
        let _ = info;
        unimplemented!()
    }

    /// Serves the HTTP API on a unix socket until `shutdown` resolves, then lets open requests end for a bounded time.
    pub async fn serve(
        &self,
        listener: tokio::net::UnixListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let _ = (listener, shutdown);
        unimplemented!()
    }

    /// Stops the loop and closes the store; everything acknowledged is on disk.
    pub async fn close(self) {}
}
