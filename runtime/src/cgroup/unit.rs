//! The systemd unit whose cgroup holds all runs, on hosts where systemd is PID 1 and cgroups are v2.
//!
//! ```text
//!   /carrack.slice/carrack-tasks.service      one transient unit, Delegate=yes, no main process
//!     hold/                                   keeps it there while nothing runs (`hold`)
//!     supervisors/                            supervisors, the data plane, helpers
//!     TASK.RUN/                               one a run
//! ```
//! Below a delegated unit systemd changes nothing: a reload, a new systemd, the daemon's restart, its SIGKILL and the package's
//! removal leave runs and their limits as they are. Below the daemon's own service they would keep it from being restarted
//! (status 219/CGROUP), at the root of the tree they would lose the controllers that no unit asks for.
//!
//! Owns the unit and nothing in it. systemd is asked through its own programs, over its private socket: that needs no D-Bus.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{CGROUP2_MAGIC, HOLD_MODE, ROOT, magic};

/// There where systemd is PID 1, see `sd_booted(3)`.
const BOOTED: &str = "/run/systemd/system";
/// Where systemd keeps the files of transient units for as long as they are there, see `systemd.unit(5)`.
const TRANSIENT: &str = "/run/systemd/transient";
/// The slice of all our units.
const SLICE: &str = "carrack.slice";
/// The daemon's unit; it is stopped before this one.
const DAEMON: &str = "carrack.service";
/// How long one call of systemd's programs may take.
const CALL_MAX: Duration = Duration::from_secs(30);
/// How long a unit may take to be there, one that is being stopped included.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Between two looks.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Bytes of a program's answer that are read.
const ANSWER_MAX_BYTES: u64 = 16 << 10;

/// The unit of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TasksUnit {
    name: String,
}

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, ...
    active: String,
    /// Its cgroup, empty when it has none.
    cgroup: String,
}

