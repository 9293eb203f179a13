//! What can go wrong between daemon and data plane.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::control::ControlError;
use super::daemon::START_DEADLINE;

/// Why an operation on the data plane failed.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// A file of the data plane.
    #[error("cannot use data plane file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process could not be started.
    #[error("cannot start data plane {}", exe.display())]
    Spawn {
        /// The binary.
        exe: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process ended at once.
    #[error("data plane ended with {status} while starting: {log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The process does not serve.
    #[error("data plane does not serve after {} s", START_DEADLINE.as_secs())]
    NotServing(#[source] Option<ControlError>),
    /// The process did not take a snapshot.
    #[error("data plane did not take snapshot generation {generation}")]
    Publish {
        /// Generation of the snapshot.
        generation: u64,
        /// The reason.
        #[source]
        source: ControlError,
    },
    /// The process could not be asked.
    #[error("cannot ask the data plane")]
    Ask(#[source] ControlError),
    /// The process does not end.
    #[error("data plane process {pid} does not end")]
    Unkillable {
        /// The process.
        pid: i32,
    },
    /// The operation's thread was lost, as when the runtime shuts down.
    #[error("data plane operation was interrupted")]
    Interrupted,
}
