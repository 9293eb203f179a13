//! Where files come from. The loader reads nothing but through [`FileSource`]; this module also holds the two sources that
//! every user needs: the disk and a map in memory.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// Largest file that is read, in bytes.
pub const FILE_MAX_BYTES: usize = 4 << 20;

/// `open(2)`: not to wait for the writer of a pipe; the same number on all architectures of ours.
const O_NONBLOCK: i32 = 0o4000;
/// Time for the writer of a pipe to write and close it, as that of `<(command)` does.
const PIPE_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at a pipe that is silent.
const PIPE_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Gives the loader its files. Paths are absolute and free of `.` and `..`, except `-`, which is standard input.
pub trait FileSource {
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A file (not a directory) is there.
    fn is_file(&self, path: &Path) -> bool;

    /// A directory is there; only used to explain a missing Compose file or to look for it in parent directories.
    fn is_dir(&self, path: &Path) -> bool;

    /// Something is there, whatever it is.
    fn exists(&self, path: &Path) -> bool {
        self.is_file(path) || self.is_dir(path)
    }
}

/// The files of this machine.
#[derive(Debug, Default)]
pub struct DiskFiles {
    stdin: Option<Vec<u8>>,
}

impl DiskFiles {
    /// The disk, with `content` standing for the file `-`.
    pub fn with_stdin(content: Vec<u8>) -> Self {
        Self { stdin: Some(content) }
    }
}

impl FileSource for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path == Path::new("-") {
            return self.stdin.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB");
        // To open a device can have effects, and to read it has no end.
        if is_device(path)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is a device or a socket, and no file"));
        }
        // A named pipe without a writer would keep a plain open waiting for ever.
        let file = std::fs::File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if found.len() > FILE_MAX_BYTES as u64 {
            return Err(too_large());
        }
        let content = read_bounded(file, PIPE_DEADLINE)?;
        if content.is_empty() && found.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "is a pipe that nobody writes to"));
        }
        if content.len() > FILE_MAX_BYTES { Err(too_large()) } else { Ok(content) }
    }

    fn is_file(&self, path: &Path) -> bool {
        path == Path::new("-") || path.is_file()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    /// Where nobody may look, nobody can say that nothing is there.
    fn exists(&self, path: &Path) -> bool {
        path == Path::new("-") || path.try_exists().unwrap_or(true)
    }
}

/// A device other than `/dev/null`, or a socket.
fn is_device(path: &Path) -> io::Result<bool> {
    let found = std::fs::metadata(path)?;
    let kind = found.file_type();
    let null = || std::fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == found.rdev());
    Ok(kind.is_socket() || kind.is_block_device() || kind.is_char_device() && !null())
}

/// All of a file up to one byte more than is taken. Of a pipe what comes until its writer closes it, and an error when that takes
/// too long.
fn read_bounded(mut file: impl Read, deadline: Duration) -> io::Result<Vec<u8>> {
    let (mut content, mut part) = (Vec::new(), vec![0; 64 << 10]);
    let until = Instant::now() + deadline;
    while content.len() <= FILE_MAX_BYTES {
        match file.read(&mut part) {
            Ok(0) => return Ok(content),
            Ok(read) => content.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(PIPE_LOOK_EVERY);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let text = format!("is a pipe that nobody closed within {} s", deadline.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err(error) => return Err(error),
        }
    }
    content.truncate(FILE_MAX_BYTES + 1);
    Ok(content)
}

/// Files in memory, by absolute path; for tests and for callers that hold the text already.
#[derive(Debug, Default, Clone)]
pub struct MemoryFiles(pub BTreeMap<PathBuf, Vec<u8>>);

impl MemoryFiles {
    /// The same with one more file.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.0.insert(path.into(), content.into());
        self
    }
}

impl FileSource for MemoryFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.0.keys().any(|file| file != path && file.starts_with(path))
    }
}

/// Joins and removes `.` and `..` by text alone, so that the answer does not depend on what is on the disk.
pub(crate) fn resolve(base: &Path, path: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(part),
        }
    }
    out
}

/// A path without what makes no difference: doubled slashes, `.`, `..` and a slash at the end.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".into(),
        (false, rest) => rest,
    }
}

/// The path as the user would write it in `dir`.
pub(crate) fn display(path: &Path, dir: &Path) -> String {
    match path.strip_prefix(dir) {
        Ok(short) if !short.as_os_str().is_empty() => short.display().to_string(),
        _ => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_without_the_disk() {
        let base = Path::new("/a/b");
        assert_eq!(resolve(base, "./c/../d"), Path::new("/a/b/d"));
        assert_eq!(resolve(base, "../../../x"), Path::new("/x"));
        assert_eq!(resolve(base, "/etc/./hosts"), Path::new("/etc/hosts"));
        assert_eq!(display(Path::new("/a/b/c.yaml"), base), "c.yaml");
        assert_eq!(display(Path::new("/a/c.yaml"), base), "/a/c.yaml");
    }

    #[test]
    fn what_is_no_plain_file_never_keeps_a_loader_waiting() {
        let files = DiskFiles::default();
        assert_eq!(files.read(&std::env::temp_dir()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(files.read(Path::new("/dev/null")).unwrap(), b"");
        for device in ["/dev/zero", "/dev/ptmx"] {
            assert_eq!(files.read(Path::new(device)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        // A pipe with a writer is read to its end; one whose writer stays is given up, and so is one that says nothing.
        let (reader, mut writer) = io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader)));
        let writing = std::thread::spawn(move || {
            for _ in 0..3 {
                io::Write::write_all(&mut writer, &[b'x'; 50_000]).unwrap();
            }
        });
        assert_eq!(files.read(&path).unwrap().len(), 150_000);
        writing.join().unwrap();
        assert_eq!(files.read(&path).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        struct Silent;
        impl Read for Silent {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
        assert_eq!(read_bounded(Silent, Duration::ZERO).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, cleaned) in [
            ("/a//b/../c/", "/a/c"),
            ("/", "/"),
            ("a/./b", "a/b"),
            ("", "."),
            ("/../x", "/x"),
            ("../a", "../a"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }
}
