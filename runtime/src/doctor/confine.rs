//! What keeps containers apart: namespaces, system call filters, capabilities, security modules.

use std::fs;
use std::path::Path;

use carrack_api::fact::Fact;
use rustix::process::PidfdFlags;

use super::AREA;
use crate::supervise::own_capabilities;

/// Namespaces that every container gets.
pub(super) fn namespaces() -> Fact {
    let name = "namespaces";
    let known = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<&str> =
        known.into_iter().filter(|name| !Path::new("/proc/self/ns").join(name).exists()).collect();
    match missing.is_empty() {
        true => Fact::ok(AREA, name, known.join(" ")),
        false => {
            let found = format!("without {}", missing.join(" "));
            Fact::missing(AREA, name, found, "containers cannot be kept apart")
                .hint("a kernel with CONFIG_NAMESPACES and all below it")
        }
    }
}

/// None of ours needs them: containers run as the host's users. Programs that make their own sandboxes may ask.
pub(super) fn user_namespaces() -> Fact {
    let name = "user namespaces";
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let found = if !Path::new("/proc/self/ns/user").exists() {
        "not in this kernel".to_owned()
    } else if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        "off (user.max_user_namespaces=0)".to_owned()
    } else {
        let limits = ["apparmor_restrict_unprivileged_userns=1", "unprivileged_userns_clone=0"];
        let set = limits.into_iter().find(|limit| {
            let (key, value) = limit.split_once('=').unwrap_or((limit, ""));
            read(&format!("/proc/sys/kernel/{key}")).as_deref() == Some(value)
        });
        set.map_or_else(|| "there".to_owned(), |limit| format!("for root only (kernel.{limit})"))
    };
    Fact::ok(AREA, name, format!("{found}; not needed, containers use none"))
}

/// Filters of system calls.
pub(super) fn seccomp() -> Fact {
    let name = "seccomp filters";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    match actions.split_whitespace().any(|action| action == "errno") {
        true => Fact::ok(AREA, name, "there"),
        false => Fact::missing(AREA, name, "not in this kernel", "containers could make every system call")
            .hint("a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

/// Calls that are asked with arguments they must refuse: any answer but "no such call" will do.
pub(super) fn system_calls() -> Fact {
    use rustix::io::Errno;
    let mut missing = Vec::new();
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    match &own {
        Ok(fd) => {
            let taken = rustix::process::pidfd_getfd(fd, 0, rustix::process::PidfdGetfdFlags::empty());
            if matches!(taken, Err(Errno::NOSYS | Errno::PERM)) {
                missing.push("pidfd_getfd");
            }
        }
        Err(_) => missing.push("pidfd_open"),
    }
    let opened = rustix::fs::openat2(
        rustix::fs::CWD,
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
        rustix::fs::ResolveFlags::IN_ROOT,
    );
    if opened.is_err() {
        missing.push("openat2");
    }
    let name = "system calls";
    if missing.is_empty() {
        return Fact::ok(AREA, name, "pidfd_open pidfd_getfd openat2");
    }
    let cost = "containers cannot be started safely";
    Fact::missing(AREA, name, format!("without {}", missing.join(" ")), cost)
        .hint("a newer kernel; inside a container: a seccomp profile that lets them through")
}

/// What the capabilities of whoever asks allow.
pub(super) fn capabilities() -> Fact {
    let name = "capabilities";
    let held = own_capabilities().unwrap_or_default();
    let costs = [
        ("SYS_ADMIN", "containers cannot be made"),
        ("NET_ADMIN", "containers get no network"),
        ("SYS_RESOURCE", "ulimits above the daemon's own are clamped, the OOM killer may take supervisors"),
    ];
    let missing: Vec<_> = costs.into_iter().filter(|(name, _)| !held.contains(*name)).collect();
    let Some((worst, cost)) = missing.first() else {
        if let Some(found) = of_user_namespace() {
            return Fact::note(AREA, name, found, "the kernel refuses what only the host's root may do")
                .hint("run it as root of the host, outside of rootless containers");
        }
        return Fact::ok(AREA, name, "all that are needed, CAP_SYS_RESOURCE too");
    };
    let names: Vec<_> = missing.iter().map(|(name, _)| format!("CAP_{name}")).collect();
    let found = format!("without {}", names.join(" "));
    let fact = match *worst {
        "SYS_RESOURCE" => Fact::note(AREA, name, found, *cost),
        _ => Fact::missing(AREA, name, found, *cost),
    };
    fact.hint("run it outside of containers; in a unit: CapabilityBoundingSet= must hold them")
}

/// Capabilities in a user namespace that is not the host's are good for what belongs to that namespace.
fn of_user_namespace() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // The host's has all users, each as itself.
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    (!whole && Path::new("/proc/self/ns/user").exists()).then(|| "those of a user namespace".to_owned())
}

/// AppArmor and SELinux. Neither is asked for anything: containers are confined without them.
pub(super) fn security_module() -> Fact {
    let name = "security modules";
    if fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1") {
        let cost = "containers share the daemon's domain; its policy may refuse bind mounts and volumes";
        return Fact::note(AREA, name, "SELinux, enforcing", cost)
            .hint("ausearch -m avc -ts recent, when a container is refused a file");
    }
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return Fact::ok(AREA, name, "SELinux, permissive");
    }
    let apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if apparmor.trim() != "Y" {
        return Fact::ok(AREA, name, "none in force, none needed");
    }
    let own = fs::read_to_string("/proc/self/attr/apparmor/current").unwrap_or_default();
    match own.trim().trim_end_matches('\0') {
        "" | "unconfined" => Fact::ok(AREA, name, "AppArmor, this program unconfined"),
        profile => {
            let cost = "mounts of containers may be refused by it";
            Fact::note(AREA, name, format!("AppArmor, this program in profile {profile}"), cost).hint(
                format!("journalctl -k -g apparmor says what was refused; aa-complain {profile} ends it"),
            )
        }
    }
}
