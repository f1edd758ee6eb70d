//! Leaders and bytes, spread evenly over the stores that take them. Each move lowers the sum of
//! squares; hot regions are never touched.

use super::Known;
use crate::operator::{Group, Operator, OperatorKind};
use crate::values::{Intent, Step, StoreKind};
use crate::view::{Draft, move_steps};
use damask_types::{Peer, StoreId};

/// Stores that are to lead nothing, and those that have failed, give their leaders away.
pub(super) fn leaders_off(draft: &mut Draft<'_>, regions: &[Known<'_>]) {
    let view = draft.view;
    let failed = |store| view.reports.get(&store).is_some_and(|(_, report)| report.failed);
    let evicts = |store| {
        view.kind(store).is_some() && (view.intent(store) != Intent::Serve || failed(store))
    };
    for (region, facts) in regions {
        let Some(leader) = facts.leader.filter(|leader| evicts(leader.store)) else { continue };
        if draft.is_busy(region.id) || !draft.has_room(Group::Leader) {
            continue;
        }
        let takes =
            |p: &&Peer| view.takes_leaders(p.store) && view.may_lead(region, facts, p.store);
        let others = region.voters().filter(|p| p.store != leader.store).filter(takes);
        let to = others.min_by_key(|p| (draft.load(p.store).leaders, p.id)).copied();
        if let Some(to) = to {
            let steps = vec![Step::TransferLeader(to)];
            draft.add(Operator::new(&view, region, OperatorKind::Evict, steps));
        }
    }
}

/// Stores that lead many regions let stores that lead few have some.
pub(super) fn leaders(draft: &mut Draft<'_>, regions: &[Known<'_>]) {
    let view = draft.view;
    let tolerance = view.config.leader_tolerance as i64;
    while draft.has_room(Group::Leader) {
        let mut stores: Vec<StoreId> =
            view.stores_of(StoreKind::Row).filter(|id| view.takes_leaders(*id)).collect();
        stores.sort_by_key(|id| (draft.load(*id).leaders, *id));
        let leaders = |id: StoreId| draft.load(id).leaders;
        let pairs = stores.iter().rev().flat_map(|from| stores.iter().map(move |to| (*from, *to)));
        let found = pairs.filter(|(from, to)| leaders(*from) - leaders(*to) > tolerance).find_map(
            |(from, to)| {
                let fits = |known: &&Known<'_>| {
                    let (region, facts) = **known;
                    facts.leader.is_some_and(|leader| leader.store == from)
                        && !view.is_hot(facts)
                        && view.may_lead(region, facts, to)
                        && !draft.is_busy(region.id)
                };
                let (region, _) = *regions.iter().find(fits)?;
                Some((region, *region.peer_on(to)?))
            },
        );
        let Some((region, to)) = found else { return };
        let steps = vec![Step::TransferLeader(to)];
        draft.add(Operator::new(&view, region, OperatorKind::BalanceLeader, steps));
    }
}

/// Stores that hold much give replicas to stores of their kind that hold little.
pub(super) fn regions(draft: &mut Draft<'_>, regions: &[Known<'_>]) {
    for kind in [StoreKind::Row, StoreKind::Column] {
        while draft.has_room(Group::Replica) {
            let Some(operator) = region_move(draft, regions, kind) else { break };
            draft.add(operator);
        }
    }
}

fn region_move(draft: &Draft<'_>, regions: &[Known<'_>], kind: StoreKind) -> Option<Operator> {
    let view = &draft.view;
    let mut stores: Vec<StoreId> = view
        .stores_of(kind)
        .filter(|id| view.is_up(*id) && view.intent(*id) != Intent::Drain)
        .collect();
    let bytes = |id: StoreId| draft.load(id).bytes;
    stores.sort_by_key(|id| (bytes(*id), *id));
    let mean = stores.iter().map(|id| bytes(*id)).sum::<i64>() / stores.len().max(1) as i64;
    let tolerance = mean / 100 * view.config.region_tolerance_percent as i64;
    for from in stores.iter().rev() {
        for to in &stores {
            let gap = bytes(*from) - bytes(*to);
            if gap <= tolerance {
                break;
            }
            // The largest that leaves the giver with no less than the taker: the fewest moves.
            let fits = regions.iter().filter(|known| {
                let (region, facts) = **known;
                2 * view.weight(facts) <= gap
                    && region.peer_on(*from).is_some()
                    && !view.is_hot(facts)
                    && !draft.is_busy(region.id)
                    && view.is_healthy(region, facts)
                    && draft.targets(kind, region).any(|id| id == *to)
                    && draft.neighbours(kind, region, *to, Some(*from))
                        <= draft.neighbours(kind, region, *from, None)
            });
            let best = fits.max_by_key(|(_, facts)| facts.bytes);
            if let Some((region, _)) = best {
                let old = *region.peer_on(*from).expect("it has a replica there");
                let steps = move_steps(old, *to);
                return Some(Operator::new(view, region, OperatorKind::BalanceRegion, steps));
            }
        }
    }
    None
}
