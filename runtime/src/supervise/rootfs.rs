//! The root filesystem of a run in our own mount namespace: overlay, user, directories, the files under `/etc`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::mounts::{self, Source};
use super::{Launch, fd_path, injected, system, targets};
use crate::bundle::{self, DeviceNode, MountKind, Prepared, ReadyMount, User};
use crate::cgroup::Cgroup;
use crate::error::{StartError, chain};
use crate::image::{RootTree, resolve_user};
use crate::in_root;
use crate::record::RunDir;
use crate::request::StartRequest;
use crate::template::PRIVATE;

/// What was opened before the namespace was entered.
pub(super) struct Parts<'a> {
    pub(super) launch: &'a Launch,
    pub(super) run: &'a RunDir,
    pub(super) cgroup: &'a Cgroup,
    pub(super) layers: Vec<OwnedFd>,
    pub(super) sources: Vec<Source>,
    pub(super) netns: Option<&'a OwnedFd>,
    pub(super) devices: Vec<DeviceNode>,
    pub(super) disks: BTreeMap<String, (i64, i64)>,
    pub(super) host_hosts: Option<String>,
}

/// Mounts and fills everything the bundle refers to.
pub(super) fn prepare(parts: Parts<'_>) -> Result<Prepared, StartError> {
    let request = &parts.launch.request;
    let rootfs = Path::new(PRIVATE).join("rootfs");
    overlay(parts.launch, &parts.layers, &rootfs)?;
    drop(parts.layers);
    let root = mounts::open_root(&rootfs).map_err(system("open the root filesystem"))?;
    mount_points(&root)?;
    let user = find_user(request, &rootfs)?;
    working_dir(request, &root)?;
    super::at("create.17-mounts")?;
    let mut ready = etc_files(request, parts.run, parts.host_hosts)?;
    let mut own = injected::ready(&request.files)?;
    own.extend(mounts::ready(parts.sources, &root, bundle::may_make_devices(&request.spec.security))?);
    ready.retain(|file| !own.iter().any(|mount| mount.target == file.target));
    ready.extend(own);
    targets::settle_all(&root, &mut ready, &parts.devices)?;
    let working_dir = bundle::working_dir(request)?;
    let working_dir_is_plain = targets::working_dir_in_mount(&root, &ready, &working_dir)?;
    Ok(Prepared {
        rootfs,
        cgroup: parts.cgroup.path().to_owned(),
        cgroup_view: cgroup_view(parts.cgroup).map_err(system("make the view of the cgroup"))?,
        netns: parts.netns.map(fd_path),
        user,
        mounts: ready,
        devices: parts.devices,
        disks: parts.disks,
        working_dir_is_plain,
    })
}

fn overlay(launch: &Launch, layers: &[OwnedFd], rootfs: &Path) -> Result<(), StartError> {
    let private = Path::new(PRIVATE);
    let state = launch.layout.run_state(&launch.request.id);
    fs::create_dir_all(rootfs).map_err(system("make the mount point"))?;
    let mut names = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        mounts::attach(layer, &private.join("l").join(index.to_string()))
            .map_err(system("attach an image layer"))?;
        names.push(format!("l/{index}"));
    }
    // Short, relative names: the options of a mount are one page, and an image may have hundreds of layers.
    rustix::process::chdir(private).map_err(system("enter the mount point"))?;
    let dirs = |name: &str| state.join(name).display().to_string();
    same_owner(&private.join("l/0"), &state.join("upper")).map_err(system("prepare the writable layer"))?;
    let options = format!("lowerdir={},upperdir={},workdir={}", names.join(":"), dirs("upper"), dirs("work"));
    // A device node in a layer is a door to the host's devices; the container's own are on a file system of their own.
    let flags = match bundle::may_make_devices(&launch.request.spec.security) {
        true => MountFlags::empty(),
        false => MountFlags::NODEV,
    };
    let mount = |options: String| {
        let options = std::ffi::CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
        rustix::mount::mount("overlay", rootfs, "overlay", flags, options.as_c_str())
    };
    // The writable layer ends with the run: nobody needs its fsyncs.
    match mount(format!("{options},volatile")) {
        Err(rustix::io::Errno::INVAL) => mount(options),
        result => result,
    }
    .map_err(system("mount the overlay"))?;
    rustix::process::chdir("/").map_err(system("leave the mount point"))?;
    for name in names {
        rustix::mount::unmount(private.join(name), UnmountFlags::DETACH)
            .map_err(system("detach an image layer"))?;
    }
    Ok(())
}

/// The root of an overlay takes owner and mode from its upper directory: those are to be the image's.
fn same_owner(from: &Path, to: &Path) -> std::io::Result<()> {
    let found = fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))
}

