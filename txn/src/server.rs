//! The server end: latches, a fresh view, a decision, its records through the log, the answer.
//! It must never let go of a latch while its records may still be applied.
//!
//! ```text
//!   call ─► latches ─► read index (term) ─► snapshot ─► percolator ─► propose(term) ─► answer
//!              └───────────── held until the log has answered ────────────┘
//! ```
//!
//! Why this is enough: within a term every decision on a key sees all records decided before it.
//! Records decided in an older term are refused by the term; those already in the log are applied
//! before a read index of the new term is granted.

use crate::latch::{Guard, Latches};
use crate::percolator::{self, Decision, decide};
use crate::replica::Replica;
use crate::request::{Context, Mutation, Request, RequestError, Response, SCAN_PAIRS_MAX, Service};
use crossbeam_channel::{Receiver, bounded};
use damask_kv::{Engine, MvccReader};
use damask_raftstore::{Done, Error as RegionError, Proposal, ReadPermit};
use damask_types::{KeyRange, Region, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// How long a call waits for latches, for the read index, and for the log, each.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Locks that one pass over a region resolves in one log entry.
const RESOLVE_BATCH: usize = 256;

type Result<T> = std::result::Result<T, RequestError>;

/// Serves the regions that one store leads.
pub struct TxnServer {
    replica: Box<dyn Replica>,
    engine: Arc<dyn Engine>,
    latches: Arc<Latches>,
    patience: Duration,
}

impl TxnServer {
    /// Over a store and the engine that it applies to.
    pub fn new(replica: impl Replica, engine: Arc<dyn Engine>) -> TxnServer {
        let latches = Arc::default();
        TxnServer { replica: Box::new(replica), engine, latches, patience: PATIENCE }
    }

    /// Waits so long instead of [`PATIENCE`].
    pub fn with_patience(mut self, patience: Duration) -> TxnServer {
        self.patience = patience;
        self
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

    fn read(&self, context: Context, request: Request) -> Result<Response> {
        let permit = self.permit(context)?;
        check_keys(&permit.region, &request)?;
        let decision = decide(&self.reader(), request).map_err(request_error)?;
        debug_assert!(decision.records.is_empty(), "a read writes nothing");
        Ok(decision.response)
    }

    fn write(&self, context: Context, request: Request) -> Result<Response> {
        let guard = self.latches.acquire(keys_of(&request), self.patience);
        let guard = guard.ok_or(RegionError::Busy("keys are latched by other commands"))?;
        let permit = self.permit(context)?;
        check_keys(&permit.region, &request)?;
        let Decision { records, response } =
            decide(&self.reader(), request).map_err(request_error)?;
        if records.is_empty() {
            return Ok(response);
        }
        let term = Some(permit.term);
        let Context { region, epoch } = context;
        self.replicate(Proposal { region, epoch, term, records }, guard)?;
        Ok(response)
    }

    /// Waits for the log. The latches go with the proposal: when nobody waits any more, they stay
    /// until its fate is known.
    fn replicate(&self, proposal: Proposal, guard: Guard) -> Result<()> {
        let (done, answer) = one_shot();
        let release: Done<_> = Box::new(move |result| {
            drop(guard);
            done(result);
        });
        self.replica.propose(proposal, release);
        match answer.recv_timeout(self.patience) {
            Ok(applied) => applied.map(|_| ()).map_err(RequestError::Region),
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

impl Service for TxnServer {
    fn call(&self, context: Context, request: Request) -> Result<Response> {
        match request {
            Request::Get { .. } | Request::BatchGet { .. } => self.read(context, request),
            Request::Scan { limit, .. } | Request::ScanLocks { limit, .. } => {
                if limit > SCAN_PAIRS_MAX {
                    let detail = format!("a scan of {limit} pairs, above {SCAN_PAIRS_MAX}");
                    return Err(RegionError::Invalid(detail).into());
                }
                self.read(context, request)
            }
            Request::ResolveLock { start_ts, commit_ts, ref keys } if keys.is_empty() => {
                self.resolve_region(context, start_ts, commit_ts)
            }
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

/// The keys that a writing command decides about.
fn keys_of(request: &Request) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match request {
        Request::Prewrite(prewrite) => Box::new(prewrite.mutations.iter().map(Mutation::key)),
        Request::PessimisticLock(lock) => Box::new(lock.keys.iter().map(Vec::as_slice)),
        Request::Commit { keys, .. }
        | Request::Rollback { keys, .. }
        | Request::ResolveLock { keys, .. }
        | Request::CheckSecondaryLocks { keys, .. }
        | Request::PessimisticRollback { keys, .. }
        | Request::BatchGet { keys, .. } => Box::new(keys.iter().map(Vec::as_slice)),
        Request::CheckTxnStatus { primary: key, .. }
        | Request::HeartBeat { primary: key, .. }
        | Request::Get { key, .. } => Box::new(std::iter::once(key.as_slice())),
        Request::Scan { .. } | Request::ScanLocks { .. } | Request::ReadIndex { .. } => {
            Box::new(std::iter::empty())
        }
    }
}

/// Refuses keys outside of the region: another region's leader decides about them.
fn check_keys(region: &Region, request: &Request) -> Result<()> {
    let inside = match request {
        Request::Scan { range, .. }
        | Request::ScanLocks { range, .. }
        | Request::ReadIndex { range, .. } => {
            range.is_empty() || region.range.intersect(range).as_ref() == Some(range)
        }
        _ => keys_of(request).all(|key| region.range.contains(key)),
    };
    match inside {
        true => Ok(()),
        false => {
            let range = region.range.clone();
            Err(RegionError::KeyNotInRegion { region: region.id, range }.into())
        }
    }
}

#[cfg(test)]
mod tests;
