//! Volumes: where they are, who uses them, and taking away what nobody uses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use carrack_api::{
    Bytes, NodeRequest, Problem, PruneVolumes, PrunedVolumes, ServiceKey, StackName, VolumeDetails,
    VolumeKeep, VolumeName, VolumeStatus,
};

use super::App;
use super::nodes::{any_node, ask, heard};
use super::problem::{ApiResult, JsonBody, from_commit, name};
use crate::plan::volumes;
use crate::store::{Key, Op, Snapshot, StackPhase, Txn};
use crate::wiring::Inner;

/// Time for a node to list its volumes, with their sizes.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// Time for a node to take a volume's data away.
const REMOVE_DEADLINE: Duration = Duration::from_secs(300);

/// Volumes of all nodes.
#[utoipa::path(get, path = "/v1/volumes", responses((status = 200, body = Vec<VolumeStatus>), (status = 503, body = Problem)))]
pub(super) async fn list(State(inner): App) -> ApiResult<Json<Vec<VolumeStatus>>> {
    Ok(Json(all(&inner).await?))
}

async fn all(inner: &Arc<Inner>) -> Result<Vec<VolumeStatus>, Problem> {
    any_node(inner).await?;
    let mut all: Vec<VolumeStatus> = Vec::new();
    for node in heard(inner) {
        let found: Vec<VolumeStatus> = ask(inner, &node, NodeRequest::VolumeList, LIST_DEADLINE).await?;
        all.extend(found.into_iter().map(|v| VolumeStatus { node: v.node.or(Some(node.clone())), ..v }));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// A volume in full.
#[utoipa::path(get, path = "/v1/volumes/{name}", params(("name" = String, Path)),
    responses((status = 200, body = VolumeDetails), (status = 404, body = Problem)))]
pub(super) async fn get(State(inner): App, Path(text): Path<String>) -> ApiResult<Json<VolumeDetails>> {
    let volume: VolumeName = name(&text, "no-volume")?;
    let found = all(&inner).await?.into_iter().find(|status| status.name == volume);
    let status = found.ok_or_else(|| {
        Problem::not_found("no-volume", format!("no volume {volume}")).hint("`carrack volume ls` lists them")
    })?;
    Ok(Json(details(&inner.cluster.store.snapshot(), status)))
}

fn details(snapshot: &Snapshot, status: VolumeStatus) -> VolumeDetails {
    let services: BTreeSet<ServiceKey> = users_of(snapshot, &status.name).collect();
    let of_stack = |stack: &StackName| {
        status.name.as_str().strip_prefix(stack.as_str()).is_some_and(|rest| rest.starts_with('_'))
    };
    let stacks: Vec<StackPhase> =
        snapshot.stacks.values().filter(|stack| of_stack(&stack.name)).map(|stack| stack.phase).collect();
    let keep = if !services.is_empty() || !status.used_by.is_empty() {
        VolumeKeep::Used
    } else if !stacks.is_empty() && stacks.iter().all(|phase| *phase == StackPhase::Removed) {
        VolumeKeep::Orphan
    } else {
        VolumeKeep::Kept
    };
    VolumeDetails { status, services, keep }
}

/// Takes volumes away that nothing uses: those of stacks that are gone, or all.
#[utoipa::path(post, path = "/v1/volumes/prune", request_body = PruneVolumes,
    responses((status = 200, body = PrunedVolumes), (status = 503, body = Problem)))]
pub(super) async fn prune(
    State(inner): App,
    JsonBody(prune): JsonBody<PruneVolumes>,
) -> ApiResult<Json<PrunedVolumes>> {
    let mut pruned = PrunedVolumes::default();
    for status in all(&inner).await? {
        // Looked at anew for each: a deploy may have come meanwhile.
        let found = details(&inner.cluster.store.snapshot(), status);
        match found.keep {
            VolumeKeep::Orphan => {}
            VolumeKeep::Kept if prune.all => {}
            VolumeKeep::Kept | VolumeKeep::Used => continue,
        }
        if !prune.dry_run {
            match remove(&inner, found.status.name.clone()).await {
                Ok(()) => {}
                // Used since, or gone already: neither was asked for.
                Err(problem) if matches!(problem.status, 404 | 409) => continue,
                Err(problem) => return Err(problem.into()),
            }
        }
        pruned.freed = Bytes(pruned.freed.0 + found.status.size.0);
        pruned.volumes.push(found.status);
    }
    Ok(Json(pruned))
}

/// Takes a volume and its data away, unless a service uses it.
#[utoipa::path(delete, path = "/v1/volumes/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete(State(inner): App, Path(text): Path<String>) -> ApiResult<StatusCode> {
    remove(&inner, name(&text, "no-volume")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(inner: &Arc<Inner>, volume: VolumeName) -> Result<(), Problem> {
    let snapshot = inner.cluster.store.snapshot();
    if let Some(user) = user_of(&snapshot, &volume) {
        let text = format!("volume {volume} is used by {user}");
        let hint = format!("`carrack rm {}` removes the stack; `-v` takes its volumes with it", user.stack);
        return Err(Problem::new(409, "in-use", text).hint(hint));
    }
    let key = Key::Volume(volume.clone());
    let node = match snapshot.volumes.get(&volume) {
        Some(record) => record.node.clone(),
        None => any_node(inner).await?,
    };
    let request = NodeRequest::VolumeRemove { name: volume };
    let removed: Result<serde_json::Value, Problem> = ask(inner, &node, request, REMOVE_DEADLINE).await;
    let version = snapshot.version(&key);
    match removed {
        Ok(_) => {}
        // Its data is gone already: so is the reason to remember its home.
        Err(problem) if problem.status == 404 && version.is_some() => {}
        Err(problem) => return Err(problem),
    }
    if version.is_some() {
        let txn = Txn { expect: vec![(key.clone(), version)], ops: vec![Op::Delete(key)] };
        inner.cluster.store.commit(txn).await.map_err(from_commit)?;
    }
    Ok(())
}

/// A service that mounts the volume, by its spec in force or by a task that has not ended.
fn user_of(snapshot: &Snapshot, volume: &VolumeName) -> Option<ServiceKey> {
    users_of(snapshot, volume).next()
}

fn users_of<'a>(snapshot: &'a Snapshot, volume: &'a VolumeName) -> impl Iterator<Item = ServiceKey> + 'a {
    let active = snapshot.stacks.values().filter(|s| s.phase == StackPhase::Active);
    let specs = active.filter_map(|s| snapshot.spec(&s.name, s.revision));
    let of_specs = specs.flat_map(|spec| {
        spec.services
            .iter()
            .map(|(name, service)| (ServiceKey::new(spec.name.clone(), name.clone()), service))
    });
    let live = snapshot.tasks.values().filter(|t| t.is_live());
    let of_tasks =
        live.filter_map(|t| Some((t.service.clone(), snapshot.service_spec(&t.service, t.revision)?)));
    of_specs.chain(of_tasks).filter(|(_, service)| volumes(service).contains(volume)).map(|(key, _)| key)
}
