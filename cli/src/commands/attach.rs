//! `carrack attach`: the streams of a task's container, here. Also the second half of `carrack run`.
//!
//! Owns the keys that detach and what is said meanwhile; the streams themselves are the node's. Going away, by those keys or
//! by any other way, leaves the container running.

use carrack_api::client::{FrameReader, write_frame};
use carrack_api::stream::Frame;
use carrack_api::{AttachEvent, AttachRequest, ExecResult, TaskId, TaskState, TaskStatus};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::exec::{INPUT_CHUNK_BYTES, QUEUE_FRAMES, ascii_json, not_running, send_signals};
use super::{targets, tasks_of};
use crate::args::AttachArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::task;
use crate::target::Target;
use crate::terminal::{self, RawMode, put_bytes};

/// Most keys of a detach sequence.
const KEYS_MAX: usize = 16;

/// `carrack attach`.
pub(crate) async fn run(args: &AttachArgs, context: &Context) -> Outcome {
    let found = attachable(context, &args.target).await?;
    let joined = Join {
        task: found.id,
        name: task::name(&found),
        request: AttachRequest {
            stdin: !args.no_stdin,
            close_stdin: false,
            tty: terminal::window_size().filter(|_| context.terminal.stdin && !args.no_stdin),
            replay: false,
        },
        keys: args.detach_keys.clone(),
        signals: args.sig_proxy,
    };
    match joined.run(context).await? {
        End::Exited(code) => Ok(Code::Program(code)),
        End::Detached => Ok(Code::Ok),
    }
}

/// What is joined.
#[derive(Debug)]
pub(super) struct Join {
    /// The task; one that does not run yet is waited for.
    pub task: TaskId,
    /// Its name, for what is said.
    pub name: String,
    /// What is asked of its node.
    pub request: AttachRequest,
    /// Keys that detach, once the container's terminal is ours.
    pub keys: DetachKeys,
    /// Passes SIGINT and SIGTERM on to the container; else they end this command alone.
    pub signals: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The container did, with this code.
    Exited(u8),
    /// The user went away; the container runs on.
    Detached,
}

impl Join {
    /// Joins the streams until the container ends or the user detaches.
    pub(super) async fn run(self, context: &Context) -> Result<End, CliError> {
        let header = ascii_json(&serde_json::to_string(&self.request)?);
        let path = format!("/v1/tasks/{}/attach", self.task);
        let stream = context.client.upgrade(&path, &[("carrack-attach", &header)]).await?;
        let (reader, writer) = tokio::io::split(stream);
        let mut frames = FrameReader::new(reader);
        let (tty, stdin) = match self.wait(&mut frames).await? {
            Begun::Attached { tty, stdin } => (tty, stdin),
            Begun::Ended(end) => return Ok(end),
        };
        let raw = if tty && stdin && context.terminal.stdin { Some(RawMode::enter()?) } else { None };
        let (queue, sending) = mpsc::channel(QUEUE_FRAMES);
        tokio::spawn(write(writer, sending));
        let (detach, mut detached) = oneshot::channel();
        if stdin {
            let keys = raw.as_ref().map(|_| self.keys.clone());
            tokio::spawn(send_input(queue.clone(), keys, detach));
        }
        if self.signals || tty {
            tokio::spawn(send_signals(queue.clone(), tty, self.signals));
        }
        let end = tokio::select! {
            end = receive(&mut frames, &self.name) => end,
            // Input that ends otherwise drops its end of this, and output goes on.
            Ok(()) = &mut detached => Ok(End::Detached),
        };
        drop((raw, queue));
        if let Ok(End::Detached) = end {
            terminal::say(&format!("detached; {} runs on", self.name));
        }
        end
    }

    /// Tells what is waited for until output begins.
    async fn wait(&self, frames: &mut FrameReader<impl AsyncRead + Unpin>) -> Result<Begun, CliError> {
        loop {
            match next(frames, &self.name).await? {
                Frame::Message(json) => match serde_json::from_slice(&json)? {
                    AttachEvent::Waiting { state, reason } => {
                        let reason = reason.map(|text| format!(": {text}")).unwrap_or_default();
                        terminal::say(&format!("waiting for {}, which is {state}{reason}", self.name));
                    }
                    AttachEvent::Attached { tty, stdin, .. } => {
                        if self.request.stdin && !stdin && !self.request.replay {
                            terminal::say(&format!(
                                "{} takes no input: its service has neither `stdin_open` nor `tty`; only its output is shown",
                                self.name
                            ));
                        }
                        return Ok(Begun::Attached { tty, stdin });
                    }
                },
                Frame::Done(json) => return Ok(Begun::Ended(exited(&json)?)),
                Frame::Data(_)
                | Frame::Error(_)
                | Frame::Resize(_)
                | Frame::Signal(_)
                | Frame::Problem(_) => {}
            }
        }
    }
}

/// How the wait for a container ended.
enum Begun {
    Attached { tty: bool, stdin: bool },
    Ended(End),
}

/// The next frame; a problem or a broken stream is an error.
async fn next(frames: &mut FrameReader<impl AsyncRead + Unpin>, name: &str) -> Result<Frame, CliError> {
    let broke = |error: &std::io::Error| {
        CliError::new(format!("the connection to {name} broke"))
            .caused_by(error)
            .hint("the container runs on: attach again, or see `carrack ps`")
    };
    match frames.next().await.map_err(|error| broke(&error))? {
        Some(Frame::Problem(problem)) => Err(problem.into()),
        Some(frame) => Ok(frame),
        None => Err(broke(&std::io::ErrorKind::UnexpectedEof.into())),
    }
}

