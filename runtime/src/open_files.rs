//! How many files may be open: the daemon holds a dozen descriptors of each container and takes all it may have, while
//! containers keep the soft limit that the daemon was started with, as programs expect (1024 under systemd).

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Tells our children the soft limit that was there before.
const VARIABLE: &str = "CARRACK_OPEN_FILES";

/// The soft limit before it was raised.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of this process to its hard one. Fine when it cannot: then fewer containers fit.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let Some(before) = limit.current.filter(|soft| limit.maximum != Some(*soft)) else { return };
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        // Who raises it again finds the first one's value kept.
        Ok(()) => drop(BEFORE.set(before)),
        Err(error) => tracing::warn!(%error, before, "the limit of open files cannot be raised"),
    }
}

/// What a child of ours needs in its environment to have the limit of before.
pub(crate) fn environment() -> Option<(&'static str, String)> {
    BEFORE.get().map(|before| (VARIABLE, before.to_string()))
}

/// In a child: back to the limit of before.
pub(crate) fn restore() {
    let Some(before) = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()) else { return };
    let hard = getrlimit(Resource::Nofile).maximum;
    // Lowering a soft limit is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(before), maximum: hard });
}
