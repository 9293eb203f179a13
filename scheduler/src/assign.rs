//! Assignments: the whole desired state of one node, from a snapshot and the observations. Pure.

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::session::SESSION_VERSION;
use carrack_api::{
    AddressPlan, AssignedTask, Assignment, Desired, Endpoint, NetworkName, NetworkTable, NodeId, ServiceKey,
    ServiceSpec, ServiceTable, StackSpec, TaskNetwork,
};

use crate::plan::Observations;
use crate::plan::address::Range;
use crate::store::{ServiceRecord, Snapshot, TaskRecord};

/// What `node` is to do, with generation 0; `None` before the node has a record.
pub(crate) fn assignment(state: &Snapshot, observations: &Observations, node: &NodeId) -> Option<Assignment> {
    let cluster = state.cluster()?;
    let record = state.nodes.get(node)?;
    let mut tasks = BTreeMap::new();
    let mut retained = BTreeSet::new();
    for task in state.tasks.values().filter(|t| t.node.as_ref() == Some(node)) {
        if !task.is_live() {
            retained.insert(task.id);
        } else if let Some(assigned) = assigned(state, task) {
            tasks.insert(task.id, assigned);
        }
    }
    let (services, networks) = tables(state, observations);
    Some(Assignment {
        version: SESSION_VERSION,
        cluster: cluster.id.clone(),
        epoch: cluster.epoch,
        generation: 0,
        node: node.clone(),
        addresses: addresses(&cluster.cidr, &record.blocks)?,
        tasks,
        retained,
        services,
        networks,
        credentials: BTreeMap::new(),
        contents: BTreeMap::new(),
        images_needed: BTreeSet::new(),
    })
}

/// Digests of the images of all kept revisions and of one-off tasks.
pub(crate) fn images_needed(state: &Snapshot) -> BTreeSet<String> {
    let of_revisions = state.revisions.values().flat_map(|revision| revision.spec.services.values());
    let of_runs = state.runs.values().map(|run| &run.spec);
    of_revisions.chain(of_runs).filter_map(|spec| spec.task.container.image_digest.clone()).collect()
}

/// Digests of the secrets and configs of tasks that are to run.
pub(crate) fn contents_needed(assignment: &Assignment) -> BTreeSet<String> {
    let tasks = assignment.tasks.values().filter(|task| task.desired == Desired::Run);
    tasks.flat_map(|task| &task.spec.container.files).filter_map(|file| file.digest.clone()).collect()
}

fn addresses(cidr: &str, blocks: &[std::net::Ipv4Addr]) -> Option<AddressPlan> {
    Range::parse(cidr).ok().map(|range| range.plan(blocks))
}

fn assigned(state: &Snapshot, task: &TaskRecord) -> Option<AssignedTask> {
    let stack = state.spec(&task.service.stack, task.revision)?;
    let spec = state.service_spec(&task.service, task.revision)?;
    Some(AssignedTask {
        service: task.service.clone(),
        slot: task.slot,
        revision: task.revision,
        spec: spec.task.clone(),
        networks: networks_of(stack, spec).into_keys().collect(),
        addresses: task.addresses.clone(),
        desired: task.desired,
        crashes: task.crashes,
    })
}

/// A service's networks by cluster-wide name, with its further names there.
pub(crate) fn networks_of(stack: &StackSpec, spec: &ServiceSpec) -> BTreeMap<NetworkName, BTreeSet<String>> {
    let TaskNetwork::Networks(attachments) = &spec.task.network else { return BTreeMap::new() };
    let named = |key: &str| NetworkName::new(format!("{}_{key}", stack.name)).ok();
    if attachments.is_empty() {
        // No network named: the stack's default one, as in Compose.
        return named("default").map(|name| (name, BTreeSet::new())).into_iter().collect();
    }
    attachments
        .iter()
        .filter_map(|(key, attachment)| {
            let name = stack.networks.get(key).map(|n| n.name.clone()).or_else(|| named(key.as_str()))?;
            Some((name, attachment.aliases.iter().cloned().collect()))
        })
        .collect()
}

type Tables = (BTreeMap<ServiceKey, ServiceTable>, BTreeMap<NetworkName, NetworkTable>);

