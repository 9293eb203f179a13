//! The store on disk: opening, looking up, committing, removing. See the parent module for its layout.
//!
//! Loads and pulls work inside a [`Session`], which pins the digests they touch so that a removal
//! at the same time leaves them alone. Locks are taken in the order index, pins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;

use super::config::{self, ImageConfig, MAX_CONFIG_BYTES};
use super::digest::Digest;
use super::disk::{create_private_dir, read_dir, remove_tree, tree_bytes};
use super::error::{Error, Result, io_error};
use super::index::{ImageRecord, Index, NameRecord};
use super::partial;
use super::reference::ImageReference;
use super::registry::RegistryConfig;
use super::session::Session;
use super::unpack::{Limits, Slots};
use super::used::Used;

/// Fewest hex digits of a layer's short name.
const SHORT_NAME_LEN: usize = 8;

/// How a store works.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The program that runs the unpack child; it must call this crate's re-exec dispatch first
    /// thing in `main`. By default the running binary itself.
    pub helper: PathBuf,
    /// What one layer may hold at most.
    pub limits: Limits,
    /// How registries are reached.
    pub registries: RegistryConfig,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            helper: PathBuf::from("/proc/self/exe"),
            limits: Limits::default(),
            registries: RegistryConfig::default(),
        }
    }
}

/// The images of a node. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    /// Held for as long as the store is open.
    _lock: Lock,
    pub(super) options: StoreOptions,
    pub(super) index: Mutex<Index>,
    pub(super) pins: Mutex<BTreeMap<Digest, usize>>,
    pub(super) layer_locks: Mutex<BTreeMap<Digest, Arc<Mutex<()>>>>,
    pub(super) blob_locks: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) slots: Slots,
    pub(super) used: Used,
    sequence: AtomicU64,
}

/// An exclusive flock. It is given back when this is dropped, and not only closed: a child that is being started has a copy of the
/// descriptor until its `execve`, and would hold the lock for that long.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock of the image store is given back by closing it alone");
        }
    }
}

/// An image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// What its names resolve to: the digest of an index, or of the manifest when there is none.
    pub digest: Digest,
    /// The digest of the manifest for this machine.
    pub manifest: Digest,
    /// The digest of the config blob (Docker's image id).
    pub config_digest: Digest,
    /// What the image says about running it.
    pub config: ImageConfig,
    /// Its layers, base first.
    pub layers: Vec<Layer>,
    /// Its names, in order; empty when it is only known by digest.
    pub names: Vec<ImageReference>,
    /// When it was first stored.
    pub stored_at: SystemTime,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob as received.
    pub blob: Digest,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// Size of the blob in bytes.
    pub blob_bytes: u64,
    /// Size of the unpacked files in bytes.
    pub unpacked_bytes: u64,
}

impl Image {
    /// Size of the unpacked files of all layers, in bytes.
    pub fn unpacked_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.unpacked_bytes).sum()
    }
}

/// Lower directories under short names, for mount options with a length limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortLayers {
    /// The directory that the names are relative to.
    pub dir: PathBuf,
    /// Names within `dir` in overlayfs order: top layer first.
    pub names: Vec<String>,
}

impl ShortLayers {
    /// The value of overlayfs' `lowerdir` option with absolute paths.
    pub fn lowerdir(&self) -> String {
        let paths: Vec<String> =
            self.names.iter().map(|name| self.dir.join(name).to_string_lossy().into_owned()).collect();
        paths.join(":")
    }
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that no longer exist.
    pub names: Vec<ImageReference>,
    /// Images (manifest digests) that no longer exist.
    pub images: Vec<Digest>,
    /// Unpacked layers (diff ids) that no longer exist.
    pub layers: Vec<Digest>,
    /// Bytes of blobs and unpacked files freed.
    pub freed_bytes: u64,
}

impl ImageStore {
    /// Opens or creates the store at `dir` and sweeps what a crash left behind.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self> {
        options.registries.check()?;
        create_private_dir(dir)?;
        let dir = dir.canonicalize().map_err(io_error("open", dir))?;
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io_error("open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked { path: dir }),
            Err(error) => return Err(io_error("lock", &lock_path)(error)),
        }
        for part in ["blobs", "layers", "l", "partial", "tmp"] {
            create_private_dir(&dir.join(part))?;
        }
        let index = Index::read(&dir)?;
        let inner = Inner {
            slots: Slots::new(),
            used: Used::read(&dir),
            dir,
            _lock: Lock(lock),
            options,
            index: Mutex::new(index),
            pins: Mutex::default(),
            layer_locks: Mutex::default(),
            blob_locks: Mutex::default(),
            sequence: AtomicU64::new(0),
        };
        inner.sweep()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// All images, ordered by manifest digest.
    pub fn list(&self) -> Result<Vec<Image>> {
        let index = self.inner.index().clone();
        index
            .images
            .keys()
            .map(|manifest| {
                let digest = index.names.values().find(|name| name.manifest == *manifest);
                let digest = digest.map_or(manifest, |name| &name.digest).clone();
                self.inner.image(&index, &NameRecord { digest, manifest: manifest.clone() })
            })
            .collect()
    }

