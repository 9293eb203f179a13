//! `carrack daemon`: scheduler, node and network of this host in one process.
//!
//! ```text
//!   main ── lock(state, runtime) ── log ── socket ── tokio runtime
//!                                                       │
//!     Scheduler::open ── attach_node ──> LocalSession   │  run.rs
//!         │  serve(socket)                  │           │
//!         └─ NodeGateway ─────────> Node::run, Node::serve
//! ```
//!
//! Owns the wiring, the process (lock, socket, signals, log, background, what systemd is told) and nothing of what the parts do.
//! Containers belong to their supervisors: the end of this process, however it comes, stops none of them.

pub(crate) mod background;
mod config;
mod herald;
pub(crate) mod lock;
mod log;
mod notify;
mod run;
mod socket;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use carrack_api::defaults;
use rustix::process::{DumpableBehavior, Resource};

use crate::args::{DaemonArgs, Global};
use crate::error::{CliError, Code, Outcome};

/// The daemon's log within its state directory, when it runs in the background.
const LOG_NAME: &str = "daemon.log";

/// Runs, starts or stops a daemon, as the options say.
pub(crate) fn main(args: &DaemonArgs, global: &Global) -> Outcome {
    if args.stop {
        return background::stop(args, global);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::new("the daemon needs root: it makes namespaces, cgroups and nftables rules")
            .hint("sudo carrack daemon -d"));
    }
    carrack_runtime::reexec::keep_from_children()
        .map_err(|error| CliError::new("what is open cannot be kept from children").caused_by(&error))?;
    let places = Places::new(args, global)?;
    if args.detach {
        return background::start(args, &places, global.output);
    }
    foreground(args, &places)
}

/// Where a daemon keeps things; all paths absolute.
#[derive(Debug, Clone)]
struct Places {
    state_dir: PathBuf,
    runtime_dir: PathBuf,
    socket: PathBuf,
    /// The configuration that was asked for.
    config: Option<PathBuf>,
}

impl Places {
    fn new(args: &DaemonArgs, global: &Global) -> Result<Self, CliError> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| {
                CliError::new(format!("{} cannot be used", path.display())).caused_by(&error)
            })
        };
        let runtime_dir = absolute(&args.runtime_dir)?;
        let socket = match &global.socket {
            Some(socket) => absolute(socket)?,
            None => runtime_dir.join(defaults::SOCKET_NAME),
        };
        let config = args.config.as_deref().map(absolute).transpose()?;
        Ok(Self { state_dir: absolute(&args.state_dir)?, runtime_dir, socket, config })
    }

    fn log(&self) -> PathBuf {
        self.state_dir.join(LOG_NAME)
    }

    /// Makes the directories. The state is for root alone; the runtime directory must let others reach the socket.
    fn make(&self) -> Result<(), CliError> {
        let socket_dir = self.socket.parent().unwrap_or(Path::new("/"));
        for (path, mode) in
            [(self.state_dir.as_path(), 0o700), (&self.runtime_dir, 0o755), (socket_dir, 0o755)]
        {
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| {
                CliError::new(format!("directory {} cannot be made", path.display())).caused_by(&error)
            })?;
        }
        Ok(())
    }
}

fn foreground(args: &DaemonArgs, places: &Places) -> Outcome {
    carrack_api::fail::arm().map_err(|error| CliError::usage(error.to_string()))?;
    no_core_unless_asked();
    places.make()?;
    if args.background {
        background::leave_terminal()?;
    }
    let _state = lock::take(&places.state_dir)?;
    let _runtime = lock::take(&places.runtime_dir)?;
    log::start(args.background.then(|| places.log()), args.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("carrack")
        .build()
        .map_err(|error| CliError::new("the daemon cannot start its threads").caused_by(&error))?;
    let outcome = runtime.block_on(run::run(args, places));
    // What blocks is a call to the kernel for a container: it must not keep a stopping daemon for long.
    runtime.shutdown_timeout(run::LAST_CALLS);
    outcome.map(|()| Code::Ok).map_err(|error| {
        if !args.background {
            return error;
        }
        // Standard error is the log there: said once is enough.
        tracing::error!("{}", error.render(false).trim_end().trim_start_matches("error: "));
        error.said()
    })
}

/// A core of this process would hold secrets, and one that goes to a program (`core_pattern` with a pipe) heeds no limit. Who wants
/// one says so with `LimitCORE=` or `ulimit -c`.
fn no_core_unless_asked() {
    if rustix::process::getrlimit(Resource::Core).current == Some(0)
        && let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
    {
        crate::terminal::say(&format!("a crash may leave a core with secrets in it: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    #[test]
    fn what_the_caller_left_open_is_kept_from_children() {
        let file = std::fs::File::open("/dev/null").unwrap();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        carrack_runtime::reexec::keep_from_children().unwrap();
        assert!(fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC));
    }
}
