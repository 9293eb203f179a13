//! New tasks: a number, a node, an address, and homes for the volumes they are the first to use.

use std::collections::BTreeSet;
use std::sync::Arc;

use carrack_api::{Desired, MountSource, NodeId, ServiceKey, ServiceSpec, VolumeName};

use super::address::{self, Range};
use super::draft::{Draft, has_address, slot_name};
use crate::place::{Candidate, Choice, NoFit, Request, place};
use crate::store::{Object, Op, TaskRecord, VolumeRecord};

/// What a new task is to be.
pub(super) struct New<'a> {
    pub(super) service: &'a ServiceKey,
    pub(super) slot: u32,
    pub(super) only: Option<NodeId>,
    pub(super) revision: u64,
    pub(super) deploy: u64,
    pub(super) crashes: u32,
    pub(super) reason: String,
}

/// Makes a task and places it when a node fits; otherwise it waits as pending, with the reason.
pub(super) fn create(draft: &mut Draft<'_>, new: New<'_>) {
    let Some(id) = draft.next_task() else { return };
    let mut task = TaskRecord {
        id,
        service: new.service.clone(),
        slot: new.slot,
        revision: new.revision,
        deploy: new.deploy,
        node: None,
        addresses: Vec::new(),
        desired: Desired::Run,
        placement: String::new(),
        crashes: new.crashes,
        created_at: draft.now,
        verdict: None,
    };
    let placed = settle(draft, &mut task, new.only);
    let verb = if placed { "create" } else { "wait" };
    let reason = format!("{}; {}", new.reason, task.placement);
    draft.task(verb, reason, task);
}

/// Tries pending tasks again.
pub(super) fn place_pending(draft: &mut Draft<'_>) {
    let pending: Vec<TaskRecord> = draft
        .state
        .tasks
        .values()
        .filter(|t| t.is_wanted() && t.node.is_none())
        .map(|t| TaskRecord::clone(t))
        .collect();
    for mut task in pending {
        let before = task.placement.clone();
        if settle(draft, &mut task, None) {
            let reason = task.placement.clone();
            draft.task("place", reason, task);
        } else if task.placement != before {
            let reason = task.placement.clone();
            draft.task("wait", reason, task);
        }
    }
}

/// Finds node and address for a task; the record says where or why not.
fn settle(draft: &mut Draft<'_>, task: &mut TaskRecord, only: Option<NodeId>) -> bool {
    let Some(spec) = draft.state.service_spec(&task.service, task.revision).cloned() else { return false };
    let choice = match choose(draft, &task.service, &spec, only, None) {
        Ok(choice) => choice,
        Err(error) => {
            task.placement = error.to_string();
            return false;
        }
    };
    if has_address(&spec.task.network) && !take_address(draft, task, &choice.node) {
        task.placement = format!("no address is free on node {}", choice.node);
        return false;
    }
    // One-off tasks come and go; the service they are of is what a volume's users know.
    let user = match draft.state.runs.get(&task.service) {
        Some(run) => ServiceKey::new(run.key.stack.clone(), run.service.clone()),
        None => task.service.clone(),
    };
    for volume in volumes(&spec) {
        home(draft, volume, &choice.node, &user);
    }
    let message = format!("{} was placed on node {}: {}", task.id, choice.node, choice.reason);
    task.placement = format!("on {}: {}", choice.node, choice.reason);
    task.node = Some(choice.node);
    draft.occupy(task);
    draft.event("task.placed", slot_name(&task.service, task.slot), message, Some(task.id));
    true
}

/// The node for a task of a service, as if `without` were not there.
pub(super) fn choose(
    draft: &Draft<'_>,
    service: &ServiceKey,
    spec: &ServiceSpec,
    only: Option<NodeId>,
    without: Option<&TaskRecord>,
) -> Result<Choice, NoFit> {
    let nodes = draft.usable_nodes();
    let candidates: Vec<Candidate<'_>> = nodes
        .iter()
        .map(|node| {
            let mut held = draft.occupancy(&node.info.id);
            let mut siblings = held.siblings.get(service).copied().unwrap_or(0);
            if let Some(old) = without.filter(|t| t.node.as_ref() == Some(&node.info.id))
                && let Some(spec) = draft.state.service_spec(&old.service, old.revision)
            {
                let gone = spec.task.reservations;
                held.reserved.cpus.0 = held.reserved.cpus.0.saturating_sub(gone.cpus.0);
                held.reserved.memory.0 = held.reserved.memory.0.saturating_sub(gone.memory.0);
                held.host_ports.retain(|(port, protocol)| {
                    !spec.ports.iter().any(|p| p.published == Some(*port) && p.protocol == *protocol)
                });
                siblings = siblings.saturating_sub(1);
            }
            Candidate { info: &node.info, reserved: held.reserved, siblings, host_ports: held.host_ports }
        })
        .collect();
    let homes = volumes(spec)
        .into_iter()
        .filter_map(|name| draft.state.volumes.get(&name).map(|v| (name, v.node.clone())))
        .collect();
    place(&Request { spec, homes, only }, &candidates, draft.seed)
}

/// Named volumes that a task mounts.
pub(crate) fn volumes(spec: &ServiceSpec) -> BTreeSet<VolumeName> {
    spec.task
        .container
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } => Some(name.clone()),
            MountSource::Bind { .. } | MountSource::Anonymous | MountSource::Tmpfs { .. } => None,
        })
        .collect()
}

fn take_address(draft: &mut Draft<'_>, task: &mut TaskRecord, node: &NodeId) -> bool {
    let Some(mut record) = draft.state.nodes.get(node).map(|n| Arc::unwrap_or_clone(n.clone())) else {
        return false;
    };
    let Some(range) = draft.cluster().and_then(|c| Range::parse(&c.cidr).ok()) else { return false };
    let Some(address) = address::take(&draft.state, range, &mut record, draft.now) else { return false };
    let reason = format!("{address} goes to {}", task.id);
    draft.push(super::BOOK, format!("node {node}"), reason, Op::Put(Object::Node(record)));
    task.addresses = vec![address];
    true
}

/// The first task that uses a volume decides where its data is.
fn home(draft: &mut Draft<'_>, name: VolumeName, node: &NodeId, service: &ServiceKey) {
    let before = draft.state.volumes.get(&name).map(|v| VolumeRecord::clone(v));
    let mut record = before.clone().unwrap_or_else(|| VolumeRecord {
        name: name.clone(),
        node: node.clone(),
        services: BTreeSet::new(),
    });
    record.services.insert(service.clone());
    if before.as_ref() != Some(&record) {
        draft.push(
            "set",
            format!("volume {name}"),
            format!("{service} uses it on {node}"),
            Op::Put(Object::Volume(record)),
        );
    }
}
