//! Files to a tar archive: a walk by descriptor that follows no symlink below where it begins.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carrack_api::{Copied, CopiedFile, CopiedKind};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::{CopyError, DEPTH_MAX, kind_of, shown, step};

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// A block of a tar archive, bytes.
const BLOCK_BYTES: u64 = 512;
/// Longest name or link that fits a header, bytes.
const NAME_BYTES: usize = 100;

/// A file or directory, open, that is to be packed.
#[derive(Debug)]
pub struct Source {
    /// What it is.
    pub file: CopiedFile,
    stat: Stat,
    opened: Opened,
    /// For people.
    path: String,
}

#[derive(Debug)]
enum Opened {
    Directory(OwnedFd),
    File(OwnedFd),
    Symlink(Vec<u8>),
}

impl Source {
    /// Opens `path` below `root`, resolved as `resolve` says. A symlink at its end is followed when asked, or when the path ends
    /// in a slash.
    pub fn open(
        root: BorrowedFd<'_>,
        path: &str,
        resolve: ResolveFlags,
        follow: bool,
    ) -> Result<Self, CopyError> {
        let fail = |error: Errno| CopyError::at("open", path, &error.into());
        let follow = follow || path.ends_with('/') || path.ends_with("/.");
        let end = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        // Looked at before it is opened: opening a device does something, and opening a pipe waits.
        let seen = open(root, path, OFlags::PATH | end, resolve).map_err(fail)?;
        let stat = fstat(&seen).map_err(fail)?;
        let unsupported = |what: &str| CopyError::Unsupported { path: path.into(), what: what.into() };
        let kind = kind_of(stat.st_mode).map_err(unsupported)?;
        let name = base_name(path).to_owned();
        let (stat, opened) = match kind {
            CopiedKind::Symlink => {
                let target = readlinkat(&seen, "", Vec::new()).map_err(fail)?;
                (stat, Opened::Symlink(target.into_bytes()))
            }
            CopiedKind::Directory | CopiedKind::File => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | end;
                let fd = open(root, path, flags, resolve).map_err(fail)?;
                let stat = fstat(&fd).map_err(fail)?;
                match kind_of(stat.st_mode).map_err(unsupported)? {
                    CopiedKind::Directory => (stat, Opened::Directory(fd)),
                    CopiedKind::File => (stat, Opened::File(fd)),
                    CopiedKind::Symlink => return Err(unsupported("a symlink that came meanwhile")),
                }
            }
        };
        let kind = match &opened {
            Opened::Directory(_) => CopiedKind::Directory,
            Opened::File(_) => CopiedKind::File,
            Opened::Symlink(_) => CopiedKind::Symlink,
        };
        let size = if kind == CopiedKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        Ok(Self { file: CopiedFile { name, kind, size }, stat, opened, path: path.to_owned() })
    }
}

/// The last part of a path, `.` where there is none.
fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => ".",
        // `dir/.` is the content of `dir`, and `dir/` is `dir`.
        Some(name) => name,
    }
}

/// Opens a path below `root`; the kernel resolves it.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel could not rule out a concurrent rename and asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Writes `source` as an archive whose entries begin with `name` (its own name, or `.`).
pub fn pack(source: &Source, name: &str, out: impl Write) -> Result<Copied, CopyError> {
    let mut packer = Packer { out, copied: Copied::default() };
    match &source.opened {
        Opened::File(fd) => {
            let file = File::from(fd.try_clone().map_err(step("hold a file"))?);
            packer.file(name.as_bytes(), &source.path, file, &source.stat)?;
        }
        Opened::Symlink(target) => packer.symlink(name.as_bytes(), target, &source.stat)?,
        Opened::Directory(fd) => packer.directory(fd.as_fd(), name.as_bytes(), &source.stat, 0)?,
    }
    // Two blocks of zeros are the end; an archive without them was cut.
    packer.put(&[0; 2 * BLOCK_BYTES as usize])?;
    packer.out.flush().map_err(step("write the archive"))?;
    Ok(packer.copied)
}

