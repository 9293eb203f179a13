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
    #[error("image {image} was not found on {registry}; check the name and the tag, or push it first")]
    NotFound {
        /// The image.
        image: String,
        /// The registry asked.
        registry: String,
    },
    /// The registry refuses access.
    #[error("{registry} refused access to {image}: {hint}")]
    Unauthorized {
        /// The image.
        image: String,
        /// The registry asked.
        registry: String,
        /// The next step.
        hint: &'static str,
    },
    /// The registry answered with an unexpected status.
    #[error("{registry} answered {status} for {image}{detail}")]
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
    /// The registry cannot be reached or the transfer broke.
    #[error("cannot reach {registry} for {image}: {reason}")]
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

fn offered(available: &[String]) -> String {
    if available.is_empty() { "none".to_owned() } else { available.join(", ") }
}

/// Makes an [`Error::Io`] from an error of `std` or `rustix`.
pub(crate) fn io_error<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source: source.into() }
}
