//! Talking to a registry: the distribution API's reads, over HTTP/1.1.
//!
//! ```text
//!  Registry   one image's conversation: mirrors in order, then the registry itself; attempts
//!  server     one host: authentication, redirects, what its answers mean
//!  connect    names, TLS, the proxy's tunnel         tls        whom to trust
//!  challenge  texts of answers, pure                 retry      when to try again, pure
//! ```
//!
//! Plain HTTP only to a registry on loopback, TLS everywhere else; redirects never lead from TLS to
//! plain HTTP, and credentials never follow a redirect to another host, nor go to a mirror.

mod challenge;
mod config;
mod connect;
mod login;
mod retry;
mod server;
mod tls;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use super::credentials::Credentials;
use super::digest::Digest;
use super::error::{Error, Result};
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST};
use super::progress::Meter;
use super::reference::ImageReference;
pub use config::{HostConfig, MAX_MIRRORS, RegistryConfig};
use connect::HttpClient;
pub(super) use retry::Attempts;
use server::{Ask, Server};

/// One image's conversation with its registry and the registry's mirrors.
pub(super) struct Registry {
    /// Mirrors in the order they are asked, then the registry itself.
    servers: Vec<Listed>,
    meter: Arc<Meter>,
}

struct Listed {
    server: Server,
    /// A mirror that failed is not asked again in this conversation.
    failed: AtomicBool,
}

/// A manifest or index as the registry sent it.
pub(super) struct Fetched {
    pub(super) digest: Digest,
    pub(super) document: Bytes,
}

impl Registry {
    /// A conversation about `reference`; waits that the registry asks for are told to `meter`.
    pub(super) fn new(
        reference: &ImageReference,
        credentials: Option<&Credentials>,
        config: &RegistryConfig,
        meter: Arc<Meter>,
    ) -> Result<Self> {
        let registry = reference.registry();
        let proxy = config.proxy()?;
        let ca_files: Vec<_> = config.ca_files(registry).cloned().collect();
        let server = |name: &str, host: &str, scheme: &str, credentials: Option<&Credentials>| Listed {
            server: Server {
                http: HttpClient::new(ca_files.clone(), proxy.clone()),
                base: format!("{scheme}://{host}"),
                name: name.to_owned(),
                repository: reference.repository().to_owned(),
                image: reference.familiar(),
                credentials: credentials.cloned(),
                authorization: Mutex::new(None),
            },
            failed: AtomicBool::new(false),
        };
        let mirrors = config.mirrors(registry)?;
        let mut servers: Vec<_> =
            mirrors.iter().map(|mirror| server(mirror, mirror, "https", None)).collect();
        let host = config::api_host(registry);
        let plain = connect::is_loopback(host) && !config.has_own_ca(registry);
        servers.push(server(registry, host, if plain { "http" } else { "https" }, credentials));
        Ok(Self { servers, meter })
    }

