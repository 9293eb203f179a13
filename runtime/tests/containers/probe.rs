//! A program that looks around inside a container and tries what must not work. The test binary itself, mounted read-only.
//!
//! Prints one fact a line, `KIND NAME = VALUE`. Judges nothing: the tests do.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use carrack_api::{Mount, MountSource};

/// The first argument that makes the test binary a probe.
pub(crate) const MODE: &str = "probe-inside";
/// Where it is mounted.
pub(crate) const PATH: &str = "/probe";

/// The mounts that bring the probe into a container: the binary and the libraries it is linked with.
pub(crate) fn mounts() -> Vec<Mount> {
    let own = std::env::current_exe().unwrap().display().to_string();
    let mut mounts = libraries(&own);
    mounts.push(bind(own, PATH.to_owned()));
    mounts
}

/// The mounts of the libraries that a program is linked with: none for one that is static.
pub(crate) fn libraries(program: &str) -> Vec<Mount> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(|path| bind(path.to_owned(), path.to_owned())).collect()
}

fn bind(path: String, target: String) -> Mount {
    let source = MountSource::Bind { path, create: false, propagation: String::new(), alone: false };
    Mount { target, source, read_only: true }
}

/// Runs the probe: the arguments are paths to look at, `masked:PATH` or `read-only:PATH`.
pub(crate) fn main(arguments: &[String]) -> ! {
    if let [mode, rest @ ..] = arguments
        && mode == "hold-exe"
    {
        hold_exe(rest);
    }
    if arguments == ["session-keyring"] {
        println!("{}", crate::confined::session_keyring(false).unwrap_or(-1));
        std::process::exit(0);
    }
    if let [mode, rest @ ..] = arguments
        && mode == "swap"
    {
        swap(rest);
    }
    if arguments == ["fork-bomb"] {
        fork_bomb();
    }
    powers("self", "status");
    powers("1", "init");
    cgroups();
    descriptors();
    devices();
    for argument in arguments {
        match argument.split_once(':') {
            Some(("masked", path)) => say("masked", path, masked(Path::new(path))),
            Some(("read-only", path)) => say("read-only", path, read_only(Path::new(path))),
            _ => say("unknown", argument, ""),
        }
    }
    writes();
    calls();
    say("end", "probe", "ok");
    std::process::exit(0)
}

fn say(kind: &str, name: &str, value: impl Display) {
    println!("{kind} {name} = {value}");
}

/// What a process may do, as facts of this kind.
fn powers(process: &str, kind: &str) {
    for line in fs::read_to_string(format!("/proc/{process}/status")).unwrap().lines() {
        if let Some((name, value)) = line.split_once(':')
            && ["Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"]
                .contains(&name)
        {
            say(kind, name, value.trim());
        }
    }
}

fn cgroups() {
    for line in fs::read_to_string("/proc/self/cgroup").unwrap().lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        say("cgroup", controllers, path);
    }
}

fn descriptors() {
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        // The directory that is being read.
        if !target.starts_with("/proc/") {
            say("fd", &name, target);
        }
    }
}

fn devices() {
    for entry in fs::read_dir("/dev").unwrap() {
        let entry = entry.unwrap();
        let found = fs::symlink_metadata(entry.path()).unwrap();
        let value = match found.file_type() {
            kind if kind.is_char_device() => {
                format!("c {}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()))
            }
            kind if kind.is_block_device() => "block".into(),
            kind if kind.is_symlink() => fs::read_link(entry.path()).unwrap().display().to_string(),
            kind if kind.is_dir() => "dir".into(),
            _ => "file".into(),
        };
        say("dev", &entry.file_name().to_string_lossy(), value);
    }
}

fn masked(path: &Path) -> String {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => return name(&error),
    };
    if found.is_dir() {
        let entries = fs::read_dir(path).unwrap().count();
        return format!("dir of {entries}, {}", read_only(path));
    }
    match fs::read(path) {
        Ok(content) => format!(
            "file of {}, {}:{}",
            content.len(),
            rustix::fs::major(found.rdev()),
            rustix::fs::minor(found.rdev())
        ),
        Err(error) => name(&error),
    }
}

fn read_only(path: &Path) -> String {
    match rustix::fs::statvfs(path) {
        Ok(found) if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => "read-only".into(),
        Ok(_) => "writable".into(),
        Err(error) => name(&error.into()),
    }
}

/// Files of the kernel that change the host, opened for writing and nothing more.
fn writes() {
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sysrq-trigger",
        "/proc/bus",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/module",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/devices/devices.allow",
        "/sys/fs/cgroup/release_agent",
        "/proc/1/exe",
        "/proc/self/exe",
        PATH,
    ] {
        let found = Path::new(path);
        let result = if found.is_dir() {
            fs::create_dir(found.join("made-by-the-probe"))
        } else {
            fs::File::options().write(true).open(found).map(drop)
        };
        say("write", path, outcome(result));
    }
}

fn outcome(result: std::io::Result<()>) -> String {
    result.map_or_else(|error| name(&error), |()| "WORKED".into())
}

fn name(error: &std::io::Error) -> String {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EACCES, "EACCES"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
    ];
    let code = error.raw_os_error().unwrap_or(0);
    known
        .iter()
        .find(|(number, _)| *number == code)
        .map_or_else(|| error.to_string(), |(_, name)| (*name).into())
}

