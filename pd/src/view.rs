//! What the planner sees of the cluster, and a draft: the view with what is planned already. It
//! must never change anything but the draft.

use crate::config::Config;
use crate::operator::{Group, Operator};
use crate::regions::RegionMap;
use crate::values::*;
use damask_types::{Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What reports say of a region, beside its description.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionFacts {
    /// Who led it last; `None` = not reported yet.
    pub leader: Option<Peer>,
    /// The term of the last report.
    pub term: u64,
    /// Rough bytes of its rows.
    pub bytes: u64,
    /// Rough number of its rows' versions.
    pub keys: u64,
    /// How busy it is.
    pub flow: Flow,
    /// It has been too busy for long, and this key parts what is asked of it evenly.
    pub split_key: Option<Vec<u8>>,
    /// Replicas that have not caught up.
    pub pending: Vec<PeerId>,
    /// When its range was first seen as it is.
    pub since_ms: u64,
    /// It is about to become a part of its neighbour.
    pub merging: bool,
    /// There is no key in it to split it at.
    pub unsplittable: bool,
}

/// What the planner sees of the cluster.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The aims.
    pub config: &'a Config,
    /// Milliseconds on some clock that never goes back.
    pub now_ms: u64,
    /// When that clock was first looked at; `None`: never, and so no store is ever silent.
    pub started_ms: Option<u64>,
    /// Every store.
    pub stores: &'a BTreeMap<StoreId, StoreInfo>,
    /// What is asked of stores, where it is not the default.
    pub settings: &'a BTreeMap<StoreId, StoreSettings>,
    /// When stores were last heard of, and what they said.
    pub reports: &'a BTreeMap<StoreId, (u64, StoreReport)>,
    /// Every rule by the start of its range; they do not overlap.
    pub rules: &'a BTreeMap<Vec<u8>, ColumnRule>,
    /// Every region known.
    pub regions: &'a RegionMap<RegionFacts>,
    /// What stores carry, by what was reported.
    pub loads: &'a HashMap<StoreId, Load>,
    /// Operators in flight.
    pub running: &'a BTreeMap<RegionId, Operator>,
}

