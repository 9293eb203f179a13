//! Fail points: numbered steps at which a process of ours can be made to die, to fail or to stand still.
//!
//! `CARRACK_FAIL=create.3-rootfs:kill,store.2-sync@5:error` in the environment of `carrack daemon`. A step is `NAME`, or
//! `NAME@N` for its N-th pass within one process; what happens there is `kill` (SIGKILL to the own process), `error` (the step
//! fails with an error that names it) or `pause` (SIGSTOP to the own process, which goes on after SIGCONT). With
//! `CARRACK_FAIL_ONCE=DIRECTORY` a step fires once for all processes together and leaves a file of its name there.
//!
//! Owns the list of all steps, [`STEPS`]; a test compares it with the call sites, and another walks all of it. The daemon hands
//! both variables to its own children by [`environment`], never to a container. Where nothing was armed a point is one load.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names the steps and what happens there.
pub const VARIABLE: &str = "CARRACK_FAIL";
/// Names a directory in which a step that fired leaves a file, so that it fires only once.
pub const ONCE_VARIABLE: &str = "CARRACK_FAIL_ONCE";
/// Steps that can be armed at once.
const ARMED_MAX: usize = 16;

/// A place in the code that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// `OPERATION.NUMBER-NAME`; numbers are the order within the operation.
    pub name: &'static str,
    /// Where it is passed.
    pub process: Process,
    /// Whether it can be made to fail; else only `kill` and `pause` mean something.
    pub fails: bool,
    /// What is about to happen, or has just happened.
    pub what: &'static str,
}

/// Which of our processes passes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The daemon.
    Daemon,
    /// The supervisor of a container, before or after it became the keeper.
    Supervisor,
    /// The child that unpacks a layer.
    Unpack,
    /// The child that makes the template mount namespace.
    Template,
    /// The child that runs a command in a container.
    Exec,
    /// The data plane.
    DataPlane,
}

const fn step(name: &'static str, process: Process, what: &'static str) -> Step {
    Step { name, process, fails: true, what }
}

/// A step at which nothing can go wrong but the end of the process.
const fn sure(name: &'static str, process: Process, what: &'static str) -> Step {
    Step { name, process, fails: false, what }
}

