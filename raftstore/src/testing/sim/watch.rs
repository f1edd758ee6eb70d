//! What must hold at any time, over all stores: it sees appended entries, committed entries,
//! applied effects, leaders and leases, and keeps the first contradiction. It must never change
//! what it watches.

use super::chance::{hash_bytes, mix};
use crate::apply::LOG_START;
use crate::log_store::LogEntry;
use crate::machine::Effect;
use crate::wire;
use damask_types::{PeerRole, Region, RegionId, StoreId};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Facts that every store agrees on.
#[derive(Default)]
pub(super) struct Watch {
    leaders: HashMap<(RegionId, u64), StoreId>,
    /// Of each region, the newest term in which somebody led, and who.
    led: HashMap<RegionId, (u64, StoreId)>,
    /// Of an entry: what it says, and the term before it.
    entries: HashMap<(RegionId, u64, u64), (u64, u64)>,
    committed: HashMap<(RegionId, u64), u64>,
    /// Of everything applied up to an index.
    content: HashMap<(RegionId, u64), u64>,
    /// The newest descriptions that any replica has applied.
    regions: BTreeMap<RegionId, Region>,
    /// Regions that became a part of others.
    merged: HashSet<RegionId>,
    /// Regions whose newest description is of a merge that has begun.
    merging: HashSet<RegionId>,
    /// Who was where, lately.
    steps: VecDeque<(RegionId, StoreId, &'static str, u64, u64)>,
    violation: Option<String>,
    pub snapshots: u64,
    /// Replicas that a snapshot of another region has replaced.
    pub replaced: u64,
    /// Merges that were taken back.
    pub rollbacks: u64,
    /// Leaders that were told to give up their vote.
    pub deposed: u64,
}

/// Steps kept for the story of a difference.
const STEPS: usize = 4096;

impl Watch {
    pub fn with_first(region: Region) -> Watch {
        Watch { regions: BTreeMap::from([(region.id, region)]), ..Watch::default() }
    }

    /// Keeps the first.
    pub fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    pub fn violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    /// The regions as they are now, by id.
    pub fn regions(&self) -> &BTreeMap<RegionId, Region> {
        &self.regions
    }

    /// Regions that some replica has taken in.
    pub fn merges(&self) -> u64 {
        self.merged.len() as u64
    }

    pub fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Election safety.
    pub fn leads(&mut self, region: RegionId, term: u64, store: StoreId) {
        let first = *self.leaders.entry((region, term)).or_insert(store);
        let led = self.led.entry(region).or_insert((term, store));
        *led = (*led).max((term, store));
        if first != store {
            self.violate(|| {
                format!("region {region}: stores {first} and {store} lead in term {term}")
            });
        }
    }

    /// Log matching: an entry is known by index and term, and so is all before it.
    pub fn appended(&mut self, region: RegionId, entry: &LogEntry, before: u64) {
        let says = hash_bytes(&entry.data) ^ hash_bytes(&entry.context).rotate_left(1);
        let key = (region, entry.index, entry.term);
        let first = *self.entries.entry(key).or_insert((says, before));
        if first != (says, before) {
            self.violate(|| {
                let (index, term) = (entry.index, entry.term);
                let ((old, old_before), new) = (first, says);
                format!(
                    "region {region}: entry {index}@{term} differs: content {old:x} and {new:x}, \
                     after terms {old_before} and {before}"
                )
            });
        }
    }

    /// State machine safety: what is committed at an index stays.
    pub fn committed(&mut self, region: RegionId, entry: &LogEntry) {
        let (index, term) = (entry.index, entry.term);
        let first = *self.committed.entry((region, index)).or_insert(term);
        if first != term {
            self.violate(|| {
                format!("region {region}: {index}@{first} was committed, and now {index}@{term}")
            });
        }
    }

