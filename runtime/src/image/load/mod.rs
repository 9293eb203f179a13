//! Loading images from OCI layouts, OCI archives and `docker save` archives.
//!
//! An archive is read once, front to back: its files become blobs of the store as they stream by
//! (`stage`), then its index says which of them are images (`assemble`), then layers are unpacked
//! and all images become visible together.

mod assemble;
mod stage;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::digest::Digest;
use super::error::{Error, Result, io_error};
use super::index::{ImageRecord, LayerRecord};
use super::progress::{Meter, ProgressSink};
use super::reference::ImageReference;
use super::session::{Committed, Session};
use super::store::{ImageStore, Removed};
use assemble::Assembled;
pub(super) use assemble::check_image;
use stage::Staged;

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The repository that bare tags of an OCI layout belong to; the complete name when the
    /// archive holds one image without a name. Without it a bare tag is taken as a repository.
    pub name: Option<ImageReference>,
}

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its names; empty when the archive gives none.
    pub names: Vec<ImageReference>,
    /// What the names resolve to.
    pub digest: Digest,
    /// The manifest for this machine.
    pub manifest: Digest,
}

impl ImageStore {
    /// Loads every image of an archive (OCI or `docker save`, plain, gzip or zstd) from a stream.
    /// Blocks; all images become visible together at the end, or none.
    pub fn load(
        &self,
        input: impl Read,
        options: &LoadOptions,
        progress: &ProgressSink,
    ) -> Result<Vec<LoadedImage>> {
        self.load_with(options, progress, |session, meter| stage::archive(session, input, meter))
    }

    /// Loads from a path: an archive, or the directory of an OCI layout.
    pub fn load_path(
        &self,
        path: &Path,
        options: &LoadOptions,
        progress: &ProgressSink,
    ) -> Result<Vec<LoadedImage>> {
        if path.is_dir() {
            return self
                .load_with(options, progress, |session, meter| stage::directory(session, path, meter));
        }
        let file = File::open(path).map_err(io_error("open", path))?;
        self.load(file, options, progress)
    }

    fn load_with(
        &self,
        options: &LoadOptions,
        progress: &ProgressSink,
        stage: impl FnOnce(&Session, &Meter) -> Result<Staged>,
    ) -> Result<Vec<LoadedImage>> {
        let meter = Meter::new(progress.clone());
        let session = self.session();
        let result = stage(&session, &meter)
            .and_then(|staged| assemble::images(&session, &staged, options))
            .and_then(|images| finish(&session, images, &meter));
        drop(session);
        // Files of the archive that no image needed, and everything when it failed.
        let swept = self.inner.collect(&mut Removed::default());
        let loaded = result?;
        swept?;
        Ok(loaded)
    }
}

/// Unpacks the layers of `images` and makes them visible.
fn finish(session: &Session, images: Vec<Assembled>, meter: &Meter) -> Result<Vec<LoadedImage>> {
    let mut wanted: BTreeMap<Digest, Digest> = BTreeMap::new();
    for image in &images {
        for (layer, diff_id) in image.manifest.layers.iter().zip(&image.diff_ids) {
            wanted.insert(diff_id.clone(), layer.digest.clone());
        }
    }
    meter.expect(0, wanted.len());
    let unpacked = unpack_all(session, &wanted.into_iter().collect::<Vec<_>>(), meter)?;
    let mut loaded = Vec::new();
    let mut committed = Vec::new();
    for image in images {
        let layers = image.manifest.layers.iter().zip(&image.diff_ids).map(|(layer, diff_id)| LayerRecord {
            blob: layer.digest.clone(),
            diff_id: diff_id.clone(),
            blob_bytes: layer.size,
            unpacked_bytes: unpacked.get(diff_id).copied().unwrap_or(0),
        });
        committed.push(Committed {
            digest: image.digest.clone(),
            manifest: image.manifest_digest.clone(),
            record: ImageRecord {
                indices: image.indices,
                config: image.manifest.config.digest.clone(),
                layers: layers.collect(),
                stored_unix_ms: 0,
                pulled: false,
            },
            names: image.names.clone(),
        });
        loaded.push(LoadedImage {
            names: image.names,
            digest: image.digest,
            manifest: image.manifest_digest,
        });
    }
    session.commit(committed)?;
    Ok(loaded)
}

/// Unpacks layers, as many at once as there are processors; the first error stops the rest.
fn unpack_all(
    session: &Session,
    layers: &[(Digest, Digest)],
    meter: &Meter,
) -> Result<BTreeMap<Digest, u64>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(layers.len());
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        while let Some((diff_id, blob)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let bytes =
                session.ensure_layer(blob, diff_id).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(diff_id.clone(), bytes);
            meter.layer_done();
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Error::Internal { reason: "an unpack thread panicked".to_owned() }))
        })
    })?;
    Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}
