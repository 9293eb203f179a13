//! Paths inside a tree we do not trust: every step resolves below the root, symlinks included (`openat2`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Symlinks that one path may lead through: the kernel's own number.
const LINKS_MAX: usize = 40;

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

/// Makes what is missing of a path, owned by root, 0755, and follows no symlink: false when one, or a file, is in the way.
pub(crate) fn make_dirs_plainly(root: impl AsFd, path: &str) -> io::Result<bool> {
    let mut at = open(&root, "/", OFlags::PATH | OFlags::DIRECTORY)?;
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = match rustix::fs::openat(&at, part, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(true)
}

/// The path that `path` means when the root is `/`, without symlinks. It need not exist: a symlink may point to what is still
/// to be made.
pub(crate) fn settle(root: impl AsFd, path: &str) -> io::Result<String> {
    settle_judged(root, path, |_, _| Ok(()))
}

/// As [`settle`]; each symlink is shown before it is followed, as the directory that holds it (settled itself) and its name.
pub(crate) fn settle_judged(
    root: impl AsFd,
    path: &str,
    mut judge: impl FnMut(&str, &str) -> io::Result<()>,
) -> io::Result<String> {
    let parts = |path: &str| path.split('/').map(str::to_owned).collect::<VecDeque<_>>();
    let mut ahead = parts(path);
    let mut settled: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                settled.pop();
                continue;
            }
            _ => {}
        }
        let Some(link) = read_link(&root, &settled.join("/"), &part)? else {
            settled.push(part);
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        judge(&format!("/{}", settled.join("/")), &part)?;
        if link.starts_with('/') {
            settled.clear();
        }
        let mut follow = parts(&link);
        follow.append(&mut ahead);
        ahead = follow;
    }
    Ok(format!("/{}", settled.join("/")))
}

/// What a symlink says; `None` when there is none of this name.
fn read_link(root: impl AsFd, dir: &str, name: &str) -> io::Result<Option<String>> {
    let dir = match open(root, dir, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::readlinkat(&dir, name, Vec::new()) {
        Ok(link) => {
            let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "a symlink is not UTF-8");
            link.into_string().map(Some).map_err(invalid)
        }
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    fn plain_directories_are_made_through_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        assert!(make_dirs_plainly(&root, "/a/b//./c").unwrap());
        assert!(dir.path().join("a/b/c").is_dir());
        symlink("/tmp", dir.path().join("a/link")).unwrap();
        File::create(dir.path().join("a/file")).unwrap();
        assert!(!make_dirs_plainly(&root, "/a/link/new").unwrap());
        assert!(!make_dirs_plainly(&root, "/a/file/new").unwrap());
    }

    #[test]
    fn every_symlink_is_judged_where_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        make_dirs(&root, "/real/below").unwrap();
        symlink("/real", dir.path().join("first")).unwrap();
        symlink("../x", dir.path().join("real/below/second")).unwrap();
        let mut seen = Vec::new();
        let found = settle_judged(&root, "/first/below/second", |dir, name| {
            seen.push(format!("{dir} {name}"));
            Ok(())
        });
        assert_eq!(found.unwrap(), "/real/x");
        assert_eq!(seen, ["/ first", "/real/below second"]);
        assert!(settle_judged(&root, "/first", |_, _| Err(io::Error::other("no"))).is_err());
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("file")).unwrap();
        assert!(make_dirs(File::open(dir.path()).unwrap(), "/file/below").is_err());
    }

    #[test]
    fn a_path_is_settled_also_when_its_end_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        make_dirs(&root, "/etc/real").unwrap();
        for (to, from) in [
            ("../run/systemd/stub", "etc/resolv.conf"),
            ("../../../../tmp/x", "data"),
            ("/etc/real", "abs"),
            ("loop2", "loop1"),
            ("loop1", "loop2"),
            ("/proc/1", "p"),
        ] {
            symlink(to, dir.path().join(from)).unwrap();
        }
        for (path, want) in [
            ("/etc/resolv.conf", "/run/systemd/stub"),
            ("/data/below", "/tmp/x/below"),
            ("/abs/one//./two", "/etc/real/one/two"),
            ("/abs/..", "/etc"),
            ("/p/fd", "/proc/1/fd"),
            ("/missing/../..", "/"),
        ] {
            assert_eq!(settle(&root, path).unwrap(), want, "{path}");
        }
        assert!(settle(&root, "/loop1").is_err());
    }
}