struct Packer<W> {
    out: W,
    copied: Copied,
}

impl<W: Write> Packer<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.out.write_all(bytes).map_err(step("write the archive"))
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        stat: &Stat,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEPTH_MAX {
            let why = format!("{} is nested more than {DEPTH_MAX} deep", shown(path));
            return Err(CopyError::archive(why));
        }
        let mut own = path.to_vec();
        own.push(b'/');
        self.header(EntryType::Directory, &own, &[], 0, stat)?;
        let fail = |error: Errno| CopyError::at("read", &shown(path), &error.into());
        for entry in Dir::read_from(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = [&own[..], name.to_bytes()].concat();
            match self.entry(dir, name, &path, depth) {
                // Gone between the listing and the look: as if it had gone before.
                Err(CopyError::Missing { .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        path: &[u8],
        depth: usize,
    ) -> Result<(), CopyError> {
        let fail = |error: Errno| CopyError::at("read", &shown(path), &error.into());
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match kind_of(stat.st_mode) {
            Err(_) => {
                self.copied.skipped += 1;
                Ok(())
            }
            Ok(CopiedKind::Symlink) => {
                let target = readlinkat(dir, name, Vec::new()).map_err(fail)?;
                self.symlink(path, target.as_bytes(), &stat)
            }
            Ok(CopiedKind::Directory) => {
                let fd = openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty()).map_err(fail)?;
                self.directory(fd.as_fd(), path, &stat, depth + 1)
            }
            Ok(CopiedKind::File) => {
                let fd = openat(dir, name, flags, Mode::empty()).map_err(fail)?;
                // Another file may have come into its place: only what was opened counts.
                let stat = fstat(&fd).map_err(fail)?;
                if kind_of(stat.st_mode) != Ok(CopiedKind::File) {
                    self.copied.skipped += 1;
                    return Ok(());
                }
                self.file(path, &shown(path), File::from(fd), &stat)
            }
        }
    }

    fn symlink(&mut self, path: &[u8], target: &[u8], stat: &Stat) -> Result<(), CopyError> {
        self.header(EntryType::Symlink, path, target, 0, stat)
    }

    /// As many bytes as the file had when it was opened: what is appended meanwhile is not copied, and one that shrinks is an
    /// error.
    fn file(&mut self, path: &[u8], what: &str, mut file: File, stat: &Stat) -> Result<(), CopyError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.header(EntryType::Regular, path, &[], size, stat)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let read = match file.read(&mut buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| CopyError::at("read", what, &error))?,
            };
            if read == 0 {
                let why = "it became shorter while it was read".to_owned();
                return Err(CopyError::System { step: format!("read {what}"), why });
            }
            self.put(&buffer[..read])?;
            left -= read as u64;
        }
        self.pad(size)?;
        self.copied.bytes += size;
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<(), CopyError> {
        let over = usize::try_from(size % BLOCK_BYTES).unwrap_or(0);
        if over == 0 { Ok(()) } else { self.put(&[0; BLOCK_BYTES as usize][over..]) }
    }

    fn header(
        &mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        size: u64,
        stat: &Stat,
    ) -> Result<(), CopyError> {
        self.long(EntryType::GNULongLink, link)?;
        self.long(EntryType::GNULongName, path)?;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        header.set_size(size);
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        name(&mut header.as_old_mut().name, path);
        name(&mut header.as_old_mut().linkname, link);
        header.set_cksum();
        self.put(header.as_bytes())?;
        self.copied.entries += 1;
        Ok(())
    }

    /// A name that does not fit its header, in an entry of its own before it.
    fn long(&mut self, kind: EntryType, text: &[u8]) -> Result<(), CopyError> {
        if text.len() <= NAME_BYTES {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        name(&mut header.as_old_mut().name, b"././@LongLink");
        let size = text.len() as u64 + 1;
        header.set_size(size);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.put(header.as_bytes())?;
        self.put(text)?;
        self.put(&[0])?;
        self.pad(size)
    }
}

fn name(field: &mut [u8; NAME_BYTES], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
}
