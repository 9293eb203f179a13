//! Problems as answers, and extractors whose refusals are problems.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use carrack_api::Problem;
use carrack_api::http::PROBLEM_JSON;
use serde::de::DeserializeOwned;

use crate::store::CommitError;

/// Time in which a JSON body must have come: a client that stalls holds one of a bounded number of connections.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest name of a field that an answer repeats, bytes.
const SHOWN_NAME_MAX_BYTES: usize = 40;

/// A problem on its way to a client.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) Problem);

/// What handlers answer.
pub(super) type ApiResult<T> = Result<T, ApiError>;

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response()
    }
}

/// A store's refusal as users meet it.
pub(super) fn from_commit(error: CommitError) -> Problem {
    match &error {
        CommitError::Conflict(key) => {
            Problem::new(409, "conflict", format!("{key} was changed meanwhile")).hint("try it again")
        }
        CommitError::TooLarge { .. } => Problem::new(413, "too-large", error.to_string())
            .hint("move large environment values and files into the image or a volume"),
        CommitError::Closed => Problem::new(503, "closing", "the daemon is stopping"),
        CommitError::Io(_) => Problem::new(507, "store", error.to_string())
            .hint("look at the free space and the health of the state directory's disk"),
        CommitError::TooMany(_) => Problem::internal(error.to_string()),
    }
}

/// `?query` as a value.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(|e| {
            ApiError(Problem::new(
                400,
                "invalid-query",
                format!("the query cannot be read: {}", e.body_text()),
            ))
        })
    }
}

/// A JSON body as a value; unknown fields are refused by the types.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        let read = read.map_err(|_| {
            let text = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            ApiError(Problem::new(408, "slow-body", text))
        })?;
        let bytes = read.map_err(|e| {
            ApiError(Problem::new(
                e.status().as_u16(),
                "invalid-body",
                format!("the body cannot be read: {}", e.body_text()),
            ))
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| {
            let why = without_value(&e.to_string());
            ApiError(Problem::new(400, "invalid-body", format!("the body is not what is expected: {why}")))
        })
    }
}

/// What serde says against a body, without the value that it quotes: that may be a secret at the wrong place.
fn without_value(why: &str) -> String {
    for (begin, says) in [("invalid type: ", "invalid type"), ("invalid value: ", "invalid value")] {
        let Some(at) = why.find(begin) else { continue };
        // A value may hold these words, too: the last ones are serde's.
        return match why[at..].rfind(", expected ") {
            Some(expected) => format!("{}{says}{}", &why[..at], &why[at + expected..]),
            None => format!("{}{says}", &why[..at]),
        };
    }
    for quoting in ["unknown variant `", "unknown field `"] {
        let Some(at) = why.find(quoting) else { continue };
        let (known, rest) = why.split_at(at + quoting.len());
        let end = rest.rfind("`, expected ").or_else(|| rest.rfind("`, there are no ")).unwrap_or(rest.len());
        let (value, rest) = rest.split_at(end);
        let of_names = |byte: u8| byte.is_ascii_alphabetic() || b"_-".contains(&byte);
        let like_a_name = value.len() <= SHOWN_NAME_MAX_BYTES && value.bytes().all(of_names);
        // A name that was misspelt helps; what is longer than any of ours, or has other characters, is none.
        return if like_a_name { why.to_owned() } else { format!("{known}...{rest}") };
    }
    why.to_owned()
}

/// Reads a name of a path; one that breaks the grammar names nothing.
pub(super) fn name<T: std::str::FromStr<Err = carrack_api::InvalidName>>(
    text: &str,
    kind: &str,
) -> Result<T, Problem> {
    text.parse().map_err(|e: carrack_api::InvalidName| Problem::not_found(kind, e.to_string()))
}

/// Any path that is no route.
pub(super) async fn no_route(method: Method, uri: Uri) -> ApiError {
    let problem = Problem::not_found("no-route", format!("nothing is at {method} {}", uri.path()));
    ApiError(problem.hint("GET /v1/openapi.json lists all routes; is the daemon of the CLI's version?"))
}

/// Refuses a path whose escapes are no UTF-8 before anyone reads names from it.
pub(super) async fn readable_path(request: Request, next: axum::middleware::Next) -> Response {
    if is_text(request.uri().path()) {
        return next.run(request).await;
    }
    let text = format!("the path {} is not UTF-8", request.uri().path());
    ApiError(Problem::new(400, "invalid-path", text)).into_response()
}

fn is_text(path: &str) -> bool {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.extend(u8::try_from(high * 16 + low));
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// A route that is asked with another method.
pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    let problem = Problem::new(405, "no-method", format!("{} does not answer {method}", uri.path()));
    ApiError(problem.hint("GET /v1/openapi.json lists all routes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[tokio::test(start_paused = true)]
    async fn a_json_body_that_stalls_is_answered_with_408() {
        let chunks = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let request = Request::new(Body::from_stream(chunks));
        let Err(ApiError(problem)) = JsonBody::<serde_json::Value>::from_request(request, &()).await else {
            panic!("a body that never comes was read")
        };
        assert_eq!((problem.status, problem.kind.as_str()), (408, "slow-body"));
        assert!(problem.detail.contains("30 s"), "{problem:?}");
    }

    #[test]
    fn what_is_said_against_a_body_holds_no_value_of_it() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[serde(rename = "content")]
            _content: carrack_api::Content,
            #[serde(rename = "labels")]
            _labels: std::collections::BTreeMap<String, String>,
        }
        for (body, told) in [
            (r#""canary""#, "invalid type, expected struct Body at line 1"),
            (r#"{"content": 4711, "labels": {}}"#, "invalid type, expected a string at line 1 column 16"),
            (r#"{"content": "canary, expected ", "labels": {}}"#, "not base64"),
            (r#"{"content": "", "labels": "canary, expected x"}"#, "invalid type, expected a map"),
            (r#"{"content": "", "labels": ["canary"]}"#, "invalid type, expected a map"),
            (r#"{"contents": ""}"#, "unknown field `contents`, expected `content` or `labels`"),
            (&format!("{{\"{}canary\": 1}}", "x".repeat(40)), "unknown field `...`, expected `content`"),
            (r#"{"canary-1": 1}"#, "unknown field `...`, expected `content`"),
            ("canary", "expected value at line 1 column 1"),
        ] {
            let error = serde_json::from_str::<Body>(body).unwrap_err().to_string();
            let shown = without_value(&error);
            assert!(shown.contains(told), "{body}: {shown}");
            assert!(!shown.contains("canary") && !shown.contains("4711"), "{body}: {shown}");
        }
    }

    #[test]
    fn a_path_is_text_when_its_escapes_are() {
        for path in [
            "/v1/stacks/hello",
            "/v1/images/docker.io%2Flibrary%2Fweb:1",
            "/gr%C3%BC%C3%9Fe",
            "/100%",
            "/%zz",
        ] {
            assert!(is_text(path), "{path}");
        }
        for path in ["/v1/stacks/%ff", "/%C3", "/a%e2%82"] {
            assert!(!is_text(path), "{path}");
        }
    }
}
