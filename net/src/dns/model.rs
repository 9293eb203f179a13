//! The names of a node as one value: what the daemon publishes and the data-plane process answers from.
//!
//! Owns: the shape, its version and its validity. Does not own: lookups (`zone`). Names are held per network, not per
//! container, so a snapshot grows with services and endpoints, not with their product.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Version of the snapshot's shape. A reader refuses a newer one and ignores unknown fields of its own.
pub const DNS_SNAPSHOT_VERSION: u32 = 1;

/// Everything that the node's DNS knows, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSnapshot {
    /// Shape of this value, [`DNS_SNAPSHOT_VERSION`].
    pub version: u32,
    /// Top domain of all our names.
    pub domain: String,
    /// Services, referred to by their position.
    pub services: Vec<ServiceNames>,
    /// Names by network. A network's key is unique in the cluster (`stack/network`, or the name of an external one).
    pub networks: BTreeMap<String, NetworkNames>,
    /// What each container may see, by its address.
    pub views: BTreeMap<IpAddr, DnsView>,
    /// Addresses of the node itself, which sees every service as `service.stack`. Loopback and the DNS address itself
    /// always count as the node.
    #[serde(default)]
    pub host_addresses: BTreeSet<IpAddr>,
    /// Address ranges that are ours: reverse lookups in them are never forwarded.
    #[serde(default)]
    pub ranges: Vec<Range>,
    /// Resolvers for all other names; when empty those of the host's resolv.conf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<SocketAddr>,
    /// Names that everyone sees, such as `host.docker.internal`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<IpAddr>>,
}

/// The addresses of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNames {
    /// Stack of the service.
    pub stack: String,
    /// Name of the service in its stack.
    pub service: String,
    /// Virtual addresses; none means that the name stands for the passing endpoints themselves.
    pub vips: Vec<IpAddr>,
    /// Endpoints by slot.
    pub slots: BTreeMap<u32, SlotNames>,
}

/// The endpoint of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotNames {
    /// Addresses of the slot's task.
    pub addresses: Vec<IpAddr>,
    /// Whether it belongs to the answers for `tasks.<service>`.
    pub passing: bool,
}

/// Names on one network: service names, network aliases, container names, host names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkNames {
    /// What each name stands for; several services may share an alias.
    pub names: BTreeMap<String, Vec<Target>>,
}

/// What a name stands for: a service, or one slot of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Position in [`DnsSnapshot::services`].
    #[serde(rename = "s")]
    pub service: u32,
    /// The slot, when the name is one task's.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

/// What one container may see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsView {
    /// Its stack: unqualified names mean this stack's services first.
    pub stack: String,
    /// Its networks.
    pub networks: Vec<String>,
    /// Resolvers of its own (Compose `dns`), in place of the node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<SocketAddr>,
    /// Names only it sees (Compose `links` with an alias, for example).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<IpAddr>>,
}

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Any address of the block.
    pub address: IpAddr,
    /// Bits that all of the block's addresses share.
    pub prefix: u8,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// It was written by a newer version.
    #[error("dns snapshot has version {found}, this binary reads up to {DNS_SNAPSHOT_VERSION}")]
    TooNew {
        /// Version of the snapshot.
        found: u32,
    },
    /// A name stands for a service that the snapshot does not hold.
    #[error("dns snapshot: name {name} on network {network} refers to unknown service number {service}")]
    UnknownService {
        /// The network.
        network: String,
        /// The name.
        name: String,
        /// The position that does not exist.
        service: u32,
    },
    /// A range has more prefix bits than its address.
    #[error("dns snapshot: range {address}/{prefix} has too long a prefix")]
    BadRange {
        /// Address of the range.
        address: IpAddr,
        /// Its prefix length.
        prefix: u8,
    },
}

impl Default for DnsSnapshot {
    fn default() -> Self {
        DnsSnapshot {
            version: DNS_SNAPSHOT_VERSION,
            domain: "carrack".to_owned(),
            services: Vec::new(),
            networks: BTreeMap::new(),
            views: BTreeMap::new(),
            host_addresses: BTreeSet::new(),
            ranges: Vec::new(),
            upstreams: Vec::new(),
            extra: BTreeMap::new(),
        }
    }
}

impl DnsSnapshot {
    /// Adds a service and returns its position, by which [`Self::name_service`] and [`Self::name_slot`] refer to it.
    pub fn add_service(&mut self, service: ServiceNames) -> u32 {
        self.services.push(service);
        u32::try_from(self.services.len() - 1).unwrap_or(u32::MAX)
    }

