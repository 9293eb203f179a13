//! Named volumes: directories below one root.

use std::path::PathBuf;

use carrack_api::VolumeName;

use crate::error::RuntimeError;

/// The named volumes of a node.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    root: PathBuf,
}

/// A volume and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: VolumeName,
    /// Its directory on this host.
    pub path: PathBuf,
}

impl VolumeStore {
    /// Makes the root directory when it is missing.
    pub fn open(root: PathBuf) -> Result<Self, RuntimeError> {
        std::fs::create_dir_all(&root).map_err(RuntimeError::file("create", &root))?;
        Ok(Self { root })
    }

    /// All volumes by name.
    pub fn list(&self) -> Result<Vec<VolumeInfo>, RuntimeError> {
        Ok(Vec::new())
    }

    /// Removes a volume with its content; refused while `in_use` says so.
    pub fn remove(&self, name: &VolumeName, in_use: impl FnOnce(&VolumeName) -> bool) -> Result<(), RuntimeError> {
        if in_use(name) { Err(RuntimeError::VolumeInUse(name.to_string())) } else { Err(RuntimeError::NoVolume(self.root.display().to_string())) }
    }
}
