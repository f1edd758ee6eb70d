//! What merges leave in a region's state, and what a merge makes of two regions. Pure; it must
//! never let a merge begin or end otherwise than the logs of both regions say.
//!
//! ```text
//!  source's log   … entry  PREPARE(target, min_index) at index c      ROLLBACK(c)
//!                     │    epoch + (1, 1), nothing else is taken         │ version + 1, as before
//!  target's log   … ──┴──► COMMIT(source, c, entries min_index..=c)   or any change of its epoch:
//!                          version = max of both + 1, range grows       the merge can never be
//! ```
//! The target's log decides: a commit is applied only in the epoch that the prepare has named. So
//! a target that is past that epoch and has not absorbed the source never will, and the source may
//! be rolled back; one that is neither has to be waited for. What a region has absorbed is
//! therefore a part of its replicated state, goes with its snapshots, and is inherited in splits.

use crate::wire;
use damask_types::codec::DecodeError;
use damask_types::{Epoch, KeyRange, PeerRole, Region, RegionId, StoreId};
use std::collections::BTreeSet;

/// Absorbed regions that are remembered. Of more, only the version up to which some are missing.
const ABSORBED_MAX: usize = 64;

/// A region that is on its way into a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The neighbour as it must be when it takes this region in.
    pub target: Region,
    /// Entries below are committed, and durable on every replica.
    pub min_index: u64,
    /// The entry that prepared: the last one of this log that becomes a part of the target.
    pub commit: u64,
}

/// A region that has become a part of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absorbed {
    /// It is gone for ever.
    pub region: RegionId,
    /// The one that took it in.
    pub into: RegionId,
    /// The version that one had after that.
    pub version: u64,
}

/// What merges have left in a region's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeState {
    /// It is being merged: it takes nothing but the end of that.
    pub prepared: Option<Prepared>,
    /// Regions whose keys and entries are in this one, or were before it was split: ascending by
    /// version.
    pub absorbed: Vec<Absorbed>,
    /// Up to this version some may be missing in `absorbed`.
    pub forgotten: u64,
    /// Of a tombstone: the region that has taken this one in.
    pub into: Option<RegionId>,
}

impl MergeState {
    /// Who took this region in, if its content has come here.
    pub fn taken_by(&self, region: RegionId) -> Option<RegionId> {
        self.absorbed.iter().find(|a| a.region == region).map(|a| a.into)
    }

    /// Is it known to be a part of this?
    pub fn has_absorbed(&self, region: RegionId) -> bool {
        self.taken_by(region).is_some()
    }

    /// Appends its bytes, as `wire.rs` draws them.
    pub fn put(&self, out: &mut Vec<u8>) {
        wire::put_merge(out, self);
    }

    /// Takes it from bytes.
    pub fn take(buf: &mut &[u8]) -> Result<MergeState, DecodeError> {
        wire::take_merge(buf)
    }

    /// What a child of a split starts with.
    pub(crate) fn inherited(&self) -> MergeState {
        MergeState { prepared: None, into: None, ..self.clone() }
    }

    /// Takes in a region, and what that one had taken in.
    pub(crate) fn absorb(&mut self, source: &Region, theirs: &MergeState, target: &Region) {
        let taken = Absorbed { region: source.id, into: target.id, version: target.epoch.version };
        self.absorbed.extend(theirs.absorbed.iter().copied().chain([taken]));
        self.absorbed.sort_by_key(|a| (a.version, a.region));
        self.absorbed.dedup();
        self.forgotten = self.forgotten.max(theirs.forgotten);
        let more = self.absorbed.len().saturating_sub(ABSORBED_MAX);
        if let Some(last) = self.absorbed.drain(..more).next_back() {
            self.forgotten = self.forgotten.max(last.version);
        }
    }

    /// Of a tombstone whose epoch comes from hearsay: it may have absorbed anything.
    pub(crate) fn unknown() -> MergeState {
        MergeState { forgotten: u64::MAX, ..MergeState::default() }
    }

    /// What a tombstone keeps: who has the content, and what the region had taken in before:
    /// another one may still ask whether that can be itself.
    pub(crate) fn gone_into(&self, target: RegionId) -> MergeState {
        MergeState { into: Some(target), ..self.inherited() }
    }

    /// Can a region that was prepared for this epoch never be taken in any more? `now` is the epoch
    /// of the target, which has not absorbed the region as far as this state says.
    pub(crate) fn rules_out(&self, named: Epoch, now: Epoch) -> bool {
        named.is_stale(&now) && self.forgotten <= named.version
    }
}

/// Does one end where the other begins?
pub(crate) fn adjacent(a: &Region, b: &Region) -> bool {
    let follows = |a: &Region, b: &Region| !a.range.end.is_empty() && a.range.end == b.range.start;
    follows(a, b) || follows(b, a)
}

/// Have two regions replicas of the same roles on the same stores?
fn same_stores(a: &Region, b: &Region) -> bool {
    let on = |r: &Region| -> BTreeSet<(StoreId, bool)> {
        r.peers.iter().map(|p| (p.store, p.role == PeerRole::Learner)).collect()
    };
    a.peers.len() == b.peers.len() && on(a) == on(b)
}

