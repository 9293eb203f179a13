//! The thread that writes: takes what waits, checks and applies it, and makes all of it durable with one fdatasync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::disk::{Disk, Group};
use super::model::{Object, Op, Txn};
use super::tables::Snapshot;
use super::{CommitError, Message, OBJECT_MAX_BYTES, Request, TXN_MAX_OPS};

/// Transactions that share one fdatasync at most. With objects of at most 256 KiB, real groups stay far below a frame's limit;
/// [`GROUP_BYTES`] bounds the rest.
const GROUP_TXNS: usize = 256;
/// Bytes of objects that share one fdatasync, about.
const GROUP_BYTES: usize = 16 << 20;

/// Time between two tries to mend the files after a write that failed half-way.
const MEND_PAUSE: Duration = Duration::from_secs(1);

/// Serves transactions until all senders are gone.
pub(super) fn run(
    mut disk: Disk,
    mut queue: mpsc::Receiver<Message>,
    publish: &watch::Sender<Arc<Snapshot>>,
) {
    let mut tried: Option<(Instant, String)> = None;
    while let Some(Message::Commit(first)) = queue.blocking_recv() {
        if disk.is_damaged()
            && let Err(reason) = mend(&mut disk, &mut tried)
        {
            answer(first, Err(CommitError::Io(reason)));
            continue;
        }
        let batch = Batch::collect(first, &mut queue, disk.snapshot().clone());
        let last = batch.last;
        batch.finish(&mut disk, publish);
        if disk.wants_compaction()
            && let Err(error) = disk.compact()
        {
            tracing::error!(
                error = chain(&error),
                "the store could not be compacted; it is tried again later"
            );
        }
        if last {
            return;
        }
    }
}

/// Writes the files anew from what is known to be durable. A disk that is full is not asked at every request.
fn mend(disk: &mut Disk, tried: &mut Option<(Instant, String)>) -> Result<(), String> {
    if let Some((at, reason)) = tried
        && at.elapsed() < MEND_PAUSE
    {
        return Err(reason.clone());
    }
    match disk.compact() {
        Ok(()) => {
            tracing::info!("the store's files are whole again");
            *tried = None;
            Ok(())
        }
        Err(error) => {
            let reason = chain(&error);
            tracing::error!(reason, "the store's files could not be written anew; it is tried again");
            *tried = Some((Instant::now(), reason.clone()));
            Err(reason)
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// A group while it grows: the state after it, and who waits.
struct Batch {
    state: Snapshot,
    group: Group,
    bytes: usize,
    accepted: Vec<Request>,
    /// The store is closed after it.
    last: bool,
}

impl Batch {
    fn collect(first: Request, queue: &mut mpsc::Receiver<Message>, state: Snapshot) -> Self {
        let group = Group { first: state.index + 1, txns: Vec::new() };
        let mut batch = Self { state, group, bytes: 0, accepted: Vec::new(), last: false };
        batch.take(first);
        while batch.group.txns.len() < GROUP_TXNS && batch.bytes < GROUP_BYTES {
            match queue.try_recv() {
                Ok(Message::Commit(request)) => batch.take(request),
                Ok(Message::Close) => {
                    batch.last = true;
                    break;
                }
                Err(_) => break,
            }
        }
        batch
    }

    fn take(&mut self, mut request: Request) {
        let size = match check(&request.txn, &self.state) {
            Ok(size) => size,
            Err(error) => return answer(request, Err(error)),
        };
        let ops = std::mem::take(&mut request.txn.ops);
        self.state.index += 1;
        for op in &ops {
            self.state.apply(op.clone(), self.state.index);
        }
        self.bytes += size;
        self.group.txns.push(ops);
        self.accepted.push(request);
    }

    /// Writes the group and answers everyone in it.
    fn finish(self, disk: &mut Disk, publish: &watch::Sender<Arc<Snapshot>>) {
        if self.accepted.is_empty() {
            return;
        }
        let result = match disk.append(&self.group, self.state.clone()) {
            Ok(()) => {
                carrack_api::fail::pass("store.4-answer");
                let snapshot = Arc::new(self.state);
                publish.send_replace(snapshot.clone());
                Ok(snapshot)
            }
            Err(error) => {
                tracing::error!(%error, damaged = disk.is_damaged(), "the store's log could not be written");
                Err(CommitError::Io(error.to_string()))
            }
        };
        for request in self.accepted {
            answer(request, result.clone());
        }
    }
}

fn answer(request: Request, result: Result<Arc<Snapshot>, CommitError>) {
    // A caller that went away has no use for the answer.
    drop(request.answer.send(result));
}

/// Checks limits and preconditions; answers the size of the objects.
fn check(txn: &Txn, state: &Snapshot) -> Result<usize, CommitError> {
    if txn.ops.len() > TXN_MAX_OPS {
        return Err(CommitError::TooMany(txn.ops.len()));
    }
    for (key, version) in &txn.expect {
        if state.version(key) != *version {
            return Err(CommitError::Conflict(key.clone()));
        }
    }
    let mut total = 0;
    for op in &txn.ops {
        if let Op::Put(object) = op {
            total += check_size(object)?;
        }
    }
    Ok(total)
}

fn check_size(object: &Object) -> Result<usize, CommitError> {
    let bytes = serde_json::to_vec(object).map_err(|e| CommitError::Io(e.to_string()))?.len();
    if bytes > OBJECT_MAX_BYTES {
        return Err(CommitError::TooLarge { key: object.key(), bytes });
    }
    Ok(bytes)
}
