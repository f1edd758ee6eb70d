//! The first phase (`tikv: src/storage/txn/actions/prewrite.rs`), and both ways to need no second
//! one. It must leave no lock where a newer version, a rollback of its own or another's lock
//! stands, and no commit below a version that the key already has.
//!
//! ```text
//!  each key: its lock, its newest record ─► Free | Held (my own lock) | Done (came before)
//!  all keys: lowest version allowed      ─► two phases, async (locks carry it), or one (at it)
//! ```

use super::finish::{Outcome, outcome_without_lock};
use super::probe::Probe;
use super::{Decision, Error, LOCKS_NAMED_MAX, Result};
use crate::request::{Finish, KeyError, Mutation, Prewrite, Response};
use damask_env::{Mistake, mistaken};
use damask_kv::MvccReader;
use damask_types::mutation::SHORT_VALUE_MAX;
use damask_types::{KeyLock, Lock, LockKind, Record, Timestamp, Write, WriteKind};
use std::collections::HashSet;

/// Locks every key (or, in one phase, commits it), or none: then the error names the locks of
/// others, or the first other cause.
pub(super) fn prewrite(reader: &MvccReader, request: Prewrite) -> Result<Decision> {
    check_request(&request)?;
    let mut probe = Probe::new(reader, request.mutations.iter().map(Mutation::key))?;
    let mut found = Found::new(&request);
    let mut locked = Vec::new();
    for (i, mutation) in request.mutations.iter().enumerate() {
        probe.set_key(mutation.key());
        match found.look(reader, &mut probe, &request, i) {
            Ok(state) => found.states.push(state),
            Err(Error::Keys(keys)) => match keys.as_slice() {
                [KeyError::Locked(_)] => {
                    locked.extend(keys);
                    if locked.len() >= LOCKS_NAMED_MAX {
                        break;
                    }
                }
                _ => return ended_before(reader, mutation.key(), &request, keys),
            },
            Err(other) => return Err(other),
        }
    }
    match locked.is_empty() {
        true => Ok(found.decide(request)),
        false => Err(Error::Keys(locked)),
    }
}

fn check_request(request: &Prewrite) -> Result<()> {
    let Prewrite { mutations, start_ts, locked, .. } = request;
    if *start_ts == Timestamp::ZERO || *start_ts == Timestamp::MAX {
        return Err(Error::Invalid(format!("no transaction starts at {start_ts}")));
    }
    if !locked.is_empty() && locked.len() != mutations.len() {
        let detail = format!("{} keys and {} notes on locks", mutations.len(), locked.len());
        return Err(Error::Invalid(detail));
    }
    let rising = mutations.is_sorted_by(|a, b| a.key() < b.key());
    let mut seen = HashSet::new();
    if !rising && !mutations.iter().all(|m| seen.insert(m.key())) {
        return Err(Error::Invalid("a key comes twice in one prewrite".to_owned()));
    }
    Ok(())
}

/// The key refuses; but perhaps because this very transaction has been committed: its answer was
/// lost, and this is the second try.
fn ended_before(
    reader: &MvccReader,
    key: &[u8],
    request: &Prewrite,
    keys: Vec<KeyError>,
) -> Result<Decision> {
    let Outcome::Committed(commit_ts) = outcome_without_lock(reader, key, request.start_ts)? else {
        return Err(Error::Keys(keys));
    };
    let min_commit_ts = match request.finish {
        Finish::Async { .. } => commit_ts,
        Finish::TwoPhase | Finish::OnePhase => Timestamp::ZERO,
    };
    Ok(Decision::answer(Response::Prewritten { min_commit_ts, commit_ts }))
}

/// What one key has.
enum State {
    /// Nothing in the way.
    Free,
    /// The transaction's pessimistic lock, which may live longer than this request knows.
    Held { ttl_ms: u64, min_commit_ts: Timestamp },
    /// The same prewrite came before.
    Done,
}

/// What all keys have.
struct Found {
    states: Vec<State>,
    /// No key of the transaction may be committed below it.
    lowest: Timestamp,
    /// Of the locks that were there: the highest version that they ask for.
    done_lowest: Timestamp,
    done: bool,
    /// One of them asks for two phases.
    done_two_phase: bool,
}

impl Found {
    fn new(request: &Prewrite) -> Found {
        let own = request.start_ts.max(request.for_update_ts).next();
        Found {
            states: Vec::with_capacity(request.mutations.len()),
            lowest: own.max(request.min_commit_ts),
            done_lowest: Timestamp::ZERO,
            done: false,
            done_two_phase: false,
        }
    }

