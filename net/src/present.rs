//! What a kernel holds of ours, as a value. The same type says what it shall hold (`lower`).
//!
//! Owns: the value and the marks by which our objects are known: link names and aliases, the label of addresses, the
//! protocol number of routes. Owns not: dumping (`observe`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use crate::ipnet::Ipv4Net;
use crate::model::{EndpointKey, LINK_PREFIX};
pub use crate::nft::dump::TableState;
pub use crate::nft::foreign::{Accepts, Foreign, ForeignRule, Place};
use crate::nft::sets::Elements;

/// Label of our addresses on the loopback link.
pub(crate) const ADDRESS_LABEL: &str = "lo:ck";

/// Protocol number of our routes (`proto 202` in `ip route`).
pub(crate) const ROUTE_PROTOCOL: u8 = 202;

/// Longest name of a link, in bytes.
const LINK_NAME_MAX: usize = 15;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The Ethernet address of a container's end.
pub fn container_mac(address: Ipv4Addr) -> Mac {
    mac(0xca, address)
}

/// The Ethernet address of the host's end.
pub fn host_mac(address: Ipv4Addr) -> Mac {
    mac(0xcb, address)
}

fn mac(kind: u8, address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    // 02: locally administered, unicast.
    Mac([0x02, kind, a, b, c, d])
}

/// The name of an endpoint's link: the key itself where it fits, else its hash.
pub fn link_name(key: &EndpointKey) -> String {
    let key = key.as_str();
    let fits = key.len() + LINK_PREFIX.len() <= LINK_NAME_MAX;
    if fits && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return format!("{LINK_PREFIX}{key}");
    }
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = fnv1a64(key.as_bytes());
    let digits =
        (0..13).map(|place| char::from(DIGITS[usize::try_from((hash >> (5 * place)) & 31).unwrap_or(0)]));
    LINK_PREFIX.chars().chain(digits).collect()
}

/// The 64-bit FNV-1a hash: stable over versions, unlike the standard library's.
pub(crate) fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The alias of an endpoint's link; by it the link is known as ours.
pub(crate) fn link_alias(instance: &str, key: &EndpointKey) -> String {
    format!("carrack:{instance}:{key}")
}

/// The endpoint of an alias, if the alias is of this instance.
pub(crate) fn key_of_alias(instance: &str, alias: &str) -> Option<EndpointKey> {
    let key = alias.strip_prefix("carrack:")?.strip_prefix(instance)?.strip_prefix(':')?;
    EndpointKey::new(key).ok()
}

/// The installation that an alias names.
pub(crate) fn instance_of_alias(alias: &str) -> Option<String> {
    let (instance, _) = alias.strip_prefix("carrack:")?.split_once(':')?;
    Some(instance.to_owned())
}

/// One of our links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The alias.
    pub alias: String,
    /// The Ethernet address.
    pub mac: Mac,
    /// Whether it is up.
    pub up: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// Directly onto a link.
    Link(String),
    /// Nowhere: an error at once.
    Unreachable,
}

/// One of our routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub hop: Hop,
    /// Source address of what this host itself sends.
    pub source: Option<Ipv4Addr>,
}

/// All that is ours in a kernel, or shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Settings below /proc/sys. We do not restore them: `ip_forward` stays on, the others go with their link.
    pub sysctls: BTreeMap<String, String>,
    /// Our addresses on the loopback link; `true`: of link scope, never chosen as a source.
    pub addresses: BTreeMap<Ipv4Addr, bool>,
    /// Our links, by name.
    pub links: BTreeMap<String, Link>,
    /// Our routes.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// Permanent neighbours on our links.
    pub neighbours: BTreeMap<(String, Ipv4Addr), Mac>,
    /// The table.
    pub table: TableState,
    /// Its elements.
    pub elements: Elements,
    /// Chains of others.
    pub foreign: Foreign,
    /// Whether the host has IPv6 at all.
    pub ipv6: bool,
}

impl Kernel {
    /// A kernel without anything of ours.
    pub fn empty() -> Self {
        Self {
            sysctls: BTreeMap::new(),
            addresses: BTreeMap::new(),
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            table: TableState::Absent,
            elements: Elements::new(),
            foreign: Foreign::default(),
            ipv6: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_keep_short_keys_readable() {
        let name = |key: &str| link_name(&EndpointKey::new(key).unwrap());
        assert_eq!(name("abc123"), "ckabc123");
        assert_eq!(name("hello/web.2").len(), 15);
        assert_ne!(name("hello/web.2"), name("hello/web.3"));
        assert_eq!(name(&"x".repeat(100)).len(), 15);
    }

    #[test]
    fn an_alias_tells_the_instance_and_the_key() {
        let key = EndpointKey::new("a:b").unwrap();
        let alias = link_alias("inst", &key);
        assert_eq!(key_of_alias("inst", &alias), Some(key));
        assert_eq!(key_of_alias("ins", &alias), None);
        assert_eq!(key_of_alias("inst", "something else"), None);
    }

    #[test]
    fn the_two_ends_of_a_link_have_unicast_addresses_of_their_own() {
        let address = Ipv4Addr::new(10, 192, 0, 2);
        assert_eq!(container_mac(address).to_string(), "02:ca:0a:c0:00:02");
        assert_ne!(container_mac(address), host_mac(address));
    }
}
