//! Secrets and configs by command: made, listed and taken away. A secret's content comes in and never goes out again.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use carrack_api::{Bytes, ContentKind, ContentName, ContentStatus, Problem, PutContent, ServiceKey};

use super::App;
use super::deploy::COMMIT_TRIES;
use super::problem::{ApiResult, JsonBody, from_commit, name};
use crate::clock;
use crate::contents::{Found, check_size, digest, find, keep, names, read, users};
use crate::plan::EventDraft;
use crate::store::{CommitError, ContentNameRecord, Key, Object, Op, Snapshot, Txn};
use crate::wiring::Inner;

/// Secrets that can be made by command; a bound for the store.
const NAMES_MAX: usize = 10_000;
/// Users that a refusal names.
const USERS_TOLD: usize = 5;

/// All secrets, without their content.
#[utoipa::path(get, path = "/v1/secrets", responses((status = 200, body = Vec<ContentStatus>)))]
pub(super) async fn list_secrets(State(inner): App) -> Json<Vec<ContentStatus>> {
    list(&inner, ContentKind::Secret)
}

/// A secret, without its content.
#[utoipa::path(get, path = "/v1/secrets/{name}", params(("name" = String, Path)),
    responses((status = 200, body = ContentStatus), (status = 404, body = Problem)))]
pub(super) async fn get_secret(
    State(inner): App,
    Path(text): Path<String>,
) -> ApiResult<Json<ContentStatus>> {
    get(&inner, ContentKind::Secret, &text)
}

/// Makes a secret. The same content again changes nothing; another one needs `replace`.
#[utoipa::path(put, path = "/v1/secrets/{name}", params(("name" = String, Path)), request_body = PutContent,
    responses((status = 200, body = ContentStatus), (status = 409, body = Problem), (status = 413, body = Problem)))]
pub(super) async fn put_secret(
    State(inner): App,
    Path(text): Path<String>,
    JsonBody(body): JsonBody<PutContent>,
) -> ApiResult<Json<ContentStatus>> {
    put(&inner, ContentKind::Secret, &text, &body).await
}

/// Takes a secret away, unless a service uses it.
#[utoipa::path(delete, path = "/v1/secrets/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete_secret(State(inner): App, Path(text): Path<String>) -> ApiResult<StatusCode> {
    delete(&inner, ContentKind::Secret, &text).await
}

/// All configs.
#[utoipa::path(get, path = "/v1/configs", responses((status = 200, body = Vec<ContentStatus>)))]
pub(super) async fn list_configs(State(inner): App) -> Json<Vec<ContentStatus>> {
    list(&inner, ContentKind::Config)
}

/// A config, with its content when that is text.
#[utoipa::path(get, path = "/v1/configs/{name}", params(("name" = String, Path)),
    responses((status = 200, body = ContentStatus), (status = 404, body = Problem)))]
pub(super) async fn get_config(
    State(inner): App,
    Path(text): Path<String>,
) -> ApiResult<Json<ContentStatus>> {
    get(&inner, ContentKind::Config, &text)
}

/// Makes a config. The same content again changes nothing; another one needs `replace`.
#[utoipa::path(put, path = "/v1/configs/{name}", params(("name" = String, Path)), request_body = PutContent,
    responses((status = 200, body = ContentStatus), (status = 409, body = Problem), (status = 413, body = Problem)))]
pub(super) async fn put_config(
    State(inner): App,
    Path(text): Path<String>,
    JsonBody(body): JsonBody<PutContent>,
) -> ApiResult<Json<ContentStatus>> {
    put(&inner, ContentKind::Config, &text, &body).await
}

/// Takes a config away, unless a service uses it.
#[utoipa::path(delete, path = "/v1/configs/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete_config(State(inner): App, Path(text): Path<String>) -> ApiResult<StatusCode> {
    delete(&inner, ContentKind::Config, &text).await
}

fn list(inner: &Inner, kind: ContentKind) -> Json<Vec<ContentStatus>> {
    let snapshot = inner.cluster.store.snapshot();
    Json(names(&snapshot, kind).into_iter().filter_map(|name| status(&snapshot, kind, name)).collect())
}

fn get(inner: &Inner, kind: ContentKind, text: &str) -> ApiResult<Json<ContentStatus>> {
    let snapshot = inner.cluster.store.snapshot();
    let name: ContentName = name(text, no_such(kind))?;
    let mut status = status(&snapshot, kind, name.clone()).ok_or_else(|| missing(kind, &name))?;
    if kind == ContentKind::Config {
        let content = read(&inner.cluster.vault, &snapshot, &status.digest);
        status.text = content.and_then(|content| String::from_utf8(content.bytes().to_vec()).ok());
    }
    Ok(Json(status))
}

fn status(snapshot: &Snapshot, kind: ContentKind, name: ContentName) -> Option<ContentStatus> {
    let Found { digest, stack, labels } = find(snapshot, kind, &name)?;
    let record = snapshot.contents.get(&digest);
    let named = snapshot.content_names.get(&(kind, name.clone()));
    let created_at = named.map(|named| named.at).or(record.map(|record| record.at));
    let used_by = users(snapshot, kind, &name);
    Some(ContentStatus {
        kind,
        name,
        digest,
        size: Bytes(record.map_or(0, |record| record.size)),
        labels,
        stack,
        created_at: created_at.unwrap_or_default(),
        used_by,
        text: None,
    })
}

