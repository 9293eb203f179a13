//! Creating and starting the container with libcontainer, and the hook that becomes its program.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::system;
use crate::bundle::{ALL_CAPABILITIES, Bundle};
use crate::child;
use crate::error::StartError;
use crate::process::ProcessId;
use crate::program::{ProgramError, Report, TOO_LONG, become_program};
use crate::record::{RunDir, write_json};
use crate::request::StartRequest;
use crate::seccomp::Instruction;
use crate::template::PRIVATE;
use crate::{init, seccomp};

/// The name libcontainer knows the container by; its directory is the run's own.
pub(crate) const CONTAINER_ID: &str = "container";

/// Becomes the program inside the container; see `program`. Loads the filter last, so that it need not allow what comes
/// before.
#[derive(Debug, Clone)]
pub(crate) struct ProgramExecutor {
    pub(crate) seccomp: Option<Vec<Instruction>>,
    /// Write end of the report pipe.
    pub(crate) report: RawFd,
    /// How PID 1 becomes our reaper, if at all.
    pub(crate) init: Option<Init>,
    /// Capabilities held only for loading the filter.
    pub(crate) give_up: Vec<u32>,
}

/// How PID 1 becomes our reaper; see `init`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    /// By `execve` of our binary, opened.
    Execute(RawFd),
    /// As it is.
    Stay,
}

impl Executor for ProgramExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let argv = process.args().clone().unwrap_or_default();
        let env = process.env().clone().unwrap_or_default();
        let error = self.become_it(&argv, &env);
        Report::Failed(error).send(self.report);
        child::exit_now(127)
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The kernel judges at `execve`, with the container's own user and capabilities.
        Ok(())
    }

    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is given to `execve`.
        Ok(())
    }
}

impl ProgramExecutor {
    fn become_it(&self, argv: &[String], env: &[String]) -> ProgramError {
        let step =
            |step: &str, error: io::Error| ProgramError::Step { step: step.into(), why: error.to_string() };
        child::reset_signals();
        if let Err(error) = child::own_session_keyring() {
            return step("make a session keyring", error);
        }
        if let Some(program) = &self.seccomp
            && let Err(error) = child::load_seccomp(program)
        {
            return step("load the seccomp filter", error);
        }
        if let Err(error) = child::give_up_capabilities(&self.give_up) {
            return step("give up capabilities", error);
        }
        let own = match self.init {
            None => return become_program(argv, env),
            Some(Init::Stay) => init::run(self.report, argv, env),
            Some(Init::Execute(own)) => own,
        };
        if let Err(error) = child::set_cloexec(self.report, false) {
            return step("keep the report pipe", error);
        }
        let mut init_argv = vec!["carrack-init".to_owned(), init::MODE.to_owned(), self.report.to_string()];
        init_argv.extend_from_slice(argv);
        let error = child::execve_fd(own, &init_argv, env);
        if error.raw_os_error() == Some(libc::E2BIG) {
            let program = argv.first().cloned().unwrap_or_default();
            return ProgramError::NotExecutable { program, why: TOO_LONG.into() };
        }
        step("start the init process", error)
    }
}

/// Our ends of the container's streams.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// A terminal's master.
    Terminal(OwnedFd),
    /// Read ends of stdout and stderr, write end of stdin when it is open.
    Pipes { stdout: OwnedFd, stderr: OwnedFd, stdin: Option<OwnedFd> },
}

impl Stdio {
    pub(crate) fn stdin_fd(&self) -> Option<RawFd> {
        match self {
            Self::Terminal(master) => Some(master.as_raw_fd()),
            Self::Pipes { stdin, .. } => stdin.as_ref().map(AsRawFd::as_raw_fd),
        }
    }

    /// What tells the keeper to close an open stdin; a terminal is told by a character.
    pub(crate) fn close_stdin(&self) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Pipes { stdin: Some(_), .. } => Ok(Some(eventfd(0, EventfdFlags::CLOEXEC)?)),
            Self::Pipes { stdin: None, .. } | Self::Terminal(_) => Ok(None),
        }
    }
}

/// A container that is created and waits for its start.
pub(crate) struct Created {
    container: Container,
    pub(crate) init: ProcessId,
    pub(crate) stdio: Stdio,
    report: OwnedFd,
    has_init: bool,
}

/// A container whose program runs.
pub(crate) struct Started {
    pub(crate) init: ProcessId,
    pub(crate) stdio: Stdio,
    /// Read end of the report pipe: the program's end as our PID 1 saw it.
    pub(crate) report: OwnedFd,
}

