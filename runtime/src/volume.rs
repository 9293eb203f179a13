//! Named volumes: directories below one root, filled with the image's content when they are new.
//!
//! Owns `STATE_DIR/volumes`. Which volumes are in use is the caller's knowledge. Filling is atomic: the content is copied
//! beside the volume and renamed over it, so a crash leaves an empty volume and not half of one.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use carrack_api::VolumeName;
use rustix::fs::OFlags;

use crate::error::RuntimeError;
use crate::record::{make_dir, remove_tree};
use crate::{copy, in_root};

/// Names of unfinished copies begin so; no volume's name can.
const COPY_PREFIX: &str = ".copy-";
/// Names of the files that are locked while a volume is filled begin so.
const LOCK_PREFIX: &str = ".lock-";

/// The named volumes of a node.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    root: PathBuf,
}

/// A volume and where it is.
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
        make_dir(&root, 0o711)?;
        Ok(Self { root })
    }

    /// All volumes by name.
    pub fn list(&self) -> Result<Vec<VolumeInfo>, RuntimeError> {
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(RuntimeError::file("read", &self.root))? {
            let entry = entry.map_err(RuntimeError::file("read", &self.root))?;
            if let Ok(name) = VolumeName::new(entry.file_name().to_string_lossy()) {
                volumes.push(VolumeInfo { name, path: entry.path() });
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Where a volume is or would be.
    pub fn path(&self, name: &VolumeName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Makes an empty volume where there is none.
    pub fn create(&self, name: &VolumeName) -> Result<PathBuf, RuntimeError> {
        let path = self.path(name);
        make_dir(&path, 0o755)?;
        Ok(path)
    }

    /// Removes a volume with its content; refused while `in_use` says so.
    pub fn remove(
        &self,
        name: &VolumeName,
        in_use: impl FnOnce(&VolumeName) -> bool,
    ) -> Result<(), RuntimeError> {
        let path = self.path(name);
        if !path.exists() {
            return Err(RuntimeError::NoVolume(name.to_string()));
        }
        if in_use(name) {
            return Err(RuntimeError::VolumeInUse(name.to_string()));
        }
        // Out of sight first, so that a crash leaves nothing that looks like a volume.
        let doomed = self.root.join(format!("{COPY_PREFIX}{name}"));
        remove_tree(&doomed)?;
        fs::rename(&path, &doomed).map_err(RuntimeError::file("remove", &path))?;
        remove_tree(&doomed)?;
        let lock = self.root.join(format!("{LOCK_PREFIX}{name}"));
        match fs::remove_file(&lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::file("remove", &lock)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Fills an empty volume with the content of a directory of the image, attributes of the directory included. Does nothing
/// when the volume has content or the image has no such directory.
pub(crate) fn fill(volume: &Path, rootfs: &OwnedFd, target: &str) -> io::Result<()> {
    let source = match in_root::open(rootfs, target, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(source) => source,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (Some(parent), Some(name)) = (volume.parent(), volume.file_name()) else { return Ok(()) };
    let empty = || copy::is_empty(&File::open(volume)?.into());
    if !empty()? {
        return Ok(());
    }
    // Replicas start together: one copies, the others wait and find the volume filled. Not the volume itself is locked, which
    // a container could do too.
    let lock = parent.join(format!("{LOCK_PREFIX}{}", name.to_string_lossy()));
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(lock)?;
    lock.lock()?;
    if !empty()? {
        return Ok(());
    }
    let temporary = parent.join(format!("{COPY_PREFIX}{}", name.to_string_lossy()));
    match fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&temporary)?;
    copy::copy_tree(&source, &File::open(&temporary)?.into())?;
    // Renaming over an empty directory replaces it; over one that was filled meanwhile it fails, and that content wins.
    match fs::rename(&temporary, volume) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&temporary),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn store() -> (tempfile::TempDir, VolumeStore, VolumeName) {
        let dir = tempfile::tempdir().unwrap();
        let store = VolumeStore::open(dir.path().join("volumes")).unwrap();
        (dir, store, VolumeName::new("shop_data").unwrap())
    }

    #[test]
    fn users_that_start_together_fill_it_once() {
        let (dir, store, name) = store();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("data")).unwrap();
        for number in 0..200 {
            fs::write(root.join(format!("data/{number}")), number.to_string()).unwrap();
        }
        let rootfs: OwnedFd = File::open(&root).unwrap().into();
        let path = store.create(&name).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| fill(&path, &rootfs, "/data").unwrap());
            }
        });
        assert_eq!(fs::read_dir(&path).unwrap().count(), 200);
        assert_eq!(store.list().unwrap().len(), 1);
        store.remove(&name, |_| false).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_new_volume_takes_the_images_content_once() {
        let (dir, store, name) = store();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::write(root.join("data/file"), "one").unwrap();
        fs::hard_link(root.join("data/file"), root.join("data/sub/link")).unwrap();
        symlink("/etc/passwd", root.join("data/pw")).unwrap();
        fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o1770)).unwrap();
        std::os::unix::fs::chown(root.join("data/file"), Some(70), Some(71)).unwrap();
        let rootfs: OwnedFd = File::open(&root).unwrap().into();
        let path = store.create(&name).unwrap();
        fill(&path, &rootfs, "/data").unwrap();
        assert_eq!(fs::read_to_string(path.join("sub/link")).unwrap(), "one");
        assert_eq!(fs::metadata(path.join("file")).unwrap().uid(), 70);
        assert_eq!(fs::metadata(path.join("file")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o1770);
        assert_eq!(fs::read_link(path.join("pw")).unwrap(), Path::new("/etc/passwd"));
        fs::write(path.join("file"), "mine").unwrap();
        fill(&path, &rootfs, "/data").unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "mine");
        fill(&path, &rootfs, "/nothing").unwrap();
    }

    #[test]
    fn a_volume_in_use_stays() {
        let (_dir, store, name) = store();
        let path = store.create(&name).unwrap();
        assert!(matches!(store.remove(&name, |_| true), Err(RuntimeError::VolumeInUse(_))));
        assert_eq!(store.list().unwrap(), [VolumeInfo { name: name.clone(), path: path.clone() }]);
        store.remove(&name, |_| false).unwrap();
        assert!(!path.exists());
        assert!(matches!(store.remove(&name, |_| false), Err(RuntimeError::NoVolume(_))));
    }

    #[test]
    fn a_link_in_the_image_cannot_copy_the_host() {
        let (dir, store, name) = store();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        symlink("/etc", root.join("data")).unwrap();
        let path = store.create(&name).unwrap();
        fill(&path, &File::open(&root).unwrap().into(), "/data").unwrap();
        assert!(fs::read_dir(&path).unwrap().next().is_none());
    }
}
