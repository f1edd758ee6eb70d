//! The server end: latches, a fresh view, a decision, its records through the log, the answer.
//! It must never let go of a latch while its records may still be applied.
//!
//! ```text
//!   call ─► latches ─► leads (term) ─► snapshot ─► percolator ─► propose(term) ─► answer
//!              │            └─ table of locks, min_commit_ts (async and one-phase commit)
//!              ├───────────── both held until the log has answered ────────────┘
//!              └─ nothing to propose: a read index of that term ─► answer
//!
//!   read ─► max_ts ─► unfinished prewrites are over ─► read index ─► table of locks
//!        ─► safe point ─► snapshot ─► safe point again        (at a safe timestamp: `stale`)
//! ```
//!
//! Why this is enough: within a term every decision on a key sees all records decided before it.
//! Records decided in an older term are refused by the term; those already in the log are applied
//! before this replica leads in the new one. So a decision that is proposed needs no read index: a
//! leader that is none any more has its proposal refused. One that is not is confirmed by one.

mod locking;
mod scope;
mod stale;

use crate::concurrency::{self, Manager};
use crate::deadlock::{Deadlocks, LocalDeadlocks};
use crate::latch::{Guard, Latches};
use crate::percolator::{self, Decision, decide};
use crate::replica::Replica;
use crate::request::{Context, KeyError, Request, RequestError, Response, SCAN_PAIRS_MAX, Service};
use crate::waits::{Change, Wait, Waits};
use damask_env::channel::{Receiver, bounded};
use damask_env::mutation::be_overtaken;
use damask_env::{Clock, Mistake, RealClock, mistaken};
use damask_kv::{Engine, GcSafePoint, MvccReader};
use damask_raftstore::{Done, Error as RegionError, Proposal, ReadPermit};
use damask_tso::Oracle;
use damask_types::{ErrorKind, KeyLock, KeyRange, RegionId, Timestamp};
use scope::{bytes_of, check_keys, keys_of, reads_of, starts_of, version_of};
use stale::Rounds;
use std::sync::Arc;
use std::time::Duration;

/// How long a call waits for latches, for the read index, and for the log, each.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a read waits for prewrites that are in the log already; then it names their locks.
const WRITERS_PATIENCE: Duration = Duration::from_secs(1);
/// Locks that one pass over a region resolves in one log entry.
const RESOLVE_BATCH: usize = 256;

type Result<T> = std::result::Result<T, RequestError>;

/// Serves the regions that one store leads.
pub struct TxnServer {
    replica: Box<dyn Replica>,
    engine: Arc<dyn Engine>,
    latches: Arc<Latches>,
    manager: Arc<Manager>,
    waits: Arc<Waits>,
    rounds: Rounds,
    safe_point: GcSafePoint,
    clock: Arc<dyn Clock>,
    patience: Duration,
}

impl TxnServer {
    /// Over a store and the engine that it applies to. Without an oracle every transaction takes
    /// two phases; deadlocks are looked for among this server's own waiters.
    pub fn new(replica: impl Replica, engine: Arc<dyn Engine>) -> TxnServer {
        let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
        let deadlocks = Arc::new(LocalDeadlocks::new(Arc::clone(&clock)));
        TxnServer {
            replica: Box::new(replica),
            engine,
            latches: Arc::default(),
            manager: Arc::new(Manager::new(None)),
            waits: Arc::new(Waits::new(deadlocks)),
            rounds: Rounds::default(),
            safe_point: GcSafePoint::new(),
            clock,
            patience: PATIENCE,
        }
    }

    /// Serves async and one-phase commit too: this oracle is the one that clients ask.
    pub fn with_oracle(mut self, oracle: Arc<dyn Oracle>) -> TxnServer {
        self.manager = Arc::new(Manager::new(Some(oracle)));
        self
    }

    /// Looks for deadlocks among the waiters of all servers that share the detector.
    pub fn with_deadlocks(mut self, deadlocks: Arc<dyn Deadlocks>) -> TxnServer {
        self.waits = Arc::new(Waits::new(deadlocks));
        self
    }

