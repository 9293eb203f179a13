//! Confining the unpack child: its own root, no network, no capability but those that set owners
//! and modes, no way to gain any, bounded memory, and an end with its parent.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::report::Setup;

/// The user and group that the child runs as. It is not root, so that it cannot signal root's
/// processes; files get their owners by CAP_CHOWN.
const CONFINED_ID: u32 = 65534;
/// Open files of the child: its three streams, the root, and a few during one entry.
const OPEN_FILES: u64 = 64;
/// Highest capability number that may exist, beyond those the kernel knows.
const LAST_CAPABILITY: u32 = 63;

/// What unpacking needs: owners, modes, attributes of files that are not its own. Device nodes
/// cannot be made without CAP_MKNOD; a whiteout (0:0) can.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// Confines this process for good; its root is then the target directory.
pub(super) fn confine(setup: &Setup) -> Result<(), String> {
    close_inherited().map_err(step("close inherited files"))?;
    limit_resources(setup).map_err(step("limit resources"))?;
    enter_root(setup).map_err(step("enter the layer's directory"))?;
    drop_privileges().map_err(step("drop privileges"))?;
    // Last, since a change of credentials resets it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(io::Error::from)
        .map_err(step("tie the process to its parent"))?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != Some(setup.parent) {
        return Err("the parent process is gone".to_owned());
    }
    Ok(())
}

fn step(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("cannot {what}: {error}")
}

#[expect(unsafe_code, reason = "closing descriptors by number")]
fn close_inherited() -> io::Result<()> {
    let first: libc::c_uint = 3;
    // SAFETY: the process has just started and opened nothing itself, so no owned descriptor is
    // among those closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn limit_resources(setup: &Setup) -> io::Result<()> {
    let limit = |resource, value| {
        let bound = Rlimit { current: Some(value), maximum: Some(value) };
        rustix::process::setrlimit(resource, bound)
    };
    limit(Resource::As, setup.limits.address_space)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, OPEN_FILES)?;
    limit(Resource::Nproc, 0)?;
    limit(Resource::Fsize, setup.limits.bytes)?;
    Ok(())
}

#[expect(unsafe_code, reason = "unshare")]
fn enter_root(setup: &Setup) -> io::Result<()> {
    let target = OsStr::from_bytes(&setup.target);
    // SAFETY: descriptor tables are not unshared, and the process has one thread.
    unsafe {
        rustix::thread::unshare_unsafe(
            UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS,
        )?;
    }
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    rustix::mount::mount_bind(target, target)?;
    rustix::process::chdir(target)?;
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount(".", flags, c"")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn drop_privileges() -> io::Result<()> {
    use rustix::fs::{Gid, Uid};
    for number in 0..=LAST_CAPABILITY {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::set_keep_capabilities(true)?;
    let (uid, gid) = (Uid::from_raw(CONFINED_ID), Gid::from_raw(CONFINED_ID));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}
