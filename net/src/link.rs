//! Links, addresses, routes and neighbours over rtnetlink.
//!
//! Owns: one typed verb per thing we do; the rest of the crate never sees a raw attribute. Owns not: which objects
//! are ours (the callers filter) and when they change.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::NetError;
use crate::ipnet::Ipv4Net;
use crate::model::{CONTAINER_INTERFACE, GATEWAY_ADDRESS};
use crate::ns::Netns;
use crate::present::{ADDRESS_LABEL, Hop, Mac, ROUTE_PROTOCOL, Route};
use crate::socket::{Family, Socket};
use crate::wire::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

/// Index of the loopback link in every namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// A link as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    pub(crate) index: u32,
    pub(crate) alias: String,
    pub(crate) mac: Mac,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    /// Index of the other end, in its namespace.
    pub(crate) peer: Option<u32>,
}

/// A route as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteFacts {
    pub(crate) destination: Ipv4Net,
    pub(crate) protocol: u8,
    pub(crate) unreachable: bool,
    pub(crate) link: Option<u32>,
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) main_table: bool,
}

/// A link pair to make.
#[derive(Clone, Debug)]
pub(crate) struct NewVeth<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    pub(crate) peer_mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) netns: &'a Netns,
}

/// An rtnetlink socket with verbs.
#[derive(Debug)]
pub(crate) struct Links {
    socket: Socket,
}

impl Links {
    pub(crate) fn open() -> Result<Self, NetError> {
        Ok(Self { socket: Socket::open(Family::Route)? })
    }

    /// The port of the socket, see [`Socket::port`].
    pub(crate) fn port(&self) -> Result<u32, NetError> {
        self.socket.port()
    }

