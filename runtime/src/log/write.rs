//! The supervisor's side of a log: append, rotate, and never stand in the application's way.
//!
//! A frame that cannot be written (disk full) is dropped and counted; the next one that can be is preceded by a note. The
//! directory is held by descriptor: it may be moved or its disk may be unmounted lazily.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use carrack_api::fail;
use rustix::fs::{AtFlags, Mode, OFlags};

use super::{FRAME_HEADER_BYTES, FrameKind, MAGIC, MAX_FILES, encode_header, file_name, parse_name};
use crate::request::LogLimit;

/// Appends to the log of one run.
#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: OwnedFd,
    run: u32,
    sequence: u32,
    file: Option<File>,
    offset: u64,
    limit: LogLimit,
    dropped: u64,
    noted: u64,
}

impl LogWriter {
    /// Writes into a directory held by descriptor. Opens no file before the first frame.
    pub(crate) fn new(dir: OwnedFd, run: u32, limit: LogLimit) -> Self {
        Self { dir, run, sequence: 0, file: None, offset: 0, limit, dropped: 0, noted: 0 }
    }

    /// Frames dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends a frame; the payload is at `buffer[FRAME_HEADER_BYTES..]`, the room before it is overwritten.
    pub(crate) fn append(&mut self, kind: FrameKind, buffer: &mut [u8]) {
        if self.dropped > self.noted {
            let note =
                format!("{} frames of output lost: the log could not be written", self.dropped - self.noted);
            let mut frame = vec![0; FRAME_HEADER_BYTES];
            frame.extend_from_slice(note.as_bytes());
            if self.try_append(FrameKind::Note, &mut frame).is_ok() {
                self.noted = self.dropped;
            }
        }
        if self.try_append(kind, buffer).is_err() {
            self.dropped += 1;
        }
    }

    fn try_append(&mut self, kind: FrameKind, buffer: &mut [u8]) -> io::Result<()> {
        let header = encode_header(buffer.len() - FRAME_HEADER_BYTES, kind, now_ns());
        buffer[..FRAME_HEADER_BYTES].copy_from_slice(&header);
        if self.file.is_some() && self.offset + buffer.len() as u64 > self.limit.file.0 {
            self.file = None;
        }
        if self.file.is_none() {
            self.open_next()?;
        }
        fail::point("log.2-frame")?;
        let offset = self.offset;
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all_at(buffer, offset) {
            // What was written of a half frame is cut off; a reader takes an incomplete last frame as the end.
            let _ = file.set_len(offset);
            return Err(error);
        }
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn open_next(&mut self) -> io::Result<()> {
        fail::point("log.1-file")?;
        self.prune()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = loop {
            self.sequence += 1;
            match rustix::fs::openat(
                &self.dir,
                file_name(self.run, self.sequence),
                flags,
                Mode::from_raw_mode(0o600),
            ) {
                Ok(fd) => break File::from(fd),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        };
        if let Err(error) = file.write_all_at(&MAGIC, 0) {
            let _ = rustix::fs::unlinkat(&self.dir, file_name(self.run, self.sequence), AtFlags::empty());
            return Err(error);
        }
        self.offset = MAGIC.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Removes the oldest files until one more full file fits.
    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.dir.as_fd())? {
            let entry = entry?;
            let Some(key) = entry.file_name().to_str().ok().and_then(parse_name) else { continue };
            let stat = rustix::fs::statat(&self.dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            files.push((key, u64::try_from(stat.st_size).unwrap_or(0)));
        }
        files.sort_unstable();
        let mut total: u64 = files.iter().map(|(_, size)| size).sum();
        let mut count = files.len();
        for ((run, sequence), size) in files {
            if total + self.limit.file.0 <= self.limit.total.0 && count < MAX_FILES {
                break;
            }
            rustix::fs::unlinkat(&self.dir, file_name(run, sequence), AtFlags::empty())?;
            total -= size;
            count -= 1;
        }
        Ok(())
    }
}

fn now_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogQuery, LogReader};
    use carrack_api::Bytes;