/// System calls by number, with arguments that would be understood.
#[expect(unsafe_code, reason = "system calls by number have no safe interface")]
fn calls() {
    let buffer = [0_u8; 512];
    let data = buffer.as_ptr() as i64;
    let text = |text: &'static std::ffi::CStr| text.as_ptr() as i64;
    let own = i64::from(std::process::id());
    for (call, number, arguments) in [
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, data, 0, 0, 0]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [0, 0, 0, 0, 0]),
        ("io_uring_register", libc::SYS_io_uring_register, [0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, data, 72, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [text(c"user"), text(c"x"), data, 1, -3]),
        ("request_key", libc::SYS_request_key, [text(c"user"), text(c"x"), 0, -3, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [data, 0, -1, -1, 0]),
        ("unshare(NEWUSER)", libc::SYS_unshare, [i64::from(libc::CLONE_NEWUSER), 0, 0, 0, 0]),
        ("unshare(NEWNS)", libc::SYS_unshare, [i64::from(libc::CLONE_NEWNS), 0, 0, 0, 0]),
        ("clone(NEWUSER)", libc::SYS_clone, [i64::from(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [data, 64, 0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [text(c"t"), text(c"/tmp"), text(c"tmpfs"), 0, 0]),
        ("umount2", libc::SYS_umount2, [text(c"/proc/kcore"), 2, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [text(c"/"), text(c"/tmp"), 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [-100, text(c"/"), 1, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [-1, data, -1, data, 0]),
        ("fsopen", libc::SYS_fsopen, [text(c"tmpfs"), 0, 0, 0, 0]),
        ("mount_setattr", libc::SYS_mount_setattr, [-100, text(c"/"), 0, data, 32]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [-100, data, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0]),
        ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [data, 1, data, 0, 0]),
        ("finit_module", libc::SYS_finit_module, [0, data, 0, 0, 0]),
        ("delete_module", libc::SYS_delete_module, [text(c"x"), 0, 0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [text(c"/x"), 0, 0, 0, 0]),
        ("acct", libc::SYS_acct, [text(c"/x"), 0, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [3, data, 1, 0, 0]),
        ("settimeofday", libc::SYS_settimeofday, [0, 0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [text(c"x"), 1, 0, 0, 0]),
        ("quotactl", libc::SYS_quotactl, [0, 0, 0, 0, 0]),
        ("kcmp", libc::SYS_kcmp, [own, own, 0, 0, 0]),
        ("personality(no randomisation)", libc::SYS_personality, [0x4_0000, 0, 0, 0, 0]),
        (
            "socket(VSOCK)",
            libc::SYS_socket,
            [i64::from(libc::AF_VSOCK), i64::from(libc::SOCK_STREAM), 0, 0, 0],
        ),
        (
            "socket(ALG)",
            libc::SYS_socket,
            [i64::from(libc::AF_ALG), i64::from(libc::SOCK_SEQPACKET), 0, 0, 0],
        ),
        (
            "socket(PACKET)",
            libc::SYS_socket,
            [i64::from(libc::AF_PACKET), i64::from(libc::SOCK_RAW), 0, 0, 0],
        ),
        ("socket(RAW)", libc::SYS_socket, [i64::from(libc::AF_INET), i64::from(libc::SOCK_RAW), 1, 0, 0]),
        ("ptrace(1)", libc::SYS_ptrace, [0x4206, 1, 0, 0, 0]),
    ] {
        // SAFETY: every pointer is null, static, or into a buffer that outlives the call and is as large as each call reads;
        // what would change this process is what must fail.
        let result = unsafe {
            libc::syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4])
        };
        let error = std::io::Error::last_os_error();
        if call == "clone(NEWUSER)" && result == 0 {
            std::process::exit(0);
        }
        say("call", call, if result >= 0 { "WORKED".into() } else { name(&error) });
    }
}

/// Opens the binary behind each path and tries to write through the descriptor, as CVE-2019-5736 did to runc.
fn hold_exe(paths: &[String]) -> ! {
    use std::os::fd::AsRawFd;
    for path in paths {
        let value = match fs::File::open(path) {
            Err(error) => name(&error),
            Ok(held) => {
                let again = format!("/proc/self/fd/{}", held.as_raw_fd());
                let write = outcome(fs::File::options().write(true).open(again).map(drop));
                // A busy file can be written later; one on a read-only mount never.
                format!("{write}, {}", read_only(Path::new(path)))
            }
        };
        say("through", path, value);
    }
    std::process::exit(0)
}

/// Swaps directories and symlinks, as fast as it goes, until it is killed. Each argument is `DIRECTORY>WHAT ITS SYMLINK SAYS`.
fn swap(pairs: &[String]) -> ! {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    for pair in pairs {
        let (dir, target) = pair.split_once('>').unwrap();
        fs::create_dir_all(format!("{dir}/inner")).unwrap();
        std::os::unix::fs::symlink(target, format!("{dir}.link")).unwrap();
    }
    println!("swapping");
    std::thread::scope(|scope| {
        for pair in pairs {
            let (dir, _) = pair.split_once('>').unwrap();
            scope.spawn(move || {
                let link = format!("{dir}.link");
                loop {
                    renameat_with(CWD, dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
        }
    });
    std::process::exit(1)
}

/// Forks without end, in every process that comes of it.
#[expect(unsafe_code, reason = "fork has no safe interface")]
fn fork_bomb() -> ! {
    println!("lit");
    loop {
        // SAFETY: this process has one thread; parent and child do nothing but fork again.
        unsafe { libc::fork() };
    }
}
