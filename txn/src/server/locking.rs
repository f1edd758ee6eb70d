//! Pessimistic locks that are waited for, on the calling thread. It must never wait while it holds
//! a latch, nor for a transaction that waits for this one.
//!
//! ```text
//!   others wait already ─► its queue, without a look ─────────────────────────┐
//!   latch ─► view ─► decide ─► propose ─► held              (others now wait for this one)
//!     ▲                  └─ locked by another ─► its queue ─► unlatch ─► wait ─┤
//!     └──────── released, or RECHECK, or the holder's time is up ◄─────────────┤
//!               passed on, in the holder's last log entry: held ◄──────────────┘
//! ```
//!
//! A hot key costs one log entry a transaction: the one that commits the holder locks the key for
//! the first waiter, which wakes with the value and needs no read.

use super::{Context, Held, Result, TxnServer, View, check_keys, request_error};
use crate::percolator::{self, decide, is_expired};
use crate::request::{KeyError, LockWait, PessimisticLock, Request, RequestError, Response};
use crate::waits::{Ask, Change, Refused, Ticket, Woken};
use damask_kv::MvccReader;
use damask_raftstore::Error as RegionError;
use damask_types::{KeyLock, Record, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A call waits no longer, whatever it asks for: an hour.
pub const LOCK_WAIT_MS_MAX: u64 = 3_600_000;
/// A waiter looks again at least this often: a lock may go unheard when another store leads for a
/// while, and a holder's time may be up. So long a holder is believed to be alive.
pub const RECHECK: Duration = Duration::from_secs(1);

/// One call.
struct Call<'a> {
    context: Context,
    request: &'a PessimisticLock,
    /// When it came, and when it gives up.
    since: Duration,
    deadline: Duration,
    ticket: Option<Ticket>,
}

/// One look at the keys.
enum Look {
    Done(Response),
    /// Another holds a key, in whose queue the call is now; how long that may be so.
    Wait(Duration),
}

impl TxnServer {
    /// Locks the keys, waiting for others' locks as the request says.
    pub(super) fn lock(&self, context: Context, request: &PessimisticLock) -> Result<Response> {
        let patience = Duration::from_millis(request.wait.millis().min(LOCK_WAIT_MS_MAX));
        let since = self.clock.monotonic();
        let deadline = since.saturating_add(patience);
        let mut call = Call { context, request, since, deadline, ticket: None };
        match self.run(&mut call) {
            Ok(response) => Ok(response),
            // The lock may have come at the last moment.
            Err(error) => match call.ticket.as_ref().and_then(Ticket::close) {
                Some(Woken::Granted(locked)) => Ok(Response::PessimisticLocked(vec![locked])),
                Some(_) => Err(no_answer()),
                None => Err(error),
            },
        }
    }

    fn run(&self, call: &mut Call<'_>) -> Result<Response> {
        let mut sure = false;
        let mut wait =
            if call.deadline > call.since && self.join(call)? { Some(RECHECK) } else { None };
        // Ends at the deadline, at the latest.
        loop {
            if let (Some(time), Some(ticket)) = (wait, &call.ticket) {
                let left = call.deadline.saturating_sub(self.clock.monotonic());
                match ticket.wait(time.min(left).min(RECHECK), self.patience) {
                    Woken::Victim(circle) => {
                        return Err(victim(call.request.start_ts, ticket.key(), circle));
                    }
                    Woken::Granted(locked) => {
                        return Ok(Response::PessimisticLocked(vec![locked]));
                    }
                    Woken::Unknown => return Err(no_answer()),
                    // Perhaps nobody was left to wake it: another store leads.
                    Woken::Timeout => sure = true,
                    Woken::Released => sure = false,
                }
            }
            match self.look(call, sure)? {
                Look::Done(response) => return Ok(response),
                Look::Wait(time) => wait = Some(time),
            }
        }
    }

    /// Queues up behind others that wait for the key; false: the call has to look.
    fn join(&self, call: &mut Call<'_>) -> Result<bool> {
        let request = call.request;
        let [key] = request.keys.as_slice() else { return Ok(false) };
        if self.waits.is_empty() || !request.allow_conflict {
            return Ok(false);
        }
        let Context { region, epoch } = call.context;
        let Some(permit) = self.replica.leads(region, epoch) else { return Ok(false) };
        if !permit.region.range.contains(key) {
            return Ok(false);
        }
        self.manager.begin_read(request.for_update_ts)?;
        let ticket = match self.waits.join(key, request.start_ts) {
            Ok(Some(ticket)) => ticket,
            Ok(None) | Err(Refused::Full) => return Ok(false),
            Err(Refused::Victim(circle)) => return Err(victim(request.start_ts, key, circle)),
        };
        // After the place was taken: a record of this transaction that comes later is noticed.
        let ticket = call.ticket.insert(ticket);
        if !percolator::may_be_passed(&self.reader(), request).map_err(request_error)? {
            return Ok(false);
        }
        let request = request.clone();
        ticket.offer(Some(Ask { request, since: call.since, term: permit.term }));
        Ok(true)
    }

