//! The two numbers that all callers share: the next timestamp, and the bound below which it may be
//! served. It must never wait, and never repeat a timestamp.
//!
//! ```text
//!    served ──────────► next ──────────► bound          (bound = what is on the disk, or below it)
//!              fetch_add │     store after the save │
//! ```
//!
//! Orderings: `next` is one cell changed only by read-modify-write, so its changes have one order,
//! and a caller that knows another's answer sees a later value (coherence). The bound is stored
//! with release after its save and loaded with acquire: whoever serves below it knows the save
//! ended.
//! `tests` runs every interleaving of it under loom, and two weaker forms that must fail.

use damask_env::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A range that nobody else has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub first: u64,
    /// Behind the last.
    pub end: u64,
}

/// The numbers, on cache lines of their own: `next` changes with every call, the bound hardly ever.
pub(crate) struct Window<C = AtomicU64> {
    next: Line<C>,
    bound: Line<C>,
}

#[repr(align(64))]
struct Line<C>(C);

impl<C: Cell> Window<C> {
    pub fn new(next: u64, bound: u64) -> Window<C> {
        Window { next: Line(C::new(next)), bound: Line(C::new(bound)) }
    }

    /// Lets the counter follow the clock; never back.
    pub fn follow(&self, now: u64) {
        if self.next.0.load(Ordering::Relaxed) < now {
            self.next.0.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Takes `n`. They may be served if [`Window::may_serve`] says so, now or after a save.
    pub fn take(&self, n: u64) -> Taken {
        let first = self.next.0.fetch_add(n, Ordering::AcqRel);
        Taken { first, end: first + n }
    }

    /// The first timestamp that nobody has taken.
    pub fn next(&self) -> u64 {
        self.next.0.load(Ordering::Acquire)
    }

    /// Is the range below the bound?
    pub fn may_serve(&self, taken: Taken) -> bool {
        taken.end <= self.bound()
    }

    pub fn bound(&self) -> u64 {
        self.bound.0.load(Ordering::Acquire)
    }

    /// The bound was saved. The caller makes sure that calls do not overlap and rise.
    pub fn saved(&self, bound: u64) {
        self.bound.0.store(bound, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
