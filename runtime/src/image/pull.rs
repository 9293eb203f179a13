//! Pulling: from a reference to an image of the store.
//!
//! Blobs arrive in parallel, each hashed while it is written; a layer is unpacked while others
//! still arrive. Pulls that want the same blob wait for one of them to fetch it. A transfer that
//! breaks is gone on with from its last byte, in this pull or in a later one.
//!
//! Its steps, numbered as their fail points are (`carrack_api::fail`); a load passes those from 6 on:
//!
//! ```text
//!  1 ask what the image is   2 store manifest and indices
//!  3 fetch a blob, from where the last attempt ended   4 write some of it   5 move it to its place
//!  6 unpack a layer   7 move it to its place
//!  8 sync the store   9 write the new index   10 rename it: the image is visible   11 tell
//! ```
//!
//! A crash before 10 leaves the index as it was. When the store opens next, blobs that no image
//! needs become partial ones, which the next pull goes on with; all else goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use super::blob::{BlobWriter, Expected};
use super::config::{MAX_CONFIG_BYTES, Platform};
use super::credentials::Credentials;
use super::digest::Digest;
use super::error::{Error, Result, point};
use super::index::{ImageRecord, LayerRecord};
use super::load::check_image;
use super::manifest::{self, Descriptor, Document, Manifest};
use super::progress::{Meter, ProgressSink};
use super::reference::ImageReference;
use super::registry::{Attempts, Registry};
use super::session::{Committed, Session, keyed};
use super::store::{Image, ImageStore};

/// Blobs fetched at once by one pull.
const PARALLEL_DOWNLOADS: usize = 4;
/// Chunks between the network and the disk.
const CHUNKS_IN_FLIGHT: usize = 16;
/// Most bytes of one layer's blob.
const MAX_BLOB_BYTES: u64 = 64 << 30;
/// How deep indices may nest.
const MAX_NESTING: usize = 3;

impl ImageStore {
    /// Pulls an image, or only what is missing of it. It gets the reference's tag as its name, if
    /// there is one. A pinned image that the store already holds needs no registry.
    pub async fn pull(
        &self,
        reference: &ImageReference,
        credentials: Option<&Credentials>,
        progress: ProgressSink,
    ) -> Result<Image> {
        if let Some(digest) = reference.digest()
            && let Some(image) = self.held(reference, digest).await?
        {
            return Ok(image);
        }
        let meter = Arc::new(Meter::new(progress));
        let registries = &self.inner.options.registries;
        let pull = Arc::new(Pull {
            registry: Registry::new(reference, credentials, registries, Arc::clone(&meter))?,
            image: reference.familiar(),
            session: self.session(),
            meter,
            downloads: Semaphore::new(PARALLEL_DOWNLOADS),
        });
        let committed = Arc::clone(&pull).fetch(reference).await.inspect_err(|error| {
            // What is left of it would keep the disk full.
            if matches!(error, Error::NoSpace { .. }) {
                pull.session.discard();
            }
        })?;
        let digest = committed.digest.clone();
        let store = self.clone();
        blocking(move || {
            pull.session.commit(vec![committed])?;
            carrack_api::fail::pass("pull.11-visible");
            store.get_by_digest(&digest)?.ok_or(Error::NotStored { image: digest.to_string() })
        })
        .await
    }

    /// Asks the registry what a reference means now, without pulling. A pinned one means its digest.
    pub async fn resolve(
        &self,
        reference: &ImageReference,
        credentials: Option<&Credentials>,
    ) -> Result<Digest> {
        match reference.digest() {
            Some(digest) => Ok(digest.clone()),
            None => {
                let meter = Arc::new(Meter::new(ProgressSink::ignore()));
                let registry = Registry::new(reference, credentials, &self.inner.options.registries, meter)?;
                registry.resolve(&reference.selector()).await
            }
        }
    }

    /// The image if the store holds it, named as the reference says.
    async fn held(&self, reference: &ImageReference, digest: &Digest) -> Result<Option<Image>> {
        let (store, digest, name) = (self.clone(), digest.clone(), reference.tagged());
        blocking(move || {
            let Some(mut image) = store.get_by_digest(&digest)? else { return Ok(None) };
            if let Some(name) = name.filter(|name| !image.names.contains(name)) {
                store.tag(&digest, &name)?;
                image.names.push(name);
                image.names.sort();
            }
            Ok(Some(image))
        })
        .await
    }
}

