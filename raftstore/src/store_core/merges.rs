//! Merges: the request that begins one, and what each replica of a region that is being merged
//! does at every tick until the target's log has decided. It must never take the silence of others
//! for an answer: a merge ends here by what a log says, or by what one has left elsewhere.
//!
//! ```text
//!  PREPARE applied ──► fate? ─ the target, led here, is in the named epoch ──► COMMIT, in its log
//!                        │     … for long, and cannot take it in ────────────► REFUSE, in its log
//!                        ├──── it is past that epoch, and has not absorbed it ► ROLLBACK, own log
//!                        ├──── it has absorbed it ─────────────────────────► destroyed here
//!                        └──── else ─────────────────────────────────────────► wait
//! ```
//! A replica whose region is gone is destroyed only if no log on this store can still ask for it:
//! whoever took it in is past that here, or has no replica here.

use super::{StoreCore, Tombstone};
use crate::answer::Answer;
use crate::apply::{LOG_START, Waiting};
use crate::command::{self, MergeCommit};
use crate::error::{Error, Result};
use crate::handle::Envelope;
use crate::log_store::{LogEntry, LogOp};
use crate::machine::RegionState;
use crate::merge::{MergeState, Prepared, prepare_region};
use crate::replica::{MergeEntry, Replica};
use crate::wire;
use damask_types::{Epoch, Region, RegionId, Timestamp};

/// Bytes of entries that a merge's commit carries, at most.
const CARRIED_BYTES_MAX: usize = 6 << 20;
/// Ticks between two looks for replicas of regions that were merged elsewhere.
const DISCARD_TICKS: u64 = 50;
/// Past any epoch.
const PAST: Epoch = Epoch { conf_ver: u64::MAX, version: u64::MAX };
/// Merges of merges that are followed from one tombstone to the next.
const CHAIN_MAX: usize = 16;

/// What will become of a region that is being merged.
enum Fate {
    /// Nobody here can say.
    Wait,
    /// The target can take it in now.
    Commit,
    /// It never will.
    Impossible,
    /// This one has it.
    Gone(RegionId),
}

impl StoreCore {
    pub(super) fn on_merge(
        &mut self,
        id: RegionId,
        epoch: Epoch,
        into: RegionId,
        answer: Answer<Region>,
    ) {
        let now = self.now;
        match self.may_propose(id, epoch.version, None) {
            Ok(replica) => replica.flush_queued(now),
            Err(e) => return answer.send(Err(e)),
        }
        let (target, min_index) = match self.check_merge(id, epoch, into) {
            Ok(checked) => checked,
            Err(e) => return answer.send(Err(e)),
        };
        let replica = self.replicas.get_mut(&id).expect("checked above");
        let waiting = Waiting::Change(answer);
        match replica.group.propose(vec![command::encode_prepare(epoch, &target, min_index)]) {
            Ok((index, term)) => {
                // Before anybody can commit it: the target may take writes soon after.
                replica.lease.end();
                replica.merge_entry = Some(MergeEntry { index, prepares: true });
                replica.await_entry(index, term, waiting);
            }
            Err(why) => replica.refuse(waiting, &why),
        }
    }

    /// The target as it is here, and from where on entries have to be carried along: what is below
    /// is committed and on every replica, so that no later leader can replace it.
    fn check_merge(&self, id: RegionId, epoch: Epoch, into: RegionId) -> Result<(Region, u64)> {
        let replica = &self.replicas[&id];
        if replica.region.epoch != epoch {
            return Err(Error::EpochNotMatch { current: self.regions(id) });
        }
        let target = self.replicas.get(&into).filter(|r| r.initialised && !r.is_merging());
        let target = target.ok_or_else(|| {
            Error::Invalid(format!("region {into} is not on store {}, or is merged", self.store))
        })?;
        prepare_region(&replica.region, &target.region).map_err(Error::Invalid)?;
        let group = &replica.group;
        if !group.knows_commit() || group.change_pending() || replica.splitting.is_some() {
            return Err(Error::Busy("the region is being changed"));
        }
        let mut everywhere = group.commit();
        // The leader as well: what others have made commit it may not have made durable yet.
        for peer in &replica.region.peers {
            let follower = group.follower(peer.id).filter(|f| !f.in_snapshot);
            let follower = follower.ok_or(Error::Busy("a replica takes a snapshot"))?;
            everywhere = everywhere.min(follower.matched);
        }
        let min_index = everywhere + 1;
        // As many as every store keeps behind what it has applied: so they can be read later.
        let gap = self.config.merge_gap();
        if everywhere < LOG_START.index || group.last_index() - everywhere > gap {
            return Err(Error::Busy("a replica is behind"));
        }
        let log = self.log.group(id).unwrap_or_default();
        let mut entries = Vec::new();
        if min_index <= log.last.index {
            let end = log.last.index + 1;
            self.log.entries(id, min_index, end, u64::MAX, &mut entries)?;
        }
        match entries.iter().all(command::is_plain) {
            true => Ok((target.region.clone(), min_index)),
            false => Err(Error::Busy("a change of the region is not yet everywhere")),
        }
    }

