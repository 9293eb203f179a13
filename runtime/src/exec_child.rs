//! A command in a running container, the helper's side: joins, starts, waits, and ends it when nobody listens any more.
//!
//! One process per command, because libcontainer changes its caller and forks. It enters the supervisor's mount namespace,
//! where the container's root filesystem is, and is the command's parent.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};

use crate::cgroup::Cgroups;
use crate::child;
use crate::error::{ExecError, chain};
use crate::exec::{Message, Order, set_size, step};
use crate::image::{RootTree, resolve_user};
use crate::in_root;
use crate::init::exit_code;
use crate::process::ProcessId;
use crate::program::{ProgramError, Report};
use crate::record::{RunDir, SupervisorRecord, read_json};
use crate::request::ExecRequest;
use crate::supervise::{
    CONTAINER_ID, Launch, ProgramExecutor, own_capabilities, read_seccomp, receive_terminal, with_primary,
};
use crate::template::PRIVATE;

/// The mode's name on the command line; the order is on stdin.
pub(crate) const MODE: &str = "__exec";
/// How long a command may take to end after a hang-up, milliseconds.
const HANGUP_GRACE_MS: i64 = 2000;

/// Runs the mode.
pub(crate) fn main(_arguments: &[String]) -> ! {
    match child::fork() {
        Ok(None) => {}
        Ok(Some(_)) => child::exit_now(0),
        Err(_) => child::exit_now(1),
    }
    let Some((order, socket)) = take_order() else { child::exit_now(1) };
    match Command::start(&order, &socket) {
        Ok(command) => command.stay(&socket),
        Err(error) => {
            send(&socket, &Message::Failed(error), None);
            child::exit_now(1)
        }
    }
}

/// The order and our end of the socket, out of the daemon.
fn take_order() -> Option<(Order, OwnedFd)> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).ok()?;
    let order: Order = serde_json::from_slice(&text).ok()?;
    let daemon = pidfd_open(Pid::from_raw(i32::try_from(order.daemon).ok()?)?, PidfdFlags::empty()).ok()?;
    let socket = pidfd_getfd(&daemon, order.socket, PidfdGetfdFlags::empty()).ok()?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some((order, socket))
}

/// Nobody is there to hear of a failure; the daemon's end then shows it.
fn send(socket: &OwnedFd, message: &Message, fd: Option<&OwnedFd>) {
    let Ok(text) = serde_json::to_vec(message) else { return };
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let _ = sendmsg(socket, &[io::IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL);
}

/// A command that runs.
struct Command {
    pid: i32,
    pidfd: OwnedFd,
}

impl Command {
    fn start(order: &Order, socket: &OwnedFd) -> Result<Self, ExecError> {
        let run = RunDir(order.run_dir.clone());
        let record: SupervisorRecord = read_json(&run.supervisor())
            .map_err(step("read the supervisor's record"))?
            .ok_or_else(|| ExecError::NotRunning(run.0.display().to_string()))?;
        let launch: Launch = read_json(&run.request())
            .map_err(step("read the request"))?
            .ok_or_else(|| ExecError::NotRunning(run.0.display().to_string()))?;
        let id = launch.request.id.to_string();
        let init = record.init.ok_or(ExecError::NotRunning(id.clone()))?;
        if !init.runs().map_err(step("look at the container's first process"))? {
            return Err(ExecError::NotRunning(id));
        }
        rustix::process::setsid().map_err(step("start a session"))?;
        child::ignore_signals(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE]);
        Cgroups::detect_below(&launch.instance, launch.parent.as_deref())
            .and_then(|cgroups| cgroups.supervisors().join())
            .map_err(step("enter the supervisors' cgroup"))?;
        carrack_api::fail::point("exec.1-enter").map_err(step("enter the container"))?;
        let namespace = File::open(format!("/proc/{}/ns/mnt", record.supervisor.pid))
            .map_err(|_| ExecError::NotRunning(id.clone()))?;
        let mount = Some(rustix::thread::LinkNameSpaceType::Mount);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), mount)
            .map_err(step("enter the mount namespace"))?;
        let process = process(&run, &order.request, init)?;
        Self::build(&run, order, &process, socket)
    }

    fn build(run: &RunDir, order: &Order, process: &Value, socket: &OwnedFd) -> Result<Self, ExecError> {
        let own = std::process::id();
        let process_file = Leftover(run.0.join(format!("exec-{own}.json")));
        std::fs::write(&process_file.0, process.to_string()).map_err(step("write the process"))?;
        let (report, report_write) = pipe_with(PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
        let executor = ProgramExecutor {
            seccomp: read_seccomp(run)
                .map_err(step("read the seccomp filter"))?
                .filter(|_| !order.request.privileged),
            report: report_write.as_raw_fd(),
            init: None,
            give_up: give_up(run).map_err(step("read the capabilities"))?,
        };
        let mut builder = ContainerBuilder::new(CONTAINER_ID.to_owned(), SyscallType::default())
            .with_root_path(run.oci())
            .map_err(step("find the container"))?
            .with_executor(executor);
        let console = Leftover(Path::new(PRIVATE).join(format!("exec-{own}.sock")));
        let mut stdin = None;
        let listener = if order.request.tty.is_some() {
            builder = builder.with_console_socket(Some(&console.0));
            Some(UnixListener::bind(&console.0).map_err(step("make the console socket"))?)
        } else {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
            // Without a wish for stdin the write end goes at once, and the command reads end of file.
            stdin = order.request.stdin.then_some(write);
            let stdout =
                rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map_err(step("take stdout"))?;
            let stderr =
                rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(step("take stderr"))?;
            builder = builder.with_stdin(read).with_stdout(stdout).with_stderr(stderr);
            None
        };
        carrack_api::fail::point("exec.2-start").map_err(step("start the command"))?;
        let pid = builder
            .as_tenant()
            .with_process(Some(&process_file.0))
            .with_detach(true)
            .build()
            .map_err(step("join the container"))?
            .as_raw();
        drop(report_write);
        let mut text = Vec::new();
        File::from(report).read_to_end(&mut text).map_err(step("hear of the command"))?;
        if let Some(Report::Failed(error)) = Report::parse(&text).into_iter().next() {
            let _ = child::reap(pid, true);
            return Err(error.into());
        }
        let raw =
            Pid::from_raw(pid).ok_or_else(|| step("look at the command")(io::Error::other("no pid")))?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(step("look at the command"))?;
        let identity = u32::try_from(pid).unwrap_or(0);
        let identity = ProcessId::of(identity).map_err(step("look at the command"))?;
        let terminal = listener
            .map(|listener| receive_terminal(&listener))
            .transpose()
            .map_err(step("receive the terminal"))?;
        if let (Some(terminal), Some((columns, rows))) = (&terminal, order.request.tty) {
            set_size(terminal, columns, rows).map_err(step("size the terminal"))?;
        }
        carrack_api::fail::pass("exec.3-told");
        send(socket, &Message::Started(identity), terminal.as_ref().or(stdin.as_ref()));
        // Ours of the streams end here, so that end of file reaches the daemon when the command ends.
        let null =
            File::options().read(true).write(true).open("/dev/null").map_err(step("open /dev/null"))?;
        rustix::stdio::dup2_stdin(&null)
            .and_then(|()| rustix::stdio::dup2_stdout(&null))
            .and_then(|()| rustix::stdio::dup2_stderr(&null))
            .map_err(step("let the streams go"))?;
        Ok(Self { pid, pidfd })
    }

    /// Waits for the end of the command or of the daemon's interest.
    fn stay(self, socket: &OwnedFd) -> ! {
        let mut listening = true;
        loop {
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            if listening {
                fds.push(PollFd::new(socket, PollFlags::IN));
            }
            let timeout = rustix::time::Timespec { tv_sec: HANGUP_GRACE_MS / 1000, tv_nsec: 0 };
            let ready = poll(&mut fds, (!listening).then_some(&timeout));
            if !fds[0].revents().is_empty() {
                let status =
                    child::reap(self.pid, true).ok().flatten().map_or(libc::SIGKILL, |(_, status)| status);
                send(socket, &Message::Exited(exit_code(status)), None);
                child::exit_now(0);
            }
            if listening && fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
                // The command leads a session of its own; its group gets what a closed terminal would send.
                listening = false;
                let _ = child::kill(-self.pid, libc::SIGHUP);
            } else if !listening && ready == Ok(0) {
                let _ = child::kill(-self.pid, libc::SIGKILL);
            }
        }
    }
}

