//! The process that keeps the unit's cgroup there while nothing runs.
//!
//! systemd removes the cgroup of a unit that has ended its start with nothing in it, and a unit whose main process is killed ends
//! with all it holds. So the unit's one command leaves a child in a cgroup of its own below the unit's, and ends: the unit is
//! active and has no main process. Only the end of the unit ends the child.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::ROOT;
use crate::child;

/// The mode's name on the command line.
pub(crate) const MODE: &str = "__hold";
/// The cgroup of the process, below the unit's.
pub(super) const HOLD: &str = "hold";

/// Runs the mode: ends once the child is where it belongs.
pub(crate) fn main() -> ! {
    let code = match hold() {
        Ok(()) => 0,
        Err(error) => {
            // Standard error is the journal; where that is gone there is nobody to tell.
            let _ = writeln!(io::stderr(), "the cgroup of all containers cannot be held: {error}");
            1
        }
    };
    child::exit_now(code)
}

fn hold() -> io::Result<()> {
    let place = own_cgroup(&fs::read_to_string("/proc/self/cgroup")?)
        .ok_or_else(|| io::Error::other("this process has no cgroup v2"))?
        .join(HOLD);
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    if child::fork()?.is_some() {
        drop(write);
        let mut answer = Vec::new();
        fs::File::from(read).read_to_end(&mut answer)?;
        return match answer.as_slice() {
            b"held" => Ok(()),
            other => Err(io::Error::other(String::from_utf8_lossy(other).into_owned())),
        };
    }
    drop(read);
    let mut answer = fs::File::from(write);
    if let Err(error) = enter(&place) {
        // The parent takes silence for a failure as well.
        let _ = write!(answer, "{}: {error}", place.display());
        child::exit_now(1);
    }
    let told = answer.write_all(b"held");
    drop(answer);
    if told.is_err() {
        child::exit_now(1);
    }
    loop {
        rustix::event::pause();
    }
}

/// Moves this process there, and away from everything that it was started with.
fn enter(place: &Path) -> io::Result<()> {
    rustix::process::setsid()?;
    match fs::create_dir(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::write(place.join("cgroup.procs"), "0")?;
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// The directory of a process's cgroup v2, by the text of its `cgroup` file in `/proc`.
fn own_cgroup(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(ROOT).join(path.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_a_process_is_found() {
        let found = own_cgroup("1:name=systemd:/x\n0::/carrack.slice/carrack-tasks.service\n");
        assert_eq!(found, Some("/sys/fs/cgroup/carrack.slice/carrack-tasks.service".into()));
        assert_eq!(own_cgroup("1:cpu:/\n"), None);
    }
}
