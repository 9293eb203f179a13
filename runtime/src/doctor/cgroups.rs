//! Cgroups: how they are arranged, which controllers there are, and what a lack costs. The judgement is pure.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use carrack_api::fact::{Fact, HostFeature, Lacks};

use super::{AREA, boot_option};
use crate::cgroup::{CgroupMode, Cgroups};

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// The arrangement, or why none was found.
    mode: Result<CgroupMode, String>,
    controllers: BTreeSet<String>,
    /// PID 1 is systemd.
    systemd: bool,
    /// Nobody may make a cgroup.
    read_only: bool,
    swap: bool,
    /// Why no filter of devices can be loaded; only asked on v2.
    device_filter: Result<(), String>,
}

/// A controller, what it is called on v1 and on v2 (empty when there is none), and what its lack costs.
struct Controller {
    v1: &'static str,
    v2: &'static str,
    cost: &'static str,
    feature: Option<HostFeature>,
}

const CONTROLLERS: [Controller; 8] = [
    Controller {
        v1: "memory",
        v2: "memory",
        cost: "a service with a memory limit is refused; no memory figures, no telling of an OOM kill",
        feature: Some(HostFeature::MemoryLimits),
    },
    Controller {
        v1: "cpu",
        v2: "cpu",
        cost: "a service with a CPU limit is refused; CPU weights and throttling figures are left out",
        feature: Some(HostFeature::CpuLimits),
    },
    Controller {
        v1: "pids",
        v2: "pids",
        cost: "a fork bomb in one container takes the process ids of the whole host",
        feature: Some(HostFeature::PidsLimits),
    },
    Controller {
        v1: "cpuset",
        v2: "cpuset",
        cost: "a service with a cpuset is refused",
        feature: Some(HostFeature::CpuSets),
    },
    Controller { v1: "blkio", v2: "io", cost: "no figures of what containers read and write", feature: None },
    Controller { v1: "cpuacct", v2: "", cost: "no figures of CPU time", feature: None },
    Controller { v1: "freezer", v2: "", cost: "a container that forks fast is killed slowly", feature: None },
    Controller {
        v1: "devices",
        v2: "",
        cost: "only its capabilities keep a container from the host's devices",
        feature: Some(HostFeature::DeviceRules),
    },
];

/// Looks at the host.
pub(super) fn look() -> Seen {
    let found = Cgroups::detect("doctor");
    let (mode, controllers) = match found {
        Ok(cgroups) => (Ok(cgroups.mode().clone()), cgroups.controllers().into_iter().collect()),
        Err(error) => (Err(crate::error::chain(&error)), BTreeSet::new()),
    };
    let device_filter = match mode {
        Ok(CgroupMode::V2) => crate::cgroup::try_device_filter().map_err(|error| error.to_string()),
        _ => Ok(()),
    };
    let root = Path::new("/sys/fs/cgroup");
    let hierarchy = match mode {
        Ok(CgroupMode::V1 { .. }) => root.join("memory"),
        _ => root.to_owned(),
    };
    Seen {
        mode,
        controllers,
        systemd: Path::new("/run/systemd/system").exists(),
        read_only: rustix::fs::statvfs(&hierarchy)
            .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)),
        swap: swap(&hierarchy),
        device_filter,
    }
}