impl View<'_> {
    /// What a store keeps; `None`: it is not known.
    pub fn kind(&self, store: StoreId) -> Option<StoreKind> {
        self.stores.get(&store).map(|s| s.kind)
    }

    /// What a store is meant to do.
    pub fn intent(&self, store: StoreId) -> Intent {
        self.settings.get(&store).map_or(Intent::Serve, |s| s.intent)
    }

    /// Where a store stands; stores without the label are places of their own.
    fn place(&self, store: StoreId) -> Option<&str> {
        let labels = &self.settings.get(&store)?.labels;
        labels.get(&self.config.isolation_label).map(String::as_str)
    }

    /// Do two stores stand in the same place?
    pub fn is_shared(&self, a: StoreId, b: StoreId) -> bool {
        a == b || self.place(a).is_some_and(|place| Some(place) == self.place(b))
    }

    /// Has a store been heard of, and does it say that it is sound? Without a clock: yes, if it
    /// does not say the contrary.
    pub fn health(&self, store: StoreId) -> Health {
        if self.reports.get(&store).is_some_and(|(_, report)| report.failed) {
            return Health::Down;
        }
        let Some(started) = self.started_ms else { return Health::Up };
        let seen = self.reports.get(&store).map_or(started, |(at, _)| *at);
        match self.now_ms.saturating_sub(seen) {
            silent if silent > self.config.down_ms => Health::Down,
            silent if silent > self.config.quiet_ms => Health::Quiet,
            _ => Health::Up,
        }
    }

    /// Was it heard of lately?
    pub fn is_up(&self, store: StoreId) -> bool {
        self.health(store) == Health::Up
    }

    /// Must a replica go from there, and why?
    pub fn is_leaving(&self, store: StoreId) -> bool {
        self.health(store) == Health::Down || self.intent(store) == Intent::Drain
    }

    /// Stores of a kind, by id.
    pub fn stores_of(&self, kind: StoreKind) -> impl Iterator<Item = StoreId> + '_ {
        self.stores.values().filter(move |s| s.kind == kind).map(|s| s.id)
    }

    /// May stores of this kind be given leaders?
    pub fn takes_leaders(&self, store: StoreId) -> bool {
        self.kind(store) == Some(StoreKind::Row)
            && self.is_up(store)
            && self.intent(store) == Intent::Serve
    }

    fn takes_replicas(&self, store: StoreId) -> bool {
        let has_room = self.reports.get(&store).is_none_or(|(_, report)| {
            report.available.saturating_mul(100)
                >= report.capacity.saturating_mul(self.config.free_percent_min)
        });
        self.is_up(store) && self.intent(store) != Intent::Drain && has_room
    }

    /// Voters that are up and have caught up, without one.
    pub fn live_voters(
        &self,
        region: &Region,
        facts: &RegionFacts,
        without: Option<PeerId>,
    ) -> usize {
        let live = |p: &&Peer| self.is_up(p.store) && !facts.pending.contains(&p.id);
        region.voters().filter(live).filter(|p| Some(p.id) != without).count()
    }

    /// Can the replica on this store lead now? What the store is meant to do is not asked.
    pub fn may_lead(&self, region: &Region, facts: &RegionFacts, store: StoreId) -> bool {
        region.peer_on(store).is_some_and(|p| {
            p.role == PeerRole::Voter && !facts.pending.contains(&p.id) && self.is_up(store)
        })
    }

    /// The best replica to lead beside the one on `not`: on a store that takes leaders, with few.
    pub fn best_leader(&self, region: &Region, facts: &RegionFacts, not: StoreId) -> Option<Peer> {
        let others = region.voters().filter(|p| p.store != not);
        let can = others.filter(|p| self.may_lead(region, facts, p.store));
        let leaders = |store| self.loads.get(&store).map_or(0, |load| load.leaders);
        can.min_by_key(|p| (!self.takes_leaders(p.store), leaders(p.store), p.id)).copied()
    }

    /// A leader, as many voters as are wanted, and every replica up and caught up.
    pub fn is_healthy(&self, region: &Region, facts: &RegionFacts) -> bool {
        facts.leader.is_some()
            && facts.pending.is_empty()
            && region.voters().count() == self.voters_wanted()
            && region.peers.iter().all(|p| self.is_up(p.store) && !self.is_leaving(p.store))
    }

    /// How many voters a region should have.
    pub fn voters_wanted(&self) -> usize {
        self.config.voters.min(self.stores_of(StoreKind::Row).count())
    }

    /// Is it busier than others may be?
    pub fn is_hot(&self, facts: &RegionFacts) -> bool {
        facts.flow.read.max(facts.flow.write) >= self.config.hot_flow
    }

    /// Is an operator in flight for it, or about to merge something into it, or is it merging, or
    /// between two sets of voters?
    pub fn is_busy(&self, region: RegionId) -> bool {
        let changing = |id| {
            self.regions.get(id).is_some_and(|(region, facts)| facts.merging || region.is_joint())
        };
        changing(region)
            || self.running.contains_key(&region)
            || self.running.values().any(|op| op.merges_into() == Some(region))
    }

    /// Do the known regions hold every key, each with a leader? If not, and for a while after the
    /// start, nothing is balanced.
    pub fn is_known(&self) -> bool {
        let Some(started) = self.started_ms else { return false };
        if self.now_ms.saturating_sub(started) >= self.config.warm_up_ms {
            return true;
        }
        let mut next: Option<&[u8]> = Some(b"");
        for (region, facts) in self.regions.iter() {
            if next != Some(region.range.start.as_slice()) || facts.leader.is_none() {
                return false;
            }
            next = (!region.range.end.is_empty()).then_some(region.range.end.as_slice());
        }
        next.is_none()
    }

    /// What a region weighs on a store: an empty one is not for free.
    pub fn weight(&self, facts: &RegionFacts) -> i64 {
        facts.bytes.saturating_add(self.config.region_bytes_max / 100 + 1) as i64
    }
}

