//! An operator: the steps that bring one region to where a checker wants it, and how far a report
//! shows them done. It must never let a region pass below a quorum of live voters.

use crate::config::Config;
use crate::values::{Health, OperatorStatus, Step};
use crate::view::{self, RegionFacts, View};
use damask_types::{Epoch, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use std::fmt;

/// Why an operator was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OperatorKind {
    /// The region crosses the edge of a column rule.
    SplitAtRule,
    /// The region is too large.
    SplitBySize,
    /// The region has too many keys.
    SplitByKeys,
    /// The region is too busy.
    SplitByLoad,
    /// A voter is missing.
    Replicate,
    /// A voter is on a store that is down.
    Repair,
    /// A replica is on a store that is to leave.
    Drain,
    /// There is a replica too many.
    Surplus,
    /// Two voters share a host.
    Spread,
    /// A column rule wants more or fewer learners.
    Columns,
    /// A store is to lead nothing.
    Evict,
    /// A store leads more than others.
    BalanceLeader,
    /// A store holds more than others.
    BalanceRegion,
    /// A store has more hot reads than others.
    HotRead,
    /// A store has more hot writes than others.
    HotWrite,
    /// Two neighbours are small.
    Merge,
    /// A person asked.
    Ordered,
}

/// Operators that share a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Only leaders move.
    Leader,
    /// Replicas change.
    Replica,
    /// For hot regions.
    Hot,
    /// Merges.
    Merge,
    /// Splits and orders: one for each region, no limit beside.
    Free,
}

impl OperatorKind {
    /// Whose limit it counts in.
    pub fn group(self) -> Group {
        use OperatorKind::*;
        match self {
            SplitAtRule | SplitBySize | SplitByKeys | SplitByLoad | Ordered => Group::Free,
            Evict | BalanceLeader => Group::Leader,
            HotRead | HotWrite => Group::Hot,
            Merge => Group::Merge,
            Replicate | Repair | Drain | Surplus | Spread | Columns | BalanceRegion => {
                Group::Replica
            }
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        use OperatorKind::*;
        match self {
            SplitAtRule => "split-at-rule",
            SplitBySize => "split-by-size",
            SplitByKeys => "split-by-keys",
            SplitByLoad => "split-by-load",
            Replicate => "replicate",
            Repair => "repair",
            Drain => "drain",
            Surplus => "surplus",
            Spread => "spread",
            Columns => "columns",
            Evict => "evict",
            BalanceLeader => "balance-leader",
            BalanceRegion => "balance-region",
            HotRead => "hot-read",
            HotWrite => "hot-write",
            Merge => "merge",
            Ordered => "ordered",
        }
    }
}

impl Group {
    /// How many may be in flight.
    pub fn limit(self, config: &Config) -> usize {
        match self {
            Group::Leader => config.leader_operators_max,
            Group::Replica => config.replica_operators_max,
            Group::Hot => config.hot_operators_max,
            Group::Merge => config.merge_operators_max,
            Group::Free => usize::MAX,
        }
    }
}

impl Step {
    /// Milliseconds that it may take: a snapshot is slow, everything else is one round of Raft.
    fn timeout_ms(&self) -> u64 {
        match self {
            Step::AddLearner(_) | Step::Merge(_) => 600_000,
            Step::Split(_) | Step::SplitAt(_) => 60_000,
            Step::AddVoter(_) | Step::Swap { .. } | Step::RemovePeer(_) => 30_000,
            Step::TransferLeader(_) => 10_000,
        }
    }

    /// Does the region show its effect on the replicas?
    pub(crate) fn is_visible(&self, region: &Region) -> bool {
        match self {
            Step::AddLearner(peer) => region.peer(peer.id).is_some(),
            Step::AddVoter(peer) => region.peer(peer.id).is_some_and(|p| p.role == PeerRole::Voter),
            Step::Swap { add, old } => {
                region.peer(add.id).is_some_and(|p| p.role == PeerRole::Voter)
                    && region.peer(old.id).is_none_or(|p| p.role == PeerRole::Learner)
            }
            Step::RemovePeer(peer) => region.peer(peer.id).is_none(),
            _ => false,
        }
    }

