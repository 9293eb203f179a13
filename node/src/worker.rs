//! The effects of steps, each as one task of its own that ends with one [`Event`].
//!
//! Owns how many of a kind run at a time. Decides nothing: what is to be done was planned, what follows is decided by the loop
//! when it reads the event.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carrack_api::fail;
use carrack_api::{ContainerSpec, Exit, Health, Hook, ImageCollection, ProbeResult, PullProgress, TaskId};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::engine::{
    Engine, Network, Programmed, ProgressSink, Refusal, RegistryLogins, StartOrder, Started,
};
use crate::ledger::Ledger;
use crate::probe::{Judgement, Probe, Question, Tracker};

/// Images that are brought at a time.
const PREPARES_MAX: usize = 4;
/// Containers that are started at a time, for each CPU.
const STARTS_PER_CPU: usize = 4;
/// Probes that run at a time.
const PROBES_MAX: usize = 32;
/// Namespaces and leftovers that are made or removed at a time.
const CHORES_MAX: usize = 16;
/// Time that the hooks of a start have, all together.
const HOOKS_MAX: Duration = Duration::from_secs(300);
/// How often the open connections of a draining task are counted.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// Longest time that a start waits for the ledger.
const LEDGER_WAIT_MAX: Duration = Duration::from_secs(2);
/// Tries of a kill, one shortly after the other, before the loop hears that it failed.
const KILL_TRIES: u32 = 5;
/// Tries of a removal of an ended run; what is left after them goes with its task.
const REMOVE_TRIES: u32 = 5;
/// Delay between two tries of a wait, a kill or a removal that failed.
const WAIT_AGAIN: Duration = Duration::from_millis(200);

/// A task that ran when the network came up, and its namespace.
pub(crate) type WiredAgain = (TaskId, Result<PathBuf, Refusal>);

/// What has happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A preparation ended.
    Prepared(TaskId, Result<(), Refusal>),
    /// Bytes of an image arrived.
    Progress(TaskId, PullProgress),
    /// A namespace was wired.
    Wired(TaskId, Result<PathBuf, Refusal>),
    /// A start ended.
    Started(TaskId, u32, Result<Started, Refusal>),
    /// No connection is open any more, or the time is over.
    Drained(TaskId),
    /// A stop signal was sent.
    Signalled(TaskId, Result<(), Refusal>),
    /// SIGKILL was sent.
    Killed(TaskId, Result<(), Refusal>),
    /// An ended run was taken away.
    RunRemoved(TaskId, u32, Result<(), Refusal>),
    /// Link and namespace were taken away.
    Unwired(TaskId, Result<(), Refusal>),
    /// Everything but the log was taken away.
    Cleaned(TaskId, Result<(), Refusal>),
    /// Everything was taken away.
    Forgotten(TaskId, Result<(), Refusal>),
    /// A run ended.
    Ended(TaskId, u32, Exit),
    /// A probe was answered.
    Probed(TaskId, u32, Judgement, ProbeResult),
    /// The disk of the images was looked at; what went to make room, if anything.
    Collected(Result<Option<ImageCollection>, Refusal>),
    /// The network was opened and what ran was wired again.
    NetworkUp(Result<Vec<WiredAgain>, Refusal>),
    /// The network holds this version of the tables.
    Programmed(u64, Programmed),
    /// The network could not be programmed; it is tried again.
    NotProgrammed(Refusal),
}

/// What workers share.
#[derive(Debug)]
pub(crate) struct Workers<E, N> {
    pub(crate) engine: Arc<E>,
    pub(crate) network: Arc<N>,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Clock,
    pub(crate) events: mpsc::Sender<Event>,
    prepares: Semaphore,
    starts: Semaphore,
    probes: Semaphore,
    chores: Semaphore,
}

