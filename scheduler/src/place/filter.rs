//! Whether a node can take a task at all, and the one reason why not that users should hear first.

use std::fmt;

use carrack_api::fact::HostFeature;
use carrack_api::{Bytes, ContainerSpec, MilliCpus, PortMode, PublishedPort, VolumeName};

use super::constraint;
use super::{Candidate, Request};

/// Why a node cannot take a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// Another node is the only one allowed.
    NotTheOne,
    /// A constraint that is no constraint, or whose key nobody knows.
    Unknown { constraint: String },
    /// A constraint does not hold.
    Constraint { constraint: String, has: String },
    /// The image is for another platform.
    Platform { wanted: String, has: String },
    /// Its kernel cannot do what a limit or a device needs.
    Host { feature: HostFeature, field: String, why: String },
    /// The data of a volume is elsewhere.
    Volume { volume: VolumeName, home: String },
    /// Enough tasks of the service are there.
    PerNode { max: u32 },
    /// A host-mode port is taken.
    HostPort { port: PublishedPort },
    /// Too little CPU.
    Cpus { wanted: MilliCpus, free: MilliCpus, all: MilliCpus },
    /// Too little memory.
    Memory { wanted: Bytes, free: Bytes, all: Bytes },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTheOne => f.write_str("is not the node of this slot"),
            Self::Unknown { constraint } => write!(f, "nothing is known by constraint {constraint:?}"),
            Self::Constraint { constraint, has } if has.is_empty() => {
                write!(f, "does not meet {constraint} (not set)")
            }
            Self::Constraint { constraint, has } => write!(f, "does not meet {constraint} (has {has})"),
            Self::Platform { wanted, has } => write!(f, "is {has}, the image needs {wanted}"),
            Self::Host { feature, why, .. } => write!(f, "lacks {feature}: {why}"),
            Self::Volume { volume, home } => write!(f, "blocked: data of volume {volume} is on node {home}"),
            Self::PerNode { max } => write!(f, "has {max} of its tasks already (max_replicas_per_node)"),
            Self::HostPort { port } => {
                let number = port.published.unwrap_or(port.target);
                write!(f, "host port {number}/{} is taken by another task", port.protocol)
            }
            Self::Cpus { wanted, free, all } if free == all => write!(f, "lacks {wanted} CPUs (has {all})"),
            Self::Cpus { wanted, free, all } => write!(f, "lacks {wanted} CPUs (has {free} free of {all})"),
            Self::Memory { wanted, free, all } if free == all => {
                write!(f, "lacks {wanted} memory (has {all})")
            }
            Self::Memory { wanted, free, all } => {
                write!(f, "lacks {wanted} memory (has {free} free of {all})")
            }
        }
    }
}

/// The first reason why the candidate cannot take it; `None` when it can.
pub(crate) fn misfit(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    if request.only.as_ref().is_some_and(|only| *only != candidate.info.id) {
        return Some(Misfit::NotTheOne);
    }
    constraints(request, candidate)
        .or_else(|| platform(request, candidate))
        .or_else(|| host(request, candidate))
        .or_else(|| volumes(request, candidate))
        .or_else(|| per_node(request, candidate))
        .or_else(|| host_ports(request, candidate))
        .or_else(|| resources(request, candidate))
}

fn constraints(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    request.spec.placement.constraints.iter().find_map(|text| {
        let constraint = text.trim().to_owned();
        let Some(parsed) = constraint::parse(text) else { return Some(Misfit::Unknown { constraint }) };
        let Some(values) = constraint::values(candidate.info, parsed.key) else {
            return Some(Misfit::Unknown { constraint });
        };
        (!constraint::holds(&parsed, candidate.info))
            .then(|| Misfit::Constraint { constraint, has: values.join(", ") })
    })
}

fn platform(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    let wanted = request.spec.placement.platform.as_ref()?;
    let mut parts = wanted.split('/');
    let (os, arch) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let arch = match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = os == candidate.info.os && (arch.is_empty() || arch == candidate.info.arch);
    (!fits).then(|| Misfit::Platform {
        wanted: wanted.clone(),
        has: format!("{}/{}", candidate.info.os, candidate.info.arch),
    })
}

/// Only what was asked for: a default limit that a host cannot set is left out there with a warning.
fn host(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    if candidate.info.lacks.is_empty() {
        return None;
    }
    needs(&request.spec.task.container).into_iter().find_map(|(feature, field)| {
        let why = candidate.info.lacks.get(&feature)?.clone();
        Some(Misfit::Host { feature, field: field.to_owned(), why })
    })
}

/// What a container asks of the kernel beyond what every container gets, with the field that asks.
fn needs(spec: &ContainerSpec) -> Vec<(HostFeature, &'static str)> {
    let limits = &spec.limits;
    let asked = [
        (limits.memory.is_some(), HostFeature::MemoryLimits, "deploy.resources.limits.memory"),
        (limits.memory_reservation.is_some(), HostFeature::MemoryLimits, "mem_reservation"),
        (limits.memory_swap.is_some(), HostFeature::MemoryLimits, "memswap_limit"),
        (limits.cpus.is_some(), HostFeature::CpuLimits, "deploy.resources.limits.cpus"),
        (limits.cpu_shares.is_some(), HostFeature::CpuLimits, "cpu_shares"),
        (limits.cpuset.is_some(), HostFeature::CpuSets, "cpuset"),
        (limits.pids.is_some_and(|pids| pids != 0), HostFeature::PidsLimits, "deploy.resources.limits.pids"),
        (!spec.devices.is_empty(), HostFeature::DeviceRules, "devices"),
    ];
    asked.into_iter().filter(|(asked, ..)| *asked).map(|(_, feature, field)| (feature, field)).collect()
}

fn volumes(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    request
        .homes
        .iter()
        .find(|(_, home)| *home != candidate.info.id)
        .map(|(volume, home)| Misfit::Volume { volume: volume.clone(), home: home.to_string() })
}

fn per_node(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    let max = request.spec.placement.max_replicas_per_node?;
    (candidate.siblings >= max).then_some(Misfit::PerNode { max })
}

fn host_ports(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    let mut ports = request.spec.ports.iter().filter(|p| p.mode == PortMode::Host);
    ports
        .find(|p| p.published.is_some_and(|number| candidate.host_ports.contains(&(number, p.protocol))))
        .map(|p| Misfit::HostPort { port: p.clone() })
}

fn resources(request: &Request<'_>, candidate: &Candidate<'_>) -> Option<Misfit> {
    let wanted = request.spec.task.reservations;
    let (cpus, memory) = candidate.free();
    if wanted.cpus > cpus {
        return Some(Misfit::Cpus { wanted: wanted.cpus, free: cpus, all: candidate.info.cpus });
    }
    (wanted.memory > memory).then_some(Misfit::Memory {
        wanted: wanted.memory,
        free: memory,
        all: candidate.info.memory,
    })
}
