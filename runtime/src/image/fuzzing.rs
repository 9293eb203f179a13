//! Ways into this module for fuzzers, in their own process. Only with the feature `fuzzing`.

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::config::{self, Platform};
use super::manifest::{self, Document};
use super::reference::ImageReference;
use super::unpack::{self, Limits};
use super::{registry, user};

/// Bounds small enough for thousands of layers a second.
fn limits() -> Limits {
    Limits { entries: 200, bytes: 1 << 20, ratio_floor: 1 << 19, ..Limits::default() }
}

/// Unpacks a layer below `root` as the confined child does, without its confinement.
pub fn unpack(layer: &[u8], root: &Path) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(root) = rustix::fs::open(root, flags, Mode::empty()) {
        unpack::unpack_below(layer, root, limits());
    }
}

/// Reads a document; its first byte says which kind.
pub fn documents(data: &[u8]) {
    let Some((kind, document)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            if let Ok(Document::Index(index)) = manifest::parse(document) {
                // Both answers are fine; that there is one is the point.
                let _ = manifest::select(&index, &Platform::host());
            }
        }
        1 => drop(config::parse(document)),
        2 => user::read_all(document),
        _ => {
            if let Ok(text) = std::str::from_utf8(document) {
                registry::read_all(text);
                if let Ok(reference) = ImageReference::parse(text) {
                    let again = ImageReference::parse(&reference.to_string());
                    assert_eq!(again.as_ref(), Ok(&reference), "a reference says what it was");
                }
            }
        }
    }
}