    /// By so much it raises the version of the replicas.
    fn conf_changes(&self) -> u64 {
        match self {
            Step::AddLearner(_) | Step::AddVoter(_) | Step::RemovePeer(_) => 1,
            // Two replicas, when the joint configuration begins and when it ends.
            Step::Swap { .. } => 4,
            Step::TransferLeader(_) | Step::Split(_) | Step::SplitAt(_) | Step::Merge(_) => 0,
        }
    }
}

/// The steps for one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Which one.
    pub region: RegionId,
    /// Why.
    pub kind: OperatorKind,
    /// In this order. A new replica has the id 0 until the operator is accepted.
    pub steps: Vec<Step>,
    /// The replicas that it began with.
    peers: Vec<Peer>,
    /// The versions of range and replicas that it began with.
    epoch: Epoch,
    /// When.
    began_ms: u64,
}

/// How far an operator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The leader shall do this now.
    Do(Step),
    /// Nothing to do at the moment, and why.
    Wait(&'static str),
    /// Every step is done.
    Done,
    /// It makes no sense any more, and why.
    Stale(&'static str),
}

impl Operator {
    /// For a region as it is now.
    pub fn new(view: &View<'_>, region: &Region, kind: OperatorKind, steps: Vec<Step>) -> Operator {
        Operator {
            region: region.id,
            kind,
            steps,
            peers: region.peers.clone(),
            epoch: region.epoch,
            began_ms: view.now_ms,
        }
    }

    /// New replicas without an id.
    pub fn ids_wanted(&self) -> u64 {
        let new = |s: &&Step| matches!(s, Step::AddLearner(p) if p.id == PeerId(0));
        self.steps.iter().filter(new).count() as u64
    }

    /// Gives ids to new replicas; a learner that is to vote keeps its id.
    pub fn assign_ids(&mut self, mut next: impl Iterator<Item = u64>) {
        let mut given: Vec<(StoreId, PeerId)> = Vec::new();
        for step in &mut self.steps {
            match step {
                Step::AddLearner(peer) if peer.id == PeerId(0) => {
                    peer.id = PeerId(next.next().expect("as many ids as were wanted"));
                    given.push((peer.store, peer.id));
                }
                Step::AddVoter(peer) | Step::Swap { add: peer, .. } if peer.id == PeerId(0) => {
                    let found = given.iter().find(|(store, _)| *store == peer.store);
                    peer.id = found.expect("a voter is first a learner").1;
                }
                _ => {}
            }
        }
    }

    /// Is the region still as it was when this was planned?
    pub fn began_with(&self, region: &Region) -> bool {
        self.epoch == region.epoch && self.peers == region.peers
    }

    /// Has it taken too long? Every step is given its time.
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        let limit: u64 = self.steps.iter().map(Step::timeout_ms).sum();
        now_ms.saturating_sub(self.began_ms) > limit
    }

    /// The region that it is merged into, if it is.
    pub fn merges_into(&self) -> Option<RegionId> {
        self.steps.iter().find_map(|step| match step {
            Step::Merge(target) => Some(*target),
            _ => None,
        })
    }

    /// Does it put a replica, or a leader, on this store?
    pub fn targets(&self, store: StoreId) -> bool {
        self.steps.iter().any(|step| match step {
            Step::AddLearner(p) | Step::AddVoter(p) | Step::TransferLeader(p) => p.store == store,
            Step::Swap { add, .. } => add.store == store,
            _ => false,
        })
    }

    /// What to do now, from what the leader reports.
    pub fn progress(&self, view: &View<'_>, region: &Region, facts: &RegionFacts) -> Progress {
        if region.is_joint() {
            return Progress::Wait("it has two sets of voters for a moment");
        }
        if !self.explains(&region.peers, region) || self.was_undone(region) {
            return Progress::Stale("the replicas were changed by somebody else");
        }
        let unfinished = self.steps.iter().find(|s| !self.is_finished(s, region, facts));
        let Some(step) = unfinished else { return Progress::Done };
        match step {
            Step::AddLearner(peer) if view.health(peer.store) == Health::Down => {
                Progress::Stale("the new replica's store is down")
            }
            Step::AddLearner(_) if step.is_visible(region) => {
                Progress::Wait("the new replica catches up")
            }
            Step::AddVoter(peer) => add_voter(view, region, facts, peer, step),
            Step::Swap { add, old } => swap(view, region, facts, (add, old), step),
            Step::RemovePeer(peer) => remove_peer(view, region, facts, peer, step),
            Step::TransferLeader(peer) => match view.may_lead(region, facts, peer.store) {
                true => Progress::Do(step.clone()),
                false => Progress::Stale("the replica cannot lead now"),
            },
            Step::Merge(_) if facts.merging => Progress::Wait("its neighbour takes it in"),
            Step::Merge(_) if region.epoch.version > self.epoch.version => {
                Progress::Stale("the region is as it was before, or was split")
            }
            Step::Merge(target) => merge(view, region, *target, step),
            Step::Split(_) if facts.unsplittable => {
                Progress::Stale("the region has no key to split at")
            }
            Step::AddLearner(_) | Step::Split(_) | Step::SplitAt(_) => Progress::Do(step.clone()),
        }
    }

    /// Are the replicas those of the beginning, with some of the steps done?
    fn explains(&self, now: &[Peer], region: &Region) -> bool {
        let mut expected = self.peers.clone();
        for step in self.steps.iter().filter(|step| step.is_visible(region)) {
            match step {
                Step::AddLearner(peer) => expected.push(*peer),
                Step::AddVoter(peer) => {
                    let known = expected.iter_mut().find(|p| p.id == peer.id);
                    known.into_iter().for_each(|p| p.role = PeerRole::Voter);
                }
                Step::Swap { add, old } => {
                    for peer in expected.iter_mut() {
                        match peer.id {
                            id if id == add.id => peer.role = PeerRole::Voter,
                            id if id == old.id => peer.role = PeerRole::Learner,
                            _ => {}
                        }
                    }
                }
                Step::RemovePeer(peer) => expected.retain(|p| p.id != peer.id),
                _ => {}
            }
        }
        expected.len() == now.len()
            && now.iter().all(|p| expected.iter().any(|e| e.id == p.id && e.role == p.role))
    }

    /// Were the replicas changed more often than the visible steps say? Then one of the others was
    /// done, and undone by somebody else. It is not done again: a replica that was removed has used
    /// up its id, and its store would not have it back.
    fn was_undone(&self, region: &Region) -> bool {
        let visible = self.steps.iter().filter(|step| step.is_visible(region));
        let changes: u64 = visible.map(Step::conf_changes).sum();
        // So does the first step of a merge.
        let merges = self.merges_into().is_some() && region.epoch.version > self.epoch.version;
        region.epoch.conf_ver > self.epoch.conf_ver + changes + u64::from(merges)
    }

    fn is_finished(&self, step: &Step, region: &Region, facts: &RegionFacts) -> bool {
        match step {
            Step::AddLearner(peer) => step.is_visible(region) && !facts.pending.contains(&peer.id),
            Step::AddVoter(_) | Step::Swap { .. } | Step::RemovePeer(_) => step.is_visible(region),
            Step::TransferLeader(peer) => facts.leader.is_some_and(|l| l.id == peer.id),
            Step::Split(_) | Step::SplitAt(_) => region.epoch.version > self.epoch.version,
            // When it is, the region is no more.
            Step::Merge(_) => false,
        }
    }

    /// For people.
    pub fn status(&self, now_ms: u64, state: String) -> OperatorStatus {
        OperatorStatus {
            region: self.region,
            kind: self.kind.name().to_owned(),
            steps: self.steps.iter().map(ToString::to_string).collect(),
            state,
            age_ms: now_ms.saturating_sub(self.began_ms),
        }
    }
}

