//! Runs a healthcheck's command or a hook in a container: output kept to a few KiB, killed when its time is over.

use std::os::fd::OwnedFd;
use std::time::Duration;

use carrack_api::PROBE_OUTPUT_MAX_BYTES;
use carrack_runtime::{ExecError, ExecRequest, ExecSession, RunId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::containers::Containers;
use crate::fds::AsyncFile;

/// Time beyond its own in which a killed probe must be gone.
const KILL_MAX: Duration = Duration::from_secs(5);

/// Whether the command ended with 0 in time, and what it said; `None` when the run has ended, which is no answer.
pub(crate) async fn run(
    containers: Containers,
    id: RunId,
    request: ExecRequest,
    time: Duration,
) -> Option<(bool, String)> {
    let deadline = Instant::now() + time;
    let started = containers.blocking(move |this| this.runtime().exec(&id, &request)).await;
    let mut session = match started {
        Ok(session) => session,
        Err(ExecError::NotRunning(_)) => return None,
        Err(error) => return Some((false, error.to_string())),
    };
    let (over, is_over) = watch::channel(false);
    let output = tokio::spawn(collect(session.stdout.take(), session.stderr.take(), is_over));
    let (session, code) = wait(session, deadline).await;
    drop(session);
    over.send_replace(true);
    let said = output.await.unwrap_or_default();
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

async fn collect(stdout: Option<OwnedFd>, stderr: Option<OwnedFd>, over: watch::Receiver<bool>) -> String {
    let open = |fd: Option<OwnedFd>| fd.and_then(|fd| AsyncFile::new(fd).ok());
    let (out, err) = tokio::join!(read_some(open(stdout), over.clone()), read_some(open(stderr), over));
    let mut all = out;
    all.extend(err);
    all.truncate(PROBE_OUTPUT_MAX_BYTES);
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until the command is over and keeps the first part, so that it never blocks on a full pipe. What it started may hold the
/// pipe open for longer: then nothing more is awaited, but all that it wrote itself is there.
async fn read_some(stream: Option<AsyncFile>, mut over: watch::Receiver<bool>) -> Vec<u8> {
    let Some(stream) = stream else { return Vec::new() };
    let mut kept = Vec::new();
    let mut chunk = vec![0; PROBE_OUTPUT_MAX_BYTES];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut chunk) => read,
            _ = over.wait_for(|over| *over) => break,
        };
        let Ok(read @ 1..) = read else { return kept };
        let room = PROBE_OUTPUT_MAX_BYTES - kept.len();
        kept.extend_from_slice(&chunk[..read.min(room)]);
    }
    while kept.len() < PROBE_OUTPUT_MAX_BYTES
        && let Ok(read @ 1..) = stream.read_now(&mut chunk)
    {
        let room = PROBE_OUTPUT_MAX_BYTES - kept.len();
        kept.extend_from_slice(&chunk[..read.min(room)]);
    }
    kept
}
