//! Looking after images: told in full, given names, saved as archives, and taken away when nobody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::time::UNIX_EPOCH;

use carrack_api::stream::Frame;
use carrack_api::{
    Bytes, HeldImage, ImageDetails, ImageLayer, Problem, PruneImages, PrunedImages, TagImage, Timestamp,
};
use carrack_runtime::image::{self, Image, ImageReference};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::images::{find, held_as, image_problem, parse, user_of};
use super::{Answer, Asker, Desk, View, done, internal, nobody};
use crate::containers::{Containers, held};

/// Pieces of an archive that wait for the asker.
const PIECES_MAX: usize = 16;
/// Bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;
/// Most images of one archive.
const SAVE_MAX: usize = 1000;

impl Desk {
    pub(super) async fn image_inspect(&self, text: String) -> Result<Frame, Problem> {
        let found = self.containers.clone().blocking(move |this| find(this, &text).map(|(image, _)| image));
        done(&details(&found.await?))
    }

    pub(super) async fn image_tag(&self, tag: TagImage) -> Result<Frame, Problem> {
        let tagged = self.containers.clone().blocking(move |this| {
            let target = parse(&tag.target)?;
            if target.digest().is_some() {
                let text = format!("{:?} has a digest; a name is given without one", tag.target);
                return Err(Problem::new(422, "image-name-invalid", text));
            }
            let (image, _) = find(this, &tag.source)?;
            let target = target.tagged().unwrap_or(target);
            this.store().tag(&image.digest, &target).map_err(image_problem)?;
            this.refresh_images();
            Ok(held_as(&image, &target))
        });
        done(&tagged.await?)
    }

    pub(super) async fn image_save<R: AsyncRead + Unpin>(
        &self,
        references: Vec<String>,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        if references.is_empty() || references.len() > SAVE_MAX {
            let text = format!("{} images are to be saved; 1 to {SAVE_MAX} are allowed", references.len());
            return Err(Problem::new(422, "invalid-images", text));
        }
        let (sender, mut pieces) = mpsc::channel(PIECES_MAX);
        let saving = self.containers.clone().blocking(move |this| {
            let images = wanted(this, &references)?;
            let out = BufWriter::with_capacity(PIECE_BYTES, Pieces(sender));
            this.store().save(&images, out).map_err(image_problem)
        });
        let sending = async {
            while let Some(piece) = pieces.recv().await {
                answer.send(Frame::Data(piece)).await.map_err(|_| nobody())?;
            }
            Ok::<_, Problem>(())
        };
        tokio::select! {
            // The last pieces are sent before the end is told.
            (saved, sent) = async { tokio::join!(saving, sending) } => {
                saved?;
                sent?;
            }
            () = asker.gone() => return Err(nobody()),
        }
        done(&())
    }

    pub(super) async fn image_prune(
        &self,
        prune: PruneImages,
        needed: BTreeSet<String>,
        view: View,
    ) -> Result<Frame, Problem> {
        let pruned = self.containers.clone().blocking(move |this| pruned(this, prune, &needed, &view));
        done(&pruned.await?)
    }
}

/// Images by what they were asked for as, each once with all the names it was asked for by.
fn wanted(
    containers: &Containers,
    references: &[String],
) -> Result<Vec<(Image, Vec<ImageReference>)>, Problem> {
    let mut images: BTreeMap<String, (Image, Vec<ImageReference>)> = BTreeMap::new();
    for text in references {
        let (image, names) = find(containers, text)?;
        let entry = images.entry(image.digest.to_string()).or_insert_with(|| (image, Vec::new()));
        for name in names.into_iter().filter(|name| name.digest().is_none()) {
            let name = name.tagged().unwrap_or(name);
            if !entry.1.contains(&name) {
                entry.1.push(name);
            }
        }
    }
    Ok(images.into_values().collect())
}

/// Where an archive is written.
struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(bytes.to_vec());
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn details(image: &Image) -> ImageDetails {
    let stored = image.stored_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let config = &image.config;
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let variant = config.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    ImageDetails {
        names: image.names.iter().map(ToString::to_string).collect(),
        digest: image.digest.to_string(),
        manifest: image.manifest.to_string(),
        config: image.config_digest.to_string(),
        stored_at: Timestamp(u64::try_from(stored.as_millis()).unwrap_or(u64::MAX)),
        size: Bytes(image.unpacked_bytes()),
        platform: format!("{}/{}{variant}", config.os, config.architecture),
        entrypoint: config.entrypoint.clone(),
        command: config.cmd.clone(),
        env: config.env.clone(),
        user: given(&config.user),
        working_dir: given(&config.working_dir),
        ports: config.exposed_ports.clone(),
        volumes: config.volumes.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        layers: image
            .layers
            .iter()
            .map(|layer| ImageLayer {
                digest: layer.blob.to_string(),
                diff_id: layer.diff_id.to_string(),
                compressed: Bytes(layer.blob_bytes),
                size: Bytes(layer.unpacked_bytes),
            })
            .collect(),
        used_by: BTreeSet::new(),
    }
}

fn pruned(
    containers: &Containers,
    prune: PruneImages,
    needed: &BTreeSet<String>,
    view: &View,
) -> Result<PrunedImages, Problem> {
    let keep = |image: &Image| {
        let named = image.names.iter().any(|name| needed.contains(&name.to_string()));
        (!prune.all && !image.names.is_empty())
            || named
            || needed.contains(&image.digest.to_string())
            || needed.contains(&image.manifest.to_string())
            || user_of(containers, image, view).is_some()
    };
    let (kept, doomed): (Vec<Image>, Vec<Image>) =
        containers.store().list().map_err(image_problem)?.into_iter().partition(keep);
    let mut pruned = PrunedImages::default();
    for image in &doomed {
        pruned.images.extend(entries(image));
    }
    if prune.dry_run {
        pruned.freed = Bytes(alone(&kept, &doomed));
        return Ok(pruned);
    }
    for image in doomed {
        let whole = ImageReference::parse(&format!("image@{}", image.digest));
        let whole = whole.map_err(|error| internal(&error))?;
        match containers.store().remove(&whole, &|_| false) {
            Ok(removed) => pruned.freed = Bytes(pruned.freed.0 + removed.freed_bytes),
            // Somebody else was faster.
            Err(image::Error::NotStored { .. }) => {}
            Err(error) => return Err(image_problem(error)),
        }
    }
    containers.refresh_images();
    Ok(pruned)
}

/// An image under each of its names; without a name under none.
fn entries(image: &Image) -> Vec<HeldImage> {
    let named = held(image);
    if !named.is_empty() {
        return named;
    }
    let stored = image.stored_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    vec![HeldImage {
        name: String::new(),
        digest: image.digest.to_string(),
        size: Bytes(image.unpacked_bytes()),
        created_at: Timestamp(u64::try_from(stored.as_millis()).unwrap_or(u64::MAX)),
    }]
}

/// Bytes of layers that only the doomed images have.
fn alone(kept: &[Image], doomed: &[Image]) -> u64 {
    let layers = |images: &[Image]| -> BTreeMap<String, u64> {
        let all = images.iter().flat_map(|image| &image.layers);
        all.map(|layer| (layer.diff_id.to_string(), layer.unpacked_bytes + layer.blob_bytes)).collect()
    };
    let kept = layers(kept);
    layers(doomed).iter().filter(|(id, _)| !kept.contains_key(*id)).map(|(_, bytes)| bytes).sum()
}
