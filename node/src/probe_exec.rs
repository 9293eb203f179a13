//! Runs a healthcheck's command in a container: output kept to a few KiB, killed when its time is over.

use std::time::Duration;

use carrack_api::PROBE_OUTPUT_MAX_BYTES;
use carrack_runtime::{ExecError, ExecRequest, ExecSession, RunId};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout};

use crate::containers::Containers;

/// Time beyond its own in which a killed probe must be gone.
const KILL_MAX: Duration = Duration::from_secs(5);
/// How long output is awaited after the command has ended: what it started may hold its pipes open.
const OUTPUT_LINGER: Duration = Duration::from_millis(50);

/// Whether the command ended with 0 in time, and what it said; `None` when the run has ended, which is no answer.
pub(crate) async fn run(
    containers: Containers,
    id: RunId,
    argv: Vec<String>,
    time: Duration,
) -> Option<(bool, String)> {
    let deadline = Instant::now() + time;
    let request = ExecRequest { argv, ..ExecRequest::default() };
    let started = containers.blocking(move |this| this.runtime().exec(&id, &request)).await;
    let mut session = match started {
        Ok(session) => session,
        Err(ExecError::NotRunning(_)) => return None,
        Err(error) => return Some((false, error.to_string())),
    };
    let output = tokio::spawn(collect(session.stdout.take(), session.stderr.take()));
    let abort = output.abort_handle();
    let (session, code) = wait(session, deadline).await;
    drop(session);
    let said = match timeout(OUTPUT_LINGER, output).await {
        Ok(Ok(said)) => said,
        Ok(Err(_)) | Err(_) => {
            abort.abort();
            String::new()
        }
    };
    Some(match code {
        Some(0) => (true, said),
        Some(code) if said.trim().is_empty() => (false, format!("exit code {code}")),
        Some(_) => (false, said),
        None => (false, format!("no answer within {} ms\n{said}", time.as_millis())),
    })
}

/// Waits for the end; kills at the deadline and then answers `None`.
async fn wait(session: ExecSession, deadline: Instant) -> (Option<ExecSession>, Option<i32>) {
    let left = deadline.saturating_duration_since(Instant::now());
    let waited = tokio::task::spawn_blocking(move || {
        let mut session = session;
        let code = session.wait_timeout(left).ok().flatten();
        if code.is_none() {
            if let Err(error) = session.kill() {
                tracing::warn!(%error, "a probe that took too long cannot be killed");
            }
            drop(session.wait_timeout(KILL_MAX));
        }
        (Some(session), code)
    });
    waited.await.unwrap_or((None, None))
}

async fn collect(stdout: Option<std::os::fd::OwnedFd>, stderr: Option<std::os::fd::OwnedFd>) -> String {
    let open = |fd: Option<std::os::fd::OwnedFd>| fd.and_then(|fd| pipe::Receiver::from_owned_fd(fd).ok());
    let (out, err) = tokio::join!(read_some(open(stdout)), read_some(open(stderr)));
    let mut all = out;
    all.extend(err);
    all.truncate(PROBE_OUTPUT_MAX_BYTES);
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads to the end and keeps the first part, so that the command never blocks on a full pipe.
async fn read_some(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let mut kept = Vec::new();
    let mut chunk = vec![0; PROBE_OUTPUT_MAX_BYTES];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        let room = PROBE_OUTPUT_MAX_BYTES - kept.len();
        kept.extend_from_slice(&chunk[..read.min(room)]);
    }
    kept
}
