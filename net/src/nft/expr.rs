//! nftables expressions as bytes.
//!
//! Owns: one function per expression we use, the numbering of registers, verdicts. Written so that the kernel's dump
//! of a rule includes exactly what was sent ([`crate::wire::includes`]). Owns not: which rules there are.

use std::net::Ipv4Addr;

use crate::ipnet::Ipv4Net;
use crate::wire::Attrs;

/// A list of expressions that grows by `then`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exprs(Attrs);

impl Exprs {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn then(self, next: Exprs) -> Self {
        Self(self.0.append(next.0))
    }

    pub(crate) fn attrs(&self) -> &Attrs {
        &self.0
    }
}

/// The number of the n-th 32-bit register, in the form in which the kernel prints it: each fourth one has the name
/// of the 128-bit register that starts there.
pub(crate) const fn register(n: u32) -> u32 {
    if n.is_multiple_of(4) { 1 + n / 4 } else { 8 + n }
}

/// Register that takes verdicts.
const VERDICT: u32 = 0;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

fn expr(name: &str, data: Attrs) -> Exprs {
    let inner = Attrs::new().text(EXPR_NAME, name);
    let inner = if data.as_slice().is_empty() { inner } else { inner.nest(EXPR_DATA, data) };
    Exprs(Attrs::new().nest(LIST_ELEM, inner))
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict<'a> {
    Drop,
    Accept,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

impl<'a> Verdict<'a> {
    /// The attribute of a datum that is this verdict.
    pub(crate) fn data(self) -> Attrs {
        let (code, chain): (i32, Option<&'a str>) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        let verdict = Attrs::new().bytes(VERDICT_CODE, &code.to_be_bytes());
        let verdict = match chain {
            Some(chain) => verdict.text(VERDICT_CHAIN, chain),
            None => verdict,
        };
        Attrs::new().nest(DATA_VERDICT, verdict)
    }
}

/// The attribute of a datum that is a value.
pub(crate) fn value(bytes: &[u8]) -> Attrs {
    Attrs::new().bytes(DATA_VALUE, bytes)
}

pub(crate) fn verdict(verdict: Verdict<'_>) -> Exprs {
    expr("immediate", Attrs::new().be32(1, VERDICT).nest(2, verdict.data()))
}

pub(crate) fn immediate(to: u32, bytes: &[u8]) -> Exprs {
    expr("immediate", Attrs::new().be32(1, register(to)).nest(2, value(bytes)))
}

/// Which header a payload offset counts from.
#[derive(Clone, Copy, Debug)]
enum Base {
    Network = 1,
    Transport = 2,
}

fn payload(to: u32, base: Base, offset: u32, length: u32) -> Exprs {
    expr("payload", Attrs::new().be32(1, register(to)).be32(2, base as u32).be32(3, offset).be32(4, length))
}

/// IPv4 source address into a register.
pub(crate) fn source(to: u32) -> Exprs {
    payload(to, Base::Network, 12, 4)
}

/// IPv4 destination address into a register.
pub(crate) fn destination(to: u32) -> Exprs {
    payload(to, Base::Network, 16, 4)
}

/// IPv4 source and destination address into a register and the next.
pub(crate) fn source_and_destination(to: u32) -> Exprs {
    payload(to, Base::Network, 12, 8)
}

/// Destination port of TCP or UDP into a register.
pub(crate) fn destination_port(to: u32) -> Exprs {
    payload(to, Base::Transport, 2, 2)
}

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;

fn meta(to: u32, key: u32) -> Exprs {
    expr("meta", Attrs::new().be32(1, register(to)).be32(2, key))
}

/// Protocol number into a register.
pub(crate) fn protocol(to: u32) -> Exprs {
    meta(to, META_L4PROTO)
}

/// Name of the input (`true`) or output link equals this whole name, or begins with it, or not.
pub(crate) fn link(input: bool, equal: bool, name: LinkName<'_>) -> Exprs {
    let mut bytes = match name {
        LinkName::Prefix(prefix) => prefix.as_bytes().to_vec(),
        LinkName::Whole(name) => name.as_bytes().to_vec(),
    };
    if let LinkName::Whole(_) = name {
        bytes.resize(16, 0);
    }
    meta(0, if input { META_IIFNAME } else { META_OIFNAME }).then(compare(0, equal, &bytes))
}

/// How a link's name is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinkName<'a> {
    Prefix(&'a str),
    Whole(&'a str),
}

/// The rule goes on if the register equals (or not) the bytes.
pub(crate) fn compare(register_: u32, equal: bool, bytes: &[u8]) -> Exprs {
    let op = u32::from(!equal);
    expr("cmp", Attrs::new().be32(1, register(register_)).be32(2, op).nest(3, value(bytes)))
}

/// `to = from & mask`.
pub(crate) fn and(from: u32, to: u32, mask: &[u8; 4]) -> Exprs {
    let attrs = Attrs::new().be32(1, register(from)).be32(2, register(to)).be32(3, 4);
    expr("bitwise", attrs.nest(4, value(mask)).nest(5, value(&[0; 4])))
}

/// The rule goes on if the address in register 0 lies in the network (or not).
pub(crate) fn in_net(inside: bool, net: Ipv4Net) -> Exprs {
    and(0, 0, &net.netmask().octets()).then(compare(0, inside, &net.address().octets()))
}

/// The rule goes on if the address in register 0 is this one (or not).
pub(crate) fn is_address(equal: bool, address: Ipv4Addr) -> Exprs {
    compare(0, equal, &address.octets())
}

/// Looks the key at a register up in a set; the rule ends here if it is not in it.
pub(crate) fn in_set(set: &str, key: u32) -> Exprs {
    expr("lookup", Attrs::new().text(1, set).be32(2, register(key)))
}

/// Looks the key at a register up in a map and puts its value into a register; the rule ends here if there is none.
pub(crate) fn from_map(map: &str, key: u32, to: u32) -> Exprs {
    expr("lookup", Attrs::new().text(1, map).be32(2, register(key)).be32(3, register(to)))
}

/// Looks the key at a register up in a verdict map and obeys; the rule ends here if there is none.
pub(crate) fn verdict_map(map: &str, key: u32) -> Exprs {
    expr("lookup", Attrs::new().text(1, map).be32(2, register(key)).be32(3, VERDICT))
}

/// A random number below the modulus, in host order, into a register.
pub(crate) fn random(to: u32, modulus: u32) -> Exprs {
    const RANDOM: u32 = 1;
    expr("numgen", Attrs::new().be32(1, register(to)).be32(2, modulus).be32(3, RANDOM).be32(4, 0))
}

const NFPROTO_IPV4: u32 = 2;

/// Rewrites the destination to the address in one register and, if given, the port in another.
pub(crate) fn dnat(address: u32, port: Option<u32>) -> Exprs {
    const DNAT: u32 = 1;
    let attrs = Attrs::new().be32(1, DNAT).be32(2, NFPROTO_IPV4).be32(3, register(address));
    expr(
        "nat",
        match port {
            Some(port) => attrs.be32(5, register(port)),
            None => attrs,
        },
    )
}

/// Rewrites the source to an address.
pub(crate) fn snat(address: Ipv4Addr) -> Exprs {
    const SNAT: u32 = 0;
    let nat = Attrs::new().be32(1, SNAT).be32(2, NFPROTO_IPV4).be32(3, register(0));
    immediate(0, &address.octets()).then(expr("nat", nat))
}

/// Rewrites the source to the address of the output link.
pub(crate) fn masquerade() -> Exprs {
    expr("masq", Attrs::new())
}

/// ICMP codes of `reject`.
pub(crate) const PORT_UNREACHABLE: u8 = 3;
pub(crate) const HOST_UNREACHABLE: u8 = 1;
pub(crate) const ADMIN_PROHIBITED: u8 = 13;

/// Answers with an ICMP "unreachable" of a code.
pub(crate) fn reject(code: u8) -> Exprs {
    expr("reject", Attrs::new().be32(1, 0).u8(2, code))
}

/// Answers a TCP segment with a reset. Only after [`is_protocol`] has made sure that it is one.
pub(crate) fn reset() -> Exprs {
    expr("reject", Attrs::new().be32(1, 1))
}

/// The rule goes on for one protocol only.
pub(crate) fn is_protocol(number: u8) -> Exprs {
    protocol(0).then(compare(0, true, &[number]))
}

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_DESTINATION_IP: u32 = 20;
pub(crate) const STATE_ESTABLISHED_OR_RELATED: u32 = 2 | 4;
pub(crate) const STATE_NEW: u32 = 8;
const STATUS_DNAT: u32 = 1 << 5;

/// The rule goes on if the connection is in one of the states.
pub(crate) fn connection_state(bits: u32) -> Exprs {
    connection_bits(CT_STATE, bits, false)
}

/// The rule goes on if the destination of the connection was rewritten (or not).
pub(crate) fn is_dnat(yes: bool) -> Exprs {
    connection_bits(CT_STATUS, STATUS_DNAT, !yes)
}

fn connection_bits(key: u32, bits: u32, none_set: bool) -> Exprs {
    let load = expr("ct", Attrs::new().be32(1, register(0)).be32(2, key));
    load.then(and(0, 0, &bits.to_ne_bytes())).then(compare(0, none_set, &[0; 4]))
}

/// The address that the client of the connection asked for, into a register.
pub(crate) fn original_destination(to: u32) -> Exprs {
    const ORIGINAL: u8 = 0;
    expr("ct", Attrs::new().be32(1, register(to)).be32(2, CT_DESTINATION_IP).u8(3, ORIGINAL))
}

/// The rule goes on if the destination is an address of this host.
pub(crate) fn destination_is_local() -> Exprs {
    const RESULT_ADDRESS_TYPE: u32 = 3;
    const FLAG_DESTINATION: u32 = 2;
    const LOCAL: u32 = 2;
    let attrs = Attrs::new().be32(1, register(0)).be32(2, RESULT_ADDRESS_TYPE).be32(3, FLAG_DESTINATION);
    expr("fib", attrs).then(compare(0, true, &LOCAL.to_ne_bytes()))
}

/// The rule goes on if an answer to the source would not leave by the link that the packet came by.
pub(crate) fn not_the_way_back() -> Exprs {
    const RESULT_LINK: u32 = 1;
    const FLAG_SOURCE: u32 = 1;
    const FLAG_INPUT: u32 = 8;
    let attrs = Attrs::new().be32(1, register(0)).be32(2, RESULT_LINK).be32(3, FLAG_SOURCE | FLAG_INPUT);
    expr("fib", attrs).then(compare(0, true, &[0; 4]))
}

/// Counts packets.
pub(crate) fn counter() -> Exprs {
    expr("counter", Attrs::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_numbers_that_the_kernel_prints() {
        assert_eq!([0, 1, 3, 4, 5, 8].map(register), [1, 9, 11, 2, 13, 3]);
    }
}
