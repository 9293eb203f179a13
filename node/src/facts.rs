//! What this node knows of a task beyond its assignment: how far it is, how it ended, how it was adopted.
//!
//! Owns the values and the pure changes to them when a run starts, ends or is found again. The lasting part is in the ledger;
//! what is marked `skip` is learned anew at each daemon start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use carrack_api::{AssignedTask, Exit, Health, ProbeResult, PullProgress, TaskId, Timestamp, Usage};
use serde::{Deserialize, Serialize};

use crate::engine::{FoundRun, FoundState};
use crate::restart::Next;

/// How far the newest run is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Nothing runs; the run of [`TaskFacts::run`] (or the first one) is to be started, not before `not_before`.
    #[default]
    Idle,
    /// Its container runs.
    Running {
        /// First process.
        pid: u32,
        /// What asks it to stop.
        stop_signal: i32,
    },
}

/// How a task ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// By itself, with success.
    Completed,
    /// By itself, otherwise.
    Failed,
    /// It cannot run here at all.
    Rejected,
    /// It was asked to.
    Stopped,
}

/// Why a running container is being stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The assignment wants it to stop, or knows it no more.
    Unwanted,
    /// Its probes went on failing.
    Unhealthy,
}

/// How far an ordered stop is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopPhase {
    /// Out of our tables; waits until the network has been programmed at least up to this version.
    Withdrawn {
        /// The version of the tables.
        version: u64,
        /// Since when.
        at: Timestamp,
    },
    /// No connection is open any more, or the drain took too long.
    Drained,
    /// The stop signal was sent.
    Signalled {
        /// When.
        at: Timestamp,
    },
    /// SIGKILL was sent.
    Killed {
        /// When.
        at: Timestamp,
    },
}

/// An ordered stop under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopping {
    /// Why.
    pub(crate) cause: Cause,
    /// How far.
    pub(crate) phase: StopPhase,
}

/// How far the network is with a task that has begun to pass. It is told as passing when it can be reached, so that whoever hears
/// of it finds it at its names, virtual addresses and ports; or finds that a port is taken by another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reach {
    /// It leads there, or has nothing to do with it.
    #[default]
    There,
    /// The next tables lead there.
    NextTables,
    /// It leads there once it has been programmed up to this version.
    Tables(u64),
}

/// What this node knows of one task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TaskFacts {
    /// The run that runs, or is to be started next; 0 before anything was tried.
    pub(crate) run: u32,
    /// How far it is.
    pub(crate) phase: Phase,
    /// Runs in a row that ended, as the back-off counts them; begins with what the slot brought along.
    pub(crate) crashes: u32,
    /// New runs in a row by the restart policy.
    pub(crate) restarts: u32,
    /// How the last ended run ended.
    pub(crate) exit: Option<Exit>,
    /// Health of the run.
    pub(crate) health: Health,
    /// Since when.
    pub(crate) health_since: Option<Timestamp>,
    /// When the run started.
    pub(crate) started_at: Option<Timestamp>,
    /// Nothing is done for it before this moment: back-off.
    pub(crate) not_before: Option<Timestamp>,
    /// How it ended for good.
    pub(crate) verdict: Option<Verdict>,
    /// Why it is as it is, for people.
    pub(crate) reason: Option<String>,
    /// After its end: everything but its log was taken away.
    pub(crate) cleaned: bool,
    /// Ended runs that still have files.
    pub(crate) stale_runs: BTreeSet<u32>,
    /// Its last probe.
    pub(crate) probe: Option<ProbeResult>,
    /// Its addresses, also when it is not assigned any more.
    pub(crate) addresses: Vec<IpAddr>,

    /// Image and volumes are there.
    #[serde(skip)]
    pub(crate) prepared: bool,
    /// Failures in a row of preparing, wiring or starting, for their back-off.
    #[serde(skip)]
    pub(crate) failures: u32,
    /// Its network namespace is held and wired.
    #[serde(skip)]
    pub(crate) wired: bool,
    /// Whether the network leads to it since it passes.
    #[serde(skip)]
    pub(crate) reach: Reach,
    /// An ordered stop is under way.
    #[serde(skip)]
    pub(crate) stopping: Option<Stopping>,
    /// A step is under way.
    #[serde(skip)]
    pub(crate) pending: Option<Pending>,
    /// Probes say that it should be started anew.
    #[serde(skip)]
    pub(crate) unhealthy: bool,
    /// Bytes of its image.
    #[serde(skip)]
    pub(crate) progress: Option<PullProgress>,
    /// The newest sample of its cgroup.
    #[serde(skip)]
    pub(crate) usage: Option<Usage>,
}

/// A step under way, for reports and so that no second one is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Bringing image and volumes; the only step that is broken off when the task is not wanted any more.
    Prepare,
    /// Starting the container.
    Start,
    /// Any other.
    Other,
}