    fn look(&self, call: &mut Call<'_>, sure: bool) -> Result<Look> {
        let command = Request::PessimisticLock(call.request.clone());
        let guard = self.latch(&command)?;
        self.announce(&command)?;
        let view = self.view(call.context, sure)?;
        check_keys(&view.permit.region, &command)?;
        let left = call.deadline.saturating_sub(self.clock.monotonic());
        let reader = self.reader();
        let refused = match decide(&reader, with_ttl(call, self.clock.monotonic())) {
            Ok(decision) if !decision.records.is_empty() => {
                self.not_collected(call.request.start_ts)?;
                let held = Held { guard, pending: None };
                let done = self.replicate(call.context, &view, &reader, decision, held)?;
                // Only now: the others have heard of the new holder.
                call.ticket = None;
                return Ok(Look::Done(done));
            }
            Ok(decision) => Ok(Look::Done(decision.response)),
            Err(error) => match request_error(error) {
                RequestError::Keys(locked) => match locked.first() {
                    Some(KeyError::Locked(first)) if !left.is_zero() => {
                        // Under the latch: a release that follows finds the waiter.
                        if let Some(time) = self.queue_up(call, &view, &reader, first)? {
                            return Ok(Look::Wait(time));
                        }
                        Err(RequestError::Keys(locked))
                    }
                    _ => Err(RequestError::Keys(locked)),
                },
                other => Err(other),
            },
        };
        // Under the latch: nothing is passed on to who has an answer of its own.
        call.ticket = None;
        drop(guard);
        self.confirm_lead(call.context, &view)?;
        refused
    }

    /// A place in the queue of the lock's key, and how long to stay there at most. `None`: the
    /// lock is to be resolved, or the queue is full.
    fn queue_up(
        &self,
        call: &mut Call<'_>,
        view: &View,
        reader: &MvccReader,
        lock: &KeyLock,
    ) -> Result<Option<Duration>> {
        let Some(time) = self.time_of(lock).or_else(|| self.believed(call, lock)) else {
            return Ok(None);
        };
        let (start_ts, holder) = (call.request.start_ts, lock.lock.start_ts);
        let placed = match call.ticket.take() {
            Some(ticket) if ticket.key() == lock.key => ticket.again(holder).map(|()| ticket),
            other => {
                drop(other);
                Arc::clone(&self.waits).enter(&lock.key, start_ts, holder)
            }
        };
        match placed {
            Ok(ticket) => {
                let may = percolator::may_be_passed(reader, call.request).map_err(request_error)?;
                ticket.offer(may.then(|| {
                    let (request, term) = (call.request.clone(), view.permit.term);
                    Ask { request, since: call.since, term }
                }));
                call.ticket = Some(ticket);
                Ok(Some(time))
            }
            Err(Refused::Full) => Ok(None),
            Err(Refused::Victim(circle)) => Err(victim(start_ts, &lock.key, circle)),
        }
    }

    /// Passes keys that a command lets go on to the first of those who wait for them: their locks
    /// join its records.
    pub(super) fn pass_on(
        &self,
        view: &View,
        reader: &MvccReader,
        records: &mut Vec<Record>,
        changes: &mut [Change],
    ) {
        for change in changes {
            let Some(ask) = change.asks() else { continue };
            let mut request = ask.request.clone();
            let waited = self.clock.monotonic().saturating_sub(ask.since);
            request.ttl_ms = request.ttl_ms.saturating_add(waited.as_millis() as u64);
            let sound = ask.term == view.permit.term && self.confirm(request.start_ts).is_ok();
            let passed = sound.then(|| percolator::pass_on(reader, records, &request));
            match passed {
                Some(Ok(Some((lock, locked)))) => {
                    records.push(lock);
                    change.pass_on(locked);
                }
                // It looks for itself; whatever was wrong here, it will be told.
                _ => change.refuse(),
            }
        }
    }

    /// How long the lock's owner has yet to live; `None`: it is to be resolved.
    fn time_of(&self, lock: &KeyLock) -> Option<Duration> {
        let KeyLock { lock, .. } = lock;
        let Some(now) = self.manager.now() else { return Some(RECHECK) };
        if is_expired(lock.start_ts, lock.ttl_ms, now) {
            return None;
        }
        let end = lock.start_ts.physical_ms().saturating_add(lock.ttl_ms);
        let left = end.saturating_sub(now.physical_ms()).saturating_add(1);
        Some(Duration::from_millis(left))
    }

    /// How long the call may wait behind a lock whose time is up, because its transaction has just
    /// been seen alive.
    fn believed(&self, call: &Call<'_>, lock: &KeyLock) -> Option<Duration> {
        let LockWait::Behind { holder, .. } = call.request.wait else { return None };
        let waited = self.clock.monotonic().saturating_sub(call.since);
        let left = RECHECK.saturating_sub(waited);
        (holder == lock.lock.start_ts && !left.is_zero()).then_some(left)
    }
}

/// The request, whose lock lives longer by what was waited.
fn with_ttl(call: &Call<'_>, now: Duration) -> Request {
    let mut request = call.request.clone();
    let waited = now.saturating_sub(call.since).as_millis() as u64;
    request.ttl_ms = request.ttl_ms.saturating_add(waited);
    Request::PessimisticLock(request)
}

fn no_answer() -> RequestError {
    RegionError::Undetermined("the log has not answered in time".to_owned()).into()
}

fn victim(start_ts: Timestamp, key: &[u8], circle: Vec<(Timestamp, Timestamp)>) -> RequestError {
    let holder = circle.last().map_or(Timestamp::ZERO, |wait| wait.1);
    let key = key.to_vec();
    RequestError::Keys(vec![KeyError::Deadlock { start_ts, holder, key, circle }])
}
