//! What can go wrong with images: one variant per failed operation, with the object in it.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::{Digest, DigestError};
use super::reference::ReferenceError;

/// A failed image operation. Never holds a credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation on the store failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The disk of the store is full, or its quota is used up.
    #[error("no space is left to {operation} {}: remove images with `carrack image prune`, or free space on this disk", path.display())]
    NoSpace {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// Another process has the store open.
    #[error("the image store {} is in use by another process", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The store's index was written by a newer version, or is damaged.
    #[error("cannot read the image index {}: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A text is not an image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A text is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The image is not in the store.
    #[error("no such image on this node: {image}")]
    NotStored {
        /// The image as asked for.
        image: String,
    },
    /// The archive cannot be read, or is no image archive.
    #[error("cannot load the image archive: {reason}")]
    Archive {
        /// What is wrong.
        reason: String,
    },
    /// Reading the archive's stream failed.
    #[error("cannot read the image archive")]
    ArchiveRead {
        /// Why it failed.
        source: io::Error,
    },
    /// A manifest, index or config does not say what it must.
    #[error("{what} of image {image} is invalid: {reason}")]
    Invalid {
        /// The image.
        image: String,
        /// Which document, with its digest.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content does not hash to its digest.
    #[error("blob {expected} is damaged: its content hashes to {actual}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What was received.
        actual: Digest,
    },
    /// Content is not as long as its descriptor says.
    #[error("blob {digest} has {actual} bytes where its descriptor says {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// Bytes promised.
        expected: u64,
        /// Bytes received, or the first count beyond the promise.
        actual: u64,
    },
    /// A manifest names a blob that the archive does not hold.
    #[error("image {image} lacks blob {digest}")]
    MissingBlob {
        /// The image.
        image: String,
        /// The blob.
        digest: Digest,
    },
    /// No manifest for this machine.
    #[error("image {image} has no variant for {wanted}; it offers {}", offered(available))]
    NoMatchingPlatform {
        /// The image.
        image: String,
        /// This machine's platform.
        wanted: String,
        /// The platforms of the image.
        available: Vec<String>,
    },
    /// A layer's content is unsafe or malformed.
    #[error("layer {layer} is refused: entry '{entry}': {reason}")]
    Entry {
        /// The layer's blob.
        layer: Digest,
        /// The entry's name as in the archive, shortened and escaped.
        entry: String,
        /// Why it is refused.
        reason: String,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {layer}: {reason}")]
    Unpack {
        /// The layer's blob.
        layer: Digest,
        /// Why.
        reason: String,
    },
    /// A layer's content is not what the image's config says.
    #[error("layer {layer} unpacks to {actual} where the image config says {expected}")]
    DiffId {
        /// The layer's blob.
        layer: Digest,
        /// The diff id in the config.
        expected: Digest,
        /// The diff id found.
        actual: Digest,
    },
    /// A limit on sizes or counts was exceeded.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large, by name.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// The registry does not know the image.
    #[error(
        "image {image} was not found on {}; check the name and the tag, or push it first",
        of(registry, image)
    )]
    NotFound {
        /// The image.
        image: String,
        /// The registry asked.
        registry: String,
    },
    /// The registry refuses access.
    #[error("access to image {image} was refused by {}: {hint}", of(registry, image))]
    Unauthorized {
        /// The image.
        image: String,
        /// The registry asked.
        registry: String,
        /// The next step.
        hint: &'static str,
    },
    /// The registry answered with an unexpected status.
    #[error("cannot read image {image}: {} answered with status {status}{detail}{}", of(registry, image), next_step(*status))]
    Registry {
        /// The registry asked.
        registry: String,
        /// The image.
        image: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words, shortened, with a leading colon; may be empty.
        detail: String,
    },
    /// The registry asks to be asked less often, and for longer than a pull waits.
    #[error(
        "cannot read image {image}: {} takes no more requests now (status 429){}; try again later, or log in for a higher limit",
        of(registry, image),
        asked(wait)
    )]
    Throttled {
        /// The registry asked.
        registry: String,
        /// The image.
        image: String,
        /// How long it asks to wait, if it says.
        wait: Option<std::time::Duration>,
    },
    /// The registry cannot be reached or the transfer broke.
    #[error("cannot read image {image} from {}: {reason}", of(registry, image))]
    Transport {
        /// The registry asked.
        registry: String,
        /// The image.
        image: String,
        /// The failure and its causes.
        reason: String,
    },
    /// What was configured about registries cannot be used.
    #[error("the registry configuration is invalid: {reason}")]
    RegistryConfig {
        /// What is wrong, by the setting's name; no secret.
        reason: String,
    },
    /// Another caller's pull of the same image, which this one waited for, failed.
    #[error("the pull of {image} that this one joined failed: {reason}")]
    Joined {
        /// The image.
        image: String,
        /// That pull's error.
        reason: String,
    },
    /// The `user` of a container or image does not exist in the image.
    #[error("user '{user}' does not exist in the image")]
    NoSuchUser {
        /// The name as written.
        user: String,
    },
    /// The group of a container or image does not exist in the image.
    #[error("group '{group}' does not exist in the image")]
    NoSuchGroup {
        /// The name as written.
        group: String,
    },
    /// A user or group is malformed or out of range.
    #[error("user '{user}' is invalid: {reason}")]
    InvalidUser {
        /// The text as written.
        user: String,
        /// What is wrong.
        reason: String,
    },
    /// A task of ours ended unexpectedly.
    #[error("an internal step failed: {reason}")]
    Internal {
        /// What happened.
        reason: String,
    },
}

/// A result of an image operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The registry, unless the image's name says it.
fn of<'a>(registry: &'a str, image: &str) -> &'a str {
    let named = image.strip_prefix(registry).is_some_and(|rest| rest.starts_with('/'));
    if named { "its registry" } else { registry }
}

fn next_step(status: u16) -> &'static str {
    if status >= 500 { "; the fault is the registry's, try again later" } else { "" }
}

fn asked(wait: &Option<std::time::Duration>) -> String {
    wait.map_or_else(String::new, |wait| format!(" and asks to wait {} s", wait.as_secs()))
}

fn offered(available: &[String]) -> String {
    if available.is_empty() { "none".to_owned() } else { available.join(", ") }
}

/// Makes an [`Error::Io`] from an error of `std` or `rustix`.
pub(crate) fn io_error<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    move |source| {
        let source = source.into();
        let path = path.to_owned();
        if is_no_space(&source) {
            return Error::NoSpace { operation, path };
        }
        Error::Io { operation, path, source }
    }
}

/// A step of a pull is passed: see `carrack_api::fail`.
pub(crate) fn point(name: &'static str) -> Result<()> {
    carrack_api::fail::point(name).map_err(|error| Error::Internal { reason: error.to_string() })
}

/// Whether an operation failed because the disk is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
