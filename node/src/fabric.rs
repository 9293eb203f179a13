//! The real [`Network`](crate::engine::Network): links and tables of [`carrack_net`], and its data-plane process with DNS.
//!
//! Owns the namespaces of tasks, by descriptor, so that they outlive a crashed container; and when the data plane is started.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carrack_api::{AddressPlan, PortConflict, Protocol, TaskId, fail};
use carrack_net::dataplane::{DataPlane, DataPlaneConfig};
use carrack_net::listen::listening_ports_of;
use carrack_net::model::DNS_ADDRESS;
use carrack_net::reserve::ReserveError;
use carrack_net::watch::Watch;
use carrack_net::{Config, EndpointKey, Ipv4Net, NetError, Netns, PortKey};
use carrack_runtime::error::chain;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::engine::{Network, Programmed, Refusal};
use crate::tables::NodeTables;

/// How long work that still uses the network may take to end before it is removed, and how often that is looked at.
const RELEASE_MAX: Duration = Duration::from_secs(10);
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// How long to wait before changes by others are watched again after that failed.
const WATCH_AGAIN: Duration = Duration::from_secs(30);

/// The network of this host. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Fabric {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    instance: String,
    data_plane: DataPlaneConfig,
    kernel: Mutex<Option<Arc<carrack_net::Network>>>,
    namespaces: Mutex<BTreeMap<TaskId, Netns>>,
    names: Arc<tokio::sync::Mutex<Option<DataPlane>>>,
    /// What the data plane was given last.
    published: Mutex<Option<Arc<NodeTables>>>,
    /// What others do to us, as it was said last.
    warned: Mutex<Vec<String>>,
    watch: tokio::sync::Mutex<Option<Watch>>,
}

impl Fabric {
    /// A network that is opened with the first address plan. `instance` tells installations on one host apart; `cgroup` is where the
    /// data plane goes when it must leave that of the daemon.
    pub(crate) fn new(instance: &str, exe: PathBuf, runtime_dir: PathBuf, cgroup: Option<PathBuf>) -> Self {
        let data_plane =
            DataPlaneConfig { cgroup, ..DataPlaneConfig::new(exe, runtime_dir, DNS_ADDRESS.into()) };
        let shared = Shared {
            instance: instance.to_owned(),
            data_plane,
            kernel: Mutex::default(),
            namespaces: Mutex::default(),
            names: Arc::default(),
            published: Mutex::default(),
            warned: Mutex::default(),
            watch: tokio::sync::Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The tables that the data plane answers from.
    pub(crate) fn published(&self) -> Option<Arc<NodeTables>> {
        lock(&self.shared.published).clone()
    }

    fn kernel(&self) -> Result<Arc<carrack_net::Network>, Refusal> {
        lock(&self.shared.kernel)
            .clone()
            .ok_or_else(|| Refusal::Retry("the network is not open yet".to_owned()))
    }

    /// Runs blocking work with the open network.
    async fn with_kernel<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Fabric, &carrack_net::Network) -> Result<T, NetError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (this, kernel) = (self.clone(), self.kernel()?);
        blocking(move || work(&this, &kernel)).await?.map_err(|error| refuse(&error))
    }

    fn open_kernel(&self, addresses: &AddressPlan) -> Result<(), Refusal> {
        let range = |text: &String| {
            text.parse::<Ipv4Net>()
                .map_err(|error| Refusal::Final(format!("address range {text:?}: {error}")))
        };
        let blocks = addresses.blocks.iter().map(range).collect::<Result<Vec<_>, _>>()?;
        at("network.1-open")?;
        let mut kernel = lock(&self.shared.kernel);
        match &*kernel {
            Some(kernel) => kernel.set_blocks(blocks).map(drop).map_err(|error| refuse(&error)),
            None => {
                let config = Config {
                    instance: self.shared.instance.clone(),
                    cluster: range(&addresses.cluster)?,
                    blocks,
                    mtu: None,
                };
                *kernel = Some(Arc::new(carrack_net::Network::open(config).map_err(|error| refuse(&error))?));
                Ok(())
            }
        }
    }

