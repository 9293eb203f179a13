//! A plan while it grows: the state as it will be, and the steps that lead there, each with its reason.

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::{
    NodeId, PortMode, Protocol, Reservations, ServiceKey, SlotKey, TaskId, TaskNetwork, Timestamp,
};

use super::observe::{Observations, Observed};
use super::{EventDraft, Step};
use crate::store::{ClusterRecord, Key, NodeRecord, Object, Op, ServiceRecord, Snapshot, TaskRecord};

/// See the module.
pub(crate) struct Draft<'a> {
    pub(crate) state: Snapshot,
    pub(crate) observations: &'a Observations,
    pub(crate) now: Timestamp,
    pub(crate) seed: u64,
    pub(crate) steps: Vec<Step>,
    pub(crate) events: Vec<EventDraft>,
    pub(crate) wake_at: Option<Timestamp>,
    tasks_of: BTreeMap<ServiceKey, BTreeSet<TaskId>>,
    occupancy: BTreeMap<NodeId, Occupancy>,
}

/// What the live tasks of a node hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Occupancy {
    pub(crate) reserved: Reservations,
    pub(crate) siblings: BTreeMap<ServiceKey, u32>,
    pub(crate) host_ports: BTreeSet<(u16, Protocol)>,
}

impl<'a> Draft<'a> {
    /// Starts from a snapshot.
    pub(crate) fn new(state: Snapshot, observations: &'a Observations, now: Timestamp, seed: u64) -> Self {
        let mut tasks_of: BTreeMap<ServiceKey, BTreeSet<TaskId>> = BTreeMap::new();
        for task in state.tasks.values() {
            tasks_of.entry(task.service.clone()).or_default().insert(task.id);
        }
        let (steps, events, occupancy) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { state, observations, now, seed, steps, events, wake_at: None, tasks_of, occupancy }
    }

    /// Adds a change and makes it visible to what is decided after it.
    pub(crate) fn push(
        &mut self,
        verb: &'static str,
        subject: impl ToString,
        reason: impl Into<String>,
        op: Op,
    ) {
        match &op {
            Op::Put(Object::Task(task)) => {
                self.tasks_of.entry(task.service.clone()).or_default().insert(task.id);
            }
            Op::Delete(Key::Task(id)) => {
                if let Some(task) = self.state.tasks.get(id)
                    && let Some(ids) = self.tasks_of.get_mut(&task.service)
                {
                    ids.remove(id);
                }
            }
            Op::Put(_) | Op::Delete(_) => {}
        }
        self.state.apply(op.clone(), u64::MAX);
        self.steps.push(Step { verb, subject: subject.to_string(), reason: reason.into(), op });
    }

    /// Adds something that happened, told once the plan is durable.
    pub(crate) fn event(
        &mut self,
        kind: &'static str,
        subject: impl ToString,
        message: String,
        task: Option<TaskId>,
    ) {
        self.events.push(EventDraft { task, ..EventDraft::new(kind, subject, message) });
    }

    /// Plans again at this moment at the latest.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    /// Changes a service's record.
    pub(crate) fn service(&mut self, reason: impl Into<String>, record: ServiceRecord) {
        self.push("set", record.key.clone(), reason, Op::Put(Object::Service(record)));
    }

    /// Changes a task's record.
    pub(crate) fn task(&mut self, verb: &'static str, reason: impl Into<String>, record: TaskRecord) {
        let subject = format!("{} {}", record.slot_key(), record.id);
        self.push(verb, subject, reason, Op::Put(Object::Task(record)));
    }

    /// All tasks of a service in order of their ids.
    pub(crate) fn tasks(&self, service: &ServiceKey) -> Vec<TaskRecord> {
        let ids = self.tasks_of.get(service);
        ids.into_iter()
            .flatten()
            .filter_map(|id| self.state.tasks.get(id))
            .map(|t| TaskRecord::clone(t))
            .collect()
    }

    /// What is known of a task.
    pub(crate) fn observed(&self, task: &TaskRecord) -> Observed<'a> {
        self.observations.of(task)
    }

    /// The cluster's record.
    pub(crate) fn cluster(&self) -> Option<ClusterRecord> {
        self.state.cluster().map(|c| ClusterRecord::clone(c))
    }

    /// Takes the next task id.
    pub(crate) fn next_task(&mut self) -> Option<TaskId> {
        let mut cluster = self.cluster()?;
        let id = TaskId(cluster.next_task);
        cluster.next_task += 1;
        self.push(super::BOOK, "cluster", format!("{id} is given"), Op::Put(Object::Cluster(cluster)));
        Some(id)
    }

    /// Nodes that were heard and have a record, in order.
    pub(crate) fn usable_nodes(&self) -> Vec<NodeRecord> {
        let heard = self.state.nodes.values().filter(|n| self.observations.heard(&n.info.id));
        heard.map(|n| NodeRecord::clone(n)).collect()
    }

    /// Counts what live tasks hold, once verdicts are in; [`Draft::occupy`] keeps it true after that.
    pub(crate) fn count_occupancy(&mut self) {
        let live: Vec<TaskRecord> =
            self.state.tasks.values().filter(|t| t.is_live()).map(|t| TaskRecord::clone(t)).collect();
        live.iter().for_each(|task| self.occupy(task));
    }

    /// Counts a task that was placed.
    pub(crate) fn occupy(&mut self, task: &TaskRecord) {
        let Some(node) = &task.node else { return };
        let Some(spec) = self.state.service_spec(&task.service, task.revision) else { return };
        let held = self.occupancy.entry(node.clone()).or_default();
        held.reserved.cpus.0 += spec.task.reservations.cpus.0;
        held.reserved.memory.0 += spec.task.reservations.memory.0;
        *held.siblings.entry(task.service.clone()).or_default() += 1;
        let ports = spec.ports.iter().filter(|p| p.mode == PortMode::Host);
        held.host_ports.extend(ports.filter_map(|p| Some((p.published?, p.protocol))));
    }

    /// What a node's tasks hold.
    pub(crate) fn occupancy(&self, node: &NodeId) -> Occupancy {
        self.occupancy.get(node).cloned().unwrap_or_default()
    }
}

/// A task on a network of its own has an address.
pub(crate) fn has_address(network: &TaskNetwork) -> bool {
    matches!(network, TaskNetwork::Networks(_))
}

/// `hello/web.2`, for events.
pub(crate) fn slot_name(service: &ServiceKey, slot: u32) -> String {
    SlotKey { service: service.clone(), slot }.to_string()
}
