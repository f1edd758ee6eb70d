//! A region's replicas before and after a change, by the description alone. A change of several is
//! joint: until it is left, decisions need a majority of the voters before and of those after. It
//! must never leave a region without a voter.
//!
//! ```text
//!            joint +4 −3                    leave
//!  {1 2 3} ─────────────► {1 2 3}&{1 2 4} ─────────► {1 2 4}, 3 learns
//!  conf_ver c             c + 2: 4 incoming,         c + 4
//!                         3 demoting
//! ```
//! `conf_ver` grows by the replicas that change at each of the two steps, as TiKV's does.

use crate::command::Membership;
use crate::handle::PeerChange;
use damask_types::{Peer, PeerRole, Region};
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

/// The region after a change; or why not, in words.
pub(crate) fn after(region: &Region, change: &Membership) -> Result<Region, String> {
    match change {
        Membership::One(change) => change_one(region, *change),
        Membership::Joint(changes) => enter(region, changes),
        Membership::Leave => leave(region),
    }
}

/// The region after a change of one replica.
fn change_one(region: &Region, change: PeerChange) -> Result<Region, String> {
    if region.is_joint() {
        return Err(format!("region {} is between two sets of voters", region.id));
    }
    let mut after = region.clone();
    after.epoch.conf_ver += 1;
    let (peer, role) = match change {
        PeerChange::Remove(peer) => {
            if region.peer(peer.id).is_none() {
                return Err(format!("peer {} is not in region {}", peer.id, region.id));
            }
            after.peers.retain(|p| p.id != peer.id);
            if after.voters().next().is_none() {
                return Err("the last voter cannot be removed".to_owned());
            }
            return Ok(after);
        }
        PeerChange::AddLearner(peer) => (peer, PeerRole::Learner),
        PeerChange::AddVoter(peer) => (peer, PeerRole::Voter),
    };
    match after.peers.iter_mut().find(|p| p.id == peer.id || p.store == peer.store) {
        Some(there) if there.id != peer.id || there.store != peer.store => {
            return Err(format!("store {} has peer {} already", there.store, there.id));
        }
        Some(there) if there.role == role => return Err(format!("peer {} is that", peer.id)),
        Some(there) => there.role = role,
        None => after.peers.push(Peer { role, ..peer }),
    }
    if after.voters().next().is_none() {
        return Err("the last voter cannot be demoted".to_owned());
    }
    Ok(after)
}

fn enter(region: &Region, changes: &[PeerChange]) -> Result<Region, String> {
    if region.is_joint() {
        return Err(format!("region {} is between two sets of voters", region.id));
    }
    let mut after = region.clone();
    after.epoch.conf_ver += changes.len() as u64;
    for change in changes {
        let (peer, role) = match *change {
            PeerChange::AddVoter(peer) => (peer, PeerRole::Incoming),
            PeerChange::AddLearner(peer) => (peer, PeerRole::Learner),
            PeerChange::Remove(peer) => {
                return Err(format!("peer {} must learn before it is removed", peer.id));
            }
        };
        let there = after.peers.iter_mut().find(|p| p.id == peer.id || p.store == peer.store);
        match there {
            Some(there) if there.id != peer.id || there.store != peer.store => {
                return Err(format!("store {} has peer {} already", there.store, there.id));
            }
            Some(there) => {
                there.role = match (there.role, role) {
                    (PeerRole::Learner, PeerRole::Incoming) => PeerRole::Incoming,
                    (PeerRole::Voter, PeerRole::Learner) => PeerRole::Demoting,
                    _ => return Err(format!("peer {} is that, or named twice", peer.id)),
                };
            }
            None => after.peers.push(Peer { role, ..peer }),
        }
    }
    if !after.is_joint() {
        return Err("a joint change is one of voters".to_owned());
    }
    if !after.peers.iter().any(|p| matches!(p.role, PeerRole::Voter | PeerRole::Incoming)) {
        return Err("the last voter cannot be demoted".to_owned());
    }
    Ok(after)
}

fn leave(region: &Region) -> Result<Region, String> {
    let mut after = region.clone();
    for peer in &mut after.peers {
        let role = match peer.role {
            PeerRole::Incoming => PeerRole::Voter,
            PeerRole::Demoting => PeerRole::Learner,
            PeerRole::Voter | PeerRole::Learner => continue,
        };
        peer.role = role;
        after.epoch.conf_ver += 1;
    }
    match after.epoch == region.epoch {
        true => Err(format!("region {} is not between two sets of voters", region.id)),
        false => Ok(after),
    }
}

