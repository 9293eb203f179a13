//! The daemon, its nodes, and the document.

use axum::Json;
use axum::extract::State;
use carrack_api::{Info, NodeStatus};

use super::App;
use crate::clock;
use crate::view::World;
use crate::wiring::Inner;

/// Calls `read` with the world as it is now.
pub(super) fn world<T>(inner: &Inner, read: impl FnOnce(World<'_>) -> T) -> T {
    let (state, observations) = (inner.cluster.store.snapshot(), inner.cluster.observed());
    read(World { state: &state, observations: &observations, now: clock::now() })
}

/// The daemon that answers.
#[utoipa::path(get, path = "/v1/info", responses((status = 200, body = Info)))]
pub(super) async fn info(State(inner): App) -> Json<Info> {
    let epoch = inner.cluster.store.snapshot().cluster().map_or(0, |c| c.epoch);
    Json(Info {
        version: inner.config.version.clone(),
        cluster: inner.cluster.id.clone(),
        epoch,
        pid: std::process::id(),
        started_at: inner.started_at,
        state_dir: inner.config.state_dir.display().to_string(),
        cluster_cidr: inner.cidr.clone(),
        nodes: world(&inner, |world| world.nodes()),
    })
}

/// All nodes.
#[utoipa::path(get, path = "/v1/nodes", responses((status = 200, body = Vec<NodeStatus>)))]
pub(super) async fn list_nodes(State(inner): App) -> Json<Vec<NodeStatus>> {
    Json(world(&inner, |world| world.nodes()))
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::document())
}
