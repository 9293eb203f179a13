//! Unpacking one layer in a confined child process; this side starts it and checks its report.
//!
//! The child is this program again (see [`CHILD`]): it takes the compressed layer on its standard
//! input, shuts itself into the layer's directory (`confine`), makes the files (`extract`) and
//! answers with one [`report::Report`]. Nothing that parses a layer runs in the daemon.

mod child;
mod confine;
pub(super) mod decompress;
mod extract;
mod limits;
pub(super) mod name;
mod pax;
mod report;
mod slots;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags};

pub use child::child_main;
pub use limits::Limits;
pub(super) use slots::Slots;

use super::digest::Digest;
use super::error::{Error, Result, io_error};
use report::{Done, MAX_REPORT_BYTES, Report, Setup};

/// The first argument that makes the binary run as the unpack child.
pub const CHILD: &str = "__unpack-layer";
/// The mark of a directory that hides what lower layers hold.
const OPAQUE: &str = "trusted.overlay.opaque";

/// A layer's blob, open for reading.
pub(super) struct LayerBlob {
    pub(super) digest: Digest,
    pub(super) diff_id: Digest,
    pub(super) file: File,
}

/// What came out of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unpacked {
    pub(super) bytes: u64,
}

/// Unpacks `layer` into the empty directory `target` and verifies its diff id. On an error the
/// directory holds rubbish for the caller to remove.
pub(super) fn run(helper: &Path, limits: &Limits, layer: LayerBlob, target: &Path) -> Result<Unpacked> {
    let failed = |reason: String| Error::Unpack { layer: layer.digest.clone(), reason };
    // The root of the image, unless the archive says otherwise.
    fs::set_permissions(target, fs::Permissions::from_mode(0o755)).map_err(io_error("protect", target))?;
    let setup = Setup {
        target: target.as_os_str().as_bytes().to_vec(),
        parent: std::process::id(),
        limits: limits.clone(),
    };
    let setup = serde_json::to_string(&setup).map_err(|error| failed(error.to_string()))?;
    let child = Command::new(helper)
        .arg0("carrack-unpack")
        .arg(CHILD)
        .arg(setup)
        .env_clear()
        .envs(carrack_api::fail::environment())
        .current_dir("/")
        .stdin(layer.file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("cannot start the unpack process {}: {error}", helper.display())))?;
    let report = finish(child).map_err(&failed)?;
    let done = match report {
        Report::Done(done) => done,
        Report::Refused { entry, reason } => return Err(Error::Entry { layer: layer.digest, entry, reason }),
        Report::NoSpace => {
            return Err(Error::NoSpace { operation: "unpack a layer to", path: target.to_owned() });
        }
        Report::Failed { reason } => return Err(failed(reason)),
    };
    if done.diff_id != layer.diff_id {
        return Err(Error::DiffId { layer: layer.digest, expected: layer.diff_id, actual: done.diff_id });
    }
    if done.skipped_count > 0 {
        tracing::warn!(
            layer = %layer.digest, count = done.skipped_count, first = ?done.skipped,
            "left out entries that an image may not set"
        );
    }
    mark_opaque(target, &done).map_err(io_error("mark opaque directories in", target))?;
    tracing::debug!(layer = %layer.digest, entries = done.entries, bytes = done.bytes, "unpacked a layer");
    Ok(Unpacked { bytes: done.bytes })
}

/// What the child does once it is confined; for fuzzing.
#[cfg(feature = "fuzzing")]
pub(super) fn unpack_below(layer: &[u8], root: std::os::fd::OwnedFd, limits: Limits) {
    // A refusal is as good as a success.
    let _ = child::unpack(layer, root, limits);
}

/// Reads the child's report and collects the child, whatever happens.
fn finish(child: Child) -> Result<Report, String> {
    let mut child = Reaped(child);
    let mut text = Vec::new();
    let mut stdout = child.0.stdout.take().ok_or("the unpack process has no output")?.take(MAX_REPORT_BYTES);
    stdout
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read the unpack process's report: {error}"))?;
    drop(stdout);
    let status = child.0.wait().map_err(|error| format!("cannot wait for the unpack process: {error}"))?;
    if let Some(signal) = status.signal() {
        return Err(format!("the unpack process was killed by signal {signal}"));
    }
    serde_json::from_slice(&text)
        .map_err(|error| format!("the unpack process ended with {status} and no valid report ({error})"))
}

/// A child that is killed and collected when it is dropped early.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail harmlessly when the child is collected already.
        let killed = self.0.kill().and_then(|()| self.0.wait().map(drop));
        if let Err(error) = killed {
            tracing::warn!(%error, "cannot end the unpack process");
        }
    }
}

/// Marks directories opaque: done here, since it needs CAP_SYS_ADMIN. The paths come from the
/// child and are not trusted: they resolve beneath the layer or not at all.
fn mark_opaque(target: &Path, done: &Done) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    for path in &done.opaque {
        match rustix::fs::openat2(&root, &path[..], flags, Mode::empty(), resolve) {
            Ok(dir) => rustix::fs::fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())?,
            // A later entry of the layer put a file in its place, which hides as well.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
