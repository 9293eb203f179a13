//! Published ports: numbers for those that leave them to us, and who has a number already.

use std::collections::BTreeSet;

use carrack_api::validate::ports_collide;
use carrack_api::{PublishedPort, ServiceKey, ServiceName, StackName, StackSpec};

use crate::place::hash;
use crate::store::{Snapshot, StackPhase};

/// First port of those that are chosen.
const FIRST: u16 = 30_000;
/// Number of ports that are chosen from.
const COUNT: u16 = 2768;

/// The ports of a service with numbers: those written, those chosen before, and free ones for the rest. `None` when the
/// range that is chosen from is used up.
pub(crate) fn choose(
    state: &Snapshot,
    key: &ServiceKey,
    wanted: &[PublishedPort],
) -> Option<Vec<PublishedPort>> {
    choose_beside(state, key, wanted, &BTreeSet::new())
}

/// Services of a spec for which no number of a range that they name would be left.
pub(crate) fn without_choice(state: &Snapshot, stack: &StackName, spec: &StackSpec) -> Vec<ServiceName> {
    let written = spec.services.values().flat_map(|service| service.ports.iter().filter_map(|p| p.published));
    let mut also: BTreeSet<u16> = written.collect();
    let mut out = Vec::new();
    let ranges = spec.services.iter().filter(|(_, service)| service.ports.iter().any(|p| p.range.is_some()));
    for (name, service) in ranges {
        let key = ServiceKey::new(stack.clone(), name.clone());
        match choose_beside(state, &key, &service.ports, &also) {
            Some(ports) => also.extend(ports.iter().filter_map(|p| p.published)),
            None => out.push(name.clone()),
        }
    }
    out
}

fn choose_beside(
    state: &Snapshot,
    key: &ServiceKey,
    wanted: &[PublishedPort],
    also: &BTreeSet<u16>,
) -> Option<Vec<PublishedPort>> {
    let before = state.services.get(key).map(|s| s.ports.as_slice()).unwrap_or_default();
    let mut taken = taken(state, key);
    taken.extend(also);
    taken.extend(wanted.iter().filter_map(|p| p.published));
    let mut ports = Vec::with_capacity(wanted.len());
    for port in wanted {
        let mut port = port.clone();
        if port.published.is_none() {
            let kept = before
                .iter()
                .find(|b| PublishedPort { published: None, ..(*b).clone() } == port)
                .and_then(|b| b.published)
                .filter(|number| !taken.contains(number));
            let number = match kept {
                Some(number) => number,
                None => match port.range {
                    Some((first, last)) => (first..=last).find(|number| !taken.contains(number))?,
                    None => free(&taken, key, port.target)?,
                },
            };
            taken.insert(number);
            port.published = Some(number);
        }
        ports.push(port);
    }
    Some(ports)
}

/// All numbers that other services hold or have written.
fn taken(state: &Snapshot, except: &ServiceKey) -> BTreeSet<u16> {
    let records = state.services.values().filter(|s| s.key != *except).flat_map(|s| s.ports.iter());
    let specs = active_specs(state).flat_map(|spec| spec.services.values().flat_map(|s| s.ports.iter()));
    let runs = state.runs.values().flat_map(|r| r.spec.ports.iter());
    records.chain(specs).chain(runs).filter_map(|p| p.published).collect()
}

fn active_specs(state: &Snapshot) -> impl Iterator<Item = &StackSpec> {
    let active = state.stacks.values().filter(|s| s.phase == StackPhase::Active);
    active.filter_map(|s| state.spec(&s.name, s.revision))
}

/// The same service gets the same number wherever it can.
fn free(taken: &BTreeSet<u16>, key: &ServiceKey, target: u16) -> Option<u16> {
    let start = u16::try_from(hash(u64::from(target), &key.to_string()) % u64::from(COUNT)).ok()?;
    (0..COUNT).map(|step| FIRST + (start + step) % COUNT).find(|number| !taken.contains(number))
}

/// A port that another stack publishes already: which service holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) service: ServiceName,
    /// Position within the service's ports.
    pub(crate) index: usize,
    pub(crate) port: PublishedPort,
    pub(crate) holder: ServiceKey,
}

/// Ports of a spec that other stacks hold.
pub(crate) fn conflicts(state: &Snapshot, stack: &StackName, spec: &StackSpec) -> Vec<Taken> {
    let mut held: Vec<(ServiceKey, PublishedPort)> = Vec::new();
    for service in state.services.values().filter(|s| s.key.stack != *stack) {
        held.extend(service.ports.iter().map(|p| (service.key.clone(), p.clone())));
    }
    for other in active_specs(state).filter(|s| s.name != *stack) {
        for (name, service) in &other.services {
            let key = ServiceKey::new(other.name.clone(), name.clone());
            held.extend(service.ports.iter().map(|p| (key.clone(), p.clone())));
        }
    }
    let mut out = Vec::new();
    for (name, service) in &spec.services {
        for (index, port) in service.ports.iter().enumerate() {
            if let Some((holder, _)) = held.iter().find(|(_, other)| ports_collide(port, other)) {
                out.push(Taken { service: name.clone(), index, port: port.clone(), holder: holder.clone() });
            }
        }
    }
    out
}
