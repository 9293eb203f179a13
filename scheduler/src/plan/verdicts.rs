//! Ends of tasks: what a node reports once is kept for good, since later decisions need it.

use carrack_api::{Desired, TaskState};

use super::draft::{Draft, slot_name};
use super::observe::Observed;
use crate::store::{TaskRecord, Verdict};

/// Writes the end of each live task that has ended.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let live: Vec<TaskRecord> =
        draft.state.tasks.values().filter(|t| t.is_live()).map(|t| TaskRecord::clone(t)).collect();
    for mut task in live {
        let Some(verdict) = verdict(draft, &task) else { continue };
        let text = describe(&verdict);
        let kind = match verdict.state {
            TaskState::Completed => "task.completed",
            TaskState::Failed => "task.failed",
            TaskState::Rejected => "task.rejected",
            TaskState::Lost => "task.lost",
            TaskState::Stopped
            | TaskState::Pending
            | TaskState::Placed
            | TaskState::Preparing
            | TaskState::Starting
            | TaskState::Running => "task.stopped",
        };
        draft.event(kind, slot_name(&task.service, task.slot), format!("{} {text}", task.id), Some(task.id));
        task.verdict = Some(verdict);
        draft.task("end", text, task);
    }
}

fn verdict(draft: &Draft<'_>, task: &TaskRecord) -> Option<Verdict> {
    let stopped = |reason: &str| Verdict {
        state: TaskState::Stopped,
        reason: Some(reason.into()),
        exit: None,
        run: 0,
        crashes: task.crashes,
        at: draft.now,
    };
    match draft.observed(task) {
        Observed::Reported(report) if report.state.is_final() => Some(Verdict {
            state: report.state,
            reason: report.reason.clone(),
            exit: report.exit.clone(),
            run: report.run,
            crashes: report.crashes,
            at: draft.now,
        }),
        Observed::Gone => Some(stopped("its node has nothing of it")),
        Observed::Pending if task.desired == Desired::Stop => Some(stopped("it was never placed")),
        Observed::Reported(_) | Observed::Pending | Observed::Unknown | Observed::Placed => None,
    }
}

/// `failed: exit code 1`.
pub(crate) fn describe(verdict: &Verdict) -> String {
    let why = verdict.reason.clone().or_else(|| verdict.exit.as_ref().map(|e| e.describe()));
    match why {
        Some(why) => format!("{}: {why}", verdict.state),
        None => verdict.state.to_string(),
    }
}
