//! The shared queue of one scan: units that are not open yet and parts that are. Partitions take
//! from it as they finish, so that work balances itself. It must never lose a waiting partition.

use crate::dispatch::{Opened, Unit};
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    units: VecDeque<Unit>,
    parts: VecDeque<Opened>,
    /// Units being opened: their parts are still to come.
    opening: usize,
    /// An open failed: the partition that saw it reports it, the others stop.
    failed: bool,
}

/// Work of one scan.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

/// The next thing to do.
pub(crate) enum Work {
    /// Read this.
    Part(Opened),
    /// Open this, then call [`Opening::done`].
    Open(Unit),
    /// Nothing now, perhaps later.
    Wait,
    /// Nothing will come.
    Done,
}

impl Queue {
    pub(crate) fn new(units: Vec<Unit>) -> Queue {
        let state = State { units: units.into(), ..State::default() };
        Queue { state: Mutex::new(state), changed: Notify::new() }
    }

    fn take(&self) -> Work {
        let mut state = self.state.lock();
        if state.failed {
            return Work::Done;
        }
        if let Some(part) = state.parts.pop_front() {
            return Work::Part(part);
        }
        match state.units.pop_front() {
            Some(unit) => {
                state.opening += 1;
                Work::Open(unit)
            }
            None if state.opening > 0 => Work::Wait,
            None => Work::Done,
        }
    }

    /// The next part or unit; waits while others open; `None` at the end.
    pub(crate) async fn next(&self) -> Option<Work> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            match self.take() {
                Work::Wait => changed.await,
                Work::Done => return None,
                work => return Some(work),
            }
        }
    }
}

/// A unit that this partition opens. Dropping it without `done` fails the scan for the others.
pub(crate) struct Opening<'a> {
    queue: &'a Queue,
    open: bool,
}

impl<'a> Opening<'a> {
    pub(crate) fn new(queue: &'a Queue) -> Opening<'a> {
        Opening { queue, open: true }
    }

    pub(crate) fn done(mut self, parts: Vec<Opened>) {
        self.open = false;
        let mut state = self.queue.state.lock();
        state.opening -= 1;
        state.parts.extend(parts);
        drop(state);
        self.queue.changed.notify_waiters();
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if self.open {
            let mut state = self.queue.state.lock();
            state.opening -= 1;
            state.failed = true;
            drop(state);
            self.queue.changed.notify_waiters();
        }
    }
}
