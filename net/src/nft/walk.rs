//! What a chain of others does to a packet of ours. Pure.
//!
//! A rule counts only if all its conditions surely hold for the packet; what may or may not hold is passed over. So a
//! refusal found here is one that every packet of the kind meets: a policy, a last rule, a rule about all links but
//! some. Narrower rules (an address, a port) are what an administrator wants and are not found.

use std::collections::BTreeMap;

use crate::model::{DNS_ADDRESS, LINK_PREFIX};
use crate::nft::others::{Base, End, Field, OtherChain, OtherRule, OtherTable, Part};

/// Deepest nesting of chains that nftables allows.
const DEPTH_MAX: usize = 16;

const IPV4: u8 = 2;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const DNS_PORT: [u8; 2] = [0, 53];
const STATE_NEW: u32 = 8;

/// A kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Packet {
    /// From a container to anywhere.
    FromContainer,
    /// From anywhere to a container.
    ToContainer,
    /// A container's query to our DNS address, over UDP or TCP.
    Dns,
}

/// How a base chain ends for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Accepted by a rule.
    Accepted,
    /// Nothing was said.
    Passed,
    /// Dropped or rejected by a rule.
    Refused {
        /// The rule of the base chain that it went through, by its place.
        top: usize,
        /// The chain that refused.
        chain: String,
        /// The rule in it.
        handle: u64,
    },
    /// Dropped by the policy of the base chain.
    Policy,
}

/// Follows a packet through a base chain. Rules for which `skip` holds are not there.
pub(crate) fn fate(
    table: &OtherTable,
    chain: &str,
    base: Base,
    packet: Packet,
    skip: &dyn Fn(&OtherRule) -> bool,
) -> Fate {
    match follow(table, chain, packet, skip, 0) {
        Fate::Passed if base.drops => Fate::Policy,
        fate => fate,
    }
}

fn follow(
    table: &OtherTable,
    name: &str,
    packet: Packet,
    skip: &dyn Fn(&OtherRule) -> bool,
    depth: usize,
) -> Fate {
    let none = OtherChain::default();
    let chain = table.chains.get(name).unwrap_or(&none);
    for (place, rule) in chain.rules.iter().enumerate().filter(|(_, rule)| !skip(rule)) {
        let next = match sure_end(rule, packet) {
            None => continue,
            Some(End::Accept) => return Fate::Accepted,
            Some(End::Return) => return Fate::Passed,
            Some(End::Refuse) => {
                return Fate::Refused { top: place, chain: name.to_owned(), handle: rule.handle };
            }
            Some(End::Jump(next) | End::Goto(next)) if depth < DEPTH_MAX => next,
            Some(End::Jump(_) | End::Goto(_)) => continue,
        };
        match follow(table, next, packet, skip, depth + 1) {
            Fate::Refused { chain, handle, .. } => return Fate::Refused { top: place, chain, handle },
            Fate::Passed if matches!(sure_end(rule, packet), Some(End::Jump(_))) => {}
            fate => return fate,
        }
    }
    Fate::Passed
}

/// Where a rule sends the packet, if all its conditions surely hold.
fn sure_end(rule: &OtherRule, packet: Packet) -> Option<&End> {
    let mut registers: BTreeMap<u32, Value> = BTreeMap::new();
    for part in &rule.parts {
        match part {
            Part::Load { to, field } => {
                registers.insert(*to, value(packet, *field));
            }
            Part::Mask { from, to, mask, xor } => {
                let masked = registers.get(from).map_or(Value::Unknown, |value| value.masked(mask, xor));
                registers.insert(*to, masked);
            }
            Part::Compare { register, op, bytes } => {
                let holds = registers.get(register).and_then(|value| value.compares(*op, bytes));
                if holds != Some(true) {
                    return None;
                }
            }
            Part::Unknown => return None,
            Part::End(end) => return Some(end),
        }
    }
    None
}

/// What is known of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// All of it.
    Bytes(Vec<u8>),
    /// It begins so, and goes on.
    Name(&'static str),
    Unknown,
}

