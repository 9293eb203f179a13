//! The process: what runs under the hidden subcommand.
//!
//! ```text
//!  sockets ─> stored snapshot ─> serving ─> predecessor retired, lock held ─> control socket, pid file
//!                                   │                                             │ Load
//!                                   └───────────── SIGTERM | Retire <─────────────┘
//!                                      finish what was read, end
//! ```
//!
//! Owns: the order of taking over and of ending. Does not own: the files' formats (`files`), DNS (`dns`).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{TcpListener, UdpSocket, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore, watch};

use super::control::{Client, ControlError, MAX_MESSAGE_BYTES, PROTOCOL, Request, Response, Status, to_line};
use super::files::{Files, Identity};
use super::log::FileLog;
use super::sockets::Sockets;
use crate::dns::{DnsServer, DnsSnapshot, Forwarder, ServerError, SnapshotError, UpstreamConfig, Zone};

/// Name of the hidden subcommand.
pub const SUBCOMMAND: &str = "dataplane";
/// How long queries that were read may take to be answered once the process is asked to end.
const RETIRE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a predecessor may take to let go of the lock before it is killed.
const TAKEOVER_DEADLINE: Duration = Duration::from_secs(8);
/// How long the lock may still be held after that.
const KILL_DEADLINE: Duration = Duration::from_secs(2);
/// How often the lock is tried.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// How long a predecessor may take to answer.
const CONTROL_DEADLINE: Duration = Duration::from_secs(1);
/// Most control connections at once.
const MAX_CONTROL_CONNECTIONS: usize = 32;
/// Threads for reading and indexing snapshots beside the serving one.
const BLOCKING_THREADS: usize = 2;

/// Why the process ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Wrong arguments.
    #[error("dataplane: {0}")]
    Usage(String),
    /// `--listen` is no address.
    #[error("dataplane: --listen {value} is not an address")]
    Listen {
        /// The argument.
        value: String,
        /// What is wrong with it.
        #[source]
        source: AddrParseError,
    },
    /// A file of the runtime directory.
    #[error("dataplane: cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The DNS address.
    #[error("dataplane: cannot serve dns on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The predecessor cannot be got rid of.
    #[error("dataplane: {} is held by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The runtime could not be set up.
    #[error("dataplane: cannot {what}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Serving failed.
    #[error("dataplane: serving ended")]
    Serve(#[from] ServerError),
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("cannot read the snapshot: {0}")]
    Read(io::Error),
    #[error("no snapshot is stored")]
    Missing,
    #[error("the stored snapshot has generation {found}, not {wanted}")]
    Old { found: u64, wanted: u64 },
    #[error(transparent)]
    Invalid(#[from] SnapshotError),
    #[error("loading was interrupted")]
    Interrupted,
}

#[derive(Debug)]
struct Options {
    files: Files,
    listen: SocketAddr,
    resolv_conf: PathBuf,
    build: String,
    inherit: bool,
    cgroup: Option<PathBuf>,
}

/// Runs the data plane until it is retired; `args` are those after the subcommand.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), ProcessError> {
    // What the daemon could follow, its children can.
    let _ = carrack_api::fail::arm();
    let options = Options::parse(args)?;
    // A session of its own: no signal meant for the daemon's terminal or process group arrives here. It fails for a
    // session leader, which already has what is wanted.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/").map_err(|source| ProcessError::Setup { what: "change to /", source })?;
    let files = &options.files;
    let file_error = |path: PathBuf| move |source| ProcessError::File { path, source };
    files.create_dir().map_err(file_error(files.dir().to_owned()))?;
    let log = FileLog::new(files.open_log().map_err(file_error(files.log()))?, files.log());
    // A caller that has set a subscriber of its own keeps it.
    let _ = tracing::subscriber::set_global_default(log);
    if let Some(Err(error)) = options.cgroup.as_deref().map(enter_cgroup) {
        // It serves all the same; the daemon's restart then finds it in its way.
        tracing::error!(%error, "the process stays in the cgroup of its daemon");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|source| ProcessError::Setup { what: "start the runtime", source })?;
    let result = runtime.block_on(Process::serve(options));
    if let Err(error) = &result {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(cause, "{error}");
    }
    runtime.shutdown_background();
    result
}

