//! Loading images from OCI layouts and archives.
use std::io::Read;
use std::path::Path;

use super::digest::Digest;
use super::error::{Error, Result};
use super::progress::ProgressSink;
use super::reference::ImageReference;
use super::store::ImageStore;

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The repository that bare tags of an OCI layout belong to; a complete name when the archive
    /// holds one image. Without it a bare tag is taken as a repository name.
    pub name: Option<ImageReference>,
}

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its names; empty when the archive gives none.
    pub names: Vec<ImageReference>,
    /// What the names resolve to.
    pub digest: Digest,
    /// The manifest for this machine.
    pub manifest: Digest,
}

impl ImageStore {
    /// Loads every image of an archive (OCI or `docker save`, plain, gzip or zstd) from a stream.
    /// Blocks; all images become visible together at the end, or none.
    pub fn load(&self, input: impl Read, options: &LoadOptions, progress: &ProgressSink) -> Result<Vec<LoadedImage>> {
        let _ = (input, options, progress);
        Err(Error::Internal { reason: "load is not available yet".to_owned() })
    }

    /// Loads from a path: an archive, or the directory of an OCI layout.
    pub fn load_path(&self, path: &Path, options: &LoadOptions, progress: &ProgressSink) -> Result<Vec<LoadedImage>> {
        let _ = (path, options, progress);
        Err(Error::Internal { reason: "load is not available yet".to_owned() })
    }
}