impl TaskFacts {
    /// A task that was just assigned.
    pub(crate) fn new(assigned: &AssignedTask) -> Self {
        Self { crashes: assigned.crashes, addresses: assigned.addresses.clone(), ..Self::default() }
    }

    /// Its container runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// It may get traffic, as far as this node knows.
    pub(crate) fn is_serving(&self) -> bool {
        self.is_running() && self.health == Health::Passing && self.stopping.is_none() && !self.unhealthy
    }

    /// Its health as others are told it: see [`Reach`].
    pub(crate) fn told_health(&self) -> Health {
        match (self.health, self.reach) {
            (Health::Passing, Reach::NextTables | Reach::Tables(_)) => Health::Unknown,
            (health, _) => health,
        }
    }

    /// Sets the health, remembering since when.
    pub(crate) fn set_health(&mut self, health: Health, now: Timestamp) {
        if self.health != health {
            self.health = health;
            self.health_since = Some(now);
        }
    }

    /// The container of the run has started.
    pub(crate) fn has_started(&mut self, pid: u32, stop_signal: i32, now: Timestamp) {
        self.phase = Phase::Running { pid, stop_signal };
        self.started_at = Some(now);
        self.health = Health::Unknown;
        self.health_since = Some(now);
        self.not_before = None;
        self.reason = None;
        self.probe = None;
        self.unhealthy = false;
        self.failures = 0;
    }

    /// The run has ended and `next` was decided.
    pub(crate) fn has_ended(&mut self, exit: Exit, next: Next, now: Timestamp) {
        self.phase = Phase::Idle;
        self.stale_runs.insert(self.run);
        self.exit = Some(exit);
        self.stopping = None;
        self.unhealthy = false;
        self.usage = None;
        self.set_health(Health::Unknown, now);
        match next {
            Next::Restart { at, crashes, restarts, reason } => {
                self.run += 1;
                (self.crashes, self.restarts, self.not_before) = (crashes, restarts, Some(at));
                self.started_at = None;
                self.reason = Some(reason);
            }
            Next::End { verdict, crashes, reason } => {
                self.crashes = crashes;
                self.not_before = None;
                self.conclude(verdict, reason);
            }
        }
    }

    /// The run has ended because it was asked to; once all is tidied up the task is `Stopped`.
    pub(crate) fn has_stopped(&mut self, exit: Exit, now: Timestamp) {
        self.phase = Phase::Idle;
        self.stale_runs.insert(self.run);
        self.exit = Some(exit);
        self.stopping = None;
        self.unhealthy = false;
        self.usage = None;
        self.cleaned = false;
        self.not_before = None;
        self.set_health(Health::Unknown, now);
    }

    /// Nothing of it but its log is left.
    pub(crate) fn has_been_cleaned(&mut self) {
        self.cleaned = true;
        self.stale_runs.clear();
        if self.verdict.is_none() {
            self.verdict = Some(Verdict::Stopped);
            self.reason = None;
        }
    }

    /// It has ended for good.
    pub(crate) fn conclude(&mut self, verdict: Verdict, reason: Option<String>) {
        self.verdict = Some(verdict);
        self.reason = reason;
        self.progress = None;
        self.cleaned = false;
    }
}

/// What adoption found out about the runs that the ledger believed to be running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It ended while no daemon was there; this is how.
    While(Exit),
    /// The host was restarted, or the runtime lost every trace of it.
    Lost(Exit),
}

/// Joins what the ledger remembers with the runs the runtime found. Returns the runs that have ended since, for the restart
/// policy to decide. Runs of tasks that the ledger does not know get facts too, so that the plan can remove them.
pub(crate) fn adopt(
    facts: &mut BTreeMap<TaskId, TaskFacts>,
    found: &[FoundRun],
    rebooted: bool,
    now: Timestamp,
) -> Vec<(TaskId, Ended)> {
    let mut ended = Vec::new();
    let mut newest: BTreeMap<TaskId, &FoundRun> = BTreeMap::new();
    for run in found {
        let task = facts.entry(run.task).or_default();
        if let Some(older) = newest.insert(run.task, run) {
            task.stale_runs.insert(older.run);
        }
    }
    for (id, task) in facts.iter_mut() {
        match newest.get(id) {
            Some(run) if run.run >= task.run => match &run.state {
                FoundState::Running { pid, stop_signal } => {
                    let (pid, stop_signal) = (*pid, *stop_signal);
                    if run.run > task.run || !task.is_running() {
                        // It was started and the daemon died before it wrote that down.
                        task.run = run.run;
                        task.has_started(pid, stop_signal, now);
                    }
                    task.phase = Phase::Running { pid, stop_signal };
                }
                FoundState::Ended(exit) => {
                    let unnoticed =
                        task.is_running() || run.run > task.run || task.exit.as_ref() != Some(exit);
                    task.run = task.run.max(run.run);
                    task.phase = Phase::Idle;
                    if unnoticed && task.verdict.is_none() {
                        ended.push((*id, Ended::While(exit.clone())));
                    } else {
                        task.stale_runs.insert(run.run);
                    }
                }
            },
            Some(older) => {
                task.stale_runs.insert(older.run);
                lost(*id, task, rebooted, now, &mut ended);
            }
            None => lost(*id, task, rebooted, now, &mut ended),
        }
    }
    ended
}

