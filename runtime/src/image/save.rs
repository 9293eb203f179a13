//! Saving images: an OCI layout in a tar archive, with the list that older `docker load` reads.
//!
//! The blobs are those that were received, so that the digests of whoever loads them are ours. Each is verified while it is
//! written: an archive with a damaged blob is never finished.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};

use serde::Serialize;
use serde_json::json;

use super::digest::{Digest, HashingReader};
use super::error::{Error, Result, io_error};
use super::manifest::{self, Descriptor, Document, MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST};
use super::reference::ImageReference;
use super::session::Session;
use super::store::{Image, ImageStore};

/// A complete name, as containerd and Docker write it.
const FULL_NAME: &str = "io.containerd.image.name";
/// A tag, as the OCI says.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Writes images, each with the names it is to have, as an archive that `docker load`, skopeo and our own load take.
    pub fn save(&self, images: &[(Image, Vec<ImageReference>)], out: impl Write) -> Result<()> {
        let session = self.session();
        let mut saver = Saver { session: &session, out: tar::Builder::new(out), written: BTreeSet::new() };
        saver.small("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        let (mut descriptors, mut listed) = (Vec::new(), Vec::new());
        for (image, names) in images {
            let descriptor = saver.image(image)?;
            descriptors.extend(named(&descriptor, names));
            listed.push(Listed {
                config: path(&image.config_digest),
                repo_tags: names.iter().map(ImageReference::familiar).collect(),
                layers: image.layers.iter().map(|layer| path(&layer.blob)).collect(),
            });
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors });
        saver.small("index.json", &index)?;
        saver.small("manifest.json", &listed)?;
        saver.out.into_inner().and_then(|mut out| out.flush()).map_err(unwritten)
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn unwritten(source: io::Error) -> Error {
    io_error("write", std::path::Path::new("the archive"))(source)
}

/// The descriptor once for each name; without a name once as it is.
fn named(descriptor: &Descriptor, names: &[ImageReference]) -> Vec<Descriptor> {
    let with = |name: &ImageReference| {
        let tag = name.tag().unwrap_or_default().to_owned();
        let annotations = [(FULL_NAME.to_owned(), name.to_string()), (REF_NAME.to_owned(), tag)];
        Descriptor { annotations: BTreeMap::from(annotations), ..descriptor.clone() }
    };
    match names {
        [] => vec![descriptor.clone()],
        names => names.iter().map(with).collect(),
    }
}

struct Saver<'a, W: Write> {
    session: &'a Session,
    out: tar::Builder<W>,
    written: BTreeSet<Digest>,
}

impl<W: Write> Saver<'_, W> {
    /// Writes the blobs of an image; the descriptor of what its name stands for.
    fn image(&mut self, image: &Image) -> Result<Descriptor> {
        let store = &self.session.store.inner;
        let layers = image.layers.iter().map(|layer| &layer.blob);
        let mut blobs: Vec<Digest> =
            [&image.config_digest, &image.manifest].into_iter().chain(layers).cloned().collect();
        if image.digest != image.manifest {
            let record = store.index().images.get(&image.manifest).cloned();
            blobs.extend(record.into_iter().flat_map(|record| record.indices));
        }
        for blob in &blobs {
            self.session.pin(blob);
        }
        for blob in blobs {
            self.blob(&blob)?;
        }
        let document = store.read_blob(&image.digest, MAX_MANIFEST_BYTES)?;
        let usual = match manifest::parse(&document) {
            Ok(Document::Index(_)) => OCI_INDEX,
            Ok(Document::Manifest(_)) => OCI_MANIFEST,
            Err(reason) => {
                let what = format!("manifest {}", image.digest);
                return Err(Error::Invalid { image: image.digest.to_string(), what, reason });
            }
        };
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: Option<String>,
        }
        let said = serde_json::from_slice::<Typed>(&document).ok().and_then(|typed| typed.media_type);
        let media_type = said.unwrap_or_else(|| usual.to_owned());
        Ok(Descriptor::new(&media_type, image.digest.clone(), document.len() as u64))
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        let source = self.session.store.inner.blob_path(digest);
        let fail = |error| io_error("read", &source)(error);
        let file = File::open(&source).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let mut reader = HashingReader::new(file.take(size));
        self.entry(&path(digest), size, &mut reader)?;
        let actual = reader.finish();
        if actual != *digest {
            return Err(Error::DigestMismatch { expected: digest.clone(), actual });
        }
        Ok(())
    }

    fn small(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_vec(value).map_err(|error| Error::Internal { reason: error.to_string() })?;
        self.entry(name, text.len() as u64, &mut &text[..])
    }

    fn entry(&mut self, name: &str, size: u64, data: &mut dyn Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        // The same images always give the same archive.
        header.set_mtime(0);
        self.out.append_data(&mut header, name, data).map_err(unwritten)
    }
}
