//! The durable store: all state in memory as immutable snapshots, every change on disk before it is acknowledged.
//!
//! ```text
//!   commit(txn) --queue--> writer thread: check, apply, one write, one fdatasync --> publish snapshot --> answers
//! ```
//! Many callers share one fdatasync. Owns durability, order, preconditions and the change feed; knows no meaning of an object.

mod disk;
pub(crate) mod frame;
mod lock;
pub(crate) mod model;
pub(crate) mod tables;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

pub use disk::DiskError;
pub use lock::LockError;
pub(crate) use model::*;
pub(crate) use tables::Snapshot;

/// Version of the files that this binary writes and the newest it reads.
pub(crate) const STORE_VERSION: u32 = 3;
/// Largest object as JSON, bytes.
pub(crate) const OBJECT_MAX_BYTES: usize = 256 << 10;
/// Most changes of one transaction.
pub(crate) const TXN_MAX_OPS: usize = 100;
/// Transactions that wait for the writer at most; further callers wait for room.
const QUEUE_TXNS: usize = 1024;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    /// Another daemon has it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Its files cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The thread that writes could not be started.
    #[error("the store's writer thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// Why a transaction did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("{0} was changed meanwhile")]
    Conflict(Key),
    #[error("{key} has {bytes} bytes; at most {OBJECT_MAX_BYTES} are stored")]
    TooLarge { key: Key, bytes: usize },
    #[error("a transaction of {0} changes; at most {TXN_MAX_OPS} are allowed")]
    TooMany(usize),
    #[error("the store cannot write: {0}")]
    Io(String),
    #[error("the store is closed")]
    Closed,
}

/// What the writer is told.
enum Message {
    Commit(Request),
    /// Ends the writer; what comes later is answered with [`CommitError::Closed`].
    Close,
}

/// A transaction on its way to the writer.
struct Request {
    txn: Txn,
    answer: oneshot::Sender<Result<Arc<Snapshot>, CommitError>>,
}

/// The open store. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    requests: mpsc::Sender<Message>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// Ends the writer thread when it is closed; holds the lock until then.
#[derive(Debug)]
pub(crate) struct StoreGuard {
    thread: Option<std::thread::JoinHandle<()>>,
    directory: PathBuf,
}

impl Store {
    /// Opens the store in `directory`, making it when there is none.
    pub(crate) fn open(directory: &Path) -> Result<(Self, StoreGuard), StoreOpenError> {
        let lock = lock::Lock::take(directory)?;
        let disk = disk::Disk::open(directory)?;
        let (requests, queue) = mpsc::channel(QUEUE_TXNS);
        let (publish, snapshots) = watch::channel(Arc::new(disk.snapshot().clone()));
        let thread = std::thread::Builder::new()
            .name("carrack-store".into())
            .spawn(move || {
                writer::run(disk, queue, &publish);
                drop(lock);
            })
            .map_err(StoreOpenError::Thread)?;
        let guard = StoreGuard { thread: Some(thread), directory: directory.to_path_buf() };
        Ok((Self { requests, snapshots }, guard))
    }

    /// The newest durable state.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// The change feed: the newest state, marked whenever there is a newer one.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Makes a transaction durable; the answer is the state with it.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Arc<Snapshot>, CommitError> {
        let (answer, result) = oneshot::channel();
        self.requests
            .send(Message::Commit(Request { txn, answer }))
            .await
            .map_err(|_| CommitError::Closed)?;
        result.await.unwrap_or(Err(CommitError::Closed))
    }

    /// [`Store::commit`] for a start, before anything is served: blocks the thread, also within a runtime.
    pub(crate) fn commit_now(&self, txn: Txn) -> Result<Arc<Snapshot>, CommitError> {
        let commit = || self.commit_blocking(txn);
        std::thread::scope(|scope| scope.spawn(commit).join()).unwrap_or(Err(CommitError::Closed))
    }

    /// Ends the writer once it has done what waits; later commits are refused.
    pub(crate) async fn close(&self) {
        // The writer may have ended already.
        drop(self.requests.send(Message::Close).await);
    }

    /// [`Store::commit`] for a caller outside of a runtime.
    fn commit_blocking(&self, txn: Txn) -> Result<Arc<Snapshot>, CommitError> {
        let (answer, result) = oneshot::channel();
        self.requests
            .blocking_send(Message::Commit(Request { txn, answer }))
            .map_err(|_| CommitError::Closed)?;
        result.blocking_recv().unwrap_or(Err(CommitError::Closed))
    }
}

impl StoreGuard {
    /// Waits until the writer has ended: after [`Store::close`], or once all [`Store`] handles are gone.
    pub(crate) fn join(mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(directory = %self.directory.display(), "the store's writer ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests;
