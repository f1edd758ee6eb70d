//! What the logs of all stores say, and how much of each a power cut would leave: entries that
//! contradict each other, commits that a majority may still lose, and entries that are cut off
//! before what they did is durable. It must never call durable what no sync has covered.
//!
//! ```text
//!   (region, index, term)    one content, after one term, in every log; once it is durable
//!   (region, index)          one committed term, as each store comes to know of the commit
//!   a new commit             is in the durable logs of a majority; of both, between two sets
//!   a log's first entry      is not above what the engine holds durably, one further
//! ```

use crate::alike::Alike;
use crate::chance::hash_bytes;
use crate::nodes::Alive;
use crate::world::World;
use damask_kv::WriteBatch;
use damask_raftstore::{
    ApplyBatch, Effect, HardState, LOG_START, LogBatch, LogEntry, LogOp, LogStore, MemoryLogStore,
    RegionState, Result,
};
use damask_types::{Peer, PeerRole, RegionId, StoreId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Applied indexes by region.
type Points = BTreeMap<RegionId, u64>;

/// What one store has.
#[derive(Default)]
struct Held {
    /// What no power cut takes from its log; of each entry the digest stands for its data.
    durable: MemoryLogStore,
    /// Terms by index of logs that it has given up, as it had them durably: a replica of a region
    /// that was merged is gone, and its last acknowledgements may still be on their way.
    gone: BTreeMap<RegionId, BTreeMap<u64, u64>>,
    /// Appended, and not synced.
    pending: LogBatch,
    /// Committed as far as it knows.
    commits: Points,
    /// The replicas of its regions, as its machine has applied them: their `conf_ver`.
    configs: Points,
    /// What its engine has applied, and what of that is durable; `None` if nobody can tell.
    engine: Option<(Points, Points)>,
}

/// What was seen of all logs so far.
#[derive(Default)]
pub struct Logs {
    stores: BTreeMap<StoreId, Held>,
    /// Of an entry: its digest, and the term before it.
    entries: HashMap<(RegionId, u64, u64), (u64, u64)>,
    committed: HashMap<(RegionId, u64), u64>,
    /// The last entry of each region that anybody has called committed.
    newest: HashMap<RegionId, u64>,
    /// Regions that became a part of others.
    merged: BTreeSet<RegionId>,
    /// Replicas, by the `conf_ver` that they came with.
    configs: BTreeMap<(RegionId, u64), Vec<Peer>>,
    /// What was applied of them.
    pub alike: Alike,
    /// Its disk has changed by itself: what it holds now says nothing of what it has held.
    pub rotten: Option<StoreId>,
}

/// What a store can be asked while it appends.
pub struct Appending<'a> {
    /// Which one.
    pub store: StoreId,
    /// The terms in its log, all that was just appended included.
    pub term: &'a dyn Fn(RegionId, u64) -> Option<u64>,
    /// It decides by a set of replicas of this `conf_ver` or of a later one.
    pub conf_ver: &'a dyn Fn(RegionId) -> u64,
}

/// The batch with digests in the place of data.
pub fn digested(batch: &LogBatch) -> LogBatch {
    let brief = |entry: &LogEntry| {
        let says = hash_bytes(&entry.data) ^ hash_bytes(&entry.context).rotate_left(1);
        let (data, context) = (says.to_be_bytes().to_vec(), Vec::new());
        LogEntry { index: entry.index, term: entry.term, kind: entry.kind, data, context }
    };
    let op = |op: &LogOp| match op {
        LogOp::Append(entries) => LogOp::Append(entries.iter().map(brief).collect()),
        other => other.clone(),
    };
    batch.iter().map(|(id, change)| (*id, op(change))).collect()
}

impl Logs {
    fn held(&mut self, store: StoreId) -> &mut Held {
        self.stores.entry(store).or_default()
    }

