//! Samples of tasks' cgroups: memory only, a ring per task.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use carrack_api::{NodeReport, TaskId, Usage};

/// Samples kept per task: five minutes at one a second.
pub(crate) const SAMPLES_PER_TASK: usize = 300;

/// The rings of all tasks.
#[derive(Debug, Default)]
pub(crate) struct UsageRings(Mutex<BTreeMap<TaskId, VecDeque<Usage>>>);

impl UsageRings {
    /// Takes the samples of a report.
    pub(crate) fn take(&self, report: &NodeReport) {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for task in &report.tasks {
            let Some(usage) = &task.usage else { continue };
            let ring = rings.entry(task.task).or_default();
            if ring.back().is_none_or(|last| last.at < usage.at) {
                ring.push_back(usage.without_detail());
            }
            while ring.len() > SAMPLES_PER_TASK {
                ring.pop_front();
            }
        }
    }

    /// Drops the rings of tasks that are gone.
    pub(crate) fn keep(&self, exists: impl Fn(TaskId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| exists(*id));
    }

    /// A task's samples, oldest first.
    pub(crate) fn of(&self, task: TaskId) -> Vec<Usage> {
        let rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(&task).map(|ring| ring.iter().cloned().collect()).unwrap_or_default()
    }
}
