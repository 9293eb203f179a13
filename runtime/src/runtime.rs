//! The handle that the node holds: start, find again, signal, kill and remove runs.
//!
//! All functions block; the node calls them on blocking threads. Owns the layout on disk (`layout`), the read-only image of
//! our own binary and the template mount namespace. Does not decide when anything is started or stopped.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use carrack_api::Exit;

use crate::error::{ExecError, RuntimeError, StartError};
use crate::request::{ExecRequest, RunId, RunRecord, StartRequest, Started};
use crate::volume::VolumeStore;

/// Where a runtime keeps its things and what it calls itself.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Survives a reboot: logs, writable layers, volumes.
    pub state_dir: PathBuf,
    /// On tmpfs: bundles, records, sockets.
    pub runtime_dir: PathBuf,
    /// Tells installations on one host apart; the cgroups are below `/carrack-<instance>`.
    pub instance: String,
    /// The binary whose `main` calls [`crate::reexec::dispatch`]; `None` means the running one.
    pub exe: Option<PathBuf>,
}

/// The containers of one node.
#[derive(Debug)]
pub struct Runtime {
    config: RuntimeConfig,
    volumes: VolumeStore,
}

impl Runtime {
    /// Checks the host, makes the directories and prepares what all starts share.
    pub fn open(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let volumes = VolumeStore::open(config.state_dir.join("volumes"))?;
        Ok(Self { config, volumes })
    }

    /// The named volumes.
    pub fn volumes(&self) -> &VolumeStore {
        &self.volumes
    }

    /// Starts a run and returns when its program runs. On failure nothing of the run is left.
    pub fn start(&self, request: &StartRequest) -> Result<Started, StartError> {
        Err(StartError::Spec { field: request.id.to_string(), why: "not yet".into() })
    }

    /// All runs that have a directory, oldest first. A run without a live supervisor and without an exit record is killed
    /// here and recorded as failed for that reason.
    pub fn list(&self) -> Result<Vec<RunRecord>, RuntimeError> {
        Err(RuntimeError::Host(self.config.instance.clone()))
    }

    /// One run; `None` when there is no trace of it.
    pub fn inspect(&self, id: &RunId) -> Result<Option<RunRecord>, RuntimeError> {
        Err(RuntimeError::NoRun(id.clone()))
    }

    /// A pidfd that becomes readable when the run has ended and its record is written (or its supervisor is lost: ask
    /// [`Runtime::exit`] then). `NotRunning` when that is so already.
    pub fn wait_fd(&self, id: &RunId) -> Result<OwnedFd, RuntimeError> {
        Err(RuntimeError::NoRun(id.clone()))
    }

    /// How the run ended; `None` while it runs.
    pub fn exit(&self, id: &RunId) -> Result<Option<Exit>, RuntimeError> {
        Err(RuntimeError::NoRun(id.clone()))
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, id: &RunId, signal: i32) -> Result<(), RuntimeError> {
        let _ = signal;
        Err(RuntimeError::NoRun(id.clone()))
    }

    /// Kills all processes of the run and returns when its cgroup is empty and its exit is recorded. Idempotent.
    pub fn kill(&self, id: &RunId) -> Result<(), RuntimeError> {
        Err(RuntimeError::NoRun(id.clone()))
    }

    /// Removes what a run left: cgroup, writable layer, directories. Kills what still runs. Idempotent.
    pub fn remove_run(&self, id: &RunId) -> Result<(), RuntimeError> {
        Err(RuntimeError::NoRun(id.clone()))
    }

    /// Removes all runs of a task and its anonymous volumes; its logs only when asked. Idempotent.
    pub fn remove_task(&self, task: &str, logs: bool) -> Result<(), RuntimeError> {
        let _ = logs;
        Err(RuntimeError::Name(task.into()))
    }

    /// Runs a command in a container.
    pub fn exec(&self, id: &RunId, request: &ExecRequest) -> Result<ExecSession, ExecError> {
        let _ = request;
        Err(ExecError::NotRunning(id.to_string()))
    }

    /// The write end of the container's stdin or its terminal (read its output from the log).
    pub fn attach_stdin(&self, id: &RunId) -> Result<OwnedFd, RuntimeError> {
        Err(RuntimeError::NoStdin(id.clone()))
    }