    /// Every region that is being merged looks what has become of its target.
    pub(super) fn step_merges(&mut self) {
        let merging = |r: &&Replica| r.merge.prepared.is_some() && r.is_free();
        let ids: Vec<RegionId> =
            self.replicas.values().filter(merging).map(|r| r.region.id).collect();
        for id in ids {
            let prepared = self.replicas[&id].merge.prepared.clone().expect("filtered above");
            let fate = self.fate(id, &prepared);
            if !matches!(fate, Fate::Commit) {
                let replica = self.replicas.get_mut(&id).expect("filtered above");
                replica.merge_waits = None;
            }
            match fate {
                Fate::Wait => {}
                Fate::Commit => self.take_in(id, &prepared),
                Fate::Impossible => self.roll_back(id, prepared.commit),
                Fate::Gone(into) if self.may_discard(id, into) => self.discard(id, into),
                Fate::Gone(_) => {}
            }
        }
        if self.tick.is_multiple_of(DISCARD_TICKS) {
            self.discard_absorbed();
        }
    }

    fn fate(&self, source: RegionId, prepared: &Prepared) -> Fate {
        let named = prepared.target.epoch;
        let mut at = prepared.target.id;
        for _ in 0..CHAIN_MAX {
            if let Some(replica) = self.replicas.get(&at).filter(|r| r.initialised) {
                if !replica.is_free() {
                    return Fate::Wait; // a snapshot may bring news
                }
                if let Some(into) = replica.merge.taken_by(source) {
                    return Fate::Gone(into);
                }
                let now = replica.region.epoch;
                if at == prepared.target.id && now == named {
                    let leads = replica.group.is_leader();
                    return if leads { Fate::Commit } else { Fate::Wait };
                }
                // One that took the target in is past it, and has all that it had absorbed.
                let now = if at == prepared.target.id { now } else { PAST };
                let never = replica.merge.rules_out(named, now);
                return if never { Fate::Impossible } else { Fate::Wait };
            }
            // What was removed here by its own log is known as it was then.
            let Some(Tombstone { epoch, merge, .. }) = self.tombstones.get(&at) else { break };
            match (merge.taken_by(source), merge.into) {
                (Some(into), _) => return Fate::Gone(into),
                (None, _) if at == prepared.target.id && merge.rules_out(named, *epoch) => {
                    return Fate::Impossible;
                }
                (None, Some(into)) => at = into,
                (None, None) => break,
            }
        }
        Fate::Wait
    }

    /// Proposes to the target, which is led here, that it takes the source in; or that it does not,
    /// if for too long some replica of its own was not reached.
    fn take_in(&mut self, id: RegionId, prepared: &Prepared) {
        let source = self.replicas[&id].region.clone();
        let carried = self.carried(id, prepared);
        let target = &self.replicas[&prepared.target.id];
        if target.merge_entry.is_some() || !target.is_free() {
            return;
        }
        // A replica that has no log yet would come to this entry without the source beside it.
        let has_log = |peer: &damask_types::Peer| {
            let follower = target.group.follower(peer.id).filter(|f| !f.in_snapshot);
            peer.id == target.peer.id || follower.is_some_and(|f| f.matched >= LOG_START.index)
        };
        let reached = target.region.peers.iter().all(has_log);
        let epoch = target.region.epoch;
        let payload = match carried.filter(|_| reached) {
            Some(entries) => {
                let merge = MergeCommit { source, commit: prepared.commit, entries };
                command::encode_commit(epoch, &merge)
            }
            None => {
                let (tick, limit) = (self.tick, self.config.merge_wait_ticks);
                let replica = self.replicas.get_mut(&id).expect("looked up above");
                if tick < *replica.merge_waits.get_or_insert(tick) + limit {
                    return;
                }
                command::encode_refuse(epoch, id)
            }
        };
        self.propose_merge_entry(prepared.target.id, payload);
    }