    /// A store starts with this log, all of which is durable.
    pub fn opened(&mut self, store: StoreId, log: &dyn LogStore) -> Option<String> {
        let held = self.held(store);
        *held = Held::default();
        if self.rotten == Some(store) {
            return None;
        }
        match copied(log) {
            Ok(batch) => {
                self.held(store).pending = batch;
                let found = self.synced(store);
                let logs = self.held(store).durable.recover().unwrap_or_default();
                let commits = logs.into_iter().map(|(id, log)| (id, log.hard.commit));
                self.held(store).commits = commits.collect();
                found
            }
            Err(e) => Some(format!("the log of store {store} cannot be read: {e}")),
        }
    }

    /// A store has appended, and may have learned of commits. What contradicts.
    pub fn appended(&mut self, by: &Appending, batch: LogBatch) -> Option<String> {
        if self.rotten == Some(by.store) {
            // Who hears of these commits from it may know older replicas than it decides by.
            for (region, op) in &batch {
                let LogOp::HardState(hard) = op else { continue };
                let newest = self.newest.entry(*region).or_insert(LOG_START.index);
                *newest = hard.commit.max(*newest);
            }
            return None;
        }
        let mut broken = None;
        for (region, op) in &batch {
            let found = match op {
                LogOp::HardState(hard) => self.commits(by, *region, hard),
                LogOp::CompactTo(to) => self.cut_off(by.store, *region, to.index),
                LogOp::Reset(to) => {
                    self.held(by.store).commits.insert(*region, to.index);
                    self.is_committed(by.store, *region, to.index, to.term)
                }
                LogOp::Destroy => {
                    self.held(by.store).commits.remove(region);
                    None
                }
                LogOp::Append(_) | LogOp::Restoring(_) => None,
            };
            broken = broken.or(found);
        }
        self.held(by.store).pending.extend(batch);
        broken
    }

    /// Everything that a store has appended is durable.
    pub fn synced(&mut self, store: StoreId) -> Option<String> {
        let Logs { stores, entries: known, rotten, .. } = self;
        let held = stores.entry(store).or_default();
        let mut broken = None;
        // Not before it is durable: who votes alone may lead again in a term that it has lost with
        // its power, and with that all that it had appended in it and had told nobody.
        for (region, op) in std::mem::take(&mut held.pending) {
            if let LogOp::Append(entries) = &op
                && let Some(first) = entries.first()
            {
                let before = held.durable.term(region, first.index.saturating_sub(1));
                let mut before = before.ok().flatten().unwrap_or(0);
                for LogEntry { index, term, data, .. } in entries {
                    let now = (hash_bytes(data), before);
                    let first = *known.entry((region, *index, *term)).or_insert(now);
                    let differs = || {
                        format!(
                            "entry {index} of term {term} of region {region} is on store {store} \
                             {now:x?}, and was {first:x?} (content, term before)"
                        )
                    };
                    broken = broken.or_else(|| (first != now).then(differs));
                    before = *term;
                }
            }
            if op == LogOp::Destroy {
                let there = terms(&held.durable, region);
                held.gone.insert(region, there);
            }
            if let Err(e) = held.durable.append(vec![(region, op)]) {
                let why = || format!("store {store} appends to a log of region {region}: {e}");
                broken = broken.or_else(|| (*rotten != Some(store)).then(why));
            }
        }
        broken
    }

    /// One committed term at an index.
    fn is_committed(&mut self, on: StoreId, id: RegionId, index: u64, term: u64) -> Option<String> {
        let first = *self.committed.entry((id, index)).or_insert(term);
        let both = || {
            format!("region {id}: {index}@{first} was committed, and store {on} has {index}@{term}")
        };
        (first != term).then(both)
    }

