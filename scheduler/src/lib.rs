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

mod assign;
mod change;
mod clock;
mod contents;
mod credentials;
mod driver;
mod events;
mod image_name;
mod place;
mod plan;
mod server;
mod store;
#[cfg(test)]
mod testing;
mod usage;
mod view;
mod wiring;

pub use credentials::KeyError;
pub use events::EventsError;
pub use store::{DiskError, LockError, StoreOpenError};
pub use wiring::{LocalSession, NodeGateway, OpenError, ReportHandle, Scheduler, SchedulerConfig};
