//! The log of the data-plane process: lines in a file of bounded size, with one older generation.
//!
//! Owns: the file, the form of a line, and a `tracing` subscriber that needs no other crate. Does not own: what is worth
//! a line.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Size at which the log becomes the older generation, in bytes.
pub(crate) const MAX_LOG_BYTES: u64 = 1 << 20;

/// Writes events of level INFO and above as lines.
pub(crate) struct FileLog {
    file: Mutex<File>,
    path: PathBuf,
}

impl FileLog {
    /// Writes to a file opened for appending. The file also is the standard error of the process (panics go there), so
    /// it is emptied in place and never replaced.
    pub(crate) fn new(file: File, path: PathBuf) -> FileLog {
        FileLog { file: Mutex::new(file), path }
    }

    fn line(&self, text: &str) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.metadata()?.len() + text.len() as u64 > MAX_LOG_BYTES {
            fs::copy(&self.path, self.path.with_extension("log.1"))?;
            file.set_len(0)?;
        }
        file.write_all(text.as_bytes())
    }
}

impl Subscriber for FileLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.is_event()
    }

    fn event(&self, event: &Event<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line =
            Line(format!("{} {}", utc(now.as_secs(), now.subsec_millis()), event.metadata().level()));
        event.record(&mut line);
        line.0.push('\n');
        // A full disk must not stop the service, and there is nowhere else to say so.
        let _ = self.line(&line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Seconds since 1970 as RFC 3339 (the civil calendar of Howard Hinnant's `civil_from_days`).
fn utc(seconds: u64, millis: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        assert_eq!(utc(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(utc(1_735_689_599, 999), "2024-12-31T23:59:59.999Z");
    }

    #[test]
    fn the_log_is_bounded_and_keeps_one_older_generation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataplane.log");
        let file = File::options().create(true).append(true).open(&path).unwrap();
        let log = FileLog::new(file, path.clone());
        let subscriber = tracing::Dispatch::new(log);
        tracing::dispatcher::with_default(&subscriber, || {
            let text = "x".repeat(1000);
            for number in 0..3000 {
                tracing::info!(number, "{text}");
            }
            tracing::debug!("not written");
        });
        let newest = fs::read_to_string(&path).unwrap();
        assert!(
            newest.len() as u64 <= MAX_LOG_BYTES && newest.ends_with("number=2999\n"),
            "{}",
            newest.len()
        );
        assert!(fs::metadata(path.with_extension("log.1")).unwrap().len() <= MAX_LOG_BYTES);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