fn add_voter(
    view: &View<'_>,
    region: &Region,
    facts: &RegionFacts,
    peer: &Peer,
    step: &Step,
) -> Progress {
    if facts.pending.contains(&peer.id) {
        return Progress::Wait("the new replica catches up");
    }
    let live = view.live_voters(region, facts, None) + usize::from(view.is_up(peer.store));
    let after = region.voters().count() + 1;
    match live > after / 2 {
        true => Progress::Do(step.clone()),
        false => Progress::Wait("with one voter more, too few would be alive"),
    }
}

/// Both sets of voters must have a living majority. The old voter leads no more before, if another
/// one can; else it hands over on the way.
fn swap(
    view: &View<'_>,
    region: &Region,
    facts: &RegionFacts,
    (add, old): (&Peer, &Peer),
    step: &Step,
) -> Progress {
    if facts.pending.contains(&add.id) {
        return Progress::Wait("the new replica catches up");
    }
    let voters = region.voters().count();
    let stay = view.live_voters(region, facts, Some(old.id));
    if stay + usize::from(view.is_up(add.store)) <= voters / 2 {
        return Progress::Wait(
            "with the new voter in place of the old one, too few would be alive",
        );
    }
    if facts.leader.is_none_or(|leader| leader.id != old.id) {
        return Progress::Do(step.clone());
    }
    match view.best_leader(region, facts, old.store) {
        Some(other) => Progress::Do(Step::TransferLeader(other)),
        None => Progress::Do(step.clone()),
    }
}

