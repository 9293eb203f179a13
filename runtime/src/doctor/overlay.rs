//! Overlay filesystems, really tried: one is mounted on the filesystem that would hold the writable layers, in a mount
//! namespace of its own, and used as a container uses it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use carrack_api::fact::Fact;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::{AREA, REFUSED};
use crate::template::unshare_namespace;

const NAME: &str = "overlayfs";
const COST: &str = "root filesystems of containers cannot be mounted";

/// Whether containers can have their root filesystems below the state directory.
pub(super) fn fact(state_dir: &Path) -> Fact {
    let Some(existing) = state_dir.ancestors().find(|path| path.is_dir()) else {
        return Fact::missing(AREA, NAME, format!("{} is in no directory", state_dir.display()), COST)
            .hint("carrack daemon --state-dir DIR, with an absolute path");
    };
    if !rustix::process::geteuid().is_root() {
        return Fact::untried(AREA, NAME).hint("sudo carrack doctor");
    }
    let kind = filesystem(existing);
    // Only this thread changes its namespace, and it ends with it.
    let tried = std::thread::scope(|scope| {
        let trial = scope.spawn(|| Trial::new(existing)?.run());
        trial.join().unwrap_or_else(|_| Err(Failure::Other(io::Error::other("the trial panicked"))))
    });
    match tried {
        Ok(()) => Fact::ok(AREA, NAME, format!("works on {kind} ({})", existing.display())),
        Err(Failure::Mount(error)) => judge(&error, &kind, existing),
        Err(Failure::Whiteout) => Fact::missing(AREA, NAME, format!("cannot hide a file on {kind}"), COST)
            .hint("a state directory on ext4, xfs (ftype=1) or btrfs: carrack daemon --state-dir DIR"),
        Err(Failure::Other(error)) => {
            let found = format!("could not be tried in {}: {error}", existing.display());
            Fact::missing(AREA, NAME, found, COST).hint(match error.kind() {
                io::ErrorKind::PermissionDenied => REFUSED,
                _ => "a state directory that can be written to: carrack daemon --state-dir DIR",
            })
        }
    }
}

fn judge(error: &io::Error, kind: &str, dir: &Path) -> Fact {
    match error.raw_os_error() {
        Some(libc::ENODEV) => Fact::missing(AREA, NAME, "not in this kernel", COST).hint("modprobe overlay"),
        Some(libc::EPERM | libc::EACCES) => Fact::missing(AREA, NAME, format!("refused: {error}"), COST)
            .hint(format!("{REFUSED}; AppArmor and SELinux may refuse mounts")),
        _ => {
            let found = format!("does not work on {kind} ({}): {error}", dir.display());
            Fact::missing(AREA, NAME, found, COST)
                .hint("a state directory on ext4, xfs (ftype=1) or btrfs: carrack daemon --state-dir DIR")
        }
    }
}

/// What came in between.
enum Failure {
    Mount(io::Error),
    Whiteout,
    Other(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Other(error.into())
    }
}

/// A directory of our own, gone when this is dropped.
struct Trial {
    dir: PathBuf,
}

impl Drop for Trial {
    fn drop(&mut self) {
        // What is left is an empty overlay in a directory that names its owner.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Trial {
    fn new(parent: &Path) -> Result<Self, Failure> {
        let dir = parent.join(format!(".carrack-doctor-{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self { dir })
    }

    fn run(&self) -> Result<(), Failure> {
        let [lower, upper, work, merged] =
            ["lower", "upper", "work", "merged"].map(|name| self.dir.join(name));
        for dir in [&lower, &upper, &work, &merged] {
            fs::create_dir(dir)?;
        }
        fs::write(lower.join("file"), "x")?;
        fs::create_dir(lower.join("dir"))?;
        fs::write(lower.join("dir/below"), "x")?;
        unshare_namespace(UnshareFlags::NEWNS)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let text = |path: &Path| path.display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", text(&lower), text(&upper), text(&work));
        let options = CString::new(options).map_err(io::Error::other)?;
        rustix::mount::mount("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str())
            .map_err(|error| Failure::Mount(error.into()))?;
        let used = use_it(&merged, &upper);
        rustix::mount::unmount(&merged, UnmountFlags::DETACH)?;
        used
    }
}

/// A file of the image is removed, and a directory of it is replaced: the image's must not shine through.
fn use_it(merged: &Path, upper: &Path) -> Result<(), Failure> {
    fs::write(merged.join("new"), "x").map_err(Failure::Mount)?;
    fs::remove_file(merged.join("file"))?;
    fs::remove_dir_all(merged.join("dir"))?;
    fs::create_dir(merged.join("dir"))?;
    let hidden = fs::symlink_metadata(upper.join("file"))?;
    let is_whiteout = hidden.file_type().is_char_device() && hidden.rdev() == 0;
    match is_whiteout && !merged.join("dir/below").exists() {
        true => Ok(()),
        false => Err(Failure::Whiteout),
    }
}

/// The type of the filesystem that a directory is on: of the longest mount point above it.
fn filesystem(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    type_of(&mounts, dir).unwrap_or("a filesystem of unknown type").to_owned()
}

fn type_of<'a>(mounts: &'a str, dir: &Path) -> Option<&'a str> {
    let found = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        dir.starts_with(point).then_some((point.len(), right.split(' ').next()?))
    });
    // Of two mounts on one point the later covers the earlier.
    found.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filesystem_of_a_directory_is_that_of_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /var rw shared:1 - xfs /dev/sdb rw\n\
                      3 1 0:6 / /var/lib rw - btrfs x rw\n4 1 0:7 / /var/lib rw - tmpfs x rw\n";
        for (dir, kind) in
            [("/", "ext4"), ("/etc", "ext4"), ("/var/log", "xfs"), ("/var/lib/carrack", "tmpfs")]
        {
            assert_eq!(type_of(mounts, Path::new(dir)), Some(kind), "{dir}");
        }
        assert_eq!(type_of("", Path::new("/")), None);
    }

    #[test]
    fn a_refusal_says_what_helps() {
        let fact = |code| judge(&io::Error::from_raw_os_error(code), "nfs4", Path::new("/srv"));
        assert_eq!(fact(libc::ENODEV).hint, "modprobe overlay");
        assert!(fact(libc::EINVAL).to_string().contains("on nfs4 (/srv)"));
    }
}
