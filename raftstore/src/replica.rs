//! One replica of one region on this store: its group, and who waits for what. It decides nothing
//! about other replicas and does no I/O.

use crate::answer::Answer;
use crate::apply::Waiting;
use crate::batch::gather;
use crate::error::Error;
use crate::group::{Group, Refused};
use crate::handle::{ReadMode, ReadPermit};
use crate::hibernate::Position;
use crate::lease::Lease;
use crate::local_read::View;
use crate::log_store::HardState;
use crate::machine::{Applied, RegionState};
use crate::merge::MergeState;
use crate::resolved::Safe;
use crate::resolved_read::SafeView;
use damask_env::{Mistake, mistaken};
use damask_types::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, StoreId};
use raft::{Ready, StateRole};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A write that waits for the end of the turn.
pub(crate) struct Queued {
    pub payload: Vec<u8>,
    pub term: Option<u64>,
    pub answer: Answer<Applied>,
}

/// Somebody who wants to read.
pub(crate) struct Read {
    pub epoch: Epoch,
    pub mode: ReadMode,
    pub since: u64,
    pub answer: Answer<ReadPermit>,
}

/// A question to the leader's quorum.
pub(crate) struct Asked {
    pub context: Vec<u8>,
    pub tick: u64,
    /// Not later than it left.
    pub sent: Duration,
    pub reads: Vec<Read>,
}

/// A snapshot that raft-rs has taken and the state machine not yet.
pub(crate) struct Importing {
    pub ready: Ready,
    pub state: RegionState,
}

/// A command of a merge that was proposed here, until it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergeEntry {
    pub index: u64,
    /// It prepares: nothing behind it will be taken.
    pub prepares: bool,
}

/// A snapshot whose content is all here, until raft-rs says whether it wants it.
pub(crate) struct Incoming {
    pub state: RegionState,
    /// Whose chunks were put aside.
    pub stream: u64,
}

/// Nothing happens in the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asleep {
    /// Tick.
    pub since: u64,
    /// The leader's store, which has to say that the leader still is.
    pub under: StoreId,
}

pub(crate) struct Replica {
    pub region: Region,
    /// It has a range and a log; else it only waits for a snapshot.
    pub initialised: bool,
    pub peer: Peer,
    pub group: Group,
    /// Tells this `group` from another one of the same region, earlier or later.
    pub incarnation: u64,
    pub applied: Applied,
    /// Peers heard of that the description may lack.
    pub known: Vec<Peer>,
    pub queued: Vec<Queued>,
    pub pending: BTreeMap<(u64, u64), Waiting>,
    pub waiting_reads: Vec<Read>,
    pub asked: Vec<Asked>,
    /// Index that must be applied, and the leader's term.
    pub confirmed: Vec<(u64, u64, Vec<Read>)>,
    /// Readies handed to the log writer.
    pub outstanding: usize,
    /// The ready with a term or vote that is not durable.
    pub vote_unpersisted: Option<u64>,
    pub hard: HardState,
    /// About so many bytes of entries are in its log, of those that came since the store started:
    /// what is cut off counts as much as what stays.
    pub log_bytes: u64,
    pub incoming: Vec<Incoming>,
    pub importing: Option<Importing>,
    /// The ready that replaces the log by a snapshot's position.
    pub snapshot_persisting: Option<u64>,
    pub exporting: bool,
    pub exported_tick: Option<u64>,
    /// Who waits for a snapshot, and the tick at which that last moved; `None`: it could not be
    /// sent, which raft-rs hears at the next tick.
    pub sent_snapshots: HashMap<PeerId, Option<u64>>,
    /// Removed: what is left to do once nobody reads it any more, and since when.
    pub ending: Option<(RegionState, u64)>,
    pub destroying: bool,
    /// Descriptions handed out with read permits.
    pub views: Vec<Weak<Region>>,
    pub siblings: Vec<RegionId>,
    pub lease: Lease,
    /// Somebody reads by the lease, which ends soon.
    pub renewing: bool,
    /// A split that was proposed here and is not applied: nothing makes the lease longer.
    pub splitting: Option<u64>,
    /// Since when this leader is to bring a joint configuration to its end.
    pub joint_since: Option<u64>,
    pub merge: MergeState,
    pub merge_entry: Option<MergeEntry>,
    /// Since when the target, which is led here, could have taken this region in, but for somebody.
    pub merge_waits: Option<u64>,
    /// The last committed entry that was handed on to be applied.
    pub handed: u64,
    /// Its keys are about to be another region's, by that one's snapshot.
    pub frozen: bool,
    /// What readers see.
    pub published: Option<View>,
    pub safe: Safe,
    pub safe_published: Option<SafeView>,
    pub seen: (u64, StateRole, Option<PeerId>),
    pub deposed: u64,
    /// The last tick at which it was more than alive.
    pub busy_tick: u64,
    pub asleep: Option<Asleep>,
    /// On the leader: who would sleep as well, and where.
    pub agreed: BTreeMap<PeerId, Position>,
}

