//! What the node remembers over restarts and reboots: the last assignment and the facts of each task.
//!
//! Owns `STATE/node/assignment.json` and `STATE/node/tasks.json`, the order in which they and the sealed contents of `sealed` are
//! written, and which assignments are accepted. Writes are grouped: the
//! loop hands over its newest state and goes on; one writer at a time brings the newest to disk. Steps that must not run ahead
//! of the disk wait for their version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carrack_api::{Assignment, ClusterId, NodeId, SESSION_VERSION, TaskId};
use carrack_runtime::error::chain;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::NodeError;
use crate::facts::TaskFacts;
use crate::identity::{read_json, write_json};
use crate::sealed::SealedContents;

/// Format of both files.
const LEDGER_VERSION: u32 = 1;

/// What was read at the start.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// The last assignment that was accepted.
    pub(crate) assignment: Option<Arc<Assignment>>,
    /// Facts of tasks.
    pub(crate) tasks: BTreeMap<TaskId, TaskFacts>,
    /// The host was restarted since it was written.
    pub(crate) rebooted: bool,
}

/// What is to be remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// The assignment.
    pub(crate) assignment: Option<Arc<Assignment>>,
    /// Facts of tasks.
    pub(crate) tasks: Arc<BTreeMap<TaskId, TaskFacts>>,
}

/// One of the two files: what it held can be learned again.
pub(crate) fn holds(path: &Path) -> bool {
    path.parent().is_some_and(|directory| path == assignment_path(directory) || path == tasks_path(directory))
}

#[derive(Debug, Serialize, Deserialize)]
struct AssignmentFile<A> {
    version: u32,
    assignment: A,
}

#[derive(Debug, Serialize, Deserialize)]
struct TasksFile<T> {
    version: u32,
    boot_id: String,
    tasks: T,
}

/// Reads the ledger in a directory.
pub(crate) fn load(
    directory: &Path,
    boot_id: &str,
    sealed: &SealedContents,
) -> Result<Remembered, NodeError> {
    let assignment: Option<AssignmentFile<Assignment>> =
        read_json(&assignment_path(directory), LEDGER_VERSION, |file: &AssignmentFile<Assignment>| {
            file.version
        })?;
    let tasks: Option<TasksFile<BTreeMap<TaskId, TaskFacts>>> = read_json(
        &tasks_path(directory),
        LEDGER_VERSION,
        |file: &TasksFile<BTreeMap<TaskId, TaskFacts>>| file.version,
    )?;
    let rebooted = tasks.as_ref().is_some_and(|file| file.boot_id != boot_id);
    Ok(Remembered {
        assignment: assignment.map(|file| {
            let contents = sealed.of(&file.assignment);
            Arc::new(Assignment { contents, ..file.assignment })
        }),
        tasks: tasks.map(|file| file.tasks).unwrap_or_default(),
        rebooted,
    })
}

fn assignment_path(directory: &Path) -> PathBuf {
    directory.join("assignment.json")
}

fn tasks_path(directory: &Path) -> PathBuf {
    directory.join("tasks.json")
}

/// Why an assignment is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unacceptable {
    /// It is of a newer form.
    #[error("an assignment has format {found}, this node reads up to {SESSION_VERSION}")]
    Newer {
        /// Its form.
        found: u32,
    },
    /// It is of another cluster.
    #[error("an assignment is of cluster {foreign}, this node belongs to {own}")]
    ForeignCluster {
        /// Ours.
        own: ClusterId,
        /// Its.
        foreign: ClusterId,
    },
    /// It is for another node.
    #[error("an assignment is for node {other}, this is {own}")]
    OtherNode {
        /// Ours.
        own: NodeId,
        /// Its.
        other: NodeId,
    },
    /// It is older than what is followed.
    #[error("an assignment of epoch {}, generation {} is older than epoch {}, generation {} that is followed", got.0, got.1, have.0, have.1)]
    Older {
        /// Epoch and generation that are followed.
        have: (u64, u64),
        /// Its epoch and generation.
        got: (u64, u64),
    },
}

/// Whether an assignment is to be followed: `Ok(false)` when it already is.
pub(crate) fn accept(
    node: &NodeId,
    cluster: Option<&ClusterId>,
    followed: Option<&Assignment>,
    new: &Assignment,
) -> Result<bool, Unacceptable> {
    if new.version > SESSION_VERSION {
        return Err(Unacceptable::Newer { found: new.version });
    }
    if let Some(own) = cluster.filter(|own| **own != new.cluster) {
        return Err(Unacceptable::ForeignCluster { own: own.clone(), foreign: new.cluster.clone() });
    }
    if *node != new.node {
        return Err(Unacceptable::OtherNode { own: node.clone(), other: new.node.clone() });
    }
    let got = (new.epoch, new.generation);
    match followed.map(|old| (old.epoch, old.generation)) {
        Some(have) if got < have => Err(Unacceptable::Older { have, got }),
        Some(have) => Ok(got > have),
        None => Ok(true),
    }
}

