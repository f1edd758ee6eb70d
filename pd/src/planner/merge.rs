//! Small neighbours become one region: the smaller moves to where the larger is, and is merged.
//! Never what would be split again.

use super::Known;
use super::columns::column_replicas;
use super::split::rule_edges;
use crate::operator::{Group, Operator, OperatorKind};
use crate::values::Step;
use crate::view::{Draft, RegionFacts, move_steps, same_stores};
use damask_types::{KeyRange, Peer, Region};

/// Goes through neighbours in key order.
pub(super) fn neighbours(draft: &mut Draft<'_>, regions: &[Known<'_>]) {
    if !draft.view.config.merge {
        return;
    }
    for (at, (region, facts)) in regions.iter().enumerate() {
        if !draft.has_room(Group::Merge) {
            return;
        }
        let config = draft.view.config;
        let is_large = facts.bytes > config.merge_bytes() || facts.keys > config.merge_keys();
        if is_large || !is_calm(draft, region, facts) {
            continue;
        }
        let before = at.checked_sub(1).and_then(|i| regions.get(i));
        let beside = [before, regions.get(at + 1)].into_iter().flatten();
        let fits = beside.filter(|other| fits(draft, (region, facts), other));
        // The smaller neighbour: sizes stay even.
        let Some((target, _)) = fits.min_by_key(|(_, facts)| facts.bytes) else { continue };
        if let Some(steps) = steps(region, target) {
            let operator = Operator::new(&draft.view, region, OperatorKind::Merge, steps);
            draft.add(operator);
        }
    }
}

/// Healthy, quiet, not changed lately, and nobody is busy with it.
fn is_calm(draft: &Draft<'_>, region: &Region, facts: &RegionFacts) -> bool {
    let view = &draft.view;
    !draft.is_busy(region.id)
        && view.is_healthy(region, facts)
        && !view.is_hot(facts)
        && view.now_ms.saturating_sub(facts.since_ms) >= view.config.merge_quiet_ms
}

fn fits(draft: &Draft<'_>, (region, facts): (&Region, &RegionFacts), other: Known<'_>) -> bool {
    let (target, target_facts) = other;
    let config = draft.view.config;
    let (left, right) = match region.range.start < target.range.start {
        true => (region, target),
        false => (target, region),
    };
    let whole = KeyRange::new(left.range.start.clone(), right.range.end.clone());
    let rules = draft.view.rules;
    let flow = |f: &RegionFacts| f.flow.read.saturating_add(f.flow.write);
    left.range.end == right.range.start
        && is_calm(draft, target, target_facts)
        && facts.bytes.saturating_add(target_facts.bytes) <= config.region_bytes_max / 2
        && facts.keys.saturating_add(target_facts.keys) <= config.region_keys_max / 2
        && flow(facts).saturating_add(flow(target_facts)) < config.hot_flow / 2
        && rule_edges(rules, &whole).is_empty()
        && column_replicas(rules, &region.range) == column_replicas(rules, &target.range)
}

/// Moves of the region's replicas to the neighbour's stores, then the merge. `None`: they do not
/// have the same numbers of replicas.
pub(crate) fn steps(region: &Region, target: &Region) -> Option<Vec<Step>> {
    if same_stores(region, target) {
        return Some(vec![Step::Merge(target.id)]);
    }
    let lacks = |of: &Region, than: &Region| -> Vec<Peer> {
        let has = |p: &Peer| than.peers.iter().any(|o| o.store == p.store && o.role == p.role);
        let mut peers: Vec<_> = of.peers.iter().filter(|p| !has(p)).copied().collect();
        peers.sort_by_key(|p| (p.role == damask_types::PeerRole::Learner, p.store));
        peers
    };
    let (extra, missing) = (lacks(region, target), lacks(target, region));
    let pairs = extra.iter().zip(&missing).all(|(old, new)| old.role == new.role);
    if extra.len() != missing.len() || !pairs {
        return None;
    }
    let moves = extra.iter().zip(&missing).flat_map(|(old, new)| move_steps(*old, new.store));
    Some(moves.chain([Step::Merge(target.id)]).collect())
}
