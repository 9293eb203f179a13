//! CPU time and memory, counted by the kernel: of control groups with all they started, and of processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// CPU time is shown in milliseconds; cgroup v1 counts nanoseconds.
const NS_PER_MS: f64 = 1e6;

/// Time for killed processes to go.
const END_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// CPU time that a cgroup below the root has used, with all that was ever in it, milliseconds.
pub(super) fn cpu_ms(group: &str) -> f64 {
    let v1 = fs::read_to_string(dir("cpuacct", group).join("cpuacct.usage"));
    if let Ok(text) = v1 {
        return text.trim().parse::<f64>().unwrap_or(0.0) / NS_PER_MS;
    }
    let v2 = fs::read_to_string(dir("", group).join("cpu.stat")).unwrap_or_default();
    let line = v2.lines().find_map(|line| line.strip_prefix("usage_usec "));
    line.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 1000.0
}

/// Memory that a cgroup is charged for without the page cache, kernel memory included, bytes.
pub(super) fn charged_bytes(group: &str) -> f64 {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or(0.0)
    };
    let v1 = dir("memory", group);
    if v1.exists() {
        let kernel = read(v1.join("memory.kmem.usage_in_bytes")).trim().parse().unwrap_or(0.0);
        return field(&read(v1.join("memory.stat")), "total_rss") + kernel;
    }
    let stat = read(dir("", group).join("memory.stat"));
    field(&stat, "anon") + field(&stat, "kernel")
}

/// Makes a cgroup to count CPU time in; gives the file into which processes are written.
pub(super) fn group(name: &str) -> PathBuf {
    let v1 = dir("cpuacct", name);
    let dir = if dir("cpuacct", "").is_dir() { v1 } else { dir("", name) };
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("make the cgroup {}: {error}", dir.display()));
    dir.join("cgroup.procs")
}

/// Moves processes into a group made by [`group`].
pub(super) fn move_into(procs: &Path, pids: &[u32]) {
    for pid in pids {
        fs::write(procs, pid.to_string())
            .unwrap_or_else(|error| panic!("move {pid} into {}: {error}", procs.display()));
    }
}

/// Kills what is in a cgroup and below, on any hierarchy, and removes it.
pub(super) fn end_group(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let mut dirs = vec![root.join(name)];
    dirs.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join(name)));
    let end = Instant::now() + END_MAX;
    while !dirs.iter().all(|dir| end_dir(dir)) && Instant::now() < end {
        std::thread::sleep(LOOK_EVERY);
    }
}

fn end_dir(dir: &Path) -> bool {
    for child in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        end_dir(&child.path());
    }
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse() {
            // One that is gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

fn dir(controller: &str, group: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(controller).join(group.trim_start_matches('/'))
}

/// Processes whose program has a name that `wanted` accepts, with their arguments.
pub(super) fn processes(wanted: impl Fn(&str) -> bool) -> Vec<(u32, Vec<String>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        // One that runs from a detached mount has no name.
        if !wanted(exe.file_name().and_then(|name| name.to_str()).unwrap_or_default()) {
            continue;
        }
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        found.push((pid, words.collect()));
    }
    found
}

/// Proportional share of memory of these processes, KiB.
pub(super) fn pss_kib(pids: impl IntoIterator<Item = u32>) -> f64 {
    let one = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    pids.into_iter().map(one).sum()
}
