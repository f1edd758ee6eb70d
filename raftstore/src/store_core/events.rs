//! What comes in, but for messages and snapshots: requests, ticks, and the threads' reports. Each
//! only marks replicas; what follows from it is collected by `finish`.

use super::{EARLY_TICKS_MAX, KEPT_ENTRIES, PROBE_TICKS, StoreCore};
use crate::answer::Answer;
use crate::apply::{ApplyReport, ApplyTask, Change, LOG_START, Waiting, split_region};
use crate::command::{self, Membership};
use crate::error::{Error, Result};
use crate::group::{Exported, Group};
use crate::handle::{Envelope, PeerChange, ReadMode, ReadPermit, SplitChild};
use crate::log_store::LogOp;
use crate::machine::{Applied, RegionState};
use crate::merge::MergeState;
use crate::replica::{Queued, Read, Replica};
use crate::resolved::Resolved;
use damask_env::{Mistake, mistaken};
use damask_types::{Epoch, Peer, Region, RegionId};
use raft::eraftpb::{Message, MessageType};

/// Something happened.
#[derive(Debug)]
pub(crate) enum Event {
    Messages(Vec<Envelope>),
    Propose {
        region: RegionId,
        epoch: Epoch,
        term: Option<u64>,
        payload: Vec<u8>,
        /// The smallest and the largest key.
        span: Option<(Vec<u8>, Vec<u8>)>,
        answer: Answer<Applied>,
    },
    Read {
        region: RegionId,
        epoch: Epoch,
        mode: ReadMode,
        answer: Answer<ReadPermit>,
    },
    /// As `Read`, but the leader has been asked elsewhere, and has named this index.
    ReadAt {
        region: RegionId,
        epoch: Epoch,
        index: u64,
        answer: Answer<ReadPermit>,
    },
    Split {
        region: RegionId,
        epoch: Epoch,
        keys: Vec<Vec<u8>>,
        children: Vec<SplitChild>,
        answer: Answer<Vec<Region>>,
    },
    ChangePeer {
        region: RegionId,
        epoch: Epoch,
        change: PeerChange,
        answer: Answer<Region>,
    },
    /// Several replicas in one step.
    ChangePeers {
        region: RegionId,
        epoch: Epoch,
        changes: Vec<PeerChange>,
        answer: Answer<Region>,
    },
    Merge {
        region: RegionId,
        epoch: Epoch,
        into: RegionId,
        answer: Answer<Region>,
    },
    TransferLeader {
        region: RegionId,
        to: Peer,
    },
    /// Somebody reads by this region's lease, which ends soon.
    Renew(RegionId),
    /// Of regions that are led here: nothing more will be committed below these timestamps.
    Resolved(Vec<Resolved>),
    /// The log is durable up to this turn.
    Persisted(u64),
    Reports(Vec<ApplyReport>),
    /// The machine is durable: up to where each region's log is not needed.
    Synced(Vec<(RegionId, u64)>),
    Stop,
}