/// Have two regions replicas of the same roles on the same stores?
pub fn same_stores(a: &Region, b: &Region) -> bool {
    let on = |r: &Region| r.peers.iter().map(|p| (p.store, p.role)).collect::<HashMap<_, _>>();
    a.peers.len() == b.peers.len() && on(a) == on(b)
}

/// Adds what a region puts on stores to `loads`, or takes it away (`sign` −1).
pub(crate) fn count(
    loads: &mut HashMap<StoreId, Load>,
    region: &Region,
    facts: &RegionFacts,
    weight: i64,
    sign: i64,
) {
    for peer in &region.peers {
        let load = loads.entry(peer.store).or_default();
        load.replicas += sign;
        load.bytes += sign * weight;
        load.pending += sign * i64::from(facts.pending.contains(&peer.id));
        load.write += sign * facts.flow.write as i64;
    }
    if let Some(leader) = facts.leader {
        let load = loads.entry(leader.store).or_default();
        load.leaders += sign;
        load.read += sign * facts.flow.read as i64;
    }
}

/// A view with what is planned already: loads move as soon as an operator is planned.
pub struct Draft<'a> {
    /// The view.
    pub view: View<'a>,
    /// What stores will carry.
    pub loads: HashMap<StoreId, Load>,
    /// What is planned.
    pub planned: Vec<Operator>,
    busy: BTreeSet<RegionId>,
    counts: HashMap<Group, usize>,
}

