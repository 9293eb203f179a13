//! Start order: whether the services that a service depends on have come far enough for its first task.

use carrack_api::{Dependency, DependencyCondition, ServiceKey, ServiceSpec, StackName, TaskState};

use super::observe::Observations;
use crate::store::{Snapshot, TaskRecord};

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
        wait(state, observations, &key, dependency, &tasks)
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
