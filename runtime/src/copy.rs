//! Copying a directory with all that belongs to it: the image's content of a new volume.
//!
//! Walks by descriptor and never follows a symlink, neither in the source nor in the target.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat,
};

/// Deepest directory that is copied; an image has no business below that.
const MAX_DEPTH: usize = 128;
/// Largest list of attribute names and largest attribute, in bytes (the kernel's bound).
const XATTR_MAX_BYTES: usize = 64 << 10;

/// Copies the content and the attributes of a directory into an empty one.
pub(crate) fn copy_tree(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(source)?;
    Copier { links: HashMap::new(), root: target.as_fd() }.directory(
        source.as_fd(),
        target.as_fd(),
        "",
        0,
    )?;
    attributes(source.as_fd(), target.as_fd(), &stat)
}

struct Copier<'a> {
    /// Device and inode of a file with several names, and its path in the target.
    links: HashMap<(u64, u64), CString>,
    root: BorrowedFd<'a>,
}

impl Copier<'_> {
    fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!("directories are nested more than {MAX_DEPTH} deep")));
        }
        for entry in Dir::read_from(source)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entry(source, target, name, path, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let own_path = format!("{path}{}", name.to_string_lossy());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(target, name, Mode::from_raw_mode(0o700))?;
                let from = open(source, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                let to = open(target, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                self.directory(from.as_fd(), to.as_fd(), &format!("{own_path}/"), depth + 1)?;
                attributes(from.as_fd(), to.as_fd(), &stat)
            }
            FileType::RegularFile => self.file(source, target, name, own_path, &stat),
            FileType::Symlink => {
                symlinkat(readlinkat(source, name, Vec::new())?, target, name)?;
                own(target, name, &stat)
            }
            FileType::Fifo => {
                mknodat(target, name, FileType::Fifo, mode(&stat), 0)?;
                own(target, name, &stat)
            }
            // Sockets mean nothing without their process; device nodes are not for volumes.
            _ => Ok(()),
        }
    }

    fn file(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: String,
        stat: &Stat,
    ) -> io::Result<()> {
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            return linkat(self.root, first, target, name, AtFlags::empty()).map_err(Into::into);
        }
        let mut from = File::from(open(source, name, OFlags::RDONLY)?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut to = File::from(openat(target, name, flags, Mode::from_raw_mode(0o600))?);
        io::copy(&mut from, &mut to)?;
        attributes(from.as_fd(), to.as_fd(), stat)?;
        if stat.st_nlink > 1 {
            self.links.insert(key, CString::new(path)?);
        }
        Ok(())
    }
}

fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into)
}

fn own(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

/// Owner, extended attributes, mode (after the owner, who clears set-id bits) and times.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    extended_attributes(from, to)?;
    fchmod(to, mode(stat))?;
    let time =
        |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(to, &times).map_err(Into::into)
}

fn extended_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0; XATTR_MAX_BYTES];
    let length = match flistxattr(from, &mut names[..]) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Ok(length) => length,
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; XATTR_MAX_BYTES];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // The overlay's own marks describe the image's layers, not the content.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let size = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a directory has no entries.
pub(crate) fn is_empty(dir: &OwnedFd) -> io::Result<bool> {
    // The path of a descriptor, because an O_PATH one cannot be read.
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    Ok(std::fs::read_dir(path)?.next().is_none())
}
