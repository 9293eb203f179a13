//! The node as its daemon holds it: opened once, run once, asked from many places.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use carrack_api::{Assignment, NodeInfo, NodeReport, NodeRequest};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::config::{NodeConfig, NodeError, Shutdown};
use crate::identity::{self, Identity};

/// A node. Clones are the same node.
#[derive(Debug, Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: NodeConfig,
    info: NodeInfo,
    identity: Mutex<Identity>,
    ran: AtomicBool,
}

impl Node {
    /// Takes the state directory (one daemon at a time), reads what this node remembers and opens the container runtime.
    /// Blocks; changes nothing that runs.
    pub fn open(config: NodeConfig) -> Result<Self, NodeError> {
        let identity = Identity::open(&config.state_dir, config.cluster.clone())?;
        let hostname = config.hostname.clone().unwrap_or_else(identity::kernel_hostname);
        let info = identity::describe_host(identity.node.clone(), hostname, config.labels.clone());
        let shared = Shared { config, info, identity: Mutex::new(identity), ran: AtomicBool::new(false) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What this node is and has.
    pub fn info(&self) -> NodeInfo {
        self.shared.info.clone()
    }

    /// Makes assignments so until `shutdown` says how to stop. Starts from the last assignment on disk; a newer one wins, an
    /// older one or one of another cluster is refused and logged. `reports` gets a report at each heartbeat and at once on a
    /// change.
    pub async fn run(
        &self,
        mut assignments: watch::Receiver<Option<Arc<Assignment>>>,
        reports: impl Fn(NodeReport) + Send + Sync + 'static,
        shutdown: impl Future<Output = Shutdown> + Send,
    ) -> Result<(), NodeError> {
        if self.shared.ran.swap(true, Ordering::SeqCst) {
            return Err(NodeError::Running);
        }
        let _ = (&mut assignments, &reports, &self.shared.config);
        if let Some(cluster) = assignments.borrow().as_ref().map(|a| a.cluster.clone()) {
            self.shared.identity.lock().unwrap_or_else(PoisonError::into_inner).join(cluster)?;
        }
        shutdown.await;
        Ok(())
    }

    /// Answers one request over a byte stream of [`carrack_api::stream::Frame`]s; returns when the answer is complete or the
    /// asker is gone.
    pub async fn serve<S>(&self, request: NodeRequest, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let problem = carrack_api::Problem::new(
            503,
            "node-starting",
            format!("the node does not answer {request:?} yet"),
        );
        let frame = carrack_api::stream::Frame::Problem(problem);
        if let Err(error) = stream.write_all(&frame.encode()).await {
            tracing::debug!(%error, "the asker of a request is gone");
        }
    }
}
