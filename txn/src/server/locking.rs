//! Pessimistic locks that are waited for, on the calling thread. It must never wait while it holds
//! a latch, nor for a transaction that waits for this one.
//!
//! ```text
//!   latch ─► permit ─► decide ─► propose ─► held                (others now wait for this one)
//!     ▲                  └─ locked by another ─► its queue ─► unlatch ─► wait ──┐
//!     └──────── released, or RECHECK, or the holder's time is up ◄──────────────┘
//! ```

use super::{Context, Held, Result, TxnServer, check_keys, request_error};
use crate::percolator::{decide, is_expired};
use crate::request::{KeyError, LockWait, PessimisticLock, Request, RequestError, Response};
use crate::waits::{Refused, Ticket, Woken};
use damask_types::{KeyLock, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A call waits no longer, whatever it asks for: an hour.
pub const LOCK_WAIT_MS_MAX: u64 = 3_600_000;
/// A waiter looks again at least this often: a lock may go unheard when another store leads for a
/// while, and a holder's time may be up.
pub const RECHECK: Duration = Duration::from_secs(1);

/// One look at the keys.
enum Look {
    Done(Response),
    /// Others' locks, and a place in the queue of the first one's key.
    Wait(Vec<KeyError>, Ticket, Duration),
}

impl TxnServer {
    /// Locks the keys, waiting for others' locks as the request says.
    pub(super) fn lock(&self, context: Context, request: &PessimisticLock) -> Result<Response> {
        let patience = match request.wait {
            LockWait::No => Duration::ZERO,
            LockWait::Millis(ms) => Duration::from_millis(ms.min(LOCK_WAIT_MS_MAX)),
        };
        let deadline = self.clock.monotonic() + patience;
        let mut ticket = None;
        // Ends at the deadline, at the latest.
        loop {
            let left = deadline.saturating_sub(self.clock.monotonic());
            let (locked, place, time) = match self.look(context, request, ticket.take(), left)? {
                Look::Done(response) => return Ok(response),
                Look::Wait(locked, place, time) => (locked, place, time),
            };
            match place.wait(time.min(left).min(RECHECK)) {
                Woken::Victim(circle) => {
                    return Err(victim(request.start_ts, place.key(), circle));
                }
                Woken::Timeout if self.clock.monotonic() >= deadline => {
                    return Err(RequestError::Keys(locked));
                }
                Woken::Timeout | Woken::Released => ticket = Some(place),
            }
        }
    }

    fn look(
        &self,
        context: Context,
        request: &PessimisticLock,
        ticket: Option<Ticket>,
        left: Duration,
    ) -> Result<Look> {
        let command = Request::PessimisticLock(request.clone());
        let guard = self.latch(&command)?;
        self.announce(&command)?;
        let permit = self.permit(context)?;
        check_keys(&permit.region, &command)?;
        match decide(&self.reader(), command).map_err(request_error) {
            Ok(decision) => {
                self.not_collected(request.start_ts)?;
                let held = Held { guard, pending: None };
                let response = self.replicate(context, &permit, decision, held)?;
                // Only now: the others have heard of the new holder.
                drop(ticket);
                Ok(Look::Done(response))
            }
            Err(RequestError::Keys(locked)) => match locked.first() {
                Some(KeyError::Locked(first)) if !left.is_zero() => {
                    let Some(time) = self.time_of(first) else {
                        return Err(RequestError::Keys(locked));
                    };
                    // Under the latch: a release that follows finds the waiter.
                    match self.place(request.start_ts, first, ticket) {
                        Ok(Some(place)) => Ok(Look::Wait(locked, place, time)),
                        Ok(None) => Err(RequestError::Keys(locked)),
                        Err(e) => Err(e),
                    }
                }
                _ => Err(RequestError::Keys(locked)),
            },
            Err(e) => Err(e),
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

    /// A place in the queue; `None` if it is full.
    fn place(
        &self,
        start_ts: Timestamp,
        lock: &KeyLock,
        ticket: Option<Ticket>,
    ) -> Result<Option<Ticket>> {
        let holder = lock.lock.start_ts;
        let placed = match ticket {
            Some(ticket) if ticket.key() == lock.key => ticket.again(holder).map(|()| ticket),
            other => {
                drop(other);
                Arc::clone(&self.waits).enter(&lock.key, start_ts, holder)
            }
        };
        match placed {
            Ok(ticket) => Ok(Some(ticket)),
            Err(Refused::Full) => Ok(None),
            Err(Refused::Victim(circle)) => Err(victim(start_ts, &lock.key, circle)),
        }
    }
}

fn victim(start_ts: Timestamp, key: &[u8], circle: Vec<(Timestamp, Timestamp)>) -> RequestError {
    let holder = circle.last().map_or(Timestamp::ZERO, |wait| wait.1);
    let key = key.to_vec();
    RequestError::Keys(vec![KeyError::Deadlock { start_ts, holder, key, circle }])
}
