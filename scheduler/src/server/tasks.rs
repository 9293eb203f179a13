//! Tasks: list, read, and what their node says beyond its report.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use carrack_api::container::parse_signal;
use carrack_api::{NodeRequest, Problem, SendSignal, ServiceName, StackName, TaskId, TaskStatus};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::App;
use super::info::world;
use super::nodes::ask;
use super::problem::{ApiResult, JsonBody, Params, name};
use crate::change::hide_secrets;
use crate::clock;
use crate::plan::{EventDraft, slot_name};
use crate::store::{Snapshot, TaskRecord};

/// Time for a node to send a signal.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a node to say what it knows of a task.
const INSPECT_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only of this stack.
    #[param(value_type = Option<String>)]
    stack: Option<StackName>,
    /// Only of this service.
    #[param(value_type = Option<String>)]
    service: Option<ServiceName>,
    /// Ended ones too.
    #[serde(default)]
    all: bool,
}

/// Tasks, by service and slot; ended ones only when asked for.
#[utoipa::path(get, path = "/v1/tasks", params(ListParams), responses((status = 200, body = Vec<TaskStatus>)))]
pub(super) async fn list(State(inner): App, Params(params): Params<ListParams>) -> Json<Vec<TaskStatus>> {
    let wanted = |task: &TaskRecord| {
        params.stack.as_ref().is_none_or(|s| *s == task.service.stack)
            && params.service.as_ref().is_none_or(|s| *s == task.service.service)
            && (params.all || task.is_live())
    };
    let mut tasks: Vec<TaskStatus> = world(&inner, |world| {
        world.state.tasks.values().filter(|t| wanted(t)).map(|t| world.task(t)).collect()
    });
    tasks.sort_by(|a, b| (&a.service, a.slot, a.id).cmp(&(&b.service, b.slot, b.id)));
    Json(tasks)
}

/// Finds a task by the id of a path.
pub(super) fn find(snapshot: &Snapshot, text: &str) -> Result<TaskRecord, Problem> {
    let id: TaskId = name(text, "no-task")?;
    snapshot.tasks.get(&id).map(|t| TaskRecord::clone(t)).ok_or_else(|| {
        Problem::not_found("no-task", format!("no task {id}")).hint("`carrack ps -a` lists all tasks")
    })
}

/// One task.
#[utoipa::path(get, path = "/v1/tasks/{id}", params(("id" = String, Path)),
    responses((status = 200, body = TaskStatus), (status = 404, body = Problem)))]
pub(super) async fn get(State(inner): App, Path(id): Path<String>) -> ApiResult<Json<TaskStatus>> {
    let task = find(&inner.cluster.store.snapshot(), &id)?;
    Ok(Json(world(&inner, |world| world.task(&task))))
}

/// A task with its spec, the samples of its cgroup and what its node knows. Values that look secret are left out.
#[utoipa::path(get, path = "/v1/tasks/{id}/inspect", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem)))]
pub(super) async fn inspect(State(inner): App, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let snapshot = inner.cluster.store.snapshot();
    let task = find(&snapshot, &id)?;
    let mut spec = snapshot.service_spec(&task.service, task.revision).map(|s| s.task.clone());
    spec.iter_mut().for_each(|s| hide_secrets(&mut s.container.env));
    let node = match &task.node {
        Some(node) => {
            let answer: Result<Value, Problem> =
                ask(&inner, node, NodeRequest::TaskInspect { task: task.id }, INSPECT_DEADLINE).await;
            answer.unwrap_or_else(|problem| json!({ "problem": problem }))
        }
        None => Value::Null,
    };
    Ok(Json(json!({
        "status": world(&inner, |world| world.task(&task)),
        "spec": spec,
        "usage": inner.cluster.usage.of(task.id),
        "node": node,
    })))
}

/// Sends a signal to the first process of a task that runs. What follows its end is its restart policy's.
#[utoipa::path(post, path = "/v1/tasks/{id}/signal", params(("id" = String, Path)), request_body = SendSignal,
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn signal(
    State(inner): App,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<SendSignal>,
) -> ApiResult<StatusCode> {
    let signal = parse_signal(&body.signal).ok_or_else(|| {
        Problem::new(422, "invalid-signal", format!("{:?} is no signal", body.signal))
            .hint("for example TERM, SIGHUP or 9")
    })?;
    let task = find(&inner.cluster.store.snapshot(), &id)?;
    let Some(node) = task.node.clone().filter(|_| task.is_live()) else {
        let text = format!("task {} does not run", task.id);
        return Err(Problem::new(409, "not-running", text)
            .hint("`carrack ps` lists the tasks that run")
            .into());
    };
    let request = NodeRequest::Signal { task: task.id, signal };
    let _: Value = ask(&inner, &node, request, SIGNAL_DEADLINE).await?;
    let message = format!("{} was sent {}", task.id, carrack_api::container::signal_name(signal));
    let subject = slot_name(&task.service, task.slot);
    let event = EventDraft { task: Some(task.id), ..EventDraft::new("task.signalled", subject, message) };
    inner.cluster.events.append(vec![event], clock::now());
    Ok(StatusCode::NO_CONTENT)
}
