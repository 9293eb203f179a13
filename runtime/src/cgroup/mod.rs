//! Cgroups of runs: where they are on v1, hybrid and v2 hosts, emptying and removing them.
//!
//! Owns nothing but `/carrack-<instance>` on each hierarchy, or what is below the cgroup that systemd made for us (`unit`). Limits are written by libcontainer when a container is created;
//! samples are in `sample`, access to devices in `devices` and `bpf`, what a host's cgroups can do in `facts`.

mod bpf;
mod devices;
mod facts;
mod hold;
mod reserve;
mod sample;
mod unit;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use facts::CgroupFacts;
pub use sample::CgroupSampler;
pub(crate) use sample::{MemoryWatch, MemoryWatchFds, now};
pub use unit::{TasksUnit, UnitError, host_is_stopping};

use carrack_api::{DeviceKind, DeviceRule};
use devices::DeviceRules;
use hold::HOLD;
pub(crate) use hold::{MODE as HOLD_MODE, main as hold};

use crate::bundle::DeviceNode;
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
/// Levels of cgroups below one of ours that are looked at.
const MAX_DEPTH: usize = 16;
/// What a container may make below its own cgroup on v2: as deep as is looked at from our parent, too, and so many in all.
const MAX_NESTED: [(&str, usize); 2] =
    [("cgroup.max.depth", MAX_DEPTH - 1), ("cgroup.max.descendants", 1000)];

/// Name of the cgroup of supervisors, below our parent.
const SUPERVISORS: &str = "supervisors";
/// What containers are limited and measured by; the rest of a host's v2 controllers is left as it is.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

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
    parent: Parent,
    /// Parents of runs that a daemon started which had another one.
    earlier: Vec<Parent>,
}

/// What runs are below.
#[derive(Debug, Clone)]
struct Parent {
    /// Its path on each hierarchy.
    path: String,
    /// systemd made it for us: it is neither made nor removed here.
    given: bool,
}

impl Cgroups {
    /// Looks at the host. `instance` names our parent cgroup.
    pub fn detect(instance: &str) -> Result<Self, RuntimeError> {
        Self::detect_below(instance, None)
    }

    /// Looks at the host. Runs are below `given`, a cgroup that somebody made for us, when there is one. Those below the parent that
    /// is ours without one are found, too.
    pub fn detect_below(instance: &str, given: Option<&str>) -> Result<Self, RuntimeError> {
        let root = Path::new(ROOT);
        let (mode, hierarchies) = if magic(root) == Some(CGROUP2_MAGIC) {
            (CgroupMode::V2, vec![(String::new(), root.to_owned())])
        } else {
            let (hierarchies, hybrid) = v1_hierarchies(root)?;
            if hierarchies.is_empty() {
                return Err(RuntimeError::Host(format!("no cgroups are mounted at {ROOT}")));
            }
            (CgroupMode::V1 { hybrid }, hierarchies)
        };
        let own = Parent { path: format!("/carrack-{instance}"), given: false };
        let (parent, earlier) = match given {
            Some(path) => (Parent { path: path.to_owned(), given: true }, vec![own]),
            None => (own, Vec::new()),
        };
        Ok(Self { mode, hierarchies, parent, earlier })
    }

