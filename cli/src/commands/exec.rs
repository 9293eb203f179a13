//! `carrack exec`: a command in a running task, with a terminal when wanted; its exit code becomes ours.
//!
//! ```text
//!   stdin ───────────┐
//!   SIGWINCH, SIGINT ┼─> queue of frames ─> writer ─> node        (own task: output never waits for input)
//!                    ┘
//!   stdout, stderr <── frames <─────────────────────── node
//! ```

use carrack_api::client::{FrameReader, write_frame};
use carrack_api::stream::Frame;
use carrack_api::{ExecRequest, ExecResult, TaskId, TaskState, TaskStatus};
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::{targets, tasks_of};
use crate::args::ExecArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::render::task;
use crate::target::Target;
use crate::terminal::{self, RawMode, put_bytes};

/// Bytes of standard input in one frame.
pub(super) const INPUT_CHUNK_BYTES: usize = 16 << 10;
/// Frames that wait to be sent.
pub(super) const QUEUE_FRAMES: usize = 16;

/// `carrack exec`.
pub(crate) async fn run(args: &ExecArgs, context: &Context) -> Outcome {
    let task = running_task(context, &args.target).await?;
    let (stdin, tty) = streams(args, context)?;
    let request = request(args, stdin, tty);
    let header = ascii_json(&serde_json::to_string(&request)?);
    let stream =
        context.client.upgrade(&format!("/v1/tasks/{task}/exec"), &[("carrack-exec", &header)]).await?;
    let (reader, writer) = tokio::io::split(stream);
    // `exec -t` from a script has no terminal to set up.
    let raw = if tty && context.terminal.stdin { Some(RawMode::enter()?) } else { None };
    let (queue, frames) = mpsc::channel(QUEUE_FRAMES);
    tokio::spawn(write(writer, frames));
    if stdin {
        tokio::spawn(send_input(queue.clone()));
    }
    tokio::spawn(send_signals(queue, tty, true));
    let ended = receive(FrameReader::new(reader)).await;
    drop(raw);
    ended
}

/// Whether to send standard input and whether to allocate a terminal.
fn streams(args: &ExecArgs, context: &Context) -> Result<(bool, bool), CliError> {
    let terminals = context.terminal.stdin && context.terminal.stdout;
    if args.tty && !context.terminal.stdin && args.interactive {
        return Err(CliError::usage("standard input is no terminal").hint("leave -t out"));
    }
    match (args.interactive, args.tty) {
        (false, false) => Ok((terminals, terminals && !args.no_tty)),
        (interactive, tty) => Ok((interactive, tty)),
    }
}

fn request(args: &ExecArgs, stdin: bool, tty: bool) -> ExecRequest {
    let env = args.env.iter().filter_map(|text| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.clone(), value)),
    });
    let fallback = carrack_api::WindowSize { rows: 24, columns: 80 };
    ExecRequest {
        command: args.command.clone(),
        env: env.collect(),
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
        tty: tty.then(|| terminal::window_size().unwrap_or(fallback)),
        stdin,
    }
}

/// JSON in the characters that a header may have.
pub(super) fn ascii_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// The task that is meant: of a service its lowest running slot.
pub(super) async fn running_task(context: &Context, text: &str) -> Result<TaskId, CliError> {
    let resolved = targets(context, &[text.to_owned()]).await?;
    let Some(target) = resolved.into_iter().next() else {
        return Err(CliError::new(format!("no task {text:?}")));
    };
    if let Target::Stack(stack) = &target {
        return Err(CliError::usage(format!("{stack} is a stack; a command runs in a task"))
            .hint(format!("`carrack ps {stack}` lists its tasks")));
    }
    let tasks = tasks_of(context, target.stack(), true).await?;
    let of_target: Vec<&TaskStatus> =
        tasks.iter().filter(|task| target.covers(&task.service, task.slot, task.id)).collect();
    let running = of_target.iter().filter(|task| task.state == TaskState::Running);
    match running.min_by_key(|task| (task.slot, std::cmp::Reverse(task.id))) {
        Some(task) => Ok(task.id),
        None => Err(not_running(&target, &of_target)),
    }
}

