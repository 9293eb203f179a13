//! Scenarios: scripts in `tests/scenarios/*.txt` whose output is compared with what the file says.
//!
//! A line that starts with `$ ` is a command, what follows is its output. `UPDATE_SCENARIOS=1` writes the files anew; the
//! change is then reviewed as text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carrack_api::{
    Bytes, Dependency, DependencyCondition, Desired, Exit, Health, Mount, MountSource, NodeId, NodeReport,
    PortConflict, PortMode, Rollout, ServiceKey, ServiceMode, ServiceName, ServiceSpec, StackSpec, TaskId,
    TaskReport, TaskState, Timestamp,
};

use super::check::check;
use super::{NodeObservation, Observations, Plan, plan};
use crate::store::{
    ClusterRecord, Object, Op, RevisionRecord, RunRecord, ScaleOverride, ServiceRecord, Snapshot, StackPhase,
    StackRecord,
};
use crate::testing;
use crate::view::World;

/// A cluster whose nodes do what a script says.
pub(crate) struct Sim {
    pub(crate) state: Snapshot,
    pub(crate) now: Timestamp,
    nodes: BTreeMap<NodeId, carrack_api::NodeInfo>,
    silent: BTreeSet<NodeId>,
    reports: BTreeMap<TaskId, TaskReport>,
    conflicts: Vec<PortConflict>,
}

impl Sim {
    pub(crate) fn new() -> Self {
        let mut state = Snapshot::default();
        let cluster = ClusterRecord {
            id: "0123456789ab".parse().unwrap(),
            epoch: 1,
            cidr: "10.192.0.0/10".into(),
            next_task: 1,
            vip_cursor: 0,
        };
        state.apply(Op::Put(Object::Cluster(cluster)), 1);
        Self {
            state,
            now: Timestamp(1_000_000),
            nodes: BTreeMap::new(),
            silent: BTreeSet::new(),
            reports: BTreeMap::new(),
            conflicts: Vec::new(),
        }
    }

    pub(crate) fn add_node(&mut self, number: u64) {
        let node = testing::node(number);
        self.nodes.insert(node.id.clone(), node);
    }

    pub(crate) fn observations(&self) -> Observations {
        let mut nodes = BTreeMap::new();
        for (id, info) in self.nodes.iter().filter(|(id, _)| !self.silent.contains(*id)) {
            let here = self.state.tasks.values().filter(|t| t.node.as_ref() == Some(id));
            let report = NodeReport {
                cluster: "0123456789ab".parse().unwrap(),
                epoch: 1,
                sequence: 1,
                generation: 1,
                node: info.clone(),
                tasks: here.filter_map(|t| self.reports.get(&t.id)).cloned().collect(),
                images: Vec::new(),
                port_conflicts: self.conflicts.clone(),
                collection: None,
            };
            nodes.insert(
                id.clone(),
                Arc::new(NodeObservation::new(Arc::new(report), self.now, BTreeSet::new())),
            );
        }
        Observations { nodes }
    }

    /// Plans once, applies it, and says what the linter has against it.
    pub(crate) fn turn(&mut self) -> (Plan, Vec<String>) {
        let plan = plan(&self.state, &self.observations(), self.now, 7);
        self.state.index += 1;
        for txn in plan.txns(&self.state) {
            for op in txn.ops {
                self.state.apply(op, self.state.index);
            }
            let wrong = check(&self.state);
            assert_eq!(wrong, Vec::<String>::new(), "every prefix is legal:\n{plan}");
        }
        let wrong = check(&plan.after);
        (plan, wrong)
    }

    /// Plans until nothing changes any more.
    pub(crate) fn settle(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..20 {
            let (plan, wrong) = self.turn();
            assert_eq!(wrong, Vec::<String>::new(), "the linter refuses:\n{plan}");
            if plan.steps.is_empty() {
                return text;
            }
            text += &plan.to_string();
        }
        panic!("the plan does not settle:\n{text}");
    }

    pub(crate) fn set(&mut self, id: TaskId, change: impl FnOnce(&mut TaskReport)) {
        let now = self.now;
        let report = self.reports.entry(id).or_insert_with(|| blank(id, now));
        change(report);
    }

