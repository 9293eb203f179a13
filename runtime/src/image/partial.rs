//! Blobs that were not finished: kept for the next pull, within bounds.
//!
//! A file of `partial/` is the start of a blob, or all of it when a crash came before its image was
//! complete. Nothing is believed of it: whoever goes on with it hashes it first.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::digest::Digest;
use super::disk::{read_dir, remove_tree};
use super::error::{Result, io_error};

/// Most partial blobs that are kept.
const COUNT_MAX: usize = 64;
/// Most bytes of partial blobs that are kept.
const BYTES_MAX: u64 = 16 << 30;
/// How long a partial blob is kept after its last byte came.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Makes partial blobs of those that no image needs: what a crash interrupted need not be fetched
/// again. Then removes partial blobs beyond the bounds. Only when the store opens.
pub(super) fn keep_orphans(store: &Path, needed: &BTreeSet<Digest>) -> Result<()> {
    let dir = store.join("partial");
    for path in read_dir(&store.join("blobs"))? {
        if let Some(digest) = digest_of(&path).filter(|digest| !needed.contains(digest)) {
            fs::rename(&path, dir.join(digest.hex())).map_err(io_error("set aside", &path))?;
        }
    }
    trim(store, &|_| false).map(drop)
}

/// Removes partial blobs beyond the bounds, the oldest first, but never a `pinned` one.
pub(super) fn trim(store: &Path, pinned: &dyn Fn(&Digest) -> bool) -> Result<u64> {
    let found = list(store)?;
    let now = SystemTime::now();
    let (mut count, mut bytes, mut freed) = (0, 0, 0);
    for partial in found {
        count += 1;
        bytes += partial.bytes;
        let age = now.duration_since(partial.changed).unwrap_or_default();
        let kept = count <= COUNT_MAX && bytes <= BYTES_MAX && age <= AGE_MAX;
        let busy = partial.digest.as_ref().is_some_and(pinned);
        if !kept && !busy {
            remove_tree(&partial.path)?;
            freed += partial.bytes;
        }
    }
    Ok(freed)
}

/// Removes every partial blob but the `pinned` ones; returns the bytes freed.
pub(super) fn clear(store: &Path, pinned: &dyn Fn(&Digest) -> bool) -> Result<u64> {
    let mut freed = 0;
    for partial in list(store)?.into_iter().filter(|partial| !partial.digest.as_ref().is_some_and(pinned)) {
        remove_tree(&partial.path)?;
        freed += partial.bytes;
    }
    Ok(freed)
}

struct Partial {
    path: PathBuf,
    digest: Option<Digest>,
    bytes: u64,
    changed: SystemTime,
}

/// All partial blobs, the newest first.
fn list(store: &Path) -> Result<Vec<Partial>> {
    let mut found = Vec::new();
    for path in read_dir(&store.join("partial"))? {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // A pull has just finished it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("inspect", &path)(error)),
        };
        let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push(Partial { digest: digest_of(&path), bytes: metadata.len(), changed, path });
    }
    found.sort_by_key(|partial| std::cmp::Reverse(partial.changed));
    Ok(found)
}

fn digest_of(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_are_set_aside_and_old_or_excess_partial_blobs_go() {
        let dir = tempfile::tempdir().unwrap();
        let [blobs, partial] = ["blobs", "partial"].map(|part| dir.path().join(part));
        fs::create_dir(&blobs).unwrap();
        fs::create_dir(&partial).unwrap();
        let needed = Digest::of(b"needed");
        fs::write(blobs.join(needed.hex()), "needed").unwrap();
        fs::write(blobs.join(Digest::of(b"orphan").hex()), "orphan").unwrap();
        let old = partial.join(Digest::of(b"old").hex());
        fs::write(&old, "ol").unwrap();
        fs::File::options().write(true).open(&old).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        keep_orphans(dir.path(), &[needed.clone()].into()).unwrap();
        assert_eq!(read_dir(&blobs).unwrap(), [blobs.join(needed.hex())]);
        assert_eq!(read_dir(&partial).unwrap(), [partial.join(Digest::of(b"orphan").hex())]);

        for number in 0..COUNT_MAX + 5 {
            fs::write(partial.join(Digest::of(&number.to_le_bytes()).hex()), "x").unwrap();
        }
        trim(dir.path(), &|_| true).unwrap();
        assert_eq!(read_dir(&partial).unwrap().len(), COUNT_MAX + 6, "those in use stay");
        trim(dir.path(), &|_| false).unwrap();
        assert_eq!(read_dir(&partial).unwrap().len(), COUNT_MAX);
        let busy = digest_of(&read_dir(&partial).unwrap()[0]).unwrap();
        clear(dir.path(), &|digest| *digest == busy).unwrap();
        assert_eq!(read_dir(&partial).unwrap(), [partial.join(busy.hex())]);
    }
}
