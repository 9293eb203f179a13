//! A command in a running container, its input, output, terminal and signals carried by frames.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carrack_api::stream::Frame;
use carrack_api::{ExecRequest, ExecResult, Problem, TaskId};
use carrack_runtime::{ExecError, ExecSession, RunId};
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Answer, Asker, Desk, done, internal, nobody};
use crate::fds::{AsyncFile, Signal};

/// Bytes of output in one frame.
const CHUNK_BYTES: usize = 32 << 10;
/// Pieces of input that may wait for the command to read them.
pub(super) const INPUT_MAX: usize = 16;
/// How long output is awaited after the end of a command whose children hold its pipes open. What the command itself wrote is
/// passed on in any case.
const OUTPUT_LINGER: Duration = Duration::from_secs(1);
/// More than a pipe holds, bytes: the most that is passed on after that time.
const LEFT_MAX_BYTES: usize = 1 << 20;

/// The kind of frame an output becomes.
type MakeFrame = fn(Vec<u8>) -> Frame;

impl Desk {
    pub(super) async fn exec<R: AsyncRead + Unpin>(
        &self,
        task: TaskId,
        run: u32,
        request: ExecRequest,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        let id = RunId::new(task.to_string(), run);
        let wanted = carrack_runtime::ExecRequest {
            argv: request.command,
            env: request.env,
            user: request.user,
            working_dir: request.working_dir,
            tty: request.tty.map(|size| (size.columns, size.rows)),
            stdin: request.stdin,
            privileged: false,
        };
        let started = self.containers.clone().blocking(move |this| this.runtime().exec(&id, &wanted)).await;
        let session = match started {
            Ok(session) => session,
            Err(error @ (ExecError::ProgramMissing { .. } | ExecError::ProgramNotExecutable { .. })) => {
                // As a shell says it: a message and 126 or 127.
                answer.send(Frame::Error(format!("{error}\n").into_bytes())).await.map_err(|_| nobody())?;
                return done(&ExecResult { code: error.exit_code() });
            }
            Err(error @ ExecError::NotRunning(_)) => {
                return Err(Problem::new(409, "task-not-running", error.to_string()));
            }
            Err(error @ (ExecError::User { .. } | ExecError::WorkingDir { .. })) => {
                return Err(Problem::new(422, "exec-invalid", error.to_string()));
            }
            Err(error @ ExecError::System { .. }) => return Err(internal(&error)),
        };
        Conversation::start(session, answer)?.carry(asker).await
    }
}

/// A command that runs, with its pumps.
struct Conversation {
    session: Arc<Mutex<ExecSession>>,
    ended: Signal,
    output: JoinSet<()>,
    /// Told that no more output is awaited.
    over: watch::Sender<bool>,
    input: Option<mpsc::Sender<Vec<u8>>>,
}

impl Conversation {
    fn start(mut session: ExecSession, answer: &Answer) -> Result<Self, Problem> {
        let file = |fd: OwnedFd| AsyncFile::new(fd).map(Arc::new).map_err(|error| internal(&error));
        let ended = Signal::new(session.exit_fd()).map_err(|error| internal(&error))?;
        let (mut output, over) = (JoinSet::new(), watch::Sender::new(false));
        let pty = match &session.pty {
            Some(pty) => Some(file(pty.try_clone().map_err(|error| internal(&error))?)?),
            None => None,
        };
        if let Some(pty) = &pty {
            output.spawn(pump(pty.clone(), answer.clone(), Frame::Data as MakeFrame, over.subscribe()));
        }
        for (fd, frame) in [
            (session.stdout.take(), Frame::Data as MakeFrame),
            (session.stderr.take(), Frame::Error as MakeFrame),
        ] {
            if let Some(fd) = fd {
                output.spawn(pump(file(fd)?, answer.clone(), frame, over.subscribe()));
            }
        }
        let stdin = session.stdin.take().map(file).transpose()?;
        let input = pty.or(stdin).map(|target| {
            let (sender, receiver) = mpsc::channel(INPUT_MAX);
            tokio::spawn(feed(target, receiver));
            sender
        });
        Ok(Self { session: Arc::new(Mutex::new(session)), ended, output, over, input })
    }

    /// Carries frames both ways until the command ends or the asker is gone; then the command is ended too.
    async fn carry<R: AsyncRead + Unpin>(mut self, asker: &mut Asker<R>) -> Result<Frame, Problem> {
        let code = loop {
            tokio::select! {
                ready = self.ended.readable() => {
                    ready.map_err(|error| internal(&error))?;
                    if let Some(code) = self.session().try_exit() {
                        break code;
                    }
                }
                frame = asker.next() => match frame {
                    Some(frame) => {
                        if let Some(code) = self.take(frame).await {
                            break code;
                        }
                    }
                    None => return Err(nobody()),
                },
            }
        };
        // Dropping the channel closes the command's input.
        self.input = None;
        if timeout(OUTPUT_LINGER, async { while self.output.join_next().await.is_some() {} }).await.is_err() {
            self.over.send_replace(true);
            while self.output.join_next().await.is_some() {}
        }
        done(&ExecResult { code })
    }

    /// Takes a frame of the asker. While a command that reads no input fills its queue, only its end is waited for; it is
    /// returned then.
    async fn take(&mut self, frame: Frame) -> Option<i32> {
        match frame {
            Frame::Data(bytes) if bytes.is_empty() => self.input = None,
            Frame::Data(bytes) => {
                let Some(input) = &self.input else { return None };
                tokio::select! {
                    // A command that has closed its input wants no more of it.
                    sent = input.send(bytes) => if sent.is_err() { self.input = None },
                    _ = self.ended.readable() => return self.session().try_exit(),
                }
            }
            Frame::Resize(size) => {
                if let Err(error) = self.session().resize(size.columns, size.rows) {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
            Frame::Signal(signal) => {
                if let Err(error) = self.session().signal(signal) {
                    tracing::debug!(%error, "a signal did not arrive");
                }
            }
            Frame::Error(_) | Frame::Message(_) | Frame::Done(_) | Frame::Problem(_) => {}
        }
        None
    }

    fn session(&self) -> MutexGuard<'_, ExecSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes output on to its end, or until no more is awaited: then what is there by now.
async fn pump(from: Arc<AsyncFile>, answer: Answer, frame: MakeFrame, mut over: watch::Receiver<bool>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            _ = over.wait_for(|over| *over) => break,
        };
        let Ok(read @ 1..) = read else { return };
        if answer.send(frame(chunk[..read].to_vec())).await.is_err() {
            return;
        }
    }
    let mut left = 0;
    while left < LEFT_MAX_BYTES
        && let Ok(read @ 1..) = from.read_now(&mut chunk)
    {
        left += read;
        if answer.send(frame(chunk[..read].to_vec())).await.is_err() {
            return;
        }
    }
}

pub(super) async fn feed(to: Arc<AsyncFile>, mut input: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = input.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
