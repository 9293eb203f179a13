//! Files in and out of trees that are not trusted, as tar archives: the work of `carrack cp`.
//!
//! ```text
//!   daemon (session) --spawn--> __copy (child): in the container's mounts, few capabilities
//!                                 out: pack  files -> tar on stdout          in: tar on stdin -> place -> files
//! ```
//! `pack` and `place` walk by descriptor and are the CLI's, too, for files of the user. Nothing of a container is ever executed,
//! and none of its symlinks is ever resolved outside of it: the child has no other root than the container's. Does not own
//! what a destination means (the child's and the CLI's commands do).

mod child;
mod pack;
mod place;
mod session;

use std::io;

use carrack_api::CopiedKind;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

pub(crate) use child::MODE;
pub(crate) use child::main;
pub use pack::{Source, pack};
pub use place::{Layout, Place, place};
pub use session::CopySession;
pub(crate) use session::start;

/// Deepest directory that is copied.
const DEPTH_MAX: usize = 256;

/// Why files could not be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CopyError {
    /// Nothing is there.
    #[error("{path}: no such file or directory")]
    Missing {
        /// The path.
        path: String,
    },
    /// Something that is no directory stands where one is needed.
    #[error("{path} is not a directory")]
    NotDirectory {
        /// The path.
        path: String,
    },
    /// A directory stands where a file is to go, or the other way round.
    #[error("{path} exists and is {found}; {wanted} cannot take its place")]
    InTheWay {
        /// The path.
        path: String,
        /// What is there.
        found: String,
        /// What was to be put there.
        wanted: String,
    },
    /// The file system cannot be written to.
    #[error("{path} cannot be written: the file system is read-only")]
    ReadOnly {
        /// The path.
        path: String,
    },
    /// Sockets, devices and pipes are not copied.
    #[error("{path} is {what}, which cannot be copied")]
    Unsupported {
        /// The path.
        path: String,
        /// What it is.
        what: String,
    },
    /// The archive is damaged, cut off, or wants what is not allowed.
    #[error("the archive cannot be used: {why}")]
    Archive {
        /// What is wrong.
        why: String,
    },
    /// The container ended.
    #[error("{0} is not running")]
    NotRunning(String),
    /// Something else failed.
    #[error("cannot {step}: {why}")]
    System {
        /// What was done.
        step: String,
        /// What the system said.
        why: String,
    },
}

impl CopyError {
    /// What the system said of a path.
    fn at(step: &str, path: &str, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::Missing { path },
            Some(libc::ENOTDIR) => Self::NotDirectory { path },
            Some(libc::EROFS) => Self::ReadOnly { path },
            _ => Self::System { step: format!("{step} {path}"), why: error.to_string() },
        }
    }

    fn archive(why: impl Into<String>) -> Self {
        Self::Archive { why: why.into() }
    }
}

/// A closure that makes a [`CopyError::System`] of what the system said.
fn step<E: std::fmt::Display>(step: &str) -> impl FnOnce(E) -> CopyError {
    let step = step.to_owned();
    move |error| CopyError::System { step, why: error.to_string() }
}

fn kind_of(mode: u32) -> Result<CopiedKind, &'static str> {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Ok(CopiedKind::Directory),
        FileType::RegularFile => Ok(CopiedKind::File),
        FileType::Symlink => Ok(CopiedKind::Symlink),
        FileType::Socket => Err("a socket"),
        FileType::Fifo => Err("a pipe"),
        FileType::BlockDevice | FileType::CharacterDevice => Err("a device"),
        FileType::Unknown => Err("of an unknown kind"),
    }
}

/// Bytes of a path for people.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
