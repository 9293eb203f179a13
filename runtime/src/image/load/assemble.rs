//! Finding the images among an archive's blobs, and the names they go by.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde::Deserialize;

use super::super::config::{self, MAX_CONFIG_BYTES, Platform};
use super::super::digest::Digest;
use super::super::error::{Error, Result, io_error};
use super::super::manifest::{
    self, Descriptor, Document, ImageIndex, MAX_MANIFEST_BYTES, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST,
};
use super::super::reference::ImageReference;
use super::super::session::Session;
use super::LoadOptions;
use super::stage::Staged;

/// A complete name, as containerd and Docker write it.
const FULL_NAME: &str = "io.containerd.image.name";
/// A tag or a name, as the OCI says.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// How deep indices may nest.
const MAX_NESTING: usize = 3;
/// Most images of one archive.
const MAX_IMAGES: usize = 1000;

/// An image whose blobs are all in the store.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) names: Vec<ImageReference>,
    pub(super) digest: Digest,
    pub(super) indices: BTreeSet<Digest>,
    pub(super) manifest_digest: Digest,
    pub(super) manifest: Manifest,
    pub(super) diff_ids: Vec<Digest>,
}

/// Every image of the archive that is meant for this machine.
pub(super) fn images(session: &Session, staged: &Staged, options: &LoadOptions) -> Result<Vec<Assembled>> {
    let assembler = Assembler { session, staged, platform: Platform::host() };
    // Newer `docker save` writes both; the index has the original digests.
    let mut images = match (staged.document("index.json"), staged.document("manifest.json")) {
        (Some(index), _) => assembler.oci(index, options)?,
        (None, Some(manifest)) => assembler.docker(manifest)?,
        (None, None) => {
            let reason = "it has neither index.json nor manifest.json, so it is no image archive".to_owned();
            return Err(Error::Archive { reason });
        }
    };
    if images.is_empty() {
        return Err(Error::Archive { reason: "it holds no image".to_owned() });
    }
    if let ([image], Some(name)) = (&mut images[..], &options.name)
        && image.names.is_empty()
    {
        image.names.extend(name.tagged());
    }
    Ok(images)
}

struct Assembler<'a> {
    session: &'a Session,
    staged: &'a Staged,
    platform: Platform,
}

