//! A region's content on its way to a replica that is too far behind: in chunks, a few at a time,
//! at a limited rate. Decides only; the apply thread reads and puts aside. It must never let
//! raft-rs see a snapshot before all of its chunks are here and sound.
//!
//! ```text
//! leader                                            replica
//!  MsgSnapshot ─► Sending ─ Read ─► chunk 0 … n ─►  Receiving ─ Stage ─► aside
//!                    ▲                                   │ (next in order, else dropped)
//!                    └──── so many are here ◄────────────┤
//!                                                        └ all: MsgSnapshot ─► raft-rs ─► Import
//! ```
//! Where acknowledgements stay away the replica is asked what it has, and is sent what comes after
//! that; so is one that needs the same export again, and one that has all, and waits for a
//! neighbour to make room. After a restart of the replica, or for another export, all
//! begins anew. A replica's old content stays until nobody holds a permit to read it, and until
//! the import, which is one write, or several that are done again after a crash.

use super::StoreCore;
use crate::apply::ApplyTask;
use crate::error::Result;
use crate::handle::Envelope;
use crate::machine::{SnapshotPiece, SnapshotSource};
use crate::wire::{self, SnapshotChunk};
use damask_types::{PeerId, RegionId};
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Chunks of one stream that are not acknowledged.
const WINDOW: u64 = 4;
/// Ticks without an acknowledgement after which the replica is asked what it has.
const RESEND_TICKS: u64 = 3;

/// In place of a chunk's number: only a question.
const QUESTION: u64 = u64::MAX;

/// All that is on its way, from here and to here.
#[derive(Default)]
pub(super) struct Snapshots {
    sending: BTreeMap<(RegionId, PeerId), Sending>,
    receiving: BTreeMap<RegionId, Receiving>,
    /// Bytes that may be sent now; below zero after a large chunk.
    budget: i64,
    /// When the budget was last filled up.
    filled: Duration,
    /// Exports so far.
    exports: u64,
    /// Attempts so far.
    attempts: u64,
}

struct Sending {
    /// raft-rs's message, which its receiver hears when it has all chunks.
    message: Vec<u8>,
    /// The position in the log that the content is of.
    index: u64,
    stream: u64,
    source: Arc<dyn SnapshotSource>,
    /// Where each chunk begins, as far as they were read.
    positions: Vec<Vec<u8>>,
    /// Known when the last one was read.
    total: Option<u64>,
    next: u64,
    acked: u64,
    reading: Option<u64>,
    /// The tick of the last chunk that was acknowledged, or sent again.
    moved: u64,
    /// raft-rs waits for it.
    wanted: bool,
    /// The replica was asked what it has: nothing is sent until it has answered.
    asked: bool,
    /// Attempts go in this order.
    attempt: u64,
}

impl Sending {
    /// Is there anything to send? What waits there, all of it, to be installed takes no turn: it
    /// may wait for one that comes later.
    fn is_moving(&self) -> bool {
        self.wanted && self.total != Some(self.acked)
    }
}

impl Snapshots {
    /// Those whose turn it is, the oldest attempts first: who fails goes to the end.
    fn in_turn(&self, most: usize) -> BTreeSet<(RegionId, PeerId)> {
        let moving = self.sending.iter().filter(|(_, s)| s.is_moving());
        let mut moving: Vec<_> = moving.map(|(key, s)| (s.attempt, *key)).collect();
        moving.sort_unstable();
        moving.into_iter().take(most).map(|(_, key)| key).collect()
    }
}

struct Receiving {
    /// The newest envelope of the stream, with raft-rs's message.
    envelope: Envelope,
    term: u64,
    index: u64,
    stream: u64,
    /// Chunks given to the apply thread; those that it has put aside.
    handed: u64,
    staged: u64,
    complete: bool,
    /// It was offered, and has to wait for a neighbour.
    waits: bool,
    touched: u64,
}

impl StoreCore {
    /// Tells this export from every other one.
    pub(super) fn next_stream(&mut self) -> u64 {
        self.snapshots.exports += 1;
        let (store, nonce) = (self.store.0.rotate_left(48), self.config.nonce.rotate_left(20));
        store ^ nonce ^ self.snapshots.exports
    }