/// All steps, in the order in which they are passed.
pub const STEPS: &[Step] = {
    use Process::*;
    &[
        step("store.1-create", Daemon, "the first log is written beside its place and not renamed yet"),
        step("store.2-append", Daemon, "a group of transactions is about to be appended"),
        step("store.3-sync", Daemon, "it is appended and not synced yet"),
        sure("store.4-answer", Daemon, "it is durable and nobody has been told yet"),
        step("store.5-snapshot", Daemon, "the log is about to be folded into a snapshot"),
        step("store.6-snapshot-rename", Daemon, "the new snapshot is synced and not renamed yet"),
        step("store.7-log", Daemon, "the new snapshot is in its place, the old log still in its"),
        step("store.8-log-rename", Daemon, "the new log is synced and not renamed yet"),
        step("store.9-reopen", Daemon, "both are in their places, the new log is not open yet"),
        step("events.1-append", Daemon, "events are about to be appended"),
        sure("events.2-appended", Daemon, "they are appended and nobody has been told yet"),
        step("identity.1-write", Daemon, "the node's identity is about to be written"),
        step("identity.2-rename", Daemon, "it is synced and not renamed yet"),
        step(
            "template.1-make",
            Template,
            "the mount namespace that supervisors start from is about to be made",
        ),
        step("ledger.1-assignment", Daemon, "the assignment is about to be written to the ledger"),
        step("ledger.2-assignment-rename", Daemon, "it is synced and not renamed yet"),
        step("ledger.3-tasks", Daemon, "the facts of the tasks are about to be written"),
        step("ledger.4-tasks-rename", Daemon, "they are synced and not renamed yet"),
        sure("ledger.5-written", Daemon, "the ledger is written and no step that waits for it goes on yet"),
        step("network.1-open", Daemon, "the host's network is about to be taken"),
        sure("network.2-opened", Daemon, "it is taken, what runs is not wired again yet"),
        sure("network.3-rewired", Daemon, "what runs is wired again, links of nobody are not removed yet"),
        step("network.4-reserve", Daemon, "published ports are about to be reserved"),
        step("network.5-tables", Daemon, "ports are reserved, the tables are not changed yet"),
        step("network.6-names", Daemon, "the tables are changed, names are not published yet"),
        sure("network.7-published", Daemon, "names are published, the loop has not heard of it yet"),
        step("dataplane.1-serve", DataPlane, "the data plane has its sockets and serves nothing yet"),
        step("dataplane.2-ready", DataPlane, "it serves and cannot be asked for anything yet"),
        step("dataplane.3-load", DataPlane, "it is about to load a published snapshot"),
        step("pull.1-manifest", Daemon, "the registry is about to be asked what an image is"),
        step("pull.2-document", Daemon, "a manifest or index is about to be stored"),
        step("pull.3-blob", Daemon, "a blob is about to be fetched, or gone on with"),
        step("pull.4-partial", Daemon, "some of a blob is written"),
        step("pull.5-blob-rename", Daemon, "a blob is complete and not in its place yet"),
        step("pull.6-unpack", Daemon, "a layer is about to be unpacked"),
        step("pull.7-layer-rename", Daemon, "it is unpacked and not in its place yet"),
        step("pull.8-sync", Daemon, "all of the image is there and not synced yet"),
        step("pull.9-index", Daemon, "it is synced and not in the index yet"),
        step("pull.10-index-rename", Daemon, "the new index is synced and not renamed yet"),
        sure("pull.11-visible", Daemon, "the image is visible and nobody has been told yet"),
        step("unpack.1-confine", Unpack, "the child that unpacks a layer is about to confine itself"),
        sure("create.1-assigned", Daemon, "an assignment was accepted and is not remembered yet"),
        step("create.2-namespace", Daemon, "a network namespace is about to be made"),
        step("create.3-link", Daemon, "it is made, its link is not"),
        step("create.4-inner", Daemon, "the link pair is made and its inner end not configured"),
        step("create.5-mark", Daemon, "the inner end is configured, the link is not marked as ours"),
        step("create.6-route", Daemon, "the link is complete, the route to it is missing"),
        sure("create.7-wired", Daemon, "a task is wired and its namespace is not kept yet"),
        sure("create.8-number", Daemon, "the number of a run is in the ledger, the run is not begun"),
        step("create.9-directories", Daemon, "the directories of the run are about to be made"),
        step("create.10-request", Daemon, "they are made, the request is not written"),
        step("create.11-spawn", Daemon, "the request is written, the supervisor is not started"),
        step("create.12-record", Supervisor, "the supervisor is in its cgroup and has not said who it is"),
        step(
            "create.13-sources",
            Supervisor,
            "it has said who it is, layers are not locked nor sources opened",
        ),
        step("create.14-namespace", Supervisor, "it is about to enter its mount namespace"),
        step("create.15-cgroup", Supervisor, "it is about to make the container's cgroup"),
        step("create.16-rootfs", Supervisor, "the cgroup is made, nothing is mounted"),
        step("create.17-mounts", Supervisor, "the overlay is mounted, nothing is mounted into it"),
        step("create.18-bundle", Supervisor, "everything is mounted, the bundle is not written"),
        step("create.19-container", Supervisor, "the bundle is written, there is no container"),
        step("create.20-created", Supervisor, "the container's first process waits and is not recorded"),
        step("start.1-start", Supervisor, "the first process is recorded and still waits"),
        step("start.2-started", Supervisor, "the program runs and that is not recorded"),
        step("start.3-answer", Supervisor, "it is recorded and the daemon not told"),
        step("start.4-keep", Supervisor, "the daemon is told, the keeper is not begun"),
        sure("start.5-keeper", Supervisor, "the keeper begins"),
        sure("start.6-heard", Daemon, "the daemon has heard of the start, its loop has not"),
        sure("start.7-watched", Daemon, "the loop has heard of it and awaits the end of the run"),
        step("log.1-file", Supervisor, "a log file is about to be opened"),
        step("log.2-frame", Supervisor, "a frame of output is about to be written"),
        sure(
            "end.1-reaped",
            Supervisor,
            "the first process has ended, what is left in the pipes is not read",
        ),
        sure("end.2-record", Supervisor, "the exit record is about to be written"),
        sure("end.3-recorded", Supervisor, "it is written and the supervisor still lives"),
        sure("end.4-heard", Daemon, "the daemon has heard of an end and not yet killed what is left"),
        sure("end.5-told", Daemon, "its loop has heard of the end and not yet decided what follows"),
        sure("stop.1-withdraw", Daemon, "a task is about to be taken out of the tables"),
        sure("stop.2-drain", Daemon, "it is out of them, its connections are about to be counted"),
        step("stop.3-forget", Daemon, "no connection is left, its flows are about to be forgotten"),
        step("stop.4-signal", Daemon, "the stop signal is about to be sent"),
        sure("stop.5-signalled", Daemon, "it is sent and the loop has not heard of it"),
        step("stop.6-kill", Daemon, "the grace is over, the run is about to be killed"),
        sure("stop.7-killed", Daemon, "it is killed and the loop has not heard of it"),
        step("remove.1-run", Daemon, "an ended run is about to be removed"),
        step("remove.2-cgroup", Daemon, "nothing of it lives, its cgroup is about to be removed"),
        step("remove.3-layer", Daemon, "the cgroup is gone, the writable layer is not"),
        step("remove.4-directory", Daemon, "the writable layer is gone, the run's directory is not"),
        sure("remove.5-removed", Daemon, "the run is gone and the loop has not heard of it"),
        step("remove.6-unlink", Daemon, "a task's link is about to be removed"),
        step("remove.7-routes", Daemon, "the link is gone, what led to it is not"),
        sure("remove.8-unwired", Daemon, "it is gone, the namespace is still held"),
        step("remove.9-task", Daemon, "what a task leaves is about to be removed"),
        step("remove.10-volumes", Daemon, "its runs are gone, its anonymous volumes are not"),
        sure("remove.11-removed", Daemon, "everything is gone and the loop has not heard of it"),
        step("exec.1-enter", Exec, "the child that runs a command is about to enter the container's mounts"),
        step("exec.2-start", Exec, "it is about to start the command"),
        sure("exec.3-told", Exec, "the command runs and the daemon has not heard of it"),
    ]
};