/// Held by whoever writes a blob.
type BlobGuard = OwnedMutexGuard<()>;

/// One pull.
struct Pull {
    registry: Registry,
    image: String,
    session: Session,
    meter: Arc<Meter>,
    downloads: Semaphore,
}

impl Pull {
    async fn fetch(self: Arc<Self>, reference: &ImageReference) -> Result<Committed> {
        let platform = Platform::host();
        let (digest, indices, manifest_digest, manifest) =
            self.find(&reference.selector(), &platform).await?;
        let received: u64 = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        self.meter.expect(received.saturating_add(manifest.config.size), manifest.layers.len());
        self.blob(&manifest.config, MAX_CONFIG_BYTES).await?;
        let pull = Arc::clone(&self);
        let (manifest, diff_ids) = blocking(move || {
            let diff_ids = check_image(&pull.session, &pull.image, &manifest, &platform)?;
            Ok((manifest, diff_ids))
        })
        .await?;
        let layers = Arc::clone(&self).layers(&manifest, &diff_ids).await?;
        Ok(Committed {
            digest,
            manifest: manifest_digest,
            record: ImageRecord {
                indices,
                config: manifest.config.digest,
                layers,
                stored_unix_ms: 0,
                pulled: true,
            },
            names: reference.tagged().into_iter().collect(),
        })
    }

    /// Follows the reference through indices to the manifest for this machine, storing each.
    async fn find(
        &self,
        selector: &str,
        platform: &Platform,
    ) -> Result<(Digest, BTreeSet<Digest>, Digest, Manifest)> {
        let mut indices = BTreeSet::new();
        point("pull.1-manifest")?;
        let mut fetched = self.registry.manifest(selector).await?;
        let first = fetched.digest.clone();
        for _ in 0..MAX_NESTING {
            point("pull.2-document")?;
            self.session.store_document(&fetched.document)?;
            let invalid = |reason| Error::Invalid {
                image: self.image.clone(),
                what: format!("manifest {}", fetched.digest),
                reason,
            };
            let index = match manifest::parse(&fetched.document).map_err(invalid)? {
                Document::Manifest(manifest) => return Ok((first, indices, fetched.digest, manifest)),
                Document::Index(index) => index,
            };
            let chosen =
                manifest::select(&index, platform).map_err(|available| Error::NoMatchingPlatform {
                    image: self.image.clone(),
                    wanted: platform.to_string(),
                    available,
                })?;
            indices.insert(fetched.digest.clone());
            fetched = self.registry.manifest(&chosen.digest.to_string()).await?;
            if fetched.document.len() as u64 != chosen.size {
                return Err(Error::SizeMismatch {
                    digest: chosen.digest.clone(),
                    expected: chosen.size,
                    actual: fetched.document.len() as u64,
                });
            }
        }
        Err(Error::Invalid {
            image: self.image.clone(),
            what: format!("index {first}"),
            reason: format!("indices nest more than {MAX_NESTING} deep"),
        })
    }

