//! The store against its promises: durable, ordered, grouped, and clear about damage.

use std::path::Path;

use carrack_api::Timestamp;

use super::*;

fn stack(name: &str, revision: u64) -> Object {
    Object::Stack(StackRecord {
        name: name.parse().unwrap(),
        revision,
        deploy: revision,
        deployed_at: Timestamp(1),
        phase: StackPhase::Active,
        stopped: Default::default(),
        fresh: Default::default(),
        set: Default::default(),
        resolved: Default::default(),
    })
}

fn put(name: &str, revision: u64) -> Txn {
    Txn { expect: Vec::new(), ops: vec![Op::Put(stack(name, revision))] }
}

fn open(directory: &Path) -> (Store, StoreGuard) {
    Store::open(directory).unwrap()
}

fn close((store, guard): (Store, StoreGuard)) {
    drop(store);
    guard.join();
}

fn revision(store: &Store, name: &str) -> Option<u64> {
    store.snapshot().stacks.get(&name.parse().unwrap()).map(|s| s.revision)
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    for n in 1..=20 {
        opened.0.commit_blocking(put("a", n)).unwrap();
    }
    let before = opened.0.snapshot();
    close(opened);
    let opened = open(dir.path());
    assert_eq!(*opened.0.snapshot(), *before);
    assert_eq!(before.index, 20);
    close(opened);
}

#[test]
fn a_precondition_that_does_not_hold_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, guard) = open(dir.path());
    let key = Key::Stack("a".parse().unwrap());
    let mut txn = put("a", 1);
    txn.expect.push((key.clone(), None));
    store.commit_blocking(txn.clone()).unwrap();
    assert_eq!(store.commit_blocking(txn).unwrap_err(), CommitError::Conflict(key.clone()));
    let mut next = put("a", 2);
    next.expect.push((key.clone(), store.snapshot().version(&key)));
    store.commit_blocking(next).unwrap();
    assert_eq!((revision(&store, "a"), store.snapshot().index), (Some(2), 2));
    close((store, guard));
}

#[test]
fn limits_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (store, guard) = open(dir.path());
    let many = Txn { expect: Vec::new(), ops: (0..101).map(|n| Op::Put(stack("a", n))).collect() };
    assert_eq!(store.commit_blocking(many).unwrap_err(), CommitError::TooMany(101));
    let mut task = crate::testing::task(1, "a/web", 1);
    task.placement = "x".repeat(OBJECT_MAX_BYTES);
    let large = Txn { expect: Vec::new(), ops: vec![Op::Put(Object::Task(task))] };
    let error = store.commit_blocking(large).unwrap_err();
    assert!(matches!(&error, CommitError::TooLarge { key, .. } if key.to_string() == "task t1"), "{error}");
    close((store, guard));
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_record_loses_only_that_record() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    opened.0.commit_blocking(put("a", 1)).unwrap();
    let whole = std::fs::metadata(dir.path().join("log")).unwrap().len();
    opened.0.commit_blocking(put("a", 2)).unwrap();
    close(opened);
    let bytes = std::fs::read(dir.path().join("log")).unwrap();
    for cut in usize::try_from(whole).unwrap()..bytes.len() {
        std::fs::write(dir.path().join("log"), &bytes[..cut]).unwrap();
        let opened = open(dir.path());
        assert_eq!(revision(&opened.0, "a"), Some(1), "cut at {cut}");
        opened.0.commit_blocking(put("b", 7)).unwrap();
        close(opened);
        let opened = open(dir.path());
        assert_eq!((revision(&opened.0, "a"), revision(&opened.0, "b")), (Some(1), Some(7)), "cut at {cut}");
        close(opened);
    }
}

#[test]
fn damage_in_the_middle_is_told_and_nothing_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    for n in 1..=3 {
        opened.0.commit_blocking(put("a", n)).unwrap();
    }
    close(opened);
    let path = dir.path().join("log");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is damaged at byte") && error.contains("backup"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn files_of_a_newer_version_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let newer = STORE_VERSION + 1;
    let header = format!(r#"{{"format":"carrack-store","version":{newer},"index":0,"more":true}}"#);
    std::fs::write(dir.path().join("log"), frame::encode(header.as_bytes())).unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    let told = format!("newer carrack (store version {newer}; this one reads up to {STORE_VERSION})");
    assert!(error.contains(&told), "{error}");
}

