//! Commands in running containers, the daemon's side: starts the helper process and talks to it.
//!
//! The helper (`exec_child`) is single-threaded, calls libcontainer, and is the command's parent. One socket ties both: the
//! helper tells of the start, sends the terminal and the exit code; when our end closes it ends the command.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};

use crate::error::{ExecError, RuntimeError, chain};
use crate::process::ProcessId;
use crate::record::RunDir;
use crate::request::ExecRequest;
use crate::runtime::wait_readable;
use crate::{exec_child, reexec};

/// How long the start of a command may take.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Largest message of the helper, in bytes.
pub(crate) const MESSAGE_MAX_BYTES: usize = 64 << 10;

/// What the helper is asked, on its command line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) run_dir: std::path::PathBuf,
    /// The daemon and its descriptor of the socket, to be taken by `pidfd_getfd`.
    pub(crate) daemon: u32,
    pub(crate) socket: i32,
    pub(crate) request: ExecRequest,
}

/// What the helper says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// The command runs; with a terminal its master comes along.
    Started(ProcessId),
    /// It does not.
    Failed(ExecError),
    /// It ended with this code (128 + signal).
    Exited(i32),
}

/// A command that runs in a container. Dropping it ends the command.
#[derive(Debug)]
pub struct ExecSession {
    /// Write end of its stdin; `None` with a terminal or when stdin was not asked for.
    pub stdin: Option<OwnedFd>,
    /// Read end of its stdout; `None` with a terminal.
    pub stdout: Option<OwnedFd>,
    /// Read end of its stderr; `None` with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Master of its terminal, for reading and writing.
    pub pty: Option<OwnedFd>,
    process: ProcessId,
    socket: OwnedFd,
    exit: Option<i32>,
}

impl ExecSession {
    /// Process id of the command as the host sees it.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Readable when the command has ended (for `AsyncFd`); then call [`ExecSession::try_exit`].
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The exit code (128 + signal) when it has ended; does not block. A lost helper counts as 137.
    pub fn try_exit(&mut self) -> Option<i32> {
        if self.exit.is_none() {
            self.exit = match receive(&self.socket, RecvFlags::DONTWAIT) {
                Ok((Some(Message::Exited(code)), _)) => Some(code),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                // The helper is gone without a word, and the command with it.
                Ok(_) | Err(_) => Some(128 + libc::SIGKILL),
            };
        }
        self.exit
    }

    /// Blocks until it ends.
    pub fn wait(&mut self) -> Result<i32, RuntimeError> {
        loop {
            if let Some(code) = self.try_exit() {
                return Ok(code);
            }
            match wait_readable(&self.socket, Duration::from_secs(3600)) {
                Err(error) if error.kind() != io::ErrorKind::TimedOut => {
                    return Err(RuntimeError::Process { what: "wait for", pid: self.pid(), source: error });
                }
                _ => {}
            }
        }
    }

    /// Blocks until it ends or the time is over.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<i32>, RuntimeError> {
        match self.exit.map_or_else(|| wait_readable(&self.socket, timeout), |_| Ok(())) {
            Ok(()) => Ok(self.try_exit()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            Err(source) => Err(RuntimeError::Process { what: "wait for", pid: self.pid(), source }),
        }
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        let fail = |source| RuntimeError::Process { what: "resize the terminal of", pid: self.pid(), source };
        match &self.pty {
            Some(pty) => set_size(pty, columns, rows).map_err(fail),
            None => Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "it has no terminal"))),
        }
    }

    /// Sends it a signal; fine when it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.process.signal(signal).map(|_| ()).map_err(|source| RuntimeError::Process {
            what: "signal",
            pid: self.pid(),
            source,
        })
    }

    /// Kills it.
    pub fn kill(&self) -> Result<(), RuntimeError> {
        self.signal(libc::SIGKILL)
    }
}

/// Sets the size of a terminal by its master.
pub(crate) fn set_size(master: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    tcsetwinsize(master, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })
        .map_err(Into::into)
}

pub(crate) fn step<E: std::error::Error>(step: &str) -> impl FnOnce(E) -> ExecError {
    let step = step.to_owned();
    move |error| ExecError::System { step, why: chain(&error) }
}

/// Starts a command and returns when its program runs.
pub(crate) fn start(exe: &Path, run: &RunDir, request: &ExecRequest) -> Result<ExecSession, ExecError> {
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(ExecError::ProgramMissing { program: String::new(), path: None });
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(step("make a socket"))?;
    let order = Order {
        run_dir: run.0.clone(),
        daemon: std::process::id(),
        socket: theirs.as_raw_fd(),
        request: request.clone(),
    };
    let order = serde_json::to_string(&order).map_err(step("write the order"))?;
    let mut command = reexec::command(exe, exec_child::MODE);
    // The environment of a command may hold secrets, and command lines can be read by all: the order goes by a pipe-like
    // file in memory.
    let order = memory_file(order.as_bytes()).map_err(step("write the order"))?;
    let pipes = request.tty.is_none();
    command.stdin(order);
    let (stdout, stdout_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
    let (stderr, stderr_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
    if pipes {
        command.stdout(stdout_write).stderr(stderr_write);
    } else {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    let mut child = command.spawn().map_err(step("start the helper"))?;
    drop(command);
    // The first process forks and ends at once.
    child.wait().map_err(step("start the helper"))?;
    let (message, mut fds) = answer(&ours).map_err(step("hear of the helper"))?;
    drop(theirs);
    match message {
        Some(Message::Started(process)) => {
            let first = (!fds.is_empty()).then(|| fds.remove(0));
            let (pty, stdin) = if pipes { (None, first) } else { (first, None) };
            Ok(ExecSession {
                stdin,
                stdout: pipes.then_some(stdout),
                stderr: pipes.then_some(stderr),
                pty,
                process,
                socket: ours,
                exit: None,
            })
        }
        Some(Message::Failed(error)) => Err(error),
        Some(Message::Exited(_)) | None => Err(ExecError::System {
            step: "start the command".into(),
            why: "the helper ended without an answer".into(),
        }),
    }
}

fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let fd = rustix::fs::memfd_create("order", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

fn answer(socket: &OwnedFd) -> io::Result<(Option<Message>, Vec<OwnedFd>)> {
    wait_readable(socket, START_DEADLINE)?;
    receive(socket, RecvFlags::empty())
}

/// One message and the descriptors with it; `None` when the other side is gone.
fn receive(socket: &OwnedFd, flags: RecvFlags) -> io::Result<(Option<Message>, Vec<OwnedFd>)> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = vec![0; MESSAGE_MAX_BYTES];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [io::IoSliceMut::new(&mut text)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((serde_json::from_slice(&text[..received.bytes]).ok(), fds))
}