/// What a step that is armed does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Kill,
    Error,
    Pause,
}

#[derive(Debug)]
struct Armed {
    step: &'static str,
    effect: Effect,
    /// Passes that do nothing before the one that is meant.
    left: AtomicU32,
}

#[derive(Debug)]
struct Plan {
    armed: Vec<Armed>,
    once: Option<PathBuf>,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// Why the variable cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailError {
    /// It is not of the form `STEP:EFFECT`.
    #[error("{VARIABLE}: {text:?} is not STEP:kill, STEP:error or STEP:pause, with STEP@N for its N-th pass")]
    Form {
        /// What was found.
        text: String,
    },
    /// There is no such step.
    #[error("{VARIABLE}: there is no step {name:?}; there are {}", names())]
    Unknown {
        /// What was found.
        name: String,
    },
    /// Nothing can go wrong at the step.
    #[error("{VARIABLE}: nothing can fail at {name}; use {name}:kill or {name}:pause")]
    Sure {
        /// The step.
        name: &'static str,
    },
    /// Too many steps.
    #[error("{VARIABLE}: more than {ARMED_MAX} steps")]
    TooMany,
}

fn names() -> String {
    STEPS.iter().map(|step| step.name).collect::<Vec<_>>().join(", ")
}

/// Arms the points of this process as its environment says; for the start of a process of ours, never for one that becomes a
/// container's.
pub fn arm() -> Result<(), FailError> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(()) };
    let armed = parse(&text)?;
    if !armed.is_empty() {
        let once = std::env::var_os(ONCE_VARIABLE).map(PathBuf::from);
        // Armed before by the same variable, when it is called twice.
        let _ = PLAN.set(Plan { armed, once });
    }
    Ok(())
}

/// The variables that a child of ours needs in order to pass its own points; none where nothing is armed.
pub fn environment() -> Vec<(&'static str, std::ffi::OsString)> {
    if PLAN.get().is_none() {
        return Vec::new();
    }
    [VARIABLE, ONCE_VARIABLE]
        .into_iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (name, value)))
        .collect()
}

/// A step is passed: nothing happens unless it is armed.
pub fn point(name: &'static str) -> io::Result<()> {
    match PLAN.get() {
        None => Ok(()),
        Some(plan) => plan.pass(name),
    }
}

/// As [`point`], at a place where nothing can fail.
pub fn pass(name: &'static str) {
    // Steps that are listed so cannot be armed with an error.
    let _ = point(name);
}

