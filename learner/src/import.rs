//! A row store's snapshot into columns: committed versions become rows, open locks and their long
//! values wait as if their log entries had been read. It must never skip a pair that it does not
//! understand.

use crate::compact::{LockChange, lock_change};
use crate::error::{Error, Result};
use crate::region::Hidden;
use crate::rows::RowSink;
use damask_raftstore::snapshot::{ChunkPair, ChunkReader, FAMILIES};
use damask_types::codec::{DecodeError, split_key_ts, take_bytes_sorted};
use damask_types::key::{Hex, decode_row_key};
use damask_types::{Lock, LockKind, TableId, Timestamp, WriteKind, WriteRef};
use std::collections::HashMap;

/// Long values by their engine key without the version, and the version; borrowed from the chunks.
type Values<'a> = HashMap<(&'a [u8], Timestamp), &'a [u8]>;

/// Takes a snapshot's chunks; changes of locks are returned, not made.
pub(crate) fn import(
    chunks: &[Vec<u8>],
    hidden: &mut Hidden,
    sink: &mut RowSink<'_>,
) -> Result<Vec<LockChange>> {
    let [default, lock, write] = FAMILIES;
    let mut values = Values::new();
    let mut locks = Vec::new();
    let mut key = Vec::new();
    let mut newer = None;
    each_pair(chunks, |pair| {
        if pair.family == default {
            let (encoded, start_ts) = versioned(&pair)?;
            values.insert((encoded, start_ts), pair.value);
            return Ok(());
        }
        let (encoded, version) = match pair.family == write {
            true => versioned(&pair)?,
            false => (pair.key, Timestamp::ZERO),
        };
        user_key(encoded, &mut key)?;
        let Some(row) = decode_row_key(&key) else { return Ok(()) };
        hidden.note_table(row.0);
        if pair.family == lock {
            let lock = Lock::decode(pair.value).map_err(|e| damaged(&pair, e))?;
            if lock.kind == LockKind::Put && lock.short_value.is_none() {
                let at = (encoded, lock.start_ts);
                let value = values.get(&at).ok_or_else(|| missing(&key, lock.start_ts))?;
                hidden.values.insert((key.clone(), lock.start_ts), value.to_vec());
            }
            locks.push(lock_change(key.clone(), lock));
            return Ok(());
        }
        let record = WriteRef::decode(pair.value).map_err(|e| damaged(&pair, e))?;
        if matches!(record.kind, WriteKind::Put | WriteKind::Delete) {
            let newer = newer.replace((encoded, version));
            let newer = newer.and_then(|(key, version)| (key == encoded).then_some(version));
            behind_fence(row, &record, newer, sink)?;
        }
        committed((row, encoded), &key, version, record, &values, sink)
    })?;
    Ok(locks)
}

fn committed(
    (row, encoded): ((TableId, i64), &[u8]),
    key: &[u8],
    commit_ts: Timestamp,
    write: WriteRef<'_>,
    values: &Values<'_>,
    sink: &mut RowSink<'_>,
) -> Result<()> {
    match (write.kind, write.short_value) {
        (WriteKind::Put, Some(value)) => sink.push(row, commit_ts, Some(value)),
        (WriteKind::Put, None) => match values.get(&(encoded, write.start_ts)) {
            Some(value) => sink.push(row, commit_ts, Some(value)),
            // GC has removed both, and the note came late: who may still read begins at the fence.
            None if fence(&write).is_some() => Ok(()),
            None => Err(missing(key, write.start_ts)),
        },
        (WriteKind::Delete, _) => sink.push(row, commit_ts, None),
        (WriteKind::Lock | WriteKind::Rollback, _) => Ok(()),
    }
}

/// The version that has followed a record which was noted on when it was not the newest any more.
fn fence(write: &WriteRef<'_>) -> Option<Timestamp> {
    write.gc_fence.filter(|fence| *fence != Timestamp::ZERO)
}

/// Below its fence a record is one like any other; if GC has removed what has followed it, the row
/// is gone from there on. `newer`: the version that follows in the snapshot.
fn behind_fence(
    row: (TableId, i64),
    write: &WriteRef<'_>,
    newer: Option<Timestamp>,
    sink: &mut RowSink<'_>,
) -> Result<()> {
    match fence(write) {
        Some(fence) if newer != Some(fence) => sink.push(row, fence, None),
        _ => Ok(()),
    }
}

fn each_pair<'a>(
    chunks: &'a [Vec<u8>],
    mut take: impl FnMut(ChunkPair<'a>) -> Result<()>,
) -> Result<()> {
    let corrupt = |e: damask_raftstore::Error| corrupt(e.to_string());
    for chunk in chunks {
        let mut pairs = ChunkReader::new(chunk).map_err(corrupt)?;
        while let Some(pair) = pairs.next_pair().map_err(corrupt)? {
            take(pair)?;
        }
    }
    Ok(())
}

fn versioned<'a>(pair: &ChunkPair<'a>) -> Result<(&'a [u8], Timestamp)> {
    split_key_ts(pair.key).map_err(|e| damaged(pair, e))
}

fn user_key(encoded: &[u8], key: &mut Vec<u8>) -> Result<()> {
    key.clear();
    let buf = &mut &*encoded;
    let taken = take_bytes_sorted(buf, key);
    match taken {
        Ok(()) if buf.is_empty() => Ok(()),
        Ok(()) => Err(corrupt(format!("bytes after key {}", Hex(encoded)))),
        Err(e) => Err(corrupt(format!("key {}: {e}", Hex(encoded)))),
    }
}

fn missing(key: &[u8], start_ts: Timestamp) -> Error {
    Error::MissingValue { key: Hex(key).to_string(), start_ts }
}

fn damaged(pair: &ChunkPair<'_>, e: DecodeError) -> Error {
    corrupt(format!("family {:?}, key {}: {e}", pair.family, Hex(pair.key)))
}

fn corrupt(detail: String) -> Error {
    Error::Corrupt { what: "a snapshot", detail }
}
