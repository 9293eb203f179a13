//! The node as its daemon holds it: opened once, run once, asked from many places.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use carrack_api::{Assignment, ClusterId, NodeInfo, NodeReport, NodeRequest};
use carrack_runtime::error::chain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{NodeConfig, NodeError, Shutdown};
use crate::containers::Containers;
use crate::driver::{Driver, Setup};
use crate::fabric::Fabric;
use crate::identity::{self, Identity};
use crate::ledger::{self, Ledger, Remembered};
use crate::requests::{Desk, View};
use crate::sealed::SealedContents;
use crate::usage::UsageRings;

/// Time for the lock of a killed daemon to be let go.
const LOCK_LEFT_MAX: Duration = Duration::from_secs(2);
/// Between two looks at it.
const LOCK_LOOK: Duration = Duration::from_millis(5);
/// Between two looks at whether memory is reserved above the containers as they have asked for.
const RESERVE_EVERY: Duration = Duration::from_secs(30);

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
    directory: PathBuf,
    boot_id: String,
    sealed: SealedContents,
    containers: Containers,
    fabric: Fabric,
    usage: Arc<UsageRings>,
    view: watch::Sender<View>,
    ran: AtomicBool,
}

impl Node {
    /// Takes the state directory (one daemon at a time), reads what this node remembers and opens the container runtime.
    /// Blocks; changes nothing that runs.
    pub fn open(config: NodeConfig) -> Result<Self, NodeError> {
        let identity = Identity::open(&config.state_dir, config.cluster.clone())?;
        let boot_id = identity::boot_id()?;
        network_is_free()?;
        let hostname = config.hostname.clone().unwrap_or_else(identity::kernel_hostname);
        let info = identity::describe_host(identity.node.clone(), hostname, config.labels.clone());
        let instance = identity.node.as_str();
        let containers = Containers::open(&config, instance)?;
        let helpers = containers.runtime().helpers_cgroup();
        let fabric = Fabric::new(instance, config.exe.clone(), config.runtime_dir.join("dataplane"), helpers);
        // Read here too, so that a ledger that cannot be read stops the start before anything runs.
        let sealed = SealedContents::open(&config.state_dir)?;
        ledger::load(&identity.directory, &boot_id, &sealed)?;
        let shared = Shared {
            directory: identity.directory.clone(),
            identity: Mutex::new(identity),
            config,
            info,
            boot_id,
            sealed,
            containers,
            fabric,
            usage: Arc::default(),
            view: watch::channel(View::default()).0,
            ran: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What this node is and has.
    pub fn info(&self) -> NodeInfo {
        self.shared.info.clone()
    }

    /// Makes assignments so until `shutdown` says how to stop. Starts from the last assignment on disk; a newer one wins, an
    /// older one or one of another cluster is refused and logged. `reports` gets a report at each heartbeat and at once on a
    /// change; it is called from the loop and must be quick.
    pub async fn run(
        &self,
        assignments: watch::Receiver<Option<Arc<Assignment>>>,
        reports: impl Fn(NodeReport) + Send + Sync + 'static,
        shutdown: impl Future<Output = Shutdown> + Send,
    ) -> Result<(), NodeError> {
        if self.shared.ran.swap(true, Ordering::SeqCst) {
            return Err(NodeError::Running);
        }
        let shared = &self.shared;
        identity::tell_lacks(&carrack_runtime::doctor::glance());
        let remembered: Remembered = ledger::load(&shared.directory, &shared.boot_id, &shared.sealed)?;
        let joined = Arc::clone(shared);
        let (cluster, lock) = {
            let identity = shared.identity.lock().unwrap_or_else(PoisonError::into_inner);
            (identity.cluster.clone(), identity.lock())
        };
        let sealed = shared.sealed.clone();
        let (ledger, _writer) = Ledger::start(shared.directory.clone(), shared.boot_id.clone(), sealed, lock);
        let setup = Setup {
            info: shared.info.clone(),
            cluster,
            upstreams: shared.config.upstreams.clone(),
            remembered,
            ledger,
            join: Box::new(move |cluster: ClusterId| {
                joined.identity.lock().unwrap_or_else(PoisonError::into_inner).join(cluster)
            }),
            usage: shared.usage.clone(),
        };
        let (engine, network) = (Arc::new(shared.containers.clone()), Arc::new(shared.fabric.clone()));
        let driver =
            Driver::adopt(engine, network, setup).await.map_err(|error| NodeError::Adopt(chain(&error)))?;
        let viewed = Arc::clone(shared);
        let report = move |report: NodeReport, assignment: Option<&Arc<Assignment>>| {
            viewed.view.send_replace(View {
                report: Some(Arc::new(report.clone())),
                assignment: assignment.cloned(),
            });
            reports(report);
        };
        tokio::select! {
            ended = driver.run(assignments, report, shutdown) => ended,
            never = keep_reserved(&shared.containers) => match never {},
        }
    }

    /// Answers one request over a byte stream of [`carrack_api::stream::Frame`]s; returns when the answer is complete or the
    /// asker is gone.
    pub async fn serve<S>(&self, request: NodeRequest, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = &self.shared;
        let desk = Desk {
            node: shared.info.id.clone(),
            containers: shared.containers.clone(),
            usage: shared.usage.clone(),
            fabric: shared.fabric.clone(),
            view: shared.view.subscribe(),
        };
        desk.serve(request, stream).await;
    }
}

/// Keeps the memory reserved that containers have asked for, at the adoption of those that run and from then on.
async fn keep_reserved(containers: &Containers) -> Infallible {
    let mut looks = interval(RESERVE_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Err(error) = containers.clone().blocking(|this| this.runtime().reserve_again()).await {
            tracing::warn!(%error, "memory cannot be reserved again above the containers");
        }
    }
}

/// Waits a moment: a child that a killed daemon was just starting holds a copy of its lock until it executes.
fn network_is_free() -> Result<(), NodeError> {
    let deadline = Instant::now() + LOCK_LEFT_MAX;
    loop {
        match carrack_net::network::ensure_undriven() {
            Err(carrack_net::NetError::OtherInstance { .. }) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_LOOK);
            }
            result => return result.map_err(NodeError::Network),
        }
    }
}
