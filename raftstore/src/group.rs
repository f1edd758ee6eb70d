//! One Raft group: the only place that touches raft-rs, with its traps of 0.7.0 closed.
//! It owns no clock and no chance: the election timeout comes from a
//! seed. Nothing may call it between `ready` and the `advance` that gives the ready back.
//!
//! Guards: the randomised election timeout is ours (a); only a leader takes proposals, and where
//! they landed is checked (b); the commit index is raised to the applied one at start (c); stale
//! rejections are dropped (d); messages that would abort raft-rs are refused (h). raft-rs forgets
//! that it heard of a leader when it restarts or hears of a newer term; the promise not to vote
//! for an election's time after that is kept here.

mod storage;

pub(crate) use storage::{Exported, from_entry, from_hard_state};

use crate::apply::LOG_START;
use crate::error::{Error, Result};
use crate::hibernate::Position;
use crate::log_store::{HardState, LogStore};
use crate::machine::SnapshotSource;
use crate::options::RaftConfig;
use damask_types::{Peer, PeerId, Region, RegionId};
use parking_lot::Mutex;
use raft::eraftpb::{self, ConfChangeV2, Entry, Message, MessageType, Snapshot};
use raft::{Progress, ProgressState, RaftState, RawNode, Ready, SnapshotStatus, StateRole};
use std::collections::BTreeSet;
use std::sync::Arc;
use storage::{Cell, GroupStorage};

/// A message's term may be so far ahead: a group that holds an election in each millisecond comes
/// there in 49 days. Terms that were adopted from nonsense would end where they can grow no more.
const TERM_LEAP_MAX: u64 = 1 << 32;

/// Why a proposal was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    NotLeader,
    Transferring,
    Full,
    ChangePending,
}

/// How far a follower is, as its leader sees it.
pub(crate) struct Follower {
    pub matched: u64,
    pub active: bool,
    pub in_snapshot: bool,
    pub replicating: bool,
}

/// One group.
pub(crate) struct Group {
    raw: RawNode<GroupStorage>,
    cell: Arc<Mutex<Cell>>,
    chance: u64,
    election_ticks: usize,
    settled: (u64, StateRole),
    timeout: usize,
    entry_bytes: usize,
    /// Ticks since a leader's word, or since this store forgot when that was: for an election's
    /// time after it no vote is given, whatever raft-rs thinks. Leases rest on this promise.
    quiet: usize,
}

impl Group {
    /// Starts from the log as it is; `applied` is 0 for a replica that has no region yet. `quiet`:
    /// so many ticks ago, at least, this store heard of a leader of the group.
    pub fn open(
        config: &RaftConfig,
        log: &Arc<dyn LogStore>,
        region: RegionId,
        peer: PeerId,
        conf_state: eraftpb::ConfState,
        applied: u64,
        quiet: usize,
    ) -> Result<Group> {
        let group = log.group(region).unwrap_or_default();
        let hard_state = eraftpb::HardState {
            term: group.hard.term,
            vote: group.hard.vote,
            // Guard c: an applied entry is committed, whatever the hard state had time to say.
            commit: group.hard.commit.max(applied).max(group.truncated.index),
        };
        let cell = Arc::new(Mutex::new(Cell::default()));
        let initial = RaftState { hard_state, conf_state };
        let storage = GroupStorage { region, log: log.clone(), initial, cell: cell.clone() };
        let raft_config = raft::Config {
            id: peer.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied,
            max_size_per_msg: config.message_bytes,
            max_inflight_msgs: config.inflight_messages,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: config.uncommitted_bytes,
            max_committed_size_per_ready: config.apply_bytes,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, storage, &logger)
            .map_err(|e| Error::Invalid(format!("region {region}: {e}")))?;
        let chance = mix(config.seed ^ mix(region.0) ^ mix(peer.0).rotate_left(17));
        let settled = (u64::MAX, StateRole::Follower);
        let (election_ticks, timeout) = (config.election_ticks, 0);
        let entry_bytes = config.entry_bytes;
        let mut group =
            Group { raw, cell, chance, election_ticks, settled, timeout, entry_bytes, quiet };
        group.settle();
        Ok(group)
    }

