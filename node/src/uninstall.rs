//! Giving a host back: what runs is stopped in order, then everything that Carrack put there is taken away.
//!
//! ```text
//!   stop_in_order ── a node that adopts what runs and is told at once to stop it (needs what the node remembers)
//!   sweep ── data plane, processes, cgroups, network (needs nothing but the node's id, or not even that)
//!   remove_files ── the runtime directory, then the state directory (unless it is to stay), the node's identity last
//! ```
//! Each part finds nothing to do when it was done before, so one that was broken off is simply done again: the identity, by
//! which the kernel's objects are known as ours, goes last. Files and directories go by name; what nobody of us made stays.
//! Owns no daemon's process: there must be none any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carrack_api::Assignment;
use carrack_runtime::RuntimeError;
use carrack_runtime::cgroup::{Cgroup, Cgroups, UnitError};
use carrack_runtime::error::chain;
use tokio::sync::watch;

use crate::config::{NodeConfig, NodeError, Shutdown};
use crate::containers::tasks_unit;
use crate::identity;
use crate::node::Node;

/// What the state directory holds of ours, the node's identity last; `package` is the program that a removed package left there to
/// be purged with. Volumes are a matter of their own.
const STATE: &[&str] =
    &["images", "tasks", "scheduler", "keys", "package", "daemon.log", "daemon.log.1", "node", "daemon.lock"];
/// What the runtime directory holds of ours.
const RUNTIME: &[&str] = &["tasks", "dataplane", "root", "carrack.sock", "carrack.sock.new", "daemon.lock"];
/// Where named volumes are within the state directory.
const VOLUMES: &str = "volumes";

/// What is beside the volumes without being one: locks, and copies that were broken off. No volume's name begins with a dot.
const UNFINISHED: [&str; 2] = [".lock-", ".copy-"];

/// What is in every directory that a daemon ever had, and goes last.
const MARK: &str = "daemon.lock";

/// Where an installation is.
#[derive(Debug, Clone)]
pub struct Places {
    /// What survives reboots.
    pub state_dir: PathBuf,
    /// What does not.
    pub runtime_dir: PathBuf,
    /// The binary, see [`NodeConfig::exe`].
    pub exe: PathBuf,
}

/// What was taken away and what was left, in words, one object or kind of object each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Taken away.
    pub removed: Vec<String>,
    /// Left, with the reason.
    pub kept: Vec<String>,
}

impl Removed {
    fn gone(&mut self, what: impl Into<String>) {
        self.removed.push(what.into());
    }

    fn left(&mut self, what: impl Into<String>) {
        self.kept.push(what.into());
    }
}

/// A directory of the two that no daemon ever had although something is in it: a mistyped one, whose `images` or `root` are somebody
/// else's. To be asked before anything is taken away, and before the locks are taken, which leave the mark by which this is told.
pub fn strange(places: &Places) -> Result<Option<PathBuf>, NodeError> {
    for directory in [&places.state_dir, &places.runtime_dir] {
        // Volumes alone are what an uninstall that kept them has left.
        let found = entries(directory)?.iter().any(|name| name != VOLUMES);
        let marked = [MARK, "node/identity.json"].iter().any(|name| directory.join(name).exists());
        if found && !marked {
            return Ok(Some(directory.clone()));
        }
    }
    Ok(None)
}

/// Whether a daemon that is gone has left containers here that can be told to be of this node.
pub fn needs_stop(places: &Places) -> bool {
    let Some(instance) = identity::known(&places.state_dir) else { return false };
    let processes = cgroups(places, &instance).and_then(|cgroups| cgroups.processes());
    processes.is_ok_and(|processes| !processes.is_empty())
}

/// Whether containers of this node run, with or without a daemon.
pub fn running(places: &Places) -> Result<bool, NodeError> {
    let Some(instance) = identity::known(&places.state_dir) else { return Ok(false) };
    cgroups(places, &instance).and_then(|cgroups| cgroups.any_run()).map_err(NodeError::Runtime)
}

fn cgroups(places: &Places, instance: &str) -> Result<Cgroups, RuntimeError> {
    Cgroups::find(instance, tasks_unit(&places.state_dir, instance).as_ref())
}

/// Stops, in order and with their grace, the containers that a daemon which is gone has left.
pub async fn stop_in_order(places: &Places) -> Result<(), NodeError> {
    let config = NodeConfig {
        state_dir: places.state_dir.clone(),
        runtime_dir: places.runtime_dir.clone(),
        exe: places.exe.clone(),
        hostname: None,
        labels: Default::default(),
        cluster: None,
        upstreams: Vec::new(),
        registries: Default::default(),
    };
    let node = match tokio::task::spawn_blocking(move || Node::open(config)).await {
        Ok(node) => node?,
        Err(error) => return Err(NodeError::Adopt(chain(&error))),
    };
    let (_sender, assignments) = watch::channel::<Option<Arc<Assignment>>>(None);
    node.run(assignments, |_| {}, std::future::ready(Shutdown::StopContainers)).await
}

