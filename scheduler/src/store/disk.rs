//! The store's files: a snapshot, and a log of the group commits after it. Owns their format, recovery and compaction.
//!
//! Both are frames (see [`super::frame`]). The first frame of each is a header with format, version and index; then come
//! objects (snapshot) or groups (log). The snapshot ends with the number of its objects. Both are replaced by rename only.
//!
//! Fail points, in order: `store.1-create` at the first start; `store.2-append`, `store.3-sync` and (in `writer`)
//! `store.4-answer` of a group; `store.5-snapshot` to `store.9-reopen` of a compaction.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use carrack_api::fail;
use serde::{Deserialize, Serialize};

use super::STORE_VERSION;
use super::frame::{self, Next};
use super::model::{Object, Op};
use super::tables::Snapshot;

/// The log is folded into the snapshot when it is longer than this and than twice the snapshot, bytes.
pub(crate) const LOG_COMPACT_BYTES: u64 = 8 << 20;

const FORMAT: &str = "carrack-store";

/// Why the store's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Reading or writing failed.
    #[error("store file {} could not be {did}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `read`, `written`, ...
        did: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Written by a newer binary.
    #[error(
        "store file {} was written by a newer carrack (store version {found}; this one reads up to {STORE_VERSION})",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Damaged where a crash cannot have damaged it.
    #[error("store file {} is damaged at byte {offset}: {reason}; restore it from a backup", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
        /// What was found.
        reason: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// Index of the state that the file starts from.
    index: u64,
}

/// Transactions that shared one fdatasync, in order; the first has index `first`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) first: u64,
    pub(crate) txns: Vec<Vec<Op>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a part lives only while it is written or read")]
enum Part {
    Object { version: u64, object: Object },
    End { objects: usize },
}

/// The open files and the state they hold.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
    state: Snapshot,
    log: File,
    log_bytes: u64,
    snapshot_bytes: u64,
    /// The log is not folded before it is this long: folding failed before.
    compact_from: u64,
    /// What the log's file holds is not known: a write failed half-way. [`Disk::compact`] mends it.
    damaged: bool,
}

impl Disk {
    /// Reads the files in `directory`; a torn tail of the log is cut off, as it was never acknowledged. Files of an older version
    /// are written anew before anything is appended to them: an older binary must see by their headers that it cannot read them.
    pub(crate) fn open(directory: &Path) -> Result<Self, DiskError> {
        let snapshot_path = directory.join("snapshot");
        let log_path = directory.join("log");
        for name in ["snapshot", "log"] {
            forget(&new_path(directory, name));
        }
        let bytes = read_if_there(&snapshot_path)?;
        let (mut state, snapshot_version) = match &bytes {
            Some(bytes) => read_snapshot(&snapshot_path, bytes)?,
            None => (Snapshot::default(), STORE_VERSION),
        };
        let snapshot_bytes = bytes.map_or(0, |b| b.len() as u64);
        let replayed = match read_if_there(&log_path)? {
            Some(bytes) => replay(&log_path, &bytes, &mut state)?,
            None => None,
        };
        let version = replayed.map_or(STORE_VERSION, |(_, version)| version).min(snapshot_version);
        let log_bytes = match replayed {
            Some((length, _)) => length,
            // No log, or one whose very header was cut off by a crash.
            _ => write_whole(directory, "log", &header(state.index), "store.1-create")?,
        };
        let log = open_log(&log_path, log_bytes)?;
        let mut disk = Self {
            directory: directory.to_path_buf(),
            state,
            log,
            log_bytes,
            snapshot_bytes,
            compact_from: 0,
            damaged: false,
        };
        if version < STORE_VERSION {
            tracing::info!(
                from = version,
                to = STORE_VERSION,
                "the store is written anew in this version's format"
            );
            disk.fold()?;
        }
        Ok(disk)
    }

