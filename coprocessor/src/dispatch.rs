//! The client side of the read path: splits key ranges by region, sends each unit to the store
//! that should serve it, and tries again where the region moved or a lock stands. It must never
//! return part of a unit: a unit is opened as a whole or asked for again.

use crate::spec::*;
use arrow::array::RecordBatch;
use damask_deltatree::{Masked, Predicate};
use damask_env::Clock;
use damask_pd::Locate;
use damask_raftstore::Error as RegionError;
use damask_types::{ErrorKind, KeyLock, KeyRange, Region, StoreId, Timestamp};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// A unit is given up after so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// First pause between attempts; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Rounds of lock resolution in one unit.
const LOCK_ROUNDS_MAX: usize = 200;

/// Finds the read side of a store.
pub trait Endpoints: Send + Sync + 'static {
    /// `None`: not known (yet, or any more).
    fn endpoint(&self, store: StoreId) -> Option<Arc<dyn Endpoint>>;
}

/// Makes locks go away: their transactions are committed, rolled back, or waited for.
pub trait ResolveLocks: Send + Sync + 'static {
    /// Returns when it is worth reading at `read_ts` again.
    fn resolve(&self, locks: Vec<KeyLock>, read_ts: Timestamp) -> Result<(), String>;
}

/// Why a scan failed for good.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct DispatchError {
    /// The class of the last failure.
    pub kind: ErrorKind,
    /// The cause in words.
    pub detail: String,
}

/// Part of a scan that one region answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The region, as located.
    pub region: Region,
    /// Ascending ranges inside it.
    pub ranges: Vec<KeyRange>,
}

/// A part of a unit that was opened with a filter.
pub enum Opened {
    /// The filter is still to be applied.
    Plain(Part),
    /// The store has applied it.
    Selected(MaskedPart),
}

/// The first rows of a part.
struct First {
    part: Part,
    left: usize,
}

impl Iterator for First {
    type Item = Result<Masked, EndpointError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let batch = self.part.next()?;
        Some(batch.map(|batch| {
            let rows = batch.num_rows().min(self.left);
            self.left -= rows;
            Masked { batch: batch.slice(0, rows), mask: None }
        }))
    }
}

/// What came of folding a unit.
pub enum Folded {
    /// Its groups.
    Batch(RecordBatch),
    /// The store does not fold these ranges: they are to be scanned.
    Refused(Vec<KeyRange>),
}

/// What an endpoint is asked for a unit.
type Ask<'a, T> = &'a dyn Fn(&dyn Endpoint, RegionContext, &[KeyRange]) -> Result<T, EndpointError>;

/// Sends scans to where the data is.
pub struct Dispatch {
    locate: Arc<dyn Locate>,
    endpoints: Arc<dyn Endpoints>,
    locks: Arc<dyn ResolveLocks>,
    clock: Arc<dyn Clock>,
    /// Waited on, never notified: a pause that needs no clock of its own.
    pause: (Mutex<()>, Condvar),
}

/// Pauses that double, until a deadline.
struct Backoff {
    attempts: usize,
    pause: Duration,
    deadline: Duration,
}

impl Dispatch {
    /// A dispatcher over these stores.
    pub fn new(
        locate: Arc<dyn Locate>,
        endpoints: Arc<dyn Endpoints>,
        locks: Arc<dyn ResolveLocks>,
        clock: Arc<dyn Clock>,
    ) -> Dispatch {
        Dispatch { locate, endpoints, locks, clock, pause: Default::default() }
    }

    /// The regions of ascending ranges, in key order, as far as known now. `None`: a part of a
    /// range has no known region.
    pub fn units(&self, ranges: &[KeyRange]) -> Option<Vec<Unit>> {
        let mut units: Vec<Unit> = Vec::new();
        for range in ranges.iter().filter(|r| !r.is_empty()) {
            let mut rest = range.clone();
            loop {
                let known = units.last().filter(|u| u.region.range.contains(&rest.start));
                let region = match known {
                    Some(unit) => unit.region.clone(),
                    None => self.locate.locate(&rest.start)?.region,
                };
                let part = rest.intersect(&region.range)?;
                let end = part.end.clone();
                match units.last_mut().filter(|u| u.region.id == region.id) {
                    Some(unit) => unit.ranges.push(part),
                    None => units.push(Unit { region, ranges: vec![part] }),
                }
                if end == rest.end {
                    break;
                }
                rest.start = end;
            }
        }
        Some(units)
    }

