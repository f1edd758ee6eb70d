//! What reports rebuild after a restart: regions, leaders, loads, operators in flight; with a copy
//! of the durable policy, so that no report waits for a save. It must never save anything.

use crate::config::Config;
use crate::durable::Durable;
use crate::error::{Error, Result};
use crate::operator::{Operator, Progress};
use crate::planner::check_region;
use crate::regions::RegionMap;
use crate::values::*;
use crate::view::{RegionFacts, View, count};
use damask_types::{Peer, PeerRole, Region, RegionId, StoreId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Operators that have ended, for people to look at.
const ENDED_MAX: usize = 64;

/// The durable part that the planner looks at.
#[derive(Default)]
pub(crate) struct Policy {
    pub stores: BTreeMap<StoreId, StoreInfo>,
    pub rules: BTreeMap<Vec<u8>, ColumnRule>,
    pub settings: BTreeMap<StoreId, StoreSettings>,
}

impl Policy {
    pub fn of(durable: &Durable) -> Arc<Policy> {
        let stores = durable.stores.iter().map(|s| (s.id, s.clone())).collect();
        let rules = durable.rules.iter().map(|r| (r.range.start.clone(), r.clone())).collect();
        Arc::new(Policy { stores, rules, settings: durable.settings.clone() })
    }
}

/// The state that a restart forgets.
pub(crate) struct Live {
    config: Config,
    pub policy: Arc<Policy>,
    /// A copy of the durable set.
    pub initialised: BTreeSet<StoreId>,
    pub regions: RegionMap<RegionFacts>,
    loads: HashMap<StoreId, Load>,
    reports: BTreeMap<StoreId, (u64, StoreReport)>,
    running: BTreeMap<RegionId, Operator>,
    ended: VecDeque<OperatorStatus>,
    now_ms: u64,
    started_ms: Option<u64>,
}

impl Live {
    pub fn new(config: Config, durable: &Durable) -> Live {
        Live {
            config,
            policy: Policy::of(durable),
            initialised: durable.initialised.clone(),
            regions: RegionMap::new(),
            loads: HashMap::new(),
            reports: BTreeMap::new(),
            running: BTreeMap::new(),
            ended: VecDeque::new(),
            now_ms: 0,
            started_ms: None,
        }
    }

    pub fn view(&self) -> View<'_> {
        View {
            config: &self.config,
            now_ms: self.now_ms,
            started_ms: self.started_ms,
            stores: &self.policy.stores,
            settings: &self.policy.settings,
            reports: &self.reports,
            rules: &self.policy.rules,
            regions: &self.regions,
            loads: &self.loads,
            running: &self.running,
        }
    }

    /// Time has come this far; operators that took too long are given up.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.started_ms.get_or_insert(self.now_ms);
        let now = self.now_ms;
        let overdue: Vec<RegionId> =
            self.running.values().filter(|op| op.is_overdue(now)).map(|op| op.region).collect();
        for region in overdue {
            self.end(region, "given up: it took too long");
        }
    }

    pub fn heard_of(&mut self, report: StoreReport) {
        self.reports.insert(report.store, (self.now_ms, report));
    }

    /// Takes a report in; `Err` when it is older than what is known.
    pub fn put(&mut self, report: &RegionReport) -> Result<()> {
        let id = report.region.id;
        let known = self.regions.get(id);
        if let Some((_, facts)) = known
            && report.term < facts.term
        {
            let detail = format!("term {} is older than {}", report.term, facts.term);
            return Err(Error::Stale { region: id, detail });
        }
        let same = known.filter(|(region, _)| region.range == report.region.range);
        let facts = RegionFacts {
            leader: Some(report.leader),
            term: report.term,
            bytes: report.bytes,
            keys: report.keys,
            flow: report.flow,
            split_key: report.split_key.clone(),
            pending: report.pending.clone(),
            since_ms: same.map_or(self.now_ms, |(_, facts)| facts.since_ms),
            merging: report.merging,
            unsplittable: report.unsplittable,
        };
        self.insert(report.region.clone(), facts)
    }

    pub fn insert(&mut self, region: Region, facts: RegionFacts) -> Result<()> {
        let (id, new) = (region.id, (region.clone(), facts.clone()));
        for (gone, facts) in self.regions.put(region, facts)? {
            let weight = self.view().weight(&facts);
            count(&mut self.loads, &gone, &facts, weight, -1);
            if gone.id != id {
                let merged =
                    self.running.get(&gone.id).is_some_and(|op| op.merges_into() == Some(id));
                self.end(gone.id, if merged { "done" } else { "given up: the region is gone" });
            }
        }
        let weight = self.view().weight(&new.1);
        count(&mut self.loads, &new.0, &new.1, weight, 1);
        Ok(())
    }

    /// What the region's operator says now; `None`: it has none (any more).
    pub fn advance(&mut self, id: RegionId) -> Option<Option<Step>> {
        let operator = self.running.get(&id)?;
        let (region, facts) = self.regions.get(id)?;
        match operator.progress(&self.view(), region, facts) {
            Progress::Do(step) => Some(Some(step)),
            Progress::Wait(_) => Some(None),
            Progress::Done => {
                self.end(id, "done");
                None
            }
            Progress::Stale(why) => {
                self.end(id, &format!("given up: {why}"));
                None
            }
        }
    }

    /// What the region should do, if it has no operator.
    pub fn check(&self, id: RegionId) -> Option<Operator> {
        let (region, facts) = self.regions.get(id)?;
        check_region(&self.view(), region, facts)
    }

    /// Takes an operator, unless something has changed since it was planned.
    pub fn start(&mut self, operator: Operator) -> bool {
        let id = operator.region;
        let fits = self.regions.get(id).is_some_and(|(region, _)| operator.began_with(region));
        let free = !self.view().is_busy(id);
        let group = operator.kind.group();
        let same = self.running.values().filter(|op| op.kind.group() == group).count();
        let taken = fits && free && same < group.limit(&self.config);
        if taken {
            self.running.insert(id, operator);
        }
        taken
    }

    /// Ends an operator, if there is one; false: there is none.
    pub fn end(&mut self, region: RegionId, how: &str) -> bool {
        let Some(operator) = self.running.remove(&region) else { return false };
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(operator.status(self.now_ms, how.to_owned()));
        true
    }

    /// Ends every operator that does not fit a new policy.
    pub fn end_all(&mut self, how: &str, is_wrong: impl Fn(&Operator, &Region) -> bool) {
        let wrong = |op: &&Operator| {
            self.regions.get(op.region).is_none_or(|(region, _)| is_wrong(op, region))
        };
        let ids: Vec<_> = self.running.values().filter(wrong).map(|op| op.region).collect();
        for id in ids {
            self.end(id, how);
        }
    }

    /// Operators in flight, then those that have ended, the latest first.
    pub fn operators(&self) -> Vec<OperatorStatus> {
        let state = |op: &Operator| match self.regions.get(op.region) {
            None => "waits: the region is not known".to_owned(),
            Some((region, facts)) => match op.progress(&self.view(), region, facts) {
                Progress::Do(step) => step.to_string(),
                Progress::Wait(why) => format!("waits: {why}"),
                Progress::Done => "done".to_owned(),
                Progress::Stale(why) => format!("given up: {why}"),
            },
        };
        let running = self.running.values().map(|op| op.status(self.now_ms, state(op)));
        running.chain(self.ended.iter().rev().cloned()).collect()
    }

    /// Every store, with what it carries.
    pub fn store_statuses(&self) -> Vec<StoreStatus> {
        let status = |info: &StoreInfo| StoreStatus {
            info: info.clone(),
            settings: self.policy.settings.get(&info.id).cloned().unwrap_or_default(),
            health: self.view().health(info.id),
            load: self.loads.get(&info.id).copied().unwrap_or_default(),
        };
        self.policy.stores.values().map(status).collect()
    }

    pub fn is_ready_column(&self, peer: &Peer, facts: &RegionFacts) -> bool {
        self.view().kind(peer.store) == Some(StoreKind::Column)
            && peer.role == PeerRole::Learner
            && facts.leader.is_some()
            && !facts.pending.contains(&peer.id)
    }

    /// Registered stores with a caught-up replica that were not known to hold data.
    pub fn uninitialised(&self, report: &RegionReport) -> Vec<StoreId> {
        let holds = |peer: &&Peer| !report.pending.contains(&peer.id);
        let stores = report.region.peers.iter().filter(holds).map(|peer| peer.store);
        let new = |store: &StoreId| {
            !self.initialised.contains(store) && self.policy.stores.contains_key(store)
        };
        stores.filter(new).collect()
    }
}
