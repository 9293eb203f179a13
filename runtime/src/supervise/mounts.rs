//! Sources of mounts: opened in the host's mount namespace, attached in ours.
//!
//! A source is a detached mount (`open_tree`), so what is checked is what is mounted, and a network file system that hangs
//! does so in this process and not in the daemon.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use carrack_api::{Mount, MountSource};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use sha2::{Digest, Sha256};

use super::Launch;
use crate::bundle::{MountKind, ReadyMount};
use crate::error::{StartError, chain};
use crate::record::{RunDir, read_json};
use crate::request::RunId;
use crate::template::PRIVATE;
use crate::volume::{VolumeStore, fill};
use crate::{host_path, in_root};

/// Largest number of mounts in one container.
const MOUNTS_MAX: usize = 1024;
/// Longest directory name of an anonymous volume, with room for what is put before it; longer ones are a digest.
const ANONYMOUS_NAME_MAX_BYTES: usize = 200;

/// One mount of the spec on its way.
pub(super) struct Source {
    pub(super) mount: Mount,
    kind: Kind,
}

enum Kind {
    Tree(OwnedFd),
    Volume { path: PathBuf, fill: bool, subpath: Option<String> },
    Tmpfs,
}

/// Opens all sources. Image volumes and anonymous ones become directories of the task.
pub(super) fn open_sources(launch: &Launch) -> Result<Vec<Source>, StartError> {
    let request = &launch.request;
    let mut wanted = request.spec.mounts.clone();
    for target in &request.image.volumes {
        // A volume of the image gives way to what the service has there.
        let taken =
            wanted.iter().map(|mount| &mount.target).chain(request.files.iter().map(|file| &file.target));
        if !taken.into_iter().any(|taken| same_target(taken, target)) {
            let mount = Mount { target: target.clone(), source: MountSource::Anonymous, read_only: false };
            wanted.push(mount);
        }
    }
    if wanted.len() > MOUNTS_MAX {
        return Err(StartError::Spec { field: "mounts".into(), why: format!("more than {MOUNTS_MAX}") });
    }
    wanted.into_iter().map(|mount| open_source(launch, mount)).collect()
}

fn same_target(a: &str, b: &str) -> bool {
    let parts =
        |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    parts(a) == parts(b)
}

fn open_source(launch: &Launch, mount: Mount) -> Result<Source, StartError> {
    let fail = |why: String| StartError::Mount { target: mount.target.clone(), why };
    if !mount.target.starts_with('/') || mount.target.split('/').any(|part| part == "..") {
        return Err(fail("the target must be an absolute path without `..`".into()));
    }
    allowed_in_sys(&mount).map_err(fail)?;
    let kind = match &mount.source {
        MountSource::Tmpfs { .. } => Kind::Tmpfs,
        MountSource::Bind { path, create, alone, .. } => {
            Kind::Tree(bind(launch, path, *create, *alone).map_err(fail)?)
        }
        MountSource::Anonymous => {
            let path = anonymous_path(launch, &mount.target);
            fs::create_dir_all(&path).map_err(|error| fail(error.to_string()))?;
            Kind::Volume { path, fill: true, subpath: None }
        }
        MountSource::Volume { name, nocopy, subpath } => {
            let store =
                VolumeStore::open(launch.layout.volumes()).map_err(|error| fail(error.to_string()))?;
            let path = store.create(name).map_err(|error| fail(error.to_string()))?;
            named(path, !nocopy, subpath.clone()).map_err(fail)?
        }
    };
    Ok(Source { mount, kind })
}

/// The kernel's files are no place to make directories in.
fn allowed_in_sys(mount: &Mount) -> Result<(), String> {
    let target = Path::new(&mount.target);
    if !target.starts_with("/sys") {
        return Ok(());
    }
    match &mount.source {
        MountSource::Bind { .. } if target.exists() => Ok(()),
        MountSource::Bind { .. } => Err("the kernel has no such path to mount over".into()),
        MountSource::Volume { .. } | MountSource::Anonymous | MountSource::Tmpfs { .. } => {
            Err("only a path of the host can be mounted over the kernel's files".into())
        }
    }
}

