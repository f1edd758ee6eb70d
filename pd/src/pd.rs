//! The placement driver in process: durable state saved before it is used, volatile state rebuilt
//! from reports, the planner's answers handed out one at a time. It must never give out an id
//! below a bound that was not saved.

use crate::durable::Durable;
use crate::error::{Error, Result};
use crate::planner::{Config, View, column_replicas, covers, plan};
use crate::regions::RegionMap;
use crate::seam::Placement;
use crate::values::*;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Ids whose bound is saved at a time (PD: 1000).
const ID_WINDOW: u64 = 1000;
/// Ids of one request, at most.
const IDS_MAX: u64 = 1 << 20;
/// New regions of one split, at most.
const SPLIT_MAX: usize = 1024;

/// Where the durable state goes. The cluster wires it to a disk (or to a replicated log).
pub trait Persist: Send + Sync {
    /// Replaces what was saved before, atomically; durable on return.
    fn save(&self, bytes: &[u8]) -> std::result::Result<(), String>;
}

/// A placement driver in this process.
pub struct Pd {
    config: Config,
    cluster_id: u64,
    persist: Box<dyn Persist>,
    saved: Mutex<Saved>,
    live: RwLock<Live>,
}

/// The durable state, and what is left of its window of ids.
struct Saved {
    durable: Durable,
    next_id: u64,
    spare: Option<PeerId>,
}

/// What reports rebuild, with a copy of the durable policy so that no report waits for a save.
#[derive(Default)]
struct Live {
    policy: Arc<Policy>,
    regions: RegionMap<Facts>,
    replicas: HashMap<StoreId, usize>,
    pending: HashMap<StoreId, usize>,
    in_flight: HashMap<RegionId, (Epoch, Operator)>,
    /// A copy of the durable set.
    initialised: BTreeSet<StoreId>,
}

#[derive(Default)]
struct Policy {
    stores: BTreeMap<StoreId, StoreInfo>,
    rules: BTreeMap<Vec<u8>, ColumnRule>,
}

#[derive(Clone, Debug, Default)]
struct Facts {
    leader: Option<Peer>,
    term: u64,
    bytes: u64,
    pending: Vec<PeerId>,
}

impl Policy {
    fn of(durable: &Durable) -> Arc<Policy> {
        let stores = durable.stores.iter().map(|s| (s.id, s.clone())).collect();
        let rules = durable.rules.iter().map(|r| (r.range.start.clone(), r.clone())).collect();
        Arc::new(Policy { stores, rules })
    }
}

impl Pd {
    /// Opens with what [`Persist::save`] last got (`None`: a new cluster, which gets
    /// `cluster_id`, saved at once).
    pub fn open(
        config: Config,
        cluster_id: u64,
        saved: Option<&[u8]>,
        persist: Box<dyn Persist>,
    ) -> Result<Pd> {
        config.validate()?;
        let durable = match saved {
            Some(bytes) => Durable::decode(bytes)?,
            // 0 is never an id.
            None => Durable { cluster_id, id_bound: 1, ..Durable::default() },
        };
        if saved.is_none() {
            persist.save(&durable.encode()).map_err(Error::Storage)?;
        }
        let (policy, initialised) = (Policy::of(&durable), durable.initialised.clone());
        let live = Live { policy, initialised, ..Live::default() };
        Ok(Pd {
            config,
            cluster_id: durable.cluster_id,
            persist,
            saved: Mutex::new(Saved { next_id: durable.id_bound, durable, spare: None }),
            live: RwLock::new(live),
        })
    }

    /// Changes the durable state: saved first, seen second. Nothing changes on `Err`.
    fn change(&self, saved: &mut Saved, durable: Durable) -> Result<()> {
        if saved.durable == durable {
            return Ok(());
        }
        self.persist.save(&durable.encode()).map_err(Error::Storage)?;
        let policy = (saved.durable.stores != durable.stores
            || saved.durable.rules != durable.rules)
            .then(|| Policy::of(&durable));
        let initialised = durable.initialised.clone();
        saved.durable = durable;
        let mut live = self.live.write();
        live.initialised = initialised;
        if let Some(policy) = policy {
            live.policy = policy;
        }
        Ok(())
    }

