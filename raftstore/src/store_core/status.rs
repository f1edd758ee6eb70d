//! What is said of replicas. With many regions nearly all of it is what was said before: that must
//! cost nothing but the look.

use super::{StoreCore, TICKS_MAX};
use crate::handle::ReplicaStatus;
use crate::replica::Replica;
use damask_types::RegionId;
use std::collections::BTreeMap;

/// After so many ticks asleep a replica's status was told.
const SETTLED_TICKS: u64 = TICKS_MAX as u64;

impl StoreCore {
    /// What is said of a replica; `None` for one without a region.
    pub fn status(&self, id: RegionId) -> Option<ReplicaStatus> {
        self.replicas.get(&id).filter(|r| r.initialised).map(Replica::status)
    }

    /// Brings what was said before up to date; whoever is gone stays in it.
    pub fn refresh(&self, statuses: &mut BTreeMap<RegionId, ReplicaStatus>) {
        let told = |r: &Replica| r.asleep.is_some_and(|a| self.tick > a.since + SETTLED_TICKS);
        let live = self.replicas.iter().filter(|(_, r)| r.initialised && !told(r));
        // Side by side, in order: a search for each would cost more than the look at most of them.
        let mut new = Vec::new();
        let mut known = statuses.iter_mut().peekable();
        for (id, replica) in live {
            while known.next_if(|(other, _)| *other < id).is_some() {}
            match known.next_if(|(other, _)| *other == id) {
                Some((_, status)) => replica.say(status),
                None => new.push((*id, replica.status())),
            }
        }
        statuses.extend(new);
    }
}

impl Replica {
    fn status(&self) -> ReplicaStatus {
        let mut status = ReplicaStatus {
            region: self.region.clone(),
            leader: None,
            is_leader: false,
            term: 0,
            applied: self.applied,
            commit: 0,
            merging: false,
            hibernating: false,
            pending: Vec::new(),
            matched: Vec::new(),
        };
        self.say(&mut status);
        status
    }

    /// In the place of what was said before.
    fn say(&self, status: &mut ReplicaStatus) {
        let ReplicaStatus { region, leader, is_leader, term, applied, commit, .. } = status;
        if *region != self.region {
            region.clone_from(&self.region);
        }
        *leader = self.leader();
        *is_leader = self.group.is_leader();
        *term = self.group.term();
        *applied = self.applied;
        *commit = self.group.commit();
        status.merging = self.is_merging();
        status.hibernating = self.asleep.is_some();
        status.pending.clear();
        status.matched.clear();
        if !status.is_leader {
            return;
        }
        for peer in &self.region.peers {
            let Some(follower) = self.group.follower(peer.id) else { continue };
            // After a snapshot raft-rs probes until there is an entry to send, and it forgets who
            // is active at each check of its quorum: a follower that has all that is committed is
            // not behind, however idle its region is.
            let streaming = follower.replicating && follower.active;
            if !streaming && follower.matched < status.commit {
                status.pending.push(*peer);
            }
            status.matched.push((*peer, follower.matched));
        }
    }
}
