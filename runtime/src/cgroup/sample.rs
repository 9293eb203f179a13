//! Figures of one run's cgroup by `pread` on kept descriptors: about ten microseconds per sample on cgroup v1.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use carrack_api::{Bytes, Timestamp, Usage};
use serde::{Deserialize, Serialize};

use super::Cgroup;
use crate::error::RuntimeError;

/// Room for the largest file read here, `memory.stat`, in bytes.
const STAT_MAX_BYTES: usize = 8192;

/// A reader of one run's cgroup.
#[derive(Debug)]
pub struct CgroupSampler {
    v2: bool,
    cpu: Kept,
    memory: Kept,
    memory_stat: Kept,
    pids: Option<Kept>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    path: PathBuf,
}

impl Kept {
    fn open(cgroup: &Cgroup, controller: &str, name: &str) -> Result<Self, RuntimeError> {
        let dir = cgroup
            .dir(controller)
            .ok_or_else(|| RuntimeError::Host(format!("cgroup controller {controller} is not mounted")))?;
        let path = dir.join(name);
        File::open(&path)
            .map(|file| Self { file, path: path.clone() })
            .map_err(RuntimeError::file("open", path))
    }

    fn read<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b str, RuntimeError> {
        let length = self.file.read_at(buffer, 0).map_err(RuntimeError::file("read", &self.path))?;
        Ok(std::str::from_utf8(&buffer[..length]).unwrap_or_default())
    }

    fn number(&self, buffer: &mut [u8]) -> Result<u64, RuntimeError> {
        let text = self.read(buffer)?;
        text.trim().parse().map_err(|_| RuntimeError::Format {
            path: self.path.clone(),
            why: format!("{text:?} is no number"),
        })
    }
}

impl CgroupSampler {
    /// Opens the files of a cgroup that exists.
    pub fn open(cgroup: &Cgroup) -> Result<Self, RuntimeError> {
        let v2 = cgroup.is_v2();
        let (cpu, memory) =
            if v2 { ("cpu.stat", "memory.current") } else { ("cpuacct.usage", "memory.usage_in_bytes") };
        Ok(Self {
            v2,
            cpu: Kept::open(cgroup, "cpuacct", cpu)?,
            memory: Kept::open(cgroup, "memory", memory)?,
            memory_stat: Kept::open(cgroup, "memory", "memory.stat")?,
            pids: Kept::open(cgroup, "pids", "pids.current").ok(),
            buffer: vec![0; STAT_MAX_BYTES],
        })
    }

    /// One sample.
    pub fn sample(&mut self) -> Result<Usage, RuntimeError> {
        let buffer = &mut self.buffer;
        let cpu_us = if self.v2 {
            field(self.cpu.read(buffer)?, "usage_usec").unwrap_or(0)
        } else {
            self.cpu.number(buffer)? / 1000
        };
        let used = self.memory.number(buffer)?;
        // The cache that the kernel could give back at once is no need of the container's.
        let key = if self.v2 { "inactive_file" } else { "total_inactive_file" };
        let inactive = field(self.memory_stat.read(buffer)?, key).unwrap_or(0);
        let pids = match &self.pids {
            Some(file) => file.number(buffer)?,
            None => 0,
        };
        Ok(Usage { cpu_us, memory: Bytes(used.saturating_sub(inactive)), pids, at: now() })
    }
}

/// The value after a key in a file of `key value` lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

/// Wall-clock time.
pub(crate) fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Descriptors of the files that tell of OOM kills and of the peak; they outlive an `execve` of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryWatchFds {
    oom: Option<RawFd>,
    peak: Option<RawFd>,
}

/// What the keeper reads at the end of a run.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    oom: Option<File>,
    peak: Option<File>,
}

impl MemoryWatch {
    pub(crate) fn open(cgroup: &Cgroup) -> Self {
        let names = if cgroup.is_v2() {
            ("memory.events", "memory.peak")
        } else {
            ("memory.oom_control", "memory.max_usage_in_bytes")
        };
        // A kernel without one of the files (memory.peak is of 5.19) leaves that figure out.
        let open = |name| cgroup.dir("memory").and_then(|dir| File::open(dir.join(name)).ok());
        Self { oom: open(names.0), peak: open(names.1) }
    }

    /// Gives the descriptors up, for `execve`.
    pub(crate) fn into_fds(self) -> io::Result<MemoryWatchFds> {
        let leave = |file: Option<File>| file.map(|file| crate::child::leave_open(file.into())).transpose();
        Ok(MemoryWatchFds { oom: leave(self.oom)?, peak: leave(self.peak)? })
    }

    /// Takes the descriptors after `execve`.
    pub(crate) fn from_fds(fds: MemoryWatchFds) -> Self {
        let take = |fd: Option<RawFd>| fd.map(|fd| File::from(crate::child::take_fd(fd)));
        Self { oom: take(fds.oom), peak: take(fds.peak) }
    }

    /// Whether the kernel killed a process for lack of memory, and the largest use seen.
    pub(crate) fn read(&self) -> (bool, Option<Bytes>) {
        let read = |file: &Option<File>| {
            let mut buffer = [0; STAT_MAX_BYTES];
            let length = file.as_ref()?.read_at(&mut buffer, 0).ok()?;
            String::from_utf8(buffer[..length].to_vec()).ok()
        };
        let oom = read(&self.oom).and_then(|text| field(&text, "oom_kill")).unwrap_or(0) > 0;
        let peak = read(&self.peak).and_then(|text| text.trim().parse().ok()).map(Bytes);
        (oom, peak)
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "oom 3\noom_kill_disable 0\noom_kill 2\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "kill"), None);
    }
}
