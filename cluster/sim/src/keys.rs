//! Who has which keys: regions that must hold each of them once, and leaders that must not serve
//! the same ones at the same time. It must never take an old description for the newest.
//!
//! ```text
//!   regions at their newest epochs    tile the keys, from when a split or merge is applied anywhere
//!   (region, epoch)                   one description
//!   (key, version)                    one region, ever
//!   (key, time)                       one lease
//! ```

use crate::world::World;
use damask_raftstore::{ApplyBatch, Effect, RegionState, ReplicaStatus};
use damask_types::{Epoch, KeyRange, Region, RegionId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// A region that a store leads, as far as it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who says so.
    pub store: StoreId,
    /// Of which region.
    pub region: RegionId,
    /// As described then.
    pub epoch: Epoch,
}

/// What was seen of all regions so far.
#[derive(Default)]
pub struct Keys {
    /// The newest descriptions that any replica has applied.
    regions: BTreeMap<RegionId, Region>,
    /// Regions that became a part of others.
    merged: BTreeSet<RegionId>,
    /// Who had which keys at a version.
    versions: BTreeMap<u64, BTreeMap<RegionId, KeyRange>>,
    led: BTreeMap<StoreId, BTreeMap<RegionId, Region>>,
    /// Pairs that say the same of the same keys.
    rivals: Vec<(Claim, Claim)>,
}

impl Keys {
    /// Regions as a store has found or received them; what contradicts.
    pub fn know(&mut self, states: &[RegionState]) -> Option<String> {
        let mut news = false;
        let mut broken = None;
        for state in states.iter().filter(|state| !state.tombstone) {
            match self.describe(&state.region) {
                Ok(is_news) => news |= is_news,
                Err(why) => broken = broken.or(Some(why)),
            }
        }
        broken.or_else(|| news.then(|| self.tile())?)
    }

    /// Entries that a store applies; what contradicts.
    pub fn note(&mut self, batches: &[ApplyBatch]) -> Option<String> {
        let effects = batches.iter().flat_map(|batch| &batch.effects);
        let mut all = effects.filter_map(|effect| match effect {
            Effect::Regions(states) => Some(states),
            Effect::Write(_) => None,
        });
        all.find_map(|states| {
            let mut gone = states.iter().filter(|state| state.tombstone);
            let wrong = gone.find_map(|state| self.bury(&state.region));
            wrong.or_else(|| self.know(states))
        })
    }

    /// A region became a part of another one.
    fn bury(&mut self, region: &Region) -> Option<String> {
        self.merged.insert(region.id);
        let there = self.regions.remove(&region.id).filter(|there| there != region)?;
        Some(format!("{region:?} is merged, but there is {there:?}"))
    }

    /// A description that a replica has applied; true if it is the newest.
    fn describe(&mut self, region: &Region) -> Result<bool, String> {
        self.claim(region)?;
        if self.merged.contains(&region.id) {
            return Ok(false); // a replica that is behind
        }
        match self.regions.get(&region.id) {
            Some(there) if there == region || region.epoch.is_stale(&there.epoch) => Ok(false),
            Some(there) if there.epoch == region.epoch => {
                Err(format!("one epoch, two regions: {there:?} and {region:?}"))
            }
            _ => {
                self.regions.insert(region.id, region.clone());
                Ok(true)
            }
        }
    }

    /// Every key is in one region.
    fn tile(&self) -> Option<String> {
        let mut all: Vec<&Region> = self.regions.values().collect();
        all.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        let holds = all.windows(2).all(|pair| pair[0].range.end == pair[1].range.start)
            && all.first().is_some_and(|r| r.range.start.is_empty())
            && all.last().is_some_and(|r| r.range.end.is_empty());
        (!holds).then(|| format!("regions do not tile the keys: {all:?}"))
    }

    /// Whoever takes keys over, or gives some away, raises the version above all before.
    fn claim(&mut self, region: &Region) -> Result<(), String> {
        let (id, version) = (region.id, region.epoch.version);
        let there = self.versions.entry(version).or_default();
        if there.get(&id) == Some(&region.range) {
            return Ok(());
        }
        let shares = |(_, range): &(&RegionId, &KeyRange)| range.intersect(&region.range).is_some();
        if let Some((other, range)) = there.iter().find(shares) {
            let own = &region.range;
            return Err(format!(
                "regions {other}, {range:?}, and {id}, {own:?}, are both of version {version}"
            ));
        }
        there.insert(id, region.range.clone());
        Ok(())
    }

