//! The supervisor process, first half: from a request to a running container. See `docs/supervisor.md`.
//!
//! ```text
//! daemon --spawn--> __supervise --fork--> (first process exits: the daemon has nothing to reap)
//!                       |  own session and cgroup, template mount namespace, overlay, bundle
//!                       |  libcontainer create + start; the program runs
//!                       |  report to the daemon over stdout
//!                       '--execve--> __keep (same pid, same child, same pipes): `keep`
//! ```
//!
//! On failure everything made here is undone, and a [`StartError`] is the report. Owns no decision.

mod create;
mod facts;
mod injected;
mod mounts;
mod rootfs;
mod targets;

pub(crate) use create::{CONTAINER_ID, ProgramExecutor, Started, Stdio, read_seccomp, receive_terminal};

pub(crate) use facts::own_capabilities;
pub(crate) use injected::send as send_files;
pub(crate) use rootfs::with_primary;

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use carrack_api::{Exit, fail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::DumpableBehavior;
use serde::{Deserialize, Serialize};

use crate::bundle::{self, Bundle};
use crate::cgroup::{Cgroups, now};
use crate::child;
use crate::error::{StartError, chain};
use crate::keep::KeepState;
use crate::process::{ProcessId, boot_id};
use crate::record::{ExitRecord, FORMAT_VERSION, Layout, RunDir, SupervisorRecord, read_json, write_json};
use crate::request::StartRequest;
use crate::{seccomp, template};

/// The mode's name on the command line; the argument is the run's directory.
pub(crate) const MODE: &str = "__supervise";

/// `request.json`: what the daemon gives a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) version: u32,
    pub(crate) layout: Layout,
    pub(crate) instance: String,
    /// The cgroup that was given to us to hold those of all runs.
    #[serde(default)]
    pub(crate) parent: Option<String>,
    /// Where the template namespace can be opened.
    pub(crate) template: PathBuf,
    pub(crate) request: StartRequest,
}

/// The answer over stdout.
pub(crate) type Answer = Result<SupervisorRecord, StartError>;

/// Runs the mode.
pub(crate) fn main(arguments: &[String]) -> ! {
    match child::fork() {
        Ok(None) => {}
        Ok(Some(_)) => child::exit_now(0),
        Err(error) => fail(system("fork")(error)),
    }
    let Some(run) = arguments.first().map(|path| RunDir(path.into())) else {
        fail(StartError::System { step: "read the arguments".into(), why: "no directory given".into() })
    };
    match Supervisor::begin(run).and_then(Supervisor::start) {
        Ok(never) => match never {},
        Err(error) => fail(error),
    }
}

fn fail(error: StartError) -> ! {
    let answer: Answer = Err(error);
    send(&answer);
    child::exit_now(1)
}

fn send(answer: &Answer) {
    // The daemon may be gone; adoption finds the truth in the files.
    if let Ok(text) = serde_json::to_vec(answer) {
        let _ = std::io::stdout().write_all(&text).and_then(|()| std::io::stdout().flush());
    }
}

/// A fail point as a step of a start.
fn at(step: &'static str) -> Result<(), StartError> {
    fail::point(step).map_err(system(step))
}

pub(crate) fn system<E: std::error::Error>(step: &str) -> impl FnOnce(E) -> StartError {
    let step = step.to_owned();
    move |error| StartError::System { step, why: chain(&error) }
}

struct Supervisor {
    run: RunDir,
    launch: Launch,
    cgroups: Cgroups,
    record: SupervisorRecord,
}