    fn writer(dir: &std::path::Path, run: u32, file: u64, total: u64) -> LogWriter {
        LogWriter::new(
            File::open(dir).unwrap().into(),
            run,
            LogLimit { total: Bytes(total), file: Bytes(file) },
        )
    }

    fn put(writer: &mut LogWriter, text: &str) {
        let mut buffer = vec![0; FRAME_HEADER_BYTES];
        buffer.extend_from_slice(text.as_bytes());
        writer.append(FrameKind::Stdout, &mut buffer);
    }

    fn lines(dir: &std::path::Path, query: LogQuery) -> Vec<String> {
        let mut reader = LogReader::open(dir, query).unwrap();
        let mut all = Vec::new();
        loop {
            let some = reader.next_lines(7).unwrap();
            if some.is_empty() {
                return all;
            }
            all.extend(some.into_iter().map(|line| String::from_utf8(line.text).unwrap()));
        }
    }

    #[test]
    fn rotation_keeps_the_newest_and_stays_below_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), 1, 1000, 5000);
        for number in 0..1000 {
            put(&mut log, &format!("line {number}\n"));
        }
        let size: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 5000, "{size}");
        let all = lines(dir.path(), LogQuery::default());
        assert_eq!(all.last().unwrap(), "line 999");
        assert!(all.len() > 100 && all.len() < 250, "{}", all.len());
        assert_eq!(
            lines(dir.path(), LogQuery { tail: Some(3), ..Default::default() }),
            ["line 997", "line 998", "line 999"]
        );
    }

    #[test]
    fn lines_are_joined_over_frames_files_and_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = writer(dir.path(), 1, 60, 6000);
        for part in ["a", "b", "c\nd", "e"] {
            put(&mut first, part);
        }
        first.append(FrameKind::End, &mut [0; FRAME_HEADER_BYTES]);
        let mut second = writer(dir.path(), 2, 60, 6000);
        put(&mut second, "f\n");
        assert_eq!(lines(dir.path(), LogQuery::default()), ["abc", "de", "f"]);
        assert_eq!(lines(dir.path(), LogQuery { run: Some(2), ..Default::default() }), ["f"]);
        assert_eq!(lines(dir.path(), LogQuery { tail: Some(2), ..Default::default() }), ["de", "f"]);
    }

    #[test]
    fn lines_are_not_joined_over_lost_output() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), 1, 1000, 5000);
        put(&mut log, "whole\nhalf");
        log.dropped = 2;
        put(&mut log, "next\n");
        let lost = "2 frames of output lost: the log could not be written";
        assert_eq!(lines(dir.path(), LogQuery::default()), ["whole", "half", lost, "next"]);
        let stdout = LogQuery { stream: Some(crate::log::LogStream::Stdout), ..Default::default() };
        assert_eq!(lines(dir.path(), stdout), ["whole", "half", "next"]);
    }

    #[test]
    fn a_torn_last_frame_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), 1, 1000, 5000);
        put(&mut log, "whole\n");
        put(&mut log, "torn\n");
        let path = dir.path().join(file_name(1, 1));
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 2).unwrap();
        put(&mut writer(dir.path(), 2, 1000, 5000), "next run\n");
        assert_eq!(lines(dir.path(), LogQuery::default()), ["whole", "next run"]);
    }

    #[test]
    fn followers_see_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), 1, 100, 5000);
        put(&mut log, "old\n");
        let mut reader =
            LogReader::open(dir.path(), LogQuery { follow: true, tail: Some(0), ..Default::default() })
                .unwrap();
        assert!(reader.next_lines(10).unwrap().is_empty());
        for number in 0..20 {
            put(&mut log, &format!("new {number}\n"));
        }
        let mut seen = Vec::new();
        while seen.len() < 20 {
            assert!(reader.wait(std::time::Duration::from_secs(5)).unwrap());
            seen.extend(reader.next_lines(100).unwrap());
        }
        assert_eq!(seen[19].text, b"new 19");
    }
}
