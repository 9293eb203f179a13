//! Addresses: blocks for nodes, addresses for tasks, VIPs for services. Owns that none is given twice.
//!
//! ```text
//!   cluster range: | node blocks, /24 each, from the front ->            | VIPs: the last /14 |
//!   node block:    .0 and .1 are the node's, .255 is left out, the rest goes to tasks
//! ```
//! Searches go on from the address given last, so that the one that rested longest comes first.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use carrack_api::{AddressPlan, NodeId, Timestamp};

use crate::store::{NodeRecord, Snapshot};

/// An address of an ended task is not given again for this long: peers may still hold connections to it.
const ADDRESS_REST: Duration = Duration::from_secs(30);
/// Length of the VIP range's prefix, unless the cluster range is small.
const VIP_PREFIX: u8 = 14;
/// Longest prefix of a cluster range: a /20 leaves 12 node blocks and 1024 VIPs.
pub(crate) const CLUSTER_PREFIX_MAX: u8 = 20;
/// First offset within a block that tasks get.
const TASK_FIRST: u32 = 2;
/// First offset within a block that tasks do not get any more.
const TASK_END: u32 = 255;
/// Addresses of a block that tasks get.
const TASKS_PER_BLOCK: u32 = TASK_END - TASK_FIRST;

/// The cursor of a node whose first address is the next one given.
pub(crate) const NO_ADDRESS_YET: u32 = u32::MAX;

/// The cluster's range, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    base: u32,
    prefix: u8,
}

impl Range {
    /// Reads `10.192.0.0/10`; the error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| format!("{text:?} is not address/prefix"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| format!("{address:?} is not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| format!("{prefix:?} is not a prefix length"))?;
        if !(8..=CLUSTER_PREFIX_MAX).contains(&prefix) {
            return Err(format!("prefix length {prefix} is not within 8 to {CLUSTER_PREFIX_MAX}"));
        }
        let base = u32::from(address);
        if base & ((1 << (32 - prefix)) - 1) != 0 {
            return Err(format!("{address} is not the first address of a /{prefix}"));
        }
        Ok(Self { base, prefix })
    }

    fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    fn vip_prefix(self) -> u8 {
        VIP_PREFIX.max(self.prefix + 2)
    }

    fn vip_size(self) -> u32 {
        1 << (32 - self.vip_prefix())
    }

    fn vip_base(self) -> u32 {
        self.base + (self.size() - self.vip_size())
    }

    /// What a node is told.
    pub(crate) fn plan(self, blocks: &[Ipv4Addr]) -> AddressPlan {
        AddressPlan {
            cluster: format!("{}/{}", Ipv4Addr::from(self.base), self.prefix),
            vips: format!("{}/{}", Ipv4Addr::from(self.vip_base()), self.vip_prefix()),
            blocks: blocks.iter().map(|b| format!("{b}/24")).collect(),
        }
    }

    /// A VIP that no service has, and its offset. The first and the last address of the range are left out.
    pub(crate) fn free_vip(self, taken: &BTreeSet<IpAddr>, cursor: u32) -> Option<(IpAddr, u32)> {
        let usable = self.vip_size() - 2;
        (0..usable).map(|step| 1 + (cursor + step) % usable).find_map(|offset| {
            let address = IpAddr::V4(Ipv4Addr::from(self.vip_base() + offset));
            (!taken.contains(&address)).then_some((address, offset))
        })
    }

    /// A block that no node has.
    pub(crate) fn free_block(self, state: &Snapshot) -> Option<Ipv4Addr> {
        let taken: BTreeSet<Ipv4Addr> = state.nodes.values().flat_map(|n| n.blocks.iter().copied()).collect();
        (self.base..self.vip_base()).step_by(256).map(Ipv4Addr::from).find(|block| !taken.contains(block))
    }
}

/// VIPs that services have.
pub(crate) fn taken_vips(state: &Snapshot) -> BTreeSet<IpAddr> {
    let services = state.services.values().flat_map(|s| s.vips.iter().copied());
    services.chain(state.runs.values().flat_map(|r| r.vips.iter().copied())).collect()
}

/// Addresses on a node that live or lately ended tasks have.
fn taken_addresses(state: &Snapshot, node: &NodeId, now: Timestamp) -> BTreeSet<IpAddr> {
    let rests = |at: Timestamp| now.since(at) < ADDRESS_REST;
    state
        .tasks
        .values()
        .filter(|t| t.node.as_ref() == Some(node) && t.verdict.as_ref().is_none_or(|v| rests(v.at)))
        .flat_map(|t| t.addresses.iter().copied())
        .collect()
}

