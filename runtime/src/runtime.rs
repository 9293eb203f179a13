//! The handle that the node holds: start, find again, signal, kill and remove runs.
//!
//! All functions block; the node calls them on blocking threads. Owns the layout on disk (`record`), the read-only image of
//! our own binary and the template mount namespace. Does not decide when anything is started or stopped.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use carrack_api::{CopyIn, CopyOut, Exit, fail};
use rustix::event::{PollFd, PollFlags, poll};

use crate::archive::{self, CopyError, CopySession};
use crate::cgroup::{CgroupSampler, Cgroups, TasksUnit, UnitError, now};
use crate::error::{ExecError, RuntimeError, StartError, chain};
use crate::exec::{self, ExecSession};
use crate::log::{LogQuery, LogReader};
use crate::open_files;
use crate::process::{ProcessId, boot_id};
use crate::record::{
    ExitRecord, FORMAT_VERSION, Layout, RunDir, SupervisorRecord, make_dir, read_json, remove_tree,
    write_json,
};
use crate::reexec;
use crate::request::{ExecRequest, RunId, RunRecord, RunState, StartRequest, Started};
use crate::supervise::{self, Answer, Launch};
use crate::template::Template;
use crate::volume::VolumeStore;

/// How long a start may take, unresponsive network file systems included.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a supervisor may take to write its record after its container was killed.
const KEEPER_DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer of a supervisor, in bytes.
const ANSWER_MAX_BYTES: u64 = 1 << 20;

/// Where a runtime keeps its things and what it calls itself.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Survives a reboot: logs, writable layers, volumes.
    pub state_dir: PathBuf,
    /// On tmpfs: bundles, records, sockets.
    pub runtime_dir: PathBuf,
    /// Tells installations on one host apart; the cgroups are below `/carrack-<instance>`.
    pub instance: String,
    /// The binary whose `main` calls [`crate::reexec::dispatch`]; `None` means the running one.
    pub exe: Option<PathBuf>,
    /// The unit of systemd that is to hold the cgroups in place of `/carrack-<instance>`.
    pub unit: Option<TasksUnit>,
}

/// The standard streams of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// They are a terminal.
    pub tty: bool,
    /// It takes input.
    pub stdin: bool,
}

/// The containers of one node.
#[derive(Debug)]
pub struct Runtime {
    layout: Layout,
    instance: String,
    volumes: VolumeStore,
    cgroups: Cgroups,
    /// Holds the cgroups, when they are below one.
    unit: Option<TasksUnit>,
    /// Our binary, by a path that systemd knows, too.
    exe: PathBuf,
    /// Taken by who makes it anew.
    unit_made: Mutex<()>,
    template: Template,
    /// Runs that are being started by this process; without a supervisor's record yet they are not lost.
    starting: Mutex<BTreeSet<RunId>>,
}

impl Runtime {
    /// Checks the host, makes the directories, prepares what all starts share and removes what a reboot left.
    pub fn open(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        if !RunId::new(config.instance.as_str(), 1).is_valid() {
            return Err(RuntimeError::Name(config.instance));
        }
        open_files::raise();
        make_dir(&config.state_dir, 0o711)?;
        make_dir(&config.runtime_dir, 0o711)?;
        let absolute = |path: &Path| fs::canonicalize(path).map_err(RuntimeError::file("find", path));
        let layout =
            Layout { state_dir: absolute(&config.state_dir)?, runtime_dir: absolute(&config.runtime_dir)? };
        make_dir(&layout.tasks(), 0o700)?;
        make_dir(&layout.task_states(), 0o711)?;
        let volumes = VolumeStore::open(layout.volumes())?;
        let exe = config.exe.unwrap_or_else(|| "/proc/self/exe".into());
        let own = absolute(&exe).unwrap_or_else(|_| exe.clone());
        let (cgroups, unit) = cgroups_in_unit(&config.instance, config.unit, &own)?;
        cgroups.supervisors().create()?;
        let template = Template::new(&layout, &exe)?;
        let runtime = Self {
            layout,
            instance: config.instance,
            volumes,
            cgroups,
            unit,
            exe: own,
            unit_made: Mutex::default(),
            template,
            starting: Mutex::default(),
        };
        runtime.sweep()?;
        Ok(runtime)
    }

