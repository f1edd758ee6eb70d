//! A waiter's own end of its place in a queue. It must never leave with a lock that it does not
//! know of.

use super::{Ask, Place, Refused, State, WAKE_DELAY, Waiter, Waits, Woken};
use crate::sync::wait_for;
use damask_types::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// A place in a key's queue; dropping it leaves the queue.
pub struct Ticket {
    waits: Arc<Waits>,
    key: Arc<[u8]>,
    place: Place,
    waiter: Arc<Waiter>,
}

impl Ticket {
    pub(super) fn new(
        waits: Arc<Waits>,
        key: Arc<[u8]>,
        place: Place,
        waiter: Arc<Waiter>,
    ) -> Ticket {
        Ticket { waits, key, place, waiter }
    }

    /// The key that is waited for.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// From here on the lock may be passed on to this request: its transaction was seen to have no
    /// record on the key after the place was taken. `None`: the call looks for itself.
    pub fn offer(&self, ask: Option<Ask>) {
        self.waiter.inner.lock().ask = ask;
    }

    /// Another look (under the latch) has found this holder; the place in the queue stays.
    pub fn again(&self, holder: Timestamp) -> Result<(), Refused> {
        {
            let mut queues = self.waits.queues.lock();
            if let Some(queue) = queues.get_mut(&self.key) {
                queue.free = false;
                queue.holder = holder;
            }
            let mut inner = self.waiter.inner.lock();
            if let State::Victim(circle) = &inner.state {
                return Err(Refused::Victim(circle.clone()));
            }
            inner.state = State::Waiting;
        }
        match self.waits.deadlocks.wait(self.place.0, &self.key, holder) {
            Some(circle) => Err(Refused::Victim(circle)),
            None => Ok(()),
        }
    }

    /// Waits; not under the latch. When the lock is in the log, `patience` begins anew.
    pub fn wait(&self, patience: Duration, log_patience: Duration) -> Woken {
        let mut inner = self.waiter.inner.lock();
        if inner.state == State::Waiting {
            wait_for(&self.waiter.changed, &mut inner, patience);
        }
        if inner.state == State::Soon {
            wait_for(&self.waiter.changed, &mut inner, WAKE_DELAY);
        }
        if inner.state == State::Granting {
            wait_for(&self.waiter.changed, &mut inner, log_patience);
        }
        match &inner.state {
            State::Waiting | State::Gone => Woken::Timeout,
            State::Released | State::Soon => Woken::Released,
            State::Granting => Woken::Unknown,
            State::Granted(locked) => Woken::Granted(locked.clone()),
            State::Victim(circle) => Woken::Victim(circle.clone()),
        }
    }

    /// Waits no more. Not `None`: the lock has been, or is being, given to it all the same.
    pub fn close(&self) -> Option<Woken> {
        let mut inner = self.waiter.inner.lock();
        match &inner.state {
            State::Granted(locked) => Some(Woken::Granted(locked.clone())),
            State::Granting => Some(Woken::Unknown),
            _ => {
                inner.state = State::Gone;
                None
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Whoever was given the lock has left the queue by that.
        if !matches!(self.waiter.inner.lock().state, State::Granted(_)) {
            self.waits.deadlocks.leave(self.place.0, &self.key);
            self.waits.remove(&self.key, self.place);
        }
    }
}
