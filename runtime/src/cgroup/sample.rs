//! Figures of one run's cgroup by `pread` on kept descriptors: about fifteen microseconds per sample on v1.
//!
//! The same figures on v1 and v2, but pressure, which v1 does not have.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use carrack_api::{Bytes, Pressure, Timestamp, Usage, UsageDetail};
use serde::{Deserialize, Serialize};

use super::Cgroup;
use crate::error::RuntimeError;

/// Room for the largest file read here, `memory.stat`, in bytes.
const STAT_MAX_BYTES: usize = 8192;

/// A reader of one run's cgroup. What the host has no controller for reads as nothing used.
#[derive(Debug)]
pub struct CgroupSampler {
    v2: bool,
    /// `cpu.stat` (v2) or `cpuacct.usage`.
    cpu: Option<Kept>,
    /// `cpu.stat` of v1; on v2 `cpu` says both.
    throttling: Option<Kept>,
    memory: Option<Kept>,
    memory_stat: Option<Kept>,
    peak: Option<Kept>,
    /// `memory.events` or `memory.oom_control`.
    oom: Option<Kept>,
    pids: Option<Kept>,
    /// `io.stat` or `blkio.throttle.io_service_bytes`.
    io: Option<Kept>,
    /// Of CPU, memory and disks; v2 only.
    pressure: [Option<Kept>; 3],
    /// The largest use seen in samples, for kernels that keep none.
    largest: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    path: PathBuf,
}

impl Kept {
    /// `None` where the controller or the file is not there.
    fn open(cgroup: &Cgroup, controller: &str, name: &str) -> Result<Option<Self>, RuntimeError> {
        let Some(dir) = cgroup.dir(controller) else { return Ok(None) };
        let path = dir.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { file, path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RuntimeError::file("open", path)(error)),
        }
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

/// The text of a file that may not be there.
fn text<'b>(file: &Option<Kept>, buffer: &'b mut [u8]) -> Result<&'b str, RuntimeError> {
    file.as_ref().map_or(Ok(""), |file| file.read(buffer))
}

/// The number in a file that may not be there.
fn number(file: &Option<Kept>, buffer: &mut [u8]) -> Result<Option<u64>, RuntimeError> {
    file.as_ref().map(|file| file.number(buffer)).transpose()
}

impl CgroupSampler {
    /// Opens the files of a cgroup that exists.
    pub fn open(cgroup: &Cgroup) -> Result<Self, RuntimeError> {
        let v2 = cgroup.is_v2();
        let open =
            |controller, v1_name, v2_name| Kept::open(cgroup, controller, if v2 { v2_name } else { v1_name });
        let throttling = if v2 { None } else { Kept::open(cgroup, "cpu", "cpu.stat")? };
        let mut pressure = [None, None, None];
        if v2 {
            for (kept, name) in pressure.iter_mut().zip(["cpu", "memory", "io"]) {
                *kept = Kept::open(cgroup, name, &format!("{name}.pressure"))?;
            }
        }
        let sampler = Self {
            v2,
            cpu: open("cpuacct", "cpuacct.usage", "cpu.stat")?,
            throttling,
            memory: open("memory", "memory.usage_in_bytes", "memory.current")?,
            memory_stat: open("memory", "memory.stat", "memory.stat")?,
            peak: open("memory", "memory.max_usage_in_bytes", "memory.peak")?,
            oom: open("memory", "memory.oom_control", "memory.events")?,
            pids: open("pids", "pids.current", "pids.current")?,
            io: open("blkio", "blkio.throttle.io_service_bytes", "io.stat")?,
            pressure,
            largest: 0,
            buffer: vec![0; STAT_MAX_BYTES],
        };
        match cgroup.exists() {
            true => Ok(sampler),
            false => Err(RuntimeError::Host(format!("there is no cgroup {}", cgroup.path()))),
        }
    }

