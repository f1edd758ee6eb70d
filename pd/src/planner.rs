//! Decides a region's next step from a view of the cluster. Pure: no lock, no clock, no id of its
//! own making; the same view and report give the same answer.
//!
//! In this order, at most one step: split at the edges of column rules; finish or undo what the
//! replicas are in the middle of; add replicas that are wanted; split what is too large.

use crate::error::{Error, Result};
use crate::values::*;
use damask_types::{KeyRange, Peer, PeerId, PeerRole, Region, StoreId};
use std::collections::{BTreeMap, HashMap};

/// What the planner aims at.
#[derive(Clone, Debug)]
pub struct Config {
    /// Rough bytes above which a region is split (TiKV: 96 MiB; a snapshot of it is one transfer).
    pub region_bytes_max: u64,
    /// Replicas that vote, where there are enough row stores. Odd.
    pub voters: usize,
    /// Regions of one store that may wait for a snapshot at a time (PD: 64, on larger machines).
    pub pending_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { region_bytes_max: 96 << 20, voters: 3, pending_max: 16 }
    }
}

impl Config {
    /// Explains what is wrong.
    pub fn validate(&self) -> Result<()> {
        let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
        if self.region_bytes_max < 1024 {
            return invalid("region_bytes_max must be at least 1024");
        }
        if self.voters == 0 || self.voters.is_multiple_of(2) {
            return invalid("voters must be odd");
        }
        if self.pending_max == 0 {
            return invalid("pending_max must be at least 1");
        }
        Ok(())
    }
}

/// What the planner sees of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The aims.
    pub config: &'a Config,
    /// Every store.
    pub stores: &'a BTreeMap<StoreId, StoreInfo>,
    /// Every rule by the start of its range; they do not overlap.
    pub rules: &'a BTreeMap<Vec<u8>, ColumnRule>,
    /// Replicas on each store.
    pub replicas: &'a HashMap<StoreId, usize>,
    /// Replicas on each store that have not caught up.
    pub pending: &'a HashMap<StoreId, usize>,
    /// The id of a replica, should one be added.
    pub spare: PeerId,
}

impl View<'_> {
    fn kind(&self, store: StoreId) -> Option<StoreKind> {
        self.stores.get(&store).map(|s| s.kind)
    }

    fn stores_of(&self, kind: StoreKind) -> impl Iterator<Item = StoreId> + '_ {
        self.stores.values().filter(move |s| s.kind == kind).map(|s| s.id)
    }

    /// The store of this kind with the fewest replicas that has none of the region and room for
    /// one more snapshot.
    fn emptiest(&self, kind: StoreKind, region: &Region) -> Option<StoreId> {
        let count = |map: &HashMap<StoreId, usize>, id| map.get(&id).copied().unwrap_or(0);
        self.stores_of(kind)
            .filter(|id| region.peer_on(*id).is_none())
            .filter(|id| count(self.pending, *id) < self.config.pending_max)
            .min_by_key(|id| (count(self.replicas, *id), *id))
    }
}

/// The next step for a reported region; `None`: it is as it should be, or must wait.
pub fn plan(view: &View<'_>, report: &RegionReport) -> Option<Operator> {
    let region = &report.region;
    let edges = rule_edges(view.rules, &region.range);
    if !edges.is_empty() {
        return Some(Operator::SplitAt(edges));
    }
    voters(view, report)
        .or_else(|| columns(view, report))
        .or_else(|| (report.bytes > view.config.region_bytes_max).then_some(Operator::Split))
}

/// Edges of rules strictly inside of `range`, ascending.
fn rule_edges(rules: &BTreeMap<Vec<u8>, ColumnRule>, range: &KeyRange) -> Vec<Vec<u8>> {
    let inside =
        |key: &[u8]| !key.is_empty() && key > range.start.as_slice() && range.contains(key);
    if range.is_empty() {
        return Vec::new();
    }
    // Rules do not overlap: of those that begin before the range, only the last can end in it.
    let before = rules.range(..=range.start.clone()).next_back();
    let within = rules.range((
        std::ops::Bound::Excluded(range.start.clone()),
        if range.end.is_empty() {
            std::ops::Bound::Unbounded
        } else {
            std::ops::Bound::Excluded(range.end.clone())
        },
    ));
    let mut edges: Vec<Vec<u8>> = before
        .into_iter()
        .chain(within)
        .flat_map(|(_, rule)| [&rule.range.start, &rule.range.end])
        .filter(|key| inside(key))
        .cloned()
        .collect();
    edges.sort();
    edges.dedup();
    edges
}

/// Learners asked for by the rule that the region lies in wholly.
pub(crate) fn column_replicas(rules: &BTreeMap<Vec<u8>, ColumnRule>, range: &KeyRange) -> u32 {
    let rule = rules.range(..=range.start.clone()).next_back().map(|(_, rule)| rule);
    rule.filter(|rule| covers(&rule.range, range)).map_or(0, |rule| rule.replicas)
}

/// Is all of `inner` in `outer`?
pub(crate) fn covers(outer: &KeyRange, inner: &KeyRange) -> bool {
    let end = outer.end.is_empty() || (!inner.end.is_empty() && inner.end <= outer.end);
    outer.start <= inner.start && end
}

/// Row stores: a replica is first a learner, and votes once it has caught up, so that adding it
/// never leaves the group waiting for an empty voter.
fn voters(view: &View<'_>, report: &RegionReport) -> Option<Operator> {
    let region = &report.region;
    let wanted = view.config.voters.min(view.stores_of(StoreKind::Row).count());
    let missing = wanted.saturating_sub(region.voters().count());
    let learner = region.learners().find(|p| view.kind(p.store) == Some(StoreKind::Row));
    match (learner, missing) {
        (Some(peer), 0) => Some(Operator::RemovePeer(*peer)),
        (Some(peer), _) if report.pending.contains(&peer.id) => None,
        (Some(peer), _) => Some(Operator::AddVoter(Peer { role: PeerRole::Voter, ..*peer })),
        (None, 0) => None,
        (None, _) => add_learner(view, StoreKind::Row, region),
    }
}

/// Column stores: as many learners as the region's rule asks for, no more.
fn columns(view: &View<'_>, report: &RegionReport) -> Option<Operator> {
    let region = &report.region;
    let wanted = column_replicas(view.rules, &region.range) as usize;
    let wanted = wanted.min(view.stores_of(StoreKind::Column).count());
    let on_columns = |p: &&Peer| view.kind(p.store) == Some(StoreKind::Column);
    let have = region.learners().filter(on_columns).count();
    match have.cmp(&wanted) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => add_learner(view, StoreKind::Column, region),
        std::cmp::Ordering::Greater => {
            // One that has not caught up goes first, then the youngest.
            let key = |p: &&Peer| (report.pending.contains(&p.id), p.id);
            let surplus = region.learners().filter(on_columns).max_by_key(key);
            surplus.map(|peer| Operator::RemovePeer(*peer))
        }
    }
}

fn add_learner(view: &View<'_>, kind: StoreKind, region: &Region) -> Option<Operator> {
    let store = view.emptiest(kind, region)?;
    Some(Operator::AddLearner(Peer { id: view.spare, store, role: PeerRole::Learner }))
}

#[cfg(test)]
mod tests;
