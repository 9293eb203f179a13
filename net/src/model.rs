//! The values of the network loop: what a node wants its kernel to hold.
//!
//! Owns: [`Config`] (fixed at start), [`Tables`] (what the snapshot of the scheduler says), [`Wanted`] (both, with
//! the endpoints that are wired here). Owns not: how the kernel expresses them ([`crate::nft`]), what the kernel
//! holds now ([`crate::present`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::ipnet::{BLOCK_PREFIX, Ipv4Net, vip_range};

/// The address on which every container finds DNS. The data-plane process listens there.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 53);

/// The next hop of every container. No link has this address: a permanent neighbour answers for it.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Start of the name of every link we make; the nftables rules match on it.
pub const LINK_PREFIX: &str = "ck";

/// Name of the interface inside a container.
pub const CONTAINER_INTERFACE: &str = "eth0";

/// Longest instance tag, in bytes (it shares a 127-byte nftables comment and the link alias).
pub const INSTANCE_MAX: usize = 64;

/// Longest endpoint key, in bytes (it shares the 255-byte link alias).
pub const ENDPOINT_KEY_MAX: usize = 128;

/// What does not change while the node runs, except for the list of blocks, which grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Names this installation (for example its state directory's id); links and tables of another are not touched.
    pub instance: String,
    /// The cluster's range: addresses and VIPs.
    pub cluster: Ipv4Net,
    /// The /24 blocks of this node. The first address of the first one is the node's own.
    pub blocks: Vec<Ipv4Net>,
    /// The MTU of container links; `None` copies that of the default route's link.
    pub mtu: Option<u32>,
}

/// What is wrong with a [`Config`] or a key, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The tag is empty, too long, or holds other characters than letters, digits, `-`, `_` and `.`.
    #[error("the instance tag {0:?} must be 1 to {INSTANCE_MAX} of a-z A-Z 0-9 - _ .")]
    Instance(String),
    /// The key is empty, too long, or holds control characters.
    #[error("the endpoint key {0:?} must be 1 to {ENDPOINT_KEY_MAX} printable characters")]
    EndpointKey(String),
    /// The cluster range is too small to hold VIPs and blocks.
    #[error("the cluster range {0} must be a /13 or larger: its last /14 holds the virtual addresses")]
    ClusterTooSmall(Ipv4Net),
    /// A node without a block has no address.
    #[error("the node has no address block")]
    NoBlock,
    /// A block must be a /24.
    #[error("the address block {0} is not a /24")]
    BlockSize(Ipv4Net),
    /// A block lies outside the cluster's range or in the part that holds VIPs.
    #[error("the address block {block} is not in the task part of the cluster range {cluster}")]
    BlockOutside {
        /// The block.
        block: Ipv4Net,
        /// The range.
        cluster: Ipv4Net,
    },
}

impl Config {
    /// The node's own address: the first of its first block.
    pub fn node_address(&self) -> Option<Ipv4Addr> {
        self.blocks.first().and_then(|block| block.nth(1))
    }

    /// The range of virtual addresses.
    pub fn vips(&self) -> Ipv4Net {
        vip_range(self.cluster)
    }

    /// Checks everything that can be checked without the kernel.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let tag_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.instance.is_empty()
            || self.instance.len() > INSTANCE_MAX
            || !self.instance.chars().all(tag_ok)
        {
            return Err(ConfigError::Instance(self.instance.clone()));
        }
        if self.cluster.prefix() >= crate::ipnet::VIP_PREFIX {
            return Err(ConfigError::ClusterTooSmall(self.cluster));
        }
        if self.blocks.is_empty() {
            return Err(ConfigError::NoBlock);
        }
        for block in &self.blocks {
            if block.prefix() != BLOCK_PREFIX {
                return Err(ConfigError::BlockSize(*block));
            }
            if !self.cluster.contains(block.address()) || self.vips().contains(block.address()) {
                return Err(ConfigError::BlockOutside { block: *block, cluster: self.cluster });
            }
        }
        Ok(())
    }
}

/// Who an endpoint belongs to: the task's id, as text. Net gives it no meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointKey(String);

