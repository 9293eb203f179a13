//! The daemon's log: to standard error in the foreground, to a file of bounded size in the background. Panics are in it too.
//!
//! When standard error is the journal's, that has the time already and takes the level as a prefix (`sd-daemon(3)`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::error::CliError;

/// Size at which the log is put aside; one older one is kept.
const LOG_MAX_BYTES: u64 = 16 << 20;

/// Starts logging, to `file` when given.
pub(super) fn start(file: Option<PathBuf>, level: Level) -> Result<(), CliError> {
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    match file {
        Some(path) => {
            let log = RotatingFile::open(path.clone()).map_err(|error| {
                CliError::new(format!("log {} cannot be written", path.display())).caused_by(&error)
            })?;
            builder.with_writer(Mutex::new(log)).init();
        }
        None if to_journal() => {
            builder.without_time().with_level(false).with_writer(Journal).init();
        }
        None => builder.with_writer(io::stderr).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let what =
            text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        tracing::error!(%place, %thread, "panic, which is a bug of carrack: {what}");
    }));
    Ok(())
}

/// Whether standard error is a stream of the journal.
fn to_journal() -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| is_stream(&named, stat.st_dev, stat.st_ino))
}

/// `named` is `device:inode`.
fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    named == format!("{device}:{inode}")
}

/// Writes to standard error what the journal reads there.
#[derive(Debug)]
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Prefixed<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Prefixed { level: Level::INFO, to: io::stderr() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Prefixed { level: *meta.level(), to: io::stderr() }
    }
}

/// Puts the level before each line. What is written at once is one event.
#[derive(Debug)]
struct Prefixed<W> {
    level: Level,
    to: W,
}

impl<W: Write> Write for Prefixed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let priority = match self.level {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        };
        let mut text = Vec::with_capacity(bytes.len() + priority.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            text.extend_from_slice(priority.as_bytes());
            text.extend_from_slice(line);
        }
        self.to.write_all(&text)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A file that is put aside when it has grown too large.
#[derive(Debug)]
struct RotatingFile {
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
}

impl RotatingFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = append(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file, written, limit: LOG_MAX_BYTES })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        std::fs::rename(&self.path, old)?;
        self.file = append(&self.path)?;
        self.written = 0;
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written + bytes.len() as u64 > self.limit && self.written > 0 {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Opens a log for appending. It is for root alone: it names what runs here.
pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The last lines of a log, from its end backwards at most [`TAIL_MAX_BYTES`].
pub(super) fn tail(path: &Path, from: u64, lines: usize) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_MAX_BYTES)).min(length)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A log that cannot be read adds nothing to the error that it was to explain.
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Bytes of a log that are read for its last lines.
const TAIL_MAX_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_gets_the_level_of_each_line() {
        let mut out = Prefixed { level: Level::WARN, to: Vec::new() };
        out.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(out.to, b"<4>one\n<4>two\n");
        assert!(is_stream("8:42", 8, 42) && !is_stream("8:421", 8, 42) && !is_stream("", 8, 42));
    }

    #[test]
    fn a_log_never_grows_beyond_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = RotatingFile { limit: 100, ..RotatingFile::open(path.clone()).unwrap() };
        for n in 0..50 {
            writeln!(log, "line {n:02} of the log").unwrap();
        }
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(size(&path) <= 100 && size(&directory.path().join("log.1")) <= 100);
        assert_eq!(tail(&path, 0, 1), "line 49 of the log");
        assert_eq!(tail(&path, size(&path), 5), "", "only what came after the mark");
    }
}
