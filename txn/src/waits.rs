//! Who waits for which key, in the order of their transactions (`tikv: src/storage/lock_manager/
//! lock_waiting_queue.rs`). It must never let a release pass unheard: one that comes after a
//! waiter has looked finds it in the queue.
//!
//! ```text
//!   latch ─► decide: locked ─► enter ─► let go of the latch ─► wait
//!   latch ─► decide: unlock ─► apply ─► release(key): the first one wakes ─► let go of the latch
//! ```
//!
//! The order of a key's latch is the order of what happens to its queue. Who is woken keeps its
//! place until it has the lock (the others wait for the new holder) or gives up (the next one is
//! woken after [`WAKE_DELAY`]: who met a conflict comes back at once with a newer version).

use crate::deadlock::{Circle, Deadlocks};
use crate::sync::wait_for;
use damask_types::{Record, Timestamp};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long the next waiter leaves the way to one that gave up.
pub const WAKE_DELAY: Duration = Duration::from_millis(20);
/// Waiting calls of one store, about; more are refused at once.
pub const WAITERS_MAX: usize = 1 << 14;

/// All queues of one store.
pub struct Waits {
    queues: Mutex<HashMap<Arc<[u8]>, Queue>>,
    /// Waiters in all queues.
    count: AtomicUsize,
    deadlocks: Arc<dyn Deadlocks>,
}

#[derive(Default)]
struct Queue {
    /// By transaction, and by arrival of its calls.
    waiters: BTreeMap<(Timestamp, u64), Arc<Waiter>>,
    arrivals: u64,
    /// Nobody holds the key, as far as is known: the first one has been woken.
    free: bool,
}

#[derive(Default)]
struct Waiter {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    /// Look again.
    Released,
    /// Look again in a moment.
    Soon,
    /// Give up.
    Victim(Circle),
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// The key was released.
    Released,
    /// Time is up.
    Timeout,
    /// The holder waits for this transaction.
    Victim(Circle),
}

/// Why nobody may wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// It would close this circle.
    Victim(Circle),
    /// Too many wait already.
    Full,
}

/// A place in a key's queue; dropping it leaves the queue.
pub struct Ticket {
    waits: Arc<Waits>,
    key: Arc<[u8]>,
    place: (Timestamp, u64),
    waiter: Arc<Waiter>,
}

/// What a command does to a key that somebody may wait for.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    key: Vec<u8>,
    /// ZERO: none.
    holder: Timestamp,
}

impl Waits {
    /// Nobody waits yet.
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
        queue.arrivals += 1;
        let place = (start_ts, queue.arrivals);
        let waiter = Arc::<Waiter>::default();
        queue.waiters.insert(place, Arc::clone(&waiter));
        self.count.fetch_add(1, Ordering::SeqCst);
        Ok(Ticket { waits: Arc::clone(self), key, place, waiter })
    }

    /// Does nobody wait? Under the latch of a key this speaks for the key.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// What these records will change; empty when nobody waits. Under the latches of their keys.
    pub fn changes(&self, records: &[Record]) -> Vec<Change> {
        if self.is_empty() {
            return Vec::new();
        }
        let queues = self.queues.lock();
        let changes = records.iter().filter_map(new_holder);
        let waited_for = changes.filter(|(key, _)| queues.contains_key(*key));
        waited_for.map(|(key, holder)| Change { key: key.to_vec(), holder }).collect()
    }

    /// They are applied. Still under the latches.
    pub fn applied(&self, changes: Vec<Change>) {
        for Change { key, holder } in changes {
            let victim = self.deadlocks.hand_over(&key, holder);
            let mut queues = self.queues.lock();
            let Some(queue) = queues.get_mut(key.as_slice()) else { continue };
            queue.free = holder == Timestamp::ZERO;
            if queue.free {
                queue.wake_first(State::Released);
            }
            if let Some((victim, circle)) = victim {
                queue.wake_victim(victim, &circle);
            }
        }
    }

    fn leave(&self, ticket: &Ticket) {
        self.deadlocks.leave(ticket.place.0, &ticket.key);
        let mut queues = self.queues.lock();
        self.count.fetch_sub(1, Ordering::SeqCst);
        let Some(queue) = queues.get_mut(&ticket.key) else { return };
        let was_first = queue.waiters.keys().next() == Some(&ticket.place);
        queue.waiters.remove(&ticket.place);
        if queue.waiters.is_empty() {
            queues.remove(&ticket.key);
        } else if queue.free && was_first {
            queue.wake_first(State::Soon);
        }
    }
}

/// Who holds the key after this record; ZERO: nobody.
fn new_holder(record: &Record) -> Option<(&[u8], Timestamp)> {
    match record {
        Record::Lock { key, lock } => Some((key, lock.start_ts)),
        Record::Unlock { key } => Some((key, Timestamp::ZERO)),
        _ => None,
    }
}

impl Queue {
    fn wake_first(&self, state: State) {
        let Some(first) = self.waiters.values().next() else { return };
        let mut current = first.state.lock();
        if !matches!(*current, State::Victim(_)) {
            *current = state;
            first.changed.notify_one();
        }
    }

    fn wake_victim(&self, victim: Timestamp, circle: &Circle) {
        let calls = self.waiters.range((victim, 0)..=(victim, u64::MAX));
        for (_, waiter) in calls {
            *waiter.state.lock() = State::Victim(circle.clone());
            waiter.changed.notify_one();
        }
    }
}

impl Ticket {
    /// The key that is waited for.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Another look (under the latch) has found this holder; the place in the queue stays.
    pub fn again(&self, holder: Timestamp) -> Result<(), Refused> {
        {
            let mut queues = self.waits.queues.lock();
            if let Some(queue) = queues.get_mut(&self.key) {
                queue.free = false;
            }
            let mut state = self.waiter.state.lock();
            if let State::Victim(circle) = &*state {
                return Err(Refused::Victim(circle.clone()));
            }
            *state = State::Waiting;
        }
        match self.waits.deadlocks.wait(self.place.0, &self.key, holder) {
            Some(circle) => Err(Refused::Victim(circle)),
            None => Ok(()),
        }
    }

    /// Waits; not under the latch.
    pub fn wait(&self, patience: Duration) -> Woken {
        let mut state = self.waiter.state.lock();
        if *state == State::Waiting {
            wait_for(&self.waiter.changed, &mut state, patience);
        }
        if *state == State::Soon {
            wait_for(&self.waiter.changed, &mut state, WAKE_DELAY);
        }
        match &*state {
            State::Waiting => Woken::Timeout,
            State::Released | State::Soon => Woken::Released,
            State::Victim(circle) => Woken::Victim(circle.clone()),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waits.leave(self);
    }
}

#[cfg(test)]
mod tests;
