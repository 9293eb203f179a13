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
    Step { name, process, what }
}

/// All steps, in the order in which they are passed.
pub const STEPS: &[Step] =
    &[step("identity.1-write", Process::Daemon, "the node's new identity is about to be written")];

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

/// As [`point`], at a place where nothing can fail: what `error` asks for is a kill there.
pub fn point_of_no_error(name: &'static str) {
    if point(name).is_err() {
        end(rustix::process::Signal::KILL);
    }
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
    Ok(Armed { step: known.name, effect, left: AtomicU32::new(pass) })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for text in ["x", "identity.1-write:die", "identity.1-write@0:kill", "identity.1-write@x:kill"] {
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
