//! Pulling images from registries.
use super::credentials::Credentials;
use super::digest::Digest;
use super::error::{Error, Result};
use super::progress::ProgressSink;
use super::reference::ImageReference;
use super::store::{Image, ImageStore};

impl ImageStore {
    /// Pulls an image, or only what is missing of it, and gives it the reference's name.
    pub async fn pull(&self, reference: &ImageReference, credentials: Option<&Credentials>, progress: ProgressSink) -> Result<Image> {
        let _ = (reference, credentials, progress);
        Err(Error::Internal { reason: "pull is not available yet".to_owned() })
    }

    /// Asks the registry what a reference means now, without pulling.
    pub async fn resolve(&self, reference: &ImageReference, credentials: Option<&Credentials>) -> Result<Digest> {
        let _ = (reference, credentials);
        Err(Error::Internal { reason: "resolve is not available yet".to_owned() })
    }
}
