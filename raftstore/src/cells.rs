//! What the threads of a store tell each other, and its readers, without a lock: the lease, the
//! safe timestamp, the work that is on its way. Nothing here may wait or decide; a change of an
//! ordering must be one that `tests` can follow.
//!
//! ```text
//!            who publishes                          who looks
//!   lease    commit, then its end                   the end, then the commit
//!   safe     index, then ts; taken back: ts = 0     ts, its snapshot, ts again, then the index
//!   work     says it, then lowers its own tasks     no tasks, then nothing unstepped
//! ```
//!
//! Each pair is stored with release and loaded with acquire, the other way round: who sees the
//! second sees the first. `tests` runs every interleaving of them under loom, each beside weaker
//! forms that must fail.

use damask_env::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A leader's commit index, and until when it may be read without a question to anybody. One
/// thread at a time publishes.
pub(crate) struct Lease<C = AtomicU64> {
    commit: C,
    /// By the store's monotonic clock, in nanoseconds; 0 once it is withdrawn.
    until: C,
}

impl<C: Cell> Lease<C> {
    pub fn new(commit: u64, until: u64) -> Lease<C> {
        Lease { commit: C::new(commit), until: C::new(until) }
    }

    /// The commit index if the lease lasts at `now`: that which was published with its end, or a
    /// later one.
    pub fn commit_at(&self, now: u64) -> Option<u64> {
        let until = self.until.load(Ordering::Acquire);
        let commit = self.commit.load(Ordering::Acquire);
        (now < until).then_some(commit)
    }

    /// Its end, for a guess.
    pub fn until(&self) -> u64 {
        self.until.load(Ordering::Relaxed)
    }

    /// True, if the end is another than before.
    pub fn publish(&self, commit: u64, until: u64) -> bool {
        self.commit.store(commit, Ordering::Release);
        self.until.swap(until, Ordering::Release) != until
    }

    /// Nothing is read by it any more, for good.
    pub fn withdraw(&self) {
        self.until.store(0, Ordering::Release);
    }
}

/// Up to which timestamp a replica may be read, and what it has applied there. One thread at a
/// time publishes; what was taken back stays so, and its successor is another value.
pub(crate) struct Safe<C = AtomicU64> {
    index: C,
    /// 0 once it is taken back.
    ts: C,
}

impl<C: Cell> Safe<C> {
    pub fn new(index: u64, ts: u64) -> Safe<C> {
        Safe { index: C::new(index), ts: C::new(ts) }
    }

    /// What `take` has seen, and an index up to which that is applied at least. What is taken back
    /// before content is replaced is found so by whoever has seen any of the new content.
    ///
    /// # Errors
    /// The safe timestamp, which is below `ts`, before `take` or after it.
    pub fn read<S>(&self, ts: u64, take: impl FnOnce() -> S) -> Result<(S, u64), u64> {
        self.look(ts)?;
        let taken = take();
        self.look(ts)?;
        Ok((taken, self.index.load(Ordering::Acquire)))
    }

    fn look(&self, ts: u64) -> Result<(), u64> {
        let safe = self.ts();
        if ts <= safe { Ok(()) } else { Err(safe) }
    }

    pub fn ts(&self) -> u64 {
        self.ts.load(Ordering::Acquire)
    }

    pub fn publish(&self, index: u64, ts: u64) {
        self.index.store(index, Ordering::Release);
        self.ts.store(ts, Ordering::Release);
    }

    /// Before anything is changed that a read would see.
    pub fn withdraw(&self) {
        self.ts.store(0, Ordering::Release);
    }
}

/// How much there is of something that is on its way: tasks at a thread, events not stepped yet.
pub(crate) struct Tally<C = AtomicU64>(C);

impl<C: Cell> Default for Tally<C> {
    fn default() -> Tally<C> {
        Tally(C::new(0))
    }
}

impl<C: Cell> Tally<C> {
    /// Before it is on its way.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// After all that follows from so many is on its way.
    pub fn lower(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::AcqRel);
    }

    pub fn is_none(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// Have the threads of these tasks none, and is all that they said stepped? The tasks are looked at
/// first: a thread lowers them after it has spoken, so that in the other order it can speak and be
/// done between the two looks.
pub(crate) fn is_quiet<C: Cell>(tasks: &[&Tally<C>], unstepped: &Tally<C>) -> bool {
    tasks.iter().all(|tasks| tasks.is_none()) && unstepped.is_none()
}

#[cfg(test)]
mod tests;
