//! Start order: whether the services that a service depends on have come far enough, for its first task and for an update; and
//! the reverse of it, when several stop together.

use std::collections::BTreeSet;

use carrack_api::{
    Dependency, DependencyCondition, ServiceKey, ServiceName, ServiceSpec, StackName, TaskState,
};

use super::observe::{Observations, Observed};
use crate::store::{ServiceRecord, Snapshot, StackPhase, TaskRecord};

/// What the first task waits for; `None` when it may be made.
pub(crate) fn waits_for(
    state: &Snapshot,
    observations: &Observations,
    stack: &StackName,
    spec: &ServiceSpec,
) -> Option<Wait> {
    spec.depends_on.iter().find_map(|(name, dependency)| {
        let key = ServiceKey::new(stack.clone(), name.clone());
        let tasks: Vec<&TaskRecord> =
            state.tasks.values().filter(|t| t.service == key).map(|t| t.as_ref()).collect();
        if !dependency.required && (state.wanted_spec(&key).is_none() || state.is_stopped(&key)) {
            return None;
        }
        // What is not required is waited for as long as it can still come.
        wait(state, observations, &key, dependency, &tasks)
            .filter(|wait| dependency.required || !wait.hopeless)
    })
}

/// An unmet dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    /// One sentence part: `waits for db to be passing`.
    pub(crate) reason: String,
    /// It will not be met without a change by a user.
    pub(crate) hopeless: bool,
}

fn wait(
    state: &Snapshot,
    observations: &Observations,
    key: &ServiceKey,
    dependency: &Dependency,
    tasks: &[&TaskRecord],
) -> Option<Wait> {
    let completed = |t: &&&TaskRecord| t.final_state() == Some(TaskState::Completed);
    let (met, what) = match dependency.condition {
        DependencyCondition::Started => {
            let met = tasks
                .iter()
                .any(|t| observations.of(t).is_running() || t.final_state() == Some(TaskState::Completed));
            (met, "to run")
        }
        DependencyCondition::Healthy => {
            (tasks.iter().any(|t| t.is_live() && observations.of(t).is_passing()), "to be passing")
        }
        DependencyCondition::Completed => {
            let wanted = super::rollout::started_replicas(state, key).unwrap_or(1);
            let done = (1..=wanted).all(|slot| tasks.iter().filter(completed).any(|t| t.slot == slot));
            (done, "to complete")
        }
    };
    // What has completed stays so; anything else of a stopped service is on its way out.
    let stopped = state.is_stopped(key);
    if met && (!stopped || dependency.condition == DependencyCondition::Completed) {
        return None;
    }
    if stopped {
        let reason = format!("depends on {}, which is stopped", key.service);
        return Some(Wait { reason, hopeless: true });
    }
    let failed = state.services.get(key).and_then(|s| s.failed.as_ref());
    let ended =
        tasks.iter().find(|t| matches!(t.final_state(), Some(TaskState::Failed | TaskState::Rejected)));
    let hopeless = failed.is_some() || (ended.is_some() && tasks.iter().all(|t| !t.is_live()));
    let reason = match failed {
        Some(verdict) => format!("depends on {}, which failed: {}", key.service, verdict.reason),
        None if hopeless => format!("depends on {}, which failed", key.service),
        None => format!("waits for {} {what}", key.service),
    };
    Some(Wait { reason, hopeless })
}

/// What the dependencies of a service that exists mean for its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Nothing.
    Free,
    /// One of them is being replaced: a newer template waits until that is done.
    Hold(ServiceName),
    /// One of them, which it follows, was replaced after it: its tasks are replaced, too.
    Replace(ServiceName),
}

/// Looks at the dependencies of a service that exists. Only a replacement counts, by a deploy or by command, not a crash; and
/// only of what has been complete once: a first deploy is gated by [`waits_for`].
pub(crate) fn follow(state: &Snapshot, record: &ServiceRecord, spec: &ServiceSpec) -> Follow {
    let mut replaced = None;
    for (name, dependency) in &spec.depends_on {
        let key = ServiceKey::new(record.key.stack.clone(), name.clone());
        let Some(other) = state.services.get(&key) else { continue };
        if state.wanted_spec(&key).is_none() || state.is_stopped(&key) || other.converged.is_none() {
            continue;
        }
        if !in_step(state, other) || other.converged != Some(other.template) {
            return Follow::Hold(name.clone());
        }
        if dependency.restart && other.template > record.template {
            replaced = replaced.or_else(|| Some(name.clone()));
        }
    }
    replaced.map_or(Follow::Free, Follow::Replace)
}

/// Of a service that is to stop: the one that needs it, however indirectly, stops too, and still has a task. That one goes first.
/// A service that is not to stop holds nobody back, nor does a task on a node that was not heard.
pub(crate) fn stops_after(
    state: &Snapshot,
    observations: &Observations,
    key: &ServiceKey,
) -> Option<ServiceName> {
    let stack = state.stacks.get(&key.stack)?;
    let spec = state.spec(&key.stack, stack.revision)?;
    let (mut open, mut seen) = (vec![&key.service], BTreeSet::new());
    while let Some(needed) = open.pop() {
        let needing = spec.services.iter().filter(|(_, service)| service.depends_on.contains_key(needed));
        for (name, _) in needing.filter(|(name, _)| seen.insert(*name)) {
            let going = stack.phase != StackPhase::Active || stack.stopped.contains(name);
            let mut tasks = state
                .tasks
                .values()
                .filter(|t| t.service.stack == key.stack && t.service.service == *name && t.is_live());
            if going && tasks.any(|t| observations.of(t) != Observed::Unknown) {
                return Some(name.clone());
            }
            open.push(name);
        }
    }
    None
}

/// The record's template is what the newest revision wants.
pub(crate) fn in_step(state: &Snapshot, record: &ServiceRecord) -> bool {
    let key = &record.key;
    let fresh = state.stacks.get(&key.stack).and_then(|s| s.fresh.get(&key.service).copied());
    let wanted = state.wanted_spec(key).map(|spec| &spec.task);
    state.service_spec(key, record.template).map(|spec| &spec.task) == wanted
        && fresh.is_none_or(|fresh| record.template >= fresh)
}