    /// Nodes do as they are told: wanted tasks pass, others stop.
    pub(crate) fn obey(&mut self) {
        let live: Vec<_> =
            self.state.tasks.values().filter(|t| t.is_live() && t.node.is_some()).cloned().collect();
        for task in live {
            let now = self.now;
            match task.desired {
                Desired::Run
                    if self.reports.get(&task.id).is_none_or(|r| r.crashes == 0 && !r.state.is_final()) =>
                {
                    self.set(task.id, |r| pass(r, now));
                }
                Desired::Run => {}
                Desired::Stop => {
                    self.set(task.id, |r| (r.state, r.health) = (TaskState::Stopped, Health::Unknown))
                }
            }
        }
    }

    pub(crate) fn deploy(&mut self, spec: StackSpec) {
        let name = spec.name.clone();
        let before = self.state.stacks.get(&name).cloned();
        let same = before.as_ref().is_some_and(|b| {
            b.phase == StackPhase::Active && self.state.spec(&name, b.revision) == Some(&spec)
        });
        let revision = before.as_ref().map_or(0, |b| b.revision) + u64::from(!same);
        let stack = StackRecord {
            name: name.clone(),
            revision,
            deploy: before.as_ref().map_or(0, |b| b.deploy) + 1,
            deployed_at: self.now,
            phase: StackPhase::Active,
            resolved: Default::default(),
            stopped: BTreeSet::new(),
            fresh: before.map(|b| b.fresh.clone()).unwrap_or_default(),
            set: BTreeSet::new(),
        };
        self.state.apply(Op::Put(Object::Stack(stack)), 1);
        let record = RevisionRecord { stack: name, revision, at: self.now, spec };
        self.state.apply(Op::Put(Object::Revision(record)), 1);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let stack = self.state.stacks.get(&name.parse().unwrap()).unwrap();
        let stack = StackRecord { phase: StackPhase::Removing, ..StackRecord::clone(stack) };
        self.state.apply(Op::Put(Object::Stack(stack)), 1);
    }

    pub(crate) fn scale(&mut self, key: &str, replicas: u32) {
        let record = self.state.services.get(&key.parse().unwrap()).unwrap();
        let deploy = self.state.stacks.get(&record.key.stack).unwrap().deploy;
        let scale = Some(ScaleOverride { replicas, deploy });
        let record = ServiceRecord { scale, ..ServiceRecord::clone(record) };
        self.state.apply(Op::Put(Object::Service(record)), 1);
    }

    /// Changes the record of a stack as a command does.
    fn change(
        &mut self,
        name: &str,
        edit: impl FnOnce(&mut StackRecord, Vec<ServiceName>),
        services: &[&str],
    ) {
        let mut stack = StackRecord::clone(self.state.stacks.get(&name.parse().unwrap()).unwrap());
        let spec = self.state.spec(&stack.name, stack.revision).unwrap().clone();
        let named = services.iter().map(|s| s.parse().unwrap()).collect();
        edit(&mut stack, if services.is_empty() { spec.services.keys().cloned().collect() } else { named });
        let record =
            RevisionRecord { stack: stack.name.clone(), revision: stack.revision, at: self.now, spec };
        self.state.apply(Op::Put(Object::Revision(record)), 1);
        self.state.apply(Op::Put(Object::Stack(stack)), 1);
    }

    fn one_off(&mut self, key: &str, name: &str, options: &[&str]) {
        let origin: ServiceKey = key.parse().unwrap();
        let revision = self.state.stacks.get(&origin.stack).unwrap().revision;
        let mut spec = self.state.service_spec(&origin, revision).unwrap().clone();
        spec.ports.clear();
        let run = RunRecord {
            key: name.parse().unwrap(),
            service: origin.service,
            revision,
            started: spec.depends_on.is_empty(),
            spec,
            remove: options.contains(&"rm"),
            doomed: options.contains(&"doomed"),
            created_at: self.now,
            vips: Vec::new(),
        };
        self.state.apply(Op::Put(Object::Run(run)), 1);
    }

