//! The hidden modes in which this binary runs itself as a child.
//!
//! Each is one single-threaded process with one job, started by `posix_spawn` of our own binary: libcontainer, namespaces
//! and `fork` never run inside the daemon.
//!
//! | mode | job | module |
//! |---|---|---|
//! | `__template` | make the mount namespace all supervisors start from | `template` |
//! | `__supervise` | create and start one container, then become its keeper | `supervise` |
//! | `__keep` | write log and exit record of a running container | `keep` |
//! | `__init` | PID 1 inside a container | `init` |
//! | `__exec` | one command in a running container | `exec_child` |
//! | `__copy` | files in or out of a running container | `archive` |
//! | `__hold` | keep the cgroup of systemd's unit there | `cgroup::hold` |
//! | `__unpack-layer` | unpack one layer of an image, confined | `image::unpack` |

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use carrack_api::fail;

use crate::cgroup::{self, HOLD_MODE};
use crate::{archive, child, exec_child, image, init, keep, open_files, supervise, template};

/// To be called first thing in `main`: when the first argument is one of our hidden modes, runs it and does not return.
pub fn dispatch() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(mode) = arguments.next() else { return };
    let Some(mode) = mode.to_str().filter(|mode| mode.starts_with("__")) else { return };
    let rest: Vec<_> = arguments.collect();
    // PID 1 has the container's environment. What the daemon could follow, its children can.
    if mode != init::MODE {
        let _ = fail::arm();
        open_files::restore();
    }
    if mode == image::unpack::CHILD {
        // `ExitCode` cannot be asked for its number; only success and failure are used there.
        let code = image::unpack::child_main(&rest);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    let text: Vec<String> =
        rest.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    match mode {
        init::MODE => init::main(&text),
        template::MODE => template::main(&text),
        supervise::MODE => supervise::main(&text),
        keep::MODE => keep::main(&text),
        exec_child::MODE => exec_child::main(&text),
        archive::MODE => archive::main(&text),
        HOLD_MODE => cgroup::hold(),
        _ => {}
    }
}

/// Lets no child of this process have what its caller left open beyond the standard streams: children outlive the daemon, and
/// so would the lock or the pipe of a script that started it. To be called before anything is started.
pub fn keep_from_children() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        match entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) {
            Some(fd) if fd > 2 => match child::set_cloexec(fd, true) {
                // Closed meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
                result => result?,
            },
            _ => {}
        }
    }
    Ok(())
}

/// A command that runs this binary in a mode, with an empty environment but for armed fail points and the limit of open files.
pub(crate) fn command(exe: &Path, mode: &str) -> Command {
    let mut command = Command::new(exe);
    command
        .arg0("carrack")
        .arg(mode)
        .env_clear()
        .envs(fail::environment())
        .envs(open_files::environment())
        .current_dir("/");
    command
}
