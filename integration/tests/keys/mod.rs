//! What `live_keys` looks with, beside the files that it deploys.

mod name_server;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use carrack_api::TaskStatus;
use carrack_integration::inventory::cgroup_roots;
use carrack_integration::lab::Lab;

pub(crate) use name_server::NameServer;

/// Writes a file of the lab, with the directories above it.
pub(crate) fn place(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.path(name);
    fs::create_dir_all(path.parent().expect("a directory above")).expect("make a directory of the lab");
    fs::write(&path, text).expect("write a file of the lab");
    path
}

/// Deploys a file.
pub(crate) fn deploy(lab: &Lab, file: &Path, more: &[&str]) {
    let file = file.to_str().expect("a path in UTF-8");
    lab.ok(&[&["deploy", "-f", file][..], more].concat());
}

/// Processes of a service, by PID.
pub(crate) fn pids(lab: &Lab, service: &str) -> Vec<u32> {
    let of = |task: &TaskStatus| task.service.to_string() == service;
    let (stack, _) = service.split_once('/').expect("STACK/SERVICE");
    lab.tasks(stack).iter().filter(|task| of(task)).filter_map(|task| task.pid).collect()
}

/// A file of that name below a directory.
pub(crate) fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

/// The files of that name in all cgroups of a container, as cgroup v1 and v2 have them.
pub(crate) fn cgroup_files(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut found = String::new();
    // A controller that it has no cgroup of its own in says `/`.
    for path in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter(|path| *path != "/") {
        for root in cgroup_roots() {
            let file = root.join(path.trim_start_matches('/')).join(name);
            found.push_str(&fs::read_to_string(file).unwrap_or_default());
        }
    }
    found
}

/// A block device of this machine, with its numbers.
pub(crate) fn disk() -> Option<(String, String)> {
    let entries = fs::read_dir("/sys/block").ok()?.flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    // Disks before loops and the like.
    names.sort_by_key(|name| (name.starts_with("loop") || name.starts_with("ram"), name.clone()));
    names.into_iter().find_map(|name| {
        let numbers = fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?.trim().to_owned();
        let path = format!("/dev/{name}");
        fs::metadata(&path).ok()?.file_type().is_block_device().then_some((path, numbers))
    })
}

/// The machine has the unified hierarchy of cgroups alone.
pub(crate) fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
