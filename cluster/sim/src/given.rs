//! What the oracle and the placement driver have given out: each timestamp and each id once, and
//! timestamps in order, over all changes of leaders. It must never take an answer that nobody has
//! received for one that was given.

use damask_pd::SplitIds;
use damask_types::{PeerId, RegionId, StoreId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that was given out, by whoever received it.
#[derive(Default)]
pub struct Given {
    /// Timestamps: the first of a range, and the one behind its last.
    ranges: BTreeMap<u64, u64>,
    /// The last of all of them.
    newest: u64,
    regions: BTreeSet<RegionId>,
    peers: BTreeMap<PeerId, Place>,
}

/// Where a replica was put; a split's are known by their region later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BySplit,
    At(RegionId, StoreId),
}

impl Given {
    /// Whoever asks now gets something above.
    pub fn floor(&self) -> u64 {
        self.newest
    }

    /// Timestamps that were asked for when the newest was `floor`; what is wrong with them.
    pub fn timestamps(&mut self, floor: u64, first: Timestamp, n: u32) -> Option<String> {
        let (first, end) = (first.0, first.0 + u64::from(n));
        let before = self.ranges.range(..end).next_back();
        let twice = before.is_some_and(|(_, before_end)| *before_end > first);
        self.ranges.insert(first, end);
        self.newest = self.newest.max(end - 1);
        if first <= floor {
            return Some(format!("timestamp {first} was given out after {floor}"));
        }
        twice.then(|| format!("a timestamp of {first}..{end} was given out twice"))
    }

    /// Ids for the regions of a split; what is wrong with them.
    pub fn split(&mut self, ids: &[SplitIds]) -> Option<String> {
        for SplitIds { region, peers } in ids {
            if !self.regions.insert(*region) {
                return Some(format!("region id {region} was given out twice"));
            }
            for peer in peers {
                if let Some(other) = self.peers.insert(*peer, Place::BySplit) {
                    return Some(format!("peer id {peer} was given out twice: {other:?}"));
                }
            }
        }
        None
    }

    /// A new replica, perhaps named again; what is wrong with it.
    pub fn peer(&mut self, id: PeerId, region: RegionId, store: StoreId) -> Option<String> {
        let place = Place::At(region, store);
        let known = *self.peers.entry(id).or_insert(place);
        (known != place)
            .then(|| format!("peer id {id} was given out twice: {known:?} and {place:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_or_late_is_named() {
        let mut given = Given::default();
        assert_eq!(given.timestamps(0, Timestamp(10), 5), None);
        assert_eq!(given.floor(), 14);
        // Asked for before the other was answered.
        assert_eq!(given.timestamps(0, Timestamp(8), 2), None);
        let late = given.timestamps(14, Timestamp(12), 1).expect("too late");
        assert!(late.contains("after 14"), "{late}");
        let twice = given.timestamps(0, Timestamp(9), 2).expect("twice");
        assert!(twice.contains("twice"), "{twice}");
        let ids = SplitIds { region: RegionId(5), peers: vec![PeerId(6), PeerId(7)] };
        assert_eq!(given.split(std::slice::from_ref(&ids)), None);
        assert!(given.split(&[ids]).expect("twice").contains("region id 5"));
        assert_eq!(given.peer(PeerId(9), RegionId(5), StoreId(1)), None);
        assert_eq!(given.peer(PeerId(9), RegionId(5), StoreId(1)), None);
        assert!(given.peer(PeerId(9), RegionId(5), StoreId(2)).is_some());
        assert!(given.peer(PeerId(6), RegionId(5), StoreId(2)).is_some());
    }
}