fn value(packet: Packet, field: Field) -> Value {
    let dns = packet == Packet::Dns;
    let known = |bytes: &[u8]| if dns { Value::Bytes(bytes.to_vec()) } else { Value::Unknown };
    match field {
        Field::InputName if packet != Packet::ToContainer => Value::Name(LINK_PREFIX),
        Field::OutputName if packet == Packet::ToContainer => Value::Name(LINK_PREFIX),
        Field::InputName | Field::OutputName | Field::Protocol | Field::Other => Value::Unknown,
        Field::Family => Value::Bytes(vec![IPV4]),
        Field::EtherType => Value::Bytes(ETHERTYPE_IPV4.to_vec()),
        Field::Destination => known(&DNS_ADDRESS.octets()),
        Field::DestinationPort => known(&DNS_PORT),
        Field::ConnectionState => Value::Bytes(STATE_NEW.to_ne_bytes().to_vec()),
    }
}

impl Value {
    fn masked(&self, mask: &[u8], xor: &[u8]) -> Self {
        match self {
            Self::Bytes(bytes) => {
                let pairs = mask.iter().zip(xor.iter().chain(std::iter::repeat(&0)));
                let byte = |place| bytes.get(place).copied().unwrap_or_default();
                Self::Bytes(pairs.enumerate().map(|(n, (mask, xor))| (byte(n) & mask) ^ xor).collect())
            }
            Self::Name(_) | Self::Unknown => Self::Unknown,
        }
    }

    /// `None`: it depends.
    fn compares(&self, op: u32, with: &[u8]) -> Option<bool> {
        const EQUAL: u32 = 0;
        const NOT_EQUAL: u32 = 1;
        match self {
            Self::Unknown => None,
            Self::Name(prefix) => {
                let equal = begins(prefix.as_bytes(), with)?;
                match op {
                    EQUAL => Some(equal),
                    NOT_EQUAL => Some(!equal),
                    _ => None,
                }
            }
            Self::Bytes(bytes) => {
                let mut bytes = bytes.clone();
                bytes.resize(with.len(), 0);
                let order = bytes.as_slice().cmp(with);
                match op {
                    EQUAL => Some(order.is_eq()),
                    NOT_EQUAL => Some(order.is_ne()),
                    2 => Some(order.is_lt()),
                    3 => Some(order.is_le()),
                    4 => Some(order.is_gt()),
                    5 => Some(order.is_ge()),
                    _ => None,
                }
            }
        }
    }
}

