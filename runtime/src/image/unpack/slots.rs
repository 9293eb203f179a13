//! Bounds how many unpack children run at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A counter of free slots, one per processor.
#[derive(Debug)]
pub(in crate::image) struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Slots {
    pub(in crate::image) fn new() -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        Self { free: Mutex::new(count), changed: Condvar::new() }
    }

    /// Waits for a slot.
    pub(in crate::image) fn take(&self) -> Slot<'_> {
        let mut free = self.lock();
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Slot { slots: self }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run one unpack child.
pub(in crate::image) struct Slot<'a> {
    slots: &'a Slots,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.slots.lock() += 1;
        self.slots.changed.notify_one();
    }
}
