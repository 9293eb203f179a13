//! Cgroups of runs: where they are on v1, hybrid and v2 hosts, emptying and removing them.
//!
//! Owns nothing but `/carrack-<instance>` on each hierarchy. Limits are written by libcontainer when a container is created;
//! samples are in `sample`.

mod sample;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use sample::CgroupSampler;
pub(crate) use sample::{MemoryWatch, MemoryWatchFds, now};

use crate::error::RuntimeError;
use crate::request::RunId;

/// Where Linux distributions mount cgroups.
const ROOT: &str = "/sys/fs/cgroup";
/// How long SIGKILL may take to empty a cgroup.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);
/// How long a removal is tried while the kernel still counts dying processes.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
/// Pause between two looks at a cgroup that does not tell when it is empty.
const POLL: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(20));
/// Levels of cgroups below a container's own that are looked at.
const MAX_DEPTH: usize = 16;

const CGROUP_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// How this host arranges cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupMode {
    /// One tree.
    V2,
    /// One tree per controller; `hybrid` with an additional cgroup2 tree without controllers.
    V1 {
        /// A cgroup2 tree is mounted too.
        hybrid: bool,
    },
}

/// The hierarchies of this host and our place in them.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mode: CgroupMode,
    /// Name (`memory`, `systemd`; empty on v2) and mount point.
    hierarchies: Vec<(String, PathBuf)>,
    parent: String,
}

impl Cgroups {
    /// Looks at the host. `instance` names our parent cgroup.
    pub fn detect(instance: &str) -> Result<Self, RuntimeError> {
        let root = Path::new(ROOT);
        let (mode, hierarchies) = if magic(root) == Some(CGROUP2_MAGIC) {
            (CgroupMode::V2, vec![(String::new(), root.to_owned())])
        } else {
            let (hierarchies, hybrid) = v1_hierarchies(root)?;
            if !hierarchies.iter().any(|(name, _)| name == "memory") {
                return Err(RuntimeError::Host(format!(
                    "no cgroup memory controller is mounted below {ROOT}"
                )));
            }
            (CgroupMode::V1 { hybrid }, hierarchies)
        };
        Ok(Self { mode, hierarchies, parent: format!("/carrack-{instance}") })
    }

    /// The host's arrangement.
    pub fn mode(&self) -> &CgroupMode {
        &self.mode
    }

    /// Names of the mounted controllers.
    pub fn controllers(&self) -> Vec<String> {
        match self.mode {
            CgroupMode::V1 { .. } => self.hierarchies.iter().map(|(name, _)| name.clone()).collect(),
            CgroupMode::V2 => fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }

    /// Our parent cgroup, below each hierarchy's root.
    pub fn parent(&self) -> Cgroup {
        self.at(self.parent.clone())
    }

    /// The cgroup of supervisors and helpers; none of a container's processes is ever in it.
    pub fn supervisors(&self) -> Cgroup {
        self.at(format!("{}/supervisors", self.parent))
    }

    /// The cgroup of one run.
    pub fn run(&self, id: &RunId) -> Cgroup {
        self.at(format!("{}/{id}", self.parent))
    }

    fn at(&self, path: String) -> Cgroup {
        let dirs = self
            .hierarchies
            .iter()
            .map(|(name, root)| (name.clone(), root.join(path.trim_start_matches('/'))))
            .collect();
        Cgroup { v2: self.mode == CgroupMode::V2, path, dirs }
    }
}

/// All cgroup v1 mounts below the root, without the symlinks of co-mounted ones.
fn v1_hierarchies(root: &Path) -> Result<(Vec<(String, PathBuf)>, bool), RuntimeError> {
    let mut found = Vec::new();
    let mut hybrid = false;
    for entry in fs::read_dir(root).map_err(RuntimeError::file("read", root))? {
        let entry = entry.map_err(RuntimeError::file("read", root))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match (magic(&entry.path()), entry.file_name().into_string()) {
            (Some(CGROUP_MAGIC), Ok(name)) => found.push((name, entry.path())),
            (Some(CGROUP2_MAGIC), _) => hybrid = true,
            _ => {}
        }
    }
    found.sort();
    Ok((found, hybrid))
}

fn magic(path: &Path) -> Option<u64> {
    rustix::fs::statfs(path).ok().and_then(|stat| u64::try_from(stat.f_type).ok())
}

/// One cgroup on all hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {
    v2: bool,
    path: String,
    dirs: Vec<(String, PathBuf)>,
}

