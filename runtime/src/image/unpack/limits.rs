//! What one layer may hold at most: the bounds that stop decompression bombs.

use serde::{Deserialize, Serialize};

/// Bounds of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most entries of the archive.
    pub entries: u64,
    /// Most bytes of the uncompressed archive, and of the files it unpacks to.
    pub bytes: u64,
    /// Most uncompressed bytes per compressed byte, once `ratio_floor` is passed.
    pub ratio: u64,
    /// Uncompressed bytes up to which the ratio is not looked at.
    pub ratio_floor: u64,
    /// Most components of an entry's path.
    pub depth: usize,
    /// Most bytes of an entry's path or link target.
    pub path: usize,
    /// Most bytes of the extended attributes of one entry.
    pub xattr_bytes: usize,
    /// Address space of the unpack process, in bytes.
    pub address_space: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            bytes: 64 << 30,
            ratio: 200,
            ratio_floor: 1 << 30,
            depth: 200,
            path: 4095,
            xattr_bytes: 64 << 10,
            address_space: 1 << 30,
        }
    }
}
