//! When images were last used: what garbage collection goes by. Losing it costs nothing but order.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{Error, Result, io_error};

/// The format this version writes and the newest it reads.
const VERSION: u32 = 1;
/// The file's name within the store.
const FILE: &str = "used.json";
/// How far the file may lag behind, in milliseconds: a running image is not written down each second.
const LAG_MS: u64 = 10 * 60 * 1000;

/// The moments of last use by manifest, in milliseconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Used {
    moments: Mutex<Moments>,
}

#[derive(Debug, Default)]
struct Moments {
    now: BTreeMap<Digest, u64>,
    written: BTreeMap<Digest, u64>,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    used: BTreeMap<Digest, u64>,
}

impl Used {
    /// Reads the file of the store at `dir`. One that is absent, damaged or newer counts as empty.
    pub(super) fn read(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<File>(&text)?));
        let used = match read {
            Ok(file) if file.version <= VERSION => file.used,
            Ok(_) => BTreeMap::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "when images were used last is not known");
                BTreeMap::new()
            }
        };
        Self { moments: Mutex::new(Moments { now: used.clone(), written: used }) }
    }

    /// Notes that `manifests` are used at `now`; writes that down when the file lags too far behind.
    /// Forgets images that are not `known`.
    pub(super) fn mark<'a>(
        &self,
        dir: &Path,
        manifests: impl Iterator<Item = &'a Digest>,
        known: &dyn Fn(&Digest) -> bool,
        now: u64,
    ) -> Result<()> {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        for manifest in manifests.filter(|manifest| known(manifest)) {
            let moment = moments.now.entry(manifest.clone()).or_default();
            *moment = now.max(*moment);
        }
        let lags = moments.now.iter().any(|(manifest, moment)| {
            moments.written.get(manifest).is_none_or(|written| written + LAG_MS <= *moment)
        });
        if !lags {
            return Ok(());
        }
        moments.now.retain(|manifest, _| known(manifest));
        let file = File { version: VERSION, used: moments.now.clone() };
        let text =
            serde_json::to_vec(&file).map_err(|error| Error::Internal { reason: error.to_string() })?;
        let (temporary, path) = (dir.join("tmp").join(FILE), dir.join(FILE));
        fs::write(&temporary, text).map_err(io_error("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(io_error("replace", &path))?;
        moments.written = file.used;
        Ok(())
    }

    /// When an image was last used, if that is known.
    pub(super) fn of(&self, manifest: &Digest) -> Option<u64> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).now.get(manifest).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_kept_across_a_restart_but_not_written_each_time() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let [one, gone] = [Digest::of(b"one"), Digest::of(b"gone")];
        let used = Used::read(dir.path());
        let known = |manifest: &Digest| *manifest != gone;
        used.mark(dir.path(), [&one, &gone].into_iter(), &known, 1_000).unwrap();
        assert_eq!((used.of(&one), used.of(&gone)), (Some(1_000), None));
        used.mark(dir.path(), [&one].into_iter(), &known, 2_000).unwrap();
        assert_eq!(used.of(&one), Some(2_000));
        assert_eq!(Used::read(dir.path()).of(&one), Some(1_000), "the file may lag");
        used.mark(dir.path(), [&one].into_iter(), &known, 1_000 + LAG_MS).unwrap();
        assert_eq!(Used::read(dir.path()).of(&one), Some(1_000 + LAG_MS));
        fs::write(dir.path().join(FILE), "rubbish").unwrap();
        assert_eq!(Used::read(dir.path()).of(&one), None);
    }
}
