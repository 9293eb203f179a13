//! Images of this node: loaded from a stream, pulled, resolved to a digest, removed.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use carrack_api::stream::Frame;
use carrack_api::{
    HeldImage, LoadedImages, Problem, PullPolicy, PullProgress, RegistryCredentials, ResolvedImage,
};
use carrack_runtime::error::chain;
use carrack_runtime::image::{self, Image, ImageReference, LoadOptions, ProgressSink};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::{Answer, Asker, Desk, View, done, internal, nobody};
use crate::containers::{Containers, held, pull_progress, registry_credentials};

/// Pieces of an archive that may wait to be read.
const PIECES_MAX: usize = 16;
/// Time between two messages of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Shortest part of an image id that is taken for one.
const ID_MIN_DIGITS: usize = 6;

impl Desk {
    pub(super) async fn image_load<R: AsyncRead + Unpin>(
        &self,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let progress = Latest::default();
        let sink = progress.clone();
        let loading = self.containers.clone().blocking(move |this| {
            let input = Pieces { receiver, current: Vec::new(), offset: 0, ended: false };
            let sink = ProgressSink::new(move |now| sink.set(pull_progress(now)));
            let loaded = this.store().load(input, &LoadOptions::default(), &sink)?;
            this.refresh_images();
            images_of(this, loaded.iter().map(|loaded| &loaded.digest))
        });
        let feeding = async {
            let mut sender = Some(sender);
            loop {
                match asker.next().await {
                    Some(Frame::Data(bytes)) => {
                        let end = bytes.is_empty();
                        let Some(pieces) = &sender else { continue };
                        // A loader that wants no more has failed, and its error is the answer.
                        if pieces.send(bytes).await.is_err() || end {
                            sender = None;
                        }
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        tokio::pin!(loading);
        let telling = tell(&progress, answer);
        let loaded = tokio::select! {
            loaded = &mut loading => loaded,
            // The loader then meets the end of its stream and stops by itself.
            () = feeding => loading.await,
            () = telling => return Err(nobody()),
        };
        let images = loaded.map_err(image_problem)?;
        done(&LoadedImages { images })
    }

    pub(super) async fn image_pull<R: AsyncRead + Unpin>(
        &self,
        reference: &str,
        credentials: Option<&RegistryCredentials>,
        asker: &mut Asker<R>,
        answer: &Answer,
    ) -> Result<Frame, Problem> {
        let reference = parse(reference)?;
        let progress = Latest::default();
        let sink = progress.clone();
        let pulling = self.containers.pull(&reference, credentials, Arc::new(move |now| sink.set(now)));
        let image = tokio::select! {
            pulled = pulling => pulled.map_err(image_problem)?,
            () = tell(&progress, answer) => return Err(nobody()),
            () = asker.gone() => return Err(nobody()),
        };
        done(&held_as(&image, &reference))
    }

    pub(super) async fn image_resolve(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<Frame, Problem> {
        let reference = parse(reference)?;
        let name = reference.tagged().unwrap_or_else(|| reference.clone()).to_string();
        if let Some(digest) = reference.digest() {
            return done(&ResolvedImage { name, digest: digest.to_string() });
        }
        if policy != PullPolicy::Always {
            let wanted = reference.clone();
            let found = self
                .containers
                .clone()
                .blocking(move |this| {
                    let found = this.store().get(&wanted)?;
                    // It is about to be needed: no collection takes it before the deploy has said so.
                    if let Some(image) = &found {
                        this.store().mark_used([&image.manifest].into_iter(), SystemTime::now())?;
                    }
                    Ok(found)
                })
                .await;
            if let Some(image) = found.map_err(image_problem)? {
                return done(&ResolvedImage { name, digest: image.digest.to_string() });
            }
        }
        if policy == PullPolicy::Never {
            let detail =
                format!("image {} is not on this node, and its pull policy is never", reference.familiar());
            return Err(Problem::not_found("image-not-found", detail).hint("carrack image load brings one"));
        }
        let credentials = credentials.map(registry_credentials);
        let resolved = self.containers.store().resolve(&reference, credentials.as_ref()).await;
        done(&ResolvedImage { name, digest: resolved.map_err(image_problem)?.to_string() })
    }

    /// Shows credentials to a registry; done when it accepts them.
    pub(super) async fn registry_check(
        &self,
        registry: &str,
        credentials: &RegistryCredentials,
    ) -> Result<Frame, Problem> {
        let username = &credentials.username;
        let shown = registry_credentials(credentials);
        self.containers.store().login(registry, &shown).await.map_err(|error| match error {
            image::Error::Unauthorized { .. } => {
                let detail = format!("{registry} does not accept the password of {username}");
                Problem::new(403, "registry-refused", detail)
                    .hint("check both; many registries want an access token in place of the password")
            }
            error => image_problem(error),
        })?;
        done(&())
    }

    pub(super) async fn image_remove(&self, text: String, view: View) -> Result<Frame, Problem> {
        self.containers.clone().blocking(move |this| remove(this, &text, &view)).await?;
        done(&())
    }
}

fn remove(containers: &Containers, text: &str, view: &View) -> Result<(), Problem> {
    let (image, names) = find(containers, text)?;
    // An image goes with its last name, and then nobody may need it any more.
    if image.names.len() <= names.len()
        && let Some(user) = user_of(containers, &image, view)
    {
        let detail = format!("image {text} is in use by {user}");
        return Err(
            Problem::new(409, "image-in-use", detail).hint("remove the stack first: carrack rm STACK")
        );
    }
    for name in names {
        containers.store().remove(&name, &|_| false).map_err(image_problem)?;
    }
    containers.refresh_images();
    Ok(())
}

/// The image that a name, a digest or a part of an id means, and the names that are to go.
pub(super) fn find(containers: &Containers, text: &str) -> Result<(Image, Vec<ImageReference>), Problem> {
    let store = containers.store();
    if let Ok(reference) = ImageReference::parse(text)
        && let Some(image) = store.get(&reference).map_err(image_problem)?
    {
        return Ok((image, vec![reference]));
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_id = hex.len() >= ID_MIN_DIGITS && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let images = if is_id { store.list().map_err(image_problem)? } else { Vec::new() };
    let mut matching = images.into_iter().filter(|image| {
        [&image.digest, &image.manifest, &image.config_digest]
            .iter()
            .any(|digest| digest.hex().starts_with(hex))
    });
    match (matching.next(), matching.next()) {
        (Some(image), None) => {
            let pinned = ImageReference::parse(&format!("image@{}", image.digest));
            let pinned = pinned.map_err(|error| internal(&error))?;
            let mut names = image.names.clone();
            if names.is_empty() {
                names.push(pinned);
            }
            Ok((image, names))
        }
        (Some(_), Some(_)) => Err(Problem::new(
            409,
            "image-ambiguous",
            format!("several images have an id that begins with {text}"),
        )),
        (None, _) => Err(Problem::not_found("image-not-found", format!("no image {text} on this node"))
            .hint("`carrack image ls` lists them")),
    }
}

/// A task that runs or is to run from an image.
pub(super) fn user_of(containers: &Containers, image: &Image, view: &View) -> Option<String> {
    let assignment = view.assignment.as_ref()?;
    let uses = |id: &carrack_api::TaskId, task: &carrack_api::AssignedTask| {
        let over = view.report_of(*id).is_some_and(|report| report.state.is_final());
        let found = containers.find_image(&task.spec.container).ok().flatten();
        !over && found.is_some_and(|used| used.manifest == image.manifest)
    };
    assignment.tasks.iter().find(|(id, task)| uses(id, task)).map(|(id, _)| view.name(*id))
}

fn images_of<'a>(
    containers: &Containers,
    digests: impl Iterator<Item = &'a image::Digest>,
) -> Result<Vec<HeldImage>, image::Error> {
    let mut images = Vec::new();
    for digest in digests {
        images.extend(containers.store().get_by_digest(digest)?.iter().flat_map(held));
    }
    images.sort();
    images.dedup();
    Ok(images)
}

pub(super) fn held_as(image: &Image, reference: &ImageReference) -> HeldImage {
    let name = reference.tagged().unwrap_or_else(|| reference.clone()).to_string();
    let known = held(image);
    let mut shown =
        known.iter().find(|held| held.name == name).or_else(|| known.first()).cloned().unwrap_or_else(|| {
            HeldImage {
                name: String::new(),
                digest: image.digest.to_string(),
                size: carrack_api::Bytes(image.unpacked_bytes()),
                created_at: Default::default(),
            }
        });
    shown.name = name;
    shown
}

pub(super) fn parse(text: &str) -> Result<ImageReference, Problem> {
    ImageReference::parse(text).map_err(|error| Problem::new(422, "image-name-invalid", error.to_string()))
}

pub(super) fn image_problem(error: image::Error) -> Problem {
    let text = chain(&error);
    match error {
        image::Error::NotStored { .. } | image::Error::NotFound { .. } => {
            Problem::not_found("image-not-found", text)
        }
        image::Error::Unauthorized { .. } => Problem::new(403, "registry-refused", text),
        image::Error::Registry { .. } | image::Error::Transport { .. } | image::Error::Joined { .. } => {
            Problem::new(502, "registry-failed", text)
        }
        image::Error::Throttled { .. } => Problem::new(502, "registry-busy", text),
        image::Error::NoSpace { .. } => Problem::new(507, "disk-full", text),
        image::Error::Io { .. } | image::Error::Locked { .. } | image::Error::Internal { .. } => {
            Problem::internal(text)
        }
        _ => Problem::new(422, "image-invalid", text),
    }
}

/// Sends progress while something is under way; returns only when the asker is gone.
async fn tell(progress: &Latest, answer: &Answer) {
    let mut ticks = interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(now) = progress.take()
            && answer.message(&now).await.is_err()
        {
            return;
        }
    }
}

/// The newest progress that was not told yet.
#[derive(Debug, Clone, Default)]
struct Latest {
    progress: Arc<Mutex<Option<PullProgress>>>,
}

impl Latest {
    fn set(&self, progress: PullProgress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    fn take(&self) -> Option<PullProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An archive as it arrives in frames, for a reader on a blocking thread.
struct Pieces {
    receiver: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    offset: usize,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.offset == self.current.len() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(piece) if piece.is_empty() => self.ended = true,
                Some(piece) => (self.current, self.offset) = (piece, 0),
                None => {
                    let why = "the asker went away before the end of the archive";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
            }
        }
        let rest = &self.current[self.offset..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.offset += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_as_it_was_sent_and_a_lost_asker_is_an_error() {
        let (sender, receiver) = mpsc::channel(8);
        for piece in [&b"hello "[..], b"world", b""] {
            sender.try_send(piece.to_vec()).unwrap();
        }
        let mut pieces = Pieces { receiver, current: Vec::new(), offset: 0, ended: false };
        let mut text = String::new();
        pieces.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello world");

        let (sender, receiver) = mpsc::channel(8);
        sender.try_send(b"half".to_vec()).unwrap();
        drop(sender);
        let mut pieces = Pieces { receiver, current: Vec::new(), offset: 0, ended: false };
        assert_eq!(pieces.read_to_string(&mut text).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
