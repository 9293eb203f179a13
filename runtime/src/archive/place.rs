//! A tar archive to files: every path is resolved by the kernel below one root, and every file appears whole or not at all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carrack_api::Copied;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    futimens, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::pack::open;
use super::{CopyError, DEPTH_MAX, shown, step};

/// Read-ahead, in bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of zeros that end an archive.
const END_BYTES: u64 = 1024;
/// Directories whose final mode, which would keep us out, is set at the end.
const CLOSED_DIRS_MAX: usize = 65_536;
/// Mode of directories that an archive does not name.
const PARENT_MODE: u32 = 0o755;

/// What the entries of an archive become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Entries go below the place by their names. With `strip`, without the first part of them: that is the place itself.
    Below {
        /// Takes the first part of every name off.
        strip: bool,
    },
    /// The one entry, which is no directory, gets this name in the place.
    Only(String),
}

/// Where an archive goes.
#[derive(Debug)]
pub struct Place<'a> {
    /// Nothing leaves it.
    pub root: BorrowedFd<'a>,
    /// How paths below it are resolved: symlinks stay within it, or are refused.
    pub resolve: ResolveFlags,
    /// A directory below the root; made, but not its parents, when it is missing and the layout is [`Layout::Below`].
    pub path: String,
    /// What becomes of the entries.
    pub layout: Layout,
    /// Owners and set-id bits are those of the archive; else the files are ours.
    pub keep_owner: bool,
}

/// Puts an archive in its place.
pub fn place(at: &Place<'_>, archive: impl Read) -> Result<Copied, CopyError> {
    let ending = Ending { inner: archive, zeros: 0 };
    let mut archive = Archive::new(io::BufReader::with_capacity(BUFFER_BYTES, ending));
    let mut placer = Placer { at, copied: Copied::default(), closed: Vec::new(), temporary: 0 };
    for entry in archive.entries().map_err(unreadable)? {
        placer.entry(&mut entry.map_err(unreadable)?)?;
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(unreadable)?;
    if rest.into_inner().zeros < END_BYTES {
        return Err(CopyError::archive("it was cut off before its end"));
    }
    if matches!(at.layout, Layout::Only(_)) && placer.copied.entries != 1 {
        return Err(CopyError::archive("one entry was announced"));
    }
    placer.finish()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: io::Error) -> CopyError {
    CopyError::archive(error.to_string())
}

/// Counts the zeros at the end of what is read.
struct Ending<R> {
    inner: R,
    zeros: u64,
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let tail = buffer[..read].iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if tail == read { self.zeros + tail as u64 } else { tail as u64 };
        Ok(read)
    }
}

struct Placer<'a> {
    at: &'a Place<'a>,
    copied: Copied,
    /// Directories that get a mode without access for their owner, with it.
    closed: Vec<(String, u32)>,
    temporary: u64,
}

/// What a header says, as far as it is used.
struct Attributes {
    mode: u32,
    owner: Option<(Uid, Gid)>,
    mtime: u64,
}

