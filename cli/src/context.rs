//! What every command is given: the daemon to ask, how to print, and the terminal.

use std::path::PathBuf;

use carrack_api::client::Client;
use carrack_api::defaults;
use serde::Serialize;

use crate::args::{Global, OutputFormat};
use crate::error::CliError;
use crate::terminal::{self, Terminal};

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// The daemon.
    pub client: Client,
    /// How data is printed.
    pub output: OutputFormat,
    /// The terminal.
    pub terminal: Terminal,
}

impl Context {
    /// Reads what was typed as what is meant.
    pub(crate) fn new(global: &Global) -> Result<Self, CliError> {
        let socket = socket_path(global.socket.clone(), global.host.as_deref())?;
        Ok(Self { client: Client::unix(socket), output: global.output, terminal: Terminal::detect() })
    }

    /// Data is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        self.output == OutputFormat::Json
    }

    /// Prints a value as JSON.
    pub(crate) fn put_json(&self, value: &impl Serialize) -> Result<(), CliError> {
        terminal::put(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    /// Prints a value as JSON in one line, for streams.
    pub(crate) fn put_json_line(&self, value: &impl Serialize) -> Result<(), CliError> {
        terminal::put(&format!("{}\n", serde_json::to_string(value)?))
    }
}

/// The socket of the daemon: `--socket`, else `--host` or `CARRACK_HOST`, else the usual place.
fn socket_path(socket: Option<PathBuf>, host: Option<&str>) -> Result<PathBuf, CliError> {
    if let Some(socket) = socket {
        return Ok(socket);
    }
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return Ok(PathBuf::from(defaults::RUNTIME_DIR).join(defaults::SOCKET_NAME));
    };
    let path = host.strip_prefix("unix://").unwrap_or(host);
    if path.contains("://") || !path.contains('/') {
        return Err(CliError::usage(format!("{host:?} is no daemon that can be reached")).hint(
            "give a socket: --host /run/carrack/carrack.sock or --host unix:///run/carrack/carrack.sock",
        ));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_socket() {
        let path = |host| socket_path(None, host).map_err(|e| e.render(false));
        assert_eq!(path(None), Ok("/run/carrack/carrack.sock".into()));
        assert_eq!(path(Some("")), Ok("/run/carrack/carrack.sock".into()));
        assert_eq!(path(Some("/x/y.sock")), Ok("/x/y.sock".into()));
        assert_eq!(path(Some("unix:///x/y.sock")), Ok("/x/y.sock".into()));
        assert!(path(Some("tcp://1.2.3.4:5")).is_err());
        assert!(path(Some("example.org")).is_err());
        let wins = socket_path(Some("/a".into()), Some("/b")).map_err(|e| e.render(false));
        assert_eq!(wins, Ok("/a".into()));
    }
}
