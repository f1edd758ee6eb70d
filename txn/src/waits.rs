//! Who waits for which key, in the order of their transactions (`tikv: src/storage/lock_manager/
//! lock_waiting_queue.rs`). It must never let a release pass unheard: one that comes after a
//! waiter has looked finds it in the queue.
//!
//! ```text
//!   latch ─► decide: locked ─► enter ─► let go of the latch ─► wait
//!   latch ─► decide: unlock ─► changes: is the first one's request known and sound?
//!              yes ─► its lock goes into the same log entry ─► applied: it wakes with the answer
//!              no  ─► applied: it wakes, and looks ─► let go of the latch
//! ```
//!
//! The order of a key's latch is the order of what happens to its queue; the threads are woken when
//! the latch is let go ([`Wakeups`]), since they want it next. Who is woken to look keeps
//! its place until it has the lock (the others wait for the new holder) or gives up (the next one
//! is woken after [`WAKE_DELAY`]: who met a conflict comes back at once with a newer version).
//! Where others wait already, one may [`Waits::join`] them without the latch: the release that it
//! waits for is the one that they wait for.

mod grant;
mod ticket;

pub use grant::Change;
pub use ticket::Ticket;

use crate::deadlock::{Circle, Deadlocks};
use crate::request::{LockedKey, PessimisticLock};
use damask_env::Condvar;
use damask_types::{Record, Timestamp, WriteKind};
use grant::Grant;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long the next waiter leaves the way to one that gave up.
pub const WAKE_DELAY: Duration = Duration::from_millis(20);
/// Waiting calls of one store, about; more are refused at once.
pub const WAITERS_MAX: usize = 1 << 14;
/// Keys that one command passes on in its own log entry; waiters for more look for themselves.
pub const GRANTS_MAX: usize = 64;

/// All queues of one store.
pub struct Waits {
    queues: Mutex<HashMap<Arc<[u8]>, Queue>>,
    /// Waiters in all queues.
    count: AtomicUsize,
    deadlocks: Arc<dyn Deadlocks>,
}

/// By transaction, and by arrival of its calls.
type Place = (Timestamp, u64);

#[derive(Default)]
struct Queue {
    waiters: BTreeMap<Place, Arc<Waiter>>,
    arrivals: u64,
    /// Nobody holds the key, as far as is known: the first one has been woken.
    free: bool,
    /// Who holds it, as far as is known.
    holder: Timestamp,
}

#[derive(Default)]
struct Waiter {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    state: State,
    /// It may be given the lock without looking.
    ask: Option<Ask>,
    /// A record of its own transaction came: it has to look for itself, whatever it asks.
    ended: bool,
}

#[derive(Default, Debug, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    /// Look again.
    Released,
    /// Look again in a moment.
    Soon,
    /// Give up.
    Victim(Circle),
    /// Its lock is in the log.
    Granting,
    /// It has the lock.
    Granted(LockedKey),
    /// It waits no more.
    Gone,
}

/// A request whose lock may be passed on to it without another look.
#[derive(Clone, Debug)]
pub struct Ask {
    /// For this key only, and ready for a conflict.
    pub request: PessimisticLock,
    /// When it came, on the server's monotonic clock.
    pub since: Duration,
    /// In which term its transaction was seen to have no record on the key.
    pub term: u64,
}

/// One call that waits: a row of `information_schema.data_lock_waits`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait {
    /// The key.
    pub key: Vec<u8>,
    /// The transaction that waits, by its start.
    pub waiter: Timestamp,
    /// The one that holds the key, as far as is known; ZERO: it has just been let go.
    pub holder: Timestamp,
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// The key was released.
    Released,
    /// The key was passed on: this is the answer.
    Granted(LockedKey),
    /// Time is up.
    Timeout,
    /// The holder waits for this transaction.
    Victim(Circle),
    /// The lock is in the log, which does not answer.
    Unknown,
}

/// Why nobody may wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// It would close this circle.
    Victim(Circle),
    /// Too many wait already.
    Full,
}

impl Waits {
    /// Nobody waits. The detector may be shared with other stores.
    pub fn new(deadlocks: Arc<dyn Deadlocks>) -> Waits {
        Waits { queues: Mutex::default(), count: AtomicUsize::new(0), deadlocks }
    }

    /// Takes a place in the queue of `key`, which `holder` was just seen to hold: under its latch.
    pub fn enter(
        self: &Arc<Waits>,
        key: &[u8],
        start_ts: Timestamp,
        holder: Timestamp,
    ) -> Result<Ticket, Refused> {
        if self.count.load(Ordering::SeqCst) >= WAITERS_MAX {
            return Err(Refused::Full);
        }
        if let Some(circle) = self.deadlocks.wait(start_ts, key, holder) {
            return Err(Refused::Victim(circle));
        }
        let mut queues = self.queues.lock();
        let key = match queues.get_key_value(key) {
            Some((known, _)) => Arc::clone(known),
            None => key.into(),
        };
        let queue = queues.entry(Arc::clone(&key)).or_default();
        queue.free = false;
        queue.holder = holder;
        let (place, waiter) = queue.add(start_ts);
        self.count.fetch_add(1, Ordering::SeqCst);
        Ok(Ticket::new(Arc::clone(self), key, place, waiter))
    }

