//! The HTTP API on a unix socket: connections, routes, and the OpenAPI document made from the same list.
//!
//! Owns transport, statuses and bounds on clients. Everything it changes goes through the store; the loop does the rest.

#![expect(unused_qualifications, reason = "utoipa's macros write paths of query types out")]

mod attach;
mod body;
mod contents;
mod copy;
mod deploy;
mod dns;
mod exec;
mod images;
mod info;
mod lifecycle;
mod logs;
mod networks;
mod nodes;
mod problem;
mod registries;
mod runs;
mod services;
mod set;
mod stacks;
mod tasks;
mod volumes;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch as channel};
use tokio::task::JoinSet;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::wiring::Inner;

/// Connections served at a time; further ones wait.
const CONNECTIONS_MAX: usize = 512;
/// Time in which a client must have sent its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest JSON body, bytes.
const BODY_MAX_BYTES: usize = 4 << 20;
/// Time open requests have to end at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Pause after an accept that failed, for example for lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What handlers are given.
type App = State<Arc<Inner>>;

#[derive(OpenApi)]
#[openapi(info(
    title = "Carrack",
    description = "The API of a Carrack daemon on its unix socket. Errors are RFC 9457 problem details with hints.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Document;

/// All routes, each with its entry in the document.
fn routes() -> OpenApiRouter<Arc<Inner>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(info::info))
        .routes(routes!(info::openapi))
        .routes(routes!(info::list_nodes))
        .routes(routes!(stacks::list))
        .routes(routes!(stacks::get, stacks::put, stacks::delete))
        .routes(routes!(stacks::spec))
        .routes(routes!(services::list))
        .routes(routes!(lifecycle::stop))
        .routes(routes!(lifecycle::start))
        .routes(routes!(lifecycle::restart))
        .routes(routes!(services::get, set::set))
        .routes(routes!(services::scale))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::get))
        .routes(routes!(tasks::inspect))
        .routes(routes!(tasks::signal))
        .routes(routes!(runs::list, runs::create))
        .routes(routes!(runs::delete))
        .routes(routes!(exec::exec))
        .routes(routes!(attach::attach))
        .routes(routes!(copy::out, copy::into))
        .routes(routes!(logs::logs))
        .routes(routes!(images::list))
        .routes(routes!(images::load))
        .routes(routes!(images::pull))
        .routes(routes!(images::tag))
        .routes(routes!(images::save))
        .routes(routes!(images::prune))
        .routes(routes!(images::inspect))
        .routes(routes!(images::delete))
        .routes(routes!(registries::login))
        .routes(routes!(registries::forget))
        .routes(routes!(volumes::list))
        .routes(routes!(volumes::get, volumes::delete))
        .routes(routes!(volumes::prune))
        .routes(routes!(contents::list_secrets))
        .routes(routes!(contents::get_secret, contents::put_secret, contents::delete_secret))
        .routes(routes!(contents::list_configs))
        .routes(routes!(contents::get_config, contents::put_config, contents::delete_config))
        .routes(routes!(networks::list, networks::create))
        .routes(routes!(networks::get, networks::delete))
        .routes(routes!(networks::prune))
        .routes(routes!(dns::lookup))
        .routes(routes!(watch::stack))
        .routes(routes!(watch::events))
}

/// The document that `GET /v1/openapi.json` answers with.
fn document() -> utoipa::openapi::OpenApi {
    let mut document = routes().split_for_parts().1;
    document.info.version = env!("CARGO_PKG_VERSION").into();
    document
}

fn router(inner: Arc<Inner>) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(axum::middleware::from_fn(problem::readable_path))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(inner)
}

/// Serves until `shutdown` resolves.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = router(inner);
    let (closing, closed) = channel::channel(false);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            () = &mut shutdown => break,
            permit = room.clone().acquire_owned() => permit.map_err(std::io::Error::other)?,
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, closed) = (router.clone(), closed.clone());
                connections.spawn(async move {
                    connection(stream, router, closed).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    closing.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE, all).await.is_err() {
        tracing::debug!("streams that are still open are cut");
    }
    connections.shutdown().await;
    Ok(())
}

async fn connection(stream: UnixStream, router: Router, mut closed: channel::Receiver<bool>) {
    let service = TowerToHyperService::new(router);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let closing = async { closed.wait_for(|closed| *closed).await.map(drop) };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Mostly a client that went away, which is its right.
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document_with_its_answers() {
        let json = serde_json::to_value(document()).unwrap();
        assert!(json["openapi"].as_str().unwrap().starts_with("3.1"));
        let paths = json["paths"].as_object().unwrap();
        let listed: Vec<String> = paths
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |m| format!("{m} {path}")))
            .collect();
        let routes = [
            "get /v1/info",
            "get /v1/nodes",
            "get /v1/stacks",
            "get /v1/stacks/{name}",
            "put /v1/stacks/{name}",
            "delete /v1/stacks/{name}",
            "get /v1/stacks/{name}/spec",
            "post /v1/stacks/{name}/stop",
            "post /v1/stacks/{name}/start",
            "post /v1/stacks/{name}/restart",
            "patch /v1/services/{stack}/{service}",
            "post /v1/tasks/{id}/signal",
            "get /v1/runs",
            "post /v1/runs",
            "delete /v1/runs/{stack}/{name}",
            "get /v1/services",
            "get /v1/services/{stack}/{service}",
            "put /v1/services/{stack}/{service}/scale",
            "get /v1/tasks",
            "get /v1/tasks/{id}",
            "get /v1/tasks/{id}/inspect",
            "post /v1/tasks/{id}/exec",
            "post /v1/tasks/{id}/attach",
            "get /v1/tasks/{id}/archive",
            "put /v1/tasks/{id}/archive",
            "get /v1/logs",
            "get /v1/images",
            "post /v1/images/load",
            "post /v1/images/pull",
            "post /v1/images/tag",
            "post /v1/images/save",
            "post /v1/images/prune",
            "get /v1/images/inspect",
            "delete /v1/images/{*reference}",
            "post /v1/registries/login",
            "delete /v1/registries/{registry}",
            "get /v1/volumes",
            "get /v1/volumes/{name}",
            "delete /v1/volumes/{name}",
            "post /v1/volumes/prune",
            "get /v1/secrets",
            "get /v1/secrets/{name}",
            "put /v1/secrets/{name}",
            "delete /v1/secrets/{name}",
            "get /v1/configs",
            "get /v1/configs/{name}",
            "put /v1/configs/{name}",
            "delete /v1/configs/{name}",
            "get /v1/networks",
            "post /v1/networks",
            "get /v1/networks/{name}",
            "delete /v1/networks/{name}",
            "post /v1/networks/prune",
            "get /v1/dns",
            "get /v1/watch",
            "get /v1/events",
            "get /v1/openapi.json",
        ];
        for route in routes {
            assert!(listed.iter().any(|l| l == route), "{route} is not in {listed:#?}");
        }
        assert_eq!(listed.len(), routes.len());
        for item in paths.values().flat_map(|p| p.as_object().unwrap().values()) {
            assert!(!item["responses"].as_object().unwrap().is_empty(), "{item}");
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let json = serde_json::to_value(document()).unwrap();
        let text = json.to_string();
        for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(json["components"]["schemas"].get(name).is_some(), "{name} is missing");
        }
    }
}
