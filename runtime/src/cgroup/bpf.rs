//! `bpf(2)`, as far as the device filter of cgroup v2 needs it: load a program, attach it to a cgroup.
#![expect(unsafe_code, reason = "bpf has no safe interface")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::devices::Instruction;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of cgroups above stay in force beside ours.
const ALLOW_MULTI: u32 = 2;

/// The kernel's `union bpf_attr` for `PROG_LOAD`, as far as all kernels from 5.10 know it.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instructions: u32,
    first: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// The same for `PROG_ATTACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replace: u32,
}

/// Lets the processes of a cgroup, and of those below it, use only the devices that a program allows.
pub(crate) fn restrict_devices(cgroup: &Path, program: &[Instruction]) -> io::Result<()> {
    let program = load(program)?;
    attach(&File::open(cgroup)?, &program)
}

/// Loads a program; nothing is in force before it is attached.
pub(crate) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    match try_load(program) {
        // Before 5.11 programs count as locked memory of the user, all of them together.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let before = getrlimit(Resource::Memlock);
            setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).map_err(|_| error)?;
            let loaded = try_load(program);
            // A container inherits the limits of its supervisor.
            setrlimit(Resource::Memlock, before)?;
            loaded
        }
        result => result,
    }
}

fn try_load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let licence = c"Apache-2.0";
    let attributes = Load {
        program_type: TYPE_CGROUP_DEVICE,
        instructions: u32::try_from(program.len()).map_err(io::Error::other)?,
        first: program.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        name: *b"carrack_devices\0",
        ..Default::default()
    };
    // SAFETY: the attributes and what they point to outlive the call, which only reads them; `Instruction` has the layout of
    // `struct bpf_insn`.
    let fd = unsafe { bpf(PROG_LOAD, &attributes) }?;
    // SAFETY: the kernel has just given the descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(cgroup: &File, program: &OwnedFd) -> io::Result<()> {
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    let attributes = Attach {
        target: number(cgroup.as_raw_fd())?,
        program: number(program.as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        ..Default::default()
    };
    // SAFETY: the attributes hold no pointers, and both descriptors are open during the call.
    unsafe { bpf(PROG_ATTACH, &attributes) }.map(drop)
}

/// # Safety
/// The attributes must be those of the command, and what they point to must be readable.
unsafe fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<i32> {
    // SAFETY: the caller vouches for the attributes; their size is given along.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
