//! The node: takes whole assignments, makes them so on this host, and reports what is.
//!
//! ```text
//!   Assignment ──> ledger (disk) ──┐
//!                                  ├─> plan (pure) ──> one step per task ──> worker ──┐
//!   Engine, Network ──> facts ─────┘                                                  │
//!        ^                                                                            │
//!        └──────────────────────────────── outcomes ──────────────────────────────────┘
//! ```
//!
//! Owns the join of containers ([`carrack_runtime`]) and network ([`carrack_net`]), which do not know each other; restarts,
//! readiness, ordered stops, and what a node remembers over restarts and reboots. Decides no placement: which task, where and
//! with which address is the scheduler's word.

mod clock;
mod collect;
mod config;
mod containers;
mod driver;
mod engine;
mod fabric;
mod facts;
mod fds;
mod identity;
mod ledger;
mod netloop;
mod node;
mod plan;
mod probe;
mod probe_exec;
mod report;
mod requests;
mod restart;
mod sealed;
#[cfg(test)]
#[cfg(feature = "virtual-time")]
mod simulated;
mod tables;
#[cfg(test)]
mod testing;
pub mod uninstall;
mod usage;
mod worker;

pub use config::{NodeConfig, NodeError, Shutdown, choose_cluster_cidr, dispatch};
pub use node::Node;