    /// The state that the files hold.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.state
    }

    /// Makes a group durable, with the state after it. When writing fails the file is cut back to what it was; where that cannot
    /// be, the files are damaged until [`Disk::compact`] succeeds, and the group may be in them until then.
    pub(crate) fn append(&mut self, group: &Group, after: Snapshot) -> std::io::Result<()> {
        let frame = frame::encode(&to_json(group));
        let written = fail::point("store.2-append").and_then(|()| self.log.write_all(&frame));
        if let Err(source) = written {
            let cut = self
                .log
                .set_len(self.log_bytes)
                .and_then(|()| self.log.seek(SeekFrom::Start(self.log_bytes)));
            self.damaged = cut.is_err();
            return Err(source);
        }
        // After a failed fdatasync the kernel may have dropped the pages: nothing is known about the file any more.
        self.damaged = true;
        fail::point("store.3-sync").and_then(|()| self.log.sync_data())?;
        self.damaged = false;
        self.log_bytes += frame.len() as u64;
        self.state = after;
        Ok(())
    }

    /// The log is long enough to be folded into the snapshot.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.log_bytes > LOG_COMPACT_BYTES.max(2 * self.snapshot_bytes).max(self.compact_from)
    }

    /// Whether the log must be made anew before anything can be appended.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Writes the state as a snapshot and starts an empty log. A crash at any point leaves a readable pair: records of the old
    /// log that the snapshot holds already are skipped by their index. After a failure the old log is gone on with where that is
    /// certain to be the one of its name.
    pub(crate) fn compact(&mut self) -> Result<(), DiskError> {
        self.compact_from = self.log_bytes + LOG_COMPACT_BYTES;
        self.fold()?;
        self.compact_from = 0;
        Ok(())
    }

    fn fold(&mut self) -> Result<(), DiskError> {
        self.at("store.5-snapshot")?;
        let mut bytes = header(self.state.index);
        let objects = self.state.objects();
        let count = objects.len();
        for (version, object) in objects {
            bytes.extend(frame::encode(&to_json(&Part::Object { version, object })));
        }
        bytes.extend(frame::encode(&to_json(&Part::End { objects: count })));
        self.snapshot_bytes = write_whole(&self.directory, "snapshot", &bytes, "store.6-snapshot-rename")?;
        self.at("store.7-log")?;
        self.damaged = true;
        self.log_bytes =
            write_whole(&self.directory, "log", &header(self.state.index), "store.8-log-rename")?;
        self.at("store.9-reopen")?;
        self.log = open_log(&self.directory.join("log"), self.log_bytes)?;
        self.damaged = false;
        Ok(())
    }

    /// A fail point of the compaction.
    fn at(&self, step: &'static str) -> Result<(), DiskError> {
        fail::point(step).map_err(|source| DiskError::Io {
            path: self.directory.clone(),
            did: "folded",
            source,
        })
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Objects have string keys and no failing serializers; an empty payload would be refused at read as corrupt.
    serde_json::to_vec(value).unwrap_or_default()
}

fn header(index: u64) -> Vec<u8> {
    frame::encode(&to_json(&Header { format: FORMAT.into(), version: STORE_VERSION, index }))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DiskError::Io { path: path.to_path_buf(), did: "read", source }),
    }
}

/// Reads the header frame; `None` when a crash cut it off.
fn read_header(path: &Path, bytes: &[u8]) -> Result<Option<(Header, usize)>, DiskError> {
    let corrupt = |reason: String| DiskError::Corrupt { path: path.to_path_buf(), offset: 0, reason };
    match frame::next(bytes, 0) {
        Next::Frame(payload, end) => {
            let header: Header = serde_json::from_slice(payload).map_err(|e| corrupt(e.to_string()))?;
            if header.format != FORMAT {
                return Err(corrupt(format!("format {:?} is not {FORMAT:?}", header.format)));
            }
            if header.version > STORE_VERSION {
                return Err(DiskError::Newer { path: path.to_path_buf(), found: header.version });
            }
            Ok(Some((header, end)))
        }
        Next::End | Next::Torn => Ok(None),
        Next::Corrupt => Err(corrupt("the header cannot be read".into())),
    }
}