/// Takes the newest memory to disk. Clones write to the same ledger.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    latest: watch::Sender<(u64, Memory)>,
    written: watch::Receiver<u64>,
}

impl Ledger {
    /// Starts the writer; it ends when the last handle is dropped, after it has written what it was given. It holds `lock` until
    /// then, so that no later daemon reads what is still being written.
    pub(crate) fn start<L: Send + 'static>(
        directory: PathBuf,
        boot_id: String,
        sealed: SealedContents,
        lock: L,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (latest, receiver) = watch::channel((0, Memory::default()));
        let (written_sender, written) = watch::channel(0);
        let writer = tokio::spawn(async move {
            let files = Files { directory, boot_id, sealed };
            write_all(files, receiver, written_sender).await;
            drop(lock);
        });
        (Self { latest, written }, writer)
    }

    /// Hands over the newest memory and returns its version.
    pub(crate) fn remember(&self, memory: Memory) -> u64 {
        let mut version = 0;
        self.latest.send_modify(|(number, content)| {
            *number += 1;
            version = *number;
            *content = memory;
        });
        version
    }

    /// Waits until a version (or a newer one) is on disk; false when the writer is gone.
    pub(crate) async fn is_on_disk(&self, version: u64) -> bool {
        self.written.clone().wait_for(|written| *written >= version).await.is_ok()
    }
}

/// Where memory goes.
#[derive(Debug, Clone)]
struct Files {
    directory: PathBuf,
    boot_id: String,
    sealed: SealedContents,
}

async fn write_all(files: Files, mut latest: watch::Receiver<(u64, Memory)>, written: watch::Sender<u64>) {
    let mut last = Memory::default();
    let mut failing = false;
    let mut retry = std::time::Duration::ZERO;
    loop {
        if failing {
            tokio::time::sleep(retry).await;
        } else if latest.changed().await.is_err() {
            return;
        }
        let (version, memory) = latest.borrow_and_update().clone();
        let (old, new, to) = (last.clone(), memory.clone(), files.clone());
        let result = tokio::task::spawn_blocking(move || write_changes(&to, &old, &new)).await;
        let error = match result {
            Ok(Ok(())) => {
                last = memory;
                failing = false;
                retry = std::time::Duration::ZERO;
                carrack_api::fail::pass("ledger.5-written");
                written.send_replace(version);
                continue;
            }
            Ok(Err(error)) => chain(&error),
            Err(error) => error.to_string(),
        };
        tracing::error!(%error, "the ledger cannot be written; trying again");
        failing = true;
        retry = (retry * 2).clamp(RETRY_FIRST, RETRY_MAX);
        if latest.has_changed().is_err() {
            return;
        }
    }
}

/// First and longest delay before a failed write is tried again.
const RETRY_FIRST: std::time::Duration = std::time::Duration::from_millis(100);
const RETRY_MAX: std::time::Duration = std::time::Duration::from_secs(5);

