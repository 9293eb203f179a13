//! Waiting for a predicate with a deadline; the last status is part of the failure.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// By what factor this machine is slower than others, as `CARRACK_TEST_SLOW` says: an emulated one is. Every deadline of a test
/// is multiplied by it, and nothing else.
pub fn slow() -> u32 {
    std::env::var("CARRACK_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Looks until `look` gives a value; panics with its last complaint after `limit` times [`slow`].
#[track_caller]
pub fn until<T, E: Display>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let limit = limit * slow();
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= deadline => panic!("{what}: not within {limit:?}; last: {last}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
