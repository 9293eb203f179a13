//! The supervisor process, second half: keeps a running container until it ends.
//!
//! Reached by `execve` from `supervise`, which drops libcontainer's memory; pid, child and pipes stay. One thread, one
//! `poll`: output becomes log frames, the end of the first process becomes `exit.json`. Never waits for the daemon.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use carrack_api::{Exit, fail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, MemoryWatch, MemoryWatchFds, now};
use crate::child;
use crate::init::{exit_code, is_static};
use crate::log::{FRAME_HEADER_BYTES, FRAME_MAX_BYTES, FrameKind, LogWriter};
use crate::process::{ProcessId, boot_id};
use crate::program::Report;
use crate::record::{ExitRecord, FORMAT_VERSION, RunDir, write_json};
use crate::request::{LogLimit, StartRequest};
use crate::supervise::{Started, Stdio};

/// The mode's name on the command line; the argument is a [`KeepState`] as JSON.
pub(crate) const MODE: &str = "__keep";
/// The keeper is the last to go when memory is short; without CAP_SYS_RESOURCE it stays as it is.
const OOM_SCORE_ADJ: &str = "-999";
/// Output that is read after the end of the first process, in bytes per stream: what a pipe can hold at most.
const DRAIN_MAX_BYTES: usize = 1 << 20;

/// What the keeper needs to know, as descriptors that stay open and values.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeepState {
    run_dir: std::path::PathBuf,
    run: u32,
    limit: LogLimit,
    init: ProcessId,
    terminal: Option<RawFd>,
    stdout: Option<RawFd>,
    stderr: Option<RawFd>,
    stdin: Option<RawFd>,
    close_stdin: Option<RawFd>,
    report: RawFd,
    log: RawFd,
    memory: MemoryWatchFds,
    /// Directories of the cgroup in which processes without a PID namespace of their own may be left.
    kill_cgroup: Option<String>,
}

impl KeepState {
    pub(crate) fn new(
        run: &RunDir,
        request: &StartRequest,
        started: Started,
        log: OwnedFd,
        cgroup: &Cgroup,
    ) -> io::Result<Self> {
        let (terminal, stdout, stderr, stdin) = match started.stdio {
            Stdio::Terminal(master) => (Some(child::leave_open(master)?), None, None, None),
            Stdio::Pipes { stdout, stderr, stdin } => (
                None,
                Some(child::leave_open(stdout)?),
                Some(child::leave_open(stderr)?),
                stdin.map(child::leave_open).transpose()?,
            ),
        };
        let host_pid = request.spec.pid == carrack_api::Namespace::Host;
        Ok(Self {
            run_dir: run.0.clone(),
            run: request.id.run,
            limit: request.log,
            init: started.init,
            terminal,
            stdout,
            stderr,
            stdin,
            close_stdin: None,
            report: child::leave_open(started.report)?,
            log: child::leave_open(log)?,
            memory: MemoryWatch::open(cgroup).into_fds()?,
            kill_cgroup: host_pid.then(|| cgroup.path().to_owned()),
        })
    }

    /// The same with what tells it to close the container's stdin.
    pub(crate) fn with_close_stdin(mut self, close: Option<OwnedFd>) -> io::Result<Self> {
        self.close_stdin = close.map(child::leave_open).transpose()?;
        Ok(self)
    }

    /// Becomes the keeper; returns only when that fails.
    pub(crate) fn execute(self) -> io::Result<std::convert::Infallible> {
        // Streams to the daemon end here; what the keeper has to say goes to files.
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        let own = std::path::Path::new("/proc/self/exe");
        if !is_static(&File::open(own)?) {
            // Our mount namespace holds no loader for a development build: it goes on as it is, with all its memory.
            run(self);
        }
        let argv = ["carrack-supervisor".to_owned(), MODE.to_owned(), serde_json::to_string(&self)?];
        let env: Vec<String> = fail::environment()
            .into_iter()
            .map(|(name, value)| format!("{name}={}", value.to_string_lossy()))
            .collect();
        Err(child::execve(own, &argv, &env))
    }
}