    /// Guard a: after every change of role or term the timeout is drawn from the seed; raft-rs
    /// draws its own more often than that.
    fn settle(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now != self.settled {
            self.settled = now;
            self.chance = mix(self.chance);
            self.timeout =
                self.election_ticks + (self.chance % self.election_ticks as u64) as usize;
        }
        self.raw.raft.set_randomized_election_timeout(self.timeout);
    }

    pub fn tick(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
        self.raw.tick();
        self.settle();
    }

    /// Ticks again after `slept` of them, `silent` since somebody last said that the leader lives:
    /// both count as if it had been awake. A leader says at once that it is there, and asks its
    /// quorum an election's time from now.
    pub fn wake(&mut self, slept: usize, silent: usize) {
        self.quiet = self.quiet.saturating_add(slept);
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader {
            raft.election_elapsed = 0;
            self.raw.ping();
        } else {
            raft.election_elapsed = raft.election_elapsed.max(silent.min(self.quiet));
        }
    }

    /// See [`RaftConfig`].
    pub fn entry_bytes(&self) -> usize {
        self.entry_bytes
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { term: self.term(), index: self.last_index() }
    }

    /// On the leader: has every replica its whole log, and does nobody wait for raft-rs?
    pub fn all_have_all(&self, region: &Region) -> bool {
        let raft = &self.raw.raft;
        let settled = raft.lead_transferee.is_none()
            && !raft.has_pending_conf()
            && raft.pending_read_count() == 0
            && raft.prs().iter().count() == region.peers.len();
        let has_all = |peer: &Peer| {
            let pr = raft.prs().get(peer.id.0);
            pr.is_some_and(|pr| {
                pr.matched == raft.raft_log.last_index() && pr.state != ProgressState::Snapshot
            })
        };
        settled
            && self.knows_commit()
            && region.peers.iter().all(has_all)
            && raft.prs().conf().to_conf_state().voters_outgoing.is_empty()
    }

    /// Ticks since a leader's word, see `open`.
    pub fn quiet(&self) -> usize {
        self.quiet
    }

    /// May it vote, for others and for itself? Not for an election's time after a leader's word.
    pub fn may_vote(&self) -> bool {
        self.quiet >= self.election_ticks
    }

    /// Starts an election now. The caller knows that no other leader may hold a lease.
    pub fn campaign(&mut self) {
        // The only error is "not promotable", which is no news to the caller.
        let _ = self.raw.campaign();
        self.settle();
    }

    /// Leads in the term that the log of every replica starts with, without an election. False, and
    /// nothing changed, if this one's log or term went on already, or it has no vote.
    ///
    /// The caller knows that no other replica does so, ever: elections are for later terms, so this
    /// term has one leader. It has no lease before an entry of its own is committed: a replica that
    /// starts again with an empty log may forget whom it heard, and is elected by nobody who has
    /// that entry.
    pub fn lead_first_term(&mut self) -> bool {
        let raft = &mut self.raw.raft;
        let untouched = (raft.term, raft.raft_log.last_index())
            == (LOG_START.term, LOG_START.index)
            && raft.raft_log.persisted == LOG_START.index;
        if !untouched || !raft.promotable() || raft.state != StateRole::Follower {
            return false;
        }
        if raft.prs().conf().voters().ids().len() == 1 {
            raft.vote = raft.id; // as for any leader alone: after a restart it need not wait
        }
        raft.state = StateRole::Candidate; // raft-rs makes nobody else a leader
        raft.become_leader();
        raft.bcast_append();
        self.settle();
        true
    }

    /// Takes a message from a peer; false if it was refused.
    pub fn step(&mut self, m: Message) -> bool {
        if !self.acceptable(&m) {
            return false;
        }
        let from = m.from;
        let led = m.term >= self.raw.raft.term
            && matches!(
                m.get_msg_type(),
                MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
            );
        let taken = self.raw.step(m).is_ok();
        if led {
            self.quiet = 0;
        }
        self.settle();
        // Guard d, second half: `next_idx` stays above what has matched.
        if let Some(pr) = self.raw.raft.mut_prs().get_mut(from)
            && pr.next_idx <= pr.matched
        {
            pr.next_idx = pr.matched + 1;
        }
        taken
    }

