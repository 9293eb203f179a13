//! The daemon's side: starts or adopts the process, publishes snapshots, keeps it alive.
//!
//! Owns: when the process is started, replaced and killed. Does not own: what is in a snapshot.
//!
//! All waiting on the process is done in blocking threads, one operation at a time; a watching task notices its death
//! by the end of its control connection, and a hang by its silence.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::control::{Client, ControlError, MAX_MESSAGE_BYTES, Request, Status, to_line};
use super::error::DataPlaneError;
use super::files::{Files, Identity};
use super::process::SUBCOMMAND;
use super::sockets::Sockets;
use crate::dns::DnsSnapshot;

/// How long the process may take to answer, loading a snapshot included.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a started process may take to serve, an unwilling predecessor included.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(15);
/// How long the process may take to end when stopped, before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(8);
/// How long a killed process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(2);
/// How often a state of the process is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(5);
/// How often the process is asked for a sign of life.
const PING: Duration = Duration::from_secs(2);
/// How long it may owe that sign before it is killed; its sockets keep the queries meanwhile.
const HANG: Duration = Duration::from_secs(3);
/// How long to wait before a failed restart is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes of the log's end that an error shows.
const LOG_TAIL_BYTES: usize = 400;

/// What the daemon decides about the process.
#[derive(Debug, Clone)]
pub struct DataPlaneConfig {
    /// The product binary.
    pub exe: PathBuf,
    /// Directory for the process's files; nobody else uses it.
    pub runtime_dir: PathBuf,
    /// Address that DNS is served on. It need not exist yet.
    pub listen: SocketAddr,
    /// The host's resolver file.
    pub resolv_conf: PathBuf,
    /// The directory of a cgroup v2 that the process goes to; `None` leaves it in its daemon's.
    pub cgroup: Option<PathBuf>,
}

impl DataPlaneConfig {
    /// A configuration for DNS on port 53 of `listen` that forwards to the host's resolvers.
    pub fn new(
        exe: impl Into<PathBuf>,
        runtime_dir: impl Into<PathBuf>,
        listen: std::net::IpAddr,
    ) -> DataPlaneConfig {
        DataPlaneConfig {
            exe: exe.into(),
            runtime_dir: runtime_dir.into(),
            listen: SocketAddr::new(listen, 53),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cgroup: None,
        }
    }
}

/// What publishing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The process already answers from an equal snapshot.
    Unchanged,
    /// It answers from this one, of this generation, since before the call returned.
    Acknowledged(u64),
}

/// A data-plane process that is kept alive; it outlives this value and the daemon.
#[derive(Debug)]
pub struct DataPlane {
    inner: Arc<Inner>,
    watching: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    config: DataPlaneConfig,
    files: Files,
    client: Client,
    build: String,
    state: Mutex<State>,
    /// Apart from the state, so that finding a snapshot unchanged waits for nothing.
    published: Mutex<Option<Arc<DnsSnapshot>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Generation of the last snapshot stored.
    generation: u64,
    /// The process that `sockets` came from.
    pid: Option<i32>,
    /// Kept so that a successor of a dead process inherits the queries that wait.
    sockets: Option<Sockets>,
    /// Processes we started and must reap.
    children: Vec<Child>,
    /// No process is wanted any more.
    stopped: bool,
}

impl DataPlane {
    /// Adopts the running process if it is of this build and serves this address, else starts one, without a gap when
    /// another one runs. Must be called in a tokio runtime, which then watches the process.
    pub async fn ensure(config: DataPlaneConfig) -> Result<DataPlane, DataPlaneError> {
        let exe = config.exe.clone();
        let build = build_of(&exe).map_err(|source| DataPlaneError::Spawn { exe, source })?;
        let files = Files::new(&config.runtime_dir);
        let inner = Arc::new(Inner {
            client: Client::new(files.control(), ANSWER_DEADLINE),
            state: Mutex::default(),
            published: Mutex::default(),
            files,
            build,
            config,
        });
        inner.blocking(Inner::adopt).await?;
        let watching = tokio::spawn(inner.clone().watch());
        Ok(DataPlane { inner, watching })
    }

    /// Makes the process answer from this snapshot; returns when it does. An equal snapshot costs a comparison.
    pub async fn publish(&self, snapshot: &DnsSnapshot) -> Result<Published, DataPlaneError> {
        if self.inner.published().as_deref() == Some(snapshot) {
            return Ok(Published::Unchanged);
        }
        let snapshot = Arc::new(snapshot.clone());
        self.inner.blocking(move |inner| inner.publish(&snapshot)).await
    }

    /// What the process says about itself.
    pub async fn status(&self) -> Result<Status, DataPlaneError> {
        self.inner.blocking(|inner| inner.client.status().map_err(DataPlaneError::Ask)).await
    }

