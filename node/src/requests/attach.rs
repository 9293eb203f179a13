//! The streams of a task's container joined from outside: output from its log, input and terminal from its supervisor.
//!
//! ```text
//! waiting (told as messages) -> attached -> output, input, sizes, signals -> end of the run: its exit code
//! ```
//! Several may be attached at once, and none of them holds the container up: output is read from the log, at each one's own
//! pace. Does not own the log nor the container's end; an asker who goes away leaves everything as it is.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use carrack_api::stream::Frame;
use carrack_api::{AttachEvent, AttachRequest, ExecResult, Exit, Problem, TaskId, WindowSize};
use carrack_runtime::{LogQuery, LogReader, LogStream, RunId, RuntimeError, Streams};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::exec::{INPUT_MAX, feed};
use super::{Answer, Asker, Desk, View, done, internal, no_task, nobody};
use crate::containers::Containers;
use crate::fds::{AsyncFile, Signal};

/// Pieces of output read at a time; each is at most a frame of the log, 32 KiB.
const PIECES_PER_READ: usize = 32;
/// A task that the node does not know yet may be on its way to it for this long.
const UNKNOWN_MAX: Duration = Duration::from_secs(10);
/// The character that ends the input of a terminal in its usual settings.
const END_OF_FILE: u8 = 4;

/// What an attach meets.
enum Meeting {
    /// A run that runs.
    Running(Box<Joined>),
    /// One that has ended already.
    Ended { run: u32, exit: Exit },
}

/// A run with everything that is needed of it.
struct Joined {
    id: RunId,
    streams: Streams,
    reader: LogReader,
    ended: OwnedFd,
    /// Where input goes: the pipe's write end or the terminal.
    input: Option<OwnedFd>,
}

impl Desk {
    pub(super) async fn attach<R: AsyncRead + Unpin>(
        &self,
        task: TaskId,
        request: AttachRequest,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        let mut early = VecDeque::new();
        let meeting = {
            let waiting = self.meet(task, request, answer);
            tokio::pin!(waiting);
            loop {
                tokio::select! {
                    met = &mut waiting => break met?,
                    frame = asker.next(), if early.len() < INPUT_MAX => match frame {
                        Some(frame) => early.push_back(frame),
                        None => return Err(nobody()),
                    },
                }
            }
        };
        match meeting {
            Meeting::Ended { run, exit } => {
                let id = RunId::new(task.to_string(), run);
                let attached = AttachEvent::Attached { run, tty: false, stdin: false };
                answer.message(&attached).await.map_err(|_| nobody())?;
                let reader = self.open_log(&id, false, true).await.map_err(|error| internal(&error))?;
                drain(&self.containers, reader, true, answer).await?;
                done(&ExecResult { code: exit.code })
            }
            Meeting::Running(joined) => self.converse(task, *joined, request, early, asker, answer).await,
        }
    }

    /// Waits until the task runs, or has ended and its output is wanted.
    async fn meet(&self, task: TaskId, request: AttachRequest, answer: &Answer) -> Result<Meeting, Problem> {
        let mut view = self.view.clone();
        let mut told = None;
        let begun = Instant::now();
        loop {
            let now = view.borrow_and_update().clone();
            let known = now.report_of(task).is_some() || now.assigned(task).is_some();
            if let Some(report) = now.report_of(task) {
                match (&report.state, &report.exit) {
                    (carrack_api::TaskState::Running, _) => {
                        if let Some(joined) = self.join(task, report.run, request).await? {
                            return Ok(Meeting::Running(Box::new(joined)));
                        }
                    }
                    (state, Some(exit)) if state.is_final() && request.replay => {
                        return Ok(Meeting::Ended { run: report.run, exit: exit.clone() });
                    }
                    (state, _) if state.is_final() => return Err(over(task, &now)),
                    (state, _) => {
                        let waiting = AttachEvent::Waiting { state: *state, reason: report.reason.clone() };
                        if told.as_ref() != Some(&waiting) {
                            answer.message(&waiting).await.map_err(|_| nobody())?;
                            told = Some(waiting);
                        }
                    }
                }
            }
            let unknown = UNKNOWN_MAX.saturating_sub(begun.elapsed());
            tokio::select! {
                changed = view.changed() => changed.map_err(|_| stopping())?,
                () = tokio::time::sleep(unknown), if !known => return Err(no_task(task)),
            }
        }
    }

    /// Takes hold of a run; `None` when it has ended meanwhile.
    async fn join(&self, task: TaskId, run: u32, request: AttachRequest) -> Result<Option<Joined>, Problem> {
        let id = RunId::new(task.to_string(), run);
        let joined = self.containers.clone().blocking(move |this| {
            let runtime = this.runtime();
            let streams = runtime.streams(&id)?;
            let ended = runtime.wait_fd(&id)?;
            let input =
                if request.stdin && streams.stdin { present(runtime.attach_stdin(&id))? } else { None };
            // Before the asker is told that it is attached: what is written from then on is surely seen.
            let reader = open_log(this, &id, true, request.replay)?;
            if let Some(size) = request.tty.filter(|_| streams.tty) {
                present(redraw(this, &id, size))?;
            }
            Ok(Joined { id, streams, reader, ended, input })
        });
        match joined.await {
            Ok(joined) => Ok(Some(joined)),
            Err(RuntimeError::NotRunning(_) | RuntimeError::NoRun(_)) => Ok(None),
            Err(error) => Err(internal(&error)),
        }
    }

