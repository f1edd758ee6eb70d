//! What a transaction server needs of the store under it: to replicate records, and to know that a
//! view is fresh. It must never decide anything about a transaction.
//!
//! [`LocalReplica`] is the plain twin: regions over an engine without replication.

use damask_kv::{Engine, records_to_batch};
use damask_raftstore::{
    Applied, Done, Error, Proposal, ReadPermit, ReplicaStatus, Resolved, Result, StoreHandle,
};
use damask_types::{Epoch, Region, RegionId, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Replicated regions. Both calls return at once; the answer comes to `done`, once, on a thread
/// that must not be blocked.
pub trait Replica: Send + Sync + 'static {
    /// Answered after the records are applied here, or with the reason why they are not.
    fn propose(&self, proposal: Proposal, done: Done<Applied>);
    /// Answered when everything acknowledged before the call is applied here.
    fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>);
    /// At once, and without asking anybody: this replica leads in this term as far as it knows, and
    /// everything of earlier terms is applied here. What is decided on a view taken now holds if
    /// its proposal is accepted in that term; without a proposal it proves nothing. `None`: ask for
    /// a read index.
    fn leads(&self, _region: RegionId, _epoch: Epoch) -> Option<ReadPermit> {
        None
    }
    /// Every region of which `leads` is true.
    fn led(&self) -> Vec<ReadPermit> {
        Vec::new()
    }
    /// Nothing will be committed in these regions any more at or below these timestamps that is not
    /// in their logs now; true if the store leads them still, of which it makes sure before it
    /// tells their replicas.
    fn resolved(&self, _found: Vec<Resolved>) {}
    /// Calls `take` for a snapshot that holds all that is ever committed at or below `ts`, on any
    /// replica. By default none does.
    fn read_stale(
        &self,
        region: RegionId,
        _epoch: Epoch,
        ts: Timestamp,
        _take: &mut dyn FnMut(),
    ) -> Result<ReadPermit> {
        Err(Error::DataIsNotReady { region, ts, safe_ts: Timestamp::ZERO })
    }
    /// Up to where `read_stale` serves; ZERO: it does not.
    fn safe_ts(&self, _region: RegionId) -> Timestamp {
        Timestamp::ZERO
    }
    /// A read of `low..end` of a region is served here: of one key if they are equal; an empty `end`
    /// is no bound. For who splits what is busy.
    fn note_read(&self, _region: RegionId, _low: &[u8], _end: &[u8]) {}
    /// Such reads have found so many bytes.
    fn note_read_bytes(&self, _region: RegionId, _bytes: u64) {}
}

/// Regions over one engine, each "replicated" by applying its records at once.
pub struct LocalReplica {
    engine: Arc<dyn Engine>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    regions: BTreeMap<RegionId, Hosted>,
    index: u64,
    life: u64,
}

/// A server's hold on a [`LocalReplica`], which ends with the next one: as if its process had died.
pub struct Life {
    replica: Arc<LocalReplica>,
    number: u64,
}

struct Hosted {
    region: Arc<Region>,
    term: u64,
    safe_ts: Timestamp,
}

impl Hosted {
    fn permit(&self, index: u64) -> ReadPermit {
        let (region, term) = (Arc::clone(&self.region), self.term);
        ReadPermit { region, term, applied: Applied { index, term } }
    }
}

impl LocalReplica {
    /// No regions yet.
    pub fn new(engine: Arc<dyn Engine>) -> LocalReplica {
        LocalReplica { engine, state: Mutex::default() }
    }

    /// Leads this region from now on, in this term; replaces an older description of it.
    pub fn host(&self, region: Region, term: u64) {
        let safe_ts = Timestamp::ZERO;
        let hosted = Hosted { region: Arc::new(region), term, safe_ts };
        self.state.lock().regions.insert(hosted.region.id, hosted);
    }

    /// Leads it no longer.
    pub fn remove(&self, region: RegionId) -> Option<Region> {
        let removed = self.state.lock().regions.remove(&region);
        removed.map(|hosted| Region::clone(&hosted.region))
    }

