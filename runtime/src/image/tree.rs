//! Reading files from an image's root: a mounted one, or layers merged as overlayfs would.
//!
//! Symlinks resolve within the root; only regular files are read, and never more than asked for.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{Error, Result, io_error};

/// Most symlinks followed on one path: the kernel's limit.
const MAX_SYMLINKS: usize = 40;
/// Longest path during resolution, in bytes: the kernel's limit.
const MAX_PATH: usize = 4096;

/// A root filesystem to read from: a mounted one, or layers not mounted yet.
#[derive(Debug, Clone)]
pub enum RootTree {
    /// A directory that is the root.
    Dir(PathBuf),
    /// Overlayfs lower directories, top layer first.
    Layers(Vec<PathBuf>),
}

impl RootTree {
    /// Reads a regular file; `None` when there is none at `path`. More than `limit` bytes is an error.
    pub fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let opened = match self {
            Self::Dir(root) => open_below(root, path.as_bytes(), ResolveFlags::IN_ROOT),
            Self::Layers(layers) => Merged { layers }.open(path.as_bytes()),
        };
        let file = match opened {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(io_error("open in the image", Path::new(path))(error)),
        };
        let metadata = file.metadata().map_err(io_error("inspect in the image", Path::new(path)))?;
        if !metadata.is_file() {
            let source = io::Error::other("it is not a regular file");
            return Err(io_error("read in the image", Path::new(path))(source));
        }
        let mut content = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut content)
            .map_err(io_error("read in the image", Path::new(path)))?;
        if content.len() as u64 > limit {
            return Err(Error::TooLarge {
                what: format!("{path} of the image"),
                limit: format!("{limit} bytes"),
            });
        }
        Ok(Some(content))
    }
}

/// Opens for reading below `root`; never blocks on a FIFO.
fn open_below(root: &Path, path: &[u8], resolve: ResolveFlags) -> Result<File, Errno> {
    let dir = open_root(root)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve).map(File::from)
}

fn open_root(root: &Path) -> Result<rustix::fd::OwnedFd, Errno> {
    rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Layers seen as one tree.
struct Merged<'a> {
    layers: &'a [PathBuf],
}

/// What one layer or the merged tree holds at a path.
enum Found<'a> {
    Nothing,
    Dir,
    Symlink(&'a Path),
    File(&'a Path),
}

impl<'a> Merged<'a> {
    fn open(&self, path: &[u8]) -> Result<File, Errno> {
        let mut pending: Vec<Vec<u8>> = components(path);
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(component) = pending.pop() {
            if component == b".." {
                at.pop();
                continue;
            }
            at.push(component);
            let here = at.join(&b'/');
            if here.len() > MAX_PATH {
                return Err(Errno::NAMETOOLONG);
            }
            match self.find(&at)? {
                Found::Dir => {}
                Found::Nothing => return Err(Errno::NOENT),
                Found::File(_) if !pending.is_empty() => return Err(Errno::NOTDIR),
                Found::File(layer) => return open_below(layer, &here, BENEATH),
                Found::Symlink(layer) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(Errno::LOOP);
                    }
                    let link = lookup(layer, &here)?;
                    let target = rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes();
                    at.pop();
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    pending.extend(components(&target));
                }
            }
        }
        Err(Errno::ISDIR)
    }

    /// What the merged tree holds at `path`, none of whose parents is a symlink.
    fn find(&self, path: &[Vec<u8>]) -> Result<Found<'a>, Errno> {
        let mut visible: Vec<&'a PathBuf> = self.layers.iter().collect();
        for depth in 1..=path.len() {
            let here = path[..depth].join(&b'/');
            let mut dirs = Vec::new();
            for layer in visible {
                let entry = match lookup(layer, &here) {
                    Ok(entry) => entry,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error),
                };
                let kind = FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode);
                match kind {
                    FileType::Directory => {
                        dirs.push(layer);
                        if is_opaque(layer, &here)? {
                            break;
                        }
                    }
                    // A directory above hides what is not a directory below, and the other way round.
                    _ if !dirs.is_empty() => break,
                    // A whiteout: an image cannot hold other devices.
                    FileType::CharacterDevice => return Ok(Found::Nothing),
                    FileType::Symlink => return Ok(Found::Symlink(layer)),
                    FileType::RegularFile
                    | FileType::Fifo
                    | FileType::Socket
                    | FileType::BlockDevice
                    | FileType::Unknown => return Ok(Found::File(layer)),
                }
            }
            if dirs.is_empty() {
                return Ok(Found::Nothing);
            }
            visible = dirs;
        }
        Ok(Found::Dir)
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// A handle on what one layer holds at `path`.
fn lookup(layer: &Path, path: &[u8]) -> Result<rustix::fd::OwnedFd, Errno> {
    let dir = open_root(layer)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(&dir, path, flags, Mode::empty(), BENEATH)
}

