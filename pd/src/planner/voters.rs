//! Row stores: as many voters as are wanted, on stores that stay, in places of their own. A replica
//! is first a learner, and votes once it has caught up, so that a group never waits for an empty
//! voter. It must never remove a voter before its replacement votes.

use crate::operator::OperatorKind;
use crate::values::{Health, Intent, Step, StoreKind};
use crate::view::{Draft, RegionFacts, move_steps, new_peer};
use damask_types::{Peer, PeerRole, Region};

/// The next operator towards that, if any.
pub(super) fn check(
    draft: &Draft<'_>,
    region: &Region,
    facts: &RegionFacts,
) -> Option<(OperatorKind, Vec<Step>)> {
    let view = &draft.view;
    let wanted = view.voters_wanted();
    let have = region.voters().count();
    let learner = region.learners().find(|p| view.kind(p.store) == Some(StoreKind::Row));
    if let Some(peer) = learner {
        return leftover(draft, region, facts, *peer, wanted);
    }
    if have < wanted {
        let store = draft.best_target(StoreKind::Row, region, None)?;
        let learner = Step::AddLearner(new_peer(store, PeerRole::Learner));
        let voter = Step::AddVoter(new_peer(store, PeerRole::Voter));
        return Some((OperatorKind::Replicate, vec![learner, voter]));
    }
    if have > wanted {
        let worst = worst(draft, region, facts)?;
        return Some((OperatorKind::Surplus, vec![Step::RemovePeer(worst)]));
    }
    if let Some((leaving, kind)) = leaving(draft, region) {
        let to = draft.best_target(StoreKind::Row, region, Some(leaving.store))?;
        return Some((kind, move_steps(leaving, to)));
    }
    spread(draft, region)
}

/// A learner on a row store that no operator is busy with.
fn leftover(
    draft: &Draft<'_>,
    region: &Region,
    facts: &RegionFacts,
    peer: Peer,
    wanted: usize,
) -> Option<(OperatorKind, Vec<Step>)> {
    let vote = Step::AddVoter(Peer { role: PeerRole::Voter, ..peer });
    if draft.view.is_leaving(peer.store) {
        return Some((OperatorKind::Surplus, vec![Step::RemovePeer(peer)]));
    }
    if region.voters().count() < wanted {
        // Waits for it: another would be one too many.
        let ready = !facts.pending.contains(&peer.id);
        return ready.then(|| (OperatorKind::Replicate, vec![vote]));
    }
    Some(match leaving(draft, region) {
        Some((old, kind)) => {
            let add = Peer { role: PeerRole::Voter, ..peer };
            (kind, vec![Step::Swap { add, old }, Step::RemovePeer(old)])
        }
        None => (OperatorKind::Surplus, vec![Step::RemovePeer(peer)]),
    })
}

/// A voter on a store that is down, or else on one that is to leave.
fn leaving(draft: &Draft<'_>, region: &Region) -> Option<(Peer, OperatorKind)> {
    let view = &draft.view;
    let down = region.voters().find(|p| view.health(p.store) == Health::Down);
    let drained = || region.voters().find(|p| view.intent(p.store) == Intent::Drain);
    match down {
        Some(peer) => Some((*peer, OperatorKind::Repair)),
        None => drained().map(|peer| (*peer, OperatorKind::Drain)),
    }
}

/// The voter to lose least by, when there is one too many.
fn worst(draft: &Draft<'_>, region: &Region, facts: &RegionFacts) -> Option<Peer> {
    let view = &draft.view;
    let key = |p: &&Peer| {
        let pending = facts.pending.contains(&p.id);
        let leads = facts.leader.is_some_and(|leader| leader.id == p.id);
        (
            view.health(p.store) == Health::Down,
            view.intent(p.store) == Intent::Drain,
            pending,
            draft.neighbours(StoreKind::Row, region, p.store, None),
            !leads,
            draft.load(p.store).bytes,
            p.id,
        )
    };
    region.voters().max_by_key(key).copied()
}

/// Two voters in one place: one moves to where there is none.
fn spread(draft: &Draft<'_>, region: &Region) -> Option<(OperatorKind, Vec<Step>)> {
    let crowded = |p: &&Peer| draft.neighbours(StoreKind::Row, region, p.store, None);
    let peer = *region.voters().max_by_key(|p| (crowded(p), draft.load(p.store).bytes, p.id))?;
    if crowded(&&peer) == 0 {
        return None;
    }
    let to = draft.best_target(StoreKind::Row, region, Some(peer.store))?;
    let alone = draft.neighbours(StoreKind::Row, region, to, Some(peer.store)) == 0;
    alone.then(|| (OperatorKind::Spread, move_steps(peer, to)))
}
