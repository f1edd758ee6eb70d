//! What async and one-phase commit need to know of reads: the highest timestamp that was read
//! here, the locks that are being written, and whether this store knows what its predecessor
//! served. It must never let a transaction commit at or below a
//! timestamp that was read here without its lock being seen.
//!
//! ```text
//!   read(ts)    max_ts := max(max_ts, ts) ─► look in the table ─► snapshot
//!   prewrite    into the table ─► min_commit_ts := max_ts + 1 ─► decide ─► apply ─► out of it
//!   new leader  a fresh timestamp into max_ts, once per (region, term, version)
//! ```
//!
//! A region's new leader starts with a timestamp taken after it was permitted to lead: whatever its
//! predecessor has served was read below that.

mod exit;
mod table;

pub use table::{Pending, Table};

use crate::request::{Finish, Mutation, Prewrite};
use damask_env::{Mistake, mistaken};
use damask_raftstore::{Error, ReadPermit, Result};
use damask_tso::Oracle;
use damask_types::{KeyLock, KeyRange, LockKind, RegionId, Timestamp};
use exit::Exit;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A read may be this far ahead of the newest timestamp known here, in milliseconds. One read at
/// an absurd timestamp would push every later commit above it, for good.
pub const AHEAD_MS_MAX: u64 = 10_000;
/// Regions that are remembered as synced; all are forgotten when there are more.
const SYNCED_MAX: usize = 1 << 16;
/// Locks that one refused read names at most.
const LOCKS_MAX: usize = 256;

/// The reads and the unfinished prewrites of one store.
pub struct Manager {
    table: Arc<Table>,
    oracle: Option<Arc<dyn Oracle>>,
    /// Reads up to here are believed without a question to the oracle.
    believed: AtomicU64,
    /// Term and version in which each region is known to be synced.
    synced: RwLock<HashMap<RegionId, (u64, u64)>>,
    exit: Arc<Exit>,
}

/// A prewrite's keys in the table, until dropped.
pub struct Guard {
    keys: Option<table::Guard>,
    exit: Arc<Exit>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.keys = None;
        self.exit.leave();
    }
}

/// A read that `max_ts` has heard of; now the table may be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Reading(Timestamp);

impl Manager {
    /// Without an oracle nothing is ever synced: every transaction takes two phases.
    pub fn new(oracle: Option<Arc<dyn Oracle>>) -> Manager {
        Manager {
            table: Arc::new(Table::default()),
            oracle,
            believed: AtomicU64::new(0),
            synced: RwLock::default(),
            exit: Arc::default(),
        }
    }

    /// Announces a read at `ts`, before its snapshot is taken. `Timestamp::MAX` (the latest
    /// version, whatever it is) pushes nobody.
    ///
    /// # Errors
    /// `Invalid` if the timestamp lies in the future.
    pub fn begin_read(&self, ts: Timestamp) -> Result<Reading> {
        if ts != Timestamp::MAX {
            self.check_sane(ts)?;
            if !mistaken(Mistake::MaxTsNotRaised) {
                self.table.read(ts);
            }
        }
        Ok(Reading(ts))
    }

    fn check_sane(&self, ts: Timestamp) -> Result<()> {
        if ts.0 <= self.believed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(oracle) = &self.oracle else { return Ok(()) };
        let now = fresh(oracle.as_ref())?;
        let limit = Timestamp::compose(now.physical_ms() + AHEAD_MS_MAX, now.logical());
        self.believed.fetch_max(limit.0, Ordering::Relaxed);
        if ts > limit {
            let detail = format!("a read at {ts}, which lies in the future: it is {now}");
            return Err(Error::Invalid(detail));
        }
        Ok(())
    }