    /// Notes stores that have held data.
    fn note_initialised(&self, stores: &[StoreId]) -> Result<()> {
        let mut saved = self.saved.lock();
        let mut durable = saved.durable.clone();
        durable.initialised.extend(stores);
        self.change(&mut saved, durable)
    }

    fn take_ids(&self, saved: &mut Saved, n: u64) -> Result<Range<u64>> {
        if n > IDS_MAX {
            return Err(Error::Invalid(format!(
                "{n} ids at a time are above the limit of {IDS_MAX}"
            )));
        }
        let first = saved.next_id;
        let end = first.checked_add(n).ok_or_else(|| Error::Invalid("no ids left".to_owned()))?;
        if end > saved.durable.id_bound {
            let mut durable = saved.durable.clone();
            durable.id_bound = end.saturating_add(ID_WINDOW);
            self.change(saved, durable)?;
        }
        saved.next_id = end;
        Ok(first..end)
    }

    /// An id for a replica that may or may not be added; kept until used.
    fn spare(&self) -> Result<PeerId> {
        let mut saved = self.saved.lock();
        if let Some(id) = saved.spare {
            return Ok(id);
        }
        let id = PeerId(self.take_ids(&mut saved, 1)?.start);
        saved.spare = Some(id);
        Ok(id)
    }

    /// Takes the spare id for good; false: another report was faster.
    fn use_spare(&self, id: PeerId) -> bool {
        let mut saved = self.saved.lock();
        let ours = saved.spare == Some(id);
        if ours {
            saved.spare = None;
        }
        ours
    }
}

impl Live {
    /// Takes a report in; `Err` when it is older than what is known.
    fn put(&mut self, report: &RegionReport) -> Result<()> {
        let id = report.region.id;
        if let Some((_, facts)) = self.regions.get(id)
            && report.term < facts.term
        {
            let detail = format!("term {} is older than {}", report.term, facts.term);
            return Err(Error::Stale { region: id, detail });
        }
        let facts = Facts {
            leader: Some(report.leader),
            term: report.term,
            bytes: report.bytes,
            pending: report.pending.clone(),
        };
        self.insert(report.region.clone(), facts)
    }

