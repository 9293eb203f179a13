//! What can go wrong, one variant per failed operation with its object. Printed by callers, never here.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::request::RunId;

/// An operation on runs, files or cgroups failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file operation failed.
    #[error("cannot {what} {path}")]
    File {
        /// The operation, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of ours cannot be understood.
    #[error("{path} is not readable: {why}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file of ours was cut or overwritten: it is no JSON at all.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The task's name cannot be a directory and a cgroup.
    #[error("task name {0:?} is not valid")]
    Name(String),
    /// Nothing is known of the run.
    #[error("no run {0}")]
    NoRun(RunId),
    /// The run has ended.
    #[error("run {0} is not running")]
    NotRunning(RunId),
    /// The run has neither terminal nor open stdin.
    #[error("run {0} has no terminal and no open stdin")]
    NoStdin(RunId),
    /// A process operation failed.
    #[error("cannot {what} process {pid}")]
    Process {
        /// The operation, as a verb.
        what: &'static str,
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Processes did not end in time.
    #[error("cgroup {path} still has processes {pids:?} after SIGKILL")]
    CgroupBusy {
        /// The cgroup.
        path: PathBuf,
        /// Some of them.
        pids: Vec<u32>,
    },
    /// This host cannot run containers.
    #[error("this host cannot run containers: {0}")]
    Host(String),
    /// The systemd unit that holds all runs.
    #[error("there is no unit for the containers")]
    Unit(#[from] crate::cgroup::UnitError),
    /// A helper process of ours could not be started or failed.
    #[error("helper process {mode} failed: {why}")]
    Helper {
        /// Its mode.
        mode: &'static str,
        /// What it said.
        why: String,
    },
    /// A volume is in use.
    #[error("volume {0} is in use")]
    VolumeInUse(String),
    /// There is no such volume.
    #[error("no volume {0}")]
    NoVolume(String),
}

impl RuntimeError {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

/// A container could not be started; nothing of the run is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartError {
    /// The program is not in the image.
    #[error("program {program:?} is not in the image{}", searched(path))]
    ProgramMissing {
        /// As given.
        program: String,
        /// The search path, when one was used.
        path: Option<String>,
    },
    /// The program cannot be executed.
    #[error("program {program:?} cannot be executed: {why}")]
    ProgramNotExecutable {
        /// As given.
        program: String,
        /// The kernel's reason.
        why: String,
    },
    /// Neither spec nor image name a program.
    #[error("neither the service nor its image names a command")]
    NoCommand,
    /// The user or a group is not in the image.
    #[error("user {user:?}: {why}")]
    User {
        /// As given.
        user: String,
        /// What is wrong.
        why: String,
    },
    /// The working directory cannot be used.
    #[error("working directory {path:?}: {why}")]
    WorkingDir {
        /// As given.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A mount cannot be made.
    #[error("mount {target:?}: {why}")]
    Mount {
        /// Path in the container.
        target: String,
        /// What is wrong.
        why: String,
    },
    /// A device cannot be given.
    #[error("device {path:?}: {why}")]
    Device {
        /// Path on the host.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A part of the spec cannot be met by this host.
    #[error("{field}: {why}")]
    Spec {
        /// The field of the spec.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// The network namespace cannot be entered.
    #[error("network namespace {path:?}: {why}")]
    Network {
        /// Its path.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The previous run of the task is not gone.
    #[error("run {0} of the task still has processes")]
    PreviousRun(String),
    /// Anything else, with the step it happened in.
    #[error("{step}: {why}")]
    System {
        /// What was being done.
        step: String,
        /// The error and its causes.
        why: String,
    },
}

fn searched(path: &Option<String>) -> String {
    path.as_ref().map(|path| format!(" (searched {path})")).unwrap_or_default()
}

/// A command could not be run in a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecError {
    /// The container does not run.
    #[error("{0} is not running")]
    NotRunning(String),
    /// The program is not in the container; shells show this as 127.
    #[error("program {program:?} is not in the container{}", searched(path))]
    ProgramMissing {
        /// As given.
        program: String,
        /// The search path, when one was used.
        path: Option<String>,
    },
    /// The program cannot be executed; shells show this as 126.
    #[error("program {program:?} cannot be executed: {why}")]
    ProgramNotExecutable {
        /// As given.
        program: String,
        /// The kernel's reason.
        why: String,
    },
    /// The user or a group is not in the container.
    #[error("user {user:?}: {why}")]
    User {
        /// As given.
        user: String,
        /// What is wrong.
        why: String,
    },
    /// The working directory cannot be used.
    #[error("working directory {path:?}: {why}")]
    WorkingDir {
        /// As given.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Anything else, with the step it happened in.
    #[error("{step}: {why}")]
    System {
        /// What was being done.
        step: String,
        /// The error and its causes.
        why: String,
    },
}

impl ExecError {
    /// The exit code a shell would show.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::ProgramMissing { .. } => 127,
            _ => 126,
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
