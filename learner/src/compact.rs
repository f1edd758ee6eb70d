//! Log records into committed rows: a value waits for its commit, what was rolled back is dropped,
//! and what is not a row is skipped. It must never change a lock itself: that is done once the rows
//! are stored.

use crate::error::{Error, Result};
use crate::region::Hidden;
use crate::rows::RowSink;
use damask_types::key::{Hex, decode_row_key};
use damask_types::{Lock, LockKind, Record, TableId, Timestamp, Write, WriteKind};

/// A change of a region's locks, in the order of the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LockChange {
    /// The key is locked by this. Boxed: a lock is large, and is moved several times.
    Set(Vec<u8>, Box<Lock>),
    /// The key is not locked.
    Remove(Vec<u8>),
}

/// Takes the records of one log entry. Committed rows go to `sink`, changes of locks to `locks`,
/// long values wait in `hidden`.
pub(crate) fn compact(
    hidden: &mut Hidden,
    records: Vec<Record>,
    sink: &mut RowSink<'_>,
    locks: &mut Vec<LockChange>,
) -> Result<()> {
    for record in records {
        let Some(row) = decode_row_key(record.key()) else {
            continue; // index entries, the catalog
        };
        hidden.note_table(row.0);
        match record {
            Record::Lock { key, lock } => locks.push(lock_change(key, lock)),
            Record::Unlock { key } => locks.push(LockChange::Remove(key)),
            Record::Value { key, start_ts, value } => {
                hidden.values.insert((key, start_ts), value);
            }
            Record::DropValue { key, start_ts } => {
                hidden.values.remove(&(key, start_ts));
            }
            Record::Write { key, commit_ts, write } => {
                decided(hidden, row, key, commit_ts, write, sink)?;
            }
            // Old versions go when the column store's own safe point passes them.
            Record::DropWrite { .. } => {}
        }
    }
    Ok(())
}

/// What a lock means to readers of columns. The value is not theirs to see yet.
pub(crate) fn lock_change(key: Vec<u8>, lock: Lock) -> LockChange {
    match lock.kind {
        LockKind::Put | LockKind::Delete => {
            LockChange::Set(key, Box::new(Lock { short_value: None, ..lock }))
        }
        LockKind::Lock | LockKind::Pessimistic => LockChange::Remove(key),
    }
}

fn decided(
    hidden: &mut Hidden,
    row: (TableId, i64),
    key: Vec<u8>,
    commit_ts: Timestamp,
    write: Write,
    sink: &mut RowSink<'_>,
) -> Result<()> {
    // A record with a fence was written before: this is only GC's note on it.
    if write.gc_fence.is_some() {
        return Ok(());
    }
    match (write.kind, write.short_value) {
        (WriteKind::Put, Some(value)) => sink.push(row, commit_ts, Some(&value)),
        (WriteKind::Put, None) => {
            let at = (key, write.start_ts);
            match hidden.values.remove(&at) {
                Some(value) => sink.push(row, commit_ts, Some(&value)),
                // Written again, to note another transaction's rollback; its row is stored.
                None if write.overlapped_rollback => Ok(()),
                None => Err(Error::MissingValue {
                    key: Hex(&at.0).to_string(),
                    start_ts: write.start_ts,
                }),
            }
        }
        (WriteKind::Delete, _) => sink.push(row, commit_ts, None),
        (WriteKind::Lock, _) => Ok(()),
        (WriteKind::Rollback, _) => {
            hidden.values.remove(&(key, write.start_ts));
            Ok(())
        }
    }
}