/// Swap can be limited: on v2 that shows in a cgroup below the root only.
fn swap(memory: &Path) -> bool {
    let below =
        || fs::read_dir(memory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let with_limit = || below().any(|dir| dir.join("memory.max").exists());
    memory.join("memory.memsw.limit_in_bytes").exists()
        || below().any(|dir| dir.join("memory.swap.max").exists())
        || (memory.join("cgroup.controllers").exists() && !with_limit() && Path::new("/proc/swaps").exists())
}

/// The facts of what was seen.
pub(super) fn facts(seen: &Seen, command_line: &str) -> Vec<Fact> {
    let mode = match &seen.mode {
        Ok(mode) => mode,
        Err(error) => {
            let cost = "containers cannot be limited or killed as a whole: none is started";
            let hint = "mount -t cgroup2 none /sys/fs/cgroup";
            return vec![Fact::missing(AREA, "cgroups", error, cost).hint(hint)];
        }
    };
    let mut facts = vec![arrangement(seen, mode)];
    facts.push(Fact::ok(AREA, "cgroup controllers", listed(seen)));
    let missing = CONTROLLERS.iter().filter(|controller| {
        let name = name(controller, mode);
        !name.is_empty() && !seen.controllers.contains(name)
    });
    facts.extend(missing.map(|controller| {
        let name = name(controller, mode);
        let hint = how(name, command_line);
        Fact::note(AREA, &format!("controller {name}"), why(name, command_line), controller.cost).hint(hint)
    }));
    if seen.controllers.contains("memory") {
        facts.push(swap_limits(seen, mode));
    }
    if *mode == CgroupMode::V2 {
        facts.push(device_filter(seen));
    }
    facts
}

/// What services may need and is not there.
pub(super) fn lacks(seen: &Seen, command_line: &str) -> Lacks {
    let Ok(mode) = &seen.mode else { return Lacks::new() };
    let mut lacks: Lacks = CONTROLLERS
        .iter()
        .filter_map(|controller| {
            let name = name(controller, mode);
            let lacking = !name.is_empty() && !seen.controllers.contains(name);
            lacking.then_some((
                controller.feature?,
                format!("its cgroup controller {name} is {}", why(name, command_line)),
            ))
        })
        .collect();
    if let Err(error) = &seen.device_filter {
        lacks.insert(HostFeature::DeviceRules, format!("the kernel loads no filter of devices: {error}"));
    }
    lacks
}

fn name(controller: &Controller, mode: &CgroupMode) -> &'static str {
    match mode {
        CgroupMode::V2 => controller.v2,
        CgroupMode::V1 { .. } => controller.v1,
    }
}

fn arrangement(seen: &Seen, mode: &CgroupMode) -> Fact {
    let name = "cgroups";
    let where_to = match (mode, seen.systemd) {
        (CgroupMode::V2, true) => "containers live in /carrack.slice/carrack-tasks.service",
        _ => "containers live in /carrack-NODE",
    };
    let under = if seen.systemd { "under systemd" } else { "without systemd" };
    let found = match mode {
        CgroupMode::V2 => format!("v2, {under}; {where_to}"),
        CgroupMode::V1 { hybrid: true } => format!("v1 and an empty v2 (hybrid), {under}; {where_to}"),
        CgroupMode::V1 { hybrid: false } => format!("v1, {under}; {where_to}"),
    };
    if seen.read_only {
        return Fact::missing(
            AREA,
            name,
            format!("{found}; mounted read-only"),
            "no container can be started",
        )
        .hint("mount -o remount,rw /sys/fs/cgroup");
    }
    match mode {
        CgroupMode::V2 => Fact::ok(AREA, name, found),
        CgroupMode::V1 { .. } => {
            let cost = "killing a container takes several steps; no pressure figures of a container";
            let hint = match seen.systemd {
                true => boot_option("put", "systemd.unified_cgroup_hierarchy=1"),
                false => boot_option("put", "cgroup_no_v1=all"),
            };
            Fact::note(AREA, name, found, cost).hint(hint)
        }
    }
}

fn listed(seen: &Seen) -> String {
    match seen.controllers.is_empty() {
        true => "none".to_owned(),
        false => seen.controllers.iter().map(String::as_str).collect::<Vec<_>>().join(" "),
    }
}

/// Switched off at boot, as far as the kernel's command line tells.
fn is_off(name: &str, command_line: &str) -> bool {
    command_line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("cgroup_disable="))
        .any(|list| list.split(',').any(|item| item == name))
}

fn why(name: &str, command_line: &str) -> String {
    match is_off(name, command_line) {
        true => format!("switched off at boot (cgroup_disable={name})"),
        false => "not there".to_owned(),
    }
}

fn how(name: &str, command_line: &str) -> String {
    match name {
        _ if is_off(name, command_line) => boot_option("take off", &format!("cgroup_disable={name}")),
        "memory" => boot_option("put", "cgroup_enable=memory"),
        _ => format!("a kernel with the controller {name}; inside a container: one that is given it"),
    }
}

