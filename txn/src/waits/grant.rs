//! What a command does to keys that are waited for, and a lock on its way to a waiter. A waiter
//! must never be left with a promise: one that is dropped unkept sends it to look for itself.

use super::{Ask, Place, State, Waiter, Wakeups};
use crate::request::LockedKey;
use damask_types::Timestamp;
use std::sync::Arc;

/// What a command does to a key that somebody waits for.
#[derive(Debug)]
pub struct Change {
    pub(super) key: Vec<u8>,
    /// Who holds it afterwards; ZERO: nobody. `None`: who held it before.
    pub(super) holder: Option<Timestamp>,
    /// Transactions that have a record on the key now.
    pub(super) ended: Vec<Timestamp>,
    pub(super) grant: Option<Grant>,
}

/// A place in the log for a waiter's lock.
pub(super) struct Grant {
    pub place: Place,
    /// `None`: it has heard what became of it.
    waiter: Option<Arc<Waiter>>,
    ask: Ask,
    locked: Option<LockedKey>,
}

impl Change {
    pub(super) fn new(key: &[u8]) -> Change {
        Change { key: key.to_vec(), holder: None, ended: Vec::new(), grant: None }
    }

    /// The request that may be answered by a lock in the command's log entry: then either
    /// [`Change::pass_on`] or [`Change::refuse`] is called.
    pub fn asks(&self) -> Option<&Ask> {
        self.grant.as_ref().map(|grant| &grant.ask)
    }

    /// The waiter's lock goes into the log with the command; this will be its answer.
    pub fn pass_on(&mut self, locked: LockedKey) {
        if let Some(grant) = &mut self.grant {
            self.holder = Some(grant.place.0);
            grant.locked = Some(locked);
        }
    }

    /// The waiter has to look for itself, once the key is released.
    pub fn refuse(&mut self) {
        if let Some(mut grant) = self.grant.take() {
            grant.end(State::Waiting, &mut Wakeups::default());
        }
    }
}

impl Grant {
    pub fn new(place: Place, waiter: Arc<Waiter>, ask: Ask) -> Grant {
        Grant { place, waiter: Some(waiter), ask, locked: None }
    }

    /// The lock is applied: the waiter wakes with its answer. Its place in the queue.
    pub fn settle(mut self, woken: &mut Wakeups) -> Option<Place> {
        let locked = self.locked.take()?;
        self.end(State::Granted(locked), woken);
        Some(self.place)
    }

    fn end(&mut self, state: State, woken: &mut Wakeups) {
        let Some(waiter) = self.waiter.take() else { return };
        let mut inner = waiter.inner.lock();
        if inner.state == State::Granting {
            inner.state = state;
            drop(inner);
            woken.0.push(waiter);
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.end(State::Released, &mut Wakeups::default());
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grant({:?}, {:?})", self.place, self.locked)
    }
}