    fn insert(&mut self, region: Region, facts: Facts) -> Result<()> {
        let id = region.id;
        let added: Vec<_> =
            region.peers.iter().map(|p| (p.store, facts.pending.contains(&p.id))).collect();
        for (gone, facts) in self.regions.put(region, facts)? {
            if gone.id != id {
                self.take_in_flight(gone.id);
            }
            for peer in &gone.peers {
                sub(&mut self.replicas, peer.store);
                if facts.pending.contains(&peer.id) {
                    sub(&mut self.pending, peer.store);
                }
            }
        }
        for (store, pending) in added {
            *self.replicas.entry(store).or_default() += 1;
            if pending {
                *self.pending.entry(store).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Notes a replica that is about to be added: it counts on its store from now on.
    fn set_in_flight(&mut self, id: RegionId, epoch: Epoch, operator: Operator) {
        self.take_in_flight(id);
        if let Operator::AddLearner(peer) = &operator {
            *self.replicas.entry(peer.store).or_default() += 1;
            *self.pending.entry(peer.store).or_default() += 1;
        }
        self.in_flight.insert(id, (epoch, operator));
    }

    fn take_in_flight(&mut self, id: RegionId) -> Option<(Epoch, Operator)> {
        let taken = self.in_flight.remove(&id);
        if let Some((_, Operator::AddLearner(peer))) = &taken {
            sub(&mut self.replicas, peer.store);
            sub(&mut self.pending, peer.store);
        }
        taken
    }

    fn kind(&self, store: StoreId) -> Option<StoreKind> {
        self.policy.stores.get(&store).map(|s| s.kind)
    }

    fn plan(&self, config: &Config, spare: PeerId, report: &RegionReport) -> Option<Operator> {
        let view = View {
            config,
            stores: &self.policy.stores,
            rules: &self.policy.rules,
            replicas: &self.replicas,
            pending: &self.pending,
            spare,
        };
        plan(&view, report)
    }
}

fn sub(map: &mut HashMap<StoreId, usize>, store: StoreId) {
    if let Some(n) = map.get_mut(&store) {
        *n = n.saturating_sub(1);
    }
}

impl Placement for Pd {
    fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    fn bootstrapped(&self) -> Option<Region> {
        self.saved.lock().durable.first.clone()
    }

    fn set_initialised(&self, store: StoreId) -> Result<()> {
        if self.live.read().policy.stores.contains_key(&store) {
            return self.note_initialised(&[store]);
        }
        Err(Error::UnknownStore(store))
    }

    fn is_initialised(&self, store: StoreId) -> bool {
        self.live.read().initialised.contains(&store)
    }

    fn bootstrap(&self, first: &Region) -> Result<bool> {
        if first.range != KeyRange::all() || first.id == RegionId(0) || first.peers.is_empty() {
            return Err(Error::Invalid(
                "the first region holds every key and has replicas".to_owned(),
            ));
        }
        let mut saved = self.saved.lock();
        if saved.durable.first.is_some() {
            return Ok(false);
        }
        let mut durable = saved.durable.clone();
        if let Some(peer) =
            first.peers.iter().find(|p| durable.stores.iter().all(|s| s.id != p.store))
        {
            return Err(Error::UnknownStore(peer.store));
        }
        durable.first = Some(first.clone());
        self.change(&mut saved, durable)?;
        self.live.write().insert(first.clone(), Facts::default())?;
        Ok(true)
    }

    fn alloc_ids(&self, n: u64) -> Result<Range<u64>> {
        self.take_ids(&mut self.saved.lock(), n)
    }

    fn register_store(&self, store: StoreInfo) -> Result<()> {
        let mut saved = self.saved.lock();
        let mut durable = saved.durable.clone();
        match durable.stores.iter_mut().find(|s| s.id == store.id) {
            Some(known) if known.kind != store.kind => {
                let text = format!("store {} was registered with the other kind", store.id);
                return Err(Error::Invalid(text));
            }
            Some(known) => known.address = store.address,
            None => durable.stores.push(store),
        }
        durable.stores.sort_by_key(|s| s.id);
        self.change(&mut saved, durable)
    }

    fn stores(&self) -> Vec<StoreInfo> {
        self.live.read().policy.stores.values().cloned().collect()
    }

    fn region_heartbeat(&self, report: RegionReport) -> Result<Option<Operator>> {
        let spare = self.spare()?;
        let new = self.live.read().uninitialised(&report);
        if !new.is_empty() {
            self.note_initialised(&new)?;
        }
        let (id, epoch) = (report.region.id, report.region.epoch);
        let mut live = self.live.write();
        live.put(&report)?;
        let before = live.take_in_flight(id);
        let planned = live.plan(&self.config, spare, &report);
        match (planned, before) {
            (Some(Operator::AddLearner(new)), Some((at, Operator::AddLearner(old))))
                if at == epoch && live.kind(old.store) == live.kind(new.store) =>
            {
                // Said again, so that the replica keeps its id.
                live.set_in_flight(id, epoch, Operator::AddLearner(old));
                Ok(Some(Operator::AddLearner(old)))
            }
            (Some(Operator::AddLearner(new)), _) => {
                drop(live); // `saved` is locked before `live`, everywhere
                if !self.use_spare(spare) {
                    return Ok(None); // another region's report took the id
                }
                self.live.write().set_in_flight(id, epoch, Operator::AddLearner(new));
                Ok(Some(Operator::AddLearner(new)))
            }
            (planned, _) => Ok(planned),
        }
    }

    fn ask_split(&self, region: &Region, n: usize) -> Result<Vec<SplitIds>> {
        if n == 0 || n > SPLIT_MAX {
            return Err(Error::Invalid(format!("{n} new regions; 1..={SPLIT_MAX} are allowed")));
        }
        self.live.read().regions.check(region)?;
        let each = 1 + region.peers.len() as u64;
        let ids = self.alloc_ids(each * n as u64)?;
        let child = |first: u64| SplitIds {
            region: RegionId(first),
            peers: (first + 1..first + each).map(PeerId).collect(),
        };
        Ok(ids.step_by(each as usize).map(child).collect())
    }

    fn route(&self, key: &[u8]) -> Option<Route> {
        let live = self.live.read();
        live.regions
            .find(key)
            .map(|(region, facts)| Route { region: region.clone(), leader: facts.leader })
    }

    fn regions(&self) -> Vec<RegionStatus> {
        self.live.read().regions.iter().map(status).collect()
    }

    fn regions_in(&self, range: &KeyRange) -> Vec<RegionStatus> {
        self.live.read().regions.overlapping(range).map(status).collect()
    }

    fn set_column_rule(&self, rule: ColumnRule) -> Result<()> {
        if rule.replicas == 0 {
            return self.remove_column_rule(&rule.range);
        }
        if rule.range.is_empty() {
            return Err(Error::Invalid("a column rule for no keys".to_owned()));
        }
        let mut saved = self.saved.lock();
        let mut durable = saved.durable.clone();
        durable.rules.retain(|r| r.range != rule.range);
        if let Some(other) = durable.rules.iter().find(|r| r.range.intersect(&rule.range).is_some())
        {
            return Err(Error::Invalid(format!("the rule overlaps that of {:?}", other.range)));
        }
        durable.rules.push(rule);
        durable.rules.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        self.change(&mut saved, durable)
    }

    fn remove_column_rule(&self, range: &KeyRange) -> Result<()> {
        let mut saved = self.saved.lock();
        let mut durable = saved.durable.clone();
        durable.rules.retain(|r| r.range != *range);
        self.change(&mut saved, durable)
    }

    fn column_rules(&self) -> Vec<ColumnRule> {
        self.live.read().policy.rules.values().cloned().collect()
    }

    fn column_progress(&self, range: &KeyRange) -> ColumnProgress {
        let live = self.live.read();
        let each = u64::from(column_replicas(&live.policy.rules, range));
        let mut progress = ColumnProgress::default();
        let mut known_to = Some(range.start.clone());
        for (region, facts) in live.regions.overlapping(range) {
            progress.wanted += each;
            if known_to.as_ref().is_some_and(|key| region.range.start > *key) {
                progress.wanted += each; // a gap: some region has not reported yet
            }
            known_to = (!region.range.end.is_empty()).then(|| region.range.end.clone());
            if covers(range, &region.range) {
                let ready = region.learners().filter(|p| live.is_ready_column(p, facts)).count();
                progress.ready += each.min(ready as u64);
            }
        }
        if known_to.is_some_and(|key| range.end.is_empty() || key < range.end) {
            progress.wanted += each;
        }
        progress
    }
}

fn status((region, facts): &(Region, Facts)) -> RegionStatus {
    RegionStatus {
        region: region.clone(),
        leader: facts.leader,
        term: facts.term,
        bytes: facts.bytes,
        pending: facts.pending.clone(),
    }
}

impl Live {
    /// Registered stores with a caught-up replica that were not known to hold data.
    fn uninitialised(&self, report: &RegionReport) -> Vec<StoreId> {
        let holds = |peer: &&Peer| !report.pending.contains(&peer.id);
        let stores = report.region.peers.iter().filter(holds).map(|peer| peer.store);
        let new = |store: &StoreId| {
            !self.initialised.contains(store) && self.policy.stores.contains_key(store)
        };
        stores.filter(new).collect()
    }

    fn is_ready_column(&self, peer: &Peer, facts: &Facts) -> bool {
        self.kind(peer.store) == Some(StoreKind::Column)
            && peer.role == PeerRole::Learner
            && facts.leader.is_some()
            && !facts.pending.contains(&peer.id)
    }
}

#[cfg(test)]
mod tests;
