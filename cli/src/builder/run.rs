//! A tool at work: its output goes to standard error, Ctrl-C and SIGTERM end it, and what it built comes out as an archive.

use std::io;
use std::os::fd::AsFd as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::command::Line;
use super::find::{Builder, Tool};

/// Time a tool that was interrupted has to clean up.
const CLEAN_UP_MAX: Duration = Duration::from_secs(10);

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The image is there.
    Built,
    /// The tool said no.
    Failed(ExitStatus),
    /// The user did not want it any more.
    Interrupted,
}

/// Builds.
pub(crate) async fn build(builder: &Builder, line: &Line) -> io::Result<Ended> {
    let mut command = command(builder, line);
    command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = command.spawn()?;
    let status = tokio::select! {
        status = child.wait() => status?,
        _ = tokio::signal::ctrl_c() => return interrupt(child).await,
        _ = terminate.recv() => return interrupt(child).await,
    };
    Ok(if status.success() { Ended::Built } else { Ended::Failed(status) })
}

/// Asks the tool to end as a terminal does, and makes it end when it does not.
async fn interrupt(mut child: Child) -> io::Result<Ended> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // It may have ended by itself: a terminal tells it, too.
        let _ = kill_process(pid, Signal::INT);
    }
    if tokio::time::timeout(CLEAN_UP_MAX, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(Ended::Interrupted)
}

/// An image on its way out of the tool's store.
#[derive(Debug)]
pub(crate) struct Save {
    child: Child,
}

/// Begins to save an image; the archive is what `docker save` writes, so that the same image is the same archive.
pub(crate) fn save(builder: &Builder, image: &str) -> io::Result<(Save, ChildStdout)> {
    let args: Vec<String> = match builder.tool {
        Tool::Buildx | Tool::Docker => vec!["save".into(), image.into()],
        Tool::Podman => ["save", "--quiet", "--format", "docker-archive", image].map(Into::into).to_vec(),
        Tool::Buildah => {
            vec!["push".into(), "--quiet".into(), image.into(), format!("docker-archive:/dev/stdout:{image}")]
        }
    };
    let mut command = command(builder, &Line { args, env: Vec::new() });
    // No registry is asked, and a login that is not there is no reason to refuse.
    command.env_remove("DOCKER_CONFIG").env_remove("REGISTRY_AUTH_FILE");
    command.stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let archive = child.stdout.take().ok_or_else(|| io::Error::other("its output is not a pipe"))?;
    Ok((Save { child }, archive))
}

impl Save {
    /// The whole image was written.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

fn command(builder: &Builder, line: &Line) -> Command {
    let mut command = Command::new(&builder.program);
    command.args(&line.args).envs(line.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}