impl Replica {
    pub fn new(
        state: RegionState,
        peer: Peer,
        group: Group,
        incarnation: u64,
        lease: Lease,
    ) -> Self {
        let RegionState { region, applied, merge, .. } = state;
        let hard = group.hard_state();
        let seen = (group.term(), group.role(), group.leader());
        Replica {
            initialised: applied.index > 0,
            region,
            peer,
            group,
            incarnation,
            applied,
            known: Vec::new(),
            queued: Vec::new(),
            pending: BTreeMap::new(),
            waiting_reads: Vec::new(),
            asked: Vec::new(),
            confirmed: Vec::new(),
            outstanding: 0,
            vote_unpersisted: None,
            hard,
            log_bytes: 0,
            incoming: Vec::new(),
            importing: None,
            snapshot_persisting: None,
            exporting: false,
            exported_tick: None,
            sent_snapshots: HashMap::new(),
            ending: None,
            destroying: false,
            views: Vec::new(),
            siblings: Vec::new(),
            lease,
            renewing: false,
            splitting: None,
            joint_since: None,
            merge,
            merge_entry: None,
            merge_waits: None,
            handed: applied.index,
            frozen: false,
            published: None,
            safe: Safe::default(),
            safe_published: None,
            seen,
            deposed: 0,
            busy_tick: 0,
            asleep: None,
            agreed: BTreeMap::new(),
        }
    }

    pub fn find_peer(&self, id: PeerId) -> Option<Peer> {
        let heard_of = || self.known.iter().find(|p| p.id == id);
        self.region.peer(id).or_else(heard_of).copied()
    }

    /// A peer that the description may lack, soon or already.
    pub fn hear_of(&mut self, peer: Peer) {
        match self.known.iter_mut().find(|p| p.id == peer.id) {
            Some(known) => *known = peer,
            None => self.known.push(peer),
        }
    }

    pub fn leader(&self) -> Option<Peer> {
        self.find_peer(self.group.leader()?)
    }

    pub fn not_leader(&self) -> Error {
        let leader = self.leader().filter(|p| p.id != self.peer.id);
        Error::NotLeader { region: self.region.id, leader }
    }

    /// May be stepped, ticked, asked for a ready. Not while a snapshot is put in place: until
    /// raft-rs knows it as applied, an election would look for entries that are gone.
    pub fn is_free(&self) -> bool {
        let restored = self.importing.is_none() && self.snapshot_persisting.is_none();
        restored && !self.destroying && !self.frozen
    }

    /// Is somebody still to be answered, or something to be brought to its end?
    pub fn is_unfinished(&self) -> bool {
        let waits = !self.queued.is_empty()
            || !self.pending.is_empty()
            || !self.waiting_reads.is_empty()
            || !self.asked.is_empty()
            || !self.confirmed.is_empty();
        let writes = self.outstanding > 0
            || self.vote_unpersisted.is_some()
            || self.handed > self.applied.index;
        let copies = self.exporting
            || self.exported_tick.is_some()
            || !self.sent_snapshots.is_empty()
            || !self.incoming.is_empty();
        let changes = self.splitting.is_some()
            || self.merge_entry.is_some()
            || self.merge_waits.is_some()
            || self.is_merging();
        waits || writes || copies || changes || self.renewing
    }

    /// Is it on its way into a neighbour, or about to be?
    pub fn is_merging(&self) -> bool {
        self.merge.prepared.is_some() || self.merge_entry.is_some_and(|e| e.prepares)
    }

    /// May acknowledgements make the lease longer? Not while another region may soon have keys of
    /// this one.
    pub fn extends_lease(&self) -> bool {
        let splits = self.splitting.is_some() && !mistaken(Mistake::SplitExtendsLease);
        !splits && !self.is_merging()
    }

    /// Keys that are this replica's, or will be when a snapshot is put in place.
    pub fn claimed_ranges(&self) -> impl Iterator<Item = &KeyRange> {
        let own = self.initialised.then_some(&self.region.range);
        let incoming = self.incoming.iter().map(|i| &i.state.region.range);
        let importing = self.importing.iter().map(|i| &i.state.region.range);
        own.into_iter().chain(incoming).chain(importing)
    }

    /// The youngest version of those ranges.
    pub fn claimed_version(&self) -> u64 {
        let own = self.initialised.then_some(&self.region);
        let incoming = self.incoming.iter().map(|i| &i.state.region);
        let importing = self.importing.iter().map(|i| &i.state.region);
        let all = own.into_iter().chain(incoming).chain(importing);
        all.map(|region| region.epoch.version).max().unwrap_or(0)
    }

