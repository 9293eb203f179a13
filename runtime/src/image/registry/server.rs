//! One host that speaks the distribution API: requests, their redirects, authentication, and what
//! its answers mean. It tries each request once; trying again is its caller's decision.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use super::super::credentials::Credentials;
use super::super::error::{Error, Result};
use super::challenge::{self, Challenge};
use super::connect::{self, HttpClient};
use super::retry::parse_retry_after;
use crate::error::chain;

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

/// A host as one image's conversation sees it.
pub(super) struct Server {
    pub(super) http: HttpClient,
    /// `https://host:port`, or `http://` on loopback.
    pub(super) base: String,
    /// The registry's name, or the mirror's.
    pub(super) name: String,
    pub(super) repository: String,
    pub(super) image: String,
    pub(super) credentials: Option<Credentials>,
    /// The `Authorization` value that works, once known.
    pub(super) authorization: Mutex<Option<String>>,
}

/// One read of the distribution API.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// The path below `/v2/NAME/`; empty for `/v2/` itself.
    pub(super) path: String,
    pub(super) accept: &'a str,
    /// The first byte wanted.
    pub(super) offset: u64,
}

impl Server {
    /// One request with authentication: tried as it is, then once more with what the server wants.
    /// Any status but 401 is an answer.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Response<Incoming>> {
        let url = match &ask.path[..] {
            "" => format!("{}/v2/", self.base),
            path => format!("{}/v2/{}/{path}", self.base, self.repository),
        };
        let known = self.authorization.lock().await.clone();
        let response = self.follow(ask, &url, known.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let mut slot = self.authorization.lock().await;
        // Another request may have authenticated meanwhile; else the token was too old.
        let header = match slot.clone().filter(|value| known.as_ref() != Some(value)) {
            Some(header) => header,
            None => self.authenticate(&response).await?,
        };
        *slot = Some(header.clone());
        drop(slot);
        self.follow(ask, &url, Some(&header)).await
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
        let ask = Ask { method: Method::GET, path: String::new(), accept: "application/json", offset: 0 };
        let response = self.follow(&ask, &url, header.as_deref()).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.unauthorized()),
            _ => return Err(self.status_error(response).await),
        }
        let body = self.small_body(response, MAX_SMALL_BODY).await?;
        challenge::parse_token(&body).map(|token| format!("Bearer {token}")).ok_or_else(|| Error::Registry {
            registry: self.name.clone(),
            image: self.image.clone(),
            status: 200,
            detail: ": its token service sent no token".to_owned(),
        })
    }

    /// One request, its redirects followed. The credentials stay with the first host.
    async fn follow(
        &self,
        ask: &Ask<'_>,
        url: &str,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let first: Uri = url.parse().map_err(|_| self.transport("it names an invalid address"))?;
        let mut uri = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let same_origin = uri.scheme() == first.scheme() && uri.authority() == first.authority();
            let header = authorization.filter(|_| same_origin);
            let response = self.send(ask, &uri, header).await?;
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
        ask: &Ask<'_>,
        uri: &Uri,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let plain_allowed = self.base.starts_with("http://") && uri.host().is_some_and(connect::is_loopback);
        if uri.scheme_str() != Some("https") && !plain_allowed {
            return Err(self.transport("it leads to an address without TLS, which is refused"));
        }
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(uri)
            .header(USER_AGENT, concat!("carrack/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, ask.accept);
        if ask.offset > 0 {
            request = request.header(RANGE, format!("bytes={}-", ask.offset));
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| self.unauthorized())?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|error| self.transport(&error.to_string()))?;
        match tokio::time::timeout(HEAD_TIMEOUT, self.http.request(request)).await {
            Ok(answer) => answer.map_err(|reason| self.transport(&reason)),
            Err(_) => Err(self.transport(&format!("no answer within {} s", HEAD_TIMEOUT.as_secs()))),
        }
    }

    /// A body that must not be longer than `limit`.
    pub(super) async fn small_body(&self, response: Response<Incoming>, limit: u64) -> Result<Bytes> {
        let mut body = response.into_body();
        let mut content = Vec::new();
        while let Some(chunk) = self.chunk(&mut body).await? {
            if (content.len() + chunk.len()) as u64 > limit {
                let what = format!("an answer of {} for {}", self.name, self.image);
                return Err(Error::TooLarge { what, limit: format!("{limit} bytes") });
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content.into())
    }

    /// The next chunk of a body; `None` at its end.
    pub(super) async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(BODY_TIMEOUT, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(self.transport(&format!("the connection broke: {}", chain(&error))));
                }
                Err(_) => {
                    let reason = format!("no data within {} s", BODY_TIMEOUT.as_secs());
                    return Err(self.transport(&reason));
                }
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// An error for a status that nobody handles.
    pub(super) async fn status_error(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let (registry, image) = (self.name.clone(), self.image.clone());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return self.unauthorized(),
            StatusCode::TOO_MANY_REQUESTS => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let text = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let wait = text.and_then(|text| parse_retry_after(text, now));
                return Error::Throttled { registry, image, wait };
            }
            _ => {}
        }
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let detail = match self.small_body(response, MAX_SMALL_BODY).await {
            Ok(body) if is_json => challenge::error_message(&body, MAX_DETAIL),
            _ => String::new(),
        };
        Error::Registry { registry, image, status: status.as_u16(), detail }
    }

    fn unauthorized(&self) -> Error {
        let hint = match self.credentials {
            Some(_) => "the credentials were not accepted, or do not cover this repository",
            None => "it is private or does not exist; check the name, or log in to the registry",
        };
        Error::Unauthorized { image: self.image.clone(), registry: self.name.clone(), hint }
    }

    pub(super) fn transport(&self, reason: &str) -> Error {
        Error::Transport { registry: self.name.clone(), image: self.image.clone(), reason: reason.to_owned() }
    }
}