/// Creates the container of a bundle.
pub(super) fn create(
    run: &RunDir,
    request: &StartRequest,
    bundle: &Bundle,
    program: Option<Vec<Instruction>>,
    own_exe: File,
) -> Result<Created, StartError> {
    let (report, report_write) = pipe()?;
    let give_up =
        if bundle.seccomp && !bundle.no_new_privileges { extra_capabilities(bundle) } else { Vec::new() };
    write_json(&run.give_up(), &give_up).map_err(system("write the capabilities"))?;
    let executor = ProgramExecutor {
        seccomp: program,
        report: report_write.as_raw_fd(),
        init: bundle
            .init
            .then(|| if init::is_static(&own_exe) { Init::Execute(own_exe.as_raw_fd()) } else { Init::Stay }),
        give_up,
    };
    std::fs::create_dir_all(run.oci()).map_err(system("make the state directory"))?;
    let builder = ContainerBuilder::new(CONTAINER_ID.to_owned(), SyscallType::default())
        .with_root_path(run.oci())
        .map_err(system("create the container"))?
        .with_executor(executor);
    let (builder, ends) = connect(builder, request)?;
    let container = builder
        .as_init(run.bundle())
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(system("create the container"))?;
    // Only the container holds the write end now; its closing is a message.
    drop(report_write);
    let pid = container.pid().map(|pid| pid.as_raw()).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let init = ProcessId::of(pid).map_err(system("look at the container's first process"))?;
    Ok(Created { container, init, stdio: ends.accept()?, report, has_init: bundle.init })
}

fn extra_capabilities(bundle: &Bundle) -> Vec<u32> {
    ["SYS_ADMIN", "SETPCAP"]
        .iter()
        .filter(|name| !bundle.capabilities.contains(**name))
        .filter_map(|name| ALL_CAPABILITIES.iter().position(|known| known == name))
        .filter_map(|number| u32::try_from(number).ok())
        .collect()
}

impl Created {
    /// Starts the program and returns when it runs.
    pub(super) fn start(mut self) -> Result<Started, StartError> {
        self.container.start().map_err(system("start the container"))?;
        let mut reader = BufReader::new(File::from(self.report));
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).map_err(system("hear of the program"))?;
        match Report::parse(&line).into_iter().next() {
            Some(Report::Failed(error)) => return Err(error.into()),
            Some(Report::Started | Report::Ended(_)) => {}
            // Without our PID 1, end of file is the sign of a successful `execve`.
            None if !self.has_init => {}
            None => {
                let why = "the init process ended before the program".into();
                return Err(StartError::System { step: "start the program".into(), why });
            }
        }
        // The reader may hold more already (a very short program): it is told apart by `Ended` and read again by nobody,
        // so what is buffered is kept by reading one line at a time from a fresh pipe position.
        let rest = reader.buffer().to_vec();
        let report = OwnedFd::from(reader.into_inner());
        Ok(Started { init: self.init, stdio: self.stdio, report: push_back(report, &rest)? })
    }
}

/// A descriptor that gives `rest` first: a new pipe, used only when something was read too early.
fn push_back(report: OwnedFd, rest: &[u8]) -> Result<OwnedFd, StartError> {
    if rest.is_empty() {
        return Ok(report);
    }
    let (read, write) = pipe()?;
    // One `Ended` line: far below a pipe's capacity, so this does not block.
    rustix::io::write(&write, rest).map_err(system("keep the program's end"))?;
    Ok(read)
}

impl From<ProgramError> for StartError {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::Missing { program, path } => Self::ProgramMissing { program, path },
            ProgramError::NotExecutable { program, why } => Self::ProgramNotExecutable { program, why },
            ProgramError::Step { step, why } => Self::System { step, why },
        }
    }
}

pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), StartError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(system("make a pipe"))
}

/// Our ends before the container exists.
enum Ends {
    Console { listener: UnixListener, path: PathBuf },
    Pipes(Stdio),
}

fn connect(
    builder: ContainerBuilder,
    request: &StartRequest,
) -> Result<(ContainerBuilder, Ends), StartError> {
    if request.spec.tty {
        let path = Path::new(PRIVATE).join("console.sock");
        let listener = UnixListener::bind(&path).map_err(system("make the console socket"))?;
        return Ok((builder.with_console_socket(Some(&path)), Ends::Console { listener, path }));
    }
    let ((stdout, stdout_write), (stderr, stderr_write)) = (pipe()?, pipe()?);
    let (stdin, stdin_read) = if request.spec.stdin_open {
        let (read, write) = pipe()?;
        (Some(write), read)
    } else {
        (None, dev_null()?)
    };
    let builder = builder.with_stdin(stdin_read).with_stdout(stdout_write).with_stderr(stderr_write);
    Ok((builder, Ends::Pipes(Stdio::Pipes { stdout, stderr, stdin })))
}

fn dev_null() -> Result<OwnedFd, StartError> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(system("open /dev/null"))
}

impl Ends {
    fn accept(self) -> Result<Stdio, StartError> {
        match self {
            Self::Pipes(stdio) => Ok(stdio),
            Self::Console { listener, path } => {
                let master = receive_terminal(&listener).map_err(system("receive the terminal"))?;
                std::fs::remove_file(path).map_err(system("remove the console socket"))?;
                Ok(Stdio::Terminal(master))
            }
        }
    }
}

/// Takes a terminal's master that was sent to a console socket.
pub(crate) fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (socket, _) = listener.accept()?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    recvmsg(&socket, &mut [io::IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("no terminal was sent"))
}

/// The filter of a run, as its supervisor wrote it.
pub(crate) fn read_seccomp(run: &RunDir) -> io::Result<Option<Vec<Instruction>>> {
    match std::fs::read(run.seccomp()) {
        Ok(bytes) => seccomp::from_bytes(&bytes)
            .map(Some)
            .ok_or_else(|| io::Error::other("the run's seccomp filter is damaged")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
