//! The cluster loop: the only place where plans are made and carried out.
//!
//! ```text
//!   wake (change, report, timer) -> reports -> plan -> lint -> commit if current, else again -> assignments -> sleep
//! ```
//! A wake-up carries no meaning: every turn decides from the full state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carrack_api::{Assignment, ClusterId, Desired, NodeId, NodeReport, StackName, TaskId, Timestamp};
use tokio::sync::{Notify, watch};

use crate::assign;
use crate::clock;
use crate::contents::OpenContents;
use crate::credentials::{Logins, Vault};
use crate::events::{EventLog, from_reports};
use crate::plan::{self, NodeObservation, Observations};
use crate::store::{ClusterRecord, CommitError, Key, Object, Op, Snapshot, Store, Txn};
use crate::usage::UsageRings;

/// Plans in a row without a pause; a plan that does not settle is tried again after [`RETRY`].
const TURNS_MAX: usize = 50;
/// Pause after something that should not happen.
const RETRY: Duration = Duration::from_secs(1);

/// What the loop, the sessions and the API share.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) store: Store,
    pub(crate) events: EventLog,
    pub(crate) vault: Vault,
    contents: OpenContents,
    pub(crate) usage: UsageRings,
    pub(crate) observations: watch::Sender<Arc<Observations>>,
    sessions: Mutex<Sessions>,
    /// Images that the revisions of a state need.
    needed: Mutex<Option<(Snapshot, BTreeSet<String>)>>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Sessions {
    nodes: BTreeMap<NodeId, Session>,
    next: u64,
}

/// One node's session.
#[derive(Debug)]
struct Session {
    number: u64,
    assignments: watch::Sender<Option<Arc<Assignment>>>,
    /// The generation sent last; goes on over the node's sessions, as the node refuses older ones.
    generation: u64,
    /// The newest report that the loop has not read.
    waiting: Option<NodeReport>,
    sequence: Option<u64>,
    /// Tasks it was told to stop, with the generation that told it first.
    told_to_stop: BTreeMap<TaskId, u64>,
}

