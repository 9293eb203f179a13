//! One question over a unix socket, without a client process: what polls must cost the machine next to nothing.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

const TIMEOUT: Duration = Duration::from_secs(30);

/// `GET path` of an API that answers with JSON.
pub(super) fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> io::Result<T> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // 1.0: the end of the body is the end of the stream.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("cut answer {answer:?}")))?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("{path}: {}: {body}", head.lines().next().unwrap_or_default())));
    }
    serde_json::from_str(body).map_err(io::Error::other)
}