    /// A replica's word about itself; what contradicts.
    pub fn leads(&mut self, store: StoreId, status: &ReplicaStatus) -> Option<String> {
        let led = self.led.entry(store).or_default();
        if !status.is_leader {
            if led.remove(&status.region.id).is_some() {
                self.oppose();
            }
            return None;
        }
        if led.get(&status.region.id) == Some(&status.region) {
            return None;
        }
        led.insert(status.region.id, status.region.clone());
        self.oppose();
        self.claim(&status.region).err()
    }

    /// What a store leads now, all of it.
    pub fn leads_only(&mut self, store: StoreId, statuses: &[ReplicaStatus]) {
        let led = self.led.entry(store).or_default();
        let before = led.len();
        let leads = |id: &RegionId| statuses.iter().any(|s| s.is_leader && s.region.id == *id);
        led.retain(|id, _| leads(id));
        if led.len() < before {
            self.oppose();
        }
    }

    /// Who claims what another one claims too.
    fn oppose(&mut self) {
        let claims = self.led.iter().flat_map(|(store, led)| led.values().map(|r| (*store, r)));
        let claims: Vec<(StoreId, &Region)> = claims.collect();
        let claim = |(store, region): (StoreId, &Region)| Claim {
            store,
            region: region.id,
            epoch: region.epoch,
        };
        self.rivals.clear();
        for (at, one) in claims.iter().enumerate() {
            let shares = |other: &&(StoreId, &Region)| {
                other.0 != one.0 && other.1.range.intersect(&one.1.range).is_some()
            };
            let others = claims[at + 1..].iter().filter(shares);
            self.rivals.extend(others.map(|other| (claim(*one), claim(*other))));
        }
    }

    /// Regions that there are.
    pub fn count(&self) -> usize {
        self.regions.len()
    }

    /// Leaders of the same keys, one of whom does not know yet that it leads no more.
    pub fn rivals(&self) -> &[(Claim, Claim)] {
        &self.rivals
    }

    /// Two of them may read without a question, at the same time.
    pub fn two_leases(&self, has_lease: impl Fn(&Claim) -> bool) -> Option<String> {
        let both = |(one, other): &&(Claim, Claim)| has_lease(one) && has_lease(other);
        let (one, other) = self.rivals.iter().find(both)?;
        Some(format!(
            "two leases: store {} on region {} {:?}, and store {} on region {} {:?}",
            one.store, one.region, one.epoch, other.store, other.region, other.epoch
        ))
    }
}

impl World {
    /// A replica's word about itself, against all that was said before.
    pub fn claims(&self, store: StoreId, status: &ReplicaStatus) {
        let two = self.rules.lock().leads(status);
        let mut keys = self.keys.lock();
        let overlap = keys.leads(store, status);
        self.contested.store(!keys.rivals().is_empty(), Ordering::Relaxed);
        drop(keys);
        two.into_iter().chain(overlap).for_each(|why| self.fail(why));
    }

    /// What a store leads now; nothing, if it does not run.
    pub fn leads_only(&self, store: StoreId, statuses: &[ReplicaStatus]) {
        let mut keys = self.keys.lock();
        keys.leads_only(store, statuses);
        self.contested.store(!keys.rivals().is_empty(), Ordering::Relaxed);
    }

    /// After every event: no two leaders may read the same keys without a question. They are asked
    /// as a client would ask them, and only while there are two.
    pub fn check_leases(&self) {
        if !self.contested.load(Ordering::Relaxed) {
            return;
        }
        let has_lease = |claim: &Claim| {
            let life = self.life(claim.store);
            let read = life.and_then(|l| l.handle.read_local(claim.region, claim.epoch, || ()));
            read.is_some()
        };
        let two = self.keys.lock().two_leases(has_lease);
        two.into_iter().for_each(|why| self.fail(why));
    }
}

#[cfg(test)]
mod tests;
