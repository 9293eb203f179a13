//! The hidden modes in which this binary runs itself as a child.

/// To be called first thing in `main`: when the first argument is one of our hidden modes, runs it and does not return.
pub fn dispatch() {}