impl EndpointKey {
    /// Checks the length and that all characters are printable.
    pub fn new(key: impl Into<String>) -> Result<Self, ConfigError> {
        let key = key.into();
        if key.is_empty() || key.len() > ENDPOINT_KEY_MAX || key.chars().any(char::is_control) {
            return Err(ConfigError::EndpointKey(key));
        }
        Ok(Self(key))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EndpointKey {
    type Error = ConfigError;

    fn try_from(key: String) -> Result<Self, ConfigError> {
        Self::new(key)
    }
}

impl From<EndpointKey> for String {
    fn from(key: EndpointKey) -> Self {
        key.0
    }
}

/// A transport protocol that ports are published for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, number 6.
    Tcp,
    /// UDP, number 17.
    Udp,
}

impl Protocol {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol of a number, if it is one of ours.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A published port of the host. Ranges are expanded by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortKey {
    /// The only address of the host that serves it; `None` means all.
    pub host_ip: Option<Ipv4Addr>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port on the host.
    pub port: u16,
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host_ip) = self.host_ip {
            write!(f, "{host_ip}:")?;
        }
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Where a published port leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTarget {
    /// Addresses of the endpoints, here and elsewhere. If some are wired on this node, only those are used.
    pub endpoints: BTreeSet<Ipv4Addr>,
    /// The port at the endpoints.
    pub port: u16,
}

/// What the node takes out of the scheduler's snapshot: full state, no deltas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// VIP -> addresses of the endpoints that may get traffic. A VIP without any is rejected at once.
    pub services: BTreeMap<Ipv4Addr, BTreeSet<Ipv4Addr>>,
    /// Published ports.
    pub ports: BTreeMap<PortKey, PortTarget>,
    /// Every task address this node knows, here and elsewhere -> names of the isolation groups it is in. Addresses
    /// that share a group may talk. An address that is missing here reaches nothing and is reached by nobody.
    pub members: BTreeMap<Ipv4Addr, BTreeSet<String>>,
    /// Groups without a way out: an address all of whose groups are internal does not reach the outside.
    pub internal: BTreeSet<String>,
}

/// One endpoint that is wired on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's address.
    pub address: Ipv4Addr,
}

/// Everything this node wants its kernel to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Fixed facts.
    pub config: Config,
    /// MTU of container links, resolved.
    pub mtu: u32,
    /// The endpoints wired here.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    /// The tables. `None` until a snapshot is known: what a last daemon put into the kernel stays until then.
    pub tables: Option<Tables>,
    /// Whether all endpoints that live on after a restart were named again. Only then is a link of ours that no
    /// endpoint owns a leftover that may be removed.
    pub settled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            instance: "test-1".to_owned(),
            cluster: "10.192.0.0/10".parse().unwrap(),
            blocks: vec!["10.192.7.0/24".parse().unwrap()],
            mtu: None,
        }
    }

    #[test]
    fn the_node_has_the_first_address_of_its_first_block() {
        assert_eq!(config().node_address(), Some(Ipv4Addr::new(10, 192, 7, 1)));
        assert_eq!(config().validate(), Ok(()));
    }

    #[test]
    fn a_bad_configuration_is_refused_with_the_bad_value() {
        let bad = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(bad(|c| c.instance = "a b".to_owned()).contains("a b"));
        assert!(bad(|c| c.cluster = "10.192.0.0/16".parse().unwrap()).contains("10.192.0.0/16"));
        assert!(bad(|c| c.blocks.clear()).contains("no address block"));
        assert!(bad(|c| c.blocks[0] = "10.192.0.0/23".parse().unwrap()).contains("/23"));
        assert!(bad(|c| c.blocks[0] = "10.252.0.0/24".parse().unwrap()).contains("10.252.0.0/24"));
        assert!(bad(|c| c.blocks[0] = "192.168.0.0/24".parse().unwrap()).contains("192.168.0.0/24"));
    }

    #[test]
    fn keys_render_as_a_user_writes_them() {
        let key = PortKey { host_ip: Some(Ipv4Addr::LOCALHOST), protocol: Protocol::Udp, port: 53 };
        assert_eq!(key.to_string(), "127.0.0.1:53/udp");
        assert!(EndpointKey::new("").is_err());
        assert!(EndpointKey::new("a\nb").is_err());
        assert_eq!(EndpointKey::new("t1").unwrap().to_string(), "t1");
    }
}
