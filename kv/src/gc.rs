//! Garbage collection of versions below a safe point: which records go, in which order, and which
//! reads are refused afterwards. It must never change what a read at or above the safe point sees.
//!
//! ```text
//!   ts     9     7     5     4     3     1          safe point = 6
//!        Put   Lock | Put  Roll  Del   Put          keep 9, 7, 5; remove 4, 3, 1
//!        Put        | Roll  Del  Put   Put          keep 9; remove 5; 3 and 1; then 4, LAST
//!               newer ◄ │ ► at or below
//! ```
//!
//! Who removes what:
//! * [`sweep`] reads a range and gives batches that remove everything removable, values of the
//!   default family too;
//! * compactions of RocksDB and fjall remove, while they rewrite files anyway, what needs no second
//!   family and no order: rollbacks, lock records, superseded deletes and short values. They never
//!   remove the newest delete of a key: an older version could be in a file that they do not see.
//!
//! Before a safe point is published, every lock whose `start_ts` is at or below it is resolved:
//! then no commit at or below it comes later.

mod compaction;
mod state;
mod sweep;
#[cfg(test)]
mod tests;

pub(crate) use compaction::CompactionGc;
pub use state::{KeyGc, Verdict};
pub use sweep::{Budget, Swept, collect, sweep};

use crate::engine::{Engine, Snapshot};
use crate::error::Error;
use damask_types::{ErrorKind, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A read below the safe point: its versions may be gone. TiDB's error 9006.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "GC life time is shorter than transaction duration: transaction starts at {ts}, \
     GC safe point is {safe_point}"
)]
pub struct BelowSafePoint {
    /// The timestamp that was to be read.
    pub ts: Timestamp,
    /// The safe point.
    pub safe_point: Timestamp,
}

impl From<BelowSafePoint> for Error {
    fn from(e: BelowSafePoint) -> Error {
        Error::new("read", ErrorKind::TooOld, e)
    }
}

/// The published safe point, shared by readers, the sweep and the compaction filter. It only ever
/// rises. ZERO: nothing is collected and nothing is refused.
#[derive(Clone, Debug, Default)]
pub struct GcSafePoint(Arc<AtomicU64>);

impl GcSafePoint {
    /// Nothing may be collected yet.
    pub fn new() -> GcSafePoint {
        GcSafePoint::default()
    }

    /// Publishes a safe point; a lower one than before is ignored. From here on records may go.
    /// Every lock at or below it must have been resolved.
    pub fn advance(&self, safe_point: Timestamp) {
        self.0.fetch_max(safe_point.0, Ordering::SeqCst);
    }

    /// The safe point.
    pub fn get(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    /// May a transaction read, or prewrite with a start, at `ts`? Asked before a snapshot is taken
    /// and again after the last read of it: compaction does not wait for snapshots.
    pub fn check(&self, ts: Timestamp) -> Result<(), BelowSafePoint> {
        let safe_point = self.get();
        if ts < safe_point { Err(BelowSafePoint { ts, safe_point }) } else { Ok(()) }
    }

    /// A snapshot for a read at `ts`, checked before and after it is taken.
    pub fn snapshot(
        &self,
        engine: &dyn Engine,
        ts: Timestamp,
    ) -> Result<Arc<dyn Snapshot>, BelowSafePoint> {
        self.check(ts)?;
        let snapshot = engine.snapshot();
        self.check(ts)?;
        Ok(snapshot)
    }
}