    /// Where runs of this installation may be, without making anything: for whoever takes it away.
    pub fn find(instance: &str, unit: Option<&TasksUnit>) -> Result<Self, RuntimeError> {
        let Some(unit) = unit else { return Self::detect(instance) };
        match unit.cgroup() {
            Ok(Some(cgroup)) => Self::detect_below(instance, Some(&cgroup)),
            Ok(None) | Err(UnitError::NoProgram { .. }) => Ok(Self::detect(instance)?.and_of_unit(unit)),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the runs of a daemon that had the unit's cgroup, too.
    pub(crate) fn and_of_unit(mut self, unit: &TasksUnit) -> Self {
        self.earlier.push(Parent { path: unit.usual_cgroup(), given: true });
        self
    }

    /// The host's arrangement.
    pub fn mode(&self) -> &CgroupMode {
        &self.mode
    }

    /// Names of the mounted controllers.
    pub fn controllers(&self) -> Vec<String> {
        match self.mode {
            CgroupMode::V1 { .. } => {
                self.hierarchies.iter().flat_map(|(name, _)| name.split(',').map(str::to_owned)).collect()
            }
            CgroupMode::V2 => fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }

    /// Our parent cgroup, below each hierarchy's root.
    pub fn parent(&self) -> Cgroup {
        self.at(self.parent.path.clone())
    }

    /// Our parent cgroup, and those of daemons before that had another one.
    pub fn parents(&self) -> impl Iterator<Item = Cgroup> {
        self.all_parents().map(|parent| self.at(parent.path.clone()))
    }

    fn all_parents(&self) -> impl Iterator<Item = &Parent> {
        std::iter::once(&self.parent).chain(&self.earlier)
    }

    /// The cgroup that was given to us and that all others are below.
    pub(crate) fn given(&self) -> Option<&str> {
        self.parent.given.then_some(self.parent.path.as_str())
    }

    /// Removes all that is below our parents, and those that we made. A process in one of them makes it fail.
    pub fn release(&self) -> Result<(), RuntimeError> {
        for parent in self.all_parents() {
            let cgroup = self.at(parent.path.clone());
            if parent.given { cgroup.remove_children()? } else { cgroup.remove()? }
        }
        Ok(())
    }

    /// Whether a process of any run is alive.
    pub fn any_run(&self) -> Result<bool, RuntimeError> {
        Ok(!self.processes_but(&[SUPERVISORS, HOLD])?.is_empty())
    }

    /// All processes of runs and their supervisors.
    pub fn processes(&self) -> Result<BTreeSet<u32>, RuntimeError> {
        self.processes_but(&[HOLD])
    }

    fn processes_but(&self, without: &[&str]) -> Result<BTreeSet<u32>, RuntimeError> {
        let mut pids = BTreeSet::new();
        for parent in self.parents() {
            for child in parent.dirs.iter().flat_map(|(_, dir)| children(dir)) {
                if !without.iter().any(|name| child.ends_with(name)) {
                    collect(&child, 1, &mut pids)?;
                }
            }
        }
        Ok(pids)
    }

    /// The cgroup of supervisors and helpers; none of a container's processes is ever in it.
    pub fn supervisors(&self) -> Cgroup {
        self.at(format!("{}/{SUPERVISORS}", self.parent.path))
    }

    /// The cgroup of one run.
    pub fn run(&self, id: &RunId) -> Cgroup {
        let below = |parent: &Parent| self.at(format!("{}/{id}", parent.path));
        let own = below(&self.parent);
        if self.earlier.is_empty() || own.exists() {
            return own;
        }
        self.earlier.iter().map(below).find(Cgroup::exists).unwrap_or(own)
    }

    fn at(&self, path: String) -> Cgroup {
        let dirs = self
            .hierarchies
            .iter()
            .map(|(name, root)| (name.clone(), root.join(path.trim_start_matches('/'))))
            .collect();
        Cgroup { v2: self.mode == CgroupMode::V2, path, dirs, given: self.given().map(directory_of) }
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
    /// What it is below must be there: it is somebody else's to make.
    given: Option<PathBuf>,
}

impl Cgroup {
    /// The path below each hierarchy's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory on a controller's hierarchy (on v2: the only one).
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        // Controllers that are mounted together have a directory of both names.
        let is_it = |name: &String| self.v2 || name.split(',').any(|name| name == controller);
        self.dirs.iter().find(|(name, _)| is_it(name)).map(|(_, dir)| dir.as_path())
    }

    /// Name of the hierarchy and directory, for all.
    pub(crate) fn dirs(&self) -> &[(String, PathBuf)] {
        &self.dirs
    }

    /// Whether it is a cgroup v2.
    pub(crate) fn is_v2(&self) -> bool {
        self.v2
    }

    /// Makes it where it is missing, with the controllers that limit containers as far as the host has them; a new cpuset takes
    /// its parent's CPUs, as v1 wants before a process may join.
    pub(crate) fn create(&self) -> Result<(), RuntimeError> {
        if let Some(given) = self.given.as_ref().filter(|given| !given.is_dir()) {
            return Err(RuntimeError::Host(format!("cgroup {} is gone", given.display())));
        }
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
                if name.split(',').any(|name| name == "cpuset") {
                    inherit_cpuset(&at)?;
                }
            }
            if self.v2 {
                for above in delegating(&root, dir) {
                    delegate(above)?;
                }
            }
        }
        Ok(())
    }

    /// Keeps its processes from nesting cgroups where they are not looked at. They cannot raise it where namespaces delegate
    /// (`nsdelegate`); v1 has nothing like it.
    pub(crate) fn bound_nested(&self) -> Result<(), RuntimeError> {
        let Some((_, dir)) = self.dirs.first().filter(|_| self.v2) else { return Ok(()) };
        for (name, value) in MAX_NESTED {
            let file = dir.join(name);
            fs::write(&file, value.to_string()).map_err(RuntimeError::file("write", &file))?;
        }
        Ok(())
    }

    /// Lets its processes use only the devices that every container has and those given. To be called before the first process
    /// enters. On v1 libcontainer writes the rules.
    pub(crate) fn restrict_devices(&self, given: &[DeviceNode], own: &[DeviceRule]) -> io::Result<()> {
        let Some((_, dir)) = self.dirs.first().filter(|_| self.v2) else { return Ok(()) };
        bpf::restrict_devices(dir, &device_program(given, own)?)
    }

    /// Takes away what libcontainer allows on v1 beyond [`DeviceRules`]; to be called after it, before the program runs.
    pub(crate) fn restrict_devices_further(
        &self,
        given: &[DeviceNode],
        own: &[DeviceRule],
    ) -> io::Result<()> {
        let Some(dir) = self.dir("devices").filter(|_| !self.v2) else { return Ok(()) };
        let (kind, major, minor) = devices::TUN;
        fs::write(dir.join("devices.deny"), format!("{kind} {major}:{minor} rwm"))?;
        // It was taken from those, too, who were given it.
        let is_it = |node: &&DeviceNode| (node.kind, node.major, node.minor) == devices::TUN;
        let covers = |rule: &&DeviceRule| {
            rule.kind != Some(DeviceKind::Block)
                && rule.major.is_none_or(|of| i64::from(of) == major)
                && rule.minor.is_none_or(|of| i64::from(of) == minor)
        };
        let nodes = given.iter().filter(is_it).map(|node| &node.permissions);
        for permissions in nodes.chain(own.iter().filter(covers).map(|rule| &rule.permissions)) {
            fs::write(dir.join("devices.allow"), format!("{kind} {major}:{minor} {permissions}"))?;
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

    fn remove_children(&self) -> Result<(), RuntimeError> {
        for (name, dir) in &self.dirs {
            for child in children(dir).into_iter().filter(|child| !child.ends_with(HOLD)) {
                let child = Self { dirs: vec![(name.clone(), child)], ..self.clone() };
                child.remove()?;
            }
        }
        Ok(())
    }

    /// Removes it with all below. Fine when it is not there; processes in it make it fail.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let had_reserved = self.has_reserved();
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
        if had_reserved && let Err(error) = self.reserve_above() {
            // It protects neighbours too well until the next start sets it right.
            tracing::warn!(cgroup = self.path, %error, "the memory that was reserved for it cannot be given back");
        }
        Ok(())
    }
}

fn directory_of(cgroup: &str) -> PathBuf {
    Path::new(ROOT).join(cgroup.trim_start_matches('/'))
}

/// Whether the kernel takes a filter of devices from us; it is not attached to anything.
pub(crate) fn try_device_filter() -> io::Result<()> {
    bpf::load(&device_program(&[], &[])?).map(drop)
}

fn device_program(given: &[DeviceNode], own: &[DeviceRule]) -> io::Result<Vec<devices::Instruction>> {
    let count = given.len() + own.len();
    let too_many = || io::Error::other(format!("{count} devices are more than a filter can tell apart"));
    DeviceRules::new(given, own).program().ok_or_else(too_many)
}

/// The cgroups above one of ours that must hand controllers down to it, from the top. Directly below the root that is the root,
/// too; a parent further down was given to us by somebody (systemd) who has done that.
fn delegating<'d>(root: &Path, dir: &'d Path) -> Vec<&'d Path> {
    let above: Vec<&Path> =
        dir.ancestors().skip(1).take_while(|above| above.starts_with(root)).take(2).collect();
    match above[..] {
        [parent, root_itself] if root_itself == root => vec![root_itself, parent],
        [parent, ..] => vec![parent],
        [] => Vec::new(),
    }
}

