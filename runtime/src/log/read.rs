//! Reading a log: lines with their times, across files and runs, to the end or for ever.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;

use super::{FRAME_HEADER_BYTES, FrameKind, MAGIC, decode_header, file_name, parse_name};
use crate::error::RuntimeError;

/// Longest line, in bytes; a longer one is given in parts.
const LINE_MAX_BYTES: usize = 1 << 20;
/// Most lines that `tail` gives.
pub(crate) const TAIL_MAX_LINES: usize = 100_000;

/// What part of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Only the last lines, at most 100,000; `None` means all.
    pub tail: Option<usize>,
    /// Nothing older (nanoseconds since the epoch).
    pub since_ns: Option<u64>,
    /// One stream; `None` means all.
    pub stream: Option<LogStream>,
    /// Only this run.
    pub run: Option<u32>,
    /// [`LogReader`] does not end at the end of what is written.
    pub follow: bool,
    /// Not lines, but the bytes as they were read of the container, in their order. A `tail` other than 0 counts pieces then.
    pub raw: bool,
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// Notes of the supervisor, for example of dropped output.
    Supervisor,
}

/// One line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The run that wrote it.
    pub run: u32,
    /// The stream it was written to.
    pub stream: LogStream,
    /// When its first bytes arrived, nanoseconds since the epoch.
    pub time_ns: u64,
    /// The bytes.
    pub text: Vec<u8>,
}

/// Reads a log. Never blocks: `next_lines` returns what is there; with `follow`, call it until it returns nothing, then wait
/// until `fd` is readable (or use `wait`, which knows).
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    query: LogQuery,
    watch: Option<OwnedFd>,
    current: Option<Current>,
    partial: BTreeMap<LogStream, LogLine>,
    ready: VecDeque<LogLine>,
    /// The last call gave all there was.
    drained: bool,
}

#[derive(Debug)]
struct Current {
    key: (u32, u32),
    file: File,
    offset: u64,
}

impl LogReader {
    /// Opens the log in a directory; one that does not exist is empty.
    pub fn open(dir: &Path, query: LogQuery) -> Result<Self, RuntimeError> {
        let watch = if query.follow { Some(watch(dir)?) } else { None };
        let tail = query.tail.map(|lines| lines.min(TAIL_MAX_LINES));
        let mut reader = Self {
            dir: dir.to_owned(),
            query,
            watch,
            current: None,
            partial: BTreeMap::new(),
            ready: VecDeque::new(),
            drained: false,
        };
        if let Some(lines) = tail {
            reader.skip_to_tail(lines)?;
        }
        Ok(reader)
    }

    /// Up to `max` further lines; empty means: nothing more now (with `follow`) or ever (without).
    pub fn next_lines(&mut self, max: usize) -> Result<Vec<LogLine>, RuntimeError> {
        // Cleared before reading, so that what is written meanwhile wakes the caller again.
        self.clear_watch()?;
        while self.ready.len() < max && self.read_frame()? {}
        if self.ready.is_empty() && !self.query.follow {
            self.flush_partial();
        }
        let count = max.min(self.ready.len());
        self.drained = count == 0;
        Ok(self.ready.drain(..count).collect())
    }

