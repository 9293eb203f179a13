//! The daemon's log: to standard error in the foreground, to a file of bounded size in the background. Panics are in it too.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::Level;

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