    /// Splits a region at `key`: the right part keeps the id, as in a split of a Raft group. The
    /// parts, left to right.
    pub fn split(&self, region: RegionId, key: &[u8], left: RegionId) -> Option<[Region; 2]> {
        let mut state = self.state.lock();
        let hosted = state.regions.get_mut(&region)?;
        if !hosted.region.range.contains(key) || hosted.region.range.start == key {
            return None;
        }
        let mut right_part = Region::clone(&hosted.region);
        right_part.epoch.version += 1;
        let mut left_part = right_part.clone();
        left_part.id = left;
        left_part.range.end = key.to_vec();
        right_part.range.start = key.to_vec();
        let (term, safe_ts) = (hosted.term, hosted.safe_ts);
        hosted.region = Arc::new(right_part.clone());
        let region = Arc::new(left_part.clone());
        state.regions.insert(left, Hosted { region, term, safe_ts });
        Some([left_part, right_part])
    }

    /// Everything is led anew, by whoever holds this: earlier holders are answered `Stopped`.
    pub fn begin_life(self: &Arc<LocalReplica>) -> Life {
        let mut state = self.state.lock();
        state.life += 1;
        state.regions.values_mut().for_each(|hosted| hosted.term += 1);
        Life { replica: Arc::clone(self), number: state.life }
    }

    /// The regions led here.
    pub fn regions(&self) -> Vec<Region> {
        self.state.lock().regions.values().map(|h| Region::clone(&h.region)).collect()
    }

    /// `life`: whose proposal it is; `None`: nobody's in particular.
    fn apply(&self, life: Option<u64>, proposal: &Proposal) -> Result<Applied> {
        // One at a time, as a log applies; and no split between the check and the write.
        let mut state = self.state.lock();
        check_life(&state, life)?;
        let term = check(&state, proposal.region, proposal.epoch)?.term;
        if proposal.term.is_some_and(|expected| expected != term) {
            return Err(Error::Stale);
        }
        self.engine.write(records_to_batch(&proposal.records))?;
        state.index += 1;
        Ok(Applied { index: state.index, term })
    }

    fn permit(&self, life: Option<u64>, region: RegionId, epoch: Epoch) -> Result<ReadPermit> {
        let state = self.state.lock();
        check_life(&state, life)?;
        Ok(check(&state, region, epoch)?.permit(state.index))
    }

    fn led(&self, life: Option<u64>) -> Vec<ReadPermit> {
        let state = self.state.lock();
        match check_life(&state, life) {
            Ok(()) => state.regions.values().map(|hosted| hosted.permit(state.index)).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn resolved(&self, life: Option<u64>, found: Vec<Resolved>) {
        let mut state = self.state.lock();
        if check_life(&state, life).is_err() {
            return;
        }
        for Resolved { region, epoch, term, ts } in found {
            let same = |h: &&mut Hosted| h.term == term && h.region.epoch == epoch;
            if let Some(hosted) = state.regions.get_mut(&region).filter(same) {
                hosted.safe_ts = hosted.safe_ts.max(ts);
            }
        }
    }

    fn read_stale(
        &self,
        region: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: &mut dyn FnMut(),
    ) -> Result<ReadPermit> {
        let state = self.state.lock();
        let hosted = check(&state, region, epoch)?;
        let safe_ts = hosted.safe_ts;
        if ts > safe_ts {
            return Err(Error::DataIsNotReady { region, ts, safe_ts });
        }
        take();
        Ok(hosted.permit(state.index))
    }

    fn safe_ts(&self, region: RegionId) -> Timestamp {
        let state = self.state.lock();
        state.regions.get(&region).map_or(Timestamp::ZERO, |hosted| hosted.safe_ts)
    }
}

fn check_life(state: &State, life: Option<u64>) -> Result<()> {
    match life.is_none_or(|life| life == state.life) {
        true => Ok(()),
        false => Err(Error::Stopped),
    }
}

fn check(state: &State, id: RegionId, epoch: Epoch) -> Result<&Hosted> {
    let hosted = state.regions.get(&id).ok_or(Error::RegionNotFound(id))?;
    if hosted.region.epoch != epoch {
        // The regions that may overlap what the sender meant: all that a split can have made.
        let current = state.regions.values().map(|h| Region::clone(&h.region)).collect();
        return Err(Error::EpochNotMatch { current });
    }
    Ok(hosted)
}

impl Replica for LocalReplica {
    fn propose(&self, proposal: Proposal, done: Done<Applied>) {
        done(self.apply(None, &proposal));
    }

    fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        done(self.permit(None, region, epoch));
    }

    fn leads(&self, region: RegionId, epoch: Epoch) -> Option<ReadPermit> {
        self.permit(None, region, epoch).ok()
    }

    fn led(&self) -> Vec<ReadPermit> {
        LocalReplica::led(self, None)
    }

    fn resolved(&self, found: Vec<Resolved>) {
        LocalReplica::resolved(self, None, found);
    }

    fn read_stale(
        &self,
        region: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: &mut dyn FnMut(),
    ) -> Result<ReadPermit> {
        LocalReplica::read_stale(self, region, epoch, ts, take)
    }

    fn safe_ts(&self, region: RegionId) -> Timestamp {
        LocalReplica::safe_ts(self, region)
    }
}

impl Replica for Life {
    fn propose(&self, proposal: Proposal, done: Done<Applied>) {
        done(self.replica.apply(Some(self.number), &proposal));
    }

    fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        done(self.replica.permit(Some(self.number), region, epoch));
    }

    fn leads(&self, region: RegionId, epoch: Epoch) -> Option<ReadPermit> {
        self.replica.permit(Some(self.number), region, epoch).ok()
    }

    fn led(&self) -> Vec<ReadPermit> {
        LocalReplica::led(&self.replica, Some(self.number))
    }

    fn resolved(&self, found: Vec<Resolved>) {
        LocalReplica::resolved(&self.replica, Some(self.number), found);
    }

    fn read_stale(
        &self,
        region: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: &mut dyn FnMut(),
    ) -> Result<ReadPermit> {
        LocalReplica::read_stale(&self.replica, region, epoch, ts, take)
    }

    fn safe_ts(&self, region: RegionId) -> Timestamp {
        LocalReplica::safe_ts(&self.replica, region)
    }
}

impl Replica for StoreHandle {
    fn propose(&self, proposal: Proposal, done: Done<Applied>) {
        StoreHandle::propose(self, proposal, done);
    }

    fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        StoreHandle::read_index(self, region, epoch, done);
    }

    fn leads(&self, region: RegionId, epoch: Epoch) -> Option<ReadPermit> {
        let ReplicaStatus { region, is_leader, term, applied, .. } = self.replica(region)?;
        // Its first entry of the term is applied, and with it all entries of earlier terms.
        let leads = is_leader && applied.term == term && region.epoch.version == epoch.version;
        leads.then(|| ReadPermit { region: Arc::new(region), term, applied })
    }

    fn led(&self) -> Vec<ReadPermit> {
        let own = |s: &ReplicaStatus| s.is_leader && s.applied.term == s.term && !s.merging;
        let permit = |ReplicaStatus { region, term, applied, .. }| ReadPermit {
            region: Arc::new(region),
            term,
            applied,
        };
        self.replicas().into_iter().filter(own).map(permit).collect()
    }

    fn resolved(&self, found: Vec<Resolved>) {
        StoreHandle::resolved(self, found);
    }

    fn read_stale(
        &self,
        region: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: &mut dyn FnMut(),
    ) -> Result<ReadPermit> {
        StoreHandle::read_stale(self, region, epoch, ts, take).map(|(permit, ())| permit)
    }

    fn safe_ts(&self, region: RegionId) -> Timestamp {
        StoreHandle::safe_ts(self, region)
    }

    fn note_read(&self, region: RegionId, low: &[u8], end: &[u8]) {
        StoreHandle::note_read(self, region, low, end, 0);
    }

    fn note_read_bytes(&self, region: RegionId, bytes: u64) {
        StoreHandle::note_read_bytes(self, region, bytes);
    }
}

impl<R: Replica + ?Sized> Replica for Arc<R> {
    fn propose(&self, proposal: Proposal, done: Done<Applied>) {
        R::propose(self, proposal, done);
    }

    fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        R::read_index(self, region, epoch, done);
    }

    fn leads(&self, region: RegionId, epoch: Epoch) -> Option<ReadPermit> {
        R::leads(self, region, epoch)
    }

    fn led(&self) -> Vec<ReadPermit> {
        R::led(self)
    }

    fn resolved(&self, found: Vec<Resolved>) {
        R::resolved(self, found);
    }

    fn read_stale(
        &self,
        region: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: &mut dyn FnMut(),
    ) -> Result<ReadPermit> {
        R::read_stale(self, region, epoch, ts, take)
    }

    fn safe_ts(&self, region: RegionId) -> Timestamp {
        R::safe_ts(self, region)
    }

    fn note_read(&self, region: RegionId, low: &[u8], end: &[u8]) {
        R::note_read(self, region, low, end);
    }

    fn note_read_bytes(&self, region: RegionId, bytes: u64) {
        R::note_read_bytes(self, region, bytes);
    }
}
