//! Writing one blob: hashed and counted while it streams, refused as soon as it is too long.
//!
//! A blob whose digest is known may be written to a partial file, which survives an interruption:
//! what it holds is hashed again before more is appended, so nothing in it is taken on trust.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use super::digest::{Digest, Hasher};
use super::error::{Error, Result, io_error, point};

/// What a blob must turn out to be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) size: Option<u64>,
}

/// A blob under construction. One in the store's `tmp` is removed unless it is committed; a partial
/// one stays for the next attempt, unless its content turned out wrong or the disk full.
pub(crate) struct BlobWriter {
    file: File,
    path: Option<PathBuf>,
    hasher: Hasher,
    expected: Option<Expected>,
    limit: u64,
    partial: bool,
}

impl BlobWriter {
    /// Starts a blob at `path`, which must not exist, of at most `limit` bytes.
    pub(crate) fn create(path: PathBuf, expected: Option<Expected>, limit: u64) -> Result<Self> {
        let file = File::create_new(&path).map_err(io_error("create", &path))?;
        let hasher = Hasher::default();
        let writer = Self { file, path: Some(path), hasher, expected, limit, partial: false };
        writer.bounded()
    }

    /// Goes on with the partial blob at `path`, of at most `limit` bytes; an absent one is begun.
    pub(crate) fn resume(path: PathBuf, expected: Expected, limit: u64) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io_error("open", &path))?;
        let mut hasher = Hasher::default();
        let found = file.metadata().map_err(io_error("inspect", &path))?.len();
        if found <= limit {
            io::copy(&mut file, &mut hasher).map_err(io_error("read", &path))?;
        }
        let expected = Some(expected);
        let mut writer = Self { file, path: Some(path), hasher, expected, limit, partial: true }.bounded()?;
        if found > writer.limit {
            writer.restart()?;
        }
        Ok(writer)
    }

    /// Holds the blob to the size that is expected of it.
    fn bounded(mut self) -> Result<Self> {
        if let Some(size) = self.expected.as_ref().and_then(|expected| expected.size) {
            if size > self.limit {
                self.partial = false;
                return Err(self.too_large());
            }
            self.limit = size;
        }
        Ok(self)
    }

    /// Bytes written so far.
    pub(crate) fn position(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Throws away what is written and begins anew.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let path = self.path.as_deref().unwrap_or(Path::new("blob"));
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(io_error("empty", path))?;
        self.hasher = Hasher::default();
        Ok(())
    }

    /// Appends `data`.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<()> {
        let total = self.hasher.bytes() + data.len() as u64;
        if total > self.limit {
            self.partial = false;
            return Err(match &self.expected {
                Some(Expected { digest, size: Some(size) }) => {
                    Error::SizeMismatch { digest: digest.clone(), expected: *size, actual: total }
                }
                _ => self.too_large(),
            });
        }
        self.hasher.update(data);
        let path = self.path.as_deref().unwrap_or(Path::new("blob"));
        self.file.write_all(data).map_err(io_error("write", path)).inspect_err(|_| self.partial = false)
    }

    /// Checks that nothing is missing; what is there stays for the next attempt otherwise.
    pub(crate) fn complete(&self) -> Result<()> {
        let actual = self.hasher.bytes();
        match &self.expected {
            Some(Expected { digest, size: Some(size) }) if actual < *size => {
                Err(Error::SizeMismatch { digest: digest.clone(), expected: *size, actual })
            }
            _ => Ok(()),
        }
    }

    /// Verifies the blob and moves it to `directory` under its digest, after `announce` was told it.
    pub(crate) fn commit(
        mut self,
        directory: &Path,
        announce: impl FnOnce(&Digest),
    ) -> Result<(Digest, u64)> {
        let bytes = self.hasher.bytes();
        self.partial = false;
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
        point("pull.5-blob-rename")?;
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
        if self.partial && self.hasher.bytes() > 0 {
            return;
        }
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
    fn a_partial_blob_is_gone_on_with_after_its_start_was_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let expected = || Expected { digest: Digest::of(b"hello"), size: Some(5) };
        let resume = || BlobWriter::resume(dir.path().join("part"), expected(), 100).unwrap();
        resume().write(b"hel").unwrap();
        let mut writer = resume();
        assert_eq!(writer.position(), 3);
        writer.write(b"lo").unwrap();
        writer.commit(dir.path(), |_| ()).unwrap();
        assert!(!dir.path().join("part").exists());

        resume().write(b"hex").unwrap();
        let mut writer = resume();
        writer.write(b"lo").unwrap();
        assert!(matches!(writer.commit(dir.path(), |_| ()), Err(Error::DigestMismatch { .. })));
        assert!(!dir.path().join("part").exists(), "what is wrong is not kept");

        drop(resume());
        assert!(!dir.path().join("part").exists(), "nothing is not kept");
        fs::write(dir.path().join("part"), b"far too long").unwrap();
        let mut writer = resume();
        assert_eq!(writer.position(), 0);
        writer.write(b"hello").unwrap();
        writer.restart().unwrap();
        writer.write(b"hello").unwrap();
        writer.commit(dir.path(), |_| ()).unwrap();
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
