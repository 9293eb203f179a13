//! The lab: what end-to-end tests, the demo and benchmarks share. Linked by nothing of the product.

pub mod load;