    /// Unfinished prewrites of these keys that could commit at or below the read. A read of the
    /// latest version needs none: what is not applied yet is not decided either.
    pub fn blocking_keys<'k>(
        &self,
        reading: Reading,
        keys: impl Iterator<Item = &'k [u8]>,
        bypass: &[Timestamp],
    ) -> Vec<KeyLock> {
        if reading.0 == Timestamp::MAX || self.table.is_empty() {
            return Vec::new();
        }
        let blocking = keys.filter_map(|key| self.table.blocking(key, reading.0, bypass));
        blocking.take(LOCKS_MAX).collect()
    }

    /// The same, of a range.
    pub fn blocking_range(
        &self,
        reading: Reading,
        range: &KeyRange,
        bypass: &[Timestamp],
    ) -> Vec<KeyLock> {
        if reading.0 == Timestamp::MAX || self.table.is_empty() {
            return Vec::new();
        }
        self.table.blocking_range(range, reading.0, bypass, LOCKS_MAX)
    }

    /// Every unfinished prewrite that could commit at or below the read, and a version that is
    /// surely below its commit.
    pub fn unfinished(&self, reading: Reading) -> Vec<(Vec<u8>, Timestamp)> {
        if self.table.is_empty() {
            return Vec::new();
        }
        self.table.unfinished(reading.0)
    }

    /// Waits, for a bounded time, until `is_clear`: asked now, and each time that a prewrite has
    /// left the table. Prewrites that come later commit above what was read, so few are met.
    pub fn wait_until(&self, patience: Duration, is_clear: impl Fn() -> bool) {
        if !self.table.is_empty() && !is_clear() {
            self.exit.wait_until(patience, is_clear);
        }
    }

    /// Makes a request for async or one-phase commit ready to be decided: its keys are in the
    /// table until the guard is dropped, which must not be before its records are applied, and
    /// `min_commit_ts` is above every read. `None`: two phases.
    pub fn prepare(&self, permit: &ReadPermit, request: &mut Prewrite) -> Option<Guard> {
        if request.finish == Finish::TwoPhase {
            return None;
        }
        if !self.sync(permit) {
            request.finish = Finish::TwoPhase;
            return None;
        }
        let pending = Pending {
            start_ts: request.start_ts,
            primary: request.primary.clone(),
            ttl_ms: request.ttl_ms,
            txn_size: request.txn_size,
        };
        let lowest = request.start_ts.max(request.for_update_ts).next().max(request.min_commit_ts);
        let keys = self.table.publish(pending, request.mutations.iter().filter_map(entry), lowest);
        request.min_commit_ts = keys.min_commit_ts();
        Some(Guard { keys: Some(keys), exit: Arc::clone(&self.exit) })
    }

    /// Does `max_ts` cover what an earlier leader of the region has served? Asks the oracle the
    /// first time in each term, and after each split.
    fn sync(&self, permit: &ReadPermit) -> bool {
        let (id, now) = (permit.region.id, (permit.term, permit.region.epoch.version));
        if mistaken(Mistake::MaxTsNotSynced) || self.synced.read().get(&id) == Some(&now) {
            return true;
        }
        let Some(Ok(ts)) = self.oracle.as_deref().map(fresh) else { return false };
        self.table.read(ts);
        let mut synced = self.synced.write();
        if synced.len() >= SYNCED_MAX {
            synced.clear();
        }
        synced.insert(id, now);
        true
    }

    /// The highest timestamp that was read here.
    pub fn max_ts(&self) -> Timestamp {
        self.table.max_ts()
    }

    /// Now, as the oracle knows it; `None` without one, or when it does not answer.
    pub fn now(&self) -> Option<Timestamp> {
        self.oracle.as_deref().and_then(|oracle| fresh(oracle).ok())
    }
}

fn fresh(oracle: &dyn Oracle) -> Result<Timestamp> {
    oracle.get(1).map_err(|_| Error::Busy("the oracle does not answer"))
}

/// What readers must see of a mutation. Only locking a key hides nothing from them.
fn entry(mutation: &Mutation) -> Option<(&[u8], LockKind)> {
    match mutation {
        Mutation::Put { key, .. } | Mutation::Insert { key, .. } => Some((key, LockKind::Put)),
        Mutation::Delete { key } => Some((key, LockKind::Delete)),
        Mutation::Lock { .. } => None,
    }
}

#[cfg(test)]
mod tests;
