//! The vocabulary of Carrack: ids, specs, states, units, HTTP bodies, validation.
//!
//! Owns the words that the parts of Carrack say to each other, on the wire and on disk, and the client that speaks them.
//! Does no IO outside its `client` module (and `fail`, when armed) and decides nothing: decisions are the scheduler's and
//! the node's.

pub mod base64;
#[cfg(feature = "client")]
pub mod client;
pub mod container;
pub mod content;
pub mod defaults;
pub mod fact;
pub mod fail;
pub mod http;
pub mod id;
pub mod image;
pub mod session;
pub mod spec;
pub mod state;
pub mod stream;
pub mod transfer;
pub mod units;
pub mod upkeep;
pub mod validate;

pub use container::*;
pub use content::*;
pub use http::*;
pub use id::*;
pub use session::*;
pub use spec::*;
pub use state::*;
pub use transfer::*;
pub use units::{Bytes, MilliCpus, Timestamp, human_duration};
pub use upkeep::*;
