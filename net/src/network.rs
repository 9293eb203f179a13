//! The node's network: the third of the three loops, and the only thing the node daemon talks to.
//!
//!     Config + endpoints + Tables -> Wanted ─┐
//!                                            ├─ plan (pure) -> steps -> apply
//!     kernel -> observe -> Present ──────────┘
//!
//! All calls block for well under a millisecond to a few milliseconds (an audit of thousands of services: tens).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::conntrack::FlowCount;
use crate::error::NetError;
use crate::ipnet::Ipv4Net;
use crate::model::{Config, EndpointKey, PortKey, Protocol, Tables};
use crate::ns::Netns;
use crate::plan::Step;
use crate::reserve::ReserveError;

/// This node's network. Share it behind an `Arc`; methods take `&self`.
#[derive(Debug)]
pub struct Network {}

/// An endpoint that is wired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHandle {
    /// Whose it is.
    pub key: EndpointKey,
    /// Its address.
    pub address: Ipv4Addr,
    /// The link on the host.
    pub host_interface: String,
    /// Index of that link.
    pub host_index: u32,
    /// Whether anything had to be made (`false`: it was all there already, as after a restart of the daemon).
    pub made: bool,
}

/// An endpoint of ours that the kernel holds, found when a daemon starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEndpoint {
    /// Whose it is, from the link's alias.
    pub key: EndpointKey,
    /// The link on the host.
    pub host_interface: String,
}

/// What an apply or an audit changed, with reasons. Empty: the kernel held what was wanted.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The steps, in the order they were made.
    pub steps: Vec<Step>,
    /// Facts that disturb but that we do not change (for example an iptables-legacy filter table).
    pub warnings: Vec<String>,
}

impl Network {
    /// Takes the network namespace of this thread: lock, addresses, routes, forwarding, table. What a previous
    /// daemon of this instance left in the kernel is adopted untouched.
    pub fn open(config: Config) -> Result<Self, NetError> {
        let _ = config;
        unimplemented!()
    }

    /// The node's own address.
    pub fn node_address(&self) -> Ipv4Addr {
        unimplemented!()
    }

    /// Endpoints of this instance that the kernel holds, for adoption.
    pub fn found_endpoints(&self) -> Result<Vec<FoundEndpoint>, NetError> {
        unimplemented!()
    }

    /// Wires a namespace: link pair, address, default route, neighbours. Idempotent; repairs what is missing.
    pub fn ensure_endpoint(
        &self,
        key: &EndpointKey,
        address: Ipv4Addr,
        netns: &Netns,
    ) -> Result<EndpointHandle, NetError> {
        let _ = (key, address, netns);
        unimplemented!()
    }

    /// Takes the link away. Removing what is not there is no error.
    pub fn remove_endpoint(&self, key: &EndpointKey) -> Result<(), NetError> {
        let _ = key;
        unimplemented!()
    }

    /// Says that all endpoints that outlived the last daemon were ensured again: from now on audits remove links of
    /// ours that nobody owns.
    pub fn settle(&self) {
        unimplemented!()
    }

    /// Makes the kernel's tables those of the snapshot. Only differences are written, in one atomic batch.
    pub fn set_tables(&self, tables: &Tables) -> Result<Report, NetError> {
        let _ = tables;
        unimplemented!()
    }

    /// Replaces the list of address blocks (it only grows; the first stays the first).
    pub fn set_blocks(&self, blocks: Vec<Ipv4Net>) -> Result<Report, NetError> {
        let _ = blocks;
        unimplemented!()
    }

    /// Dumps the kernel, compares, repairs.
    pub fn audit(&self) -> Result<Report, NetError> {
        unimplemented!()
    }

    /// Holds exactly these ports of the host by bound sockets; returns those that could not be had.
    pub fn reserve_ports(&self, wanted: &BTreeSet<PortKey>) -> BTreeMap<PortKey, ReserveError> {
        let _ = wanted;
        unimplemented!()
    }

    /// Open flows that end at an endpoint, whichever way they were addressed: drain waits for `tcp == 0`.
    pub fn open_flows(&self, endpoint: Ipv4Addr) -> Result<FlowCount, NetError> {
        let _ = endpoint;
        unimplemented!()
    }

    /// Forgets the flows to an endpoint (UDP 1 s after withdrawal, TCP when the drain ends); returns how many.
    pub fn delete_flows(&self, endpoint: Ipv4Addr, protocol: Protocol) -> Result<usize, NetError> {
        let _ = (endpoint, protocol);
        unimplemented!()
    }

    /// Takes away everything of ours: table, links, addresses, routes, rules in foreign tables.
    pub fn remove_all(self) -> Result<Report, NetError> {
        unimplemented!()
    }
}
