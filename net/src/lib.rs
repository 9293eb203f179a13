//! carrack-net
