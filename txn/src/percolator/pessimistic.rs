//! Locks before writes (`tikv: src/storage/txn/actions/acquire_pessimistic_lock.rs`,
//! `commands/pessimistic_rollback.rs`). It must never lock for a transaction that has ended, and
//! never above a version that its statement has not read without saying so.
//!
//! A lock that is let go may be passed on in the same log entry ([`pass_on`]): the first waiter's
//! request is decided as if those records were applied already.

use super::finish::{Outcome, outcome_without_lock};
use super::probe::Probe;
use super::{Decision, Error, LOCKS_NAMED_MAX, Result};
use crate::request::{KeyError, LockedKey, PessimisticLock, Response};
use damask_kv::{MvccReader, Read};
use damask_types::{KeyLock, Lock, LockKind, Record, Timestamp, Write, WriteKind};

/// Locks every key, or none: then the error names the locks of others, or the first other cause.
pub(super) fn lock(reader: &MvccReader, request: &PessimisticLock) -> Result<Decision> {
    let PessimisticLock { keys, start_ts, for_update_ts, .. } = request;
    if *start_ts == Timestamp::ZERO || *for_update_ts < *start_ts {
        let detail = format!("no transaction of {start_ts} locks at {for_update_ts}");
        return Err(Error::Invalid(detail));
    }
    if *for_update_ts == Timestamp::MAX {
        return Err(Error::Invalid("no statement reads at the end of time".to_owned()));
    }
    let mut probe = Probe::new(reader, keys.iter().map(Vec::as_slice))?;
    let mut records = Vec::with_capacity(keys.len());
    let mut answers = Vec::with_capacity(keys.len());
    let mut locked = Vec::new();
    for key in keys {
        probe.set_key(key);
        match lock_key(reader, &mut probe, request, key, &mut records) {
            Ok(answer) => answers.push(answer),
            Err(Error::Keys(keys)) if matches!(keys.as_slice(), [KeyError::Locked(_)]) => {
                locked.extend(keys);
                if locked.len() >= LOCKS_NAMED_MAX {
                    break;
                }
            }
            Err(other) => return Err(other),
        }
    }
    match locked.is_empty() {
        true => Ok(Decision { records, response: Response::PessimisticLocked(answers) }),
        false => Err(Error::Keys(locked)),
    }
}

fn lock_key(
    reader: &MvccReader,
    probe: &mut Probe<'_>,
    request: &PessimisticLock,
    key: &[u8],
    records: &mut Vec<Record>,
) -> Result<LockedKey> {
    let (version, conflict_ts) = match probe.lock()? {
        Some(lock) if lock.start_ts != request.start_ts => {
            return Err(KeyError::Locked(Box::new(KeyLock { key: key.to_vec(), lock })).into());
        }
        Some(lock) if lock.kind != LockKind::Pessimistic => {
            let detail = format!("transaction {} has prewritten the key", lock.start_ts);
            return Err(Error::Invalid(detail));
        }
        Some(lock) => held(request, key, lock, records),
        None => {
            let conflict_ts = conflict_of(reader, probe, request, key)?;
            let version = request.for_update_ts.max(conflict_ts);
            records.push(new_lock(request, key, version));
            (version, conflict_ts)
        }
    };
    let value = match request.return_values || conflict_ts != Timestamp::ZERO {
        false => None,
        true => match reader.get(key, version)? {
            Read::Ok(value) => value.map(Vec::from),
            Read::Blocked(lock) => return Err(KeyError::Locked(lock).into()),
        },
    };
    Ok(LockedKey { value, conflict_ts })
}

/// A lock at `version`, where none is.
fn new_lock(request: &PessimisticLock, key: &[u8], version: Timestamp) -> Record {
    let (primary, start_ts) = (request.primary.clone(), request.start_ts);
    let mut lock = Lock::new(LockKind::Pessimistic, primary, start_ts, request.ttl_ms);
    lock.for_update_ts = version;
    if key == request.primary {
        // Not zero: readers may push it (`check_txn_status`).
        lock.min_commit_ts = version.next();
    }
    Record::Lock { key: key.to_vec(), lock }
}

