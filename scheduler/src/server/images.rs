//! Images: what nodes hold, bring more, take away what nobody uses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use carrack_api::{
    Bytes, HeldImage, ImageDetails, NodeRequest, Problem, PruneImages, PrunedImages, PullImage, ServiceKey,
    TagImage,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::body::relay_body;
use super::nodes::{Gone, any_node, ask, heard, open, relay_frames, stream};
use super::problem::{ApiResult, JsonBody, Params};
use crate::assign::images_needed;
use crate::image_name::normalise;
use crate::store::{Snapshot, StackPhase};
use crate::wiring::Inner;

/// Time for a node to list its images.
const LIST_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a node to take an image away.
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
/// Time for a node to take many images away.
const PRUNE_DEADLINE: Duration = Duration::from_secs(600);

/// Images that nodes hold, asked of them: a report may be a heartbeat old.
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = Vec<HeldImage>), (status = 503, body = Problem)))]
pub(super) async fn list(State(inner): App) -> ApiResult<Json<Vec<HeldImage>>> {
    any_node(&inner).await?;
    Ok(Json(held(&inner).await?))
}

async fn held(inner: &Arc<Inner>) -> Result<Vec<HeldImage>, Problem> {
    let mut all = BTreeSet::new();
    for node in heard(inner) {
        all.extend(ask::<Vec<HeldImage>>(inner, &node, NodeRequest::ImageList, LIST_DEADLINE).await?);
    }
    Ok(all.into_iter().collect())
}

/// Reads an archive (OCI layout or `docker save`) from the body. Answers frames: messages of progress, at last the images.
#[utoipa::path(post, path = "/v1/images/load", request_body(content_type = "application/x-tar", content = Vec<u8>),
    responses((status = 200, description = "frames", content_type = "application/vnd.carrack.frames"),
        (status = 503, body = Problem)))]
pub(super) async fn load(State(inner): App, body: Body) -> ApiResult<Response> {
    let node = any_node(&inner).await?;
    Ok(relay_body(open(&inner, &node, NodeRequest::ImageLoad).await?, body))
}

/// Brings an image from its registry. Answers frames: messages of progress, at last the image.
#[utoipa::path(post, path = "/v1/images/pull", request_body = PullImage,
    responses((status = 200, description = "frames", content_type = "application/vnd.carrack.frames"),
        (status = 503, body = Problem)))]
pub(super) async fn pull(State(inner): App, JsonBody(body): JsonBody<PullImage>) -> ApiResult<Response> {
    let node = any_node(&inner).await?;
    let request = NodeRequest::ImagePull { reference: body.reference, credentials: body.credentials };
    let call = open(&inner, &node, request).await?;
    Ok(stream(|sink| async move {
        // A client that is gone needs no end; the node sees its stream close.
        let _: Result<(), Gone> = relay_frames(call.frames, &sink).await;
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImageParams {
    /// Name, digest or the beginning of an id.
    reference: String,
}

/// An image in full.
#[utoipa::path(get, path = "/v1/images/inspect", params(ImageParams),
    responses((status = 200, body = ImageDetails), (status = 404, body = Problem)))]
pub(super) async fn inspect(
    State(inner): App,
    Params(params): Params<ImageParams>,
) -> ApiResult<Json<ImageDetails>> {
    let node = any_node(&inner).await?;
    let request = NodeRequest::ImageInspect { reference: params.reference };
    let mut details: ImageDetails = ask(&inner, &node, request, LIST_DEADLINE).await?;
    let uses = |image: &str, digest: Option<&str>| match digest {
        Some(digest) => digest == details.digest || digest == details.manifest,
        None => details.names.contains(&normalise(image)),
    };
    details.used_by = users_of(&inner.cluster.store.snapshot(), &uses).collect();
    Ok(Json(details))
}

/// Gives an image one more name.
#[utoipa::path(post, path = "/v1/images/tag", request_body = TagImage,
    responses((status = 200, body = HeldImage), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn tag(State(inner): App, JsonBody(tag): JsonBody<TagImage>) -> ApiResult<Json<HeldImage>> {
    let node = any_node(&inner).await?;
    Ok(Json(ask(&inner, &node, NodeRequest::ImageTag { tag }, LIST_DEADLINE).await?))
}

/// Images as one archive, an OCI layout in tar. The body is a list of names; answers frames of data.
#[utoipa::path(post, path = "/v1/images/save", request_body = Vec<String>,
    responses((status = 200, description = "frames", content_type = "application/vnd.carrack.frames"),
        (status = 503, body = Problem)))]
pub(super) async fn save(
    State(inner): App,
    JsonBody(references): JsonBody<Vec<String>>,
) -> ApiResult<Response> {
    let node = any_node(&inner).await?;
    let call = open(&inner, &node, NodeRequest::ImageSave { references }).await?;
    Ok(stream(|sink| async move {
        // A client that is gone needs no end; the node sees its stream close.
        let _: Result<(), Gone> = relay_frames(call.frames, &sink).await;
    }))
}

/// Takes images away that no kept revision and no task needs: those without a name, or all.
#[utoipa::path(post, path = "/v1/images/prune", request_body = PruneImages,
    responses((status = 200, body = PrunedImages), (status = 503, body = Problem)))]