    /// The namespace for a task: that of its process, else the one held, else a new one.
    fn namespace(&self, task: TaskId, pid: Option<u32>) -> Result<Netns, NetError> {
        let failed = |source| NetError::Netns { what: format!("task {task}"), source };
        if let Some(pid) = pid {
            return Netns::of_pid(i32::try_from(pid).unwrap_or(i32::MAX)).map_err(failed);
        }
        match lock(&self.shared.namespaces).get(&task) {
            Some(held) => Ok(held.clone()),
            None => {
                pass_in_kernel("create.2-namespace")?;
                Netns::create().map_err(failed)
            }
        }
    }

    async fn wait_for_change(&self, watch: &mut Option<Watch>) -> Result<(), Refusal> {
        let watch = match watch {
            Some(watch) => watch,
            none => none.insert(self.kernel()?.watch().map_err(|error| refuse(&error))?),
        };
        watch.changed().await.map(drop).map_err(|error| refuse(&error))
    }

    /// Publishes in a task of its own that holds the lock from before it begins: broken off in the middle, it would leave a
    /// process that `remove_all` knows nothing of.
    async fn publish_names(&self, tables: Arc<NodeTables>) -> Result<(), Refusal> {
        let mut names = self.shared.names.clone().lock_owned().await;
        let config = self.shared.data_plane.clone();
        let publishing = tokio::spawn(async move {
            let data_plane = match &mut *names {
                Some(running) => running,
                none => none.insert(DataPlane::ensure(config).await?),
            };
            data_plane.publish(&tables.names).await
        });
        let published =
            publishing.await.map_err(|error| Refusal::Retry(format!("names were not published: {error}")))?;
        published.map(drop).map_err(|error| Refusal::Retry(chain(&error)))
    }
}

impl Network for Fabric {
    async fn open(&self, addresses: &AddressPlan) -> Result<(), Refusal> {
        let (this, addresses) = (self.clone(), addresses.clone());
        blocking(move || this.open_kernel(&addresses)).await?
    }

    fn node_address(&self) -> Option<Ipv4Addr> {
        self.kernel().ok().map(|kernel| kernel.node_address())
    }