/// Takes away what runs and what the kernel holds. Blocks; must be called in the network namespace of the installation.
pub fn sweep(places: &Places, done: &mut Removed) -> Result<(), NodeError> {
    let data_plane = places.runtime_dir.join("dataplane");
    let ended = carrack_net::dataplane::end_all(&data_plane).map_err(file_error("end", &data_plane))?;
    if ended > 0 {
        done.gone("the data plane");
    }
    let instance = match identity::known(&places.state_dir) {
        Some(instance) => Some(instance),
        None => carrack_net::purge::owner().map_err(NodeError::Network)?,
    };
    if let Some(instance) = &instance {
        sweep_cgroups(places, instance, done).map_err(NodeError::Runtime)?;
    }
    let purged = carrack_net::purge::purge(instance.as_deref()).map_err(NodeError::Network)?;
    for step in &purged.steps {
        done.gone(step.op.to_string());
    }
    let mut others = purged.others;
    others.dedup();
    for other in others {
        done.left(format!("network of node {other}: it is another installation's"));
    }
    Ok(())
}

fn sweep_cgroups(places: &Places, instance: &str, done: &mut Removed) -> Result<(), RuntimeError> {
    let cgroups = cgroups(places, instance)?;
    let found: Vec<Cgroup> = cgroups.parents().filter(Cgroup::exists).collect();
    let processes = cgroups.processes()?.len();
    for parent in &found {
        parent.kill()?;
    }
    if processes > 0 {
        done.gone(format!("{processes} processes that were left"));
    }
    cgroups.release()?;
    for parent in &found {
        done.gone(format!("cgroup {}", parent.path()));
    }
    // Its cgroup goes with it.
    match tasks_unit(&places.state_dir, instance) {
        Some(unit) => match unit.dissolve() {
            Err(UnitError::NoProgram { .. }) => Ok(()),
            stopped => Ok(stopped?),
        },
        None => Ok(()),
    }
}

/// Takes away the runtime directory, which is of no use without what ran.
pub fn remove_runtime_files(places: &Places, done: &mut Removed) -> Result<(), NodeError> {
    remove_names(&places.runtime_dir, RUNTIME, done)?;
    remove_directory(&places.runtime_dir, done)
}

/// Takes away the directories; named volumes only with `volumes`.
pub fn remove_files(places: &Places, volumes: bool, done: &mut Removed) -> Result<(), NodeError> {
    remove_runtime_files(places, done)?;
    remove_volumes(&places.state_dir.join(VOLUMES), volumes, done)?;
    remove_names(&places.state_dir, STATE, done)?;
    remove_directory(&places.state_dir, done)
}

fn remove_volumes(directory: &Path, with_data: bool, done: &mut Removed) -> Result<(), NodeError> {
    for name in entries(directory)? {
        let path = directory.join(&name);
        if UNFINISHED.iter().any(|prefix| name.starts_with(prefix)) {
            remove(&path)?;
        } else if with_data {
            remove(&path)?;
            done.gone(format!("volume {}, with its data", path.display()));
        } else {
            done.left(format!("volume {}", path.display()));
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
            spared(directory, error).map(|why| done.kept.extend(why))
        }
        _ => Ok(()),
    }
}

/// Why a directory that is empty stays: it is not ours to remove when something is mounted there, or when it is a symlink to where
/// the administrator wants it. `None` when it is gone already.
fn spared(directory: &Path, error: io::Error) -> Result<Option<String>, NodeError> {
    let why = match error.kind() {
        io::ErrorKind::NotFound => return Ok(None),
        io::ErrorKind::ResourceBusy => "something is mounted there",
        io::ErrorKind::NotADirectory => "it is a symlink to where it is kept",
        _ => return Err(file_error("remove", directory)(error)),
    };
    Ok(Some(format!("{}, empty: {why}", directory.display())))
}

fn remove_names(directory: &Path, names: &[&str], done: &mut Removed) -> Result<(), NodeError> {
    for name in names {
        let path = directory.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            remove(&path)?;
            done.gone(path.display().to_string());
        }
    }
    Ok(())
}

/// The directory itself, when nothing is left in it.
fn remove_directory(directory: &Path, done: &mut Removed) -> Result<(), NodeError> {
    let left = entries(directory)?;
    if left.is_empty() {
        return match fs::remove_dir(directory) {
            Ok(()) => {
                done.gone(directory.display().to_string());
                Ok(())
            }
            Err(error) => spared(directory, error).map(|why| done.kept.extend(why)),
        };
    }
    for name in left.iter().filter(|name| *name != VOLUMES) {
        done.left(format!("{}: it is not known to be ours", directory.join(name).display()));
    }
    Ok(())
}

