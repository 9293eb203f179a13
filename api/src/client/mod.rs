//! The client of the HTTP API over its unix socket. One connection a request: streams may last for hours.
//!
//! Owns transport and errors only; what a verb means is its caller's. Paths are those of `/v1/openapi.json`.

pub mod frames;
pub mod sse;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub use frames::{FrameReader, write_frame};
pub use sse::SseEvent;

use crate::http::{Problem, UPGRADE_STREAM};
use crate::stream::Frame;

/// A request's body: nothing, bytes, or a stream.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Longest JSON answer read into memory, bytes.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// Why a call did not work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no carrack daemon answers on {}", .path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The socket is there and may not be used by this user.
    #[error("no permission for the daemon's socket {}", .path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The server refused, with its reason.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The connection broke.
    #[error("the connection to the daemon broke during {call}")]
    Transport {
        /// Method and path.
        call: String,
        /// What went wrong below.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what this version understands.
    #[error("the daemon's answer to {call} cannot be read; are CLI and daemon of the same version?")]
    Decode {
        /// Method and path.
        call: String,
        /// Where reading stopped.
        source: serde_json::Error,
    },
}

/// A client for one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// What a server-sent event stream or a frame stream is read from.
#[derive(Debug)]
pub struct BodyReader {
    call: String,
    body: Incoming,
}

impl BodyReader {
    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| transport(&self.call, e))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub struct Events {
    body: BodyReader,
    parser: sse::SseParser,
}

impl Events {
    /// The next event; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<SseEvent>, ClientError> {
        loop {
            if let Some(event) = self.parser.next_event() {
                return Ok(Some(event));
            }
            let Some(chunk) = self.body.chunk().await? else { return Ok(None) };
            if !self.parser.push(&chunk) {
                return Err(transport(&self.body.call, "an event is longer than any of ours"));
            }
        }
    }
}

/// A response body of frames.
#[derive(Debug)]
pub struct Frames {
    body: BodyReader,
    buffer: Vec<u8>,
}

impl Frames {
    /// The next frame; `None` at the end. A `Problem` frame comes out as an error.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            match Frame::decode(&mut self.buffer).map_err(|e| transport(&self.body.call, e))? {
                Some(Frame::Problem(problem)) => return Err(problem.into()),
                Some(frame) => return Ok(Some(frame)),
                None => {}
            }
            let Some(chunk) = self.body.chunk().await? else { return Ok(None) };
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

impl Client {
    /// A client for the daemon at this socket; connects with each call.
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket it speaks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path` as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, None::<&()>, &[]).await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, empty(), &[]).await.map(drop)
    }

    /// Sends `body` as JSON and reads the answer as JSON.
    pub async fn json<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        headers: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        let call = format!("{method} {path}");
        let mut all = headers.to_vec();
        let body = match body {
            Some(body) => {
                all.push(("content-type", "application/json"));
                let bytes = serde_json::to_vec(body)
                    .map_err(|source| ClientError::Decode { call: call.clone(), source })?;
                full(bytes)
            }
            None => empty(),
        };
        let response = self.send(method, path, body, &all).await?;
        let bytes = collect(&call, response.into_body()).await?;
        let bytes = if bytes.is_empty() { Bytes::from_static(b"null") } else { bytes };
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { call, source })
    }

    /// `GET path` as a stream of server-sent events, after the event `last` when given.
    pub async fn events(&self, path: &str, last: Option<&str>) -> Result<Events, ClientError> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last.map(|id| ("last-event-id", id)));
        let response = self.send(Method::GET, path, empty(), &headers).await?;
        let body = BodyReader { call: format!("GET {path}"), body: response.into_body() };
        Ok(Events { body, parser: sse::SseParser::default() })
    }

    /// A call whose answer is a body of frames.
    pub async fn frames(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> Result<Frames, ClientError> {
        let call = format!("{method} {path}");
        let response = self.send(method, path, body, headers).await?;
        Ok(Frames { body: BodyReader { call, body: response.into_body() }, buffer: Vec::new() })
    }

    /// A call that turns the connection into a two-way stream of frames.
    pub async fn upgrade(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<TokioIo<Upgraded>, ClientError> {
        let call = format!("POST {path}");
        let mut all = headers.to_vec();
        all.extend([("connection", "upgrade"), ("upgrade", UPGRADE_STREAM)]);
        let response = self.send(Method::POST, path, empty(), &all).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(transport(&call, format!("status {} in place of an upgrade", response.status())));
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(|e| transport(&call, e))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Permission { path: self.socket.clone() },
            _ => ClientError::NoDaemon { path: self.socket.clone(), source },
        })
    }

    /// One request; any status of 400 or more comes out as a [`Problem`].
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, ClientError> {
        let call = format!("{method} {path}");
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| transport(&call, e))?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "carrack");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|e| transport(&call, e))?;
        let response = sender.send_request(request).await.map_err(|e| transport(&call, e))?;
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(&call, response.into_body()).await?;
        Err(serde_json::from_slice::<Problem>(&bytes)
            .unwrap_or_else(|_| {
                Problem::new(
                    status.as_u16(),
                    "unknown",
                    format!("{call}: {status} {}", String::from_utf8_lossy(&bytes)),
                )
            })
            .into())
    }
}

/// A body of nothing.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Text as one segment of a path: everything but unreserved characters is escaped.
pub fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

async fn collect(call: &str, body: Incoming) -> Result<Bytes, ClientError> {
    http_body_util::Limited::new(body, ANSWER_MAX_BYTES)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|e| transport(call, e))
}

fn transport(call: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Transport { call: call.into(), source: source.into() }
}
