//! The file operations that the store's directory needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Result, io_error};

/// How often a removal of a directory is tried when files still appear in it.
const REMOVE_TRIES: u32 = 20;

/// A directory in `tmp` that is removed unless it was renamed away.
pub(super) struct WorkDir {
    pub(super) path: PathBuf,
}

impl WorkDir {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).map_err(io_error("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, "cannot remove an unfinished layer; it is removed when the store opens next");
        }
    }
}

pub(super) fn create_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
    // Layers hold setuid programs: no other user of the host may reach them.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error("protect", path))
}

pub(super) fn read_dir(path: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(io_error("list", path))
}

/// Removes a file or a whole tree; absent is fine. Retries while a dying child still writes to it.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    for attempt in 1.. {
        let result = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < REMOVE_TRIES => {}
            Err(error) => return Err(io_error("remove", path)(error)),
        }
    }
    Ok(())
}

/// Bytes of the regular files below `path`; what cannot be read counts as nothing.
pub(super) fn tree_bytes(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => pending.extend(read_dir(&path).unwrap_or_default()),
            Ok(metadata) if metadata.is_file() => bytes += metadata.len(),
            _ => {}
        }
    }
    bytes
}
