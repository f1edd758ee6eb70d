//! The fate of a transaction, asked of its primary (`tikv: src/storage/txn/actions/
//! check_txn_status.rs`, `commands/txn_heart_beat.rs`). It must never end one that is alive.

use super::finish::{Absent, Outcome, outcome_without_lock, rollback_absent, rollback_lock};
use super::{Decision, Result};
use crate::request::{KeyError, Response, TxnStatus};
use damask_kv::MvccReader;
use damask_types::{Lock, LockKind, Record, Timestamp};

/// The question.
pub(super) struct Ask {
    pub lock_ts: Timestamp,
    pub caller_start_ts: Timestamp,
    pub current_ts: Timestamp,
    pub rollback_if_not_exist: bool,
    pub force_sync_commit: bool,
    pub resolving_pessimistic: bool,
}

/// Answers it, ends an expired transaction, pushes a live one above its reader.
pub(super) fn check(reader: &MvccReader, primary: Vec<u8>, ask: &Ask) -> Result<Decision> {
    match reader.load_lock(&primary)? {
        Some(lock) if lock.start_ts == ask.lock_ts => check_lock(reader, primary, lock, ask),
        other => check_absent(reader, primary, other, ask),
    }
}

/// Has the lock outlived its owner's last word?
pub(crate) fn is_expired(lock_ts: Timestamp, ttl_ms: u64, current_ts: Timestamp) -> bool {
    lock_ts.physical_ms().saturating_add(ttl_ms) < current_ts.physical_ms()
}

fn check_lock(
    reader: &MvccReader,
    primary: Vec<u8>,
    mut lock: Lock,
    ask: &Ask,
) -> Result<Decision> {
    if lock.primary != primary {
        return Err(KeyError::PrimaryMismatch { start_ts: ask.lock_ts }.into());
    }
    let mut records = Vec::new();
    if lock.secondaries.is_some() && !ask.force_sync_commit {
        // Async commit: only its secondaries can tell.
        return Ok(locked(lock, records));
    }
    if is_expired(lock.start_ts, lock.ttl_ms, ask.current_ts) {
        if ask.resolving_pessimistic && lock.kind == LockKind::Pessimistic {
            // Nothing was decided: the owner may be alive, and lock it again.
            records.push(Record::Unlock { key: primary });
            return Ok(Decision { records, response: Response::Status(TxnStatus::Unknown) });
        }
        rollback_lock(reader, primary, &lock, &mut records)?;
        return Ok(Decision { records, response: Response::Status(TxnStatus::RolledBack) });
    }
    let pushable = lock.min_commit_ts != Timestamp::ZERO && ask.caller_start_ts != Timestamp::MAX;
    if pushable && ask.caller_start_ts >= lock.min_commit_ts {
        lock.min_commit_ts = ask.caller_start_ts.next().max(ask.current_ts);
        records.push(Record::Lock { key: primary, lock: lock.clone() });
    }
    Ok(locked(lock, records))
}

fn check_absent(
    reader: &MvccReader,
    primary: Vec<u8>,
    other: Option<Lock>,
    ask: &Ask,
) -> Result<Decision> {
    let start_ts = ask.lock_ts;
    let status = match outcome_without_lock(reader, &primary, start_ts)? {
        Outcome::Committed(commit_ts) => TxnStatus::Committed(commit_ts),
        Outcome::RolledBack => TxnStatus::RolledBack,
        Outcome::Unknown(_) if ask.rollback_if_not_exist && ask.resolving_pessimistic => {
            TxnStatus::Unknown
        }
        Outcome::Unknown(overlapped) if ask.rollback_if_not_exist => {
            let mut records = Vec::new();
            let absent = Absent { key: primary, start_ts, protected: true, overlapped };
            rollback_absent(reader, absent, other, &mut records)?;
            return Ok(Decision { records, response: Response::Status(TxnStatus::RolledBack) });
        }
        Outcome::Unknown(_) => return Err(KeyError::TxnNotFound { start_ts }.into()),
    };
    Ok(Decision::answer(Response::Status(status)))
}

/// Lets the primary's lock live longer; never shorter.
pub(super) fn heart_beat(
    reader: &MvccReader,
    primary: Vec<u8>,
    start_ts: Timestamp,
    ttl_ms: u64,
) -> Result<Decision> {
    let lock = reader.load_lock(&primary)?.filter(|lock| lock.start_ts == start_ts);
    let Some(mut lock) = lock else {
        return Err(KeyError::TxnLockNotFound { start_ts }.into());
    };
    if lock.primary != primary {
        return Err(KeyError::PrimaryMismatch { start_ts }.into());
    }
    let mut records = Vec::new();
    if lock.ttl_ms < ttl_ms {
        lock.ttl_ms = ttl_ms;
        records.push(Record::Lock { key: primary, lock: lock.clone() });
    }
    Ok(locked(lock, records))
}

fn locked(lock: Lock, records: Vec<Record>) -> Decision {
    let status = TxnStatus::Locked { lock: Box::new(lock) };
    Decision { records, response: Response::Status(status) }
}