impl Cgroup {
    /// The path below each hierarchy's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory on a controller's hierarchy (on v2: the only one).
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        self.dirs.iter().find(|(name, _)| self.v2 || name == controller).map(|(_, dir)| dir.as_path())
    }

    /// Name of the hierarchy and directory, for all.
    pub(crate) fn dirs(&self) -> &[(String, PathBuf)] {
        &self.dirs
    }

    /// Whether it is a cgroup v2.
    pub(crate) fn is_v2(&self) -> bool {
        self.v2
    }

    /// Makes it where it is missing; a new cpuset takes its parent's CPUs, as v1 wants before a process may join.
    pub(crate) fn create(&self) -> Result<(), RuntimeError> {
        for (name, dir) in &self.dirs {
            let root = Path::new(ROOT).join(name);
            let below = dir.strip_prefix(&root).unwrap_or(dir);
            let mut at = root.clone();
            for part in below.components() {
                at.push(part);
                match fs::create_dir(&at) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(RuntimeError::file("create cgroup", &at)(error)),
                }
                if name == "cpuset" {
                    inherit_cpuset(&at)?;
                }
            }
        }
        Ok(())
    }

    /// Moves the calling process here.
    pub(crate) fn join(&self) -> Result<(), RuntimeError> {
        for (_, dir) in &self.dirs {
            let file = dir.join("cgroup.procs");
            fs::write(&file, "0").map_err(RuntimeError::file("join cgroup", &file))?;
        }
        Ok(())
    }

    /// Whether it exists on any hierarchy.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|(_, dir)| dir.exists())
    }

    /// All processes in it and below.
    pub fn processes(&self) -> Result<BTreeSet<u32>, RuntimeError> {
        let mut pids = BTreeSet::new();
        for (_, dir) in &self.dirs {
            collect(dir, 0, &mut pids)?;
        }
        Ok(pids)
    }

    /// Kills all processes and returns when none is left. Fine when there is no such cgroup.
    pub fn kill(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + EMPTY_DEADLINE;
        let mut pause = POLL.0;
        loop {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(RuntimeError::CgroupBusy {
                    path: self.path.clone().into(),
                    pids: pids.into_iter().collect(),
                });
            }
            self.kill_once(&pids);
            std::thread::sleep(pause);
            pause = (pause * 2).min(POLL.1);
        }
    }

    fn kill_once(&self, pids: &BTreeSet<u32>) {
        let dir = self.dir("freezer").unwrap_or(Path::new(""));
        if self.v2 && fs::write(dir.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // Frozen processes cannot fork away between the reading of the list and the signal.
        let freezer = dir.join(if self.v2 { "cgroup.freeze" } else { "freezer.state" });
        let (freeze, thaw) = if self.v2 { ("1", "0") } else { ("FROZEN", "THAWED") };
        let frozen = fs::write(&freezer, freeze).is_ok();
        for pid in self.processes().as_ref().unwrap_or(pids) {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw) {
                // Gone meanwhile is as good; the caller looks again.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if frozen {
            // A failure shows as processes that do not end.
            let _ = fs::write(&freezer, thaw);
        }
    }

    /// Removes it with all below. Fine when it is not there; processes in it make it fail.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        for (_, dir) in &self.dirs {
            let mut pause = POLL.0;
            while let Err(error) = remove_below(dir, 0) {
                if Instant::now() >= deadline {
                    return Err(RuntimeError::file("remove cgroup", dir)(error));
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(POLL.1);
            }
        }
        Ok(())
    }
}

fn inherit_cpuset(dir: &Path) -> Result<(), RuntimeError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        let text = fs::read_to_string(&own).map_err(RuntimeError::file("read", &own))?;
        let Some(parent) = dir.parent().filter(|_| text.trim().is_empty()) else { continue };
        let value =
            fs::read_to_string(parent.join(file)).map_err(RuntimeError::file("read", parent.join(file)))?;
        fs::write(&own, value.trim()).map_err(RuntimeError::file("write", &own))?;
    }
    Ok(())
}

fn collect(dir: &Path, depth: usize, pids: &mut BTreeSet<u32>) -> Result<(), RuntimeError> {
    let file = dir.join("cgroup.procs");
    match fs::read_to_string(&file) {
        // 0 stands for a process of another pid namespace.
        Ok(text) => {
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0))
        }
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(RuntimeError::file("read", &file)(error)),
    }
    if depth < MAX_DEPTH {
        for child in children(dir) {
            collect(&child, depth + 1, pids)?;
        }
    }
    Ok(())
}

fn remove_below(dir: &Path, depth: usize) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if gone(&error) => return Ok(()),
        Err(error) if depth >= MAX_DEPTH => return Err(error),
        Err(_) => {}
    }
    for child in children(dir) {
        remove_below(&child, depth + 1)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
