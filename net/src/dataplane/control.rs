//! The words between daemon and process: one JSON line there, one back, over a unix socket in the runtime directory.
//!
//! Owns: the messages and the asking side. Does not own: when they are said (`daemon`), what they do (`process`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sockets::Sockets;
use crate::dns::ServerStats;

/// Version of these messages. Later versions add fields and operations; `Status`, `Sockets` and `Retire` stay as they
/// are, so that any version can replace any other.
pub const PROTOCOL: u32 = 1;
/// Longest message, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: u64 = 16 << 10;

/// What the daemon, or a successor, asks of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Who are you, and how are you?
    Status,
    /// Read the snapshot file, which holds at least this generation.
    Load(u64),
    /// Share your sockets.
    Sockets,
    /// Finish what you have read, then end.
    Retire,
}

/// What the process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    Status(Box<Status>),
    Loaded(u64),
    /// The descriptors travel with this message.
    Sockets,
    Retiring,
    Failed(String),
}

/// A running data-plane process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of its messages.
    pub protocol: u32,
    /// Build it runs, as the daemon that started it named it.
    pub build: String,
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot: with the process id it is unmistakable.
    pub start_time: u64,
    /// Address it serves.
    pub listen: String,
    /// Generation of the snapshot it answers from; zero when it has none yet.
    pub generation: u64,
    /// What it did so far.
    #[serde(default)]
    pub stats: ServerStats,
}

/// Why a request got no proper answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("cannot reach the data plane at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the data plane at {} did not answer", path.display())]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("the data plane gave an unexpected answer: {answer}")]
    Unexpected {
        /// The answer as received.
        answer: String,
    },
    /// The process could not do it.
    #[error("the data plane refused: {reason}")]
    Failed {
        /// Its reason.
        reason: String,
    },
}

/// The asking side; blocking, for a thread that may block.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    path: PathBuf,
    deadline: Duration,
}

impl Client {
    pub(crate) fn new(path: PathBuf, deadline: Duration) -> Client {
        Client { path, deadline }
    }

    pub(crate) fn status(&self) -> Result<Status, ControlError> {
        match self.ask(Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn load(&self, generation: u64) -> Result<u64, ControlError> {
        match self.ask(Request::Load(generation))? {
            Response::Loaded(loaded) if loaded >= generation => Ok(loaded),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn retire(&self) -> Result<(), ControlError> {
        match self.ask(Request::Retire)? {
            Response::Retiring => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn sockets(&self) -> Result<Sockets, ControlError> {
        let stream = self.send(Request::Sockets)?;
        let (sockets, line) = Sockets::receive(&stream).map_err(|source| self.broken(source))?;
        match sockets {
            Some(sockets) => Ok(sockets),
            None => Err(ControlError::Unexpected { answer: line }),
        }
    }

    fn ask(&self, request: Request) -> Result<Response, ControlError> {
        let stream = self.send(request)?;
        let mut line = String::new();
        let mut reader = BufReader::new(&stream).take(MAX_MESSAGE_BYTES);
        reader.read_line(&mut line).map_err(|source| self.broken(source))?;
        if line.is_empty() {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str(&line) {
            Ok(Response::Failed(reason)) => Err(ControlError::Failed { reason }),
            Ok(response) => Ok(response),
            Err(_) => Err(ControlError::Unexpected { answer: line }),
        }
    }

    fn send(&self, request: Request) -> Result<UnixStream, ControlError> {
        let connect = |source| ControlError::Connect { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).map_err(connect)?;
        let sent = stream
            .set_read_timeout(Some(self.deadline))
            .and_then(|()| stream.set_write_timeout(Some(self.deadline)))
            .and_then(|()| stream.write_all(to_line(&request).as_bytes()));
        sent.map_err(|source| self.broken(source))?;
        Ok(stream)
    }

    fn broken(&self, source: io::Error) -> ControlError {
        ControlError::Exchange { path: self.path.clone(), source }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A message as a line.
pub(crate) fn to_line(message: &impl Serialize) -> String {
    // These types have no map keys or foreign serializers that could fail.
    let mut line = serde_json::to_string(message).unwrap_or_else(|_| "{}".to_owned());
    line.push('\n');
    line
}

fn unexpected(response: &Response) -> ControlError {
    ControlError::Unexpected { answer: format!("{response:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These lines are a contract between releases: a change here breaks replacement of a running process.
    #[test]
    fn messages_are_frozen() {
        assert_eq!(to_line(&Request::Status), "\"status\"\n");
        assert_eq!(to_line(&Request::Load(7)), "{\"load\":7}\n");
        assert_eq!(to_line(&Request::Sockets), "\"sockets\"\n");
        assert_eq!(to_line(&Request::Retire), "\"retire\"\n");
        assert_eq!(to_line(&Response::Loaded(7)), "{\"loaded\":7}\n");
        assert_eq!(to_line(&Response::Failed("x".into())), "{\"failed\":\"x\"}\n");
        let old = r#"{"status":{"protocol":1,"build":"b","pid":2,"start_time":3,"listen":"l","generation":4,"new":5}}"#;
        assert!(matches!(serde_json::from_str(old), Ok(Response::Status(_))));
    }
}
