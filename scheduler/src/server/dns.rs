//! Names: what a task, a network or the host gets for one.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use carrack_api::{DnsAnswer, NodeRequest, Problem, TaskId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::nodes::{any_node, ask};
use super::problem::{ApiResult, Params};
use super::tasks::find;

/// Time for a node to look a name up, forwarding included.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DnsParams {
    /// The name or address.
    name: String,
    /// As this task sees it; without it as the host and every network do.
    #[param(value_type = Option<String>)]
    from: Option<TaskId>,
}

/// What a name resolves to, and why.
#[utoipa::path(get, path = "/v1/dns", params(DnsParams),
    responses((status = 200, body = Vec<DnsAnswer>), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn lookup(
    State(inner): App,
    Params(params): Params<DnsParams>,
) -> ApiResult<Json<Vec<DnsAnswer>>> {
    let node = match params.from {
        None => any_node(&inner).await?,
        Some(task) => {
            let task = find(&inner.cluster.store.snapshot(), &task.to_string())?;
            task.node.clone().filter(|_| task.is_live()).ok_or_else(|| {
                Problem::new(409, "not-running", format!("task {} does not run", task.id))
                    .hint("`carrack ps` lists the tasks that run")
            })?
        }
    };
    let request = NodeRequest::DnsLookup { name: params.name, from: params.from };
    Ok(Json(ask(&inner, &node, request, LOOKUP_DEADLINE).await?))
}
