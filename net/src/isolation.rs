//! Isolation groups become classes.
//!
//! Each distinct set of groups is one class; two classes may talk if their sets share a group. The kernel then needs
//! one map `address -> class` and one set `address . class that it may reach`, whatever the number of networks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::nft::skeleton::OUTSIDE;
use crate::present::fnv1a64;

/// Classes of addresses and which of them may talk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Address -> class.
    pub classes: BTreeMap<Ipv4Addr, u32>,
    /// Pairs (from, to); class 0 as destination is the outside.
    pub allowed: BTreeSet<(u32, u32)>,
}

/// Computes the classes. A class keeps its number as long as its set of groups exists, so that a change elsewhere
/// changes little in the kernel.
pub fn isolation(members: &BTreeMap<Ipv4Addr, BTreeSet<String>>, internal: &BTreeSet<String>) -> Isolation {
    let sets: BTreeSet<&BTreeSet<String>> = members.values().collect();
    let numbers = number(sets.into_iter().collect());
    let mut allowed = BTreeSet::new();
    for (from_groups, from) in &numbers {
        for (to_groups, to) in &numbers {
            if !from_groups.is_disjoint(to_groups) {
                allowed.insert((*from, *to));
            }
        }
        if from_groups.iter().any(|group| !internal.contains(group)) {
            allowed.insert((*from, OUTSIDE));
        }
    }
    let classes =
        members.iter().filter_map(|(address, groups)| Some((*address, *numbers.get(groups)?))).collect();
    Isolation { classes, allowed }
}

/// A number for each set of groups: its hash, or the next free one.
fn number(sets: Vec<&BTreeSet<String>>) -> BTreeMap<&BTreeSet<String>, u32> {
    let mut taken = BTreeSet::from([OUTSIDE]);
    let mut numbers = BTreeMap::new();
    for groups in sets {
        let text: Vec<u8> = groups.iter().flat_map(|group| group.bytes().chain([0])).collect();
        let hash = fnv1a64(&text);
        // Both halves count; the cast keeps the low one.
        let mut number = ((hash >> 32) ^ (hash & u64::from(u32::MAX))) as u32;
        while !taken.insert(number) {
            number = number.wrapping_add(1);
        }
        numbers.insert(groups, number);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(u8, &[&str])]) -> BTreeMap<Ipv4Addr, BTreeSet<String>> {
        let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        list.iter().map(|(last, names)| (Ipv4Addr::new(10, 192, 0, *last), groups(names))).collect()
    }

    fn may(isolation: &Isolation, from: u8, to: u8) -> bool {
        let class = |last| isolation.classes[&Ipv4Addr::new(10, 192, 0, last)];
        isolation.allowed.contains(&(class(from), class(to)))
    }

    #[test]
    fn addresses_talk_if_and_only_if_they_share_a_group() {
        let found =
            isolation(&members(&[(2, &["a"]), (3, &["a", "b"]), (4, &["b"]), (5, &[])]), &BTreeSet::new());
        assert!(may(&found, 2, 3) && may(&found, 3, 2) && may(&found, 3, 4) && may(&found, 2, 2));
        assert!(!may(&found, 2, 4) && !may(&found, 4, 2));
        assert!(!may(&found, 5, 5) && !may(&found, 5, 2));
    }

    #[test]
    fn the_same_groups_are_one_class() {
        let found = isolation(&members(&[(2, &["a", "b"]), (3, &["b", "a"]), (4, &["a"])]), &BTreeSet::new());
        assert_eq!(found.classes.values().collect::<BTreeSet<_>>().len(), 2);
    }

    #[test]
    fn only_members_of_nothing_but_internal_groups_are_shut_in() {
        let internal = BTreeSet::from(["in".to_owned()]);
        let found = isolation(&members(&[(2, &["in"]), (3, &["in", "out"]), (4, &[])]), &internal);
        let out = |last| found.allowed.contains(&(found.classes[&Ipv4Addr::new(10, 192, 0, last)], OUTSIDE));
        assert!(!out(2) && out(3) && !out(4));
    }

    #[test]
    fn a_class_keeps_its_number_when_others_come_and_go() {
        let few = isolation(&members(&[(9, &["z"])]), &BTreeSet::new());
        let many = isolation(&members(&[(1, &["a"]), (2, &["m"]), (9, &["z"])]), &BTreeSet::new());
        let nine = Ipv4Addr::new(10, 192, 0, 9);
        assert_eq!(few.classes[&nine], many.classes[&nine]);
    }
}
