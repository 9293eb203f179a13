//! Rollouts: in which order tasks are replaced, when one has failed, when it is done. Pure questions over a service's tasks;
//! [`super::slots`] acts on the answers.

use std::time::Duration;

use carrack_api::defaults::{
    PROBE_INTERVAL, PROBE_RETRIES, PROBE_START_PERIOD, ROLLOUT_FAILED_RUNS, UPDATE_MONITOR,
};
use carrack_api::{
    MountSource, PortMode, ServiceKey, ServiceMode, ServiceSpec, TaskNetwork, TaskReport, TaskState,
    Timestamp, UpdateOrder, human_duration,
};

use super::observe::{Observations, Observed};
use super::verdicts;
use crate::store::{ServiceRecord, Snapshot, TaskRecord};

/// Slots wanted of a replicated service now; `None` for a global or unwanted one.
pub(crate) fn wanted_replicas(state: &Snapshot, key: &ServiceKey) -> Option<u32> {
    let replicas = started_replicas(state, key)?;
    Some(if state.is_stopped(key) { 0 } else { replicas })
}

/// The same as if it were not stopped.
pub(crate) fn started_replicas(state: &Snapshot, key: &ServiceKey) -> Option<u32> {
    let spec = state.wanted_spec(key)?;
    let ServiceMode::Replicated { replicas } = spec.mode else { return None };
    let deploy = state.stacks.get(&key.stack)?.deploy;
    let scale = state.services.get(key).and_then(|s| s.scale).filter(|s| s.deploy == deploy);
    Some(scale.map_or(replicas, |s| s.replicas))
}

/// Which of old and new is first, and why when the user did not say.
pub(crate) fn order(spec: &ServiceSpec, replicas: u32) -> (UpdateOrder, &'static str) {
    let writes_volume = spec
        .task
        .container
        .mounts
        .iter()
        .any(|m| !m.read_only && matches!(m.source, MountSource::Volume { .. }));
    match spec.update.order {
        _ if spec.ports.iter().any(|p| p.mode == PortMode::Host) => {
            (UpdateOrder::StopFirst, "both would need the same host port")
        }
        Some(UpdateOrder::StartFirst) => (UpdateOrder::StartFirst, "as asked"),
        Some(UpdateOrder::StopFirst) => (UpdateOrder::StopFirst, "as asked"),
        None if spec.task.network == TaskNetwork::Host => {
            (UpdateOrder::StopFirst, "both would be on the host's network")
        }
        None if writes_volume && replicas <= 1 => {
            (UpdateOrder::StopFirst, "both would write the same volume")
        }
        None => (UpdateOrder::StartFirst, "the default"),
    }
}

/// How far a service's tasks are of its newest template, seen all together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) record: &'a ServiceRecord,
    pub(crate) spec: &'a ServiceSpec,
    /// The deploy in force.
    pub(crate) deploy: u64,
    pub(crate) tasks: &'a [TaskRecord],
    pub(crate) observations: &'a Observations,
}

/// Why a rollout is given up, or when to ask again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Judgement {
    pub(crate) failure: Option<String>,
    pub(crate) ask_again: Option<Timestamp>,
}

impl<'a> Scene<'a> {
    /// The task is of the newest template.
    pub(crate) fn is_current(&self, task: &TaskRecord) -> bool {
        task.revision == self.record.template
    }

    /// Not all slots have passed with the newest template yet.
    pub(crate) fn is_moving(&self) -> bool {
        self.record.converged != Some(self.record.template)
    }

    /// There is something older that serves or has served, to which a failed rollout returns.
    pub(crate) fn has_older(&self) -> bool {
        let serves =
            |t: &&TaskRecord| t.is_live() && !self.is_current(t) && self.observations.of(t).is_passing();
        (self.is_moving() && self.record.converged.is_some()) || self.tasks.iter().any(|t| serves(&t))
    }

