//! What the node says of itself and its tasks, from its facts. Pure.

use std::collections::BTreeMap;

use carrack_api::{
    Assignment, ClusterId, Health, HeldImage, ImageCollection, NodeInfo, NodeReport, PortConflict, Protocol,
    ServiceKey, TaskId, TaskReport, TaskState, Timestamp, human_duration,
};

use crate::facts::{Pending, Phase, TaskFacts, Verdict};

/// What a report is made from.
pub(crate) struct Sources<'a> {
    pub(crate) info: &'a NodeInfo,
    pub(crate) cluster: Option<&'a ClusterId>,
    pub(crate) assignment: Option<&'a Assignment>,
    pub(crate) facts: &'a BTreeMap<TaskId, TaskFacts>,
    pub(crate) sequence: u64,
    pub(crate) images: Vec<HeldImage>,
    pub(crate) conflicts: &'a [PortConflict],
    pub(crate) network_error: Option<&'a str>,
    pub(crate) collection: Option<&'a ImageCollection>,
    pub(crate) now: Timestamp,
}

/// Makes the report. A node that has joined no cluster yet says so with an id of zeros.
pub(crate) fn report(sources: Sources<'_>) -> NodeReport {
    let tasks = sources.facts.iter().map(|(id, facts)| task_report(*id, facts, &sources)).collect();
    NodeReport {
        cluster: sources.cluster.cloned().unwrap_or_else(no_cluster),
        epoch: sources.assignment.map_or(0, |assignment| assignment.epoch),
        sequence: sources.sequence,
        generation: sources.assignment.map_or(0, |assignment| assignment.generation),
        node: sources.info.clone(),
        tasks,
        images: sources.images,
        port_conflicts: sources.conflicts.to_vec(),
        collection: sources.collection.cloned(),
    }
}

#[expect(clippy::expect_used, reason = "the constant is a valid id, as its test shows")]
fn no_cluster() -> ClusterId {
    ClusterId::new("000000000000").expect("a constant id is valid")
}

fn task_report(id: TaskId, facts: &TaskFacts, sources: &Sources<'_>) -> TaskReport {
    let state = state(facts);
    TaskReport {
        task: id,
        run: if state == TaskState::Preparing { facts.run } else { facts.run.max(1) },
        state,
        health: facts.told_health(),
        reason: reason(facts, sources),
        exit: facts.exit.clone(),
        started_at: facts.started_at,
        health_since: facts.health_since,
        crashes: facts.crashes,
        progress: facts.progress.clone(),
        probe: facts.probe.clone(),
        pid: match facts.phase {
            Phase::Running { pid, .. } => Some(pid),
            Phase::Idle => None,
        },
        usage: facts.usage.clone(),
    }
}

/// The state of the run that the report names. The pair of both only rises.
fn state(facts: &TaskFacts) -> TaskState {
    match (facts.verdict, &facts.phase) {
        (Some(Verdict::Completed), _) => TaskState::Completed,
        (Some(Verdict::Failed), _) => TaskState::Failed,
        (Some(Verdict::Rejected), _) => TaskState::Rejected,
        (Some(Verdict::Stopped), _) => TaskState::Stopped,
        (None, Phase::Running { .. }) => TaskState::Running,
        (None, Phase::Idle) if facts.run > 0 || facts.pending == Some(Pending::Start) => TaskState::Starting,
        (None, Phase::Idle) => TaskState::Preparing,
    }
}

fn reason(facts: &TaskFacts, sources: &Sources<'_>) -> Option<String> {
    if facts.verdict.is_none() && !facts.is_running() {
        if let Some(error) = sources.network_error.filter(|_| !facts.wired && !facts.addresses.is_empty()) {
            return Some(format!("the network is not ready: {error}"));
        }
        let waits = facts.not_before.map(|at| at.since(sources.now)).filter(|wait| !wait.is_zero());
        if let (Some(wait), Some(reason), 1..) = (waits, &facts.reason, facts.failures) {
            return Some(format!("{reason}; tried again in {}", human_duration(wait)));
        }
    }
    if facts.health == Health::Passing
        && facts.told_health() != Health::Passing
        && let Some(error) = sources.network_error
    {
        return Some(format!("the network does not lead to it yet: {error}"));
    }
    facts.reason.clone()
}

/// The port that decides readiness without a healthcheck: the first TCP one of the service.
pub(crate) fn readiness_port(assignment: &Assignment, service: &ServiceKey) -> Option<u16> {
    let targets = &assignment.services.get(service)?.targets;
    targets.iter().find(|target| target.protocol == Protocol::Tcp).map(|target| target.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::TaskFacts;
    use crate::restart::Next;
    use crate::testing::{assigned, exit};

    fn step_of(facts: &TaskFacts) -> (u32, TaskState) {
        let state = state(facts);
        (if state == TaskState::Preparing { facts.run } else { facts.run.max(1) }, state)
    }

    #[test]
    fn the_pair_of_run_and_state_only_rises_over_the_life_of_a_task() {
        let mut facts = TaskFacts::new(&assigned("web", 1));
        let mut seen = vec![step_of(&facts)];
        facts.pending = Some(Pending::Start);
        facts.run = 1;
        seen.push(step_of(&facts));
        facts.pending = None;
        facts.has_started(1, 15, Timestamp(1));
        seen.push(step_of(&facts));
        let next = Next::Restart { at: Timestamp(9), crashes: 1, restarts: 1, reason: "x".into() };
        facts.has_ended(exit(1), next, Timestamp(2));
        seen.push(step_of(&facts));
        facts.has_started(2, 15, Timestamp(3));
        seen.push(step_of(&facts));
        facts.has_ended(
            exit(1),
            Next::End { verdict: Verdict::Failed, crashes: 2, reason: None },
            Timestamp(4),
        );
        seen.push(step_of(&facts));
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        assert_eq!(seen[3], (2, TaskState::Starting));
        assert_eq!(no_cluster().as_str(), "000000000000");
    }
}
