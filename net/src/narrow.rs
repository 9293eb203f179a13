//! The part of the tables that a change touches. Pure.
//!
//! Owns: cutting what is wanted and what is known down to the VIPs and published ports that differ from the last
//! time, so that one swapped endpoint costs the same among ten thousand services as among ten. The plan is then made
//! by the same code as ever. Owns not: deciding whether what is known is still true (audits do).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::model::{PortKey, Tables, Wanted};
use crate::nft::sets::{Datum, Elements, Key, SetId, address_key, port_key};
use crate::plan::{Op, Step};
use crate::present::Kernel;

/// Bytes of a key that name a VIP, and those that name a published port.
const VIP_BYTES: usize = 4;
const PORT_BYTES: usize = 12;

/// What the known state of the kernel was made from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    tables: Option<Tables>,
    /// Addresses of the endpoints wired here: published ports prefer them.
    local: BTreeSet<Ipv4Addr>,
}

impl Reached {
    /// Remembers what was reached; copies only what changed.
    pub(crate) fn update(&mut self, wanted: &Wanted) {
        if self.tables != wanted.tables {
            self.tables.clone_from(&wanted.tables);
        }
        self.local = local(wanted);
    }

    /// Wanted and known, without the VIPs and ports that are as they were. `None` if it is not known what the
    /// elements were made from: then all count.
    pub(crate) fn narrow(&self, wanted: &Wanted, known: &Kernel) -> Option<(Wanted, Kernel)> {
        let (before, now) = (self.tables.as_ref()?, wanted.tables.as_ref()?);
        let vips = changed(&before.services, &now.services, false);
        let ports = changed(&before.ports, &now.ports, self.local != local(wanted));
        let tables = Some(Tables {
            services: only(&now.services, &vips),
            ports: only(&now.ports, &ports),
            members: now.members.clone(),
            internal: now.internal.clone(),
        });
        let narrowed = Wanted {
            config: wanted.config.clone(),
            mtu: wanted.mtu,
            endpoints: wanted.endpoints.clone(),
            tables,
            settled: wanted.settled,
        };
        let kernel = Kernel {
            sysctls: known.sysctls.clone(),
            addresses: known.addresses.clone(),
            links: known.links.clone(),
            routes: known.routes.clone(),
            neighbours: known.neighbours.clone(),
            table: known.table.clone(),
            elements: touched(&known.elements, &vips, &ports),
            foreign: known.foreign.clone(),
            ipv6: known.ipv6,
        };
        Some((narrowed, kernel))
    }
}

/// The known state after the steps of a narrowed plan: its elements changed, all else as lowered.
pub(crate) fn widen(known: Kernel, lowered: Kernel, steps: &[Step]) -> Kernel {
    let mut elements = known.elements;
    let changes = steps
        .iter()
        .filter_map(|step| if let Op::ChangeElements { changes } = &step.op { Some(changes) } else { None });
    for change in changes.flatten() {
        let set = elements.entry(change.set).or_default();
        match change.new {
            Some(datum) => drop(set.insert(change.key, datum)),
            None => drop(set.remove(&change.key)),
        }
    }
    elements.retain(|_, set| !set.is_empty());
    Kernel { elements, ..lowered }
}

fn local(wanted: &Wanted) -> BTreeSet<Ipv4Addr> {
    wanted.endpoints.values().map(|endpoint| endpoint.address).collect()
}

/// Keys that are new, gone or different; or all of them.
fn changed<K: Ord + Copy, V: PartialEq>(
    before: &BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    all: bool,
) -> BTreeSet<K> {
    let differs = |key: &K| all || before.get(key) != now.get(key);
    before.keys().chain(now.keys()).copied().filter(differs).collect()
}

fn only<K: Ord + Copy, V: Clone>(map: &BTreeMap<K, V>, keys: &BTreeSet<K>) -> BTreeMap<K, V> {
    keys.iter().filter_map(|key| Some((*key, map.get(key)?.clone()))).collect()
}

fn touched(elements: &Elements, vips: &BTreeSet<Ipv4Addr>, ports: &BTreeSet<PortKey>) -> Elements {
    let mut kept = Elements::new();
    for (set, map) in elements {
        let part: BTreeMap<Key, Datum> = match set {
            SetId::Services | SetId::Slots(_) => {
                vips.iter().flat_map(|vip| with_prefix(map, address_key(*vip), VIP_BYTES)).collect()
            }
            SetId::Ports | SetId::PortSlots(_) | SetId::Published => {
                ports.iter().flat_map(|port| with_prefix(map, port_key(*port), PORT_BYTES)).collect()
            }
            SetId::Classes | SetId::Reach | SetId::Hairpin | SetId::Blocks => map.clone(),
        };
        if !part.is_empty() {
            kept.insert(*set, part);
        }
    }
    kept
}

/// The elements whose keys begin like this one.
fn with_prefix(
    map: &BTreeMap<Key, Datum>,
    first: Key,
    length: usize,
) -> impl Iterator<Item = (Key, Datum)> + '_ {
    let mut last = first;
    last.iter_mut().skip(length).for_each(|byte| *byte = u8::MAX);
    map.range(first..=last).map(|(key, datum)| (*key, *datum))
}