impl Cluster {
    /// Nothing observed yet.
    pub(crate) fn new(id: ClusterId, store: Store, events: EventLog, vault: Vault) -> Self {
        Self {
            id,
            store,
            events,
            vault,
            contents: OpenContents::default(),
            usage: UsageRings::default(),
            observations: watch::Sender::new(Arc::default()),
            sessions: Mutex::default(),
            needed: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for a node in place of the one before; answers its number and assignments.
    pub(crate) fn attach(&self, node: NodeId) -> (u64, watch::Receiver<Option<Arc<Assignment>>>) {
        let mut sessions = self.sessions();
        sessions.next += 1;
        let number = sessions.next;
        let (assignments, receiver) = watch::channel(None);
        let generation = sessions.nodes.get(&node).map_or(0, |s| s.generation);
        let told_to_stop = BTreeMap::new();
        let session =
            Session { number, assignments, generation, waiting: None, sequence: None, told_to_stop };
        sessions.nodes.insert(node, session);
        (number, receiver)
    }

    /// Takes a report; older ones, those of a replaced session and those of a foreign cluster are dropped.
    pub(crate) fn report(&self, session: u64, report: NodeReport) {
        if report.cluster != self.id {
            tracing::warn!(node = %report.node.id, cluster = %report.cluster, "a report of another cluster is dropped");
            return;
        }
        let mut sessions = self.sessions();
        let Some(entry) = sessions.nodes.get_mut(&report.node.id).filter(|s| s.number == session) else {
            return;
        };
        if entry.sequence.is_some_and(|newest| report.sequence <= newest) {
            return;
        }
        entry.sequence = Some(report.sequence);
        entry.waiting = Some(report);
        drop(sessions);
        self.wake.notify_one();
    }

    /// The newest observations.
    pub(crate) fn observed(&self) -> Arc<Observations> {
        self.observations.borrow().clone()
    }

    /// Runs the loop until `stop` is set.
    pub(crate) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.store.watch();
        loop {
            changes.mark_unchanged();
            let wake_at = self.turn().await;
            let sleep = wake_at.map_or(Duration::from_secs(3600), |at| at.since(clock::now()));
            tokio::select! {
                () = self.wake.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(sleep) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One turn of the loop; answers when the next one is due at the latest.
    async fn turn(&self) -> Option<Timestamp> {
        self.read_reports().await;
        let wake_at = self.settle().await;
        self.assign();
        wake_at
    }

    /// Makes waiting reports the observations.
    async fn read_reports(&self) {
        let snapshot = self.store.snapshot();
        let epoch = snapshot.cluster().map_or(0, |c| c.epoch);
        let waiting: Vec<(NodeReport, BTreeSet<TaskId>)> = {
            let mut sessions = self.sessions();
            let nodes = sessions.nodes.values_mut();
            nodes
                .filter_map(|s| s.waiting.take().map(|r| (told(s, &r, epoch), r)))
                .map(|(t, r)| (r, t))
                .collect()
        };
        if waiting.is_empty() {
            return;
        }
        let now = clock::now();
        let mut observations = Observations::clone(&self.observed());
        for (report, told_to_stop) in waiting {
            if report.epoch > epoch {
                self.raise_epoch(report.epoch).await;
            }
            let before = observations.nodes.get(&report.node.id).map(|o| o.report.clone());
            self.events.append(
                from_reports(before.as_deref(), &report, &snapshot, |task| self.events.last_of(task)),
                now,
            );
            self.usage.take(&report);
            let id = report.node.id.clone();
            observations
                .nodes
                .insert(id, Arc::new(NodeObservation::new(Arc::new(report), now, told_to_stop)));
        }
        self.usage.keep(|task| snapshot.tasks.get(&task).is_some());
        self.observations.send_replace(Arc::new(observations));
    }

    /// A node has followed a later scheduler than this store knows, as after a restore: go beyond it.
    async fn raise_epoch(&self, seen: u64) {
        let snapshot = self.store.snapshot();
        let Some(cluster) = snapshot.cluster() else { return };
        let record = ClusterRecord { epoch: seen.saturating_add(1), ..ClusterRecord::clone(cluster) };
        let expect = vec![(Key::Cluster, snapshot.version(&Key::Cluster))];
        let ops = vec![Op::Put(Object::Cluster(record))];
        if let Err(error) = self.store.commit(Txn { expect, ops }).await {
            tracing::warn!(%error, "the epoch could not be raised; it is tried again with the next report");
        }
    }

    /// Plans and commits until nothing is left to do.
    async fn settle(&self) -> Option<Timestamp> {
        for _ in 0..TURNS_MAX {
            let (snapshot, observations, now) = (self.store.snapshot(), self.observed(), clock::now());
            let plan = plan::plan(&snapshot, &observations, now, now.0);
            if plan.steps.is_empty() {
                return plan.wake_at;
            }
            let wrong = plan::check::check(&plan.after);
            if !wrong.is_empty() {
                tracing::error!(problems = ?wrong, %plan, "a plan breaks a rule and is not carried out");
                return Some(now.after(RETRY));
            }
            match self.commit(&plan, &snapshot).await {
                Ok(()) => self.events.append(plan.events, now),
                Err(CommitError::Conflict(key)) => tracing::debug!(%key, "planning again"),
                Err(error) => {
                    tracing::error!(%error, "a plan could not be stored");
                    return Some(now.after(RETRY));
                }
            }
        }
        tracing::warn!("the plan does not settle");
        Some(clock::now().after(RETRY))
    }

    async fn commit(&self, plan: &plan::Plan, base: &Snapshot) -> Result<(), CommitError> {
        for step in &plan.steps {
            tracing::debug!(%step);
        }
        for txn in plan.txns(base) {
            self.store.commit(txn).await?;
        }
        Ok(())
    }

    /// Hands each node that was heard its assignment, when its content changed.
    fn assign(&self) {
        let (snapshot, observations) = (self.store.snapshot(), self.observed());
        let needed = self.images_needed(&snapshot);
        let mut sessions = self.sessions();
        let heard = |node: &NodeId, session: &Session| session.sequence.is_some() && observations.heard(node);
        let assigned: BTreeMap<NodeId, Assignment> = sessions
            .nodes
            .iter()
            .filter(|(node, session)| heard(node, session))
            .filter_map(|(node, _)| Some((node.clone(), assign::assignment(&snapshot, &observations, node)?)))
            .collect();
        let digests: BTreeSet<String> = assigned.values().flat_map(assign::contents_needed).collect();
        let contents = self.contents.only(&self.vault, &snapshot, digests);
        for (node, mut next) in assigned {
            if let Some(session) = sessions.nodes.get_mut(&node) {
                next.credentials = self.credentials(&snapshot, &next);
                let needed_here = assign::contents_needed(&next);
                next.contents = needed_here
                    .into_iter()
                    .filter_map(|digest| contents.get(&digest).map(|content| (digest, content.clone())))
                    .collect();
                next.images_needed.clone_from(&needed);
                publish(session, next);
            }
        }
    }
}

impl Cluster {
    /// Credentials of the stacks that have tasks in the assignment, for pulls that come later than their deploy.
    fn credentials(&self, snapshot: &Snapshot, assignment: &Assignment) -> BTreeMap<StackName, Logins> {
        let stacks: BTreeSet<&StackName> =
            assignment.tasks.values().map(|task| &task.service.stack).collect();
        let logins = stacks.into_iter().map(|stack| (stack.clone(), self.vault.of_stack(snapshot, stack)));
        logins.filter(|(_, logins)| !logins.is_empty()).collect()
    }

    /// Digests of images that revisions need, read again only when revisions have changed.
    fn images_needed(&self, snapshot: &Snapshot) -> BTreeSet<String> {
        let mut known = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            |of: &Snapshot| of.revisions.is_same(&snapshot.revisions) && of.runs.is_same(&snapshot.runs);
        match known.as_ref() {
            Some((of, images)) if same(of) => images.clone(),
            _ => {
                let images = assign::images_needed(snapshot);
                let (revisions, runs) = (snapshot.revisions.clone(), snapshot.runs.clone());
                *known = Some((Snapshot { revisions, runs, ..Snapshot::default() }, images.clone()));
                images
            }
        }
    }
}

/// Sends an assignment with the next generation, unless it is the one in force.
fn publish(session: &mut Session, mut next: Assignment) {
    next.generation = session.generation;
    if session.assignments.borrow().as_deref() == Some(&next) {
        return;
    }
    session.generation += 1;
    let generation = session.generation;
    next.generation = generation;
    let stops: BTreeSet<TaskId> =
        next.tasks.iter().filter(|(_, t)| t.desired == Desired::Stop).map(|(id, _)| *id).collect();
    session.told_to_stop.retain(|id, _| stops.contains(id));
    for id in stops {
        session.told_to_stop.entry(id).or_insert(generation);
    }
    session.assignments.send_replace(Some(Arc::new(next)));
}

/// Tasks that the assignment a report follows told to stop.
fn told(session: &Session, report: &NodeReport, epoch: u64) -> BTreeSet<TaskId> {
    if report.epoch != epoch {
        return BTreeSet::new();
    }
    let stops = session.told_to_stop.iter().filter(|(_, generation)| **generation <= report.generation);
    stops.map(|(id, _)| *id).collect()
}
