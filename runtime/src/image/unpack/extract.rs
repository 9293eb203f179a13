//! Turning one layer's entries into files below a root, in overlayfs' form.
//!
//! Every parent is opened beneath the root without following a symlink, so an entry either lands
//! where its name says or is refused. Whiteouts become 0:0 character devices; directories to be
//! marked opaque are returned. Runs inside the confined child.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::limits::Limits;
use super::name::{self, Name};
use super::pax::Pax;
use super::report::MAX_NAMED;
use crate::image::error::is_no_space;

/// Bytes copied at a time.
const CHUNK: usize = 128 * 1024;
/// Mode and owner of parents that the archive does not list.
const IMPLIED_DIR_MODE: u32 = 0o755;

/// An entry that is refused, or a failure.
#[derive(Debug)]
pub(super) enum Failure {
    Refused { entry: String, reason: String },
    NoSpace,
    Failed(String),
}

impl Failure {
    fn refused(entry: &[u8], reason: impl Into<String>) -> Self {
        Self::Refused { entry: name::printable(entry), reason: reason.into() }
    }

    fn at<'a, E: Into<io::Error>>(entry: &'a [u8], doing: &'a str) -> impl FnOnce(E) -> Self + 'a {
        move |error| {
            let error = error.into();
            if is_no_space(&error) {
                return Self::NoSpace;
            }
            Self::refused(entry, format!("cannot {doing}: {error}"))
        }
    }
}

/// Files made so far.
pub(super) struct Extractor {
    root: OwnedFd,
    limits: Limits,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// Times of directories, set at the end: making their content changes them.
    dir_times: BTreeMap<Vec<u8>, Timespec>,
    pub(super) skipped: Vec<String>,
    pub(super) skipped_count: u64,
    buffer: Vec<u8>,
}

/// Owner, mode, time and attributes of one entry.
struct Metadata<'a> {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: Timespec,
    xattrs: Vec<(&'a [u8], &'a [u8])>,
}

impl Extractor {
    pub(super) fn new(root: OwnedFd, limits: Limits) -> Self {
        Self {
            root,
            limits,
            entries: 0,
            bytes: 0,
            opaque: BTreeSet::new(),
            dir_times: BTreeMap::new(),
            skipped: Vec::new(),
            skipped_count: 0,
            buffer: vec![0; CHUNK],
        }
    }