    fn status(&self, name: &str) -> String {
        let observations = self.observations();
        let world = World { state: &self.state, observations: &observations, now: self.now };
        let view = world.stack_view(&name.parse().unwrap());
        let Some(stack) = view.stack else { return format!("{name} is gone\n") };
        let mut text =
            format!("{name} revision {}{}\n", stack.revision, if stack.removing { ", removing" } else { "" });
        for s in stack.services {
            let rollout = match s.rollout {
                Rollout::Converged => "converged".into(),
                Rollout::Progressing { reason } => format!("progressing: {reason}"),
                Rollout::Failed { reason } => format!("failed: {reason}"),
            };
            let stopped = if s.stopped { ", stopped" } else { "" };
            text += &format!(
                "  {} {}/{} passing, {} current, {rollout}{stopped}\n",
                s.service.service, s.passing, s.replicas, s.current
            );
        }
        for run in stack.runs {
            let task = run.task.map(|t| format!(" {t}")).unwrap_or_default();
            let reason = run.reason.map(|r| format!(": {r}")).unwrap_or_default();
            text += &format!("  {}{task} {}{reason}\n", run.run.service, run.state);
        }
        text
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let tasks = |words: &[&str]| words.iter().map(|w| w.parse().unwrap()).collect::<Vec<TaskId>>();
        let now = self.now;
        match words.as_slice() {
            ["node", number] => self.add_node(number.parse().unwrap()),
            ["silent", number] => drop(self.silent.insert(testing::node(number.parse().unwrap()).id)),
            ["heard", number] => drop(self.silent.remove(&testing::node(number.parse().unwrap()).id)),
            ["deploy", name, services @ ..] => self.deploy(parse_stack(name, services)),
            ["remove", name] => self.remove(name),
            ["scale", key, replicas] => self.scale(key, replicas.parse().unwrap()),
            ["stop", name, services @ ..] => self.change(name, |s, names| s.stopped.extend(names), services),
            ["start", name, services @ ..] => {
                self.change(name, |s, names| s.stopped.retain(|n| !names.contains(n)), services);
            }
            ["restart", name, services @ ..] => {
                let edit = |s: &mut StackRecord, names: Vec<ServiceName>| {
                    s.revision += 1;
                    s.fresh.extend(names.into_iter().map(|name| (name, s.revision)));
                };
                self.change(name, edit, services);
            }
            ["run", service, name, options @ ..] => self.one_off(service, name, options),
            ["wait", seconds] => self.now = self.now.after(Duration::from_secs(seconds.parse().unwrap())),
            ["obey"] => self.obey(),
            ["passing", ids @ ..] => tasks(ids).into_iter().for_each(|id| self.set(id, |r| pass(r, now))),
            ["running", ids @ ..] => tasks(ids)
                .into_iter()
                .for_each(|id| self.set(id, |r| (r.state, r.health) = (TaskState::Running, Health::Unknown))),
            ["stopped", ids @ ..] => {
                tasks(ids).into_iter().for_each(|id| self.set(id, |r| r.state = TaskState::Stopped))
            }
            ["completed", id] => {
                self.set(id.parse().unwrap(), |r| (r.state, r.exit) = (TaskState::Completed, Some(exit(0))))
            }
            ["failed", id] => {
                self.set(id.parse().unwrap(), |r| (r.state, r.exit) = (TaskState::Failed, Some(exit(1))))
            }
            ["rejected", id, reason @ ..] => self.set(id.parse().unwrap(), |r| {
                (r.state, r.reason) = (TaskState::Rejected, Some(reason.join(" ")))
            }),
            ["crashed", id, times] => self.set(id.parse().unwrap(), |r| {
                (r.state, r.health, r.exit) = (TaskState::Starting, Health::Unknown, Some(exit(1)));
                r.crashes = times.parse().unwrap();
            }),
            ["port-held", port, holder @ ..] => self.conflicts.push(PortConflict {
                host_ip: None,
                port: port.parse().unwrap(),
                protocol: Default::default(),
                holder: holder.join(" "),
            }),
            ["plan"] => return self.settle(),
            ["status", name] => return self.status(name),
            other => panic!("no command {other:?}"),
        }
        String::new()
    }
}

