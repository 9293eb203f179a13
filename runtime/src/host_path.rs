//! Paths of the host that a user names for a bind mount: what was judged is what is mounted.
//!
//! Such a path may lead through a directory that a container can write, and there every part can be swapped for a symlink at any
//! moment. So the path is settled first, each symlink judged by where it lies, and then opened in one step that follows none.
//! A swap in between is an error, never another place. Owns no rule of what may be mounted where: see `supervise::mounts`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::in_root;

/// How often a path that changes while it is looked at is tried again.
const TRIES: usize = 16;

/// A file or directory of the host, opened as a place (`O_PATH`), and the path under which it was found.
#[derive(Debug)]
pub(crate) struct HostPath {
    pub(crate) fd: OwnedFd,
    pub(crate) found: PathBuf,
}

/// Opens an absolute path; makes the directories that are missing of it when `create`. `writable` names the directories that
/// containers can write; it is asked only when a symlink is met.
pub(crate) fn open(
    path: &str,
    create: bool,
    writable: impl Fn() -> io::Result<Vec<PathBuf>>,
) -> io::Result<HostPath> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut last = io::Error::other("it changes all the time");
    for _ in 0..TRIES {
        let found = PathBuf::from(in_root::settle_judged(&root, path, |dir, name| {
            judge(Path::new(dir), name, writable()?)
        })?);
        match open_plainly(&found) {
            Ok(fd) => return Ok(HostPath { fd, found }),
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                last = match make(&found) {
                    Ok(true) => error,
                    Ok(false) => io::Error::other("a part of it is no directory"),
                    Err(error) => return Err(error),
                };
            }
            // It became a symlink since.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// A symlink that a container may have put there decides nothing on the host.
fn judge(dir: &Path, name: &str, writable: Vec<PathBuf>) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let link = dir.join(name);
    if dir.starts_with("/proc") && dir != Path::new("/proc") {
        return refuse(format!("{} is a link of the kernel's", link.display()));
    }
    match writable.iter().find(|place| dir.starts_with(place)) {
        Some(place) => refuse(format!(
            "{} is a symlink in {}, which a container can write; name the path that it leads to",
            link.display(),
            place.display()
        )),
        None => Ok(()),
    }
}

/// Opens a path none of whose parts is a symlink.
fn open_plainly(path: &Path) -> io::Result<OwnedFd> {
    // Wakes an automounter, which opening as a place does not.
    let _ = fs::symlink_metadata(path.join("."));
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(Into::into)
}

/// Makes what is missing of a path none of whose parts is a symlink.
fn make(path: &Path) -> io::Result<bool> {
    let (mut exists, mut missing) = (path, Vec::new());
    let dir = loop {
        match open_plainly(exists) {
            Ok(dir) => break dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(true),
            Err(error) => return Err(error),
        }
        let (Some(parent), Some(name)) = (exists.parent(), exists.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        missing.push(name.to_string_lossy().into_owned());
        exists = parent;
    };
    missing.reverse();
    in_root::make_dirs_plainly(&dir, &missing.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn none() -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    #[test]
    fn what_is_missing_is_made_and_symlinks_of_the_administrator_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(place.join("real")).unwrap();
        symlink("real", place.join("link")).unwrap();
        let wanted = format!("{}/link/new/dir", place.display());
        assert_eq!(open(&wanted, false, none).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open(&wanted, true, none).unwrap().found, place.join("real/new/dir"));
        assert!(place.join("real/new/dir").is_dir());
        fs::write(place.join("file"), "").unwrap();
        assert_eq!(open(&format!("{}/file", place.display()), true, none).unwrap().found, place.join("file"));
        assert!(open(&format!("{}/file/below", place.display()), true, none).is_err());
    }

    #[test]
    fn a_symlink_where_a_container_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(place.join("shared/plain")).unwrap();
        symlink("/etc", place.join("shared/link")).unwrap();
        symlink("shared", place.join("door")).unwrap();
        let writable = || Ok(vec![place.join("shared")]);
        let path = |name: &str| format!("{}/{name}", place.display());
        let error = open(&path("shared/link/passwd"), false, writable).unwrap_err().to_string();
        assert!(error.contains("which a container can write"), "{error}");
        assert!(open(&path("door/link"), true, writable).is_err());
        assert_eq!(open(&path("door/plain"), false, writable).unwrap().found, place.join("shared/plain"));
    }

    #[test]
    fn links_of_the_kernel_lead_nowhere() {
        for path in ["/proc/self/root/etc", "/proc/self/cwd", "/proc/thread-self/fd/0"] {
            let error = open(path, false, none).unwrap_err().to_string();
            assert!(error.contains("link of the kernel's"), "{path}: {error}");
        }
    }
}