    /// Sets the size of the container's terminal.
    pub fn resize(&self, id: &RunId, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        let _ = (columns, rows);
        Err(RuntimeError::NoStdin(id.clone()))
    }

    /// A reader of the run's cgroup on kept descriptors.
    pub fn sampler(&self, id: &RunId) -> Result<CgroupSampler, RuntimeError> {
        Err(RuntimeError::NoRun(id.clone()))
    }

    /// The task's log, of all its runs, also of dead ones.
    pub fn logs(&self, task: &str, query: LogQuery) -> Result<LogReader, RuntimeError> {
        let _ = query;
        Err(RuntimeError::Name(task.into()))
    }
}

pub use stubs::*;

#[allow(missing_docs)]
mod stubs {
    use super::*;
    use carrack_api::Usage;
    use std::os::fd::BorrowedFd;

    /// A command that runs in a container. Dropping it kills the command.
    #[derive(Debug)]
    pub struct ExecSession {
        /// Write end of its stdin (a pipe); `None` with a terminal or when stdin was not asked for.
        pub stdin: Option<OwnedFd>,
        /// Read end of its stdout; `None` with a terminal.
        pub stdout: Option<OwnedFd>,
        /// Read end of its stderr; `None` with a terminal.
        pub stderr: Option<OwnedFd>,
        /// Master of its terminal, for reading and writing.
        pub pty: Option<OwnedFd>,
    }

    impl ExecSession {
        /// Process id of the command as the host sees it.
        pub fn pid(&self) -> u32 {
            0
        }
        /// Readable when the command has ended (for `AsyncFd`).
        pub fn exit_fd(&self) -> BorrowedFd<'_> {
            unimplemented!()
        }
        /// The exit code (128 + signal) when it has ended; does not block.
        pub fn try_exit(&mut self) -> Option<i32> {
            None
        }
        /// Blocks until it ends.
        pub fn wait(&mut self) -> Result<i32, RuntimeError> {
            unimplemented!()
        }
        /// Sets the size of its terminal.
        pub fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError> {
            let _ = (columns, rows);
            unimplemented!()
        }
        /// Sends it a signal.
        pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
            let _ = signal;
            unimplemented!()
        }
        /// Kills it with all processes of its session.
        pub fn kill(&self) -> Result<(), RuntimeError> {
            unimplemented!()
        }
    }

    /// A reader of one run's cgroup.
    #[derive(Debug)]
    pub struct CgroupSampler {}
    impl CgroupSampler {
        /// One sample; about a microsecond.
        pub fn sample(&mut self) -> Result<Usage, RuntimeError> {
            unimplemented!()
        }
    }

    /// What part of a log is wanted.
    #[derive(Debug, Clone, Default)]
    pub struct LogQuery {
        /// Only the last lines; `None` means all.
        pub tail: Option<usize>,
        /// Nothing older (nanoseconds since the epoch).
        pub since_ns: Option<u64>,
        /// One stream; `None` means both.
        pub stream: Option<LogStream>,
        /// Only this run.
        pub run: Option<u32>,
        /// [`LogReader`] does not end at the end of what is written.
        pub follow: bool,
    }

    /// Where a line came from.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum LogStream {
        Stdout,
        Stderr,
        /// Notes of the supervisor, for example of dropped output.
        Supervisor,
    }

    /// One line without its end.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct LogLine {
        pub run: u32,
        pub stream: LogStream,
        /// Nanoseconds since the epoch.
        pub time_ns: u64,
        pub text: Vec<u8>,
    }

    /// Reads a log. Never blocks: `next_lines` returns what is there; with `follow`, wait for `as_fd` to become readable.
    #[derive(Debug)]
    pub struct LogReader {}
    impl LogReader {
        /// Up to `max` further lines; empty means: nothing more now (with `follow`) or ever (without).
        pub fn next_lines(&mut self, max: usize) -> Result<Vec<LogLine>, RuntimeError> {
            let _ = max;
            unimplemented!()
        }
        /// An inotify descriptor that becomes readable when there may be more lines; `next_lines` clears it.
        pub fn fd(&self) -> BorrowedFd<'_> {
            unimplemented!()
        }
        /// Blocks until there may be more lines or the time is over; false on time-out.
        pub fn wait(&self, timeout: std::time::Duration) -> Result<bool, RuntimeError> {
            let _ = timeout;
            unimplemented!()
        }
    }
}