fn exited(json: &[u8]) -> Result<End, CliError> {
    let result: ExecResult = serde_json::from_slice(json)?;
    Ok(End::Exited(u8::try_from(result.code & 0xff).unwrap_or(1)))
}

async fn receive(frames: &mut FrameReader<impl AsyncRead + Unpin>, name: &str) -> Result<End, CliError> {
    loop {
        match next(frames, name).await? {
            Frame::Data(bytes) => put_bytes(&bytes)?,
            Frame::Error(bytes) => terminal::put_error(&bytes)?,
            Frame::Done(json) => return exited(&json),
            Frame::Message(_) | Frame::Resize(_) | Frame::Signal(_) | Frame::Problem(_) => {}
        }
    }
}

async fn write(mut stream: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        // The reader of the other half learns the reason; here is nothing left to send to.
        if write_frame(&mut stream, &frame).await.is_err() {
            return;
        }
    }
}

/// Sends standard input, up to the keys that detach.
async fn send_input(queue: mpsc::Sender<Frame>, keys: Option<DetachKeys>, detach: oneshot::Sender<()>) {
    let mut stdin = tokio::io::stdin();
    let mut filter = keys.map(|keys| Filter { keys: keys.0, held: Vec::new() });
    let mut buffer = vec![0; INPUT_CHUNK_BYTES];
    loop {
        // An input that cannot be read has ended.
        let read = stdin.read(&mut buffer).await.unwrap_or(0);
        let (bytes, leave) = match &mut filter {
            Some(filter) => filter.feed(&buffer[..read]),
            None => (buffer[..read].to_vec(), false),
        };
        // An empty frame would be the end of the input.
        let sent = match bytes.is_empty() && read > 0 {
            true => Ok(()),
            false => queue.send(Frame::Data(bytes)).await,
        };
        if leave {
            // Nobody listens any more when the container has ended at the same moment.
            let _ = detach.send(());
            return;
        }
        if sent.is_err() || read == 0 {
            return;
        }
    }
}

/// The keys that detach, in the order they are typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl std::str::FromStr for DetachKeys {
    type Err = String;

    /// Reads them as Docker writes them: `ctrl-p,ctrl-q`, or characters as they are.
    fn from_str(text: &str) -> Result<Self, String> {
        let keys = text.split(',').map(key).collect::<Result<Vec<u8>, _>>()?;
        if keys.len() > KEYS_MAX {
            return Err(format!("{} keys; at most {KEYS_MAX} are allowed", keys.len()));
        }
        Ok(Self(keys))
    }
}

fn key(text: &str) -> Result<u8, String> {
    let bad = || format!("{text:?} is no key: write one character, or ctrl- and one of a-z @ [ \\ ] ^ _");
    match text.as_bytes() {
        [one] if one.is_ascii() => Ok(*one),
        [b'c', b't', b'r', b'l', b'-', key] => match key {
            b'a'..=b'z' => Ok(key - b'a' + 1),
            b'@' => Ok(0),
            b'[' | b'\\' | b']' | b'^' | b'_' => Ok(key - b'[' + 27),
            _ => Err(bad()),
        },
        _ => Err(bad()),
    }
}

/// Holds back what may be the beginning of the detach keys.
struct Filter {
    keys: Vec<u8>,
    held: Vec<u8>,
}

impl Filter {
    /// What of `bytes`, and of what was held back, is input; true once all keys were typed.
    fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut input = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.held.push(*byte);
            while !self.keys.starts_with(&self.held) {
                input.push(self.held.remove(0));
            }
            if self.held == self.keys {
                return (input, true);
            }
        }
        (input, false)
    }
}

/// The task that is meant: the lowest running slot, else one that is on its way.
async fn attachable(context: &Context, text: &str) -> Result<TaskStatus, CliError> {
    let resolved = targets(context, &[text.to_owned()]).await?;
    let Some(target) = resolved.into_iter().next() else {
        return Err(CliError::new(format!("no task {text:?}")));
    };
    if let Target::Stack(stack) = &target {
        return Err(CliError::usage(format!("{stack} is a stack; only a task can be attached to")).hint(
            format!("`carrack ps {stack}` lists its tasks, `carrack logs -f {stack}` follows them all"),
        ));
    }
    let mut tasks = tasks_of(context, target.stack(), true).await?;
    tasks.retain(|task| target.covers(&task.service, task.slot, task.id));
    let rank = |task: &TaskStatus| (task.state != TaskState::Running, task.slot, std::cmp::Reverse(task.id));
    match tasks.iter().filter(|task| !task.state.is_final()).min_by_key(|task| rank(task)) {
        Some(found) => Ok(found.clone()),
        None => Err(not_running(&target, &tasks.iter().collect::<Vec<_>>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut filter = Filter { keys: keys.parse::<DetachKeys>().unwrap().0, held: Vec::new() };
        let mut all = Vec::new();
        for piece in pieces {
            let (input, leave) = filter.feed(piece);
            all.extend(input);
            if leave {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn the_detach_keys_are_no_input_and_anything_else_is() {
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10", b"x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10"]), (vec![], false), "the first key waits for the next");
    }

    #[test]
    fn keys_are_written_as_in_docker() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        assert_eq!("ctrl-a,d".parse(), Ok(DetachKeys(vec![1, b'd'])));
        assert_eq!("ctrl-@,ctrl-[,ctrl-_".parse(), Ok(DetachKeys(vec![0, 27, 31])));
        for bad in ["", "ctrl-", "ctrl-P", "ctrl-pp", "a,,b", "alt-x", "ü"] {
            assert!(bad.parse::<DetachKeys>().unwrap_err().contains("is no key"), "{bad}");
        }
    }
}