/// Takes an address for a task on `node`, and a further block when all addresses are in use. `None` when the range is used up.
pub(crate) fn take(state: &Snapshot, range: Range, node: &mut NodeRecord, now: Timestamp) -> Option<IpAddr> {
    let taken = taken_addresses(state, &node.info.id, now);
    if let Some(address) = next_free(node, &taken) {
        return Some(address);
    }
    node.blocks.push(range.free_block(state)?);
    next_free(node, &taken)
}

fn next_free(node: &mut NodeRecord, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let all = u32::try_from(node.blocks.len()).ok()?.checked_mul(TASKS_PER_BLOCK)?;
    let start = if node.cursor == NO_ADDRESS_YET { 0 } else { node.cursor + 1 };
    for step in 0..all {
        let index = (start + step) % all;
        let block = node.blocks.get(usize::try_from(index / TASKS_PER_BLOCK).ok()?)?;
        let address = IpAddr::V4(Ipv4Addr::from(u32::from(*block) + TASK_FIRST + index % TASKS_PER_BLOCK));
        if !taken.contains(&address) {
            node.cursor = index;
            return Some(address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Object, Op};
    use crate::testing;

    fn range(text: &str) -> Range {
        Range::parse(text).unwrap()
    }

    fn record() -> NodeRecord {
        NodeRecord {
            info: testing::node(1),
            blocks: vec!["10.192.0.0".parse().unwrap()],
            cursor: NO_ADDRESS_YET,
        }
    }

    #[test]
    fn the_last_part_of_the_range_holds_the_vips() {
        assert_eq!(range("10.192.0.0/10").plan(&[]).vips, "10.252.0.0/14");
        assert_eq!(range("100.64.0.0/10").plan(&[]).vips, "100.124.0.0/14");
        assert_eq!(range("172.20.0.0/16").plan(&[]).vips, "172.20.192.0/18");
        for bad in ["10.0.0.0", "10.0.0.1/10", "10.192.0.0/24", "x/10", "10.192.0.0/x"] {
            assert!(Range::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_block_serves_all_its_addresses_before_a_further_one_is_taken() {
        let (mut state, mut node) = (Snapshot::default(), record());
        let mut seen = BTreeSet::new();
        for id in 0..300 {
            let address = take(&state, range("10.192.0.0/10"), &mut node, Timestamp(0)).unwrap();
            assert!(seen.insert(address), "{address} was given twice");
            let mut task = testing::task(id, "a/web", 1);
            (task.node, task.addresses) = (Some(node.info.id.clone()), vec![address]);
            state.apply(Op::Put(Object::Task(task)), 1);
            state.apply(Op::Put(Object::Node(node.clone())), 1);
        }
        assert_eq!(node.blocks, ["10.192.0.0", "10.192.1.0"].map(|b| b.parse::<Ipv4Addr>().unwrap()));
        let first_block = seen.iter().filter(|a| a.to_string().starts_with("10.192.0.")).count();
        assert_eq!(first_block, 253);
        assert!(
            !seen.contains(&"10.192.0.1".parse().unwrap())
                && !seen.contains(&"10.192.0.255".parse().unwrap())
        );
    }

    #[test]
    fn the_address_that_rested_longest_comes_first() {
        let mut node = record();
        let given: Vec<IpAddr> = (0..253)
            .map(|_| take(&Snapshot::default(), range("10.192.0.0/10"), &mut node, Timestamp(0)).unwrap())
            .collect();
        let again = take(&Snapshot::default(), range("10.192.0.0/10"), &mut node, Timestamp(0)).unwrap();
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 253);
        assert_eq!(again, given[0]);
    }

    #[test]
    fn a_range_that_is_used_up_gives_nothing() {
        let small = range("10.0.0.0/20");
        let mut node = record();
        node.blocks = (0..12).map(|n| Ipv4Addr::new(10, 0, n, 0)).collect();
        let mut state = Snapshot::default();
        state.apply(Op::Put(Object::Node(node)), 1);
        assert_eq!(small.free_block(&state), None);
        let all: BTreeSet<IpAddr> =
            (1..1023).filter_map(|c| small.free_vip(&BTreeSet::new(), c - 1)).map(|v| v.0).collect();
        assert_eq!(all.len(), 1022);
        assert_eq!(small.free_vip(&all, 0), None);
    }
}
