//! How a scheduler is opened and joined to its nodes within one process. Owns the public handles; decides nothing.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use carrack_api::{Assignment, ClusterId, NodeId, NodeInfo, NodeReport, NodeRequest, Problem, Timestamp};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::clock;
use crate::contents;
use crate::credentials::{KeyError, Vault};
use crate::driver::Cluster;
use crate::events::{EventLog, EventsError};
use crate::plan::EventDraft;
use crate::plan::address::Range;
use crate::server;
use crate::store::{ClusterRecord, CommitError, Key, Object, Op, Store, StoreGuard, StoreOpenError, Txn};

/// Secrets that a start names when they do not open.
const CLOSED_TOLD: usize = 50;

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
    /// The store cannot be used; a second daemon is among the reasons.
    #[error(transparent)]
    Store(#[from] StoreOpenError),
    /// The key of the store's secrets cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The event log cannot be used.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The cluster range is not one.
    #[error("cluster addresses {cidr:?} cannot be used: {reason}")]
    Cidr {
        /// As given.
        cidr: String,
        /// What is wrong.
        reason: String,
    },
    /// The first write of this start did not work.
    #[error("the start could not be written to the store: {0}")]
    Commit(String),
    /// No random bytes for the cluster's identity.
    #[error("no random bytes from /dev/urandom")]
    Random(#[source] std::io::Error),
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
pub struct Scheduler {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) config: SchedulerConfig,
    pub(crate) cidr: String,
    pub(crate) started_at: Timestamp,
    pub(crate) gateway: OnceLock<Arc<dyn NodeGateway>>,
    stop: watch::Sender<bool>,
    running: Mutex<Option<(tokio::task::JoinHandle<()>, StoreGuard)>>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("cluster", &self.inner.cluster.id).finish_non_exhaustive()
    }
}

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
pub struct ReportHandle {
    cluster: Arc<Cluster>,
    session: u64,
}

impl ReportHandle {
    /// Hands in a report; never blocks. A newer report replaces one that was not read yet.
    pub fn report(&self, report: NodeReport) {
        self.cluster.report(self.session, report);
    }
}

impl Scheduler {
    /// Opens the store in `config.state_dir` and starts the loop. Must be called within a tokio runtime.
    pub fn open(config: SchedulerConfig) -> Result<Self, OpenError> {
        let cidr_error = |reason| OpenError::Cidr { cidr: config.cluster_cidr.clone(), reason };
        Range::parse(&config.cluster_cidr).map_err(cidr_error)?;
        let directory = config.state_dir.join("scheduler");
        let vault = Vault::open(&config.state_dir.join("keys"))?;
        let (store, guard) = Store::open(&directory)?;
        let started = start(&store, &config.cluster_cidr)?;
        let events = EventLog::open(&directory.join("events"))?;
        tell_closed(&vault, &store, &events);
        let cluster = Arc::new(Cluster::new(started.id.clone(), store, events, vault));
        let (stop, stopped) = watch::channel(false);
        let driver = tokio::spawn(cluster.clone().run(stopped));
        let inner = Inner {
            cluster,
            config,
            cidr: started.cidr,
            started_at: clock::now(),
            gateway: OnceLock::new(),
            stop,
            running: Mutex::new(Some((driver, guard))),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster.id.clone()
    }

    /// The cluster's addresses in force: those of the first start.
    pub fn cluster_cidr(&self) -> &str {
        &self.inner.cidr
    }

    /// How many services there are.
    pub fn services(&self) -> usize {
        self.inner.cluster.store.snapshot().services.len()
    }

    /// Says how nodes are reached; call it once, after the nodes exist. Before it, exec, logs and images answer 503.
    pub fn set_gateway(&self, gateway: Arc<dyn NodeGateway>) {
        if self.inner.gateway.set(gateway).is_err() {
            tracing::warn!("the way to reach nodes is set already; the first one stays");
        }
    }

    /// Joins a node of this process. A second call for the same node replaces the first session.
    pub fn attach_node(&self, info: NodeInfo) -> LocalSession {
        let (session, assignments) = self.inner.cluster.attach(info.id);
        let reports = ReportHandle { cluster: self.inner.cluster.clone(), session };
        LocalSession { cluster: self.cluster(), assignments, reports }
    }

    /// Serves the HTTP API on a unix socket until `shutdown` resolves, then lets open requests end for a bounded time.
    pub async fn serve(
        &self,
        listener: tokio::net::UnixListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        server::serve(self.inner.clone(), listener, shutdown).await
    }

    /// Stops the loop and closes the store: everything acknowledged is on disk and the state directory may be used by another
    /// daemon. Requests that are still being served get errors for what they write.
    pub async fn close(self) {
        self.inner.stop.send_replace(true);
        let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((driver, guard)) = running else { return };
        if let Err(error) = driver.await {
            tracing::error!(%error, "the loop ended by a panic");
        }
        self.inner.cluster.store.close().await;
        if let Err(error) = tokio::task::spawn_blocking(move || guard.join()).await {
            tracing::error!(%error, "the store could not be waited for");
        }
    }
}

/// Says which secrets a lost or exchanged key has closed: their tasks run on, but no new one starts.
fn tell_closed(vault: &Vault, store: &Store, events: &EventLog) {
    let closed = contents::closed(vault, &store.snapshot());
    if closed.is_empty() {
        return;
    }
    let told: Vec<&str> = closed.iter().take(CLOSED_TOLD).map(|name| name.as_str()).collect();
    tracing::error!(
        secrets = told.join(", "),
        count = closed.len(),
        "secrets do not open: keys/secrets.key is another key than the one they were sealed under; restore that file from a backup and \
         start again, or deploy their stacks again and use `carrack secret create --replace NAME FILE` for those made by command"
    );
    let text =
        "does not open under keys/secrets.key: restore that file from a backup, or bring the secret again";
    let draft = |name| EventDraft::new("secret.closed", name, format!("secret {name} {text}"));
    events.append(closed.iter().take(CLOSED_TOLD).map(draft).collect(), clock::now());
}

/// Makes the cluster at the first start, and raises the epoch at every one.
fn start(store: &Store, cidr: &str) -> Result<ClusterRecord, OpenError> {
    let snapshot = store.snapshot();
    let record = match snapshot.cluster() {
        Some(cluster) => ClusterRecord { epoch: cluster.epoch + 1, ..ClusterRecord::clone(cluster) },
        None => ClusterRecord { id: random_id()?, epoch: 1, cidr: cidr.into(), next_task: 1, vip_cursor: 0 },
    };
    let expect = vec![(Key::Cluster, snapshot.version(&Key::Cluster))];
    let ops = vec![Op::Put(Object::Cluster(record.clone()))];
    store
        .commit_now(Txn { expect, ops })
        .map_err(|error: CommitError| OpenError::Commit(error.to_string()))?;
    Ok(record)
}

fn random_id() -> Result<ClusterId, OpenError> {
    let mut bytes = [0_u8; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(OpenError::Random)?;
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    ClusterId::new(text).map_err(|e| OpenError::Commit(e.to_string()))
}
