//! Unpacking one layer in a confined child process; this side starts it and checks its report.

mod limits;

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub use limits::Limits;

use super::digest::Digest;
use super::error::{Error, Result};

/// The first argument that makes the binary run as the unpack child.
pub const CHILD: &str = "__unpack-layer";

/// A layer's blob, open for reading.
pub(super) struct LayerBlob {
    pub(super) digest: Digest,
    pub(super) diff_id: Digest,
    pub(super) file: File,
}

/// What came out of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unpacked {
    pub(super) bytes: u64,
}

/// The child's main: called by the re-exec dispatch with the arguments after [`CHILD`].
pub fn child_main(_arguments: &[OsString]) -> ExitCode {
    ExitCode::FAILURE
}

pub(super) fn run(_helper: &Path, _limits: &Limits, layer: LayerBlob, _target: &Path) -> Result<Unpacked> {
    let _ = (&layer.diff_id, &layer.file);
    Err(Error::Unpack { layer: layer.digest, reason: "not available yet".into() })
}

/// Bounds how many unpack children run at once.
#[derive(Debug)]
pub(super) struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Slots {
    /// One slot per processor.
    pub(super) fn new() -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        Self { free: Mutex::new(count), changed: Condvar::new() }
    }

    /// Waits for a slot.
    pub(super) fn take(&self) -> Slot<'_> {
        let mut free = self.lock();
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Slot { slots: self }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run one unpack child.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.slots.lock() += 1;
        self.slots.changed.notify_one();
    }
}