    /// Asks for the digest that a tag or digest means now.
    pub(super) async fn resolve(&self, selector: &str) -> Result<Digest> {
        let mut attempts = Attempts::quick();
        loop {
            match self.ask(&manifest(Method::HEAD, selector)).await {
                Ok((_, response)) => match announced(&response) {
                    Some(digest) => return Ok(digest),
                    None => return Ok(self.manifest(selector).await?.digest),
                },
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Fetches a manifest or index and verifies it against every digest that is known of it.
    pub(super) async fn manifest(&self, selector: &str) -> Result<Fetched> {
        // A tag is the first question, a digest a later one.
        let first = selector.parse::<Digest>().is_err();
        let mut attempts = if first { Attempts::quick() } else { Attempts::default() };
        loop {
            let error = match self.ask(&manifest(Method::GET, selector)).await {
                Ok((listed, response)) => match listed.document(response, selector).await {
                    Ok(fetched) => return Ok(fetched),
                    Err(_) if self.give_up_mirror(listed) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.pause(&mut attempts, error).await?;
        }
    }

    /// Starts fetching a blob, if possible at the byte `offset`: where it starts is in the answer.
    pub(super) async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobBody<'_>> {
        let path = format!("blobs/{digest}");
        let mut ask = Ask { method: Method::GET, path, accept: "*/*", offset };
        let (listed, response) = match self.ask(&ask).await? {
            (_, response) if response.status() == StatusCode::RANGE_NOT_SATISFIABLE => {
                ask.offset = 0;
                self.ask(&ask).await?
            }
            answer => answer,
        };
        let start = if response.status() == StatusCode::PARTIAL_CONTENT {
            let start = range_start(&response);
            start.filter(|start| *start == ask.offset).ok_or_else(|| {
                listed.server.transport("it sends another part of a blob than it was asked for")
            })?
        } else {
            0
        };
        Ok(BlobBody { registry: self, listed, start, body: response.into_body() })
    }

    /// Waits before the next attempt after `error`, or gives up and returns it.
    pub(super) async fn pause(&self, attempts: &mut Attempts, error: Error) -> Result<()> {
        let jitter = RandomState::new().hash_one(()) % retry::JITTER_MAX;
        let Some(wait) = attempts.next(&error, jitter) else { return Err(error) };
        tracing::warn!(%error, wait_ms = wait.as_millis(), "a registry failed, trying again");
        if matches!(error, Error::Throttled { .. }) {
            self.meter.waiting(wait.as_secs().max(1));
            tokio::time::sleep(wait).await;
            self.meter.waiting(0);
        } else {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// One request to the mirrors in order and then to the registry, until one has what is asked for.
    async fn ask(&self, ask: &Ask<'_>) -> Result<(&Listed, Response<Incoming>)> {
        let mut last = None;
        for listed in &self.servers {
            if listed.failed.load(Ordering::Relaxed) {
                continue;
            }
            match listed.answer(ask).await {
                Ok(response) => return Ok((listed, response)),
                Err(error) => {
                    let lacks = matches!(error, Error::NotFound { .. } | Error::MissingBlob { .. });
                    // What a mirror lacks once it may have the next time.
                    if !lacks {
                        self.give_up_mirror(listed);
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Internal { reason: "no registry to ask".to_owned() }))
    }

    /// Asks a mirror no more; false for the registry itself.
    fn give_up_mirror(&self, listed: &Listed) -> bool {
        let mirror = self.servers.last().is_some_and(|origin| !std::ptr::eq(origin, listed));
        if mirror && !listed.failed.swap(true, Ordering::Relaxed) {
            tracing::warn!(mirror = %listed.server.name, image = %listed.server.image, "a mirror failed");
        }
        mirror
    }
}

impl Listed {
    /// One request; every status but success is an error.
    async fn answer(&self, ask: &Ask<'_>) -> Result<Response<Incoming>> {
        let response = self.server.ask(ask).await?;
        let server = &self.server;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if ask.offset > 0 => Ok(response),
            StatusCode::NOT_FOUND => Err(match ask.path.strip_prefix("blobs/").map(str::parse) {
                Some(Ok(digest)) => Error::MissingBlob { image: server.image.clone(), digest },
                _ => Error::NotFound { image: server.image.clone(), registry: server.name.clone() },
            }),
            _ => Err(server.status_error(response).await),
        }
    }

    async fn document(&self, response: Response<Incoming>, selector: &str) -> Result<Fetched> {
        let announced = announced(&response);
        let document = self.server.small_body(response, MAX_MANIFEST_BYTES).await?;
        let digest = Digest::of(&document);
        for expected in selector.parse().ok().into_iter().chain(announced) {
            if expected != digest {
                return Err(Error::DigestMismatch { expected, actual: digest });
            }
        }
        Ok(Fetched { digest, document })
    }
}

/// A request for a manifest or an index.
fn manifest(method: Method, selector: &str) -> Ask<'static> {
    const ACCEPTED: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];
    static ACCEPT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| ACCEPTED.join(", "));
    Ask { method, path: format!("manifests/{selector}"), accept: &ACCEPT, offset: 0 }
}

/// The digest that the registry says the document has.
fn announced(response: &Response<Incoming>) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The first byte of a partial answer.
fn range_start(response: &Response<Incoming>) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// Reads a text as each of the things that a registry says. For fuzzing.
#[cfg(feature = "fuzzing")]
pub(super) fn read_all(text: &str) {
    let base = http::Uri::from_static("https://registry.example/v2/");
    // Any answer is fine; that there is one is the point.
    let _ = challenge::Challenge::choose(&[text]);
    let _ = challenge::parse_token(text.as_bytes());
    let _ = challenge::error_message(text.as_bytes(), 100);
    let _ = challenge::join(&base, text);
    let _ = retry::parse_retry_after(text, 0);
    let settings = RegistryConfig {
        https_proxy: Some(text.to_owned()),
        no_proxy: text.to_owned(),
        hosts: [(text.to_owned(), HostConfig { mirrors: vec![text.to_owned()], ..Default::default() })]
            .into(),
        ..Default::default()
    };
    let _ = settings.check();
}

/// A body that arrives in chunks.
pub(super) struct BlobBody<'a> {
    registry: &'a Registry,
    listed: &'a Listed,
    /// The place of the first byte within the blob.
    pub(super) start: u64,
    body: Incoming,
}

impl BlobBody<'_> {
    /// The next chunk; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.listed.server.chunk(&mut self.body).await
    }

    /// Its content was not what it had to be: whether someone else can be asked instead.
    pub(super) fn reject(&self) -> bool {
        self.registry.give_up_mirror(self.listed)
    }
}
