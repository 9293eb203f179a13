//! The wiring: one scheduler, one node, one socket, until a signal.
//!
//! The node and the API are tasks whose ends, panics included, end the daemon with an error: a daemon that lost a part of
//! itself must not look alive.

use std::sync::Arc;
use std::time::Duration;

use carrack_api::{NodeId, NodeRequest, Problem};
use carrack_node::{Node, NodeConfig, Shutdown};
use carrack_runtime::image::RegistryConfig;
use carrack_scheduler::{NodeGateway, Scheduler, SchedulerConfig};
use futures_util::future::BoxFuture;
use tokio::io::DuplexStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::herald::{self, Herald};
use super::notify::Notifier;
use super::{Places, config, socket};
use crate::args::DaemonArgs;
use crate::error::CliError;

/// Bytes between the scheduler and the node that wait to be read, of one request.
const GATEWAY_BUFFER_BYTES: usize = 256 << 10;
/// Time for calls into the kernel that are under way when the daemon ends.
pub(super) const LAST_CALLS: Duration = Duration::from_secs(5);

/// Runs the daemon until a signal ends it.
pub(super) async fn run(args: &DaemonArgs, places: &Places) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let registries = config::registries(places.config.as_deref())?;
    let herald = Herald::start(notifier());
    let scheduler = open_scheduler(args, places).await?;
    let node = open_node(args, places, registries, &scheduler).await?;
    scheduler.set_gateway(Arc::new(LocalGateway { node: node.clone() }));
    let listener = socket::listen(&places.socket)?;
    let session = scheduler.attach_node(node.info());
    let (stop_node, node_stops) = oneshot::channel();
    let (stop_api, api_stops) = watch::channel(false);
    let mut node_task = {
        let node = node.clone();
        let reports = session.reports;
        tokio::spawn(async move {
            let shutdown = async { node_stops.await.unwrap_or(Shutdown::KeepContainers) };
            node.run(session.assignments, move |report| reports.report(report), shutdown).await
        })
    };
    let mut api_task = {
        let scheduler = scheduler.clone();
        tokio::spawn(async move { scheduler.serve(listener, stopped(api_stops)).await })
    };
    let info = node.info();
    tracing::info!(pid = std::process::id(), node = %info.id, host = %info.hostname, socket = %places.socket.display(), "ready");
    let counted = scheduler.clone();
    herald.up(herald::by_api(&places.socket, info.id, move || counted.services()));
    let ended = tokio::select! {
        how = signals.next(args.stop_containers) => {
            let how = with_the_host(how).await;
            let containers = if how == Shutdown::KeepContainers { "run on" } else { "are stopped" };
            tracing::info!(%containers, "stopping");
            herald.stopping(&format!("stopping, the containers {containers}"));
            // The receiver is gone only when the node has ended by itself, which is told below.
            let _ = stop_node.send(how);
            tokio::select! {
                ended = &mut node_task => node_ended(ended, true),
                () = signals.again() => {
                    tracing::warn!("stopping at once; containers that still run go on");
                    Ok(())
                }
            }
        }
        ended = &mut node_task => node_ended(ended, false),
        ended = &mut api_task => {
            let _ = stop_node.send(Shutdown::KeepContainers);
            let told = api_ended(ended);
            socket::remove(&places.socket);
            return told;
        }
    };
    // Nobody listens any more only when the API has ended by itself.
    let _ = stop_api.send(true);
    socket::remove(&places.socket);
    if tokio::time::timeout(LAST_CALLS, api_task).await.is_err() {
        tracing::debug!("requests that were open are cut");
    }
    scheduler.close().await;
    ended
}

/// Who wants to know how the daemon fares.
fn notifier() -> Option<Notifier> {
    Notifier::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "NOTIFY_SOCKET cannot be used: whoever manages this daemon hears nothing of it");
        None
    })
}

/// A host that goes down takes its containers along: they are stopped in order, and what is wanted stays as it is, so that the next
/// start brings them back. A daemon that is stopped alone leaves them running.
async fn with_the_host(how: Shutdown) -> Shutdown {
    if how == Shutdown::StopContainers {
        return how;
    }
    match tokio::task::spawn_blocking(carrack_runtime::cgroup::host_is_stopping).await {
        Ok(Ok(true)) => {
            tracing::info!("the host is going down");
            Shutdown::StopContainers
        }
        Ok(Ok(false)) => how,
        Ok(Err(error)) => {
            tracing::warn!(
                error = carrack_runtime::error::chain(&error),
                "it cannot be told whether the host is going down"
            );
            how
        }
        Err(error) => {
            tracing::error!(%error, "asking whether the host is going down ended by a bug");
            how
        }
    }
}