    /// Unpacks one entry.
    pub(super) fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Failure> {
        let raw = entry.path_bytes().into_owned();
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Failure::refused(
                &raw,
                format!("the layer has more than {} entries", self.limits.entries),
            ));
        }
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let extensions = entry.pax_extensions().map_err(Failure::at(&raw, "read its PAX header"))?;
        let pax = Pax::parse(extensions).map_err(|reason| Failure::refused(&raw, reason))?;
        let path = name::clean(&raw, &self.limits).map_err(|reason| Failure::refused(&raw, reason))?;
        let metadata = metadata(entry, &pax).map_err(|reason| Failure::refused(&raw, reason))?;
        match name::classify(&path).map_err(|reason| Failure::refused(&raw, reason))? {
            Name::Root if kind.is_dir() => {
                let root = self.reopen_root().map_err(Failure::at(&raw, "open the root"))?;
                self.dir_times.insert(Vec::new(), metadata.mtime);
                self.apply(root.as_fd(), &metadata, &raw)
            }
            Name::Root => Err(Failure::refused(&raw, "the root is not a directory")),
            Name::Opaque { parent: b"" } => Err(Failure::refused(&raw, "a layer cannot hide the whole root")),
            Name::Opaque { parent } => {
                self.parent(parent, &raw)?;
                self.opaque.insert(parent.to_vec());
                Ok(())
            }
            Name::Whiteout { parent, name } => self.whiteout(parent, name, &raw),
            Name::Ignored => Ok(()),
            Name::Plain { parent, name } => self.plain(entry, kind, &path, parent, name, &metadata, &raw),
        }
    }

    /// Sets the times of directories.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        for (path, mtime) in std::mem::take(&mut self.dir_times) {
            let opened = if path.is_empty() { self.reopen_root() } else { self.open_dir(&path) };
            match opened {
                Ok(dir) => {
                    rustix::fs::futimens(&dir, &times(mtime)).map_err(Failure::at(&path, "set its times"))?;
                }
                // A later entry put something else in its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(Failure::at(&path, "open it")(error)),
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one entry, taken apart once")]
    fn plain<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        path: &[u8],
        parent: &[u8],
        name: &[u8],
        metadata: &Metadata<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        if kind.is_block_special() || kind.is_character_special() {
            self.skip(format!("{} (device)", name::printable(raw)));
            return Ok(());
        }
        let dir = self.parent(parent, raw)?;
        if kind.is_dir() {
            return self.directory(dir.as_fd(), path, name, metadata, raw);
        }
        // The link's target first: replacing the name could remove it.
        let link = if kind.is_hard_link() { Some(self.link_source(entry, path, raw)?) } else { None };
        self.clear(dir.as_fd(), name, raw)?;
        if let Some((source_dir, source)) = link {
            return rustix::fs::linkat(&source_dir, &source, &dir, name, AtFlags::empty())
                .map_err(Failure::at(raw, "create the hard link"));
        }
        if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            self.file(entry, dir.as_fd(), name, metadata, raw)
        } else if kind.is_symlink() {
            self.symlink(entry, dir.as_fd(), name, metadata, raw)
        } else if kind.is_fifo() {
            self.fifo(dir.as_fd(), name, metadata, raw)
        } else {
            let kind = char::from(kind.as_byte());
            Err(Failure::refused(raw, format!("entry type {kind:?} is not supported")))
        }
    }

    fn fifo(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        metadata: &Metadata<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        rustix::fs::mknodat(dir, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .map_err(Failure::at(raw, "create the FIFO"))?;
        let fd = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::NONBLOCK | SAFE, Mode::empty())
            .map_err(Failure::at(raw, "open the FIFO"))?;
        self.apply(fd.as_fd(), metadata, raw)?;
        rustix::fs::futimens(&fd, &times(metadata.mtime)).map_err(Failure::at(raw, "set its times"))
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        metadata: &Metadata<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        let existing = file_type(dir, name).map_err(Failure::at(raw, "look at its place"))?;
        if existing != Some(FileType::Directory) {
            // A whiteout of the same name came first: lower content stays hidden.
            if existing == Some(FileType::CharacterDevice) {
                self.opaque.insert(path.to_vec());
            }
            self.clear(dir, name, raw)?;
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))
                .map_err(Failure::at(raw, "create the directory"))?;
        }
        let fd = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | SAFE, Mode::empty())
            .map_err(Failure::at(raw, "open the directory"))?;
        self.dir_times.insert(path.to_vec(), metadata.mtime);
        self.apply(fd.as_fd(), metadata, raw)
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        dir: BorrowedFd<'_>,
        name: &[u8],
        metadata: &Metadata<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        let size = if entry.header().entry_type().is_gnu_sparse() {
            entry.header().as_gnu().and_then(|header| header.real_size().ok()).unwrap_or(u64::MAX)
        } else {
            entry.size()
        };
        let total = self.bytes.saturating_add(size);
        if total > self.limits.bytes {
            let reason = format!("the layer's files exceed {} bytes", self.limits.bytes);
            return Err(Failure::refused(raw, reason));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | SAFE;
        let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
            .map_err(Failure::at(raw, "create the file"))?;
        let mut file = File::from(fd);
        let copied =
            copy(entry, &mut file, &mut self.buffer, size).map_err(Failure::at(raw, "write its content"))?;
        if copied != size {
            return Err(Failure::refused(raw, format!("its content ends after {copied} of {size} bytes")));
        }
        self.bytes = total;
        self.apply(file.as_fd(), metadata, raw)?;
        rustix::fs::futimens(&file, &times(metadata.mtime)).map_err(Failure::at(raw, "set its times"))
    }

    fn symlink<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        dir: BorrowedFd<'_>,
        name: &[u8],
        metadata: &Metadata<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        let target = entry.link_name_bytes().unwrap_or_default();
        if target.is_empty() || target.len() > self.limits.path || target.contains(&0) {
            return Err(Failure::refused(raw, "its link target is empty, too long or holds a zero byte"));
        }
        rustix::fs::symlinkat(&*target, dir, name).map_err(Failure::at(raw, "create the symlink"))?;
        let owner = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
        rustix::fs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Failure::at(raw, "set its owner"))?;
        rustix::fs::utimensat(dir, name, &times(metadata.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Failure::at(raw, "set its times"))
    }

    /// The directory and name of a hard link's target: an earlier file of the same layer.
    fn link_source<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        path: &[u8],
        raw: &[u8],
    ) -> Result<(OwnedFd, Vec<u8>), Failure> {
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let target = target.strip_prefix(b"/").unwrap_or(&target);
        let target = name::clean(target, &self.limits)
            .map_err(|reason| Failure::refused(raw, format!("its link target: {reason}")))?;
        if target == path {
            return Err(Failure::refused(raw, "it is a hard link to itself"));
        }
        let missing = || {
            let reason = format!("its link target '{}' is not in the layer", name::printable(&target));
            Failure::refused(raw, reason)
        };
        let (parent, name) = name::split(&target).ok_or_else(missing)?;
        let dir = if parent.is_empty() { self.reopen_root() } else { self.open_dir(parent) };
        let dir = dir.map_err(|_| missing())?;
        match file_type(dir.as_fd(), name) {
            Ok(Some(FileType::RegularFile | FileType::Symlink | FileType::Fifo)) => Ok((dir, name.to_vec())),
            Ok(None) => Err(missing()),
            _ => Err(Failure::refused(raw, "its link target is not a file")),
        }
    }

    fn whiteout(&mut self, parent: &[u8], name: &[u8], raw: &[u8]) -> Result<(), Failure> {
        let dir = self.parent(parent, raw)?;
        match file_type(dir.as_fd(), name).map_err(Failure::at(raw, "look at its place"))? {
            None => rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(Failure::at(raw, "create the whiteout")),
            // The layer itself puts a directory there: it hides what is below.
            Some(FileType::Directory) => {
                self.opaque.insert(name::join(parent, name));
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// Sets owner, mode and attributes, in this order: a change of owner clears the others.
    fn apply(&mut self, fd: BorrowedFd<'_>, metadata: &Metadata<'_>, raw: &[u8]) -> Result<(), Failure> {
        rustix::fs::fchown(fd, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
            .map_err(Failure::at(raw, "set its owner"))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.mode))
            .map_err(Failure::at(raw, "set its mode"))?;
        let total: usize = metadata.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if total > self.limits.xattr_bytes {
            let reason = format!("its attributes exceed {} bytes", self.limits.xattr_bytes);
            return Err(Failure::refused(raw, reason));
        }
        for (key, value) in &metadata.xattrs {
            if !name::is_allowed_xattr(key) {
                self.skip(format!("{} (attribute {})", name::printable(raw), name::printable(key)));
                continue;
            }
            match rustix::fs::fsetxattr(fd, *key, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => {
                    self.skip(format!(
                        "{} (attribute {} is not supported)",
                        name::printable(raw),
                        name::printable(key)
                    ));
                }
                Err(error) => {
                    let reason =
                        format!("cannot set attribute {}: {}", name::printable(key), io::Error::from(error));
                    return Err(Failure::refused(raw, reason));
                }
            }
        }
        Ok(())
    }

    fn skip(&mut self, what: String) {
        self.skipped_count += 1;
        if self.skipped.len() < MAX_NAMED {
            self.skipped.push(what);
        }
    }

    /// Removes what stands at `name`; an absent one is fine.
    fn clear(&mut self, dir: BorrowedFd<'_>, name: &[u8], raw: &[u8]) -> Result<(), Failure> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                remove_dir(dir, name, self.limits.depth).map_err(Failure::at(raw, "replace a directory"))
            }
            Err(error) => Err(Failure::at(raw, "replace what was there")(error)),
        }
    }

    /// Opens the parent directory of an entry, making what the archive left out.
    fn parent(&mut self, path: &[u8], raw: &[u8]) -> Result<OwnedFd, Failure> {
        let root = self.reopen_root().map_err(Failure::at(raw, "open the root"))?;
        if path.is_empty() {
            return Ok(root);
        }
        match self.open_dir(path) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                return Err(Failure::refused(
                    raw,
                    "a parent of it is a symlink, a whiteout or not a directory",
                ));
            }
            Err(error) => return Err(Failure::at(raw, "open its parent")(error)),
        }
        let mut dir = root;
        for component in path.split(|byte| *byte == b'/') {
            match rustix::fs::mkdirat(&dir, component, Mode::from_raw_mode(IMPLIED_DIR_MODE)) {
                Ok(()) => {
                    let owner = (Some(Uid::ROOT), Some(Gid::ROOT));
                    rustix::fs::chownat(&dir, component, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(Failure::at(raw, "set the owner of its parent"))?;
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Failure::at(raw, "create its parent")(error)),
            }
            dir =
                rustix::fs::openat(&dir, component, OFlags::RDONLY | OFlags::DIRECTORY | SAFE, Mode::empty())
                    .map_err(|error| match error {
                        Errno::LOOP | Errno::NOTDIR => Failure::refused(
                            raw,
                            "a parent of it is a symlink, a whiteout or not a directory",
                        ),
                        error => Failure::at(raw, "open its parent")(error),
                    })?;
        }
        Ok(dir)
    }

    fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | SAFE;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn reopen_root(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | SAFE, Mode::empty())
    }
}

