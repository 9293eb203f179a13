//! The lab: what end-to-end tests and benchmarks share.