fn swap_limits(seen: &Seen, mode: &CgroupMode) -> Fact {
    let name = "swap limits";
    if seen.swap {
        return Fact::ok(AREA, name, "yes");
    }
    let fact = Fact::note(AREA, name, "no", "a container at its memory limit may go on into the host's swap");
    match mode {
        CgroupMode::V1 { .. } => fact.hint(boot_option("put", "swapaccount=1")),
        CgroupMode::V2 => fact.hint("a kernel with CONFIG_SWAP, or no swap at all"),
    }
}

fn device_filter(seen: &Seen) -> Fact {
    let name = "device filters (BPF)";
    match &seen.device_filter {
        Ok(()) => Fact::ok(AREA, name, "work"),
        Err(_) if !rustix::process::geteuid().is_root() => {
            Fact::untried(AREA, name).hint("sudo carrack doctor")
        }
        Err(error) => {
            let cost = "no container is started: nothing would keep it from the host's devices";
            let hint = "allow bpf(2): CAP_SYS_ADMIN (see capabilities), a kernel with CONFIG_CGROUP_BPF, no lockdown=confidentiality";
            Fact::missing(AREA, name, error, cost).hint(hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use carrack_api::fact::Verdict;

    use super::*;

    fn seen(mode: CgroupMode, controllers: &str) -> Seen {
        Seen {
            mode: Ok(mode),
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
            systemd: false,
            read_only: false,
            swap: true,
            device_filter: Ok(()),
        }
    }

    fn verdict<'a>(facts: &'a [Fact], name: &str) -> &'a Fact {
        facts.iter().find(|fact| fact.name == name).unwrap_or_else(|| panic!("{name}: {facts:#?}"))
    }

    const V2: &str = "cpuset cpu io memory hugetlb pids rdma misc";

    #[test]
    fn a_distribution_kernel_on_v2_has_all() {
        let seen = seen(CgroupMode::V2, V2);
        assert!(facts(&seen, "quiet").iter().all(|fact| fact.verdict == Verdict::Ok));
        assert!(lacks(&seen, "quiet").is_empty());
    }

    #[test]
    fn a_controller_that_is_off_at_boot_is_named_with_its_option() {
        let seen = seen(CgroupMode::V2, "cpuset cpu io pids");
        let line = "quiet cgroup_disable=memory";
        let facts = facts(&seen, line);
        let fact = verdict(&facts, "controller memory");
        assert_eq!(fact.verdict, Verdict::Note);
        assert_eq!(fact.found, "switched off at boot (cgroup_disable=memory)");
        assert!(fact.hint.starts_with("take off cgroup_disable=memory"), "{fact}");
        assert!(!facts.iter().any(|fact| fact.name == "swap limits"));
        let lacks = lacks(&seen, line);
        assert_eq!(lacks.keys().copied().collect::<Vec<_>>(), [HostFeature::MemoryLimits]);
        assert!(lacks[&HostFeature::MemoryLimits].contains("cgroup_disable=memory"));
    }

    #[test]
    fn each_arrangement_wants_its_own_controllers() {
        let v1 = "blkio cpu cpuacct cpuset devices freezer memory pids";
        let hybrid = CgroupMode::V1 { hybrid: true };
        let found = facts(&seen(hybrid.clone(), v1), "");
        assert!(!found.iter().any(|fact| fact.name.starts_with("controller ")), "{found:#?}");
        let found = facts(&seen(hybrid.clone(), "memory pids"), "");
        verdict(&found, "controller devices");
        verdict(&found, "controller freezer");
        assert!(lacks(&seen(hybrid, "memory pids"), "").contains_key(&HostFeature::CpuLimits));
    }

    #[test]
    fn a_read_only_mount_and_a_kernel_without_bpf_are_told() {
        let mut seen = seen(CgroupMode::V2, V2);
        seen.read_only = true;
        seen.device_filter = Err("Operation not permitted".into());
        assert_eq!(verdict(&facts(&seen, ""), "cgroups").verdict, Verdict::Missing);
        assert!(lacks(&seen, "").contains_key(&HostFeature::DeviceRules));
    }
}
