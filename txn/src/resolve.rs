//! Locks in the way: what became of their transactions, and their end. It must never end a
//! transaction that is alive, nor guess an outcome that its primary has not given.
//!
//! ```text
//!   lock on k (primary p, start s) ─► status(p, s)?
//!        committed at c   ─► resolve k: commit at c
//!        rolled back      ─► resolve k: roll back            (an expired one is rolled back now)
//!        alive            ─► wait, or read below it: its primary was pushed above the reader
//!        unknown          ─► the primary is not prewritten yet: alive until this lock expires
//!        async, expired   ─► its keys tell: all locked: committed at the largest min_commit_ts;
//!                            one missing: rolled back, and a rollback there keeps it so
//! ```
//!
//! A pessimistic lock says nothing of an outcome: one whose transaction is gone is taken off
//! without a trace, and nothing is concluded for the transaction's other locks.

mod secondaries;

pub(crate) use secondaries::Secondaries;

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::percolator::is_expired;
use crate::region::{Core, Failed};
use crate::request::{KeyError, Request, Response, TxnStatus};
use damask_types::{KeyLock, Lock, LockKind, Timestamp};
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Outcomes that are remembered.
const OUTCOMES_MAX: usize = 4_096;
/// Transactions of this many keys are resolved by region, smaller ones by key (client-go: 16).
const WHOLE_REGION_KEYS: u64 = 16;

/// How transactions ended, as far as known here; `None` = rolled back. Outcomes never change.
#[derive(Default)]
pub(crate) struct Outcomes {
    known: Mutex<(HashMap<Timestamp, Option<Timestamp>>, VecDeque<Timestamp>)>,
}

impl Outcomes {
    pub fn put(&self, start_ts: Timestamp, commit_ts: Option<Timestamp>) {
        let mut guard = self.known.lock();
        let (known, order) = &mut *guard;
        if known.insert(start_ts, commit_ts).is_none() {
            order.push_back(start_ts);
        }
        if order.len() > OUTCOMES_MAX
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }

    fn forget(&self, start_ts: Timestamp) {
        let mut guard = self.known.lock();
        guard.0.remove(&start_ts);
        guard.1.retain(|other| *other != start_ts);
    }

    fn get(&self, start_ts: Timestamp) -> Option<Option<Timestamp>> {
        self.known.lock().0.get(&start_ts).copied()
    }
}

/// What is left of locks after their transactions were asked about.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    /// A transaction that is alive, and how long its lock may stand yet.
    pub alive: Option<(Timestamp, Duration)>,
    /// All transactions that are alive and not to be ignored.
    pub living: Vec<Timestamp>,
    /// Transactions alive that will commit above the caller's timestamp: to be ignored by it.
    pub bypass: Vec<Timestamp>,
}

enum Fate {
    Ended(Option<Timestamp>),
    /// A pessimistic lock whose transaction has gone; of prewritten keys nothing is known.
    Gone,
    Alive(Alive),
}

/// A transaction that has not ended.
struct Alive {
    /// Its lock stands for so long yet.
    left: Duration,
    /// Not below that version; ZERO: any.
    min_commit_ts: Timestamp,
    /// It may be committed without any record saying so.
    is_async: bool,
}

impl Alive {
    /// May a reader at this timestamp ignore its locks? A reader of the latest version asks now,
    /// and now the transaction is not committed.
    fn is_passed_by(&self, caller: Timestamp) -> bool {
        match caller {
            Timestamp::ZERO => false,
            Timestamp::MAX => !self.is_async,
            _ => self.min_commit_ts > caller,
        }
    }
}

impl Core {
    /// Asks about each transaction, ends the locks of those that have ended. With
    /// `caller_start_ts`, pushes those that are alive above it.
    pub fn resolve(
        &self,
        locks: &[KeyLock],
        caller_start_ts: Timestamp,
        backoff: &mut Backoff<'_>,
    ) -> Result<Resolution> {
        // A lock that came late may name a primary that its transaction has given up: what is
        // learned of that one is not true of the transaction's other locks.
        let mut by_txn: BTreeMap<(Timestamp, bool, &[u8]), Vec<&KeyLock>> = BTreeMap::new();
        for lock in locks {
            let pessimistic = lock.lock.kind == LockKind::Pessimistic;
            let primary = lock.lock.primary.as_slice();
            by_txn.entry((lock.lock.start_ts, pessimistic, primary)).or_default().push(lock);
        }
        let mut resolution = Resolution::default();
        for ((start_ts, pessimistic, _), locks) in by_txn {
            match self.fate(&locks[0].lock, caller_start_ts, backoff)? {
                Fate::Ended(_) if pessimistic => self.end_pessimistic(start_ts, locks, backoff)?,
                // The question has taken the primary's lock off, or found none: one that stands
                // there now is younger than the answer.
                Fate::Gone if pessimistic => {
                    let others = locks.into_iter().filter(|lock| lock.key != lock.lock.primary);
                    self.end_pessimistic(start_ts, others.collect(), backoff)?;
                }
                Fate::Gone => {}
                Fate::Ended(commit_ts) => self.end_locks(start_ts, commit_ts, &locks, backoff)?,
                Fate::Alive(alive) if alive.is_passed_by(caller_start_ts) => {
                    resolution.bypass.push(start_ts);
                }
                Fate::Alive(Alive { left, .. }) => {
                    resolution.living.push(start_ts);
                    if resolution.alive.is_none_or(|(_, shortest)| left < shortest) {
                        resolution.alive = Some((start_ts, left));
                    }
                }
            }
        }
        Ok(resolution)
    }

