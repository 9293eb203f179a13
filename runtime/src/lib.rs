//! Images, root filesystems, containers, cgroups, logs, exec and the supervisor process of one node.
//!
//! Knows nothing of services or of the network: a container joins a network namespace that others made. The daemon's side is
//! [`Runtime`]; everything that forks, unshares or calls libcontainer runs in single-threaded children of our own binary,
//! reached through [`reexec::dispatch`]. The files between both are described in `docs/supervisor.md`.

pub mod archive;
pub mod bundle;
pub mod cgroup;
mod child;
mod copy;
pub mod doctor;
pub mod error;
mod exec;
mod exec_child;
mod host_path;
pub mod image;
mod in_root;
mod init;
mod keep;
pub mod log;
mod open_files;
pub mod process;
mod program;
pub mod record;
pub mod reexec;
pub mod request;
pub mod runtime;
mod seccomp;
mod supervise;
mod template;
pub mod volume;

pub use cgroup::{CgroupMode, CgroupSampler};
pub use error::{ExecError, RuntimeError, StartError};
pub use exec::ExecSession;
pub use log::{LogLine, LogQuery, LogReader, LogStream};
pub use request::*;
pub use runtime::{Runtime, RuntimeConfig, Streams};
pub use volume::{VolumeInfo, VolumeStore};
