//! Messages between stores: who may speak to whom, replicas that a message brings to life, and
//! notices to those that were removed. A bad envelope is dropped, never an error.
//!
//! An envelope without message bytes is a notice: "in this epoch you are not in the region"; others
//! say that the region has become a part of its neighbour, or never will.

use super::{EARLY_MESSAGES_MAX, EARLY_REGIONS_MAX, EARLY_TICKS, Early, StoreCore, Tombstone};
use crate::apply::ApplyTask;
use crate::error::Result;
use crate::handle::Envelope;
use crate::hibernate::Word;
use crate::log_store::LogOp;
use crate::machine::{Applied, RegionState};
use crate::replica::{Importing, Incoming, Replica};
use crate::resolved::SafeWord;
use crate::wire;
use damask_types::{Epoch, Peer, PeerId, RegionId};
use raft::eraftpb::{Message, MessageType};

impl StoreCore {
    pub(super) fn on_envelope(&mut self, envelope: Envelope) -> Result<()> {
        if envelope.to.store != self.store {
            return Ok(());
        }
        if envelope.message.is_empty() {
            self.on_notice(&envelope);
            return Ok(());
        }
        if let Some(into) = wire::decode_merged(&envelope.message) {
            self.on_merged_notice(&envelope, into);
            return Ok(());
        }
        if let Some(commit) = wire::decode_hopeless(&envelope.message) {
            self.on_hopeless_notice(&envelope, commit);
            return Ok(());
        }
        if let Some(word) = Word::decode(&envelope.message) {
            self.on_word(&envelope, word);
            return Ok(());
        }
        if let Some(word) = SafeWord::decode(&envelope.message) {
            self.on_safe_word(envelope.from.store, word);
            return Ok(());
        }
        if let Some((stream, count)) = wire::decode_chunks_here(&envelope.message) {
            self.on_chunks_here(&envelope, stream, count);
            return Ok(());
        }
        if let Some(chunk) = wire::decode_chunk(&envelope.message) {
            // What cannot be read is dropped.
            return chunk.map_or(Ok(()), |chunk| self.on_chunk(envelope, chunk));
        }
        let Ok(m) = wire::decode_message(&envelope.message) else {
            tracing::warn!(region = %envelope.region, "a message that cannot be read is dropped");
            return Ok(());
        };
        if m.to != envelope.to.id.0 || m.from != envelope.from.id.0 || m.from == m.to {
            return Ok(());
        }
        let id = envelope.region;
        let Some(replica) = self.replicas.get(&id) else { return self.on_unknown(envelope, &m) };
        if replica.peer.id != envelope.to.id {
            return self.on_other_peer(envelope, &m);
        }
        if replica.initialised && replica.region.peer(envelope.from.id).is_none() {
            let (theirs, ours) = (envelope.epoch.conf_ver, replica.region.epoch.conf_ver);
            if theirs < ours {
                let notice = Self::notice(replica, envelope.from);
                self.out.sends.push(notice);
            }
            if theirs <= ours {
                return Ok(());
            }
        }
        self.step_message(envelope, m);
        Ok(())
    }

    fn step_message(&mut self, envelope: Envelope, m: Message) {
        let id = envelope.region;
        let kind = m.get_msg_type();
        if kind == MessageType::MsgAppend && self.overloaded {
            return;
        }
        let incoming = match kind {
            MessageType::MsgSnapshot => match self.incoming(&envelope, &m) {
                Offer::Taken(incoming, replaced) => {
                    for other in replaced {
                        self.frozen.insert(other, id);
                        self.replicas.get_mut(&other).expect("found there").frozen = true;
                        self.dirty.insert(other);
                    }
                    Some(*incoming)
                }
                Offer::Waits => return self.note_wait(id),
                Offer::Refused => return,
            },
            _ => None,
        };
        if self.is_late_answer(id, &m) {
            return;
        }
        self.wake(id, Some(envelope.from.id));
        let tick = self.tick;
        let Some(replica) = self.replicas.get_mut(&id).filter(|r| r.is_free()) else { return };
        if kind == MessageType::MsgReadIndex {
            replica.busy_tick = tick;
        }
        replica.hear_of(envelope.from);
        replica.incoming.extend(incoming);
        replica.group.step(m);
        // With many idle regions most messages are answers to heartbeats, and bring nothing.
        if kind != MessageType::MsgHeartbeatResponse || replica.group.has_ready() {
            self.dirty.insert(id);
        }
    }

    /// What a snapshot says, if it is one for a replica here.
    fn announced(&self, envelope: &Envelope, m: &Message) -> Option<Incoming> {
        let snapshot = m.snapshot.as_ref()?;
        let metadata = snapshot.metadata.as_ref()?;
        let buf = &mut snapshot.data.as_slice();
        let (region, merge) = (wire::take_region(buf).ok()?, wire::take_merge(buf).ok()?);
        let stream = self.complete_stream(envelope)?;
        let own = region.peer(envelope.to.id)?;
        if region.id != envelope.region || own.store != self.store || metadata.index == 0 {
            return None;
        }
        let applied = Applied { index: metadata.index, term: metadata.term };
        let state = RegionState { region, applied, tombstone: false, merge };
        Some(Incoming { state, stream })
    }

