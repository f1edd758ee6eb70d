//! A learner read: everything that was acknowledged before it was asked is seen, at one timestamp,
//! or the reader is told why not. It must never take the snapshot before it has checked the locks.
//!
//! ```text
//!  leader ──► applied here ──► region, locks ──► snapshot ──► region again ──► ColumnView
//!    │ index      │ timeout        │ Locked                      │ changed: Reroute or Retry
//!    │ Locked
//! ```
//!
//! The leader is asked at the timestamp: after its answer nothing that the index does not cover
//! commits at or below it, in however few phases.

use crate::machine::ColumnMachine;
use crate::ranges::{handles_in, table_of};
use crate::region::{Seen, Slot};
use damask_deltatree::{ColumnSnapshot, HandleRange};
use damask_env::channel::{self, RecvTimeoutError};
use damask_env::{Mistake, mistaken};
use damask_raftstore::{Applied, Done, Error, ReadPermit, StoreHandle};
use damask_types::{Epoch, ErrorKind, KeyLock, KeyRange, RegionId, TableId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Where read permits come from; a running store and its regions' leaders, or a test.
pub trait ReadIndex: Send + Sync + 'static {
    /// Announces a read to the region's leader; blocks. The index from which on the region has
    /// all that commits at or below `ts` in these ranges, or the locks that forbid to say so.
    fn ask(
        &self,
        region: RegionId,
        epoch: Epoch,
        ranges: &[KeyRange],
        ts: Timestamp,
    ) -> Result<u64, ReadError>;

    /// Answers once that index is applied here.
    fn wait(&self, region: RegionId, epoch: Epoch, index: u64, done: Done<ReadPermit>);
}

/// Asks the region's leader; see [`ReadIndex::ask`].
pub type AskLeader =
    Box<dyn Fn(RegionId, Epoch, &[KeyRange], Timestamp) -> Result<u64, ReadError> + Send + Sync>;

/// A running store, whose regions are led elsewhere.
pub struct StoreReads {
    store: StoreHandle,
    leader: AskLeader,
}

impl StoreReads {
    /// This store's replicas, behind the leaders that `leader` asks.
    pub fn new(store: StoreHandle, leader: AskLeader) -> StoreReads {
        StoreReads { store, leader }
    }
}

impl ReadIndex for StoreReads {
    fn ask(
        &self,
        region: RegionId,
        epoch: Epoch,
        ranges: &[KeyRange],
        ts: Timestamp,
    ) -> Result<u64, ReadError> {
        (self.leader)(region, epoch, ranges, ts)
    }

    fn wait(&self, region: RegionId, epoch: Epoch, index: u64, done: Done<ReadPermit>) {
        self.store.read_at(region, epoch, index, done);
    }
}

/// Why there is no view.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The region cannot be read here now.
    #[error(transparent)]
    Region(#[from] Error),
    /// These locks must be resolved first.
    #[error("{} locks are in the way", .0.len())]
    Locked(Vec<KeyLock>),
    /// No answer in time: the leader is gone, or this replica is far behind.
    #[error("no read index for region {region} within {waited:?}")]
    Timeout {
        /// The region.
        region: RegionId,
        /// How long it waited.
        waited: Duration,
    },
    /// The column store failed.
    #[error("{detail} ({kind:?})")]
    Store {
        /// What the caller must do.
        kind: ErrorKind,
        /// The cause in words.
        detail: String,
    },
}

impl ReadError {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ReadError::Region(e) => e.kind(),
            ReadError::Locked(_) => ErrorKind::ResolveLock,
            ReadError::Timeout { .. } => ErrorKind::Retry,
            ReadError::Store { kind, .. } => *kind,
        }
    }
}

/// A part of a region's columns, caught up and without undecided writes at the timestamp.
#[derive(Clone)]
pub struct ColumnView {
    /// The table.
    pub table: TableId,
    /// Its columns; other regions' rows are in it too: scan only `handles`.
    pub snapshot: Arc<dyn ColumnSnapshot>,
    /// What was asked for, as far as it lies in the region; ascending, not overlapping.
    pub handles: Vec<HandleRange>,
    /// How far the region was applied, at least.
    pub applied: Applied,
}

/// Says below which timestamp versions may be gone.
pub type SafePoint = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Opens views.
#[derive(Clone)]
pub struct LearnerRead {
    index: Arc<dyn ReadIndex>,
    machine: Arc<ColumnMachine>,
    timeout: Duration,
    safe_point: SafePoint,
}

impl LearnerRead {
    /// Reads what `machine` applies, after permits from `index`, waiting for each up to `timeout`.
    pub fn new(
        index: Arc<dyn ReadIndex>,
        machine: Arc<ColumnMachine>,
        timeout: Duration,
    ) -> LearnerRead {
        let safe_point = Arc::new(|| Timestamp::ZERO);
        LearnerRead { index, machine, timeout, safe_point }
    }

    /// Refuses views of what the store may have collected. The leader has refused them as well, but
    /// that was before the wait for its index: the safe point may have risen since.
    pub fn with_safe_point(self, safe_point: SafePoint) -> LearnerRead {
        LearnerRead { safe_point, ..self }
    }

