//! What the network of this node is to hold, from assignment and local facts. Pure.
//!
//! The health of own tasks comes from this node, that of others from the assignment: a crashed, failing or stopping task of
//! ours is out of the value at once, with or without a scheduler. Tables and names are made from the same endpoints, so DNS and
//! VIPs never disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use carrack_api::{
    Assignment, NodeId, PortConflict, PortMode, Protocol, PublishedPort, ServiceKey, ServiceTable, TaskId,
};
use carrack_net::dns::{DnsSnapshot, DnsView, Range, ServiceNames, SlotNames};
use carrack_net::{Ipv4Net, PortKey, PortTarget, Tables};

use crate::facts::TaskFacts;

/// Port of name servers.
const DNS_PORT: u16 = 53;

/// Everything the network of this node is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeTables {
    /// For the kernel.
    pub(crate) kernel: Tables,
    /// Host ports to hold.
    pub(crate) ports: BTreeSet<PortKey>,
    /// Ports that cannot be published whoever holds them.
    pub(crate) refused: Vec<PortConflict>,
    /// For DNS.
    pub(crate) names: DnsSnapshot,
}

/// What the tables need to know beside assignment and facts.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    /// This node.
    pub(crate) node: &'a NodeId,
    /// Its address in the cluster.
    pub(crate) address: Option<Ipv4Addr>,
    /// Its other addresses.
    pub(crate) host_addresses: &'a [IpAddr],
    /// Name servers for foreign names.
    pub(crate) upstreams: &'a [SocketAddr],
}

/// One endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    slot: u32,
    here: bool,
    addresses: Vec<IpAddr>,
    serving: bool,
}

/// Makes the tables.
pub(crate) fn tables(
    assignment: &Assignment,
    facts: &BTreeMap<TaskId, TaskFacts>,
    place: &Place<'_>,
) -> NodeTables {
    let mut made = NodeTables::default();
    made.names.upstreams = place.upstreams.to_vec();
    made.names.host_addresses =
        place.host_addresses.iter().copied().chain(place.address.map(IpAddr::V4)).collect();
    made.names.ranges = cluster_range(assignment).into_iter().collect();
    made.kernel.internal = assignment
        .networks
        .iter()
        .filter(|(_, net)| net.internal)
        .map(|(name, _)| name.to_string())
        .collect();
    for (key, service) in &assignment.services {
        let members = members(assignment, facts, place.node, key, service);
        add_service(&mut made, service, &members);
        add_names(&mut made.names, key, service, &members);
    }
    for task in assignment.tasks.values() {
        let networks: BTreeSet<String> = task.networks.iter().map(ToString::to_string).collect();
        for address in &task.addresses {
            if let IpAddr::V4(v4) = address {
                made.kernel.members.insert(*v4, networks.clone());
            }
            let view = DnsView {
                stack: task.service.stack.to_string(),
                networks: networks.iter().cloned().collect(),
                upstreams: resolvers(&task.spec.container.dns),
                extra: BTreeMap::new(),
            };
            made.names.views.insert(*address, view);
        }
    }
    made
}

/// The endpoints of a service by task: own ones as this node knows them, others as the assignment says.
fn members(
    assignment: &Assignment,
    facts: &BTreeMap<TaskId, TaskFacts>,
    node: &NodeId,
    key: &ServiceKey,
    service: &ServiceTable,
) -> BTreeMap<TaskId, Member> {
    let mut members = BTreeMap::new();
    for endpoint in service.endpoints.iter().filter(|endpoint| endpoint.node != *node) {
        let member = Member {
            slot: endpoint.slot,
            here: false,
            addresses: endpoint.addresses.clone(),
            serving: endpoint.passing,
        };
        members.insert(endpoint.task, member);
    }
    for (id, task) in assignment.tasks.iter().filter(|(_, task)| task.service == *key) {
        let serving =
            facts.get(id).is_some_and(TaskFacts::is_serving) && task.desired == carrack_api::Desired::Run;
        members
            .insert(*id, Member { slot: task.slot, here: true, addresses: task.addresses.clone(), serving });
    }
    members
}