    /// Takes a place in a queue in which others wait for a holder, without looking at the key and
    /// without its latch. `None`: there is no such queue, or the transaction itself may hold the
    /// key.
    pub fn join(
        self: &Arc<Waits>,
        key: &[u8],
        start_ts: Timestamp,
    ) -> Result<Option<Ticket>, Refused> {
        if self.is_empty() {
            return Ok(None);
        }
        if self.count.load(Ordering::SeqCst) >= WAITERS_MAX {
            return Err(Refused::Full);
        }
        let ticket = {
            let mut queues = self.queues.lock();
            let Some((key, _)) = queues.get_key_value(key) else { return Ok(None) };
            let key = Arc::clone(key);
            let Some(queue) = queues.get_mut(&key) else { return Ok(None) };
            if queue.free || queue.holder == start_ts || queue.waiters.is_empty() {
                return Ok(None);
            }
            let (place, waiter) = queue.add(start_ts);
            self.count.fetch_add(1, Ordering::SeqCst);
            Ticket::new(Arc::clone(self), key, place, waiter)
        };
        match self.deadlocks.join(start_ts, key) {
            Some(circle) => Err(Refused::Victim(circle)),
            None => Ok(Some(ticket)),
        }
    }

    /// Does nobody wait? Under the latch of a key this speaks for the key.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Calls that wait for the key.
    pub fn waiting_for(&self, key: &[u8]) -> usize {
        self.queues.lock().get(key).map_or(0, |queue| queue.waiters.len())
    }

    /// Every call that waits and for whom, as of now; keys in no order.
    pub fn list(&self) -> Vec<Wait> {
        let queues = self.queues.lock();
        let mut waits = Vec::new();
        for (key, queue) in queues.iter() {
            let holder = queue.holder;
            let waiting = |waiter: &Waiter| {
                let state = &waiter.inner.lock().state;
                !matches!(state, State::Granted(_) | State::Gone | State::Victim(_))
            };
            let waiters = queue.waiters.iter().filter(|(_, waiter)| waiting(waiter));
            waits.extend(waiters.map(|((waiter, _), _)| Wait {
                key: key.to_vec(),
                waiter: *waiter,
                holder,
            }));
        }
        waits
    }

    /// What these records will change, and who may be passed a key that they let go; empty when
    /// nobody waits. Under the latches of their keys. The records of one key follow each other.
    pub fn changes(&self, records: &[Record]) -> Vec<Change> {
        if self.is_empty() {
            return Vec::new();
        }
        let queues = self.queues.lock();
        let mut changes: Vec<Change> = Vec::new();
        for record in records.iter().filter(|record| queues.contains_key(record.key())) {
            let change = match changes.last_mut() {
                Some(last) if last.key == record.key() => last,
                _ => {
                    changes.push(Change::new(record.key()));
                    changes.last_mut().expect("one was just pushed")
                }
            };
            match record {
                Record::Lock { lock, .. } => change.holder = Some(lock.start_ts),
                Record::Unlock { .. } => change.holder = Some(Timestamp::ZERO),
                Record::Write { commit_ts, write, .. } => {
                    change.ended.push(write.start_ts);
                    if write.overlapped_rollback || write.kind == WriteKind::Rollback {
                        change.ended.push(*commit_ts);
                    }
                }
                _ => {}
            }
        }
        let mut grants = 0;
        for change in &mut changes {
            let Some(queue) = queues.get(change.key.as_slice()) else { continue };
            change.ended.iter().for_each(|start_ts| queue.end(*start_ts));
            if change.holder == Some(Timestamp::ZERO) && grants < GRANTS_MAX {
                change.grant = queue.reserve();
                grants += usize::from(change.grant.is_some());
            }
        }
        changes
    }

    /// They are applied. Still under the latches; whoever is concerned wakes when what this gives
    /// back is dropped, after them.
    pub fn applied(&self, changes: Vec<Change>) -> Wakeups {
        let mut woken = Wakeups::default();
        for Change { key, holder, ended, grant } in changes {
            let granted = grant.and_then(|grant| grant.settle(&mut woken));
            if let Some((start_ts, _)) = granted {
                self.deadlocks.leave(start_ts, &key);
            }
            let victim = holder.and_then(|holder| self.deadlocks.hand_over(&key, holder));
            let mut queues = self.queues.lock();
            let Some(queue) = queues.get_mut(key.as_slice()) else { continue };
            if let Some(place) = granted
                && self.take_out(queue, place)
            {
                queues.remove(key.as_slice());
                continue;
            }
            for start_ts in ended {
                queue.end(start_ts);
                queue.wake_all_of(start_ts, &mut woken);
            }
            if let Some(holder) = holder {
                queue.pass_to(holder, &mut woken);
            }
            if let Some((victim, circle)) = victim {
                queue.wake_victim(victim, &circle, &mut woken);
            }
        }
        woken
    }

