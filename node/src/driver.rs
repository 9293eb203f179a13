//! The node loop: wakes on events, decides from the whole state, hands out steps.
//!
//! ```text
//!   assignment ─┐                ┌─> workers ──┐
//!   events ─────┼─> turn: plan ──┼─> netloop ──┼─> events
//!   timers ─────┘                ├─> ledger    │
//!                                └─> reports   │
//! ```
//! Owns the facts of all tasks; nobody else changes them. A turn never waits for an effect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carrack_api::defaults::{HEARTBEAT, STOP_GRACE};
use carrack_api::fail;
use carrack_api::{
    AddressPlan, Assignment, ClusterId, Desired, NodeInfo, NodeReport, PortConflict, TaskId, TaskNetwork,
    Timestamp,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::config::{NodeError, Shutdown};
use crate::engine::{Attachment, Engine, Network, Refusal, StartOrder};
use crate::facts::{Cause, Ended, Pending, Phase, Reach, StopPhase, Stopping, TaskFacts, Verdict, adopt};
use crate::ledger::{self, Ledger, Memory, Remembered};
use crate::netloop::{self, Version};
use crate::plan::{Action, Plan, Step, World, plan};
use crate::report;
use crate::restart::{End, after_end};
use crate::tables::{Place, tables};
use crate::usage::UsageRings;
use crate::worker::{Event, Subject, Workers};
use collect::Collecting;

/// Events that may wait for the loop.
const EVENTS_MAX: usize = 1024;
/// Events that one turn takes at most, so that reports and timers are not starved.
const EVENTS_PER_TURN: usize = 256;
/// Passes of one turn: steps that only change facts are followed by the next at once.
const PASSES_MAX: usize = 8;
/// Changes within this time after a report go into the next; the first after a pause is reported at once.
const REPORT_COALESCE: Duration = Duration::from_millis(20);
/// Least time between two samples of the containers' cgroups; less than a heartbeat, so that none goes without.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Time between two reports while an image is on its way.
const REPORT_PROGRESS: Duration = Duration::from_millis(250);
/// First and longest delay before opening the network is tried again.
const NETWORK_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Longest time that the end of the daemon waits for the ledger.
const LEDGER_FLUSH_MAX: Duration = Duration::from_secs(10);
/// Time that a stop of all tasks may take beyond their own drains and grace periods.
const STOP_ALL_EXTRA: Duration = Duration::from_secs(60);

/// What the loop is told at its start.
pub(crate) struct Setup {
    pub(crate) info: NodeInfo,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) upstreams: Vec<SocketAddr>,
    pub(crate) remembered: Remembered,
    pub(crate) ledger: Ledger,
    /// Makes joining a cluster last.
    pub(crate) join: Box<dyn Fn(ClusterId) -> Result<(), NodeError> + Send + Sync>,
    /// Usage over time, for whoever inspects a task.
    pub(crate) usage: Arc<UsageRings>,
}

/// The state of the loop.
pub(crate) struct Driver<E, N> {
    info: NodeInfo,
    cluster: Option<ClusterId>,
    upstreams: Vec<SocketAddr>,
    join: Box<dyn Fn(ClusterId) -> Result<(), NodeError> + Send + Sync>,
    usage: Arc<UsageRings>,
    workers: Arc<Workers<E, N>>,
    events: mpsc::Receiver<Event>,
    clock: Clock,

    /// What is followed; the one that stops everything during a shutdown that says so.
    assigned: Option<Arc<Assignment>>,
    /// What is remembered as assigned.
    lasting: Option<Arc<Assignment>>,
    facts: BTreeMap<TaskId, TaskFacts>,
    under_way: UnderWay,
    namespaces: BTreeMap<TaskId, PathBuf>,

    network: NetworkState,
    tables: watch::Sender<Option<Version>>,

    conflicts: Vec<PortConflict>,
    collecting: Collecting,
    sequence: u64,
    remember: bool,
    ledger_version: u64,
    report_at: Instant,
    reported_at: Instant,
    sample_at: Instant,
}

