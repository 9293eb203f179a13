//! IPv4 networks, and the choice of the cluster's range.
//!
//! Owns: the small CIDR value the crate calculates with, [`choose_cluster_cidr`] and [`vip_range`].
//! Owns not: reading the host's routes (that is `link`).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The cluster ranges we try, in this order.
pub const CLUSTER_CIDRS: [Ipv4Net; 2] =
    [Ipv4Net::literal([10, 192, 0, 0], 10), Ipv4Net::literal([100, 64, 0, 0], 10)];

/// Prefix length of the part of the cluster range that holds virtual addresses.
pub const VIP_PREFIX: u8 = 14;

/// Prefix length of one address block of a node.
pub const BLOCK_PREFIX: u8 = 24;

/// An IPv4 network: an address with all host bits zero, and a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    address: Ipv4Addr,
    prefix: u8,
}

/// A text or pair of numbers that is no IPv4 network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 network: {reason}")]
pub struct BadNet {
    text: String,
    reason: &'static str,
}

impl Ipv4Net {
    const fn literal(octets: [u8; 4], prefix: u8) -> Self {
        Self { address: Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]), prefix }
    }

    /// A network from an address without host bits.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, BadNet> {
        let bad = |reason| BadNet { text: format!("{address}/{prefix}"), reason };
        if prefix > 32 {
            return Err(bad("the prefix length is greater than 32"));
        }
        let net = Self::containing(address, prefix);
        if net.address != address {
            return Err(bad("bits are set outside the prefix"));
        }
        Ok(net)
    }

    /// The network of this prefix length (at most 32) that holds an address.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// The first address, host bits zero.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The prefix length.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask as an address.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    /// Whether an address lies in this network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether the two networks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The last sub-network of the given (longer) prefix length; the network itself when it is not longer.
    pub fn last(self, prefix: u8) -> Self {
        if prefix <= self.prefix {
            return self;
        }
        let all_ones = self.address.to_bits() | !mask(self.prefix);
        Self::containing(Ipv4Addr::from_bits(all_ones), prefix)
    }

    /// The address at an offset from the first one, if it is inside.
    pub fn nth(self, offset: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.address.to_bits().checked_add(offset)?);
        self.contains(address).then_some(address)
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = BadNet;

    fn from_str(text: &str) -> Result<Self, BadNet> {
        let bad = |reason| BadNet { text: text.to_owned(), reason };
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("there is no /PREFIX"))?;
        let address = address.parse().map_err(|_| bad("the address is malformed"))?;
        let prefix = prefix.parse().map_err(|_| bad("the prefix length is malformed"))?;
        Self::new(address, prefix).map_err(|error| BadNet { text: text.to_owned(), ..error })
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = BadNet;

    fn try_from(text: String) -> Result<Self, BadNet> {
        text.parse()
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}

/// The first candidate range that overlaps none of the host's routes. A default route overlaps nothing.
/// `None` means the operator must name a range.
pub fn choose_cluster_cidr(routes: &[Ipv4Net]) -> Option<Ipv4Net> {
    CLUSTER_CIDRS
        .into_iter()
        .find(|candidate| routes.iter().all(|route| route.prefix == 0 || !route.overlaps(*candidate)))
}

/// The part of a cluster range that holds virtual addresses: its last /14.
pub fn vip_range(cluster: Ipv4Net) -> Ipv4Net {
    cluster.last(VIP_PREFIX)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_read_and_written_in_the_same_words() {
        for text in ["10.192.0.0/10", "0.0.0.0/0", "1.2.3.4/32"] {
            assert_eq!(net(text).to_string(), text);
        }
        for text in ["10.192.0.1/10", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/y"] {
            let error = text.parse::<Ipv4Net>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_vips_are_the_last_14th_of_the_cluster_range() {
        assert_eq!(vip_range(net("10.192.0.0/10")), net("10.252.0.0/14"));
        assert_eq!(vip_range(net("100.64.0.0/10")), net("100.124.0.0/14"));
    }

    #[test]
    fn the_cluster_range_avoids_the_routes_of_the_host() {
        let lan = net("192.168.1.0/24");
        let default = net("0.0.0.0/0");
        assert_eq!(choose_cluster_cidr(&[default, lan]), Some(CLUSTER_CIDRS[0]));
        assert_eq!(choose_cluster_cidr(&[net("10.200.3.0/24")]), Some(CLUSTER_CIDRS[1]));
        assert_eq!(choose_cluster_cidr(&[net("10.0.0.0/8")]), Some(CLUSTER_CIDRS[1]));
        assert_eq!(choose_cluster_cidr(&[net("10.0.0.0/8"), net("100.64.0.0/16")]), None);
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        let block = net("10.192.3.0/24");
        assert_eq!(block.nth(1), Some(Ipv4Addr::new(10, 192, 3, 1)));
        assert_eq!(block.nth(256), None);
        assert!(block.contains(Ipv4Addr::new(10, 192, 3, 255)));
        assert!(!block.contains(Ipv4Addr::new(10, 192, 4, 0)));
        assert_eq!(block.netmask(), Ipv4Addr::new(255, 255, 255, 0));
    }
}