    /// Takes a place away, if it is there; is the queue empty then?
    fn take_out(&self, queue: &mut Queue, place: Place) -> bool {
        let found = queue.waiters.remove(&place).is_some();
        self.count.fetch_sub(usize::from(found), Ordering::SeqCst);
        queue.waiters.is_empty()
    }

    /// Takes a place away; wakes the next one if this one had been woken.
    fn remove(&self, key: &[u8], place: Place) {
        let mut woken = Wakeups::default();
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(key) else { return };
        let was_first = queue.waiters.keys().next() == Some(&place);
        if self.take_out(queue, place) {
            queues.remove(key);
        } else if queue.free && was_first {
            queue.wake_first(State::Soon, &mut woken);
        }
        drop(queues);
    }
}

/// Waiters to whom something has happened; dropping it wakes their threads. Not under a latch or a
/// lock: they would only go to sleep again at that.
#[must_use]
#[derive(Default)]
pub struct Wakeups(Vec<Arc<Waiter>>);

impl Drop for Wakeups {
    fn drop(&mut self) {
        self.0.iter().for_each(|waiter| waiter.changed.notify_one());
    }
}

impl Queue {
    fn add(&mut self, start_ts: Timestamp) -> (Place, Arc<Waiter>) {
        self.arrivals += 1;
        let place = (start_ts, self.arrivals);
        let waiter = Arc::<Waiter>::default();
        self.waiters.insert(place, Arc::clone(&waiter));
        (place, waiter)
    }

    /// The first one that waits, if it may be given the lock as it is.
    fn reserve(&self) -> Option<Grant> {
        for (place, waiter) in &self.waiters {
            let mut inner = waiter.inner.lock();
            match inner.state {
                State::Victim(_) | State::Gone => continue,
                State::Waiting if !inner.ended => {}
                _ => return None,
            }
            let ask = inner.ask.clone()?;
            inner.state = State::Granting;
            return Some(Grant::new(*place, Arc::clone(waiter), ask));
        }
        None
    }

    /// The key has this holder now; ZERO: none.
    fn pass_to(&mut self, holder: Timestamp, woken: &mut Wakeups) {
        self.free = holder == Timestamp::ZERO;
        self.holder = holder;
        if self.free {
            self.wake_first(State::Released, woken);
        } else {
            // Perhaps another call of the transaction that has the key now.
            self.wake_all_of(holder, woken);
        }
    }

    fn wake_first(&self, state: State, woken: &mut Wakeups) {
        for waiter in self.waiters.values() {
            let mut inner = waiter.inner.lock();
            match inner.state {
                State::Victim(_) | State::Gone => continue,
                // It has what it wants, or will hear.
                State::Granting | State::Granted(_) => return,
                State::Waiting | State::Released | State::Soon => {}
            }
            inner.state = state;
            woken.0.push(Arc::clone(waiter));
            return;
        }
    }

    fn wake_all_of(&self, start_ts: Timestamp, woken: &mut Wakeups) {
        for waiter in self.calls_of(start_ts) {
            let mut inner = waiter.inner.lock();
            if matches!(inner.state, State::Waiting | State::Soon) {
                inner.state = State::Released;
                woken.0.push(Arc::clone(waiter));
            }
        }
    }

    fn wake_victim(&self, victim: Timestamp, circle: &Circle, woken: &mut Wakeups) {
        for waiter in self.calls_of(victim) {
            let mut inner = waiter.inner.lock();
            // Who is given the lock waits for nobody; who is not will look, and be told then.
            if !matches!(inner.state, State::Granting | State::Granted(_) | State::Gone) {
                inner.state = State::Victim(circle.clone());
                woken.0.push(Arc::clone(waiter));
            }
        }
    }

    /// A record of this transaction is written: its calls have to look for themselves.
    fn end(&self, start_ts: Timestamp) {
        for waiter in self.calls_of(start_ts) {
            waiter.inner.lock().ended = true;
        }
    }

    fn calls_of(&self, start_ts: Timestamp) -> impl Iterator<Item = &Arc<Waiter>> {
        self.waiters.range((start_ts, 0)..=(start_ts, u64::MAX)).map(|(_, waiter)| waiter)
    }
}

#[cfg(test)]
mod tests;
