//! Groups in which nothing happens stop ticking. It must never keep anybody from an election that
//! is due, nor let a lease or a promise last longer than it would for a group that is awake.
//!
//! ```text
//!  leader    idle for hibernate_ticks ─ Ask ─►   ◄─ Agree ─ from every replica ─► asleep ─ Sleep ─►
//!  follower  awake ──── the same log, all of it committed and applied ──────────► asleep
//!
//!  store     ── Vouch(digest of what sleeps, led here, with a replica there) ──► every such store
//! ```
//! One `Vouch` per pair of stores takes the place of all heartbeats. A follower sleeps on only
//! while its leader's store vouches: silence for an election's time, or a digest that does not
//! become right for long, wakes whatever relies on that store, and the time it slept counts for
//! its election. Else anything wakes a replica: a message, a request, a long sleep. A follower
//! that wakes by itself wakes its leader, who has a heartbeat for everybody; so either all
//! sleep, or somebody is awake and finds a leader as if nobody ever slept.
//!
//! Leases end while their leader sleeps, as they would if it stood still; the next read asks a
//! quorum. Who slept promised nothing new meanwhile, and forgot nothing.

use super::{PROBE_TICKS, StoreCore};
use crate::handle::Envelope;
use crate::hibernate::{Digest, Position, Word};
use crate::replica::{Asleep, Replica};
use damask_types::{Epoch, Peer, PeerId, PeerRole, RegionId, StoreId};
use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;

/// For so many ticks a store may vouch for other groups than those that rely on it: some are just
/// about to wake or to fall asleep.
const DOUBT_TICKS: u64 = PROBE_TICKS as u64;
/// A follower that hears nothing for so many heartbeats wakes its leader, and again.
const SILENT_HEARTBEATS: usize = 3;

/// What another store has vouched for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// The tick of its last word.
    at: u64,
    /// Of the last one that named just what relies on it.
    right: u64,
}

impl StoreCore {
    /// A tick of those that sleep, and of those who may fall asleep.
    pub(super) fn step_sleep(&mut self) {
        if !self.config.hibernate_regions {
            return;
        }
        let mut vouches: BTreeMap<StoreId, Digest> = BTreeMap::new();
        let (mut wake, mut ask) = (Vec::new(), Vec::new());
        let mut words = Vec::new();
        for (id, replica) in &self.replicas {
            let leads = replica.group.is_leader();
            match replica.asleep {
                Some(asleep) if leads => {
                    if self.slept_long(*id, asleep.since) {
                        wake.push(*id);
                        continue;
                    }
                    let term = replica.group.term();
                    for peer in others(replica) {
                        vouches.entry(peer.store).or_default().add(*id, term);
                    }
                }
                Some(asleep) if self.is_doubtful(asleep) => wake.push(*id),
                None if leads && self.may_ask(replica) => ask.push(*id),
                None if !leads => words.extend(self.words_to_silent_leader(replica)),
                _ => {}
            }
        }
        self.out.sends.extend(words);
        wake.into_iter().for_each(|id| self.wake(id, None));
        ask.into_iter().for_each(|id| self.ask_to_sleep(id));
        if self.tick.is_multiple_of(self.config.raft.heartbeat_ticks as u64) {
            let vouches = vouches.into_iter();
            let beats = vouches.map(|(to, digest)| store_word(self.store, to, digest));
            self.out.sends.extend(beats);
        }
    }

    /// Those that fell asleep together do not wake together.
    fn slept_long(&self, id: RegionId, since: u64) -> bool {
        let max = self.config.hibernate_max_ticks;
        self.tick >= since + max + id.0 % (max / 4 + 1)
    }

    fn is_doubtful(&self, asleep: Asleep) -> bool {
        let heard = self.heard.get(&asleep.under).copied().unwrap_or_default();
        let ticks = |from: u64| self.tick - from.max(asleep.since);
        ticks(heard.at) >= self.config.raft.election_ticks as u64
            || ticks(heard.right) >= DOUBT_TICKS
            || ticks(0) >= 2 * self.config.hibernate_max_ticks
    }

    /// Its leader may have fallen asleep without it. Who knows none will stand for an election,
    /// which wakes everybody; but a learner cannot, and calls.
    fn words_to_silent_leader(&self, replica: &Replica) -> Vec<Envelope> {
        let silent = replica.group.silent_ticks();
        let step = SILENT_HEARTBEATS * self.config.raft.heartbeat_ticks;
        let due = silent >= step && silent.is_multiple_of(step) && silent < PROBE_TICKS;
        if !due || !replica.initialised || !replica.is_free() {
            return Vec::new();
        }
        let learns = replica.peer.role == PeerRole::Learner;
        let called = |peer: &&Peer| match replica.group.leader() {
            Some(leader) => peer.id == leader,
            None => learns && peer.role != PeerRole::Learner,
        };
        others(replica).filter(called).map(|peer| word(replica, *peer, Word::Wake)).collect()
    }

    /// A heartbeat that left before its leader fell asleep is still answered: no news.
    pub(super) fn is_late_answer(&self, id: RegionId, m: &Message) -> bool {
        let Some(replica) = self.replicas.get(&id) else { return false };
        let late = |a: &Asleep| self.tick <= a.since + self.config.raft.heartbeat_ticks as u64;
        m.get_msg_type() == MessageType::MsgHeartbeatResponse
            && replica.asleep.as_ref().is_some_and(late)
            && m.term == replica.group.term()
            && replica.group.is_leader()
    }

