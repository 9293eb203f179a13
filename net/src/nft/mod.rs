//! nftables over our own nfnetlink encoder.
//!
//! - [`sets`]: the sets of the table and their elements as values;
//! - `skeleton`: chains and rules, fixed;
//! - `expr`: expressions as bytes;
//! - `batch`: changes, atomic;
//! - `dump`: what the kernel holds;
//! - `others`: tables of others as values;
//! - `walk`: what their chains do to our packets;
//! - `foreign`: the accepts that those which drop need, and hold;
//! - [`obstacles`]: what no accept of ours helps against.

pub(crate) mod batch;
pub(crate) mod dump;
pub(crate) mod expr;
pub(crate) mod foreign;
pub mod obstacles;
pub(crate) mod others;
pub mod sets;
pub(crate) mod skeleton;
pub(crate) mod walk;
