//! Cgroup limits of a container.

use carrack_api::{ContainerSpec, defaults};
use serde_json::{Value, json};

use super::{DeviceNode, HostFacts, Prepared};
use crate::error::StartError;

/// The period of the CPU quota, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses smaller quotas, microseconds.
const CPU_QUOTA_MIN_US: u64 = 1_000;

pub(super) fn build(
    spec: &ContainerSpec,
    prepared: &Prepared,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Value, StartError> {
    let limits = &spec.limits;
    let mut resources = json!({ "devices": device_rules(prepared, spec.security.privileged) });
    let mut cpu = serde_json::Map::new();
    if let Some(wanted) = limits.cpus {
        let most = host.cpus.max(1) * 1000;
        if wanted.0 > most {
            warnings.push(format!("CPU limit {wanted} is more than the node's {} CPUs", host.cpus));
        }
        let quota = (wanted.0.min(most) * CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US);
        cpu.insert("quota".into(), json!(quota));
        cpu.insert("period".into(), json!(CPU_PERIOD_US));
    }
    if let Some(shares) = limits.cpu_shares {
        cpu.insert("shares".into(), json!(shares.clamp(2, 262_144)));
    }
    if let Some(set) = &limits.cpuset {
        cpu.insert("cpus".into(), json!(set));
    }
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    if let Some(memory) = memory(spec, host, warnings)? {
        resources["memory"] = memory;
    }
    match limits.pids.unwrap_or(defaults::PIDS_MAX) {
        0 => resources["pids"] = json!({ "limit": -1 }),
        most => resources["pids"] = json!({ "limit": i64::try_from(most).unwrap_or(-1) }),
    }
    Ok(resources)
}

fn memory(
    spec: &ContainerSpec,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Option<Value>, StartError> {
    let limits = &spec.limits;
    let mut memory = serde_json::Map::new();
    if let Some(limit) = limits.memory {
        memory.insert("limit".into(), json!(limit.0));
    }
    if let Some(reservation) = limits.memory_reservation {
        memory.insert("reservation".into(), json!(reservation.0));
    }
    let swap = match (limits.memory_swap, limits.memory) {
        (Some(swap), Some(limit)) if swap.0 < limit.0 => {
            let why = format!("memory and swap together ({swap}) are less than the memory ({limit})");
            return Err(StartError::Spec { field: "limits.memory_swap".into(), why });
        }
        (Some(swap), _) if !host.swap_limit => {
            warnings.push(format!("swap limit {swap} is not set: this kernel cannot limit swap"));
            None
        }
        (Some(swap), _) => Some(swap.0),
        // No swap beyond the memory.
        (None, Some(limit)) if host.swap_limit => Some(limit.0),
        (None, _) => None,
    };
    if let Some(swap) = swap {
        memory.insert("swap".into(), json!(swap));
    }
    Ok((!memory.is_empty()).then_some(Value::Object(memory)))
}

/// Nothing, then the container's own devices; libcontainer adds null, zero, random, tty and the like.
fn device_rules(prepared: &Prepared, privileged: bool) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let rule = |device: &DeviceNode| {
        json!({
            "allow": true, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
            "access": device.permissions,
        })
    };
    std::iter::once(json!({ "allow": false, "access": "rwm" }))
        .chain(prepared.devices.iter().map(rule))
        .collect()
}