/// The source while it is merged. Both numbers of its epoch grow: no write, no change of replicas
/// and no split that was made for what it was before is taken any more.
pub(crate) fn prepare_region(source: &Region, target: &Region) -> Result<Region, String> {
    if source.id == target.id || !adjacent(source, target) {
        return Err(format!("regions {} and {} are not neighbours", source.id, target.id));
    }
    if source.is_joint() || target.is_joint() {
        return Err("a region is between two sets of voters".to_owned());
    }
    if !same_stores(source, target) {
        return Err(format!("regions {} and {} are not on the same stores", source.id, target.id));
    }
    let mut after = source.clone();
    after.epoch.version += 1;
    after.epoch.conf_ver += 1;
    Ok(after)
}

/// The target after it has taken the source in.
pub(crate) fn merge_regions(source: &Region, target: &Region) -> Result<Region, String> {
    if source.id == target.id || !adjacent(source, target) {
        return Err(format!("regions {} and {} are not neighbours", source.id, target.id));
    }
    if target.is_joint() {
        return Err(format!("region {} is between two sets of voters", target.id));
    }
    let mut after = target.clone();
    after.epoch.version = source.epoch.version.max(target.epoch.version) + 1;
    after.range = match !source.range.end.is_empty() && source.range.end == target.range.start {
        true => KeyRange { start: source.range.start.clone(), end: target.range.end.clone() },
        false => KeyRange { start: target.range.start.clone(), end: source.range.end.clone() },
    };
    Ok(after)
}

/// The source as it was before, of a newer version.
pub(crate) fn rollback_region(source: &Region) -> Region {
    let mut after = source.clone();
    after.epoch.version += 1;
    after
}

#[cfg(test)]
mod tests {
    //! Epochs after each step, and the memory that proofs rest on.

    use super::*;
    use damask_types::{Peer, PeerId};

    fn region(id: u64, range: KeyRange, version: u64, conf_ver: u64) -> Region {
        let role = PeerRole::Voter;
        let peer = |s| Peer { id: PeerId(id * 10 + s), store: StoreId(s), role };
        let epoch = Epoch { conf_ver, version };
        Region { id: RegionId(id), range, epoch, peers: vec![peer(1), peer(2)] }
    }

    #[test]
    fn epochs_grow_as_the_table_says() {
        let left = region(1, KeyRange::new("", "m"), 7, 3);
        let right = region(2, KeyRange::new("m", ""), 5, 9);
        let prepared = prepare_region(&left, &right).unwrap();
        assert_eq!(prepared.epoch, Epoch { conf_ver: 4, version: 8 });
        let merged = merge_regions(&prepared, &right).unwrap();
        assert_eq!(merged.epoch, Epoch { conf_ver: 9, version: 9 });
        assert_eq!((merged.id, merged.range), (right.id, KeyRange::all()));
        let back = rollback_region(&prepared);
        assert_eq!(back.epoch, Epoch { conf_ver: 4, version: 9 });
        let other = merge_regions(&prepare_region(&right, &left).unwrap(), &left).unwrap();
        assert_eq!((other.epoch.version, other.range), (8, KeyRange::all()));
    }

    #[test]
    fn only_neighbours_on_the_same_stores_merge() {
        let left = region(1, KeyRange::new("", "m"), 1, 1);
        let far = region(2, KeyRange::new("n", ""), 1, 1);
        assert!(prepare_region(&left, &far).is_err());
        assert!(merge_regions(&left, &far).is_err());
        assert!(prepare_region(&left, &left).is_err());
        let mut right = region(2, KeyRange::new("m", ""), 1, 1);
        assert!(prepare_region(&left, &right).is_ok());
        right.peers[1].role = PeerRole::Learner;
        assert!(prepare_region(&left, &right).is_err(), "of the same roles");
        // The first and the last region do not touch, though both have an empty edge.
        let (first, last) =
            (region(1, KeyRange::new("", "c"), 1, 1), region(2, KeyRange::new("x", ""), 1, 1));
        assert!(!adjacent(&first, &last));
    }

    #[test]
    fn what_was_absorbed_is_remembered_or_known_to_be_forgotten() {
        let mut state = MergeState::default();
        let mut target = region(1, KeyRange::new("m", ""), 1, 1);
        for n in 0..ABSORBED_MAX as u64 + 3 {
            let source = region(100 + n, KeyRange::new("", "m"), 1, 1);
            target.epoch.version += 2;
            state.absorb(&source, &MergeState::default(), &target);
        }
        assert_eq!(state.absorbed.len(), ABSORBED_MAX);
        assert_eq!(state.forgotten, 7, "the third merge made version 7");
        let now = target.epoch;
        let named = |version| Epoch { conf_ver: 1, version };
        assert!(!state.rules_out(named(6), now), "it may have been one of the forgotten");
        assert!(state.rules_out(named(7), now));
        assert!(!state.rules_out(now, now), "it may still come");
        assert!(state.rules_out(Epoch { conf_ver: 0, ..now }, now), "another replica came");
        // A neighbour that takes it in knows all of it.
        let mut other = MergeState::default();
        other.absorb(&target, &state, &region(9, KeyRange::new("a", "m"), 900, 1));
        assert!(other.has_absorbed(target.id) && other.has_absorbed(RegionId(150)));
        assert_eq!(other.taken_by(RegionId(150)), Some(target.id));
        assert_eq!(other.absorbed.len(), ABSORBED_MAX);
        assert_eq!(other.inherited().absorbed, other.absorbed);
    }
}
