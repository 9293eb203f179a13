//! A deploy: check everything, resolve every image once, then one transaction. Nothing changes when anything is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use carrack_api::defaults::STATE_DIR;
use carrack_api::validate::validate;
use carrack_api::{
    ChangeKind, FieldProblem, NodeId, NodeRequest, Problem, PullPolicy, PutStack, RegistryCredentials,
    Reservations, ResolvedImage, ServiceKey, StackChange, StackSpec, VolumeStatus,
};
use futures_util::{StreamExt, stream};

use super::nodes::{any_node, ask};
use super::problem::from_commit;
use crate::change;
use crate::clock;
use crate::image_name::registry;
use crate::place::{Candidate, Request, place};
use crate::plan::{EventDraft, ports, volumes};
use crate::store::{CommitError, Key, Object, Op, RevisionRecord, Snapshot, StackPhase, StackRecord, Txn};
use crate::wiring::Inner;

/// Tries of a write that others changed meanwhile.
pub(super) const COMMIT_TRIES: usize = 10;
/// Images resolved at a time.
const RESOLVES_AT_ONCE: usize = 8;
/// Time to resolve one image.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(60);
/// Time for a node to list its volumes.
const VOLUMES_DEADLINE: Duration = Duration::from_secs(10);

/// What the deploy was based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// Whatever is there.
    Any,
    /// Some revision.
    Exists,
    /// This revision; 0 is none.
    Revision(u64),
}

/// Carries out a deploy or its dry run.
pub(super) async fn deploy(
    inner: &Inner,
    body: PutStack,
    basis: Basis,
    dry_run: bool,
) -> Result<StackChange, Problem> {
    let PutStack { mut spec, credentials } = body;
    let problems = validate(&spec);
    if !problems.is_empty() {
        return Err(invalid("the stack is not valid", problems));
    }
    check_basis(&inner.cluster.store.snapshot(), &spec, basis)?;
    check_ports(&inner.cluster.store.snapshot(), &spec)?;
    let node = any_node(inner).await?;
    check_room(inner, &spec)?;
    check_external_volumes(inner, &node, &spec).await?;
    resolve(inner, &node, &mut spec, &credentials).await?;
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        check_basis(&snapshot, &spec, basis)?;
        check_ports(&snapshot, &spec)?;
        let step = Step::new(&snapshot, &spec);
        if dry_run || step.is_empty() {
            return Ok(step.change);
        }
        let txn = step.txn(&snapshot, &spec);
        match inner.cluster.store.commit(txn).await {
            Ok(_) => {
                let change = step.done();
                inner.cluster.events.append(vec![deployed(&spec, &change)], clock::now());
                return Ok(change);
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(from_commit(error)),
        }
    }
    Err(from_commit(CommitError::Conflict(Key::Stack(spec.name))))
}

fn invalid(text: &str, problems: Vec<FieldProblem>) -> Problem {
    let detail = match problems.as_slice() {
        [one] => format!("{text}: {}: {}", one.path, one.message),
        many => format!("{text}: {} problems", many.len()),
    };
    Problem { problems, ..Problem::new(422, "invalid-spec", detail) }
}

fn check_basis(snapshot: &Snapshot, spec: &StackSpec, basis: Basis) -> Result<(), Problem> {
    let current = snapshot.stack(&spec.name).map_or(0, |s| s.revision);
    let fits = match basis {
        Basis::Any => true,
        Basis::Exists => current > 0,
        Basis::Revision(revision) => revision == current,
    };
    if fits {
        return Ok(());
    }
    let is = if current == 0 { "does not exist".into() } else { format!("is at revision {current}") };
    Err(Problem::new(
        412,
        "revision-mismatch",
        format!("stack {} {is}, the deploy was based on another", spec.name),
    )
    .hint("somebody deployed meanwhile: look at the difference and deploy again"))
}

