//! The placement driver in process: durable state saved before it is used, volatile state rebuilt
//! from reports, the planner's answers handed out one at a time. It must never give out an id
//! below a bound that was not saved.

use crate::config::Config;
use crate::durable::Durable;
use crate::error::{Error, Result};
use crate::live::{Live, Policy};
use crate::operator::{Operator, OperatorKind};
use crate::orders::operator_for;
use crate::planner::{column_replicas, covers, plan};
use crate::seam::Placement;
use crate::values::*;
use crate::view::RegionFacts;
use damask_types::{KeyRange, PeerId, Region, RegionId, StoreId};
use parking_lot::{Mutex, RwLock};
use std::ops::Range;

/// Ids whose bound is saved at a time (PD: 1000).
const ID_WINDOW: u64 = 1000;
/// Ids of one request, at most.
const IDS_MAX: u64 = 1 << 20;
/// New regions of one split, at most.
const SPLIT_MAX: usize = 1024;

/// Where the durable state goes. The cluster wires it to a disk.
///
/// For a driver that is itself a Raft group this seam needs what a disk of one's own gives for
/// nothing: `save` must fail as soon as another member may have saved, so that no two ever give
/// out ids or timestamps of one window; and after each election what was saved last must be
/// opened anew before anything is answered. The rest of the driver is rebuilt from reports.
pub trait Persist: Send + Sync {
    /// Replaces what was saved before, atomically; durable on return.
    fn save(&self, bytes: &[u8]) -> std::result::Result<(), String>;
}

/// A placement driver in this process.
pub struct Pd {
    cluster_id: u64,
    persist: Box<dyn Persist>,
    saved: Mutex<Saved>,
    live: RwLock<Live>,
}

/// The durable state, and what is left of its window of ids.
struct Saved {
    durable: Durable,
    next_id: u64,
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
        let live = Live::new(config, &durable);
        Ok(Pd {
            cluster_id: durable.cluster_id,
            persist,
            saved: Mutex::new(Saved { next_id: durable.id_bound, durable }),
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
            || saved.durable.rules != durable.rules
            || saved.durable.settings != durable.settings)
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

    /// A rule has changed: operators for it are planned anew.
    fn end_columns(&self, range: &KeyRange) {
        let is_wrong = |operator: &Operator, region: &Region| {
            operator.kind == OperatorKind::Columns && region.range.intersect(range).is_some()
        };
        self.live.write().end_all("given up: the rule has changed", is_wrong);
    }

    /// Gives new replicas their ids, and lets the operators run that still fit.
    fn start(&self, operators: Vec<Operator>) -> Result<usize> {
        let wanted = operators.iter().map(Operator::ids_wanted).sum();
        let mut ids = match wanted {
            0 => 0..0,
            n => self.alloc_ids(n)?, // `saved` is locked before `live`, everywhere
        };
        let mut live = self.live.write();
        let mut started = 0;
        for mut operator in operators {
            operator.assign_ids(&mut ids);
            started += usize::from(live.start(operator));
        }
        Ok(started)
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
        self.live.write().insert(first.clone(), RegionFacts::default())?;
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

    fn tick(&self, now_ms: u64) -> Result<()> {
        let planned = {
            let mut live = self.live.write();
            live.set_now(now_ms);
            plan(&live.view(), now_ms)
        };
        self.start(planned)?;
        Ok(())
    }

    fn store_heartbeat(&self, report: StoreReport) -> Result<()> {
        let mut live = self.live.write();
        if !live.policy.stores.contains_key(&report.store) {
            return Err(Error::UnknownStore(report.store));
        }
        live.heard_of(report);
        Ok(())
    }

    fn region_heartbeat(&self, report: RegionReport) -> Result<Option<Step>> {
        let new = self.live.read().uninitialised(&report);
        if !new.is_empty() {
            self.note_initialised(&new)?;
        }
        let id = report.region.id;
        let planned = {
            let mut live = self.live.write();
            live.put(&report)?;
            if let Some(answer) = live.advance(id) {
                return Ok(answer);
            }
            live.check(id)
        };
        let Some(operator) = planned else { return Ok(None) };
        self.start(vec![operator])?;
        Ok(self.live.write().advance(id).flatten())
    }

    fn set_store(&self, store: StoreId, settings: StoreSettings) -> Result<()> {
        let mut saved = self.saved.lock();
        let mut durable = saved.durable.clone();
        if durable.stores.iter().all(|s| s.id != store) {
            return Err(Error::UnknownStore(store));
        }
        let leaves = settings.intent == Intent::Drain;
        let before = durable.settings.get(&store).map_or(Intent::Serve, |set| set.intent);
        if before == Intent::Serve && settings.intent != before {
            durable.check_another_serves(store)?;
        }
        match settings == StoreSettings::default() {
            true => drop(durable.settings.remove(&store)),
            false => drop(durable.settings.insert(store, settings)),
        }
        self.change(&mut saved, durable)?;
        if leaves {
            let how = "given up: its store is to leave";
            self.live.write().end_all(how, |operator, _| operator.targets(store));
        }
        Ok(())
    }

    fn store_statuses(&self) -> Vec<StoreStatus> {
        self.live.read().store_statuses()
    }

    fn order(&self, order: &Order) -> Result<()> {
        if let Order::Cancel { region } = order {
            return match self.live.write().end(*region, "cancelled") {
                true => Ok(()),
                false => {
                    Err(Error::Invalid(format!("no operator is in flight for region {region}")))
                }
            };
        }
        let operator = operator_for(&self.live.read().view(), order)?;
        match self.start(vec![operator])? {
            0 => Err(Error::Invalid("the region has just changed: look again".to_owned())),
            _ => Ok(()),
        }
    }

    fn operators(&self) -> Vec<OperatorStatus> {
        self.live.read().operators()
    }

    fn mark(&self, mark: Mark) -> u64 {
        self.saved.lock().durable.marks.get(&mark).copied().unwrap_or(0)
    }

    fn raise(&self, mark: Mark, to: u64) -> Result<u64> {
        let mut saved = self.saved.lock();
        let mut durable = saved.durable.clone();
        let value = durable.marks.entry(mark).or_default();
        *value = (*value).max(to);
        let now = *value;
        self.change(&mut saved, durable)?;
        Ok(now)
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
        let range = rule.range.clone();
        durable.rules.push(rule);
        durable.rules.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        self.change(&mut saved, durable)?;
        self.end_columns(&range);
        Ok(())
    }

    fn remove_column_rule(&self, range: &KeyRange) -> Result<()> {
        let mut saved = self.saved.lock();
        let mut durable = saved.durable.clone();
        durable.rules.retain(|r| r.range != *range);
        self.change(&mut saved, durable)?;
        self.end_columns(range);
        Ok(())
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

fn status((region, facts): &(Region, RegionFacts)) -> RegionStatus {
    RegionStatus {
        region: region.clone(),
        leader: facts.leader,
        term: facts.term,
        bytes: facts.bytes,
        keys: facts.keys,
        flow: facts.flow,
        pending: facts.pending.clone(),
    }
}

#[cfg(test)]
mod tests;