impl Options {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Options, ProcessError> {
        let (mut dir, mut listen, mut inherit) = (None, None, false);
        let (mut resolv_conf, mut build) = (PathBuf::from("/etc/resolv.conf"), String::new());
        let mut cgroup = None;
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let name = arg.to_string_lossy().into_owned();
            if name == "--inherit-sockets" {
                inherit = true;
                continue;
            }
            let value = args.next().ok_or_else(|| ProcessError::Usage(format!("{name} needs a value")))?;
            match name.as_str() {
                "--runtime-dir" => dir = Some(PathBuf::from(value)),
                "--listen" => listen = Some(parse_listen(&value.to_string_lossy())?),
                "--resolv-conf" => resolv_conf = PathBuf::from(value),
                "--cgroup" => cgroup = Some(PathBuf::from(value)),
                "--build" => build = value.to_string_lossy().into_owned(),
                _ => return Err(ProcessError::Usage(format!("unknown argument {name}"))),
            }
        }
        let dir = dir.ok_or_else(|| ProcessError::Usage("--runtime-dir is missing".to_owned()))?;
        let dir = std::path::absolute(&dir).map_err(|source| ProcessError::File { path: dir, source })?;
        let listen = listen.ok_or_else(|| ProcessError::Usage("--listen is missing".to_owned()))?;
        Ok(Options { files: Files::new(&dir), listen, resolv_conf, build, inherit, cgroup })
    }
}

/// Moves this process to a cgroup, making that where it is missing.
fn enter_cgroup(directory: &Path) -> io::Result<()> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::write(directory.join("cgroup.procs"), "0")
}

/// A fail point as a step of the setup.
fn at(step: &'static str) -> Result<(), ProcessError> {
    carrack_api::fail::point(step).map_err(|source| ProcessError::Setup { what: step, source })
}

/// An address with or without a port.
fn parse_listen(value: &str) -> Result<SocketAddr, ProcessError> {
    let with_port = value.parse::<SocketAddr>();
    match value.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, 53)),
        Err(_) => with_port.map_err(|source| ProcessError::Listen { value: value.to_owned(), source }),
    }
}

struct Process {
    files: Files,
    identity: Identity,
    listen: SocketAddr,
    build: String,
    sockets: Sockets,
    server: Arc<DnsServer>,
    generation: AtomicU64,
    loading: Mutex<()>,
    stop: watch::Sender<bool>,
}

impl Process {
    async fn serve(options: Options) -> Result<(), ProcessError> {
        let bind_error = |source| ProcessError::Bind { address: options.listen, source };
        let sockets = find_sockets(&options).map_err(bind_error)?;
        let udp =
            UdpSocket::from_std(sockets.udp.try_clone().map_err(bind_error)?.into()).map_err(bind_error)?;
        let tcp =
            TcpListener::from_std(sockets.tcp.try_clone().map_err(bind_error)?.into()).map_err(bind_error)?;
        let setup = |what| move |source| ProcessError::Setup { what, source };
        let mut terminate = signal(SignalKind::terminate()).map_err(setup("watch for SIGTERM"))?;
        let process = Arc::new(Process::new(options, sockets).map_err(setup("identify this process"))?);
        at("dataplane.1-serve")?;
        process.load_stored().await;
        let server = process.server.clone();
        let mut serving = tokio::spawn(server.serve(Arc::new(udp), tcp, process.stop.subscribe()));
        let lock = process.take_over().await?;
        at("dataplane.2-ready")?;
        let control = process.publish_control()?;
        // A predecessor may have acknowledged a snapshot that was stored since we read the file.
        process.load_stored().await;
        tracing::info!(pid = process.identity.pid, listen = %process.listen, build = process.build, "serving");
        let mut stopped = process.stop.subscribe();
        tokio::select! {
            result = &mut serving => return joined(result),
            () = process.clone().serve_control(&control) => {}
            _ = terminate.recv() => tracing::info!("asked to terminate"),
            _ = stopped.wait_for(|stop| *stop) => tracing::info!("asked to retire"),
        }
        drop(control);
        process.stop.send_replace(true);
        let ended = tokio::time::timeout(RETIRE_DEADLINE, serving).await;
        drop(lock);
        // Clients of queries that outlast the deadline ask again.
        ended.map_or(Ok(()), joined)
    }

    fn new(options: Options, sockets: Sockets) -> io::Result<Process> {
        // An empty snapshot is valid by construction.
        let zone = Zone::new(DnsSnapshot::default(), 0).map_err(io::Error::other)?;
        let upstream = UpstreamConfig { resolv_conf: options.resolv_conf, own: options.listen };
        let seed = getrandom::u64().map_err(io::Error::other)?;
        Ok(Process {
            files: options.files,
            identity: Identity::own()?,
            listen: options.listen,
            build: options.build,
            sockets,
            server: Arc::new(DnsServer::new(zone, Forwarder::new(upstream), seed)),
            generation: AtomicU64::new(0),
            loading: Mutex::new(()),
            stop: watch::Sender::new(false),
        })
    }

