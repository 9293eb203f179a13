//! What is known of the world: the newest report of each node. Memory only; owns when a task is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use carrack_api::{Health, NodeId, NodeReport, TaskId, TaskReport, TaskState, Timestamp};

use crate::store::TaskRecord;

/// The newest reports. Immutable once shared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observations {
    pub(crate) nodes: BTreeMap<NodeId, Arc<NodeObservation>>,
}

/// One node's newest report.
#[derive(Debug, Clone)]
pub(crate) struct NodeObservation {
    pub(crate) report: Arc<NodeReport>,
    tasks: BTreeMap<TaskId, usize>,
    /// When it came.
    pub(crate) at: Timestamp,
    /// Tasks that the assignment it follows told to stop.
    pub(crate) told_to_stop: BTreeSet<TaskId>,
}

impl NodeObservation {
    /// Indexes a report.
    pub(crate) fn new(report: Arc<NodeReport>, at: Timestamp, told_to_stop: BTreeSet<TaskId>) -> Self {
        let tasks = report.tasks.iter().enumerate().map(|(index, t)| (t.task, index)).collect();
        Self { report, tasks, at, told_to_stop }
    }

    /// What it says of a task.
    pub(crate) fn task(&self, id: TaskId) -> Option<&TaskReport> {
        self.tasks.get(&id).map(|index| &self.report.tasks[*index])
    }
}

/// What is known of one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Observed<'a> {
    /// It has no node.
    Pending,
    /// Its node was not heard in this epoch: nothing may be decided about it.
    Unknown,
    /// Its node was heard and has not taken it up yet.
    Placed,
    /// Its node was told to stop it and has nothing of it.
    Gone,
    /// What its node says.
    Reported(&'a TaskReport),
}

impl Observations {
    /// The node was heard in this epoch.
    pub(crate) fn heard(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    /// What is known of a task.
    pub(crate) fn of(&self, task: &TaskRecord) -> Observed<'_> {
        let Some(node) = &task.node else { return Observed::Pending };
        let Some(node) = self.nodes.get(node) else { return Observed::Unknown };
        match node.task(task.id) {
            Some(report) => Observed::Reported(report),
            None if node.told_to_stop.contains(&task.id) => Observed::Gone,
            None => Observed::Placed,
        }
    }
}

impl<'a> Observed<'a> {
    /// The report, when there is one.
    pub(crate) fn report(self) -> Option<&'a TaskReport> {
        match self {
            Self::Reported(report) => Some(report),
            Self::Pending | Self::Unknown | Self::Placed | Self::Gone => None,
        }
    }

    /// It runs.
    pub(crate) fn is_running(self) -> bool {
        self.report().is_some_and(|r| r.state == TaskState::Running)
    }

    /// It runs and may get traffic.
    pub(crate) fn is_passing(self) -> bool {
        self.report().is_some_and(|r| r.state == TaskState::Running && r.health == Health::Passing)
    }
}