pub(super) async fn prune(
    State(inner): App,
    JsonBody(prune): JsonBody<PruneImages>,
) -> ApiResult<Json<PrunedImages>> {
    any_node(&inner).await?;
    let mut all = PrunedImages::default();
    for node in heard(&inner) {
        let snapshot = inner.cluster.store.snapshot();
        let mut needed = images_needed(&snapshot);
        // Also by name: a service may be deployed that has no digest.
        let specs = snapshot.revisions.values().flat_map(|revision| revision.spec.services.values());
        needed.extend(specs.map(|spec| normalise(&spec.task.container.image)));
        let request = NodeRequest::ImagePrune { prune, needed };
        let pruned: PrunedImages = ask(&inner, &node, request, PRUNE_DEADLINE).await?;
        all.images.extend(pruned.images);
        all.freed = Bytes(all.freed.0 + pruned.freed.0);
    }
    Ok(Json(all))
}

/// Takes an image away, by name or digest, unless a stack uses it.
#[utoipa::path(delete, path = "/v1/images/{*reference}", params(("reference" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete(State(inner): App, Path(reference): Path<String>) -> ApiResult<StatusCode> {
    let images = held(&inner).await?;
    if let Some(user) = user_of(&inner.cluster.store.snapshot(), &images, &reference) {
        let text = format!("image {reference:?} is used by {user}");
        let hint =
            format!("deploy {} without it or remove it with `carrack rm {}` first", user.stack, user.stack);
        return Err(Problem::new(409, "in-use", text).hint(hint).into());
    }
    let mut missing = None;
    let nodes = heard(&inner);
    for node in &nodes {
        let request = NodeRequest::ImageRemove { reference: reference.clone() };
        match ask::<serde_json::Value>(&inner, node, request, REMOVE_DEADLINE).await {
            Ok(_) => missing = Some(None),
            Err(problem) if problem.status == 404 => missing = missing.or(Some(Some(problem))),
            Err(problem) => return Err(problem.into()),
        }
    }
    match missing {
        Some(None) => Ok(StatusCode::NO_CONTENT),
        Some(Some(problem)) => Err(problem.into()),
        None => Err(Problem::new(503, "no-node", "no node has reported yet").into()),
    }
}

/// A service that needs the image: its spec in force or a task that has not ended names it, or its digest has no other name.
fn user_of(snapshot: &Snapshot, images: &[HeldImage], reference: &str) -> Option<ServiceKey> {
    let name = normalise(reference);
    let meant: Vec<&HeldImage> = images.iter().filter(|i| i.name == name || i.digest == reference).collect();
    let last_name = |digest: &str| {
        meant.iter().any(|m| m.digest == digest)
            && images.iter().filter(|i| i.digest == digest).all(|i| meant.iter().any(|m| m.name == i.name))
    };
    let uses = |image: &str, digest: Option<&str>| {
        normalise(image) == name || digest.is_some_and(|d| d == reference || last_name(d))
    };
    users_of(snapshot, &uses).next()
}

/// Services that need an image, by its name as written and its digest: in force, or with a task that has not ended.
fn users_of<'a>(
    snapshot: &'a Snapshot,
    uses: &'a dyn Fn(&str, Option<&str>) -> bool,
) -> impl Iterator<Item = ServiceKey> + 'a {
    let active = snapshot.stacks.values().filter(|s| s.phase == StackPhase::Active);
    let of_specs = active.filter_map(|s| snapshot.spec(&s.name, s.revision)).flat_map(|spec| {
        spec.services
            .iter()
            .map(|(name, service)| (ServiceKey::new(spec.name.clone(), name.clone()), service))
    });
    let live = snapshot.tasks.values().filter(|t| t.is_live());
    let of_tasks =
        live.filter_map(|t| Some((t.service.clone(), snapshot.service_spec(&t.service, t.revision)?)));
    of_specs
        .chain(of_tasks)
        .filter(|(_, s)| uses(&s.task.container.image, s.task.container.image_digest.as_deref()))
        .map(|(key, _)| key)
}