fn lost(id: TaskId, task: &mut TaskFacts, rebooted: bool, now: Timestamp, ended: &mut Vec<(TaskId, Ended)>) {
    if !task.is_running() {
        return;
    }
    let why = if rebooted { "the host was restarted" } else { "the runtime has lost its trace" };
    let exit = Exit {
        code: 137,
        signal: Some(9),
        oom: false,
        peak_memory: None,
        at: now,
        error: Some(why.to_owned()),
    };
    task.phase = Phase::Idle;
    ended.push((id, Ended::Lost(exit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(50_000);

    fn exit(code: i32) -> Exit {
        Exit { code, signal: None, oom: false, peak_memory: None, at: Timestamp(40_000), error: None }
    }

    fn running(run: u32) -> TaskFacts {
        let mut task = TaskFacts { run, ..TaskFacts::default() };
        task.has_started(100, 15, Timestamp(1_000));
        task.set_health(Health::Passing, Timestamp(2_000));
        task
    }

    fn found(task: u64, run: u32, state: FoundState) -> FoundRun {
        FoundRun { task: TaskId(task), run, state }
    }

    #[test]
    fn a_running_container_is_adopted_with_its_health_so_that_its_endpoint_stays() {
        let mut facts = BTreeMap::from([(TaskId(1), running(3))]);
        let runs = [found(1, 3, FoundState::Running { pid: 100, stop_signal: 15 })];
        assert!(adopt(&mut facts, &runs, false, NOW).is_empty());
        assert!(facts[&TaskId(1)].is_serving());
        assert_eq!(facts[&TaskId(1)].started_at, Some(Timestamp(1_000)));
    }

    #[test]
    fn an_exit_during_the_absence_of_the_daemon_is_noticed() {
        let mut facts = BTreeMap::from([(TaskId(1), running(3))]);
        let ended = adopt(&mut facts, &[found(1, 3, FoundState::Ended(exit(7)))], false, NOW);
        assert_eq!(ended, [(TaskId(1), Ended::While(exit(7)))]);
        assert!(!facts[&TaskId(1)].is_running());
    }

    #[test]
    fn a_run_that_started_just_before_the_daemon_died_is_adopted_without_health() {
        let mut facts = BTreeMap::from([(TaskId(1), TaskFacts { run: 1, ..TaskFacts::default() })]);
        let runs = [found(1, 1, FoundState::Running { pid: 9, stop_signal: 15 })];
        adopt(&mut facts, &runs, false, NOW);
        let task = &facts[&TaskId(1)];
        assert!(task.is_running() && task.health == Health::Unknown);
    }

    #[test]
    fn after_a_reboot_what_ran_is_lost_and_said_so() {
        let mut facts = BTreeMap::from([(TaskId(1), running(3)), (TaskId(2), TaskFacts::default())]);
        let ended = adopt(&mut facts, &[], true, NOW);
        assert_eq!(ended.len(), 1);
        assert!(matches!(&ended[0], (TaskId(1), Ended::Lost(exit)) if exit.describe().contains("restarted")));
    }

    #[test]
    fn an_unknown_run_gets_facts_and_older_runs_are_leftovers() {
        let mut facts = BTreeMap::new();
        let runs = [
            found(5, 1, FoundState::Ended(exit(1))),
            found(5, 2, FoundState::Running { pid: 9, stop_signal: 15 }),
        ];
        adopt(&mut facts, &runs, false, NOW);
        assert_eq!(facts[&TaskId(5)].run, 2);
        assert_eq!(facts[&TaskId(5)].stale_runs, BTreeSet::from([1]));
    }

    #[test]
    fn an_exit_that_was_decided_already_is_not_decided_again() {
        let mut task = running(3);
        task.has_ended(
            exit(7),
            Next::Restart { at: NOW, crashes: 1, restarts: 1, reason: String::new() },
            NOW,
        );
        let mut facts = BTreeMap::from([(TaskId(1), task.clone())]);
        assert!(adopt(&mut facts, &[found(1, 3, FoundState::Ended(exit(7)))], false, NOW).is_empty());
        assert_eq!(facts[&TaskId(1)], task);
    }
}
