//! The difference between what is wanted and what is there, as steps in the order of their dependencies. Pure.
//!
//! Owns: which steps, in which order, for which reason. Owns not: effects (`apply`).
//!
//! Order: settings, addresses, links, routes, neighbours come first, so that the table never leads to what is not
//! there; then the table; then what nobody needs any more goes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use crate::ipnet::Ipv4Net;
use crate::lower::lower;
use crate::model::Wanted;
pub use crate::nft::batch::ElementChange;
use crate::nft::dump::TableState;
use crate::nft::foreign::{ForeignRule, Place};
use crate::nft::sets::{Elements, describe_key};
use crate::present::{Hop, Kernel, Link, Mac, Route};

/// How many changed objects a reason names before it only counts.
const NAMED_IN_REASON: usize = 8;

/// One change to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a setting.
    SetSysctl {
        /// File below /proc/sys.
        path: String,
        /// The value.
        value: String,
    },
    /// Give the loopback link an address.
    AddAddress {
        /// The address.
        address: Ipv4Addr,
        /// Of link scope: never chosen as a source.
        link_scope: bool,
    },
    /// Take an address of ours from the loopback link.
    DeleteAddress {
        /// The address.
        address: Ipv4Addr,
    },
    /// Make the link pair of an endpoint and configure its inner end.
    MakeLink {
        /// The host's end.
        name: String,
        /// What it shall be.
        link: Link,
    },
    /// Set alias and state of a link that is there.
    SetLink {
        /// The link.
        name: String,
        /// What it shall be.
        link: Link,
    },
    /// Remove a link pair.
    DeleteLink {
        /// The host's end.
        name: String,
    },
    /// Make or replace a route.
    SetRoute {
        /// Destination.
        destination: Ipv4Net,
        /// What it shall be.
        route: Route,
    },
    /// Remove a route.
    DeleteRoute {
        /// Destination.
        destination: Ipv4Net,
        /// What it is.
        route: Route,
    },
    /// Make or replace a permanent neighbour.
    SetNeighbour {
        /// On this link.
        link: String,
        /// The address.
        address: Ipv4Addr,
        /// Its Ethernet address.
        mac: Mac,
    },
    /// Remove a neighbour.
    DeleteNeighbour {
        /// On this link.
        link: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// Make the whole table anew, in one batch.
    ReplaceTable {
        /// All elements.
        elements: Elements,
    },
    /// Remove the table.
    DeleteTable,
    /// Change elements, in one batch.
    ChangeElements {
        /// The changes.
        changes: Vec<ElementChange>,
    },
    /// Put an accept rule into a foreign chain.
    InsertForeign {
        /// The rule.
        rule: ForeignRule,
        /// Where.
        place: Place,
    },
    /// Remove a rule of ours from a foreign chain.
    DeleteForeign {
        /// The rule.
        rule: ForeignRule,
        /// The kernel's number for it.
        handle: u64,
    },
}

/// One step of a plan with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The change.
    pub op: Op,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.op, self.reason)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl { path, value } => write!(f, "set {path} to {value}"),
            Self::AddAddress { address, .. } => write!(f, "add address {address} to lo"),
            Self::DeleteAddress { address } => write!(f, "delete address {address} from lo"),
            Self::MakeLink { name, .. } => write!(f, "make link {name}"),
            Self::SetLink { name, .. } => write!(f, "set link {name}"),
            Self::DeleteLink { name } => write!(f, "delete link {name}"),
            Self::SetRoute { destination, .. } => write!(f, "set route {destination}"),
            Self::DeleteRoute { destination, .. } => write!(f, "delete route {destination}"),
            Self::SetNeighbour { link, address, .. } => write!(f, "set neighbour {address} on {link}"),
            Self::DeleteNeighbour { link, address } => write!(f, "delete neighbour {address} on {link}"),
            Self::DeleteTable => f.write_str("delete table carrack"),
            Self::ReplaceTable { .. } => f.write_str("replace table carrack"),
            Self::ChangeElements { changes } => {
                write!(f, "change {} elements of table carrack", changes.len())
            }
            Self::InsertForeign { rule, .. } => write!(f, "accept {rule}"),
            Self::DeleteForeign { rule, .. } => write!(f, "remove our rule: accept {rule}"),
        }
    }
}

/// The steps from what is there to what is wanted. Empty if it is the same.
pub fn plan(wanted: &Wanted, present: &Kernel) -> Vec<Step> {
    difference(&lower(wanted, present), present)
}

/// The steps that take away all that is ours.
pub fn removal(present: &Kernel) -> Vec<Step> {
    let mut nothing = Kernel::empty();
    nothing.sysctls = present.sysctls.clone();
    difference(&nothing, present)
}