/// A volume that something is mounted on is taken as it is; others are reached in our own namespace after they are filled.
fn named(path: PathBuf, fill: bool, subpath: Option<String>) -> Result<Kind, String> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(|error| error.to_string());
    let mounted = device(&path)? != device(path.parent().unwrap_or(&path))?;
    if mounted {
        below(&path, subpath.as_deref()).map(Kind::Tree)
    } else {
        Ok(Kind::Volume { path, fill, subpath })
    }
}

/// Anonymous volumes belong to the task and are named after their target.
fn anonymous_path(launch: &Launch, target: &str) -> PathBuf {
    let id: &RunId = &launch.request.id;
    launch.layout.anonymous_volumes(&id.task).join(anonymous_name(target))
}

fn anonymous_name(target: &str) -> String {
    let plain = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("_{byte:02x}"),
    };
    let name: String = target.bytes().map(plain).collect();
    if name.len() <= ANONYMOUS_NAME_MAX_BYTES {
        return name;
    }
    // No short name begins so: a target begins with a slash.
    Sha256::digest(target.as_bytes()).iter().fold("h".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn bind(launch: &Launch, path: &str, create: bool, alone: bool) -> Result<OwnedFd, String> {
    if !path.starts_with('/') {
        return Err(format!("the path {path:?} is not absolute"));
    }
    let source = host_path::open(path, create, || writable_places(launch))
        .map_err(|error| format!("{path:?}: {error}"))?;
    for own in [&launch.layout.runtime_dir, &launch.layout.state_dir] {
        let own = fs::canonicalize(own).map_err(|error| format!("{}: {error}", own.display()))?;
        if source.found.starts_with(&own) {
            return Err(format!("{path:?} is inside {}, which belongs to Carrack", own.display()));
        }
    }
    clone_opened(&source.fd, alone).map_err(|error| format!("{path:?}: {error}"))
}

/// Directories of the host that containers of this node can write, as far as runs of them are known: the binds of all runs,
/// of this one too, and what is ours.
fn writable_places(launch: &Launch) -> std::io::Result<Vec<PathBuf>> {
    let mut mounts = launch.request.spec.mounts.clone();
    for task in fs::read_dir(launch.layout.tasks())? {
        // A task that goes meanwhile has no runs.
        for run in fs::read_dir(task?.path()).into_iter().flatten() {
            let other: Option<Launch> = read_json(&RunDir(run?.path()).request())
                .map_err(|error| std::io::Error::other(chain(&error)))?;
            mounts.extend(other.into_iter().flat_map(|other| other.request.spec.mounts));
        }
    }
    let binds = mounts.iter().filter(|mount| !mount.read_only).filter_map(|mount| match &mount.source {
        MountSource::Bind { path, .. } => fs::canonicalize(path).ok(),
        MountSource::Volume { .. } | MountSource::Anonymous | MountSource::Tmpfs { .. } => None,
    });
    Ok(binds.chain([launch.layout.state_dir.clone()]).collect())
}

/// A detached copy of what a descriptor stands for, with all that is mounted below unless it is to be alone.
fn clone_opened(fd: &OwnedFd, alone: bool) -> Result<OwnedFd, rustix::io::Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, !alone);
    rustix::mount::open_tree(fd, "", flags)
}

fn clone_tree(path: &Path) -> Result<OwnedFd, String> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(CWD, path, flags).map_err(|error| format!("{}: {error}", path.display()))
}

/// A directory or file inside a volume; symlinks cannot lead out of it.
fn below(volume: &Path, subpath: Option<&str>) -> Result<OwnedFd, String> {
    let Some(subpath) = subpath.filter(|path| !path.is_empty()) else { return clone_tree(volume) };
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("{}: {error}", volume.display()))?;
    let found = in_root::open(&root, subpath, OFlags::PATH)
        .map_err(|error| format!("subpath {subpath:?}: {error}"))?;
    clone_opened(&found, false).map_err(|error| format!("subpath {subpath:?}: {error}"))
}

/// Detached mounts of the image's layers.
pub(super) fn open_layers(layers: &[PathBuf]) -> Result<Vec<OwnedFd>, StartError> {
    if layers.is_empty() {
        return Err(StartError::Spec { field: "image".into(), why: "has no layers".into() });
    }
    let open = |path: &PathBuf| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(CWD, path, flags).map_err(|error| StartError::System {
            step: format!("open the image layer {}", path.display()),
            why: error.to_string(),
        })
    };
    layers.iter().map(open).collect()
}

