//! Paths inside a tree we do not trust: every step resolves below the root, symlinks included (`openat2`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens a path as if the root were `/`.
pub(crate) fn open(root: impl AsFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&root, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            // The kernel could not rule out a concurrent rename and asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a directory, making what is missing of its path, owned by root, 0755.
pub(crate) fn make_dirs(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = open(&root, "/", flags)?;
    let mut so_far = String::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        so_far.push('/');
        so_far.push_str(part);
        at = match open(&root, &so_far, flags) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
                open(&root, &so_far, flags)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn symlinks_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/", dir.path().join("abs")).unwrap();
        symlink("../../../..", dir.path().join("up")).unwrap();
        let root = File::open(dir.path()).unwrap();
        make_dirs(&root, "/abs/one/up/two").unwrap();
        make_dirs(&root, "up/three").unwrap();
        assert!(dir.path().join("one/up/two").is_dir());
        assert!(dir.path().join("three").is_dir());
        assert!(open(&root, "/abs/etc/passwd", OFlags::RDONLY).is_err());
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("file")).unwrap();
        assert!(make_dirs(File::open(dir.path()).unwrap(), "/file/below").is_err());
    }
}
