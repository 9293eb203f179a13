//! Where mounts land inside a container: the image's symlinks followed, and what can never work said at once.
//!
//! Owns the rules of what may be mounted over what. libcontainer makes the mounts, and resolves each target again inside the root:
//! nothing here has to hold against a race, only against mistakes and images that are made to trick.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::bundle::{DeviceNode, MountKind, ReadyMount};
use crate::error::StartError;
use crate::in_root;

/// Files below `/proc` that may be replaced, as lxcfs does.
const PROC_FILES: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/slabinfo",
];
/// What libcontainer makes in the `/dev` of every container, after the mounts.
const DEV_FILES: [&str; 13] = [
    "/dev/console",
    "/dev/core",
    "/dev/fd",
    "/dev/full",
    "/dev/null",
    "/dev/ptmx",
    "/dev/random",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];
/// File systems of the kernel that a container has of its own; what the image holds there is hidden.
const KERNEL_DIRS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Settles all targets, and refuses those that cannot be.
pub(super) fn settle_all(
    root: &OwnedFd,
    mounts: &mut [ReadyMount],
    devices: &[DeviceNode],
) -> Result<(), StartError> {
    for mount in mounts.iter_mut() {
        let fail = |why: String| StartError::Mount { target: mount.target.clone(), why };
        // Symlinks may point to what is missing: `/etc/resolv.conf` of many distributions does.
        let found = in_root::settle(root, &mount.target).map_err(|error| fail(error.to_string()))?;
        allowed(&found).map_err(fail)?;
        mount.target = found;
    }
    for mount in mounts.iter() {
        let inside = |other: &&ReadyMount| Path::new(&mount.target).starts_with(&other.target);
        // What another mount brings along is not known here.
        if mounts.iter().filter(inside).count() == 1 {
            fits(root, mount)
                .map_err(|why| StartError::Mount { target: mount.target.clone(), why: why.into() })?;
        }
    }
    for device in devices {
        let fail = |why: String| Err(StartError::Device { path: device.path.clone(), why });
        let path = Path::new(&device.path);
        if !path.starts_with("/dev")
            || path == Path::new("/dev")
            || device.path.split('/').any(|part| part == "..")
        {
            return fail("a device of a container must be below /dev".into());
        }
        if let Some(mount) = mounts.iter().find(|mount| path.starts_with(&mount.target)) {
            return fail(format!("{} is mounted over it", mount.target));
        }
    }
    Ok(())
}

fn allowed(target: &str) -> Result<(), String> {
    let path = Path::new(target);
    if target == "/" {
        return Err("it is the root directory in this image".into());
    }
    if path.starts_with("/proc") && !PROC_FILES.contains(&target) {
        return Err(format!("nothing can be mounted over {target}"));
    }
    if let Some(file) = DEV_FILES.iter().find(|file| path.starts_with(file)) {
        return Err(format!(
            "{file} is a device of every container; `devices` can replace it, a mount cannot"
        ));
    }
    if ["/dev", "/dev/pts"].contains(&target) {
        return Err(format!("{target} holds the container's own devices; name a directory below it"));
    }
    Ok(())
}

/// A directory fits on a directory, a file on a file, and both on nothing.
fn fits(root: &OwnedFd, mount: &ReadyMount) -> Result<(), &'static str> {
    if KERNEL_DIRS.iter().any(|dir| Path::new(&mount.target).starts_with(dir)) {
        return Ok(());
    }
    let dir = match &mount.kind {
        MountKind::Tmpfs { .. } => true,
        MountKind::Bind { source, .. } => source.is_dir(),
    };
    let found = match in_root::open(root, &mount.target, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err("a part of the path is a file in this image");
        }
        // Missing, or for the mount itself to judge.
        Err(_) => return Ok(()),
    };
    let found_dir = rustix::fs::fstat(&found)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    match (dir, found_dir) {
        (true, false) => Err("it is a file in this image, and a directory cannot be mounted over it"),
        (false, true) => Err("it is a directory in this image, and a file cannot be mounted over it"),
        (true, true) | (false, false) => Ok(()),
    }
}

/// Makes the working directory where it is inside a mount, as Docker does, and says whether that was done. Where a symlink or a
/// file of the mount is in the way, what comes of it is left to the container itself.
pub(super) fn working_dir_in_mount(
    root: &OwnedFd,
    mounts: &[ReadyMount],
    working_dir: &str,
) -> Result<bool, StartError> {
    let fail = |why: String| StartError::WorkingDir { path: working_dir.into(), why };
    let found = in_root::settle(root, working_dir).map_err(|error| fail(error.to_string()))?;
    let path = Path::new(&found);
    let Some(mount) = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.target))
        .max_by_key(|mount| Path::new(&mount.target).components().count())
    else {
        return Ok(true);
    };
    let MountKind::Bind { source, .. } = &mount.kind else { return Ok(false) };
    let Some(below) = path.strip_prefix(&mount.target).ok().and_then(Path::to_str) else { return Ok(false) };
    let dir = super::mounts::open_root(source).map_err(|error| fail(error.to_string()))?;
    match in_root::make_dirs_plainly(&dir, below) {
        Ok(made) => Ok(made),
        // If it is missing on a read-only source, entering it says so.
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(false),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// libcontainer does not say which call failed. When it could not create a container whose working directory is at the mercy of
/// a mount, that is what the user has to look at; it comes to the same every time.
pub(super) fn blame_working_dir(error: StartError, plain: bool, working_dir: &str) -> StartError {
    const ENTERING: [&str; 2] = ["current working directory is safe", "failed to unix syscall"];
    match error {
        StartError::System { why, .. } if !plain && ENTERING.iter().any(|text| why.contains(text)) => {
            let why = "it cannot be entered: what is mounted there has no such directory, or a symlink in it leads nowhere";
            StartError::WorkingDir { path: working_dir.into(), why: why.into() }
        }
        other => other,
    }
}
