//! What happened, for people: an append-only log that is bounded in age, number and bytes.
//!
//! Events are told, not decided upon: losing the last ones in a power cut loses no state, so they are not synced.

mod reports;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use carrack_api::defaults::EVENTS_KEPT;
use carrack_api::{Event, TaskId, Timestamp};
use tokio::sync::watch;

pub(crate) use reports::{Told, from_reports};

use crate::plan::EventDraft;

/// A file of the log is closed at this size, bytes.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Files of the log kept at most.
const SEGMENTS_KEPT: usize = 32;
/// Events that can be asked for at most; older ones are in the files only.
const EVENTS_IN_MEMORY: usize = 20_000;

/// The event log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the event log {} cannot be used", .path.display())]
pub struct EventsError {
    path: PathBuf,
    source: std::io::Error,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EventLog {
    directory: PathBuf,
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<Event>,
    next: u64,
    file: Option<File>,
    bytes: u64,
}

impl EventLog {
    /// Reads what is in `directory`. A line that a crash cut off is passed over.
    pub(crate) fn open(directory: &Path) -> Result<Self, EventsError> {
        let error = |source| EventsError { path: directory.to_path_buf(), source };
        std::fs::create_dir_all(directory).map_err(error)?;
        let mut events = VecDeque::new();
        let mut unfinished = None;
        for segment in segments(directory).map_err(error)? {
            let text = String::from_utf8_lossy(&std::fs::read(&segment).map_err(error)?).into_owned();
            let bytes = text.len() as u64;
            unfinished = (text.ends_with('\n') && bytes < SEGMENT_BYTES).then_some((segment, bytes));
            events.extend(text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()));
            let surplus = events.len().saturating_sub(EVENTS_IN_MEMORY);
            events.drain(..surplus);
        }
        let next = events.back().map_or(1, |e| e.id + 1);
        // The newest file is gone on with, so that restarts do not use up the files kept; not behind a line that was cut off.
        let (file, bytes) = match unfinished {
            Some((path, bytes)) => (Some(OpenOptions::new().append(true).open(path).map_err(error)?), bytes),
            None => (None, 0),
        };
        let inner = Inner { events, next, file, bytes };
        Ok(Self {
            directory: directory.to_path_buf(),
            inner: Mutex::new(inner),
            newest: watch::Sender::new(next - 1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds events that happened at `now`.
    pub(crate) fn append(&self, drafts: Vec<EventDraft>, now: Timestamp) {
        if drafts.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let mut lines = Vec::new();
        for draft in drafts {
            let event = Event {
                id: inner.next,
                at: now,
                kind: draft.kind.into(),
                subject: draft.subject,
                message: draft.message,
                task: draft.task,
                run: draft.run,
            };
            inner.next += 1;
            if serde_json::to_writer(&mut lines, &event).is_ok() {
                lines.push(b'\n');
            }
            inner.events.push_back(event);
        }
        let surplus = inner.events.len().saturating_sub(EVENTS_IN_MEMORY);
        inner.events.drain(..surplus);
        if let Err(error) = self.write(&mut inner, &lines, now) {
            tracing::warn!(directory = %self.directory.display(), %error, "events are kept in memory only");
            inner.file = None;
        }
        self.newest.send_replace(inner.next - 1);
    }

    fn write(&self, inner: &mut Inner, lines: &[u8], now: Timestamp) -> std::io::Result<()> {
        if inner.file.is_none() || inner.bytes >= SEGMENT_BYTES {
            let first = inner.next;
            let path = self.directory.join(format!("{first:020}.ndjson"));
            inner.file = Some(OpenOptions::new().create(true).append(true).open(path)?);
            inner.bytes = 0;
            prune(&self.directory, now)?;
        }
        if let Some(file) = &mut inner.file {
            carrack_api::fail::point("events.1-append")?;
            file.write_all(lines)?;
            carrack_api::fail::pass("events.2-appended");
            inner.bytes += lines.len() as u64;
        }
        Ok(())
    }

    /// Events after an id and from a moment on.
    pub(crate) fn after(&self, id: u64, since: Option<Timestamp>) -> Vec<Event> {
        let inner = self.lock();
        let from = inner.events.partition_point(|e| e.id <= id);
        inner.events.range(from..).filter(|e| since.is_none_or(|since| e.at >= since)).cloned().collect()
    }

    /// The last thing told of a task's runs.
    pub(crate) fn last_of(&self, task: TaskId) -> Option<Told> {
        let inner = self.lock();
        let mut of_task = inner.events.iter().rev().filter(|e| e.task == Some(task));
        of_task.find_map(|e| Some(Told { kind: e.kind.clone(), run: e.run? }))
    }

    /// The id of the newest event, marked whenever there is a newer one.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

fn segments(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "ndjson"))
        .collect();
    paths.sort();
    Ok(paths)
}

/// Removes files past the bounds of number and age; a file is as old as its last write.
fn prune(directory: &Path, now: Timestamp) -> std::io::Result<()> {
    let paths = segments(directory)?;
    let surplus = paths.len().saturating_sub(SEGMENTS_KEPT);
    for (index, path) in paths.iter().enumerate() {
        let written =
            std::fs::metadata(path)?.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let written = Timestamp(u64::try_from(written.as_millis()).unwrap_or(u64::MAX));
        if index < surplus || now.since(written) > EVENTS_KEPT {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(message: &str) -> EventDraft {
        EventDraft::new("task.running", "a/web.1", message.into())
    }

    fn messages(log: &EventLog, id: u64) -> Vec<String> {
        log.after(id, None).into_iter().map(|e| e.message).collect()
    }

    #[test]
    fn events_outlive_a_restart_and_ids_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path()).unwrap();
        log.append(vec![draft("one"), draft("two")], Timestamp(5));
        drop(log);
        let file = segments(dir.path()).unwrap().pop().unwrap();
        OpenOptions::new().append(true).open(file).unwrap().write_all(b"{\"id\":3,\"a").unwrap();
        let log = EventLog::open(dir.path()).unwrap();
        log.append(vec![draft("three")], Timestamp(9));
        assert_eq!(messages(&log, 0), ["one", "two", "three"]);
        assert_eq!(messages(&log, 2), ["three"]);
        assert_eq!(log.after(0, Some(Timestamp(6))).len(), 1);
        assert_eq!(*log.watch().borrow(), 3);
        assert_eq!(messages(&EventLog::open(dir.path()).unwrap(), 0), ["one", "two", "three"]);
    }

    #[test]
    fn restarts_use_up_no_files() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..SEGMENTS_KEPT + 2 {
            EventLog::open(dir.path()).unwrap().append(vec![draft("again")], crate::clock::now());
        }
        assert_eq!(segments(dir.path()).unwrap().len(), 1);
        assert_eq!(messages(&EventLog::open(dir.path()).unwrap(), 0).len(), SEGMENTS_KEPT + 2);
    }

    #[test]
    fn number_and_files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path()).unwrap();
        let long = "x".repeat(2000);
        for _ in 0..25 {
            log.append((0..1000).map(|_| draft(&long)).collect(), crate::clock::now());
        }
        assert_eq!(log.after(0, None).len(), EVENTS_IN_MEMORY);
        assert!(segments(dir.path()).unwrap().len() <= SEGMENTS_KEPT + 1);
        let later = crate::clock::now().after(EVENTS_KEPT + EVENTS_KEPT);
        prune(dir.path(), later).unwrap();
        assert!(segments(dir.path()).unwrap().is_empty());
    }
}
