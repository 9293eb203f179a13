//! Stacks: list, read, deploy, remove.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use carrack_api::{Problem, PutStack, StackChange, StackName, StackSpec, StackStatus};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::deploy::{self, Basis};
use super::info::world;
use super::problem::{ApiError, ApiResult, JsonBody, Params, from_commit, name};
use crate::change::hide_secrets;
use crate::clock;
use crate::credentials::forget_stack;
use crate::plan::EventDraft;
use crate::store::{CommitError, Key, Object, Op, StackPhase, StackRecord, Txn};

/// All stacks.
#[utoipa::path(get, path = "/v1/stacks", responses((status = 200, body = Vec<StackStatus>)))]
pub(super) async fn list(State(inner): App) -> Json<Vec<StackStatus>> {
    Json(world(&inner, |world| {
        let stacks = world.state.stacks.values().filter(|s| s.phase != StackPhase::Removed);
        stacks.map(|s| world.stack(s)).collect()
    }))
}

pub(super) fn no_stack(name: &StackName) -> Problem {
    Problem::not_found("no-stack", format!("no stack {name:?}")).hint("`carrack ls` lists the stacks")
}

pub(super) fn tagged<T: serde::Serialize>(revision: u64, body: T) -> Response {
    ([(header::ETAG, format!("\"{revision}\""))], Json(body)).into_response()
}

/// One stack; the ETag is its revision.
#[utoipa::path(get, path = "/v1/stacks/{name}", params(("name" = String, Path)),
    responses((status = 200, body = StackStatus), (status = 404, body = Problem)))]
pub(super) async fn get(State(inner): App, Path(text): Path<String>) -> ApiResult<Response> {
    let stack: StackName = name(&text, "no-stack")?;
    let status = world(&inner, |world| world.state.stack(&stack).map(|s| world.stack(s)));
    let status = status.ok_or_else(|| no_stack(&stack))?;
    Ok(tagged(status.revision, status))
}

/// The spec in force, with resolved digests. Values of the environment that look secret are left out.
#[utoipa::path(get, path = "/v1/stacks/{name}/spec", params(("name" = String, Path)),
    responses((status = 200, body = StackSpec), (status = 404, body = Problem)))]
pub(super) async fn spec(State(inner): App, Path(text): Path<String>) -> ApiResult<Response> {
    let stack: StackName = name(&text, "no-stack")?;
    let snapshot = inner.cluster.store.snapshot();
    let record = snapshot.stack(&stack).ok_or_else(|| no_stack(&stack))?;
    let mut spec = snapshot.spec(&stack, record.revision).cloned().ok_or_else(|| no_stack(&stack))?;
    spec.services.values_mut().for_each(|service| hide_secrets(&mut service.task.container.env));
    Ok(tagged(record.revision, spec))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutParams {
    /// Answers what would change and changes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Deploys a stack: makes it as the body says. The same body again changes nothing.
#[utoipa::path(put, path = "/v1/stacks/{name}",
    params(("name" = String, Path), PutParams,
        ("If-Match" = Option<String>, Header, description = "The revision it was based on; \"0\" for none")),
    request_body = PutStack,
    responses((status = 200, body = StackChange), (status = 409, body = Problem), (status = 412, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn put(
    State(inner): App,
    Path(text): Path<String>,
    Params(params): Params<PutParams>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<PutStack>,
) -> ApiResult<Response> {
    let stack: StackName = text
        .parse()
        .map_err(|e: carrack_api::InvalidName| Problem::new(400, "invalid-name", e.to_string()))?;
    if body.spec.name != stack {
        let text = format!("the body is of stack {:?}, the path of {stack:?}", body.spec.name);
        return Err(Problem::new(400, "invalid-body", text).into());
    }
    let basis = basis(&headers)?;
    let change = deploy::deploy(&inner, body, basis, params.dry_run).await?;
    Ok(tagged(change.revision, change))
}

/// Reads `If-Match`.
pub(super) fn basis(headers: &HeaderMap) -> Result<Basis, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(Basis::Any) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Basis::Exists);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse();
    number.map(Basis::Revision).map_err(|_| {
        Problem::new(400, "invalid-header", format!("If-Match {text:?} is not a revision"))
            .hint("for example \"3\"")
    })
}

/// Takes a stack away: its tasks are stopped in order, its volumes stay.
#[utoipa::path(delete, path = "/v1/stacks/{name}", params(("name" = String, Path)),
    responses((status = 202), (status = 404, body = Problem)))]
pub(super) async fn delete(State(inner): App, Path(text): Path<String>) -> ApiResult<StatusCode> {
    let stack: StackName = name(&text, "no-stack")?;
    for _ in 0..deploy::COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        let record = snapshot.stack(&stack).ok_or_else(|| no_stack(&stack))?;
        if record.phase == StackPhase::Removing {
            return Ok(StatusCode::ACCEPTED);
        }
        let key = Key::Stack(stack.clone());
        let expect = vec![(key.clone(), snapshot.version(&key))];
        let record = StackRecord { phase: StackPhase::Removing, ..StackRecord::clone(record) };
        let mut ops = vec![Op::Put(Object::Stack(record))];
        // What is stopped is pulled no more.
        ops.extend(forget_stack(&snapshot, &stack));
        match inner.cluster.store.commit(Txn { expect, ops }).await {
            Ok(_) => {
                let message = format!("stack {stack} is being removed");
                let event = EventDraft::new("stack.removing", &stack, message);
                inner.cluster.events.append(vec![event], clock::now());
                return Ok(StatusCode::ACCEPTED);
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(ApiError(from_commit(error))),
        }
    }
    Err(ApiError(from_commit(CommitError::Conflict(Key::Stack(stack)))))
}
