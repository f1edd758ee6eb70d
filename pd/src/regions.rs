//! Regions by key: a map that never holds two that overlap, and never goes back to an older
//! description. It knows nothing of leaders' terms or of who asks.

use crate::error::{Error, Result};
use damask_types::{Epoch, KeyRange, Region, RegionId};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// Regions, each with a value of the owner's.
#[derive(Debug, Default)]
pub struct RegionMap<T> {
    by_start: BTreeMap<Vec<u8>, (Region, T)>,
    starts: HashMap<RegionId, Vec<u8>>,
}

impl<T> RegionMap<T> {
    /// An empty map.
    pub fn new() -> RegionMap<T> {
        RegionMap { by_start: BTreeMap::new(), starts: HashMap::new() }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// The region that holds `key`.
    pub fn find(&self, key: &[u8]) -> Option<&(Region, T)> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (_, entry) = self.by_start.range::<[u8], _>(upto).next_back()?;
        entry.0.range.contains(key).then_some(entry)
    }

    /// A region by id.
    pub fn get(&self, id: RegionId) -> Option<&(Region, T)> {
        self.by_start.get(self.starts.get(&id)?)
    }

    /// The owner's value for a region.
    pub fn value_mut(&mut self, id: RegionId) -> Option<&mut T> {
        Some(&mut self.by_start.get_mut(self.starts.get(&id)?)?.1)
    }

    /// Every region, in key order.
    pub fn iter(&self) -> impl Iterator<Item = &(Region, T)> {
        self.by_start.values()
    }

    /// Regions with a key in `range`, in key order.
    pub fn overlapping<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a (Region, T)> {
        // The region that holds the start key begins before it.
        let first = self.find(&range.start).map_or(&range.start, |(r, _)| &r.range.start);
        let from = (Bound::Included(first.as_slice()), Bound::Unbounded);
        self.by_start
            .range::<[u8], _>(from)
            .map(|(_, entry)| entry)
            .take_while(|(r, _)| range.end.is_empty() || r.range.start < range.end)
            .filter(|(r, _)| r.range.intersect(range).is_some())
    }

    /// May `region` be put? Refuses what is older than the same region's description here, and
    /// what overlaps a region of a later version.
    pub fn check(&self, region: &Region) -> Result<()> {
        let stale = |other: &Region| Error::Stale {
            region: region.id,
            detail: format!(
                "epoch {} is older than {} of region {}",
                Shown(region.epoch),
                Shown(other.epoch),
                other.id
            ),
        };
        if let Some((known, _)) = self.get(region.id)
            && region.epoch.is_stale(&known.epoch)
        {
            return Err(stale(known));
        }
        match self.overlapping(&region.range).find(|(r, _)| r.epoch.version > region.epoch.version)
        {
            Some((newer, _)) => Err(stale(newer)),
            None => Ok(()),
        }
    }

    /// Puts a region in place of all that it overlaps and of its own earlier description; these
    /// are returned. `Err`: see [`RegionMap::check`].
    pub fn put(&mut self, region: Region, value: T) -> Result<Vec<(Region, T)>> {
        self.check(&region)?;
        let mut gone: Vec<_> = self.overlapping(&region.range).map(|(r, _)| r.id).collect();
        if !gone.contains(&region.id) {
            gone.push(region.id);
        }
        let removed = gone.into_iter().filter_map(|id| self.remove(id)).collect();
        self.starts.insert(region.id, region.range.start.clone());
        self.by_start.insert(region.range.start.clone(), (region, value));
        Ok(removed)
    }

    /// Forgets a region.
    pub fn remove(&mut self, id: RegionId) -> Option<(Region, T)> {
        self.by_start.remove(&self.starts.remove(&id)?)
    }
}

struct Shown(Epoch);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.version, self.0.conf_ver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &[u8], end: &[u8], version: u64, conf_ver: u64) -> Region {
        Region {
            id: RegionId(id),
            range: KeyRange::new(start, end),
            epoch: Epoch { conf_ver, version },
            peers: Vec::new(),
        }
    }

    fn ids(map: &RegionMap<()>) -> Vec<u64> {
        map.iter().map(|(r, _)| r.id.0).collect()
    }

    #[test]
    fn a_split_replaces_the_parent_in_either_order() {
        for left_first in [true, false] {
            let mut map = RegionMap::new();
            map.put(region(1, b"", b"", 1, 1), ()).expect("first");
            let left = region(2, b"", b"m", 2, 1);
            let right = region(1, b"m", b"", 2, 1);
            let (a, b) = if left_first { (left, right) } else { (right, left) };
            assert_eq!(map.put(a, ()).expect("newer").len(), 1);
            map.put(b, ()).expect("newer");
            assert_eq!(ids(&map), [2, 1]);
            assert!(map.put(region(1, b"", b"", 1, 1), ()).is_err(), "the parent is older");
            assert!(map.put(region(1, b"", b"", 1, 9), ()).is_err(), "by its version alone");
            assert_eq!(map.find(b"a").expect("known").0.id, RegionId(2));
            assert_eq!(map.find(b"m").expect("known").0.id, RegionId(1));
        }
    }

    #[test]
    fn a_gap_is_not_found() {
        let mut map = RegionMap::new();
        map.put(region(1, b"b", b"d", 1, 1), ()).expect("first");
        map.put(region(2, b"f", b"", 1, 1), ()).expect("second");
        assert!(map.find(b"a").is_none() && map.find(b"d").is_none() && map.find(b"e").is_none());
        assert!(map.find(b"z").is_some());
        let part = KeyRange::new(b"c".to_vec(), b"f".to_vec());
        assert_eq!(map.overlapping(&part).count(), 1);
        assert_eq!(map.overlapping(&KeyRange::all()).count(), 2);
    }

    #[test]
    fn conf_ver_alone_orders_the_same_region() {
        let mut map = RegionMap::new();
        map.put(region(1, b"", b"", 1, 5), ()).expect("first");
        assert!(map.put(region(1, b"", b"", 1, 4), ()).is_err());
        map.put(region(1, b"", b"", 1, 6), ()).expect("newer");
        assert_eq!(map.len(), 1);
    }
}