fn is_opaque(layer: &Path, path: &[u8]) -> Result<bool, Errno> {
    let full = layer.join(std::ffi::OsStr::from_bytes(path));
    let mut value = [0; 1];
    match rustix::fs::lgetxattr(&full, "trusted.overlay.opaque", &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The components of a path, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let keep = |component: &&[u8]| !component.is_empty() && *component != b".";
    path.split(|byte| *byte == b'/').filter(keep).rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for part in ["top/etc", "base/etc", "base/real", "outside"] {
                fs::create_dir_all(dir.path().join(part)).unwrap();
            }
            fs::write(dir.path().join("outside/secret"), "secret").unwrap();
            Self(dir)
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn tree(&self) -> RootTree {
            RootTree::Layers(vec![self.path("top"), self.path("base")])
        }

        fn read(&self, path: &str) -> Option<String> {
            self.tree().read_file(path, 100).unwrap().map(|content| String::from_utf8(content).unwrap())
        }
    }

    #[test]
    fn the_upper_layer_hides_the_lower_one() {
        let fixture = Fixture::new();
        fs::write(fixture.path("base/etc/passwd"), "base").unwrap();
        assert_eq!(fixture.read("/etc/passwd").as_deref(), Some("base"));
        fs::write(fixture.path("top/etc/passwd"), "top").unwrap();
        assert_eq!(fixture.read("/etc/passwd").as_deref(), Some("top"));
        assert_eq!(fixture.read("/etc/group"), None);
        assert_eq!(fixture.read("/etc/passwd/x"), None);
    }

    #[test]
    fn symlinks_cross_layers_but_never_leave_the_root() {
        let fixture = Fixture::new();
        fs::write(fixture.path("base/real/file"), "found").unwrap();
        symlink("../real/file", fixture.path("top/etc/relative")).unwrap();
        symlink("/etc/relative", fixture.path("base/etc/absolute")).unwrap();
        symlink("../../../../real/file", fixture.path("top/etc/up")).unwrap();
        symlink(fixture.path("outside/secret"), fixture.path("top/etc/out")).unwrap();
        symlink("loop", fixture.path("top/etc/loop")).unwrap();
        for path in ["/etc/relative", "/etc/absolute", "etc/up"] {
            assert_eq!(fixture.read(path).as_deref(), Some("found"), "{path}");
        }
        assert_eq!(fixture.read("/etc/out"), None);
        assert!(fixture.tree().read_file("/etc/loop", 100).is_err());

        let dir = RootTree::Dir(fixture.path("top"));
        assert_eq!(dir.read_file("/etc/out", 100).unwrap(), None);
    }

    #[test]
    fn reads_are_bounded_and_only_of_regular_files() {
        let fixture = Fixture::new();
        fs::write(fixture.path("top/etc/passwd"), "x".repeat(101)).unwrap();
        for tree in [fixture.tree(), RootTree::Dir(fixture.path("top"))] {
            assert!(matches!(tree.read_file("/etc/passwd", 100), Err(Error::TooLarge { .. })));
            assert!(tree.read_file("/etc", 100).is_err());
        }
        let fifo = fixture.path("top/etc/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(fixture.tree().read_file("/etc/fifo", 100).is_err());
    }
}