    fn acceptable(&self, m: &Message) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        if m.term.saturating_sub(raft.term) > TERM_LEAP_MAX {
            return false;
        }
        match m.get_msg_type() {
            // Guard d, first half: a follower never loses what it once matched, nor refuses what
            // it was never sent.
            MessageType::MsgAppendResponse if m.reject => match raft.prs().get(m.from) {
                Some(pr) => {
                    let sent = m.index.max(m.reject_hint) <= last;
                    sent && m.index > pr.matched && m.reject_hint >= pr.matched
                }
                None => false,
            },
            // Guard h: raft-rs aborts if told to commit what it lacks, by a leader, …
            MessageType::MsgHeartbeat if m.term >= raft.term && m.commit > last => {
                tracing::error!(
                    peer = raft.id,
                    commit = m.commit,
                    last,
                    "acknowledged log is gone"
                );
                false
            }
            // … or by a follower that acknowledges it.
            MessageType::MsgAppendResponse
                if self.is_leader() && m.term == raft.term && m.index > last =>
            {
                let (peer, from, index) = (raft.id, m.from, m.index);
                tracing::error!(peer, from, index, last, "an entry is acknowledged that never was");
                false
            }
            MessageType::MsgAppend => contiguous(m) && self.agrees_with_committed(m),
            MessageType::MsgSnapshot => m.snapshot.as_ref().is_some_and(restorable),
            MessageType::MsgReadIndex => self.is_leader() && m.entries.len() == 1,
            // The leader itself has asked for a transfer's election, and reads by no lease since.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                m.term != 0 && (self.may_vote() || m.context == raft::CAMPAIGN_TRANSFER)
            }
            MessageType::MsgAppendResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgTimeoutNow
            | MessageType::MsgReadIndexResp
            | MessageType::MsgRequestPreVoteResponse => m.term != 0,
            _ => false,
        }
    }

    /// Guard h: raft-rs aborts on a leader that lacks an entry which is committed here.
    fn agrees_with_committed(&self, m: &Message) -> bool {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        if m.term < raft.term || m.index >= log.committed {
            return true; // it will be told the newer term; or speaks of nothing committed
        }
        let previous = (m.index, m.log_term);
        let named = std::iter::once(previous).chain(m.entries.iter().map(|e| (e.index, e.term)));
        // Entries that were compacted have no term any more (raft-rs says 0), but the position they
        // end at has.
        let compacted = log.first_index() - 1;
        let differs = |(index, term): &(u64, u64)| {
            let here = *index > 0 && *index >= compacted && *index <= log.committed;
            here && log.term(*index).is_ok_and(|own| own != *term)
        };
        let Some((index, term)) = named.into_iter().find(differs) else { return true };
        let (peer, from) = (raft.id, m.from);
        tracing::error!(peer, from, index, term, "a leader lacks an entry that is committed here");
        false
    }

    /// Appends commands to the leader's log, all or none: index of the first, and the term.
    pub fn propose(&mut self, commands: Vec<Vec<u8>>) -> std::result::Result<(u64, u64), Refused> {
        self.may_propose()?;
        let first = self.raw.raft.raft_log.last_index() + 1;
        let count = commands.len() as u64;
        let entry = |data| Entry { data, ..Entry::default() };
        let mut m = Message { from: self.raw.raft.id, ..Message::default() };
        m.set_msg_type(MessageType::MsgPropose);
        m.entries = commands.into_iter().map(entry).collect();
        self.raw.raft.step(m).map_err(|_| Refused::Full)?;
        self.appended(first, count);
        Ok((first, self.raw.raft.term))
    }

    /// As `propose`, for a change of the replicas.
    pub fn propose_change(
        &mut self,
        context: Vec<u8>,
        change: ConfChangeV2,
    ) -> std::result::Result<(u64, u64), Refused> {
        self.may_propose()?;
        if self.raw.raft.has_pending_conf() {
            return Err(Refused::ChangePending);
        }
        let index = self.raw.raft.raft_log.last_index() + 1;
        self.raw.propose_conf_change(context, change).map_err(|_| Refused::Full)?;
        self.appended(index, 1);
        Ok((index, self.raw.raft.term))
    }

    /// Guard b, second half: what was proposed is in this log, where its answers wait for it.
    fn appended(&self, first: u64, count: u64) {
        let last = self.raw.raft.raft_log.last_index();
        assert_eq!(last + 1, first + count, "raft-rs took a proposal and did not append it here");
    }

    /// Guard b: a follower would forward it, and the answer would go astray.
    fn may_propose(&self) -> std::result::Result<(), Refused> {
        if !self.is_leader() {
            return Err(Refused::NotLeader);
        }
        match self.raw.raft.lead_transferee {
            Some(_) => Err(Refused::Transferring),
            None => Ok(()),
        }
    }

    /// A leader knows the commit index only after it has committed an entry of its own term.
    pub fn knows_commit(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let own = log.term(log.committed).is_ok_and(|term| term == self.raw.raft.term);
        own && log.committed > LOG_START.index
    }

    /// A change of the replicas is in the log and not applied.
    pub fn change_pending(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    pub fn read_index(&mut self, context: Vec<u8>) {
        self.raw.read_index(context);
    }

    pub fn transfer_leader(&mut self, to: PeerId) {
        self.raw.transfer_leader(to.0);
    }

    /// raft-rs has taken a snapshot that is not in place. It decides by the snapshot's configuration
    /// since it was stepped, before it gives the ready; what is applied until then is older.
    pub fn is_restoring(&self) -> bool {
        self.raw.raft.raft_log.unstable_snapshot().is_some()
    }

    pub fn apply_change(&mut self, change: &ConfChangeV2) -> Result<()> {
        let applied = self.raw.apply_conf_change(change);
        self.settle();
        applied.map(|_| ()).map_err(|e| Error::corrupt(format!("a configuration change: {e}")))
    }

    /// A leader that does not vote any more follows; its term goes on until another is elected.
    pub fn step_down(&mut self) {
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, raft::INVALID_ID);
        self.settle();
    }

    /// Another replica was told to take over, and may yet.
    pub fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    pub fn has_ready(&self) -> bool {
        self.raw.has_ready()
    }

    pub fn ready(&mut self) -> Ready {
        self.raw.ready()
    }

    /// This group's log was changed: its ends may be others now.
    pub fn log_changed(&self) {
        self.cell.lock().log = None;
    }

    /// What the ready held is readable from the log store.
    pub fn advance(&mut self, ready: Ready) {
        self.raw.advance_append_async(ready);
    }

    pub fn persisted(&mut self, number: u64) {
        self.raw.on_persist_ready(number);
        self.settle();
    }

    /// Entries that came by another log, with a merge, are none of raft-rs's.
    pub fn applied(&mut self, index: u64) {
        let log = &self.raw.raft.raft_log;
        let index = index.min(log.committed).min(log.persisted);
        if index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
        }
    }

    /// Do these voters decide, by the configuration that is applied here?
    pub fn is_quorum(&self, voters: &BTreeSet<u64>) -> bool {
        self.raw.raft.prs().has_quorum(&voters.iter().copied().collect())
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn role(&self) -> StateRole {
        self.raw.raft.state
    }

    pub fn leader(&self) -> Option<PeerId> {
        let id = self.raw.raft.leader_id;
        (id != 0).then_some(PeerId(id))
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// Ticks since this replica heard from a leader.
    pub fn silent_ticks(&self) -> usize {
        self.raw.raft.election_elapsed
    }

    pub fn hard_state(&self) -> HardState {
        from_hard_state(&self.raw.raft.hard_state())
    }

    /// On the leader: each replica's progress.
    pub fn follower(&self, peer: PeerId) -> Option<Follower> {
        let pr = self.raw.raft.prs().get(peer.0)?;
        Some(Follower {
            matched: pr.matched,
            active: pr.recent_active || peer.0 == self.raw.raft.id,
            in_snapshot: pr.state == ProgressState::Snapshot,
            replicating: pr.state == ProgressState::Replicate || peer.0 == self.raw.raft.id,
        })
    }

    /// What raft-rs thinks of itself and its followers.
    pub fn describe(&self) -> String {
        let raft = &self.raw.raft;
        let mut followers: Vec<_> = raft.prs().iter().collect();
        followers.sort_by_key(|(id, _)| **id);
        let log = &raft.raft_log;
        let log = (log.applied, log.persisted, log.committed, log.last_index());
        format!(
            "{:?} in term {}, applied, persisted, committed, last: {log:?}, {followers:?}",
            raft.state, raft.term
        )
    }

    /// raft-rs has asked for a snapshot since the last call.
    pub fn take_snapshot_wanted(&mut self) -> bool {
        std::mem::take(&mut self.cell.lock().wanted)
    }

    /// A snapshot is there, or (with `None`) the old one is stale.
    pub fn set_exported(&mut self, exported: Option<Exported>) {
        let there = exported.is_some();
        self.cell.lock().exported = exported;
        if there && self.is_leader() {
            let own = self.raw.raft.id;
            let waits = |pr: &Progress| pr.state == ProgressState::Probe && !pr.is_paused();
            let all = self.raw.raft.prs().iter().filter(|(id, pr)| **id != own && waits(pr));
            let waiting: Vec<u64> = all.map(|(id, _)| *id).collect();
            waiting.into_iter().for_each(|id| self.raw.raft.send_append(id));
        }
    }

    /// What goes with a snapshot message at this index, and which export it is.
    pub fn exported(&self, index: u64) -> Option<(u64, Arc<dyn SnapshotSource>)> {
        let cell = self.cell.lock();
        let exported = cell.exported.as_ref().filter(|e| e.state.applied.index == index)?;
        Some((exported.stream, exported.source.clone()))
    }

    pub fn snapshot_failed(&mut self, to: PeerId) {
        self.raw.report_snapshot(to.0, SnapshotStatus::Failure);
    }

    /// Why the log could not be read, if raft-rs aborted for that.
    pub fn take_failure(&self) -> Option<Error> {
        self.cell.lock().failure.take()
    }
}

/// Replicas that raft-rs can be set up with: it aborts on others.
fn restorable(snapshot: &Snapshot) -> bool {
    let Some(conf) = snapshot.metadata.as_ref().and_then(|m| m.conf_state.as_ref()) else {
        return false;
    };
    let distinct = |lists: [&[u64]; 2]| {
        let mut ids = lists.concat();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        ids.len() == count && ids.first() != Some(&0)
    };
    let joint = !conf.voters_outgoing.is_empty();
    let between = conf.learners_next.iter().all(|id| conf.voters_outgoing.contains(id))
        && distinct([&conf.voters, &conf.learners_next])
        && distinct([&conf.voters_outgoing, &conf.learners]);
    let sound = distinct([&conf.voters, &conf.learners]) && !conf.voters.is_empty();
    !snapshot.is_empty() && sound && between && (joint || conf.learners_next.is_empty())
}

/// Do its entries follow each other and the position that it names, in terms that never fall?
///
/// Guard h: raft-rs says term 0 of what its log lacks, so whatever names term 0 would match there,
/// and be acknowledged, or committed. Only the beginning of all logs has that term, and no entry
/// of any region follows upon it.
fn contiguous(m: &Message) -> bool {
    if m.term == 0 || m.log_term > m.term {
        return false;
    }
    if m.log_term == 0 {
        return m.index == 0 && m.entries.is_empty();
    }
    let (mut index, mut term) = (m.index, m.log_term);
    m.entries.iter().all(|entry| {
        let follows = index.checked_add(1) == Some(entry.index);
        let grows = (term..=m.term).contains(&entry.term);
        (index, term) = (entry.index, entry.term);
        follows && grows
    })
}

/// SplitMix64's output function.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