    /// Checks a snapshot before raft-rs sees it: after that there is no way back.
    fn incoming(&self, envelope: &Envelope, m: &Message) -> Offer {
        let Some(incoming) = self.announced(envelope, m) else { return Offer::Refused };
        let RegionState { region, merge, .. } = &incoming.state;
        // Entries on their way to the machine may still split something off that it overlaps.
        let grows =
            |r: &Replica| r.region.range.intersect(&region.range) != Some(region.range.clone());
        let here = self.replicas.get(&region.id).filter(|r| r.initialised);
        if here.is_some_and(|r| grows(r) && !is_quiet(r)) {
            return Offer::Waits;
        }
        let overlaps = |r: &&Replica| {
            let mut claimed = r.claimed_ranges();
            r.region.id != region.id && claimed.any(|c| c.intersect(&region.range).is_some())
        };
        let mut replaced = Vec::new();
        for other in self.replicas.values().filter(overlaps) {
            let id = other.region.id;
            // Its log comes to no entry any more if that one goes with it: a chain of merges.
            let goes_too = |into| self.replicas.get(&into).is_some_and(|r| overlaps(&r));
            let asked = |into| into == region.id || goes_too(into) || self.may_discard(id, into);
            let gone = merge.taken_by(id).is_some_and(asked);
            if !gone || !other.is_free() || !other.incoming.is_empty() || !is_quiet(other) {
                // Its range has to shrink first: a split that is not yet applied here; or it is
                // older, and is being put in place; or it was merged, and whoever took it in is
                // behind. Of two that overlap the younger version is right: if that is not this
                // one, only a successor of this one can ever be put in place.
                tracing::debug!(region = %region.id, other = %id, "a snapshot waits");
                let is_younger = other.claimed_version() < region.epoch.version;
                return if is_younger { Offer::Waits } else { Offer::Refused };
            }
            replaced.push(id);
        }
        Offer::Taken(Box::new(incoming), replaced)
    }

    fn on_notice(&mut self, envelope: &Envelope) {
        let Some(replica) = self.replicas.get(&envelope.region) else { return };
        let newer = envelope.epoch.conf_ver > replica.region.epoch.conf_ver;
        if newer && replica.peer.id == envelope.to.id {
            self.destroy(envelope.region, envelope.epoch);
        }
    }

    pub(super) fn notice(replica: &Replica, to: Peer) -> Envelope {
        Envelope {
            region: replica.region.id,
            epoch: replica.region.epoch,
            from: replica.peer,
            to,
            message: Vec::new(),
        }
    }

    /// A message to another peer of this store: the one here is older, and gone, or newer.
    fn on_other_peer(&mut self, envelope: Envelope, m: &Message) -> Result<()> {
        let id = envelope.region;
        let replica = &self.replicas[&id];
        if envelope.epoch.conf_ver <= replica.region.epoch.conf_ver {
            return Ok(());
        }
        // The newer peer was added after this one was removed.
        let conf_ver = envelope.epoch.conf_ver - 1;
        self.destroy(id, Epoch { conf_ver, ..envelope.epoch });
        if self.replicas.contains_key(&id) { Ok(()) } else { self.on_unknown(envelope, m) }
    }

    /// A message for a region that is not here: of a split that is about to be applied here, or
    /// for a replica that is new to this store.
    fn on_unknown(&mut self, envelope: Envelope, m: &Message) -> Result<()> {
        let id = envelope.region;
        // The tombstone's epoch may be newer than the removal: of the one who told of it. Whether
        // another peer came after the removed one, its id says then: ids grow.
        if let Some(into) = self.merged_into(id) {
            self.tell_merged(&envelope, into);
            return Ok(());
        }
        if let Some(Tombstone { epoch, peer, .. }) = self.tombstones.get(&id)
            && (Some(envelope.to.id) == *peer
                || envelope.epoch.conf_ver <= epoch.conf_ver
                    && peer.is_none_or(|removed| envelope.to.id < removed))
        {
            return Ok(());
        }
        let first = matches!(
            m.get_msg_type(),
            MessageType::MsgAppend
                | MessageType::MsgHeartbeat
                | MessageType::MsgRequestVote
                | MessageType::MsgRequestPreVote
        );
        if !first || m.term == 0 {
            return Ok(());
        }
        let tick = self.tick;
        if self.replicas.values().any(|r| r.initialised) {
            if self.early.len() >= EARLY_REGIONS_MAX && !self.early.contains_key(&id) {
                return Ok(());
            }
            let early = self
                .early
                .entry(id)
                .or_insert_with(|| Early { since: tick, envelopes: Vec::new() });
            if tick < early.since + EARLY_TICKS {
                if early.envelopes.len() < EARLY_MESSAGES_MAX {
                    early.envelopes.push(envelope);
                }
                return Ok(());
            }
            self.early.remove(&id);
        }
        self.open_empty(id, envelope.to, envelope.epoch)?;
        let m = wire::decode_message(&envelope.message)?;
        self.step_message(envelope, m);
        Ok(())
    }

