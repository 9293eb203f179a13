//! `set`: single values of a service, changed by command. A new revision is made from the stored one, so that secrets that are
//! never shown survive; the next deploy of the file returns to the file.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use carrack_api::http::REPLICAS_MAX;
use carrack_api::validate::validate;
use carrack_api::{
    ChangeKind, Problem, ServiceKey, ServiceMode, ServiceSpec, SetService, StackChange, StackSpec,
};

use super::App;
use super::deploy::{Basis, COMMIT_TRIES, check_basis, check_credentials, check_room, invalid, resolve};
use super::lifecycle::active;
use super::nodes::any_node;
use super::problem::{ApiResult, JsonBody, from_commit};
use super::services::{key, no_service};
use super::stacks::{basis, tagged};
use crate::change;
use crate::clock;
use crate::credentials::Logins;
use crate::plan::EventDraft;
use crate::store::{CommitError, Key, Object, Op, RevisionRecord, ServiceRecord, Snapshot, StackRecord, Txn};
use crate::wiring::Inner;

/// Changes single values of a service and rolls them out. The next deploy of the file returns to the file.
#[utoipa::path(patch, path = "/v1/services/{stack}/{service}",
    params(("stack" = String, Path), ("service" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The stack's revision that it was based on")),
    request_body = SetService,
    responses((status = 200, body = StackChange), (status = 404, body = Problem), (status = 412, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn set(
    State(inner): App,
    Path((stack, service)): Path<(String, String)>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<SetService>,
) -> ApiResult<Response> {
    let key = key(&stack, &service)?;
    let basis = basis(&headers)?;
    let (digest, given) = digest(&inner, &key, &body).await?;
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        let step = Step::new(&snapshot, &key, &body, digest.as_deref(), basis)?;
        check_room(&inner, &step.spec)?;
        let Some(mut txn) = step.txn(&snapshot) else { return Ok(answer(step.change)) };
        if !given.is_empty() {
            let kept = inner.cluster.vault.keep(&snapshot, &step.spec, &given, clock::now());
            txn.ops.extend(kept.map_err(|error| Problem::internal(error.to_string()))?);
        }
        match inner.cluster.store.commit(txn).await {
            Ok(_) => {
                inner.cluster.events.append(vec![step.event()], clock::now());
                return Ok(answer(step.change));
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(from_commit(error).into()),
        }
    }
    Err(from_commit(CommitError::Conflict(Key::Stack(key.stack))).into())
}

fn answer(change: StackChange) -> Response {
    tagged(change.revision, change).into_response()
}

/// What the new image's name stands for, asked for before anything is changed, and the credentials that are for it.
async fn digest(
    inner: &Inner,
    key: &ServiceKey,
    body: &SetService,
) -> Result<(Option<String>, Logins), Problem> {
    let Some(image) = &body.image else { return Ok((None, Logins::new())) };
    let mut spec = current(&inner.cluster.store.snapshot(), key)?;
    spec.services.retain(|name, _| *name == key.service);
    for service in spec.services.values_mut() {
        service.task.container.image = image.clone();
        service.task.container.image_digest = None;
    }
    let problems = validate(&StackSpec { services: without_dependencies(&spec), ..spec.clone() });
    if !problems.is_empty() {
        return Err(invalid("the change is not valid", problems));
    }
    let node = any_node(inner).await?;
    let given = check_credentials(&spec, body.credentials.clone())?;
    resolve(inner, &node, &mut spec, &given).await?;
    Ok((spec.services.into_values().next().and_then(|s| s.task.container.image_digest), given))
}

fn without_dependencies(spec: &StackSpec) -> BTreeMap<carrack_api::ServiceName, ServiceSpec> {
    let alone = |s: &ServiceSpec| ServiceSpec { depends_on: BTreeMap::new(), ..s.clone() };
    spec.services.iter().map(|(name, service)| (name.clone(), alone(service))).collect()
}

/// The spec in force of the service's stack; the service is in it.
fn current(snapshot: &Snapshot, key: &ServiceKey) -> Result<StackSpec, Problem> {
    let record = active(snapshot, &key.stack)?;
    let spec = snapshot.spec(&key.stack, record.revision).cloned();
    spec.filter(|s| s.services.contains_key(&key.service)).ok_or_else(|| no_service(snapshot, key))
}

/// What is done to the store.
struct Step {
    key: ServiceKey,
    stack: StackRecord,
    spec: StackSpec,
    /// A scale by command ends with it.
    unscales: bool,
    change: StackChange,
}

impl Step {
    fn new(
        snapshot: &Snapshot,
        key: &ServiceKey,
        body: &SetService,
        digest: Option<&str>,
        basis: Basis,
    ) -> Result<Self, Problem> {
        let before = current(snapshot, key)?;
        check_basis(snapshot, &before, basis)?;
        let mut spec = before.clone();
        let service = spec.services.get_mut(&key.service).ok_or_else(|| no_service(snapshot, key))?;
        edit(key, service, body, digest)?;
        let problems = validate(&spec);
        if !problems.is_empty() {
            return Err(invalid("the change is not valid", problems));
        }
        let mut stack = active(snapshot, &key.stack)?.clone();
        let unscales =
            body.replicas.is_some() && snapshot.services.get(key).is_some_and(|s| s.scale.is_some());
        let mut services = change::changes(Some(&before), &spec);
        for service in services.iter_mut().filter(|s| s.service == *key && unscales) {
            if service.kind == ChangeKind::Unchanged {
                service.kind = ChangeKind::Adjust;
            }
        }
        let mut notes = Vec::new();
        if spec != before {
            stack.revision += 1;
            stack.set.insert(key.service.clone());
            notes.push(format!("{}: the next deploy of the file returns to the file", key.service));
        }
        if stack.stopped.contains(&key.service) {
            notes.push(format!("{0} is stopped; `carrack start {key}` runs it so", key.service));
        }
        let change = StackChange { revision: stack.revision, services, notes };
        Ok(Self { key: key.clone(), stack, spec, unscales, change })
    }

    /// `None` when everything is so already.
    fn txn(&self, snapshot: &Snapshot) -> Option<Txn> {
        let key = Key::Stack(self.stack.name.clone());
        let mut expect = vec![(key.clone(), snapshot.version(&key))];
        let mut ops = Vec::new();
        if snapshot.stacks.get(&self.stack.name).is_some_and(|s| s.revision != self.stack.revision) {
            let revision = RevisionRecord {
                stack: self.stack.name.clone(),
                revision: self.stack.revision,
                at: clock::now(),
                spec: self.spec.clone(),
            };
            ops.push(Op::Put(Object::Revision(revision)));
            ops.push(Op::Put(Object::Stack(self.stack.clone())));
        }
        if let Some(record) = snapshot.services.get(&self.key).filter(|_| self.unscales) {
            let key = Key::Service(self.key.clone());
            expect.push((key.clone(), snapshot.version(&key)));
            ops.push(Op::Put(Object::Service(ServiceRecord { scale: None, ..ServiceRecord::clone(record) })));
        }
        (!ops.is_empty()).then_some(Txn { expect, ops })
    }

    fn event(&self) -> EventDraft {
        let of_service = self.change.services.iter().filter(|s| s.service == self.key);
        let fields: Vec<&str> = of_service.flat_map(|s| &s.fields).map(|f| f.path.as_str()).collect();
        let message =
            format!("revision {} of {}: {} set by command", self.stack.revision, self.key, fields.join(", "));
        EventDraft::new("service.set", &self.key, message)
    }
}

fn edit(
    key: &ServiceKey,
    service: &mut ServiceSpec,
    body: &SetService,
    digest: Option<&str>,
) -> Result<(), Problem> {
    if let Some(replicas) = body.replicas {
        let ServiceMode::Replicated { replicas: now } = &mut service.mode else {
            let text = format!("{key} has one task on each node; it has no replicas to set");
            return Err(Problem::new(422, "global", text));
        };
        if replicas > REPLICAS_MAX {
            let text = format!("{replicas} replicas; at most {REPLICAS_MAX} are allowed");
            return Err(Problem::new(422, "too-many", text));
        }
        *now = replicas;
    }
    let container = &mut service.task.container;
    if let Some(image) = &body.image {
        container.image = image.clone();
        container.image_digest = digest.map(Into::into);
    }
    for (name, value) in &body.env {
        match value {
            Some(value) => drop(container.env.insert(name.clone(), Some(value.clone()))),
            // One that the image sets is taken away, too.
            None => drop(container.env.insert(name.clone(), None)),
        }
    }
    if let Some(cpus) = body.cpus {
        container.limits.cpus = Some(cpus).filter(|c| c.0 > 0);
    }
    if let Some(memory) = body.memory {
        container.limits.memory = Some(memory).filter(|m| m.0 > 0);
    }
    Ok(())
}
