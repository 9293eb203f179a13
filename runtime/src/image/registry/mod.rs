//! Talking to a registry: the distribution API's reads, over HTTP/1.1.
//!
//! Plain HTTP only to a registry on loopback, TLS everywhere else; redirects never lead from one
//! to the other, and credentials never follow a redirect to another host.

mod challenge;
mod config;
mod connect;

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use super::credentials::Credentials;
use super::digest::Digest;
use super::error::{Error, Result};
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST};
use super::reference::{DEFAULT_REGISTRY, ImageReference};
use crate::error::chain;
use challenge::Challenge;
pub use config::{HostConfig, MAX_MIRRORS, RegistryConfig};
use connect::HttpClient;

/// Where `docker.io` really is.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// Longest wait for the head of an answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence within a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a token answer or an error body.
const MAX_SMALL_BODY: u64 = 64 * 1024;
/// Most characters of a registry's own words in an error.
const MAX_DETAIL: usize = 200;

/// One image's conversation with its registry.
pub(super) struct Registry {
    http: HttpClient,
    base: String,
    host: String,
    repository: String,
    image: String,
    credentials: Option<Credentials>,
    /// The `Authorization` value that works, once known.
    authorization: Mutex<Option<String>>,
}

/// A manifest or index as the registry sent it.
pub(super) struct Fetched {
    pub(super) digest: Digest,
    pub(super) document: Bytes,
}

impl Registry {
    pub(super) fn new(reference: &ImageReference, credentials: Option<&Credentials>) -> Result<Self> {
        let host = match reference.registry() {
            DEFAULT_REGISTRY => DOCKER_HUB,
            other => other,
        };
        let loopback = connect::is_loopback(host);
        let scheme = if loopback { "http" } else { "https" };
        let registry = Self {
            http: connect::client(loopback).map_err(|reason| Error::Transport {
                registry: reference.registry().to_owned(),
                image: reference.familiar(),
                reason,
            })?,
            base: format!("{scheme}://{host}"),
            host: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            image: reference.familiar(),
            credentials: credentials.cloned(),
            authorization: Mutex::new(None),
        };
        Ok(registry)
    }

    /// Asks for the digest that a tag or digest means now.
    pub(super) async fn resolve(&self, selector: &str) -> Result<Digest> {
        let response = self.manifest_request(Method::HEAD, selector).await?;
        match announced(&response) {
            Some(digest) => Ok(digest),
            None => Ok(self.manifest(selector).await?.digest),
        }
    }

    /// Fetches a manifest or index and verifies it against every digest that is known of it.
    pub(super) async fn manifest(&self, selector: &str) -> Result<Fetched> {
        let response = self.manifest_request(Method::GET, selector).await?;
        let announced = announced(&response);
        let document = self.small_body(response, MAX_MANIFEST_BYTES).await?;
        let digest = Digest::of(&document);
        for expected in selector.parse().ok().into_iter().chain(announced) {
            if expected != digest {
                return Err(Error::DigestMismatch { expected, actual: digest });
            }
        }
        Ok(Fetched { digest, document })
    }