    fn commits(&mut self, by: &Appending, id: RegionId, hard: &HardState) -> Option<String> {
        let held = self.held(by.store);
        let from = held.commits.insert(id, hard.commit).unwrap_or(LOG_START.index);
        let mut broken = None;
        for index in from + 1..=hard.commit {
            if let Some(term) = (by.term)(id, index) {
                broken = broken.or(self.is_committed(by.store, id, index, term));
            }
        }
        let newest = self.newest.entry(id).or_insert(LOG_START.index);
        if hard.commit > *newest {
            *newest = hard.commit;
            broken = broken.or_else(|| self.is_kept(by, id, hard.commit));
        }
        broken
    }

    /// Could a minority of the voters take a new commit along? Not before that is known to be so.
    fn is_kept(&self, by: &Appending, id: RegionId, index: u64) -> Option<String> {
        let on = by.store;
        let Some(term) = (by.term)(id, index) else {
            return Some(format!("region {id}: store {on} calls {index} committed and lacks it"));
        };
        // The thread that decides hears of a change after the machine has applied it.
        let last = self.stores.get(&on).and_then(|held| held.configs.get(&id)).copied();
        let range = (id, (by.conf_ver)(id))..=(id, last.unwrap_or(u64::MAX));
        if range.is_empty() {
            return Some(format!("region {id}: store {on} decides by replicas nobody knows"));
        }
        let mut sets = self.configs.range(range).map(|(_, peers)| peers).peekable();
        sets.peek()?;
        let has = |peer: &Peer| self.has(peer.store, id, index, term);
        let most = |peers: &[Peer], other: PeerRole| {
            let voters = peers.iter().filter(|p| p.role == PeerRole::Voter || p.role == other);
            let all: Vec<bool> = voters.map(has).collect();
            all.iter().filter(|has| **has).count() * 2 > all.len()
        };
        let is_kept =
            |peers: &Vec<Peer>| most(peers, PeerRole::Incoming) && most(peers, PeerRole::Demoting);
        let mut told = String::new();
        for peers in sets {
            if is_kept(peers) {
                return None;
            }
            let with: Vec<u64> = peers.iter().filter(|p| has(p)).map(|p| p.store.0).collect();
            told += &format!("; of {peers:?} only stores {with:?} have it");
        }
        Some(format!("region {id}: store {on} calls {index}@{term} committed, no majority's{told}"))
    }

    /// Would a store still have an entry, or what it did, after a power cut?
    fn has(&self, store: StoreId, id: RegionId, index: u64, term: u64) -> bool {
        let in_log = |held: &Held| match held.durable.group(id) {
            Some(log) => {
                log.truncated.index >= index
                    || held.durable.term(id, index).is_ok_and(|there| there == Some(term))
            }
            // Only a merge makes voters give up their logs.
            None => {
                let had = |terms: &BTreeMap<u64, u64>| terms.get(&index) == Some(&term);
                self.merged.contains(&id) && held.gone.get(&id).is_some_and(had)
            }
        };
        self.rotten == Some(store) || self.stores.get(&store).is_some_and(in_log)
    }

    /// Entries up to here are gone, and what they did must not be with them.
    fn cut_off(&mut self, store: StoreId, id: RegionId, index: u64) -> Option<String> {
        let (_, durable) = self.held(store).engine.as_ref()?;
        let durable = durable.get(&id).copied().unwrap_or(0);
        let lost = || {
            format!(
                "region {id}: store {store} forgets entries up to {index}, and its engine holds \
                 only {durable} durably"
            )
        };
        (index > durable).then(lost)
    }

    /// A machine starts with these regions. `durable`: an engine of which every sync is seen.
    pub fn recovered(&mut self, store: StoreId, states: &[RegionState], durable: bool) {
        self.know(store, states);
        let points: Points = states.iter().map(|s| (s.region.id, s.applied.index)).collect();
        self.held(store).engine = durable.then(|| (points.clone(), points));
    }

    /// A machine is about to apply these.
    pub fn applies(&mut self, store: StoreId, batches: &[ApplyBatch]) {
        for effect in batches.iter().flat_map(|batch| &batch.effects) {
            if let Effect::Regions(states) = effect {
                self.know(store, states);
                let merged = states.iter().filter(|state| state.tombstone);
                self.merged.extend(merged.map(|state| state.region.id));
            }
        }
    }