    async fn open_log(&self, id: &RunId, follow: bool, replay: bool) -> Result<LogReader, RuntimeError> {
        let id = id.clone();
        self.containers.clone().blocking(move |this| open_log(this, &id, follow, replay)).await
    }

    /// Carries frames both ways until the run ends or the asker is gone.
    async fn converse<R: AsyncRead + Unpin>(
        &self,
        task: TaskId,
        joined: Joined,
        request: AttachRequest,
        early: VecDeque<Frame>,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        let Joined { id, streams, reader, ended, input } = joined;
        let attached = AttachEvent::Attached { run: id.run, tty: streams.tty, stdin: input.is_some() };
        answer.message(&attached).await.map_err(|_| nobody())?;
        let ended = Signal::of(ended).map_err(|error| internal(&error))?;
        let output = follow(self.containers.clone(), reader, ended, streams.tty, answer.clone());
        let mut work = JoinSet::new();
        work.spawn(output);
        let input = input.map(AsyncFile::new).transpose().map_err(|error| internal(&error))?;
        let mut guest = Guest {
            containers: self.containers.clone(),
            id: id.clone(),
            tty: streams.tty,
            close: request.close_stdin,
            input: input.map(|file| Input::start(file, &mut work, self.containers.clone(), &id)),
        };
        for frame in early {
            guest.take(frame).await;
        }
        let mut view = self.view.clone();
        let mut last = None;
        loop {
            tokio::select! {
                Some(ended) = work.join_next() => match ended {
                    Ok(Ok(Part::Input)) => {}
                    Ok(Ok(Part::Output)) => break,
                    Ok(Err(problem)) => return Err(problem),
                    Err(error) => return Err(internal(&error)),
                },
                frame = asker.next(), if guest.has_room() => match frame {
                    Some(frame) => guest.take(frame).await,
                    None => return Err(nobody()),
                },
                // Its files may be gone when the end is noticed here: then the report is what is left of it.
                changed = view.changed() => {
                    changed.map_err(|_| stopping())?;
                    last = exit_of(&view.borrow_and_update(), task, id.run).or(last);
                }
            }
        }
        let code = self.exit_code(task, &id, last).await?;
        done(&ExecResult { code })
    }

    /// How the run ended, of its record or of a report.
    async fn exit_code(&self, task: TaskId, id: &RunId, last: Option<i32>) -> Result<i32, Problem> {
        let run = id.clone();
        match self.containers.clone().blocking(move |this| this.runtime().exit(&run)).await {
            Ok(Some(exit)) => Ok(exit.code),
            Ok(None) => Err(Problem::internal(format!("run {id} has no supervisor and no end"))),
            Err(error) => {
                last.or_else(|| exit_of(&self.view.borrow(), task, id.run)).ok_or_else(|| internal(&error))
            }
        }
    }
}

/// The exit code of a run as the newest report tells it.
fn exit_of(view: &View, task: TaskId, run: u32) -> Option<i32> {
    let report = view.report_of(task)?;
    let ended = report.run > run || (report.run == run && report.state > carrack_api::TaskState::Running);
    report.exit.as_ref().filter(|_| ended).map(|exit| exit.code)
}

fn over(task: TaskId, view: &View) -> Problem {
    let state = view.report_of(task).map_or_else(|| "gone".to_owned(), |report| report.state.to_string());
    Problem::new(
        409,
        "task-not-running",
        format!("{} ({task}) is not running: it is {state}", view.name(task)),
    )
    .hint("`carrack logs` shows what it wrote")
}

fn stopping() -> Problem {
    Problem::new(503, "closing", "the daemon is stopping")
}

fn open_log(
    containers: &Containers,
    id: &RunId,
    follow: bool,
    replay: bool,
) -> Result<LogReader, RuntimeError> {
    let tail = if replay { None } else { Some(0) };
    let query = LogQuery { follow, tail, run: Some(id.run), raw: true, ..LogQuery::default() };
    containers.runtime().logs(&id.task, query)
}

/// `None` for a stdin or terminal that is closed: a run that is ending closes them first, and its output and end are still told.
fn present<T>(taken: Result<T, RuntimeError>) -> Result<Option<T>, RuntimeError> {
    match taken {
        Err(RuntimeError::NoStdin(_)) => Ok(None),
        taken => taken.map(Some),
    }
}