    fn refusal(&self, why: &Refused) -> Error {
        match why {
            Refused::NotLeader => self.not_leader(),
            Refused::Transferring => Error::Busy("the leader is being transferred"),
            Refused::Full => Error::Busy("too much is proposed and not committed"),
            Refused::ChangePending => Error::Busy("a change of the replicas is not yet applied"),
        }
    }

    /// Keeps who waits for an entry of this log.
    pub fn await_entry(&mut self, index: u64, term: u64, mut waiting: Waiting) {
        waiting.set_proposed();
        self.pending.insert((index, term), waiting);
    }

    pub fn refuse(&self, waiting: Waiting, why: &Refused) {
        waiting.fail(self.refusal(why));
    }

    /// Proposes what was queued in this turn, in one step.
    pub fn flush_queued(&mut self, now: Duration) {
        if self.queued.is_empty() {
            return;
        }
        let term = self.group.term();
        let (fresh, stale): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queued)
            .into_iter()
            .partition(|q| q.term.is_none_or(|t| t == term));
        stale.into_iter().for_each(|q| q.answer.send(Err(Error::Stale)));
        if fresh.is_empty() {
            return;
        }
        let writes = fresh.into_iter().map(|q| (q.payload, q.answer));
        let (payloads, answers): (Vec<_>, Vec<_>) =
            gather(writes, self.group.entry_bytes()).into_iter().unzip();
        match self.group.propose(payloads) {
            Ok((first, term)) => {
                self.lease.sent(term, first + answers.len() as u64 - 1, now);
                for (index, answers) in (first..).zip(answers) {
                    self.await_entry(index, term, Waiting::Writes(answers));
                }
            }
            Err(why) => {
                let error = self.refusal(&why);
                answers.into_iter().flatten().for_each(|answer| answer.send(Err(error.clone())));
            }
        }
    }

    /// Who waits for these committed entries: those with the same term get the outcome, those
    /// whose entry was overwritten learn it now, and not before: only a committed entry proves
    /// that the other one never will be.
    pub fn take_waiting(&mut self, last: u64, term_at: impl Fn(u64) -> u64) -> Vec<(u64, Waiting)> {
        let rest = self.pending.split_off(&(last + 1, 0));
        let mut out = Vec::new();
        for ((index, term), waiting) in std::mem::replace(&mut self.pending, rest) {
            if term_at(index) == term {
                out.push((index, waiting));
            } else {
                waiting.fail(Error::Stale);
            }
        }
        out
    }

    /// Nobody can say any more what became of these.
    pub fn give_up_pending(&mut self, why: &str) {
        for waiting in std::mem::take(&mut self.pending).into_values() {
            waiting.fail(Error::Undetermined(why.to_owned()));
        }
    }

    /// Asks for all reads of this turn at once, but for those that the lease covers.
    pub fn flush_reads(&mut self, tick: u64, now: Duration, context: impl FnOnce() -> Vec<u8>) {
        if self.waiting_reads.is_empty() && !self.renewing {
            return;
        }
        if self.group.is_leader() {
            if !self.group.knows_commit() {
                return; // raft-rs would drop it without a word; the commit brings us back here
            }
            self.serve_by_lease(now);
        } else {
            self.renewing = false;
            // Nor a learner, which may be where a client looks for the leader: whoever reads aside
            // of it must know that he does, for a leader may keep in memory what decides a read.
            let error = self.not_leader();
            let others = self.waiting_reads.extract_if(.., |r| r.mode != ReadMode::Follower);
            others.for_each(|r| r.answer.send(Err(error.clone())));
            if self.group.leader().is_none() {
                return;
            }
        }
        if self.waiting_reads.is_empty() && !self.renewing {
            return;
        }
        self.renewing = false;
        let context = context();
        self.group.read_index(context.clone());
        let reads = std::mem::take(&mut self.waiting_reads);
        self.asked.push(Asked { context, tick, sent: now, reads });
    }

    /// `now` was read after these reads came in.
    fn serve_by_lease(&mut self, now: Duration) {
        let waits = self.waiting_reads.iter().any(|r| r.mode == ReadMode::Lease);
        let Some(view) = waits.then(|| self.local_view()).flatten() else { return };
        if now >= view.until {
            return;
        }
        let View { region, term, commit, .. } = view;
        let applied = Applied { index: commit, term };
        let covered =
            |r: &mut Read| r.mode == ReadMode::Lease && r.epoch.version == region.epoch.version;
        for read in self.waiting_reads.extract_if(.., covered) {
            read.answer.send(Ok(ReadPermit { region: region.clone(), term, applied }));
        }
    }

    /// What may be read here without a question, and until when.
    pub fn local_view(&mut self) -> Option<View> {
        let term = self.group.term();
        // A leader's own term is applied: so is everything that others acknowledged before.
        let leads = self.initialised && self.is_free() && self.group.is_leader();
        if !leads || self.is_merging() || self.applied.term != term {
            return None;
        }
        let until = self.lease.until(term)?;
        Some(View { region: self.view(), term, commit: self.group.commit(), until })
    }

    /// The quorum has answered.
    pub fn confirm_read(&mut self, context: &[u8], index: u64) {
        if let Some(at) = self.asked.iter().position(|a| a.context == context) {
            let asked = self.asked.remove(at);
            let term = self.group.term();
            if self.group.is_leader() && self.extends_lease() {
                self.lease.confirmed(term, asked.sent);
            }
            if !asked.reads.is_empty() {
                self.confirmed.push((index, term, asked.reads));
            }
        }
    }

    /// Questions to a leader that is no more are asked again.
    pub fn requeue_asked(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            self.waiting_reads.extend(asked.reads);
        }
    }

    /// Answers those whose index is applied, after a last look at the epoch.
    pub fn answer_reads(&mut self, current: impl Fn(&Replica) -> Vec<Region>) {
        if self.confirmed.is_empty() {
            return;
        }
        let applied = self.applied;
        let (ready, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.confirmed)
            .into_iter()
            .partition(|(index, _, _)| *index <= applied.index);
        self.confirmed = rest;
        if ready.is_empty() {
            return;
        }
        let region = self.view();
        for (_, term, reads) in ready {
            for read in reads {
                let answer = if read.epoch.version != region.epoch.version {
                    Err(Error::EpochNotMatch { current: current(self) })
                } else if self.merge.prepared.is_some() {
                    Err(Error::Merging(region.id))
                } else {
                    Ok(ReadPermit { region: region.clone(), term, applied })
                };
                read.answer.send(answer);
            }
        }
    }

    /// The description that permits share.
    pub fn view(&mut self) -> Arc<Region> {
        let newest = self.views.last().and_then(Weak::upgrade);
        if let Some(view) = newest.filter(|view| **view == self.region) {
            return view;
        }
        let view = Arc::new(self.region.clone());
        self.views.retain(|view| view.strong_count() > 0);
        self.views.push(Arc::downgrade(&view));
        view
    }

    /// Takes over permits that somebody holds; each once, however often regions part and meet.
    pub fn inherit_views(&mut self, of: &[Weak<Region>]) {
        for view in of.iter().filter(|view| view.strong_count() > 0) {
            if !self.views.iter().any(|own| own.ptr_eq(view)) {
                self.views.push(view.clone());
            }
        }
    }

    /// Does somebody hold a read permit?
    pub fn is_read(&self) -> bool {
        self.views.iter().any(|view| view.strong_count() > 0)
    }

    /// The end of this replica: nothing is permitted any more.
    pub fn end(&mut self, state: RegionState, tick: u64) {
        self.destroying = true;
        self.ending = Some((state, tick));
        self.answer_all("this replica was removed", &Error::RegionNotFound(self.region.id));
    }

    /// Nobody who waits here will get what was asked for: readers hear `error`.
    pub fn answer_all(&mut self, why: &str, error: &Error) {
        self.give_up_pending(why);
        for queued in std::mem::take(&mut self.queued) {
            queued.answer.send(Err(error.clone()));
        }
        let confirmed = std::mem::take(&mut self.confirmed).into_iter().flat_map(|c| c.2);
        let asked = std::mem::take(&mut self.asked).into_iter().flat_map(|a| a.reads);
        let waiting = std::mem::take(&mut self.waiting_reads);
        for read in confirmed.chain(asked).chain(waiting) {
            read.answer.send(Err(error.clone()));
        }
    }

    /// Reads that waited too long: for a leader, for the answer of one that is cut off, or for an
    /// index that nobody brings here.
    pub fn expire_reads(&mut self, before: u64) {
        let leads = self.group.is_leader();
        let error = match leads {
            true => Error::Busy("what was asked for is not applied yet"),
            false => self.not_leader(),
        };
        let expire = |reads: &mut Vec<Read>| {
            let old = reads.extract_if(.., |r| r.since < before);
            old.for_each(|r| r.answer.send(Err(error.clone())));
        };
        expire(&mut self.waiting_reads);
        // A leader's question may be the lease's too, and raft-rs answers it or another leads.
        self.asked.retain_mut(|asked| {
            expire(&mut asked.reads);
            leads || !asked.reads.is_empty()
        });
        self.confirmed.retain_mut(|(_, _, reads)| {
            expire(reads);
            !reads.is_empty()
        });
    }
}