    /// Refuses what would read below this.
    pub fn with_safe_point(mut self, safe_point: GcSafePoint) -> TxnServer {
        self.safe_point = safe_point;
        self
    }

    /// Measures waits by this clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> TxnServer {
        self.clock = clock;
        self
    }

    /// Waits so long instead of [`PATIENCE`].
    pub fn with_patience(mut self, patience: Duration) -> TxnServer {
        self.patience = patience;
        self
    }

    /// Announces a read of this store's engine that does not come through [`Service::call`]: the
    /// read index and the snapshot come after this. The locks in its way, if there are any.
    ///
    /// # Errors
    /// `Invalid` if the timestamp lies in the future, `TooOld` if it lies below the safe point.
    pub fn admit(
        &self,
        ranges: &[KeyRange],
        ts: Timestamp,
    ) -> std::result::Result<Vec<KeyLock>, RegionError> {
        self.confirm(ts)?;
        let reading = self.manager.begin_read(ts)?;
        let locks =
            ranges.iter().flat_map(|range| self.manager.blocking_range(reading, range, &[]));
        Ok(locks.collect())
    }

    /// Is what such a read has seen so far all that was there? Asked after the last part of it.
    ///
    /// # Errors
    /// `TooOld` if versions at the timestamp may have been collected meanwhile.
    pub fn confirm(&self, ts: Timestamp) -> std::result::Result<(), RegionError> {
        self.safe_point.check(ts).map_err(|refused| RegionError::Storage {
            kind: ErrorKind::TooOld,
            detail: refused.to_string(),
        })
    }

    /// Who waits here for whose lock, as of now.
    pub fn lock_waits(&self) -> Vec<Wait> {
        self.waits.list()
    }

    fn permit(&self, context: Context) -> Result<ReadPermit> {
        let (done, answer) = one_shot();
        self.replica.read_index(context.region, context.epoch, done);
        match answer.recv_timeout(self.patience) {
            Ok(permit) => Ok(permit?),
            Err(_) => Err(RegionError::Busy("no read index in time").into()),
        }
    }

    fn reader(&self) -> MvccReader {
        MvccReader::new(self.engine.snapshot())
    }

    fn latch(&self, request: &Request) -> Result<Guard> {
        let keys = keys_of(request).filter(|_| !mistaken(Mistake::LatchesNotTaken));
        let guard = self.latches.acquire(keys, self.patience);
        Ok(guard.ok_or(RegionError::Busy("keys are latched by other commands"))?)
    }

    fn read(&self, context: Context, request: Request) -> Result<Response> {
        let ts = version_of(&request);
        let reading = self.manager.begin_read(ts)?;
        // Those that could commit below this read: the log will have answered in a moment. Later
        // ones commit above it.
        self.manager.wait_until(WRITERS_PATIENCE, || self.blocking(reading, &request).is_empty());
        let permit = self.permit(context)?;
        check_keys(&permit.region, &request)?;
        self.note_read(permit.region.id, &request);
        unlocked(self.blocking(reading, &request))?;
        self.not_collected(ts)?;
        let decision = decide(&self.reader(), request).map_err(request_error)?;
        debug_assert!(decision.records.is_empty(), "a read writes nothing");
        self.not_collected(ts)?;
        self.replica.note_read_bytes(permit.region.id, bytes_of(&decision.response));
        Ok(decision.response)
    }

    /// Every key of a batch is a read of its own, as its range is what a region is parted by.
    fn note_read(&self, region: RegionId, request: &Request) {
        match request {
            Request::Scan { range, .. } => {
                self.replica.note_read(region, &range.start, &range.end);
            }
            _ => keys_of(request).for_each(|key| self.replica.note_read(region, key, key)),
        }
    }

    /// Unfinished prewrites that a reading request must not overlook.
    fn blocking(&self, reading: concurrency::Reading, request: &Request) -> Vec<KeyLock> {
        match request {
            Request::Scan { range, bypass, .. } => {
                self.manager.blocking_range(reading, range, bypass)
            }
            Request::ScanLocks { range, .. } => self.manager.blocking_range(reading, range, &[]),
            Request::Get { bypass, .. } | Request::BatchGet { bypass, .. } => {
                self.manager.blocking_keys(reading, keys_of(request), bypass)
            }
            _ => Vec::new(),
        }
    }

    /// A learner's read, which will look at a later state of the region elsewhere. What is not in
    /// the table now is either applied, and then below the index, or will commit above `ts`.
    fn read_index(&self, context: Context, range: &KeyRange, ts: Timestamp) -> Result<Response> {
        self.not_collected(ts)?;
        let early = mistaken(Mistake::ReadIndexEarly).then(|| {
            let permit = self.permit(context);
            be_overtaken();
            permit
        });
        let reading = self.manager.begin_read(ts)?;
        unlocked(self.manager.blocking_range(reading, range, &[]))?;
        let permit = early.unwrap_or_else(|| self.permit(context))?;
        Ok(Response::ReadIndex(permit.applied.index))
    }

    fn not_collected(&self, ts: Timestamp) -> Result<()> {
        Ok(self.safe_point.check(ts)?)
    }

    fn write(&self, context: Context, mut request: Request) -> Result<Response> {
        let guard = self.latch(&request)?;
        self.announce(&request)?;
        let view = self.view(context, false)?;
        check_keys(&view.permit.region, &request)?;
        let pending = match &mut request {
            Request::Prewrite(prewrite) => self.manager.prepare(&view.permit, prewrite),
            _ => None,
        };
        let start_ts = starts_of(&request);
        let reader = self.reader();
        let decided = decide(&reader, request).map_err(request_error);
        let held = Held { guard, pending };
        match decided {
            Ok(decision) if !decision.records.is_empty() => {
                self.not_collected(start_ts)?;
                self.replicate(context, &view, &reader, decision, held)
            }
            other => {
                held.release(None);
                self.confirm_lead(context, &view)?;
                let decision = other?;
                self.not_collected(start_ts)?;
                Ok(decision.response)
            }
        }
    }

    /// What a decision may be taken on.
    fn view(&self, context: Context, sure: bool) -> Result<View> {
        if !sure && let Some(permit) = self.replica.leads(context.region, context.epoch) {
            return Ok(View { permit, sure });
        }
        Ok(View { permit: self.permit(context)?, sure: true })
    }

    /// A decision that is not proposed is only as good as the view.
    fn confirm_lead(&self, context: Context, view: &View) -> Result<()> {
        match view.sure || self.permit(context)?.term == view.permit.term {
            true => Ok(()),
            false => Err(RegionError::Stale.into()),
        }
    }

    /// Commands that look at versions are reads too: nobody may commit below what they saw.
    fn announce(&self, request: &Request) -> Result<()> {
        let ts = reads_of(request);
        if ts != Timestamp::ZERO {
            self.manager.begin_read(ts)?;
        }
        Ok(())
    }

    /// Waits for the log. What is held goes with the proposal: when nobody waits any more, it is
    /// held until the proposal's fate is known.
    fn replicate(
        &self,
        context: Context,
        view: &View,
        reader: &MvccReader,
        decision: Decision,
        held: Held,
    ) -> Result<Response> {
        let Decision { mut records, response } = decision;
        let mut held = held;
        if mistaken(Mistake::GuardDroppedEarly) {
            held.pending = None;
        }
        let mut changes = self.waits.changes(&records);
        self.pass_on(view, reader, &mut records, &mut changes);
        let (done, answer) = one_shot();
        let waits = Arc::clone(&self.waits);
        let release: Done<_> = Box::new(move |result| {
            held.release(result.is_ok().then_some((waits.as_ref(), changes)));
            done(result);
        });
        let Context { region, epoch } = context;
        let proposal = Proposal { region, epoch, term: Some(view.permit.term), records };
        self.replica.propose(proposal, release);
        match answer.recv_timeout(self.patience) {
            Ok(applied) => applied.map(|_| response).map_err(RequestError::Region),
            Err(_) => {
                let detail = "the log has not answered in time".to_owned();
                Err(RegionError::Undetermined(detail).into())
            }
        }
    }

    /// Resolves all locks of a transaction in the region, some at a time.
    fn resolve_region(
        &self,
        context: Context,
        start_ts: Timestamp,
        commit_ts: Timestamp,
    ) -> Result<Response> {
        // Ends: no lock of a transaction that has ended can come back, and each round either ends
        // some or finds none.
        let mut rest = self.permit(context)?.region.range.clone();
        loop {
            self.permit(context)?;
            let of_txn = |lock: &damask_types::Lock| lock.start_ts == start_ts;
            let locks = self.reader().scan_locks(&rest, of_txn, RESOLVE_BATCH);
            let locks = locks.map_err(RegionError::from)?;
            let Some(last) = locks.last() else { return Ok(Response::Ok) };
            rest.start = KeyRange::point(&last.key).end;
            let keys = locks.into_iter().map(|lock| lock.key).collect();
            self.write(context, Request::ResolveLock { start_ts, commit_ts, keys })?;
        }
    }
}