    /// Begins to send what a message of raft-rs's asks for, or goes on. False: the content is gone.
    pub(super) fn start_sending(&mut self, id: RegionId, m: &Message) -> bool {
        let Some(replica) = self.replicas.get_mut(&id) else { return false };
        let metadata = m.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
        let index = metadata.map_or(0, |metadata| metadata.index);
        let to = PeerId(m.to);
        let (Some((stream, source)), Some(_)) =
            (replica.group.exported(index), replica.find_peer(to))
        else {
            return false;
        };
        replica.sent_snapshots.insert(to, Some(self.tick));
        let new = Sending {
            message: Vec::new(),
            index,
            stream,
            source,
            positions: vec![Vec::new()],
            total: None,
            next: 0,
            acked: 0,
            reading: None,
            moved: 0,
            wanted: true,
            asked: false,
            attempt: 0,
        };
        let there = self.snapshots.sending.remove(&(id, to)).filter(|s| s.stream == stream);
        let again = there.is_some();
        let mut sending = there.unwrap_or(new);
        sending.message = wire::encode_message(m);
        (sending.next, sending.moved, sending.wanted) = (sending.acked, self.tick, true);
        self.snapshots.attempts += 1;
        sending.attempt = self.snapshots.attempts;
        self.snapshots.sending.insert((id, to), sending);
        if again {
            self.ask(id, to);
        }
        true
    }

    /// Asks what the replica has. If that is all, it offers it to raft-rs once more.
    fn ask(&mut self, id: RegionId, to: PeerId) {
        let Some(s) = self.snapshots.sending.get_mut(&(id, to)) else { return };
        (s.asked, s.moved) = (true, self.tick);
        let (stream, message) = (s.stream, s.message.clone());
        let nothing =
            SnapshotChunk { stream, at: QUESTION, last: false, message, data: Vec::new() };
        self.send_chunk(id, to, nothing);
    }

    /// Asks for the next chunks, as far as window and rate allow.
    pub(super) fn pump_snapshots(&mut self) {
        let rate = self.config.snapshot_bytes_per_second;
        let turns = match self.snapshots.sending.is_empty() {
            true => BTreeSet::new(),
            false => self.snapshots.in_turn(self.config.snapshot_sends_max),
        };
        let Snapshots { sending, budget, filled, .. } = &mut self.snapshots;
        let passed = self.now.saturating_sub(*filled);
        *filled = self.now;
        // What two ticks may send, and at least one chunk, is saved up.
        let chunk = self.config.snapshot_chunk_bytes;
        let most = (rate as u128 * self.config.tick.as_millis() * 2 / 1000).max(chunk as u128);
        let more = rate as u128 * passed.as_micros() / 1_000_000;
        let full = i64::try_from(most).unwrap_or(i64::MAX);
        *budget = budget.saturating_add(i64::try_from(more).unwrap_or(i64::MAX)).min(full);
        for (region, to) in &turns {
            let s = sending.get_mut(&(*region, *to)).expect("it is moving");
            let is_over = s.total.is_some_and(|total| s.next >= total);
            let waits = s.asked || s.reading.is_some();
            if *budget <= 0 || waits || is_over || s.next >= s.acked + WINDOW {
                continue;
            }
            let Some(from) = s.positions.get(s.next as usize).cloned() else { continue };
            s.reading = Some(s.next);
            self.out.applies.push(ApplyTask::Read {
                region: *region,
                to: *to,
                stream: s.stream,
                at: s.next,
                from,
                bytes: chunk,
                source: s.source.clone(),
            });
        }
    }

    /// A chunk was read.
    pub(super) fn on_piece(
        &mut self,
        id: RegionId,
        to: PeerId,
        stream: u64,
        at: u64,
        piece: SnapshotPiece,
    ) {
        let Snapshots { sending, budget, .. } = &mut self.snapshots;
        let here = |s: &&mut Sending| s.stream == stream && s.reading == Some(at);
        let Some(s) = sending.get_mut(&(id, to)).filter(here) else { return };
        s.reading = None;
        *budget -= piece.chunk.len() as i64;
        let last = piece.next.is_none();
        match piece.next {
            Some(position) if s.positions.len() as u64 == at + 1 => s.positions.push(position),
            Some(_) => {}
            None => s.total = Some(at + 1),
        }
        if s.next == at {
            s.next += 1;
        }
        let message = s.message.clone();
        self.send_chunk(id, to, SnapshotChunk { stream, at, last, message, data: piece.chunk });
    }

    fn send_chunk(&mut self, id: RegionId, to: PeerId, chunk: SnapshotChunk) {
        let Some(replica) = self.replicas.get(&id).filter(|r| r.group.is_leader()) else { return };
        let Some(to) = replica.find_peer(to) else { return };
        let notice = Self::notice(replica, to);
        self.out.sends.push(Envelope { message: wire::encode_chunk(&chunk), ..notice });
    }

