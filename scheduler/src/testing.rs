//! Values that unit tests share.

use std::collections::BTreeMap;

use carrack_api::{
    Attachment, Bytes, ContainerSpec, Desired, MilliCpus, NetworkSpec, NodeInfo, PublishedPort, ServiceSpec,
    StackName, StackSpec, TaskId, TaskNetwork, TaskSpec, Timestamp,
};

use crate::store::{StackPhase, StackRecord, TaskRecord};

/// A node with 4 cores and 16 GiB.
pub(crate) fn node(number: u64) -> NodeInfo {
    NodeInfo {
        id: format!("{number:012x}").parse().unwrap(),
        hostname: format!("host-{number}"),
        os: "linux".into(),
        arch: "amd64".into(),
        cpus: MilliCpus(4000),
        memory: Bytes(16 << 30),
        labels: BTreeMap::new(),
        addresses: Vec::new(),
        version: "0.1.0".into(),
        lacks: BTreeMap::new(),
    }
}

/// A service on the stack's default network.
pub(crate) fn service(image: &str) -> ServiceSpec {
    let container = ContainerSpec {
        image: image.into(),
        image_digest: Some(format!("sha256:{image}")),
        ..Default::default()
    };
    let networks = BTreeMap::from([("default".parse().unwrap(), Attachment::default())]);
    ServiceSpec {
        task: TaskSpec { container, network: TaskNetwork::Networks(networks), ..Default::default() },
        mode: Default::default(),
        placement: Default::default(),
        update: Default::default(),
        ports: Vec::new(),
        expose: Vec::new(),
        depends_on: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

/// A stack of services.
pub(crate) fn stack(name: &str, services: &[(&str, ServiceSpec)]) -> StackSpec {
    let network = NetworkSpec {
        name: format!("{name}_default").parse().unwrap(),
        internal: false,
        external: false,
        labels: Default::default(),
    };
    StackSpec {
        name: name.parse().unwrap(),
        services: services.iter().map(|(n, s)| (n.parse().unwrap(), s.clone())).collect(),
        networks: BTreeMap::from([("default".parse().unwrap(), network)]),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
    }
}

/// A published TCP port.
pub(crate) fn port(target: u16, published: Option<u16>) -> PublishedPort {
    PublishedPort {
        target,
        published,
        range: None,
        host_ip: None,
        protocol: Default::default(),
        mode: Default::default(),
    }
}

/// A task that waits for a node.
pub(crate) fn task(id: u64, service: &str, slot: u32) -> TaskRecord {
    TaskRecord {
        id: TaskId(id),
        service: service.parse().unwrap(),
        slot,
        revision: 1,
        deploy: 1,
        node: None,
        addresses: Vec::new(),
        desired: Desired::Run,
        placement: String::new(),
        crashes: 0,
        created_at: Timestamp(0),
        verdict: None,
    }
}

/// A stack that is wanted, at revision 1.
pub(crate) fn stack_record(name: &StackName) -> StackRecord {
    StackRecord {
        name: name.clone(),
        revision: 1,
        deploy: 1,
        deployed_at: Timestamp(1),
        phase: StackPhase::Active,
        resolved: BTreeMap::new(),
        stopped: Default::default(),
        fresh: BTreeMap::new(),
        set: Default::default(),
    }
}