impl<'a> Draft<'a> {
    /// A view with nothing planned yet.
    pub fn new(view: View<'a>) -> Draft<'a> {
        let (loads, busy) = (view.loads.clone(), BTreeSet::new());
        let mut draft = Draft { view, loads, planned: Vec::new(), busy, counts: HashMap::new() };
        for operator in view.running.values() {
            draft.take(operator);
        }
        let changing =
            |(region, facts): &&(Region, RegionFacts)| facts.merging || region.is_joint();
        let changing = view.regions.iter().filter(changing);
        draft.busy.extend(changing.map(|(region, _)| region.id));
        draft
    }

    /// Is there an operator for the region, in flight or planned?
    pub fn is_busy(&self, region: RegionId) -> bool {
        self.busy.contains(&region)
    }

    /// May there be one more of this group?
    pub fn has_room(&self, group: Group) -> bool {
        self.counts.get(&group).copied().unwrap_or(0) < group.limit(self.view.config)
    }

    /// Plans an operator, unless its group is full.
    pub fn add(&mut self, operator: Operator) {
        if self.has_room(operator.kind.group()) && !self.is_busy(operator.region) {
            self.take(&operator);
            self.planned.push(operator);
        }
    }

    /// What a store will carry.
    pub fn load(&self, store: StoreId) -> Load {
        self.loads.get(&store).copied().unwrap_or_default()
    }

    fn take(&mut self, operator: &Operator) {
        *self.counts.entry(operator.kind.group()).or_default() += 1;
        self.busy.insert(operator.region);
        self.busy.extend(operator.merges_into());
        let Some((region, facts)) = self.view.regions.get(operator.region) else { return };
        let weight = self.view.weight(facts);
        for step in &operator.steps {
            match step {
                Step::AddLearner(peer) if !step.is_visible(region) => {
                    let load = self.loads.entry(peer.store).or_default();
                    load.replicas += 1;
                    load.pending += 1;
                    load.bytes += weight;
                    load.write += facts.flow.write as i64;
                }
                Step::RemovePeer(peer) if !step.is_visible(region) => {
                    let load = self.loads.entry(peer.store).or_default();
                    load.replicas -= 1;
                    load.bytes -= weight;
                    load.write -= facts.flow.write as i64;
                }
                Step::TransferLeader(peer) => {
                    let to = peer.store;
                    self.move_leader(facts, to);
                }
                _ => {}
            }
        }
    }

    fn move_leader(&mut self, facts: &RegionFacts, to: StoreId) {
        let read = facts.flow.read as i64;
        if let Some(leader) = facts.leader {
            let load = self.loads.entry(leader.store).or_default();
            load.leaders -= 1;
            load.read -= read;
        }
        let load = self.loads.entry(to).or_default();
        load.leaders += 1;
        load.read += read;
    }

    /// Where a region will be led, and where it will have voters, once its operator is done.
    /// `None`: led by whoever is at hand.
    pub fn destined(
        &self,
        region: &Region,
        facts: &RegionFacts,
    ) -> (Option<StoreId>, Vec<StoreId>) {
        let mut leader = facts.leader.map(|leader| leader.store);
        let mut voters: Vec<StoreId> = region.voters().map(|p| p.store).collect();
        for step in self.view.running.get(&region.id).into_iter().flat_map(|op| &op.steps) {
            match step {
                Step::TransferLeader(peer) => leader = Some(peer.store),
                Step::AddVoter(peer) if !voters.contains(&peer.store) => voters.push(peer.store),
                Step::Swap { add, old } => {
                    voters.retain(|store| *store != old.store && *store != add.store);
                    voters.push(add.store);
                    leader = leader.filter(|store| *store != old.store);
                }
                Step::RemovePeer(peer) => {
                    voters.retain(|store| *store != peer.store);
                    leader = leader.filter(|store| *store != peer.store);
                }
                _ => {}
            }
        }
        (leader, voters)
    }

    /// The best store for one more replica of a region, in place of the one on `leaving`: no other
    /// replica in its place, and little on it.
    pub fn best_target(
        &self,
        kind: StoreKind,
        region: &Region,
        leaving: Option<StoreId>,
    ) -> Option<StoreId> {
        let key = |id: &StoreId| {
            let load = self.load(*id);
            (self.neighbours(kind, region, *id, leaving), load.bytes, load.replicas, *id)
        };
        self.targets(kind, region).min_by_key(key)
    }

    /// Stores that may get a replica of a region.
    pub fn targets(&self, kind: StoreKind, region: &Region) -> impl Iterator<Item = StoreId> {
        let pending_max = self.view.config.pending_max as i64;
        self.view
            .stores_of(kind)
            .filter(|id| region.peer_on(*id).is_none())
            .filter(|id| self.view.takes_replicas(*id))
            .filter(move |id| self.load(*id).pending < pending_max)
    }

    /// Replicas of a kind that stand where `store` does, but for it and for the one on `leaving`.
    pub fn neighbours(
        &self,
        kind: StoreKind,
        region: &Region,
        store: StoreId,
        leaving: Option<StoreId>,
    ) -> usize {
        let others = region.peers.iter().filter(|p| p.store != store && Some(p.store) != leaving);
        let same = others.filter(|p| self.view.kind(p.store) == Some(kind));
        same.filter(|p| self.view.is_shared(p.store, store)).count()
    }
}

/// A replica that is to be: its id comes when the operator is accepted.
pub fn new_peer(store: StoreId, role: PeerRole) -> Peer {
    Peer { id: PeerId(0), store, role }
}

/// Steps that move a replica: the new one has caught up before the old one goes, and a voter is
/// replaced in one step, so that there is never one more or one less.
pub fn move_steps(old: Peer, to: StoreId) -> Vec<Step> {
    let mut steps = vec![Step::AddLearner(new_peer(to, PeerRole::Learner))];
    if old.role == PeerRole::Voter {
        steps.push(Step::Swap { add: new_peer(to, PeerRole::Voter), old });
    }
    steps.push(Step::RemovePeer(old));
    steps
}