/// Puts a detached mount at a path of our namespace; makes the path.
pub(super) fn attach(tree: &OwnedFd, at: &Path) -> std::io::Result<()> {
    let stat = rustix::fs::fstat(tree)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        fs::create_dir_all(at)?;
    } else {
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(at)?;
    }
    rustix::mount::move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(Into::into)
}

/// Fills volumes, attaches sources and says what the bundle is to mount. Runs in our own namespace. `devices`: device nodes in
/// volumes may be used.
pub(super) fn ready(
    sources: Vec<Source>,
    rootfs: &OwnedFd,
    devices: bool,
) -> Result<Vec<ReadyMount>, StartError> {
    let mut ready = Vec::new();
    for (index, source) in sources.into_iter().enumerate() {
        let at = Path::new(PRIVATE).join("mounts").join(index.to_string());
        let target = source.mount.target.clone();
        let kind = ready_one(source.kind, &source.mount, rootfs, at, devices)
            .map_err(|why| StartError::Mount { target: target.clone(), why })?;
        ready.push(ReadyMount { target, kind, read_only: source.mount.read_only });
    }
    Ok(ready)
}

fn ready_one(
    kind: Kind,
    mount: &Mount,
    rootfs: &OwnedFd,
    at: PathBuf,
    devices: bool,
) -> Result<MountKind, String> {
    let tree = match kind {
        Kind::Tmpfs => {
            let MountSource::Tmpfs { size, mode, options } = &mount.source else {
                return Err("is no tmpfs".into());
            };
            return Ok(MountKind::Tmpfs {
                size: size.map(|size| size.0),
                mode: mode.unwrap_or(0o1777),
                options: options.clone(),
            });
        }
        Kind::Tree(tree) => tree,
        Kind::Volume { path, fill: wanted, subpath } => {
            if wanted {
                fill(&path, rootfs, &mount.target)
                    .map_err(|error| format!("cannot copy the image's content: {error}"))?;
            }
            below(&path, subpath.as_deref())?
        }
    };
    attach(&tree, &at).map_err(|error| error.to_string())?;
    let (wanted, of_devices) = match &mount.source {
        MountSource::Bind { path, propagation, .. } => {
            (propagation.as_str(), Path::new(path).starts_with("/dev"))
        }
        MountSource::Volume { .. } | MountSource::Anonymous | MountSource::Tmpfs { .. } => ("", false),
    };
    propagate(&at, wanted)?;
    Ok(MountKind::Bind { source: at, devices: devices || of_devices })
}

/// Whether mounts that the node makes below later appear in the container, too. It is decided here, because libcontainer does
/// not look at the word, and only ever makes less of what it finds.
fn propagate(at: &Path, wanted: &str) -> Result<(), String> {
    let (flags, follows) = match wanted {
        "" | "rprivate" => (MountPropagationFlags::PRIVATE | MountPropagationFlags::REC, false),
        "private" => (MountPropagationFlags::PRIVATE, false),
        "rslave" => (MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC, true),
        "slave" => (MountPropagationFlags::DOWNSTREAM, true),
        other => return Err(format!("the propagation {other:?} is not built yet")),
    };
    rustix::mount::mount_change(at, flags).map_err(|error| format!("propagation {wanted:?}: {error}"))?;
    if follows && !is_downstream(at).map_err(|error| format!("/proc/self/mountinfo: {error}"))? {
        return Err(format!(
            "its source lies on a mount of the node that is not shared, and nothing can follow it \
             ({wanted:?}); `mount --make-shared` there"
        ));
    }
    Ok(())
}

/// The mount at a path of ours follows another.
fn is_downstream(at: &Path) -> std::io::Result<bool> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    // ID, parent, device, root, place, options, then optional fields up to a dash.
    Ok(text.lines().any(|line| {
        let mut fields = line.split(' ').skip(4);
        fields.next().is_some_and(|place| Path::new(place) == at)
            && fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("master:"))
    }))
}

/// The root directory of a mounted root filesystem.
pub(super) fn open_root(path: &Path) -> std::io::Result<OwnedFd> {
    let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    debug_assert!(rustix::fs::fstat(root.as_fd()).is_ok());
    Ok(root)
}
