//! Column stores: as many learners of a region as its rule asks for, on stores that stay. It must
//! never make one of them vote.

use crate::operator::OperatorKind;
use crate::values::{ColumnRule, Health, Step, StoreKind};
use crate::view::{Draft, RegionFacts, move_steps, new_peer};
use damask_types::{KeyRange, Peer, PeerRole, Region};
use std::cmp::Ordering;
use std::collections::BTreeMap;

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

/// The next step towards as many as are wanted.
pub(super) fn check(
    draft: &Draft<'_>,
    region: &Region,
    facts: &RegionFacts,
) -> Option<(OperatorKind, Vec<Step>)> {
    let view = &draft.view;
    let wanted = column_replicas(view.rules, &region.range) as usize;
    let wanted = wanted.min(view.stores_of(StoreKind::Column).count());
    let there: Vec<Peer> = region
        .peers
        .iter()
        .filter(|p| view.kind(p.store) == Some(StoreKind::Column))
        .copied()
        .collect();
    match there.len().cmp(&wanted) {
        Ordering::Less => {
            let store = draft.best_target(StoreKind::Column, region, None)?;
            let peer = new_peer(store, PeerRole::Learner);
            Some((OperatorKind::Columns, vec![Step::AddLearner(peer)]))
        }
        Ordering::Equal => {
            let leaving = there.into_iter().find(|p| view.is_leaving(p.store))?;
            let kind = match view.health(leaving.store) {
                Health::Down => OperatorKind::Repair,
                _ => OperatorKind::Drain,
            };
            let to = draft.best_target(StoreKind::Column, region, Some(leaving.store))?;
            Some((kind, move_steps(leaving, to)))
        }
        Ordering::Greater => {
            // One on a store that leaves, one that has not caught up, the youngest.
            let worst = |p: &Peer| {
                let pending = facts.pending.contains(&p.id);
                (view.is_leaving(p.store), pending, p.id)
            };
            let surplus = there.into_iter().max_by_key(worst)?;
            Some((OperatorKind::Columns, vec![Step::RemovePeer(surplus)]))
        }
    }
}