impl<E: Engine, N: Network> Workers<E, N> {
    pub(crate) fn new(
        engine: Arc<E>,
        network: Arc<N>,
        ledger: Ledger,
        clock: Clock,
        events: mpsc::Sender<Event>,
    ) -> Arc<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            engine,
            network,
            ledger,
            clock,
            events,
            prepares: Semaphore::new(PREPARES_MAX),
            starts: Semaphore::new(STARTS_PER_CPU * cpus),
            probes: Semaphore::new(PROBES_MAX),
            chores: Semaphore::new(CHORES_MAX),
        })
    }

    async fn say(&self, event: Event) {
        // The loop is gone only when the daemon stops; nobody is left to care.
        if self.events.send(event).await.is_err() {
            tracing::trace!("an event came after the node loop had ended");
        }
    }

    /// Brings the image of a task.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        task: TaskId,
        spec: ContainerSpec,
        credentials: RegistryLogins,
    ) -> AbortHandle {
        let this = self.clone();
        let events = self.events.clone();
        let sink: ProgressSink = Arc::new(move |progress| {
            // Progress is for people: when the loop is busy the next one will do.
            drop(events.try_send(Event::Progress(task, progress)));
        });
        spawn(async move {
            let _permit = this.prepares.acquire().await;
            let result = this.engine.prepare(&spec, &credentials, sink).await;
            this.say(Event::Prepared(task, result)).await;
        })
    }

    /// Takes images away that are not needed when their disk is too full.
    pub(crate) fn collect(self: &Arc<Self>, needed: BTreeSet<String>) {
        let this = self.clone();
        drop(spawn(async move {
            let result = this.engine.collect(needed).await;
            this.say(Event::Collected(result)).await;
        }));
    }

    /// Wires a task.
    pub(crate) fn wire(self: &Arc<Self>, task: TaskId, address: IpAddr, pid: Option<u32>) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            let _permit = this.chores.acquire().await;
            let result = this.network.wire(task, address, pid).await;
            this.say(Event::Wired(task, result)).await;
        })
    }

    /// Starts a run, once the ledger version that names it is on disk: its number is not given twice.
    pub(crate) fn start(self: &Arc<Self>, order: StartOrder, ledger_version: u64) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            let (task, run) = (order.task, order.run);
            // A disk that is full or stuck must not keep a crashed container down: then the number is only in memory.
            let written = tokio::time::timeout(LEDGER_WAIT_MAX, this.ledger.is_on_disk(ledger_version)).await;
            if written != Ok(true) {
                tracing::warn!(%task, run, "a container is started before its number is on disk");
            }
            let permit = this.starts.acquire().await;
            fail::pass("create.8-number");
            let hooks = order.assigned.spec.container.post_start.clone();
            let mut result = this.engine.start(order).await;
            drop(permit);
            if result.is_ok()
                && let Err(reason) = this.run_hooks("post_start", task, run, hooks, HOOKS_MAX).await
            {
                result = Err(this.take_back(task, run, reason).await);
            }
            this.say(Event::Started(task, run, result)).await;
        })
    }

    /// Runs hooks one after the other, all of them within `most`; which failed, and what it said. The end of the run is no failure.
    async fn run_hooks(
        &self,
        name: &str,
        task: TaskId,
        run: u32,
        hooks: Vec<Hook>,
        most: Duration,
    ) -> Result<(), String> {
        let until = Instant::now() + most;
        for (index, hook) in hooks.into_iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let Some((passed, said)) = self.engine.hook(task, run, hook, left).await else { return Ok(()) };
            if !passed {
                return Err(format!("hook {name}[{index}] failed: {}", said.trim()));
            }
        }
        Ok(())
    }

    /// Ends a run that must not be, as if it had not been started.
    async fn take_back(&self, task: TaskId, run: u32, reason: String) -> Refusal {
        let gone = async {
            self.engine.kill(task, run).await?;
            self.engine.ended(task, run).await?;
            self.engine.remove_run(task, run).await
        };
        match gone.await {
            Ok(()) => Refusal::Final(reason),
            Err(error) => Refusal::Retry(format!("{reason}; and it cannot be ended: {error}")),
        }
    }

    /// Waits until the addresses have no open connection, at most for `most`, then cuts what is left.
    pub(crate) fn drain(
        self: &Arc<Self>,
        task: TaskId,
        addresses: Vec<IpAddr>,
        most: Duration,
    ) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            fail::pass("stop.2-drain");
            let deadline = Instant::now() + most;
            for address in addresses {
                this.drain_address(task, address, deadline).await;
            }
            this.say(Event::Drained(task)).await;
        })
    }

    async fn drain_address(&self, task: TaskId, address: IpAddr, deadline: Instant) {
        loop {
            match self.network.open_connections(address).await {
                Ok(0) => break,
                Ok(_) if Instant::now() < deadline => tokio::time::sleep(DRAIN_POLL).await,
                Ok(open) => {
                    tracing::warn!(%task, %address, open, "connections outlived the drain and are cut");
                    break;
                }
                Err(error) => {
                    tracing::warn!(%task, %address, %error, "open connections cannot be counted");
                    break;
                }
            }
        }
        let forgotten = match at("stop.3-forget") {
            Ok(()) => self.network.forget_flows(address, true).await,
            refused => refused,
        };
        if let Err(error) = forgotten {
            tracing::warn!(%task, %address, %error, "flows of a drained task cannot be forgotten");
        }
    }

    /// Runs the hooks of the end, for at most the time that the stop signal gets after them, and sends that.
    pub(crate) fn signal(
        self: &Arc<Self>,
        task: TaskId,
        run: u32,
        signal: i32,
        hooks: (Vec<Hook>, Duration),
    ) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            if let Err(reason) = this.run_hooks("pre_stop", task, run, hooks.0, hooks.1).await {
                tracing::warn!(%task, run, reason, "it is stopped although a hook of its end failed");
            }
            let result = match at("stop.4-signal") {
                Ok(()) => this.engine.signal(task, run, signal).await,
                refused => refused,
            };
            fail::pass("stop.5-signalled");
            this.say(Event::Signalled(task, result)).await;
        })
    }

    /// Kills a run.
    pub(crate) fn kill(self: &Arc<Self>, task: TaskId, run: u32) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            let mut result = this.try_kill(task, run).await;
            for _ in 1..KILL_TRIES {
                let Err(error) = &result else { break };
                tracing::warn!(%task, run, %error, "it cannot be killed; trying again");
                tokio::time::sleep(WAIT_AGAIN).await;
                result = this.try_kill(task, run).await;
            }
            this.say(Event::Killed(task, result)).await;
        })
    }

    async fn try_kill(&self, task: TaskId, run: u32) -> Result<(), Refusal> {
        at("stop.6-kill")?;
        self.engine.kill(task, run).await
    }

    /// Takes an ended run away.
    pub(crate) fn remove_run(self: &Arc<Self>, task: TaskId, run: u32) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            let _permit = this.chores.acquire().await;
            let mut result = this.engine.remove_run(task, run).await;
            for _ in 1..REMOVE_TRIES {
                let Err(error) = &result else { break };
                tracing::warn!(%task, run, %error, "an ended run cannot be removed; trying again");
                tokio::time::sleep(WAIT_AGAIN).await;
                result = this.engine.remove_run(task, run).await;
            }
            fail::pass("remove.5-removed");
            this.say(Event::RunRemoved(task, run, result)).await;
        })
    }

    /// Takes link and namespace away.
    pub(crate) fn unwire(self: &Arc<Self>, task: TaskId) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            let _permit = this.chores.acquire().await;
            let result = this.network.unwire(task).await;
            this.say(Event::Unwired(task, result)).await;
        })
    }

    /// Takes everything but the log away, or with `forget` the log too. A link that an earlier daemon left goes as well.
    pub(crate) fn clean(self: &Arc<Self>, task: TaskId, forget: bool) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            let _permit = this.chores.acquire().await;
            let result = match this.engine.remove_task(task, forget).await {
                Ok(()) => this.network.unwire(task).await,
                Err(error) => Err(error),
            };
            fail::pass("remove.11-removed");
            let event = if forget { Event::Forgotten(task, result) } else { Event::Cleaned(task, result) };
            this.say(event).await;
        })
    }

    /// Waits for the end of a run.
    pub(crate) fn watch(self: &Arc<Self>, task: TaskId, run: u32) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            loop {
                match this.engine.ended(task, run).await {
                    Ok(exit) => return this.say(Event::Ended(task, run, exit)).await,
                    Err(error) => {
                        tracing::error!(%task, run, %error, "the end of a run cannot be awaited; trying again");
                        tokio::time::sleep(WAIT_AGAIN).await;
                    }
                }
            }
        })
    }

    /// Probes a run until it ends (then the loop aborts this) or there is nothing more to ask.
    pub(crate) fn probe(self: &Arc<Self>, subject: Subject, port: Option<u16>) -> AbortHandle {
        let this = self.clone();
        spawn(async move {
            let check = this.engine.healthcheck(&subject.spec).await;
            let probe = Probe::of(check.as_ref(), port);
            let mut tracker = Tracker::new(probe, subject.started_at, subject.health);
            let mut answered = 0;
            while let Some(delay) = tracker.delay(answered, this.clock.now()) {
                tokio::time::sleep(delay).await;
                answered += 1;
                let Some((passed, output)) = this.ask(&subject, tracker.probe()).await else { continue };
                let at = this.clock.now();
                let judgement = tracker.record(passed, at);
                let result = ProbeResult { passed, output, at, failures: judgement.failures };
                this.say(Event::Probed(subject.task, subject.run, judgement, result)).await;
            }
        })
    }

    async fn ask(&self, subject: &Subject, probe: &Probe) -> Option<(bool, String)> {
        Some(match &probe.question {
            Question::Lives(needed) => (true, format!("it has lived for {} ms", needed.as_millis())),
            Question::Listens(port) => match self.network.listens(subject.pid, *port).await {
                Ok(true) => (true, format!("something listens on port {port}")),
                Ok(false) => (false, format!("nothing listens on port {port} where others reach it")),
                Err(error) => (false, error),
            },
            Question::Command(argv) => {
                let _permit = self.probes.acquire().await;
                return self.engine.probe(subject.task, subject.run, argv.clone(), probe.timeout).await;
            }
        })
    }
}

/// A run that is probed.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) task: TaskId,
    pub(crate) run: u32,
    pub(crate) pid: u32,
    pub(crate) spec: ContainerSpec,
    pub(crate) started_at: carrack_api::Timestamp,
    pub(crate) health: Health,
}

/// A fail point as a step that may be tried again.
fn at(step: &'static str) -> Result<(), Refusal> {
    fail::point(step).map_err(|error| Refusal::Retry(error.to_string()))
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}
