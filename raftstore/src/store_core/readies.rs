//! The end of a turn: every dirty replica's ready becomes messages, one log append for all, and
//! work for writer and apply thread. It must keep the order that `store_core.rs` states.

use super::{Persisting, StoreCore, Turn, WriteTask};
use crate::apply::ApplyTask;
use crate::error::Result;
use crate::group::{from_entry, from_hard_state};
use crate::handle::Envelope;
use crate::log_store::{LogBatch, LogEntry, LogOp};
use crate::replica::Replica;
use damask_env::{Mistake, mistaken};
use damask_types::RegionId;
use raft::eraftpb::{Message, MessageType};
use raft::{Ready, StateRole};

/// Readies that one replica may give in one turn; the rest waits for the next.
const ROUNDS_MAX: usize = 8;

/// A ready whose content is in the batch.
struct Taken {
    region: RegionId,
    ready: Ready,
    /// Nothing of it has to be synced, nor of those before it.
    at_once: bool,
}

impl StoreCore {
    /// Collects what follows from the events since the last turn.
    ///
    /// # Errors
    /// Only local ones, after which the store must stop.
    pub fn finish(&mut self) -> Result<Turn> {
        self.turn += 1;
        for _ in 0..ROUNDS_MAX {
            if self.dirty.is_empty() && self.ops.is_empty() {
                break;
            }
            self.round()?;
        }
        self.import_unread();
        self.pump_snapshots();
        if !self.persisting.is_empty() {
            let parts = std::mem::take(&mut self.persisting);
            self.unpersisted.push_back((self.turn, parts));
        }
        if let Some(write) = &mut self.out.write {
            write.turn = self.turn;
        }
        if self.appended_bytes > self.config.compact_bytes {
            self.out.maintain = true;
        }
        if self.out.maintain {
            self.appended_bytes = 0;
        }
        Ok(std::mem::take(&mut self.out))
    }

    /// Is there more to do than one turn did?
    pub fn has_more(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn round(&mut self) -> Result<()> {
        let (ops, mut batch) = (std::mem::take(&mut self.ops), Vec::new());
        let mut taken = Vec::new();
        let ids = std::mem::take(&mut self.dirty);
        for id in ids.iter().copied() {
            if !self.prepare(id) {
                continue;
            }
            let replica = self.replicas.get_mut(&id).expect("prepared");
            let ready = replica.group.ready();
            self.note_role(id);
            if ready.snapshot().is_empty() {
                taken.push(self.take(id, ready, &mut batch));
            } else {
                self.start_import(id, ready);
            }
        }
        self.append_log(ops, batch)?;
        for Taken { region, ready, at_once } in taken {
            let number = ready.number();
            let replica = self.replicas.get_mut(&region).expect("it gave the ready");
            replica.group.log_changed();
            replica.group.advance(ready);
            if at_once {
                replica.group.persisted(number);
            }
            replica.incoming.clear();
            if replica.group.has_ready() {
                self.dirty.insert(region);
            }
        }
        if !self.frozen.is_empty() {
            self.thaw();
        }
        for id in ids {
            self.publish(id);
            self.publish_safe(id);
        }
        Ok(())
    }

    /// Tells readers what is new: before anything of this turn leaves.
    fn publish(&mut self, id: RegionId) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let view = replica.local_view();
        if view != replica.published {
            replica.published = view.clone();
            self.out.views.push((id, view));
        }
    }

    /// Turns what waits in a replica into raft-rs's input; false if there is no ready then.
    fn prepare(&mut self, id: RegionId) -> bool {
        self.answer_reads(id);
        let Some(replica) = self.replicas.get_mut(&id) else { return false };
        let mut ready = false;
        if replica.is_free() {
            let (nonce, count) = (self.config.nonce, &mut self.reads);
            let peer = replica.peer.id.0;
            replica.flush_queued(self.now);
            replica.flush_reads(self.tick, self.now, || {
                *count += 1;
                [peer, nonce, *count].iter().flat_map(|n| n.to_be_bytes()).collect()
            });
            if replica.group.take_snapshot_wanted() && !replica.exporting {
                replica.exporting = true;
                self.out.applies.push(ApplyTask::Export(id));
            }
            ready = replica.group.has_ready();
            if !ready {
                replica.incoming.clear();
            }
        }
        let unfinished = replica.is_unfinished();
        if unfinished {
            replica.busy_tick = self.tick;
        }
        if replica.asleep.is_some() && (unfinished || ready) {
            self.wake(id, None);
            ready = self.replicas[&id].group.has_ready();
        }
        ready
    }

    /// Answers readers of a replica whose index is applied. Not while the content is replaced: who
    /// waits is answered from the new one.
    fn answer_reads(&mut self, id: RegionId) {
        let waits = |r: &Replica| !r.confirmed.is_empty() && r.importing.is_none() && !r.frozen;
        // An answer may name the regions beside it: it is taken out only for that, for it is large.
        if self.replicas.get(&id).is_some_and(waits) {
            let mut replica = self.replicas.remove(&id).expect("looked at above");
            replica.answer_reads(|r| Self::current(&self.replicas, r));
            self.replicas.insert(id, replica);
        }
    }

