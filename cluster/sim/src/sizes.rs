//! How large regions are, as their leaders measure them, and what the planner has done about it.
//! It must never split or merge of its own accord: a step of the placement driver's does.

use crate::nodes::Life;
use crate::world::World;
use damask_raftstore::{RangeSize, ReplicaStatus};
use damask_types::{Region, RegionId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sizes are measured at every n-th round of reports, where something was applied since.
const SIZE_EVERY_ROUNDS: u64 = 4;
/// Regions above which the planner's splits are not carried out: versions that pile up must not
/// make a run endless.
const REGIONS_MAX: usize = 24;

/// A region's bytes and versions when so much of its log was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    applied: u64,
    /// Rough bytes of its rows.
    pub bytes: u64,
    /// Rough number of its rows' versions.
    pub keys: u64,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Sizes {
    measured: BTreeMap<RegionId, Size>,
    /// Regions in which no key to split at was found, and their sizes then.
    whole: BTreeMap<RegionId, Size>,
    rounds: u64,
}

impl Sizes {
    /// The last measure of a region.
    pub fn of(&self, id: RegionId) -> Size {
        self.measured.get(&id).copied().unwrap_or_default()
    }

    /// Another round of reports: is it one in which sizes are measured?
    fn next_round(&mut self) -> bool {
        self.rounds += 1;
        self.rounds % SIZE_EVERY_ROUNDS == 1
    }

    /// Was there no key to split at, when it was about as large (an eighth more or less)?
    pub fn is_unsplittable(&mut self, id: RegionId) -> bool {
        let now = self.of(id);
        let Some(then) = self.whole.get(&id) else { return false };
        let about = |now: u64, then: u64| now.abs_diff(then) <= then / 8;
        let same = about(now.bytes, then.bytes) && about(now.keys, then.keys);
        if !same {
            self.whole.remove(&id);
        }
        same
    }

    /// Keys to split at were looked for; without any it stays as it is.
    fn cut(&mut self, id: RegionId, cuts: usize) {
        match cuts {
            0 => drop(self.whole.insert(id, self.of(id))),
            _ => drop(self.measured.remove(&id)),
        }
    }
}

impl World {
    /// Sizes of what stores lead, if it is time for that, and if this seed's planner goes by them.
    pub fn measure_all(&self) {
        if self.plan.limits.region_keys == 0 || !self.sizes.lock().next_round() {
            return;
        }
        for life in self.lives() {
            let led = life.handle.replicas().into_iter().filter(|status| status.is_leader);
            led.for_each(|status| self.measure(&life, &status));
        }
    }

    fn measure(&self, life: &Life, status: &ReplicaStatus) {
        let (id, applied) = (status.region.id, status.applied.index);
        let mut sizes = self.sizes.lock();
        if sizes.measured.get(&id).is_some_and(|size| size.applied == applied) {
            return;
        }
        match life.machine.size(&status.region.range, 1) {
            Ok(RangeSize { bytes, keys, .. }) => {
                sizes.measured.insert(id, Size { applied, bytes, keys });
            }
            Err(e) => self.fail(format!("the size of region {id}: {e}")),
        }
    }

    /// The planner finds a region too large.
    pub fn split_evenly(self: &Arc<World>, life: &Life, region: &Region, parts: usize) {
        if self.keys.lock().count() >= REGIONS_MAX {
            return;
        }
        let cuts = match life.machine.size(&region.range, parts) {
            Ok(RangeSize { cuts, .. }) => cuts,
            Err(e) => return self.fail(format!("keys to split region {} at: {e}", region.id)),
        };
        self.sizes.lock().cut(region.id, cuts.len());
        if !cuts.is_empty() {
            self.counts.lock().planned_splits += 1;
            self.split(life, region, cuts);
        }
    }

    /// The planner finds a region too small.
    pub fn merge_small(self: &Arc<World>, life: &Life, region: &Region, into: RegionId) {
        self.counts.lock().planned_merges += 1;
        self.merge(life, region, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_without_a_key_to_split_at_is_left_alone_until_its_size_is_another() {
        let (mut sizes, id) = (Sizes::default(), RegionId(7));
        let size = |keys| Size { applied: keys, bytes: 100, keys };
        sizes.measured.insert(id, size(80));
        assert!(!sizes.is_unsplittable(id));
        sizes.cut(id, 0);
        assert!(sizes.is_unsplittable(id));
        sizes.measured.insert(id, size(90));
        assert!(sizes.is_unsplittable(id), "about the same");
        sizes.measured.insert(id, size(91));
        assert!(!sizes.is_unsplittable(id));
        sizes.cut(id, 1);
        assert_eq!(sizes.of(id), Size::default(), "what is left of it is not known");
    }
}
