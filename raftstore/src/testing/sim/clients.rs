//! Clients that write and read single keys, one request at a time each, and remember when they
//! asked and when they were answered. They must never count an unknown outcome as a failure.

use super::history::{KeyHistory, Operation};
use super::world::{Happening, World};
use crate::answer::Answer;
use crate::command::encode_write;
use crate::error::Error;
use crate::handle::{Done, ReadMode, ReadPermit};
use crate::machine::Applied;
use crate::store_core::Event;
use damask_types::{ErrorKind, Lock, LockKind, PeerRole, Record, Region, StoreId, Timestamp};

/// A client gives up waiting after this long, in microseconds.
const PATIENCE: u64 = 1_500_000;
const MODES: [ReadMode; 4] = [ReadMode::Log, ReadMode::Index, ReadMode::Lease, ReadMode::Follower];

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Done,
    /// It did not happen and will not.
    Failed,
}

/// One request of one client.
pub(super) struct Request {
    client: u64,
    key: usize,
    mode: usize,
    op: Operation,
    outcome: Outcome,
    /// Its client waits no more.
    given_up: bool,
    /// A read of a replica that may have applied more than the leader has, or that may have by the
    /// time the snapshot is taken.
    aside: bool,
}

/// An answer on its way to the client.
pub(super) enum Reply {
    Written,
    Permit(StoreId, u64, ReadPermit),
    Failed,
    Unknown,
    /// By the log: now read at this position.
    ReadAt(StoreId, u64, Region, Applied),
}

/// An error as a client must take it.
fn failed(e: &Error) -> Reply {
    if e.kind() == ErrorKind::Undetermined { Reply::Unknown } else { Reply::Failed }
}

impl World {
    /// A client wakes up and asks for something.
    pub(super) fn on_client(&mut self, client: u64) {
        if self.now >= self.clients_end {
            return;
        }
        if self.now < self.lull_until {
            let rest = self.lull_until - self.now;
            let after = rest + self.chance.below(20_000);
            return self.schedule(after, Happening::Client(client));
        }
        let key = self.chance.below(self.keys.len() as u64) as usize;
        let Some((store, region)) = self.choose(key) else {
            return self.schedule_client(client);
        };
        let at = self.requests.len();
        self.order += 1;
        // In the calm every key must be written.
        let share = if self.now < self.storm_end { self.write_share } else { 450 };
        let write = self.chance.permille(share);
        let mode = self.chance.below(4) as usize;
        // A log that stands still is what a promise to a leader protects: others may be elected.
        let mode = if share < 50 { mode.max(1) } else { mode };
        let value = if write { at as u64 + 1 } else { 0 };
        let op = Operation { write, value, invoked: self.order, returned: None };
        let (outcome, given_up) = (Outcome::Open, false);
        let aside = MODES[mode] == ReadMode::Follower;
        self.requests.push(Request { client, key, mode, op, outcome, given_up, aside });
        self.schedule(PATIENCE, Happening::GiveUp(at));
        if write {
            self.ask_write(at, store, &region, value);
        } else {
            self.ask_read(at, store, &region, MODES[mode]);
        }
    }

    fn schedule_client(&mut self, client: u64) {
        let think = self.chance.between(500, 20_000);
        self.schedule(think, Happening::Client(client));
    }

    /// A store, and what it (or another one) believes of the region.
    fn choose(&mut self, key: usize) -> Option<(StoreId, Region)> {
        let ids: Vec<StoreId> = self.nodes.keys().copied().collect();
        let (asked, other) = (*self.chance.pick(&ids)?, *self.chance.pick(&ids)?);
        let status = self.nodes[&asked].region_at(self.keys[key].as_bytes())?;
        let leader = status.leader.map(|p| p.store).filter(|_| self.chance.permille(750));
        Some((leader.unwrap_or(other), status.region))
    }

