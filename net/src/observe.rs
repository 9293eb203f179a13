//! The kernel as a value.
//!
//! Owns: dumping everything that is ours, and the facts that are not ours but matter. Changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::error::NetError;
use crate::ipnet::Ipv4Net;
use crate::legacy::legacy;
use crate::link::{LinkFacts, Links};
use crate::lower::{layout, lower};
use crate::model::{DNS_ADDRESS, LINK_PREFIX, Wanted};
use crate::nft::dump::{TableState, elements, table_state};
use crate::nft::foreign::foreign;
use crate::nft::obstacles::Obstacle;
use crate::nft::sets::Elements;
use crate::present::{Hop, Kernel, Link, ROUTE_PROTOCOL, Route, host_mac, key_of_alias};
use crate::socket::Socket;

/// Dumps the kernel.
pub(crate) fn observe(wanted: &Wanted, links: &mut Links, nft: &mut Socket) -> Result<Kernel, NetError> {
    let instance = &wanted.config.instance;
    let mut kernel = Kernel::empty();
    kernel.ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let all_links = links.links()?;
    let ours = our_links(&all_links, instance);
    kernel.links = ours
        .iter()
        .map(|(name, facts)| {
            let link = Link { alias: facts.alias.clone(), mac: facts.mac, up: facts.up };
            ((*name).clone(), link)
        })
        .collect();
    kernel.addresses = links.loopback_addresses()?;
    kernel.routes = our_routes(links, &all_links)?;
    let names: BTreeMap<u32, &String> = ours.iter().map(|(name, facts)| (facts.index, *name)).collect();
    for ((index, address), mac) in links.neighbours()? {
        if let Some(name) = names.get(&index) {
            kernel.neighbours.insert(((*name).clone(), address), mac);
        }
    }
    kernel.table = table_state(nft, instance, layout(wanted))?;
    if matches!(kernel.table, TableState::Intact | TableState::Damaged { .. }) {
        kernel.elements = elements(nft)?;
    }
    kernel.foreign = foreign(nft, instance)?;
    kernel.sysctls = sysctls(wanted, &kernel)?;
    Ok(kernel)
}

/// What iptables-legacy does to us, which is not ours to change.
pub(crate) fn warnings() -> Vec<Obstacle> {
    let table = match legacy() {
        Ok(None) => return Vec::new(),
        Ok(Some(table)) => table,
        Err(error) => {
            let what = format!(
                "the filter table of iptables-legacy cannot be read ({error}); it may drop traffic of containers"
            );
            return vec![Obstacle { what, command: "iptables-legacy -S, to see its rules".to_owned() }];
        }
    };
    let accept =
        |chain: &str, option: &str| format!("iptables-legacy -I {chain} {option} {LINK_PREFIX}+ -j ACCEPT");
    let forward = table.drops_forwarded.then(|| Obstacle {
        what: "the policy of chain FORWARD of iptables-legacy drops traffic of containers".to_owned(),
        command: format!("{} && {}", accept("FORWARD", "-i"), accept("FORWARD", "-o")),
    });
    let input = table.drops_input.then(|| Obstacle {
        what: "the policy of chain INPUT of iptables-legacy drops DNS queries of containers".to_owned(),
        command: accept("INPUT", &format!("-d {DNS_ADDRESS} -i")),
    });
    forward.into_iter().chain(input).collect()
}

/// Whether a link with our prefix is ours: by alias, or (made by a daemon that died before it set the alias) by the
/// Ethernet address that only we give.
pub(crate) fn is_ours(facts: &LinkFacts, instance: &str) -> bool {
    let [_, _, a, b, c, d] = facts.mac.0;
    let unfinished = facts.alias.is_empty() && facts.mac == host_mac([a, b, c, d].into());
    key_of_alias(instance, &facts.alias).is_some() || unfinished
}

pub(crate) fn our_links<'a>(
    all: &'a BTreeMap<String, LinkFacts>,
    instance: &str,
) -> BTreeMap<&'a String, &'a LinkFacts> {
    all.iter().filter(|(name, facts)| name.starts_with(LINK_PREFIX) && is_ours(facts, instance)).collect()
}

pub(crate) fn our_routes(
    links: &mut Links,
    all: &BTreeMap<String, LinkFacts>,
) -> Result<BTreeMap<Ipv4Net, Route>, NetError> {
    let names: BTreeMap<u32, &String> = all.iter().map(|(name, facts)| (facts.index, name)).collect();
    let ours =
        links.routes()?.into_iter().filter(|route| route.protocol == ROUTE_PROTOCOL && route.main_table);
    Ok(ours
        .filter_map(|route| {
            let hop = match route.link.and_then(|link| names.get(&link)) {
                _ if route.unreachable => Hop::Unreachable,
                Some(name) => Hop::Link((*name).clone()),
                None => return None,
            };
            Some((route.destination, Route { hop, source: route.source }))
        })
        .collect())
}

/// The present values of all settings that are wanted. One that is not there yet is left out.
fn sysctls(wanted: &Wanted, kernel: &Kernel) -> Result<BTreeMap<String, String>, NetError> {
    let mut bare = kernel.clone();
    bare.elements = Elements::new();
    let mut values = BTreeMap::new();
    for path in lower(wanted, &bare).sysctls.into_keys() {
        let file = format!("/proc/sys/{path}");
        match fs::read_to_string(&file) {
            Ok(value) => drop(values.insert(path, value.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(NetError::Proc { path: file, source }),
        }
    }
    Ok(values)
}