    /// Is there nothing left to do or to say, as far as this replica knows?
    fn rests(&self, replica: &Replica) -> bool {
        let group = &replica.group;
        self.config.hibernate_regions
            && replica.initialised
            && replica.is_free()
            && !replica.is_unfinished()
            && group.last_index() == group.commit()
            && group.commit() == replica.applied.index
    }

    /// Does this leader rest for long, and has everybody all it has?
    fn is_idle(&self, replica: &Replica) -> bool {
        self.tick >= replica.busy_tick + self.config.hibernate_ticks
            && self.rests(replica)
            && replica.group.all_have_all(&replica.region)
    }

    fn may_ask(&self, replica: &Replica) -> bool {
        let idle = self.tick.saturating_sub(replica.busy_tick);
        let step = self.config.raft.heartbeat_ticks as u64;
        idle >= self.config.hibernate_ticks && idle.is_multiple_of(step) && self.is_idle(replica)
    }

    fn ask_to_sleep(&mut self, id: RegionId) {
        let replica = &self.replicas[&id];
        let ask = Word::Ask(replica.group.position());
        let words: Vec<Envelope> = others(replica).map(|peer| word(replica, *peer, ask)).collect();
        if words.is_empty() {
            return self.fall_asleep(id);
        }
        self.out.sends.extend(words);
    }

    fn fall_asleep(&mut self, id: RegionId) {
        let (since, own) = (self.tick, self.store);
        let replica = self.replicas.get_mut(&id).expect("the caller has seen it");
        let under = replica.leader().map_or(own, |leader| leader.store);
        replica.agreed.clear();
        replica.asleep.get_or_insert(Asleep { since, under });
    }

    /// What happens to a replica wakes it; `by`: the peer whose message it is. Before the message
    /// is stepped, for it may be a vote's that is due only if the sleep counts.
    pub(super) fn wake(&mut self, id: RegionId, by: Option<PeerId>) {
        let tick = self.tick;
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let Some(Asleep { since, under }) = replica.asleep.take() else { return };
        let heard = self.heard.get(&under).map_or(0, |heard| heard.at);
        replica.busy_tick = tick;
        replica.group.wake((tick - since) as usize, (tick - since.max(heard)) as usize);
        self.dirty.insert(id);
        let known = |leader: &Peer| Some(leader.id) != by && leader.id != replica.peer.id;
        if let Some(leader) = replica.leader().filter(known) {
            let envelope = word(replica, leader, Word::Wake);
            self.out.sends.push(envelope);
        }
    }

    pub(super) fn on_word(&mut self, envelope: &Envelope, said: Word) {
        if let Word::Vouch(digest) = said {
            return self.on_vouch(envelope.from.store, digest);
        }
        let (id, from) = (envelope.region, envelope.from);
        let here = |r: &&Replica| r.peer.id == envelope.to.id && r.region.peer(from.id).is_some();
        let Some(replica) = self.replicas.get(&id).filter(here) else { return };
        let own = replica.group.position();
        let led_by = replica.group.leader();
        match said {
            Word::Ask(at) | Word::Sleep(at) => {
                let follows = led_by == Some(from.id) && from.id != replica.peer.id;
                if at != own || !follows || !self.rests(replica) {
                    return;
                }
                match said {
                    Word::Sleep(_) => self.fall_asleep(id),
                    _ => self.out.sends.push(word(replica, from, Word::Agree(own))),
                }
            }
            Word::Agree(at) => self.on_agree(id, from.id, at),
            Word::Wake => {
                self.wake(id, Some(from.id));
                let tick = self.tick;
                self.replicas.get_mut(&id).expect("found above").busy_tick = tick;
            }
            Word::Vouch(_) => {}
        }
    }

    fn on_agree(&mut self, id: RegionId, from: PeerId, at: Position) {
        let replica = &self.replicas[&id];
        let awake = replica.asleep.is_none() && replica.group.is_leader();
        if !awake || at != replica.group.position() || !self.is_idle(replica) {
            return;
        }
        let replica = self.replicas.get_mut(&id).expect("looked up above");
        replica.agreed.insert(from, at);
        let agreed = |peer: &Peer| replica.agreed.get(&peer.id) == Some(&at);
        if !others(replica).all(agreed) {
            return;
        }
        let sleep = others(replica).map(|peer| word(replica, *peer, Word::Sleep(at)));
        self.out.sends.extend(sleep);
        self.fall_asleep(id);
    }

    fn on_vouch(&mut self, from: StoreId, digest: Digest) {
        let mut own = Digest::default();
        for (id, replica) in &self.replicas {
            if replica.asleep.is_some_and(|a| a.under == from) && !replica.group.is_leader() {
                own.add(*id, replica.group.term());
            }
        }
        let heard = self.heard.entry(from).or_default();
        heard.at = self.tick;
        if own == digest {
            heard.right = self.tick;
        }
    }
}

/// The other replicas of a region.
fn others(replica: &Replica) -> impl Iterator<Item = &Peer> {
    replica.region.peers.iter().filter(|peer| peer.id != replica.peer.id)
}

fn word(replica: &Replica, to: Peer, word: Word) -> Envelope {
    Envelope { message: word.encode(), ..StoreCore::notice(replica, to) }
}

/// Between stores: no region's, and no peer's.
fn store_word(from: StoreId, to: StoreId, digest: Digest) -> Envelope {
    let peer = |store| Peer { id: PeerId(0), store, role: PeerRole::Voter };
    Envelope {
        region: RegionId(0),
        epoch: Epoch::default(),
        from: peer(from),
        to: peer(to),
        message: Word::Vouch(digest).encode(),
    }
}