/// Gives a terminal its size, by way of another one: a program that is told draws everything anew.
fn redraw(containers: &Containers, id: &RunId, size: WindowSize) -> Result<(), RuntimeError> {
    containers.runtime().resize(id, size.columns, size.rows.saturating_add(1))?;
    containers.runtime().resize(id, size.columns, size.rows)
}

/// A part of the work that is done.
enum Part {
    Input,
    Output,
}

/// Sends output until the run has ended and all of it is sent.
async fn follow(
    containers: Containers,
    mut reader: LogReader,
    ended: Signal,
    tty: bool,
    answer: Answer,
) -> Result<Part, Problem> {
    let fd = reader.fd().map(Signal::new).transpose().map_err(|error| internal(&error))?;
    let written = fd.ok_or_else(|| Problem::internal("a log that is followed cannot be watched"))?;
    let mut over = false;
    loop {
        reader = drain(&containers, reader, tty, &answer).await?;
        if over {
            return Ok(Part::Output);
        }
        tokio::select! {
            ready = written.readable() => ready,
            // Everything is in the log before the supervisor ends.
            ready = ended.readable() => {
                over = true;
                ready
            }
        }
        .map_err(|error| internal(&error))?;
    }
}

/// Sends what is in the log by now.
async fn drain(
    containers: &Containers,
    mut reader: LogReader,
    tty: bool,
    answer: &Answer,
) -> Result<LogReader, Problem> {
    loop {
        let (back, pieces) = containers
            .clone()
            .blocking(move |_| {
                let pieces = reader.next_lines(PIECES_PER_READ);
                (reader, pieces)
            })
            .await;
        reader = back;
        let pieces = pieces.map_err(|error| internal(&error))?;
        if pieces.is_empty() {
            return Ok(reader);
        }
        for piece in pieces {
            let frame = match piece.stream {
                LogStream::Stdout => Frame::Data(piece.text),
                LogStream::Stderr if tty => Frame::Data(piece.text),
                LogStream::Stderr => Frame::Error(piece.text),
                LogStream::Supervisor => Frame::Error([&piece.text[..], b"\n"].concat()),
            };
            answer.send(frame).await.map_err(|_| nobody())?;
        }
    }
}

/// Input on its way to a container.
struct Input {
    pieces: mpsc::Sender<Vec<u8>>,
    close: tokio::sync::oneshot::Sender<()>,
}

impl Input {
    fn start(
        file: AsyncFile,
        work: &mut JoinSet<Result<Part, Problem>>,
        containers: Containers,
        id: &RunId,
    ) -> Self {
        let (pieces, queue) = mpsc::channel(INPUT_MAX);
        let (close, closing) = tokio::sync::oneshot::channel::<()>();
        let id = id.clone();
        work.spawn(async move {
            // Ours of the pipe is closed when this returns.
            feed(Arc::new(file), queue).await;
            if closing.await.is_ok() {
                let closed = containers.blocking(move |this| this.runtime().close_stdin(&id)).await;
                if let Err(error) = closed {
                    tracing::debug!(%error, "a standard input stays open");
                }
            }
            Ok(Part::Input)
        });
        Self { pieces, close }
    }
}

/// Who is attached, as the container feels it.
struct Guest {
    containers: Containers,
    id: RunId,
    tty: bool,
    close: bool,
    input: Option<Input>,
}

impl Guest {
    /// Whether a further frame can be taken without waiting for the container.
    fn has_room(&self) -> bool {
        self.input.as_ref().is_none_or(|input| input.pieces.is_closed() || input.pieces.capacity() > 1)
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Data(bytes) if bytes.is_empty() => self.end_input(),
            Frame::Data(bytes) => {
                // A container that has closed its input wants no more of it.
                if let Some(input) = &self.input
                    && input.pieces.try_send(bytes).is_err()
                    && input.pieces.is_closed()
                {
                    self.input = None;
                }
            }
            Frame::Resize(size) => {
                let resized = self.with_run(move |runtime, id| runtime.resize(id, size.columns, size.rows));
                if let Err(error) = resized.await {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
            Frame::Signal(signal) => {
                if let Err(error) = self.with_run(move |runtime, id| runtime.signal(id, signal)).await {
                    tracing::debug!(%error, "a signal did not arrive");
                }
            }
            Frame::Error(_) | Frame::Message(_) | Frame::Done(_) | Frame::Problem(_) => {}
        }
    }

    /// The asker has no more input. That of the container ends, too, only when that was asked for.
    fn end_input(&mut self) {
        let Some(input) = self.input.take() else { return };
        if !self.close {
            return;
        }
        if self.tty {
            // Room is kept for it; a terminal that nobody reads has no use for it.
            let _ = input.pieces.try_send(vec![END_OF_FILE]);
        } else {
            // Whoever waits for it may be gone with the container.
            let _ = input.close.send(());
        }
    }

    async fn with_run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&carrack_runtime::Runtime, &RunId) -> T + Send + 'static,
    ) -> T {
        let id = self.id.clone();
        self.containers.clone().blocking(move |this| work(this.runtime(), &id)).await
    }
}
