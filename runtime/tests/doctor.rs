//! The doctor on a real host, whichever its cgroups are: it tries for real, finds what tests need, and leaves nothing.

use std::fs;
use std::path::Path;

use carrack_api::fact::Verdict;
use carrack_runtime::doctor::{examine, glance, lacks};

#[test]
fn this_host_offers_all_that_containers_need_and_is_as_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let facts = examine(dir.path());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    assert!(!mounts.contains("carrack-doctor"), "the trial has a mount namespace of its own:\n{mounts}");
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0, "something was left");
    let missing: Vec<_> =
        facts.iter().filter(|fact| matches!(fact.verdict, Verdict::Missing | Verdict::Untried)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert_eq!(lacks(), Default::default(), "tests of limits need all controllers");
}

#[test]
fn the_arrangement_of_cgroups_is_named_as_it_is() {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let facts = glance();
    let fact = |name: &str| facts.iter().find(|fact| fact.name == name);
    let cgroups = fact("cgroups").expect("the arrangement");
    assert_eq!(cgroups.found.starts_with("v2"), v2, "{cgroups}");
    let controllers = fact("cgroup controllers").expect("the controllers");
    for name in ["cpu", "cpuset", "memory", "pids"] {
        assert!(controllers.found.split(' ').any(|held| held == name), "{name}: {controllers}");
    }
    assert_eq!(fact("device filters (BPF)").is_some(), v2, "only v2 needs them");
}

#[test]
fn a_state_directory_that_cannot_be_is_told_with_what_helps() {
    let facts = examine(Path::new("/proc/carrack"));
    let overlay = facts.iter().find(|fact| fact.name == "overlayfs").expect("the trial");
    assert_eq!(overlay.verdict, Verdict::Missing);
    assert!(overlay.found.contains("/proc"), "{overlay}");
}
