//! Tables of others as values.
//!
//! Owns: reading their chains and rules, as far as it matters to a packet of ours: what a rule looks at, where it sends
//! the packet. What we do not know (matches of x_tables, look-ups in sets) is kept as "may hold". Owns not: judging
//! ([`crate::nft::walk`]).

use std::collections::BTreeMap;

use crate::error::NetError;
use crate::nft::batch::{
    FAMILY_INET, FAMILY_IP, FAMILY_UNSPEC, GET_CHAIN, GET_RULE, GET_TABLE, comment_text, kind,
};
use crate::nft::dump::body;
use crate::nft::skeleton::TABLE;
use crate::socket::Socket;
use crate::wire::{Attr, Attrs, Message, find, nfgen};

const POLICY_DROP: u32 = 0;
const TABLE_DORMANT: u32 = 1;
const TABLE_OWNED: u32 = 2;

/// A table that is not ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtherTable {
    /// nftables' family number: 1 is `inet`, 2 is `ip`.
    pub(crate) family: u8,
    pub(crate) name: String,
    /// The netlink port of the program that alone may change it.
    pub(crate) owner: Option<u32>,
    pub(crate) chains: BTreeMap<String, OtherChain>,
}

/// One of its chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtherChain {
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<OtherRule>,
}

/// Where a base chain hangs and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) hook: u32,
    pub(crate) priority: i32,
    pub(crate) drops: bool,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtherRule {
    pub(crate) handle: u64,
    pub(crate) comment: Option<String>,
    pub(crate) parts: Vec<Part>,
}

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Puts something into a register.
    Load { to: u32, field: Field },
    /// `to = from & mask ^ xor`.
    Mask { from: u32, to: u32, mask: Vec<u8>, xor: Vec<u8> },
    /// Goes on if the register compares so with the bytes.
    Compare { register: u32, op: u32, bytes: Vec<u8> },
    /// May or may not go on.
    Unknown,
    /// Ends the rule.
    End(End),
}

/// What a register is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    InputName,
    OutputName,
    /// IPv4 or IPv6, as netfilter numbers them.
    Family,
    /// The EtherType.
    EtherType,
    /// TCP, UDP, ...
    Protocol,
    Destination,
    DestinationPort,
    ConnectionState,
    /// Something that we do not follow.
    Other,
}

/// Where a rule sends the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Accept,
    /// Dropped or rejected.
    Refuse,
    Return,
    Jump(String),
    Goto(String),
}

/// The tables of others that have base chains at these hooks and see IPv4 packets, in the kernel's order.
pub(crate) fn tables(socket: &mut Socket, hooks: &[u32]) -> Result<Vec<OtherTable>, NetError> {
    let all = |message| (kind(message), nfgen(FAMILY_UNSPEC, 0, &[]));
    let (get_tables, filter) = all(GET_TABLE);
    let found = socket.dump("dump all tables", get_tables, &filter)?;
    let mut tables: Vec<OtherTable> = found.iter().filter_map(table_of).collect();
    let (get_chains, filter) = all(GET_CHAIN);
    for chain in &socket.dump("dump the chains of all tables", get_chains, &filter)? {
        let name = |attr| find(body(chain), attr).map(Attr::text).unwrap_or_default();
        let of = (family_of(chain), name(1));
        if let Some(table) = tables.iter_mut().find(|table| table.family == of.0 && table.name == of.1) {
            table.chains.insert(name(3), OtherChain { base: base_of(body(chain)), rules: Vec::new() });
        }
    }
    let hangs = |chain: &OtherChain| chain.base.is_some_and(|base| hooks.contains(&base.hook));
    tables.retain(|table| table.chains.values().any(hangs));
    for table in &mut tables {
        let filter = Attrs::new().text(1, &table.name);
        let action = format!("dump the rules of table {}", table.name);
        let rules = socket.dump(&action, kind(GET_RULE), &nfgen(table.family, 0, filter.as_slice()))?;
        for rule in &rules {
            let chain = find(body(rule), 2).map(Attr::text).unwrap_or_default();
            if let Some(chain) = table.chains.get_mut(&chain) {
                chain.rules.push(rule_of(body(rule)));
            }
        }
    }
    Ok(tables)
}

fn family_of(message: &Message) -> u8 {
    message.payload.first().copied().unwrap_or_default()
}

