//! The node's network: the third of the three loops, and the only thing the node daemon talks to.
//!
//! ```text
//! Config + endpoints + Tables -> Wanted -+
//!                                        +- plan (pure) -> steps -> apply
//! kernel -> observe -> Kernel -----------+
//! ```
//!
//! Owns: the lock that keeps two daemons apart, the sockets, what is wanted, the namespaces of the endpoints. All
//! calls block (below a millisecond; an audit of thousands of services tens of them) and must come from threads of
//! the network namespace in which [`Network::open`] was called. Owns not: when to audit, drain or wire.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

use crate::apply::{Applier, at};
use crate::conntrack::{self, Flow, FlowCount, FlowTable};
use crate::container;
use crate::error::NetError;
use crate::ipnet::Ipv4Net;
use crate::link::Links;
use crate::lower::{layout, lower};
use crate::model::{Config, Endpoint, EndpointKey, PortKey, Protocol, Tables, Wanted};
use crate::narrow::{Reached, widen};
use crate::nft::dump::{generation, table_owner};
use crate::nft::foreign::Foreign;
use crate::ns::Netns;
use crate::observe::{is_ours, observe, warnings};
use crate::plan::{Op, Step, difference, plan, removal};
use crate::present::{Hop, Kernel, key_of_alias, link_name};
use crate::reserve::{Reservations, ReserveError};
use crate::socket::{Family, Socket};
use crate::watch::Watch;

/// Name of the abstract unix socket that is our lock: there is one such name in each network namespace, and it goes
/// with its process.
const LOCK_NAME: &str = "carrack-net";

/// MTU of container links when the host has no default route.
const DEFAULT_MTU: u32 = 1500;

/// This node's network. Share it behind an `Arc`; methods take `&self`.
#[derive(Debug)]
pub struct Network {
    state: Mutex<State>,
    reservations: Mutex<Reservations>,
    /// Conntrack has a socket of its own: counting many flows must not hold up wiring.
    flows: FlowTable,
    node_address: Ipv4Addr,
    _lock: OwnedFd,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    namespaces: BTreeMap<EndpointKey, Netns>,
    links: Links,
    nft: Socket,
    /// What the kernel held after the last change, if that is certain.
    known: Option<Kernel>,
    /// What that was made from.
    reached: Reached,
}

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
    /// Whether the link pair had to be made (`false`: it was there, as after a restart of the daemon).
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

/// What an apply or an audit changed, with reasons. No steps: the kernel held what was wanted.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The steps, in the order they were made.
    pub steps: Vec<Step>,
    /// What disturbs us and is not ours to change: a filter table of iptables-legacy that drops, with what helps.
    pub warnings: Vec<String>,
}