/// The change as raft-rs wants it. It never leaves a joint configuration by itself: it would
/// forget to when its leader changes.
pub(crate) fn raft_change(change: &Membership) -> ConfChangeV2 {
    let single = |change: &PeerChange| {
        let (kind, peer) = match change {
            PeerChange::AddLearner(peer) => (ConfChangeType::AddLearnerNode, peer),
            PeerChange::AddVoter(peer) => (ConfChangeType::AddNode, peer),
            PeerChange::Remove(peer) => (ConfChangeType::RemoveNode, peer),
        };
        ConfChangeSingle { change_type: kind as i32, node_id: peer.id.0 }
    };
    match change {
        Membership::One(change) => {
            ConfChangeV2 { changes: vec![single(change)], ..ConfChangeV2::default() }
        }
        Membership::Joint(changes) => ConfChangeV2 {
            transition: ConfChangeTransition::Explicit as i32,
            changes: changes.iter().map(single).collect(),
            ..ConfChangeV2::default()
        },
        // raft-rs leaves when there is nothing in it.
        Membership::Leave => ConfChangeV2::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::{Epoch, KeyRange, PeerId, RegionId, StoreId};

    fn peer(store: u64, role: PeerRole) -> Peer {
        Peer { id: PeerId(store * 10), store: StoreId(store), role }
    }

    fn region() -> Region {
        let peers = (1..=3).map(|store| peer(store, PeerRole::Voter)).collect();
        let epoch = Epoch { conf_ver: 7, version: 2 };
        Region { id: RegionId(1), range: KeyRange::all(), epoch, peers }
    }

    fn joint(region: &Region, changes: &[PeerChange]) -> Result<Region, String> {
        after(region, &Membership::Joint(changes.to_vec()))
    }

    fn roles(region: &Region) -> Vec<(u64, PeerRole)> {
        region.peers.iter().map(|p| (p.store.0, p.role)).collect()
    }

    #[test]
    fn a_voter_is_replaced_in_two_steps_and_the_epoch_counts_both() {
        use PeerRole::{Demoting, Incoming, Learner, Voter};
        let new = peer(4, Learner);
        let with = after(&region(), &Membership::One(PeerChange::AddLearner(new))).unwrap();
        assert_eq!(with.epoch.conf_ver, 8);
        let swap = [PeerChange::AddVoter(new), PeerChange::AddLearner(peer(3, Voter))];
        let between = joint(&with, &swap).unwrap();
        assert_eq!(roles(&between), [(1, Voter), (2, Voter), (3, Demoting), (4, Incoming)]);
        assert_eq!((between.epoch.conf_ver, between.epoch.version), (10, 2));
        assert!(between.is_joint() && joint(&between, &swap).is_err());
        let one = Membership::One(PeerChange::Remove(peer(3, Voter)));
        assert!(after(&between, &one).is_err());
        let left = after(&between, &Membership::Leave).unwrap();
        assert_eq!(roles(&left), [(1, Voter), (2, Voter), (3, Learner), (4, Voter)]);
        assert_eq!(left.epoch.conf_ver, 12);
        assert!(after(&left, &Membership::Leave).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (one, two) = (peer(1, PeerRole::Voter), peer(2, PeerRole::Voter));
        let (three, four) = (peer(3, PeerRole::Voter), peer(4, PeerRole::Voter));
        let refused = |changes: &[PeerChange]| assert!(joint(&region(), changes).is_err());
        refused(&[PeerChange::AddVoter(four), PeerChange::Remove(three)]);
        refused(&[PeerChange::AddVoter(four), PeerChange::AddVoter(four)]);
        refused(&[PeerChange::AddLearner(one), PeerChange::AddLearner(one)]);
        refused(&[PeerChange::AddVoter(four), PeerChange::AddVoter(two)]);
        refused(&[PeerChange::AddLearner(four)]);
        refused(&[one, two, three].map(PeerChange::AddLearner));
        let elsewhere = Peer { store: StoreId(2), ..four };
        refused(&[PeerChange::AddVoter(elsewhere), PeerChange::AddLearner(three)]);
        assert!(joint(&region(), &[one, two].map(PeerChange::AddLearner)).is_ok());
    }
}
