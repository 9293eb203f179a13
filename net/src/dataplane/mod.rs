//! The data-plane process: the part of a node that must go on while its daemon is away.
//!
//! It is the product binary under a hidden subcommand, in a session of its own, and serves DNS from the last snapshot
//! that the daemon published. Owns: that process, its files and how the daemon drives it. Does not own: what it serves
//! (`dns`).
//!
//! ```text
//!  daemon: DataPlane                            process: run
//!    ensure ── spawn, or adopt a running one ──>  sockets (inherited | from its predecessor | bound)
//!    publish ── dns.json (temp + rename), Load ─> new zone, acknowledged by generation
//!    watch  <── end of file, or silence ───────   started again with the same sockets
//! ```
//!
//! The sockets are shared by descriptor between the daemon, the process and its successor: whoever reads them next finds
//! the queries that arrived meanwhile, so neither a crash nor a replacement refuses or loses one. A starting process
//! always takes over from a running one: it serves first, then asks the other to retire, and holds the lock once the
//! other is gone.
//!
//! Files in the runtime directory: `dns.json` the last snapshot, `control.sock`, `lock` held by the process, `pid`
//! (process id and start time), `dataplane.log` with one older generation.

mod control;
mod daemon;
mod error;
mod files;
mod log;
mod process;
mod sockets;

pub use control::{ControlError, PROTOCOL, Status};
pub use daemon::{DataPlane, DataPlaneConfig, Published};
pub use error::DataPlaneError;
pub use files::end_all;
pub use process::{ProcessError, SUBCOMMAND, run};