pub(super) fn not_running(target: &Target, tasks: &[&TaskStatus]) -> CliError {
    let mut error = CliError::new(format!("no task of {target} is running"));
    if let Some(last) = tasks.iter().max_by_key(|task| task.id) {
        let (name, state, detail) = (task::name(last), task::state(last), task::detail(last));
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        error = error.detail(format!("{name} ({}) is {state}{detail}", last.id));
    }
    error.hint(format!("`carrack logs {target}` shows what it wrote"))
}

async fn write(mut stream: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        // The reader of the other half learns the reason; here is nothing left to send to.
        if write_frame(&mut stream, &frame).await.is_err() {
            return;
        }
    }
}

async fn send_input(queue: mpsc::Sender<Frame>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; INPUT_CHUNK_BYTES];
    loop {
        // An input that cannot be read has ended.
        let read = stdin.read(&mut buffer).await.unwrap_or(0);
        if queue.send(Frame::Data(buffer[..read].to_vec())).await.is_err() || read == 0 {
            return;
        }
    }
}

/// Passes on the size of the terminal and, when wanted, signals: those that no terminal turns keys into.
pub(super) async fn send_signals(queue: mpsc::Sender<Frame>, tty: bool, signals: bool) {
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    // One that is not listened to keeps its usual effect.
    let listen = |kind| if signals { signal(kind).ok() } else { None };
    let (mut interrupted, mut terminated) =
        (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    loop {
        let frame = tokio::select! {
            _ = resized.recv() => match terminal::window_size() {
                Some(size) if tty => Frame::Resize(size),
                _ => continue,
            },
            () = arrived(&mut interrupted) => Frame::Signal(libc_signal::INT),
            () = arrived(&mut terminated) => Frame::Signal(libc_signal::TERM),
        };
        if queue.send(frame).await.is_err() {
            return;
        }
    }
}

/// Waits for a signal; for ever when it is not listened to.
async fn arrived(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => match signal.recv().await {
            Some(()) => {}
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Numbers of signals, the same on every architecture.
mod libc_signal {
    pub(super) const INT: i32 = 2;
    pub(super) const TERM: i32 = 15;
}

async fn receive(mut frames: FrameReader<impl tokio::io::AsyncRead + Unpin>) -> Outcome {
    let broke = |error: &std::io::Error| {
        CliError::new("the connection to the command broke")
            .caused_by(error)
            .hint("the command was ended with it; `carrack ps` shows whether its task still runs")
    };
    loop {
        match frames.next().await.map_err(|error| broke(&error))? {
            Some(Frame::Data(bytes)) => put_bytes(&bytes)?,
            Some(Frame::Error(bytes)) => terminal::put_error(&bytes)?,
            Some(Frame::Done(json)) => {
                let result: ExecResult = serde_json::from_slice(&json)?;
                return Ok(Code::Program(u8::try_from(result.code & 0xff).unwrap_or(1)));
            }
            Some(Frame::Problem(problem)) => return Err(problem.into()),
            Some(Frame::Message(_) | Frame::Resize(_) | Frame::Signal(_)) => {}
            None => return Err(broke(&std::io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::OutputFormat;
    use crate::args::{Cli, Command};
    use crate::terminal::Terminal;
    use clap::Parser;

    fn decided(line: &[&str], terminals: bool) -> Option<(bool, bool)> {
        let words = ["carrack", "exec"].iter().chain(line);
        let Command::Exec(args) = Cli::try_parse_from(words).unwrap().command else { panic!("not exec") };
        let terminal = Terminal { stdin: terminals, stdout: terminals, stderr: terminals, colour: false };
        let context =
            Context { client: carrack_api::client::Client::unix("/x"), output: OutputFormat::Text, terminal };
        streams(&args, &context).ok()
    }

    #[test]
    fn a_terminal_is_used_as_in_compose_and_options_win() {
        assert_eq!(decided(&["web", "sh"], true), Some((true, true)));
        assert_eq!(decided(&["web", "sh"], false), Some((false, false)));
        assert_eq!(decided(&["-T", "web", "sh"], true), Some((true, false)));
        assert_eq!(decided(&["-i", "web", "sh"], true), Some((true, false)));
        assert_eq!(decided(&["-it", "web", "sh"], false), None);
    }

    #[test]
    fn any_command_fits_a_header() {
        let json = ascii_json(&serde_json::to_string(&["grüß", "😀"]).unwrap());
        assert!(json.is_ascii());
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), ["grüß", "😀"]);
    }
}
