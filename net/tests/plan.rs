//! Properties of the plan. Pure: no root, no kernel.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use carrack_net::model::{Endpoint, Wanted};
use carrack_net::nft::sets::SetId;
use carrack_net::plan::{Op, Step, plan, removal};
use carrack_net::present::{Hop, Kernel};
use carrack_net::{Config, EndpointKey, PortKey, PortTarget, Protocol, Tables};

fn wanted(endpoints: u8) -> Wanted {
    let config = Config {
        instance: "test".to_owned(),
        cluster: "10.192.0.0/10".parse().unwrap(),
        blocks: vec!["10.192.7.0/24".parse().unwrap()],
        mtu: None,
    };
    let lasts = 2..2 + endpoints;
    let key = |last: u8| EndpointKey::new(format!("task{last}")).unwrap();
    let addresses: BTreeSet<Ipv4Addr> = lasts.clone().map(address).collect();
    let port = PortKey { host_ip: None, protocol: Protocol::Tcp, port: 8080 };
    let tables = Tables {
        services: BTreeMap::from([(Ipv4Addr::new(10, 252, 0, 1), addresses.clone())]),
        ports: BTreeMap::from([(port, PortTarget { endpoints: addresses.clone(), port: 80 })]),
        members: addresses.iter().map(|address| (*address, BTreeSet::from(["web".to_owned()]))).collect(),
        internal: BTreeSet::new(),
    };
    let endpoints = lasts.map(|last| (key(last), Endpoint { address: address(last) })).collect();
    Wanted { config, mtu: 1500, endpoints, tables: Some(tables), settled: true }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 192, 7, last)
}

/// What a kernel holds after a plan: the tests' own, simple idea of the effects.
fn after(steps: &[Step], mut kernel: Kernel) -> Kernel {
    for step in steps {
        match step.op.clone() {
            Op::SetSysctl { path, value } => drop(kernel.sysctls.insert(path, value)),
            Op::AddAddress { address, link_scope } => drop(kernel.addresses.insert(address, link_scope)),
            Op::DeleteAddress { address } => drop(kernel.addresses.remove(&address)),
            Op::MakeLink { name, link } | Op::SetLink { name, link } => drop(kernel.links.insert(name, link)),
            Op::DeleteLink { name } => {
                kernel.routes.retain(|_, route| route.hop != Hop::Link(name.clone()));
                kernel.neighbours.retain(|(link, _), _| *link != name);
                kernel.sysctls.retain(|path, _| !path.contains(&format!("/{name}/")));
                assert!(kernel.links.remove(&name).is_some(), "a link that is not there is not deleted");
            }
            Op::SetRoute { destination, route } => {
                if let Hop::Link(link) = &route.hop {
                    assert!(link == "lo" || kernel.links.contains_key(link), "a route needs its link");
                }
                kernel.routes.insert(destination, route);
            }
            Op::DeleteRoute { destination, .. } => drop(kernel.routes.remove(&destination)),
            Op::SetNeighbour { link, address, mac } => {
                assert!(kernel.links.contains_key(&link), "a neighbour needs its link");
                kernel.neighbours.insert((link, address), mac);
            }
            Op::DeleteNeighbour { link, address } => drop(kernel.neighbours.remove(&(link, address))),
            Op::DeleteTable => {
                kernel.table = Kernel::empty().table;
                kernel.elements.clear();
            }
            Op::ReplaceTable { elements } => {
                kernel.table = carrack_net::present::TableState::Intact;
                kernel.elements = elements;
            }
            Op::ChangeElements { changes } => {
                for change in changes {
                    let set = kernel.elements.entry(change.set).or_default();
                    assert_eq!(set.get(&change.key).copied(), change.old, "a change says what it replaces");
                    match change.new {
                        Some(datum) => drop(set.insert(change.key, datum)),
                        None => drop(set.remove(&change.key)),
                    }
                }
                kernel.elements.retain(|_, set| !set.is_empty());
            }
            Op::InsertForeign { .. } | Op::DeleteForeign { .. } => {}
        }
    }
    kernel
}

#[test]
fn a_plan_reaches_what_is_wanted_and_the_next_is_empty() {
    for endpoints in [0, 1, 2, 3, 20, 200] {
        let wanted = wanted(endpoints);
        let kernel = after(&plan(&wanted, &Kernel::empty()), Kernel::empty());
        assert_eq!(plan(&wanted, &kernel), Vec::new(), "{endpoints} endpoints");
    }
}

#[test]
fn any_state_leads_to_any_other() {
    for from in [0, 1, 2, 3, 33] {
        for to in [0, 1, 2, 3, 33] {
            let before = after(&plan(&wanted(from), &Kernel::empty()), Kernel::empty());
            let kernel = after(&plan(&wanted(to), &before), before);
            assert_eq!(plan(&wanted(to), &kernel), Vec::new(), "{from} -> {to}");
        }
    }
}

#[test]
fn a_removal_leaves_nothing_but_settings() {
    let before = after(&plan(&wanted(3), &Kernel::empty()), Kernel::empty());
    let kernel = after(&removal(&before), before);
    let settings = kernel.sysctls.clone();
    assert_eq!(kernel, Kernel { sysctls: settings, ..Kernel::empty() });
    assert_eq!(kernel.sysctls.keys().collect::<Vec<_>>(), ["net/ipv4/ip_forward"]);
}

