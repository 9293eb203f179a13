//! A copy as the daemon sees it: the process that does it, and its pipes.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use carrack_api::{Copied, CopiedFile, CopyIn, CopyOut};

use super::child::{self, Order, Report, Way};
use super::{CopyError, step};
use crate::process::ProcessId;
use crate::reexec;

/// Longest line of a report, bytes.
const LINE_MAX_BYTES: u64 = 64 << 10;

/// A copy that is under way. Dropping it ends it.
#[derive(Debug)]
pub struct CopySession {
    /// Where the archive comes from, of a copy out.
    pub output: Option<OwnedFd>,
    /// Where the archive goes, of a copy in; to be closed at its end.
    pub input: Option<OwnedFd>,
    /// What is copied out.
    pub file: Option<CopiedFile>,
    report: BufReader<ChildStderr>,
    child: Reaped,
}

/// A child that is killed and collected when it is dropped early.
#[derive(Debug)]
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail harmlessly when the child is collected already; a killed one ends at once.
        let killed = self.0.kill().and_then(|()| self.0.wait().map(drop));
        if let Err(error) = killed {
            tracing::warn!(%error, "cannot end a copying process");
        }
    }
}

/// Starts a copy out of a container.
pub(crate) fn start(
    exe: &Path,
    init: ProcessId,
    (instance, parent): (&str, Option<&str>),
    run: &str,
    what: Result<&CopyOut, &CopyIn>,
) -> Result<CopySession, CopyError> {
    let (way, out) = match what {
        Ok(copy) => (Way::Out(copy.clone()), true),
        Err(copy) => (Way::In(copy.clone()), false),
    };
    let parent = parent.map(str::to_owned);
    let order = Order { init, instance: instance.to_owned(), parent, run: run.to_owned(), way };
    let order = serde_json::to_string(&order).map_err(step("write the order"))?;
    let mut command = reexec::command(exe, child::MODE);
    command.arg(order).stderr(Stdio::piped());
    match out {
        true => command.stdin(Stdio::null()).stdout(Stdio::piped()),
        false => command.stdin(Stdio::piped()).stdout(Stdio::null()),
    };
    let mut child = Reaped(command.spawn().map_err(step("start the copying process"))?);
    let output = child.0.stdout.take().map(OwnedFd::from);
    let input = child.0.stdin.take().map(OwnedFd::from);
    let no_report = || CopyError::archive("the copying process has no report");
    let report = BufReader::new(child.0.stderr.take().ok_or_else(no_report)?);
    let mut session = CopySession { output, input, file: None, report, child };
    if out {
        match session.line()? {
            Report::File(file) => session.file = Some(file),
            Report::Failed(error) => return Err(error),
            Report::Done(_) => return Err(CopyError::archive("the copying process ended early")),
        }
    }
    Ok(session)
}

impl CopySession {
    /// Waits for the end, once the archive is read or its pipe is closed. Blocks.
    pub fn finish(mut self) -> Result<Copied, CopyError> {
        drop((self.input.take(), self.output.take()));
        let report = self.line();
        let ended = self.child.0.wait().map_err(step("wait for the copying process"));
        match (report?, ended?) {
            (Report::Done(copied), _) => Ok(copied),
            (Report::Failed(error), _) => Err(error),
            (Report::File(_), status) => {
                Err(CopyError::archive(format!("the copying process ended with {status}")))
            }
        }
    }

    fn line(&mut self) -> Result<Report, CopyError> {
        let mut line = String::new();
        std::io::Read::take(&mut self.report, LINE_MAX_BYTES)
            .read_line(&mut line)
            .map_err(step("hear of the copying process"))?;
        serde_json::from_str(&line).map_err(|_| CopyError::System {
            step: "copy".into(),
            why: match line.trim() {
                "" => "the copying process ended without a report".into(),
                said => format!("the copying process said {said:?}"),
            },
        })
    }
}