/// Why there is no such unit.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The program is not on this host.
    #[error("there is no program {program}")]
    NoProgram {
        /// Its name.
        program: &'static str,
    },
    /// The program could not be run or did not end in time.
    #[error("cannot run {program}")]
    Call {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// systemd refused.
    #[error("systemd cannot {what} {unit}: {said}")]
    Refused {
        /// The operation, as a verb.
        what: &'static str,
        /// The unit.
        unit: String,
        /// Its words.
        said: String,
    },
    /// Its cgroups cannot be listed.
    #[error("cannot look into {}", path.display())]
    Look {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The unit is neither there nor gone.
    #[error("unit {unit} stays {state}")]
    Unsettled {
        /// The unit.
        unit: String,
        /// Its state.
        state: String,
    },
}

impl TasksUnit {
    /// The unit of an installation; `None` where systemd does not manage cgroups v2. An `instance` is for those beside the first.
    pub fn here(instance: Option<&str>) -> Option<Self> {
        let managed = Path::new(BOOTED).is_dir() && magic(Path::new(ROOT)) == Some(CGROUP2_MAGIC);
        managed.then(|| Self::named(instance))
    }

    fn named(instance: Option<&str>) -> Self {
        let suffix = instance.map(|instance| format!("-{instance}")).unwrap_or_default();
        Self { name: format!("carrack-tasks{suffix}.service") }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its cgroup is on a host whose systemd is at the root of the tree.
    pub(super) fn usual_cgroup(&self) -> String {
        format!("/{SLICE}/{}", self.name)
    }

    /// Its cgroup; `None` when the unit is not active.
    pub fn cgroup(&self) -> Result<Option<String>, UnitError> {
        let shown = self.show()?;
        Ok((shown.active == "active" && !shown.cgroup.is_empty()).then_some(shown.cgroup))
    }

    /// Whether the unit with this cgroup is there, without asking anybody: cheap enough for each start.
    pub(crate) fn is_there(&self, cgroup: &str) -> bool {
        Path::new(TRANSIENT).join(&self.name).exists() && directory(cgroup).is_dir()
    }

    /// Makes the unit where it is not there and answers its cgroup. `leftover` is called with the cgroup of a unit that was stopped
    /// while something was started in it, and ends that: systemd starts nothing there else.
    /// `exe` is our binary.
    pub(crate) fn ensure<E>(
        &self,
        exe: &Path,
        leftover: impl Fn(&str) -> Result<(), E>,
    ) -> Result<Result<String, E>, UnitError> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut pause = POLL.0;
        let mut made = None;
        loop {
            let shown = self.show()?;
            match shown.active.as_str() {
                "active" if directory(&shown.cgroup).is_dir() && !shown.cgroup.is_empty() => {
                    return Ok(Ok(shown.cgroup));
                }
                // Its cgroup was taken away behind systemd's back.
                "active" => self.stop()?,
                "failed" => self.call("reset-failed", &[])?,
                "inactive" => {
                    if let Err(error) = leftover(&self.usual_cgroup()) {
                        return Ok(Err(error));
                    }
                    // Somebody else may have made it meanwhile: whether it is there is what the next look says.
                    made = self.make(exe).err();
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                let state = shown.active;
                return Err(made.unwrap_or(UnitError::Unsettled { unit: self.name.clone(), state }));
            }
            // A program that is missing will not come.
            if let Some(error @ UnitError::NoProgram { .. }) = made {
                return Err(error);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Stops the unit, which ends what is in it. Fine when it is not there. Returns once the stop was accepted: it may have to wait
    /// for the daemon's own.
    pub fn stop(&self) -> Result<(), UnitError> {
        if self.show()?.active == "inactive" {
            return Ok(());
        }
        self.call("stop", &["--no-block"])
    }

    /// Takes the unit off this host, and with it the slice when nobody else is in that: systemd keeps a slice that was ever used.
    pub fn dissolve(&self) -> Result<(), UnitError> {
        self.stop()?;
        match others_in(&directory(SLICE), &self.name)? {
            // To stop it would be to stop them.
            true => Ok(()),
            false => Self { name: SLICE.to_owned() }.stop(),
        }
    }

    fn make(&self, exe: &Path) -> Result<(), UnitError> {
        self.accepted("make", "systemd-run", &self.arguments(exe))
    }

    /// What `systemd-run` is told.
    fn arguments(&self, exe: &Path) -> Vec<String> {
        let mut arguments: Vec<String> = vec![
            "--quiet".into(),
            "--no-ask-password".into(),
            format!("--unit={}", self.name),
            format!("--slice={SLICE}"),
            "--description=Carrack: the containers of this host".into(),
            "--remain-after-exit".into(),
        ];
        let properties = [
            "Type=oneshot",
            // All controllers, and nobody but us below its cgroup.
            "Delegate=yes",
            "TasksMax=infinity",
            "OOMScoreAdjust=-999",
            // A container that is out of memory is its own affair.
            "OOMPolicy=continue",
            // At shutdown the daemon comes first and stops all in order; this is for a host without one.
            "KillMode=control-group",
            "TimeoutStopSec=30s",
            "CollectMode=inactive-or-failed",
            // Another target (`systemctl isolate`) ends daemons, not what they left running.
            "IgnoreOnIsolate=yes",
        ];
        let before = format!("Before={DAEMON}");
        for property in properties.into_iter().chain([before.as_str()]) {
            arguments.push(format!("--property={property}"));
        }
        arguments.push(exe.display().to_string());
        arguments.push(HOLD_MODE.into());
        arguments
    }

    fn show(&self) -> Result<Shown, UnitError> {
        let output = call("systemctl", &["show", "--property=ActiveState,ControlGroup", &self.name])?;
        parse_shown(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| UnitError::Refused {
            what: "show",
            unit: self.name.clone(),
            said: said(&output),
        })
    }

    fn call(&self, what: &'static str, options: &[&str]) -> Result<(), UnitError> {
        let mut arguments: Vec<String> = vec![what.into()];
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        arguments.push(self.name.clone());
        self.accepted(what, "systemctl", &arguments)
    }

    fn accepted(
        &self,
        what: &'static str,
        program: &'static str,
        arguments: &[String],
    ) -> Result<(), UnitError> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = call(program, &arguments)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(UnitError::Refused { what, unit: self.name.clone(), said: said(&output) }),
        }
    }
}

/// Whether systemd is PID 1 and takes the host down. Not to know is an error.
pub fn host_is_stopping() -> Result<bool, UnitError> {
    if !Path::new(BOOTED).is_dir() {
        return Ok(false);
    }
    // The exit code tells `running` from everything else.
    let output = call("systemctl", &["is-system-running"])?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "stopping")
}

fn directory(cgroup: &str) -> PathBuf {
    Path::new(ROOT).join(cgroup.trim_start_matches('/'))
}

/// Whether the cgroup of a slice holds others than that of a unit. One that is not there holds nobody.
fn others_in(slice: &Path, unit: &str) -> Result<bool, UnitError> {
    let look = |source| UnitError::Look { path: slice.to_owned(), source };
    let entries = match fs::read_dir(slice) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(look)?,
    };
    for entry in entries {
        let entry = entry.map_err(look)?;
        if entry.file_type().map_err(look)?.is_dir() && entry.file_name() != unit {
            return Ok(true);
        }
    }
    Ok(false)
}

fn parse_shown(text: &str) -> Option<Shown> {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    Some(Shown { active: value("ActiveState")?, cgroup: value("ControlGroup").unwrap_or_default() })
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if text.is_empty() { output.status.to_string() } else { text }
}

/// Runs one of systemd's programs to its end. Nothing of our environment but the search path is its business.
fn call(program: &'static str, arguments: &[&str]) -> Result<Output, UnitError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => UnitError::NoProgram { program },
        _ => UnitError::Call { program, source },
    };
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", path).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let deadline = Instant::now() + CALL_MAX;
    let mut pause = POLL.0;
    // Their answers are shorter than a pipe's buffer: none of them waits for us to read.
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                // Both fail harmlessly when it has just ended.
                let _ = child.kill().and_then(|()| child.wait().map(drop));
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            None => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(POLL.1);
    };
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    if let Some(stdout) = child.stdout {
        stdout.take(ANSWER_MAX_BYTES).read_to_end(&mut output.stdout).map_err(failed)?;
    }
    if let Some(stderr) = child.stderr {
        stderr.take(ANSWER_MAX_BYTES).read_to_end(&mut output.stderr).map_err(failed)?;
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_installation_has_the_short_name() {
        assert_eq!(TasksUnit::named(None).name(), "carrack-tasks.service");
        let other = TasksUnit::named(Some("1a2b"));
        assert_eq!(other.usual_cgroup(), "/carrack.slice/carrack-tasks-1a2b.service");
    }

    #[test]
    fn a_slice_goes_when_nobody_else_is_in_it() {
        let slice = tempfile::tempdir().unwrap();
        let unit = TasksUnit::named(None);
        fs::write(slice.path().join("cgroup.procs"), "").unwrap();
        assert!(!others_in(slice.path(), unit.name()).unwrap());
        fs::create_dir(slice.path().join(unit.name())).unwrap();
        assert!(!others_in(slice.path(), unit.name()).unwrap());
        fs::create_dir(slice.path().join(TasksUnit::named(Some("1a2b")).name())).unwrap();
        assert!(others_in(slice.path(), unit.name()).unwrap());
        assert!(!others_in(&slice.path().join("gone"), unit.name()).unwrap());
    }

    #[test]
    fn what_systemd_says_of_a_unit_is_understood() {
        let there = "ActiveState=active\nControlGroup=/carrack.slice/carrack-tasks.service\n";
        let cgroup = "/carrack.slice/carrack-tasks.service".to_owned();
        assert_eq!(parse_shown(there), Some(Shown { active: "active".into(), cgroup }));
        let gone = Shown { active: "inactive".into(), cgroup: String::new() };
        assert_eq!(parse_shown("ControlGroup=\nActiveState=inactive\n"), Some(gone));
        assert_eq!(parse_shown("Failed to connect to bus\n"), None);
    }

    #[test]
    fn a_unit_is_delegated_outlives_its_process_and_is_stopped_after_the_daemon() {
        let arguments = TasksUnit::named(None).arguments(Path::new("/usr/bin/carrack"));
        for needed in [
            "--unit=carrack-tasks.service",
            "--slice=carrack.slice",
            "--remain-after-exit",
            "--property=Delegate=yes",
            "--property=TasksMax=infinity",
            "--property=Before=carrack.service",
            "--property=IgnoreOnIsolate=yes",
        ] {
            assert!(arguments.iter().any(|argument| argument == needed), "{needed}: {arguments:?}");
        }
        assert_eq!(arguments[arguments.len() - 2..], ["/usr/bin/carrack", "__hold"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = call("carrack-no-such-program", &[]).unwrap_err();
        assert!(matches!(error, UnitError::NoProgram { program: "carrack-no-such-program" }), "{error}");
        let output = call("sh", &["-c", "echo one; echo two >&2; exit 3"]).unwrap();
        assert_eq!((output.stdout.as_slice(), output.status.code()), (b"one\n".as_slice(), Some(3)));
        assert_eq!(said(&output), "two");
    }
}