    /// Takes the stored snapshot, if there is a usable one; without it host and containers are strangers until the
    /// daemon publishes.
    async fn load_stored(&self) {
        match self.load(0).await {
            Ok(_) | Err(LoadError::Missing) => {}
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Answers from the stored snapshot from now on; it must be of generation `wanted` or newer.
    async fn load(&self, wanted: u64) -> Result<u64, LoadError> {
        let _one_at_a_time = self.loading.lock().await;
        carrack_api::fail::point("dataplane.3-load").map_err(LoadError::Read)?;
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || {
            let stored = files.read_snapshot().map_err(LoadError::Read)?.ok_or(LoadError::Missing)?;
            if stored.generation < wanted {
                return Err(LoadError::Old { found: stored.generation, wanted });
            }
            Ok((stored.generation, Zone::new(stored.snapshot, stored.generation)?))
        });
        let (generation, zone) = read.await.map_err(|_| LoadError::Interrupted)??;
        if generation > self.generation.load(Ordering::Relaxed) {
            self.server.replace_zone(zone);
            self.generation.store(generation, Ordering::Relaxed);
        }
        Ok(generation)
    }

    /// Retires the predecessor and takes its lock; one that does not let go is killed.
    async fn take_over(&self) -> Result<Flock<File>, ProcessError> {
        let path = self.files.lock();
        let mut predecessor = None;
        for deadline in [TAKEOVER_DEADLINE, KILL_DEADLINE] {
            let end = Instant::now() + deadline;
            while Instant::now() < end {
                if let Some(lock) = self.try_lock()? {
                    return Ok(lock);
                }
                let client = Client::new(self.files.control(), CONTROL_DEADLINE);
                let asked = tokio::task::spawn_blocking(move || client.retire()).await;
                if let Ok(Err(error @ (ControlError::Failed { .. } | ControlError::Unexpected { .. }))) =
                    asked
                {
                    tracing::warn!("predecessor: {error}");
                }
                predecessor = self.files.read_pid().or(predecessor);
                tokio::time::sleep(LOCK_RETRY).await;
            }
            if let Some(predecessor) = predecessor.take() {
                tracing::warn!(pid = predecessor.pid, "predecessor does not end, killing it");
                predecessor.kill();
            }
        }
        Err(ProcessError::Locked { path })
    }

    /// The lock, if nobody holds it. The file must still be the one under its name: `stop` removes it.
    fn try_lock(&self) -> Result<Option<Flock<File>>, ProcessError> {
        let error = |source| ProcessError::File { path: self.files.lock(), source };
        let file = self.files.open_lock().map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(error(errno.into())),
        }
    }

    fn publish_control(&self) -> Result<UnixListener, ProcessError> {
        let path = self.files.control();
        let error = |path: PathBuf| move |source| ProcessError::File { path, source };
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(path)(source)),
            Ok(()) | Err(_) => {}
        }
        self.files.write_pid(self.identity).map_err(error(self.files.pid()))?;
        UnixListener::bind(&path).map_err(error(path))
    }

    async fn serve_control(self: Arc<Self>, listener: &UnixListener) {
        let connections = Arc::new(Semaphore::new(MAX_CONTROL_CONNECTIONS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(LOCK_RETRY).await;
                    continue;
                }
            };
            let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
            let process = self.clone();
            tokio::spawn(async move {
                if let Err(error) = process.converse(stream).await {
                    tracing::warn!(%error, "control connection ended");
                }
                drop(permit);
            });
        }
    }

    async fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        loop {
            let mut line = String::new();
            let read = BufReader::new(&mut stream).take(MAX_MESSAGE_BYTES).read_line(&mut line).await?;
            if read == 0 {
                return Ok(());
            }
            let response = match serde_json::from_str(&line) {
                Ok(Request::Sockets) => {
                    stream.async_io(Interest::WRITABLE, || self.sockets.send(stream.as_raw_fd())).await?;
                    continue;
                }
                Ok(Request::Status) => Response::Status(Box::new(self.status())),
                Ok(Request::Load(generation)) => match self.load(generation).await {
                    Ok(loaded) => Response::Loaded(loaded),
                    Err(error) => Response::Failed(error.to_string()),
                },
                Ok(Request::Retire) => Response::Retiring,
                Err(error) => Response::Failed(format!("request not understood: {error}")),
            };
            stream.write_all(to_line(&response).as_bytes()).await?;
            if response == Response::Retiring {
                self.stop.send_replace(true);
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            protocol: PROTOCOL,
            build: self.build.clone(),
            pid: self.identity.pid,
            start_time: self.identity.start_time,
            listen: self.listen.to_string(),
            generation: self.generation.load(Ordering::Relaxed),
            stats: self.server.stats(),
        }
    }
}

/// Inherited sockets, else those of a running predecessor, else new ones.
fn find_sockets(options: &Options) -> io::Result<Sockets> {
    if options.inherit {
        return Sockets::inherited();
    }
    match Client::new(options.files.control(), CONTROL_DEADLINE).sockets() {
        Ok(sockets) if sockets.address()? == options.listen => Ok(sockets),
        Ok(_) | Err(_) => Sockets::bind(options.listen),
    }
}

fn joined(result: Result<Result<(), ServerError>, tokio::task::JoinError>) -> Result<(), ProcessError> {
    match result {
        Ok(served) => Ok(served?),
        Err(error) => {
            Err(ProcessError::Setup { what: "keep the serving task", source: io::Error::other(error) })
        }
    }
}