/// May the request be passed a lock by [`pass_on`]? It is for one key, ready for a conflict, and
/// nothing on the key says that its transaction has ended. Whoever says yes must notice a record of
/// the transaction that comes later.
pub(crate) fn may_be_passed(reader: &MvccReader, request: &PessimisticLock) -> Result<bool> {
    let PessimisticLock { keys, start_ts, for_update_ts, .. } = request;
    let makes_sense = *start_ts != Timestamp::ZERO
        && *for_update_ts >= *start_ts
        && *for_update_ts != Timestamp::MAX;
    match keys.as_slice() {
        [key] if request.allow_conflict && makes_sense => {
            Ok(matches!(outcome_without_lock(reader, key, *start_ts)?, Outcome::Unknown(_)))
        }
        _ => Ok(false),
    }
}

/// What the request comes to right after `records`, which are about to be applied to this view and
/// let its key go: the same as [`lock`] would say then. `None`: it has to look for itself. Only for
/// requests that [`may_be_passed`].
pub(crate) fn pass_on(
    reader: &MvccReader,
    records: &[Record],
    request: &PessimisticLock,
) -> Result<Option<(Record, LockedKey)>> {
    let [key] = request.keys.as_slice() else { return Ok(None) };
    let (mut is_free, mut written, mut long) = (false, None, None);
    for record in records.iter().filter(|record| record.key() == key.as_slice()) {
        match record {
            Record::Unlock { .. } => is_free = true,
            Record::Lock { .. } => is_free = false,
            // A note on an older record, or a record with one: rare, and not worth a rule here.
            Record::Write { write, .. } if write.overlapped_rollback => return Ok(None),
            Record::Write { commit_ts, write, .. } if write.kind != WriteKind::Rollback => {
                written = Some((*commit_ts, write));
            }
            Record::Value { value, .. } => long = Some(value),
            Record::Write { .. } | Record::DropValue { .. } | Record::DropWrite { .. } => {}
        }
    }
    if !is_free {
        return Ok(None);
    }
    let newest = match written {
        Some((commit_ts, _)) => commit_ts,
        None => newest_change(reader, key)?,
    };
    let version = request.for_update_ts.max(newest);
    let conflict_ts = if newest > request.for_update_ts { newest } else { Timestamp::ZERO };
    let value = match request.return_values || conflict_ts != Timestamp::ZERO {
        false => None,
        true => match value_after(reader, key, version, written.map(|(_, write)| write), long)? {
            Read::Ok(value) => value,
            Read::Blocked(_) => return Ok(None),
        },
    };
    Ok(Some((new_lock(request, key, version), LockedKey { value, conflict_ts })))
}

/// The key's value at `version` once `write` is applied and the lock is gone. `long`: the value
/// that is applied with it; one that is not short and not there came with the prewrite.
fn value_after(
    reader: &MvccReader,
    key: &[u8],
    version: Timestamp,
    write: Option<&Write>,
    long: Option<&Vec<u8>>,
) -> Result<Read<Option<Vec<u8>>>> {
    match write {
        Some(write) if write.kind == WriteKind::Delete => Ok(Read::Ok(None)),
        Some(write) if write.kind == WriteKind::Put => {
            let value = match write.short_value.as_ref().or(long) {
                Some(value) => Some(value.clone()),
                None => reader.load_value(key, write)?.map(Vec::from),
            };
            Ok(Read::Ok(value))
        }
        _ => {
            let holder = reader.load_lock(key)?.map(|lock| lock.start_ts);
            let past = reader.clone().bypassing(holder.into_iter().collect::<Vec<_>>());
            Ok(match past.get(key, version)? {
                Read::Ok(value) => Read::Ok(value.map(Vec::from)),
                Read::Blocked(lock) => Read::Blocked(lock),
            })
        }
    }
}

