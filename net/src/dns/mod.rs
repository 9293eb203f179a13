//! DNS of a node: from one snapshot to answers, everything else forwarded.
//!
//! ```text
//!   query ──> answer (pure: query bytes, source address, zone) ──> reply | drop
//!                                   │ not ours
//!                                   v
//!                 forward (cache, in-flight, upstream resolvers) ──> reply
//! ```
//!
//! Owns: what a name means to whom, and how other names are resolved. Does not own: which tasks are passing (the
//! snapshot says so), nor the process it runs in (`dataplane`).

mod answer;
mod ask;
mod cache;
mod explain;
mod forward;
mod model;
mod resolv;
mod response;
mod server;
mod upstream;
mod wire;
mod zone;

pub use answer::{Answer, Transport, answer};
pub use ask::{Said, ask};
pub use explain::{DnsAsker, Explained, Origin};
pub use forward::{ForwardStats, Forwarder};
pub use model::{
    DNS_SNAPSHOT_VERSION, DnsSnapshot, DnsView, NetworkNames, Range, ServiceNames, SlotNames, SnapshotError,
    Target,
};
pub use resolv::{ResolvOptions, resolv_conf, search_domain};
pub use server::{DnsServer, ServerError, ServerStats};
pub use upstream::{UpstreamConfig, parse_resolv_conf};
pub use wire::{Query, Rcode};
pub use zone::Zone;

/// How long a client may keep an answer of ours, in seconds (DESIGN section 8).
pub const ANSWER_TTL_SECONDS: u32 = 5;
/// How long a client may keep our word that a name or record does not exist, in seconds: short, since a service that
/// is being deployed appears at any moment.
pub const NEGATIVE_TTL_SECONDS: u32 = 1;
