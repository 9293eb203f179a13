//! Building images with a tool of this machine: docker (with buildx or without), podman or buildah.
//!
//! ```text
//!   find     which tool is there and works, and which options it has
//!   command  a build's keys -> the tool's command line, or what it lacks (pure)
//!   run      the tool runs, is interrupted, and hands the image over as an archive
//! ```
//! Owns no image: what was built goes to the daemon through the API, as `carrack image load` sends it.

mod command;
mod find;
mod run;

pub(crate) use command::{Line, Wanted, line};
pub(crate) use find::{Builder, find};
pub(crate) use run::{Ended, build, save};
