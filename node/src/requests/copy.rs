//! Files in and out of running tasks: archives between frames and the copying process.

use std::os::fd::OwnedFd;

use carrack_api::stream::Frame;
use carrack_api::{Copied, CopyIn, CopyOut, Problem, TaskId};
use carrack_runtime::RunId;
use carrack_runtime::archive::{CopyError, CopySession};
use tokio::io::AsyncRead;

use super::{Answer, Asker, Desk, done, internal, nobody};
use crate::fds::AsyncFile;

/// Bytes of an archive in one frame.
const CHUNK_BYTES: usize = 64 << 10;

impl Desk {
    pub(super) async fn copy_out<R: AsyncRead + Unpin>(
        &self,
        task: TaskId,
        run: u32,
        copy: CopyOut,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        let id = RunId::new(task.to_string(), run);
        let started = self.containers.clone().blocking(move |this| this.runtime().copy(&id, Ok(&copy)));
        let mut session = started.await.map_err(|error| problem(&error))?;
        let output = file(session.output.take())?;
        if let Some(file) = &session.file {
            answer.message(file).await.map_err(|_| nobody())?;
        }
        let sending = async {
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                match output.read(&mut chunk).await.map_err(|error| internal(&error))? {
                    0 => return Ok(()),
                    read => answer.send(Frame::Data(chunk[..read].to_vec())).await.map_err(|_| nobody())?,
                }
            }
        };
        tokio::select! {
            sent = sending => sent?,
            () = asker.gone() => return Err(nobody()),
        }
        done(&self.finish(session).await?)
    }

    pub(super) async fn copy_in<R: AsyncRead + Unpin>(
        &self,
        task: TaskId,
        run: u32,
        copy: CopyIn,
        asker: &mut Asker<R>,
    ) -> Result<Frame, Problem> {
        let id = RunId::new(task.to_string(), run);
        let started = self.containers.clone().blocking(move |this| this.runtime().copy(&id, Err(&copy)));
        let mut session = started.await.map_err(|error| problem(&error))?;
        let input = file(session.input.take())?;
        let whole = loop {
            match asker.next().await {
                Some(Frame::Data(bytes)) if bytes.is_empty() => break true,
                // A process that reads no more has failed, and its report says why.
                Some(Frame::Data(bytes)) => {
                    if input.write_all(&bytes).await.is_err() {
                        break true;
                    }
                }
                Some(_) => {}
                None => break false,
            }
        };
        // An archive without its end is an error there, and leaves no half file.
        drop(input);
        let copied = self.finish(session).await;
        if whole { done(&copied?) } else { Err(nobody()) }
    }

    async fn finish(&self, session: CopySession) -> Result<Copied, Problem> {
        self.containers.clone().blocking(move |_| session.finish()).await.map_err(|error| problem(&error))
    }
}

fn file(fd: Option<OwnedFd>) -> Result<AsyncFile, Problem> {
    let fd = fd.ok_or_else(|| Problem::internal("the copying process has no pipe"))?;
    AsyncFile::new(fd).map_err(|error| internal(&error))
}

/// An error of a copy as users meet it.
fn problem(error: &CopyError) -> Problem {
    let text = error.to_string();
    match error {
        CopyError::Missing { .. } => Problem::not_found("file-not-found", text)
            .hint("`carrack exec TARGET ls -la DIRECTORY` shows what is there"),
        CopyError::NotDirectory { .. } | CopyError::InTheWay { .. } => Problem::new(409, "in-the-way", text),
        CopyError::ReadOnly { .. } => Problem::new(409, "read-only", text)
            .hint("copy to a volume that can be written, or take `read_only` off the service or its mount"),
        CopyError::Unsupported { .. } => Problem::new(422, "unsupported-file", text),
        CopyError::Archive { .. } => Problem::new(422, "invalid-archive", text)
            .hint("an archive is a whole tar file that is not compressed"),
        CopyError::NotRunning(_) => Problem::new(409, "task-not-running", text)
            .hint("files are copied to and from running tasks; `carrack ps` lists them"),
        CopyError::System { .. } => Problem::internal(text),
    }
}