    /// Makes `name` (the service's own name or an alias) stand for a service on a network.
    pub fn name_service(&mut self, network: &str, name: &str, service: u32) {
        self.add_target(network, name, Target { service, slot: None });
    }

    /// Makes `name` (a container or host name) stand for one slot of a service on a network.
    pub fn name_slot(&mut self, network: &str, name: &str, service: u32, slot: u32) {
        self.add_target(network, name, Target { service, slot: Some(slot) });
    }

    fn add_target(&mut self, network: &str, name: &str, target: Target) {
        let names = &mut self.networks.entry(network.to_owned()).or_default().names;
        let targets = names.entry(normal_name(name)).or_default();
        if let Err(at) = targets.binary_search(&target) {
            targets.insert(at, target);
        }
    }

    /// Checks that a snapshot read from outside is usable.
    pub fn validate(&self) -> Result<(), SnapshotError> {
        if self.version > DNS_SNAPSHOT_VERSION {
            return Err(SnapshotError::TooNew { found: self.version });
        }
        for range in &self.ranges {
            if range.prefix > range.width() {
                return Err(SnapshotError::BadRange { address: range.address, prefix: range.prefix });
            }
        }
        for (network, names) in &self.networks {
            for (name, targets) in &names.names {
                let unknown =
                    targets.iter().find(|target| self.services.get(target.service as usize).is_none());
                if let Some(target) = unknown {
                    let (network, name) = (network.clone(), name.clone());
                    return Err(SnapshotError::UnknownService { network, name, service: target.service });
                }
            }
        }
        Ok(())
    }
}

impl ServiceNames {
    /// What the service's name stands for: its virtual addresses, else its passing endpoints.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        if self.vips.is_empty() { self.passing() } else { self.vips.clone() }
    }

    /// Addresses of the passing endpoints, in slot order.
    pub(crate) fn passing(&self) -> Vec<IpAddr> {
        self.slots
            .values()
            .filter(|slot| slot.passing)
            .flat_map(|slot| slot.addresses.iter().copied())
            .collect()
    }
}

impl Range {
    /// Whether the block holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = u32::from(self.width().saturating_sub(self.prefix));
        match (self.address, address) {
            (IpAddr::V4(base), IpAddr::V4(v4)) => {
                (u32::from(base) ^ u32::from(v4)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(v6)) => {
                (u128::from(base) ^ u128::from(v6)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    fn width(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// The form in which names are compared: lower case, no final dot.
pub(crate) fn normal_name(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_contains() {
        let range = |address: &str, prefix| Range { address: address.parse().unwrap(), prefix };
        let holds = |range: Range, address: &str| range.contains(address.parse().unwrap());
        assert!(holds(range("10.192.0.0", 10), "10.255.255.255"));
        assert!(!holds(range("10.192.0.0", 10), "10.191.255.255"));
        assert!(holds(range("0.0.0.0", 0), "1.2.3.4"));
        assert!(holds(range("10.0.0.1", 32), "10.0.0.1"));
        assert!(!holds(range("10.0.0.1", 32), "10.0.0.0"));
        assert!(holds(range("fd00::", 8), "fd12::1"));
        assert!(!holds(range("fd00::", 8), "10.0.0.1"));
    }

    #[test]
    fn a_newer_or_broken_snapshot_is_refused() {
        let newer = DnsSnapshot { version: DNS_SNAPSHOT_VERSION + 1, ..DnsSnapshot::default() };
        assert_eq!(newer.validate(), Err(SnapshotError::TooNew { found: DNS_SNAPSHOT_VERSION + 1 }));
        let mut dangling = DnsSnapshot::default();
        dangling.name_service("s/default", "web", 0);
        assert!(matches!(dangling.validate(), Err(SnapshotError::UnknownService { service: 0, .. })));
        let range = Range { address: "10.0.0.0".parse().unwrap(), prefix: 33 };
        let bad = DnsSnapshot { ranges: vec![range], ..DnsSnapshot::default() };
        assert!(matches!(bad.validate(), Err(SnapshotError::BadRange { prefix: 33, .. })));
    }

    #[test]
    fn unknown_fields_of_a_later_release_are_ignored() {
        let text = r#"{"version":1,"domain":"carrack","services":[],"networks":{},"views":{},"later":1}"#;
        let snapshot: DnsSnapshot = serde_json::from_str(text).unwrap();
        assert_eq!(snapshot, DnsSnapshot::default());
    }
}