/// The region as a decision sees it, and the term in which it may be proposed.
struct View {
    permit: ReadPermit,
    /// By a read index: also good without a proposal.
    sure: bool,
}

/// What a command holds while its records are on their way.
struct Held {
    guard: Guard,
    pending: Option<concurrency::Guard>,
}

impl Held {
    /// The log has answered; with what has changed for waiters, if it is applied. It is noted under
    /// the latch, so that the order of what they hear is the order of what happened; their threads
    /// wake after it.
    fn release(self, applied: Option<(&Waits, Vec<Change>)>) {
        let Held { guard, pending } = self;
        drop(pending);
        let woken = applied.map(|(waits, changes)| waits.applied(changes));
        drop(guard);
        drop(woken);
    }
}

impl Service for TxnServer {
    fn call(&self, context: Context, request: Request) -> Result<Response> {
        match request {
            Request::Get { .. } | Request::BatchGet { .. } => self.read(context, request),
            Request::Scan { .. } | Request::ScanLocks { .. } => {
                check_limit(&request)?;
                self.read(context, request)
            }
            Request::ReadIndex { range, ts } => self.read_index(context, &range, ts),
            Request::Stale(request) => {
                check_limit(&request)?;
                self.read_stale(context, *request)
            }
            Request::ResolveLock { start_ts, commit_ts, ref keys } if keys.is_empty() => {
                self.resolve_region(context, start_ts, commit_ts)
            }
            Request::PessimisticLock(request) => self.lock(context, &request),
            _ => self.write(context, request),
        }
    }
}

