//! Values that tests of several modules share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use carrack_api::{
    AddressPlan, AssignedTask, Assignment, ClusterId, Desired, Exit, NetworkName, NetworkTable, NodeId,
    SESSION_VERSION, ServiceKey, ServiceName, ServiceTable, StackName, TaskId, TaskSpec, Timestamp,
};

/// The node of the tests.
pub(crate) const NODE: &str = "aaaaaaaaaaaa";

/// Its cluster.
pub(crate) const CLUSTER: &str = "cccccccccccc";

/// The address of a slot.
pub(crate) fn address(last_byte: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 192, 0, 10)) + last_byte)
}

/// The VIP of a service.
pub(crate) fn vip(service: &str) -> Ipv4Addr {
    let low: u32 = service.bytes().map(u32::from).sum();
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 252, 0, 0)) + low)
}

/// A service of the stack `demo`.
pub(crate) fn key(service: &str) -> ServiceKey {
    ServiceKey::new(StackName::new("demo").unwrap(), ServiceName::new(service).unwrap())
}

/// A task of a service of the stack `demo` on the network `demo_default`.
pub(crate) fn assigned(service: &str, slot: u32) -> AssignedTask {
    AssignedTask {
        service: key(service),
        slot,
        revision: 1,
        spec: TaskSpec::default(),
        networks: BTreeSet::from([NetworkName::new("demo_default").unwrap()]),
        addresses: vec![IpAddr::V4(address(slot))],
        desired: Desired::Run,
        crashes: 0,
    }
}

/// An assignment with the services of its tasks.
pub(crate) fn assignment(generation: u64, tasks: BTreeMap<TaskId, AssignedTask>) -> Assignment {
    let network = NetworkName::new("demo_default").unwrap();
    let services = tasks
        .values()
        .map(|task| {
            let table = ServiceTable {
                vips: vec![vip(task.service.service.as_str()).into()],
                networks: BTreeMap::from([(network.clone(), BTreeSet::from(["www".to_owned()]))]),
                ports: Vec::new(),
                targets: Vec::new(),
                endpoints: Vec::new(),
            };
            (task.service.clone(), table)
        })
        .collect();
    Assignment {
        version: SESSION_VERSION,
        cluster: ClusterId::new(CLUSTER).unwrap(),
        epoch: 1,
        generation,
        node: NodeId::new(NODE).unwrap(),
        addresses: AddressPlan {
            cluster: "10.192.0.0/10".to_owned(),
            vips: "10.252.0.0/14".to_owned(),
            blocks: vec!["10.192.0.0/24".to_owned()],
        },
        tasks,
        retained: BTreeSet::new(),
        services,
        networks: BTreeMap::from([(network, NetworkTable { internal: false })]),
        credentials: BTreeMap::new(),
        contents: BTreeMap::new(),
        images_needed: BTreeSet::new(),
    }
}

/// A plain exit.
pub(crate) fn exit(code: i32) -> Exit {
    Exit { code, signal: None, oom: false, peak_memory: None, at: Timestamp(1), error: None }
}
