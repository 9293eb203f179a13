//! The mount namespace that all supervisors start from, and the read-only image of our own binary.
//!
//! A supervisor must not begin with a copy of the host's mounts: that costs memory per mount, makes libcontainer slow and
//! keeps devices busy that were unmounted since. So one short-lived child makes a tiny tree, and the daemon keeps that
//! namespace by descriptor; it goes when the last user goes.
//!
//! ```text
//! /                 tmpfs, nothing else of the host
//! /proc /dev        the host's
//! /sys/fs/cgroup    the host's
//! STATE_DIR RUNTIME_DIR   at their own paths
//! /carrack          where a supervisor puts its root filesystem and its mounts
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::error::{RuntimeError, chain};
use crate::record::Layout;
use crate::reexec;

/// The mode's name on the command line.
pub(crate) const MODE: &str = "__template";
/// Where a supervisor puts its mounts.
pub(crate) const PRIVATE: &str = "/carrack";

/// Kept by the daemon for all starts.
#[derive(Debug)]
pub(crate) struct Template {
    namespace: OwnedFd,
    exe: OwnedFd,
}

impl Template {
    /// Makes the namespace with a child of `exe`.
    pub(crate) fn new(layout: &Layout, exe: &Path) -> Result<Self, RuntimeError> {
        let exe = read_only(exe)?;
        let failed = |why: String| RuntimeError::Helper { mode: MODE, why };
        let mut child = reexec::command(&path_of(&exe), MODE)
            .args([&layout.state_dir, &layout.runtime_dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut answer = [0; 512];
        let length = match &mut child.stdout {
            Some(stdout) => stdout.read(&mut answer).map_err(|error| failed(error.to_string()))?,
            None => 0,
        };
        let namespace = File::open(format!("/proc/{}/ns/mnt", child.id()));
        // End of file on its stdin ends the child.
        drop(child.stdin.take());
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        if answer != "ready" || !status.success() {
            return Err(failed(format!("{status}, {answer:?}")));
        }
        Ok(Self { namespace: namespace.map_err(|error| failed(error.to_string()))?.into(), exe })
    }

    /// A path under which another process of ours can open the namespace while this one lives.
    pub(crate) fn namespace_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }

    /// The binary to start children from: nothing that runs from it can open it for writing.
    pub(crate) fn exe(&self) -> PathBuf {
        path_of(&self.exe)
    }
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// A handle on our binary through a detached read-only mount, against CVE-2019-5736: a container that reaches
/// `/proc/PID/exe` of a child of ours cannot write through it. A sealed copy in memory where that cannot be: on kernels before
/// 5.12, when our binary was replaced on disk, or lies on a mount of another namespace.
fn read_only(exe: &Path) -> Result<OwnedFd, RuntimeError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match rustix::mount::open_tree(rustix::fs::CWD, exe, flags) {
        Ok(tree) if set_read_only(&tree).is_ok() => Ok(tree),
        Ok(_) | Err(_) => sealed_copy(exe),
    }
}

#[expect(unsafe_code, reason = "mount_setattr has no safe wrapper here")]
fn set_read_only(tree: &OwnedFd) -> std::io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is empty and static, the attributes live on our stack, the size is theirs.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn sealed_copy(exe: &Path) -> Result<OwnedFd, RuntimeError> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let fail = |error: std::io::Error| RuntimeError::file("copy to memory", exe)(error);
    let copy = memfd_create("carrack", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| fail(e.into()))?;
    let mut file = File::from(copy);
    std::io::copy(&mut File::open(exe).map_err(fail)?, &mut file).map_err(fail)?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .map_err(|e| fail(e.into()))?;
    Ok(file.into())
}