/// What was spawned and goes with the loop.
struct UnderWay {
    steps: BTreeMap<TaskId, AbortHandle>,
    watches: BTreeMap<TaskId, AbortHandle>,
    probes: BTreeMap<TaskId, AbortHandle>,
    netloop: JoinHandle<()>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        for handle in self.probes.values().chain(self.watches.values()).chain(self.steps.values()) {
            handle.abort();
        }
        self.netloop.abort();
    }
}

/// How far the network is.
struct NetworkState {
    ready: bool,
    opening: bool,
    opened: Option<AddressPlan>,
    not_before: Option<Timestamp>,
    retry: Duration,
    error: Option<String>,
    /// The newest version of the tables, and what it was made from.
    version: u64,
    programmed: u64,
    made_from: Option<(Arc<Assignment>, BTreeSet<TaskId>)>,
    /// A step needs a new version although the tables may be the same.
    bump: bool,
}

impl<E: Engine, N: Network> Driver<E, N> {
    /// Joins the ledger with what runs. Nothing is changed on the host.
    pub(crate) async fn adopt(engine: Arc<E>, network: Arc<N>, setup: Setup) -> Result<Self, Refusal> {
        let clock = Clock::start();
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let workers = Workers::new(engine, network.clone(), setup.ledger, clock, sender.clone());
        let (tables, receiver) = watch::channel(None);
        let netloop = tokio::spawn(netloop::program_all(network, receiver, sender));
        let mut driver = Self {
            info: setup.info,
            cluster: setup.cluster,
            upstreams: setup.upstreams,
            join: setup.join,
            usage: setup.usage,
            workers,
            events,
            clock,
            assigned: setup.remembered.assignment.clone(),
            lasting: setup.remembered.assignment,
            facts: setup.remembered.tasks,
            under_way: UnderWay {
                steps: BTreeMap::new(),
                watches: BTreeMap::new(),
                probes: BTreeMap::new(),
                netloop,
            },
            namespaces: BTreeMap::new(),
            network: NetworkState::new(),
            tables,
            conflicts: Vec::new(),
            collecting: Collecting::new(),
            sequence: 0,
            remember: true,
            ledger_version: 0,
            report_at: Instant::now(),
            reported_at: Instant::now(),
            sample_at: Instant::now(),
        };
        let found = driver.workers.engine.runs().await?;
        let now = clock.now();
        for (task, ended) in adopt(&mut driver.facts, &found, setup.remembered.rebooted, now) {
            let (exit, end) = match ended {
                Ended::While(exit) => (exit, End::Itself),
                Ended::Lost(exit) => (exit, End::Host),
            };
            tracing::info!(%task, exit = exit.describe(), "a run ended while no daemon was there");
            driver.run_ended(task, exit, end);
        }
        let running: Vec<TaskId> =
            driver.facts.iter().filter(|(_, task)| task.is_running()).map(|(id, _)| *id).collect();
        for task in running {
            tracing::info!(%task, run = driver.facts[&task].run, "adopted a running container");
            driver.accompany(task);
        }
        Ok(driver)
    }

    /// Runs until told to stop.
    pub(crate) async fn run(
        mut self,
        mut assignments: watch::Receiver<Option<Arc<Assignment>>>,
        reports: impl Fn(NodeReport, Option<&Arc<Assignment>>) + Send + Sync,
        shutdown: impl Future<Output = Shutdown> + Send,
    ) -> Result<(), NodeError> {
        let newest = assignments.borrow_and_update().clone();
        self.assignment_came(newest);
        tokio::pin!(shutdown);
        let mut more_assignments = true;
        let mut stop_by: Option<Instant> = None;
        loop {
            let wake_at = self.turn();
            if Instant::now() >= self.report_at {
                let report = self.report();
                reports(report, self.lasting.as_ref());
            }
            if stop_by.is_some_and(|by| self.all_stopped() || Instant::now() >= by) {
                return self.finish(true).await;
            }
            if stop_by.is_none() {
                self.collect();
            }
            let until = wake_at.map_or(self.report_at, |at| at.min(self.report_at));
            let until = until.min(self.collecting.at());
            tokio::select! {
                biased;
                event = self.events.recv() => self.take_events(event),
                how = &mut shutdown, if stop_by.is_none() => match how {
                    Shutdown::KeepContainers => return self.finish(false).await,
                    Shutdown::StopContainers => {
                        more_assignments = false;
                        stop_by = Some(Instant::now() + self.want_nothing());
                    }
                },
                changed = assignments.changed(), if more_assignments => {
                    more_assignments = changed.is_ok();
                    let newest = assignments.borrow_and_update().clone();
                    self.assignment_came(newest);
                }
                () = sleep_until(until) => {}
            }
        }
    }