    /// The replica has so many chunks, without a gap.
    pub(super) fn on_chunks_here(&mut self, envelope: &Envelope, stream: u64, count: u64) {
        let (id, peer) = (envelope.region, envelope.from.id);
        let Some(s) = self.snapshots.sending.get_mut(&(id, peer)) else { return };
        if s.stream != stream || !s.wanted {
            return;
        }
        // Of what an earlier attempt has brought there, this one knows the chunks that it has read.
        let count = count.min(s.total.unwrap_or(s.positions.len() as u64 - 1));
        let asked = std::mem::take(&mut s.asked);
        s.moved = self.tick;
        if count < s.acked {
            // What was there is gone.
            (s.acked, s.next) = (count, count);
            return;
        }
        s.next = if asked { count } else { s.next.max(count) };
        s.acked = count;
        // It moves, or it is being installed: neither the attempt nor the content is given up.
        if let Some(replica) = self.replicas.get_mut(&id) {
            if let Some(sent) = replica.sent_snapshots.get_mut(&peer) {
                *sent = Some(self.tick);
            }
            if replica.group.exported(s.index).is_some_and(|(exported, _)| exported == stream) {
                replica.exported_tick = replica.exported_tick.map(|_| self.tick);
            }
        }
    }

    /// A chunk came, or the question whether all are here.
    pub(super) fn on_chunk(&mut self, envelope: Envelope, chunk: SnapshotChunk) -> Result<()> {
        let id = envelope.region;
        let SnapshotChunk { stream, at, last, message, data } = chunk;
        let Some(replica) = self.replicas.get(&id) else { return Ok(()) };
        let Ok(m) = wire::decode_message(&message) else { return Ok(()) };
        let metadata = m.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
        let (term, index) = (m.term, metadata.map_or(0, |metadata| metadata.index));
        let speaks = m.from == envelope.from.id.0 && m.to == envelope.to.id.0;
        let fits = m.get_msg_type() == MessageType::MsgSnapshot && index > 0 && speaks;
        if !fits || replica.peer.id != envelope.to.id || term < replica.group.term() {
            return Ok(());
        }
        let busy = !replica.is_free() || !replica.incoming.is_empty();
        let tick = self.tick;
        // What is complete may wait for another one.
        let moving = self.snapshots.receiving.values().filter(|r| !r.complete).count();
        let here = self.snapshots.receiving.get_mut(&id);
        let from = envelope.from;
        let envelope = Envelope { message, ..envelope };
        match here {
            Some(r) if r.stream == stream && r.envelope.from.id == from.id => {
                r.touched = tick;
                let count = r.staged;
                if busy {
                    self.tell_chunks(&envelope, stream, count);
                    return Ok(());
                }
                (r.envelope, r.term) = (envelope.clone(), term);
                if r.complete {
                    self.offer(id)?;
                    // What waits is not sent again. What can never be put in place gets no answer:
                    // its leader gives it up, and sends what it has then.
                    if self.snapshots.receiving.get(&id).is_some_and(|r| r.waits) {
                        self.tell_chunks(&envelope, stream, count);
                    }
                    return Ok(());
                }
                if at != r.handed || at >= count + WINDOW {
                    self.tell_chunks(&envelope, stream, count);
                    return Ok(());
                }
                r.handed += 1;
            }
            _ if busy => return Ok(()),
            // What comes late does not take the place of what came after it.
            Some(r) if (term, index) < (r.term, r.index) => return Ok(()),
            here => {
                if at > 0 {
                    self.tell_chunks(&envelope, stream, 0);
                    return Ok(());
                }
                if here.is_none() && moving >= self.config.snapshot_receives_max {
                    return Ok(()); // it will be tried again
                }
                let new = Receiving {
                    envelope,
                    term,
                    index,
                    stream,
                    handed: 1,
                    staged: 0,
                    complete: false,
                    waits: false,
                    touched: tick,
                };
                self.snapshots.receiving.insert(id, new);
            }
        }
        self.out.applies.push(ApplyTask::Stage { region: id, stream, at, last, chunk: data });
        Ok(())
    }

    /// A chunk was put aside, or (unless `kept`) was none that could be.
    pub(super) fn on_staged(
        &mut self,
        id: RegionId,
        stream: u64,
        at: u64,
        last: bool,
        kept: bool,
    ) -> Result<()> {
        let Some(r) = self.snapshots.receiving.get_mut(&id).filter(|r| r.stream == stream) else {
            return Ok(());
        };
        if kept {
            if at != r.staged {
                return Ok(()); // of an attempt that was given up meanwhile
            }
            r.staged = at + 1;
            r.handed = r.handed.max(r.staged);
            r.complete = last;
        } else {
            r.handed = r.staged;
        }
        let (count, complete, envelope) = (r.staged, r.complete, r.envelope.clone());
        self.tell_chunks(&envelope, stream, count);
        if complete { self.offer(id) } else { Ok(()) }
    }

    fn tell_chunks(&mut self, envelope: &Envelope, stream: u64, count: u64) {
        self.out.sends.push(Envelope {
            region: envelope.region,
            epoch: envelope.epoch,
            from: envelope.to,
            to: envelope.from,
            message: wire::encode_chunks_here(stream, count),
        });
    }