/// Runs the mode.
pub(crate) fn main(arguments: &[String]) -> ! {
    let Some(state) = arguments.first().and_then(|text| serde_json::from_str::<KeepState>(text).ok()) else {
        child::exit_now(125)
    };
    // Executed by descriptor, it would be `exe` or a number in `ps`; the name is for people only.
    let _ = rustix::thread::set_name(c"carrack-keep");
    run(state)
}

fn run(state: KeepState) -> ! {
    fail::pass("start.5-keeper");
    // Refused without CAP_SYS_RESOURCE; then the kernel judges the keeper by its size, which is small.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let run_dir = RunDir(state.run_dir.clone());
    let record = Keeper::new(state).keep();
    fail::pass("end.2-record");
    // Without a runtime directory (it was removed) there is nobody to tell.
    let written = write_json(&run_dir.exit(), &record);
    fail::pass("end.3-recorded");
    child::exit_now(i32::from(written.is_err()))
}

struct Keeper {
    init: ProcessId,
    streams: Vec<(OwnedFd, FrameKind)>,
    report: OwnedFd,
    log: LogWriter,
    memory: MemoryWatch,
    kill_cgroup: Option<String>,
    buffer: Vec<u8>,
    /// Held open for those who attach, until `close_stdin` is readable.
    stdin: Option<OwnedFd>,
    /// Both are known to the daemon by their numbers, which must never come to mean something else: neither is ever closed.
    close_stdin: Option<OwnedFd>,
    stdin_closed: bool,
}

