//! The plan linter: what no plan may lead to. A plan that fails it is not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use carrack_api::validate::ports_collide;
use carrack_api::{PublishedPort, ServiceKey};

use crate::store::Snapshot;

/// Wanted tasks of one slot at most: the old and the new one of a rollout.
const WANTED_PER_SLOT: usize = 2;

/// All that is wrong with a state; empty for a good one.
pub(crate) fn check(state: &Snapshot) -> Vec<String> {
    let mut wrong = Vec::new();
    addresses(state, &mut wrong);
    slots(state, &mut wrong);
    ports(state, &mut wrong);
    if let Some(cluster) = state.cluster()
        && let Some(task) = state.tasks.values().next_back().filter(|t| t.id.0 >= cluster.next_task)
    {
        wrong.push(format!("{} has a number that is still to be given", task.id));
    }
    wrong
}

fn addresses(state: &Snapshot, wrong: &mut Vec<String>) {
    let mut seen: BTreeMap<IpAddr, String> = BTreeMap::new();
    let tasks = state.tasks.values().filter(|t| t.is_live());
    let tasks = tasks.flat_map(|t| t.addresses.iter().map(|a| (*a, t.id.to_string())));
    let vips = state.services.values().flat_map(|s| s.vips.iter().map(|a| (*a, s.key.to_string())));
    let of_runs = state.runs.values().flat_map(|r| r.vips.iter().map(|a| (*a, r.key.to_string())));
    for (address, owner) in tasks.chain(vips).chain(of_runs) {
        if let Some(other) = seen.insert(address, owner.clone()) {
            wrong.push(format!("{address} is given to both {other} and {owner}"));
        }
    }
    let mut blocks = BTreeSet::new();
    for block in state.nodes.values().flat_map(|n| n.blocks.iter()) {
        if !blocks.insert(block) {
            wrong.push(format!("block {block}/24 is given to two nodes"));
        }
    }
}

fn slots(state: &Snapshot, wrong: &mut Vec<String>) {
    let mut counts: BTreeMap<(&ServiceKey, u32), usize> = BTreeMap::new();
    for task in state.tasks.values().filter(|t| t.is_wanted()) {
        *counts.entry((&task.service, task.slot)).or_default() += 1;
        if state.service_spec(&task.service, task.revision).is_none() {
            wrong.push(format!(
                "{} is of revision {} of {}, which is not kept",
                task.id, task.revision, task.service
            ));
        }
    }
    for ((service, slot), count) in counts.into_iter().filter(|(_, count)| *count > WANTED_PER_SLOT) {
        wrong.push(format!("slot {service}.{slot} has {count} wanted tasks"));
    }
}

fn ports(state: &Snapshot, wrong: &mut Vec<String>) {
    let mut by_number: BTreeMap<u16, Vec<(&ServiceKey, &PublishedPort)>> = BTreeMap::new();
    for service in state.services.values().filter(|s| state.wanted_spec(&s.key).is_some()) {
        for port in &service.ports {
            let held = by_number.entry(port.published.unwrap_or(0)).or_default();
            if let Some((other, _)) =
                held.iter().find(|(key, other)| **key != service.key && ports_collide(port, other))
            {
                let number = port.published.unwrap_or(0);
                wrong.push(format!(
                    "port {number}/{} is given to both {other} and {}",
                    port.protocol, service.key
                ));
            }
            held.push((&service.key, port));
        }
    }
}
