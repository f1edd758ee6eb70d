//! Reads at a timestamp. They must never answer past a lock that could still commit below it.

use super::{Decision, Error, LOCKS_NAMED_MAX, Result};
use crate::request::{KeyError, Response};
use damask_kv::{MvccReader, Read};
use damask_types::{KeyRange, Timestamp};

pub(super) fn get(
    reader: &MvccReader,
    key: &[u8],
    ts: Timestamp,
    bypass: Vec<Timestamp>,
) -> Result<Decision> {
    match with_bypass(reader, bypass).get(key, ts)? {
        Read::Ok(value) => Ok(Decision::answer(Response::Value(value.map(Vec::from)))),
        Read::Blocked(lock) => Err(KeyError::Locked(lock).into()),
    }
}

/// All values, or all the locks in the way (up to a limit).
pub(super) fn batch_get(
    reader: &MvccReader,
    keys: &[Vec<u8>],
    ts: Timestamp,
    bypass: Vec<Timestamp>,
) -> Result<Decision> {
    let reader = with_bypass(reader, bypass);
    let mut values = Vec::with_capacity(keys.len());
    let mut locked = Vec::new();
    for key in keys {
        match reader.get(key, ts)? {
            Read::Ok(value) => values.push(value.map(Vec::from)),
            Read::Blocked(lock) => locked.push(KeyError::Locked(lock)),
        }
        if locked.len() >= LOCKS_NAMED_MAX {
            break;
        }
    }
    if !locked.is_empty() {
        return Err(Error::Keys(locked));
    }
    Ok(Decision::answer(Response::Values(values)))
}

/// The pairs, or the locks in the way: the one that was met, and what follows it in the range, so
/// that one question about a crashed transaction is enough.
pub(super) fn scan(
    reader: &MvccReader,
    range: &KeyRange,
    ts: Timestamp,
    limit: usize,
    reverse: bool,
    bypass: Vec<Timestamp>,
) -> Result<Decision> {
    let ignored = bypass.clone();
    match with_bypass(reader, bypass).scan(range, ts, limit, reverse)? {
        Read::Ok(pairs) => Ok(Decision::answer(Response::Pairs(pairs))),
        Read::Blocked(met) => {
            let wanted = |lock: &damask_types::Lock| {
                lock.start_ts == met.lock.start_ts && !ignored.contains(&lock.start_ts)
            };
            let mut locks = reader.scan_locks(range, wanted, LOCKS_NAMED_MAX)?;
            if !locks.iter().any(|lock| lock.key == met.key) {
                locks.push(*met);
            }
            let named = locks.into_iter().map(|lock| KeyError::Locked(Box::new(lock)));
            Err(Error::Keys(named.collect()))
        }
    }
}

fn with_bypass(reader: &MvccReader, bypass: Vec<Timestamp>) -> MvccReader {
    match bypass.is_empty() {
        true => reader.clone(),
        false => reader.clone().bypassing(bypass),
    }
}