fn write_changes(files: &Files, old: &Memory, new: &Memory) -> Result<(), NodeError> {
    let Files { directory, boot_id, sealed } = files;
    let same = match (&old.assignment, &new.assignment) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if let Some(assignment) = new.assignment.as_ref().filter(|_| !same) {
        sealed.add(&assignment.contents)?;
        // Credentials are in memory only: after a reboot without a scheduler the node goes on with the images it holds. Contents
        // are sealed, each in a file of its own.
        let (credentials, contents) = (BTreeMap::new(), BTreeMap::new());
        let kept = Assignment { credentials, contents, ..Assignment::clone(assignment) };
        write_json(
            &assignment_path(directory),
            ["ledger.1-assignment", "ledger.2-assignment-rename"],
            &AssignmentFile { version: LEDGER_VERSION, assignment: &kept },
        )?;
        sealed.keep_only(&assignment.contents)?;
    }
    let file = TasksFile { version: LEDGER_VERSION, boot_id: boot_id.clone(), tasks: &*new.tasks };
    write_json(&tasks_path(directory), ["ledger.3-tasks", "ledger.4-tasks-rename"], &file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::RegistryCredentials;

    use crate::testing::{CLUSTER, NODE, assigned, assignment};

    fn node() -> NodeId {
        NodeId::new(NODE).unwrap()
    }

    #[test]
    fn an_older_foreign_or_misled_assignment_is_refused_and_says_why() {
        let followed = Assignment { epoch: 2, ..assignment(5, BTreeMap::new()) };
        let cluster = ClusterId::new(CLUSTER).unwrap();
        let accept = |new: &Assignment| accept(&node(), Some(&cluster), Some(&followed), new);
        assert_eq!(accept(&followed), Ok(false));
        assert_eq!(accept(&Assignment { generation: 6, ..followed.clone() }), Ok(true));
        assert_eq!(accept(&Assignment { epoch: 3, generation: 1, ..followed.clone() }), Ok(true));
        let older = accept(&Assignment { generation: 4, ..followed.clone() }).unwrap_err().to_string();
        assert!(older.contains("epoch 2, generation 4 is older than epoch 2, generation 5"), "{older}");
        assert!(accept(&Assignment { epoch: 1, generation: 99, ..followed.clone() }).is_err());
        let foreign = Assignment { cluster: ClusterId::new("dddddddddddd").unwrap(), ..followed.clone() };
        assert!(accept(&foreign).unwrap_err().to_string().contains(CLUSTER));
        let other = Assignment { node: NodeId::new("bbbbbbbbbbbb").unwrap(), ..followed.clone() };
        assert!(matches!(accept(&other), Err(Unacceptable::OtherNode { .. })));
        let newer = Assignment { version: SESSION_VERSION + 1, ..followed.clone() };
        assert!(matches!(accept(&newer), Err(Unacceptable::Newer { .. })));
    }

    #[tokio::test]
    async fn what_is_on_disk_is_read_back_and_a_new_boot_is_noticed() {
        let state = tempfile::tempdir().unwrap();
        let sealed = SealedContents::open(state.path()).unwrap();
        let (ledger, writer) =
            Ledger::start(state.path().to_path_buf(), "boot-a".to_owned(), sealed.clone(), ());
        let mut task = TaskFacts::new(&assigned("web", 1));
        task.run = 4;
        let tasks = BTreeMap::from([(TaskId(1), task)]);
        let mut web = assigned("web", 1);
        web.spec.container.files = vec![carrack_api::ContentFile {
            kind: carrack_api::ContentKind::Secret,
            name: "key".parse().unwrap(),
            target: "/run/secrets/key".into(),
            uid: 0,
            gid: 0,
            mode: 0o444,
            digest: Some("hmac-sha256:1".into()),
        }];
        let mut kept = assignment(3, BTreeMap::from([(TaskId(1), web)]));
        let content = carrack_api::Content::new(b"canary".to_vec());
        kept.contents = BTreeMap::from([("hmac-sha256:1".to_owned(), content)]);
        let kept = Arc::new(kept);
        let secret = RegistryCredentials { username: "canary-user".into(), password: "canary".into() };
        let logins = BTreeMap::from([("registry.test".to_owned(), secret)]);
        let told = Assignment {
            credentials: BTreeMap::from([("demo".parse().unwrap(), logins)]),
            ..Assignment::clone(&kept)
        };
        let memory = Memory { assignment: Some(Arc::new(told)), tasks: Arc::new(tasks.clone()) };
        let version = ledger.remember(memory);
        assert!(ledger.is_on_disk(version).await);
        drop(ledger);
        writer.await.unwrap();
        let written = std::fs::read_to_string(assignment_path(state.path())).unwrap();
        assert!(!written.contains("canary"), "credentials and contents are never written in plain");
        let read = load(state.path(), "boot-a", &sealed).unwrap();
        assert_eq!((read.assignment, read.tasks, read.rebooted), (Some(kept), tasks, false));
        assert!(load(state.path(), "boot-b", &sealed).unwrap().rebooted);
    }

    #[tokio::test]
    async fn the_last_memory_is_written_although_the_handle_is_gone() {
        let state = tempfile::tempdir().unwrap();
        let sealed = SealedContents::open(state.path()).unwrap();
        let (ledger, writer) =
            Ledger::start(state.path().to_path_buf(), "boot".to_owned(), sealed.clone(), ());
        for run in 1..=50 {
            let task = TaskFacts { run, ..TaskFacts::default() };
            ledger
                .remember(Memory { assignment: None, tasks: Arc::new(BTreeMap::from([(TaskId(1), task)])) });
        }
        drop(ledger);
        writer.await.unwrap();
        assert_eq!(load(state.path(), "boot", &sealed).unwrap().tasks[&TaskId(1)].run, 50);
    }

    #[test]
    fn an_empty_directory_remembers_nothing() {
        let state = tempfile::tempdir().unwrap();
        let sealed = SealedContents::open(state.path()).unwrap();
        let read = load(state.path(), "boot", &sealed).unwrap();
        assert!(read.assignment.is_none() && read.tasks.is_empty() && !read.rebooted);
    }
}