    /// Fetches and unpacks all layers; the first error stops the rest.
    async fn layers(self: Arc<Self>, manifest: &Manifest, diff_ids: &[Digest]) -> Result<Vec<LayerRecord>> {
        let mut tasks = JoinSet::new();
        for (position, (layer, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
            let (pull, layer, diff_id) = (Arc::clone(&self), layer.clone(), diff_id.clone());
            tasks.spawn(async move { pull.layer(layer, diff_id).await.map(|record| (position, record)) });
        }
        let mut records = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            records.push(joined.map_err(internal)??);
        }
        records.sort_by_key(|(position, _)| *position);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    async fn layer(self: Arc<Self>, layer: Descriptor, diff_id: Digest) -> Result<LayerRecord> {
        {
            let _permit = self
                .downloads
                .acquire()
                .await
                .map_err(|error| Error::Internal { reason: error.to_string() })?;
            self.blob(&layer, MAX_BLOB_BYTES).await?;
        }
        blocking(move || {
            let unpacked_bytes = self.session.ensure_layer(&layer.digest, &diff_id)?;
            self.meter.layer_done();
            Ok(LayerRecord { blob: layer.digest, diff_id, blob_bytes: layer.size, unpacked_bytes })
        })
        .await
    }

    /// Makes sure that a blob is in the store.
    async fn blob(self: &Arc<Self>, descriptor: &Descriptor, limit: u64) -> Result<()> {
        let lock = keyed(&self.session.store.inner.blob_locks, &descriptor.digest);
        let guard = Arc::new(lock.lock_owned().await);
        if self.session.has_blob(&descriptor.digest) {
            self.meter.received(descriptor.size);
            return Ok(());
        }
        let (mut attempts, mut doubted) = (Attempts::default(), false);
        let told = Arc::new(AtomicU64::new(0));
        loop {
            let before = told.load(Ordering::Relaxed);
            let error = match self.download(descriptor, limit, &told, &guard).await {
                Ok(()) => return Ok(()),
                // What was kept of an earlier attempt may be what is wrong; once is enough to know.
                Err(Failed { resumed: true, error: Error::DigestMismatch { .. }, .. }) if !doubted => {
                    doubted = true;
                    continue;
                }
                Err(Failed { elsewhere: true, .. }) => continue,
                Err(failed) => failed.error,
            };
            if told.load(Ordering::Relaxed) > before {
                attempts.progressed();
            }
            self.registry.pause(&mut attempts, error).await?;
        }
    }

    /// One attempt at a blob, from where the last one ended. `told` is how much of it was reported.
    async fn download(
        self: &Arc<Self>,
        descriptor: &Descriptor,
        limit: u64,
        told: &Arc<AtomicU64>,
        guard: &Arc<BlobGuard>,
    ) -> Result<(), Failed> {
        point("pull.3-blob")?;
        let expected = Expected { digest: descriptor.digest.clone(), size: Some(descriptor.size) };
        let pull = Arc::clone(self);
        let mut writer = blocking(move || pull.session.resume_blob(expected, limit)).await?;
        let resumed = writer.position() > 0;
        if writer.position() == descriptor.size {
            let finished = Arc::clone(self).write(writer, None, Arc::clone(told), Arc::clone(guard)).await;
            return finished.map_err(|error| Failed { error, resumed, elsewhere: false });
        }
        let mut body = self.registry.blob(&descriptor.digest, writer.position()).await?;
        if body.start != writer.position() {
            writer.restart()?;
        }
        let resumed = resumed && body.start > 0;
        let (sender, chunks) = mpsc::channel::<Result<Bytes>>(CHUNKS_IN_FLIGHT);
        let writing =
            tokio::spawn(Arc::clone(self).write(writer, Some(chunks), Arc::clone(told), Arc::clone(guard)));
        // A closed channel means that writing failed; its error is the one to report.
        while let Some(chunk) = body.chunk().await.transpose() {
            let broken = chunk.is_err();
            if sender.send(chunk).await.is_err() || broken {
                break;
            }
        }
        drop(sender);
        let written = writing.await.map_err(internal)?;
        written.map_err(|error| {
            let wrong = matches!(error, Error::DigestMismatch { .. } | Error::SizeMismatch { .. });
            Failed { resumed, elsewhere: wrong && !resumed && body.reject(), error }
        })
    }

    /// Writes what arrives, on a blocking thread, until the blob is complete or `chunks` ends. It outlives a pull that is broken
    /// off by the chunks in flight, and holds the blob's lock until then: nobody else writes the same partial file.
    async fn write(
        self: Arc<Self>,
        mut writer: BlobWriter,
        chunks: Option<mpsc::Receiver<Result<Bytes>>>,
        told: Arc<AtomicU64>,
        guard: Arc<BlobGuard>,
    ) -> Result<()> {
        blocking(move || {
            let _guard = guard;
            let tell = |position: u64| {
                let before = told.fetch_max(position, Ordering::Relaxed);
                self.meter.received(position.saturating_sub(before));
            };
            tell(writer.position());
            if let Some(mut chunks) = chunks {
                while let Some(chunk) = chunks.blocking_recv() {
                    writer.write(&chunk?)?;
                    tell(writer.position());
                    point("pull.4-partial")?;
                }
            }
            writer.complete()?;
            self.session.commit_blob(writer).map(drop)
        })
        .await
    }
}

/// A failed attempt at a blob.
struct Failed {
    error: Error,
    /// Part of the content came from an earlier attempt.
    resumed: bool,
    /// The content was wrong, and there is another server to ask.
    elsewhere: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, resumed: false, elsewhere: false }
    }
}

fn internal(error: JoinError) -> Error {
    Error::Internal { reason: error.to_string() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(internal)?
}