fn remove_peer(
    view: &View<'_>,
    region: &Region,
    facts: &RegionFacts,
    peer: &Peer,
    step: &Step,
) -> Progress {
    let is_voter = region.peer(peer.id).is_some_and(|p| p.role == PeerRole::Voter);
    if is_voter {
        let rest = region.voters().count() - 1;
        if view.live_voters(region, facts, Some(peer.id)) <= rest / 2 {
            return Progress::Wait("without this voter, too few would be alive");
        }
    }
    if facts.leader.is_none_or(|leader| leader.id != peer.id) {
        return Progress::Do(step.clone());
    }
    // A leader cannot remove itself.
    match view.best_leader(region, facts, peer.store) {
        Some(other) => Progress::Do(Step::TransferLeader(other)),
        None => Progress::Wait("no other replica can lead"),
    }
}

fn merge(view: &View<'_>, region: &Region, target: RegionId, step: &Step) -> Progress {
    let Some((other, facts)) = view.regions.get(target) else {
        return Progress::Stale("the neighbour is gone");
    };
    if !view::same_stores(region, other) {
        return Progress::Stale("the neighbour's replicas are elsewhere");
    }
    // Until it is given up, nothing else is done for the two: not a replica more.
    if other.peers.iter().any(|peer| view.health(peer.store) == Health::Down) {
        return Progress::Stale("a replica's store is down, and has to be replaced first");
    }
    match facts.pending.is_empty() {
        true => Progress::Do(step.clone()),
        false => Progress::Wait("the neighbour's replicas catch up"),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AddLearner(p) => write!(f, "add a learner on store {}", p.store),
            Step::AddVoter(p) => write!(f, "let the replica on store {} vote", p.store),
            Step::Swap { add, old } => {
                write!(f, "let store {} vote in place of store {}", add.store, old.store)
            }
            Step::RemovePeer(p) => write!(f, "remove the replica on store {}", p.store),
            Step::TransferLeader(p) => write!(f, "let store {} lead", p.store),
            Step::Split(2) => write!(f, "split in the middle"),
            Step::Split(parts) => write!(f, "split into {parts} parts"),
            Step::SplitAt(keys) => write!(f, "split at {} keys", keys.len()),
            Step::Merge(target) => write!(f, "merge into region {target}"),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(ToString::to_string).collect();
        write!(f, "region {}: {}: {}", self.region, self.kind.name(), steps.join(", then "))
    }
}

#[cfg(test)]
mod tests;
