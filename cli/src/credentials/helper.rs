//! Credential helpers: `docker-credential-NAME get|store|erase`, which keep passwords in a keychain. Owns their protocol over standard
//! input and output, and bounds on their time and output; what they say on standard error goes to ours.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// Time a helper has: it may ask its user to unlock a keychain.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks whether a helper that has said everything has ended.
const LOOK: Duration = Duration::from_millis(5);
/// Longest answer of a helper, bytes.
const ANSWER_MAX_BYTES: u64 = 256 << 10;
/// What a helper says of a server that it knows nothing of.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// A helper by the name that the configuration gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Helper {
    pub(super) name: String,
    pub(super) deadline: Duration,
}

/// What a helper keeps for a server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    #[serde(default, rename = "ServerURL")]
    pub(super) server_url: String,
    pub(super) username: String,
    pub(super) secret: String,
}

/// Why a helper gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    /// It is not installed.
    #[error("credential helper {0} is not installed")]
    Missing(String),
    /// Its name leads elsewhere.
    #[error("{0:?} is no name of a credential helper")]
    Name(String),
    /// It could not be run or talked to.
    #[error("credential helper {0} could not be run")]
    Run(String, #[source] io::Error),
    /// It took too long.
    #[error("credential helper {0} did not answer within {seconds} s", seconds = .1.as_secs())]
    Late(String, Duration),
    /// It refused.
    #[error("credential helper {0} failed: {1}")]
    Failed(String, String),
    /// Its answer is none.
    #[error("credential helper {0} gave an answer that cannot be read")]
    Answer(String),
}

impl From<HelperError> for CliError {
    fn from(error: HelperError) -> Self {
        let hint = match &error {
            HelperError::Missing(program) => Some(format!(
                "install {program}, or take it out of `credHelpers` and `credsStore` in Docker's config.json"
            )),
            _ => None,
        };
        let told = match std::error::Error::source(&error) {
            Some(source) => CliError::new(error.to_string()).caused_by(source),
            None => CliError::new(error.to_string()),
        };
        match hint {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}

impl Helper {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), deadline: DEADLINE }
    }

    /// What it keeps for a server; `None` when it knows nothing of it.
    pub(super) fn get(&self, server: &str) -> Result<Option<Entry>, HelperError> {
        match self.run("get", server.as_bytes())? {
            Ok(answer) => {
                let entry: Entry =
                    serde_json::from_slice(&answer).map_err(|_| HelperError::Answer(self.program()))?;
                // Some helpers answer with nothing in place of an error.
                Ok(Some(entry).filter(|entry| !entry.secret.is_empty()))
            }
            Err(said) if said.contains(NOT_FOUND) => Ok(None),
            Err(said) => Err(HelperError::Failed(self.program(), said)),
        }
    }

    /// Gives it something to keep.
    pub(super) fn store(&self, entry: &Entry) -> Result<(), HelperError> {
        let text = serde_json::to_vec(entry).map_err(|_| HelperError::Answer(self.program()))?;
        let answer = self.run("store", &text)?;
        answer.map(drop).map_err(|said| HelperError::Failed(self.program(), said))
    }

    /// Makes it forget a server; that it knew nothing of it is no error.
    pub(super) fn erase(&self, server: &str) -> Result<(), HelperError> {
        match self.run("erase", server.as_bytes())? {
            Ok(_) => Ok(()),
            Err(said) if said.contains(NOT_FOUND) => Ok(()),
            Err(said) => Err(HelperError::Failed(self.program(), said)),
        }
    }

    fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    /// Runs it once: its output, or what it said as it failed.
    fn run(&self, action: &str, input: &[u8]) -> Result<Result<Vec<u8>, String>, HelperError> {
        let program = self.program();
        if self.name.is_empty() || self.name.contains(['/', '\0']) {
            return Err(HelperError::Name(self.name.clone()));
        }
        let spawned = Command::new(&program).arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => HelperError::Missing(program.clone()),
            _ => HelperError::Run(program.clone(), error),
        })?;
        let ended = self.talk(&mut child, input);
        if ended.is_err() {
            // It may have ended by itself meanwhile, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        let (success, output) = ended?;
        Ok(match success {
            true => Ok(output),
            false => Err(String::from_utf8_lossy(&output).trim().to_owned()),
        })
    }

    fn talk(&self, child: &mut Child, input: &[u8]) -> Result<(bool, Vec<u8>), HelperError> {
        let failed = |error| HelperError::Run(self.program(), error);
        let late = || HelperError::Late(self.program(), self.deadline);
        let until = Instant::now() + self.deadline;
        let (sender, answer) = mpsc::channel();
        if let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
            let input = input.to_vec();
            // A helper that reads nothing closes the pipe, and says by its exit code what it thinks.
            std::thread::spawn(move || drop(stdin.write_all(&input)));
            std::thread::spawn(move || {
                let mut output = Vec::new();
                let read = stdout.take(ANSWER_MAX_BYTES).read_to_end(&mut output);
                // Nobody waits any more when it took too long.
                let _ = sender.send(read.map(|_| output));
            });
        }
        let output = answer.recv_timeout(self.deadline).map_err(|_| late())?.map_err(failed)?;
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok((status.success(), output));
            }
            if Instant::now() >= until {
                return Err(late());
            }
            std::thread::sleep(LOOK);
        }
    }
}