fn add_service(made: &mut NodeTables, service: &ServiceTable, members: &BTreeMap<TaskId, Member>) {
    let networks: BTreeSet<String> = service.networks.keys().map(ToString::to_string).collect();
    for member in members.values().filter(|member| !member.here) {
        for address in v4(&member.addresses) {
            made.kernel.members.insert(address, networks.clone());
        }
    }
    if service.vips.is_empty() {
        // Its tasks use the host's network, or none: nothing to balance, nothing to publish.
        return;
    }
    let serving = |only_here: bool| -> BTreeSet<Ipv4Addr> {
        let chosen = members.values().filter(|member| member.serving && (member.here || !only_here));
        chosen.flat_map(|member| v4(&member.addresses)).collect()
    };
    for vip in v4(&service.vips) {
        made.kernel.services.insert(vip, serving(false));
    }
    for port in &service.ports {
        let Some(published) = port.published else { continue };
        let host_mode = port.mode == PortMode::Host;
        if host_mode && !members.values().any(|member| member.here) {
            continue;
        }
        let host_ip = match port.host_ip {
            None => None,
            Some(IpAddr::V4(v4)) if v4.is_unspecified() => None,
            Some(IpAddr::V4(v4)) => Some(v4),
            Some(IpAddr::V6(v6)) if v6.is_unspecified() => None,
            Some(IpAddr::V6(_)) => {
                made.refused.push(refused(port, published));
                continue;
            }
        };
        let key = PortKey { host_ip, protocol: protocol(port.protocol), port: published };
        made.ports.insert(key);
        made.kernel.ports.insert(key, PortTarget { endpoints: serving(host_mode), port: port.target });
    }
}

fn refused(port: &PublishedPort, published: u16) -> PortConflict {
    PortConflict {
        host_ip: port.host_ip,
        port: published,
        protocol: port.protocol,
        holder: "no one: IPv6 addresses cannot be published yet".to_owned(),
    }
}

fn add_names(
    names: &mut DnsSnapshot,
    key: &ServiceKey,
    service: &ServiceTable,
    members: &BTreeMap<TaskId, Member>,
) {
    let mut slots: BTreeMap<u32, SlotNames> = BTreeMap::new();
    for member in members.values().filter(|member| !member.addresses.is_empty()) {
        // Two tasks share a slot during a rollout: the serving one is meant, else the newer one.
        if member.serving || slots.get(&member.slot).is_none_or(|known| !known.passing) {
            let slot = SlotNames { addresses: member.addresses.clone(), passing: member.serving };
            slots.insert(member.slot, slot);
        }
    }
    let position = names.add_service(ServiceNames {
        stack: key.stack.to_string(),
        service: key.service.to_string(),
        vips: service.vips.clone(),
        slots,
    });
    for (network, aliases) in &service.networks {
        names.name_service(network.as_str(), key.service.as_str(), position);
        for alias in aliases {
            names.name_service(network.as_str(), alias, position);
        }
    }
}

fn cluster_range(assignment: &Assignment) -> Option<Range> {
    let range: Ipv4Net = assignment.addresses.cluster.parse().ok()?;
    Some(Range { address: range.address().into(), prefix: range.prefix() })
}

fn resolvers(dns: &[String]) -> Vec<SocketAddr> {
    dns.iter()
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, DNS_PORT))
        .collect()
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> + '_ {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