impl StoreCore {
    /// Takes an event.
    ///
    /// # Errors
    /// Only local ones, after which the store must stop.
    pub fn step(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Messages(envelopes) => {
                for envelope in envelopes {
                    self.on_envelope(envelope)?;
                }
            }
            Event::Propose { region, epoch, term, payload, span, answer } => {
                match self.may_propose(region, epoch.version, span) {
                    Ok(replica) => replica.queued.push(Queued { payload, term, answer }),
                    Err(e) => answer.send(Err(e)),
                }
            }
            Event::Read { region, epoch, mode, answer } => {
                let read = Read { epoch, mode, since: self.tick, answer };
                self.on_read(region, None, read);
            }
            Event::ReadAt { region, epoch, index, answer } => {
                let read = Read { epoch, mode: ReadMode::Index, since: self.tick, answer };
                self.on_read(region, Some(index), read);
            }
            Event::Split { region, epoch, keys, children, answer } => {
                self.on_split(region, epoch, &keys, &children, answer);
            }
            Event::ChangePeer { region, epoch, change, answer } => {
                self.on_change_peer(region, epoch, Membership::One(change), answer);
            }
            Event::ChangePeers { region, epoch, changes, answer } => {
                let change = match changes[..] {
                    [change] => Membership::One(change),
                    _ => Membership::Joint(changes),
                };
                self.on_change_peer(region, epoch, change, answer);
            }
            Event::Merge { region, epoch, into, answer } => {
                self.on_merge(region, epoch, into, answer);
            }
            Event::TransferLeader { region, to } => {
                if let Some(replica) = self.replicas.get_mut(&region)
                    && replica.is_free()
                    && replica.group.is_leader()
                {
                    replica.group.transfer_leader(to.id);
                    self.dirty.insert(region);
                }
            }
            Event::Renew(region) => {
                let leads = |r: &&mut Replica| r.is_free() && r.group.is_leader();
                if let Some(replica) = self.replicas.get_mut(&region).filter(leads) {
                    replica.renewing = true;
                    self.dirty.insert(region);
                }
            }
            Event::Resolved(found) => self.on_resolved(found),
            Event::Persisted(turn) => self.on_persisted(turn),
            Event::Reports(reports) => {
                for report in reports {
                    self.on_report(report)?;
                }
            }
            Event::Synced(points) => self.on_synced(&points)?,
            Event::Stop => {}
        }
        Ok(())
    }

    pub(super) fn may_propose(
        &mut self,
        id: RegionId,
        version: u64,
        span: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<&mut Replica> {
        let found = self.replicas.get(&id).filter(|r| r.initialised);
        let replica = found.ok_or_else(|| self.not_here(id))?;
        if !replica.is_free() || !replica.group.is_leader() {
            return Err(replica.not_leader());
        }
        if replica.region.epoch.version != version {
            return Err(Error::EpochNotMatch { current: self.regions(id) });
        }
        if replica.is_merging() {
            return Err(Error::Merging(id));
        }
        let range = &replica.region.range;
        if span.is_some_and(|(low, high)| !range.contains(&low) || !range.contains(&high)) {
            return Err(Error::KeyNotInRegion { region: id, range: range.clone() });
        }
        self.dirty.insert(id);
        Ok(self.replicas.get_mut(&id).expect("found above"))
    }

    /// Where its keys are now, if it was merged.
    fn not_here(&self, id: RegionId) -> Error {
        let into = self.merged_into(id).map(|into| self.regions(into));
        match into.filter(|regions| !regions.is_empty()) {
            Some(current) => Error::EpochNotMatch { current },
            None => Error::RegionNotFound(id),
        }
    }

    /// `index`: the leader's answer, if it was asked elsewhere.
    fn on_read(&mut self, id: RegionId, index: Option<u64>, read: Read) {
        let live = |r: &&mut Replica| r.initialised && !r.destroying;
        let Some(replica) = self.replicas.get_mut(&id).filter(live) else {
            return read.answer.send(Err(self.not_here(id)));
        };
        if read.epoch.version < replica.region.epoch.version {
            return read.answer.send(Err(Error::EpochNotMatch { current: self.regions(id) }));
        }
        if replica.merge.prepared.is_some() {
            return read.answer.send(Err(Error::Merging(id)));
        }
        match index {
            Some(index) => replica.confirmed.push((index, replica.group.term(), vec![read])),
            None => replica.waiting_reads.push(read),
        }
        self.dirty.insert(id);
    }

    fn on_split(
        &mut self,
        id: RegionId,
        epoch: Epoch,
        keys: &[Vec<u8>],
        children: &[SplitChild],
        answer: Answer<Vec<Region>>,
    ) {
        let (current, now) = (self.regions(id), self.now);
        let replica = match self.may_propose(id, epoch.version, None) {
            Ok(replica) => replica,
            Err(e) => return answer.send(Err(e)),
        };
        if replica.region.epoch != epoch {
            return answer.send(Err(Error::EpochNotMatch { current }));
        }
        if let Err(why) = split_region(&replica.region, keys, children) {
            return answer.send(Err(Error::Invalid(why)));
        }
        replica.flush_queued(now);
        let waiting = Waiting::Split(answer);
        match replica.group.propose(vec![command::encode_split(epoch, keys, children)]) {
            Ok((index, term)) => {
                replica.splitting = Some(index);
                replica.await_entry(index, term, waiting);
            }
            Err(why) => replica.refuse(waiting, &why),
        }
    }

    pub(super) fn on_tick(&mut self) {
        self.tick += 1;
        let (tick, config) = (self.tick, &self.config);
        let mut probes = Vec::new();
        for (id, replica) in &mut self.replicas {
            if !replica.is_free() || replica.asleep.is_some() {
                continue;
            }
            replica.group.tick();
            for asked in &mut replica.asked {
                // On the leader raft-rs repeats by itself, with each heartbeat.
                if !replica.group.is_leader() && tick >= asked.tick + config.read_retry_ticks {
                    asked.tick = tick;
                    replica.group.read_index(asked.context.clone());
                }
            }
            replica.expire_reads(tick.saturating_sub(config.read_wait_ticks));
            let leads = replica.group.is_leader();
            if !leads && tick > replica.deposed + config.undetermined_ticks {
                replica.give_up_pending("the leader was deposed and no other told the outcome");
            }
            if replica.exported_tick.is_some_and(|t| tick > t + config.snapshot_retry_ticks) {
                replica.exported_tick = None;
                replica.group.set_exported(None);
            }
            let group = &mut replica.group;
            replica.sent_snapshots.retain(|peer, sent| {
                let waits = leads && group.follower(*peer).is_some_and(|f| f.in_snapshot);
                let late = sent.is_none_or(|sent| tick > sent + config.snapshot_retry_ticks);
                if waits && late {
                    group.snapshot_failed(*peer);
                }
                waits && !late
            });
            let silent = group.silent_ticks();
            if !leads && silent >= PROBE_TICKS && silent.is_multiple_of(PROBE_TICKS) {
                probes.push(*id);
            }
            // Most ticks bring nothing: with many regions that must cost nothing.
            if replica.group.has_ready() || replica.is_unfinished() {
                self.dirty.insert(*id);
            }
        }
        probes.into_iter().for_each(|id| self.probe(id));
        self.leave_joints();
        self.tick_snapshots();
        self.step_merges();
        self.step_sleep();
        self.destroy_unread();
        self.early.retain(|_, early| tick <= early.since + EARLY_TICKS_MAX);
        if tick.is_multiple_of(self.config.compact_ticks) {
            self.out.maintain = true;
        }
    }

    /// A replica that hears of no leader shows itself: if it was removed, somebody will say so.
    fn probe(&mut self, id: RegionId) {
        let replica = &self.replicas[&id];
        let voters: Vec<Peer> = replica.region.voters().copied().collect();
        let (from, term) = (replica.peer.id, replica.group.term());
        for to in voters.into_iter().filter(|p| p.id != from) {
            let mut m = Message { to: to.id.0, from: from.0, term, ..Message::default() };
            m.set_msg_type(MessageType::MsgHeartbeatResponse);
            if let Some(envelope) = Self::envelope(&self.replicas[&id], m) {
                self.out.sends.push(envelope);
            }
        }
    }

    fn on_persisted(&mut self, turn: u64) {
        while let Some((_, parts)) = self.unpersisted.pop_front_if(|(t, _)| *t <= turn) {
            for part in parts {
                let Some(replica) = self.replicas.get_mut(&part.region) else { continue };
                if replica.incarnation != part.incarnation {
                    continue;
                }
                replica.outstanding -= 1;
                if replica.vote_unpersisted.is_some_and(|n| n <= part.number) {
                    replica.vote_unpersisted = None;
                }
                if replica.importing.is_some() || replica.destroying {
                    continue; // a later number will say it again
                }
                replica.group.persisted(part.number);
                if replica.snapshot_persisting.is_some_and(|n| n <= part.number) {
                    replica.snapshot_persisting = None;
                    replica.group.applied(replica.applied.index);
                }
                self.dirty.insert(part.region);
            }
        }
    }

    fn on_report(&mut self, report: ApplyReport) -> Result<()> {
        match report {
            ApplyReport::Applied { region, applied, changes } => {
                self.on_applied(region, applied, changes)
            }
            ApplyReport::Exported { state, source } => {
                let (id, tick, stream) = (state.region.id, self.tick, self.next_stream());
                if let Some(replica) = self.replicas.get_mut(&id) {
                    replica.exporting = false;
                    if replica.is_free() {
                        replica.exported_tick = Some(tick);
                        replica.group.set_exported(Some(Exported { state, stream, source }));
                        self.dirty.insert(id);
                    }
                }
                Ok(())
            }
            ApplyReport::Piece { region, to, stream, at, piece } => {
                self.on_piece(region, to, stream, at, piece);
                Ok(())
            }
            ApplyReport::Staged { region, stream, at, last, kept } => {
                self.on_staged(region, stream, at, last, kept)
            }
            ApplyReport::Imported { state, replaced } => self.on_imported(state, &replaced),
            ApplyReport::Destroyed(state) => {
                self.bury(&state);
                Ok(())
            }
        }
    }

    fn on_applied(&mut self, id: RegionId, applied: Applied, changes: Vec<Change>) -> Result<()> {
        for change in changes {
            match change {
                Change::Replicas { change, region } => self.on_changed(id, &change, region)?,
                Change::Split { at, parent, children } => {
                    self.on_split_applied(at, parent, children)?;
                }
                Change::Merging { region, merge } => self.on_merging(id, region, merge),
                Change::Merged { region, merge, source } => {
                    self.on_merged(id, region, merge, &source);
                }
            }
        }
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        if replica.importing.is_some() || replica.snapshot_persisting.is_some() {
            return Ok(()); // the snapshot is further
        }
        replica.applied = applied;
        replica.splitting = replica.splitting.filter(|index| *index > applied.index);
        replica.merge_entry = replica.merge_entry.filter(|entry| entry.index > applied.index);
        if replica.is_free() {
            replica.group.applied(applied.index);
        }
        self.dirty.insert(id);
        Ok(())
    }

    /// Whoever leads the parent in the term of the split's entry leads the children at once, in
    /// the term that all their logs start with: nobody else in the world can do so, and nobody can
    /// be elected in that term. So no vote is waited for; see `Group::lead_first_term`.
    fn on_split_applied(
        &mut self,
        at: Applied,
        parent: Region,
        children: Vec<Region>,
    ) -> Result<()> {
        let id = parent.id;
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        let leads = replica.group.is_leader();
        let proposed = leads && replica.group.term() == at.term;
        let merge = replica.merge.inherited();
        // Who reads by the parent's permit may read a child's keys.
        let views = replica.views.clone();
        let (before, after) = (replica.region.epoch.version, parent.epoch.version);
        replica.safe.narrow(before, after);
        let part = replica.safe.of_part(LOG_START.index);
        replica.region = parent;
        replica.siblings = children.iter().map(|c| c.id).collect();
        let all: Vec<RegionId> = children.iter().map(|c| c.id).chain([id]).collect();
        self.out.changed.insert(id);
        for child in children {
            let id = child.id;
            if self.replicas.get(&id).is_some_and(|r| r.initialised) {
                continue;
            }
            // A replica made by an early message goes; its term and vote are in the log and stay,
            // and so does what it promised to a leader.
            let early = self.replicas.remove(&id);
            let quiet = early.map_or(self.quiet(), |r| r.group.quiet());
            self.tombstones.remove(&id);
            self.append_ops()?;
            let log = self.log.group(id).unwrap_or_default();
            if log.last.index == 0 {
                self.reset_log(id, log.hard, LOG_START)?;
            }
            let own = child.peer_on(self.store).copied();
            let own = own.ok_or_else(|| Error::corrupt("a child without its parent's peers"))?;
            let (applied, merge) = (LOG_START, merge.clone());
            let state = RegionState { region: child, applied, tombstone: false, merge };
            self.open_replica(state, own, quiet)?;
            let replica = self.replicas.get_mut(&id).expect("opened above");
            replica.inherit_views(&views);
            replica.safe = part.clone();
            replica.siblings = all.iter().copied().filter(|r| *r != id).collect();
            let first = proposed && replica.group.lead_first_term();
            if leads && !first && replica.group.may_vote() {
                replica.group.campaign();
            }
            self.out.changed.insert(id);
            if let Some(early) = self.early.remove(&id) {
                for envelope in early.envelopes {
                    self.on_envelope(envelope)?;
                }
            }
        }
        Ok(())
    }

    /// Starts the end of a replica that others say was removed.
    pub(super) fn destroy(&mut self, id: RegionId, epoch: Epoch) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        if replica.importing.is_some() || replica.destroying {
            return;
        }
        if !replica.initialised {
            // Term and vote stay in the log: another replica here may get this id's region.
            self.replicas.remove(&id);
            return;
        }
        let mut region = replica.region.clone();
        region.epoch.conf_ver = region.epoch.conf_ver.max(epoch.conf_ver);
        let (applied, merge) = (replica.applied, MergeState::unknown());
        replica.end(RegionState { region, applied, tombstone: true, merge }, self.tick);
        self.dirty.insert(id);
        self.destroy_unread();
    }

    /// Has the content of removed replicas destroyed, unless a reader still holds a permit: it
    /// may not have taken its snapshot yet.
    pub(super) fn destroy_unread(&mut self) {
        for replica in self.replicas.values_mut() {
            let Some((_, since)) = &replica.ending else { continue };
            if !replica.is_read() || self.tick > since + self.config.permit_ticks {
                let (state, _) = replica.ending.take().expect("looked at above");
                self.out.applies.push(ApplyTask::Destroy(state));
            }
        }
    }

    /// Forgets entries that the machine has made durable: never above that point, and for a live
    /// follower not above what it has, nor above what is being sent to one, unless the log has too
    /// many entries or bytes by now.
    fn on_synced(&mut self, points: &[(RegionId, u64)]) -> Result<()> {
        for (id, synced) in points {
            let Some(replica) = self.replicas.get(id).filter(|r| r.initialised && r.is_free())
            else {
                continue;
            };
            let log = self.log.group(*id).unwrap_or_default();
            let synced = if mistaken(Mistake::PurgeUnsynced) { u64::MAX } else { *synced };
            let mut limit = synced.min(replica.applied.index);
            let mut keep = self.config.log_keep_entries;
            let entries = log.last.index - log.truncated.index;
            let too_long = entries > self.config.log_max_entries
                || replica.log_bytes > self.config.log_max_bytes;
            if too_long {
                keep = keep.min(KEPT_ENTRIES);
            } else if replica.group.is_leader() {
                let followers = replica.region.peers.iter();
                let live = followers.filter_map(|p| replica.group.follower(p.id));
                let live = live.filter(|f| f.active && !f.in_snapshot);
                limit = limit.min(live.map(|f| f.matched).min().unwrap_or(0));
                limit = limit.min(self.sending_from(*id).unwrap_or(u64::MAX));
            }
            let mut index = limit.saturating_sub(keep);
            if let Some(prepared) = &replica.merge.prepared {
                // Whoever leads the target must be able to carry the rest along.
                index = index.min(prepared.min_index.saturating_sub(1));
            }
            if index <= log.truncated.index {
                continue;
            }
            if let Some(term) = self.log.term(*id, index)? {
                self.ops.push((*id, LogOp::CompactTo(Applied { index, term })));
                let replica = self.replicas.get_mut(id).expect("found above");
                let left = u128::from(replica.log_bytes) * u128::from(log.last.index - index);
                replica.log_bytes = (left / u128::from(entries)) as u64;
            }
        }
        Ok(())
    }

    /// A replica that waits for its first snapshot.
    pub(super) fn open_empty(&mut self, id: RegionId, peer: Peer, epoch: Epoch) -> Result<()> {
        self.append_ops()?;
        let conf = raft::eraftpb::ConfState::default();
        let quiet = self.quiet();
        let group = Group::open(&self.config.raft, &self.log, id, peer.id, conf, 0, quiet)?;
        self.incarnations += 1;
        let region = Region { id, range: Default::default(), epoch, peers: Vec::new() };
        let (applied, merge) = (Applied::default(), MergeState::default());
        let state = RegionState { region, applied, tombstone: false, merge };
        let replica = Replica::new(state, peer, group, self.incarnations, self.lease());
        self.replicas.insert(id, replica);
        Ok(())
    }
}
