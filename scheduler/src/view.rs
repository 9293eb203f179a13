//! What users see: statuses of stacks, services, tasks and nodes, from a snapshot and the observations. Pure; stores nothing.

use std::time::Duration;

use carrack_api::defaults::SUSPECT_AFTER;
use carrack_api::validate::ports_collide;
use carrack_api::{
    Desired, Health, NodeStatus, PublishedPort, Rollout, RunStatus, ServiceKey, ServiceMode, ServiceSpec,
    ServiceStatus, StackName, StackStatus, StackView, TaskState, TaskStatus, Timestamp,
};

use crate::plan::rollout::{Failing, Scene, failing, wanted_replicas};
use crate::plan::{Observations, Observed, gate};
use crate::store::{RunRecord, ServiceRecord, Snapshot, StackPhase, StackRecord, TaskRecord};

/// A task without an older one beside it may crash this long before its service counts as failed: what it needs may be coming.
const CRASH_PATIENCE: Duration = Duration::from_secs(10);

/// Everything a view is made from.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) state: &'a Snapshot,
    pub(crate) observations: &'a Observations,
    pub(crate) now: Timestamp,
}

impl World<'_> {
    /// The stack and all its tasks.
    pub(crate) fn stack_view(self, name: &StackName) -> StackView {
        let stack = self.state.stack(name).map(|s| self.stack(s));
        let mut tasks: Vec<TaskStatus> =
            self.state.tasks.values().filter(|t| t.service.stack == *name).map(|t| self.task(t)).collect();
        tasks.sort_by(|a, b| (&a.service, a.slot, a.id).cmp(&(&b.service, b.slot, b.id)));
        StackView { stack, tasks }
    }

    /// A stack that is not gone.
    pub(crate) fn stack(self, stack: &StackRecord) -> StackStatus {
        let services = self.service_keys(stack).iter().map(|key| self.service(key)).collect();
        StackStatus {
            name: stack.name.clone(),
            revision: stack.revision,
            deployed_at: stack.deployed_at,
            removing: stack.phase == StackPhase::Removing,
            services,
            runs: self.state.runs_of(&stack.name).map(|run| self.run(run)).collect(),
        }
    }

    /// A one-off task.
    pub(crate) fn run(self, run: &RunRecord) -> RunStatus {
        let task = self.state.tasks.values().rfind(|t| t.service == run.key);
        let waits = match task {
            Some(_) => None,
            None if run.started => None,
            None => gate::waits_for(self.state, self.observations, &run.key.stack, &run.spec),
        };
        let state = match (task, &waits) {
            (Some(task), _) => self.task(task).state,
            (None, Some(wait)) if wait.hopeless => TaskState::Rejected,
            (None, _) => TaskState::Pending,
        };
        RunStatus {
            run: run.key.clone(),
            service: run.service.clone(),
            image: run.spec.task.container.image.clone(),
            ports: run.spec.ports.clone(),
            remove: run.remove,
            task: task.map(|t| t.id),
            state,
            reason: waits.map(|wait| wait.reason),
            created_at: run.created_at,
        }
    }

    /// Services of the file, and those that are still being taken away.
    fn service_keys(self, stack: &StackRecord) -> Vec<ServiceKey> {
        let spec = self.state.spec(&stack.name, stack.revision);
        let named = spec.into_iter().flat_map(|s| s.services.keys());
        let mut keys: Vec<ServiceKey> =
            named.map(|name| ServiceKey::new(stack.name.clone(), name.clone())).collect();
        keys.extend(self.state.services_of(&stack.name).map(|s| s.key.clone()));
        keys.sort();
        keys.dedup();
        keys
    }

    /// The service exists: wanted, or still being taken away.
    pub(crate) fn has_service(self, key: &ServiceKey) -> bool {
        self.state.services.get(key).is_some() || self.state.wanted_spec(key).is_some()
    }

    /// One service.
    pub(crate) fn service(self, key: &ServiceKey) -> ServiceStatus {
        let record = self.state.services.get(key);
        let wanted = self.state.wanted_spec(key);
        let spec = wanted.or_else(|| record.and_then(|r| self.state.service_spec(key, r.template)));
        let tasks: Vec<TaskRecord> =
            self.state.tasks.values().filter(|t| t.service == *key).map(|t| TaskRecord::clone(t)).collect();
        let current = |t: &&TaskRecord| record.is_some_and(|r| r.template == t.revision);
        let good = |t: &&TaskRecord| {
            t.final_state() == Some(TaskState::Completed) && t.desired == Desired::Run
                || t.is_live() && self.observations.of(t).is_passing()
        };
        let count = |keep: &dyn Fn(&&TaskRecord) -> bool| {
            u32::try_from(tasks.iter().filter(keep).count()).unwrap_or(u32::MAX)
        };
        let deploy = self.state.stacks.get(&key.stack).map(|s| s.deploy);
        ServiceStatus {
            service: key.clone(),
            image: spec.map(|s| s.task.container.image.clone()).unwrap_or_default(),
            replicas: self.replicas(key, wanted),
            scaled: record.is_some_and(|r| r.scale.is_some_and(|s| Some(s.deploy) == deploy)),
            running: count(&|t| t.is_live() && self.observations.of(t).is_running()),
            passing: count(&|t| t.is_live() && self.observations.of(t).is_passing()),
            current: count(&|t| current(t) && good(t)),
            vips: record.map(|r| r.vips.clone()).unwrap_or_default(),
            ports: record.map(|r| r.ports.clone()).unwrap_or_default(),
            rollout: self.rollout(key, record.map(|r| r.as_ref()), wanted, &tasks),
            stopped: wanted.is_some() && self.state.is_stopped(key),
            completed: count(&|t| {
                current(t) && t.desired == Desired::Run && t.final_state() == Some(TaskState::Completed)
            }),
        }
    }

    fn replicas(self, key: &ServiceKey, wanted: Option<&ServiceSpec>) -> u32 {
        match wanted.map(|s| s.mode) {
            Some(_) if self.state.is_stopped(key) => 0,
            Some(ServiceMode::Global) => u32::try_from(self.state.nodes.len()).unwrap_or(u32::MAX),
            Some(ServiceMode::Replicated { .. }) => wanted_replicas(self.state, key).unwrap_or(0),
            None => 0,
        }
    }

    fn rollout(
        self,
        key: &ServiceKey,
        record: Option<&ServiceRecord>,
        wanted: Option<&ServiceSpec>,
        tasks: &[TaskRecord],
    ) -> Rollout {
        let progressing = |reason: &str| Rollout::Progressing { reason: reason.into() };
        let stopping = || match gate::stops_after(self.state, self.observations, key) {
            Some(other) if tasks.iter().any(TaskRecord::is_wanted) => {
                progressing(&format!("it stops after {other}, which depends on it"))
            }
            _ => progressing("its tasks are being stopped"),
        };
        let Some(spec) = wanted else { return stopping() };
        if self.state.is_stopped(key) {
            return match tasks.iter().any(TaskRecord::is_live) {
                true => stopping(),
                false => Rollout::Converged,
            };
        }
        let Some(record) = record else { return progressing("it is being set up") };
        match (gate::in_step(self.state, record), gate::follow(self.state, record, spec)) {
            (false, gate::Follow::Hold(name)) => {
                return progressing(&format!("its new revision waits for that of {name}"));
            }
            (false, _) => return progressing("its new revision is about to be rolled out"),
            (true, gate::Follow::Replace(name)) => {
                return progressing(&format!("it follows {name}, which was replaced"));
            }
            (true, _) => {}
        }
        let deploy = self.state.stacks.get(&key.stack).map_or(0, |s| s.deploy);
        if let Some(failed) = record.failed.as_ref().filter(|f| f.deploy == deploy) {
            return Rollout::Failed { reason: failed.reason.clone() };
        }
        if let Some(reason) = self.port_conflict(&record.ports) {
            return Rollout::Failed { reason };
        }
        if !record.started
            && let Some(wait) = gate::waits_for(self.state, self.observations, &key.stack, spec)
        {
            return match wait.hopeless {
                true => Rollout::Failed { reason: wait.reason },
                false => Rollout::Progressing { reason: wait.reason },
            };
        }
        let scene = Scene { record, spec, deploy, tasks, observations: self.observations };
        self.slots(key, &scene)
    }

    /// A process outside of Carrack holds a port.
    fn port_conflict(self, ports: &[PublishedPort]) -> Option<String> {
        self.observations.nodes.values().find_map(|node| {
            let report = &node.report;
            let conflict = report.port_conflicts.iter().find(|conflict| {
                let held = PublishedPort {
                    target: conflict.port,
                    published: Some(conflict.port),
                    range: None,
                    host_ip: conflict.host_ip,
                    protocol: conflict.protocol,
                    mode: Default::default(),
                };
                ports.iter().any(|port| ports_collide(port, &held))
            })?;
            let (port, protocol) = (conflict.port, conflict.protocol);
            Some(format!("port {port}/{protocol} on {} is held by {}", report.node.hostname, conflict.holder))
        })
    }

    fn slots(self, key: &ServiceKey, scene: &Scene<'_>) -> Rollout {
        let mut waits = None;
        let slots: Vec<u32> = match wanted_replicas(self.state, key) {
            Some(replicas) => (1..=replicas).collect(),
            None => scene.tasks.iter().filter(|t| t.is_wanted()).map(|t| t.slot).collect(),
        };
        for slot in slots {
            match self.slot(scene, slot) {
                Rollout::Converged => {}
                Rollout::Failed { reason } => return Rollout::Failed { reason },
                Rollout::Progressing { reason } => waits = waits.or(Some(reason)),
            }
        }
        waits.map_or(Rollout::Converged, |reason| Rollout::Progressing { reason })
    }

    fn slot(self, scene: &Scene<'_>, slot: u32) -> Rollout {
        let of_slot = || scene.tasks.iter().filter(move |t| t.slot == slot);
        let name = format!("{}.{slot}", scene.record.key.service);
        let old = of_slot().find(|t| t.is_wanted() && !scene.is_current(t));
        let Some(task) = of_slot().rfind(|t| scene.is_current(t) && t.desired == Desired::Run) else {
            let reason = match old {
                Some(_) => format!("{name} still runs an older revision"),
                None if of_slot().any(|t| t.is_live()) => format!("{name} waits for its old task to stop"),
                None => format!("{name} has no task yet"),
            };
            return Rollout::Progressing { reason };
        };
        match task.final_state() {
            Some(TaskState::Completed) if old.is_none() => return Rollout::Converged,
            Some(_) => {
                let text = task.verdict.as_ref().map(crate::plan::describe).unwrap_or_default();
                return match scene.deploy == task.deploy {
                    true => Rollout::Failed { reason: format!("{name} {text}") },
                    false => Rollout::Progressing { reason: format!("{name} {text}; it is replaced") },
                };
            }
            None => {}
        }
        let observed = self.observations.of(task);
        if observed.is_passing() {
            if old.is_none() && scene.watched_until(task, self.now).is_some() {
                let window = carrack_api::human_duration(scene.monitor());
                return Rollout::Progressing {
                    reason: format!("{name} is passing and is watched for {window}"),
                };
            }
            return match old {
                None => Rollout::Converged,
                Some(_) => Rollout::Progressing { reason: format!("{name} hands over to its new task") },
            };
        }
        self.not_passing(scene, task, observed, &name)
    }

    fn not_passing(
        self,
        scene: &Scene<'_>,
        task: &TaskRecord,
        observed: Observed<'_>,
        name: &str,
    ) -> Rollout {
        let reason = match observed {
            Observed::Pending => format!("{name} pending: {}", task.placement),
            Observed::Unknown => {
                format!("{name} is on a node that has not reported since the scheduler started")
            }
            Observed::Placed | Observed::Gone => format!("{name} placed"),
            Observed::Reported(report) => {
                if let Failing::Yes(reason) = failing(task, report, scene.spec, self.now)
                    && self.now.since(self.tried_since(task)) >= CRASH_PATIENCE
                {
                    return Rollout::Failed { reason };
                }
                let health = match (report.state, report.health) {
                    (TaskState::Running, Health::Failing) => "running, failing".to_owned(),
                    (TaskState::Running, _) => "running, not passing yet".to_owned(),
                    (state, _) => state.to_string(),
                };
                let why = report.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
                format!("{name} {health}{why}")
            }
        };
        Rollout::Progressing { reason }
    }

    /// Since when the task has had its chance: it was made, or its stack was deployed again.
    fn tried_since(self, task: &TaskRecord) -> Timestamp {
        let deployed = self.state.stacks.get(&task.service.stack).map_or(Timestamp(0), |s| s.deployed_at);
        task.created_at.max(deployed)
    }

    /// One task, past or present.
    pub(crate) fn task(self, task: &TaskRecord) -> TaskStatus {
        let spec = self.state.service_spec(&task.service, task.revision);
        let record = self.state.services.get(&task.service);
        let observed = self.observations.of(task);
        let report = observed.report();
        let state = match (&task.verdict, observed) {
            (Some(verdict), _) => verdict.state,
            (None, Observed::Reported(report)) => report.state,
            (None, Observed::Pending) => TaskState::Pending,
            (None, Observed::Unknown | Observed::Placed | Observed::Gone) => TaskState::Placed,
        };
        let reason = match (&task.verdict, observed) {
            (Some(verdict), _) => verdict.reason.clone(),
            (None, Observed::Unknown) => Some("its node has not reported since the scheduler started".into()),
            (None, _) => report.and_then(|r| r.reason.clone()),
        };
        let node = task.node.as_ref().and_then(|id| self.state.nodes.get(id));
        let verdict = task.verdict.as_ref();
        let container = spec.map(|s| &s.task.container);
        TaskStatus {
            id: task.id,
            service: task.service.clone(),
            slot: task.slot,
            node: task.node.clone(),
            hostname: node.map(|n| n.info.hostname.clone()),
            revision: task.revision,
            current: record.is_some_and(|r| r.template == task.revision),
            desired: task.desired,
            run: report.map(|r| r.run).or(verdict.map(|v| v.run)).unwrap_or(0),
            state,
            health: report.filter(|_| task.is_live()).map_or(Health::Unknown, |r| r.health),
            reason,
            placement: Some(task.placement.clone()).filter(|p| !p.is_empty()),
            exit: verdict.and_then(|v| v.exit.clone()).or_else(|| report.and_then(|r| r.exit.clone())),
            image: container.map(|c| c.image.clone()).unwrap_or_default(),
            image_digest: container.and_then(|c| c.image_digest.clone()),
            addresses: task.addresses.clone(),
            created_at: task.created_at,
            started_at: report.and_then(|r| r.started_at),
            progress: report.and_then(|r| r.progress.clone()),
            probe: report.and_then(|r| r.probe.clone()),
            pid: report.filter(|_| task.is_live()).and_then(|r| r.pid),
            usage: report.filter(|_| task.is_live()).and_then(|r| r.usage.clone()),
        }
    }

    /// All nodes that were ever heard.
    pub(crate) fn nodes(self) -> Vec<NodeStatus> {
        let statuses = self.state.nodes.values().map(|record| {
            let id = &record.info.id;
            let seen = self.observations.nodes.get(id).map(|o| o.at);
            let on_node = |t: &&std::sync::Arc<TaskRecord>| t.is_live() && t.node.as_ref() == Some(id);
            let tasks =
                self.state.tasks.values().filter(on_node).filter(|t| self.observations.of(t).is_running());
            NodeStatus {
                info: record.info.clone(),
                ready: seen.is_some_and(|at| self.now.since(at) < SUSPECT_AFTER),
                seen_at: seen.unwrap_or_default(),
                tasks: u32::try_from(tasks.count()).unwrap_or(u32::MAX),
            }
        });
        statuses.collect()
    }
}