impl Assembler<'_> {
    fn oci(&self, document: &[u8], options: &LoadOptions) -> Result<Vec<Assembled>> {
        let invalid = |reason: String| Error::Archive { reason: format!("index.json: {reason}") };
        let index = match manifest::parse(document).map_err(invalid)? {
            Document::Index(index) => index,
            Document::Manifest(_) => return Err(invalid("it is not an index".to_owned())),
        };
        // Manifests with the same name are one image for several platforms.
        let mut named: BTreeMap<String, Vec<Descriptor>> = BTreeMap::new();
        let mut unnamed = Vec::new();
        for descriptor in index.manifests {
            match descriptor.annotations.get(FULL_NAME).or_else(|| descriptor.annotations.get(REF_NAME)) {
                Some(name) => named.entry(name.clone()).or_default().push(descriptor),
                None => unnamed.push(descriptor),
            }
        }
        check_count(named.len() + unnamed.len())?;
        let mut images = Vec::new();
        for (text, manifests) in named {
            let descriptor = self.choose(&text, &ImageIndex { manifests })?.clone();
            let mut image = self.follow(&text, &descriptor)?;
            image.names.extend(name(&text, options)?);
            images.push(image);
        }
        let only = unnamed.len() == 1 && images.is_empty();
        for descriptor in unnamed {
            match self.follow(&descriptor.digest.to_string(), &descriptor) {
                Ok(image) => images.push(image),
                Err(Error::NoMatchingPlatform { .. }) if !only => {}
                Err(error) => return Err(error),
            }
        }
        Ok(images)
    }

    fn choose<'i>(&self, image: &str, index: &'i ImageIndex) -> Result<&'i Descriptor> {
        manifest::select(index, &self.platform).map_err(|available| Error::NoMatchingPlatform {
            image: image.to_owned(),
            wanted: self.platform.to_string(),
            available,
        })
    }

    /// Follows a descriptor through indices to the manifest for this machine.
    fn follow(&self, image: &str, descriptor: &Descriptor) -> Result<Assembled> {
        let mut indices = BTreeSet::new();
        let mut current = descriptor.clone();
        for _ in 0..MAX_NESTING {
            self.require(image, &current)?;
            let document = self.session.store.inner.read_blob(&current.digest, MAX_MANIFEST_BYTES)?;
            let invalid = |reason| Error::Invalid {
                image: image.to_owned(),
                what: format!("manifest {}", current.digest),
                reason,
            };
            match manifest::parse(&document).map_err(invalid)? {
                Document::Manifest(manifest) => {
                    return self.complete(
                        image,
                        descriptor.digest.clone(),
                        indices,
                        current.digest,
                        manifest,
                    );
                }
                Document::Index(index) => {
                    indices.insert(current.digest.clone());
                    current = self.choose(image, &index)?.clone();
                }
            }
        }
        Err(Error::Invalid {
            image: image.to_owned(),
            what: format!("index {}", descriptor.digest),
            reason: format!("indices nest more than {MAX_NESTING} deep"),
        })
    }

    /// Checks that the archive held a blob, as long as its descriptor says.
    fn require(&self, image: &str, descriptor: &Descriptor) -> Result<()> {
        match self.staged.blob(&descriptor.digest) {
            None => Err(Error::MissingBlob { image: image.to_owned(), digest: descriptor.digest.clone() }),
            Some(actual) if actual != descriptor.size => Err(Error::SizeMismatch {
                digest: descriptor.digest.clone(),
                expected: descriptor.size,
                actual,
            }),
            Some(_) => Ok(()),
        }
    }

    fn complete(
        &self,
        image: &str,
        digest: Digest,
        indices: BTreeSet<Digest>,
        manifest_digest: Digest,
        manifest: Manifest,
    ) -> Result<Assembled> {
        self.require(image, &manifest.config)?;
        for layer in &manifest.layers {
            self.require(image, layer)?;
        }
        let diff_ids = check_image(self.session, image, &manifest, &self.platform)?;
        Ok(Assembled { names: Vec::new(), digest, indices, manifest_digest, manifest, diff_ids })
    }

    /// Images of a `docker save` archive. It has no manifests, so each gets one made from its
    /// config and layers as they are: the same archive always gives the same digest.
    fn docker(&self, document: &[u8]) -> Result<Vec<Assembled>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let invalid = |reason: String| Error::Archive { reason: format!("manifest.json: {reason}") };
        let saved: Vec<Saved> =
            serde_json::from_slice(document).map_err(|error| invalid(error.to_string()))?;
        check_count(saved.len())?;
        let find = |path: &str| {
            let lacks = || invalid(format!("the archive lacks '{}'", path.escape_debug()));
            self.staged.file(path).cloned().ok_or_else(lacks)
        };
        let mut images = Vec::new();
        for image in saved {
            let tags = image.repo_tags.unwrap_or_default();
            let (digest, size) = find(&image.config)?;
            let label = tags.first().cloned().unwrap_or_else(|| digest.to_string());
            let mut layers = Vec::new();
            for path in &image.layers {
                let (digest, size) = find(path)?;
                layers.push(Descriptor::new(self.layer_type(&digest)?, digest, size));
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.to_owned()),
                config: Descriptor::new(OCI_CONFIG, digest, size),
                layers,
            };
            let text = serde_json::to_vec(&manifest)
                .map_err(|error| Error::Internal { reason: error.to_string() })?;
            let manifest_digest = self.session.store_document(&text)?;
            let diff_ids = check_image(self.session, &label, &manifest, &self.platform)?;
            let names = tags.iter().map(|tag| ImageReference::parse(tag)).collect::<Result<_, _>>()?;
            let digest = manifest_digest.clone();
            images.push(Assembled {
                names,
                digest,
                indices: BTreeSet::new(),
                manifest_digest,
                manifest,
                diff_ids,
            });
        }
        Ok(images)
    }

    fn layer_type(&self, blob: &Digest) -> Result<&'static str> {
        let mut magic = Vec::new();
        let path = self.session.store.inner.blob_path(blob);
        self.session
            .store
            .open_blob(blob)?
            .take(4)
            .read_to_end(&mut magic)
            .map_err(io_error("read", &path))?;
        Ok(match magic[..] {
            [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => OCI_LAYER,
        })
    }
}

fn check_count(images: usize) -> Result<()> {
    if images > MAX_IMAGES {
        let what = "the number of images in the archive".to_owned();
        return Err(Error::TooLarge { what, limit: format!("{MAX_IMAGES} images") });
    }
    Ok(())
}

/// Checks a manifest against its config, both in the store; returns the layers' diff ids.
pub(in crate::image) fn check_image(
    session: &Session,
    image: &str,
    manifest: &Manifest,
    platform: &Platform,
) -> Result<Vec<Digest>> {
    let invalid = |reason: String| Error::Invalid {
        image: image.to_owned(),
        what: format!("config {}", manifest.config.digest),
        reason,
    };
    let document = session.store.inner.read_blob(&manifest.config.digest, MAX_CONFIG_BYTES)?;
    let parsed = config::parse(&document).map_err(invalid)?;
    let (os, architecture) = (&parsed.config.os, &parsed.config.architecture);
    let stated = !os.is_empty() && !architecture.is_empty();
    if stated && !platform.accepts(os, architecture, parsed.config.variant.as_deref()) {
        return Err(Error::NoMatchingPlatform {
            image: image.to_owned(),
            wanted: platform.to_string(),
            available: vec![format!("{}/{}", os.escape_debug(), architecture.escape_debug())],
        });
    }
    if parsed.diff_ids.len() != manifest.layers.len() {
        return Err(invalid(format!(
            "it names {} layers where the manifest has {}",
            parsed.diff_ids.len(),
            manifest.layers.len()
        )));
    }
    for layer in &manifest.layers {
        manifest::check_layer_type(&layer.media_type).map_err(invalid)?;
    }
    Ok(parsed.diff_ids)
}

/// The name that an annotation gives: complete, or a bare tag.
fn name(text: &str, options: &LoadOptions) -> Result<Option<ImageReference>> {
    let bare = !text.contains(['/', ':', '@']);
    match &options.name {
        Some(name) if bare => Ok(Some(ImageReference::parse(&format!("{}:{text}", name.name()))?)),
        _ => Ok(ImageReference::parse(text)?.tagged()),
    }
}
