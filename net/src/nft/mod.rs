//! nftables over our own nfnetlink encoder.
//!
//! - [`sets`]: the sets of the table and their elements as values;
//! - `skeleton`: chains and rules, fixed;
//! - `expr`: expressions as bytes;
//! - `batch`: changes, atomic;
//! - `dump`: what the kernel holds;
//! - `foreign`: forward and input chains of others that drop.

pub(crate) mod batch;
pub(crate) mod dump;
pub(crate) mod expr;
pub(crate) mod foreign;
pub mod sets;
pub(crate) mod skeleton;
