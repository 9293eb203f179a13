//! What all our child processes share: fork, descriptors by number, signals, `execve`. The unsafe corner of this crate.
#![expect(
    unsafe_code,
    reason = "fork, execve, signals and descriptors given by number have no safe interface"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::seccomp::Instruction;

/// Takes a descriptor that an earlier program of this process left open for us.
pub(crate) fn take_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: the number comes from our own earlier program over `execve` and nobody else in this process uses it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets or clears close-on-exec of a descriptor given by number.
pub(crate) fn set_cloexec(fd: RawFd, on: bool) -> io::Result<()> {
    // SAFETY: the caller owns the descriptor and keeps it open during the call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = if on { rustix::io::FdFlags::CLOEXEC } else { rustix::io::FdFlags::empty() };
    rustix::io::fcntl_setfd(fd, flags).map_err(Into::into)
}

/// Forks this single-threaded process: `None` in the child, the child's pid in the parent.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    if crate::process::own_threads()? != 1 {
        return Err(io::Error::other("fork in a process with several threads"));
    }
    // SAFETY: the process has one thread, so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Ends this process at once, without running destructors or exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives all signals their default action and unblocks them: what a program expects at its start.
pub(crate) fn reset_signals() {
    // SAFETY: the sets and actions are plain data on our stack; SIGKILL and SIGSTOP refuse and stay as they are.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Blocks all signals, to be fetched by [`next_signal`].
pub(crate) fn block_signals() {
    // SAFETY: as above.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}

/// Waits for a blocked signal.
pub(crate) fn next_signal() -> i32 {
    // SAFETY: the set is plain data on our stack.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigwaitinfo(&all, std::ptr::null_mut())
    }
}

/// Ignores signals that are not meant for a supervisor.
pub(crate) fn ignore_signals(signals: &[i32]) {
    for signal in signals {
        // SAFETY: ignoring has no handler that could run.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// `kill` by number; for processes whose pid cannot be recycled meanwhile (our own children).
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` has no memory preconditions.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reaps a child without blocking: its pid and raw wait status.
pub(crate) fn reap(pid: i32, block: bool) -> io::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: the status is written to our stack.
        match unsafe { libc::waitpid(pid, &mut status, if block { 0 } else { libc::WNOHANG }) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            0 => return Ok(None),
            pid => return Ok(Some((pid, status))),
        }
    }
}

/// Puts a new process into a process group of its own, in the foreground of its terminal when it has one.
pub(crate) fn own_foreground_group() {
    // SAFETY: plain calls on our own process; SIGTTOU must not stop us while we move to the foreground.
    unsafe {
        if libc::setpgid(0, 0) == 0 && libc::isatty(0) == 1 {
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetpgrp(0, libc::getpgrp());
        }
    }
}

/// Loads a seccomp filter into this process; it stays over `execve`.
pub(crate) fn load_seccomp(program: &[Instruction]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::other("seccomp program is too long"))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `Instruction` has the layout of `sock_filter`, the program outlives the call, and the kernel only reads it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the session keyring of whoever started us for a new, empty one; fine on kernels without keyrings.
pub(crate) fn own_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name makes an anonymous keyring; no memory of ours is touched.
    let serial = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>(), 0, 0, 0)
    };
    match io::Error::last_os_error() {
        _ if serial >= 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// Takes capabilities by number out of all sets of this process, the bounding set included.
pub(crate) fn give_up_capabilities(numbers: &[u32]) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [[0_u32; 3]; 2]; // effective, permitted, inheritable; low and high half
    // SAFETY: header and sets have the layout of `__user_cap_header_struct` and two `__user_cap_data_struct`.
    unsafe {
        for number in numbers {
            if libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(*number), 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        for number in numbers {
            for set in &mut sets[*number as usize / 32] {
                *set &= !(1 << (number % 32));
            }
        }
        if libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `execve`; returns only an error.
pub(crate) fn execve(path: &Path, argv: &[String], env: &[String]) -> io::Error {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return nul() };
    with_vectors(argv, env, |argv, env| {
        // SAFETY: path and vectors are NUL-terminated and outlive the call.
        unsafe { libc::execve(path.as_ptr(), argv, env) };
    })
}

/// `execveat` of an open file; returns only an error.
pub(crate) fn execve_fd(file: RawFd, argv: &[String], env: &[String]) -> io::Error {
    with_vectors(argv, env, |argv, env| {
        let empty: &CStr = c"";
        // SAFETY: the vectors are NUL-terminated and outlive the call; the descriptor is the caller's.
        unsafe { libc::syscall(libc::SYS_execveat, file, empty.as_ptr(), argv, env, libc::AT_EMPTY_PATH) };
    })
}

fn with_vectors(
    argv: &[String],
    env: &[String],
    call: impl FnOnce(*const *const libc::c_char, *const *const libc::c_char),
) -> io::Error {
    let convert = |list: &[String]| {
        list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()
    };
    let (Ok(argv), Ok(env)) = (convert(argv), convert(env)) else { return nul() };
    let pointers = |list: &[CString]| {
        list.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (argv, env) = (pointers(&argv), pointers(&env));
    call(argv.as_ptr(), env.as_ptr());
    io::Error::last_os_error()
}

fn nul() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "contains a NUL byte")
}

/// Closes everything but the standard streams and one descriptor, which gets close-on-exec; gives its new number.
pub(crate) fn close_all_but(keep: RawFd) -> io::Result<RawFd> {
    const FIRST: RawFd = 3;
    // SAFETY: plain calls on our own descriptors; the caller uses none of those that are closed.
    unsafe {
        if keep != FIRST && libc::dup3(keep, FIRST, libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        // Kernels that cannot (before 5.9) are not supported.
        if libc::syscall(libc::SYS_close_range, FIRST + 1, libc::c_int::MAX, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    set_cloexec(FIRST, true)?;
    Ok(FIRST)
}

/// Brings the loopback device of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero is a valid `ifreq`; the kernel reads name and flags and writes nothing beyond the structure.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The number of a descriptor that stays open over `execve`.
pub(crate) fn leave_open(fd: OwnedFd) -> io::Result<RawFd> {
    set_cloexec(fd.as_raw_fd(), false)?;
    Ok(std::os::fd::IntoRawFd::into_raw_fd(fd))
}
