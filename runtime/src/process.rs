//! Processes as this host knows them: identity that survives pid reuse, the boot, and pidfds.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// A process and the moment it started; a recycled pid has another moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid on the host.
    pub pid: u32,
    /// Clock ticks after boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl ProcessId {
    /// The calling process.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// A living (or not yet reaped) process.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, started: stat(pid)?.1 })
    }

    /// A pidfd when exactly this process lives, also as a zombie; `None` when it is gone.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(raw) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let fd = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The pidfd pins the process: what is read now is of the process it stands for, or of nobody.
        match stat(self.pid) {
            Ok((_, started)) if started == self.started => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it runs (a zombie does not). Not to be able to look, for want of descriptors for example, is no answer.
    pub fn runs(self) -> io::Result<bool> {
        match stat(self.pid) {
            Ok((state, started)) => Ok(started == self.started && !matches!(state, b'Z' | b'X')),
            Err(error) if gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to exactly this process; false when it is gone.
    pub fn signal(self, signal: i32) -> io::Result<bool> {
        let Some(fd) = self.open()? else { return Ok(false) };
        signal_pidfd(&fd, signal)
    }
}

/// Sends a signal by pidfd; false when the process is gone.
pub(crate) fn signal_pidfd(fd: &OwnedFd, signal: i32) -> io::Result<bool> {
    let signal = to_signal(signal)?;
    match rustix::process::pidfd_send_signal(fd, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A signal by number, real-time ones included.
pub(crate) fn to_signal(number: i32) -> io::Result<Signal> {
    if let Some(signal) = Signal::from_named_raw(number) {
        return Ok(signal);
    }
    if !(1..=64).contains(&number) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{number} is no signal")));
    }
    real_time(number)
}

#[expect(unsafe_code, reason = "real-time signals have no safe constructor")]
fn real_time(number: i32) -> io::Result<Signal> {
    // SAFETY: the number is in 1..=64 and names a signal of the kernel; we only pass it to kill-like calls.
    Ok(unsafe { Signal::from_raw_unchecked(number) })
}

/// What reading a file of a process that has ended answers.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// State letter and start time of a process.
fn stat(pid: u32) -> io::Result<(u8, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not understood"))
    })
}

fn parse_stat(text: &str) -> Option<(u8, u64)> {
    // The command name is in parentheses and may hold anything, also parentheses and spaces.
    let rest = text.rsplit_once(") ")?.1;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.bytes().next()?;
    // State is field 3; the start time is field 22.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The id of this boot of the kernel.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Number of threads of the calling process.
pub(crate) fn own_threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_confuse_the_start_time() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 8 9";
        assert_eq!(parse_stat(line), Some((b'S', 4711)));
        assert_eq!(parse_stat("7 (x"), None);
    }

    #[test]
    fn the_own_process_is_found_and_another_start_is_not() {
        let own = ProcessId::own().unwrap();
        assert!(own.runs().unwrap());
        assert!(own.open().unwrap().is_some());
        let reused = ProcessId { started: own.started + 1, ..own };
        assert!(!reused.runs().unwrap());
        assert!(reused.open().unwrap().is_none());
    }
}
