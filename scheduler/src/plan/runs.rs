//! One-off tasks: one task each, never a second one, outside of rollouts; taken away when asked, with their stack, or by `--rm`.
//!
//! ```text
//!   asked --dependencies--> created --> live --> ended --> kept | forgotten
//! ```

use std::collections::BTreeMap;

use carrack_api::defaults::{RUN_KEPT, RUNS_KEPT};
use carrack_api::{Desired, ServiceKey, StackName, TaskState, Timestamp};

use super::address::{Range, taken_vips};
use super::create::{self, New};
use super::draft::Draft;
use super::gate;
use crate::store::{Key, Object, Op, RunRecord, StackPhase, TaskRecord};

/// Slot of a one-off task.
const SLOT: u32 = 0;

/// Decides for all one-off tasks.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let runs: Vec<RunRecord> = draft.state.runs.values().map(|r| RunRecord::clone(r)).collect();
    for run in runs {
        one(draft, run);
    }
    bound(draft);
}

fn one(draft: &mut Draft<'_>, run: RunRecord) {
    let stack = draft.state.stacks.get(&run.key.stack);
    let active = stack.is_some_and(|s| s.phase == StackPhase::Active);
    let deploy = stack.map_or(0, |s| s.deploy);
    let why = if active { "it was asked to go" } else { "its stack is removed" };
    let doomed = run.doomed || !active;
    // It has one task at most; the newest is meant if a restored store has more.
    let Some(task) = draft.tasks(&run.key).pop() else {
        if doomed {
            forget(draft, &run.key, why);
        } else if let Some(run) = start(draft, run) {
            create(draft, &run, deploy);
        }
        return;
    };
    let Some(verdict) = task.verdict.clone() else {
        if doomed && task.desired == Desired::Run {
            draft.task("stop", why, TaskRecord { desired: Desired::Stop, ..task });
        }
        return;
    };
    if doomed {
        return forget(draft, &run.key, why);
    }
    // Of one that could not start, nothing is left.
    if !run.remove && verdict.state != TaskState::Rejected {
        return;
    }
    let at = verdict.at.after(RUN_KEPT);
    if draft.now < at {
        return draft.wake(at);
    }
    forget(draft, &run.key, "it has ended and was to be removed then");
}

/// The record once its task may be made.
fn start(draft: &mut Draft<'_>, mut run: RunRecord) -> Option<RunRecord> {
    let mut changed = false;
    if !run.started {
        if gate::waits_for(&draft.state, draft.observations, &run.key.stack, &run.spec).is_some() {
            return None;
        }
        (run.started, changed) = (true, true);
    }
    if run.vips.is_empty() && !run.spec.ports.is_empty() {
        let mut cluster = draft.cluster()?;
        let range = Range::parse(&cluster.cidr).ok()?;
        let (vip, cursor) = range.free_vip(&taken_vips(&draft.state), cluster.vip_cursor)?;
        cluster.vip_cursor = cursor;
        let reason = format!("{vip} goes to {}", run.key);
        draft.push(super::BOOK, "cluster", reason, Op::Put(Object::Cluster(cluster)));
        (run.vips, changed) = (vec![vip], true);
    }
    if changed {
        draft.push("set", &run.key, "it may start", Op::Put(Object::Run(run.clone())));
    }
    Some(run)
}

fn create(draft: &mut Draft<'_>, run: &RunRecord, deploy: u64) {
    let new = New {
        service: &run.key,
        slot: SLOT,
        only: None,
        revision: run.revision,
        deploy,
        crashes: 0,
        reason: format!("a one-off task of {} was asked for", run.service),
    };
    create::create(draft, new);
}

fn forget(draft: &mut Draft<'_>, key: &ServiceKey, why: &str) {
    for task in draft.tasks(key) {
        let subject = format!("{} {}", task.slot_key(), task.id);
        draft.push("forget", subject, why, Op::Delete(Key::Task(task.id)));
    }
    draft.push("forget", key, why, Op::Delete(Key::Run(key.clone())));
}

/// Ended ones past their bound go, the oldest first.
fn bound(draft: &mut Draft<'_>) {
    let mut ended: BTreeMap<StackName, Vec<(Timestamp, ServiceKey)>> = BTreeMap::new();
    for run in draft.state.runs.values() {
        let tasks = draft.tasks(&run.key);
        if !tasks.is_empty() && tasks.iter().all(|t| !t.is_live()) {
            ended.entry(run.key.stack.clone()).or_default().push((run.created_at, run.key.clone()));
        }
    }
    for mut runs in ended.into_values() {
        runs.sort();
        let surplus = runs.len().saturating_sub(RUNS_KEPT);
        for (_, key) in runs.into_iter().take(surplus) {
            forget(draft, &key, &format!("{RUNS_KEPT} later ones are kept"));
        }
    }
}