/// Names in a directory, in order; none when there is no directory.
fn entries(directory: &Path) -> Result<Vec<String>, NodeError> {
    let read = match fs::read_dir(directory) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error("read", directory)(error)),
    };
    let names: io::Result<Vec<String>> =
        read.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names.map_err(file_error("read", directory))?;
    names.sort();
    Ok(names)
}

fn remove(path: &Path) -> Result<(), NodeError> {
    let metadata = fs::symlink_metadata(path).map_err(file_error("look at", path))?;
    let removed = if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(file_error("remove", path))
}

fn file_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> NodeError + 'a {
    move |source| NodeError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed() -> (tempfile::TempDir, Places) {
        let base = tempfile::tempdir().unwrap();
        let places = Places {
            state_dir: base.path().join("state"),
            runtime_dir: base.path().join("run"),
            exe: "/nowhere".into(),
        };
        for directory in ["images/blobs", "tasks/t1/1", "scheduler", "node", "volumes/shop_db"] {
            fs::create_dir_all(places.state_dir.join(directory)).unwrap();
        }
        fs::write(places.state_dir.join("volumes/shop_db/rows"), "1").unwrap();
        fs::write(places.state_dir.join("volumes/.lock-shop_db"), "").unwrap();
        fs::write(places.state_dir.join("node/identity.json"), "{}").unwrap();
        fs::create_dir_all(places.runtime_dir.join("tasks")).unwrap();
        fs::write(places.runtime_dir.join("daemon.lock"), "1").unwrap();
        (base, places)
    }

    #[test]
    fn volumes_stay_unless_they_are_named_and_a_second_time_finds_nothing() {
        let (_base, places) = installed();
        let mut done = Removed::default();
        remove_files(&places, false, &mut done).unwrap();
        assert!(!places.runtime_dir.exists() && !places.state_dir.join("node").exists());
        assert!(places.state_dir.join("volumes/shop_db/rows").exists());
        assert_eq!(done.kept, [format!("volume {}", places.state_dir.join("volumes/shop_db").display())]);
        let mut again = Removed::default();
        remove_files(&places, false, &mut again).unwrap();
        assert_eq!((again.removed.len(), again.kept), (0, done.kept));
        let mut all = Removed::default();
        remove_files(&places, true, &mut all).unwrap();
        assert!(!places.state_dir.exists() && all.kept.is_empty(), "{all:?}");
        let mut nothing = Removed::default();
        remove_files(&places, true, &mut nothing).unwrap();
        assert_eq!(nothing, Removed::default());
    }

    #[test]
    fn a_directory_that_no_daemon_had_is_told_before_anything_goes() {
        let (base, places) = installed();
        assert_eq!(strange(&places).unwrap(), None);
        let home = base.path().join("home");
        fs::create_dir_all(home.join("images")).unwrap();
        let mistyped = Places { state_dir: home.clone(), ..places.clone() };
        assert_eq!(strange(&mistyped).unwrap(), Some(home.clone()));
        let mistyped = Places { runtime_dir: home.clone(), ..places.clone() };
        assert_eq!(strange(&mistyped).unwrap(), Some(home));
        // What an uninstall left, and what is not there at all.
        remove_files(&places, false, &mut Removed::default()).unwrap();
        assert_eq!(strange(&places).unwrap(), None);
        remove_files(&places, true, &mut Removed::default()).unwrap();
        assert_eq!(strange(&places).unwrap(), None);
    }

    #[test]
    fn a_state_directory_behind_a_symlink_is_emptied_and_the_symlink_stays() {
        let (base, places) = installed();
        let link = base.path().join("link");
        std::os::unix::fs::symlink(&places.state_dir, &link).unwrap();
        let mut done = Removed::default();
        remove_files(&Places { state_dir: link.clone(), ..places.clone() }, true, &mut done).unwrap();
        assert_eq!(fs::read_dir(&places.state_dir).unwrap().count(), 0);
        assert_eq!(done.kept, [format!("{}, empty: it is a symlink to where it is kept", link.display())]);
    }

    #[test]
    fn what_is_not_ours_stays() {
        let (_base, places) = installed();
        fs::write(places.state_dir.join("diary"), "dear").unwrap();
        std::os::unix::fs::symlink("/etc", places.state_dir.join("volumes/link")).unwrap();
        let mut done = Removed::default();
        remove_files(&places, true, &mut done).unwrap();
        assert!(places.state_dir.join("diary").exists() && Path::new("/etc/hostname").exists());
        assert_eq!(done.kept.len(), 1);
        assert!(done.kept[0].contains("diary"), "{done:?}");
    }
}