    /// All is here: raft-rs may want it now, or later, or not at all.
    fn offer(&mut self, id: RegionId) -> Result<()> {
        let Some(r) = self.snapshots.receiving.get_mut(&id) else { return Ok(()) };
        r.waits = false;
        let envelope = r.envelope.clone();
        self.on_envelope(envelope)
    }

    /// What was offered cannot be put in place yet.
    pub(super) fn note_wait(&mut self, id: RegionId) {
        if let Some(r) = self.snapshots.receiving.get_mut(&id) {
            r.waits = true;
        }
    }

    /// The stream whose chunks are all here, if this is what it announces.
    pub(super) fn complete_stream(&self, envelope: &Envelope) -> Option<u64> {
        let r = self.snapshots.receiving.get(&envelope.region)?;
        let same = r.envelope.message == envelope.message && r.envelope.from == envelope.from;
        (r.complete && same).then_some(r.stream)
    }

    /// The machine has it, and what was put aside is gone.
    pub(super) fn received(&mut self, id: RegionId) {
        self.snapshots.receiving.remove(&id);
    }

    /// Below it, the log of what is being sent must stay: the receiver needs what comes after.
    pub(super) fn sending_from(&self, id: RegionId) -> Option<u64> {
        let all = self.snapshots.sending.range((id, PeerId(0))..=(id, PeerId(u64::MAX)));
        all.filter(|(_, s)| s.wanted).map(|(_, s)| s.index).min()
    }

    /// Gives up what nobody waits for, and sends again what seems lost.
    pub(super) fn tick_snapshots(&mut self) {
        let tick = self.tick;
        let replicas = &mut self.replicas;
        self.snapshots.sending.retain(|(id, to), s| {
            let Some(replica) = replicas.get(id).filter(|r| r.group.is_leader()) else {
                return false;
            };
            s.wanted = replica.sent_snapshots.contains_key(to);
            let exported = replica.group.exported(s.index).map(|(stream, _)| stream);
            s.wanted || exported == Some(s.stream)
        });
        let mut silent = Vec::new();
        let turns = self.snapshots.in_turn(self.config.snapshot_sends_max);
        let wanted = self.snapshots.sending.iter_mut().filter(|(_, s)| s.wanted);
        for ((id, to), s) in wanted {
            if s.is_moving() && !turns.contains(&(*id, *to)) {
                // It waits for its turn: that is no failure.
                s.moved = tick;
                let replica = replicas.get_mut(id).expect("it leads");
                replica.sent_snapshots.insert(*to, Some(tick));
                continue;
            }
            let waits = s.asked || s.next > s.acked || !s.is_moving();
            if waits && s.reading.is_none() && tick >= s.moved + RESEND_TICKS {
                silent.push((*id, *to));
            }
        }
        silent.into_iter().for_each(|(id, to)| self.ask(id, to));
        let patience = self.config.snapshot_retry_ticks * 2;
        let busy = |id: &RegionId| {
            let replica = self.replicas.get(id);
            replica.is_some_and(|r| r.importing.is_some() || !r.incoming.is_empty())
        };
        let late = self.snapshots.receiving.iter();
        let late: Vec<RegionId> = late
            .filter(|(id, r)| tick > r.touched + patience && !busy(id))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.snapshots.receiving.remove(&id);
            self.out.applies.push(ApplyTask::Unstage(id));
        }
    }

    /// What is on its way of a region, in words.
    pub(super) fn describe_snapshots(&self, id: RegionId) -> String {
        let all = self.snapshots.sending.iter().filter(|((region, _), _)| *region == id);
        let sent = all
            .map(|((_, to), s)| format!("to {to}: {} of {:?} from {}", s.acked, s.total, s.index));
        let sent: Vec<String> = sent.collect();
        let here = self.snapshots.receiving.get(&id).map(|r| (r.index, r.staged, r.complete));
        format!("sending {sent:?}, receiving {here:?}")
    }
}

#[cfg(test)]
impl StoreCore {
    /// raft-rs's message of what is complete here.
    pub(super) fn snapshots_message(&self, id: RegionId) -> Vec<u8> {
        self.snapshots.receiving[&id].envelope.message.clone()
    }

    /// As if the content of this position were on its way, for ever.
    pub(super) fn keep_sending(&mut self, id: RegionId, to: PeerId, index: u64) {
        let sending = Sending {
            message: Vec::new(),
            index,
            stream: 0,
            source: Arc::new(crate::snapshot::Whole::new(Vec::new())),
            positions: vec![Vec::new()],
            total: None,
            next: 0,
            acked: 0,
            reading: None,
            moved: self.tick,
            wanted: true,
            asked: true,
            attempt: 0,
        };
        self.snapshots.sending.insert((id, to), sending);
    }
}