    fn take_events(&mut self, first: Option<Event>) {
        let mut next = first;
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = next else { return };
            self.happened(event);
            next = self.events.try_recv().ok();
        }
        if let Some(event) = next {
            self.happened(event);
        }
    }

    fn assignment_came(&mut self, new: Option<Arc<Assignment>>) {
        let Some(new) = new else { return };
        let followed = self.lasting.as_deref();
        match ledger::accept(&self.info.id, self.cluster.as_ref(), followed, &new) {
            Ok(false) => {}
            Ok(true) => {
                if self.cluster.is_none() {
                    if let Err(error) = (self.join)(new.cluster.clone()) {
                        tracing::error!(%error, "cannot join the cluster of an assignment; it is not followed");
                        return;
                    }
                    self.cluster = Some(new.cluster.clone());
                }
                tracing::debug!(epoch = new.epoch, generation = new.generation, "following an assignment");
                fail::pass("create.1-assigned");
                self.lasting = Some(new.clone());
                self.assigned = Some(new);
                self.changed();
            }
            Err(error) => tracing::warn!(%error, "an assignment is refused"),
        }
    }

    /// From now on everything is to stop, and nothing is assigned any more. Returns how long that may take.
    fn want_nothing(&mut self) -> Duration {
        let Some(assigned) = &self.assigned else { return Duration::ZERO };
        let mut none = Assignment::clone(assigned);
        let mut longest = Duration::ZERO;
        for task in none.tasks.values_mut() {
            task.desired = Desired::Stop;
            longest = longest.max(task.spec.container.stop_grace.unwrap_or(STOP_GRACE));
        }
        self.assigned = Some(Arc::new(none));
        carrack_api::defaults::DRAIN_MAX + longest + STOP_ALL_EXTRA
    }

    fn all_stopped(&self) -> bool {
        self.facts
            .values()
            .all(|task| !task.is_running() && !task.wired && task.pending.is_none() && task.cleaned)
    }

    /// The end of the loop: what is known is on disk; with `remove` the network is gone.
    async fn finish(self, remove: bool) -> Result<(), NodeError> {
        drop(self.under_way);
        if remove && let Err(error) = self.workers.network.remove_all().await {
            tracing::error!(%error, "the network cannot be removed");
        }
        if remove && let Err(error) = self.workers.engine.release().await {
            tracing::error!(?error, "the cgroups that all tasks share cannot be removed");
        }
        let tasks = Arc::new(self.facts);
        let version = self.workers.ledger.remember(Memory { assignment: self.lasting, tasks });
        let written = self.workers.ledger.is_on_disk(version);
        if tokio::time::timeout(LEDGER_FLUSH_MAX, written).await != Ok(true) {
            tracing::error!("the ledger could not be written before the end of the daemon");
        }
        Ok(())
    }

    /// One turn: from the whole state to steps, tables, ledger. Returns when to turn again at the latest.
    fn turn(&mut self) -> Option<Instant> {
        let assigned = self.assigned.clone()?;
        self.enter_new_tasks(&assigned);
        let mut wake_at = self.bring_network_up(&assigned);
        for pass in 0..PASSES_MAX {
            let world = World {
                programmed: self.network.programmed,
                network_ready: self.network.ready,
                now: self.clock.now(),
            };
            let Plan { steps, wake_at: at } = plan(&assigned, &self.facts, world);
            if steps.is_empty() {
                wake_at = wake_at.into_iter().chain(at).min();
                break;
            }
            for step in steps {
                self.perform(&assigned, step);
            }
            if pass + 1 == PASSES_MAX {
                wake_at = Some(world.now);
            }
        }
        self.publish_tables(&assigned);
        self.await_tables();
        self.write_ledger();
        wake_at.map(|at| self.clock.instant(at))
    }

    fn enter_new_tasks(&mut self, assigned: &Assignment) {
        for (id, task) in &assigned.tasks {
            if !self.facts.contains_key(id) {
                self.facts.insert(*id, TaskFacts::new(task));
                self.changed();
            }
            if let Some(facts) = self.facts.get_mut(id)
                && facts.addresses != task.addresses
                && !facts.wired
            {
                facts.addresses.clone_from(&task.addresses);
            }
        }
    }

    /// Opens the network with the first address plan, and again when the plan has changed. The first time, what runs is wired
    /// again before anything else: until then the kernel keeps what the last daemon programmed.
    fn bring_network_up(&mut self, assigned: &Assignment) -> Option<Timestamp> {
        let now = self.clock.now();
        let state = &mut self.network;
        if state.opening || state.opened.as_ref() == Some(&assigned.addresses) {
            return None;
        }
        if let Some(at) = state.not_before.filter(|at| now < *at) {
            return Some(at);
        }
        state.opening = true;
        state.opened = Some(assigned.addresses.clone());
        let running: Vec<(TaskId, IpAddr, u32)> = self
            .facts
            .iter()
            .filter(|(_, facts)| !facts.wired)
            .filter_map(|(id, facts)| match (&facts.phase, facts.addresses.first()) {
                (Phase::Running { pid, .. }, Some(address)) => Some((*id, *address, *pid)),
                (Phase::Running { .. } | Phase::Idle, _) => None,
            })
            .collect();
        let (workers, addresses) = (self.workers.clone(), assigned.addresses.clone());
        tokio::spawn(async move {
            let network = &workers.network;
            let result = match network.open(&addresses).await {
                Ok(()) => {
                    fail::pass("network.2-opened");
                    let mut wired = Vec::with_capacity(running.len());
                    for (task, address, pid) in running {
                        wired.push((task, network.wire(task, address, Some(pid)).await));
                    }
                    fail::pass("network.3-rewired");
                    network.settle().await;
                    Ok(wired)
                }
                Err(error) => Err(error),
            };
            if workers.events.send(Event::NetworkUp(result)).await.is_err() {
                tracing::trace!("the network came up after the node loop had ended");
            }
        });
        None
    }

    fn perform(&mut self, assigned: &Assignment, step: Step) {
        let Step { task, action, reason } = step;
        tracing::debug!(%task, ?action, reason, "step");
        let now = self.clock.now();
        let Some(facts) = self.facts.get_mut(&task) else { return };
        facts.pending = Some(match action {
            Action::Prepare => Pending::Prepare,
            Action::Start { .. } => Pending::Start,
            _ => Pending::Other,
        });
        let handle = match action {
            Action::Prepare => {
                let Some(wanted) = assigned.tasks.get(&task) else { return };
                let credentials =
                    assigned.credentials.get(&wanted.service.stack).cloned().unwrap_or_default();
                self.workers.prepare(task, wanted.spec.container.clone(), credentials)
            }
            Action::Start { run } => {
                facts.run = run;
                self.remember = true;
                self.write_ledger();
                let Some(order) = self.start_order(assigned, task, run) else { return };
                self.workers.start(order, self.ledger_version)
            }
            Action::Wire { address, pid } => self.workers.wire(task, address, pid),
            Action::Drain { addresses, most } => self.workers.drain(task, addresses, most),
            Action::Signal { run, signal } => {
                let container = assigned.tasks.get(&task).map(|wanted| &wanted.spec.container);
                let hooks = container.map(|c| (c.pre_stop.clone(), c.stop_grace.unwrap_or(STOP_GRACE)));
                self.workers.signal(task, run, signal, hooks.unwrap_or_default())
            }
            Action::Kill { run } => self.workers.kill(task, run),
            Action::RemoveRun { run } => self.workers.remove_run(task, run),
            Action::Unwire => self.workers.unwire(task),
            Action::Clean => self.workers.clean(task, false),
            Action::Forget => self.workers.clean(task, true),
            Action::Withdraw(cause) => {
                fail::pass("stop.1-withdraw");
                let version = self.network.version + 1;
                self.network.bump = true;
                facts.stopping = Some(Stopping { cause, phase: StopPhase::Withdrawn { version, at: now } });
                facts.reason = Some(reason);
                return self.step_done(task);
            }
            Action::Reject => {
                facts.conclude(Verdict::Rejected, Some(reason));
                return self.step_done(task);
            }
            Action::CancelPrepare => {
                facts.progress = None;
                return self.step_done(task);
            }
        };
        self.under_way.steps.insert(task, handle);
        self.changed();
    }

    fn start_order(&self, assigned: &Assignment, task: TaskId, run: u32) -> Option<StartOrder> {
        let all = &assigned.contents;
        let assigned = assigned.tasks.get(&task)?.clone();
        let digests = assigned.spec.container.files.iter().filter_map(|file| file.digest.as_ref());
        let contents =
            digests.filter_map(|digest| Some((digest.clone(), all.get(digest)?.clone()))).collect();
        let attachment = match assigned.spec.network {
            TaskNetwork::Networks(_) => Attachment::Wired(self.namespaces.get(&task)?.clone()),
            TaskNetwork::Host => Attachment::Host,
            TaskNetwork::None => Attachment::None,
        };
        let node_address = self.workers.network.node_address();
        Some(StartOrder { task, run, assigned, contents, attachment, node_address })
    }

    /// No step of the task is under way any more; one that still is, is broken off.
    pub(crate) fn step_done(&mut self, task: TaskId) {
        if let Some(handle) = self.under_way.steps.remove(&task) {
            handle.abort();
        }
        if let Some(facts) = self.facts.get_mut(&task) {
            facts.pending = None;
        }
        self.changed();
    }

    /// Something that people and the disk should know has changed.
    pub(crate) fn changed(&mut self) {
        self.remember = true;
        self.report_at = self.report_at.min(self.reported_at + REPORT_COALESCE);
    }

    fn publish_tables(&mut self, assigned: &Arc<Assignment>) {
        if !self.network.ready {
            return;
        }
        let serving: BTreeSet<TaskId> =
            self.facts.iter().filter(|(_, facts)| facts.is_serving()).map(|(id, _)| *id).collect();
        let same = self
            .network
            .made_from
            .as_ref()
            .is_some_and(|(from, whose)| Arc::ptr_eq(from, assigned) && *whose == serving);
        if same && !self.network.bump {
            return;
        }
        let place = Place {
            node: &self.info.id,
            address: self.workers.network.node_address(),
            host_addresses: &self.info.addresses,
            upstreams: &self.upstreams,
        };
        let made = Arc::new(tables(assigned, &self.facts, &place));
        self.network.made_from = Some((assigned.clone(), serving));
        self.network.bump = false;
        self.network.version += 1;
        self.tables.send_replace(Some((self.network.version, made)));
    }

    /// The newest tables hold all that passes.
    fn await_tables(&mut self) {
        let (version, programmed) = (self.network.version, self.network.programmed);
        let reach = if version <= programmed { Reach::There } else { Reach::Tables(version) };
        for facts in self.facts.values_mut().filter(|facts| facts.reach == Reach::NextTables) {
            facts.reach = reach;
        }
    }

    fn write_ledger(&mut self) {
        if !std::mem::take(&mut self.remember) {
            return;
        }
        let memory = Memory { assignment: self.lasting.clone(), tasks: Arc::new(self.facts.clone()) };
        self.ledger_version = self.workers.ledger.remember(memory);
    }

    /// Watches and probes a container that runs, and reads its cgroup.
    fn accompany(&mut self, task: TaskId) {
        let Some(facts) = self.facts.get(&task) else { return };
        let Phase::Running { pid, .. } = facts.phase else { return };
        self.under_way.watches.insert(task, self.workers.watch(task, facts.run));
        let Some(assigned) = self.assigned.as_ref().and_then(|assigned| assigned.tasks.get(&task)) else {
            return;
        };
        let subject = Subject {
            task,
            run: facts.run,
            pid,
            spec: assigned.spec.container.clone(),
            started_at: facts.started_at.unwrap_or_default(),
            health: facts.health,
        };
        let port = self.assigned.as_ref().and_then(|all| report::readiness_port(all, &assigned.service));
        self.under_way.probes.insert(task, self.workers.probe(subject, port));
    }

    /// The newest run of a task has ended: what follows is decided here.
    fn run_ended(&mut self, task: TaskId, exit: carrack_api::Exit, end: End) {
        fail::pass("end.5-told");
        let now = self.clock.now();
        for handles in [&mut self.under_way.probes, &mut self.under_way.watches] {
            if let Some(handle) = handles.remove(&task) {
                handle.abort();
            }
        }
        self.usage.forget(task);
        let assigned = self.assigned.as_ref().and_then(|assigned| assigned.tasks.get(&task));
        let wanted = assigned.filter(|task| task.desired == Desired::Run);
        let Some(facts) = self.facts.get_mut(&task) else { return };
        let cause = facts.stopping.as_ref().map(|stopping| stopping.cause.clone());
        match (wanted, &cause) {
            (Some(assigned), None | Some(Cause::Unhealthy)) => {
                let end = if cause.is_some() { End::Unhealthy } else { end };
                let next = after_end(task, &assigned.spec.restart, facts, &exit, end, now);
                tracing::info!(%task, run = facts.run, exit = exit.describe(), ?next, "a run ended");
                facts.has_ended(exit, next, now);
            }
            (_, _) => {
                tracing::info!(%task, run = facts.run, exit = exit.describe(), "a run was stopped");
                facts.has_stopped(exit, now);
            }
        }
        self.step_done(task);
    }

    /// Reads the cgroups of all running containers.
    fn sample(&mut self) {
        for (id, facts) in self.facts.iter_mut().filter(|(_, facts)| facts.is_running()) {
            if let Some(sample) = self.workers.engine.sample(*id, facts.run) {
                self.usage.push(*id, sample.without_detail());
                facts.usage = Some(sample);
            }
        }
    }

    fn report(&mut self) -> NodeReport {
        let now = self.clock.now();
        // Changes make many reports in a second; reading every cgroup for each of them would cost more than the changes.
        if Instant::now() >= self.sample_at {
            self.sample_at = Instant::now() + SAMPLE_EVERY;
            self.sample();
        }
        self.sequence += 1;
        self.reported_at = Instant::now();
        let preparing = self.facts.values().any(|facts| facts.pending == Some(Pending::Prepare));
        self.report_at = Instant::now() + if preparing { REPORT_PROGRESS } else { HEARTBEAT };
        report::report(report::Sources {
            info: &self.info,
            cluster: self.cluster.as_ref(),
            assignment: self.lasting.as_deref(),
            facts: &self.facts,
            sequence: self.sequence,
            images: self.workers.engine.images(),
            conflicts: &self.conflicts,
            network_error: self.network.error.as_deref(),
            collection: self.collecting.done.as_ref(),
            now,
        })
    }
}

impl NetworkState {
    fn new() -> Self {
        Self {
            ready: false,
            opening: false,
            opened: None,
            not_before: None,
            retry: NETWORK_RETRY.0,
            error: None,
            version: 0,
            programmed: 0,
            made_from: None,
            bump: false,
        }
    }
}

mod collect;
mod outcomes;

#[cfg(test)]
#[cfg(feature = "virtual-time")]
mod tests;