    pub(crate) fn links(&mut self) -> Result<BTreeMap<String, LinkFacts>, NetError> {
        let answers = self.dump("dump the links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link_facts(&link)),
                _ => None,
            })
            .collect())
    }

    /// The index of one link, if it is there.
    pub(crate) fn index_of(&mut self, name: &str) -> Result<Option<u32>, NetError> {
        let mut query = LinkMessage::default();
        query.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let message = RouteNetlinkMessage::GetLink(query);
        let action = format!("look up link {name}");
        match self.socket.request(&action, message.message_type(), 0, &serialized(&message)) {
            Ok(answers) => Ok(answers.first().and_then(|link| link.payload.get(4..8)).map(|index| {
                // struct ifinfomsg: family, padding, type, index.
                index.try_into().map_or(0, u32::from_ne_bytes)
            })),
            Err(error) if error.refusal() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a pair in one message: the host's end here and up, the peer born in its namespace under its final name
    /// (and down: the kernel refuses to bring it up before the pair is tied).
    pub(crate) fn create_veth(&mut self, new: &NewVeth<'_>) -> Result<(), NetError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(CONTAINER_INTERFACE.to_owned()),
            LinkAttribute::Address(new.peer_mac.0.to_vec()),
            LinkAttribute::Mtu(new.mtu),
            LinkAttribute::NetNsFd(new.netns.as_raw_fd()),
        ];
        let mut host = LinkMessage::default();
        set_up(&mut host);
        host.attributes = vec![
            LinkAttribute::IfName(new.name.to_owned()),
            LinkAttribute::Address(new.mac.0.to_vec()),
            LinkAttribute::Mtu(new.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(&format!("create link {}", new.name), flags, RouteNetlinkMessage::NewLink(host))
    }

    /// Makes a VXLAN link, to find out whether the kernel can.
    pub(crate) fn create_vxlan(&mut self, name: &str) -> Result<(), NetError> {
        const ANY_ID: u32 = 1;
        let mut link = LinkMessage::default();
        let id = LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Id(ANY_ID)]));
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), id]),
        ];
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(&format!("create link {name}"), flags, RouteNetlinkMessage::NewLink(link))
    }

    /// Sets the alias and brings a link up.
    pub(crate) fn set_link(&mut self, name: &str, index: u32, alias: Option<&str>) -> Result<(), NetError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        set_up(&mut link);
        link.attributes = alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())).into_iter().collect();
        self.request(&format!("set link {name}"), 0, RouteNetlinkMessage::SetLink(link))
    }

    /// Removes a link; with it go its peer, routes and neighbours.
    pub(crate) fn delete_link(&mut self, name: &str, index: u32) -> Result<(), NetError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let done = self.request(&format!("delete link {name}"), 0, RouteNetlinkMessage::DelLink(link));
        ignoring(done, &[libc::ENODEV])
    }

    /// Our addresses on the loopback link; `true`: of link scope.
    pub(crate) fn loopback_addresses(&mut self) -> Result<BTreeMap<Ipv4Addr, bool>, NetError> {
        let mut query = AddressMessage::default();
        query.header.family = AddressFamily::Inet;
        let answers = self.dump("dump the addresses", RouteNetlinkMessage::GetAddress(query))?;
        let ours = |found: &AddressMessage| {
            let labelled = |attr: &AddressAttribute| matches!(attr, AddressAttribute::Label(label) if label == ADDRESS_LABEL);
            found.header.index == LOOPBACK_INDEX && found.attributes.iter().any(labelled)
        };
        let address = |found: AddressMessage| {
            let scope = found.header.scope == AddressScope::Link;
            found.attributes.into_iter().find_map(|attr| match attr {
                AddressAttribute::Local(IpAddr::V4(address)) => Some((address, scope)),
                _ => None,
            })
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(found) if ours(&found) => address(found),
                _ => None,
            })
            .collect())
    }

    /// Adds a /32 to a link.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        link_scope: bool,
        label: Option<&str>,
    ) -> Result<(), NetError> {
        let message = address_message(index, address, link_scope, label);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(&format!("add address {address}"), flags, RouteNetlinkMessage::NewAddress(message))
    }

    pub(crate) fn delete_loopback_address(&mut self, address: Ipv4Addr) -> Result<(), NetError> {
        let message = address_message(LOOPBACK_INDEX, address, false, Some(ADDRESS_LABEL));
        let done =
            self.request(&format!("delete address {address}"), 0, RouteNetlinkMessage::DelAddress(message));
        ignoring(done, &[libc::EADDRNOTAVAIL])
    }

    /// All IPv4 unicast and unreachable routes.
    pub(crate) fn routes(&mut self) -> Result<Vec<RouteFacts>, NetError> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let answers = self.dump("dump the routes", RouteNetlinkMessage::GetRoute(query))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => route_facts(&route),
                _ => None,
            })
            .collect())
    }

    pub(crate) fn set_route(
        &mut self,
        to: Ipv4Net,
        route: &Route,
        link: Option<u32>,
    ) -> Result<(), NetError> {
        let message = route_message(to, route, link);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(&format!("set route {to}"), flags, RouteNetlinkMessage::NewRoute(message))
    }

    pub(crate) fn delete_route(&mut self, to: Ipv4Net, route: &Route) -> Result<(), NetError> {
        let message = route_message(to, route, None);
        let done = self.request(&format!("delete route {to}"), 0, RouteNetlinkMessage::DelRoute(message));
        ignoring(done, &[libc::ESRCH])
    }

    /// The default route of a container: everything goes to the host's end of its link.
    pub(crate) fn add_default_route(&mut self, link: u32) -> Result<(), NetError> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            flags: RouteFlags::Onlink,
            ..RouteHeader::default()
        };
        message.attributes =
            vec![RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY_ADDRESS)), RouteAttribute::Oif(link)];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request("set the default route of a container", flags, RouteNetlinkMessage::NewRoute(message))
    }

    /// Permanent IPv4 neighbours: (link, address) -> Ethernet address.
    pub(crate) fn neighbours(&mut self) -> Result<BTreeMap<(u32, Ipv4Addr), Mac>, NetError> {
        let mut query = NeighbourMessage::default();
        query.header.family = AddressFamily::Inet;
        let answers = self.dump("dump the neighbours", RouteNetlinkMessage::GetNeighbour(query))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(found) => neighbour_facts(&found),
                _ => None,
            })
            .collect())
    }

    pub(crate) fn set_neighbour(&mut self, link: u32, address: Ipv4Addr, mac: Mac) -> Result<(), NetError> {
        let mut message = neighbour_message(link, address);
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(&format!("set neighbour {address}"), flags, RouteNetlinkMessage::NewNeighbour(message))
    }

    pub(crate) fn delete_neighbour(&mut self, link: u32, address: Ipv4Addr) -> Result<(), NetError> {
        let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(link, address));
        ignoring(self.request(&format!("delete neighbour {address}"), 0, message), &[libc::ENOENT])
    }

    fn request(&mut self, action: &str, flags: u16, message: RouteNetlinkMessage) -> Result<(), NetError> {
        let payload = serialized(&message);
        self.socket.request(action, message.message_type(), flags, &payload).map(drop)
    }

    fn dump(
        &mut self,
        action: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let answers = self.socket.dump(action, message.message_type(), &serialized(&message))?;
        answers
            .into_iter()
            .map(|answer| {
                let mut header = NetlinkHeader::default();
                header.message_type = answer.kind;
                RouteNetlinkMessage::deserialize(&header, &answer.payload).map_err(|error| NetError::Answer {
                    action: action.to_owned(),
                    detail: error.to_string(),
                })
            })
            .collect()
    }
}