    /// The named volumes.
    pub fn volumes(&self) -> &VolumeStore {
        &self.volumes
    }

    /// Starts a run and returns when its program runs. On failure nothing of the run is left.
    pub fn start(&self, request: &StartRequest) -> Result<Started, StartError> {
        let id = &request.id;
        if !id.is_valid() {
            return Err(StartError::Spec {
                field: "task".into(),
                why: format!("{:?} is not a task name", id.task),
            });
        }
        let twice =
            || StartError::System { step: format!("start {id}"), why: "this run was started already".into() };
        if !self.starting().insert(id.clone()) {
            return Err(twice());
        }
        let result = if self.layout.run(id).0.exists() { Err(twice()) } else { self.start_new(request) };
        self.starting().remove(id);
        result
    }

    fn start_new(&self, request: &StartRequest) -> Result<Started, StartError> {
        let id = &request.id;
        self.previous_runs_are_gone(id)?;
        match self.launch(request) {
            Ok(record) => {
                fail::pass("start.6-heard");
                Ok(started(&record))
            }
            Err(error) => Err(self.undo(id, error)),
        }
    }

    /// Makes the unit of all runs again when somebody has stopped it: what is started without one would have no limits.
    fn unit_is_there(&self) -> Result<(), RuntimeError> {
        let (Some(unit), Some(given)) = (&self.unit, self.cgroups.given()) else { return Ok(()) };
        if unit.is_there(given) {
            return Ok(());
        }
        let _one_at_a_time = self.unit_made.lock().unwrap_or_else(PoisonError::into_inner);
        if !unit.is_there(given) {
            tracing::warn!(unit = unit.name(), "the unit of all containers is gone, making it again");
            make_unit(unit, &self.instance, &self.exe)?;
            self.cgroups.supervisors().create()?;
        }
        Ok(())
    }

    /// Reserves memory again above the runs that have some reserved, where that was set back: to be called now and then.
    pub fn reserve_again(&self) -> io::Result<()> {
        self.cgroups.supervisors().reserve_above_again()
    }

    /// The directory of the cgroup that helpers of the daemon belong in, where they must not stay in the daemon's own.
    pub fn helpers_cgroup(&self) -> Option<PathBuf> {
        self.cgroups.given()?;
        self.cgroups.supervisors().dir("memory").map(Path::to_owned)
    }

    fn starting(&self) -> std::sync::MutexGuard<'_, BTreeSet<RunId>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No run starts before the cgroup of the previous one is empty.
    fn previous_runs_are_gone(&self, id: &RunId) -> Result<(), StartError> {
        let step = "look at the previous run";
        // All hierarchies hold the same cgroups until one is being removed; then it is empty.
        let mut found = Vec::new();
        for parent in self.cgroups.parents() {
            found.extend(
                parent
                    .dirs()
                    .first()
                    .map(|(_, dir)| names(dir))
                    .transpose()
                    .map_err(supervise::system(step))?,
            );
        }
        for other in
            found.into_iter().flatten().filter_map(|name| parse_run(&name)).filter(|run| run.task == id.task)
        {
            if !self.cgroups.run(&other).processes().map_err(supervise::system(step))?.is_empty() {
                return Err(StartError::PreviousRun(other.to_string()));
            }
        }
        Ok(())
    }

    fn launch(&self, request: &StartRequest) -> Result<SupervisorRecord, StartError> {
        let id = &request.id;
        self.unit_is_there().map_err(supervise::system("look after the unit of all containers"))?;
        let run = self.layout.run(id);
        let state = self.layout.run_state(id);
        let make =
            |path: &Path, mode| make_dir(path, mode).map_err(supervise::system("make the run's directories"));
        at("create.9-directories")?;
        make(&run.0, 0o700)?;
        make(&self.layout.task_state(&id.task), 0o711)?;
        make(&self.layout.log(&id.task), 0o700)?;
        make(&state.join("upper"), 0o755)?;
        make(&state.join("work"), 0o700)?;
        let launch = Launch {
            version: FORMAT_VERSION,
            layout: self.layout.clone(),
            instance: self.instance.clone(),
            parent: self.cgroups.given().map(str::to_owned),
            template: self.template.namespace_path(),
            request: request.clone(),
        };
        at("create.10-request")?;
        write_json(&run.request(), &launch).map_err(supervise::system("write the request"))?;
        at("create.11-spawn")?;
        self.spawn_supervisor(&run, request)?
    }