    /// Sees whether role, term or leader are new.
    fn note_role(&mut self, id: RegionId) {
        let tick = self.tick;
        let replica = self.replicas.get_mut(&id).expect("it gave the ready");
        let group = &replica.group;
        let now = (group.term(), group.role(), group.leader());
        let before = std::mem::replace(&mut replica.seen, now);
        if before == now {
            return;
        }
        replica.busy_tick = tick;
        if (before.0, before.1) != (now.0, now.1) {
            replica.lease.end();
            replica.splitting = None;
            replica.joint_since = None;
            replica.merge_entry = None;
            if before.1 == StateRole::Leader && now.1 != StateRole::Leader {
                replica.deposed = tick;
            }
            if replica.peer.role.votes() {
                replica.requeue_asked();
                if !replica.waiting_reads.is_empty() {
                    self.dirty.insert(id);
                }
            }
        }
        self.out.changed.insert(id);
    }

    /// Spreads a ready over the turn.
    fn take(&mut self, id: RegionId, mut ready: Ready, batch: &mut LogBatch) -> Taken {
        let replica = self.replicas.get_mut(&id).expect("it gave the ready");
        let number = ready.number();
        if replica.group.is_leader() {
            let (term, commit) = (replica.group.term(), replica.group.commit());
            let before = replica.lease.until(term);
            replica.lease.committed(term, commit, replica.extends_lease());
            if mistaken(Mistake::LeaseFromAck) && replica.lease.until(term) > before {
                replica.lease.confirmed(term, self.now);
            }
        }
        for read in ready.take_read_states() {
            replica.confirm_read(&read.request_ctx, read.index);
        }
        if !replica.confirmed.is_empty() {
            self.dirty.insert(id);
        }
        let entries: Vec<LogEntry> = ready.take_entries().into_iter().map(from_entry).collect();
        if !entries.is_empty() {
            let bytes = entries.iter().map(LogEntry::size).sum::<usize>();
            self.appended_bytes += bytes;
            replica.log_bytes += bytes as u64;
            batch.push((id, LogOp::Append(entries)));
        }
        if let Some(hard) = ready.hs().map(from_hard_state) {
            if (hard.term, hard.vote) != (replica.hard.term, replica.hard.vote) {
                replica.vote_unpersisted = Some(number);
            }
            replica.hard = hard;
            if replica.initialised || !mistaken(Mistake::VoteNotSaved) {
                batch.push((id, LogOp::HardState(hard)));
            }
        }
        let committed = ready.take_committed_entries();
        if let Some(last) = committed.last().map(|e| e.index) {
            let first = committed[0].index;
            let term_at = |index: u64| {
                let at = index.checked_sub(first).map(|at| &committed[at as usize]);
                at.map_or(0, |entry| entry.term)
            };
            let waiting = replica.take_waiting(last, term_at);
            replica.handed = last;
            let entries = committed.into_iter().map(from_entry).collect();
            self.out.applies.push(ApplyTask::Entries { region: id, entries, waiting });
        }
        // A leader's messages may go before its own sync, unless they carry a term that a crash
        // would make it forget; anybody else's wait.
        let at_once = !ready.must_sync() && replica.outstanding == 0;
        let free = at_once || replica.vote_unpersisted.is_none();
        let (mut now, mut held) = (Vec::new(), Vec::new());
        let leading = ready.take_messages().into_iter().map(|m| (free, m));
        let after = ready.take_persisted_messages().into_iter();
        let after = after.map(|m| (at_once || free && says_nothing_of_the_log(&m), m));
        let mut snapshots = Vec::new();
        for (go, m) in leading.chain(after) {
            if m.get_msg_type() == MessageType::MsgTimeoutNow {
                replica.lease.revoke(m.term);
            }
            if m.get_msg_type() == MessageType::MsgSnapshot {
                snapshots.push((go, m));
            } else if let Some(envelope) = Self::envelope(replica, m) {
                if go { now.push(envelope) } else { held.push(envelope) }
            }
        }
        self.out.sends.extend(now);
        for (go, m) in snapshots {
            self.send_snapshot(id, go, &m);
        }
        if !at_once {
            self.hand_to_writer(id, number, ready.must_sync(), held);
        }
        Taken { region: id, ready, at_once }
    }

    /// Unless its term is durable (`go`) and the content there, the next tick gives it up.
    fn send_snapshot(&mut self, id: RegionId, go: bool, m: &Message) {
        if (!go || !self.start_sending(id, m))
            && let Some(replica) = self.replicas.get_mut(&id)
        {
            replica.sent_snapshots.insert(damask_types::PeerId(m.to), None);
        }
    }

    pub(super) fn hand_to_writer(
        &mut self,
        id: RegionId,
        number: u64,
        sync: bool,
        held: Vec<Envelope>,
    ) {
        let replica: &mut Replica = self.replicas.get_mut(&id).expect("it gave the ready");
        replica.outstanding += 1;
        let incarnation = replica.incarnation;
        self.persisting.push(Persisting { region: id, incarnation, number });
        let write = self.out.write.get_or_insert_with(WriteTask::default);
        write.sync |= sync;
        write.held.extend(held);
    }
}

/// Acknowledges the term only, which is durable: no need to wait for entries.
fn says_nothing_of_the_log(m: &Message) -> bool {
    matches!(m.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgReadIndex)
}
