//! A scan from the end of a range: last keys first. It must never be used for whole tables: each
//! key costs two seeks.

use super::{Read, Visibility, blocked, encoded_bounds, missing_value};
use crate::engine::{Cf, Cursor, Snapshot};
use crate::error::Result;
use damask_types::codec::{decode_key, put_ts_desc, split_key_ts};
use damask_types::{KeyRange, Lock, WriteKind, WriteRef};

/// Up to `limit` pairs, from the last key down.
pub(super) fn scan(
    snapshot: &dyn Snapshot,
    range: &KeyRange,
    visibility: &Visibility,
    limit: usize,
) -> Result<Read<Vec<(Vec<u8>, Vec<u8>)>>> {
    let mut rows = Vec::new();
    if range.is_empty() {
        return Ok(Read::Ok(rows));
    }
    let (start, end) = encoded_bounds(range);
    let mut write = snapshot.cursor(Cf::Write, &start, &end)?;
    let mut lock = snapshot.cursor(Cf::Lock, &start, &end)?;
    write.seek_to_last()?;
    lock.seek_to_last()?;
    while rows.len() < limit {
        let lock_key = lock.current().map(|(key, _)| key);
        let write_key = match write.current() {
            Some((key, _)) => Some(split_key_ts(key)?.0),
            None => None,
        };
        // `None` sorts below every key, so the larger of the two is the next user key.
        let Some(encoded) = lock_key.max(write_key).map(<[u8]>::to_vec) else { break };
        let key = decode_key(&encoded)?;
        if lock_key == Some(encoded.as_slice()) {
            let (_, value) = lock.current().expect("positioned: its key was just read");
            let found = Lock::decode(value)?;
            if visibility.blocked_by(&key, &found) {
                return Ok(blocked(&key, found));
            }
        }
        let (at_lock, at_write) =
            (lock_key == Some(encoded.as_slice()), write_key == Some(encoded.as_slice()));
        if at_lock {
            lock.prev()?;
        }
        if at_write {
            if let Some(value) = visible(snapshot, &mut *write, &key, &encoded, visibility)? {
                rows.push((key, value));
            }
            write.seek_for_prev(&encoded)?;
        }
    }
    Ok(Read::Ok(rows))
}

/// The key's value at the timestamp; moves the cursor forward among the key's versions.
fn visible(
    snapshot: &dyn Snapshot,
    cursor: &mut dyn Cursor,
    key: &[u8],
    encoded: &[u8],
    visibility: &Visibility,
) -> Result<Option<Vec<u8>>> {
    let mut at = encoded.to_vec();
    put_ts_desc(&mut at, visibility.ts);
    let mut pair = cursor.seek(&at)?;
    while let Some((found, value)) = pair {
        if split_key_ts(found)?.0 != encoded {
            return Ok(None);
        }
        let write = WriteRef::decode(value)?;
        match write.kind {
            WriteKind::Put if write.is_current_at(visibility.ts) => {
                if let Some(short) = write.short_value {
                    return Ok(Some(short.to_vec()));
                }
                at.truncate(encoded.len());
                put_ts_desc(&mut at, write.start_ts);
                let value = snapshot.get(Cf::Default, &at)?;
                let value = value.ok_or_else(|| missing_value(key, write.start_ts))?;
                return Ok(Some(value.to_vec()));
            }
            WriteKind::Put | WriteKind::Delete => return Ok(None),
            WriteKind::Lock | WriteKind::Rollback => pair = cursor.next()?,
        }
    }
    Ok(None)
}