    /// Ends the process and removes its files.
    pub async fn stop(self) -> Result<(), DataPlaneError> {
        self.watching.abort();
        self.inner.blocking(Inner::stop).await
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Inner {
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        operation: impl FnOnce(&Inner) -> Result<T, DataPlaneError> + Send + 'static,
    ) -> Result<T, DataPlaneError> {
        let inner = self.clone();
        spawn_blocking(move || operation(&inner)).await.map_err(|_| DataPlaneError::Interrupted)?
    }

    /// First contact: a process serves, and we know which snapshot it has.
    fn adopt(&self) -> Result<(), DataPlaneError> {
        self.files.create_dir().map_err(|source| self.file_error(self.files.dir(), source))?;
        let mut state = self.state();
        let status = self.bring_up(&mut state)?;
        state.generation = status.generation;
        // An unreadable file is replaced by the next publication; until then its generation is not counted on.
        if let Ok(Some(stored)) = self.files.read_snapshot() {
            state.generation = state.generation.max(stored.generation);
            if stored.generation == status.generation {
                *self.published() = Some(Arc::new(stored.snapshot));
            }
        }
        Ok(())
    }

    fn publish(&self, snapshot: &Arc<DnsSnapshot>) -> Result<Published, DataPlaneError> {
        let mut state = self.state();
        let generation = state.generation + 1;
        self.published().take();
        let stored = self.files.write_snapshot(generation, snapshot);
        stored.map_err(|source| self.file_error(&self.files.snapshot(), source))?;
        state.generation = generation;
        let mut loaded = self.client.load(generation);
        if let Err(ControlError::Connect { .. } | ControlError::Exchange { .. }) = loaded {
            // It has died; the one started now reads the file.
            self.bring_up(&mut state)?;
            loaded = self.client.load(generation);
        }
        loaded.map_err(|source| DataPlaneError::Publish { generation, source })?;
        *self.published() = Some(snapshot.clone());
        Ok(Published::Acknowledged(generation))
    }

    fn stop(&self) -> Result<(), DataPlaneError> {
        let mut state = self.state();
        state.stopped = true;
        let running = self.files.read_pid();
        // Whatever it answers, it is waited for, and killed if it does not end.
        let asked = self.client.retire();
        if let Some(identity) = running {
            let patience = if asked.is_ok() { STOP_DEADLINE } else { Duration::ZERO };
            self.wait_for_end(&mut state, identity, patience)?;
        }
        state.reap();
        state.sockets = None;
        self.files.remove().map_err(|source| self.file_error(self.files.dir(), source))
    }

    /// What the watching task does about a lost process.
    fn revive(&self) -> Result<(), DataPlaneError> {
        let mut state = self.state();
        if !state.stopped {
            self.bring_up(&mut state)?;
        }
        Ok(())
    }

    /// A process of our build serves our address, after this.
    fn bring_up(&self, state: &mut State) -> Result<Status, DataPlaneError> {
        state.reap();
        let status = match self.client.status() {
            Ok(status) if self.is_ours(&status) => status,
            Ok(status) => {
                tracing::info!(pid = status.pid, build = status.build, "replacing the data plane");
                self.learn_sockets(state, &status);
                self.start(state)?
            }
            Err(ControlError::Connect { .. }) => {
                // Without its files a process answers nobody and still holds the address.
                for identity in self.files.orphans() {
                    tracing::warn!(pid = identity.pid, "data plane without its files, killing it");
                    self.wait_for_end(state, identity, Duration::ZERO)?;
                }
                self.start(state)?
            }
            Err(error) => {
                if let Some(identity) = self.files.read_pid() {
                    tracing::warn!(pid = identity.pid, %error, "data plane hangs, killing it");
                    self.wait_for_end(state, identity, Duration::ZERO)?;
                }
                self.start(state)?
            }
        };
        self.learn_sockets(state, &status);
        Ok(status)
    }

    fn is_ours(&self, status: &Status) -> bool {
        status.build == self.build && status.listen == self.config.listen.to_string()
    }

    /// Holds the sockets of a running process, for its successor.
    fn learn_sockets(&self, state: &mut State, status: &Status) {
        if state.pid == Some(status.pid) {
            return;
        }
        match self.client.sockets().map(|sockets| (sockets.address(), sockets)) {
            Ok((Ok(address), sockets)) if address == self.config.listen => {
                state.sockets = Some(sockets);
                state.pid = Some(status.pid);
            }
            // It serves another address: its successor binds ours.
            Ok(_) => state.sockets = None,
            Err(error) => tracing::warn!(%error, "data plane does not share its sockets"),
        }
    }

    fn start(&self, state: &mut State) -> Result<Status, DataPlaneError> {
        let started = Instant::now();
        let pid = self.spawn(state)?;
        let mut last = None;
        while started.elapsed() < START_DEADLINE {
            if let Some(status) = state.exit_of(pid) {
                return Err(DataPlaneError::Exited { status, log: self.log_tail() });
            }
            match self.client.status() {
                Ok(status) if u32::try_from(status.pid) == Ok(pid) => {
                    tracing::info!(pid, ms = started.elapsed().as_millis() as u64, "data plane serves");
                    return Ok(status);
                }
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
            thread::sleep(POLL);
        }
        Err(DataPlaneError::NotServing(last))
    }

    fn spawn(&self, state: &mut State) -> Result<u32, DataPlaneError> {
        let log = self.files.open_log().map_err(|source| self.file_error(&self.files.log(), source))?;
        let spawn_error = |source| DataPlaneError::Spawn { exe: self.config.exe.clone(), source };
        let mut command = Command::new(&self.config.exe);
        command.arg(SUBCOMMAND).arg("--runtime-dir").arg(self.files.dir());
        command.args(["--listen", &self.config.listen.to_string(), "--build", &self.build]);
        command.arg("--resolv-conf").arg(&self.config.resolv_conf);
        if let Some(cgroup) = &self.config.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        // The environment of a daemon may hold secrets; the process needs none of it.
        command.env_clear().envs(carrack_api::fail::environment()).stderr(log);
        match &state.sockets {
            Some(sockets) => {
                let sockets = sockets.try_clone().map_err(spawn_error)?;
                command.arg("--inherit-sockets").stdin(sockets.udp).stdout(sockets.tcp);
            }
            None => {
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
        }
        Ok(state.keep(command.spawn().map_err(spawn_error)?))
    }

    /// Waits until the process is gone, with a kill after `patience`.
    fn wait_for_end(
        &self,
        state: &mut State,
        identity: Identity,
        patience: Duration,
    ) -> Result<(), DataPlaneError> {
        let start = Instant::now();
        let mut killed = false;
        loop {
            state.reap();
            if !identity.is_alive() {
                return Ok(());
            }
            let elapsed = start.elapsed();
            if elapsed >= patience + KILL_DEADLINE {
                return Err(DataPlaneError::Unkillable { pid: identity.pid });
            }
            if elapsed >= patience && !killed {
                identity.kill();
                killed = true;
            }
            thread::sleep(POLL);
        }
    }

    /// Restarts the process whenever it ends or hangs.
    async fn watch(self: Arc<Self>) {
        let mut retry = RETRY.0;
        loop {
            let reason = self.accompany().await;
            tracing::warn!(%reason, "data plane is gone, starting it again");
            while let Err(error) = self.blocking(Inner::revive).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "cannot restart the data plane");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY.1);
            }
            retry = RETRY.0;
        }
    }

