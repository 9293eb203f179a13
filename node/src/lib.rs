//! carrack-node
