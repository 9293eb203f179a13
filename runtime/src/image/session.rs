//! One load or pull: it writes blobs, unpacks layers, and makes images visible at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::blob::{BlobWriter, Expected};
use super::config::MAX_CONFIG_BYTES;
use super::digest::Digest;
use super::disk::{WorkDir, tree_bytes};
use super::error::{Result, io_error, point};
use super::index::{ImageRecord, NameRecord};
use super::reference::ImageReference;
use super::store::{ImageStore, Inner};
use super::unpack::{self, LayerBlob};

/// What a load or pull touches stays until it is committed or dropped.
pub(super) struct Session {
    pub(super) store: ImageStore,
    pinned: Mutex<Vec<Digest>>,
    /// Whether what was fetched in vain goes with the session.
    discard: AtomicBool,
}

impl Session {
    pub(super) fn new(store: ImageStore) -> Self {
        Self { store, pinned: Mutex::default(), discard: AtomicBool::new(false) }
    }

    /// Nothing that this session brought is worth its space: it goes when the session ends.
    pub(super) fn discard(&self) {
        self.discard.store(true, Ordering::Relaxed);
    }

    fn inner(&self) -> &Inner {
        &self.store.inner
    }

    /// Keeps a digest's blob and layer from being collected while the session lives.
    pub(super) fn pin(&self, digest: &Digest) {
        *self
            .inner()
            .pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(digest.clone())
            .or_default() += 1;
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
    }

    /// Whether the blob is in the store; from now on it stays.
    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        self.pin(digest);
        self.inner().blob_path(digest).exists()
    }

    /// Starts writing a blob whose digest is known.
    pub(super) fn write_blob(&self, expected: Expected, limit: u64) -> Result<BlobWriter> {
        self.pin(&expected.digest);
        BlobWriter::create(self.inner().temporary("blob"), Some(expected), limit)
    }

    /// Goes on with a blob that an earlier attempt began, or begins it.
    pub(super) fn resume_blob(&self, expected: Expected, limit: u64) -> Result<BlobWriter> {
        self.pin(&expected.digest);
        BlobWriter::resume(self.inner().partial_path(&expected.digest), expected, limit)
    }

    /// Starts writing a blob of unknown digest.
    pub(super) fn write_unknown_blob(&self, limit: u64) -> Result<BlobWriter> {
        BlobWriter::create(self.inner().temporary("blob"), None, limit)
    }

    /// Finishes a blob.
    pub(super) fn commit_blob(&self, writer: BlobWriter) -> Result<(Digest, u64)> {
        writer.commit(&self.inner().dir.join("blobs"), |digest| self.pin(digest))
    }

    /// Stores a small document and returns its digest.
    pub(super) fn store_document(&self, document: &[u8]) -> Result<Digest> {
        let expected = Expected { digest: Digest::of(document), size: Some(document.len() as u64) };
        let mut writer = self.write_blob(expected, MAX_CONFIG_BYTES)?;
        writer.write(document)?;
        Ok(self.commit_blob(writer)?.0)
    }

    /// Unpacks a layer unless that is done already; returns its unpacked size in bytes.
    pub(super) fn ensure_layer(&self, blob: &Digest, diff_id: &Digest) -> Result<u64> {
        let inner = self.inner();
        self.pin(diff_id);
        let lock = keyed(&inner.layer_locks, diff_id);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let target = inner.layer_dir(diff_id);
        if target.is_dir() {
            return Ok(self.known_layer_bytes(diff_id).unwrap_or_else(|| tree_bytes(&target)));
        }
        point("pull.6-unpack")?;
        let _slot = inner.slots.take();
        let path = inner.blob_path(blob);
        let source = LayerBlob {
            digest: blob.clone(),
            diff_id: diff_id.clone(),
            file: File::open(&path).map_err(io_error("open", &path))?,
        };
        let work = WorkDir::create(inner.temporary("layer"))?;
        let unpacked = unpack::run(&inner.options.helper, &inner.options.limits, source, &work.path)?;
        point("pull.7-layer-rename")?;
        fs::rename(&work.path, &target).map_err(io_error("move a layer to", &target))?;
        Ok(unpacked.bytes)
    }

    fn known_layer_bytes(&self, diff_id: &Digest) -> Option<u64> {
        let index = self.inner().index();
        let mut layers = index.images.values().flat_map(|image| &image.layers);
        layers.find(|layer| layer.diff_id == *diff_id).map(|layer| layer.unpacked_bytes)
    }

    /// Makes images and their names visible, all at once, after everything is on disk.
    pub(super) fn commit(&self, images: Vec<Committed>) -> Result<()> {
        let inner = self.inner();
        point("pull.8-sync")?;
        let dir = File::open(&inner.dir).map_err(io_error("open", &inner.dir))?;
        rustix::fs::syncfs(&dir).map_err(io_error("sync", &inner.dir))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut guard = inner.index();
        let mut index = guard.clone();
        for image in images {
            let found = NameRecord { digest: image.digest, manifest: image.manifest.clone() };
            let record = index.images.entry(image.manifest).or_insert_with(|| ImageRecord {
                stored_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
                ..image.record.clone()
            });
            // Once loaded by hand it stays: under the name that it was loaded by no registry has it.
            record.pulled &= image.record.pulled;
            record.indices.extend(image.record.indices);
            for name in image.names {
                index.names.insert(name, found.clone());
            }
        }
        point("pull.9-index")?;
        index.write(&inner.dir)?;
        *guard = index;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut released = BTreeSet::new();
        {
            let mut pins = self.inner().pins.lock().unwrap_or_else(PoisonError::into_inner);
            for digest in self.pinned.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                if let Some(count) = pins.get_mut(&digest) {
                    *count -= 1;
                    if *count == 0 {
                        pins.remove(&digest);
                        released.insert(digest);
                    }
                }
            }
        }
        if self.discard.load(Ordering::Relaxed)
            && let Err(error) = self.inner().discard(&released)
        {
            tracing::warn!(%error, "cannot remove what was fetched in vain");
        }
    }
}

/// An image that a session makes visible.
pub(super) struct Committed {
    pub(super) digest: Digest,
    pub(super) manifest: Digest,
    pub(super) record: ImageRecord,
    pub(super) names: Vec<ImageReference>,
}

/// The lock for `key`; locks nobody holds any more are forgotten.
pub(super) fn keyed<L: Default>(locks: &Mutex<BTreeMap<Digest, Arc<L>>>, key: &Digest) -> Arc<L> {
    let mut locks = locks.lock().unwrap_or_else(PoisonError::into_inner);
    locks.retain(|_, lock| Arc::strong_count(lock) > 1);
    Arc::clone(locks.entry(key.clone()).or_default())
}
