//! Cgroup limits of a container. A limit that was asked for and that this host cannot keep is refused; the default of processes is not.

use std::collections::BTreeSet;

use carrack_api::{ContainerSpec, DeviceKind, IoLimits, IoRate, defaults};
use serde_json::{Value, json};

use super::{DeviceNode, HostFacts, Prepared};
use crate::error::StartError;

/// The period of the CPU quota, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses smaller quotas, microseconds.
const CPU_QUOTA_MIN_US: u64 = 1_000;
/// CPUs that a kernel can have.
const CPUS_MAX: u32 = 8192;
/// Bytes from which on a limit is none: what Compose's -1 becomes.
const UNLIMITED: u64 = i64::MAX as u64;

pub(super) fn build(
    spec: &ContainerSpec,
    prepared: &Prepared,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Value, StartError> {
    let mut resources = json!({ "devices": device_rules(spec, prepared) });
    let cpu = cpu(spec, host, warnings)?;
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    memory(spec, host, warnings)?.write(&mut resources);
    if !spec.limits.io.is_empty() {
        resources["blockIO"] = disks(&spec.limits.io, prepared, host)?;
    }
    match (spec.limits.pids, host.cgroup.controllers.contains("pids")) {
        (Some(0), false) => {}
        (Some(_), false) => return Err(lacking("pids", "limits.pids")),
        // The default limit is a precaution.
        (None, false) => {
            warnings.push("processes are not limited: this host has no cgroup controller \"pids\"".into())
        }
        (Some(0), true) => resources["pids"] = json!({ "limit": -1 }),
        (most, true) => {
            let most = most.unwrap_or(defaults::PIDS_MAX);
            resources["pids"] = json!({ "limit": i64::try_from(most).unwrap_or(-1) });
        }
    }
    Ok(resources)
}

/// What was asked for and cannot be kept, for the want of a controller.
fn lacking(controller: &str, field: &str) -> StartError {
    let help = if controller == "memory" { "; the kernel option cgroup_enable=memory may help" } else { "" };
    let why = format!("cannot be kept: this host has no cgroup controller {controller:?}{help}");
    StartError::Spec { field: field.into(), why }
}

fn cpu(
    spec: &ContainerSpec,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<serde_json::Map<String, Value>, StartError> {
    let limits = &spec.limits;
    let need = |controller: &str, field: &str| match host.cgroup.controllers.contains(controller) {
        true => Ok(()),
        false => Err(lacking(controller, field)),
    };
    let mut cpu = serde_json::Map::new();
    if let Some(wanted) = limits.cpus {
        need("cpu", "limits.cpus")?;
        let most = host.cpus.max(1) * 1000;
        if wanted.0 > most {
            warnings.push(format!("CPU limit {wanted} is more than the node's {} CPUs", host.cpus));
        }
        let period = limits.cpu_period.unwrap_or(CPU_PERIOD_US);
        let quota = (wanted.0.min(most) * period / 1000).max(CPU_QUOTA_MIN_US);
        cpu.insert("quota".into(), json!(quota));
        cpu.insert("period".into(), json!(period));
    }
    if let Some(shares) = limits.cpu_shares {
        need("cpu", "limits.cpu_shares")?;
        cpu.insert("shares".into(), json!(shares.clamp(2, 262_144)));
    }
    if let Some(set) = &limits.cpuset {
        need("cpuset", "limits.cpuset")?;
        on_this_host(set, &host.cgroup.cpus)?;
        cpu.insert("cpus".into(), json!(set));
    }
    Ok(cpu)
}

/// cgroup v1 refuses CPUs that are not there; v2 takes them and puts the container anywhere.
fn on_this_host(wanted: &str, there: &str) -> Result<(), StartError> {
    let refuse = |why: String| Err(StartError::Spec { field: "limits.cpuset".into(), why });
    let Some(set) = cpu_list(wanted) else { return refuse(format!("{wanted:?} is no list of CPUs")) };
    let Some(there_set) = cpu_list(there).filter(|set| !set.is_empty()) else { return Ok(()) };
    if set.is_subset(&there_set) {
        return Ok(());
    }
    refuse(format!("{wanted:?} is more than this host's CPUs, {there}"))
}

/// `0-3,5` as numbers.
fn cpu_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut set = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// Memory limits for both versions of cgroups.
#[derive(Debug, Default)]
struct Memory {
    limit: Option<u64>,
    reservation: Option<u64>,
    /// Memory and swap together; `None` within is no limit of them.
    swap: Option<Option<u64>>,
    swappiness: Option<u64>,
    v2: bool,
}

impl Memory {
    fn write(self, resources: &mut Value) {
        let mut memory = serde_json::Map::new();
        memory.extend(self.limit.map(|limit| ("limit".to_owned(), json!(limit))));
        memory.extend(self.reservation.map(|reservation| ("reservation".to_owned(), json!(reservation))));
        memory.extend(self.swappiness.map(|percent| ("swappiness".to_owned(), json!(percent))));
        match (self.swap, self.v2) {
            (Some(swap), false) => {
                memory.insert("swap".into(), swap.map_or(json!(-1), |swap| json!(swap)));
            }
            // v2 limits swap by itself; libcontainer leaves a limit of 0 out.
            (Some(swap), true) => {
                let beyond = |swap: u64| swap.saturating_sub(self.limit.unwrap_or(0)).to_string();
                resources["unified"] = json!({ "memory.swap.max": swap.map_or("max".to_owned(), beyond) });
            }
            (None, _) => {}
        }
        if !memory.is_empty() {
            resources["memory"] = Value::Object(memory);
        }
    }
}

fn memory(spec: &ContainerSpec, host: &HostFacts, warnings: &mut Vec<String>) -> Result<Memory, StartError> {
    let limits = &spec.limits;
    let asked = [
        (limits.memory, "limits.memory"),
        (limits.memory_reservation, "limits.memory_reservation"),
        (limits.memory_swap, "limits.memory_swap"),
    ];
    if let Some((_, field)) = asked.iter().find(|(asked, _)| asked.is_some())
        && !host.cgroup.controllers.contains("memory")
    {
        return Err(lacking("memory", field));
    }
    if limits.swappiness.is_some() && (host.cgroup.v2 || !host.cgroup.controllers.contains("memory")) {
        let why = "cannot be kept: only cgroup v1 lets a container have its own, and this host has none";
        return Err(StartError::Spec { field: "limits.swappiness".into(), why: why.into() });
    }
    let refuse = |why: String| Err(StartError::Spec { field: "limits.memory_swap".into(), why });
    let swap = match (limits.memory_swap, limits.memory) {
        (Some(swap), Some(limit)) if swap.0 < limit.0 => {
            return refuse(format!("memory and swap together ({swap}) are less than the memory ({limit})"));
        }
        (Some(swap), _) if !host.cgroup.swap => {
            warnings.push(format!("swap limit {swap} is not set: this kernel cannot limit swap"));
            None
        }
        (Some(swap), _) if swap.0 >= UNLIMITED => Some(None),
        (Some(swap), None) => {
            return refuse(format!("memory and swap together ({swap}) are limited, but not the memory"));
        }
        (Some(swap), Some(_)) => Some(Some(swap.0)),
        // No swap beyond the memory.
        (None, Some(limit)) if host.cgroup.swap => Some(Some(limit.0)),
        (None, _) => None,
    };
    Ok(Memory {
        limit: limits.memory.map(|limit| limit.0),
        reservation: limits.memory_reservation.map(|reservation| reservation.0),
        swap,
        swappiness: limits.swappiness,
        v2: host.cgroup.v2,
    })
}

/// Limits on the use of block devices.
fn disks(limits: &IoLimits, prepared: &Prepared, host: &HostFacts) -> Result<Value, StartError> {
    let controller = if host.cgroup.v2 { "io" } else { "blkio" };
    if !host.cgroup.controllers.contains(controller) {
        return Err(lacking(controller, "limits.io"));
    }
    let rates = |rates: &[IoRate]| -> Value {
        let known = rates.iter().filter_map(|rate| Some((prepared.disks.get(&rate.path)?, rate.rate)));
        known.map(|((major, minor), rate)| json!({ "major": major, "minor": minor, "rate": rate })).collect()
    };
    Ok(json!({
        "throttleReadBpsDevice": rates(&limits.read_bps),
        "throttleWriteBpsDevice": rates(&limits.write_bps),
        "throttleReadIOPSDevice": rates(&limits.read_iops),
        "throttleWriteIOPSDevice": rates(&limits.write_iops),
    }))
}

/// Nothing, then the container's own devices; libcontainer adds null, zero, random, tty and the like. In force on v1 only; on v2
/// it is the program of `cgroup::devices` that is.
fn device_rules(spec: &ContainerSpec, prepared: &Prepared) -> Value {
    if spec.security.privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let rule = |device: &DeviceNode| {
        json!({
            "allow": true, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
            "access": device.permissions,
        })
    };
    // v1 takes a rule for both kinds as one for everything, so it is written as two.
    let own = spec.device_rules.iter().flat_map(|rule| {
        let kinds: &[&str] = match rule.kind {
            Some(DeviceKind::Block) => &["b"],
            Some(DeviceKind::Character) => &["c"],
            None => &["b", "c"],
        };
        kinds.iter().map(|kind| {
            json!({
                "allow": true, "type": kind, "major": rule.major, "minor": rule.minor,
                "access": rule.permissions,
            })
        })
    });
    std::iter::once(json!({ "allow": false, "access": "rwm" }))
        .chain(prepared.devices.iter().map(rule))
        .chain(own)
        .collect()
}
