//! The sets and maps of our table, and their elements as values.
//!
//! Owns: names, key and data shapes, the encoding of keys and data, size classes. Owns not: which elements are wanted
//! (`lower`) and how they reach the kernel (`nft::batch`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::model::{PortKey, Protocol};

/// How many slots a service has. A service uses the smallest class with at least [`SLOTS_PER_ENDPOINT`] slots for
/// each endpoint, so that no endpoint gets more than 9/8 of another's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SizeClass {
    /// 16 slots: up to 2 endpoints.
    S16,
    /// 256 slots: up to 32 endpoints.
    S256,
    /// 4096 slots: up to 512 endpoints.
    S4096,
    /// 65536 slots: the rest.
    S65536,
}

/// Slots that each endpoint has at least (except beyond the greatest class).
pub const SLOTS_PER_ENDPOINT: usize = 8;

impl SizeClass {
    /// All classes, smallest first.
    pub const ALL: [Self; 4] = [Self::S16, Self::S256, Self::S4096, Self::S65536];

    /// The number of slots.
    pub const fn slots(self) -> u32 {
        match self {
            Self::S16 => 16,
            Self::S256 => 256,
            Self::S4096 => 4096,
            Self::S65536 => 65536,
        }
    }

    /// The class for a number of endpoints.
    pub fn for_endpoints(endpoints: usize) -> Self {
        let needed = endpoints.saturating_mul(SLOTS_PER_ENDPOINT);
        Self::ALL.into_iter().find(|class| class.slots() as usize >= needed).unwrap_or(Self::S65536)
    }
}

/// One set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// VIP -> chain of its size class.
    Services,
    /// VIP . slot -> endpoint address.
    Slots(SizeClass),
    /// host address (zero: all) . protocol . port -> chain of its size class.
    Ports,
    /// host address . protocol . port . slot -> endpoint address . port.
    PortSlots(SizeClass),
    /// host address . protocol . port, with or without endpoints.
    Published,
    /// Task address -> isolation class.
    Classes,
    /// Task address . class (or outside) that it may reach.
    Reach,
    /// address . the same address, of each endpoint wired here.
    Hairpin,
    /// First addresses of the node's blocks.
    Blocks,
}

/// What a map yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataShape {
    /// A set: nothing.
    Nothing,
    /// A chain.
    Verdict,
    /// Bytes, with the type that `nft` prints them as.
    Value { kind: u32, length: u32 },
}

/// The types that `nft` prints a field as. A concatenation has 6 bits for each.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
/// 32 bits in host order.
const TYPE_NUMBER: u32 = 19;

impl SetId {
    /// All sets of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        let fixed = [
            Self::Services,
            Self::Ports,
            Self::Published,
            Self::Classes,
            Self::Reach,
            Self::Hairpin,
            Self::Blocks,
        ];
        let sized = SizeClass::ALL.into_iter().flat_map(|class| [Self::Slots(class), Self::PortSlots(class)]);
        fixed.into_iter().chain(sized)
    }

    /// The name in the kernel.
    pub fn name(self) -> String {
        match self {
            Self::Services => "services".to_owned(),
            Self::Slots(class) => format!("slots_{}", class.slots()),
            Self::Ports => "ports".to_owned(),
            Self::PortSlots(class) => format!("port_slots_{}", class.slots()),
            Self::Published => "published".to_owned(),
            Self::Classes => "classes".to_owned(),
            Self::Reach => "reach".to_owned(),
            Self::Hairpin => "hairpin".to_owned(),
            Self::Blocks => "blocks".to_owned(),
        }
    }

    /// The fields of the key; each takes one 32-bit register.
    pub(crate) fn key_types(self) -> &'static [u32] {
        match self {
            Self::Services | Self::Classes | Self::Blocks => &[TYPE_ADDRESS],
            Self::Slots(_) => &[TYPE_ADDRESS, TYPE_NUMBER],
            Self::Ports | Self::Published => &[TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT],
            Self::PortSlots(_) => &[TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT, TYPE_NUMBER],
            Self::Reach => &[TYPE_ADDRESS, TYPE_NUMBER],
            Self::Hairpin => &[TYPE_ADDRESS, TYPE_ADDRESS],
        }
    }

    pub(crate) fn data(self) -> DataShape {
        match self {
            Self::Services | Self::Ports => DataShape::Verdict,
            Self::Slots(_) => DataShape::Value { kind: TYPE_ADDRESS, length: 4 },
            Self::PortSlots(_) => {
                DataShape::Value { kind: concatenated(&[TYPE_ADDRESS, TYPE_PORT]), length: 8 }
            }
            Self::Classes => DataShape::Value { kind: TYPE_NUMBER, length: 4 },
            Self::Published | Self::Reach | Self::Hairpin | Self::Blocks => DataShape::Nothing,
        }
    }

    pub(crate) fn key_length(self) -> usize {
        self.key_types().len() * 4
    }
}