/// The state that a snapshot holds, and the version it is of.
fn read_snapshot(path: &Path, bytes: &[u8]) -> Result<(Snapshot, u32), DiskError> {
    let corrupt =
        |offset, reason: &str| DiskError::Corrupt { path: path.to_path_buf(), offset, reason: reason.into() };
    let Some((header, mut at)) = read_header(path, bytes)? else {
        return Err(corrupt(0, "the header cannot be read"));
    };
    let mut state = Snapshot { index: header.index, ..Snapshot::default() };
    let mut count = 0;
    loop {
        let Next::Frame(payload, end) = frame::next(bytes, at) else {
            return Err(corrupt(at, "a frame cannot be read"));
        };
        match serde_json::from_slice(payload).map_err(|e| corrupt(at, &e.to_string()))? {
            Part::Object { version, object } => state.apply(Op::Put(object), version),
            Part::End { objects } if objects == count => return Ok((state, header.version)),
            Part::End { .. } => return Err(corrupt(at, "objects are missing")),
        }
        (at, count) = (end, count + 1);
    }
}

/// Applies the log to the state; answers how many bytes of it are whole, and the version it is of. `None` when a crash cut its
/// very header off.
fn replay(path: &Path, bytes: &[u8], state: &mut Snapshot) -> Result<Option<(u64, u32)>, DiskError> {
    let Some((header, mut at)) = read_header(path, bytes)? else { return Ok(None) };
    let corrupt = |offset, reason: String| DiskError::Corrupt { path: path.to_path_buf(), offset, reason };
    if header.index > state.index {
        return Err(corrupt(
            0,
            format!("it starts at index {}, the snapshot ends at {}", header.index, state.index),
        ));
    }
    loop {
        match frame::next(bytes, at) {
            Next::Frame(payload, end) => {
                let group: Group = serde_json::from_slice(payload).map_err(|e| corrupt(at, e.to_string()))?;
                apply_group(group, state).map_err(|reason| corrupt(at, reason))?;
                at = end;
            }
            Next::End | Next::Torn => return Ok(Some((at as u64, header.version))),
            Next::Corrupt => return Err(corrupt(at, "a frame cannot be read and later ones can".into())),
        }
    }
}

fn apply_group(group: Group, state: &mut Snapshot) -> Result<(), String> {
    for (index, ops) in (group.first..).zip(group.txns) {
        if index <= state.index {
            continue;
        }
        if index != state.index + 1 {
            return Err(format!("transaction {} is missing", state.index + 1));
        }
        for op in ops {
            state.apply(op, index);
        }
        state.index = index;
    }
    Ok(())
}

/// Opens the log for writing after its first `length` bytes and cuts off what follows.
fn open_log(path: &Path, length: u64) -> Result<File, DiskError> {
    let io = |source| DiskError::Io { path: path.to_path_buf(), did: "opened", source };
    let mut log = OpenOptions::new().write(true).open(path).map_err(io)?;
    if log.metadata().map_err(io)?.len() != length {
        log.set_len(length).map_err(io)?;
        log.sync_all().map_err(io)?;
    }
    log.seek(SeekFrom::Start(length)).map_err(io)?;
    Ok(log)
}

fn new_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.new"))
}

/// Removes what was not finished; where that cannot be, the next one is written over it.
fn forget(temporary: &Path) {
    let _ = std::fs::remove_file(temporary);
}

/// Replaces a file by temporary file, fsync, rename and fsync of the directory; answers its length. `step` is passed before the
/// rename.
fn write_whole(directory: &Path, name: &str, bytes: &[u8], step: &'static str) -> Result<u64, DiskError> {
    let path = directory.join(name);
    let io = |source| DiskError::Io { path: path.clone(), did: "written", source };
    let temporary = new_path(directory, name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fail::point(step)?;
        std::fs::rename(&temporary, &path)
    };
    if let Err(source) = write() {
        // A half-written file must not keep the space that is missing.
        forget(&temporary);
        return Err(io(source));
    }
    File::open(directory).and_then(|d| d.sync_all()).map_err(io)?;
    Ok(bytes.len() as u64)
}