    /// Opens every unit of `ranges`, one after the other. Blocks.
    pub fn open(
        &self,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, DispatchError> {
        let open = |endpoint: &dyn Endpoint, context, ranges: &[KeyRange]| {
            endpoint.open(context, ranges, spec)
        };
        let opened = self.each(ranges, spec, &open)?;
        Ok(opened.into_iter().flatten().collect())
    }

    /// As `open`, of the rows that pass `filter`, where a store can tell.
    pub fn select(
        &self,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
    ) -> Result<Vec<Opened>, DispatchError> {
        let select = |endpoint: &dyn Endpoint, context, ranges: &[KeyRange]| {
            Ok(match endpoint.select(context, ranges, spec, filter)? {
                Some(parts) => parts.into_iter().map(Opened::Selected).collect(),
                None => {
                    let parts = endpoint.open(context, ranges, spec)?;
                    parts.into_iter().map(Opened::Plain).collect::<Vec<_>>()
                }
            })
        };
        let opened = self.each(ranges, spec, &select)?;
        Ok(opened.into_iter().flatten().collect())
    }

    /// As `select`, of each unit at least the first rows by handle, where a store can tell.
    pub fn first(
        &self,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
        rows: usize,
    ) -> Result<Vec<Opened>, DispatchError> {
        let first = |endpoint: &dyn Endpoint, context, ranges: &[KeyRange]| {
            Ok(match endpoint.ordered(context, ranges, spec, filter)? {
                // A mask says that the filter has been applied.
                Some(part) => vec![Opened::Selected(Box::new(First { part, left: rows }))],
                None => {
                    let parts = endpoint.open(context, ranges, spec)?;
                    parts.into_iter().map(Opened::Plain).collect()
                }
            })
        };
        let opened = self.each(ranges, spec, &first)?;
        Ok(opened.into_iter().flatten().collect())
    }

    /// Folds every unit of `ranges`, one after the other. Blocks.
    pub fn fold(
        &self,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        work: &FoldWork,
    ) -> Result<Vec<Folded>, DispatchError> {
        self.each(ranges, spec, &|endpoint: &dyn Endpoint, context, ranges: &[KeyRange]| {
            Ok(match endpoint.fold(context, ranges, spec, work)? {
                Some(batch) => Folded::Batch(batch),
                None => Folded::Refused(ranges.to_vec()),
            })
        })
    }

    /// Asks for every unit of `ranges`, one after the other, until each is answered.
    fn each<T>(
        &self,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        ask: Ask<'_, T>,
    ) -> Result<Vec<T>, DispatchError> {
        let mut answers = Vec::new();
        let mut pending = vec![ranges.to_vec()];
        let mut backoff = self.backoff();
        let mut lock_rounds = 0;
        while let Some(ranges) = pending.pop() {
            let Some(units) = self.units(&ranges) else {
                self.wait(&mut backoff, &RegionError::Busy("a key has no known region").into())?;
                pending.push(ranges);
                continue;
            };
            for unit in units {
                let error = match self.send(&unit, spec, backoff.attempts, ask) {
                    Ok(answer) => {
                        answers.push(answer);
                        continue;
                    }
                    Err(error) => error,
                };
                match error {
                    EndpointError::Locked(locks) if lock_rounds < LOCK_ROUNDS_MAX => {
                        lock_rounds += 1;
                        self.resolve(locks, spec.ts, &mut backoff)?;
                    }
                    // No other store knows better.
                    error if error.kind() == ErrorKind::TooOld => return Err(failed(&error)),
                    EndpointError::Region(ref region_error) => {
                        self.learn(&unit, spec.source, region_error);
                        self.wait(&mut backoff, &error)?;
                    }
                    error if error.kind() == ErrorKind::Retry => self.wait(&mut backoff, &error)?,
                    error => return Err(failed(&error)),
                }
                pending.push(unit.ranges);
            }
        }
        Ok(answers)
    }

    /// Asks the store that should know. Without a known leader every voter has its turn.
    fn send<T>(
        &self,
        unit: &Unit,
        spec: &Arc<ScanSpec>,
        attempts: usize,
        ask: Ask<'_, T>,
    ) -> Result<T, EndpointError> {
        let context = RegionContext { region: unit.region.id, epoch: unit.region.epoch };
        let absent = || EndpointError::Region(RegionError::RegionNotFound(unit.region.id));
        if spec.source != Source::Columns {
            let leader = self.locate.locate(&unit.ranges[0].start).and_then(|r| r.leader);
            let turn = attempts % unit.region.voters().count().max(1);
            let peer = leader.or_else(|| unit.region.voters().nth(turn).copied());
            let store = peer.ok_or_else(absent)?.store;
            let endpoint = self.endpoints.endpoint(store).ok_or_else(absent)?;
            return ask(&*endpoint, context, &unit.ranges);
        }
        let mut error = EndpointError::Region(RegionError::Busy("no column replica yet"));
        for peer in unit.region.learners() {
            let Some(endpoint) = self.endpoints.endpoint(peer.store) else { continue };
            match ask(&*endpoint, context, &unit.ranges) {
                Ok(answer) => return Ok(answer),
                Err(e @ EndpointError::Locked(_)) => return Err(e),
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    /// Keeps what a region error says of the world.
    fn learn(&self, unit: &Unit, source: Source, error: &RegionError) {
        let id = unit.region.id;
        match error {
            RegionError::NotLeader { leader, .. } if source != Source::Columns => {
                self.locate.set_leader(id, *leader);
            }
            RegionError::EpochNotMatch { current } if !current.is_empty() => {
                self.locate.update(current.clone());
                let stale = |r: &Region| r.id == id && r.epoch == unit.region.epoch;
                if current.iter().any(stale) {
                    self.locate.invalidate(id);
                }
            }
            RegionError::Stale | RegionError::Undetermined(_) => {}
            _ => self.locate.invalidate(id),
        }
    }

    fn resolve(
        &self,
        locks: Vec<KeyLock>,
        ts: Timestamp,
        backoff: &mut Backoff,
    ) -> Result<(), DispatchError> {
        match self.locks.resolve(locks, ts) {
            Ok(()) => Ok(()),
            Err(detail) => {
                let error = EndpointError::storage(ErrorKind::ResolveLock, detail);
                self.wait(backoff, &error)
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff { attempts: 0, pause: PAUSE_MIN, deadline: self.clock.monotonic() + GIVE_UP_AFTER }
    }

    /// Pauses before the next attempt, or gives up with the last error.
    fn wait(&self, backoff: &mut Backoff, error: &EndpointError) -> Result<(), DispatchError> {
        if self.clock.monotonic() >= backoff.deadline {
            return Err(failed(error));
        }
        let (lock, condition) = &self.pause;
        condition.wait_for(&mut lock.lock(), backoff.pause);
        backoff.pause = (backoff.pause * 2).min(PAUSE_MAX);
        backoff.attempts += 1;
        Ok(())
    }
}

fn failed(error: &EndpointError) -> DispatchError {
    DispatchError { kind: error.kind(), detail: error.to_string() }
}