impl Keeper {
    fn new(state: KeepState) -> Self {
        let stream = |fd: Option<RawFd>, kind| fd.map(|fd| (child::take_fd(fd), kind));
        let streams: Vec<_> = [
            stream(state.terminal, FrameKind::Stdout),
            stream(state.stdout, FrameKind::Stdout),
            stream(state.stderr, FrameKind::Stderr),
        ]
        .into_iter()
        .flatten()
        .collect();
        for (fd, _) in &streams {
            // Reading must not block when another reader was faster; a failure shows as a blocking read, which poll makes
            // safe enough.
            let _ = rustix::fs::fcntl_getfl(fd)
                .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK));
        }
        Self {
            init: state.init,
            streams,
            report: child::take_fd(state.report),
            log: LogWriter::new(child::take_fd(state.log), state.run, state.limit),
            memory: MemoryWatch::from_fds(state.memory),
            kill_cgroup: state.kill_cgroup,
            buffer: vec![0; FRAME_HEADER_BYTES + FRAME_MAX_BYTES],
            stdin: state.stdin.map(child::take_fd),
            close_stdin: state.close_stdin.map(child::take_fd),
            stdin_closed: false,
        }
    }

    /// Lets the container's stdin go. Its number leads to a pipe without a reader from now on: who attaches later is told so by the
    /// kernel, and does not get a log file that happened to be opened under the same number.
    fn close_stdin(&mut self) {
        self.stdin_closed = true;
        let dead_end = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        if let (Some(stdin), Ok((_, write))) = (&mut self.stdin, dead_end)
            && rustix::io::dup3(&write, stdin, rustix::io::DupFlags::CLOEXEC).is_ok()
        {
            return;
        }
        // Without a descriptor to spare, that the input ends is more than that its number stays.
        self.stdin = None;
    }

    /// Copies output until the first process has ended.
    fn keep(mut self) -> ExitRecord {
        let status = match self.init.open() {
            Ok(Some(pidfd)) => {
                while !self.round(pidfd.as_fd()) {}
                self.reap()
            }
            _ => self.reap(),
        };
        fail::pass("end.1-reaped");
        self.drain();
        let exit = self.exit(status);
        let mut end = [0; FRAME_HEADER_BYTES];
        self.log.append(FrameKind::End, &mut end);
        ExitRecord {
            version: FORMAT_VERSION,
            boot_id: boot_id().unwrap_or_default(),
            exit,
            dropped_frames: self.log.dropped(),
        }
    }

    /// One `poll`; true when the first process has ended.
    fn round(&mut self, pidfd: BorrowedFd<'_>) -> bool {
        let (ended, close, readable) = {
            let mut fds = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            fds.extend(self.streams.iter().map(|(fd, _)| PollFd::new(fd, PollFlags::IN)));
            let streams = 1..fds.len();
            let close_stdin = self.close_stdin.iter().filter(|_| !self.stdin_closed);
            fds.extend(close_stdin.map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => return false,
                // Nothing sensible is left to wait with; the blocking wait is.
                Err(_) => return true,
            }
            let close = fds.get(streams.end).is_some_and(|fd| !fd.revents().is_empty());
            let readable: Vec<usize> =
                streams.filter(|index| !fds[*index].revents().is_empty()).map(|index| index - 1).collect();
            (!fds[0].revents().is_empty(), close, readable)
        };
        if close {
            self.close_stdin();
        }
        for index in readable.into_iter().rev() {
            if !self.copy(index) {
                self.streams.remove(index);
            }
        }
        self.reap_strangers();
        ended
    }

    /// Copies what a stream has; false at its end.
    fn copy(&mut self, index: usize) -> bool {
        let (fd, kind) = &self.streams[index];
        match rustix::io::read(fd, &mut self.buffer[FRAME_HEADER_BYTES..]) {
            // A terminal whose last user is gone answers EIO.
            Ok(0) | Err(rustix::io::Errno::IO) => false,
            Ok(length) => {
                self.log.append(*kind, &mut self.buffer[..FRAME_HEADER_BYTES + length]);
                true
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// What is in the pipes when the first process has ended; others may hold them open for ever.
    fn drain(&mut self) {
        for (fd, kind) in std::mem::take(&mut self.streams) {
            let mut copied = 0;
            while copied < DRAIN_MAX_BYTES {
                match rustix::io::read(&fd, &mut self.buffer[FRAME_HEADER_BYTES..]) {
                    Ok(length) if length > 0 => {
                        self.log.append(kind, &mut self.buffer[..FRAME_HEADER_BYTES + length]);
                        copied += length;
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    _ => break,
                }
            }
        }
    }

    /// Processes of containers without a PID namespace come to us when their parents die.
    fn reap_strangers(&self) {
        if self.kill_cgroup.is_none() {
            return;
        }
        // The first process is left for `reap`: `waitpid(-1)` would take it too, so only named ones are reaped.
        let children = format!("/proc/self/task/{}/children", std::process::id());
        for pid in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let Some(pid) = pid.parse().ok().filter(|pid: &i32| u32::try_from(*pid) != Ok(self.init.pid)) {
                let _ = child::reap(pid, false);
            }
        }
    }

    /// The raw wait status of the first process; `None` when it was not our child.
    fn reap(&self) -> Option<i32> {
        let pid = i32::try_from(self.init.pid).ok()?;
        child::reap(pid, true).ok().flatten().map(|(_, status)| status)
    }

    fn exit(&self, status: Option<i32>) -> Exit {
        if let Some(cgroup) = &self.kill_cgroup {
            kill_rest(cgroup);
        }
        let (oom, peak_memory) = self.memory.read();
        let at = now();
        // What our PID 1 said of the program is better than how PID 1 itself ended.
        let status = self.reported().or(status);
        match status {
            None => {
                let error = Some("the supervisor could not wait for the container".into());
                Exit { code: 255, signal: None, oom, peak_memory, at, error }
            }
            Some(status) => {
                let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
                let code = exit_code(status);
                // A shell passes its killed child's end on as a code; a program that survived is not out of memory.
                Exit { code, signal, oom: oom && code == 128 + libc::SIGKILL, peak_memory, at, error: None }
            }
        }
    }

    fn reported(&self) -> Option<i32> {
        let _ = rustix::fs::fcntl_setfl(&self.report, OFlags::NONBLOCK);
        let mut text = [0; 4096];
        let file = File::from(self.report.try_clone().ok()?);
        let length = (&file).read(&mut text).ok()?;
        Report::parse(&text[..length]).into_iter().find_map(|report| match report {
            Report::Ended(status) => Some(status),
            Report::Started | Report::Failed(_) => None,
        })
    }
}

/// Ends what a container in the host's PID namespace left behind.
fn kill_rest(path: &str) {
    let file = std::path::Path::new("/sys/fs/cgroup").join("freezer").join(path.trim_start_matches('/'));
    let v2 = std::path::Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    for dir in [file, v2] {
        for pid in std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let _ = child::kill(pid, libc::SIGKILL);
            }
        }
    }
}