    /// The envelope of a message; `None` if nobody knows where the receiver lives.
    pub(super) fn envelope(replica: &Replica, m: Message) -> Option<Envelope> {
        let to = replica.find_peer(PeerId(m.to))?;
        Some(Envelope { message: wire::encode_message(&m), ..Self::notice(replica, to) })
    }

    /// Has a snapshot handed to the apply thread; the ready is given back when that is done.
    pub(super) fn start_import(&mut self, id: RegionId, ready: raft::Ready) {
        let replica = self.replicas.get_mut(&id).expect("it gave the ready");
        let metadata = ready.snapshot().metadata.clone().unwrap_or_default();
        let at = Applied { index: metadata.index, term: metadata.term };
        let incoming = std::mem::take(&mut replica.incoming);
        let Incoming { state, stream } = incoming
            .into_iter()
            .rfind(|i| i.state.applied == at)
            .expect("raft-rs takes only snapshots that it was given in this turn");
        let behind = replica.pending.split_off(&(at.index + 1, 0));
        replica.give_up_pending("a snapshot went past it");
        replica.pending = behind;
        replica.importing = Some(Importing { ready, state: state.clone() });
        self.unread.push(Unread { state, stream, since: self.tick });
    }

    /// Hands snapshots to the apply thread. That may need several writes, between which there is
    /// nothing to be read: so whoever holds a permit may take his time first, as when a replica is
    /// removed, and nobody gets a new one.
    pub(super) fn import_unread(&mut self) {
        for import in std::mem::take(&mut self.unread) {
            let id = import.state.region.id;
            let frozen = self.frozen.iter().filter(|(_, by)| **by == id).map(|(other, _)| other);
            let is_read = |id: &RegionId| self.replicas.get(id).is_some_and(Replica::is_read);
            let waits = std::iter::once(&id).chain(frozen).any(is_read);
            if waits && self.tick <= import.since + self.config.permit_ticks {
                self.unread.push(import);
            } else {
                let Unread { state, stream, .. } = import;
                self.out.applies.push(ApplyTask::Import { state, stream });
            }
        }
    }

    pub(super) fn on_imported(
        &mut self,
        state: RegionState,
        replaced: &[RegionState],
    ) -> Result<()> {
        let id = state.region.id;
        self.received(id);
        self.put_in_place(state)?;
        replaced.iter().for_each(|gone| self.replace(gone, id));
        Ok(())
    }

    fn put_in_place(&mut self, state: RegionState) -> Result<()> {
        let id = state.region.id;
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        let Some(Importing { mut ready, state: expected }) = replica.importing.take() else {
            return Ok(());
        };
        assert_eq!(state, expected, "the machine imports what it was given");
        let number = ready.number();
        let mut batch = vec![(id, LogOp::Reset(state.applied))];
        let entries = ready.take_entries();
        if !entries.is_empty() {
            let entries = entries.into_iter().map(crate::group::from_entry).collect();
            batch.push((id, LogOp::Append(entries)));
        }
        replica.log_bytes = 0;
        replica.hard = replica.group.hard_state();
        batch.push((id, LogOp::HardState(replica.hard)));
        self.log.append(batch)?;
        let own = state.region.peer_on(self.store).copied();
        replica.peer = own.expect("checked before raft-rs saw the snapshot");
        replica.safe.replace(state.region.epoch.version);
        replica.region = state.region;
        replica.merge = state.merge;
        replica.initialised = true;
        replica.applied = state.applied;
        replica.handed = state.applied.index;
        replica.snapshot_persisting = Some(number);
        replica.vote_unpersisted = Some(number);
        let messages = ready.take_persisted_messages();
        replica.group.log_changed();
        replica.group.advance(ready);
        let held: Vec<_> =
            messages.into_iter().filter_map(|m| Self::envelope(replica, m)).collect();
        self.hand_to_writer(id, number, true, held);
        self.out.changed.insert(id);
        self.dirty.insert(id);
        Ok(())
    }
}

/// A snapshot that is to be put in place of what somebody may still read.
pub(super) struct Unread {
    state: RegionState,
    stream: u64,
    /// Tick.
    since: u64,
}

/// What becomes of a snapshot whose content is all here.
enum Offer {
    /// raft-rs may see it. With it, the regions here that it replaces because its own has taken
    /// them in elsewhere.
    Taken(Box<Incoming>, Vec<RegionId>),
    /// Not yet: what is in its way will go.
    Waits,
    /// Never.
    Refused,
}

/// Is all that was committed here applied?
fn is_quiet(replica: &Replica) -> bool {
    replica.applied.index >= replica.handed
}
