//! From a query to what happens with it. Pure: bytes, source address, zone and a seed in, a decision out.
//!
//! Owns: the rules of replies (types, classes, truncation, order). Does not own: sockets (`server`), other people's
//! names (`forward`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::wire::{
    CLASS_IN, MAX_TCP_BYTES, Query, Rcode, Reply, TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_AXFR, TYPE_IXFR,
    TYPE_OPT, TYPE_PTR, Unreadable, encode_name,
};
use super::zone::{Found, Viewer, Zone};
use super::{ANSWER_TTL_SECONDS, NEGATIVE_TTL_SECONDS};

/// How a query came and how its reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: replies are limited to what the client takes.
    Udp,
    /// A stream.
    Tcp,
}

/// What to do with a query.
#[derive(Debug)]
pub enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask these resolvers (none: those of the node).
    Forward(Query, Vec<SocketAddr>),
    /// Say nothing.
    Drop,
}

/// Decides about one packet.
///
/// `seed` orders the addresses of a reply, so that clients that take the first one spread over all.
pub fn answer(packet: &[u8], from: IpAddr, zone: &Zone, transport: Transport, seed: u64) -> Answer {
    let query = match Query::parse(packet) {
        Ok(query) => query,
        Err(Unreadable::Reply(reply)) => return Answer::Reply(reply),
        Err(Unreadable::Drop) => return Answer::Drop,
    };
    let asker = Asker { zone, limit: limit_of(&query, transport), query, seed };
    if asker.query.edns.is_some_and(|edns| edns.version != 0) {
        return Answer::Reply(asker.empty(Rcode::BadVers));
    }
    if asker.query.qclass != CLASS_IN || matches!(asker.query.qtype, TYPE_AXFR | TYPE_IXFR | TYPE_OPT) {
        return Answer::Reply(asker.empty(Rcode::Refused));
    }
    let Some(viewer) = zone.viewer(from) else {
        return Answer::Reply(asker.empty(Rcode::Refused));
    };
    asker.decide(viewer)
}

/// Largest reply to a query, in bytes.
pub(crate) fn limit_of(query: &Query, transport: Transport) -> usize {
    match transport {
        Transport::Udp => query.udp_limit(),
        Transport::Tcp => MAX_TCP_BYTES,
    }
}

struct Asker<'a> {
    zone: &'a Zone,
    query: Query,
    limit: usize,
    seed: u64,
}

impl Asker<'_> {
    fn decide(self, viewer: Viewer<'_>) -> Answer {
        let upstreams = match viewer {
            Viewer::Container(view) if !view.upstreams.is_empty() => view.upstreams.clone(),
            Viewer::Container(_) | Viewer::Host => self.zone.snapshot().upstreams.clone(),
        };
        // A name with strange labels is none of ours; alone or under our domain it is still not to be forwarded.
        let Some(name) = self.query.name.text() else {
            return if self.query.name.labels() > 1 {
                Answer::Forward(self.query, upstreams)
            } else {
                Answer::Reply(self.negative(Rcode::NxDomain, ""))
            };
        };
        if let Some(address) = reverse_address(&name) {
            return match self.zone.reverse(viewer, address) {
                Found::Here(host) => Answer::Reply(self.pointer(&host, &name)),
                Found::Absent => Answer::Reply(self.negative(Rcode::NxDomain, &name)),
                Found::Elsewhere => Answer::Forward(self.query, upstreams),
            };
        }
        match self.zone.lookup(viewer, &name) {
            Found::Here(addresses) => Answer::Reply(self.addresses(addresses, &name)),
            // The root itself (an empty name) is asked for by resolvers that look for root servers.
            Found::Absent if !name.is_empty() => Answer::Reply(self.negative(Rcode::NxDomain, &name)),
            Found::Absent | Found::Elsewhere => Answer::Forward(self.query, upstreams),
        }
    }

    fn addresses(&self, mut addresses: Vec<IpAddr>, name: &str) -> Vec<u8> {
        match self.query.qtype {
            TYPE_A => addresses.retain(IpAddr::is_ipv4),
            TYPE_AAAA => addresses.retain(IpAddr::is_ipv6),
            TYPE_ANY => {}
            _ => addresses.clear(),
        }
        if addresses.is_empty() {
            return self.negative(Rcode::NoError, name);
        }
        shuffle(&mut addresses, self.seed);
        let mut reply = Reply::new(&self.query, Rcode::NoError, self.limit).authoritative();
        for address in addresses {
            if !reply.push_address(address, ANSWER_TTL_SECONDS) {
                break;
            }
        }
        reply.finish()
    }

    fn pointer(&self, host: &str, name: &str) -> Vec<u8> {
        if !matches!(self.query.qtype, TYPE_PTR | TYPE_ANY) {
            return self.negative(Rcode::NoError, name);
        }
        let mut reply = Reply::new(&self.query, Rcode::NoError, self.limit).authoritative();
        reply.push_answer(TYPE_PTR, ANSWER_TTL_SECONDS, &encode_name(host));
        reply.finish()
    }

    /// NXDOMAIN or an answer without records, with the SOA that bounds how long it is believed.
    fn negative(&self, rcode: Rcode, name: &str) -> Vec<u8> {
        let domain = self.zone.domain();
        let inside = name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        let mut reply = Reply::new(&self.query, rcode, self.limit).authoritative();
        reply.push_soa(if inside { domain } else { "" }, self.zone.serial(), NEGATIVE_TTL_SECONDS);
        reply.finish()
    }

    fn empty(&self, rcode: Rcode) -> Vec<u8> {
        Reply::new(&self.query, rcode, self.limit).finish()
    }
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut parts = octets.split('.').map(|part| part.parse::<u8>().ok());
        let mut next = || parts.next().flatten();
        let (d, c, b, a) = (next()?, next()?, next()?, next()?);
        return parts.next().is_none().then_some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let (mut value, mut count) = (0u128, 0u32);
    for nibble in nibbles.split('.') {
        if nibble.len() != 1 || count == 32 {
            return None;
        }
        value |= u128::from(u8::from_str_radix(nibble, 16).ok()?) << (4 * count);
        count += 1;
    }
    (count == 32).then_some(IpAddr::V6(Ipv6Addr::from(value)))
}

/// Fisher-Yates with SplitMix64: the same seed gives the same order.
fn shuffle(addresses: &mut [IpAddr], seed: u64) {
    let mut state = seed;
    for last in (1..addresses.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        addresses.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
}

/// A failure to resolve, as a packet for the client.
pub(crate) fn server_failure(query: &Query) -> Vec<u8> {
    Reply::new(query, Rcode::ServFail, query.udp_limit()).finish()
}