/// Version of the newest record that is not a rollback; ZERO: there is none.
fn newest_change(reader: &MvccReader, key: &[u8]) -> Result<Timestamp> {
    let mut versions = reader.versions(key)?;
    let mut at = versions.seek(Timestamp::MAX)?;
    while let Some((commit_ts, write)) = at {
        if write.kind != WriteKind::Rollback {
            return Ok(commit_ts);
        }
        at = versions.next()?;
    }
    Ok(Timestamp::ZERO)
}

/// The transaction holds it: only a newer statement, or a longer life, changes the lock. The life
/// also when it is locked above the statement: a second request counts on what it asks for.
fn held(
    request: &PessimisticLock,
    key: &[u8],
    mut lock: Lock,
    records: &mut Vec<Record>,
) -> (Timestamp, Timestamp) {
    let for_update_ts = lock.for_update_ts;
    let newer = for_update_ts < request.for_update_ts;
    if newer || lock.ttl_ms < request.ttl_ms {
        lock.for_update_ts = for_update_ts.max(request.for_update_ts);
        lock.ttl_ms = lock.ttl_ms.max(request.ttl_ms);
        if lock.min_commit_ts != Timestamp::ZERO {
            lock.min_commit_ts = lock.min_commit_ts.max(request.for_update_ts.next());
        }
        records.push(Record::Lock { key: key.to_vec(), lock });
    }
    if for_update_ts > request.for_update_ts {
        return (for_update_ts, for_update_ts);
    }
    (request.for_update_ts, Timestamp::ZERO)
}

/// ZERO if the key has no version that the statement has not read; else that version, if it may
/// be locked there.
fn conflict_of(
    reader: &MvccReader,
    probe: &mut Probe<'_>,
    request: &PessimisticLock,
    key: &[u8],
) -> Result<Timestamp> {
    let start_ts = request.start_ts;
    match probe.newest()? {
        Some((newest, _)) if newest >= start_ts => {}
        _ => return Ok(Timestamp::ZERO),
    }
    match outcome_without_lock(reader, key, start_ts)? {
        Outcome::Committed(commit_ts) => {
            return Err(KeyError::Committed { start_ts, commit_ts }.into());
        }
        Outcome::RolledBack => return Err(KeyError::PessimisticLockRolledBack { start_ts }.into()),
        Outcome::Unknown(_) => {}
    }
    let mut versions = reader.versions(key)?;
    let mut at = versions.seek(Timestamp::MAX)?;
    while let Some((commit_ts, write)) = at {
        if commit_ts <= request.for_update_ts {
            break;
        }
        if write.kind != WriteKind::Rollback {
            if request.allow_conflict && request.keys.len() == 1 {
                return Ok(commit_ts);
            }
            return Err(KeyError::WriteConflict {
                key: key.to_vec(),
                start_ts,
                conflict_start_ts: write.start_ts,
                conflict_commit_ts: commit_ts,
            }
            .into());
        }
        at = versions.next()?;
    }
    Ok(Timestamp::ZERO)
}

/// Gives up pessimistic locks that are not newer than `for_update_ts`, and nothing else.
pub(super) fn rollback(
    reader: &MvccReader,
    keys: Vec<Vec<u8>>,
    start_ts: Timestamp,
    for_update_ts: Timestamp,
) -> Result<Decision> {
    let mut records = Vec::with_capacity(keys.len());
    for key in keys {
        let given_up = reader.load_lock(&key)?.is_some_and(|lock| {
            lock.kind == LockKind::Pessimistic
                && lock.start_ts == start_ts
                && lock.for_update_ts <= for_update_ts
        });
        if given_up {
            records.push(Record::Unlock { key });
        }
    }
    Ok(Decision { records, response: Response::Ok })
}

#[cfg(test)]
mod tests;
