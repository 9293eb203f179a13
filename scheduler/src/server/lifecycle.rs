//! Stop, start and restart of a stack's services. Each is one change of the stack's record; the loop does the rest.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use carrack_api::{Problem, Selection, ServiceKey, ServiceName, StackName, StackStatus};

use super::App;
use super::deploy::COMMIT_TRIES;
use super::info::world;
use super::problem::{ApiError, ApiResult, JsonBody, from_commit, name};
use super::services::no_service;
use super::stacks::no_stack;
use crate::clock;
use crate::plan::EventDraft;
use crate::store::{CommitError, Key, Object, Op, RevisionRecord, Snapshot, StackPhase, StackRecord, Txn};
use crate::wiring::Inner;

/// A change of a stack's record, and what there is to tell of it; `None` when it is as asked already.
pub(super) type Change = Option<(Vec<Op>, EventDraft)>;

/// Stops services in order and keeps them at zero, also over restarts of the daemon, until a start or a deploy.
#[utoipa::path(post, path = "/v1/stacks/{name}/stop", params(("name" = String, Path)), request_body = Selection,
    responses((status = 200, body = StackStatus), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn stop(
    State(inner): App,
    Path(text): Path<String>,
    JsonBody(body): JsonBody<Selection>,
) -> ApiResult<Json<StackStatus>> {
    let stack: StackName = name(&text, "no-stack")?;
    let status = change(&inner, &stack, |snapshot, record| {
        let mut stopped = record.stopped.clone();
        stopped.extend(select(snapshot, record, &body)?);
        Ok(set_stopped(record, stopped, "stack.stopped", "is stopped", &body))
    })
    .await?;
    Ok(Json(status))
}

/// Lets stopped services run again, with the replicas that were in force before, and what they depend on.
#[utoipa::path(post, path = "/v1/stacks/{name}/start", params(("name" = String, Path)), request_body = Selection,
    responses((status = 200, body = StackStatus), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn start(
    State(inner): App,
    Path(text): Path<String>,
    JsonBody(body): JsonBody<Selection>,
) -> ApiResult<Json<StackStatus>> {
    let stack: StackName = name(&text, "no-stack")?;
    let status = change(&inner, &stack, |snapshot, record| {
        let wanted = with_dependencies(snapshot, record, select(snapshot, record, &body)?);
        let stopped = record.stopped.difference(&wanted).cloned().collect();
        Ok(set_stopped(record, stopped, "stack.started", "is started", &body))
    })
    .await?;
    Ok(Json(status))
}

/// Replaces every task of the services by a new one of the same spec, as a rollout: in order, new before old where that is
/// possible. Stopped services start.
#[utoipa::path(post, path = "/v1/stacks/{name}/restart", params(("name" = String, Path)), request_body = Selection,
    responses((status = 200, body = StackStatus), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn restart(
    State(inner): App,
    Path(text): Path<String>,
    JsonBody(body): JsonBody<Selection>,
) -> ApiResult<Json<StackStatus>> {
    let stack: StackName = name(&text, "no-stack")?;
    let status = change(&inner, &stack, |snapshot, record| {
        let services = select(snapshot, record, &body)?;
        let wanted = with_dependencies(snapshot, record, services.clone());
        let spec = snapshot.spec(&stack, record.revision).ok_or_else(|| no_stack(&stack))?;
        let mut after = StackRecord { revision: record.revision + 1, ..record.clone() };
        after.stopped = record.stopped.difference(&wanted).cloned().collect();
        after.fresh.retain(|name, _| spec.services.contains_key(name));
        after.fresh.extend(services.into_iter().map(|name| (name, after.revision)));
        let revision = RevisionRecord {
            stack: stack.clone(),
            revision: after.revision,
            at: clock::now(),
            spec: spec.clone(),
        };
        let ops = vec![Op::Put(Object::Revision(revision)), Op::Put(Object::Stack(after))];
        Ok(Some((ops, told(record, "stack.restarted", "is restarted", &body))))
    })
    .await?;
    Ok(Json(status))
}

/// Changes a stack that is there, trying again when others changed it meanwhile.
pub(super) async fn change(
    inner: &Inner,
    stack: &StackName,
    edit: impl Fn(&Snapshot, &StackRecord) -> Result<Change, Problem>,
) -> Result<StackStatus, ApiError> {
    let key = Key::Stack(stack.clone());
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        let record = active(&snapshot, stack)?;
        let Some((ops, event)) = edit(&snapshot, record)? else { return status(inner, stack) };
        let written: BTreeSet<Key> = ops.iter().map(Op::key).chain([key.clone()]).collect();
        let expect = written.into_iter().map(|key| (snapshot.version(&key), key)).map(|(v, k)| (k, v));
        match inner.cluster.store.commit(Txn { expect: expect.collect(), ops }).await {
            Ok(_) => {
                inner.cluster.events.append(vec![event], clock::now());
                return status(inner, stack);
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(ApiError(from_commit(error))),
        }
    }
    Err(ApiError(from_commit(CommitError::Conflict(key))))
}

fn status(inner: &Inner, stack: &StackName) -> Result<StackStatus, ApiError> {
    let status = world(inner, |world| world.state.stack(stack).map(|s| world.stack(s)));
    Ok(status.ok_or_else(|| no_stack(stack))?)
}

/// The stack, unless it is gone or going.
pub(super) fn active<'a>(snapshot: &'a Snapshot, stack: &StackName) -> Result<&'a StackRecord, Problem> {
    let record = snapshot.stack(stack).ok_or_else(|| no_stack(stack))?;
    if record.phase == StackPhase::Removing {
        return Err(Problem::new(409, "stack-removing", format!("stack {stack} is being removed"))
            .hint("`carrack deploy` makes it anew once it is gone"));
    }
    Ok(record)
}

/// The services meant: those named, each of which must exist, or all.
fn select(
    snapshot: &Snapshot,
    record: &StackRecord,
    body: &Selection,
) -> Result<BTreeSet<ServiceName>, Problem> {
    let spec = snapshot.spec(&record.name, record.revision).ok_or_else(|| no_stack(&record.name))?;
    if let Some(missing) = body.services.iter().find(|name| !spec.services.contains_key(*name)) {
        return Err(no_service(snapshot, &ServiceKey::new(record.name.clone(), missing.clone())));
    }
    match body.services.is_empty() {
        true => Ok(spec.services.keys().cloned().collect()),
        false => Ok(body.services.iter().cloned().collect()),
    }
}

/// The services and all that they need, however indirectly.
pub(super) fn with_dependencies(
    snapshot: &Snapshot,
    record: &StackRecord,
    services: BTreeSet<ServiceName>,
) -> BTreeSet<ServiceName> {
    let mut open: Vec<ServiceName> = services.into_iter().collect();
    let mut all = BTreeSet::new();
    while let Some(name) = open.pop() {
        let key = ServiceKey::new(record.name.clone(), name.clone());
        if all.insert(name)
            && let Some(spec) = snapshot.service_spec(&key, record.revision)
        {
            open.extend(spec.depends_on.iter().filter(|(_, d)| d.required).map(|(name, _)| name.clone()));
        }
    }
    all
}

fn set_stopped(
    record: &StackRecord,
    stopped: BTreeSet<ServiceName>,
    kind: &'static str,
    what: &str,
    body: &Selection,
) -> Change {
    if stopped == record.stopped {
        return None;
    }
    let after = StackRecord { stopped, ..record.clone() };
    Some((vec![Op::Put(Object::Stack(after))], told(record, kind, what, body)))
}

fn told(record: &StackRecord, kind: &'static str, what: &str, body: &Selection) -> EventDraft {
    let names: Vec<&str> = body.services.iter().map(|name| name.as_str()).collect();
    let message = match names.is_empty() {
        true => format!("stack {} {what}", record.name),
        false => format!("{} of stack {} {what}", names.join(", "), record.name),
    };
    EventDraft::new(kind, &record.name, message)
}