    /// It has.
    pub fn applied(&mut self, store: StoreId, points: impl IntoIterator<Item = (RegionId, u64)>) {
        if let Some((applied, _)) = &mut self.held(store).engine {
            applied.extend(points);
        }
    }

    /// Everything that a store's engine has written is durable.
    pub fn flushed(&mut self, store: StoreId) {
        if let Some((applied, durable)) = &mut self.held(store).engine {
            durable.clone_from(applied);
        }
    }

    /// The replicas of regions, as a store applies them.
    pub fn know(&mut self, store: StoreId, states: &[RegionState]) {
        for RegionState { region, tombstone, .. } in states {
            let (id, conf_ver) = (region.id, region.epoch.conf_ver);
            if *tombstone {
                self.held(store).configs.remove(&id);
                continue;
            }
            self.held(store).configs.insert(id, conf_ver);
            self.configs.entry((id, conf_ver)).or_insert_with(|| region.peers.clone());
        }
    }
}

/// Of the entries that a log holds of a region.
fn terms(log: &MemoryLogStore, id: RegionId) -> BTreeMap<u64, u64> {
    let Some(group) = log.group(id) else { return BTreeMap::new() };
    let all = group.truncated.index..=group.last.index;
    all.filter_map(|index| Some((index, log.term(id, index).ok().flatten()?))).collect()
}

/// All that a log holds, as what would make it.
fn copied(log: &dyn LogStore) -> Result<LogBatch> {
    let mut batch = LogBatch::new();
    for (id, group) in log.recover()? {
        batch.push((id, LogOp::Reset(group.truncated)));
        let (low, high) = (group.truncated.index + 1, group.last.index + 1);
        if low < high {
            let mut entries = Vec::new();
            log.entries(id, low, high, u64::MAX, &mut entries)?;
            batch.push((id, LogOp::Append(entries)));
        }
        batch.push((id, LogOp::HardState(group.hard)));
    }
    Ok(digested(&batch))
}

/// One process, as it tells what its log and its machine do.
#[derive(Clone)]
pub struct Seen {
    /// Where contradictions go.
    pub world: Arc<World>,
    /// Its logs' and those that they must agree with.
    pub logs: Arc<Mutex<Logs>>,
    /// Which one.
    pub store: StoreId,
    /// What it does after its end is nobody's.
    pub alive: Alive,
    /// It is a member of the placement driver's group, not a store of the cluster's.
    pub of_members: bool,
}

impl Seen {
    /// Tells all logs, if it still lives.
    pub fn tell<T>(&self, what: impl FnOnce(&mut Logs) -> T) -> Option<T> {
        self.alive.get().then(|| {
            let mut logs = self.logs.lock();
            logs.rotten = self.world.rotten().filter(|_| !self.of_members);
            what(&mut logs)
        })
    }

    /// As `tell`; what contradicts ends the run.
    pub fn judge(&self, what: impl FnOnce(&mut Logs) -> Option<String>) {
        if let Some(why) = self.tell(what).flatten() {
            self.world.fail(why);
        }
    }

    /// It writes this to its engine.
    pub fn wrote(&self, batch: &WriteBatch) {
        self.judge(|logs| logs.alike.wrote(self.store, batch));
    }

    /// It has appended to its log.
    pub fn appended(&self, log: &dyn LogStore, batch: LogBatch) {
        let conf_ver = |id| {
            let life = self.world.life(self.store).filter(|_| !self.of_members);
            let there = life.and_then(|life| life.handle.replica(id));
            there.map_or(0, |there| there.region.epoch.conf_ver)
        };
        let term = |id, index| log.term(id, index).ok().flatten();
        let by = Appending { store: self.store, term: &term, conf_ver: &conf_ver };
        self.judge(|logs| logs.appended(&by, batch));
    }
}

#[cfg(test)]
mod tests;
