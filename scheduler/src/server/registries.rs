//! Registries: credentials are checked before anybody keeps them, and replace those that stacks keep.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use carrack_api::{NodeRequest, Problem, RegistryLogin, RegistryStacks};

use super::App;
use super::deploy::COMMIT_TRIES;
use super::nodes::{any_node, ask};
use super::problem::{ApiError, ApiResult, JsonBody, from_commit};
use crate::clock;
use crate::credentials;
use crate::image_name::registry;
use crate::store::{CommitError, Key, Object, Op, Snapshot, TXN_MAX_OPS, Txn};
use crate::wiring::Inner;

/// Time for a registry to say whether it accepts credentials.
const CHECK_DEADLINE: Duration = Duration::from_secs(60);

/// Shows credentials to their registry. When it accepts them they replace those that stacks keep for it; others are kept nowhere.
#[utoipa::path(post, path = "/v1/registries/login", request_body = RegistryLogin,
    responses((status = 200, body = RegistryStacks), (status = 403, body = Problem), (status = 422, body = Problem),
        (status = 502, body = Problem)))]
pub(super) async fn login(
    State(inner): App,
    JsonBody(body): JsonBody<RegistryLogin>,
) -> ApiResult<Json<RegistryStacks>> {
    let host = host(&body.registry)?;
    credentials::check(&body.credentials).map_err(|reason| {
        Problem::new(
            422,
            "invalid-credentials",
            format!("the credentials for {host} cannot be used: {reason}"),
        )
    })?;
    let node = any_node(&inner).await?;
    let request =
        NodeRequest::RegistryCheck { registry: host.clone(), credentials: body.credentials.clone() };
    let _: () = ask(&inner, &node, request, CHECK_DEADLINE).await?;
    let stacks = change(&inner, |snapshot| {
        inner
            .cluster
            .vault
            .replace(snapshot, &host, &body.credentials, clock::now())
            .map_err(|error| Problem::internal(error.to_string()))
    })
    .await?;
    Ok(Json(RegistryStacks { registry: host, stacks }))
}

/// Forgets the credentials that stacks keep for a registry: their later pulls from it are anonymous.
#[utoipa::path(delete, path = "/v1/registries/{registry}", params(("registry" = String, Path)),
    responses((status = 200, body = RegistryStacks), (status = 422, body = Problem)))]
pub(super) async fn forget(State(inner): App, Path(text): Path<String>) -> ApiResult<Json<RegistryStacks>> {
    let host = host(&text)?;
    let stacks = change(&inner, |snapshot| Ok(credentials::forget_registry(snapshot, &host))).await?;
    Ok(Json(RegistryStacks { registry: host, stacks }))
}

/// The registry as names of images lead to it.
fn host(text: &str) -> Result<String, Problem> {
    let named = format!("{text}/x");
    if text.contains('/') || registry(&named) != text {
        let text = format!("{text:?} is not a registry's host[:port]");
        return Err(
            Problem::new(422, "invalid-registry", text).hint("for example ghcr.io or registry.example:5000")
        );
    }
    Ok(text.to_owned())
}

/// Commits changes of credentials, as many in a transaction as it may hold; answers whose they were.
async fn change(
    inner: &Inner,
    ops: impl Fn(&Snapshot) -> Result<Vec<Op>, Problem>,
) -> Result<Vec<carrack_api::StackName>, ApiError> {
    let mut stacks = std::collections::BTreeSet::new();
    let mut conflicts = 0;
    loop {
        let snapshot = inner.cluster.store.snapshot();
        let mut ops = ops(&snapshot)?;
        ops.truncate(TXN_MAX_OPS);
        if ops.is_empty() {
            return Ok(stacks.into_iter().collect());
        }
        let expect = ops.iter().map(|op| (op.key(), snapshot.version(&op.key()))).collect();
        let changed: Vec<_> = ops.iter().filter_map(stack_of).collect();
        match inner.cluster.store.commit(Txn { expect, ops }).await {
            Ok(_) => stacks.extend(changed),
            Err(CommitError::Conflict(_)) if conflicts < COMMIT_TRIES => conflicts += 1,
            Err(error) => return Err(ApiError(from_commit(error))),
        }
    }
}

fn stack_of(op: &Op) -> Option<carrack_api::StackName> {
    match op {
        Op::Put(Object::Login(login)) => Some(login.stack.clone()),
        Op::Delete(Key::Login(stack, _)) => Some(stack.clone()),
        _ => None,
    }
}
