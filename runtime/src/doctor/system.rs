//! The kernel itself, its modules, its clock and its limits.

use std::fs;
use std::path::Path;

use carrack_api::fact::Fact;
use rustix::process::{Resource, getrlimit};

use super::{AREA, boot_option};

/// The oldest kernel that is served.
const KERNEL_MIN: (u32, u32) = (5, 10);
/// Fewer open files than this are too few for a database or a proxy in a container.
const FILES_LOW: u64 = 65_536;
/// Fewer processes than this are soon used up by the containers of a host.
const PROCESSES_LOW: u64 = 8_192;

/// The kernel's command line; empty when it cannot be read.
pub(super) fn command_line() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Its version.
pub(super) fn kernel() -> Fact {
    let release = release();
    match version(&release) < KERNEL_MIN {
        false => Fact::ok(AREA, "kernel", release),
        true => {
            let (major, minor) = KERNEL_MIN;
            let cost =
                format!("before {major}.{minor} nothing is promised: calls that are needed are not there");
            Fact::missing(AREA, "kernel", release, cost).hint("a newer kernel of the distribution")
        }
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A kernel whose modules are gone, as after an upgrade without a reboot, cannot load what is asked for first today.
pub(super) fn modules() -> Option<Fact> {
    if !Path::new("/proc/modules").exists() {
        return None;
    }
    let dir = Path::new("/lib/modules").join(release());
    (!dir.exists() && Path::new("/lib/modules").exists()).then(|| {
        let found = format!("{} is not there", dir.display());
        Fact::note(
            AREA,
            "kernel modules",
            found,
            "what is not loaded yet cannot be: vxlan, overlay, nf_tables",
        )
        .hint("reboot into the kernel that is installed")
    })
}

/// Pressure stall information.
pub(super) fn pressure(command_line: &str) -> Fact {
    let name = "pressure (PSI)";
    // With `psi=0` some kernels keep the file and refuse to read it.
    if fs::read_to_string("/proc/pressure/memory").is_ok() {
        return Fact::ok(AREA, name, "on");
    }
    let cost = "no pressure figures in metrics";
    if command_line.split_whitespace().any(|word| matches!(word, "psi=0" | "psi=off" | "psi=n")) {
        return Fact::note(AREA, name, "switched off at boot (psi=0)", cost)
            .hint(boot_option("take off", "psi=0"));
    }
    let config = fs::read_to_string(format!("/boot/config-{}", release())).unwrap_or_default();
    match config.lines().any(|line| line == "CONFIG_PSI=y") {
        true => Fact::note(AREA, name, "built in but off", cost).hint(boot_option("put", "psi=1")),
        false => Fact::note(AREA, name, "not there", cost)
            .hint(format!("{}, if the kernel was built with CONFIG_PSI", boot_option("put", "psi=1"))),
    }
}

/// Open files of a process; what the doctor may have the daemon has too, when both are started alike.
pub(super) fn open_files() -> Fact {
    let name = "open files";
    let most = getrlimit(Resource::Nofile).maximum;
    let text = most.map_or_else(|| "no limit".to_owned(), |most| most.to_string());
    let found = format!("at most {text} for a process");
    match most.is_some_and(|most| most < FILES_LOW) {
        false => Fact::ok(AREA, name, found),
        true => {
            Fact::note(AREA, name, found, "programs in containers get no more, whatever their ulimits say")
                .hint(format!("ulimit -Hn {FILES_LOW}, or LimitNOFILE= in the unit"))
        }
    }
}

/// Whether somebody keeps the clock right.
#[expect(unsafe_code, reason = "adjtimex has no safe interface")]
pub(super) fn clock() -> Fact {
    let name = "clock";
    // SAFETY: all bits of the structure may be zero; with no mode set the call only writes to it.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours and outlives the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    let cost = "times of logs and events may be wrong; registries' certificates may be refused";
    match answer {
        -1 => Fact::note(AREA, name, std::io::Error::last_os_error().to_string(), cost).hint(
            "inside a container: a seccomp profile that lets adjtimex through; timedatectl on the host",
        ),
        _ if state.status & libc::STA_UNSYNC == 0 => Fact::ok(AREA, name, "kept right by a time service"),
        _ => Fact::note(AREA, name, "not kept right by a time service that tells the kernel", cost)
            .hint("timedatectl set-ntp true, or apt install chrony"),
    }
}

/// Processes that the host can have.
pub(super) fn processes() -> Fact {
    let name = "processes";
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let sysctls = [read("/proc/sys/kernel/pid_max"), read("/proc/sys/kernel/threads-max")];
    let Some(most) = sysctls.into_iter().flatten().min() else {
        return Fact::note(AREA, name, "kernel.pid_max cannot be read", "it is not known how many can run")
            .hint("mount -t proc proc /proc");
    };
    let found = format!("at most {most} on this host");
    match most < PROCESSES_LOW {
        false => Fact::ok(AREA, name, found),
        true => Fact::note(AREA, name, found, "many containers, or few with many threads, use them up")
            .hint("sysctl -w kernel.pid_max=4194304 kernel.threads-max=127000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_distributions_make_of_it() {
        assert_eq!(version("6.1.0-32-cloud-amd64"), (6, 1));
        assert_eq!(version("5.10+deb11"), (5, 10));
        assert_eq!(version("6.12-rc1"), (6, 12));
        assert!(version("4.19.0") < KERNEL_MIN && version("5.4") < KERNEL_MIN);
    }
}
