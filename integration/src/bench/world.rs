//! The outer process: makes a world for the benchmarks (`peers/world.sh`), waits for its end, and takes away what is left.
//!
//! Processes, mounts, links and nftables tables end with the world's PID 1. Left are the control groups and one directory; both
//! are removed here, also after a signal, a panic inside, or a kill of the inner process. When this process itself is killed, the
//! inner one sees its standard input end and goes; then empty groups and the directory stay until the next run.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

const SCRIPT: &str = include_str!("../../peers/world.sh");
const CGROUPS: &str = "/sys/fs/cgroup";
/// On a disk, as the state of a daemon is.
const WORK: &str = "/var/tmp";
/// Groups and directories of runs are called so, with the PID of the outer process.
const PREFIX: &str = "carrack-bench-";
/// Time for the kernel to end the processes of a world.
const END_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs this program again with `--inside ARGUMENTS...`, in a world; gives its exit code.
pub fn run(arguments: &[OsString]) -> io::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        return Err(io::Error::other("benchmarks need root: they make namespaces, cgroups and containers"));
    }
    sweep();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        signals.add(signal);
    }
    // Before any thread is there, so that all have it.
    signals.thread_block()?;
    let group = format!("{PREFIX}{}", std::process::id());
    let work = Path::new(WORK).join(&group);
    fs::DirBuilder::new().mode(0o700).create(&work)?;
    let result = make_groups(&group)
        .and_then(|()| start(&group, &work, arguments))
        .and_then(|child| wait(child, signals));
    end_groups(&group);
    fs::remove_dir_all(&work)?;
    result
}

fn start(group: &str, work: &Path, arguments: &[OsString]) -> io::Result<Child> {
    let script = work.join("world.sh");
    fs::write(&script, SCRIPT)?;
    Command::new("bash")
        .arg(&script)
        .arg(group)
        .arg(std::env::current_exe()?)
        .arg("--inside")
        .arg(work)
        .args(arguments)
        .env("TMPDIR", work)
        // The terminal's Ctrl-C is for this process, which ends the world in order.
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()
}

/// Until the world ends, or a signal ends it.
fn wait(mut child: Child, signals: SigSet) -> io::Result<ExitCode> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            // `unshare` gives this on to the PID 1 of the world.
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    // Not `wait`, which would close our end of the pipe that tells the inner process that we live.
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(LOOK_EVERY),
        }
    };
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        // As a shell shows it; ours is the only signal that is expected here.
        (None, _) => ExitCode::from(130),
    })
}

/// The hierarchies, symbolic links of co-mounted controllers left out.
fn hierarchies() -> Vec<PathBuf> {
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return vec![CGROUPS.into()];
    }
    let entries = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn make_groups(group: &str) -> io::Result<()> {
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(group);
        fs::create_dir(&dir)?;
        // No process may join a new v1 cpuset before it has CPUs and memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.ends_with("cpuset") {
                fs::write(dir.join(file), fs::read(hierarchy.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// Removes the groups of a run with all below, once the kernel has ended their processes.
fn end_groups(group: &str) {
    let end = Instant::now() + END_MAX;
    for hierarchy in hierarchies() {
        while remove(&hierarchy.join(group)).is_err() && Instant::now() < end {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path())?;
    }
    fs::remove_dir(dir)
}

/// Takes away what runs left whose outer process was killed.
fn sweep() {
    hierarchies().iter().flat_map(|hierarchy| left_behind(hierarchy)).for_each(|dir| drop(remove(&dir)));
    left_behind(Path::new(WORK)).for_each(|dir| drop(fs::remove_dir_all(dir)));
}

fn left_behind(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let pid = name.and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    })
}

/// What the inner process does first: it ends, and with it the world, when the outer one is gone; and what it starts hears the
/// signals that the outer one keeps for itself.
pub fn begin_inside() {
    // A mask that cannot be set is one that was never changed.
    let _ = SigSet::all().thread_unblock();
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
}
