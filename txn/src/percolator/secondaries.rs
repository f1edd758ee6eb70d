//! What became of an async-commit transaction, asked of its other keys (`tikv: src/storage/txn/
//! commands/check_secondary_locks.rs`). It must never say that a lock is missing without making
//! sure that it stays so.

use super::finish::{Absent, Outcome, outcome_without_lock, rollback_absent, rollback_lock};
use super::{Decision, Result};
use crate::request::Response;
use damask_kv::MvccReader;
use damask_types::{KeyLock, LockKind, Record, Timestamp, Write};

/// The locks that stand, or the version of a key that is committed. Every other key is rolled
/// back, protected: the transaction is not committed by its secondaries any more.
pub(super) fn check(
    reader: &MvccReader,
    keys: Vec<Vec<u8>>,
    start_ts: Timestamp,
) -> Result<Decision> {
    let mut records = Vec::new();
    let mut locks = Vec::new();
    for key in keys {
        match reader.load_lock(&key)? {
            Some(lock) if lock.start_ts == start_ts && lock.kind != LockKind::Pessimistic => {
                locks.push(KeyLock { key, lock });
            }
            Some(lock) if lock.start_ts == start_ts => {
                rollback_lock(reader, key, &lock, &mut records)?;
            }
            other => match outcome_without_lock(reader, &key, start_ts)? {
                Outcome::Committed(commit_ts) => {
                    let response = Response::SecondaryLocks { locks: Vec::new(), commit_ts };
                    return Ok(Decision::answer(response));
                }
                Outcome::RolledBack => protect(reader, key, start_ts, &mut records)?,
                Outcome::Unknown(overlapped) => {
                    let absent = Absent { key, start_ts, protected: true, overlapped };
                    rollback_absent(reader, absent, other, &mut records)?;
                }
            },
        }
    }
    let response = Response::SecondaryLocks { locks, commit_ts: Timestamp::ZERO };
    Ok(Decision { records, response })
}

/// A rollback that a later one could swallow is written again as one that stays.
fn protect(
    reader: &MvccReader,
    key: Vec<u8>,
    start_ts: Timestamp,
    records: &mut Vec<Record>,
) -> Result<()> {
    if let Some((commit_ts, write)) = reader.seek_write(&key, start_ts)?
        && commit_ts == start_ts
        && write.start_ts == start_ts
        && !write.is_protected()
    {
        records.push(Record::Write { key, commit_ts, write: Write::rollback(start_ts, true) });
    }
    Ok(())
}
