//! Becoming the container's program: the last step of a start and of an exec, inside the container.
//!
//! Runs in three places: libcontainer's executor hook (`supervise`, `exec_child`) and our PID 1 (`init`). What happens is
//! told over a pipe, one JSON line each: an error, or that the program runs, or (by `init`) how it ended.

use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::child;

/// What `E2BIG` means.
pub(crate) const TOO_LONG: &str = "its arguments and environment together are longer than the kernel takes";

/// A line on the report pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// PID 1 started the program.
    Started,
    /// The program cannot be started.
    Failed(ProgramError),
    /// PID 1 reaped the program: the raw wait status.
    Ended(i32),
}

/// Why a program cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProgramError {
    /// Not found.
    Missing { program: String, path: Option<String> },
    /// Found, but the kernel refuses.
    NotExecutable { program: String, why: String },
    /// A step before it failed.
    Step { step: String, why: String },
}

impl Report {
    /// Writes the line; nobody is there to hear of a failure.
    pub(crate) fn send(&self, fd: RawFd) {
        let Ok(mut line) = serde_json::to_vec(self) else { return };
        line.push(b'\n');
        let mut file = std::mem::ManuallyDrop::new(std::fs::File::from(child::take_fd(fd)));
        let _ = file.write_all(&line);
    }

    /// The lines of a text; what is no line of ours is skipped.
    pub(crate) fn parse(text: &[u8]) -> Vec<Self> {
        text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

/// Replaces this process by a program; returns only why that failed. The program is looked for in `PATH` of `env`.
pub(crate) fn become_program(argv: &[String], env: &[String]) -> ProgramError {
    let program = argv.first().cloned().unwrap_or_default();
    if program.contains('/') {
        let error = child::execve(Path::new(&program), argv, env);
        return explain(&program, Path::new(&program), &error, None);
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut refused = None;
    for dir in path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(&program);
        let error = child::execve(&candidate, argv, env);
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) || candidate.exists() {
            refused.get_or_insert((candidate, error));
        }
    }
    match refused {
        Some((candidate, error)) => explain(&program, &candidate, &error, None),
        None => ProgramError::Missing { program, path: Some(path.to_owned()) },
    }
}

fn explain(program: &str, candidate: &Path, error: &io::Error, path: Option<String>) -> ProgramError {
    let refused = |why: &str| ProgramError::NotExecutable { program: program.into(), why: why.into() };
    match (error.raw_os_error(), std::fs::metadata(candidate)) {
        (_, Ok(found)) if found.is_dir() => refused("it is a directory"),
        (Some(libc::ENOENT), Ok(_)) => refused("its interpreter or loader is not in the image"),
        (Some(libc::EACCES), Ok(_)) => refused("permission denied; is it marked executable?"),
        (Some(libc::ENOEXEC), Ok(_)) => {
            refused("wrong format; is it built for this machine, does a script start with #!?")
        }
        (Some(libc::E2BIG), _) => refused(TOO_LONG),
        (Some(libc::ENOENT | libc::ENOTDIR), Err(_)) => {
            ProgramError::Missing { program: program.into(), path }
        }
        _ => refused(&error.to_string()),
    }
}
