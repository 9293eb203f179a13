//! Wall-clock time that never jumps while the daemon runs: read once, then moved by the monotonic clock.

use std::time::{SystemTime, UNIX_EPOCH};

use carrack_api::Timestamp;
use tokio::time::Instant;

/// The clock of one daemon start. Under tokio's paused time it is virtual.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    base: Timestamp,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock.
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let base = Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
        Self { base, start: Instant::now() }
    }

    /// This moment.
    pub(crate) fn now(&self) -> Timestamp {
        self.base.after(self.start.elapsed())
    }

    /// When this clock will show `at`.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.start + at.since(self.base)
    }
}
