//! Hot regions, spread over stores by what they read (the leader moves) and write (a replica
//! moves). Only hot regions count here, and only a move that lowers the sum of squares is made.

use super::Known;
use crate::operator::{Group, Operator, OperatorKind};
use crate::values::{Intent, Step, StoreKind};
use crate::view::{Draft, RegionFacts, move_steps};
use damask_types::{Peer, Region, StoreId};
use std::collections::HashMap;

/// Hot reads: another replica leads.
pub(super) fn reads(draft: &mut Draft<'_>, regions: &[Known<'_>]) {
    let view = draft.view;
    let hot = |facts: &RegionFacts| facts.flow.read >= view.config.hot_flow;
    let hot: Vec<Known<'_>> = sorted(regions, hot, |facts| facts.flow.read);
    let mut loads: HashMap<StoreId, i64> = HashMap::new();
    for (region, facts) in &hot {
        if let Some(leader) = draft.destined(region, facts).0 {
            *loads.entry(leader).or_default() += facts.flow.read as i64;
        }
    }
    for (region, facts) in hot {
        let Some(leader) = facts.leader else { continue };
        if draft.is_busy(region.id) || !draft.has_room(Group::Hot) {
            continue;
        }
        let load = |id: StoreId| loads.get(&id).copied().unwrap_or(0);
        let can = |p: &&Peer| {
            p.store != leader.store
                && view.takes_leaders(p.store)
                && view.may_lead(region, facts, p.store)
        };
        let to = region.voters().filter(can).min_by_key(|p| (load(p.store), p.id)).copied();
        let flow = facts.flow.read as i64;
        let Some(to) = to.filter(|to| is_better(load(leader.store), load(to.store), flow)) else {
            continue;
        };
        *loads.entry(leader.store).or_default() -= flow;
        *loads.entry(to.store).or_default() += flow;
        let steps = vec![Step::TransferLeader(to)];
        draft.add(Operator::new(&view, region, OperatorKind::HotRead, steps));
    }
}

/// Hot writes: a voter moves.
pub(super) fn writes(draft: &mut Draft<'_>, regions: &[Known<'_>]) {
    let view = draft.view;
    let hot = |facts: &RegionFacts| facts.flow.write >= view.config.hot_flow;
    let hot: Vec<Known<'_>> = sorted(regions, hot, |facts| facts.flow.write);
    let mut loads: HashMap<StoreId, i64> = HashMap::new();
    for (region, facts) in &hot {
        for store in draft.destined(region, facts).1 {
            *loads.entry(store).or_default() += facts.flow.write as i64;
        }
    }
    for (region, facts) in hot {
        let skip = draft.is_busy(region.id) || !view.is_healthy(region, facts);
        if skip || !draft.has_room(Group::Hot) {
            continue;
        }
        let Some((old, to)) = write_move(draft, region, facts, &loads) else { continue };
        let flow = facts.flow.write as i64;
        *loads.entry(old.store).or_default() -= flow;
        *loads.entry(to).or_default() += flow;
        let steps = move_steps(old, to);
        draft.add(Operator::new(&view, region, OperatorKind::HotWrite, steps));
    }
}

/// From the voter's store that writes most to the store that writes least.
fn write_move(
    draft: &Draft<'_>,
    region: &Region,
    facts: &RegionFacts,
    loads: &HashMap<StoreId, i64>,
) -> Option<(Peer, StoreId)> {
    let load = |id: StoreId| loads.get(&id).copied().unwrap_or(0);
    let old = *region.voters().max_by_key(|p| (load(p.store), p.id))?;
    let places = |id: &StoreId| {
        draft.neighbours(StoreKind::Row, region, *id, Some(old.store))
            <= draft.neighbours(StoreKind::Row, region, old.store, None)
    };
    let serves = |id: &StoreId| draft.view.intent(*id) == Intent::Serve;
    let targets = draft.targets(StoreKind::Row, region).filter(serves).filter(places);
    let to = targets.min_by_key(|id| (load(*id), *id))?;
    is_better(load(old.store), load(to), facts.flow.write as i64).then_some((old, to))
}

/// Is the taker, with the region, at least an eighth of it below the giver before? So rates that
/// tremble move nothing back.
fn is_better(from: i64, to: i64, flow: i64) -> bool {
    from - to > flow + flow / 8
}

/// Hot regions, the busiest first.
fn sorted<'a>(
    regions: &[Known<'a>],
    is_hot: impl Fn(&RegionFacts) -> bool,
    flow: impl Fn(&RegionFacts) -> u64,
) -> Vec<Known<'a>> {
    let mut hot: Vec<_> = regions.iter().copied().filter(|(_, facts)| is_hot(facts)).collect();
    hot.sort_by_key(|(region, facts)| (std::cmp::Reverse(flow(facts)), region.id));
    hot
}