    fn ask_write(&mut self, at: usize, store: StoreId, region: &Region, value: u64) {
        let key = self.keys[self.requests[at].key].as_bytes().to_vec();
        let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(value), 1);
        let records = [Record::Lock { key: key.clone(), lock }];
        let (region, epoch) = (region.id, region.epoch);
        let payload = encode_write(epoch, &records);
        let replies = self.replies.clone();
        let done: Done<Applied> = Box::new(move |result| {
            let reply = result.map_or_else(|e| failed(&e), |_| Reply::Written);
            replies.lock().push((at, reply));
        });
        let (span, term, answer) = (Some((key.clone(), key)), None, Answer::new(done));
        self.tell(store, Event::Propose { region, epoch, term, payload, span, answer });
    }

    /// As a store's handle does it.
    fn ask_read(&mut self, at: usize, store: StoreId, region: &Region, mode: ReadMode) {
        let (now, node) = (self.now, &self.nodes[&store]);
        let awake = node.paused_until <= now;
        let Some(running) = node.running.as_ref().filter(|_| awake) else {
            return self.replies.lock().push((at, Reply::Failed));
        };
        let (life, epoch, id) = (node.life, region.epoch, region.id);
        if mode == ReadMode::Lease
            && let Some(view) = running.local.find(id, epoch)
        {
            let local = node.clock.local(now);
            if let Some(permit) = view.permit(local) {
                let renew = view.renew(local, self.config.tick);
                self.counts.lock().local_reads += 1;
                self.replies.lock().push((at, Reply::Permit(store, life, permit)));
                if renew {
                    self.tell(store, Event::Renew(id));
                }
                return;
            }
        }
        if mode == ReadMode::Log {
            let (replies, region) = (self.replies.clone(), region.clone());
            let done: Done<Applied> = Box::new(move |result| {
                let then = |applied| Reply::ReadAt(store, life, region, applied);
                replies.lock().push((at, result.map_or(Reply::Failed, then)));
            });
            let payload = encode_write(epoch, &[]);
            let (span, term, answer) = (None, None, Answer::new(done));
            self.tell(store, Event::Propose { region: id, epoch, term, payload, span, answer });
            return;
        }
        let answer = self.permit_answer(at, store, life);
        self.tell(store, Event::Read { region: id, epoch, mode, answer });
    }

    fn permit_answer(&self, at: usize, store: StoreId, life: u64) -> Answer<ReadPermit> {
        let replies = self.replies.clone();
        Answer::new(Box::new(move |result| {
            let then = |permit| Reply::Permit(store, life, permit);
            replies.lock().push((at, result.map_or(Reply::Failed, then)));
        }))
    }

    /// Answers that came during the last happening.
    pub(super) fn take_replies(&mut self) {
        let replies = std::mem::take(&mut *self.replies.lock());
        for (at, reply) in replies {
            match reply {
                Reply::Written => self.finish(at, Outcome::Done),
                Reply::Failed => self.finish(at, Outcome::Failed),
                Reply::Unknown => self.finish(at, Outcome::Open),
                Reply::Permit(store, life, permit) => {
                    // The reader may be slow to take its snapshot.
                    let slow = self.chance.permille(60);
                    let own = permit.region.peer_on(store);
                    let learns = own.is_some_and(|p| p.role == PeerRole::Learner);
                    self.requests[at].aside |= slow || learns;
                    let delay = if slow { self.chance.below(400_000) } else { 0 };
                    self.schedule(delay, Happening::ReadEnds(at, store, life, permit));
                }
                Reply::ReadAt(store, life, region, applied) => {
                    let answer = self.permit_answer(at, store, life);
                    let (region, epoch, index) = (region.id, region.epoch, applied.index);
                    self.tell(store, Event::ReadAt { region, epoch, index, answer });
                }
            }
        }
    }

    fn finish(&mut self, at: usize, outcome: Outcome) {
        self.order += 1;
        let request = &mut self.requests[at];
        request.outcome = outcome;
        if outcome == Outcome::Done {
            request.op.returned = Some(self.order);
            let mut counts = self.counts.lock();
            if request.op.write {
                counts.writes += 1;
                if self.now >= self.storm_end {
                    self.written_in_calm[request.key] = true;
                }
            } else {
                counts.reads[request.mode] += 1;
            }
        }
        if !std::mem::replace(&mut request.given_up, true) {
            let client = request.client;
            self.schedule_client(client);
        }
    }

    /// The reader takes its snapshot, and gives its permit back.
    pub(super) fn on_read_ends(
        &mut self,
        at: usize,
        store: StoreId,
        life: u64,
        permit: ReadPermit,
    ) {
        let node = &self.nodes[&store];
        if node.paused_until > self.now {
            let delay = node.paused_until - self.now;
            return self.schedule(delay, Happening::ReadEnds(at, store, life, permit));
        }
        let Some(running) = node.running.as_ref().filter(|_| node.life == life) else {
            return self.finish(at, Outcome::Failed);
        };
        let key = self.keys[self.requests[at].key].as_bytes();
        if !permit.region.range.contains(key) {
            return self.finish(at, Outcome::Failed);
        }
        match running.machine.value(key) {
            Ok(value) => {
                self.requests[at].op.value = value;
                self.finish(at, Outcome::Done);
            }
            Err(e) => self.fail(format!("a read: {e}")),
        }
    }

    /// Its client goes on with something else.
    pub(super) fn on_give_up(&mut self, at: usize) {
        let request = &mut self.requests[at];
        if !std::mem::replace(&mut request.given_up, true) {
            let client = request.client;
            self.schedule_client(client);
        }
    }

    /// What is known of every key.
    pub fn histories(&self) -> Vec<KeyHistory> {
        let of_key = |(at, key): (usize, &&str)| {
            let of_key = self.requests.iter().filter(|r| r.key == at);
            let counted = of_key.filter(|r| match r.outcome {
                Outcome::Done => true,
                Outcome::Open => r.op.write,
                Outcome::Failed => false,
            });
            let (aside, rest): (Vec<_>, Vec<_>) = counted.partition(|r| r.aside && !r.op.write);
            let ops = |all: Vec<&Request>| all.into_iter().map(|r| r.op).collect();
            KeyHistory { key: (*key).to_owned(), operations: ops(rest), aside: ops(aside) }
        };
        self.keys.iter().enumerate().map(of_key).collect()
    }

    /// Every key's history is linearizable.
    pub(super) fn check_history(&self) -> Result<(), String> {
        for history in self.histories() {
            history.check().map_err(|e| {
                let tell = |op: &Operation| {
                    let what = if op.write { "write" } else { "read" };
                    format!("{what} {} {}..{:?}", op.value, op.invoked, op.returned)
                };
                let shown: Vec<String> = history.operations.iter().map(tell).collect();
                let last = shown.len().saturating_sub(60);
                let shown = shown[last..].join("\n    ");
                format!("key {} is not linearizable: {e}\n    {shown}", history.key)
            })?;
        }
        Ok(())
    }
}