/// Turns errors that mean "it is already so" into success.
fn ignoring(result: Result<(), NetError>, harmless: &[i32]) -> Result<(), NetError> {
    match result {
        Err(error) if error.refusal().is_some_and(|number| harmless.contains(&number)) => Ok(()),
        other => other,
    }
}

fn serialized(message: &RouteNetlinkMessage) -> Vec<u8> {
    let mut payload = vec![0; message.buffer_len()];
    message.serialize(&mut payload);
    payload
}

fn set_up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

fn link_facts(link: &LinkMessage) -> (String, LinkFacts) {
    let mut name = String::new();
    let mut facts = LinkFacts {
        index: link.header.index,
        alias: String::new(),
        mac: Mac([0; 6]),
        up: link.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        peer: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::IfAlias(text) => facts.alias.clone_from(text),
            LinkAttribute::Address(bytes) => facts.mac = Mac(bytes.as_slice().try_into().unwrap_or_default()),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::Link(peer) => facts.peer = Some(*peer),
            _ => {}
        }
    }
    (name, facts)
}

fn address_message(index: u32, address: Ipv4Addr, link_scope: bool, label: Option<&str>) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.header.scope = if link_scope { AddressScope::Link } else { AddressScope::Universe };
    message.attributes =
        vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    message.attributes.extend(label.map(|label| AddressAttribute::Label(label.to_owned())));
    message
}

fn route_message(to: Ipv4Net, route: &Route, link: Option<u32>) -> RouteMessage {
    let unreachable = route.hop == Hop::Unreachable;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: to.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(ROUTE_PROTOCOL),
        scope: if unreachable { RouteScope::Universe } else { RouteScope::Link },
        kind: if unreachable { RouteType::Unreachable } else { RouteType::Unicast },
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(to.address()))];
    message.attributes.extend(link.map(RouteAttribute::Oif));
    message
        .attributes
        .extend(route.source.map(|source| RouteAttribute::PrefSource(RouteAddress::Inet(source))));
    message
}

fn route_facts(route: &RouteMessage) -> Option<RouteFacts> {
    let unreachable = route.header.kind == RouteType::Unreachable;
    if !unreachable && route.header.kind != RouteType::Unicast {
        return None;
    }
    let prefix = route.header.destination_prefix_length;
    let mut facts = RouteFacts {
        destination: Ipv4Net::containing(Ipv4Addr::UNSPECIFIED, prefix),
        protocol: route.header.protocol.into(),
        unreachable,
        link: None,
        source: None,
        main_table: route.header.table == RouteHeader::RT_TABLE_MAIN,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                facts.destination = Ipv4Net::containing(*address, prefix);
            }
            RouteAttribute::Oif(link) => facts.link = Some(*link),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => facts.source = Some(*address),
            _ => {}
        }
    }
    Some(facts)
}

fn neighbour_message(link: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(address))];
    message
}

fn neighbour_facts(found: &NeighbourMessage) -> Option<((u32, Ipv4Addr), Mac)> {
    if found.header.state != NeighbourState::Permanent {
        return None;
    }
    let address = found.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    })?;
    let mac = found.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(Mac(bytes.as_slice().try_into().ok()?)),
        _ => None,
    })?;
    Some(((found.header.ifindex, address), mac))
}
