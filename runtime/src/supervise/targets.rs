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

use super::injected;

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
        if injected::is_ours(mount) && Path::new(&found).starts_with("/sys") {
            return Err(fail(format!("it is {found} in this image, where only the kernel has files")));
        }
        mount.target = found;
    }
    hides_nothing(mounts)?;
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

/// A secret or config whose path is that of another mount in this image would be hidden by it, or hide it.
fn hides_nothing(mounts: &[ReadyMount]) -> Result<(), StartError> {
    for (index, mount) in mounts.iter().enumerate() {
        let both = |other: &&ReadyMount| other.target == mount.target;
        if let Some(other) = mounts[..index].iter().find(both)
            && [mount, other].into_iter().any(injected::is_ours)
        {
            let why = "another mount of this container comes to the same path in this image";
            return Err(StartError::Mount { target: mount.target.clone(), why: why.into() });
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

/// The same for a target inside another mount, whose content is known to nobody beforehand.
pub(super) fn blame_target(error: StartError, mounts: &[ReadyMount]) -> StartError {
    const MOUNTING: &str = "failed to prepare rootfs";
    match error {
        StartError::System { step, why } if why.contains(MOUNTING) => {
            let wrong = mounts.iter().find_map(|mount| Some((mount, in_the_way(mounts, mount)?)));
            match wrong {
                Some((mount, why)) => StartError::Mount { target: mount.target.clone(), why },
                None => StartError::System { step, why },
            }
        }
        other => other,
    }
}

/// What a mount that holds the target of another has in its way.
fn in_the_way(mounts: &[ReadyMount], mount: &ReadyMount) -> Option<String> {
    let around = mounts.iter().filter(|other| other.target != mount.target);
    let around = around.filter(|other| Path::new(&mount.target).starts_with(&other.target));
    let outer = around.max_by_key(|other| Path::new(&other.target).components().count())?;
    let MountKind::Bind { source, .. } = &outer.kind else { return None };
    let below = Path::new(&mount.target).strip_prefix(&outer.target).ok()?;
    let mut path = source.clone();
    let mut inside = Path::new(&outer.target).to_path_buf();
    for part in below.components() {
        path.push(part);
        inside.push(part);
        let kind = std::fs::symlink_metadata(&path).ok()?.file_type();
        let (place, target) = (inside.display(), &outer.target);
        if kind.is_symlink() {
            return Some(format!(
                "{place}, in what is mounted at {target}, is a symlink, and it could not be mounted through it"
            ));
        }
        if !kind.is_dir() && inside.as_os_str() != mount.target.as_str() {
            return Some(format!("{place}, in what is mounted at {target}, is a file"));
        }
    }
    let (is_dir, to_be_dir) =
        (path.is_dir(), !matches!(&mount.kind, MountKind::Bind { source, .. } if !source.is_dir()));
    (is_dir != to_be_dir).then(|| {
        format!(
            "what is mounted at {} has {} there",
            outer.target,
            if is_dir { "a directory" } else { "a file" }
        )
    })
}