    /// The image that `reference` means: by its digest when pinned, else by its tag.
    pub fn get(&self, reference: &ImageReference) -> Result<Option<Image>> {
        let index = self.inner.index().clone();
        index.find(reference).map(|found| self.inner.image(&index, &found)).transpose()
    }

    /// The image whose manifest or index has this digest.
    pub fn get_by_digest(&self, digest: &Digest) -> Result<Option<Image>> {
        let index = self.inner.index().clone();
        index.find_digest(digest).map(|found| self.inner.image(&index, &found)).transpose()
    }

    /// Removes a name, and its image when that was the last one and `in_use` says no of its
    /// manifest digest. A pinned reference removes the image with all its names. An image still in
    /// use keeps its files until [`ImageStore::prune`] finds it unused.
    pub fn remove(&self, reference: &ImageReference, in_use: &dyn Fn(&Digest) -> bool) -> Result<Removed> {
        let mut removed = Removed::default();
        {
            let mut guard = self.inner.index();
            let mut index = guard.clone();
            let found =
                index.find(reference).ok_or_else(|| Error::NotStored { image: reference.familiar() })?;
            match reference.digest() {
                Some(_) => index.names.retain(|name, record| {
                    let keep = record.manifest != found.manifest;
                    if !keep {
                        removed.names.push(name.clone());
                    }
                    keep
                }),
                None => {
                    index.names.remove(reference);
                    removed.names.push(reference.clone());
                }
            }
            drop_unused(&mut index, &mut removed, &|manifest| {
                *manifest != found.manifest || in_use(manifest)
            });
            index.write(&self.inner.dir)?;
            *guard = index;
        }
        self.inner.collect(&mut removed)?;
        Ok(removed)
    }

    /// Removes images that have no name and are not in use.
    pub fn prune(&self, in_use: &dyn Fn(&Digest) -> bool) -> Result<Removed> {
        let mut removed = Removed::default();
        {
            let mut guard = self.inner.index();
            let mut index = guard.clone();
            drop_unused(&mut index, &mut removed, in_use);
            if !removed.images.is_empty() {
                index.write(&self.inner.dir)?;
                *guard = index;
            }
        }
        self.inner.collect(&mut removed)?;
        Ok(removed)
    }

    /// Gives an image of the store one more name.
    pub fn tag(&self, digest: &Digest, name: &ImageReference) -> Result<()> {
        let name = name.tagged().ok_or_else(|| Error::Archive {
            reason: format!("{name} has no tag, so it cannot name an image"),
        })?;
        let mut guard = self.inner.index();
        let mut index = guard.clone();
        let found =
            index.find_digest(digest).ok_or_else(|| Error::NotStored { image: digest.to_string() })?;
        index.names.insert(name, found);
        index.write(&self.inner.dir)?;
        *guard = index;
        Ok(())
    }

    /// The unpacked layers in overlayfs order (top layer first), as absolute paths.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        image.layers.iter().rev().map(|layer| self.inner.layer_dir(&layer.diff_id)).collect()
    }

    /// The same under short names, so that the mount option holds hundreds of layers.
    pub fn short_layers(&self, image: &Image) -> Result<ShortLayers> {
        let dir = self.inner.dir.join("l");
        let names = image
            .layers
            .iter()
            .rev()
            .map(|layer| self.inner.short_link(&layer.diff_id))
            .collect::<Result<_>>()?;
        Ok(ShortLayers { dir, names })
    }

    /// A blob of the store, open for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.inner.blob_path(digest);
        File::open(&path).map_err(io_error("open", &path))
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    pub(super) fn session(&self) -> Session {
        Session::new(self.clone())
    }
}

/// Drops images without a name for which `keep` says no.
fn drop_unused(index: &mut Index, removed: &mut Removed, keep: &dyn Fn(&Digest) -> bool) {
    let named: BTreeSet<Digest> = index.names.values().map(|name| name.manifest.clone()).collect();
    index.images.retain(|manifest, _| {
        let kept = named.contains(manifest) || keep(manifest);
        if !kept {
            removed.images.push(manifest.clone());
        }
        kept
    });
}