    /// The content's hash at an index that some replica has reached before; a region's first is 0.
    pub fn content_at(&self, region: RegionId, index: u64) -> Option<u64> {
        let first = (index == LOG_START.index).then_some(0);
        self.content.get(&(region, index)).copied().or(first)
    }

    /// A replica's content is that of an index now, by this way.
    pub fn stepped(
        &mut self,
        store: StoreId,
        region: RegionId,
        way: &'static str,
        index: u64,
        content: u64,
    ) {
        if self.steps.len() == STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back((region, store, way, index, content));
    }

    /// Replicas at one index hold the same.
    pub fn applied(&mut self, store: StoreId, region: RegionId, index: u64, content: u64) {
        self.stepped(store, region, "applied", index, content);
        let first = *self.content.entry((region, index)).or_insert(content);
        if first != content {
            let of_region = self.steps.iter().filter(|(id, ..)| *id == region);
            let steps: Vec<String> = of_region
                .map(|(_, store, way, index, content)| {
                    format!("    store {store} {way} {index}: {content:x}")
                })
                .collect();
            let steps = steps.join("\n");
            self.violate(|| format!("region {region}: replicas differ at index {index}\n{steps}"));
        }
    }

    /// Folds effects into a hash, and follows the regions' descriptions.
    pub fn fold(&mut self, mut content: u64, effects: &[Effect]) -> u64 {
        for effect in effects {
            let mut bytes = Vec::new();
            match effect {
                Effect::Write(records) => records.iter().for_each(|r| r.put(&mut bytes)),
                Effect::Regions(states) => {
                    states.iter().for_each(|s| wire::put_region(&mut bytes, &s.region));
                    let mut news = false;
                    for state in states {
                        news |= match state.tombstone {
                            true => self.bury(&state.region),
                            false => self.describe(&state.region, state.merge.prepared.is_some()),
                        };
                    }
                    if news {
                        self.tile();
                    }
                }
            }
            content = mix(content ^ hash_bytes(&bytes));
        }
        content
    }

    /// A region became a part of another one; true if that is news.
    fn bury(&mut self, region: &Region) -> bool {
        let there = self.regions.remove(&region.id);
        if there.as_ref().is_some_and(|there| there != region) {
            self.violate(|| format!("{region:?} is merged, but there is {there:?}"));
        }
        self.merging.remove(&region.id);
        self.merged.insert(region.id)
    }

    /// A description that a replica has applied; true if it is the newest.
    fn describe(&mut self, region: &Region, merging: bool) -> bool {
        if self.merged.contains(&region.id) {
            return false; // a replica that is behind
        }
        match self.regions.get(&region.id) {
            Some(there) if there == region || region.epoch.is_stale(&there.epoch) => return false,
            Some(there) if there.epoch == region.epoch => {
                let there = there.clone();
                self.violate(|| format!("one epoch, two regions: {there:?} and {region:?}"));
            }
            Some(there) => {
                let role = |r: &Region, on| r.peer_on(on).map(|p| p.role);
                let gives_up = self.led.get(&region.id).is_some_and(|(_, on)| {
                    let before = role(there, *on) == Some(PeerRole::Voter);
                    before && role(region, *on) == Some(PeerRole::Demoting)
                });
                self.deposed += u64::from(gives_up);
            }
            None => {}
        }
        self.regions.insert(region.id, region.clone());
        match merging {
            true => drop(self.merging.insert(region.id)),
            false => self.rollbacks += u64::from(self.merging.remove(&region.id)),
        }
        true
    }

    /// Every key is in one region.
    fn tile(&mut self) {
        let mut all: Vec<&Region> = self.regions.values().collect();
        all.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        let holds = all.windows(2).all(|pair| pair[0].range.end == pair[1].range.start)
            && all.first().is_some_and(|r| r.range.start.is_empty())
            && all.last().is_some_and(|r| r.range.end.is_empty());
        if !holds {
            let all: Vec<Region> = all.into_iter().cloned().collect();
            self.violate(|| format!("regions do not tile the keys: {all:?}"));
        }
    }
}
