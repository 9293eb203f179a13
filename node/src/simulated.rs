//! A host in memory for tests: containers and network that can be crashed, refused and looked into. It outlives the driver, as
//! the real one outlives the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carrack_api::{
    AddressPlan, ContainerSpec, Exit, Healthcheck, HeldImage, Hook, ImageCollection, TaskId, Timestamp, Usage,
};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::engine::{
    Engine, FoundRun, FoundState, Network, Programmed, ProgressSink, Refusal, RegistryLogins, StartOrder,
    Started,
};
use crate::tables::NodeTables;

/// Time every effect takes.
const EFFECT: Duration = Duration::from_millis(3);

/// A host in memory.
#[derive(Debug, Default)]
pub(crate) struct Host {
    state: Mutex<HostState>,
    changed: Notify,
}

/// What tests see and set.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    /// All runs.
    pub(crate) runs: BTreeMap<(TaskId, u32), SimRun>,
    /// Logs kept, by task.
    pub(crate) logs: BTreeSet<TaskId>,
    /// Wired tasks with their addresses.
    pub(crate) wired: BTreeMap<TaskId, IpAddr>,
    /// Every effect in order, as text.
    pub(crate) effects: Vec<String>,
    /// Tables in the kernel.
    pub(crate) tables: Option<Arc<NodeTables>>,
    /// Every distinct set of serving endpoints the kernel ever held, in order.
    pub(crate) serving: Vec<BTreeSet<Ipv4Addr>>,
    /// Open connections by address.
    pub(crate) connections: BTreeMap<IpAddr, usize>,
    /// What preparing answers.
    pub(crate) prepare: Option<Refusal>,
    /// Preparing never ends.
    pub(crate) prepare_hangs: bool,
    /// What the next collection takes away.
    pub(crate) collection: Option<ImageCollection>,
    /// What each collection was told to spare.
    pub(crate) spared: Vec<BTreeSet<String>>,
    /// Hooks that were run, with the first word of each.
    pub(crate) hooks: Vec<(TaskId, u32, String)>,
    /// What starting answers.
    pub(crate) start: Option<Refusal>,
    /// The network cannot be programmed.
    pub(crate) program: Option<Refusal>,
    /// The stop signal is ignored.
    pub(crate) deaf: bool,
    /// Probes fail.
    pub(crate) sick: bool,
    /// The healthcheck in force.
    pub(crate) healthcheck: Option<Healthcheck>,
    next_pid: u32,
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct SimRun {
    /// First process.
    pub(crate) pid: u32,
    /// How it ended.
    pub(crate) exit: Option<Exit>,
}

