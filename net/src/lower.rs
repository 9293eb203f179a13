//! What is wanted, in the words of the kernel. Pure.
//!
//! Owns: the translation of [`Wanted`] into the links, routes, settings and set elements that express it. It looks at
//! what is present only where there is a choice (slots keep their endpoints; leftovers stay until settled).
//! Owns not: the difference and its order ([`crate::plan`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::ipnet::Ipv4Net;
use crate::isolation::isolation;
use crate::model::{DNS_ADDRESS, Endpoint, EndpointKey, Wanted};
use crate::nft::dump::TableState;
use crate::nft::sets::{
    Datum, Elements, Key, SetId, SizeClass, address_key, address_value, class_value, pair_key, port_key,
    port_slot_key, reach_key, slot_key, target_value,
};
use crate::nft::skeleton::Layout;
use crate::present::{Hop, Kernel, Link, Route, container_mac, host_mac, link_alias, link_name};
use crate::slots::assign;

/// The setting that makes the host a router.
pub(crate) const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// What the rules need to know.
pub(crate) fn layout(wanted: &Wanted) -> Layout {
    let node = node_address(wanted);
    Layout { cluster: wanted.config.cluster, vips: wanted.config.vips(), node }
}

/// The kernel as it shall be.
pub(crate) fn lower(wanted: &Wanted, present: &Kernel) -> Kernel {
    let mut kernel = Kernel::empty();
    kernel.table = TableState::Intact;
    kernel.ipv6 = present.ipv6;
    kernel.foreign.needed = present.foreign.needed.clone();
    host(wanted, &mut kernel);
    for (key, endpoint) in &wanted.endpoints {
        wire(wanted, key, *endpoint, &mut kernel);
    }
    if !wanted.settled {
        keep_unclaimed(present, &mut kernel);
    }
    kernel.elements = elements(wanted, &present.elements);
    kernel
}

fn node_address(wanted: &Wanted) -> Ipv4Addr {
    // A validated configuration has a block.
    wanted.config.node_address().unwrap_or(Ipv4Addr::UNSPECIFIED)
}

fn host(wanted: &Wanted, kernel: &mut Kernel) {
    let node = node_address(wanted);
    kernel.sysctls.insert(IP_FORWARD.to_owned(), "1".to_owned());
    kernel.addresses.insert(node, false);
    kernel.addresses.insert(DNS_ADDRESS, true);
    let to_vips = Route { hop: Hop::Link("lo".to_owned()), source: Some(node) };
    kernel.routes.insert(wanted.config.vips(), to_vips);
    for block in &wanted.config.blocks {
        kernel.routes.insert(*block, Route { hop: Hop::Unreachable, source: None });
    }
}

fn wire(wanted: &Wanted, key: &EndpointKey, endpoint: Endpoint, kernel: &mut Kernel) {
    let name = link_name(key);
    let address = endpoint.address;
    let alias = link_alias(&wanted.config.instance, key);
    kernel.links.insert(name.clone(), Link { alias, mac: host_mac(address), up: true });
    let route = Route { hop: Hop::Link(name.clone()), source: Some(node_address(wanted)) };
    kernel.routes.insert(Ipv4Net::containing(address, 32), route);
    kernel.neighbours.insert((name.clone(), address), container_mac(address));
    // A packet to 127.0.0.1:PORT leaves by this link only with route_localnet; the raw chain drops 127/8 from it.
    // `rp_filter` is left as the distribution has it: udev writes it anew for each link, and a loose one for all links
    // would win over a strict one. The raw chain holds containers to their own address instead.
    kernel.sysctls.insert(format!("net/ipv4/conf/{name}/route_localnet"), "1".to_owned());
    if kernel.ipv6 {
        kernel.sysctls.insert(format!("net/ipv6/conf/{name}/disable_ipv6"), "1".to_owned());
    }
}

/// Links that no endpoint has claimed yet, with their routes and neighbours, stay as they are.
fn keep_unclaimed(present: &Kernel, kernel: &mut Kernel) {
    for (name, link) in &present.links {
        if kernel.links.contains_key(name) {
            continue;
        }
        kernel.links.insert(name.clone(), link.clone());
        let leads_there = |route: &Route| route.hop == Hop::Link(name.clone());
        for (destination, route) in present.routes.iter().filter(|(_, route)| leads_there(route)) {
            kernel.routes.entry(*destination).or_insert_with(|| route.clone());
        }
        let neighbours = present.neighbours.iter().filter(|((link, _), _)| link == name);
        kernel.neighbours.extend(neighbours.map(|(key, mac)| (key.clone(), *mac)));
    }
}

fn elements(wanted: &Wanted, present: &Elements) -> Elements {
    // Without a snapshot, what is there stays.
    let mut elements = if wanted.tables.is_some() { Elements::new() } else { present.clone() };
    let mut put = |set: SetId, key: Key, datum: Datum| {
        elements.entry(set).or_default().insert(key, datum);
    };
    let local: BTreeSet<Ipv4Addr> = wanted.endpoints.values().map(|endpoint| endpoint.address).collect();
    for address in &local {
        put(SetId::Hairpin, pair_key(*address, *address), Datum::Nothing);
    }
    for block in &wanted.config.blocks {
        put(SetId::Blocks, address_key(block.address()), Datum::Nothing);
    }
    let Some(tables) = &wanted.tables else { return elements };
    for (vip, endpoints) in &tables.services {
        let targets: Vec<Datum> = endpoints.iter().copied().map(address_value).collect();
        let key = |slot| slot_key(*vip, slot);
        fill_slots(&mut put, present, &targets, SetId::Services, address_key(*vip), SetId::Slots, key);
    }
    for (port, target) in &tables.ports {
        put(SetId::Published, port_key(*port), Datum::Nothing);
        let here = target.endpoints.iter().any(|address| local.contains(address));
        let usable = target.endpoints.iter().filter(|address| !here || local.contains(address));
        let targets: Vec<Datum> = usable.map(|address| target_value(*address, target.port)).collect();
        let key = |slot| port_slot_key(*port, slot);
        fill_slots(&mut put, present, &targets, SetId::Ports, port_key(*port), SetId::PortSlots, key);
    }
    let isolation = isolation(&tables.members, &tables.internal);
    for (address, class) in isolation.classes {
        put(SetId::Classes, address_key(address), class_value(class));
        for (_, to) in isolation.allowed.range((class, u32::MIN)..=(class, u32::MAX)) {
            put(SetId::Reach, reach_key(address, *to), Datum::Nothing);
        }
    }
    elements
}

/// The class and the slots of one VIP or published port. Without targets there are none.
fn fill_slots(
    put: &mut impl FnMut(SetId, Key, Datum),
    present: &Elements,
    targets: &[Datum],
    classes: SetId,
    key: Key,
    slots_of: fn(SizeClass) -> SetId,
    slot_key: impl Fn(u32) -> Key,
) {
    if targets.is_empty() {
        return;
    }
    let class = SizeClass::for_endpoints(targets.len());
    put(classes, key, Datum::Chain(class));
    let set = slots_of(class);
    let there = present.get(&set);
    let now: BTreeMap<u32, Datum> = there
        .into_iter()
        .flat_map(|there| (0..class.slots()).filter_map(|slot| Some((slot, *there.get(&slot_key(slot))?))))
        .collect();
    for (slot, target) in (0..).zip(assign(class.slots(), targets, &now)) {
        put(set, slot_key(slot), target);
    }
}