    /// Starts fetching a blob.
    pub(super) async fn blob(&self, digest: &Digest) -> Result<BlobBody<'_>> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let response = self.get(Method::GET, &path, "*/*").await?;
        match response.status() {
            StatusCode::OK => Ok(BlobBody { registry: self, body: response.into_body() }),
            StatusCode::NOT_FOUND => {
                Err(Error::MissingBlob { image: self.image.clone(), digest: digest.clone() })
            }
            _ => Err(self.status_error(response).await),
        }
    }

    async fn manifest_request(&self, method: Method, selector: &str) -> Result<Response<Incoming>> {
        let path = format!("/v2/{}/manifests/{selector}", self.repository);
        let accept = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let response = self.get(method, &path, &accept).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => {
                Err(Error::NotFound { image: self.image.clone(), registry: self.host.clone() })
            }
            _ => Err(self.status_error(response).await),
        }
    }

    /// One request with authentication: tried as it is, then once more with what the registry wants.
    async fn get(&self, method: Method, path: &str, accept: &str) -> Result<Response<Incoming>> {
        let url = format!("{}{path}", self.base);
        let known = self.authorization.lock().await.clone();
        let response = self.follow(&method, &url, accept, known.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let mut slot = self.authorization.lock().await;
        // Another request may have authenticated meanwhile.
        let header = match slot.clone().filter(|value| known.as_ref() != Some(value)) {
            Some(header) => header,
            None => self.authenticate(&response).await?,
        };
        *slot = Some(header.clone());
        drop(slot);
        self.follow(&method, &url, accept, Some(&header)).await
    }

    /// Makes the `Authorization` value that a 401 asks for.
    async fn authenticate(&self, response: &Response<Incoming>) -> Result<String> {
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<_> = challenges.iter().filter_map(|value| value.to_str().ok()).collect();
        match (Challenge::choose(&challenges), &self.credentials) {
            (Some(_) | None, Some(credentials @ Credentials::Bearer { .. })) => {
                Ok(credentials.authorization())
            }
            (Some(Challenge::Basic), Some(credentials)) => Ok(credentials.authorization()),
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                self.token(&realm, service.as_deref(), scope.as_deref()).await
            }
            (Some(Challenge::Basic) | None, _) => Err(self.unauthorized()),
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<String> {
        let default_scope = format!("repository:{}:pull", self.repository);
        let mut url = realm.to_owned();
        let query = [("service", service), ("scope", scope.or(Some(&default_scope)))];
        for (key, value) in query.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{key}={}", challenge::query_escape(value)));
        }
        let header = self.credentials.as_ref().map(Credentials::authorization);
        let response = self.follow(&Method::GET, &url, "application/json", header.as_deref()).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.unauthorized()),
            _ => return Err(self.status_error(response).await),
        }
        let body = self.small_body(response, MAX_SMALL_BODY).await?;
        challenge::parse_token(&body).map(|token| format!("Bearer {token}")).ok_or_else(|| Error::Registry {
            registry: self.host.clone(),
            image: self.image.clone(),
            status: 200,
            detail: ": its token service sent no token".to_owned(),
        })
    }

    /// One request, its redirects followed. The credentials stay with the first host.
    async fn follow(
        &self,
        method: &Method,
        url: &str,
        accept: &str,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let first: Uri = url.parse().map_err(|_| self.transport("the registry names an invalid address"))?;
        let mut uri = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let same_origin = uri.scheme() == first.scheme() && uri.authority() == first.authority();
            let header = authorization.filter(|_| same_origin);
            let response = self.send(method, &uri, accept, header).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| self.transport("it redirects to nowhere"))?;
            uri = challenge::join(&uri, location)
                .ok_or_else(|| self.transport("it redirects to an invalid address"))?;
        }
        Err(self.transport(&format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    async fn send(
        &self,
        method: &Method,
        uri: &Uri,
        accept: &str,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let plain_allowed = self.base.starts_with("http://") && uri.host().is_some_and(connect::is_loopback);
        if uri.scheme_str() != Some("https") && !plain_allowed {
            return Err(self.transport("it leads to an address without TLS, which is refused"));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(USER_AGENT, concat!("carrack/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, accept);
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| self.unauthorized())?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|error| self.transport(&error.to_string()))?;
        match tokio::time::timeout(HEAD_TIMEOUT, self.http.request(request)).await {
            Ok(answer) => answer.map_err(|error| self.transport(&chain(&error))),
            Err(_) => Err(self.transport(&format!("no answer within {} s", HEAD_TIMEOUT.as_secs()))),
        }
    }

    async fn small_body(&self, response: Response<Incoming>, limit: u64) -> Result<Bytes> {
        let mut body = BlobBody { registry: self, body: response.into_body() };
        let mut content = Vec::new();
        while let Some(chunk) = body.chunk().await? {
            if (content.len() + chunk.len()) as u64 > limit {
                let what = format!("an answer of {} for {}", self.host, self.image);
                return Err(Error::TooLarge { what, limit: format!("{limit} bytes") });
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content.into())
    }

    /// An error for a status that nobody handles.
    async fn status_error(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return self.unauthorized();
        }
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let detail = match self.small_body(response, MAX_SMALL_BODY).await {
            Ok(body) if is_json => challenge::error_message(&body, MAX_DETAIL),
            _ => String::new(),
        };
        Error::Registry {
            registry: self.host.clone(),
            image: self.image.clone(),
            status: status.as_u16(),
            detail,
        }
    }

    fn unauthorized(&self) -> Error {
        let hint = match self.credentials {
            Some(_) => "the credentials were not accepted, or do not cover this repository",
            None => "the repository is private or does not exist; check the name, or give credentials",
        };
        Error::Unauthorized { image: self.image.clone(), registry: self.host.clone(), hint }
    }

    fn transport(&self, reason: &str) -> Error {
        Error::Transport { registry: self.host.clone(), image: self.image.clone(), reason: reason.to_owned() }
    }
}

/// The digest that the registry says the document has.
fn announced(response: &Response<Incoming>) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// A body that arrives in chunks.
pub(super) struct BlobBody<'a> {
    registry: &'a Registry,
    body: Incoming,
}

impl BlobBody<'_> {
    /// The next chunk; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(BODY_TIMEOUT, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(self.registry.transport(&chain(&error))),
                Err(_) => {
                    let reason = format!("no data within {} s", BODY_TIMEOUT.as_secs());
                    return Err(self.registry.transport(&reason));
                }
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}