    /// Looks at the key that the probe stands on.
    fn look(
        &mut self,
        reader: &MvccReader,
        probe: &mut Probe<'_>,
        request: &Prewrite,
        i: usize,
    ) -> Result<State> {
        let mutation = &request.mutations[i];
        let held_at = request.locked.get(i).copied().unwrap_or_default();
        let expected = held_at != Timestamp::ZERO;
        let mut state = State::Free;
        if let Some(lock) = probe.lock()? {
            if lock.start_ts != request.start_ts {
                return Err(match expected {
                    true => lock_not_found(mutation, request),
                    false => {
                        let key = mutation.key().to_vec();
                        KeyError::Locked(Box::new(KeyLock { key, lock })).into()
                    }
                });
            }
            if lock.kind != LockKind::Pessimistic {
                self.done = true;
                self.done_two_phase |= lock.secondaries.is_none();
                self.done_lowest = self.done_lowest.max(lock.min_commit_ts);
                return Ok(State::Done);
            }
            // The lock was lost, and a late copy of its request has taken it again above a version
            // that the transaction has not read.
            let own = expected && !mistaken(Mistake::HeldVersionIgnored);
            let read = if own { held_at } else { request.for_update_ts };
            if lock.for_update_ts > read {
                return Err(lock_not_found(mutation, request));
            }
            state = State::Held { ttl_ms: lock.ttl_ms, min_commit_ts: lock.min_commit_ts };
        }
        let Some((newest, write)) = probe.newest()? else { return Ok(state) };
        // Below an older record its versions would be out of order; at it, it would be lost.
        self.lowest = self.lowest.max(newest.next());
        let (kind, conflict) = (write.kind, (newest, write.start_ts));
        let rolled_back = (kind == WriteKind::Rollback || write.overlapped_rollback)
            && !mistaken(Mistake::RollbackOverlooked);
        match state {
            State::Free
                if expected
                    && newest >= request.start_ts
                    && !mistaken(Mistake::LostLockUnchecked) =>
            {
                return Err(lock_not_found(mutation, request));
            }
            State::Free if !expected && request.for_update_ts == Timestamp::ZERO => {
                let start_ts = request.start_ts;
                let newer = newest > start_ts && !mistaken(Mistake::ConflictIgnored);
                if newer || (newest == start_ts && rolled_back) {
                    return Err(write_conflict(mutation, request, conflict));
                }
            }
            State::Free if !expected && newest >= request.start_ts => {
                check_unlocked(reader, mutation, request)?;
            }
            _ => {}
        }
        if let Mutation::Insert { key, .. } = mutation {
            let exists = match kind {
                WriteKind::Put => true,
                WriteKind::Delete => false,
                WriteKind::Lock | WriteKind::Rollback => exists_below(reader, key, newest)?,
            };
            if exists {
                return Err(KeyError::AlreadyExists { key: key.clone() }.into());
            }
        }
        Ok(state)
    }

    /// All keys agree.
    fn decide(self, mut request: Prewrite) -> Decision {
        let held = self.states.iter().map(|state| match state {
            State::Held { min_commit_ts, .. } => *min_commit_ts,
            State::Free | State::Done => Timestamp::ZERO,
        });
        let lowest = self.lowest.max(held.max().unwrap_or_default());
        let too_late = request.max_commit_ts != Timestamp::ZERO && lowest > request.max_commit_ts;
        let finish = match std::mem::take(&mut request.finish) {
            Finish::OnePhase if !too_late && !self.done => return self.commit(request, lowest),
            Finish::Async { secondaries } if !too_late && !self.done_two_phase => {
                Finish::Async { secondaries }
            }
            _ => Finish::TwoPhase,
        };
        self.lock(request, finish, lowest)
    }

    /// One phase: records at once.
    fn commit(self, request: Prewrite, commit_ts: Timestamp) -> Decision {
        let start_ts = request.start_ts;
        let mut records = Vec::with_capacity(request.mutations.len() * 2);
        for (mutation, state) in request.mutations.into_iter().zip(self.states) {
            let (kind, key, value) = parts(mutation);
            let kind = match kind {
                LockKind::Put => WriteKind::Put,
                LockKind::Delete => WriteKind::Delete,
                LockKind::Lock | LockKind::Pessimistic => WriteKind::Lock,
            };
            let short_value = put_long_value(&key, start_ts, value, &mut records);
            let write = Write::new(kind, start_ts, short_value);
            if matches!(state, State::Held { .. }) {
                records.push(Record::Write { key: key.clone(), commit_ts, write });
                records.push(Record::Unlock { key });
            } else {
                records.push(Record::Write { key, commit_ts, write });
            }
        }
        let response = Response::Prewritten { min_commit_ts: Timestamp::ZERO, commit_ts };
        Decision { records, response }
    }