    /// Decides whether the rollout is given up. Ends that forbid a further try count always; crashes and a late start only when
    /// something older serves on: a first deploy keeps trying, as its dependencies may still be coming.
    pub(crate) fn judge(&self, now: Timestamp) -> Judgement {
        if !self.is_moving() {
            return Judgement::default();
        }
        if let Some(failure) = self.tasks.iter().find_map(|t| self.ended_badly(t)) {
            return Judgement { failure: Some(failure), ask_again: None };
        }
        if !self.has_older() {
            return Judgement::default();
        }
        let mut judgement = Judgement::default();
        for task in self.tasks.iter().filter(|t| t.is_wanted() && self.is_current(t)) {
            let Observed::Reported(report) = self.observations.of(task) else { continue };
            match failing(task, report, self.spec, now) {
                Failing::Yes(failure) => return Judgement { failure: Some(failure), ask_again: None },
                Failing::NotBefore(at) => {
                    judgement.ask_again =
                        Some(judgement.ask_again.map_or(at, |other: Timestamp| other.min(at)));
                }
                Failing::No => {}
            }
        }
        judgement
    }

    /// How long a new task of an update is watched.
    pub(crate) fn monitor(&self) -> Duration {
        self.spec.update.monitor.unwrap_or(UPDATE_MONITOR)
    }

    /// Until when a passing task of an update is watched before its slot counts as done; `None` when it is not.
    pub(crate) fn watched_until(&self, task: &TaskRecord, now: Timestamp) -> Option<Timestamp> {
        if !self.is_moving() || self.record.converged.is_none() || self.record.failed.is_some() {
            return None;
        }
        let since = self.observations.of(task).report()?.health_since?;
        let until = since.after(self.monitor());
        (now < until).then_some(until)
    }

    fn ended_badly(&self, task: &TaskRecord) -> Option<String> {
        let verdict = task.verdict.as_ref()?;
        let counts = self.is_current(task)
            && task.deploy == self.deploy
            && task.desired == carrack_api::Desired::Run
            && matches!(verdict.state, TaskState::Rejected | TaskState::Failed);
        counts.then(|| format!("{}.{} {}", task.service.service, task.slot, verdicts::describe(verdict)))
    }
}

/// Whether a task that has not ended is beyond hope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failing {
    No,
    NotBefore(Timestamp),
    Yes(String),
}

/// Judges a live task: too many crashes, or too long without passing.
pub(crate) fn failing(task: &TaskRecord, report: &TaskReport, spec: &ServiceSpec, now: Timestamp) -> Failing {
    let name = format!("{}.{}", task.service.service, task.slot);
    if report.crashes >= ROLLOUT_FAILED_RUNS {
        let why = report.exit.as_ref().map(|e| e.describe()).or_else(|| report.reason.clone());
        let why = why.map(|w| format!(": {w}")).unwrap_or_default();
        let probe = last_probe(report);
        return Failing::Yes(format!("{name} crashed {} times{why}{probe}", report.crashes));
    }
    if report.state != TaskState::Running || report.health == carrack_api::Health::Passing {
        return Failing::No;
    }
    let Some(since) = report.started_at.max(report.health_since) else { return Failing::No };
    let patience = start_patience(spec);
    let deadline = since.after(patience);
    if now < deadline {
        return Failing::NotBefore(deadline);
    }
    let probe = last_probe(report);
    Failing::Yes(format!("{name} was not passing within {}{probe}", human_duration(patience)))
}

/// What the last probe said, when it failed: a task stopped because of it ends with an exit code that explains nothing.
fn last_probe(report: &TaskReport) -> String {
    let probe = report.probe.as_ref().filter(|p| !p.passed && !p.output.trim().is_empty());
    probe.map(|p| format!("; its last probe said: {}", first_line(&p.output))).unwrap_or_default()
}

fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}

/// Time in which a started task must be passing.
fn start_patience(spec: &ServiceSpec) -> Duration {
    let healthcheck = spec.task.container.healthcheck.as_ref();
    match healthcheck.and_then(|h| Some((h, h.start_period?))) {
        Some((healthcheck, period)) => {
            let interval = healthcheck.interval.unwrap_or(PROBE_INTERVAL);
            period.saturating_add(interval.saturating_mul(healthcheck.retries.unwrap_or(PROBE_RETRIES)))
        }
        None => PROBE_START_PERIOD,
    }
}