/// The files in `directory` as the version before wrote them: the bodies are the same, the header says which it was.
fn age(directory: &Path, name: &str) {
    let path = directory.join(name);
    let bytes = std::fs::read(&path).unwrap();
    let frame::Next::Frame(header, end) = frame::next(&bytes, 0) else { panic!("no header in {name}") };
    let old = String::from_utf8(header.to_vec())
        .unwrap()
        .replace(&header_version(STORE_VERSION), &header_version(STORE_VERSION - 1));
    std::fs::write(path, [frame::encode(old.as_bytes()), bytes[end..].to_vec()].concat()).unwrap();
}

fn header_version(version: u32) -> String {
    format!("\"version\":{version},")
}

/// What the header of a file says.
fn version_of(directory: &Path, name: &str) -> String {
    let bytes = std::fs::read(directory.join(name)).unwrap();
    let frame::Next::Frame(header, _) = frame::next(&bytes, 0) else { panic!("no header in {name}") };
    String::from_utf8(header.to_vec()).unwrap()
}

#[test]
fn files_of_the_version_before_are_read_and_then_say_that_they_are_new() {
    for folded in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path());
        opened.0.commit_blocking(put("a", 1)).unwrap();
        close(opened);
        if folded {
            disk::Disk::open(dir.path()).unwrap().compact().unwrap();
            age(dir.path(), "snapshot");
        }
        age(dir.path(), "log");
        let opened = open(dir.path());
        assert_eq!(revision(&opened.0, "a"), Some(1));
        opened.0.commit_blocking(put("a", 2)).unwrap();
        close(opened);
        for name in ["snapshot", "log"] {
            let header = version_of(dir.path(), name);
            assert!(
                header.contains(&header_version(STORE_VERSION)),
                "an older binary must refuse the {name}: {header}"
            );
        }
        let opened = open(dir.path());
        assert_eq!(revision(&opened.0, "a"), Some(2));
        close(opened);
    }
}

#[test]
fn objects_of_version_1_are_read() {
    // None of the fields that version 2 added.
    let mut value = serde_json::to_value(stack("a", 1)).unwrap();
    let fields = value["stack"].as_object_mut().unwrap();
    for added in ["resolved", "stopped", "fresh", "set"] {
        assert!(fields.remove(added).is_some(), "{added}");
    }
    let read: Object = serde_json::from_value(value).unwrap();
    assert_eq!(read, stack("a", 1));
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("in use by another carrack daemon (pid {})", std::process::id())),
        "{error}"
    );
    close(opened);
    close(open(dir.path()));
}

#[test]
fn compaction_keeps_state_and_versions_at_every_step_of_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    for n in 1..=5 {
        opened.0.commit_blocking(put("a", n)).unwrap();
        opened.0.commit_blocking(put("b", n)).unwrap();
    }
    let before = opened.0.snapshot();
    close(opened);
    let old_log = std::fs::read(dir.path().join("log")).unwrap();
    let mut disk = disk::Disk::open(dir.path()).unwrap();
    disk.compact().unwrap();
    drop(disk);
    assert_eq!(*disk::Disk::open(dir.path()).unwrap().snapshot(), *before, "after both renames");
    std::fs::write(dir.path().join("log"), &old_log).unwrap();
    assert_eq!(*disk::Disk::open(dir.path()).unwrap().snapshot(), *before, "between the renames");
    std::fs::write(dir.path().join("snapshot.new"), b"half a snap").unwrap();
    assert_eq!(*disk::Disk::open(dir.path()).unwrap().snapshot(), *before, "in the middle of a snapshot");
    std::fs::remove_file(dir.path().join("log")).unwrap();
    assert_eq!(*disk::Disk::open(dir.path()).unwrap().snapshot(), *before, "snapshot alone");
}

#[test]
fn many_writers_all_get_their_answer_and_share_few_frames() {
    let dir = tempfile::tempdir().unwrap();
    let (store, guard) = open(dir.path());
    let threads: Vec<_> = (0..16)
        .map(|t| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in 1..=25 {
                    let snapshot = store.commit_blocking(put(&format!("s{t}"), n)).unwrap();
                    let seen = snapshot.stacks.get(&format!("s{t}").parse().unwrap()).unwrap().revision;
                    assert_eq!(seen, n, "the answer shows the change");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(store.snapshot().index, 400);
    close((store, guard));
    let bytes = std::fs::read(dir.path().join("log")).unwrap();
    let (mut at, mut frames) = (0, 0);
    while let frame::Next::Frame(_, end) = frame::next(&bytes, at) {
        (at, frames) = (end, frames + 1);
    }
    assert!(frames < 400, "{frames} frames for 400 transactions: nothing was grouped");
    let opened = open(dir.path());
    assert!((0..16).all(|t| revision(&opened.0, &format!("s{t}")) == Some(25)));
    close(opened);
}