/// Passing, since now when it was not before.
fn pass(report: &mut TaskReport, now: Timestamp) {
    if report.health != Health::Passing {
        report.health_since = Some(now);
    }
    (report.state, report.health) = (TaskState::Running, Health::Passing);
}

fn exit(code: i32) -> Exit {
    Exit { code, signal: None, oom: false, peak_memory: None, at: Timestamp(0), error: None }
}

fn blank(id: TaskId, now: Timestamp) -> TaskReport {
    TaskReport {
        task: id,
        run: 1,
        state: TaskState::Preparing,
        health: Health::Unknown,
        reason: None,
        exit: None,
        started_at: Some(now),
        health_since: Some(now),
        crashes: 0,
        progress: None,
        probe: None,
        pid: None,
        usage: None,
    }
}

/// `web=nginx:1*3,port=8080,after=db:healthy,order=stop-first,volume=data,memory=8`.
fn parse_stack(name: &str, services: &[&str]) -> StackSpec {
    let services: Vec<(&str, ServiceSpec)> = services
        .iter()
        .map(|text| {
            let mut parts = text.split(',');
            let (service, image) = parts.next().unwrap().split_once('=').unwrap();
            let (image, replicas) = image.split_once('*').unwrap_or((image, "1"));
            let mut spec = testing::service(image);
            spec.mode = match replicas {
                "all" => ServiceMode::Global,
                count => ServiceMode::Replicated { replicas: count.parse().unwrap() },
            };
            parts.for_each(|part| option(&mut spec, part));
            (service, spec)
        })
        .collect();
    testing::stack(name, &services)
}

fn option(spec: &mut ServiceSpec, part: &str) {
    let (key, value) = part.split_once('=').unwrap();
    match key {
        "port" => spec.ports.push(testing::port(80, value.parse().ok())),
        "host-port" => {
            let port = testing::port(80, Some(value.parse().unwrap()));
            spec.ports.push(carrack_api::PublishedPort { mode: PortMode::Host, ..port });
        }
        "order" => spec.update.order = serde_json::from_value(value.into()).unwrap(),
        "parallel" => spec.update.parallelism = Some(value.parse().unwrap()),
        "delay" => spec.update.delay = Some(Duration::from_secs(value.parse().unwrap())),
        "memory" => spec.task.reservations.memory = Bytes(value.parse::<u64>().unwrap() << 30),
        "on" => spec.placement.constraints.push(format!("node.hostname == {value}")),
        "volume" => spec.task.container.mounts.push(Mount {
            target: "/data".into(),
            source: MountSource::Volume { name: value.parse().unwrap(), nocopy: false, subpath: None },
            read_only: false,
        }),
        "after" => {
            let (name, condition) = value.split_once(':').unwrap();
            let (condition, restart) = match condition.strip_suffix("+restart") {
                Some(condition) => (condition, true),
                None => (condition, false),
            };
            let (condition, required) = match condition.strip_suffix("+optional") {
                Some(condition) => (condition, false),
                None => (condition, true),
            };
            let condition = match condition {
                "healthy" => DependencyCondition::Healthy,
                "completed" => DependencyCondition::Completed,
                _ => DependencyCondition::Started,
            };
            spec.depends_on.insert(name.parse().unwrap(), Dependency { condition, required, restart });
        }
        other => panic!("no option {other}"),
    }
}

#[test]
fn scenarios_go_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "scenarios are missing");
    for file in files {
        let before = std::fs::read_to_string(&file).unwrap();
        let mut after = String::new();
        let mut sim = Sim::new();
        for line in before.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => {
                    after += &format!("$ {command}\n");
                    after += &sim.run(command);
                }
                None if line.starts_with('#') => after += &format!("{line}\n"),
                None => {}
            }
        }
        if std::env::var_os("UPDATE_SCENARIOS").is_some() {
            std::fs::write(&file, &after).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), after, "{}", file.display());
    }
}
