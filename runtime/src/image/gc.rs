//! Garbage collection by disk use: images that nothing needs go, the least recently used first.
//!
//! Whoever runs containers says what is needed: running tasks, and every revision that may be gone
//! back to. Only images that were pulled go: one loaded from an archive may be the only copy, so it
//! goes by `remove` alone. Partial blobs go first. Blobs of layers stay beside the unpacked layers
//! for as long as their image does: saving an image and handing it to another node need them, byte
//! for byte.

use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::digest::Digest;
use super::error::{Result, io_error};
use super::partial;
use super::store::{ImageStore, Removed};

/// An image used within this time stays: it may be about to be started.
pub const GC_MIN_AGE: Duration = Duration::from_secs(300);

/// When images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Removal begins when this much of the disk is in use, in per cent.
    pub high_percent: u8,
    /// Removal ends when no more than this is in use, in per cent.
    pub low_percent: u8,
    /// Images used within this time stay.
    pub min_age: Duration,
}

/// How full a disk is, as `df` counts: what only root may use is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may still be used.
    pub available: u64,
}

impl DiskUse {
    /// The use of the disk that `path` is on.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            used: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// In per cent, rounded up as `df` does.
    pub fn percent(&self) -> u8 {
        let total = u128::from(self.used) + u128::from(self.available);
        let percent = (u128::from(self.used) * 100).div_ceil(total.max(1));
        u8::try_from(percent).unwrap_or(100)
    }
}

/// What a collection did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// What was removed.
    pub removed: Removed,
    /// The disk before.
    pub before: DiskUse,
    /// The disk after.
    pub after: DiskUse,
    /// Whether it is still fuller than the policy wants, with nothing left to remove.
    pub short: bool,
}

impl ImageStore {
    /// Notes that images, by manifest digest, are in use at `now`. Cheap enough to be called often.
    pub fn mark_used<'a>(&self, manifests: impl Iterator<Item = &'a Digest>, now: SystemTime) -> Result<()> {
        let known = self.inner.index().clone();
        let known = |manifest: &Digest| known.images.contains_key(manifest);
        self.inner.used.mark(&self.inner.dir, manifests, &known, unix_ms(now))
    }

    /// Removes pulled images that `in_use` does not want, by manifest digest, while the disk is too
    /// full. `disk` says how full it is ([`DiskUse::of`]). Blocks.
    pub fn collect_garbage(
        &self,
        policy: &GcPolicy,
        now: SystemTime,
        in_use: &dyn Fn(&Digest) -> bool,
        disk: &dyn Fn(&Path) -> io::Result<DiskUse>,
    ) -> Result<Collected> {
        let inner = &self.inner;
        let measure = || disk(&inner.dir).map_err(io_error("measure the disk of", &inner.dir));
        let before = measure()?;
        let mut removed = Removed::default();
        if before.percent() < policy.high_percent {
            return Ok(Collected { removed, before, after: before, short: false });
        }
        let pinned =
            |digest: &Digest| inner.pins.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest);
        removed.freed_bytes += partial::clear(&inner.dir, &pinned)?;
        inner.collect(&mut removed)?;
        let mut after = measure()?;
        let wanted = |manifest: &Digest| in_use(manifest) || pinned(manifest);
        for manifest in self.candidates(policy, now, &wanted) {
            if after.percent() <= policy.low_percent {
                break;
            }
            self.drop_image(&manifest, &wanted, &mut removed)?;
            after = measure()?;
        }
        let short = after.percent() > policy.low_percent;
        Ok(Collected { removed, before, after, short })
    }

    /// The images that may go, the least recently used first.
    fn candidates(
        &self,
        policy: &GcPolicy,
        now: SystemTime,
        wanted: &dyn Fn(&Digest) -> bool,
    ) -> Vec<Digest> {
        let newest =
            unix_ms(now).saturating_sub(u64::try_from(policy.min_age.as_millis()).unwrap_or(u64::MAX));
        let index = self.inner.index().clone();
        let mut found: Vec<_> = index
            .images
            .iter()
            .filter(|(manifest, record)| record.pulled && !wanted(manifest))
            .map(|(manifest, record)| {
                let used = self.inner.used.of(manifest).unwrap_or(0).max(record.stored_unix_ms);
                (used, manifest.clone())
            })
            .filter(|(used, _)| *used <= newest)
            .collect();
        found.sort();
        found.into_iter().map(|(_, manifest)| manifest).collect()
    }

    /// Removes an image with all its names, unless it is wanted by now.
    fn drop_image(
        &self,
        manifest: &Digest,
        wanted: &dyn Fn(&Digest) -> bool,
        removed: &mut Removed,
    ) -> Result<()> {
        {
            let mut guard = self.inner.index();
            if wanted(manifest) {
                return Ok(());
            }
            let mut index = guard.clone();
            index.names.retain(|name, record| {
                let kept = record.manifest != *manifest;
                if !kept {
                    removed.names.push(name.clone());
                }
                kept
            });
            index.images.remove(manifest);
            index.write(&self.inner.dir)?;
            *guard = index;
        }
        removed.images.push(manifest.clone());
        self.inner.collect(removed)
    }
}

fn unix_ms(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_use_is_counted_as_df_counts_it() {
        let percent = |used, available| DiskUse { used, available }.percent();
        assert_eq!(percent(0, 100), 0);
        assert_eq!(percent(1, 999), 1);
        assert_eq!(percent(80, 20), 80);
        assert_eq!(percent(u64::MAX, 0), 100);
        assert_eq!(percent(0, 0), 0);
        let here = DiskUse::of(Path::new("/")).unwrap();
        assert!(here.used > 0);
    }
}
