//! The thread that writes: takes what waits, checks and applies it, and makes all of it durable with one fdatasync.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::disk::{AppendError, Disk, Group};
use super::model::{Object, Op, Txn};
use super::tables::Snapshot;
use super::{CommitError, Message, OBJECT_MAX_BYTES, Request, TXN_MAX_OPS};

/// Transactions that share one fdatasync at most. With objects of at most 256 KiB, real groups stay far below a frame's limit;
/// [`GROUP_BYTES`] bounds the rest.
const GROUP_TXNS: usize = 256;
/// Bytes of objects that share one fdatasync, about.
const GROUP_BYTES: usize = 16 << 20;

/// Serves transactions until all senders are gone.
pub(super) fn run(
    mut disk: Disk,
    mut queue: mpsc::Receiver<Message>,
    publish: &watch::Sender<Arc<Snapshot>>,
) {
    let mut broken: Option<String> = None;
    while let Some(Message::Commit(first)) = queue.blocking_recv() {
        if let Some(reason) = &broken {
            answer(first, Err(CommitError::Io(reason.clone())));
            continue;
        }
        let batch = Batch::collect(first, &mut queue, disk.snapshot().clone());
        let last = batch.last;
        if let Err(reason) = batch.finish(&mut disk, publish) {
            tracing::error!(reason, "the store stops accepting changes");
            broken = Some(reason);
        }
        if disk.wants_compaction()
            && let Err(error) = disk.compact()
        {
            // The pair on disk is still readable, but the open log may not be the one of that name any more.
            let reason = format!("{error}; restart the daemon");
            tracing::error!(reason, "the store could not be compacted");
            broken = Some(reason);
        }
        if last {
            return;
        }
    }
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

    /// Writes the group and answers everyone in it. An error means that the store must not go on.
    fn finish(self, disk: &mut Disk, publish: &watch::Sender<Arc<Snapshot>>) -> Result<(), String> {
        if self.accepted.is_empty() {
            return Ok(());
        }
        let (result, after) = match disk.append(&self.group, self.state.clone()) {
            Ok(()) => {
                carrack_api::fail::pass("store.4-answer");
                let snapshot = Arc::new(self.state);
                publish.send_replace(snapshot.clone());
                (Ok(snapshot), Ok(()))
            }
            Err(AppendError::Refused(error)) => (Err(CommitError::Io(error.to_string())), Ok(())),
            Err(AppendError::Unknown(error)) => {
                let reason = format!("a write to the log failed: {error}; restart the daemon");
                (Err(CommitError::Io(reason.clone())), Err(reason))
            }
        };
        for request in self.accepted {
            answer(request, result.clone());
        }
        after
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