/// A callback and where its answer arrives. Dropping the callback ends the wait.
fn one_shot<T: Send + 'static>() -> (Done<T>, Receiver<damask_raftstore::Result<T>>) {
    let (sender, receiver) = bounded(1);
    // The waiting side may have gone: then nobody needs the answer.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn request_error(error: percolator::Error) -> RequestError {
    match error {
        percolator::Error::Keys(keys) => RequestError::Keys(keys),
        percolator::Error::Engine(e) => RequestError::Region(e.into()),
        percolator::Error::Invalid(detail) => RegionError::Invalid(detail).into(),
    }
}

fn check_limit(request: &Request) -> Result<()> {
    match request {
        Request::Scan { limit, .. } | Request::ScanLocks { limit, .. }
            if *limit > SCAN_PAIRS_MAX =>
        {
            let detail = format!("a scan of {limit} pairs, above {SCAN_PAIRS_MAX}");
            Err(RegionError::Invalid(detail).into())
        }
        _ => Ok(()),
    }
}

fn unlocked(locks: Vec<KeyLock>) -> Result<()> {
    if locks.is_empty() {
        return Ok(());
    }
    let named = locks.into_iter().map(|lock| KeyError::Locked(Box::new(lock)));
    Err(RequestError::Keys(named.collect()))
}

#[cfg(test)]
mod tests;
