//! A person's order as an operator, or why not. It must never make an operator that a leader would
//! refuse as long as the cluster stays as it is.

use crate::error::{Error, Result};
use crate::operator::{Operator, OperatorKind};
use crate::planner::merge_steps;
use crate::values::{Health, Intent, Order, Step, StoreKind};
use crate::view::{RegionFacts, View, move_steps};
use damask_types::{Peer, PeerRole, Region, RegionId, StoreId};

/// The operator for an order.
///
/// # Errors
/// What stands in the way, in words for the person.
pub fn operator_for(view: &View<'_>, order: &Order) -> Result<Operator> {
    let (id, steps) = match order {
        Order::Split { region, keys } => (*region, split(view, *region, keys)?),
        Order::Transfer { region, to } => (*region, transfer(view, *region, *to)?),
        Order::Move { region, from, to } => (*region, move_replica(view, *region, *from, *to)?),
        Order::Merge { region, into } => (*region, merge(view, *region, *into)?),
        Order::Cancel { .. } => return refuse("a cancelled operator has no successor"),
    };
    let (region, _) = known(view, id)?;
    free(view, id)?;
    Ok(Operator::new(view, region, OperatorKind::Ordered, steps))
}

/// Is nothing under way that changes the region?
fn free(view: &View<'_>, id: RegionId) -> Result<()> {
    let (region, facts) = known(view, id)?;
    if let Some(other) = view.running.values().find(|op| op.merges_into() == Some(id)) {
        let other = other.region;
        return refuse(format!("region {other} is being merged into region {id}: wait for it"));
    }
    if let Some(running) = view.running.get(&id) {
        return refuse(format!("{running} is in flight: cancel it, or wait"));
    }
    if facts.merging {
        return refuse(format!("region {id} is being merged into its neighbour: wait for it"));
    }
    if region.is_joint() {
        return refuse(format!("the replicas of region {id} are just being changed: try later"));
    }
    Ok(())
}

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(why.into()))
}

fn known<'a>(view: &View<'a>, id: RegionId) -> Result<&'a (Region, RegionFacts)> {
    match view.regions.get(id) {
        None => refuse(format!("there is no region {id}: `regions` lists those there are")),
        Some((_, facts)) if facts.leader.is_none() => {
            refuse(format!("region {id} has no leader: nobody could carry this out"))
        }
        Some(known) => Ok(known),
    }
}

fn replica(region: &Region, store: StoreId) -> Result<Peer> {
    let stores: Vec<String> = region.peers.iter().map(|p| p.store.to_string()).collect();
    let text = || {
        let (id, list) = (region.id, stores.join(", "));
        Error::Invalid(format!("region {id} has no replica on store {store}, but on {list}"))
    };
    region.peer_on(store).copied().ok_or_else(text)
}

fn split(view: &View<'_>, id: RegionId, keys: &[Vec<u8>]) -> Result<Vec<Step>> {
    let (region, facts) = known(view, id)?;
    if keys.is_empty() && facts.unsplittable {
        return refuse(format!("region {id} has no middle: its replicas found too little in it"));
    }
    if keys.is_empty() {
        return Ok(vec![Step::Split(2)]);
    }
    if !keys.is_sorted_by(|a, b| a < b) {
        return refuse("the keys of a split must ascend");
    }
    let outside = keys.iter().find(|k| !region.range.contains(k) || **k == region.range.start);
    match outside {
        Some(key) => {
            let key = damask_types::key::Hex(key);
            refuse(format!("key {key} does not lie inside of region {id}, after its start"))
        }
        None => Ok(vec![Step::SplitAt(keys.to_vec())]),
    }
}

fn transfer(view: &View<'_>, id: RegionId, to: StoreId) -> Result<Vec<Step>> {
    let (region, facts) = known(view, id)?;
    let peer = replica(region, to)?;
    if facts.leader.is_some_and(|leader| leader.id == peer.id) {
        return refuse(format!("store {to} leads region {id} already"));
    }
    if peer.role == PeerRole::Learner {
        return refuse(format!("the replica of region {id} on store {to} learns: it cannot lead"));
    }
    if facts.pending.contains(&peer.id) {
        return refuse(format!("the replica of region {id} on store {to} has not caught up"));
    }
    healthy(view, to)?;
    Ok(vec![Step::TransferLeader(peer)])
}

fn healthy(view: &View<'_>, store: StoreId) -> Result<()> {
    match view.health(store) {
        Health::Up => Ok(()),
        Health::Quiet => refuse(format!("store {store} has not been heard of for a moment")),
        Health::Down => refuse(format!("store {store} is down")),
    }
}

fn move_replica(view: &View<'_>, id: RegionId, from: StoreId, to: StoreId) -> Result<Vec<Step>> {
    let (region, facts) = known(view, id)?;
    let old = replica(region, from)?;
    let kind = |store| view.kind(store).ok_or(Error::UnknownStore(store));
    if kind(from)? != kind(to)? {
        return refuse(format!(
            "store {from} keeps {}, store {to} {}: a replica does not change its kind",
            word(kind(from)?),
            word(kind(to)?)
        ));
    }
    if region.peer_on(to).is_some() {
        return refuse(format!("region {id} has a replica on store {to} already"));
    }
    if view.intent(to) == Intent::Drain {
        return refuse(format!("store {to} is being drained"));
    }
    healthy(view, to)?;
    if let Some(peer) = facts.pending.first() {
        return refuse(format!("replica {peer} of region {id} has not caught up: try later"));
    }
    Ok(move_steps(old, to))
}

fn word(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Row => "rows",
        StoreKind::Column => "columns",
    }
}

fn merge(view: &View<'_>, id: RegionId, into: RegionId) -> Result<Vec<Step>> {
    if !view.config.merge {
        return refuse("merges are switched off in this cluster");
    }
    let ((region, _), (target, _)) = (known(view, id)?, known(view, into)?);
    let adjacent = |a: &Region, b: &Region| !a.range.end.is_empty() && a.range.end == b.range.start;
    if !adjacent(region, target) && !adjacent(target, region) {
        return refuse(format!("regions {id} and {into} are not neighbours"));
    }
    free(view, into)?;
    let unlike = || {
        let stores = |region: &Region| {
            let one = |peer: &Peer| match peer.role {
                PeerRole::Learner => format!("{}~", peer.store),
                _ => peer.store.to_string(),
            };
            region.peers.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        format!(
            "region {id} has replicas on stores {}, region {into} on {} (~ learns): a merge needs \
             as many of each kind on both; the placement driver adds or removes what rules of \
             columns and the number of replicas want",
            stores(region),
            stores(target)
        )
    };
    merge_steps(region, target).ok_or_else(|| Error::Invalid(unlike()))
}