    fn fate(
        &self,
        lock: &Lock,
        caller_start_ts: Timestamp,
        backoff: &mut Backoff<'_>,
    ) -> Result<Fate> {
        if let Some(outcome) = self.outcomes.get(lock.start_ts) {
            return Ok(Fate::Ended(outcome));
        }
        let current_ts = self.timestamp(backoff)?;
        let mut ask = Ask { current_ts, caller_start_ts, roll_back: false, force_sync: false };
        // Ends: every turn answers, asks for more once, or takes time from the back-off.
        loop {
            let route = self.locate(&lock.primary, backoff)?;
            match self.call(&route, ask.request(lock), backoff) {
                Ok(Response::Status(status)) => {
                    if let Some(fate) = self.fate_of(lock, status, &mut ask, backoff)? {
                        return Ok(fate);
                    }
                }
                Ok(other) => return Err(Error::unexpected("transaction status", other)),
                Err(Failed::Again) => {}
                Err(Failed::Fatal(e)) => return Err(e),
                Err(Failed::Keys(errors)) => match errors.first() {
                    Some(KeyError::TxnNotFound { .. }) if !ask.roll_back => {
                        if !is_expired(lock.start_ts, lock.ttl_ms, current_ts) {
                            return Ok(Fate::Alive(unknown(lock, current_ts)));
                        }
                        ask.roll_back = true;
                    }
                    // The owner has given its first primary up with all locks that named it, and
                    // taken another: this is one of those, which came late (client-go: the same).
                    Some(KeyError::PrimaryMismatch { .. })
                        if lock.kind == LockKind::Pessimistic =>
                    {
                        return Ok(Fate::Gone);
                    }
                    _ => return Err(Error::unexpected("transaction status", errors)),
                },
            }
        }
    }

    /// What a status means for the lock; `None`: ask again, as noted in `ask`.
    fn fate_of(
        &self,
        lock: &Lock,
        status: TxnStatus,
        ask: &mut Ask,
        backoff: &mut Backoff<'_>,
    ) -> Result<Option<Fate>> {
        let (start_ts, current_ts) = (lock.start_ts, ask.current_ts);
        let fate = match status {
            TxnStatus::Committed(commit_ts) => {
                self.outcomes.put(start_ts, Some(commit_ts));
                Fate::Ended(Some(commit_ts))
            }
            // Nothing may have been written: the transaction can still be prewritten.
            TxnStatus::RolledBack if lock.kind == LockKind::Pessimistic => Fate::Gone,
            TxnStatus::RolledBack => {
                self.outcomes.put(start_ts, None);
                Fate::Ended(None)
            }
            TxnStatus::Unknown if is_expired(start_ts, lock.ttl_ms, current_ts) => Fate::Gone,
            TxnStatus::Unknown => Fate::Alive(unknown(lock, current_ts)),
            TxnStatus::Locked { lock: primary } => {
                let is_async = primary.secondaries.is_some();
                let expired = is_expired(start_ts, primary.ttl_ms, current_ts);
                if is_async && expired && !ask.force_sync {
                    match self.check_secondaries(&primary, backoff)? {
                        Secondaries::Decided(outcome) => {
                            self.outcomes.put(start_ts, outcome);
                            self.end_async(&primary, outcome, backoff)?;
                            return Ok(Some(Fate::Ended(outcome)));
                        }
                        Secondaries::NotAsync => ask.force_sync = true,
                    }
                    return Ok(None);
                }
                let left = time_left(start_ts, primary.ttl_ms, current_ts);
                let min_commit_ts = primary.min_commit_ts;
                Fate::Alive(Alive { left, min_commit_ts, is_async })
            }
        };
        Ok(Some(fate))
    }

    /// Takes off pessimistic locks whose transaction has gone. One that was taken anew meanwhile
    /// stays.
    fn end_pessimistic(
        &self,
        start_ts: Timestamp,
        locks: Vec<&KeyLock>,
        backoff: &mut Backoff<'_>,
    ) -> Result<()> {
        let newest = locks.iter().map(|lock| lock.lock.for_update_ts).max().unwrap_or_default();
        let keys = keys_of(&locks);
        self.finish_keys(keys, backoff, |keys| {
            let for_update_ts = newest;
            Request::PessimisticRollback { keys, start_ts, for_update_ts }
        })
    }