    fn spawn_supervisor(&self, run: &RunDir, request: &StartRequest) -> Result<Answer, StartError> {
        let step = "start the supervisor";
        let files = supervise::send_files(&request.files)
            .map_err(supervise::system("hand over secrets and configs"))?;
        let stderr = fs::File::create(run.stderr()).map_err(supervise::system(step))?;
        let mut child = reexec::command(&self.template.exe(), supervise::MODE)
            .arg(&run.0)
            .stdin(files.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(supervise::system(step))?;
        let stdout = child.stdout.take();
        // The first process forks and ends at once.
        child.wait().map_err(supervise::system(step))?;
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            read_until_closed(&OwnedFd::from(stdout), &mut text)
                .map_err(supervise::system("hear of the supervisor"))?;
        }
        serde_json::from_slice(&text).map_err(|_| {
            let said = fs::read_to_string(run.stderr()).unwrap_or_default();
            let why = if said.is_empty() { "it ended without an answer".into() } else { said };
            StartError::System { step: step.into(), why }
        })
    }

    /// Removes what a failed start left.
    fn undo(&self, id: &RunId, error: StartError) -> StartError {
        let removed = self.remove_run(id);
        // Stay when earlier runs left something in them.
        let _ = fs::remove_dir(self.layout.log(&id.task));
        let _ = fs::remove_dir(self.layout.task_state(&id.task));
        match removed {
            Ok(()) => error,
            Err(cleanup) => StartError::System { step: error.to_string(), why: chain(&cleanup) },
        }
    }

    /// All runs that have a directory, by task and run. A run without a live supervisor and without an exit record is
    /// killed here and recorded as failed for that reason.
    pub fn list(&self) -> Result<Vec<RunRecord>, RuntimeError> {
        let mut records = Vec::new();
        for id in self.run_ids()? {
            records.extend(self.inspect(&id)?);
        }
        Ok(records)
    }