    /// One sample.
    pub fn sample(&mut self) -> Result<Usage, RuntimeError> {
        let mut detail = UsageDetail::default();
        let buffer = &mut self.buffer;
        let cpu_us = if self.v2 {
            let stat = text(&self.cpu, buffer)?;
            throttling(&mut detail, stat, "throttled_usec", 1);
            field(stat, "usage_usec").unwrap_or(0)
        } else {
            throttling(&mut detail, text(&self.throttling, buffer)?, "throttled_time", 1000);
            number(&self.cpu, buffer)?.unwrap_or(0) / 1000
        };
        let used = number(&self.memory, buffer)?;
        self.largest = self.largest.max(used.unwrap_or(0));
        // The cache that the kernel could give back at once is no need of the container's.
        let key = if self.v2 { "inactive_file" } else { "total_inactive_file" };
        let inactive = field(text(&self.memory_stat, buffer)?, key).unwrap_or(0);
        detail.memory_peak = number(&self.peak, buffer)?.or(used.map(|_| self.largest)).map(Bytes);
        detail.oom_kills = field(text(&self.oom, buffer)?, "oom_kill").unwrap_or(0);
        let pids = number(&self.pids, buffer)?.unwrap_or(0);
        if let Some(io) = &self.io {
            let (read, written) = moved(io.read(buffer)?);
            (detail.disk_read, detail.disk_written) = (Some(Bytes(read)), Some(Bytes(written)));
        }
        let [cpu, memory, io] = &self.pressure;
        // A kernel that was told to keep no pressure figures has the files and refuses to read them.
        let mut waited = |file: &Option<Kept>| stalled(file.as_ref()?.read(buffer).ok()?);
        detail.pressure = waited(cpu).map(|cpu_us| Pressure {
            cpu_us,
            memory_us: waited(memory).unwrap_or(0),
            io_us: waited(io).unwrap_or(0),
        });
        let memory = used.map(|used| Bytes(used.saturating_sub(inactive)));
        Ok(Usage { cpu_us, memory, pids, at: now(), detail: Some(Box::new(detail)) })
    }

    /// The largest memory use that samples have shown, on kernels that keep none themselves (cgroup v2 before 5.19).
    pub fn largest_seen(&self) -> Option<Bytes> {
        (self.peak.is_none() && self.largest > 0).then_some(Bytes(self.largest))
    }
}

/// What `cpu.stat` says of the CPU limit; `unit` of its time makes a microsecond.
fn throttling(detail: &mut UsageDetail, stat: &str, time: &str, unit: u64) {
    detail.cpu_periods = field(stat, "nr_periods").unwrap_or(0);
    detail.throttled_periods = field(stat, "nr_throttled").unwrap_or(0);
    detail.throttled_us = field(stat, time).unwrap_or(0) / unit;
}

/// Bytes read and written over all devices: `8:0 rbytes=1 wbytes=2 ...` on v2, `8:0 Read 1` and `8:0 Write 2` on v1.
fn moved(stat: &str) -> (u64, u64) {
    let (mut read, mut written) = (0_u64, 0_u64);
    // Of a file that is longer than the buffer the last line may be cut.
    let whole = stat.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let words: Vec<&str> = line.split([' ', '=']).collect();
        for pair in words.windows(2) {
            let value = || pair[1].parse::<u64>().unwrap_or(0);
            match pair[0] {
                "rbytes" | "Read" => read = read.saturating_add(value()),
                "wbytes" | "Write" => written = written.saturating_add(value()),
                _ => {}
            }
        }
    }
    (read, written)
}

