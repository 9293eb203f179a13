//! From what is assigned and what is, to the next step of each task. Pure: no clock, no IO, no randomness.
//!
//! ```text
//!   run:   Prepare ─> Wire ─> Start ─> (probes) ─> ... exit ─> back-off ─> Start n+1
//!   stop:  Withdraw ─> (tables programmed) ─> Drain ─> Signal ─> (grace) ─> Kill ─> Unwire ─> Clean | Forget
//! ```
//! One step per task at a time, each idempotent. The decision is always made from the whole state, never from an event, so that
//! a daemon that died at any step goes on from what it finds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use carrack_api::defaults::{DRAIN_MAX, STOP_GRACE};
use carrack_api::{AssignedTask, Assignment, Desired, TaskId, TaskNetwork, Timestamp};

use crate::facts::{Cause, Pending, Phase, StopPhase, Stopping, TaskFacts};

/// A SIGKILL that ended nothing is repeated after this time.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// Something to do for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Bring image and volumes.
    Prepare,
    /// Break off the preparation that is under way.
    CancelPrepare,
    /// Ensure namespace, link and address; of the running container when there is one.
    Wire {
        /// The address.
        address: IpAddr,
        /// First process of the running container.
        pid: Option<u32>,
    },
    /// Start this run.
    Start {
        /// Its number.
        run: u32,
    },
    /// Take its endpoint out of the tables: the begin of an ordered stop.
    Withdraw(Cause),
    /// Wait until no connection to it is open, then forget its flows.
    Drain {
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Most time left for it.
        most: Duration,
    },
    /// Send the stop signal.
    Signal {
        /// The run.
        run: u32,
        /// The signal.
        signal: i32,
    },
    /// Kill it.
    Kill {
        /// The run.
        run: u32,
    },
    /// Take away an ended run.
    RemoveRun {
        /// The run.
        run: u32,
    },
    /// Take link and namespace away.
    Unwire,
    /// Take everything away but the log.
    Clean,
    /// Take everything away.
    Forget,
    /// It cannot be run: the assignment contradicts itself.
    Reject,
}

/// A step with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// For which task.
    pub(crate) task: TaskId,
    /// What.
    pub(crate) action: Action,
    /// Why, for people.
    pub(crate) reason: String,
}

/// What is to be done now, and when to plan again at the latest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// At most one step a task.
    pub(crate) steps: Vec<Step>,
    /// The first moment at which waiting alone changes something.
    pub(crate) wake_at: Option<Timestamp>,
}

/// What the plan needs to know beside assignment and facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct World {
    /// Version of the tables that the kernel holds.
    pub(crate) programmed: u64,
    /// The network can wire.
    pub(crate) network_ready: bool,
    /// The moment.
    pub(crate) now: Timestamp,
}

/// Plans all tasks. Tasks of the assignment without facts are new ones the caller has not entered yet and are left out.
pub(crate) fn plan(assignment: &Assignment, facts: &BTreeMap<TaskId, TaskFacts>, world: World) -> Plan {
    let mut plan = Plan::default();
    for (id, task) in facts {
        let case = Case {
            assigned: assignment.tasks.get(id),
            kept: assignment.tasks.contains_key(id) || assignment.retained.contains(id),
            facts: task,
            world,
        };
        match case.decide() {
            Decision::Do(action, reason) => {
                plan.steps.push(Step { task: *id, action, reason: reason.into_owned() });
            }
            Decision::Until(at) => plan.wake_at = Some(plan.wake_at.map_or(at, |first| first.min(at))),
            Decision::Nothing => {}
        }
    }
    plan
}

enum Decision {
    Do(Action, std::borrow::Cow<'static, str>),
    Until(Timestamp),
    Nothing,
}

fn act(action: Action, reason: impl Into<std::borrow::Cow<'static, str>>) -> Decision {
    Decision::Do(action, reason.into())
}

/// One task, seen from all sides.
struct Case<'a> {
    assigned: Option<&'a AssignedTask>,
    kept: bool,
    facts: &'a TaskFacts,
    world: World,
}

