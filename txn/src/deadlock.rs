//! Circles of waiting transactions (`tikv: src/server/lock_manager/deadlock.rs`). It must never
//! name a victim where no circle is, nor two victims of one circle.
//!
//! ```text
//!   waiter ──waits──► key ──held by──► transaction ──waits──► key …
//!   a wait that would come back to its waiter is refused: that waiter is the victim
//! ```
//!
//! The graph knows who waits for a key and who holds that key apart, so that handing a key over
//! costs the same however many wait for it. A store that dies leaves edges behind: they expire
//! unless they are announced again.

use damask_env::Clock;
use damask_types::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A wait is forgotten unless it is announced again within this.
pub const EDGE_LIFE: Duration = Duration::from_secs(10);
/// Waits known at once; more are not noted, and a circle through them ends by a timeout.
pub const EDGES_MAX: usize = 1 << 17;
/// Transactions that one search visits.
const VISITS_MAX: usize = 10_000;

/// (waiter, holder) around a circle, the victim's wait last.
pub type Circle = Vec<(Timestamp, Timestamp)>;

/// Where all stores of a cluster announce who waits: one detector, or a wire to it.
pub trait Deadlocks: Send + Sync + 'static {
    /// `waiter` will wait for `key`, which `holder` holds; again while it waits. If that closes a
    /// circle, nothing is noted.
    fn wait(&self, waiter: Timestamp, key: &[u8], holder: Timestamp) -> Option<Circle>;
    /// The same for a key that others wait for, whoever was announced last to hold it.
    fn join(&self, waiter: Timestamp, key: &[u8]) -> Option<Circle>;
    /// A key that somebody waits for has a new holder; ZERO: none. The victim, if that closes a
    /// circle: one of those who wait for the key.
    fn hand_over(&self, key: &[u8], holder: Timestamp) -> Option<(Timestamp, Circle)>;
    /// `waiter` does not wait for `key` any more.
    fn leave(&self, waiter: Timestamp, key: &[u8]);
}

/// Who waits for what. Pure: the caller says how late it is.
#[derive(Debug, Default)]
pub struct Detector {
    /// By waiter: the keys (a transaction may wait in several regions at once), until when.
    waits: HashMap<Timestamp, Vec<(Arc<[u8]>, Duration)>>,
    /// By key that is waited for.
    keys: HashMap<Arc<[u8]>, Key>,
    edges: usize,
}

#[derive(Debug)]
struct Key {
    holder: Timestamp,
    waiters: Vec<Timestamp>,
}

impl Detector {
    /// See [`Deadlocks::wait`].
    pub fn wait(
        &mut self,
        now: Duration,
        waiter: Timestamp,
        key: &[u8],
        holder: Timestamp,
    ) -> Option<Circle> {
        if self.edges >= EDGES_MAX {
            self.expire(now);
        }
        if let Some(mut circle) = self.path(now, holder, waiter) {
            circle.push((waiter, holder));
            self.leave(waiter, key);
            return Some(circle);
        }
        let until = now + EDGE_LIFE;
        let own = self.waits.entry(waiter).or_default();
        if let Some((known, expires)) = own.iter_mut().find(|(known, _)| **known == *key) {
            *expires = until;
            if let Some(entry) = self.keys.get_mut(known) {
                entry.holder = holder;
            }
            return None;
        }
        if self.edges >= EDGES_MAX {
            self.forget_if_idle(waiter);
            return None;
        }
        let key = match self.keys.get_key_value(key) {
            Some((known, _)) => Arc::clone(known),
            None => key.into(),
        };
        own.push((Arc::clone(&key), until));
        self.edges += 1;
        let entry = self.keys.entry(key).or_insert(Key { holder, waiters: Vec::new() });
        entry.holder = holder;
        entry.waiters.push(waiter);
        None
    }

    /// See [`Deadlocks::join`].
    pub fn join(&mut self, now: Duration, waiter: Timestamp, key: &[u8]) -> Option<Circle> {
        // Unknown: noted without a holder, until somebody looks at the key.
        let holder = self.keys.get(key).map_or(Timestamp::ZERO, |entry| entry.holder);
        if holder == waiter {
            return None;
        }
        self.wait(now, waiter, key, holder)
    }

