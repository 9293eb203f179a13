//! Taking the network off a host that no daemon drives: what a daemon that died has left.
//!
//! Owns: finding out what is ours without knowing how it was configured. [`crate::Network::remove_all`] is for a daemon that
//! has the network; what either takes away is the same.

use std::collections::BTreeMap;

use crate::apply::Applier;
use crate::error::NetError;
use crate::ipnet::CLUSTER_CIDRS;
use crate::link::Links;
use crate::model::{Config, Wanted};
use crate::network::take_lock;
use crate::nft::dump::{TableState, table_owner};
use crate::nft::foreign::foreign;
use crate::nft::skeleton::TABLE;
use crate::observe::{our_links, our_routes};
use crate::plan::{Step, removal};
use crate::present::{Kernel, Link, instance_of_alias};
use crate::socket::{Family, Socket};

/// What was taken away, and what was left alone.
#[derive(Clone, Debug, Default)]
pub struct Purged {
    /// The steps, in the order they were made.
    pub steps: Vec<Step>,
    /// Installations whose objects were left alone, being others'.
    pub others: Vec<String>,
}

/// The installation whose objects are in the network namespace of this thread, if there are any that say so.
pub fn owner() -> Result<Option<String>, NetError> {
    let mut nft = Socket::open(Family::Netfilter)?;
    let all = Links::open()?.links()?;
    Ok(table_instance(&mut nft)?.or_else(|| all.values().find_map(|link| instance_of_alias(&link.alias))))
}

fn table_instance(nft: &mut Socket) -> Result<Option<String>, NetError> {
    let prefix = format!("{TABLE} ");
    Ok(table_owner(nft)?.map(|owner| owner.strip_prefix(&prefix).unwrap_or_default().to_owned()))
}

/// Takes away table, links, addresses, routes and rules in foreign tables of `instance` in the network namespace of this
/// thread. Without an instance it is the one that the kernel's objects name. Fails while a daemon drives this namespace. Only
/// `ip_forward` stays on: others may have come to need it.
pub fn purge(instance: Option<&str>) -> Result<Purged, NetError> {
    let mut nft = Socket::open(Family::Netfilter)?;
    let _lock = take_lock(&mut nft)?;
    let mut links = Links::open()?;
    let all = links.links()?;
    let owner = table_instance(&mut nft)?;
    let named = all.values().find_map(|link| instance_of_alias(&link.alias));
    let instance = instance.map(str::to_owned).or_else(|| owner.clone()).or_else(|| named.clone());
    let instance = instance.unwrap_or_default();
    let others =
        [&owner, &named].into_iter().flatten().filter(|other| **other != instance).cloned().collect();
    let mut kernel = Kernel::empty();
    if owner.as_ref() == Some(&instance) {
        kernel.table = TableState::Intact;
    }
    kernel.links = our_links(&all, &instance)
        .into_iter()
        .map(|(name, link)| (name.clone(), Link { alias: link.alias.clone(), mac: link.mac, up: link.up }))
        .collect();
    let alone = owner.is_none_or(|owner| owner == instance);
    if alone {
        // Addresses and routes carry no name of an installation; the table's owner is theirs.
        kernel.addresses = links.loopback_addresses()?;
        kernel.routes = our_routes(&mut links, &all)?;
    }
    kernel.foreign = foreign(&mut nft, &instance)?;
    let steps = removal(&kernel);
    let wanted = Wanted {
        config: Config { instance, cluster: CLUSTER_CIDRS[0], blocks: Vec::new(), mtu: None },
        mtu: 0,
        endpoints: BTreeMap::new(),
        tables: None,
        settled: false,
    };
    let namespaces = BTreeMap::new();
    Applier { wanted: &wanted, namespaces: &namespaces, links: &mut links, nft: &mut nft }.run(&steps)?;
    Ok(Purged { steps, others })
}
