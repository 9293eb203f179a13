//! Taking images away to make room, in the node's words: what is needed comes as digests and names of specs, what went leaves as a
//! report. Owns the translation and the figures of the defaults; the image store owns the order.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use carrack_api::defaults::{IMAGE_GC_HIGH_PERCENT, IMAGE_GC_LOW_PERCENT};
use carrack_api::{Bytes, ImageCollection, Timestamp};
use carrack_runtime::image::{
    Collected, Digest, DiskUse, Error, GC_MIN_AGE, GcPolicy, ImageReference, ImageStore,
};

const POLICY: GcPolicy =
    GcPolicy { high_percent: IMAGE_GC_HIGH_PERCENT, low_percent: IMAGE_GC_LOW_PERCENT, min_age: GC_MIN_AGE };

/// Takes images away when the disk is too full; `None` when nothing went. Blocks.
pub(crate) fn images(
    store: &ImageStore,
    needed: &BTreeSet<String>,
    disk: &dyn Fn(&Path) -> io::Result<DiskUse>,
) -> Result<Option<ImageCollection>, Error> {
    let mut manifests = BTreeSet::new();
    for text in needed {
        manifests.extend(manifest(store, text)?);
    }
    let now = SystemTime::now();
    store.mark_used(manifests.iter(), now)?;
    let collected = store.collect_garbage(&POLICY, now, &|manifest| manifests.contains(manifest), disk)?;
    let Collected { removed, before, after, short } = collected;
    if short {
        tracing::warn!(
            used = after.percent(), wanted = POLICY.low_percent, disk = %store.dir().display(),
            "the disk of the images is too full, and nothing is left that could go"
        );
    }
    if removed.images.is_empty() {
        return Ok(None);
    }
    let named = removed.names.iter().map(ToString::to_string);
    let unnamed = removed.images.iter().map(ToString::to_string);
    let names = if removed.names.is_empty() { unnamed.collect() } else { named.collect() };
    let at = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some(ImageCollection {
        at: Timestamp(u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
        images: names,
        freed: Bytes(removed.freed_bytes),
        used_before: before.percent(),
        used_after: after.percent(),
    }))
}

/// The manifest that a digest or a name of a spec means here, if the image is held.
fn manifest(store: &ImageStore, text: &str) -> Result<Option<Digest>, Error> {
    let found = match text.parse::<Digest>() {
        Ok(digest) => store.get_by_digest(&digest)?,
        Err(_) => match ImageReference::parse(text) {
            Ok(reference) => store.get(&reference)?,
            // A name that nobody could pull is held by nobody.
            Err(_) => None,
        },
    };
    Ok(found.map(|image| image.manifest))
}
