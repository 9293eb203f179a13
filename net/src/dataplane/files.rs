//! The files of the runtime directory.
//!
//! Owns: their names and their formats, atomic replacement, the identity of a process. Does not own: who writes when.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::SUBCOMMAND;
use crate::dns::DnsSnapshot;

/// Largest snapshot file read, in bytes: 10,000 services with 100,000 endpoints take a tenth of it.
const MAX_SNAPSHOT_BYTES: u64 = 256 << 20;

/// The runtime directory.
#[derive(Debug, Clone)]
pub(crate) struct Files(PathBuf);

/// Content of the snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) generation: u64,
    pub(crate) snapshot: DnsSnapshot,
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

impl Files {
    pub(crate) fn new(dir: &Path) -> Files {
        Files(dir.to_owned())
    }

    /// Makes the directory, for us alone, if it is missing.
    pub(crate) fn create_dir(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.0.join("dns.json")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("dataplane.log")
    }

    /// The stored snapshot; `None` when none was published yet.
    pub(crate) fn read_snapshot(&self) -> io::Result<Option<Stored>> {
        let path = self.snapshot();
        match fs::metadata(&path) {
            Ok(meta) if meta.len() > MAX_SNAPSHOT_BYTES => Err(io::ErrorKind::FileTooLarge.into()),
            Ok(_) => Ok(Some(serde_json::from_slice(&fs::read(&path)?)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a snapshot: a reader sees the old one or the new one, whole.
    pub(crate) fn write_snapshot(&self, generation: u64, snapshot: &DnsSnapshot) -> io::Result<()> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            generation: u64,
            snapshot: &'a DnsSnapshot,
        }
        self.replace(&self.snapshot(), &serde_json::to_vec(&Borrowed { generation, snapshot })?)
    }

    /// The process named in the pid file, if it still runs.
    pub(crate) fn read_pid(&self) -> Option<Identity> {
        let bytes = fs::read(self.pid()).ok()?;
        serde_json::from_slice::<Identity>(&bytes).ok().filter(|identity| identity.is_alive())
    }

    /// Processes that were started for this directory and cannot be asked any more, because somebody removed its files: they
    /// are known by their arguments alone.
    pub(crate) fn orphans(&self) -> Vec<Identity> {
        let own = nix::unistd::getpid().as_raw();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| *pid != own && self.serves(*pid))
            .filter_map(|pid| Some(Identity { pid, start_time: start_time(pid)? }))
            .collect()
    }

    fn serves(&self, pid: i32) -> bool {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
        let wanted = [SUBCOMMAND.as_bytes(), b"--runtime-dir", self.0.as_os_str().as_bytes()];
        wanted.iter().all(|want| arguments.next() == Some(want))
    }

    pub(crate) fn write_pid(&self, identity: Identity) -> io::Result<()> {
        self.replace(&self.pid(), &serde_json::to_vec(&identity)?)
    }

    pub(crate) fn open_lock(&self) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.lock())
    }

    pub(crate) fn open_log(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(self.log())
    }

    /// Removes what a stopped data plane leaves behind; the log stays for the reader.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for path in [self.control(), self.pid(), self.snapshot(), self.lock()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension(format!("new.{}", std::process::id()));
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        let written = file.write_all(content).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// How long a killed data plane may take to be gone.
const END_MAX: Duration = Duration::from_secs(10);
/// Between two looks at it.
const END_POLL: Duration = Duration::from_millis(5);

/// Kills every data plane that was started for this directory, whether its files are there or not, and returns their number
/// once they are gone: for a host that is given back.
pub fn end_all(dir: &Path) -> io::Result<usize> {
    let files = Files::new(dir);
    let mut found = files.orphans();
    found.extend(files.read_pid().filter(|named| !found.contains(named)));
    let deadline = Instant::now() + END_MAX;
    for process in &found {
        process.kill();
        while process.is_alive() {
            if Instant::now() >= deadline {
                let what = format!("the data plane, pid {}, does not end after SIGKILL", process.pid);
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            std::thread::sleep(END_POLL);
        }
    }
    Ok(found.len())
}

impl Identity {
    /// This process.
    pub(crate) fn own() -> io::Result<Identity> {
        let pid = nix::unistd::getpid().as_raw();
        let start_time = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Identity { pid, start_time })
    }

    /// Whether this very process runs (a zombie does not).
    pub(crate) fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Kills it, if it is still this one.
    pub(crate) fn kill(self) {
        if self.is_alive() {
            // It may end by itself at this moment; that serves as well.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), nix::sys::signal::SIGKILL);
        }
    }
}

/// Start time of a live process, in clock ticks since boot (field 22 of /proc/PID/stat).
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses and spaces included.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let (state, threads) = (*fields.first()?, fields.get(17)?.parse::<u32>().ok()?);
    // A first thread that has ended shows as a zombie while others still hold the sockets and the lock.
    if matches!(state, "Z" | "X") && threads <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        assert!(!Identity { start_time: own.start_time + 1, ..own }.is_alive());
    }

    #[test]
    fn a_snapshot_survives_storing_and_a_torn_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(&dir.path().join("a/b"));
        files.create_dir().unwrap();
        assert!(files.read_snapshot().unwrap().is_none());
        let snapshot = DnsSnapshot::default();
        files.write_snapshot(7, &snapshot).unwrap();
        assert_eq!(files.read_snapshot().unwrap(), Some(Stored { generation: 7, snapshot }));
        fs::write(files.snapshot(), "{\"generation\":7,").unwrap();
        assert!(files.read_snapshot().is_err());
        files.remove().unwrap();
        assert!(files.read_snapshot().unwrap().is_none());
    }
}