/// The type number of a concatenation.
pub(crate) fn concatenated(types: &[u32]) -> u32 {
    const BITS: u32 = 6;
    types.iter().fold(0, |all, one| (all << BITS) | one)
}

/// A key: up to four 32-bit fields, zero behind the last.
pub type Key = [u8; 16];

/// What an element yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datum {
    /// An element of a set.
    Nothing,
    /// A chain of this size class.
    Chain(SizeClass),
    /// Bytes, zero behind the last.
    Value([u8; 8]),
}

/// The elements of all sets. A set without elements may be absent.
pub type Elements = BTreeMap<SetId, BTreeMap<Key, Datum>>;

/// A key of one address.
pub fn address_key(address: Ipv4Addr) -> Key {
    fields([address.octets(), [0; 4], [0; 4], [0; 4]])
}

/// A key of two addresses.
pub fn pair_key(a: Ipv4Addr, b: Ipv4Addr) -> Key {
    fields([a.octets(), b.octets(), [0; 4], [0; 4]])
}

/// A key of an address and a slot; numgen writes the slot in host order.
pub fn slot_key(vip: Ipv4Addr, slot: u32) -> Key {
    fields([vip.octets(), slot.to_ne_bytes(), [0; 4], [0; 4]])
}

/// A key of a published port.
pub fn port_key(key: PortKey) -> Key {
    port_slot_key(key, 0)
}

/// A key of a published port and a slot.
pub fn port_slot_key(key: PortKey, slot: u32) -> Key {
    let address = key.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let [high, low] = key.port.to_be_bytes();
    fields([address, [key.protocol.number(), 0, 0, 0], [high, low, 0, 0], slot.to_ne_bytes()])
}

/// A key of an address and a class.
pub fn reach_key(from: Ipv4Addr, to: u32) -> Key {
    fields([from.octets(), to.to_ne_bytes(), [0; 4], [0; 4]])
}

/// The value that is an address.
pub fn address_value(address: Ipv4Addr) -> Datum {
    target_value(address, 0)
}

/// The value that is an address and a port.
pub fn target_value(address: Ipv4Addr, port: u16) -> Datum {
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    Datum::Value([a, b, c, d, high, low, 0, 0])
}

/// The value that is a class.
pub fn class_value(class: u32) -> Datum {
    let [a, b, c, d] = class.to_ne_bytes();
    Datum::Value([a, b, c, d, 0, 0, 0, 0])
}

/// A key in words, for plans.
pub fn describe_key(set: SetId, key: &Key) -> String {
    let address = Ipv4Addr::new(key[0], key[1], key[2], key[3]);
    let port = || {
        let host_ip = Some(address).filter(|address| !address.is_unspecified());
        let protocol = Protocol::from_number(key[4]).map_or_else(|| key[4].to_string(), |p| p.to_string());
        let host = host_ip.map_or(String::new(), |ip| format!("{ip}:"));
        format!("{host}{}/{protocol}", u16::from_be_bytes([key[8], key[9]]))
    };
    match set {
        SetId::Services | SetId::Slots(_) => format!("VIP {address}"),
        SetId::Ports | SetId::PortSlots(_) | SetId::Published => format!("port {}", port()),
        SetId::Classes => format!("member {address}"),
        SetId::Reach => format!("reach of {address}"),
        SetId::Hairpin => format!("hairpin {address}"),
        SetId::Blocks => format!("block {address}"),
    }
}

fn fields(fields: [[u8; 4]; 4]) -> Key {
    let mut key = [0; 16];
    for (to, from) in key.iter_mut().zip(fields.into_iter().flatten()) {
        *to = from;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_uses_the_smallest_class_with_eight_slots_per_endpoint() {
        let class = |n| SizeClass::for_endpoints(n).slots();
        assert_eq!(
            [1, 2, 3, 32, 33, 512, 513, 8192, 9000].map(class),
            [16, 16, 256, 256, 4096, 4096, 65536, 65536, 65536]
        );
    }

    #[test]
    fn every_set_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<String> = SetId::all().map(SetId::name).collect();
        assert_eq!(names.len(), SetId::all().count());
        assert_eq!(names.len(), 15);
    }

    #[test]
    fn keys_are_described_as_a_user_writes_them() {
        let key = PortKey { host_ip: None, protocol: Protocol::Tcp, port: 8080 };
        assert_eq!(describe_key(SetId::Ports, &port_key(key)), "port 8080/tcp");
        let key = PortKey { host_ip: Some(Ipv4Addr::LOCALHOST), ..key };
        assert_eq!(
            describe_key(SetId::PortSlots(SizeClass::S16), &port_slot_key(key, 3)),
            "port 127.0.0.1:8080/tcp"
        );
        assert_eq!(describe_key(SetId::Reach, &reach_key(Ipv4Addr::LOCALHOST, 2)), "reach of 127.0.0.1");
    }
}
