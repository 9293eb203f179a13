//! Where files come from. The loader reads nothing but through [`FileSource`]; this module also holds the two sources that
//! every user needs: the disk and a map in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Largest file that is read, in bytes.
pub const FILE_MAX_BYTES: usize = 4 << 20;

/// Gives the loader its files. Paths are absolute and free of `.` and `..`, except `-`, which is standard input.
pub trait FileSource {
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A file (not a directory) is there.
    fn is_file(&self, path: &Path) -> bool;

    /// A directory is there; only used to explain a missing Compose file or to look for it in parent directories.
    fn is_dir(&self, path: &Path) -> bool;
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
        let length = std::fs::metadata(path)?.len();
        if length > FILE_MAX_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
        }
        let mut content = Vec::new();
        let file = std::fs::File::open(path)?;
        io::Read::read_to_end(&mut io::Read::take(file, FILE_MAX_BYTES as u64 + 1), &mut content)?;
        Ok(content)
    }

    fn is_file(&self, path: &Path) -> bool {
        path == Path::new("-") || path.is_file()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }
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
}
