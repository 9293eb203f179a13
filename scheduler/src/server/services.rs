//! Services: list, read, scale.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use carrack_api::http::REPLICAS_MAX;
use carrack_api::{Problem, Scale, ServiceKey, ServiceMode, ServiceStatus, StackName};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::deploy::COMMIT_TRIES;
use super::info::world;
use super::problem::{ApiError, ApiResult, JsonBody, Params, from_commit, name};
use super::stacks::no_stack;
use crate::clock;
use crate::plan::EventDraft;
use crate::store::{CommitError, Key, Object, Op, ScaleOverride, ServiceRecord, Snapshot, StackPhase, Txn};
use crate::wiring::Inner;

/// Time the loop has to make the record of a service that was just deployed.
const RECORD_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only of this stack.
    #[param(value_type = Option<String>)]
    stack: Option<StackName>,
}

/// Services of all stacks or of one.
#[utoipa::path(get, path = "/v1/services", params(ListParams), responses((status = 200, body = Vec<ServiceStatus>)))]
pub(super) async fn list(State(inner): App, Params(params): Params<ListParams>) -> Json<Vec<ServiceStatus>> {
    Json(world(&inner, |world| {
        let stacks = world.state.stacks.values().filter(|s| s.phase != StackPhase::Removed);
        let wanted = stacks.filter(|s| params.stack.as_ref().is_none_or(|name| *name == s.name));
        wanted.flat_map(|s| world.stack(s).services).collect()
    }))
}

pub(super) fn key(stack: &str, service: &str) -> Result<ServiceKey, Problem> {
    Ok(ServiceKey::new(name(stack, "no-stack")?, name(service, "no-service")?))
}

pub(super) fn no_service(snapshot: &Snapshot, key: &ServiceKey) -> Problem {
    if snapshot.stack(&key.stack).is_none() {
        return no_stack(&key.stack);
    }
    Problem::not_found("no-service", format!("no service {:?} in stack {}", key.service, key.stack))
        .hint(format!("`carrack ls {}` lists its services", key.stack))
}

/// One service.
#[utoipa::path(get, path = "/v1/services/{stack}/{service}", params(("stack" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = ServiceStatus), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(inner): App,
    Path((stack, service)): Path<(String, String)>,
) -> ApiResult<Json<ServiceStatus>> {
    let key = key(&stack, &service)?;
    let status = world(&inner, |world| world.has_service(&key).then(|| world.service(&key)));
    Ok(Json(status.ok_or_else(|| no_service(&inner.cluster.store.snapshot(), &key))?))
}

/// Sets the replicas of a service until the next deploy.
#[utoipa::path(put, path = "/v1/services/{stack}/{service}/scale",
    params(("stack" = String, Path), ("service" = String, Path)), request_body = Scale,
    responses((status = 200, body = ServiceStatus), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn scale(
    State(inner): App,
    Path((stack, service)): Path<(String, String)>,
    JsonBody(body): JsonBody<Scale>,
) -> ApiResult<Json<ServiceStatus>> {
    let key = key(&stack, &service)?;
    if body.replicas > REPLICAS_MAX {
        let text = format!("{} replicas; at most {REPLICAS_MAX} are allowed", body.replicas);
        return Err(Problem::new(422, "too-many", text).into());
    }
    for _ in 0..COMMIT_TRIES {
        let snapshot = wait_for_record(&inner, &key).await?;
        let Some(txn) = scale_txn(&snapshot, &key, body.replicas)? else { break };
        match inner.cluster.store.commit(txn).await {
            Ok(_) => {
                let message = format!("{key} was scaled to {}", body.replicas);
                let event = EventDraft::new("service.scaled", &key, message);
                inner.cluster.events.append(vec![event], clock::now());
                break;
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(ApiError(from_commit(error))),
        }
    }
    Ok(Json(world(&inner, |world| world.service(&key))))
}

/// The state once the loop has made the service's record, which it does right after a deploy.
async fn wait_for_record(inner: &Inner, key: &ServiceKey) -> Result<std::sync::Arc<Snapshot>, Problem> {
    let mut snapshots = inner.cluster.store.watch();
    let decided = |s: &Snapshot| s.services.get(key).is_some() || s.wanted_spec(key).is_none();
    let found = tokio::time::timeout(RECORD_WAIT, snapshots.wait_for(|s| decided(s))).await;
    let snapshot = match found {
        Ok(Ok(snapshot)) => snapshot.clone(),
        Ok(Err(_)) | Err(_) => return Err(Problem::new(503, "busy", format!("{key} is still being set up"))),
    };
    if snapshot.wanted_spec(key).is_none() {
        return Err(no_service(&snapshot, key));
    }
    Ok(snapshot)
}

/// The change; `None` when it is as asked already.
fn scale_txn(snapshot: &Snapshot, key: &ServiceKey, replicas: u32) -> Result<Option<Txn>, Problem> {
    let spec = snapshot.wanted_spec(key).ok_or_else(|| no_service(snapshot, key))?;
    let (Some(record), Some(stack)) = (snapshot.services.get(key), snapshot.stacks.get(&key.stack)) else {
        return Err(no_service(snapshot, key));
    };
    let ServiceMode::Replicated { replicas: of_file } = spec.mode else {
        return Err(Problem::new(
            422,
            "global",
            format!("{key} has one task on each node; it has no replicas to set"),
        ));
    };
    let scale = (replicas != of_file).then_some(ScaleOverride { replicas, deploy: stack.deploy });
    if record.scale == scale {
        return Ok(None);
    }
    let keys = [Key::Service(key.clone()), Key::Stack(key.stack.clone())];
    let expect = keys.into_iter().map(|key| (snapshot.version(&key), key)).map(|(v, k)| (k, v)).collect();
    let ops = vec![Op::Put(Object::Service(ServiceRecord { scale, ..ServiceRecord::clone(record) }))];
    Ok(Some(Txn { expect, ops }))
}
