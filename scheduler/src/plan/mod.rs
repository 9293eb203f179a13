//! The cluster loop's decision: `plan(snapshot, observations, now, seed)` is a value that says what to change and why.
//!
//! ```text
//!   nodes -> verdicts -> services (records, VIPs, ports) -> slots (replicas, rollout) -> runs -> pending -> history
//! ```
//! Pure: no clock, no IO, no randomness. Each part sees what the parts before it decided. Owns every change of durable state
//! that no user asked for directly.

pub(crate) mod address;
pub(crate) mod check;
mod create;
mod draft;
pub(crate) mod gate;
mod history;
mod nodes;
pub(crate) mod observe;
pub(crate) mod ports;
pub(crate) mod rollout;
mod runs;
mod services;
mod slots;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use carrack_api::{StackName, TaskId, Timestamp};

pub(crate) use create::volumes;
pub(crate) use draft::{Draft, slot_name};
pub(crate) use observe::{NodeObservation, Observations, Observed};
pub(crate) use verdicts::describe;

use crate::store::{Key, Object, Op, Snapshot, TXN_MAX_OPS, Txn};

/// The verb of bookkeeping that the steps beside it tell already; it is not rendered.
pub(crate) const BOOK: &str = "book";

/// One change and its reason. Renders as `create hello/web.1 t3: slot 1 of 3 is empty`.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) verb: &'static str,
    pub(crate) subject: String,
    pub(crate) reason: String,
    pub(crate) op: Op,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.verb, self.subject, self.reason)
    }
}

/// Something that happened once the plan is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventDraft {
    pub(crate) kind: &'static str,
    pub(crate) subject: String,
    pub(crate) message: String,
    pub(crate) task: Option<TaskId>,
    pub(crate) run: Option<u32>,
}

impl EventDraft {
    /// Of no task.
    pub(crate) fn new(kind: &'static str, subject: impl ToString, message: String) -> Self {
        Self { kind, subject: subject.to_string(), message, task: None, run: None }
    }
}

/// What to change, in order.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) events: Vec<EventDraft>,
    /// A decision depends on time: plan again at this moment.
    pub(crate) wake_at: Option<Timestamp>,
    /// The state with all changes, for the linter.
    pub(crate) after: Snapshot,
}

/// Decides what to change now.
pub(crate) fn plan(snapshot: &Snapshot, observations: &Observations, now: Timestamp, seed: u64) -> Plan {
    let mut draft = Draft::new(snapshot.clone(), observations, now, seed);
    nodes::plan(&mut draft);
    verdicts::plan(&mut draft);
    draft.count_occupancy();
    services::plan(&mut draft);
    slots::plan(&mut draft);
    runs::plan(&mut draft);
    create::place_pending(&mut draft);
    history::plan(&mut draft);
    Plan { steps: draft.steps, events: draft.events, wake_at: draft.wake_at, after: draft.state }
}

impl Plan {
    /// The changes as transactions of which every prefix is a legal state. Each expects the objects it writes, and the stacks
    /// they belong to, as they were in `base`.
    pub(crate) fn txns(&self, base: &Snapshot) -> Vec<Txn> {
        let mut order: Vec<Key> = Vec::new();
        let mut last: BTreeMap<Key, &Op> = BTreeMap::new();
        for step in &self.steps {
            let key = step.op.key();
            if last.insert(key.clone(), &step.op).is_none() {
                order.push(key);
            }
        }
        order.chunks(TXN_MAX_OPS).map(|keys| txn(keys, &last, base)).collect()
    }
}

fn txn(keys: &[Key], ops: &BTreeMap<Key, &Op>, base: &Snapshot) -> Txn {
    let ops: Vec<Op> = keys.iter().filter_map(|key| ops.get(key)).map(|op| Op::clone(op)).collect();
    let stacks: BTreeSet<StackName> = ops.iter().filter_map(|op| stack_of(op, base)).collect();
    let written: BTreeSet<Key> = keys.iter().cloned().chain(stacks.into_iter().map(Key::Stack)).collect();
    let expect = written.into_iter().map(|key| (base.version(&key), key)).map(|(v, key)| (key, v)).collect();
    Txn { expect, ops }
}

fn stack_of(op: &Op, base: &Snapshot) -> Option<StackName> {
    match op {
        Op::Put(Object::Task(task)) => Some(task.service.stack.clone()),
        Op::Put(Object::Service(service)) => Some(service.key.stack.clone()),
        Op::Put(Object::Run(run)) => Some(run.key.stack.clone()),
        Op::Delete(Key::Task(id)) => base.tasks.get(id).map(|t| t.service.stack.clone()),
        Op::Delete(Key::Service(key) | Key::Run(key)) => Some(key.stack.clone()),
        Op::Put(_) | Op::Delete(_) => None,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.steps.iter().filter(|step| step.verb != BOOK);
        told.into_iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod scenarios;
#[cfg(test)]
pub(crate) use scenarios::Sim;