/// An image whose `/proc` or the like leads elsewhere would have masks and mounts land elsewhere, too (CVE-2019-19921).
fn mount_points(root: &OwnedFd) -> Result<(), StartError> {
    for name in ["proc", "sys", "dev"] {
        let found = match rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => FileType::from_raw_mode(found.st_mode),
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(system("look at the root filesystem")(error)),
        };
        if found != FileType::Directory {
            let why = format!("its /{name} is not a directory");
            return Err(StartError::Spec { field: "image".into(), why });
        }
    }
    Ok(())
}

fn find_user(request: &StartRequest, rootfs: &Path) -> Result<User, StartError> {
    let text = request.spec.user.as_deref().unwrap_or(&request.image.user);
    let tree = RootTree::Dir(rootfs.to_owned());
    let resolve = |text: &str| {
        resolve_user(&tree, text).map_err(|error| StartError::User { user: text.into(), why: chain(&error) })
    };
    let found = resolve(text)?;
    let mut groups = with_primary(found.gid, found.additional_gids);
    for group in &request.spec.groups {
        groups.push(
            resolve(&format!("0:{group}"))
                .map_err(|_| StartError::User {
                    user: group.clone(),
                    why: "no such group in the image".into(),
                })?
                .gid,
        );
    }
    Ok(User { uid: found.uid, gid: found.gid, groups, home: found.home })
}

/// The primary group is a supplementary one too: a set-group-id program must not lose it (CVE-2022-36109).
pub(crate) fn with_primary(gid: u32, mut groups: Vec<u32>) -> Vec<u32> {
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    groups
}

fn working_dir(request: &StartRequest, root: &OwnedFd) -> Result<(), StartError> {
    let path = bundle::working_dir(request)?;
    match in_root::make_dirs(root, &path) {
        Ok(_) => Ok(()),
        Err(error) => Err(StartError::WorkingDir { path, why: error.to_string() }),
    }
}

/// The container's own cgroup, read-only, without the writable files of its parents. A mount of type `cgroup` would be
/// writable on v1, and a container's root could raise its own limits there.
fn cgroup_view(cgroup: &Cgroup) -> std::io::Result<PathBuf> {
    let view = Path::new(PRIVATE).join("cgroup");
    fs::create_dir_all(&view)?;
    let bind = |dir: &Path, at: &Path| -> std::io::Result<()> {
        fs::create_dir_all(at)?;
        rustix::mount::mount_bind(dir, at)
            .map_err(|error| std::io::Error::other(format!("bind {}: {error}", dir.display())))?;
        let flags = MountFlags::BIND
            | MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        rustix::mount::mount_remount(at, flags, c"")?;
        Ok(())
    };
    if cgroup.is_v2() {
        for (_, dir) in cgroup.dirs() {
            bind(dir, &view)?;
        }
        return Ok(view);
    }
    rustix::mount::mount(
        "tmpfs",
        &view,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=755,size=64k",
    )?;
    rustix::mount::mount_change(&view, MountPropagationFlags::PRIVATE)?;
    for (name, dir) in cgroup.dirs() {
        bind(dir, &view.join(name))?;
    }
    rustix::mount::mount_remount(
        &view,
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=755,size=64k",
    )?;
    Ok(view)
}

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, as files of the run.
fn etc_files(
    request: &StartRequest,
    run: &RunDir,
    host_hosts: Option<String>,
) -> Result<Vec<ReadyMount>, StartError> {
    let etc = run.etc();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&etc)
        .map_err(system("make the files of /etc"))?;
    let mut contents = vec![
        ("hosts", hosts(request, host_hosts)?),
        ("hostname", format!("{}\n", bundle::hostname(request))),
    ];
    contents.extend(request.resolv_conf.clone().map(|text| ("resolv.conf", text)));
    let mut mounts = Vec::new();
    for (name, content) in contents {
        let path = etc.join(name);
        write_file(&path, content.as_bytes(), 0o644).map_err(system("write the files of /etc"))?;
        mounts.push(file_mount(path, format!("/etc/{name}"), false));
    }
    Ok(mounts)
}

fn file_mount(source: PathBuf, target: String, read_only: bool) -> ReadyMount {
    ReadyMount { target, kind: MountKind::Bind { source, devices: false }, read_only }
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// The hosts file, as Docker writes it.
pub(super) fn hosts(request: &StartRequest, host_hosts: Option<String>) -> Result<String, StartError> {
    const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    let own_network = host_hosts.is_none();
    let mut text = host_hosts.unwrap_or_else(|| LOCAL.to_owned());
    let name = bundle::hostname(request);
    let names = match &request.spec.domainname {
        Some(domain) => format!("{name}.{domain} {name}"),
        None => name.to_owned(),
    };
    for address in request.addresses.iter().filter(|_| own_network) {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    for (name, address) in &request.spec.extra_hosts {
        let fail = |why: String| StartError::Spec { field: "extra_hosts".into(), why };
        let address: IpAddr = if address == "host-gateway" {
            request.host_gateway.ok_or_else(|| fail("host-gateway has no address on this network".into()))?
        } else {
            address.parse().map_err(|_| fail(format!("{address:?} is no address")))?
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    Ok(text)
}