async fn open_scheduler(args: &DaemonArgs, places: &Places) -> Result<Scheduler, CliError> {
    let wanted = args.cluster_cidr.clone();
    let cluster_cidr =
        blocking(move || carrack_node::choose_cluster_cidr(wanted.as_deref())).await?.map_err(|error| {
            CliError::new("there is no address range for the cluster")
                .caused_by(&error)
                .hint("name one with --cluster-cidr that no route of this host overlaps, at least a /13")
        })?;
    let config = SchedulerConfig {
        state_dir: places.state_dir.clone(),
        cluster_cidr,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    Scheduler::open(config).map_err(|error| CliError::new("the scheduler cannot be opened").caused_by(&error))
}

async fn open_node(
    args: &DaemonArgs,
    places: &Places,
    registries: RegistryConfig,
    scheduler: &Scheduler,
) -> Result<Node, CliError> {
    let exe = std::env::current_exe()
        .map_err(|error| CliError::new("this program cannot find itself").caused_by(&error))?;
    let config = NodeConfig {
        state_dir: places.state_dir.clone(),
        runtime_dir: places.runtime_dir.clone(),
        exe,
        hostname: args.hostname.clone(),
        labels: args.labels.iter().cloned().collect(),
        cluster: Some(scheduler.cluster()),
        upstreams: args.name_servers.clone(),
        registries,
    };
    blocking(move || Node::open(config)).await?.map_err(|error| {
        let hint = error.hint().unwrap_or_else(|| "`carrack doctor` tells what this host lacks".into());
        CliError::new("the node cannot be opened").caused_by(&error).hint(hint)
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| CliError::new("the daemon could not start").caused_by(&error))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

type Joined<T> = Result<T, tokio::task::JoinError>;

fn node_ended(ended: Joined<Result<(), carrack_node::NodeError>>, asked: bool) -> Result<(), CliError> {
    match ended {
        Ok(Ok(())) if asked => Ok(()),
        Ok(Ok(())) => Err(CliError::new("the node ended although nobody asked it to")),
        Ok(Err(error)) => Err(CliError::new("the node had to stop").caused_by(&error)),
        Err(panic) => Err(CliError::new("the node ended by a bug").caused_by(&panic)),
    }
}

fn api_ended(ended: Joined<std::io::Result<()>>) -> Result<(), CliError> {
    match ended {
        Ok(Ok(())) => Err(CliError::new("the API ended although nobody asked it to")),
        Ok(Err(error)) => Err(CliError::new("the API had to stop").caused_by(&error)),
        Err(panic) => Err(CliError::new("the API ended by a bug").caused_by(&panic)),
    }
}

/// The node of this process, for the scheduler's requests.
struct LocalGateway {
    node: Node,
}

impl NodeGateway for LocalGateway {
    fn open(&self, node: &NodeId, request: NodeRequest) -> BoxFuture<'static, Result<DuplexStream, Problem>> {
        let known = *node == self.node.info().id;
        let (ours, wanted) = (self.node.clone(), node.clone());
        Box::pin(async move {
            if !known {
                return Err(Problem::not_found("no-node", format!("no node {wanted}")));
            }
            let (near, far) = tokio::io::duplex(GATEWAY_BUFFER_BYTES);
            let served: JoinHandle<()> = tokio::spawn(async move { ours.serve(request, far).await });
            // The asker sees the stream end; the reason belongs in the log.
            tokio::spawn(async move {
                if let Err(error) = served.await {
                    tracing::error!(%error, "a request to the node ended by a bug");
                }
            });
            Ok(near)
        })
    }
}

/// The signals that mean something to a daemon.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    containers: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::new("signals cannot be received").caused_by(&error))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            containers: listen(SignalKind::user_defined1())?,
        })
    }

    /// How the daemon is to stop.
    async fn next(&mut self, stop_containers: bool) -> Shutdown {
        let usual = if stop_containers { Shutdown::StopContainers } else { Shutdown::KeepContainers };
        tokio::select! {
            _ = self.terminate.recv() => usual,
            _ = self.interrupt.recv() => usual,
            _ = self.hangup.recv() => usual,
            _ = self.containers.recv() => Shutdown::StopContainers,
        }
    }

    /// Asked a second time.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