    async fn wire(&self, task: TaskId, address: IpAddr, pid: Option<u32>) -> Result<PathBuf, Refusal> {
        let address = v4(address)?;
        self.with_kernel(move |this, kernel| {
            let netns = this.namespace(task, pid)?;
            kernel.ensure_endpoint(&key(task)?, address, &netns)?;
            fail::pass("create.7-wired");
            let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()));
            lock(&this.shared.namespaces).insert(task, netns);
            Ok(path)
        })
        .await
    }

    async fn unwire(&self, task: TaskId) -> Result<(), Refusal> {
        let unwired = match self.kernel() {
            Ok(_) => self.with_kernel(move |_, kernel| kernel.remove_endpoint(&key(task)?)).await,
            // Never opened: there is nothing.
            Err(_) => Ok(()),
        };
        if unwired.is_ok() {
            fail::pass("remove.8-unwired");
            lock(&self.shared.namespaces).remove(&task);
        }
        unwired
    }

    async fn settle(&self) {
        let Ok(kernel) = self.kernel() else { return };
        if let Err(error) = blocking(move || kernel.settle()).await {
            tracing::error!(%error, "the network could not be settled");
        }
    }

    async fn program(&self, tables: Arc<NodeTables>) -> Result<Programmed, Refusal> {
        let for_kernel = tables.clone();
        let programmed = self
            .with_kernel(move |_, kernel| {
                pass_in_kernel("network.4-reserve")?;
                // What another program holds is not taken from it.
                let failed = kernel.reserve_ports(&for_kernel.ports);
                let mut wanted = for_kernel.kernel.clone();
                wanted.ports.retain(|port, _| !failed.contains_key(port));
                pass_in_kernel("network.5-tables")?;
                let report = kernel.set_tables(&wanted)?;
                for warning in &report.warnings {
                    tracing::warn!(warning, "network");
                }
                let mut conflicts: Vec<PortConflict> = failed.iter().map(conflict).collect();
                conflicts.extend(for_kernel.refused.iter().cloned());
                let changes = report.steps.into_iter().map(|step| step.reason).collect();
                Ok(Programmed { conflicts, changes })
            })
            .await?;
        at("network.6-names")?;
        self.publish_names(tables.clone()).await?;
        fail::pass("network.7-published");
        *lock(&self.shared.published) = Some(tables);
        Ok(programmed)
    }

    async fn audit(&self) -> Result<Vec<String>, Refusal> {
        let report = self.with_kernel(|_, kernel| kernel.audit()).await?;
        let mut warned = lock(&self.shared.warned);
        if *warned != report.warnings {
            for warning in &report.warnings {
                tracing::warn!(warning, "network");
            }
            *warned = report.warnings;
        }
        Ok(report.steps.iter().map(ToString::to_string).collect())
    }

    async fn disturbed(&self) {
        let mut watch = self.shared.watch.lock().await;
        loop {
            match self.wait_for_change(&mut watch).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "changes by others are not noticed at once");
                    *watch = None;
                    tokio::time::sleep(WATCH_AGAIN).await;
                }
            }
        }
    }

    async fn open_connections(&self, address: IpAddr) -> Result<usize, Refusal> {
        let address = v4(address)?;
        self.with_kernel(move |_, kernel| Ok(kernel.open_flows(address)?.tcp)).await
    }

    async fn forget_flows(&self, address: IpAddr, streams: bool) -> Result<(), Refusal> {
        let address = v4(address)?;
        self.with_kernel(move |_, kernel| {
            kernel.delete_flows(address, carrack_net::Protocol::Udp)?;
            if streams {
                kernel.delete_flows(address, carrack_net::Protocol::Tcp)?;
            }
            Ok(())
        })
        .await
    }

    async fn listens(&self, pid: u32, port: u16) -> Result<bool, String> {
        let pid = i32::try_from(pid).unwrap_or(i32::MAX);
        let found = blocking(move || listening_ports_of(pid)).await.map_err(|error| error.to_string())?;
        found.map(|ports| ports.tcp.contains(&port)).map_err(|error| chain(&error))
    }

    async fn remove_all(&self) -> Result<(), Refusal> {
        if let Some(data_plane) = self.shared.names.lock().await.take() {
            data_plane.stop().await.map_err(|error| Refusal::Retry(chain(&error)))?;
        }
        let Some(mut kernel) = lock(&self.shared.kernel).take() else { return Ok(()) };
        lock(&self.shared.namespaces).clear();
        let deadline = Instant::now() + RELEASE_MAX;
        let alone = loop {
            match Arc::try_unwrap(kernel) {
                Ok(alone) => break alone,
                Err(_) if Instant::now() >= deadline => {
                    return Err(Refusal::Retry("the network is still in use".to_owned()));
                }
                Err(shared) => kernel = shared,
            }
            tokio::time::sleep(RELEASE_POLL).await;
        };
        blocking(move || alone.remove_all()).await?.map(drop).map_err(|error| refuse(&error))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    spawn_blocking(work).await.map_err(|error| Refusal::Retry(format!("network work ended early: {error}")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fail point as a step that may be tried again.
fn at(step: &'static str) -> Result<(), Refusal> {
    fail::point(step).map_err(|error| Refusal::Retry(error.to_string()))
}

/// A fail point as something that the kernel refuses.
fn pass_in_kernel(step: &'static str) -> Result<(), NetError> {
    fail::point(step).map_err(|source| NetError::Refused { action: format!("pass {step}"), source })
}

fn key(task: TaskId) -> Result<EndpointKey, NetError> {
    EndpointKey::new(task.to_string()).map_err(NetError::Config)
}

fn v4(address: IpAddr) -> Result<Ipv4Addr, Refusal> {
    match address {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(v6) => Err(Refusal::Final(format!("the IPv6 address {v6} cannot be given to a task yet"))),
    }
}

fn refuse(error: &NetError) -> Refusal {
    Refusal::Retry(chain(error))
}

fn conflict((port, error): (&PortKey, &ReserveError)) -> PortConflict {
    let holder = match error {
        ReserveError::Taken { holder, .. } => format!("{} (pid {})", holder.program, holder.pid),
        ReserveError::TakenByUnknown { .. } => "a program that cannot be seen from here".to_owned(),
        ReserveError::NotOurAddress { host_ip, .. } => {
            format!("no one: {host_ip} is not an address of this host")
        }
        ReserveError::Failed { source, .. } => format!("no one: {source}"),
    };
    PortConflict {
        host_ip: port.host_ip.map(IpAddr::V4),
        port: port.port,
        protocol: match port.protocol {
            carrack_net::Protocol::Tcp => Protocol::Tcp,
            carrack_net::Protocol::Udp => Protocol::Udp,
        },
        holder,
    }
}