    /// Two phases, or async.
    fn lock(self, request: Prewrite, finish: Finish, lowest: Timestamp) -> Decision {
        let Prewrite { mutations, primary, start_ts, for_update_ts, .. } = request;
        let (is_async, mut secondaries) = match finish {
            Finish::Async { secondaries } => (true, secondaries),
            Finish::TwoPhase | Finish::OnePhase => (false, Vec::new()),
        };
        let mut records = Vec::with_capacity(mutations.len());
        for (mutation, state) in mutations.into_iter().zip(self.states) {
            let held = match state {
                State::Done => continue,
                State::Free => (0, Timestamp::ZERO),
                State::Held { ttl_ms, min_commit_ts } => (ttl_ms, min_commit_ts),
            };
            let (kind, key, value) = parts(mutation);
            let is_primary = key == primary;
            let mut lock = Lock::new(kind, primary.clone(), start_ts, request.ttl_ms.max(held.0));
            lock.txn_size = request.txn_size;
            lock.for_update_ts = for_update_ts;
            lock.min_commit_ts = held.1;
            if is_async {
                lock.min_commit_ts = lowest;
                let names = is_primary.then(|| std::mem::take(&mut secondaries));
                lock.secondaries = Some(names.unwrap_or_default());
            } else if is_primary {
                // Not zero: readers may push it (`check_txn_status`).
                lock.min_commit_ts = held.1.max(start_ts.max(for_update_ts).next());
            }
            lock.short_value = put_long_value(&key, start_ts, value, &mut records);
            records.push(Record::Lock { key, lock });
        }
        let min_commit_ts = match (is_async, records.is_empty()) {
            // The locks are async, and who finds them all may commit by them: the client must not
            // choose another version, whatever this second request was turned into on its way.
            (_, true) if self.done && !self.done_two_phase => self.done_lowest,
            (false, _) => Timestamp::ZERO,
            (true, _) => lowest.max(self.done_lowest),
        };
        let commit_ts = Timestamp::ZERO;
        Decision { records, response: Response::Prewritten { min_commit_ts, commit_ts } }
    }
}

/// A key that a pessimistic transaction writes without having locked it: the statement has read
/// what is up to `for_update_ts`, and another's rollback changes nothing.
fn check_unlocked(reader: &MvccReader, mutation: &Mutation, request: &Prewrite) -> Result<()> {
    let Prewrite { start_ts, for_update_ts, ref primary, .. } = *request;
    let mut versions = reader.versions(mutation.key())?;
    let mut at = versions.seek(Timestamp::MAX)?;
    while let Some((commit_ts, write)) = at {
        if commit_ts < start_ts {
            break;
        }
        let is_rollback = write.kind == WriteKind::Rollback;
        let own = commit_ts == start_ts && (is_rollback || write.overlapped_rollback);
        // A rollback may have swallowed the primary's own unless that one was protected.
        let swallowed = is_rollback && !write.is_protected() && mutation.key() == primary;
        if own || swallowed || (!is_rollback && commit_ts > for_update_ts) {
            return Err(write_conflict(mutation, request, (commit_ts, write.start_ts)));
        }
        at = versions.next()?;
    }
    Ok(())
}

fn lock_not_found(mutation: &Mutation, request: &Prewrite) -> Error {
    let key = mutation.key().to_vec();
    KeyError::PessimisticLockNotFound { key, start_ts: request.start_ts }.into()
}

/// `conflict`: version and transaction of the winner.
fn write_conflict(
    mutation: &Mutation,
    request: &Prewrite,
    conflict: (Timestamp, Timestamp),
) -> Error {
    KeyError::WriteConflict {
        key: mutation.key().to_vec(),
        start_ts: request.start_ts,
        conflict_start_ts: conflict.1,
        conflict_commit_ts: conflict.0,
    }
    .into()
}

/// Is the newest Put or Delete below `ts` a Put?
fn exists_below(reader: &MvccReader, key: &[u8], ts: Timestamp) -> Result<bool> {
    let mut versions = reader.versions(key)?;
    let mut at = versions.seek(ts.prev())?;
    while let Some((_, write)) = at {
        match write.kind {
            WriteKind::Put => return Ok(true),
            WriteKind::Delete => return Ok(false),
            WriteKind::Lock | WriteKind::Rollback => at = versions.next()?,
        }
    }
    Ok(false)
}

fn parts(mutation: Mutation) -> (LockKind, Vec<u8>, Option<Vec<u8>>) {
    match mutation {
        Mutation::Put { key, value } | Mutation::Insert { key, value } => {
            (LockKind::Put, key, Some(value))
        }
        Mutation::Delete { key } => (LockKind::Delete, key, None),
        Mutation::Lock { key } => (LockKind::Lock, key, None),
    }
}

/// Puts a long value aside; a short one comes back.
fn put_long_value(
    key: &[u8],
    start_ts: Timestamp,
    value: Option<Vec<u8>>,
    records: &mut Vec<Record>,
) -> Option<Vec<u8>> {
    match value {
        Some(value) if value.len() > SHORT_VALUE_MAX => {
            records.push(Record::Value { key: key.to_vec(), start_ts, value });
            None
        }
        short => short,
    }
}