async fn put(
    inner: &Inner,
    kind: ContentKind,
    text: &str,
    body: &PutContent,
) -> ApiResult<Json<ContentStatus>> {
    let name: ContentName = text
        .parse()
        .map_err(|e: carrack_api::InvalidName| Problem::new(400, "invalid-name", e.to_string()))?;
    check_size(kind, &name, &body.content)?;
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        if let Some(txn) = making(inner, &snapshot, kind, &name, body)? {
            match inner.cluster.store.commit(txn).await {
                Ok(_) => {
                    let message = format!("{kind} {name} is kept");
                    told(inner, kind, "kept", &name, message);
                }
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(from_commit(error).into()),
            }
        }
        let status = status(&inner.cluster.store.snapshot(), kind, name.clone());
        return Ok(Json(status.ok_or_else(|| missing(kind, &name))?));
    }
    Err(from_commit(CommitError::Conflict(Key::ContentName(kind, name))).into())
}

/// The transaction that makes a name stand for a content; none when it does already.
fn making(
    inner: &Inner,
    snapshot: &Snapshot,
    kind: ContentKind,
    name: &ContentName,
    body: &PutContent,
) -> Result<Option<Txn>, Problem> {
    let digest = digest(&inner.cluster.vault, kind, name, &body.content);
    if let Some(found) = find(snapshot, kind, name) {
        if let Some(stack) = found.stack {
            let text = format!("{kind} {name} belongs to stack {stack}");
            return Err(Problem::new(409, "name-taken", text).hint("a deploy of that stack changes it"));
        }
        if found.digest == digest && found.labels == body.labels {
            return Ok(None);
        }
        if !body.replace {
            let hint = format!(
                "`carrack {kind} create --replace` changes it; its users take it with their next deploy"
            );
            return Err(Problem::new(409, "exists", format!("{kind} {name} exists already")).hint(hint));
        }
    } else if snapshot.content_names.len() >= NAMES_MAX {
        let text = format!("{NAMES_MAX} secrets and configs are kept already");
        return Err(Problem::new(409, "too-many", text).hint(format!("`carrack {kind} rm` takes some away")));
    }
    let (key, of_content) = (Key::ContentName(kind, name.clone()), Key::Content(digest.clone()));
    let now = clock::now();
    let mut ops = match snapshot.contents.get(&digest) {
        // Written again, so that whoever takes it away at this moment sees it.
        Some(record) => vec![Op::Put(Object::Content((**record).clone()))],
        None => keep(&inner.cluster.vault, kind, &digest, &body.content, now)
            .map_err(|error| Problem::internal(error.to_string()))?,
    };
    let labels = body.labels.clone();
    ops.push(Op::Put(Object::ContentName(ContentNameRecord {
        kind,
        name: name.clone(),
        digest,
        labels,
        at: now,
    })));
    let expect = [key, of_content].map(|key| (key.clone(), snapshot.version(&key)));
    Ok(Some(Txn { expect: expect.into(), ops }))
}

async fn delete(inner: &Inner, kind: ContentKind, text: &str) -> ApiResult<StatusCode> {
    let name: ContentName = name(text, no_such(kind))?;
    let key = Key::ContentName(kind, name.clone());
    for _ in 0..COMMIT_TRIES {
        let snapshot = inner.cluster.store.snapshot();
        let found = find(&snapshot, kind, &name).ok_or_else(|| missing(kind, &name))?;
        if let Some(stack) = found.stack {
            let text = format!("{kind} {name} belongs to stack {stack}");
            return Err(Problem::new(409, "in-use", text).hint("it goes with the stack").into());
        }
        let users = users(&snapshot, kind, &name);
        if !users.is_empty() {
            return Err(in_use(kind, &name, &users.into_iter().collect::<Vec<_>>()).into());
        }
        let expect = vec![(key.clone(), snapshot.version(&key))];
        match inner.cluster.store.commit(Txn { expect, ops: vec![Op::Delete(key.clone())] }).await {
            Ok(_) => {
                told(inner, kind, "removed", &name, format!("{kind} {name} was removed"));
                return Ok(StatusCode::NO_CONTENT);
            }
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(from_commit(error).into()),
        }
    }
    Err(from_commit(CommitError::Conflict(key)).into())
}

fn in_use(kind: ContentKind, name: &ContentName, users: &[ServiceKey]) -> Problem {
    let mut told: Vec<String> = users.iter().take(USERS_TOLD).map(ToString::to_string).collect();
    if users.len() > USERS_TOLD {
        told.push(format!("{} more", users.len() - USERS_TOLD));
    }
    Problem::new(409, "in-use", format!("{kind} {name} is used by {}", told.join(", ")))
        .hint("take it out of these services and deploy them first")
}

fn no_such(kind: ContentKind) -> &'static str {
    match kind {
        ContentKind::Secret => "no-secret",
        ContentKind::Config => "no-config",
    }
}

fn missing(kind: ContentKind, name: &ContentName) -> Problem {
    Problem::not_found(no_such(kind), format!("no {kind} {name}"))
        .hint(format!("`carrack {kind} ls` lists them"))
}

fn told(inner: &Inner, kind: ContentKind, what: &str, name: &ContentName, message: String) {
    let event = match (kind, what) {
        (ContentKind::Secret, "removed") => "secret.removed",
        (ContentKind::Secret, _) => "secret.kept",
        (ContentKind::Config, "removed") => "config.removed",
        (ContentKind::Config, _) => "config.kept",
    };
    inner.cluster.events.append(vec![EventDraft::new(event, name, message)], clock::now());
}
