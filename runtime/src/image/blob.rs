//! Writing one blob: hashed and counted while it streams, refused as soon as it is too long.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::digest::{Digest, Hasher};
use super::error::{Error, Result, io_error};

/// What a blob must turn out to be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) size: Option<u64>,
}

/// A blob under construction in the store's `tmp`; removed unless it is committed.
pub(crate) struct BlobWriter {
    file: File,
    path: Option<PathBuf>,
    hasher: Hasher,
    expected: Option<Expected>,
    limit: u64,
}

impl BlobWriter {
    /// Starts a blob at `path`, which must not exist, of at most `limit` bytes.
    pub(crate) fn create(path: PathBuf, expected: Option<Expected>, limit: u64) -> Result<Self> {
        let file = File::create_new(&path).map_err(io_error("create", &path))?;
        let mut writer = Self { file, path: Some(path), hasher: Hasher::default(), expected, limit };
        if let Some(size) = writer.expected.as_ref().and_then(|expected| expected.size) {
            if size > limit {
                return Err(writer.too_large());
            }
            writer.limit = size;
        }
        Ok(writer)
    }

    /// Appends `data`.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<()> {
        let total = self.hasher.bytes() + data.len() as u64;
        if total > self.limit {
            return Err(match &self.expected {
                Some(Expected { digest, size: Some(size) }) => {
                    Error::SizeMismatch { digest: digest.clone(), expected: *size, actual: total }
                }
                _ => self.too_large(),
            });
        }
        self.hasher.update(data);
        let path = self.path.as_deref().unwrap_or(Path::new("blob"));
        self.file.write_all(data).map_err(io_error("write", path))
    }

    /// Verifies the blob and moves it to `directory` under its digest, after `announce` was told it.
    pub(crate) fn commit(
        mut self,
        directory: &Path,
        announce: impl FnOnce(&Digest),
    ) -> Result<(Digest, u64)> {
        let bytes = self.hasher.bytes();
        let actual = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = &self.expected {
            if let Some(size) = expected.size.filter(|size| *size != bytes) {
                return Err(Error::SizeMismatch {
                    digest: expected.digest.clone(),
                    expected: size,
                    actual: bytes,
                });
            }
            if expected.digest != actual {
                return Err(Error::DigestMismatch { expected: expected.digest.clone(), actual });
            }
        }
        announce(&actual);
        if let Some(path) = &self.path {
            let target = directory.join(actual.hex());
            fs::rename(path, &target).map_err(io_error("move a blob to", &target))?;
            self.path = None;
        }
        Ok((actual, bytes))
    }

    fn too_large(&self) -> Error {
        let what = match &self.expected {
            Some(expected) => format!("the size of blob {}", expected.digest),
            None => "the size of a blob".to_owned(),
        };
        Error::TooLarge { what, limit: format!("{} bytes", self.limit) }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished blob");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(dir: &Path, content: &[u8], size: u64) -> BlobWriter {
        let expected = Expected { digest: Digest::of(content), size: Some(size) };
        BlobWriter::create(dir.join("tmp"), Some(expected), 100).unwrap()
    }

    #[test]
    fn a_blob_is_stored_under_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = start(dir.path(), b"hello", 5);
        writer.write(b"hel").unwrap();
        writer.write(b"lo").unwrap();
        let (digest, bytes) = writer.commit(dir.path(), |_| ()).unwrap();
        assert_eq!((bytes, &digest), (5, &Digest::of(b"hello")));
        assert_eq!(fs::read(dir.path().join(digest.hex())).unwrap(), b"hello");
    }

    #[test]
    fn wrong_content_and_wrong_sizes_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut wrong = start(dir.path(), b"hello", 5);
        wrong.write(b"hellO").unwrap();
        assert!(matches!(wrong.commit(dir.path(), |_| ()), Err(Error::DigestMismatch { .. })));
        let mut short = start(dir.path(), b"hello", 5);
        short.write(b"hell").unwrap();
        assert!(matches!(short.commit(dir.path(), |_| ()), Err(Error::SizeMismatch { actual: 4, .. })));
        let mut long = start(dir.path(), b"hello", 5);
        assert!(matches!(long.write(b"hello!"), Err(Error::SizeMismatch { actual: 6, .. })));
        drop(long);
        let huge = Expected { digest: Digest::of(b""), size: Some(101) };
        assert!(matches!(
            BlobWriter::create(dir.path().join("tmp"), Some(huge), 100),
            Err(Error::TooLarge { .. })
        ));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
