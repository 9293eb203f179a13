//! carrack-runtime