/// The steps from one kernel to another.
pub(crate) fn difference(wanted: &Kernel, present: &Kernel) -> Vec<Step> {
    let present = &without_remade_links(wanted, present);
    let mut steps = Vec::new();
    let host_settings = |path: &str| !path.contains("/conf/");
    settings(wanted, present, host_settings, &mut steps);
    new_addresses(wanted, present, &mut steps);
    new_links(wanted, present, &mut steps);
    settings(wanted, present, |path| !host_settings(path), &mut steps);
    new_routes(wanted, present, &mut steps);
    new_neighbours(wanted, present, &mut steps);
    table(wanted, present, &mut steps);
    foreign(wanted, present, &mut steps);
    leftovers(wanted, present, &mut steps);
    steps
}

/// What is left of the kernel when the links that must be made anew are gone: what leads through a link goes with it.
fn without_remade_links<'a>(wanted: &Kernel, present: &'a Kernel) -> Cow<'a, Kernel> {
    let remade = |name: &String| {
        let links = wanted.links.get(name).zip(present.links.get(name));
        links.is_some_and(|(link, now)| is_remade(link, now))
    };
    let names: Vec<&String> = present.links.keys().filter(|name| remade(name)).collect();
    if names.is_empty() {
        return Cow::Borrowed(present);
    }
    let mut left = present.clone();
    for name in names {
        left.routes.retain(|_, route| route.hop != Hop::Link(name.clone()));
        left.neighbours.retain(|(link, _), _| link != name);
        left.sysctls.retain(|path, _| !path.contains(&format!("/conf/{name}/")));
    }
    Cow::Owned(left)
}

/// Whether a link is not set right but made anew. The alias is the last thing that a link gets: without it the inner end may
/// not be configured.
fn is_remade(link: &Link, now: &Link) -> bool {
    now.alias.is_empty() || now.mac != link.mac
}

fn push(steps: &mut Vec<Step>, op: Op, reason: impl Into<String>) {
    steps.push(Step { op, reason: reason.into() });
}

fn settings(wanted: &Kernel, present: &Kernel, which: impl Fn(&str) -> bool, steps: &mut Vec<Step>) {
    for (path, value) in wanted.sysctls.iter().filter(|(path, _)| which(path)) {
        let reason = match present.sysctls.get(path) {
            Some(now) if now == value => continue,
            Some(now) => format!("it is {now}"),
            None => "it is not set".to_owned(),
        };
        push(steps, Op::SetSysctl { path: path.clone(), value: value.clone() }, reason);
    }
}

fn new_addresses(wanted: &Kernel, present: &Kernel, steps: &mut Vec<Step>) {
    for (address, link_scope) in &wanted.addresses {
        match present.addresses.get(address) {
            Some(scope) if scope == link_scope => continue,
            Some(_) => push(steps, Op::DeleteAddress { address: *address }, "its scope is wrong"),
            None => {}
        }
        push(steps, Op::AddAddress { address: *address, link_scope: *link_scope }, "it is missing");
    }
}

fn new_links(wanted: &Kernel, present: &Kernel, steps: &mut Vec<Step>) {
    for (name, link) in &wanted.links {
        let make = Op::MakeLink { name: name.clone(), link: link.clone() };
        match present.links.get(name) {
            None => push(steps, make, "it is missing"),
            Some(now) if is_remade(link, now) => {
                push(steps, Op::DeleteLink { name: name.clone() }, format!("its address is {}", now.mac));
                push(steps, make, "it had another address");
            }
            Some(now) if now.alias.is_empty() => push(steps, make, "it was not finished"),
            Some(now) if now != link => {
                let what = if now.up { "its alias is wrong" } else { "it is down" };
                push(steps, Op::SetLink { name: name.clone(), link: link.clone() }, what);
            }
            Some(_) => {}
        }
    }
}

fn new_routes(wanted: &Kernel, present: &Kernel, steps: &mut Vec<Step>) {
    for (destination, route) in &wanted.routes {
        let reason = match present.routes.get(destination) {
            Some(now) if now == route => continue,
            Some(_) => "it leads elsewhere",
            None => "it is missing",
        };
        push(steps, Op::SetRoute { destination: *destination, route: route.clone() }, reason);
    }
}

fn new_neighbours(wanted: &Kernel, present: &Kernel, steps: &mut Vec<Step>) {
    for ((link, address), mac) in &wanted.neighbours {
        let reason = match present.neighbours.get(&(link.clone(), *address)) {
            Some(now) if now == mac => continue,
            Some(now) => format!("it is {now}"),
            None => "it is missing".to_owned(),
        };
        push(steps, Op::SetNeighbour { link: link.clone(), address: *address, mac: *mac }, reason);
    }
}