impl Host {
    /// Looks into the host.
    pub(crate) fn state(&self) -> MutexGuard<'_, HostState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the newest run of a task from outside.
    pub(crate) fn crash(&self, task: TaskId, code: i32) {
        let mut state = self.state();
        if let Some((_, run)) =
            state.runs.iter_mut().rfind(|((id, _), run)| *id == task && run.exit.is_none())
        {
            run.exit = Some(exit(code, None));
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// All that a reboot takes is gone.
    pub(crate) fn reboot(&self) {
        let mut state = self.state();
        state.runs.clear();
        state.wired.clear();
        state.tables = None;
    }

    /// Runs that run.
    pub(crate) fn running(&self) -> BTreeSet<(TaskId, u32)> {
        self.state().runs.iter().filter(|(_, run)| run.exit.is_none()).map(|(key, _)| *key).collect()
    }

    /// Effects so far whose text begins so.
    pub(crate) fn effects(&self, prefix: &str) -> Vec<String> {
        self.state().effects.iter().filter(|effect| effect.starts_with(prefix)).cloned().collect()
    }

    async fn effect(&self, text: String) {
        sleep(EFFECT).await;
        self.state().effects.push(text);
    }

    fn end(&self, task: TaskId, run: u32, exit: Exit) {
        if let Some(run) = self.state().runs.get_mut(&(task, run)).filter(|run| run.exit.is_none()) {
            run.exit = Some(exit);
        }
        self.changed.notify_waiters();
    }
}

fn exit(code: i32, signal: Option<i32>) -> Exit {
    Exit { code, signal, oom: false, peak_memory: None, at: Timestamp(1), error: None }
}

impl Engine for Host {
    async fn runs(&self) -> Result<Vec<FoundRun>, Refusal> {
        Ok(self
            .state()
            .runs
            .iter()
            .map(|((task, run), found)| FoundRun {
                task: *task,
                run: *run,
                state: match &found.exit {
                    None => FoundState::Running { pid: found.pid, stop_signal: 15 },
                    Some(exit) => FoundState::Ended(exit.clone()),
                },
            })
            .collect())
    }

    async fn prepare(
        &self,
        spec: &ContainerSpec,
        credentials: &RegistryLogins,
        _progress: ProgressSink,
    ) -> Result<(), Refusal> {
        let hangs = self.state().prepare_hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
        let users: Vec<&str> = credentials.values().map(|known| known.username.as_str()).collect();
        let by = if users.is_empty() { String::new() } else { format!(" as {}", users.join(", ")) };
        self.effect(format!("prepare {}{by}", spec.image)).await;
        self.state().prepare.clone().map_or(Ok(()), Err)
    }

    async fn healthcheck(&self, _spec: &ContainerSpec) -> Option<Healthcheck> {
        self.state().healthcheck.clone()
    }

    async fn start(&self, order: StartOrder) -> Result<Started, Refusal> {
        let (task, run) = (order.task, order.run);
        self.effect(format!("start {task}.{run}")).await;
        let mut state = self.state();
        if let Some(refusal) = state.start.clone() {
            return Err(refusal);
        }
        let live = state.runs.iter().any(|((id, _), run)| *id == task && run.exit.is_none());
        assert!(!live, "{task}.{run} starts while a run of the task lives");
        assert!(!state.runs.contains_key(&(task, run)), "{task}.{run} was given twice");
        state.next_pid += 1;
        let pid = 1000 + state.next_pid;
        state.runs.insert((task, run), SimRun { pid, exit: None });
        state.logs.insert(task);
        Ok(Started { pid, stop_signal: 15 })
    }

    async fn ended(&self, task: TaskId, run: u32) -> Result<Exit, Refusal> {
        loop {
            let changed = self.changed.notified();
            let exit = self.state().runs.get(&(task, run)).and_then(|run| run.exit.clone());
            if let Some(exit) = exit {
                return Ok(exit);
            }
            changed.await;
        }
    }

    async fn signal(&self, task: TaskId, run: u32, signal: i32) -> Result<(), Refusal> {
        self.effect(format!("signal {task}.{run} {signal}")).await;
        let deaf = self.state().deaf;
        if !deaf {
            self.end(task, run, exit(0, None));
        }
        Ok(())
    }

    async fn kill(&self, task: TaskId, run: u32) -> Result<(), Refusal> {
        self.effect(format!("kill {task}.{run}")).await;
        self.end(task, run, exit(137, Some(9)));
        Ok(())
    }

    async fn remove_run(&self, task: TaskId, run: u32) -> Result<(), Refusal> {
        self.effect(format!("remove {task}.{run}")).await;
        self.state().runs.remove(&(task, run));
        Ok(())
    }

    async fn release(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn remove_task(&self, task: TaskId, logs: bool) -> Result<(), Refusal> {
        self.effect(format!("{} {task}", if logs { "forget" } else { "clean" })).await;
        let mut state = self.state();
        state.runs.retain(|(id, _), run| {
            assert!(*id != task || run.exit.is_some(), "{task} is removed while it runs");
            *id != task
        });
        if logs {
            state.logs.remove(&task);
        }
        Ok(())
    }

    async fn probe(&self, _: TaskId, _: u32, _: Vec<String>, _: Duration) -> Option<(bool, String)> {
        sleep(EFFECT).await;
        let sick = self.state().sick;
        Some((!sick, if sick { "connection refused".to_owned() } else { String::new() }))
    }

    async fn hook(&self, task: TaskId, run: u32, hook: Hook, _: Duration) -> Option<(bool, String)> {
        sleep(EFFECT).await;
        let word = hook.command.first().cloned().unwrap_or_default();
        self.state().hooks.push((task, run, word.clone()));
        Some((word != "fails", "it said no".to_owned()))
    }

    fn sample(&self, _: TaskId, _: u32) -> Option<Usage> {
        Some(Usage::default())
    }

    async fn collect(&self, needed: BTreeSet<String>) -> Result<Option<ImageCollection>, Refusal> {
        sleep(EFFECT).await;
        let mut state = self.state();
        state.spared.push(needed);
        Ok(state.collection.take())
    }

    fn images(&self) -> Vec<HeldImage> {
        Vec::new()
    }
}

impl Network for Host {
    async fn open(&self, _: &AddressPlan) -> Result<(), Refusal> {
        sleep(EFFECT).await;
        Ok(())
    }

    fn node_address(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(10, 192, 0, 1))
    }

    async fn wire(&self, task: TaskId, address: IpAddr, pid: Option<u32>) -> Result<PathBuf, Refusal> {
        self.effect(format!("wire {task}{}", if pid.is_some() { " again" } else { "" })).await;
        self.state().wired.insert(task, address);
        Ok(PathBuf::from(format!("/ns/{task}")))
    }

    async fn unwire(&self, task: TaskId) -> Result<(), Refusal> {
        let wired = self.state().wired.remove(&task).is_some();
        if wired {
            self.effect(format!("unwire {task}")).await;
        }
        Ok(())
    }

    async fn settle(&self) {}

    async fn program(&self, tables: Arc<NodeTables>) -> Result<Programmed, Refusal> {
        sleep(EFFECT).await;
        let mut state = self.state();
        if let Some(refusal) = state.program.clone() {
            return Err(refusal);
        }
        let serving: BTreeSet<Ipv4Addr> = tables.kernel.services.values().flatten().copied().collect();
        if state.serving.last() != Some(&serving) {
            state.effects.push(format!("serving {}", serving.len()));
            state.serving.push(serving);
        }
        state.tables = Some(tables);
        Ok(Programmed::default())
    }

    async fn audit(&self) -> Result<Vec<String>, Refusal> {
        Ok(Vec::new())
    }

    async fn disturbed(&self) {
        std::future::pending().await
    }

    async fn open_connections(&self, address: IpAddr) -> Result<usize, Refusal> {
        Ok(self.state().connections.get(&address).copied().unwrap_or(0))
    }

    async fn forget_flows(&self, address: IpAddr, streams: bool) -> Result<(), Refusal> {
        if streams {
            self.effect(format!("cut {address}")).await;
        }
        Ok(())
    }

    async fn listens(&self, _: u32, _: u16) -> Result<bool, String> {
        Ok(!self.state().sick)
    }

    async fn remove_all(&self) -> Result<(), Refusal> {
        self.effect("remove the network".to_owned()).await;
        self.state().tables = None;
        Ok(())
    }
}
