//! The second phase and its opposite (`tikv: src/storage/txn/actions/{commit,cleanup}.rs`,
//! `src/storage/mvcc/txn.rs`). It must never commit what was rolled back, nor the reverse.

use super::{Decision, Error, Result};
use crate::request::{KeyError, Response};
use damask_env::{Mistake, mistaken};
use damask_kv::{MvccReader, TxnRecord};
use damask_types::{ErrorKind, Lock, LockKind, Record, Timestamp, Write, WriteKind};

/// Commits every key, or none.
pub(super) fn commit(
    reader: &MvccReader,
    keys: Vec<Vec<u8>>,
    start_ts: Timestamp,
    commit_ts: Timestamp,
) -> Result<Decision> {
    if commit_ts <= start_ts || commit_ts == Timestamp::MAX {
        let detail = format!("transaction {start_ts} cannot commit at {commit_ts}");
        return Err(Error::Invalid(detail));
    }
    let mut records = Vec::with_capacity(keys.len() * 2);
    for key in keys {
        commit_key(reader, key, start_ts, commit_ts, &mut records)?;
    }
    Ok(Decision { records, response: Response::Ok })
}

fn commit_key(
    reader: &MvccReader,
    key: Vec<u8>,
    start_ts: Timestamp,
    commit_ts: Timestamp,
    records: &mut Vec<Record>,
) -> Result<()> {
    let Some(lock) = reader.load_lock(&key)?.filter(|lock| lock.start_ts == start_ts) else {
        return match reader.find_by_start_ts(&key, start_ts)? {
            TxnRecord::Found { write, .. } if write.kind != WriteKind::Rollback => Ok(()),
            _ => Err(KeyError::TxnLockNotFound { start_ts }.into()),
        };
    };
    let kind = match lock.kind {
        LockKind::Put => WriteKind::Put,
        LockKind::Delete => WriteKind::Delete,
        LockKind::Lock => WriteKind::Lock,
        LockKind::Pessimistic => {
            // It was never prewritten: nothing to commit, and nobody must wait for it.
            records.push(Record::Unlock { key });
            return Ok(());
        }
    };
    if commit_ts < lock.min_commit_ts {
        let min_commit_ts = lock.min_commit_ts;
        return Err(KeyError::CommitTsExpired { commit_ts, min_commit_ts }.into());
    }
    let mut write = Write::new(kind, start_ts, lock.short_value);
    write.overlapped_rollback = lock.rollback_ts.contains(&commit_ts);
    records.push(Record::Write { key: key.clone(), commit_ts, write });
    records.push(Record::Unlock { key });
    Ok(())
}

/// Rolls every key back, or none.
pub(super) fn rollback(
    reader: &MvccReader,
    keys: Vec<Vec<u8>>,
    start_ts: Timestamp,
) -> Result<Decision> {
    let mut records = Vec::with_capacity(keys.len() * 2);
    for key in keys {
        match reader.load_lock(&key)? {
            Some(lock) if lock.start_ts == start_ts => {
                rollback_lock(reader, key, &lock, &mut records)?;
            }
            other => match outcome_without_lock(reader, &key, start_ts)? {
                Outcome::Committed(commit_ts) => {
                    return Err(KeyError::Committed { start_ts, commit_ts }.into());
                }
                Outcome::RolledBack => {}
                Outcome::Unknown(overlapped) => {
                    let absent = Absent { key, start_ts, protected: false, overlapped };
                    rollback_absent(reader, absent, other, &mut records)?;
                }
            },
        }
    }
    Ok(Decision { records, response: Response::Ok })
}

/// Commits, or with `commit_ts` ZERO rolls back, these keys. One that the transaction does not lock
/// any more has been resolved by somebody else.
pub(super) fn resolve(
    reader: &MvccReader,
    mut keys: Vec<Vec<u8>>,
    start_ts: Timestamp,
    commit_ts: Timestamp,
) -> Result<Decision> {
    if commit_ts == Timestamp::ZERO {
        return rollback(reader, keys, start_ts);
    }
    let mut failed = None;
    keys.retain(|key| match reader.load_lock(key) {
        Ok(lock) => lock.is_some_and(|lock| lock.start_ts == start_ts),
        Err(e) => {
            failed.get_or_insert(e);
            true
        }
    });
    match failed {
        Some(e) => Err(e.into()),
        None => commit(reader, keys, start_ts, commit_ts),
    }
}

/// What the write family says of a transaction that has no lock on the key.
pub(super) enum Outcome {
    Committed(Timestamp),
    RolledBack,
    /// Nothing; perhaps another's record stands where its rollback would be written.
    Unknown(Option<damask_kv::Overlapped>),
}

