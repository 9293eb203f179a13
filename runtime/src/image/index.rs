//! The index file: names to images to layers, as one versioned value replaced atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{Error, Result, io_error, point};
use super::reference::ImageReference;

/// The format this version writes and the newest it reads.
const VERSION: u32 = 1;
/// The file's name within the store.
const FILE: &str = "index.json";

/// All that the store knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Index {
    version: u32,
    /// Tagged references to what they resolve to.
    pub(crate) names: BTreeMap<ImageReference, NameRecord>,
    /// Images by the digest of their manifest.
    pub(crate) images: BTreeMap<Digest, ImageRecord>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    /// The digest the tag resolved to: of an index, or of the manifest itself.
    pub(crate) digest: Digest,
    /// The manifest for this machine.
    pub(crate) manifest: Digest,
}

/// One image for this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digests of indices that led to this manifest.
    pub(crate) indices: BTreeSet<Digest>,
    /// The config blob.
    pub(crate) config: Digest,
    /// The layers, base first.
    pub(crate) layers: Vec<LayerRecord>,
    /// When it was first stored, in milliseconds since the epoch.
    pub(crate) stored_unix_ms: u64,
    /// Whether registries alone gave it, so that it can be had again under each of its names.
    #[serde(default)]
    pub(crate) pulled: bool,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// The blob as received.
    pub(crate) blob: Digest,
    /// The digest of the uncompressed layer, which names its directory.
    pub(crate) diff_id: Digest,
    /// Size of the blob in bytes.
    pub(crate) blob_bytes: u64,
    /// Size of the unpacked files in bytes.
    pub(crate) unpacked_bytes: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self { version: VERSION, names: BTreeMap::new(), images: BTreeMap::new() }
    }
}

impl Index {
    /// Reads the index of the store at `dir`; an absent file is an empty index.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let damaged = |reason: String| Error::Index { path: path.clone(), reason };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version > VERSION {
            return Err(damaged(format!(
                "version {version} is newer than {VERSION}, the newest this binary knows"
            )));
        }
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
    }

    /// Replaces the index durably: after a crash it is the old one or this one.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let temporary = dir.join("tmp").join(FILE);
        let text = serde_json::to_vec(self).map_err(|error| Error::Internal { reason: error.to_string() })?;
        let mut file = File::create(&temporary).map_err(io_error("create", &temporary))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io_error("write", &temporary))?;
        point("pull.10-index-rename")?;
        fs::rename(&temporary, &path).map_err(io_error("replace", &path))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
    }

    /// The manifest that `reference` means, and the digest it resolves to.
    pub(crate) fn find(&self, reference: &ImageReference) -> Option<NameRecord> {
        match reference.digest() {
            Some(digest) => self.find_digest(digest),
            None => self.names.get(reference).cloned(),
        }
    }

    /// The manifest that a digest of a manifest or of an index means.
    pub(crate) fn find_digest(&self, digest: &Digest) -> Option<NameRecord> {
        let manifest = if self.images.contains_key(digest) {
            digest
        } else {
            self.images.iter().find(|(_, image)| image.indices.contains(digest))?.0
        };
        Some(NameRecord { digest: digest.clone(), manifest: manifest.clone() })
    }

    /// Every blob that an image needs.
    pub(crate) fn blobs(&self) -> BTreeSet<Digest> {
        let mut blobs = BTreeSet::new();
        for (manifest, image) in &self.images {
            blobs.insert(manifest.clone());
            blobs.insert(image.config.clone());
            blobs.extend(image.indices.iter().cloned());
            blobs.extend(image.layers.iter().map(|layer| layer.blob.clone()));
        }
        blobs
    }

    /// The diff ids of every layer that an image needs.
    pub(crate) fn layers(&self) -> BTreeSet<Digest> {
        self.images.values().flat_map(|image| &image.layers).map(|layer| layer.diff_id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_survives_a_round_trip_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        assert!(Index::read(dir.path()).unwrap().images.is_empty());

        let manifest = Digest::of(b"manifest");
        let mut index = Index::default();
        index.names.insert(
            ImageReference::parse("nginx").unwrap(),
            NameRecord { digest: Digest::of(b"index"), manifest: manifest.clone() },
        );
        index.images.insert(
            manifest.clone(),
            ImageRecord {
                indices: [Digest::of(b"index")].into(),
                config: Digest::of(b"config"),
                layers: vec![],
                stored_unix_ms: 7,
                pulled: true,
            },
        );
        index.write(dir.path()).unwrap();
        let read = Index::read(dir.path()).unwrap();
        assert_eq!(read.images, index.images);
        assert_eq!(read.find(&ImageReference::parse("nginx").unwrap()).unwrap().manifest, manifest);
        assert_eq!(read.find_digest(&Digest::of(b"index")).unwrap().manifest, manifest);
        assert_eq!(read.find_digest(&Digest::of(b"other")), None);

        fs::write(dir.path().join(FILE), br#"{"version":2,"names":[]}"#).unwrap();
        assert!(Index::read(dir.path()).unwrap_err().to_string().contains("newer"));
    }
}