/// The protocol in the network's words.
pub(crate) fn protocol(protocol: Protocol) -> carrack_net::Protocol {
    match protocol {
        Protocol::Tcp => carrack_net::Protocol::Tcp,
        Protocol::Udp => carrack_net::Protocol::Udp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Cause, StopPhase, Stopping};
    use crate::testing::{NODE, address, assigned, assignment, vip};
    use carrack_api::{Desired, Endpoint, Health, NetworkName, NetworkTable, Timestamp};

    fn serving() -> TaskFacts {
        let mut facts = TaskFacts { run: 1, ..TaskFacts::default() };
        facts.has_started(1, 15, Timestamp(1));
        facts.set_health(Health::Passing, Timestamp(2));
        facts
    }

    fn three_webs() -> (Assignment, BTreeMap<TaskId, TaskFacts>) {
        let tasks = (1..=3).map(|slot| (TaskId(slot), assigned("web", u32::try_from(slot).unwrap())));
        (assignment(1, tasks.collect()), (1..=3).map(|id| (TaskId(id), serving())).collect())
    }

    fn make(assignment: &Assignment, facts: &BTreeMap<TaskId, TaskFacts>) -> NodeTables {
        let node = NodeId::new(NODE).unwrap();
        let place = Place { node: &node, address: None, host_addresses: &[], upstreams: &[] };
        tables(assignment, facts, &place)
    }

    fn behind_vip(tables: &NodeTables) -> Vec<Ipv4Addr> {
        tables.kernel.services[&vip("web")].iter().copied().collect()
    }

    #[test]
    fn passing_tasks_stand_behind_the_vip_and_the_published_port() {
        let (mut assignment, facts) = three_webs();
        let table = assignment.services.values_mut().next().unwrap();
        table.ports.push(PublishedPort {
            target: 80,
            published: Some(8080),
            range: None,
            host_ip: None,
            protocol: Protocol::Tcp,
            mode: PortMode::Ingress,
        });
        let made = make(&assignment, &facts);
        assert_eq!(behind_vip(&made), [address(1), address(2), address(3)]);
        let key = PortKey { host_ip: None, protocol: carrack_net::Protocol::Tcp, port: 8080 };
        assert_eq!(made.ports, BTreeSet::from([key]));
        assert_eq!(made.kernel.ports[&key].port, 80);
        assert_eq!(made.kernel.ports[&key].endpoints.len(), 3);
    }

    #[test]
    fn crashed_failing_and_stopping_tasks_are_out_whatever_the_scheduler_says() {
        let (assignment, mut facts) = three_webs();
        facts.insert(TaskId(1), TaskFacts::default());
        facts.get_mut(&TaskId(2)).unwrap().set_health(Health::Failing, Timestamp(3));
        let phase = StopPhase::Drained;
        facts.get_mut(&TaskId(3)).unwrap().stopping = Some(Stopping { cause: Cause::Unwanted, phase });
        assert!(behind_vip(&make(&assignment, &facts)).is_empty());
    }

    #[test]
    fn a_task_asked_to_stop_is_out_in_the_same_moment() {
        let (mut assignment, facts) = three_webs();
        assignment.tasks.get_mut(&TaskId(2)).unwrap().desired = Desired::Stop;
        assert_eq!(behind_vip(&make(&assignment, &facts)), [address(1), address(3)]);
    }

    #[test]
    fn endpoints_elsewhere_follow_the_assignment() {
        let (mut assignment, facts) = three_webs();
        let table = assignment.services.values_mut().next().unwrap();
        for (id, passing) in [(8, true), (9, false)] {
            table.endpoints.push(Endpoint {
                task: TaskId(id),
                slot: 8,
                node: NodeId::new("bbbbbbbbbbbb").unwrap(),
                addresses: vec![address(u32::try_from(id).unwrap()).into()],
                passing,
            });
        }
        let made = make(&assignment, &facts);
        assert!(behind_vip(&made).contains(&address(8)) && !behind_vip(&made).contains(&address(9)));
        assert!(made.kernel.members.contains_key(&address(9)), "it may be reached directly");
    }

    #[test]
    fn names_and_tables_agree() {
        let (assignment, mut facts) = three_webs();
        facts.insert(TaskId(1), TaskFacts::default());
        let made = make(&assignment, &facts);
        let service = &made.names.services[0];
        assert_eq!(service.vips, [IpAddr::V4(vip("web"))]);
        let passing: Vec<u32> = service.slots.iter().filter(|(_, s)| s.passing).map(|(n, _)| *n).collect();
        assert_eq!(passing, [2, 3]);
        assert_eq!(made.names.validate(), Ok(()));
        assert_eq!(made.names.views.len(), 3);
        let names: Vec<&String> = made.names.networks["demo_default"].names.keys().collect();
        assert_eq!(names, ["web", "www"]);
    }

    #[test]
    fn in_a_rollout_a_slot_means_the_task_that_serves() {
        let (mut assignment, mut facts) = three_webs();
        assignment.tasks.insert(TaskId(4), AssignedTaskWithSlot::of(1, 4));
        assert_eq!(make(&assignment, &facts).names.services[0].slots[&1].addresses, [IpAddr::V4(address(1))]);
        facts.insert(TaskId(1), TaskFacts::default());
        facts.insert(TaskId(4), serving());
        assert_eq!(make(&assignment, &facts).names.services[0].slots[&1].addresses, [IpAddr::V4(address(4))]);
    }

    struct AssignedTaskWithSlot;
    impl AssignedTaskWithSlot {
        fn of(slot: u32, last_byte: u32) -> carrack_api::AssignedTask {
            carrack_api::AssignedTask { addresses: vec![address(last_byte).into()], ..assigned("web", slot) }
        }
    }

    #[test]
    fn internal_networks_are_told_to_the_kernel() {
        let (mut assignment, facts) = three_webs();
        assignment.networks.insert(NetworkName::new("demo_back").unwrap(), NetworkTable { internal: true });
        assert_eq!(make(&assignment, &facts).kernel.internal, BTreeSet::from(["demo_back".to_owned()]));
    }

    #[test]
    fn a_service_on_the_hosts_network_publishes_nothing() {
        let (mut assignment, facts) = three_webs();
        assignment.services.values_mut().next().unwrap().vips.clear();
        let made = make(&assignment, &facts);
        assert!(made.ports.is_empty() && made.kernel.services.is_empty());
    }
}
