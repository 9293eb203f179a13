//! Attach: the connection becomes a stream of frames between the client and the streams of a task's container.

use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use carrack_api::{AttachRequest, NodeId, NodeRequest, Problem, TaskId};

use super::App;
use super::exec::{read_header, upgrade};
use super::problem::ApiResult;
use super::tasks::find;
use crate::wiring::Inner;

/// The header that carries [`AttachRequest`] as JSON: the body belongs to the stream.
const ATTACH_HEADER: &str = "carrack-attach";
/// How long a task may wait for its node before the client is told to come again.
const PLACE_MAX: Duration = Duration::from_secs(60);

/// Joins the streams of a task's container, now or once it runs. The request is JSON in the header `carrack-attach`; with
/// `Upgrade: carrack-stream` the connection turns into a stream of frames.
#[utoipa::path(post, path = "/v1/tasks/{id}/attach",
    params(("id" = String, Path), ("carrack-attach" = String, Header, description = "AttachRequest as JSON")),
    responses((status = 101, description = "a stream of frames"), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 426, body = Problem)))]
pub(super) async fn attach(
    State(inner): App,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let attach: AttachRequest = read_header(&request, ATTACH_HEADER)?;
    let task = find(&inner.cluster.store.snapshot(), &id)?.id;
    let node = placed(&inner, task).await?;
    Ok(upgrade(&inner, &node, request, NodeRequest::Attach { task, attach }).await?)
}

/// The node of a task, waited for while it has none yet.
async fn placed(inner: &Inner, task: TaskId) -> Result<NodeId, Problem> {
    let mut changes = inner.cluster.store.watch();
    let found = async {
        loop {
            changes.borrow_and_update();
            let known = find(&inner.cluster.store.snapshot(), &task.to_string())?;
            match known.node {
                Some(node) => return Ok(node),
                None if !known.is_live() => {
                    return Err(Problem::new(409, "not-running", format!("task {task} never ran")));
                }
                None => {}
            }
            if changes.changed().await.is_err() {
                return Err(Problem::new(503, "closing", "the daemon is stopping"));
            }
        }
    };
    tokio::time::timeout(PLACE_MAX, found).await.unwrap_or_else(|_| {
        let text = format!("task {task} has found no node within {} s", PLACE_MAX.as_secs());
        Err(Problem::new(409, "not-placed", text).hint("`carrack ps` says what it waits for"))
    })
}
