//! A store of the bound, or an oracle, whose n-th operation goes wrong once. It must never invent
//! an outcome that a disk, a group or a wire could not have.
//!
//! ```text
//!  oracle under test ──► Faulty ──► the store: load, save, may_serve
//!  decorator under test ──► Faulty ──► the oracle: get
//! ```

use crate::{BoundStore, Error, Oracle};
use damask_env::Condvar;
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;

/// What is counted, and goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`BoundStore::load`].
    Load,
    /// [`BoundStore::save`].
    Save,
    /// [`BoundStore::may_serve`].
    MayServe,
    /// [`Oracle::get`].
    Get,
}

/// How it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused before anything is done.
    Refused(ErrorKind),
    /// Done, and reported as failed: the answer is lost.
    Lost(ErrorKind),
    /// Stands still until [`Faulty::release`], then is done: a disk that hangs.
    Held,
}

#[derive(Default)]
struct State {
    /// Operations until the fault; `None` once it was met.
    left: Option<u64>,
    /// The operation stands still now.
    held: bool,
    released: bool,
    /// The greatest bound that was saved or loaded.
    saved: Timestamp,
}

/// Wraps a [`BoundStore`] or an [`Oracle`].
pub struct Faulty<T> {
    inner: T,
    operation: Operation,
    fault: Fault,
    state: Mutex<State>,
    changed: Condvar,
}

impl<T> Faulty<T> {
    /// The `nth` operation (from 0) of this sort goes wrong, once. A test tries `nth` = 0, 1, …
    /// until [`Faulty::was_met`] stays false.
    pub fn new(inner: T, operation: Operation, nth: u64, fault: Fault) -> Faulty<T> {
        let state = State { left: Some(nth), ..State::default() };
        Faulty { inner, operation, fault, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Has the fault been met?
    pub fn was_met(&self) -> bool {
        self.state.lock().left.is_none()
    }

    /// Does the operation stand still now ([`Fault::Held`])?
    pub fn is_held(&self) -> bool {
        self.state.lock().held
    }

    /// Lets the operation that stands still go on; one that is still to come will not stop.
    pub fn release(&self) {
        self.state.lock().released = true;
        self.changed.notify_all();
    }

    /// The greatest bound that the store is known to hold, also if it was reported as failed.
    pub fn saved(&self) -> Timestamp {
        self.state.lock().saved
    }

    fn run<R>(
        &self,
        operation: Operation,
        does: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        let injected = |kind| Error::new(kind, format!("{operation:?}: injected"));
        if !self.is_due(operation) {
            return does();
        }
        match self.fault {
            Fault::Refused(kind) => Err(injected(kind)),
            Fault::Lost(kind) => does().and_then(|_| Err(injected(kind))),
            Fault::Held => {
                let mut state = self.state.lock();
                state.held = true;
                while !state.released {
                    self.changed.wait(&mut state);
                }
                state.held = false;
                drop(state);
                does()
            }
        }
    }

    fn is_due(&self, operation: Operation) -> bool {
        let mut state = self.state.lock();
        if operation != self.operation {
            return false;
        }
        let due = state.left == Some(0);
        state.left = state.left.and_then(|left| left.checked_sub(1));
        due
    }

    fn note(&self, bound: Timestamp) {
        let mut state = self.state.lock();
        state.saved = state.saved.max(bound);
    }
}

impl<S: BoundStore> BoundStore for Faulty<S> {
    fn load(&self) -> Result<Timestamp, Error> {
        let bound = self.run(Operation::Load, || self.inner.load())?;
        self.note(bound);
        Ok(bound)
    }

    fn save(&self, bound: Timestamp) -> Result<(), Error> {
        self.run(Operation::Save, || {
            self.inner.save(bound)?;
            self.note(bound);
            Ok(())
        })
    }

    fn may_serve(&self) -> Result<(), Error> {
        self.run(Operation::MayServe, || self.inner.may_serve())
    }
}

impl<O: Oracle> Oracle for Faulty<O> {
    fn get(&self, n: u32) -> Result<Timestamp, Error> {
        self.run(Operation::Get, || self.inner.get(n))
    }
}
