//! Placement in sentences.

use carrack_api::{PortMode, PublishedPort};
use proptest::prelude::*;

use super::*;
use crate::testing;

fn candidate(info: &NodeInfo) -> Candidate<'_> {
    Candidate { info, reserved: Reservations::default(), siblings: 0, host_ports: BTreeSet::new() }
}

fn request(spec: &ServiceSpec) -> Request<'_> {
    Request { spec, homes: Vec::new(), only: None }
}

fn refused(spec: &ServiceSpec, candidates: &[Candidate<'_>]) -> String {
    place(&request(spec), candidates, 7).unwrap_err().to_string()
}

fn constrained(text: &str) -> ServiceSpec {
    let mut spec = testing::service("nginx");
    spec.placement.constraints = vec![text.into()];
    spec
}

#[test]
fn a_refusal_names_the_numbers() {
    let node = testing::node(1);
    let mut spec = testing::service("nginx");
    spec.task.reservations.memory = Bytes(512 << 30);
    assert_eq!(
        refused(&spec, &[candidate(&node)]),
        "no node fits: 1 node: lacks 512 GiB memory (has 16 GiB)"
    );
    spec.task.reservations = Reservations { cpus: MilliCpus(3000), memory: Bytes(0) };
    let mut busy = candidate(&node);
    busy.reserved.cpus = MilliCpus(1500);
    assert_eq!(refused(&spec, &[busy]), "no node fits: 1 node: lacks 3 CPUs (has 2.5 free of 4)");
    assert_eq!(refused(&spec, &[]), "no node fits: no node has reported yet");
}

#[test]
fn a_limit_that_a_kernel_cannot_set_is_for_another_node() {
    let mut without = testing::node(1);
    let why = "its cgroup controller memory is not there";
    without.lacks.insert(carrack_api::fact::HostFeature::MemoryLimits, why.into());
    let mut spec = testing::service("nginx");
    assert!(place(&request(&spec), &[candidate(&without)], 7).is_ok(), "nothing is asked for");
    spec.task.container.limits.memory = Some(Bytes(64 << 20));
    let error = place(&request(&spec), &[candidate(&without)], 7).unwrap_err();
    assert_eq!(error.lacking(), Some("deploy.resources.limits.memory"));
    assert_eq!(error.to_string(), format!("no node fits: 1 node: lacks memory limits: {why}"));
    let with = testing::node(2);
    let choice = place(&request(&spec), &[candidate(&without), candidate(&with)], 7).unwrap();
    assert_eq!(choice.node, with.id);
}

#[test]
fn constraints_are_read_as_swarm_reads_them() {
    let mut node = testing::node(1);
    node.labels.insert("disk".into(), "SSD".into());
    for (text, fits) in [
        ("node.labels.disk == ssd", true),
        ("node.labels.disk==ssd", true),
        ("node.labels.disk != ssd", false),
        ("node.labels.zone != a", true),
        ("node.labels.zone == a", false),
        ("node.hostname == host-1", true),
        ("node.id == 000000000001", true),
        ("node.platform.os == linux", true),
        ("node.platform.arch == x86_64", true),
        ("node.platform.arch == arm64", false),
        ("node.role == manager", true),
        ("node.role == worker", true),
        ("node.colour == red", false),
        ("node.colour != red", false),
        ("nonsense", false),
    ] {
        let spec = constrained(text);
        assert_eq!(place(&request(&spec), &[candidate(&node)], 0).is_ok(), fits, "{text}");
    }
}

#[test]
fn equal_refusals_are_counted_together() {
    let nodes: Vec<NodeInfo> = (1..=3).map(testing::node).collect();
    let candidates: Vec<Candidate<'_>> = nodes.iter().map(candidate).collect();
    assert_eq!(
        refused(&constrained("node.labels.gpu == yes"), &candidates),
        "no node fits: 3 nodes: does not meet node.labels.gpu == yes (not set)"
    );
    assert_eq!(
        refused(&constrained("node.hostname == x"), &candidates[..1]),
        "no node fits: 1 node: does not meet node.hostname == x (has host-1)"
    );
}

#[test]
fn a_volume_pins_its_users_to_its_home() {
    let nodes: Vec<NodeInfo> = (1..=2).map(testing::node).collect();
    let candidates: Vec<Candidate<'_>> = nodes.iter().map(candidate).collect();
    let spec = testing::service("postgres");
    let homes = vec![("db_data".parse().unwrap(), nodes[1].id.clone())];
    let request = Request { spec: &spec, homes, only: None };
    assert_eq!(place(&request, &candidates, 0).unwrap().node, nodes[1].id);
    let error = place(&request, &candidates[..1], 0).unwrap_err().to_string();
    assert_eq!(error, "no node fits: 1 node: blocked: data of volume db_data is on node 000000000002");
}

#[test]
fn platform_spread_and_host_ports_are_minded() {
    let node = testing::node(1);
    let mut spec = testing::service("nginx");
    spec.placement.platform = Some("linux/arm64".into());
    assert!(refused(&spec, &[candidate(&node)]).contains("is linux/amd64, the image needs linux/arm64"));
    spec.placement.platform = Some("linux/x86_64".into());
    spec.placement.max_replicas_per_node = Some(2);
    let mut full = candidate(&node);
    full.siblings = 2;
    assert!(refused(&spec, &[full]).contains("has 2 of its tasks already"));
    spec.ports = vec![PublishedPort { mode: PortMode::Host, ..testing::port(80, Some(8080)) }];
    let mut taken = candidate(&node);
    taken.host_ports.insert((8080, Protocol::Tcp));
    assert!(refused(&spec, &[taken]).contains("host port 8080/tcp is taken"));
    assert_eq!(place(&request(&spec), &[candidate(&node)], 0).unwrap().reason, "the only node");
}

proptest! {
    #[test]
    fn the_chosen_node_always_fits_and_no_node_with_fewer_siblings_does(
        loads in prop::collection::vec((0_u64..5000, 0_u64..20, 0_u32..4), 1..12), cpus in 0_u64..4000,
        memory in 0_u64..18, seed: u64,
    ) {
        let nodes: Vec<NodeInfo> = (0..loads.len() as u64).map(testing::node).collect();
        let candidates: Vec<Candidate<'_>> = nodes.iter().zip(&loads).map(|(info, (c, m, s))| Candidate {
            reserved: Reservations { cpus: MilliCpus(*c), memory: Bytes(m << 30) }, siblings: *s, ..candidate(info)
        }).collect();
        let mut spec = testing::service("nginx");
        spec.task.reservations = Reservations { cpus: MilliCpus(cpus), memory: Bytes(memory << 30) };
        let request = request(&spec);
        let fitting: Vec<&Candidate<'_>> = candidates.iter().filter(|c| misfit(&request, c).is_none()).collect();
        match place(&request, &candidates, seed) {
            Ok(choice) => {
                let chosen = fitting.iter().find(|c| c.info.id == choice.node).expect("the chosen node fits");
                prop_assert!(fitting.iter().all(|c| c.siblings >= chosen.siblings));
                prop_assert_eq!(place(&request, &candidates, seed).unwrap(), choice, "replays agree");
            }
            Err(_) => prop_assert!(fitting.is_empty()),
        }
    }
}