    /// The leader takes the prepare back; it may have no replica of the target beside it, and is
    /// told by who has.
    fn roll_back(&mut self, id: RegionId, commit: u64) {
        let replica = &self.replicas[&id];
        if replica.group.is_leader() {
            let epoch = replica.region.epoch;
            return self.propose_merge_entry(id, command::encode_rollback(epoch, commit));
        }
        if let Some(leader) = replica.leader() {
            let message = wire::encode_hopeless(commit);
            self.out.sends.push(Envelope { message, ..Self::notice(replica, leader) });
        }
    }

    /// Another replica knows that this region will never be taken in.
    pub(super) fn on_hopeless_notice(&mut self, envelope: &Envelope, commit: u64) {
        let id = envelope.region;
        let prepared = self.replicas.get(&id).and_then(|r| r.merge.prepared.as_ref());
        let same = prepared.is_some_and(|p| p.commit == commit);
        if same && self.replicas[&id].group.is_leader() {
            self.roll_back(id, commit);
        }
    }

    /// One at a time, and only by the leader; it is proposed again if nothing comes of it.
    fn propose_merge_entry(&mut self, id: RegionId, payload: Vec<u8>) {
        let now = self.now;
        let free = |r: &&mut Replica| r.is_free() && r.merge_entry.is_none();
        let Some(replica) = self.replicas.get_mut(&id).filter(free) else { return };
        if !replica.group.is_leader() {
            return;
        }
        replica.flush_queued(now);
        // Refused: the next tick tries again.
        if let Ok((index, _)) = replica.group.propose(vec![payload]) {
            replica.merge_entry = Some(MergeEntry { index, prepares: false });
            self.dirty.insert(id);
        }
    }

    /// The source's entries that some replica may lack; `None`: they are not here (any more), or
    /// too many.
    fn carried(&self, id: RegionId, prepared: &Prepared) -> Option<Vec<LogEntry>> {
        let log = self.log.group(id)?;
        if log.truncated.index >= prepared.min_index || log.last.index < prepared.commit {
            return None;
        }
        let mut entries = Vec::new();
        let (low, high) = (prepared.min_index, prepared.commit + 1);
        self.log.entries(id, low, high, CARRIED_BYTES_MAX as u64, &mut entries).ok()?;
        let bytes: usize = entries.iter().map(LogEntry::size).sum();
        let whole = entries.len() as u64 == high - low && bytes <= CARRIED_BYTES_MAX;
        whole.then_some(entries)
    }