/// A file that goes with its name.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Capabilities that the container held only for loading its filter.
fn give_up(run: &RunDir) -> io::Result<Vec<u32>> {
    Ok(serde_json::from_slice(&std::fs::read(run.give_up())?)?)
}

/// The container's process with what this command changes.
fn process(run: &RunDir, request: &ExecRequest, init: ProcessId) -> Result<Value, ExecError> {
    let spec = Spec::load(run.bundle().join("config.json")).map_err(step("read the bundle"))?;
    let mut process = serde_json::to_value(spec.process()).map_err(step("read the bundle"))?;
    process["args"] = json!(request.argv);
    process["terminal"] = json!(request.tty.is_some());
    let root = format!("/proc/{}/root", init.pid);
    let mut env: Vec<String> = serde_json::from_value(process["env"].take()).unwrap_or_default();
    let mut set = |name: &str, value: &str| {
        let prefix = format!("{name}=");
        env.retain(|entry| !entry.starts_with(&prefix));
        env.push(format!("{prefix}{value}"));
    };
    if let Some(user) = &request.user {
        let found = resolve_user(&RootTree::Dir(root.clone().into()), user)
            .map_err(|error| ExecError::User { user: user.clone(), why: chain(&error) })?;
        let groups = with_primary(found.gid, found.additional_gids);
        process["user"] = json!({ "uid": found.uid, "gid": found.gid, "additionalGids": groups });
        set("HOME", &found.home);
    }
    if request.tty.is_some() {
        set("TERM", "xterm");
    }
    request.env.iter().for_each(|(name, value)| set(name, value));
    process["env"] = json!(env);
    if let Some(path) = &request.working_dir {
        let fail = |why: String| ExecError::WorkingDir { path: path.clone(), why };
        if !path.starts_with('/')
            || ["/proc", "/sys", "/dev"].iter().any(|root| Path::new(path).starts_with(root))
        {
            return Err(fail("must be absolute and not below /proc, /sys or /dev".into()));
        }
        let root = File::open(&root).map_err(step("open the container's root"))?;
        in_root::open(&root, path, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|error| fail(error.to_string()))?;
        process["cwd"] = json!(path);
    }
    if request.privileged {
        let held = own_capabilities().map_err(step("read the capabilities"))?;
        let all: Vec<String> = held.iter().map(|name| format!("CAP_{name}")).collect();
        process["capabilities"] =
            json!({ "bounding": all, "effective": all, "permitted": all, "inheritable": [], "ambient": [] });
    }
    Ok(process)
}

impl From<ProgramError> for ExecError {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::Missing { program, path } => Self::ProgramMissing { program, path },
            ProgramError::NotExecutable { program, why } => Self::ProgramNotExecutable { program, why },
            ProgramError::Step { step, why } => Self::System { step, why },
        }
    }
}