fn tables(state: &Snapshot, observations: &Observations) -> Tables {
    let mut endpoints = endpoints(state, observations);
    let (mut services, mut networks) = (BTreeMap::new(), BTreeMap::new());
    for record in state.services.values() {
        let Some(stack) = spec_of(state, record) else { continue };
        let Some(spec) = stack.services.get(&record.key.service) else { continue };
        let of_service = networks_of(stack, spec);
        for name in of_service.keys() {
            let internal = stack.networks.values().any(|n| n.name == *name && n.internal);
            // A shared network is internal only when all stacks on it say so.
            let table = networks.entry(name.clone()).or_insert(NetworkTable { internal });
            table.internal &= internal;
        }
        let table = ServiceTable {
            vips: record.vips.clone(),
            networks: of_service,
            ports: record.ports.clone(),
            targets: spec.target_ports(),
            endpoints: endpoints.remove(&record.key).unwrap_or_default(),
        };
        services.insert(record.key.clone(), table);
    }
    for run in state.runs.values() {
        let Some(stack) = state.spec(&run.key.stack, run.revision) else { continue };
        for name in networks_of(stack, &run.spec).into_keys() {
            let internal = stack.networks.values().any(|n| n.name == name && n.internal);
            networks.entry(name).or_insert(NetworkTable { internal });
        }
        if run.vips.is_empty() {
            continue;
        }
        // Without networks it has no name: only its published ports lead to it.
        let table = ServiceTable {
            vips: run.vips.clone(),
            networks: BTreeMap::new(),
            ports: run.spec.ports.clone(),
            targets: run.spec.target_ports(),
            endpoints: endpoints.remove(&run.key).unwrap_or_default(),
        };
        services.insert(run.key.clone(), table);
    }
    (services, networks)
}

/// The stack's spec in force, or the one that a service being taken away came from.
fn spec_of<'a>(state: &'a Snapshot, record: &ServiceRecord) -> Option<&'a StackSpec> {
    let stack = &record.key.stack;
    let revision = match state.wanted_spec(&record.key) {
        Some(_) => state.stacks.get(stack)?.revision,
        None => record.template,
    };
    state.spec(stack, revision)
}

/// Wanted tasks with addresses, by service, in order of slots.
fn endpoints(state: &Snapshot, observations: &Observations) -> BTreeMap<ServiceKey, Vec<Endpoint>> {
    let mut by_service: BTreeMap<ServiceKey, Vec<Endpoint>> = BTreeMap::new();
    for task in state.tasks.values().filter(|t| t.is_wanted() && !t.addresses.is_empty()) {
        let Some(node) = task.node.clone() else { continue };
        by_service.entry(task.service.clone()).or_default().push(Endpoint {
            task: task.id,
            slot: task.slot,
            node,
            addresses: task.addresses.clone(),
            passing: observations.of(task).is_passing(),
        });
    }
    by_service.values_mut().for_each(|list| list.sort_by_key(|e| (e.slot, e.task)));
    by_service
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Sim;
    use crate::testing;
    use carrack_api::Desired;

    fn of(sim: &Sim) -> Assignment {
        assignment(&sim.state, &sim.observations(), &testing::node(1).id).unwrap()
    }

    fn deployed() -> Sim {
        let mut sim = Sim::new();
        sim.add_node(1);
        let mut web = testing::service("nginx:1");
        web.ports = vec![testing::port(80, Some(8080))];
        sim.deploy(testing::stack("hello", &[("web", web)]));
        sim.settle();
        sim
    }

    #[test]
    fn a_node_is_told_tasks_tables_and_addresses() {
        let mut sim = deployed();
        let told = of(&sim);
        let (id, task) = told.tasks.first_key_value().unwrap();
        assert_eq!((task.slot, task.desired, task.addresses.len()), (1, Desired::Run, 1));
        assert_eq!(task.networks.first().unwrap().as_str(), "hello_default");
        let table = told.services.first_key_value().unwrap().1;
        assert_eq!(table.ports[0].published, Some(8080));
        assert_eq!((table.endpoints[0].task, table.endpoints[0].passing), (*id, false));
        assert_eq!(told.addresses.blocks, ["10.192.0.0/24"]);
        sim.obey();
        assert!(of(&sim).services.first_key_value().unwrap().1.endpoints[0].passing);
    }

    #[test]
    fn a_task_on_its_way_out_is_no_endpoint_and_an_ended_one_is_kept() {
        let mut sim = deployed();
        sim.obey();
        sim.settle();
        sim.scale("hello/web", 0);
        sim.settle();
        let told = of(&sim);
        assert_eq!(told.tasks.first_key_value().unwrap().1.desired, Desired::Stop);
        assert!(told.services.first_key_value().unwrap().1.endpoints.is_empty());
        sim.obey();
        sim.settle();
        let told = of(&sim);
        assert!(told.tasks.is_empty());
        assert_eq!(told.retained.len(), 1);
    }
}
