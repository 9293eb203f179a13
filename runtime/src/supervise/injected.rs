//! Files whose content the caller gives: secrets and configs.
//!
//! ```text
//!   daemon --memory file, as stdin--> supervisor --> tmpfs of the run's own namespace --> read-only mounts in the container
//! ```
//! The content is never in `request.json` nor in any other file of the host: it is on a tmpfs that the container's mounts alone
//! hold, which goes with them. A restart is a new run, and is given the content again.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use carrack_api::Content;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::mount::{MountFlags, mount, mount_remount};

use crate::bundle::{MountKind, ReadyMount};
use crate::error::StartError;
use crate::request::InjectedFile;
use crate::template::PRIVATE;

/// Content of all files of one run together, bytes.
pub(crate) const CONTENT_MAX_BYTES: u64 = 64 << 20;
/// Where they are in our namespace.
const PLACE: &str = "files";
/// Room for each file beyond its content: what is left of its last page, and its name.
const FILE_ROOM_BYTES: u64 = 8 << 10;
const OF_TMPFS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// The contents as the supervisor's standard input; `None` when there are no files.
pub(crate) fn send(files: &[InjectedFile]) -> io::Result<Option<OwnedFd>> {
    if files.is_empty() {
        return Ok(None);
    }
    let total: u64 = files.iter().map(|file| file.content.bytes().len() as u64).sum();
    if total > CONTENT_MAX_BYTES {
        return Err(io::Error::other(format!("{total} bytes; at most {CONTENT_MAX_BYTES} are taken")));
    }
    let mut memory = File::from(memfd_create("carrack-files", MemfdFlags::CLOEXEC)?);
    for file in files {
        memory.write_all(&(file.content.bytes().len() as u64).to_le_bytes())?;
        memory.write_all(file.content.bytes())?;
    }
    memory.rewind()?;
    Ok(Some(memory.into()))
}

/// Takes the contents from standard input, and puts `/dev/null` there, so that the memory goes as soon as they are written.
pub(super) fn receive(files: &mut [InjectedFile]) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let mut input = io::stdin().lock();
    take(&mut input, files)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(())
}

fn take(input: &mut impl Read, files: &mut [InjectedFile]) -> io::Result<()> {
    let mut left = CONTENT_MAX_BYTES;
    for file in files {
        let mut length = [0; 8];
        input.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        left = left.checked_sub(length).ok_or_else(|| io::Error::other("more content than is taken"))?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        input.read_exact(&mut bytes)?;
        file.content = Content::new(bytes);
    }
    Ok(())
}

/// Wipes the contents from our memory: they are where they belong.
pub(super) fn wipe(files: &mut [InjectedFile]) {
    for file in files {
        file.content = Content::default();
    }
}

/// A mount of a secret or config.
pub(super) fn is_ours(mount: &ReadyMount) -> bool {
    let place = Path::new(PRIVATE).join(PLACE);
    matches!(&mount.kind, MountKind::Bind { source, .. } if source.starts_with(place))
}

/// Writes the files to a tmpfs of our own namespace and says what is to be mounted.
pub(super) fn ready(files: &[InjectedFile]) -> Result<Vec<ReadyMount>, StartError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let place = Path::new(PRIVATE).join(PLACE);
    let bytes = files.iter().map(|file| file.content.bytes().len() as u64 + FILE_ROOM_BYTES).sum::<u64>();
    make(&place, bytes).map_err(super::system("make a place in memory for secrets and configs"))?;
    let mut mounts = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let path = place.join(index.to_string());
        write(&path, file)
            .map_err(|error| StartError::Mount { target: file.target.clone(), why: error.to_string() })?;
        let kind = MountKind::Bind { source: path, devices: false };
        mounts.push(ReadyMount { target: file.target.clone(), kind, read_only: true });
    }
    // Nobody writes there again, whatever becomes of the mounts.
    mount_remount(&place, OF_TMPFS | MountFlags::RDONLY, c"")
        .map_err(super::system("make secrets and configs read-only"))?;
    Ok(mounts)
}

fn make(place: &Path, bytes: u64) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let try_with = |options: String| {
        let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
        mount("carrack", place, "tmpfs", OF_TMPFS, options.as_c_str()).map_err(io::Error::from)
    };
    let options = format!("mode=700,size={bytes}");
    match try_with(format!("{options},noswap")) {
        // Kernels before 6.4 cannot keep a tmpfs out of swap.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => try_with(options),
        result => result,
    }
}

fn write(path: &Path, file: &InjectedFile) -> io::Result<()> {
    let mut opened = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    opened.write_all(file.content.bytes())?;
    fchown(&opened, Some(file.uid), Some(file.gid))?;
    opened.set_permissions(fs::Permissions::from_mode(file.mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> InjectedFile {
        InjectedFile {
            target: "/run/secrets/a".into(),
            content: Content::new(content.to_vec()),
            mode: 0o444,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn contents_travel_beside_the_request_and_not_in_it() {
        let files = [file(b"canary"), file(b""), file(&[0xff; 300_000])];
        let json = serde_json::to_string(&files).unwrap();
        assert!(!json.contains("canary") && !json.contains("99,97,110") && json.len() < 1000, "{json}");
        let mut received: Vec<InjectedFile> = serde_json::from_str(&json).unwrap();
        take(&mut File::from(send(&files).unwrap().unwrap()), &mut received).unwrap();
        assert_eq!(received, files);
        assert!(send(&[]).unwrap().is_none());
    }

    #[test]
    fn what_ends_early_or_is_too_long_is_an_error() {
        assert!(take(&mut [3_u8, 0, 0, 0, 0, 0, 0, 0, 1].as_slice(), &mut [file(b"")]).is_err());
        assert!(take(&mut [0xff_u8; 16].as_slice(), &mut [file(b"")]).is_err());
    }
}
