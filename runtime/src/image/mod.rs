//! Images: names, content-addressed blobs, unpacked layers; how they get onto a node and off it.
//!
//! Owns `STATE/images` (one process at a time). Does not mount anything and knows no containers:
//! whoever runs an image asks for its [`Image::layers`] or [`Image::short_layers`] and mounts
//! them, and says through a predicate which images are in use when one is removed.
//!
//! ```text
//!  STATE/images/lock              held by the one process that has the store open
//!  STATE/images/index.json        names -> images -> layers; replaced atomically, the only truth
//!  STATE/images/used.json         when images were last used
//!  STATE/images/blobs/HEX         manifests, configs and layers as received
//!  STATE/images/layers/HEX        unpacked layers by diff id, each an overlayfs lower directory
//!  STATE/images/l/SHORT           symlinks to layers/HEX, so that many fit one mount option
//!  STATE/images/partial/HEX       blobs that a pull did not finish, for the next one; never visible
//!  STATE/images/tmp/              work in progress and trash; emptied when the store opens
//! ```
//!
//! An image is visible once the index names it, and the index is written only after `syncfs` of
//! everything it names. What no index entry names is swept when the store opens.

mod blob;
mod config;
mod credentials;
mod digest;
mod disk;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gc;
mod index;
mod load;
mod manifest;
mod partial;
mod progress;
mod pull;
mod reference;
mod registry;
mod save;
mod session;
mod store;
mod tree;
pub mod unpack;
mod used;
mod user;

pub use config::{Healthcheck, ImageConfig, MAX_CONFIG_BYTES, MAX_LAYERS, Platform};
pub use credentials::Credentials;
pub use digest::{Digest, DigestError};
pub use error::{Error, Result};
pub use gc::{Collected, DiskUse, GC_MIN_AGE, GcPolicy};
pub use load::{LoadOptions, LoadedImage};
pub use progress::{Progress, ProgressSink};
pub use reference::{DEFAULT_REGISTRY, DEFAULT_TAG, ImageReference, ReferenceError};
pub use registry::{HostConfig, MAX_MIRRORS, RegistryConfig};
pub use store::{Image, ImageStore, Layer, Removed, ShortLayers, StoreOptions};
pub use tree::RootTree;
pub use user::{ResolvedUser, resolve_user};