    /// Returns when the process gives no sign of life any more.
    async fn accompany(&self) -> io::Error {
        let mut stream = match UnixStream::connect(self.client.path()).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let mut unasked = [0; 1];
        loop {
            match timeout(PING, stream.read(&mut unasked)).await {
                Ok(Ok(_)) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(Err(error)) => return error,
                Err(_) => {}
            }
            match timeout(HANG, ping(&mut stream)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(elapsed) => return elapsed.into(),
            }
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.files.log()).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        String::from_utf8_lossy(tail).trim_end().to_owned()
    }

    fn file_error(&self, path: &Path, source: io::Error) -> DataPlaneError {
        DataPlaneError::File { path: path.to_owned(), source }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self) -> MutexGuard<'_, Option<Arc<DnsSnapshot>>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps a child to be reaped.
    fn keep(&mut self, child: Child) -> u32 {
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// Takes note of children that ended.
    fn reap(&mut self) {
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// How a child ended, if it did.
    fn exit_of(&mut self, pid: u32) -> Option<ExitStatus> {
        self.children.iter_mut().find(|child| child.id() == pid)?.try_wait().ok().flatten()
    }
}

async fn ping(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(to_line(&Request::Status).as_bytes()).await?;
    let mut line = String::new();
    let read = BufReader::new(stream).take(MAX_MESSAGE_BYTES).read_line(&mut line).await?;
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Names a build: the version, and which file it is, so that an upgraded binary replaces the running process.
fn build_of(exe: &Path) -> io::Result<String> {
    let meta = fs::metadata(exe)?;
    let (inode, size, changed, nanos) = (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    Ok(format!("{}+{inode:x}.{size:x}.{changed:x}.{nanos:x}", env!("CARGO_PKG_VERSION")))
}
