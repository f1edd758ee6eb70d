//! An answer that is given exactly once, even when nobody remembers to: dropping it says that the
//! store stopped. It must never be lost silently.

use crate::error::{Error, Result};
use crate::handle::Done;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that a request holds of a store's limit, until it is answered.
#[derive(Debug, Default)]
pub struct Charge {
    meter: Option<Arc<AtomicUsize>>,
    bytes: usize,
}

impl Charge {
    /// Takes `bytes` of `limit`; `None` if that is too much (one request always fits).
    pub fn take(meter: &Arc<AtomicUsize>, bytes: usize, limit: usize) -> Option<Charge> {
        let before = meter.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge { meter: Some(meter.clone()), bytes };
        (before == 0 || before + bytes <= limit).then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Whom to answer.
pub struct Answer<T> {
    done: Option<Done<T>>,
    /// It is in a log: if the store stops now, the outcome is not known.
    pub proposed: bool,
    _charge: Charge,
}

impl<T> std::fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.proposed { "Answer(proposed)" } else { "Answer" })
    }
}

impl<T> Answer<T> {
    /// Answers `done`.
    pub fn new(done: Done<T>) -> Answer<T> {
        Answer::charged(done, Charge::default())
    }

    /// Answers `done` and gives back the charge.
    pub fn charged(done: Done<T>, charge: Charge) -> Answer<T> {
        Answer { done: Some(done), proposed: false, _charge: charge }
    }

    /// The answer.
    pub fn send(mut self, result: Result<T>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(match self.proposed {
                true => Error::Undetermined("the store stopped".to_owned()),
                false => Error::Stopped,
            }));
        }
    }
}