/// Ports that other stacks publish.
fn check_ports(snapshot: &Snapshot, spec: &StackSpec) -> Result<(), Problem> {
    let taken = ports::conflicts(snapshot, &spec.name, spec);
    let problems: Vec<FieldProblem> = taken
        .iter()
        .map(|t| {
            let number = t.port.published.unwrap_or(t.port.target);
            FieldProblem {
                path: format!("services.{}.ports[{}]", t.service, t.index),
                message: format!("port {number}/{} is published by {}", t.port.protocol, t.holder),
                hint: Some("give it another number on the left of the colon".into()),
            }
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Problem { status: 409, kind: "port-taken".into(), ..invalid("a published port is taken", problems) })
}

/// Reservations that no node could meet even when it were empty.
fn check_room(inner: &Inner, spec: &StackSpec) -> Result<(), Problem> {
    let observations = inner.cluster.observed();
    let candidates: Vec<Candidate<'_>> = observations
        .nodes
        .values()
        .map(|o| Candidate {
            info: &o.report.node,
            reserved: Reservations::default(),
            siblings: 0,
            host_ports: BTreeSet::new(),
        })
        .collect();
    let mut problems = Vec::new();
    for (name, service) in &spec.services {
        let request = Request { spec: service, homes: Vec::new(), only: None };
        if let Err(error) = place(&request, &candidates, 0)
            && error.is_for_resources()
        {
            problems.push(FieldProblem {
                path: format!("services.{name}.deploy.resources.reservations"),
                message: error.to_string(),
                hint: Some("reserve less, or add a node that has as much".into()),
            });
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Problem { kind: "no-node-fits".into(), ..invalid("a reservation can never be met", problems) })
}

async fn check_external_volumes(inner: &Inner, node: &NodeId, spec: &StackSpec) -> Result<(), Problem> {
    let used: BTreeSet<_> = spec.services.values().flat_map(volumes).collect();
    let external: Vec<_> =
        spec.volumes.iter().filter(|(name, v)| v.external && used.contains(*name)).collect();
    if external.is_empty() {
        return Ok(());
    }
    let held: Vec<VolumeStatus> = ask(inner, node, NodeRequest::VolumeList, VOLUMES_DEADLINE).await?;
    let missing = external.into_iter().filter(|(name, _)| !held.iter().any(|v| v.name == **name));
    let problems: Vec<FieldProblem> = missing
        .map(|(name, _)| FieldProblem {
            path: format!("volumes.{name}"),
            message: format!("external volume {name} does not exist"),
            hint: Some(format!("leave out `external`, or put its data into {STATE_DIR}/volumes/{name}")),
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(invalid("a volume is missing", problems)) }
}

/// Writes the digest of every image into the spec, each asked for once.
async fn resolve(
    inner: &Inner,
    node: &NodeId,
    spec: &mut StackSpec,
    credentials: &BTreeMap<String, RegistryCredentials>,
) -> Result<(), Problem> {
    let mut wanted: BTreeMap<String, PullPolicy> = BTreeMap::new();
    for service in spec.services.values() {
        let container = &service.task.container;
        let policy = wanted.entry(container.image.clone()).or_insert(container.pull);
        if container.pull == PullPolicy::Always {
            *policy = PullPolicy::Always;
        }
    }
    let answers: BTreeMap<String, Result<ResolvedImage, Problem>> = stream::iter(wanted)
        .map(|(reference, policy)| async move {
            let request = NodeRequest::ImageResolve {
                reference: reference.clone(),
                policy,
                credentials: credentials.get(registry(&reference)).cloned(),
            };
            (reference, ask(inner, node, request, RESOLVE_DEADLINE).await)
        })
        .buffer_unordered(RESOLVES_AT_ONCE)
        .collect()
        .await;
    let mut failures = Vec::new();
    for (name, service) in &mut spec.services {
        let container = &mut service.task.container;
        match answers.get(&container.image) {
            Some(Ok(resolved)) => container.image_digest = Some(resolved.digest.clone()),
            Some(Err(problem)) => failures.push((name.to_string(), container.image.clone(), problem.clone())),
            None => failures.push((
                name.to_string(),
                container.image.clone(),
                Problem::internal("it was not asked for"),
            )),
        }
    }
    image_problem(failures)
}

fn image_problem(failures: Vec<(String, String, Problem)>) -> Result<(), Problem> {
    let Some((service, image, first)) = failures.first() else { return Ok(()) };
    let missing = first.status == 404 || first.kind == "image-not-found";
    let hint = first
        .hint
        .clone()
        .unwrap_or_else(|| "check the name, or bring it with `carrack image load -i FILE`".into());
    let detail = match missing {
        true => format!("service {service}: image {image:?} was not found: {}", first.detail),
        false => format!("service {service}: image {image:?} could not be resolved: {}", first.detail),
    };
    let problems = failures
        .iter()
        .map(|(service, image, problem)| FieldProblem {
            path: format!("services.{service}.image"),
            message: format!("{image}: {}", problem.detail),
            hint: problem.hint.clone(),
        })
        .collect();
    let (status, kind) = if missing { (422, "image-not-found") } else { (first.status, first.kind.as_str()) };
    Err(Problem { problems, ..Problem::new(status, kind, detail).hint(hint) })
}

/// What a deploy does to the store.
struct Step {
    change: StackChange,
    stack: StackRecord,
    same_spec: bool,
    /// Something holds only until the next deploy: a scale by command, a rollout that was given up.
    releases: bool,
}

impl Step {
    fn new(snapshot: &Snapshot, spec: &StackSpec) -> Self {
        let before = snapshot.stacks.get(&spec.name);
        let active = before.filter(|s| s.phase == StackPhase::Active);
        let old = active.and_then(|s| snapshot.spec(&s.name, s.revision));
        let same_spec = old == Some(spec);
        let notes = notes(snapshot, spec);
        let revision = before.map_or(0, |s| s.revision);
        let shown = snapshot.stack(&spec.name).map_or(0, |s| s.revision);
        let mut services = change::changes(old, spec);
        for service in services.iter_mut().filter(|s| s.kind == ChangeKind::Unchanged) {
            if notes.iter().any(|n| n.service == service.service) {
                service.kind = ChangeKind::Adjust;
            }
        }
        let stack = StackRecord {
            name: spec.name.clone(),
            revision: revision + u64::from(!same_spec),
            deploy: before.map_or(0, |s| s.deploy) + 1,
            deployed_at: clock::now(),
            phase: StackPhase::Active,
        };
        let releases = !notes.is_empty();
        let notes = notes.into_iter().map(|n| n.text).collect();
        Self { change: StackChange { revision: shown, services, notes }, stack, same_spec, releases }
    }

    fn is_empty(&self) -> bool {
        self.same_spec && !self.releases
    }

    fn txn(&self, snapshot: &Snapshot, spec: &StackSpec) -> Txn {
        let key = Key::Stack(spec.name.clone());
        let expect = vec![(key.clone(), snapshot.version(&key))];
        let mut ops = vec![Op::Put(Object::Stack(self.stack.clone()))];
        if !self.same_spec {
            let record = RevisionRecord {
                stack: spec.name.clone(),
                revision: self.stack.revision,
                at: self.stack.deployed_at,
                spec: spec.clone(),
            };
            ops.insert(0, Op::Put(Object::Revision(record)));
        }
        Txn { expect, ops }
    }

    fn done(self) -> StackChange {
        StackChange { revision: self.stack.revision, ..self.change }
    }
}

struct Note {
    service: ServiceKey,
    text: String,
}

/// What stood until this deploy and ends with it.
fn notes(snapshot: &Snapshot, spec: &StackSpec) -> Vec<Note> {
    let deploy = snapshot.stack(&spec.name).map(|s| s.deploy);
    let mut notes = Vec::new();
    for record in snapshot.services_of(&spec.name) {
        let Some(service) = spec.services.get(&record.key.service) else { continue };
        let name = &record.key.service;
        if let Some(scale) = record.scale.filter(|s| Some(s.deploy) == deploy)
            && let Some(replicas) = service.replicas()
            && replicas != scale.replicas
        {
            let text = format!(
                "{name}: replicas return from {} (set by scale) to {replicas} (the file)",
                scale.replicas
            );
            notes.push(Note { service: record.key.clone(), text });
        }
        if record.failed.as_ref().is_some_and(|f| Some(f.deploy) == deploy) {
            let text = format!("{name}: the rollout that failed is tried again");
            notes.push(Note { service: record.key.clone(), text });
        }
    }
    notes
}

fn deployed(spec: &StackSpec, change: &StackChange) -> EventDraft {
    let words = change.services.iter().filter_map(|s| {
        let what = match s.kind {
            ChangeKind::Create => "new",
            ChangeKind::Replace => "replaced",
            ChangeKind::Adjust => "adjusted",
            ChangeKind::Remove => "removed",
            ChangeKind::Unchanged => return None,
        };
        Some(format!("{} {what}", s.service.service))
    });
    let words: Vec<String> = words.collect();
    let message = format!("revision {} of {}: {}", change.revision, spec.name, words.join(", "));
    EventDraft { kind: "stack.deployed", subject: spec.name.to_string(), message, task: None }
}