impl Inner {
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        // The index is replaced whole, so a panic elsewhere cannot leave it half changed.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    pub(super) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("partial").join(digest.hex())
    }

    pub(super) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    /// A path in `tmp` that nobody else uses.
    pub(super) fn temporary(&self, kind: &str) -> PathBuf {
        self.dir.join("tmp").join(format!("{kind}-{}", self.sequence.fetch_add(1, Ordering::Relaxed)))
    }

    /// Reads a small blob and verifies it.
    pub(super) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let mut data = Vec::new();
        file.take(limit + 1).read_to_end(&mut data).map_err(io_error("read", &path))?;
        if data.len() as u64 > limit {
            return Err(Error::TooLarge {
                what: format!("document {digest}"),
                limit: format!("{limit} bytes"),
            });
        }
        let actual = Digest::of(&data);
        if actual != *digest {
            return Err(Error::DigestMismatch { expected: digest.clone(), actual });
        }
        Ok(data)
    }

    fn image(&self, index: &Index, found: &NameRecord) -> Result<Image> {
        let record = index
            .images
            .get(&found.manifest)
            .ok_or_else(|| Error::NotStored { image: found.manifest.to_string() })?;
        let document = self.read_blob(&record.config, MAX_CONFIG_BYTES)?;
        let parsed = config::parse(&document).map_err(|reason| Error::Invalid {
            image: found.digest.to_string(),
            what: format!("config {}", record.config),
            reason,
        })?;
        let names = index.names.iter().filter(|(_, name)| name.manifest == found.manifest);
        Ok(Image {
            digest: found.digest.clone(),
            manifest: found.manifest.clone(),
            config_digest: record.config.clone(),
            config: parsed.config,
            layers: record
                .layers
                .iter()
                .map(|layer| Layer {
                    blob: layer.blob.clone(),
                    diff_id: layer.diff_id.clone(),
                    blob_bytes: layer.blob_bytes,
                    unpacked_bytes: layer.unpacked_bytes,
                })
                .collect(),
            names: names.map(|(name, _)| name.clone()).collect(),
            stored_at: UNIX_EPOCH + Duration::from_millis(record.stored_unix_ms),
        })
    }

    /// Removes leftovers, and images whose files are gone, before anyone can see the store.
    fn sweep(&self) -> Result<()> {
        for entry in read_dir(&self.dir.join("tmp"))? {
            remove_tree(&entry)?;
        }
        let mut index = self.index();
        let complete = |manifest: &Digest, image: &ImageRecord| {
            self.blob_path(manifest).exists()
                && self.blob_path(&image.config).exists()
                && image.layers.iter().all(|layer| self.layer_dir(&layer.diff_id).is_dir())
        };
        let before = index.images.len();
        index.images.retain(|manifest, image| {
            let complete = complete(manifest, image);
            if !complete {
                tracing::warn!(image = %manifest, "files of an image are gone, forgetting the image");
            }
            complete
        });
        if index.images.len() != before {
            let Index { images, names, .. } = &mut *index;
            names.retain(|_, name| images.contains_key(&name.manifest));
            index.write(&self.dir)?;
        }
        let needed = index.blobs();
        drop(index);
        partial::keep_orphans(&self.dir, &needed)?;
        self.collect(&mut Removed::default())
    }

    /// Removes what an operation brought for nothing, partial blobs too.
    pub(super) fn discard(&self, digests: &BTreeSet<Digest>) -> Result<()> {
        for digest in digests {
            remove_tree(&self.partial_path(digest))?;
        }
        self.collect(&mut Removed::default())
    }

    /// Removes blobs, layers and links that neither the index nor a session needs.
    pub(super) fn collect(&self, removed: &mut Removed) -> Result<()> {
        let mut trash = Vec::new();
        {
            let index = self.index();
            let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = |needed: &BTreeSet<Digest>, path: &Path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let digest = format!("sha256:{name}").parse::<Digest>();
                digest.is_ok_and(|digest| needed.contains(&digest) || pins.contains_key(&digest))
            };
            let mut discard = |path: PathBuf| -> Result<()> {
                let target = self.temporary("trash");
                fs::rename(&path, &target).map_err(io_error("remove", &path))?;
                trash.push(target);
                Ok(())
            };
            let blobs = index.blobs();
            for path in read_dir(&self.dir.join("blobs"))?.into_iter().filter(|path| !kept(&blobs, path)) {
                discard(path)?;
            }
            let layers = index.layers();
            for path in read_dir(&self.dir.join("layers"))?.into_iter().filter(|path| !kept(&layers, path)) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                removed.layers.extend(format!("sha256:{name}").parse::<Digest>());
                discard(path.clone())?;
            }
            for path in read_dir(&self.dir.join("l"))? {
                if fs::metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                    fs::remove_file(&path).map_err(io_error("remove", &path))?;
                }
            }
        }
        for path in trash {
            removed.freed_bytes += tree_bytes(&path);
            remove_tree(&path)?;
        }
        Ok(())
    }

    /// The short name of a layer, its symlink made when it does not exist yet.
    fn short_link(&self, diff_id: &Digest) -> Result<String> {
        let target = Path::new("../layers").join(diff_id.hex());
        for length in SHORT_NAME_LEN..=diff_id.hex().len() {
            let name = &diff_id.hex()[..length];
            let link = self.dir.join("l").join(name);
            match std::os::unix::fs::symlink(&target, &link) {
                Ok(()) => return Ok(name.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if fs::read_link(&link).map_err(io_error("read", &link))? == target {
                        return Ok(name.to_owned());
                    }
                }
                Err(error) => return Err(io_error("create", &link)(error)),
            }
        }
        Err(Error::Internal { reason: format!("no short name is free for layer {diff_id}") })
    }
}