impl Case<'_> {
    fn decide(&self) -> Decision {
        let wanted = self.assigned.is_some_and(|task| task.desired == Desired::Run);
        if let Some(pending) = self.facts.pending {
            return match pending {
                Pending::Prepare if !wanted => act(Action::CancelPrepare, self.unwanted()),
                Pending::Prepare | Pending::Start | Pending::Other => Decision::Nothing,
            };
        }
        match (&self.facts.phase, &self.facts.stopping) {
            (Phase::Running { stop_signal, .. }, Some(stopping)) => self.stop(stopping, *stop_signal),
            (Phase::Running { pid, .. }, None) => self.keep_running(wanted, *pid),
            (Phase::Idle, _) if self.facts.verdict.is_some() || !wanted => self.tidy(),
            (Phase::Idle, _) => self.start(),
        }
    }

    fn keep_running(&self, wanted: bool, pid: u32) -> Decision {
        if !wanted {
            return act(Action::Withdraw(Cause::Unwanted), self.unwanted());
        }
        if self.facts.unhealthy {
            return act(Action::Withdraw(Cause::Unhealthy), "its probes go on failing");
        }
        if let Some(address) = self.address()
            && !self.facts.wired
            && self.world.network_ready
        {
            if let Some(at) = self.backing_off() {
                return Decision::Until(at);
            }
            return act(Action::Wire { address, pid: Some(pid) }, "its container runs without our link");
        }
        match self.facts.stale_runs.first() {
            Some(run) => act(Action::RemoveRun { run: *run }, "a newer run has taken its place"),
            None => Decision::Nothing,
        }
    }

    fn start(&self) -> Decision {
        if let Some(at) = self.backing_off() {
            return Decision::Until(at);
        }
        if !self.facts.prepared {
            return act(Action::Prepare, "assigned");
        }
        match (self.address(), self.needs_address()) {
            (None, true) => return act(Action::Reject, "its assignment has networks but no address"),
            (Some(_), _) if !self.facts.wired && !self.world.network_ready => return Decision::Nothing,
            (Some(address), _) if !self.facts.wired => {
                return act(Action::Wire { address, pid: None }, "its container needs its network first");
            }
            (Some(_) | None, _) => {}
        }
        let run = self.facts.run.max(1);
        let reason = match (&self.facts.exit, run) {
            (Some(exit), 2..) => format!("the run before it ended: {}", exit.describe()).into(),
            (_, _) => std::borrow::Cow::Borrowed("assigned"),
        };
        act(Action::Start { run }, reason)
    }

    fn stop(&self, stopping: &Stopping, signal: i32) -> Decision {
        let run = self.facts.run;
        match stopping.phase {
            StopPhase::Withdrawn { version, at } => {
                let networked = !self.facts.addresses.is_empty();
                let give_up = at.after(DRAIN_MAX);
                if networked && self.world.programmed < version && self.world.now < give_up {
                    return Decision::Until(give_up);
                }
                let left = DRAIN_MAX.saturating_sub(self.world.now.since(at));
                if networked && stopping.cause == Cause::Unwanted && !left.is_zero() {
                    let addresses = self.facts.addresses.clone();
                    return act(
                        Action::Drain { addresses, most: left },
                        "its open connections may end first",
                    );
                }
                act(Action::Signal { run, signal }, "nothing leads to it any more")
            }
            StopPhase::Drained => act(Action::Signal { run, signal }, "drained"),
            StopPhase::Signalled { at } => {
                let grace =
                    self.assigned.and_then(|task| task.spec.container.stop_grace).unwrap_or(STOP_GRACE);
                self.kill_after(at.after(grace), "the grace period is over")
            }
            StopPhase::Killed { at } => self.kill_after(at.after(KILL_AGAIN), "it outlived SIGKILL"),
        }
    }

    fn kill_after(&self, deadline: Timestamp, reason: &'static str) -> Decision {
        if self.world.now < deadline {
            return Decision::Until(deadline);
        }
        act(Action::Kill { run: self.facts.run }, reason)
    }

    fn tidy(&self) -> Decision {
        if let Some(at) =
            self.backing_off().filter(|_| self.facts.verdict.is_some() || self.facts.failures > 0)
        {
            return Decision::Until(at);
        }
        if self.facts.wired {
            return act(Action::Unwire, "it has ended");
        }
        if !self.kept {
            return act(Action::Forget, "it is neither assigned nor retained");
        }
        if self.facts.cleaned {
            return Decision::Nothing;
        }
        act(Action::Clean, if self.facts.verdict.is_some() { "it has ended".into() } else { self.unwanted() })
    }

    fn backing_off(&self) -> Option<Timestamp> {
        self.facts.not_before.filter(|at| self.world.now < *at)
    }

    fn address(&self) -> Option<IpAddr> {
        self.facts.addresses.first().copied()
    }

    fn needs_address(&self) -> bool {
        self.assigned.is_some_and(|task| matches!(task.spec.network, TaskNetwork::Networks(_)))
    }

    fn unwanted(&self) -> std::borrow::Cow<'static, str> {
        let known = self.assigned.is_some();
        if known { "it was asked to stop".into() } else { "it is not assigned any more".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Verdict;
    use crate::testing::{assigned, assignment, exit};
    use carrack_api::Health;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn world() -> World {
        World { programmed: 10, network_ready: true, now: NOW }
    }

    /// The only step for task 1 with this wish and these facts.
    fn step(desired: Option<Desired>, facts: &TaskFacts) -> Option<Action> {
        step_in(desired, facts, world())
    }

    fn step_in(desired: Option<Desired>, facts: &TaskFacts, world: World) -> Option<Action> {
        let tasks = desired.map(|desired| AssignedTask { desired, ..assigned("web", 1) });
        let assignment = assignment(1, tasks.map(|task| (TaskId(1), task)).into_iter().collect());
        let mut steps = plan(&assignment, &BTreeMap::from([(TaskId(1), facts.clone())]), world).steps;
        assert!(steps.len() <= 1);
        steps.pop().map(|step| step.action)
    }

    fn fresh() -> TaskFacts {
        TaskFacts::new(&assigned("web", 1))
    }

    fn running() -> TaskFacts {
        let mut facts = TaskFacts { run: 1, prepared: true, wired: true, ..fresh() };
        facts.has_started(100, 15, Timestamp(1));
        facts.set_health(Health::Passing, Timestamp(2));
        facts
    }

    fn stopping(phase: StopPhase) -> TaskFacts {
        TaskFacts { stopping: Some(Stopping { cause: Cause::Unwanted, phase }), ..running() }
    }

    #[test]
    fn a_new_task_is_prepared_then_wired_then_started() {
        let mut facts = fresh();
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Prepare));
        facts.prepared = true;
        let address = facts.addresses[0];
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Wire { address, pid: None }));
        facts.wired = true;
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Start { run: 1 }));
    }

    #[test]
    fn a_running_task_that_is_wanted_needs_nothing() {
        assert_eq!(step(Some(Desired::Run), &running()), None);
    }

    #[test]
    fn while_a_step_is_under_way_no_other_is_begun() {
        let facts = TaskFacts { pending: Some(Pending::Other), ..fresh() };
        assert_eq!(step(Some(Desired::Run), &facts), None);
        assert_eq!(step(None, &facts), None);
    }

    #[test]
    fn a_preparation_is_broken_off_when_the_task_is_not_wanted_any_more() {
        let facts = TaskFacts { pending: Some(Pending::Prepare), ..fresh() };
        assert_eq!(step(Some(Desired::Run), &facts), None);
        assert_eq!(step(Some(Desired::Stop), &facts), Some(Action::CancelPrepare));
    }

    #[test]
    fn nothing_is_started_before_its_back_off_is_over_and_the_plan_says_when() {
        let facts = TaskFacts {
            run: 2,
            prepared: true,
            wired: true,
            not_before: Some(Timestamp(NOW.0 + 70)),
            ..fresh()
        };
        let assignment = assignment(1, BTreeMap::from([(TaskId(1), assigned("web", 1))]));
        let plan = plan(&assignment, &BTreeMap::from([(TaskId(1), facts)]), world());
        assert_eq!(plan, Plan { steps: vec![], wake_at: Some(Timestamp(NOW.0 + 70)) });
    }

    #[test]
    fn a_stop_waits_for_the_tables_drains_signals_and_kills_after_the_grace() {
        assert_eq!(step(Some(Desired::Stop), &running()), Some(Action::Withdraw(Cause::Unwanted)));
        assert_eq!(step(Some(Desired::Stop), &stopping(StopPhase::Withdrawn { version: 11, at: NOW })), None);
        assert_eq!(
            step(Some(Desired::Stop), &stopping(StopPhase::Withdrawn { version: 10, at: NOW })),
            Some(Action::Drain { addresses: fresh().addresses, most: DRAIN_MAX })
        );
        assert_eq!(
            step(Some(Desired::Stop), &stopping(StopPhase::Drained)),
            Some(Action::Signal { run: 1, signal: 15 })
        );
        assert_eq!(step(Some(Desired::Stop), &stopping(StopPhase::Signalled { at: NOW })), None);
        let long_ago = Timestamp(NOW.0 - 10_000);
        assert_eq!(
            step(Some(Desired::Stop), &stopping(StopPhase::Signalled { at: long_ago })),
            Some(Action::Kill { run: 1 })
        );
        assert_eq!(step(Some(Desired::Stop), &stopping(StopPhase::Killed { at: NOW })), None);
        assert_eq!(
            step(Some(Desired::Stop), &stopping(StopPhase::Killed { at: long_ago })),
            Some(Action::Kill { run: 1 })
        );
    }

    #[test]
    fn a_network_that_cannot_be_programmed_holds_a_stop_no_longer_than_a_drain() {
        let at = Timestamp(NOW.0 - 30_000);
        let facts = stopping(StopPhase::Withdrawn { version: 11, at });
        assert_eq!(step(Some(Desired::Stop), &facts), Some(Action::Signal { run: 1, signal: 15 }));
    }

    #[test]
    fn a_task_without_an_address_has_nothing_to_drain() {
        let mut facts = stopping(StopPhase::Withdrawn { version: 11, at: NOW });
        facts.addresses.clear();
        assert_eq!(step(Some(Desired::Stop), &facts), Some(Action::Signal { run: 1, signal: 15 }));
    }

    #[test]
    fn an_unhealthy_task_is_stopped_without_a_drain() {
        let facts = TaskFacts { unhealthy: true, ..running() };
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Withdraw(Cause::Unhealthy)));
        let phase = StopPhase::Withdrawn { version: 10, at: NOW };
        let facts = TaskFacts { stopping: Some(Stopping { cause: Cause::Unhealthy, phase }), ..facts };
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Signal { run: 1, signal: 15 }));
    }

    #[test]
    fn what_has_ended_is_unwired_then_cleaned_and_its_log_is_kept_while_it_is_assigned() {
        let mut facts = running();
        facts.phase = Phase::Idle;
        facts.conclude(Verdict::Failed, None);
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Unwire));
        facts.wired = false;
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Clean));
        facts.cleaned = true;
        assert_eq!(step(Some(Desired::Run), &facts), None);
        assert_eq!(step(Some(Desired::Stop), &facts), None);
    }

    #[test]
    fn retained_tasks_keep_their_log_and_others_are_forgotten() {
        let mut facts = fresh();
        facts.conclude(Verdict::Completed, None);
        facts.cleaned = true;
        assert_eq!(step(None, &facts), Some(Action::Forget));
        let mut kept = assignment(1, BTreeMap::new());
        kept.retained.insert(TaskId(1));
        assert_eq!(plan(&kept, &BTreeMap::from([(TaskId(1), facts)]), world()), Plan::default());
    }

    #[test]
    fn a_running_container_nobody_assigned_is_stopped_in_order_and_forgotten() {
        assert_eq!(step(None, &running()), Some(Action::Withdraw(Cause::Unwanted)));
    }

    #[test]
    fn a_task_asked_to_stop_before_it_ran_is_cleaned_at_once_despite_its_back_off() {
        let facts = TaskFacts { not_before: Some(Timestamp(NOW.0 + 9_000)), ..fresh() };
        assert_eq!(step(Some(Desired::Stop), &facts), Some(Action::Clean));
    }

    #[test]
    fn an_adopted_container_is_wired_again_by_its_process() {
        let facts = TaskFacts { wired: false, ..running() };
        let address = facts.addresses[0];
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::Wire { address, pid: Some(100) }));
        let waiting = World { network_ready: false, ..world() };
        assert_eq!(step_in(Some(Desired::Run), &facts, waiting), None);
    }

    #[test]
    fn files_of_ended_runs_go_once_the_next_run_is_up() {
        let mut facts = running();
        facts.stale_runs.insert(1);
        facts.run = 2;
        assert_eq!(step(Some(Desired::Run), &facts), Some(Action::RemoveRun { run: 1 }));
    }

    #[test]
    fn a_step_says_why() {
        let mut facts = TaskFacts { run: 2, prepared: true, wired: true, ..fresh() };
        facts.exit = Some(exit(3));
        let assignment = assignment(1, BTreeMap::from([(TaskId(1), assigned("web", 1))]));
        let plan = plan(&assignment, &BTreeMap::from([(TaskId(1), facts)]), world());
        assert_eq!(plan.steps[0].reason, "the run before it ended: exit code 3");
    }
}