fn table(wanted: &Kernel, present: &Kernel, steps: &mut Vec<Step>) {
    if wanted.table == TableState::Absent {
        if !matches!(present.table, TableState::Absent | TableState::OfOther { .. }) {
            push(steps, Op::DeleteTable, "nobody needs it");
        }
        return;
    }
    let reason = match &present.table {
        TableState::Intact => {
            let changes = element_changes(&wanted.elements, &present.elements);
            if !changes.is_empty() {
                let reason = changed_objects(&changes);
                push(steps, Op::ChangeElements { changes }, reason);
            }
            return;
        }
        TableState::Absent => "it is missing".to_owned(),
        TableState::OfOther { owner } => format!("it belongs to {owner}, which is not running"),
        TableState::Damaged { what } => what.clone(),
    };
    push(steps, Op::ReplaceTable { elements: wanted.elements.clone() }, reason);
}

/// The difference of two sets of elements.
pub(crate) fn element_changes(wanted: &Elements, present: &Elements) -> Vec<ElementChange> {
    let mut changes = Vec::new();
    let none = BTreeMap::new();
    let sets: std::collections::BTreeSet<_> = wanted.keys().chain(present.keys()).copied().collect();
    for set in sets {
        let (new, old) = (wanted.get(&set).unwrap_or(&none), present.get(&set).unwrap_or(&none));
        for (key, datum) in new {
            let now = old.get(key).copied();
            if now != Some(*datum) {
                changes.push(ElementChange { set, key: *key, old: now, new: Some(*datum) });
            }
        }
        let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
        changes.extend(gone.map(|(key, datum)| ElementChange {
            set,
            key: *key,
            old: Some(*datum),
            new: None,
        }));
    }
    changes
}

/// `VIP 10.252.0.1 (16), member 10.192.0.2 (1) and 3 more`.
fn changed_objects(changes: &[ElementChange]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for change in changes {
        *counts.entry(describe_key(change.set, &change.key)).or_default() += 1;
    }
    let named: Vec<String> =
        counts.iter().take(NAMED_IN_REASON).map(|(what, count)| format!("{what} ({count})")).collect();
    let more = counts.len().saturating_sub(NAMED_IN_REASON);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", named.join(", "))
}

fn foreign(wanted: &Kernel, present: &Kernel, steps: &mut Vec<Step>) {
    let needed = &wanted.foreign.needed;
    let mut there = std::collections::BTreeSet::new();
    let mut delete = |rule: &ForeignRule, handle: u64, reason: &str| {
        push(steps, Op::DeleteForeign { rule: rule.clone(), handle }, reason);
    };
    for (rule, handle) in &present.foreign.unreached {
        delete(rule, *handle, "a rule before it refuses everything");
    }
    for (rule, handle) in &present.foreign.present {
        let needed = needed.contains_key(rule);
        let first = there.insert(rule);
        if !needed || !first {
            let reason = if needed { "it is there twice" } else { "the chain does not drop any more" };
            delete(rule, *handle, reason);
        }
    }
    for (rule, place) in needed.iter().filter(|(rule, _)| !there.contains(rule)) {
        let reason = match place {
            Place::Before(handle) => format!("rule {handle} of the chain leads to a refusal"),
            Place::End => "the chain drops what it does not know".to_owned(),
        };
        push(steps, Op::InsertForeign { rule: rule.clone(), place: *place }, reason);
    }
}

fn leftovers(wanted: &Kernel, present: &Kernel, steps: &mut Vec<Step>) {
    for (destination, route) in &present.routes {
        if !wanted.routes.contains_key(destination) {
            let op = Op::DeleteRoute { destination: *destination, route: route.clone() };
            push(steps, op, "nobody needs it");
        }
    }
    for (link, address) in present.neighbours.keys() {
        // Those of a removed link go with it.
        let link_stays = wanted.links.contains_key(link);
        if link_stays && !wanted.neighbours.contains_key(&(link.clone(), *address)) {
            push(steps, Op::DeleteNeighbour { link: link.clone(), address: *address }, "nobody needs it");
        }
    }
    for name in present.links.keys().filter(|name| !wanted.links.contains_key(*name)) {
        push(steps, Op::DeleteLink { name: name.clone() }, "no endpoint owns it");
    }
    for address in present.addresses.keys().filter(|address| !wanted.addresses.contains_key(*address)) {
        push(steps, Op::DeleteAddress { address: *address }, "nobody needs it");
    }
}
