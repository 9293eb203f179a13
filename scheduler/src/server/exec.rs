//! Exec, and the streams it shares with attach: the connection becomes a stream of frames between the client and the task's node.

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use carrack_api::http::UPGRADE_STREAM;
use carrack_api::{ExecRequest, NodeId, NodeRequest, Problem};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, DuplexStream, copy, split};

use super::App;
use super::nodes::open_raw;
use super::problem::ApiResult;
use super::tasks::find;
use crate::wiring::Inner;

/// The header that carries [`ExecRequest`] as JSON: the body belongs to the stream.
const EXEC_HEADER: &str = "carrack-exec";

/// Runs a program in a task's container. The request is JSON in the header `carrack-exec`; with `Upgrade: carrack-stream` the
/// connection turns into a stream of frames.
#[utoipa::path(post, path = "/v1/tasks/{id}/exec",
    params(("id" = String, Path), ("carrack-exec" = String, Header, description = "ExecRequest as JSON")),
    responses((status = 101, description = "a stream of frames"), (status = 404, body = Problem), (status = 426, body = Problem)))]
pub(super) async fn exec(State(inner): App, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    let exec: ExecRequest = read_header(&request, EXEC_HEADER)?;
    if exec.command.is_empty() {
        return Err(Problem::new(400, "invalid-header", "no command to run").into());
    }
    let task = find(&inner.cluster.store.snapshot(), &id)?;
    let Some(node) = task.node.clone().filter(|_| task.is_live()) else {
        let text = format!("task {} does not run", task.id);
        return Err(Problem::new(409, "not-running", text)
            .hint("`carrack ps` lists the tasks that run")
            .into());
    };
    Ok(upgrade(&inner, &node, request, NodeRequest::Exec { task: task.id, exec }).await?)
}

/// Turns the connection of `request` into a stream of frames to a node.
pub(super) async fn upgrade(
    inner: &Inner,
    node: &NodeId,
    mut request: Request,
    wanted: NodeRequest,
) -> Result<Response, Problem> {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let asked =
        request.headers().get(header::UPGRADE).is_some_and(|v| v.as_bytes() == UPGRADE_STREAM.as_bytes());
    let Some(upgrade) = upgrade.filter(|_| asked) else {
        let text = format!("{} needs the header Upgrade: {UPGRADE_STREAM}", request.uri().path());
        return Err(Problem::new(426, "upgrade-required", text));
    };
    let stream = open_raw(inner, node, wanted).await?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => join(TokioIo::new(client), stream).await,
            Err(error) => tracing::debug!(%error, "a stream's client went away before it began"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, UPGRADE_STREAM)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// What a header of JSON says.
pub(super) fn read_header<T: DeserializeOwned>(request: &Request, name: &str) -> Result<T, Problem> {
    let bad = |text: String| Problem::new(400, "invalid-header", text);
    let value = request.headers().get(name).ok_or_else(|| bad(format!("the header {name} is missing")))?;
    serde_json::from_slice(value.as_bytes())
        .map_err(|e| bad(format!("the header {name} is not what is expected: {e}")))
}

/// Copies both ways until the node has said its last word; a client that goes away ends the node's stream.
async fn join(client: TokioIo<hyper::upgrade::Upgraded>, node: DuplexStream) {
    let (mut client_read, mut client_write) = split(client);
    let (mut node_read, mut node_write) = split(node);
    let input = async {
        let copied = copy(&mut client_read, &mut node_write).await;
        let closed = node_write.shutdown().await;
        copied.and(closed)
    };
    let output = async {
        let copied = copy(&mut node_read, &mut client_write).await;
        let closed = client_write.shutdown().await;
        copied.and(closed)
    };
    let mut output = std::pin::pin!(output);
    let result = tokio::select! {
        result = &mut output => result,
        result = input => match result {
            Ok(()) => output.await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's stream broke off");
    }
}