const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: mtime }
}

fn file_type(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a directory of ours with all it holds, at most `depth` levels of it.
fn remove_dir(dir: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
    let inner = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | SAFE, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if matches!(child, b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(&inner, child, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) if depth > 0 => remove_dir(inner.as_fd(), child, depth - 1)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Copies an entry's content; long runs of zeros become holes. Stops after `limit` bytes.
fn copy(reader: &mut impl Read, file: &mut File, buffer: &mut [u8], limit: u64) -> io::Result<u64> {
    let mut copied = 0u64;
    let mut hole_at_end = false;
    loop {
        let count = reader.read(buffer)?;
        if count == 0 {
            break;
        }
        copied += count as u64;
        if copied > limit {
            return Err(io::Error::other("its content is longer than its header says"));
        }
        hole_at_end = count >= 4096 && buffer[..count].iter().all(|byte| *byte == 0);
        if hole_at_end {
            file.seek(SeekFrom::Current(count as i64))?;
        } else {
            file.write_all(&buffer[..count])?;
        }
    }
    if hole_at_end {
        file.set_len(copied)?;
    }
    Ok(copied)
}

fn metadata<'a, R: Read>(entry: &Entry<'_, R>, pax: &'a Pax) -> Result<Metadata<'a>, String> {
    let header = entry.header();
    let id = |what: &str, value: io::Result<u64>| {
        let value = value.map_err(|error| format!("its {what} is malformed: {error}"))?;
        // The highest value means "unchanged" to the kernel.
        u32::try_from(value)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| format!("its {what} {value} is out of range"))
    };
    let mtime = match pax.mtime {
        Some(mtime) => mtime,
        None => {
            let seconds = header.mtime().map_err(|error| format!("its time is malformed: {error}"))?;
            (i64::try_from(seconds).map_err(|_| "its time is out of range")?, 0)
        }
    };
    let mode = header.mode().map_err(|error| format!("its mode is malformed: {error}"))?;
    Ok(Metadata {
        uid: id("owner", header.uid())?,
        gid: id("group", header.gid())?,
        mode: mode & 0o7777,
        mtime: Timespec { tv_sec: mtime.0, tv_nsec: mtime.1 },
        xattrs: pax.xattrs.iter().map(|(key, value)| (&key[..], &value[..])).collect(),
    })
}
