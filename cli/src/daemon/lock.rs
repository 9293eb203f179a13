//! One daemon a directory. The kernel drops the lock with the process, so none is ever stale; the file only names the holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::CliError;

/// A child that a killed daemon was just starting holds a copy of the lock until it executes its own program: that long a lock
/// of a process that is gone is waited for.
const ORPHANED_MAX: Duration = Duration::from_secs(5);
/// Between two looks at such a lock.
const ORPHANED_LOOK: Duration = Duration::from_millis(5);

/// Held until dropped. It is given back then, and not only closed: a child that is being started has a copy of the descriptor until
/// its `execve`, and would hold the lock for that long.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        give_back(&self.file);
    }
}

fn give_back(file: &File) {
    if let Err(error) = file.unlock() {
        tracing::warn!(%error, "a lock is given back by closing it alone");
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("daemon.lock")
}

fn open(directory: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o644).open(path(directory))
}

fn unusable(directory: &Path, error: &std::io::Error) -> CliError {
    CliError::new(format!("lock file {} cannot be used", path(directory).display())).caused_by(error)
}

/// Takes the directory for this process.
pub(crate) fn take(directory: &Path) -> Result<Lock, CliError> {
    let mut file = open(directory).map_err(|error| unusable(directory, &error))?;
    let deadline = Instant::now() + ORPHANED_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let holder = pid(&mut file);
                if !holder.is_some_and(is_gone) || Instant::now() >= deadline {
                    return Err(refused(directory, holder));
                }
                std::thread::sleep(ORPHANED_LOOK);
            }
            Err(TryLockError::Error(error)) => return Err(unusable(directory, &error)),
        }
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| unusable(directory, &error))?;
    Ok(Lock { file })
}

/// The daemon that holds the directory: `None` when nobody does, `Some(None)` when it cannot be told who.
pub(crate) fn holder(directory: &Path) -> Result<Option<Option<u32>>, CliError> {
    let mut file = match File::open(path(directory)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(directory, &error)),
    };
    match file.try_lock_shared() {
        Ok(()) => {
            give_back(&file);
            Ok(None)
        }
        // Taken by whoever comes: see `ORPHANED_MAX`.
        Err(TryLockError::WouldBlock) => Ok(Some(pid(&mut file)).filter(|pid| !pid.is_some_and(is_gone))),
        Err(TryLockError::Error(error)) => Err(unusable(directory, &error)),
    }
}

/// What a second daemon is told.
pub(super) fn refused(directory: &Path, pid: Option<u32>) -> CliError {
    let who = pid.map_or(String::new(), |pid| format!(", pid {pid}"));
    CliError::new(format!("{} is in use by another carrack daemon{who}", directory.display()))
        .hint("use that one, or give this one a --state-dir and a --runtime-dir of its own")
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_a_process_that_is_gone_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        // Above the kernel's largest pid. A real child would hold copies of the other test's lock.
        let ended = 4_194_305;
        let left = open(directory.path()).unwrap();
        left.lock().unwrap();
        std::fs::write(path(directory.path()), format!("{ended}\n")).unwrap();
        assert_eq!(holder(directory.path()).unwrap(), None);
        let waiting = std::thread::spawn({
            let directory = directory.path().to_owned();
            move || take(&directory).map(drop)
        });
        drop(left);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_directory_has_one_daemon_and_the_second_is_told_its_pid() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()).unwrap(), None);
        let first = take(directory.path()).unwrap();
        let own = std::process::id();
        assert_eq!(holder(directory.path()).unwrap(), Some(Some(own)));
        let text = take(directory.path()).unwrap_err().render(false);
        assert!(text.contains(&format!("another carrack daemon, pid {own}")), "{text}");
        drop(first);
        assert_eq!(holder(directory.path()).unwrap(), None, "a file that is left means nothing");
        take(directory.path()).unwrap();
    }
}
