//! What this host offers to containers, as data. Looks, changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::PidfdFlags;
use serde::Serialize;

use crate::cgroup::{CgroupMode, Cgroups};
use crate::supervise::own_capabilities;

/// One fact about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// A short name, for example `overlayfs`.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// How well that serves.
    pub level: Level,
    /// What a lack costs; empty when nothing is lacking.
    pub cost: &'static str,
}

/// How well a host serves in one respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As wanted.
    Good,
    /// Something works less well.
    Reduced,
    /// Containers cannot run.
    Missing,
}

/// All facts, in a fixed order.
pub fn examine() -> Vec<Fact> {
    let mut facts = vec![kernel()];
    facts.extend(cgroups());
    facts.push(overlay());
    facts.push(namespaces());
    facts.push(seccomp());
    facts.push(system_calls());
    facts.push(capabilities());
    facts.push(fact(
        "pressure",
        Path::new("/proc/pressure/memory").exists(),
        Level::Reduced,
        "no pressure figures (PSI) in metrics",
    ));
    facts
}

fn fact(name: &'static str, good: bool, otherwise: Level, cost: &'static str) -> Fact {
    if good {
        Fact { name, found: "yes".into(), level: Level::Good, cost: "" }
    } else {
        Fact { name, found: "no".into(), level: otherwise, cost }
    }
}

fn kernel() -> Fact {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let old = version < (5, 10);
    Fact {
        name: "kernel",
        found: release,
        level: if old { Level::Missing } else { Level::Good },
        cost: if old { "kernels before 5.10 are not supported" } else { "" },
    }
}

fn cgroups() -> Vec<Fact> {
    let cgroups = match Cgroups::detect("doctor") {
        Ok(cgroups) => cgroups,
        Err(error) => {
            let cost = "containers cannot be limited or killed as a whole";
            return vec![Fact { name: "cgroups", found: error.to_string(), level: Level::Missing, cost }];
        }
    };
    let (found, level, cost) = match cgroups.mode() {
        CgroupMode::V2 => ("v2", Level::Good, ""),
        CgroupMode::V1 { hybrid: true } => {
            ("v1 (hybrid)", Level::Reduced, "killing a container takes several steps")
        }
        CgroupMode::V1 { hybrid: false } => ("v1", Level::Reduced, "killing a container takes several steps"),
    };
    let held: BTreeSet<String> = cgroups.controllers().into_iter().collect();
    let missing: Vec<&str> =
        ["cpu", "cpuset", "memory", "pids"].into_iter().filter(|name| !held.contains(*name)).collect();
    let list = held.into_iter().collect::<Vec<_>>().join(" ");
    let controllers = Fact {
        name: "cgroup controllers",
        found: if missing.is_empty() { list } else { format!("{list}; without {}", missing.join(" ")) },
        level: if missing.is_empty() { Level::Good } else { Level::Reduced },
        cost: if missing.is_empty() { "" } else { "limits of the missing controllers cannot be set" },
    };
    vec![Fact { name: "cgroups", found: found.into(), level, cost }, controllers]
}

fn overlay() -> Fact {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loaded = known.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let module = Path::new("/lib/modules").join(release).join("kernel/fs/overlayfs").exists();
    fact("overlayfs", loaded || module, Level::Missing, "root filesystems of containers cannot be mounted")
}

fn namespaces() -> Fact {
    let missing: Vec<&str> = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    let mut fact = fact("namespaces", missing.is_empty(), Level::Missing, "containers cannot be isolated");
    if !missing.is_empty() {
        fact.found = format!("without {}", missing.join(" "));
    }
    fact
}

fn seccomp() -> Fact {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let good = actions.split_whitespace().any(|action| action == "errno");
    fact("seccomp filters", good, Level::Missing, "containers could make every system call")
}

/// Calls that are asked with arguments they must refuse: any answer but "no such call" will do.
fn system_calls() -> Fact {
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
    let mut fact =
        fact("system calls", missing.is_empty(), Level::Missing, "containers cannot be started safely");
    if !missing.is_empty() {
        fact.found = format!("without {}", missing.join(" "));
    }
    fact
}

fn capabilities() -> Fact {
    let held = own_capabilities().unwrap_or_default();
    if !held.contains("SYS_ADMIN") {
        let cost = "containers cannot be made; run as root";
        return Fact { name: "capabilities", found: "without SYS_ADMIN".into(), level: Level::Missing, cost };
    }
    let missing: Vec<&str> =
        ["SYS_RESOURCE", "NET_ADMIN"].into_iter().filter(|name| !held.contains(*name)).collect();
    if missing.is_empty() {
        return Fact {
            name: "capabilities",
            found: "all that are needed".into(),
            level: Level::Good,
            cost: "",
        };
    }
    let cost =
        "ulimits above the daemon's own are clamped, supervisors are not protected from the OOM killer";
    Fact {
        name: "capabilities",
        found: format!("without {}", missing.join(" ")),
        level: Level::Reduced,
        cost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_that_is_not_good_says_what_it_costs() {
        let facts = examine();
        assert!(facts.iter().any(|fact| fact.name == "overlayfs"));
        for fact in facts {
            assert_eq!(fact.level == Level::Good, fact.cost.is_empty(), "{fact:?}");
            assert!(!fact.found.is_empty());
        }
    }
}
