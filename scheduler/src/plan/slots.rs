//! Slots of each service: filled, emptied and moved to the newest template, as many at a time as the update policy allows.
//!
//! ```text
//!   slot:  empty --create--> new                                          (first tasks, scale-out, replacement)
//!          old --create--> old+new --new passing: stop old--> new        (start-first)
//!          old --stop--> stopping --ended--> empty --create--> new       (stop-first)
//! ```
//! A slot with a task on a node that was not heard in this epoch is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use carrack_api::defaults::{RESTART_BACKOFF_MAX, UPDATE_PARALLELISM};
use carrack_api::{Desired, NodeId, ServiceKey, ServiceMode, ServiceSpec, TaskState, Timestamp, UpdateOrder};

use super::create::{self, New};
use super::draft::Draft;
use super::gate;
use super::observe::Observed;
use super::rollout::{self, Failing, Scene};
use crate::store::{Object, Op, RolloutVerdict, ServiceRecord, TaskRecord, Verdict};

/// A task that ended unasked and is replaced on the spot is not replaced sooner than this.
const REPLACE_DELAY: Duration = Duration::from_secs(1);

/// Decides for all wanted services.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let keys: Vec<ServiceKey> = draft.state.services.values().map(|s| s.key.clone()).collect();
    for key in keys {
        let Some(record) = draft.state.services.get(&key).map(|s| ServiceRecord::clone(s)) else { continue };
        let Some(spec) = draft.state.wanted_spec(&key).cloned() else { continue };
        let Some(deploy) = draft.state.stacks.get(&key.stack).map(|s| s.deploy) else { continue };
        let mut turn = Turn { key, record, spec, deploy };
        if draft.state.is_stopped(&turn.key) {
            turn.rest(draft);
        } else if turn.open(draft) {
            turn.judge(draft);
            turn.slots(draft);
        }
    }
}

/// One service in one turn of the loop.
struct Turn {
    key: ServiceKey,
    record: ServiceRecord,
    spec: ServiceSpec,
    deploy: u64,
}

/// A slot as it is.
#[derive(Debug, Default)]
struct Slot {
    /// Wanted live tasks.
    run: Vec<TaskRecord>,
    /// Live tasks on their way out.
    stopping: Vec<TaskRecord>,
    /// The newest ended task.
    ended: Option<TaskRecord>,
    /// A task of it is on a node that was not heard.
    unknown: bool,
}

impl Turn {
    /// The service is stopped: its tasks go, and those that failed by themselves count as stopped, so that a start tries again.
    /// What has completed stays completed. What needs it and is stopped, too, goes first.
    fn rest(&self, draft: &mut Draft<'_>) {
        let tasks = draft.tasks(&self.key);
        let held = tasks.iter().any(TaskRecord::is_wanted)
            && gate::stops_after(&draft.state, draft.observations, &self.key).is_some();
        for mut task in tasks.into_iter().rev().filter(|t| t.desired == Desired::Run) {
            if task.is_live() {
                if !held && heard(draft, &task) {
                    stop(draft, task, "its service is stopped");
                }
            } else if task.final_state() != Some(TaskState::Completed) {
                let subject = format!("{} {}", task.slot_key(), task.id);
                task.desired = Desired::Stop;
                draft.push(super::BOOK, subject, "its service is stopped", Op::Put(Object::Task(task)));
            }
        }
    }

    /// The first task may be made: dependencies have come far enough once.
    fn open(&mut self, draft: &mut Draft<'_>) -> bool {
        if self.record.started {
            return true;
        }
        if gate::waits_for(&draft.state, draft.observations, &self.key.stack, &self.spec).is_some() {
            return false;
        }
        self.record.started = true;
        draft.service("its dependencies have come far enough", self.record.clone());
        true
    }

    /// Gives the rollout up when it has failed.
    fn judge(&mut self, draft: &mut Draft<'_>) {
        if self.record.failed.is_some() {
            return;
        }
        let tasks = draft.tasks(&self.key);
        let scene = self.scene(draft, &tasks);
        let (judgement, has_older) = (scene.judge(draft.now), scene.has_older());
        if let Some(at) = judgement.ask_again {
            draft.wake(at);
        }
        let Some(reason) = judgement.failure else { return };
        let rest = if has_older { "the older tasks serve on" } else { "nothing older could serve" };
        let message = format!("the rollout of {} failed: {reason}; {rest}", self.key);
        draft.event("rollout.failed", &self.key, message, None);
        let verdict = RolloutVerdict {
            deploy: self.deploy,
            template: self.record.template,
            reason: reason.clone(),
            at: draft.now,
        };
        self.record.failed = Some(verdict);
        draft.service(format!("its rollout failed: {reason}"), self.record.clone());
    }