impl Plan {
    fn pass(&self, name: &str) -> io::Result<()> {
        debug_assert!(STEPS.iter().any(|step| step.name == name), "fail point {name} is not listed");
        for armed in self.armed.iter().filter(|armed| armed.step == name) {
            let earlier = |left: u32| left.checked_sub(1);
            match armed.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, earlier) {
                Ok(1) if self.is_first(name) => return armed.effect.happen(name),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether no process has fired the step yet. A mark that cannot be left stops nothing.
    fn is_first(&self, name: &str) -> bool {
        let Some(directory) = &self.once else { return true };
        let made = std::fs::File::options().write(true).create_new(true).open(directory.join(name));
        !made.is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
    }
}

impl Effect {
    fn happen(self, name: &str) -> io::Result<()> {
        match self {
            Self::Kill => end(rustix::process::Signal::KILL),
            Self::Pause => end(rustix::process::Signal::STOP),
            Self::Error => return Err(io::Error::other(format!("fail point {name}"))),
        }
        Ok(())
    }
}

/// A signal to this process that it cannot catch.
fn end(signal: rustix::process::Signal) {
    // A process may always signal itself; the first of a namespace is not killed so, and there are no points there.
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
}

fn parse(text: &str) -> Result<Vec<Armed>, FailError> {
    let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if items.len() > ARMED_MAX {
        return Err(FailError::TooMany);
    }
    items.into_iter().map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<Armed, FailError> {
    let form = || FailError::Form { text: text.to_owned() };
    let (step, effect) = text.rsplit_once(':').ok_or_else(form)?;
    let effect = match effect {
        "kill" => Effect::Kill,
        "error" => Effect::Error,
        "pause" => Effect::Pause,
        _ => return Err(form()),
    };
    let (name, pass) = match step.split_once('@') {
        Some((name, pass)) => (name, pass.parse().ok().filter(|pass| *pass > 0).ok_or_else(form)?),
        None => (step, 1),
    };
    let known = STEPS.iter().find(|step| step.name == name);
    let known = known.ok_or_else(|| FailError::Unknown { name: name.to_owned() })?;
    if effect == Effect::Error && !known.fails {
        return Err(FailError::Sure { name: known.name });
    }
    Ok(Armed { step: known.name, effect, left: AtomicU32::new(pass) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Texts of the form of a step's name in all Rust files below a directory.
    fn names_below(directory: &Path, found: &mut BTreeSet<String>) {
        let form = |text: &str| {
            let (operation, step) = text.split_once('.')?;
            let (number, name) = step.split_once('-')?;
            let word =
                |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            (word(operation) && word(name) && number.parse::<u32>().is_ok()).then(|| text.to_owned())
        };
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                names_below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(std::fs::read_to_string(&path).unwrap().split('"').filter_map(form));
            }
        }
    }

    #[test]
    fn what_is_listed_is_passed_somewhere_and_what_is_passed_is_listed() {
        let mut called = BTreeSet::new();
        for owner in ["runtime", "net", "node", "scheduler", "cli"] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(owner).join("src");
            names_below(&source, &mut called);
        }
        let listed: BTreeSet<String> = STEPS.iter().map(|step| step.name.to_owned()).collect();
        assert_eq!(called, listed);
    }

    #[test]
    fn a_name_is_listed_once() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(STEPS[..index].iter().all(|other| other.name != step.name), "{}", step.name);
        }
    }

    #[test]
    fn an_unknown_step_is_answered_with_all_there_are() {
        let error = parse("no.1-such:kill").unwrap_err().to_string();
        assert!(error.contains("no.1-such") && error.contains(STEPS[0].name), "{error}");
    }

    #[test]
    fn what_is_no_step_and_effect_is_refused() {
        let name = STEPS[0].name;
        for text in ["x", "store.2-append:die", "store.2-append@0:kill", "store.4-answer:error"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&vec![format!("{name}:kill"); ARMED_MAX + 1].join(",")).is_err());
        assert!(parse("").unwrap().is_empty() && parse(" , ").unwrap().is_empty());
    }

    #[test]
    fn the_pass_that_is_meant_fails_and_no_other() {
        let name = STEPS[0].name;
        let plan = Plan { armed: parse(&format!("{name}@3:error")).unwrap(), once: None };
        let failed: Vec<bool> = (0..5).map(|_| plan.pass(name).is_err()).collect();
        assert_eq!(failed, [false, false, true, false, false]);
        assert!(point(name).is_ok(), "nothing is armed in this process");
    }
}