/// Runs the mode: makes the tree, says so, and lives until its stdin ends.
pub(crate) fn main(arguments: &[String]) -> ! {
    let answer = match make(arguments) {
        Ok(()) => "ready".to_owned(),
        Err(error) => chain(&error),
    };
    let ok = answer == "ready" && std::io::stdout().write_all(answer.as_bytes()).is_ok();
    if !ok {
        let _ = std::io::stdout().write_all(answer.as_bytes());
    }
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    crate::child::exit_now(i32::from(!ok))
}

fn make(arguments: &[String]) -> Result<(), RuntimeError> {
    let [state_dir, runtime_dir] = arguments else {
        return Err(RuntimeError::Helper { mode: MODE, why: "takes two directories".into() });
    };
    carrack_api::fail::point("template.1-make")
        .map_err(|error| RuntimeError::Helper { mode: MODE, why: error.to_string() })?;
    unshare()?;
    let root = Path::new(runtime_dir).join("root");
    fs::create_dir_all(&root).map_err(RuntimeError::file("create", &root))?;
    rustix::mount::mount("tmpfs", &root, "tmpfs", MountFlags::NOSUID, c"mode=755,size=16m")
        .map_err(|error| RuntimeError::file("mount a tmpfs on", &root)(error.into()))?;
    fs::create_dir_all(root.join("carrack")).map_err(RuntimeError::file("create", &root))?;
    for (source, recursive) in [("/proc", false), ("/dev", true), ("/sys/fs/cgroup", true)] {
        bind(Path::new(source), &root, recursive)?;
    }
    // A directory inside the other is there already when the outer one is bound first.
    let mut own = [Path::new(state_dir), Path::new(runtime_dir)];
    own.sort_by_key(|path| path.components().count());
    for path in own {
        // Not recursive for the runtime directory: our own new root is mounted below it.
        bind(path, &root, path == Path::new(state_dir) && !Path::new(runtime_dir).starts_with(path))?;
    }
    pivot(&root)
}

fn unshare() -> Result<(), RuntimeError> {
    let fail = |error: rustix::io::Errno| RuntimeError::file("unshare mounts of", "/")(error.into());
    unshare_namespace(UnshareFlags::NEWNS).map_err(fail)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(fail)
}

#[expect(unsafe_code, reason = "unshare is unsafe for CLONE_FILES only")]
pub(crate) fn unshare_namespace(flags: UnshareFlags) -> Result<(), rustix::io::Errno> {
    // SAFETY: the flags make namespaces; they do not unshare the descriptor table.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn bind(source: &Path, root: &Path, recursive: bool) -> Result<(), RuntimeError> {
    let target = root.join(source.strip_prefix("/").unwrap_or(source));
    fs::create_dir_all(&target).map_err(RuntimeError::file("create", &target))?;
    let result = if recursive {
        rustix::mount::mount_bind_recursive(source, &target)
    } else {
        rustix::mount::mount_bind(source, &target)
    };
    result.map_err(|error| RuntimeError::file("bind", source)(error.into()))
}

fn pivot(root: &Path) -> Result<(), RuntimeError> {
    let fail = |error: rustix::io::Errno| RuntimeError::file("pivot to", root)(error.into());
    rustix::process::chdir(root).map_err(fail)?;
    // The old root lands on top of the new one and is taken away there; no directory for it is needed.
    rustix::process::pivot_root(".", ".").map_err(fail)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(fail)?;
    rustix::process::chdir("/").map_err(fail)
}

/// Enters the namespace at a path and goes on in a copy of it.
pub(crate) fn enter(namespace: &Path) -> std::io::Result<()> {
    let fd = File::open(namespace)?;
    rustix::thread::move_into_link_name_space(fd.as_fd(), Some(rustix::thread::LinkNameSpaceType::Mount))?;
    unshare_namespace(UnshareFlags::NEWNS)?;
    Ok(())
}

/// Makes [`PRIVATE`] a file system of this namespace's own: the template's is shared by all copies.
pub(crate) fn own_place() -> Result<(), rustix::io::Errno> {
    rustix::mount::mount(
        "carrack",
        PRIVATE,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=700,size=1m",
    )
}