    fn run_ids(&self) -> Result<Vec<RunId>, RuntimeError> {
        let mut ids = Vec::new();
        for task in names(&self.layout.tasks())? {
            for run in names(&self.layout.tasks().join(&task))? {
                ids.extend(run.parse().ok().map(|run| RunId::new(task.clone(), run)).filter(RunId::is_valid));
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Runs that have a cgroup.
    fn cgroup_runs(&self) -> Vec<RunId> {
        let mut ids = BTreeSet::new();
        for parent in self.cgroups.parents() {
            for (_, dir) in parent.dirs() {
                ids.extend(names(dir).unwrap_or_default().iter().filter_map(|name| parse_run(name)));
            }
        }
        ids.into_iter().collect()
    }

    /// One run; `None` when there is no trace of it.
    pub fn inspect(&self, id: &RunId) -> Result<Option<RunRecord>, RuntimeError> {
        let run = self.layout.run(id);
        if !run.0.exists() {
            return Ok(None);
        }
        // The exit record is looked at last again: a supervisor writes it and then ends.
        let record: Option<SupervisorRecord> = match read_json(&run.supervisor()) {
            // Who supervises it cannot be told any more: one run is given up, not the whole host.
            Err(RuntimeError::Damaged { .. }) => {
                let exit = match read_exit(&run)? {
                    Some(exit) => exit,
                    None => self.end(id, "its supervisor's record is damaged, so it was killed")?,
                };
                return Ok(Some(RunRecord {
                    id: id.clone(),
                    state: RunState::Exited(exit),
                    stop_signal: libc::SIGTERM,
                }));
            }
            record => record?,
        };
        let stop_signal = record.as_ref().map_or(libc::SIGTERM, |record| record.stop_signal);
        let state = match (read_exit(&run)?, &record) {
            (Some(exit), _) => RunState::Exited(exit),
            (None, Some(record)) if supervised(record)? => match (record.started, record.init) {
                (true, Some(init)) => {
                    RunState::Running { init_pid: init.pid, supervisor_pid: record.supervisor.pid }
                }
                _ => RunState::Starting,
            },
            (None, None) if self.starting().contains(id) => RunState::Starting,
            (None, _) => match read_exit(&run)? {
                Some(exit) => RunState::Exited(exit),
                None => RunState::Exited(self.lost(id, record.as_ref())?),
            },
        };
        Ok(Some(RunRecord { id: id.clone(), state, stop_signal }))
    }

    /// Kills what a lost supervisor left and records the end.
    fn lost(&self, id: &RunId, record: Option<&SupervisorRecord>) -> Result<Exit, RuntimeError> {
        self.end(
            id,
            match record {
                None => "it was never started: the daemon ended before",
                Some(record) if record.boot_id != this_boot()? => "the host was restarted",
                Some(_) => "its supervisor was lost, so it was killed",
            },
        )
    }

    /// Kills all processes of a run and records why.
    fn end(&self, id: &RunId, error: &str) -> Result<Exit, RuntimeError> {
        let boot_id = this_boot()?;
        self.cgroups.run(id).kill()?;
        let exit = Exit {
            code: 137,
            signal: Some(libc::SIGKILL),
            oom: false,
            peak_memory: None,
            at: now(),
            error: Some(error.into()),
        };
        let record = ExitRecord { version: FORMAT_VERSION, boot_id, exit: exit.clone(), dropped_frames: 0 };
        let path = self.layout.run(id).exit();
        write_json(&path, &record).map_err(RuntimeError::file("write", path))?;
        Ok(exit)
    }

    /// A pidfd that becomes readable when the run has ended; then ask [`Runtime::exit`]. `NotRunning` when that is so
    /// already.
    pub fn wait_fd(&self, id: &RunId) -> Result<OwnedFd, RuntimeError> {
        let record = self.record(id)?;
        self.open_process(record.supervisor)?.ok_or_else(|| RuntimeError::NotRunning(id.clone()))
    }

    fn open_process(&self, process: ProcessId) -> Result<Option<OwnedFd>, RuntimeError> {
        process.open().map_err(|source| RuntimeError::Process { what: "open", pid: process.pid, source })
    }

    /// How the run ended; `None` while it runs.
    pub fn exit(&self, id: &RunId) -> Result<Option<Exit>, RuntimeError> {
        match self.inspect(id)?.ok_or_else(|| RuntimeError::NoRun(id.clone()))?.state {
            RunState::Exited(exit) => Ok(Some(exit)),
            RunState::Starting | RunState::Running { .. } => Ok(None),
        }
    }

    /// The supervisor's record of a run that has not ended.
    fn record(&self, id: &RunId) -> Result<SupervisorRecord, RuntimeError> {
        let run = self.layout.run(id);
        if !run.0.exists() {
            return Err(RuntimeError::NoRun(id.clone()));
        }
        match read_supervisor(&run)? {
            Some(record) if !run.exit().exists() && supervised(&record)? => Ok(record),
            Some(_) | None => Err(RuntimeError::NotRunning(id.clone())),
        }
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, id: &RunId, signal: i32) -> Result<(), RuntimeError> {
        let init = self.record(id)?.init.ok_or_else(|| RuntimeError::NotRunning(id.clone()))?;
        match init.signal(signal) {
            Ok(true) => Ok(()),
            Ok(false) => Err(RuntimeError::NotRunning(id.clone())),
            Err(source) => Err(RuntimeError::Process { what: "signal", pid: init.pid, source }),
        }
    }

    /// Kills all processes of the run and returns when its cgroup is empty and its exit is recorded. Idempotent.
    pub fn kill(&self, id: &RunId) -> Result<(), RuntimeError> {
        let run = self.layout.run(id);
        if let Some(record) = read_supervisor(&run)?
            && supervised(&record)?
        {
            let pid = record.supervisor.pid;
            let fail = |source| RuntimeError::Process { what: "end", pid, source };
            let pidfd = record.supervisor.open().map_err(fail)?;
            if !record.started {
                record.supervisor.signal(libc::SIGKILL).map_err(fail)?;
            }
            self.cgroups.run(id).kill()?;
            if let Some(pidfd) = pidfd {
                wait_readable(&pidfd, KEEPER_DEADLINE).map_err(fail)?;
            }
        }
        self.cgroups.run(id).kill()?;
        // Records the end when the supervisor could not.
        self.inspect(id)?;
        Ok(())
    }

    /// Removes what a run left: cgroup, writable layer, directories. Kills what still runs. Idempotent.
    pub fn remove_run(&self, id: &RunId) -> Result<(), RuntimeError> {
        if !id.is_valid() {
            return Err(RuntimeError::Name(id.task.clone()));
        }
        let run = self.layout.run(id);
        let at = |step| fail::point(step).map_err(RuntimeError::file("remove", &run.0));
        at("remove.1-run")?;
        self.kill(id)?;
        at("remove.2-cgroup")?;
        self.cgroups.run(id).remove()?;
        at("remove.3-layer")?;
        remove_tree(&self.layout.run_state(id))?;
        at("remove.4-directory")?;
        remove_tree(&run.0)?;
        // Stays while other runs of the task are there.
        let _ = fs::remove_dir(self.layout.tasks().join(&id.task));
        Ok(())
    }

    /// Removes all runs of a task and its anonymous volumes; its logs only when asked. Idempotent.
    pub fn remove_task(&self, task: &str, logs: bool) -> Result<(), RuntimeError> {
        if !RunId::new(task, 1).is_valid() {
            return Err(RuntimeError::Name(task.into()));
        }
        let at = |step| fail::point(step).map_err(RuntimeError::file("remove", self.layout.task_state(task)));
        at("remove.9-task")?;
        let of_task = self.run_ids()?.into_iter().chain(self.cgroup_runs()).filter(|id| id.task == task);
        for id in of_task.collect::<BTreeSet<_>>() {
            self.remove_run(&id)?;
        }
        at("remove.10-volumes")?;
        remove_tree(&self.layout.anonymous_volumes(task))?;
        if logs {
            remove_tree(&self.layout.task_state(task))?;
        } else {
            let _ = fs::remove_dir(self.layout.task_state(task));
        }
        Ok(())
    }

    /// Takes away the cgroups that all runs share, once no run is left: the last thing before a host is given back.
    /// Idempotent; a process that is still in one of them makes it fail.
    pub fn release(&self) -> Result<(), RuntimeError> {
        self.cgroups.release()?;
        match &self.unit {
            Some(unit) => Ok(unit.stop()?),
            None => Ok(()),
        }
    }

    /// Tasks that have a log or volumes on disk, also those without runs.
    pub fn tasks_on_disk(&self) -> Result<Vec<String>, RuntimeError> {
        names(&self.layout.task_states())
    }

    /// Runs a command in a container.
    pub fn exec(&self, id: &RunId, request: &ExecRequest) -> Result<ExecSession, ExecError> {
        self.record(id).map_err(|error| match error {
            RuntimeError::NotRunning(_) | RuntimeError::NoRun(_) => ExecError::NotRunning(id.to_string()),
            other => ExecError::System { step: "find the run".into(), why: chain(&other) },
        })?;
        exec::start(&self.template.exe(), &self.layout.run(id), request)
    }

    /// Copies files out of (`Ok`) or into (`Err`) a container: starts it, and says what goes out.
    pub fn copy(&self, id: &RunId, what: Result<&CopyOut, &CopyIn>) -> Result<CopySession, CopyError> {
        let record = self.record(id).map_err(|error| match error {
            RuntimeError::NotRunning(_) | RuntimeError::NoRun(_) => CopyError::NotRunning(id.to_string()),
            other => CopyError::System { step: "find the run".into(), why: chain(&other) },
        })?;
        let init = record.init.ok_or_else(|| CopyError::NotRunning(id.to_string()))?;
        let cgroups = (self.instance.as_str(), self.cgroups.given());
        archive::start(&self.template.exe(), init, cgroups, &id.to_string(), what)
    }

    /// The write end of the container's stdin, or its terminal (its output is in the log). [`RuntimeError::NoStdin`] when it
    /// has none, or none any more.
    pub fn attach_stdin(&self, id: &RunId) -> Result<OwnedFd, RuntimeError> {
        let record = self.record(id)?;
        let fd = record.stdin_fd.ok_or_else(|| RuntimeError::NoStdin(id.clone()))?;
        self.take(id, &record, fd)
    }

    /// A descriptor of a run's supervisor.
    fn take(&self, id: &RunId, record: &SupervisorRecord, fd: i32) -> Result<OwnedFd, RuntimeError> {
        let pid = record.supervisor.pid;
        let fail = |source| RuntimeError::Process { what: "take a descriptor of", pid, source };
        let pidfd =
            record.supervisor.open().map_err(fail)?.ok_or_else(|| RuntimeError::NotRunning(id.clone()))?;
        match rustix::process::pidfd_getfd(&pidfd, fd, rustix::process::PidfdGetfdFlags::empty()) {
            Ok(taken) => Ok(taken),
            // Closed before: by who asked for that, by the container, or because the supervisor is ending right now.
            Err(rustix::io::Errno::BADF) => Err(RuntimeError::NoStdin(id.clone())),
            Err(rustix::io::Errno::SRCH) => Err(RuntimeError::NotRunning(id.clone())),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Closes the container's stdin, for everybody who attached, once they have let their ends go. A terminal's input ends by
    /// a character: [`RuntimeError::NoStdin`].
    pub fn close_stdin(&self, id: &RunId) -> Result<(), RuntimeError> {
        let record = self.record(id)?;
        let fd = record.close_stdin_fd.ok_or_else(|| RuntimeError::NoStdin(id.clone()))?;
        let close = self.take(id, &record, fd)?;
        let pid = record.supervisor.pid;
        rustix::io::write(&close, &1_u64.to_ne_bytes()).map(drop).map_err(|error| RuntimeError::Process {
            what: "close standard input in",
            pid,
            source: error.into(),
        })
    }

    /// Whether a run has a terminal, and whether it takes input.
    pub fn streams(&self, id: &RunId) -> Result<Streams, RuntimeError> {
        let record = self.record(id)?;
        Ok(Streams { tty: record.tty, stdin: record.stdin_fd.is_some() })
    }

    /// Sets the size of the container's terminal.
    pub fn resize(&self, id: &RunId, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        let record = self.record(id)?;
        if !record.tty {
            return Err(RuntimeError::NoStdin(id.clone()));
        }
        let pid = record.supervisor.pid;
        exec::set_size(&self.attach_stdin(id)?, columns, rows).map_err(|source| RuntimeError::Process {
            what: "resize the terminal of",
            pid,
            source,
        })
    }

    /// A reader of the run's cgroup on kept descriptors.
    pub fn sampler(&self, id: &RunId) -> Result<CgroupSampler, RuntimeError> {
        CgroupSampler::open(&self.cgroups.run(id))
    }

    /// The task's log, of all its runs, also of dead ones.
    pub fn logs(&self, task: &str, query: LogQuery) -> Result<LogReader, RuntimeError> {
        if !RunId::new(task, 1).is_valid() {
            return Err(RuntimeError::Name(task.into()));
        }
        LogReader::open(&self.layout.log(task), query)
    }

    /// Removes runs of which only a cgroup or a writable layer is left: the runtime directory did not outlive a reboot.
    fn sweep(&self) -> Result<(), RuntimeError> {
        for id in self.cgroup_runs() {
            if !self.layout.run(&id).0.exists() {
                self.remove_run(&id)?;
            }
        }
        for task in names(&self.layout.task_states())? {
            for run in names(&self.layout.task_state(&task))? {
                let Ok(run) = run.parse() else { continue };
                let id = RunId::new(task.clone(), run);
                if !self.layout.run(&id).0.exists() {
                    remove_tree(&self.layout.run_state(&id))?;
                }
            }
        }
        Ok(())
    }
}

/// Where runs are: below the unit's cgroup when there is to be one. systemd's own programs may be missing on a small host: then as
/// everywhere else, which a reload of systemd may take the limits from.
fn cgroups_in_unit(
    instance: &str,
    unit: Option<TasksUnit>,
    exe: &Path,
) -> Result<(Cgroups, Option<TasksUnit>), RuntimeError> {
    let Some(unit) = unit else { return Ok((Cgroups::detect(instance)?, None)) };
    match make_unit(&unit, instance, exe) {
        Ok(cgroup) => Ok((Cgroups::detect_below(instance, Some(&cgroup))?, Some(unit))),
        Err(RuntimeError::Unit(error @ UnitError::NoProgram { .. })) => {
            tracing::warn!(
                error = chain(&error),
                "containers have no unit of systemd: a reload of systemd may take limits from them"
            );
            Ok((Cgroups::detect(instance)?.and_of_unit(&unit), None))
        }
        Err(error) => Err(error),
    }
}

/// The unit's cgroup, made where it is not there. What runs in a unit that was stopped is not wanted there.
fn make_unit(unit: &TasksUnit, instance: &str, exe: &Path) -> Result<String, RuntimeError> {
    unit.ensure(exe, |cgroup| {
        let cgroups = Cgroups::detect_below(instance, Some(cgroup))?;
        cgroups.parent().kill()?;
        cgroups.parent().remove()
    })?
}

/// Whether a run's supervisor lives. Not to know is an error: a run is only taken for lost, and killed, when it surely is.
fn supervised(record: &SupervisorRecord) -> Result<bool, RuntimeError> {
    let pid = record.supervisor.pid;
    let look = |source| RuntimeError::Process { what: "look at", pid, source };
    Ok(this_boot()? == record.boot_id && record.supervisor.runs().map_err(look)?)
}

/// A fail point as a step of a start.
fn at(step: &'static str) -> Result<(), StartError> {
    fail::point(step).map_err(supervise::system(step))
}

fn this_boot() -> Result<String, RuntimeError> {
    boot_id().map_err(RuntimeError::file("read", "/proc/sys/kernel/random/boot_id"))
}

fn started(record: &SupervisorRecord) -> Started {
    Started {
        init_pid: record.init.map_or(0, |init| init.pid),
        supervisor_pid: record.supervisor.pid,
        stop_signal: record.stop_signal,
        warnings: record.warnings.clone(),
    }
}

/// The supervisor's record; a damaged one tells no more than none.
fn read_supervisor(run: &RunDir) -> Result<Option<SupervisorRecord>, RuntimeError> {
    match read_json(&run.supervisor()) {
        Err(RuntimeError::Damaged { .. }) => Ok(None),
        record => record,
    }
}

fn read_exit(run: &RunDir) -> Result<Option<Exit>, RuntimeError> {
    Ok(read_json::<ExitRecord>(&run.exit())?.map(|record| record.exit))
}

/// The run that a cgroup is named after.
fn parse_run(name: &str) -> Option<RunId> {
    let (task, run) = name.rsplit_once('.')?;
    Some(RunId::new(task, run.parse().ok()?)).filter(RunId::is_valid)
}

/// Names in a directory; none when it is not there.
fn names(dir: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(RuntimeError::file("read", dir)(error)),
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Reads to the end of file, at most for [`START_DEADLINE`].
fn read_until_closed(fd: &OwnedFd, text: &mut Vec<u8>) -> io::Result<()> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut file = fs::File::from(fd.try_clone()?).take(ANSWER_MAX_BYTES);
    let mut buffer = [0; 4096];
    loop {
        wait_readable(fd, deadline.saturating_duration_since(Instant::now()))?;
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Waits until a descriptor is readable; an error after the time.
pub(crate) fn wait_readable(fd: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