impl Placer<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), CopyError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let path = self.target(&raw, kind)?;
        let attributes = self.attributes(entry, &raw)?;
        match kind {
            EntryType::Directory => self.directory(&path, &attributes)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, &path, &attributes)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
                self.symlink(&path, &target, &attributes)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
                let target = self.target(&target, EntryType::Regular)?;
                self.link(&path, &target)?;
            }
            _ => {
                self.copied.skipped += 1;
                return Ok(());
            }
        }
        self.copied.entries += 1;
        Ok(())
    }

    /// The path below the root that an entry's name means.
    fn target(&self, raw: &[u8], kind: EntryType) -> Result<String, CopyError> {
        let name = std::str::from_utf8(raw)
            .map_err(|_| CopyError::archive(format!("{} is not UTF-8", shown(raw))))?;
        let bad = |why: &str| CopyError::archive(format!("entry {:?} {why}", shown(raw)));
        if name.contains('\0') {
            return Err(bad("has a NUL byte in its name"));
        }
        let mut parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(bad("leads upwards"));
        }
        if parts.len() > DEPTH_MAX {
            return Err(bad("is nested too deep"));
        }
        match &self.at.layout {
            Layout::Only(_) if kind.is_dir() => return Err(bad("is a directory, but a file was announced")),
            Layout::Only(name) => parts = vec![name],
            Layout::Below { strip } => {
                if *strip && !parts.is_empty() {
                    parts.remove(0);
                }
                if parts.is_empty() && !kind.is_dir() {
                    return Err(bad("has no name"));
                }
            }
        }
        let base = self.at.path.trim_end_matches('/');
        Ok(std::iter::once(base).chain(parts).collect::<Vec<_>>().join("/"))
    }

    fn attributes<R: Read>(&self, entry: &Entry<'_, R>, raw: &[u8]) -> Result<Attributes, CopyError> {
        let header = entry.header();
        let bad = |error: io::Error| CopyError::archive(format!("entry {:?}: {error}", shown(raw)));
        let mode = header.mode().map_err(bad)?;
        let id = |id: u64| {
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| CopyError::archive(format!("entry {:?} has owner {id}", shown(raw))))
        };
        if !self.at.keep_owner {
            // A program that runs as its owner must not become one that runs as us.
            return Ok(Attributes { mode: mode & 0o1777, owner: None, mtime: header.mtime().map_err(bad)? });
        }
        let owner =
            (Uid::from_raw(id(header.uid().map_err(bad)?)?), Gid::from_raw(id(header.gid().map_err(bad)?)?));
        Ok(Attributes { mode: mode & 0o7777, owner: Some(owner), mtime: header.mtime().map_err(bad)? })
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        open(self.at.root, path.trim_start_matches('/'), flags, self.at.resolve)
    }

    /// The directory that a path is in, made with its parents when it is missing, and the last part of the path.
    fn parent<'p>(&mut self, path: &'p str) -> Result<(OwnedFd, &'p str), CopyError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(dir, flags) {
            Ok(fd) => Ok((fd, name)),
            Err(Errno::NOENT) if dir.len() > self.at.path.trim_end_matches('/').len() => {
                let attributes = Attributes { mode: PARENT_MODE, owner: None, mtime: 0 };
                self.make_directory(dir, &attributes, false)?;
                let fd = self.open(dir, flags).map_err(|error| self.fail("open", dir, error))?;
                Ok((fd, name))
            }
            Err(error) => Err(self.fail("open", dir, error)),
        }
    }

    fn fail(&self, step: &str, path: &str, error: Errno) -> CopyError {
        match error {
            Errno::LOOP => CopyError::archive(format!("{path} leads through a symlink")),
            error => CopyError::at(step, path, &error.into()),
        }
    }

    fn directory(&mut self, path: &str, attributes: &Attributes) -> Result<(), CopyError> {
        self.make_directory(path, attributes, true)
    }

    /// Makes a directory; one that exists stays as it is.
    fn make_directory(&mut self, path: &str, attributes: &Attributes, times: bool) -> Result<(), CopyError> {
        match self.open(path, OFlags::PATH) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found).map_err(|error| self.fail("look at", path, error))?;
                return match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Ok(()),
                    _ => Err(in_the_way(path, "no directory", "a directory")),
                };
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(self.fail("open", path, error)),
        }
        let (parent, name) = self.parent(path)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            // A symlink to nowhere.
            Err(Errno::EXIST) => return Err(in_the_way(path, "no directory", "a directory")),
            Err(error) => return Err(self.fail("make", path, error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir =
            openat(&parent, name, flags, Mode::empty()).map_err(|error| self.fail("open", path, error))?;
        if attributes.mode & 0o700 == 0o700 {
            return self.dress(dir.as_fd(), path, attributes, times);
        }
        if self.closed.len() >= CLOSED_DIRS_MAX {
            return Err(CopyError::archive("it has too many directories that their owner may not enter"));
        }
        self.closed.push((path.to_owned(), attributes.mode));
        let open =
            Attributes { mode: attributes.mode | 0o700, owner: attributes.owner, mtime: attributes.mtime };
        self.dress(dir.as_fd(), path, &open, times)
    }

    /// Owner, mode (after the owner, who clears set-id bits) and time.
    fn dress(
        &self,
        file: BorrowedFd<'_>,
        path: &str,
        attributes: &Attributes,
        times: bool,
    ) -> Result<(), CopyError> {
        let fail = |error| self.fail("set the attributes of", path, error);
        if let Some((uid, gid)) = attributes.owner {
            fchown(file, Some(uid), Some(gid)).map_err(fail)?;
        }
        fchmod(file, Mode::from_raw_mode(attributes.mode)).map_err(fail)?;
        if !times {
            return Ok(());
        }
        let time = Timespec { tv_sec: i64::try_from(attributes.mtime).unwrap_or(0), tv_nsec: 0 };
        futimens(file, &Timestamps { last_access: time, last_modification: time }).map_err(fail)
    }

    /// A name that nobody has yet, in the directory in which the file will be.
    fn temporary(&mut self) -> String {
        self.temporary += 1;
        format!(".carrack-cp-{}-{}", std::process::id(), self.temporary)
    }

    /// Something in the place of a file to come: only a directory is in the way.
    fn check(&self, parent: &OwnedFd, name: &str, path: &str, wanted: &str) -> Result<(), CopyError> {
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(in_the_way(path, "a directory", wanted))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.fail("look at", path, error)),
        }
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &str,
        attributes: &Attributes,
    ) -> Result<(), CopyError> {
        let (parent, name) = self.parent(path)?;
        self.check(&parent, name, path, "a file")?;
        let temporary = self.temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, &*temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| self.fail("write", path, error))?;
        let written = self.fill(File::from(file), entry, path, attributes).and_then(|bytes| {
            renameat(&parent, &*temporary, &parent, name)
                .map_err(|error| self.fail("replace", path, error))?;
            Ok(bytes)
        });
        match written {
            Ok(bytes) => {
                self.copied.bytes += bytes;
                Ok(())
            }
            Err(error) => {
                // The first error is the one to report.
                let _ = unlinkat(&parent, &*temporary, AtFlags::empty());
                Err(error)
            }
        }
    }

    fn fill<R: Read>(
        &self,
        mut file: File,
        entry: &mut Entry<'_, R>,
        path: &str,
        attributes: &Attributes,
    ) -> Result<u64, CopyError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            let read = match entry.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(unreadable)?,
            };
            file.write_all(&buffer[..read]).map_err(|error| CopyError::at("write", path, &error))?;
            bytes += read as u64;
        }
        if bytes != entry.size() {
            return Err(CopyError::archive("it was cut off within a file"));
        }
        self.dress(file.as_fd(), path, attributes, true)?;
        Ok(bytes)
    }

    fn symlink(&mut self, path: &str, target: &[u8], attributes: &Attributes) -> Result<(), CopyError> {
        let (parent, name) = self.parent(path)?;
        self.check(&parent, name, path, "a symlink")?;
        let temporary = self.temporary();
        symlinkat(target, &parent, &*temporary).map_err(|error| self.fail("make", path, error))?;
        let owned = attributes.owner.map_or(Ok(()), |(uid, gid)| {
            chownat(&parent, &*temporary, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        });
        self.settle(&parent, &temporary, name, path, owned)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), CopyError> {
        let (from, target_name) = self.parent(target)?;
        let (parent, name) = self.parent(path)?;
        self.check(&parent, name, path, "a file")?;
        let temporary = self.temporary();
        linkat(&from, target_name, &parent, &*temporary, AtFlags::empty())
            .map_err(|error| self.fail("link", target, error))?;
        self.settle(&parent, &temporary, name, path, Ok(()))
    }

    /// Gives what was made its name, or takes it away.
    fn settle(
        &self,
        parent: &OwnedFd,
        temporary: &str,
        name: &str,
        path: &str,
        so_far: Result<(), Errno>,
    ) -> Result<(), CopyError> {
        let named = so_far.and_then(|()| renameat(parent, temporary, parent, name));
        // Also left behind when both names are links to one file already.
        let _ = unlinkat(parent, temporary, AtFlags::empty());
        named.map_err(|error| self.fail("replace", path, error))
    }

    fn finish(self) -> Result<Copied, CopyError> {
        for (path, mode) in self.closed.iter().rev() {
            let dir = self
                .open(path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|error| self.fail("open", path, error))?;
            fchmod(&dir, Mode::from_raw_mode(*mode)).map_err(step("set the mode of a directory"))?;
        }
        Ok(self.copied)
    }
}

fn in_the_way(path: &str, found: &str, wanted: &str) -> CopyError {
    CopyError::InTheWay { path: path.into(), found: found.into(), wanted: wanted.into() }
}
