//! The lock of a state directory: one scheduler at a time. The kernel drops it with the process, so none is ever stale.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Why the state directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("the state directory {} is in use by another carrack daemon{}", .directory.display(), holder(.pid))]
    Held {
        /// The directory.
        directory: PathBuf,
        /// Its PID, as far as the file says.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or written.
    #[error("the lock file {} cannot be used", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Held until dropped. It is given back then, and not only closed: a child that is being started has a copy of the descriptor until
/// its `execve`, and would hold the lock for that long.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the lock of the state directory is given back by closing it alone");
        }
    }
}

impl Lock {
    /// Takes the lock of `directory`, making the directory when there is none. Only root may look into it: specs hold passwords of
    /// environments, whatever the directories above allow.
    pub(crate) fn take(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        std::fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(io)?;
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(io)?;
                let pid = text.trim().parse().ok();
                return Err(LockError::Held { directory: directory.to_path_buf(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_may_read_is_closed() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("scheduler");
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        let _lock = Lock::take(&directory).unwrap();
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