    /// See [`Deadlocks::hand_over`].
    pub fn hand_over(
        &mut self,
        now: Duration,
        key: &[u8],
        holder: Timestamp,
    ) -> Option<(Timestamp, Circle)> {
        let entry = self.keys.get_mut(key)?;
        entry.holder = holder;
        // A holder that waits for nothing (nearly always) closes no circle.
        if holder == Timestamp::ZERO || !self.waits.contains_key(&holder) {
            return None;
        }
        let waiters = self.keys.get(key)?.waiters.clone();
        let (victim, mut circle) = waiters
            .into_iter()
            .filter(|waiter| *waiter != holder && self.is_alive(now, *waiter, key))
            .find_map(|waiter| Some((waiter, self.path(now, holder, waiter)?)))?;
        circle.push((victim, holder));
        self.leave(victim, key);
        Some((victim, circle))
    }

    /// See [`Deadlocks::leave`].
    pub fn leave(&mut self, waiter: Timestamp, key: &[u8]) {
        let Some(own) = self.waits.get_mut(&waiter) else { return };
        let before = own.len();
        own.retain(|(known, _)| **known != *key);
        if own.len() == before {
            return;
        }
        self.edges -= 1;
        self.forget_if_idle(waiter);
        if let Some(entry) = self.keys.get_mut(key) {
            entry.waiters.retain(|other| *other != waiter);
            if entry.waiters.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// Waits that are noted.
    pub fn len(&self) -> usize {
        self.edges
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.edges == 0
    }

    fn forget_if_idle(&mut self, waiter: Timestamp) {
        if self.waits.get(&waiter).is_some_and(Vec::is_empty) {
            self.waits.remove(&waiter);
        }
    }

    fn is_alive(&self, now: Duration, waiter: Timestamp, key: &[u8]) -> bool {
        let own = self.waits.get(&waiter);
        own.is_some_and(|own| own.iter().any(|(known, until)| **known == *key && *until > now))
    }

    /// Drops waits that were not announced again.
    fn expire(&mut self, now: Duration) {
        let old = |(waiter, own): (&Timestamp, &Vec<(Arc<[u8]>, Duration)>)| {
            let old = own.iter().filter(|(_, until)| *until <= now);
            old.map(|(key, _)| (*waiter, Arc::clone(key))).collect::<Vec<_>>()
        };
        let old: Vec<_> = self.waits.iter().flat_map(old).collect();
        old.into_iter().for_each(|(waiter, key)| self.leave(waiter, &key));
    }

    /// The waits from one transaction to another, if there is a way.
    fn path(&self, now: Duration, from: Timestamp, to: Timestamp) -> Option<Circle> {
        if from == to {
            return Some(Circle::new());
        }
        // Where each transaction was reached from.
        let mut reached: HashMap<Timestamp, Timestamp> = HashMap::new();
        let mut left = vec![from];
        while let Some(at) = left.pop() {
            if reached.len() > VISITS_MAX {
                return None;
            }
            let Some(own) = self.waits.get(&at) else { continue };
            for (key, until) in own {
                let Some(entry) = self.keys.get(key).filter(|_| *until > now) else { continue };
                let next = entry.holder;
                if next == Timestamp::ZERO || next == from || reached.contains_key(&next) {
                    continue;
                }
                reached.insert(next, at);
                if next == to {
                    return Some(walk_back(&reached, from, to));
                }
                left.push(next);
            }
        }
        None
    }
}

fn walk_back(reached: &HashMap<Timestamp, Timestamp>, from: Timestamp, to: Timestamp) -> Circle {
    let mut path = Circle::new();
    let mut at = to;
    while at != from {
        let before = reached[&at];
        path.push((before, at));
        at = before;
    }
    path.reverse();
    path
}

/// A detector in this process.
pub struct LocalDeadlocks {
    detector: Mutex<Detector>,
    clock: Arc<dyn Clock>,
}

impl LocalDeadlocks {
    /// Nobody waits yet.
    pub fn new(clock: Arc<dyn Clock>) -> LocalDeadlocks {
        LocalDeadlocks { detector: Mutex::default(), clock }
    }

    /// Waits that are noted.
    pub fn waits(&self) -> usize {
        self.detector.lock().len()
    }
}

impl Deadlocks for LocalDeadlocks {
    fn wait(&self, waiter: Timestamp, key: &[u8], holder: Timestamp) -> Option<Circle> {
        let now = self.clock.monotonic();
        self.detector.lock().wait(now, waiter, key, holder)
    }

    fn join(&self, waiter: Timestamp, key: &[u8]) -> Option<Circle> {
        let now = self.clock.monotonic();
        self.detector.lock().join(now, waiter, key)
    }

    fn hand_over(&self, key: &[u8], holder: Timestamp) -> Option<(Timestamp, Circle)> {
        let now = self.clock.monotonic();
        self.detector.lock().hand_over(now, key, holder)
    }

    fn leave(&self, waiter: Timestamp, key: &[u8]) {
        self.detector.lock().leave(waiter, key);
    }
}

#[cfg(test)]
mod tests;
