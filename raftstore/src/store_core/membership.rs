//! Changes of a region's replicas as its leader proposes them, and as every replica takes them over
//! once they are applied. A joint configuration is left by whoever leads: no new one begins, and
//! nothing is split or merged, until then. A leader that is about to lose its vote hands over
//! first, and leads no more once it has lost it.

use super::StoreCore;
use crate::answer::Answer;
use crate::apply::{Waiting, membership};
use crate::command::{self, Membership};
use crate::error::{Error, Result};
use crate::handle::PeerChange;
use crate::machine::RegionState;
use crate::replica::Replica;
use damask_types::{Epoch, Peer, PeerRole, Region, RegionId};

/// Elections' times that a leader without a future vote has for handing over.
const HAND_OVER_ELECTIONS: u64 = 2;

impl StoreCore {
    pub(super) fn on_change_peer(
        &mut self,
        id: RegionId,
        epoch: Epoch,
        change: Membership,
        answer: Answer<Region>,
    ) {
        let current = self.regions(id);
        let now = self.now;
        let version = current.first().map_or(0, |r| r.epoch.version);
        let replica = match self.may_propose(id, version, None) {
            Ok(replica) => replica,
            Err(e) => return answer.send(Err(e)),
        };
        if replica.region.epoch.conf_ver != epoch.conf_ver {
            return answer.send(Err(Error::EpochNotMatch { current }));
        }
        let own = replica.peer.id;
        let refused = match change {
            Membership::One(PeerChange::Remove(peer) | PeerChange::AddLearner(peer))
                if peer.id == own =>
            {
                Err("the leader cannot be removed or demoted: transfer it first".to_owned())
            }
            _ => membership::after(&replica.region, &change).map(|_| ()),
        };
        if let Err(why) = refused {
            return answer.send(Err(Error::Invalid(why)));
        }
        replica.flush_queued(now);
        let context = match &change {
            Membership::One(change) => command::encode_change(epoch, *change),
            Membership::Joint(changes) => command::encode_joint(epoch, changes),
            Membership::Leave => command::encode_leave(epoch),
        };
        let waiting = Waiting::Change(answer);
        match replica.group.propose_change(context, membership::raft_change(&change)) {
            Ok((index, term)) => replica.await_entry(index, term, waiting),
            Err(why) => replica.refuse(waiting, &why),
        }
    }

    /// A change is applied: from here on the group decides by the new configuration.
    pub(super) fn on_changed(
        &mut self,
        id: RegionId,
        change: &Membership,
        region: Region,
    ) -> Result<()> {
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        // What a snapshot has gone past is a part of the configuration that came with it.
        if replica.group.is_restoring() || replica.destroying {
            return Ok(());
        }
        let Some(own) = region.peer_on(self.store).copied() else {
            // The tombstone names the removed peer: its id is used up.
            let mut region = region;
            region.range = replica.region.range.clone();
            region.peers.push(replica.peer);
            let (applied, merge) = (replica.applied, replica.merge.inherited());
            replica.end(RegionState { region, applied, tombstone: true, merge }, self.tick);
            self.destroy_unread();
            return Ok(());
        };
        replica.peer = own;
        replica.region = region;
        if !replica.region.is_joint() {
            replica.joint_since = None;
        }
        replica.group.apply_change(&membership::raft_change(change))?;
        self.out.changed.insert(id);
        if let Membership::One(PeerChange::Remove(peer)) = change
            && replica.group.is_leader()
        {
            let notice = Self::notice(replica, *peer);
            self.out.sends.push(notice);
        }
        if replica.group.is_leader() && !own.role.votes() {
            replica.group.step_down();
            self.dirty.insert(id);
        }
        Ok(())
    }

    /// Leaders end joint configurations.
    pub(super) fn leave_joints(&mut self) {
        let joint = |r: &Replica| r.is_free() && r.group.is_leader() && r.region.is_joint();
        let all = self.replicas.iter().filter(|(_, r)| joint(r));
        let ids: Vec<RegionId> = all.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.leave_joint(id));
    }

    fn leave_joint(&mut self, id: RegionId) {
        let (tick, elections) = (self.tick, self.config.raft.election_ticks as u64);
        let replica = self.replicas.get_mut(&id).expect("it leads");
        let since = *replica.joint_since.get_or_insert(tick);
        if replica.group.is_transferring() || replica.group.change_pending() {
            return;
        }
        let patient = tick < since + HAND_OVER_ELECTIONS * elections;
        if replica.peer.role == PeerRole::Demoting && patient {
            if let Some(to) = successor(replica) {
                replica.group.transfer_leader(to.id);
                self.dirty.insert(id);
            }
            return;
        }
        let epoch = replica.region.epoch;
        let leave = membership::raft_change(&Membership::Leave);
        // Refused: too much is in flight. The next tick tries again.
        if replica.group.propose_change(command::encode_leave(epoch), leave).is_ok() {
            self.dirty.insert(id);
        }
    }
}

/// Who votes after the change and has most of the log.
fn successor(replica: &Replica) -> Option<Peer> {
    let stays = |p: &&Peer| matches!(p.role, PeerRole::Voter | PeerRole::Incoming);
    let matched = |p: &Peer| {
        let follower = replica.group.follower(p.id).filter(|f| f.active && f.replicating)?;
        Some((follower.matched, *p))
    };
    let all = replica.region.peers.iter().filter(stays).filter_map(matched);
    all.max_by_key(|(matched, peer)| (*matched, peer.id)).map(|(_, peer)| peer)
}