    /// An inotify descriptor that becomes readable when there may be more lines; `next_lines` clears it. Only with
    /// `follow`.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Blocks until there may be more lines or the time is over; false on time-out or without `follow`.
    pub fn wait(&self, timeout: Duration) -> Result<bool, RuntimeError> {
        let Some(watch) = &self.watch else { return Ok(false) };
        if !self.drained {
            return Ok(true);
        }
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(RuntimeError::file("watch", &self.dir)(error.into())),
        }
    }

    /// Reads to the present end and keeps the last lines only.
    fn skip_to_tail(&mut self, lines: usize) -> Result<(), RuntimeError> {
        // Starts at the newest file from which on there are enough line ends.
        let files = self.files_after(None)?;
        let mut found = 0;
        for key in files.iter().rev() {
            self.open_file(*key)?;
            found += self.count_lines()?;
            self.open_file(*key)?;
            if found > lines {
                break;
            }
        }
        while self.read_frame()? {
            while self.ready.len() > lines {
                self.ready.pop_front();
            }
        }
        if !self.query.follow {
            self.flush_partial();
        }
        while self.ready.len() > lines {
            self.ready.pop_front();
        }
        Ok(())
    }

    /// Line ends of the wanted stream in the rest of the current file.
    fn count_lines(&mut self) -> Result<usize, RuntimeError> {
        let wanted = self.query.stream;
        let Some(current) = &mut self.current else { return Ok(0) };
        let mut found = 0;
        while let Some((kind, _, payload)) = current.frame().map_err(RuntimeError::file("read", &self.dir))? {
            if wanted.is_none() || wanted == kind.stream() {
                found += payload.iter().filter(|byte| **byte == b'\n').count();
            }
        }
        Ok(found)
    }

    /// Reads one frame into `partial` and `ready`; false at the present end.
    fn read_frame(&mut self) -> Result<bool, RuntimeError> {
        loop {
            let Some(current) = &mut self.current else {
                if !self.advance(None)? {
                    return Ok(false);
                }
                continue;
            };
            let key = current.key;
            if let Some((kind, time, payload)) =
                current.frame().map_err(RuntimeError::file("read", &self.dir))?
            {
                self.take(key.0, kind, time, &payload);
                return Ok(true);
            }
            if !self.advance(Some(key))? {
                return Ok(false);
            }
        }
    }

    /// Goes on to the next file; false when there is none yet.
    fn advance(&mut self, after: Option<(u32, u32)>) -> Result<bool, RuntimeError> {
        let Some(next) = self.files_after(after)?.first().copied() else { return Ok(false) };
        // The writer opens the next file only when it is done with the last: what is in that is complete now.
        if let Some(current) = &mut self.current
            && let Some((kind, time, payload)) =
                current.frame().map_err(RuntimeError::file("read", &self.dir))?
        {
            let run = current.key.0;
            self.take(run, kind, time, &payload);
            return Ok(true);
        }
        if after.is_some_and(|(run, _)| run != next.0) {
            self.flush_partial();
        }
        self.open_file(next)?;
        Ok(true)
    }

    fn open_file(&mut self, key: (u32, u32)) -> Result<(), RuntimeError> {
        let path = self.dir.join(file_name(key.0, key.1));
        match File::open(&path) {
            Ok(file) => {
                self.current = Some(Current { key, file, offset: MAGIC.len() as u64 });
                Ok(())
            }
            // Rotated away meanwhile: the next listing goes on behind it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let empty = File::open("/dev/null").map_err(RuntimeError::file("open", "/dev/null"))?;
                self.current = Some(Current { key, file: empty, offset: 0 });
                Ok(())
            }
            Err(error) => Err(RuntimeError::file("open", path)(error)),
        }
    }

    fn files_after(&self, after: Option<(u32, u32)>) -> Result<Vec<(u32, u32)>, RuntimeError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RuntimeError::file("read", &self.dir)(error)),
        };
        let mut keys: Vec<_> = entries
            .filter_map(|entry| parse_name(entry.ok()?.file_name().to_str()?))
            .filter(|key| after.is_none_or(|after| *key > after))
            .filter(|key| self.query.run.is_none_or(|run| key.0 == run))
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }

    fn take(&mut self, run: u32, kind: FrameKind, time_ns: u64, payload: &[u8]) {
        let Some(stream) = kind.stream() else { return self.flush_partial() };
        if self.query.raw {
            // Handed on as it is: nothing of it is ever part of a later line.
            self.partial.insert(stream, LogLine { run, stream, time_ns, text: payload.to_vec() });
            return self.end_line(stream);
        }
        if stream == LogStream::Supervisor {
            // It stands where output was lost: the line before it has no rest.
            self.flush_partial();
        }
        for part in payload.split_inclusive(|byte| *byte == b'\n') {
            let line = self.partial.entry(stream).or_insert_with(|| LogLine {
                run,
                stream,
                time_ns,
                text: Vec::new(),
            });
            line.text.extend_from_slice(part);
            let ended = line.text.last() == Some(&b'\n');
            if ended || line.text.len() >= LINE_MAX_BYTES || stream == LogStream::Supervisor {
                self.end_line(stream);
            }
        }
    }

    fn end_line(&mut self, stream: LogStream) {
        let Some(mut line) = self.partial.remove(&stream) else { return };
        if !self.query.raw && line.text.last() == Some(&b'\n') {
            line.text.pop();
        }
        let wanted = self.query.stream.is_none_or(|wanted| wanted == stream)
            && self.query.since_ns.is_none_or(|since| line.time_ns >= since);
        if wanted {
            self.ready.push_back(line);
        }
    }

    fn flush_partial(&mut self) {
        for stream in [LogStream::Stdout, LogStream::Stderr, LogStream::Supervisor] {
            self.end_line(stream);
        }
    }

    fn clear_watch(&self) -> Result<(), RuntimeError> {
        let Some(watch) = &self.watch else { return Ok(()) };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            match rustix::io::read(watch, &mut buffer) {
                Ok((events, _)) if !events.is_empty() => {}
                Ok(_) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(RuntimeError::file("watch", &self.dir)(error.into())),
            }
        }
    }
}

impl Current {
    /// The next whole frame; `None` at the end, which may be for now.
    fn frame(&mut self) -> io::Result<Option<(FrameKind, u64, Vec<u8>)>> {
        let mut header = [0; FRAME_HEADER_BYTES];
        if !read_whole(&self.file, &mut header, self.offset)? {
            return Ok(None);
        }
        let Some((length, kind, time)) = decode_header(&header) else { return Ok(None) };
        let mut payload = vec![0; length];
        if !read_whole(&self.file, &mut payload, self.offset + FRAME_HEADER_BYTES as u64)? {
            return Ok(None);
        }
        self.offset += (FRAME_HEADER_BYTES + length) as u64;
        Ok(Some((kind, time, payload)))
    }
}

fn read_whole(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(buffer, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn watch(dir: &Path) -> Result<OwnedFd, RuntimeError> {
    use inotify::{CreateFlags, WatchFlags};
    let fail = |error: rustix::io::Errno| RuntimeError::file("watch", dir)(error.into());
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(fail)?;
    inotify::add_watch(&fd, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::DELETE_SELF)
        .map_err(fail)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_an_empty_log() {
        let mut reader = LogReader::open(Path::new("/nonexistent/log"), LogQuery::default()).unwrap();
        assert!(reader.next_lines(5).unwrap().is_empty());
    }
}
