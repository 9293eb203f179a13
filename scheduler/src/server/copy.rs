//! Files of running tasks: a tar archive out of a task, or into one.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use carrack_api::{CopyIn, CopyOut, NodeId, NodeRequest, Problem, TaskId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::body::relay_body;
use super::exec::read_header;
use super::nodes::{Gone, open, relay_frames, stream};
use super::problem::{ApiResult, Params};
use super::tasks::find;
use crate::wiring::Inner;

/// The header that carries [`CopyIn`] as JSON: the body is the archive.
const COPY_HEADER: &str = "carrack-copy";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OutParams {
    /// Path in the container.
    path: String,
    /// Follows a symlink at the end of the path.
    #[serde(default)]
    follow: bool,
}

/// A file or directory of a running task. Answers frames: a message of what it is, then data of a tar archive.
#[utoipa::path(get, path = "/v1/tasks/{id}/archive", params(("id" = String, Path), OutParams),
    responses((status = 200, description = "frames", content_type = "application/vnd.carrack.frames"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn out(
    State(inner): App,
    Path(id): Path<String>,
    Params(params): Params<OutParams>,
) -> ApiResult<Response> {
    let (node, task) = running(&inner, &id)?;
    let copy = CopyOut { path: params.path, follow: params.follow };
    let call = open(&inner, &node, NodeRequest::CopyOut { task, copy }).await?;
    Ok(stream(|sink| async move {
        // A client that is gone needs no end; the node sees its stream close.
        let _: Result<(), Gone> = relay_frames(call.frames, &sink).await;
    }))
}

/// Puts a tar archive into a running task. Where it goes is JSON in the header `carrack-copy`; answers frames.
#[utoipa::path(put, path = "/v1/tasks/{id}/archive",
    params(("id" = String, Path), ("carrack-copy" = String, Header, description = "CopyIn as JSON")),
    request_body(content_type = "application/x-tar", content = Vec<u8>),
    responses((status = 200, description = "frames", content_type = "application/vnd.carrack.frames"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn into(State(inner): App, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    let copy: CopyIn = read_header(&request, COPY_HEADER)?;
    let (node, task) = running(&inner, &id)?;
    let call = open(&inner, &node, NodeRequest::CopyIn { task, copy }).await?;
    let body: Body = request.into_body();
    Ok(relay_body(call, body))
}

fn running(inner: &Inner, id: &str) -> Result<(NodeId, TaskId), Problem> {
    let task = find(&inner.cluster.store.snapshot(), id)?;
    match task.node.clone().filter(|_| task.is_live()) {
        Some(node) => Ok((node, task.id)),
        None => Err(Problem::new(409, "not-running", format!("task {} does not run", task.id))
            .hint("`carrack ps` lists the tasks that run")),
    }
}
