//! What containers used over time: bounded rings in memory, one a task; never on disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use carrack_api::{TaskId, Usage};

/// Samples kept of each task; at one a second, two minutes.
pub(crate) const SAMPLES_MAX: usize = 120;

/// The rings of all tasks that run.
#[derive(Debug, Default)]
pub(crate) struct UsageRings {
    rings: Mutex<BTreeMap<TaskId, VecDeque<Usage>>>,
}

impl UsageRings {
    /// Adds the newest sample.
    pub(crate) fn push(&self, task: TaskId, sample: Usage) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.entry(task).or_default();
        if ring.len() == SAMPLES_MAX {
            ring.pop_front();
        }
        ring.push_back(sample);
    }

    /// The samples of a task, oldest first.
    pub(crate) fn of(&self, task: TaskId) -> Vec<Usage> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(&task).map(|ring| ring.iter().cloned().collect()).unwrap_or_default()
    }

    /// Its run has ended.
    pub(crate) fn forget(&self, task: TaskId) {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_newest_samples_and_no_more() {
        let rings = UsageRings::default();
        for cpu_us in 0..SAMPLES_MAX as u64 + 5 {
            rings.push(TaskId(1), Usage { cpu_us, ..Usage::default() });
        }
        let kept = rings.of(TaskId(1));
        assert_eq!((kept.len(), kept[0].cpu_us), (SAMPLES_MAX, 5));
        rings.forget(TaskId(1));
        assert!(rings.of(TaskId(1)).is_empty());
    }
}