/// Hands the controllers that are there down to the cgroups below. One that cannot be had is missing in the facts of a run's
/// cgroup, where it matters; it is no reason to start nothing.
fn delegate(dir: &Path) -> Result<(), RuntimeError> {
    let words = |name: &str| -> Result<BTreeSet<String>, RuntimeError> {
        let path = dir.join(name);
        let text = fs::read_to_string(&path).map_err(RuntimeError::file("read", &path))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let (held, handed_down) = (words("cgroup.controllers")?, words("cgroup.subtree_control")?);
    for name in CONTROLLERS.into_iter().filter(|name| held.contains(*name) && !handed_down.contains(*name)) {
        if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")) {
            tracing::debug!(dir = %dir.display(), name, %error, "a cgroup controller cannot be handed down");
        }
    }
    Ok(())
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
        // A threaded one: its processes are those of the domain above, a container's own cgroup at the latest.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_handed_down_from_the_root_or_from_what_was_given_to_us() {
        let root = Path::new("/sys/fs/cgroup");
        let of = |path: &str| -> Vec<String> {
            let dir = root.join(path);
            let above = delegating(root, &dir);
            above.into_iter().map(|dir| dir.strip_prefix("/sys/fs").unwrap().display().to_string()).collect()
        };
        assert_eq!(of("carrack-x/web.1"), ["cgroup", "cgroup/carrack-x"]);
        assert_eq!(of("carrack-x"), ["cgroup"]);
        assert_eq!(of("a.slice/tasks.service/web.1"), ["cgroup/a.slice/tasks.service"]);
    }

    #[test]
    fn controllers_that_are_mounted_together_are_both_found() {
        let dirs = vec![("cpu,cpuacct".to_owned(), "/a".into()), ("memory".to_owned(), "/b".into())];
        let cgroup = Cgroup { v2: false, path: "/x".into(), dirs, given: None };
        assert_eq!(cgroup.dir("cpuacct"), Some(Path::new("/a")));
        assert_eq!(cgroup.dir("memory"), Some(Path::new("/b")));
        assert_eq!(cgroup.dir("pids"), None);
    }
}