impl Supervisor {
    /// Detaches from the daemon and says who we are.
    fn begin(run: RunDir) -> Result<Self, StartError> {
        let mut launch: Launch = read_json(&run.request())
            .map_err(system("read the request"))?
            .filter(|launch: &Launch| launch.version == FORMAT_VERSION)
            .ok_or_else(|| StartError::System {
                step: "read the request".into(),
                why: "no request of ours".into(),
            })?;
        // Until we become the keeper we hold secrets: no core of ours has them, wherever cores go.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(system("leave no core"))?;
        injected::receive(&mut launch.request.files).map_err(system("take over secrets and configs"))?;
        rustix::process::setsid().map_err(system("start a session"))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(system("become subreaper"))?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        child::ignore_signals(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE]);
        let cgroups = Cgroups::detect_below(&launch.instance, launch.parent.as_deref())
            .map_err(system("look at the cgroups"))?;
        let own = cgroups.supervisors();
        own.create().and_then(|()| own.join()).map_err(system("enter the supervisors' cgroup"))?;
        at("create.12-record")?;
        let record = SupervisorRecord {
            version: FORMAT_VERSION,
            boot_id: boot_id().map_err(system("read the boot id"))?,
            supervisor: ProcessId::own().map_err(system("look at the own process"))?,
            init: None,
            started: false,
            stop_signal: libc::SIGTERM,
            cgroup: cgroups.run(&launch.request.id).path().to_owned(),
            stdin_fd: None,
            close_stdin_fd: None,
            tty: launch.request.spec.tty,
            warnings: Vec::new(),
        };
        write_json(&run.supervisor(), &record).map_err(system("write the supervisor's record"))?;
        Ok(Self { run, launch, cgroups, record })
    }

    /// Starts the container and becomes its keeper.
    fn start(self) -> Result<Infallible, StartError> {
        let cgroup = self.cgroups.run(&self.launch.request.id);
        let (run, boot_id) = (RunDir(self.run.0.clone()), self.record.boot_id.clone());
        // Only reached on failure. The daemon removes the directories; processes and cgroup are ours.
        let error = match self.start_container() {
            Ok(never) => return Ok(never),
            Err(error) => error,
        };
        let error = match cgroup.kill().and_then(|()| cgroup.remove()) {
            Ok(()) => error,
            Err(cleanup) => StartError::System { step: error.to_string(), why: chain(&cleanup) },
        };
        // For a daemon that comes later, when the one that asked is gone.
        let text = format!("could not be started: {error}");
        let exit =
            Exit { code: 128, signal: None, oom: false, peak_memory: None, at: now(), error: Some(text) };
        let record = ExitRecord { version: FORMAT_VERSION, boot_id, exit, dropped_frames: 0 };
        write_json(&run.exit(), &record).map_err(system("write the exit record"))?;
        Err(error)
    }

    fn start_container(mut self) -> Result<Infallible, StartError> {
        let request = &self.launch.request;
        at("create.13-sources")?;
        let locks = lock_layers(&request.lowerdirs)?;
        let own_exe = File::open("/proc/self/exe").map_err(system("open the own binary"))?;
        let netns = facts::open_netns(&request.network)?;
        let sources = mounts::open_sources(&self.launch)?;
        let layers = mounts::open_layers(&request.lowerdirs)?;
        let mut host = facts::host(request.spec.security.privileged).map_err(system("look at the host"))?;
        let devices = facts::devices(&request.spec.devices)?;
        let disks = facts::disks(&request.spec.limits.io)?;
        let host_hosts = facts::host_hosts(&request.network);
        at("create.14-namespace")?;
        template::enter(&self.launch.template).map_err(system("enter the mount namespace"))?;
        template::own_place().map_err(system("make a place for the mounts"))?;

        at("create.15-cgroup")?;
        let cgroup = self.cgroups.run(&request.id);
        cgroup.create().and_then(|()| cgroup.bound_nested()).map_err(system("make the cgroup"))?;
        host.cgroup = cgroup.facts();
        let given = (!request.spec.security.privileged).then(|| devices.clone());
        if let Some(given) = &given {
            let own = &request.spec.device_rules;
            cgroup.restrict_devices(given, own).map_err(system("restrict the devices of the cgroup"))?;
        }
        at("create.16-rootfs")?;
        let prepared = rootfs::prepare(rootfs::Parts {
            launch: &self.launch,
            run: &self.run,
            cgroup: &cgroup,
            layers,
            sources,
            netns: netns.as_ref(),
            devices,
            disks,
            host_hosts,
        })?;
        // What is forked from here on has them no more.
        injected::wipe(&mut self.launch.request.files);
        let request = &self.launch.request;
        at("create.18-bundle")?;
        let bundle = bundle::build(request, &prepared, &host)?;
        let program = self.write_bundle(&bundle)?;
        self.record.stop_signal = bundle.stop_signal;
        self.record.warnings = bundle.warnings.clone();
        at("create.19-container")?;
        let working_dir = bundle::working_dir(request)?;
        let container = create::create(&self.run, request, &bundle, program, own_exe).map_err(|error| {
            let error = targets::blame_target(error, &prepared.mounts);
            targets::blame_working_dir(error, prepared.working_dir_is_plain, &working_dir)
        })?;
        if request.spec.limits.memory_reservation.is_some() {
            cgroup.reserve_above().map_err(system("reserve memory for the cgroup"))?;
        }
        if let Some(given) = &given {
            let own = &request.spec.device_rules;
            cgroup
                .restrict_devices_further(given, own)
                .map_err(system("restrict the devices of the cgroup"))?;
        }
        at("create.20-created")?;
        self.record.init = Some(container.init);
        self.record.stdin_fd = container.stdio.stdin_fd();
        let close_stdin =
            container.stdio.close_stdin().map_err(system("make a way to close standard input"))?;
        self.record.close_stdin_fd = close_stdin.as_ref().map(AsRawFd::as_raw_fd);
        write_json(&self.run.supervisor(), &self.record).map_err(system("write the supervisor's record"))?;
        let log = rustix::fs::open(
            self.launch.layout.log(&request.id.task),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(system("open the log"))?;
        at("start.1-start")?;
        let started = container.start()?;
        at("start.2-started")?;
        self.record.started = true;
        write_json(&self.run.supervisor(), &self.record).map_err(system("write the supervisor's record"))?;
        let keep = KeepState::new(&self.run, request, started, log, &cgroup)
            .and_then(|keep| keep.with_close_stdin(close_stdin))
            .map_err(system("hand over to the keeper"))?;
        drop(netns);
        for lock in locks {
            child::leave_open(lock).map_err(system("keep the layers locked"))?;
        }
        at("start.3-answer")?;
        send(&Ok(self.record.clone()));
        at("start.4-keep")?;
        // On failure the program runs and nobody would keep it: it is ended.
        keep.execute().map_err(system("become the keeper"))
    }

    fn write_bundle(&self, bundle: &Bundle) -> Result<Option<Vec<seccomp::Instruction>>, StartError> {
        let dir = self.run.bundle();
        std::fs::create_dir_all(&dir).map_err(system("make the bundle"))?;
        bundle.spec.save(dir.join("config.json")).map_err(system("write the bundle"))?;
        let program = bundle.seccomp.then(|| seccomp::compile(&seccomp::profile(&bundle.capabilities)));
        if let Some(program) = &program {
            std::fs::write(self.run.seccomp(), seccomp::to_bytes(program))
                .map_err(system("write the seccomp filter"))?;
        }
        Ok(program)
    }
}

/// Shared locks on the layers, held as long as the container runs: the image store removes no locked layer.
fn lock_layers(layers: &[PathBuf]) -> Result<Vec<OwnedFd>, StartError> {
    let lock = |path: &PathBuf| {
        let dir =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        flock(&dir, FlockOperation::NonBlockingLockShared)?;
        Ok(dir)
    };
    let fail = |path: &Path, error: rustix::io::Errno| StartError::System {
        step: format!("lock the image layer {}", path.display()),
        why: error.to_string(),
    };
    layers.iter().map(|path| lock(path).map_err(|error| fail(path, error))).collect()
}

/// The path of a descriptor for libraries that take paths.
pub(crate) fn fd_path(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
