//! The files of a run and of a task on disk, and how they are written. See `docs/supervisor.md`.
//!
//! ```text
//! RUNTIME_DIR/tasks/TASK/RUN/   request.json supervisor.json exit.json bundle/ oci/ etc/   (tmpfs)
//! STATE_DIR/tasks/TASK/         log/ volumes/ RUN/{upper,work}
//! STATE_DIR/volumes/NAME/
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use carrack_api::Exit;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::RuntimeError;
use crate::process::ProcessId;
use crate::request::RunId;

/// Version of the formats below and of the log's frames; a later daemon reads this one and its own.
pub const FORMAT_VERSION: u32 = 1;
/// Largest of our JSON files, in bytes.
const RECORD_MAX_BYTES: u64 = 16 << 20;

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// `--state-dir`.
    pub state_dir: PathBuf,
    /// The runtime directory, on tmpfs.
    pub runtime_dir: PathBuf,
}

impl Layout {
    /// Directories of all tasks on tmpfs.
    pub fn tasks(&self) -> PathBuf {
        self.runtime_dir.join("tasks")
    }

    /// Directories of all tasks on disk.
    pub fn task_states(&self) -> PathBuf {
        self.state_dir.join("tasks")
    }

    /// The task's directory on disk.
    pub fn task_state(&self, task: &str) -> PathBuf {
        self.task_states().join(task)
    }

    /// The task's log.
    pub fn log(&self, task: &str) -> PathBuf {
        self.task_state(task).join("log")
    }

    /// The task's anonymous volumes.
    pub fn anonymous_volumes(&self, task: &str) -> PathBuf {
        self.task_state(task).join("volumes")
    }

    /// The run's directory on disk.
    pub fn run_state(&self, id: &RunId) -> PathBuf {
        self.task_state(&id.task).join(id.run.to_string())
    }

    /// The named volumes.
    pub fn volumes(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    /// The run's files on tmpfs.
    pub fn run(&self, id: &RunId) -> RunDir {
        RunDir(self.tasks().join(&id.task).join(id.run.to_string()))
    }
}

/// A run's directory on tmpfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(pub PathBuf);

impl RunDir {
    /// What was asked for.
    pub fn request(&self) -> PathBuf {
        self.0.join("request.json")
    }
    /// Who supervises.
    pub fn supervisor(&self) -> PathBuf {
        self.0.join("supervisor.json")
    }
    /// How it ended.
    pub fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }
    /// The OCI bundle.
    pub fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }
    /// The compiled seccomp filter; missing when unconfined.
    pub fn seccomp(&self) -> PathBuf {
        self.0.join("seccomp.bpf")
    }
    /// Capabilities that commands hold only until their filter is loaded, as JSON numbers.
    pub fn give_up(&self) -> PathBuf {
        self.0.join("give-up.json")
    }
    /// libcontainer's scratch files.
    pub fn oci(&self) -> PathBuf {
        self.0.join("oci")
    }
    /// hosts, hostname and resolv.conf.
    pub fn etc(&self) -> PathBuf {
        self.0.join("etc")
    }
    /// What the supervisor wrote to its stderr; normally empty.
    pub fn stderr(&self) -> PathBuf {
        self.0.join("supervisor.err")
    }
}

/// `supervisor.json`: who supervises a run. Written before the container is created and again when it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorRecord {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// The boot in which the pids are meant.
    pub boot_id: String,
    /// The supervisor.
    pub supervisor: ProcessId,
    /// The container's first process; `None` until it is created.
    pub init: Option<ProcessId>,
    /// True once the program runs.
    pub started: bool,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// The cgroup below each hierarchy's root.
    pub cgroup: String,
    /// Descriptor in the supervisor: write end of stdin or master of the terminal.
    pub stdin_fd: Option<i32>,
    /// Descriptor of an eventfd in the supervisor; what is written to it closes the container's stdin. Absent with a terminal,
    /// without stdin, and of supervisors of older versions.
    #[serde(default)]
    pub close_stdin_fd: Option<i32>,
    /// The descriptor is a terminal.
    pub tty: bool,
    /// What was only partly given.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// `exit.json`: how a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// The boot in which it ended.
    pub boot_id: String,
    /// The end.
    pub exit: Exit,
    /// Output frames that could not be written.
    #[serde(default)]
    pub dropped_frames: u64,
}

/// Writes a file so that a reader sees all of it or the old one. Several may write the same at once, as two that find the same
/// run lost: the last one stands.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let writer = (std::process::id(), SEQUENCE.fetch_add(1, Ordering::Relaxed));
    let temporary = path.with_extension(format!("{}.{}.tmp", writer.0, writer.1));
    let bytes = serde_json::to_vec(value)?;
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    // Directories of runs are on tmpfs, where a rename is the commit; fsync would add nothing.
    let written = (&file).write_all(&bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Reads one of our files; `None` when it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RuntimeError::file("open", path)(error)),
    };
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, RECORD_MAX_BYTES), &mut text)
        .map_err(RuntimeError::file("read", path))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let (path, why) = (path.into(), error.to_string());
        if error.is_data() { RuntimeError::Format { path, why } } else { RuntimeError::Damaged { path, why } }
    })
}

/// Makes a directory for root only, with its parents.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), RuntimeError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(RuntimeError::file("create", path))
}

/// Removes a tree; it is fine when it is not there.
pub(crate) fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