/// The total of the `some` line of a pressure file, microseconds.
fn stalled(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("total=")?.parse().ok())
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
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "oom 3\noom_kill_disable 0\noom_kill 2\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "kill"), None);
    }

    #[test]
    fn bytes_are_those_of_all_devices() {
        let v2 = "8:16 rbytes=10 wbytes=200 rios=1 wios=2 dbytes=7 dios=1\n8:0 rbytes=5 wbytes=3 rios=1 wios=1 dbytes=0 dios=0\n";
        assert_eq!(moved(v2), (15, 203));
        let v1 =
            "8:0 Read 10\n8:0 Write 200\n8:0 Sync 210\n8:0 Total 210\n8:16 Read 5\n8:16 Write 3\nTotal 218\n";
        assert_eq!(moved(v1), (15, 203));
        assert_eq!(moved("8:0 rbytes=1 wbytes=2\n8:16 rbytes=4"), (1, 2), "a cut line");
        assert_eq!(moved(""), (0, 0));
    }

    #[test]
    fn pressure_is_the_total_of_some() {
        let text = "some avg10=1.00 avg60=0.50 avg300=0.10 total=4711\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n";
        assert_eq!(stalled(text), Some(4711));
        assert_eq!(stalled(""), None);
    }

    /// A cgroup of ordinary files: what the kernels of both versions write.
    fn cgroup(v2: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let path = dir.path().to_owned();
        let dirs = match v2 {
            true => vec![(String::new(), path)],
            false => ["blkio", "cpu", "cpuacct", "memory", "pids"]
                .map(|name| (name.to_owned(), path.clone()))
                .to_vec(),
        };
        (dir, Cgroup { v2, path: "/test".into(), dirs, given: None })
    }

    #[test]
    fn both_versions_of_the_kernels_files_say_the_same() {
        let (_v1_dir, v1) = cgroup(
            false,
            &[
                ("cpuacct.usage", "5000000\n"),
                ("cpu.stat", "nr_periods 20\nnr_throttled 7\nthrottled_time 900000\n"),
                ("memory.usage_in_bytes", "8192\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 4096\n"),
                ("memory.max_usage_in_bytes", "16384\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
                ("pids.current", "3\n"),
                (
                    "blkio.throttle.io_service_bytes",
                    "8:0 Read 512\n8:0 Write 1024\n8:0 Total 1536\nTotal 1536\n",
                ),
            ],
        );
        let (_v2_dir, v2) = cgroup(
            true,
            &[
                ("cpu.stat", "usage_usec 5000\nnr_periods 20\nnr_throttled 7\nthrottled_usec 900\n"),
                ("memory.current", "8192\n"),
                ("memory.stat", "inactive_file 4096\n"),
                ("memory.peak", "16384\n"),
                ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\n"),
                ("pids.current", "3\n"),
                ("io.stat", "8:0 rbytes=512 wbytes=1024 rios=1 wios=1 dbytes=0 dios=0\n"),
            ],
        );
        let [mut v1, mut v2] = [v1, v2].map(|cgroup| {
            let mut sampler = CgroupSampler::open(&cgroup).unwrap();
            assert_eq!(sampler.largest_seen(), None);
            sampler.sample().unwrap()
        });
        (v1.at, v2.at) = Default::default();
        assert_eq!(v1, v2);
        let detail = v2.detail.unwrap();
        assert_eq!((v2.cpu_us, v2.memory, v2.pids), (5000, Some(Bytes(4096)), 3));
        assert_eq!((detail.disk_read, detail.disk_written), (Some(Bytes(512)), Some(Bytes(1024))));
        assert_eq!((detail.throttled_periods, detail.throttled_us, detail.oom_kills), (7, 900, 2));
    }

    #[test]
    fn without_a_peak_of_the_kernels_the_largest_sample_is_it() {
        let (dir, cgroup) = cgroup(true, &[("cpu.stat", "usage_usec 1\n"), ("memory.current", "8192\n")]);
        let mut sampler = CgroupSampler::open(&cgroup).unwrap();
        assert_eq!(sampler.largest_seen(), None);
        sampler.sample().unwrap();
        std::fs::write(dir.path().join("memory.current"), "4096\n").unwrap();
        assert_eq!(sampler.sample().unwrap().detail.unwrap().memory_peak, Some(Bytes(8192)));
        assert_eq!(sampler.largest_seen(), Some(Bytes(8192)));
    }

    #[test]
    fn a_host_without_a_controller_has_samples_without_it() {
        let (_dir, cgroup) = cgroup(true, &[("cpu.stat", "usage_usec 7\n")]);
        let usage = CgroupSampler::open(&cgroup).unwrap().sample().unwrap();
        assert_eq!((usage.cpu_us, usage.memory, usage.pids), (7, None, 0));
        let detail = usage.detail.unwrap();
        assert_eq!((detail.memory_peak, detail.disk_read, detail.disk_written), (None, None, None));
        let gone = Cgroup {
            v2: true,
            path: "/gone".into(),
            dirs: vec![(String::new(), "/no/such/place".into())],
            given: None,
        };
        assert!(CgroupSampler::open(&gone).is_err());
    }
}