    /// Opens a view of ranges of user keys, all in one table. Blocks the calling thread.
    pub fn view(
        &self,
        region: RegionId,
        epoch: Epoch,
        ranges: &[KeyRange],
        ts: Timestamp,
    ) -> Result<ColumnView, ReadError> {
        let table = one_table(ranges)?;
        let index = match mistaken(Mistake::ReadIndexSkipped) {
            true => 0,
            false => self.index.ask(region, epoch, &self.inside(region, epoch, ranges), ts)?,
        };
        let permit = self.permit(region, epoch, index)?;
        let slot = self.machine.slot(region).ok_or(Error::RegionNotFound(region))?;
        let (generation, ranges) = {
            let seen = slot.seen.lock();
            check(&seen, epoch)?;
            if seen.state.applied.index < permit.applied.index {
                return Err(Error::Busy("the columns are behind the read index").into());
            }
            let own = &seen.state.region.range;
            let ranges: Vec<_> = ranges.iter().filter_map(|r| r.intersect(own)).collect();
            let locks = seen.blocking(&ranges, ts);
            if !locks.is_empty() && !mistaken(Mistake::LocksIgnored) {
                return Err(ReadError::Locked(locks));
            }
            (seen.generation, ranges)
        };
        let snapshot = self.machine.columns().snapshot(table);
        let snapshot =
            snapshot.map_err(|e| ReadError::Store { kind: e.kind(), detail: e.to_string() })?;
        // What is merged from now on is not in the snapshot, so this is asked once.
        let safe_point = (self.safe_point)();
        if ts < safe_point {
            let detail = format!("versions at {ts} may be gone: the GC safe point is {safe_point}");
            return Err(ReadError::Store { kind: ErrorKind::TooOld, detail });
        }
        if !mistaken(Mistake::RegionNotCheckedAgain) {
            check_again(&slot, epoch, generation)?;
        }
        let handles = merged(ranges.iter().filter_map(|range| handles_in(table, range)).collect());
        Ok(ColumnView { table, snapshot, handles, applied: permit.applied })
    }

    /// The parts that lie in the region, as far as it is known here.
    fn inside(&self, region: RegionId, epoch: Epoch, ranges: &[KeyRange]) -> Vec<KeyRange> {
        let own = self.machine.slot(region).and_then(|slot| {
            let seen = slot.seen.lock();
            let own = &seen.state.region;
            (own.epoch.version == epoch.version).then(|| own.range.clone())
        });
        match own {
            Some(own) => ranges.iter().filter_map(|range| range.intersect(&own)).collect(),
            None => ranges.to_vec(),
        }
    }

    fn permit(&self, region: RegionId, epoch: Epoch, index: u64) -> Result<ReadPermit, ReadError> {
        let (sender, receiver) = channel::bounded(1);
        let done = Box::new(move |answer| {
            // Nobody waits any more after a timeout.
            let _ = sender.send(answer);
        });
        self.index.wait(region, epoch, index, done);
        match receiver.recv_timeout(self.timeout) {
            Ok(answer) => Ok(answer?),
            Err(RecvTimeoutError::Timeout) => {
                Err(ReadError::Timeout { region, waited: self.timeout })
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::Stopped.into()),
        }
    }
}

/// Nothing that replaces rows has begun between the first check and the snapshot.
fn check_again(slot: &Slot, epoch: Epoch, generation: u64) -> Result<(), ReadError> {
    let seen = slot.seen.lock();
    check(&seen, epoch)?;
    match seen.generation == generation {
        true => Ok(()),
        false => Err(Error::Busy("the region has changed").into()),
    }
}

/// Is the region here, whole, and of this version? Replicas may come and go meanwhile.
fn check(seen: &Seen, epoch: Epoch) -> Result<(), Error> {
    let region = &seen.state.region;
    if seen.state.tombstone {
        return Err(Error::RegionNotFound(region.id));
    }
    if region.epoch.version != epoch.version {
        return Err(Error::EpochNotMatch { current: vec![region.clone()] });
    }
    if !seen.ready {
        return Err(Error::Busy("a snapshot is being taken in"));
    }
    Ok(())
}

fn one_table(ranges: &[KeyRange]) -> Result<TableId, Error> {
    let first = ranges.first().and_then(table_of);
    let table = first.ok_or_else(|| Error::Invalid("no range of rows to read".to_owned()))?;
    match ranges.iter().all(|range| table_of(range) == Some(table)) {
        true => Ok(table),
        false => Err(Error::Invalid("ranges of several tables in one read".to_owned())),
    }
}

/// Ascending, and as few as possible.
fn merged(mut ranges: Vec<HandleRange>) -> Vec<HandleRange> {
    ranges.sort_by_key(|range| range.first);
    let mut out: Vec<HandleRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.last.saturating_add(1) >= range.first => {
                last.last = last.last.max(range.last);
            }
            _ => out.push(range),
        }
    }
    out
}
