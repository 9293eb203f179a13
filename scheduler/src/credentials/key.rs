//! The key that secrets of the store are sealed under. Owns its file: `STATE/keys/secrets.key`, 0600, 32 random bytes, made at the
//! first start and never changed. It is beside no store file, so that a copy of the store alone opens nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom as _, SystemRandom};

/// Bytes of the key.
pub(super) const KEY_BYTES: usize = 32;
/// Its file's name.
const FILE: &str = "secrets.key";

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read or made.
    #[error("the key of the store's secrets {} could not be {did}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        did: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the key of the store's secrets {} has {bytes} bytes in place of {KEY_BYTES}; restore it, or remove it and deploy again", .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// No random bytes.
    #[error("no random bytes for the key of the store's secrets")]
    Random,
}

/// Reads the key in a directory, making both when they are missing.
pub(super) fn load(directory: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let path = directory.join(FILE);
    let failed = |did, source| KeyError::Io { path: path.clone(), did, source };
    match std::fs::read(&path) {
        Ok(bytes) => {
            let found = bytes.len();
            bytes.try_into().map_err(|_| KeyError::Length { path: path.clone(), bytes: found })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; KEY_BYTES];
            SystemRandom::new().fill(&mut key).map_err(|_| KeyError::Random)?;
            make(directory, &path, &key).map_err(|source| failed("made", source))?;
            Ok(key)
        }
        Err(source) => Err(failed("read", source)),
    }
}

/// Writes the file whole or not at all, and makes it last.
fn make(directory: &Path, path: &Path, key: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let aside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(key)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    // The directory may be new itself: without its own entry the key would be lost and the store not.
    for directory in std::iter::once(directory).chain(directory.parent()) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_for_root_alone_and_a_damaged_one_is_told() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("keys");
        let key = load(&directory).unwrap();
        assert_eq!(load(&directory).unwrap(), key);
        let path = directory.join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert_ne!(load(&state.path().join("other")).unwrap(), key);
        std::fs::write(&path, b"short").unwrap();
        assert!(load(&directory).unwrap_err().to_string().contains("has 5 bytes"));
    }
}
