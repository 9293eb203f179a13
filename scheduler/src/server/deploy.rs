//! A deploy: check everything, resolve every image once, then one transaction. Nothing changes when anything is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use carrack_api::validate::validate;
use carrack_api::{
    ChangeKind, Contents, FieldProblem, NodeId, NodeRequest, Problem, PullPolicy, PutStack, Reservations,
    ResolvedImage, ServiceKey, StackChange, StackSpec, Timestamp, VolumeStatus,
};
use futures_util::{StreamExt, stream};

use super::networks;
use super::nodes::{any_node, ask};
use super::problem::from_commit;
use crate::change;
use crate::clock;
use crate::contents::{self, Brought, Refused};
use crate::credentials::{self, Logins};
use crate::image_name::registry;
use crate::place::{Candidate, Request, place};
use crate::plan::{EventDraft, ports, volumes};
use crate::store::{
    CommitError, Key, Object, Op, Resolved, RevisionRecord, Snapshot, StackPhase, StackRecord, Txn,
};
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
    let PutStack { mut spec, credentials, contents } = body;
    let problems = validate(&spec);
    if !problems.is_empty() {
        return Err(invalid("the stack is not valid", problems));
    }
    check_basis(&inner.cluster.store.snapshot(), &spec, basis)?;
    check_ports(&inner.cluster.store.snapshot(), &spec)?;
    check_names(&inner.cluster.store.snapshot(), &spec)?;
    networks::adopt(&inner.cluster.store.snapshot(), &mut spec)?;
    let node = any_node(inner).await?;
    check_room(inner, &spec)?;
    check_external_volumes(inner, &node, &spec).await?;
    let given = check_credentials(&spec, credentials)?;
    // Before registries are asked, which takes longer.
    settle_contents(inner, &inner.cluster.store.snapshot(), &mut spec, &contents)?;
    let resolved = resolve(inner, &node, &mut spec, &given).await?;
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        check_basis(&snapshot, &spec, basis)?;
        check_ports(&snapshot, &spec)?;
        check_names(&snapshot, &spec)?;
        networks::adopt(&snapshot, &mut spec)?;
        let mut beside = settle_contents(inner, &snapshot, &mut spec, &contents)?;
        let logins = inner.cluster.vault.keep(&snapshot, &spec, &given, clock::now());
        beside.ops.extend(logins.map_err(|error| Problem::internal(error.to_string()))?);
        let step = Step::new(&snapshot, &spec, &resolved, beside);
        if dry_run || step.changes_nothing(&snapshot) {
            return Ok(step.change);
        }
        let txn = step.txn(&snapshot, &spec);
        match inner.cluster.store.commit(txn).await {
            Ok(_) if step.is_empty() => return Ok(step.change),
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

/// Writes into the spec what its secrets and configs stand for, and answers what keeps their content.
fn settle_contents(
    inner: &Inner,
    snapshot: &Snapshot,
    spec: &mut StackSpec,
    given: &Contents,
) -> Result<Brought, Problem> {
    contents::settle(&inner.cluster.vault, snapshot, spec, given, clock::now()).map_err(|refused| {
        match refused {
            Refused::Fields(problems) => {
                Problem { kind: "no-content".into(), ..invalid("a secret or config is missing", problems) }
            }
            Refused::Whole(problem) => problem,
            Refused::Seal(error) => Problem::internal(error.to_string()),
        }
    })
}

/// The credentials that are for registries of the stack's images; others are dropped.
pub(super) fn check_credentials(spec: &StackSpec, given: Logins) -> Result<Logins, Problem> {
    let registries = credentials::registries(spec);
    let given: Logins = given.into_iter().filter(|(registry, _)| registries.contains(registry)).collect();
    let refused = |text: String| Problem::new(422, "invalid-credentials", text);
    if given.len() > credentials::REGISTRIES_MAX {
        return Err(refused(format!(
            "credentials for {} registries; a stack keeps those of {}",
            given.len(),
            credentials::REGISTRIES_MAX
        )));
    }
    for (registry, login) in &given {
        credentials::check(login)
            .map_err(|reason| refused(format!("the credentials for {registry} cannot be used: {reason}")))?;
    }
    Ok(given)
}

pub(super) fn invalid(text: &str, problems: Vec<FieldProblem>) -> Problem {
    let detail = match problems.as_slice() {
        [one] => format!("{text}: {}: {}", one.path, one.message),
        many => format!("{text}: {} problems", many.len()),
    };
    Problem { problems, ..Problem::new(422, "invalid-spec", detail) }
}

pub(super) fn check_basis(snapshot: &Snapshot, spec: &StackSpec, basis: Basis) -> Result<(), Problem> {
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

/// Names that one-off tasks of the stack have.
fn check_names(snapshot: &Snapshot, spec: &StackSpec) -> Result<(), Problem> {
    let key = |name: &carrack_api::ServiceName| ServiceKey::new(spec.name.clone(), name.clone());
    match spec.services.keys().map(key).find(|key| snapshot.runs.get(key).is_some()) {
        None => Ok(()),
        Some(key) => {
            let text = format!("service {:?} has the name of a one-off task", key.service);
            Err(Problem::new(409, "name-taken", text)
                .hint(format!("`carrack rm {key}` takes the one-off task away")))
        }
    }
}

/// Ports that other stacks publish.
fn check_ports(snapshot: &Snapshot, spec: &StackSpec) -> Result<(), Problem> {
    let taken = ports::conflicts(snapshot, &spec.name, spec);
    let mut problems: Vec<FieldProblem> = taken
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
    problems.extend(ports::without_choice(snapshot, &spec.name, spec).into_iter().map(|service| {
        FieldProblem {
            path: format!("services.{service}.ports"),
            message: "every port of its range is published already".into(),
            hint: Some("give it a wider range, or none to get a free port".into()),
        }
    }));
    if problems.is_empty() {
        return Ok(());
    }
    Err(Problem { status: 409, kind: "port-taken".into(), ..invalid("a published port is taken", problems) })
}

/// What no node could meet even when it were empty: reservations, and limits that its kernel cannot set.
pub(super) fn check_room(inner: &Inner, spec: &StackSpec) -> Result<(), Problem> {
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
        let Err(error) = place(&request, &candidates, 0) else { continue };
        let (field, hint) = match error.lacking() {
            Some(field) => (field, "`carrack doctor` on the node says what helps; or leave it out"),
            None if error.is_for_resources() => {
                ("deploy.resources.reservations", "reserve less, or add a node that has as much")
            }
            None => continue,
        };
        problems.push(FieldProblem {
            path: format!("services.{name}.{field}"),
            message: error.to_string(),
            hint: Some(hint.into()),
        });
    }
    if problems.is_empty() {
        return Ok(());
    }
    let title = "no node has what a service needs";
    Err(Problem { kind: "no-node-fits".into(), ..invalid(title, problems) })
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
    let volumes = inner.config.state_dir.join("volumes");
    let problems: Vec<FieldProblem> = missing
        .map(|(name, _)| FieldProblem {
            path: format!("volumes.{name}"),
            message: format!("external volume {name} does not exist"),
            hint: Some(format!(
                "leave out `external`, or put its data into {}",
                volumes.join(name.as_str()).display()
            )),
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(invalid("a volume is missing", problems)) }
}

/// Writes the digest of every image into the spec, each asked for once, with the credentials of this deploy, else with those
/// that the stack keeps. Answers when the registries were asked, for images whose policy wants to know.
pub(super) async fn resolve(
    inner: &Inner,
    node: &NodeId,
    spec: &mut StackSpec,
    given: &Logins,
) -> Result<BTreeMap<String, Resolved>, Problem> {
    let snapshot = inner.cluster.store.snapshot();
    let mut logins = inner.cluster.vault.of_stack(&snapshot, &spec.name);
    logins.extend(given.clone());
    let (logins, now) = (&logins, clock::now());
    let known = snapshot.stacks.get(&spec.name).map(|s| s.resolved.clone()).unwrap_or_default();
    let wanted = policies(spec);
    let (mut resolved, answered, asked) = due(&wanted, &known, now);
    let mut answers: BTreeMap<String, Result<ResolvedImage, Problem>> = stream::iter(asked)
        .map(|(reference, policy)| async move {
            let request = NodeRequest::ImageResolve {
                reference: reference.clone(),
                policy,
                credentials: logins.get(registry(&reference)).cloned(),
            };
            (reference, ask(inner, node, request, RESOLVE_DEADLINE).await)
        })
        .buffer_unordered(RESOLVES_AT_ONCE)
        .collect()
        .await;
    for (reference, answer) in &answers {
        if let (Ok(image), Some(PullPolicy::Every { .. })) = (answer, wanted.get(reference)) {
            resolved.insert(reference.clone(), Resolved { digest: image.digest.clone(), at: now });
        }
    }
    answers.extend(answered.into_iter().map(|image| (image.name.clone(), Ok(image))));
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
    image_problem(failures).map(|()| resolved)
}

/// The policy of each image: of several services' the one that asks most.
fn policies(spec: &StackSpec) -> BTreeMap<String, PullPolicy> {
    fn eagerness(policy: PullPolicy) -> (u8, std::cmp::Reverse<u64>) {
        let (rank, seconds) = match policy {
            PullPolicy::Never => (0, 0),
            PullPolicy::Missing => (1, 0),
            PullPolicy::Every { seconds } => (2, seconds),
            PullPolicy::Always => (3, 0),
        };
        (rank, std::cmp::Reverse(seconds))
    }
    let mut policies: BTreeMap<String, PullPolicy> = BTreeMap::new();
    for service in spec.services.values() {
        let container = &service.task.container;
        let policy = policies.entry(container.image.clone()).or_insert(container.pull);
        if eagerness(container.pull) > eagerness(*policy) {
            *policy = container.pull;
        }
    }
    policies
}

/// What is known well enough, as it is kept and as an answer, and what is to be asked, with the policy to ask by.
fn due(
    wanted: &BTreeMap<String, PullPolicy>,
    known: &BTreeMap<String, Resolved>,
    now: Timestamp,
) -> (BTreeMap<String, Resolved>, Vec<ResolvedImage>, BTreeMap<String, PullPolicy>) {
    let (mut kept, mut answers, mut asked) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (reference, policy) in wanted {
        let PullPolicy::Every { seconds } = policy else {
            asked.insert(reference.clone(), *policy);
            continue;
        };
        let fresh = |r: &&Resolved| r.at <= now && now.since(r.at) < Duration::from_secs(*seconds);
        match known.get(reference).filter(fresh) {
            Some(last) => {
                kept.insert(reference.clone(), last.clone());
                answers.push(ResolvedImage { name: reference.clone(), digest: last.digest.clone() });
            }
            None => {
                asked.insert(reference.clone(), PullPolicy::Always);
            }
        }
    }
    (kept, answers, asked)
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
    /// Changes of what stands beside the stack: its credentials.
    beside: Brought,
}

impl Step {
    fn new(
        snapshot: &Snapshot,
        spec: &StackSpec,
        resolved: &BTreeMap<String, Resolved>,
        beside: Brought,
    ) -> Self {
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
            resolved: resolved.clone(),
            stopped: BTreeSet::new(),
            fresh: active.map(|s| s.fresh.clone()).unwrap_or_default(),
            set: BTreeSet::new(),
        };
        let releases = !notes.is_empty();
        let notes = notes.into_iter().map(|n| n.text).collect();
        Self { change: StackChange { revision: shown, services, notes }, stack, same_spec, releases, beside }
    }

    fn is_empty(&self) -> bool {
        self.same_spec && !self.releases
    }

    /// Not even when registries were asked last, or with which credentials.
    fn changes_nothing(&self, snapshot: &Snapshot) -> bool {
        let before = snapshot.stacks.get(&self.stack.name);
        self.is_empty()
            && self.beside.ops.is_empty()
            && before.is_some_and(|b| b.resolved == self.stack.resolved)
    }

    fn txn(&self, snapshot: &Snapshot, spec: &StackSpec) -> Txn {
        let key = Key::Stack(spec.name.clone());
        let mut expect = vec![(key.clone(), snapshot.version(&key))];
        expect.extend(self.beside.expect.iter().cloned());
        // None of them is taken away meanwhile.
        let shared = spec.networks.values().filter(|network| network.external);
        expect.extend(
            shared.map(|n| Key::Network(n.name.clone())).map(|key| (key.clone(), snapshot.version(&key))),
        );
        let before = snapshot.stacks.get(&spec.name).filter(|_| self.is_empty());
        let stack = match before {
            Some(before) => {
                StackRecord { resolved: self.stack.resolved.clone(), ..StackRecord::clone(before) }
            }
            None => self.stack.clone(),
        };
        let mut ops = vec![Op::Put(Object::Stack(stack))];
        ops.extend(self.beside.ops.iter().cloned());
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
    let stack = snapshot.stack(&spec.name);
    let deploy = stack.map(|s| s.deploy);
    let mut notes = Vec::new();
    for record in snapshot.services_of(&spec.name) {
        let Some(service) = spec.services.get(&record.key.service) else { continue };
        let name = &record.key.service;
        let mut note = |text| notes.push(Note { service: record.key.clone(), text });
        if snapshot.is_stopped(&record.key) {
            note(format!("{name}: it was stopped and is started again"));
        }
        if stack.is_some_and(|s| s.set.contains(name)) && snapshot.wanted_spec(&record.key) != Some(service) {
            note(format!("{name}: what `carrack set` changed returns to the file"));
        }
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
    EventDraft::new("stack.deployed", &spec.name, message)
}