    fn end_locks(
        &self,
        start_ts: Timestamp,
        commit_ts: Option<Timestamp>,
        locks: &[&KeyLock],
        backoff: &mut Backoff<'_>,
    ) -> Result<()> {
        let keys = keys_of(locks);
        let whole_region = locks.iter().any(|lock| lock.lock.txn_size >= WHOLE_REGION_KEYS);
        let request = |keys| {
            let keys = if whole_region { Vec::new() } else { keys };
            Request::ResolveLock { start_ts, commit_ts: commit_ts.unwrap_or(Timestamp::ZERO), keys }
        };
        // The commit of its primary may have been collected since somebody met these locks. They
        // have ended then: a safe point passes no transaction that holds any.
        let collected = Cell::new(false);
        self.finish_keys_but(keys, backoff, request, |error| {
            let is = commit_ts.is_none() && matches!(error, KeyError::Committed { .. });
            collected.set(collected.get() || is);
            is
        })?;
        if collected.get() {
            self.outcomes.forget(start_ts);
        }
        Ok(())
    }

    /// Sends a command that may be repeated to every region of these keys (sorted).
    pub fn finish_keys(
        &self,
        keys: Vec<Vec<u8>>,
        backoff: &mut Backoff<'_>,
        request: impl Fn(Vec<Vec<u8>>) -> Request,
    ) -> Result<()> {
        self.finish_keys_but(keys, backoff, request, |_| false)
    }

    /// The same, where some errors mean that nothing is left to do.
    fn finish_keys_but(
        &self,
        keys: Vec<Vec<u8>>,
        backoff: &mut Backoff<'_>,
        request: impl Fn(Vec<Vec<u8>>) -> Request,
        is_done: impl Fn(&KeyError) -> bool,
    ) -> Result<()> {
        let mut work = self.group(keys, |key| key, Vec::len, backoff)?;
        while let Some(group) = work.pop() {
            match self.call(&group.route, request(group.items.clone()), backoff) {
                Ok(_) => {}
                Err(Failed::Again) => {
                    work.extend(self.group(group.items, |key| key, Vec::len, backoff)?);
                }
                Err(Failed::Fatal(e)) => return Err(e),
                Err(Failed::Keys(errors)) if errors.iter().all(&is_done) => {}
                Err(Failed::Keys(errors)) => {
                    return Err(Error::unexpected("the end of a transaction", errors));
                }
            }
        }
        Ok(())
    }
}

/// A question about a transaction.
struct Ask {
    current_ts: Timestamp,
    caller_start_ts: Timestamp,
    /// Where nothing is known: leave a rollback.
    roll_back: bool,
    force_sync: bool,
}

impl Ask {
    fn request(&self, lock: &Lock) -> Request {
        Request::CheckTxnStatus {
            primary: lock.primary.clone(),
            lock_ts: lock.start_ts,
            caller_start_ts: self.caller_start_ts,
            current_ts: self.current_ts,
            rollback_if_not_exist: self.roll_back,
            force_sync_commit: self.force_sync,
            resolving_pessimistic: lock.kind == LockKind::Pessimistic,
        }
    }
}

/// Nothing is known of a transaction that has this lock: its primary comes later.
fn unknown(lock: &Lock, current_ts: Timestamp) -> Alive {
    let left = time_left(lock.start_ts, lock.ttl_ms, current_ts);
    Alive { left, min_commit_ts: Timestamp::ZERO, is_async: false }
}

fn keys_of(locks: &[&KeyLock]) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = locks.iter().map(|lock| lock.key.clone()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn time_left(start_ts: Timestamp, ttl_ms: u64, current_ts: Timestamp) -> Duration {
    let ends = start_ts.physical_ms().saturating_add(ttl_ms);
    Duration::from_millis(ends.saturating_sub(current_ts.physical_ms()) + 1)
}

/// The locks among the reasons why keys refused a request; `Err` if there are other reasons.
pub(crate) fn locks_of(errors: Vec<KeyError>) -> Result<Vec<KeyLock>> {
    errors
        .into_iter()
        .map(|error| match error {
            KeyError::Locked(lock) => Ok(*lock),
            other => Err(Error::unexpected("a read", other)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_bounded_and_the_oldest_goes_first() {
        let outcomes = Outcomes::default();
        let last = OUTCOMES_MAX as u64 + 10;
        for i in 0..last {
            outcomes.put(Timestamp(i), Some(Timestamp(i + 1)));
        }
        assert_eq!(outcomes.get(Timestamp(9)), None);
        assert_eq!(outcomes.get(Timestamp(10)), Some(Some(Timestamp(11))));
        assert_eq!(outcomes.known.lock().1.len(), OUTCOMES_MAX);
    }
}