#[test]
fn one_endpoint_swapped_is_one_batch_that_moves_only_its_slots() {
    let before = after(&plan(&wanted(20), &Kernel::empty()), Kernel::empty());
    let mut swapped = wanted(20);
    let service = swapped.tables.as_mut().unwrap().services.values_mut().next().unwrap();
    service.remove(&address(2));
    service.insert(address(99));
    let steps = plan(&swapped, &before);
    let [Step { op: Op::ChangeElements { changes }, reason }] = &steps[..] else { panic!("{steps:?}") };
    assert!(changes.len() <= 256 / 20 + 1, "{} elements", changes.len());
    assert!(changes.iter().all(|change| matches!(change.set, SetId::Slots(_))));
    assert!(reason.starts_with("VIP 10.252.0.1 ("), "{reason}");
}

#[test]
fn a_change_of_the_size_class_is_one_batch() {
    let before = after(&plan(&wanted(2), &Kernel::empty()), Kernel::empty());
    let mut grown = wanted(2);
    let service = grown.tables.as_mut().unwrap().services.values_mut().next().unwrap();
    service.insert(address(99));
    let steps = plan(&grown, &before);
    let [Step { op: Op::ChangeElements { changes }, .. }] = &steps[..] else { panic!("{steps:?}") };
    // 16 slots go, 256 come, the verdict changes.
    assert_eq!(changes.len(), 16 + 256 + 1);
}

#[test]
fn a_withdrawn_service_leaves_no_element() {
    let before = after(&plan(&wanted(3), &Kernel::empty()), Kernel::empty());
    let mut without = wanted(3);
    without.tables.as_mut().unwrap().services.values_mut().next().unwrap().clear();
    let kernel = after(&plan(&without, &before), before);
    assert!(!kernel.elements.contains_key(&SetId::Services));
    assert!(!kernel.elements.keys().any(|set| matches!(set, SetId::Slots(_))));
}

#[test]
fn without_a_snapshot_the_table_keeps_what_it_has() {
    let before = after(&plan(&wanted(2), &Kernel::empty()), Kernel::empty());
    let mut restarted = wanted(2);
    restarted.tables = None;
    assert_eq!(plan(&restarted, &before), Vec::new());
}

#[test]
fn links_that_nobody_claimed_stay_until_all_are_named() {
    let before = after(&plan(&wanted(2), &Kernel::empty()), Kernel::empty());
    let mut restarted = wanted(0);
    restarted.tables = wanted(2).tables;
    restarted.settled = false;
    let deletes =
        |steps: &[Step]| steps.iter().filter(|step| matches!(step.op, Op::DeleteLink { .. })).count();
    let steps = plan(&restarted, &before);
    assert_eq!(deletes(&steps), 0);
    assert!(!steps.iter().any(|step| matches!(step.op, Op::DeleteRoute { .. } | Op::DeleteNeighbour { .. })));
    restarted.settled = true;
    assert_eq!(deletes(&plan(&restarted, &before)), 2);
}

#[test]
fn the_table_changes_after_new_links_and_before_old_ones_go() {
    let before = after(&plan(&wanted(1), &Kernel::empty()), Kernel::empty());
    let mut moved = wanted(2);
    moved.endpoints.remove(&EndpointKey::new("task2").unwrap());
    let steps = plan(&moved, &before);
    let place = |wanted: fn(&Op) -> bool| steps.iter().position(|step| wanted(&step.op)).unwrap();
    let made = place(|op| matches!(op, Op::MakeLink { .. }));
    let table = place(|op| matches!(op, Op::ChangeElements { .. }));
    let gone = place(|op| matches!(op, Op::DeleteLink { .. }));
    assert!(made < table && table < gone, "{steps:?}");
}

#[test]
fn every_step_says_what_and_why() {
    let steps = plan(&wanted(1), &Kernel::empty());
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    for line in [
        "set net/ipv4/ip_forward to 1: it is not set",
        "add address 10.192.7.1 to lo: it is missing",
        "make link cktask2: it is missing",
        "set route 10.192.7.2/32: it is missing",
        "set neighbour 10.192.7.2 on cktask2: it is missing",
        "replace table carrack: it is missing",
    ] {
        assert!(text.iter().any(|said| said == line), "{line:?} is not in {text:#?}");
    }
}

#[test]
fn a_link_that_was_not_finished_is_made_anew_with_all_that_leads_through_it() {
    let wanted = wanted(2);
    let mut kernel = after(&plan(&wanted, &Kernel::empty()), Kernel::empty());
    let name = kernel.links.keys().next().unwrap().clone();
    kernel.links.get_mut(&name).unwrap().alias.clear();
    let steps = plan(&wanted, &kernel);
    let count = |matches: &dyn Fn(&Op) -> bool| steps.iter().filter(|step| matches(&step.op)).count();
    assert_eq!(count(&|op| matches!(op, Op::MakeLink { name: made, .. } if *made == name)), 1, "{steps:?}");
    let through = |op: &Op| matches!(op, Op::SetRoute { route, .. } if route.hop == Hop::Link(name.clone()));
    assert_eq!(count(&through), 1, "{steps:?}");
    let neighbour = |op: &Op| matches!(op, Op::SetNeighbour { link, .. } if *link == name);
    assert_eq!(count(&neighbour), kernel.neighbours.keys().filter(|(link, _)| *link == name).count());
    assert!(!steps.iter().any(|step| matches!(&step.op, Op::MakeLink { name: made, .. } if *made != name)));
}