fn table_of(message: &Message) -> Option<OtherTable> {
    let family = family_of(message);
    let name = find(body(message), 1)?.text();
    let flags = find(body(message), 2).and_then(Attr::be32).unwrap_or_default();
    let ours = family == FAMILY_IP && name == TABLE;
    if ours || !matches!(family, FAMILY_IP | FAMILY_INET) || flags & TABLE_DORMANT != 0 {
        return None;
    }
    let owner = find(body(message), 7).and_then(Attr::be32).filter(|_| flags & TABLE_OWNED != 0);
    Some(OtherTable { family, name, owner, chains: BTreeMap::new() })
}

fn base_of(chain: &[u8]) -> Option<Base> {
    let hook = find(chain, 4)?;
    let drops = find(chain, 5).and_then(Attr::be32) == Some(POLICY_DROP);
    let priority = hook.find(2).and_then(Attr::be32).unwrap_or_default().cast_signed();
    Some(Base { hook: hook.find(1)?.be32()?, priority, drops })
}

/// A rule from its attributes.
pub(crate) fn rule_of(rule: &[u8]) -> OtherRule {
    let parts = find(rule, 4).into_iter().flat_map(Attr::nested).filter_map(part_of);
    OtherRule {
        handle: find(rule, 3).and_then(Attr::be64).unwrap_or_default(),
        comment: find(rule, 7).and_then(|userdata| comment_text(userdata.value)),
        parts: parts.collect(),
    }
}

/// An expression, `None` if it changes nothing for the packet.
fn part_of(expr: Attr<'_>) -> Option<Part> {
    let name = expr.find(1)?.text();
    let number = |attr| expr.find(2).and_then(|data| data.find(attr)).and_then(Attr::be32);
    let register = |attr| number(attr).map(index_of_register);
    let bytes = |attr| {
        let value = expr.find(2)?.find(attr)?.find(1)?;
        Some(value.value.to_vec())
    };
    let text = |attr| expr.find(2).and_then(|data| data.find(attr)).map(Attr::text).unwrap_or_default();
    let load = |to: Option<u32>, field| to.map(|to| Part::Load { to, field });
    match name.as_str() {
        "immediate" => match expr.find(2)?.find(2)?.find(2) {
            Some(verdict) => end_of(verdict).map(Part::End),
            None => load(register(1), Field::Other),
        },
        "meta" => load(register(1), number(2).map_or(Field::Other, meta_field)),
        "payload" => load(register(1), payload_field(number(2)?, number(3)?, number(4)?)),
        "ct" => load(register(1), if number(2) == Some(0) { Field::ConnectionState } else { Field::Other }),
        "bitwise" => match bytes(4).zip(bytes(5)) {
            Some((mask, xor)) => Some(Part::Mask { from: register(1)?, to: register(2)?, mask, xor }),
            None => load(register(2), Field::Other),
        },
        "cmp" => Some(Part::Compare { register: register(1)?, op: number(2)?, bytes: bytes(3)? }),
        "byteorder" => load(register(2), Field::Other),
        "fib" | "rt" | "socket" | "osf" | "hash" | "numgen" | "exthdr" | "tunnel" | "xfrm" => {
            load(register(1), Field::Other)
        }
        "reject" => Some(Part::End(End::Refuse)),
        "target" => match text(1).as_str() {
            "REJECT" | "DROP" => Some(Part::End(End::Refuse)),
            "ACCEPT" => Some(Part::End(End::Accept)),
            _ => None,
        },
        "match" if text(1) == "comment" => None,
        "counter" | "log" | "notrack" | "last" | "objref" => None,
        _ => Some(Part::Unknown),
    }
}

fn end_of(verdict: Attr<'_>) -> Option<End> {
    let code = verdict.find(1)?.be32()?.cast_signed();
    let chain = || verdict.find(2).map(Attr::text).unwrap_or_default();
    match code {
        0 => Some(End::Refuse),
        1 => Some(End::Accept),
        -3 => Some(End::Jump(chain())),
        -4 => Some(End::Goto(chain())),
        -5 => Some(End::Return),
        _ => None,
    }
}

/// Each fourth 32-bit register is dumped under the name of the 128-bit register that starts there.
fn index_of_register(name: u32) -> u32 {
    if name < 8 { name.saturating_sub(1) * 4 } else { name - 8 }
}

fn meta_field(key: u32) -> Field {
    match key {
        1 => Field::EtherType,
        6 => Field::InputName,
        7 => Field::OutputName,
        15 => Field::Family,
        16 => Field::Protocol,
        _ => Field::Other,
    }
}

fn payload_field(base: u32, offset: u32, length: u32) -> Field {
    match (base, offset, length) {
        (1, 9, 1) => Field::Protocol,
        (1, 16, 4) => Field::Destination,
        (2, 2, 2) => Field::DestinationPort,
        _ => Field::Other,
    }
}