    /// A prepare, a rollback or a refusal was applied.
    pub(super) fn on_merging(&mut self, id: RegionId, region: Region, merge: MergeState) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        replica.safe.narrow(replica.region.epoch.version, region.epoch.version);
        replica.region = region;
        replica.merge = merge;
        replica.merge_waits = None;
        self.out.changed.insert(id);
    }

    /// This region has taken another one in: that one's replica is no more, its content stays.
    pub(super) fn on_merged(
        &mut self,
        id: RegionId,
        region: Region,
        merge: MergeState,
        source: &RegionState,
    ) {
        let part = self.replicas.get(&source.region.id);
        let safe = part.and_then(|r| r.safe.at(r.region.epoch.version));
        if let Some(replica) = self.replicas.get_mut(&id) {
            let (before, after) = (replica.region.epoch.version, region.epoch.version);
            replica.safe.widen(before, after, safe.map_or(Timestamp::ZERO, |safe| safe.ts));
            replica.region = region;
            replica.merge = merge;
            replica.siblings.clear();
            self.out.changed.insert(id);
            self.dirty.insert(id);
        }
        self.replace(source, id);
    }

    /// Who waits for the region that is gone learns who has its keys, and who may still take a
    /// snapshot of them by its permit keeps them there.
    pub(super) fn replace(&mut self, gone: &RegionState, by: RegionId) {
        let current = self.regions(by);
        if let Some(mut replica) = self.replicas.remove(&gone.region.id) {
            let error = Error::EpochNotMatch { current };
            if let Some(prepared) = &replica.merge.prepared {
                // Nobody applies what is behind the entry that prepared.
                let never = replica.pending.split_off(&(prepared.commit + 1, 0));
                never.into_values().for_each(|waiting| waiting.fail(error.clone()));
            }
            replica.answer_all("its region was merged", &error);
            if let Some(heir) = self.replicas.get_mut(&by) {
                heir.inherit_views(&replica.views);
            }
        }
        self.bury(gone);
    }

    /// The end of a replica, of which its content (if it was to go) is gone.
    pub(super) fn bury(&mut self, state: &RegionState) {
        let id = state.region.id;
        self.replicas.remove(&id);
        self.frozen.remove(&id);
        self.tombstones.insert(id, Tombstone::of(state, self.store));
        self.ops.push((id, LogOp::Destroy));
        self.dirty.remove(&id);
        self.out.changed.remove(&id);
        self.out.views.push((id, None));
        self.out.safe.push((id, None));
        self.out.removed.push(id);
    }

    /// May a replica go whose region has become a part of `into`? Not while that one's log, here,
    /// may come to the entry that takes it in.
    pub(super) fn may_discard(&self, source: RegionId, into: RegionId) -> bool {
        let needs = |t: &Replica| t.initialised && !t.merge.has_absorbed(source);
        self.replicas.get(&into).is_none_or(|t| !needs(t))
    }

    /// Its region is gone, and nobody here asks for it any more.
    pub(super) fn discard(&mut self, id: RegionId, into: RegionId) {
        let Some(replica) = self.replicas.get_mut(&id).filter(|r| r.is_free()) else { return };
        if !replica.initialised {
            self.replicas.remove(&id);
            return;
        }
        let (region, applied) = (replica.region.clone(), replica.applied);
        let merge = replica.merge.gone_into(into);
        replica.end(RegionState { region, applied, tombstone: true, merge }, self.tick);
        self.dirty.insert(id);
        self.destroy_unread();
    }

    /// Replicas of regions that others here know as merged.
    fn discard_absorbed(&mut self) {
        let all = self.replicas.values().filter(|r| r.initialised);
        let absorbed = all.flat_map(|r| &r.merge.absorbed);
        let here = absorbed.filter(|a| self.replicas.get(&a.region).is_some_and(|r| r.is_free()));
        let gone: Vec<_> = here
            .filter(|a| self.may_discard(a.region, a.into))
            .map(|a| (a.region, a.into))
            .collect();
        gone.into_iter().for_each(|(id, into)| self.discard(id, into));
    }

    /// Who has the keys of a region that was merged, as far as this store knows.
    pub(super) fn merged_into(&self, id: RegionId) -> Option<RegionId> {
        let buried = self.tombstones.get(&id).and_then(|t| t.merge.into);
        buried.or_else(|| {
            let mut all = self.replicas.values().filter(|r| r.initialised);
            all.find_map(|r| r.merge.taken_by(id))
        })
    }

    /// Somebody speaks for a region that is gone: it is told.
    pub(super) fn tell_merged(&mut self, envelope: &Envelope, into: RegionId) {
        self.out.sends.push(Envelope {
            region: envelope.region,
            epoch: envelope.epoch,
            from: envelope.to,
            to: envelope.from,
            message: wire::encode_merged(into),
        });
    }

    pub(super) fn on_merged_notice(&mut self, envelope: &Envelope, into: RegionId) {
        let id = envelope.region;
        let here = self.replicas.get(&id).is_some_and(|r| r.peer.id == envelope.to.id);
        if here && self.may_discard(id, into) {
            self.discard(id, into);
        }
    }

    /// Replicas that a snapshot would replace go on, if it was not taken after all.
    pub(super) fn thaw(&mut self) {
        let replicas = &self.replicas;
        let holds = |by: &RegionId| {
            let by = replicas.get(by);
            by.is_some_and(|r| r.importing.is_some() || !r.incoming.is_empty())
        };
        let free: Vec<RegionId> =
            self.frozen.iter().filter(|(_, by)| !holds(by)).map(|(id, _)| *id).collect();
        for id in free {
            self.frozen.remove(&id);
            if let Some(replica) = self.replicas.get_mut(&id) {
                replica.frozen = false;
                self.dirty.insert(id);
            }
        }
    }
}