    fn scene<'a>(&'a self, draft: &Draft<'a>, tasks: &'a [TaskRecord]) -> Scene<'a> {
        Scene {
            record: &self.record,
            spec: &self.spec,
            deploy: self.deploy,
            tasks,
            observations: draft.observations,
        }
    }

    fn slots(&mut self, draft: &mut Draft<'_>) {
        let tasks = draft.tasks(&self.key);
        let wanted = self.wanted(draft, &tasks);
        let mut slots = group(draft, tasks.clone());
        for slot in wanted.keys() {
            slots.entry(*slot).or_default();
        }
        let replicas = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let (order, why) = rollout::order(&self.spec, replicas);
        let mut flight = self.in_flight(draft, &slots, &wanted);
        // Highest slots go first when there are too many.
        for (number, slot) in slots.iter().rev().filter(|(number, _)| !wanted.contains_key(number)) {
            let reason = format!("slot {number} is surplus, {replicas} wanted");
            slot.run
                .iter()
                .filter(|t| heard(draft, t))
                .cloned()
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|t| stop(draft, t, &reason));
        }
        for (number, only) in &wanted {
            let Some(slot) = slots.get(number).filter(|s| !s.unknown) else { continue };
            let place = Place { number: *number, only: only.clone(), replicas, order, why };
            if slot.run.is_empty() {
                self.fill(draft, slot, &place);
            } else if self.record.failed.is_some() {
                self.fall_back(draft, slot);
            } else {
                self.step(draft, slot, &place, &mut flight);
            }
        }
        self.converge(draft, &wanted);
    }

    /// Slots wanted, each with the only node it may be on when the service is global.
    fn wanted(&self, draft: &Draft<'_>, tasks: &[TaskRecord]) -> BTreeMap<u32, Option<NodeId>> {
        if self.spec.mode != ServiceMode::Global {
            let replicas = rollout::wanted_replicas(&draft.state, &self.key).unwrap_or(0);
            return (1..=replicas).map(|slot| (slot, None)).collect();
        }
        let mut by_node: BTreeMap<NodeId, u32> = BTreeMap::new();
        for task in tasks {
            if let Some(node) = &task.node {
                by_node.insert(node.clone(), task.slot);
            }
        }
        let mut used: BTreeSet<u32> = by_node.values().copied().collect();
        let mut wanted = BTreeMap::new();
        for node in draft.state.nodes.values().map(|n| n.info.id.clone()) {
            let known = by_node.get(&node).copied();
            let keeps =
                known.is_some() && tasks.iter().any(|t| t.is_wanted() && t.node.as_ref() == Some(&node));
            let fits = !draft.observations.heard(&node)
                || keeps
                || create::choose(draft, &self.key, &self.spec, Some(node.clone()), None).is_ok();
            if !fits {
                continue;
            }
            let slot = known.or_else(|| (1..).find(|slot| !used.contains(slot)));
            if let Some(slot) = slot {
                used.insert(slot);
                wanted.insert(slot, Some(node));
            }
        }
        wanted
    }

    /// Slots that are between old and new.
    fn in_flight(
        &self,
        draft: &Draft<'_>,
        slots: &BTreeMap<u32, Slot>,
        wanted: &BTreeMap<u32, Option<NodeId>>,
    ) -> usize {
        let template = self.record.template;
        let any_old = slots.values().any(|s| s.run.iter().any(|t| t.revision != template));
        if !any_old {
            return 0;
        }
        let flies = |slot: &Slot| {
            let new: Vec<&TaskRecord> = slot.run.iter().filter(|t| t.revision == template).collect();
            let new_waits = !new.is_empty() && !new.iter().any(|t| draft.observed(t).is_passing());
            let done = slot
                .ended
                .as_ref()
                .is_some_and(|t| t.revision == template && t.final_state() == Some(TaskState::Completed));
            let both = new.len() < slot.run.len() && !new.is_empty();
            new_waits || (slot.run.is_empty() && !done) || both
        };
        slots.iter().filter(|(number, slot)| wanted.contains_key(number) && flies(slot)).count()
    }

    /// An empty slot: a new task, unless the slot is done or has to wait.
    fn fill(&self, draft: &mut Draft<'_>, slot: &Slot, place: &Place) {
        if place.order == UpdateOrder::StopFirst && !slot.stopping.is_empty() {
            return;
        }
        let template = match self.record.failed {
            Some(_) => self.record.converged,
            None => Some(self.record.template),
        };
        let Some(template) = template else { return };
        let mut crashes = 0;
        if let Some((ended, verdict)) = slot.ended.as_ref().and_then(|t| Some((t, t.verdict.as_ref()?)))
            && ended.revision == template
            && ended.desired == Desired::Run
        {
            match self.after_end(ended, verdict) {
                AfterEnd::Done => return,
                AfterEnd::Replace(delay) => {
                    let at = verdict.at.after(delay);
                    if draft.now < at {
                        return draft.wake(at);
                    }
                    crashes = verdict.crashes;
                }
            }
        }
        let reason = format!("slot {} of {} is empty", place.number, place.replicas);
        self.create(draft, place, template, crashes, reason);
    }

    /// What follows the end of a task that nobody asked to stop.
    fn after_end(&self, ended: &TaskRecord, verdict: &Verdict) -> AfterEnd {
        match verdict.state {
            TaskState::Completed => AfterEnd::Done,
            // Its restart policy forbids a further run; a new deploy is a new try.
            TaskState::Failed if ended.deploy == self.deploy => AfterEnd::Done,
            TaskState::Rejected => AfterEnd::Replace(RESTART_BACKOFF_MAX),
            TaskState::Failed
            | TaskState::Stopped
            | TaskState::Lost
            | TaskState::Pending
            | TaskState::Placed
            | TaskState::Preparing
            | TaskState::Starting
            | TaskState::Running => AfterEnd::Replace(REPLACE_DELAY),
        }
    }

    /// The rollout failed: new tasks that do not serve make room for the old.
    fn fall_back(&self, draft: &mut Draft<'_>, slot: &Slot) {
        if self.record.converged.is_none() && !slot.run.iter().any(|t| t.revision != self.record.template) {
            return;
        }
        let (new, old): (Vec<_>, Vec<_>) = slot.run.iter().partition(|t| t.revision == self.record.template);
        let serves = |t: &&&TaskRecord| draft.observed(t).is_passing();
        if new.iter().any(|t| serves(&t)) {
            old.into_iter().cloned().for_each(|t| stop(draft, t, "a newer task of the slot is passing"));
            return;
        }
        for task in new {
            let hopeless = match draft.observed(task) {
                Observed::Reported(report) => {
                    matches!(rollout::failing(task, report, &self.spec, draft.now), Failing::Yes(_))
                }
                Observed::Pending | Observed::Unknown | Observed::Placed | Observed::Gone => false,
            };
            if hopeless || !old.is_empty() {
                stop(draft, task.clone(), "its rollout failed");
            }
        }
    }

    /// A slot with tasks, while the rollout goes on.
    fn step(&self, draft: &mut Draft<'_>, slot: &Slot, place: &Place, flight: &mut usize) {
        let (new, mut old): (Vec<_>, Vec<_>) =
            slot.run.iter().partition(|t| t.revision == self.record.template);
        // A deploy in the middle of a rollout leaves two older tasks: the one that serves stays.
        old.sort_by_key(|t| (!draft.observed(t).is_passing(), t.id));
        for extra in old.drain(1.min(old.len())..) {
            stop(draft, extra.clone(), "a newer deploy replaces it before it served");
        }
        if old.is_empty() {
            // More than one current task in a slot is nothing anyone asked for: the newest goes.
            new.iter().skip(1).for_each(|t| stop(draft, TaskRecord::clone(t), "the slot has a task already"));
            return;
        }
        if !new.is_empty() {
            if new.iter().any(|t| draft.observed(t).is_passing()) {
                old.into_iter().cloned().for_each(|t| stop(draft, t, "the new task of the slot is passing"));
            }
            return;
        }
        let serves = old.iter().any(|t| draft.observed(t).is_passing());
        let parallel = self.spec.update.parallelism.unwrap_or(UPDATE_PARALLELISM) as usize;
        if serves && (*flight >= parallel || self.pauses(draft)) {
            return;
        }
        *flight += usize::from(serves);
        let fits =
            |without| create::choose(draft, &self.key, &self.spec, place.only.clone(), without).is_ok();
        let crowded = old.first().is_some_and(|t| !fits(None) && fits(Some(*t)));
        if place.order == UpdateOrder::StopFirst || crowded {
            let why = if crowded { "there is no room for both" } else { place.why };
            let reason = format!("revision {} replaces it, old before new: {why}", self.record.template);
            old.into_iter().cloned().for_each(|t| stop(draft, t, &reason));
        } else {
            let reason = format!("replaces revision {} in slot {}", old[0].revision, place.number);
            self.create(draft, place, self.record.template, 0, reason);
        }
    }

    /// The update policy's delay since the last new task passed is not over.
    fn pauses(&self, draft: &mut Draft<'_>) -> bool {
        let Some(delay) = self.spec.update.delay.filter(|d| !d.is_zero()) else { return false };
        let last: Option<Timestamp> = draft
            .tasks(&self.key)
            .iter()
            .filter(|t| t.is_wanted() && t.revision == self.record.template)
            .filter_map(|t| draft.observed(t).report().and_then(|r| r.health_since))
            .max();
        let Some(at) = last.map(|l| l.after(delay)).filter(|at| draft.now < *at) else { return false };
        draft.wake(at);
        true
    }

    fn create(&self, draft: &mut Draft<'_>, place: &Place, revision: u64, crashes: u32, reason: String) {
        let new = New {
            service: &self.key,
            slot: place.number,
            only: place.only.clone(),
            revision,
            deploy: self.deploy,
            crashes,
            reason,
        };
        create::create(draft, new);
    }

    /// Remembers that all slots have passed with the newest template.
    fn converge(&mut self, draft: &mut Draft<'_>, wanted: &BTreeMap<u32, Option<NodeId>>) {
        if self.record.converged == Some(self.record.template) || self.record.failed.is_some() {
            return;
        }
        let tasks = draft.tasks(&self.key);
        if !wanted.keys().all(|slot| self.is_done(draft, &tasks, *slot)) {
            return;
        }
        let scene = self.scene(draft, &tasks);
        let watched =
            tasks.iter().filter(|t| t.is_wanted()).filter_map(|t| scene.watched_until(t, draft.now)).max();
        if let Some(at) = watched {
            return draft.wake(at);
        }
        self.record.converged = Some(self.record.template);
        let message = format!("{} runs revision {}", self.key, self.record.template);
        draft.event("rollout.done", &self.key, message, None);
        draft.service("all its slots have passed", self.record.clone());
    }

    fn is_done(&self, draft: &Draft<'_>, tasks: &[TaskRecord], slot: u32) -> bool {
        let of_slot = || tasks.iter().filter(|t| t.slot == slot);
        let old = of_slot().any(|t| t.is_wanted() && t.revision != self.record.template);
        let current =
            of_slot().filter(|t| t.revision == self.record.template && t.desired == Desired::Run).any(|t| {
                t.final_state() == Some(TaskState::Completed)
                    || (t.is_live() && draft.observed(t).is_passing())
            });
        current && !old
    }
}

/// Where in the service a slot stands.
struct Place {
    number: u32,
    only: Option<NodeId>,
    replicas: u32,
    order: UpdateOrder,
    why: &'static str,
}

enum AfterEnd {
    /// The slot is satisfied or given up.
    Done,
    /// A new task, not sooner than this after the end.
    Replace(Duration),
}

fn group(draft: &Draft<'_>, tasks: Vec<TaskRecord>) -> BTreeMap<u32, Slot> {
    let mut slots: BTreeMap<u32, Slot> = BTreeMap::new();
    for task in tasks {
        let slot = slots.entry(task.slot).or_default();
        slot.unknown |= task.is_live() && !heard(draft, &task);
        if task.is_wanted() {
            slot.run.push(task);
        } else if task.is_live() {
            slot.stopping.push(task);
        } else {
            slot.ended = Some(task);
        }
    }
    slots
}

fn heard(draft: &Draft<'_>, task: &TaskRecord) -> bool {
    draft.observed(task) != Observed::Unknown
}

fn stop(draft: &mut Draft<'_>, mut task: TaskRecord, reason: &str) {
    task.desired = Desired::Stop;
    draft.task("stop", reason, task);
}
