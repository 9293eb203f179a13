//! The scheduler: the durable store, the cluster loop and the HTTP API.
//!
//! ```text
//!   HTTP API ---- txn ----> store (snapshot, log) ---- change ----> driver
//!   (server/)                  ^                                      | snapshot + observations + now
//!                              | commit if current                    v
//!                              `---- lint <---- plan/ (pure) <---- place/ (pure)
//!                                                                     |
//!   node <---- Arc<Assignment> (watch) <---- assign (pure) <----------'
//!   node ----> NodeReport ----> observations (memory only)
//! ```
//!
//! Owns every decision about the cluster and the only durable copy of what users want. Never links the runtime or the network,
//! needs no root, and reaches a node only through [`LocalSession`] and [`NodeGateway`].

mod place;
mod store;
#[cfg(test)]
mod testing;
mod wiring;

pub use wiring::{LocalSession, NodeGateway, OpenError, ReportHandle, Scheduler, SchedulerConfig};