/// Whether a name that begins with (and is longer than) `prefix` equals the bytes, which are a prefix or, closed by a
/// zero, a whole name. `None`: it depends on the rest of the name.
fn begins(prefix: &[u8], with: &[u8]) -> Option<bool> {
    let common = prefix.len().min(with.len());
    if prefix.get(..common) != with.get(..common) {
        return Some(false);
    }
    match with.get(prefix.len()) {
        None => Some(true),
        Some(0) => Some(false),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(field: Field) -> Part {
        Part::Load { to: 0, field }
    }

    fn is(bytes: &[u8]) -> Part {
        Part::Compare { register: 0, op: 0, bytes: bytes.to_vec() }
    }

    fn is_not(bytes: &[u8]) -> Part {
        Part::Compare { register: 0, op: 1, bytes: bytes.to_vec() }
    }

    fn name(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes
    }

    fn end(end: End) -> Part {
        Part::End(end)
    }

    fn jump(to: &str) -> Part {
        end(End::Jump(to.to_owned()))
    }

    fn table(chains: &[(&str, &[&[Part]])]) -> OtherTable {
        let rule = |(n, parts): (usize, &&[Part])| OtherRule {
            handle: u64::try_from(n).unwrap() + 1,
            comment: None,
            parts: parts.to_vec(),
        };
        let chain = |rules: &[&[Part]]| OtherChain {
            base: None,
            rules: rules.iter().enumerate().map(rule).collect(),
        };
        let chains = chains.iter().map(|(name, rules)| ((*name).to_owned(), chain(rules))).collect();
        OtherTable { family: 2, name: "filter".to_owned(), owner: None, chains }
    }

    fn through(table: &OtherTable, drops: bool, packet: Packet) -> Fate {
        let base = Base { hook: 2, priority: 0, drops };
        fate(table, "forward", base, packet, &|_| false)
    }

    fn refused(top: usize, chain: &str, handle: u64) -> Fate {
        Fate::Refused { top, chain: chain.to_owned(), handle }
    }

    #[test]
    fn a_policy_drops_what_no_rule_speaks_of() {
        let docker: &[&[Part]] = &[
            &[load(Field::OutputName), is(&name("docker0")), end(End::Accept)],
            &[Part::Unknown, end(End::Accept)],
        ];
        let table = table(&[("forward", docker)]);
        for packet in [Packet::FromContainer, Packet::ToContainer] {
            assert_eq!(through(&table, true, packet), Fate::Policy);
            assert_eq!(through(&table, false, packet), Fate::Passed);
        }
    }

    #[test]
    fn a_refusal_at_the_end_of_called_chains_is_found_with_the_rule_that_leads_there() {
        // As firewalld has it: zones by link, then the default zone, which rejects.
        let state = load(Field::ConnectionState);
        let invalid = Part::Mask { from: 0, to: 0, mask: 1u32.to_ne_bytes().to_vec(), xor: vec![0; 4] };
        let table = table(&[
            ("forward", &[&[state, invalid, is_not(&[0; 4]), end(End::Refuse)], &[jump("zones")]]),
            (
                "zones",
                &[
                    &[load(Field::InputName), is(&name("eth0")), jump("open")],
                    &[end(End::Goto("public".to_owned()))],
                ],
            ),
            ("open", &[&[end(End::Accept)]]),
            ("public", &[&[Part::Unknown, end(End::Accept)], &[end(End::Refuse)]]),
        ]);
        assert_eq!(through(&table, false, Packet::FromContainer), refused(1, "public", 2));
    }

    #[test]
    fn rules_about_links_are_told_apart() {
        let chain = |part: Part| {
            let rule: &[Part] = &[load(Field::InputName), part, end(End::Refuse)];
            through(&table(&[("forward", &[rule])]), false, Packet::FromContainer)
        };
        assert_eq!(chain(is_not(&name("lan0"))), refused(0, "forward", 1));
        assert_eq!(chain(is(b"ck")), refused(0, "forward", 1), "ck*");
        assert_eq!(chain(is(b"c")), refused(0, "forward", 1), "c*");
        assert_eq!(chain(is(&name("ck"))), Fate::Passed, "a link of that very name");
        assert_eq!(chain(is(&name("cktask1"))), Fate::Passed, "one link of ours");
        assert_eq!(chain(is(&name("docker0"))), Fate::Passed);
        let to: &[Part] = &[load(Field::InputName), is_not(&name("lan0")), end(End::Refuse)];
        let table = table(&[("forward", &[to])]);
        assert_eq!(through(&table, false, Packet::ToContainer), Fate::Passed, "it may come from lan0");
    }

    #[test]
    fn an_accept_for_us_ends_the_way() {
        let ours: &[Part] = &[load(Field::OutputName), is(b"ck"), end(End::Accept)];
        let table = table(&[("forward", &[ours, &[end(End::Refuse)]])]);
        assert_eq!(through(&table, true, Packet::ToContainer), Fate::Accepted);
        assert_eq!(through(&table, true, Packet::FromContainer), refused(1, "forward", 2));
        let base = Base { hook: 2, priority: 0, drops: true };
        let without = fate(&table, "forward", base, Packet::ToContainer, &|rule| rule.handle == 1);
        assert_eq!(without, refused(1, "forward", 2));
    }

    #[test]
    fn queries_are_known_by_address_and_port() {
        let dns = |parts: &[Part]| through(&table(&[("forward", &[parts])]), true, Packet::Dns);
        assert_eq!(dns(&[load(Field::DestinationPort), is(&[0, 53]), end(End::Accept)]), Fate::Accepted);
        assert_eq!(dns(&[load(Field::Protocol), is(&[6]), end(End::Accept)]), Fate::Policy);
        assert_eq!(dns(&[load(Field::Family), is(&[10]), end(End::Accept)]), Fate::Policy, "IPv6");
        assert_eq!(dns(&[load(Field::EtherType), is(&[8, 0]), end(End::Accept)]), Fate::Accepted);
        let below = Part::Compare { register: 0, op: 2, bytes: vec![4, 0] };
        assert_eq!(
            dns(&[load(Field::DestinationPort), below, end(End::Accept)]),
            Fate::Accepted,
            "ports < 1024"
        );
    }

    #[test]
    fn chains_that_call_each_other_end() {
        let table = table(&[("forward", &[&[jump("forward")]])]);
        assert_eq!(through(&table, false, Packet::Dns), Fate::Passed);
    }
}
