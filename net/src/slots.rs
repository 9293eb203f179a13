//! Which slot leads to which endpoint. Pure.
//!
//! Owns: the fair and stable assignment. Fair: no endpoint has more than one slot more than another. Stable: a slot
//! keeps its endpoint if it can, so a change of one endpoint moves only its share.

use std::collections::BTreeMap;

use crate::nft::sets::Datum;

/// Gives each of `slots` slots one of the targets (sorted, distinct), starting from what is there now.
pub(crate) fn assign(slots: u32, targets: &[Datum], now: &BTreeMap<u32, Datum>) -> Vec<Datum> {
    let mut room = quotas(slots, targets, now);
    let kept: Vec<Option<Datum>> = (0..slots)
        .map(|slot| {
            let target = *now.get(&slot)?;
            take(&mut room, target).then_some(target)
        })
        .collect();
    // What is free is dealt out in turn, so that neighbouring slots lead to different endpoints.
    let mut turn = targets.iter().copied().cycle();
    kept.into_iter()
        .filter_map(|kept| {
            kept.or_else(|| turn.by_ref().take(targets.len()).find(|target| take(&mut room, *target)))
        })
        .collect()
}

/// How many slots each target gets. The remainder goes to those that hold most now.
fn quotas(slots: u32, targets: &[Datum], now: &BTreeMap<u32, Datum>) -> BTreeMap<Datum, u32> {
    let Some(count) = u32::try_from(targets.len()).ok().filter(|count| *count > 0) else {
        return BTreeMap::new();
    };
    let mut held: BTreeMap<Datum, u32> = targets.iter().map(|target| (*target, 0)).collect();
    for target in now.range(..slots).map(|(_, target)| target) {
        if let Some(number) = held.get_mut(target) {
            *number += 1;
        }
    }
    let mut by_held: Vec<(u32, Datum)> = held.into_iter().map(|(target, number)| (number, target)).collect();
    by_held.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let remainder = slots % count;
    (0..)
        .zip(by_held)
        .map(|(rank, (_, target))| (target, slots / count + u32::from(rank < remainder)))
        .collect()
}

fn take(room: &mut BTreeMap<Datum, u32>, target: Datum) -> bool {
    match room.get_mut(&target) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::sets::{SizeClass, address_value};
    use std::net::Ipv4Addr;

    fn targets(range: std::ops::Range<u32>) -> Vec<Datum> {
        range.map(|n| address_value(Ipv4Addr::from_bits(0x0ac0_0000 + n))).collect()
    }

    fn as_map(slots: &[Datum]) -> BTreeMap<u32, Datum> {
        (0..).zip(slots.iter().copied()).collect()
    }

    fn spread(slots: &[Datum]) -> (usize, usize, usize) {
        let mut counts: BTreeMap<Datum, usize> = BTreeMap::new();
        for slot in slots {
            *counts.entry(*slot).or_default() += 1;
        }
        let (least, most) = (counts.values().min().copied(), counts.values().max().copied());
        (counts.len(), least.unwrap_or(0), most.unwrap_or(0))
    }

    #[test]
    fn every_endpoint_gets_its_share_within_9_to_8_for_every_count() {
        for count in (1..=40).chain([200, 511, 512, 513, 8192]) {
            let slots = SizeClass::for_endpoints(count as usize).slots();
            let (used, least, most) = spread(&assign(slots, &targets(0..count), &BTreeMap::new()));
            assert_eq!(used, count as usize);
            assert!(most * 8 <= least * 9, "{count} endpoints: {least}..{most}");
        }
    }

    #[test]
    fn the_assignment_is_a_fixed_point() {
        let first = assign(256, &targets(0..20), &BTreeMap::new());
        assert_eq!(assign(256, &targets(0..20), &as_map(&first)), first);
    }

    #[test]
    fn replacing_one_endpoint_moves_only_its_slots() {
        let before = assign(256, &targets(0..20), &BTreeMap::new());
        let after = assign(256, &targets(1..21), &as_map(&before));
        let gone = targets(0..1)[0];
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert_eq!(moved, before.iter().filter(|slot| **slot == gone).count());
    }

    #[test]
    fn adding_or_removing_one_endpoint_moves_about_one_share() {
        let before = assign(256, &targets(0..10), &BTreeMap::new());
        for changed in
            [assign(256, &targets(0..11), &as_map(&before)), assign(256, &targets(0..9), &as_map(&before))]
        {
            let moved = before.iter().zip(&changed).filter(|(a, b)| a != b).count();
            assert!(moved <= 256 / 9 + 1, "{moved} slots moved");
            let (_, least, most) = spread(&changed);
            assert!(most - least <= 1);
        }
    }

    #[test]
    fn what_is_there_and_wrong_is_repaired() {
        let right = assign(16, &targets(0..2), &BTreeMap::new());
        let mut broken = as_map(&right);
        broken.remove(&3);
        broken.insert(4, targets(7..8)[0]);
        let repaired = assign(16, &targets(0..2), &broken);
        assert_eq!(spread(&repaired), (2, 8, 8));
        assert_eq!(assign(16, &[], &broken), Vec::new());
    }
}