pub(super) fn outcome_without_lock(
    reader: &MvccReader,
    key: &[u8],
    start_ts: Timestamp,
) -> Result<Outcome> {
    Ok(match reader.find_by_start_ts(key, start_ts)? {
        TxnRecord::Found { write, .. } if write.kind == WriteKind::Rollback => Outcome::RolledBack,
        TxnRecord::Found { commit_ts, .. } => Outcome::Committed(commit_ts),
        TxnRecord::OverlappedRollback => Outcome::RolledBack,
        TxnRecord::None { overlapped } => Outcome::Unknown(overlapped),
    })
}

/// Takes the transaction's lock off, and writes that it was rolled back. Protected are rollbacks
/// that decide the transaction, or that a late command would not notice once swallowed: those of
/// primaries, of async commits and of pessimistic transactions (tikv#7364, #16620).
pub(super) fn rollback_lock(
    reader: &MvccReader,
    key: Vec<u8>,
    lock: &Lock,
    records: &mut Vec<Record>,
) -> Result<()> {
    let start_ts = lock.start_ts;
    let overlapped = match outcome_without_lock(reader, &key, start_ts)? {
        Outcome::Unknown(overlapped) => overlapped,
        Outcome::RolledBack => {
            records.push(Record::Unlock { key });
            return Ok(());
        }
        Outcome::Committed(commit_ts) => {
            let detail = format!("{start_ts} has a lock and a commit at {commit_ts} on one key");
            return Err(damask_kv::Error::new("rollback", ErrorKind::Corrupt, detail).into());
        }
    };
    if lock.kind == LockKind::Put && lock.short_value.is_none() {
        records.push(Record::DropValue { key: key.clone(), start_ts });
    }
    let protected =
        lock.primary == key || lock.secondaries.is_some() || lock.for_update_ts != Timestamp::ZERO;
    let write = rollback_record(start_ts, protected, overlapped);
    records.push(Record::Write { key: key.clone(), commit_ts: start_ts, write });
    collapse_previous(reader, &key, start_ts, records)?;
    records.push(Record::Unlock { key });
    Ok(())
}

/// A key on which the transaction left no trace.
pub(super) struct Absent {
    pub key: Vec<u8>,
    pub start_ts: Timestamp,
    pub protected: bool,
    pub overlapped: Option<damask_kv::Overlapped>,
}

/// Writes a rollback where nothing is, so that a prewrite on its way fails. `other`: the lock of
/// another transaction on the key, whose commit must not cover the rollback.
pub(super) fn rollback_absent(
    reader: &MvccReader,
    absent: Absent,
    other: Option<Lock>,
    records: &mut Vec<Record>,
) -> Result<()> {
    let Absent { key, start_ts, protected, overlapped } = absent;
    collapse_previous(reader, &key, start_ts, records)?;
    if let Some(mut lock) = other
        && overlapped.is_none()
        && start_ts >= lock.min_commit_ts
        && lock.secondaries.is_some()
    {
        // Only an async commit computes a version that can be another's start, and would write
        // over this rollback without a trace.
        lock.rollback_ts.push(start_ts);
        records.push(Record::Lock { key: key.clone(), lock });
    }
    let write = rollback_record(start_ts, protected, overlapped);
    records.push(Record::Write { key, commit_ts: start_ts, write });
    Ok(())
}

/// The record that says "rolled back": one of its own, or a note on another's commit that stands
/// at that very version.
fn rollback_record(
    start_ts: Timestamp,
    protected: bool,
    overlapped: Option<damask_kv::Overlapped>,
) -> Write {
    let Some(overlapped) = overlapped else { return Write::rollback(start_ts, protected) };
    let mut write = overlapped.write;
    write.overlapped_rollback = true;
    write.gc_fence = Some(overlapped.gc_fence);
    write
}

/// Removes the newest rollback before this one unless it is protected: a prewrite as old as that
/// is refused by this newer record.
fn collapse_previous(
    reader: &MvccReader,
    key: &[u8],
    start_ts: Timestamp,
    records: &mut Vec<Record>,
) -> Result<()> {
    if let Some((commit_ts, write)) = reader.seek_write(key, start_ts)?
        && write.kind == WriteKind::Rollback
        && (!write.is_protected() || mistaken(Mistake::ProtectedCollapsed))
        && commit_ts < start_ts
    {
        records.push(Record::DropWrite { key: key.to_vec(), commit_ts });
    }
    Ok(())
}
