//! The lab: what end-to-end tests, the demo and benchmarks share. Linked by nothing of the product.

pub mod bench;
pub mod canary;
pub mod host;
pub mod http;
pub mod inventory;
pub mod lab;
pub mod load;
pub mod observed;
pub mod wait;
