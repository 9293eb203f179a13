//! What passes between the parent and the unpack child: one JSON value each way.

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use crate::image::digest::Digest;

/// Most bytes of a report.
pub(super) const MAX_REPORT_BYTES: u64 = 64 * 1024 * 1024;
/// Most skipped entries that a report names; all are counted.
pub(super) const MAX_NAMED: usize = 10;

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The directory to unpack into; exists and is empty.
    pub(super) target: Vec<u8>,
    /// The parent, whose death ends the child.
    pub(super) parent: u32,
    pub(super) limits: Limits,
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The layer is unpacked.
    Done(Done),
    /// An entry is unsafe or malformed.
    Refused { entry: String, reason: String },
    /// The disk is full.
    NoSpace,
    /// Something else failed.
    Failed { reason: String },
}

/// A layer that was unpacked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) diff_id: Digest,
    pub(super) entries: u64,
    /// Bytes of the regular files.
    pub(super) bytes: u64,
    /// Directories that hide what lower layers hold; the parent marks them, since that needs a
    /// capability that the child must not have.
    pub(super) opaque: Vec<Vec<u8>>,
    /// Entries left out (devices, attributes), the first few by name.
    pub(super) skipped: Vec<String>,
    pub(super) skipped_count: u64,
}