impl Network {
    /// Takes the network namespace of this thread: lock, addresses, routes, forwarding, table. What a previous
    /// daemon of this instance left (links, elements of the table) is adopted untouched until the first
    /// [`Network::set_tables`] and [`Network::settle`]. A table of another instance that is not running is replaced.
    pub fn open(config: Config) -> Result<Self, NetError> {
        config.validate()?;
        let mut nft = Socket::open(Family::Netfilter)?;
        let lock = take_lock(&mut nft)?;
        let mut links = Links::open()?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => default_mtu(&mut links)?,
        };
        let node_address = config.node_address().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let wanted = Wanted { config, mtu, endpoints: BTreeMap::new(), tables: None, settled: false };
        let mut state = State {
            wanted,
            namespaces: BTreeMap::new(),
            links,
            nft,
            known: None,
            reached: Reached::default(),
        };
        state.prepare_host()?;
        Ok(Self {
            state: Mutex::new(state),
            reservations: Mutex::new(Reservations::default()),
            flows: FlowTable::open()?,
            node_address,
            _lock: lock,
        })
    }

    /// The node's own address: the first of its first block.
    pub fn node_address(&self) -> Ipv4Addr {
        self.node_address
    }

    /// Endpoints of this instance that the kernel holds, for adoption.
    pub fn found_endpoints(&self) -> Result<Vec<FoundEndpoint>, NetError> {
        let mut state = self.state();
        let links = state.links.links()?;
        let instance = &state.wanted.config.instance;
        let found = links.into_iter().filter_map(|(host_interface, facts)| {
            Some(FoundEndpoint { key: key_of_alias(instance, &facts.alias)?, host_interface })
        });
        Ok(found.collect())
    }

    /// Wires a namespace: link pair, address, default route, neighbours. Idempotent; repairs what is missing.
    pub fn ensure_endpoint(
        &self,
        key: &EndpointKey,
        address: Ipv4Addr,
        netns: &Netns,
    ) -> Result<EndpointHandle, NetError> {
        self.state().ensure_endpoint(key, address, netns)
    }

    /// Takes the link away. Removing what is not there is no error.
    pub fn remove_endpoint(&self, key: &EndpointKey) -> Result<(), NetError> {
        self.state().remove_endpoint(key)
    }

    /// Says that all endpoints that outlived the last daemon were ensured again: from now on audits remove links of
    /// ours that nobody owns.
    pub fn settle(&self) {
        self.state().wanted.settled = true;
    }

    /// Makes the kernel's tables those of the snapshot. Only differences are written, in one atomic batch. The
    /// members must hold every task that has an address, draining ones too; the services only endpoints that pass.
    pub fn set_tables(&self, tables: &Tables) -> Result<Report, NetError> {
        let mut state = self.state();
        state.wanted.tables = Some(tables.clone());
        state.converge()
    }

    /// Replaces the list of address blocks (it only grows; the first stays the first).
    pub fn set_blocks(&self, blocks: Vec<Ipv4Net>) -> Result<Report, NetError> {
        let mut state = self.state();
        let mut config = state.wanted.config.clone();
        config.blocks = blocks;
        config.validate()?;
        state.wanted.config = config;
        state.converge()
    }

    /// Dumps the kernel, compares, repairs.
    pub fn audit(&self) -> Result<Report, NetError> {
        let mut state = self.state();
        state.known = None;
        let report = state.converge()?;
        let warnings = warnings().iter().map(ToString::to_string).collect();
        Ok(Report { warnings, ..report })
    }

    /// What the audit would do now. Changes nothing.
    pub fn plan(&self) -> Result<Vec<Step>, NetError> {
        let mut state = self.state();
        let present = state.observe()?;
        Ok(plan(&state.wanted, &present))
    }

    /// Tells when somebody else changes what an audit would repair. To be called in a tokio runtime.
    pub fn watch(&self) -> Result<Watch, NetError> {
        let state = self.state();
        Watch::open([state.nft.port()?, state.links.port()?])
    }

    /// A number that changes whenever anybody changes the ruleset: a cheap sign that an audit is due.
    pub fn ruleset_generation(&self) -> Result<u32, NetError> {
        generation(&mut self.state().nft)
    }

    /// Holds exactly these ports of the host by bound sockets; returns those that could not be had.
    pub fn reserve_ports(&self, wanted: &BTreeSet<PortKey>) -> BTreeMap<PortKey, ReserveError> {
        locked(&self.reservations).sync(wanted)
    }

    /// Open flows that end at an endpoint, whichever way they were addressed: a drain waits for `tcp == 0`. Once the tables
    /// lead nowhere to it and this says zero, none comes any more.
    pub fn open_flows(&self, endpoint: Ipv4Addr) -> Result<FlowCount, NetError> {
        conntrack::wait_for_packets()?;
        self.flows.count(endpoint)
    }

    /// Forgets the flows to an endpoint (UDP 1 s after withdrawal, TCP when the drain ends); returns how many.
    pub fn delete_flows(&self, endpoint: Ipv4Addr, protocol: Protocol) -> Result<usize, NetError> {
        self.flows.delete(endpoint, protocol)
    }

    /// All TCP and UDP flows that conntrack knows.
    pub fn flows(&self) -> Result<Vec<Flow>, NetError> {
        self.flows.flows()
    }

    /// Takes away everything of ours: table, links, addresses, routes, rules in foreign tables. Only `ip_forward`
    /// stays on: others may have come to need it.
    pub fn remove_all(self) -> Result<Report, NetError> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.wanted.endpoints.clear();
        state.namespaces.clear();
        let present = state.observe()?;
        let steps = removal(&present);
        state.run(&steps)?;
        Ok(Report { steps, warnings: Vec::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

/// A lock that a panic cannot spoil: what it guards is compared with the kernel anyway.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// What the host needs before the first endpoint; elements that are there stay.
    fn prepare_host(&mut self) -> Result<(), NetError> {
        let present = self.observe()?;
        let kernel = lower(&self.wanted, &present);
        let steps = difference(&kernel, &present);
        self.run(&steps)?;
        self.remember(kernel, present.foreign, &steps);
        Ok(())
    }

    fn ensure_endpoint(
        &mut self,
        key: &EndpointKey,
        address: Ipv4Addr,
        netns: &Netns,
    ) -> Result<EndpointHandle, NetError> {
        self.check_address(key, address)?;
        let name = link_name(key);
        // A link that is there counts only if its inner end is in this very namespace.
        let found = self.links.index_of(&name)?;
        let wired = match found {
            Some(index) => container::configure(netns, address, index)?,
            None => false,
        };
        if !wired {
            self.unlink(&name)?;
        }
        self.wanted.endpoints.insert(key.clone(), Endpoint { address });
        self.namespaces.insert(key.clone(), netns.clone());
        if let Err(error) = self.converge() {
            self.wanted.endpoints.remove(key);
            self.namespaces.remove(key);
            self.known = None;
            return Err(error);
        }
        let index = self.links.index_of(&name)?;
        let host_index = index.ok_or_else(|| NetError::Answer {
            action: format!("make link {name}"),
            detail: "it is gone again".to_owned(),
        })?;
        Ok(EndpointHandle { key: key.clone(), address, host_interface: name, host_index, made: !wired })
    }

    fn check_address(&self, key: &EndpointKey, address: Ipv4Addr) -> Result<(), NetError> {
        let layout = layout(&self.wanted);
        let refuse = |reason: String| Err(NetError::Address { key: key.clone(), address, reason });
        if !self.wanted.config.blocks.iter().any(|block| block.contains(address)) {
            return refuse("it is in none of the node's blocks".to_owned());
        }
        if address == layout.node {
            return refuse("it is the node's own".to_owned());
        }
        let holder = self.wanted.endpoints.iter().find(|(other, endpoint)| {
            *other != key && (endpoint.address == address || link_name(other) == link_name(key))
        });
        match holder {
            Some((other, _)) => refuse(format!("endpoint {other} has it")),
            None => Ok(()),
        }
    }

    fn remove_endpoint(&mut self, key: &EndpointKey) -> Result<(), NetError> {
        self.wanted.endpoints.remove(key);
        self.namespaces.remove(key);
        at("remove.6-unlink")?;
        self.unlink(&link_name(key))?;
        at("remove.7-routes")?;
        self.converge().map(drop)
    }

    /// Removes a link of ours and what goes with it; a foreign link of the name stays and is an error.
    fn unlink(&mut self, name: &str) -> Result<(), NetError> {
        // A dump costs more the more links there are; a look-up does not.
        let there = self.links.index_of(name)?.is_some();
        let Some(facts) = (if there { self.links.links()?.remove(name) } else { None }) else {
            self.forget_link(name);
            return Ok(());
        };
        if !is_ours(&facts, &self.wanted.config.instance) {
            return Err(NetError::ForeignLink { name: name.to_owned(), alias: facts.alias });
        }
        self.links.delete_link(name, facts.index)?;
        self.forget_link(name);
        Ok(())
    }

    fn forget_link(&mut self, name: &str) {
        if let Some(known) = &mut self.known {
            known.links.remove(name);
            known.routes.retain(|_, route| route.hop != Hop::Link(name.to_owned()));
            known.neighbours.retain(|(link, _), _| link != name);
            known.sysctls.retain(|path, _| !path.contains(&format!("/conf/{name}/")));
        }
    }

    /// Plans from what is known and applies; if the kernel differs from what was known, looks and plans again.
    fn converge(&mut self) -> Result<Report, NetError> {
        if let Some(known) = self.known.take() {
            let narrowed = self.reached.narrow(&self.wanted, &known);
            let (wanted, present) =
                narrowed.as_ref().map_or((&self.wanted, &known), |(wanted, kernel)| (wanted, kernel));
            let kernel = lower(wanted, present);
            let steps = difference(&kernel, present);
            match self.run(&steps) {
                Ok(()) => {
                    let foreign = known.foreign.clone();
                    self.remember(widen(known, kernel, &steps), foreign, &steps);
                    self.reached.update(&self.wanted);
                    return Ok(Report { steps, warnings: Vec::new() });
                }
                Err(error) => tracing::warn!(%error, "the kernel is not as remembered; looking at it"),
            }
        }
        let present = self.observe()?;
        let kernel = lower(&self.wanted, &present);
        let steps = difference(&kernel, &present);
        self.run(&steps)?;
        self.remember(kernel, present.foreign, &steps);
        self.reached.update(&self.wanted);
        Ok(Report { steps, warnings: Vec::new() })
    }

    /// The plan was applied, so the kernel holds what was wanted. Only the handles of rules in foreign chains are the
    /// kernel's choice; after a change there it must be looked at again.
    fn remember(&mut self, reached: Kernel, foreign: Foreign, steps: &[Step]) {
        let foreign_changed =
            steps.iter().any(|step| matches!(step.op, Op::InsertForeign { .. } | Op::DeleteForeign { .. }));
        self.known = (!foreign_changed).then_some(Kernel { foreign, ..reached });
    }

    fn observe(&mut self) -> Result<Kernel, NetError> {
        observe(&self.wanted, &mut self.links, &mut self.nft)
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), NetError> {
        let mut applier = Applier {
            wanted: &self.wanted,
            namespaces: &self.namespaces,
            links: &mut self.links,
            nft: &mut self.nft,
        };
        applier.run(steps)
    }
}

/// The IPv4 networks that this host has routes to, for [`crate::ipnet::choose_cluster_cidr`]. Ours are left out.
pub fn host_routes() -> Result<Vec<Ipv4Net>, NetError> {
    let routes = Links::open()?.routes()?;
    let foreign = routes.into_iter().filter(|route| route.protocol != crate::present::ROUTE_PROTOCOL);
    Ok(foreign.map(|route| route.destination).collect())
}

/// Fails with [`NetError::OtherInstance`] while another daemon drives the network namespace of this thread: for a daemon that
/// is about to start, before it changes anything. [`Network::open`] is what really keeps two apart.
pub fn ensure_undriven() -> Result<(), NetError> {
    take_lock(&mut Socket::open(Family::Netfilter)?).map(drop)
}

pub(crate) fn take_lock(nft: &mut Socket) -> Result<OwnedFd, NetError> {
    let failed = |source: io::Error| NetError::Lock { name: LOCK_NAME.to_owned(), source };
    let lock = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| failed(errno.into()))?;
    let name = UnixAddr::new_abstract(LOCK_NAME.as_bytes()).map_err(|errno| failed(errno.into()))?;
    match bind(lock.as_raw_fd(), &name) {
        Ok(()) => Ok(lock),
        Err(Errno::EADDRINUSE) => {
            let owner = table_owner(nft)?.unwrap_or_default();
            let holder = owner.split_once(' ').map_or("unknown", |(_, instance)| instance).to_owned();
            Err(NetError::OtherInstance { holder })
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The MTU of the link that the default route leaves by.
fn default_mtu(links: &mut Links) -> Result<u32, NetError> {
    let default =
        links.routes()?.into_iter().find(|route| route.destination.prefix() == 0 && route.link.is_some());
    let Some(index) = default.and_then(|route| route.link) else { return Ok(DEFAULT_MTU) };
    let link = links.links()?.into_values().find(|link| link.index == index);
    Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
}
