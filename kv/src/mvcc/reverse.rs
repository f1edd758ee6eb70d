//! A scan from the end of a range: last keys first, and of each key the oldest record first. It
//! must never return a version newer than the timestamp, nor an older one than the newest below it.
//!
//! ```text
//! write  a!9 a!4 a!1 | b!7 b!3      reading at 5:   b!3 value, b!7 too new ► b = b!3
//!                       ◄─────                      a!1, a!4 value, a!9 too new ► a = a!4
//! more than NEAR records of one key: one seek to the version, one seek out of the key
//! lock   a                          its key is kept aside; most scans meet none
//! ```

use super::{Read, Visibility, blocked, encoded_bounds, missing_value};
use crate::engine::{Cf, Cursor, Snapshot};
use crate::error::Result;
use damask_types::codec::{decode_key, put_ts_desc, split_key_ts};
use damask_types::{KeyRange, Lock, Timestamp, WriteKind, WriteRef};

/// Steps among the records of one key before a seek.
pub(super) const NEAR: usize = 8;

/// Rows as they are given to the caller.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What decides a key so far.
enum Found {
    Nothing,
    /// In the scratch buffer.
    Short,
    Long(Timestamp),
}

/// The locks of the range, from the last one down.
struct Locks<'a> {
    cursor: Box<dyn Cursor + 'a>,
    /// The encoded key of the lock at the cursor; empty when no lock is left.
    key: Vec<u8>,
}

struct Backward<'a> {
    snapshot: &'a dyn Snapshot,
    visibility: &'a Visibility,
    write: Box<dyn Cursor + 'a>,
    locks: Locks<'a>,
    /// The encoded user key that is being read.
    encoded: Vec<u8>,
    value: Vec<u8>,
    seek: Vec<u8>,
}

/// Up to `limit` pairs, from the last key down.
pub(super) fn scan(
    snapshot: &dyn Snapshot,
    range: &KeyRange,
    visibility: &Visibility,
    limit: usize,
) -> Result<Read<Pairs>> {
    if range.is_empty() {
        return Ok(Read::Ok(Vec::new()));
    }
    let (start, end) = encoded_bounds(range);
    let write = snapshot.cursor(Cf::Write, &start, &end)?;
    let locks = Locks::new(snapshot.cursor(Cf::Lock, &start, &end)?)?;
    let (encoded, value, seek) = (Vec::new(), Vec::new(), Vec::new());
    Backward { snapshot, visibility, write, locks, encoded, value, seek }.rows(limit)
}

impl Backward<'_> {
    fn rows(&mut self, limit: usize) -> Result<Read<Pairs>> {
        let ts = self.visibility.ts;
        let mut rows = Vec::new();
        // The oldest record of the next key: all records of the keys behind it were passed.
        let mut pair = self.write.seek_to_last()?;
        while rows.len() < limit {
            let first = match pair {
                Some((key, _)) => Some(split_key_ts(key)?.0),
                None => None,
            };
            if let Some(lock) = self.locks.pass(first, self.visibility)? {
                return Ok(lock);
            }
            let (Some(mut at), Some(first)) = (pair, first) else { break };
            self.encoded.clear();
            self.encoded.extend_from_slice(first);
            let mut found = Found::Nothing;
            let mut steps = 0;
            pair = loop {
                let (key, value) = at;
                let (_, commit_ts) = split_key_ts(key)?;
                if steps == NEAR {
                    if commit_ts <= ts {
                        found = seek_newest(
                            &mut *self.write,
                            &self.encoded,
                            ts,
                            &mut self.seek,
                            &mut self.value,
                        )?;
                    }
                    break self.write.seek_for_prev(&self.encoded)?;
                }
                if commit_ts <= ts {
                    let write = WriteRef::decode(value)?;
                    if let Some(decides) = decide(&write, ts, &mut self.value) {
                        found = decides;
                    }
                }
                steps += 1;
                match self.write.prev()? {
                    Some(next) if is_of(next.0, &self.encoded) => at = next,
                    next => break next,
                }
            };
            let value = match found {
                Found::Nothing => continue,
                Found::Short => self.value.clone(),
                Found::Long(start_ts) => {
                    long_value(self.snapshot, &self.encoded, start_ts, &mut self.seek)?
                }
            };
            rows.push((decode_key(&self.encoded)?, value));
        }
        Ok(Read::Ok(rows))
    }
}

impl<'a> Locks<'a> {
    fn new(mut cursor: Box<dyn Cursor + 'a>) -> Result<Locks<'a>> {
        let key = cursor.seek_to_last()?.map(|(key, _)| key.to_vec()).unwrap_or_default();
        Ok(Locks { cursor, key })
    }

    /// Checks the locks of `next` and of keys behind it, and moves on if none blocks. `next` is an
    /// encoded key, `None` when no record is left.
    fn pass(
        &mut self,
        next: Option<&[u8]>,
        visibility: &Visibility,
    ) -> Result<Option<Read<Pairs>>> {
        // `None` sorts below every key.
        while !self.key.is_empty() && Some(self.key.as_slice()) >= next {
            let key = decode_key(&self.key)?;
            if let Some((_, value)) = self.cursor.current() {
                let found = Lock::decode(value)?;
                if visibility.blocked_by(&key, &found) {
                    return Ok(Some(blocked(&key, found)));
                }
            }
            self.key.clear();
            if let Some((key, _)) = self.cursor.prev()? {
                self.key.extend_from_slice(key);
            }
        }
        Ok(None)
    }
}

/// Is it a record of this encoded key?
fn is_of(key: &[u8], encoded: &[u8]) -> bool {
    split_key_ts(key).is_ok_and(|(prefix, _)| prefix == encoded)
}

/// The newest record at or below the timestamp that decides; the key has one record or more.
fn seek_newest(
    write: &mut dyn Cursor,
    encoded: &[u8],
    ts: Timestamp,
    seek: &mut Vec<u8>,
    short: &mut Vec<u8>,
) -> Result<Found> {
    seek.clear();
    seek.extend_from_slice(encoded);
    put_ts_desc(seek, ts);
    let mut pair = write.seek(seek)?;
    while let Some((key, value)) = pair {
        if !is_of(key, encoded) {
            break;
        }
        if let Some(found) = decide(&WriteRef::decode(value)?, ts, short) {
            return Ok(found);
        }
        pair = write.next()?;
    }
    Ok(Found::Nothing)
}

fn long_value(
    snapshot: &dyn Snapshot,
    encoded: &[u8],
    start_ts: Timestamp,
    seek: &mut Vec<u8>,
) -> Result<Vec<u8>> {
    seek.clear();
    seek.extend_from_slice(encoded);
    put_ts_desc(seek, start_ts);
    match snapshot.get(Cf::Default, seek)? {
        Some(value) => Ok(value.into()),
        None => Err(missing_value(&decode_key(encoded)?, start_ts)),
    }
}

/// What the record says of its key to a reader at `ts`; `None` if it says nothing. A short value is
/// copied to `value`.
fn decide(write: &WriteRef<'_>, ts: Timestamp, value: &mut Vec<u8>) -> Option<Found> {
    match (write.kind, write.short_value) {
        (WriteKind::Lock | WriteKind::Rollback, _) => None,
        (WriteKind::Put, short) if write.is_current_at(ts) => match short {
            Some(short) => {
                value.clear();
                value.extend_from_slice(short);
                Some(Found::Short)
            }
            None => Some(Found::Long(write.start_ts)),
        },
        (WriteKind::Put | WriteKind::Delete, _) => Some(Found::Nothing),
    }
}
