//! A scan from the end of a range: last keys first, and of each key the oldest record first. It
//! must never return a version newer than the timestamp, nor an older one than the newest below it.
//!
//! ```text
//! write  a!9 a!4 a!1 | b!7 b!3      reading at 5:   b!3 value, b!7 too new ► b = b!3
//!                       ◄─────                      a!1, a!4 value, a!9 too new ► a = a!4
//! more than NEAR records of one key: one seek to the version, one seek out of the key
//! ```

use super::{Read, Visibility, blocked, encoded_bounds, missing_value};
use crate::engine::{Cf, Cursor, Snapshot};
use crate::error::Result;
use damask_types::codec::{decode_key, put_ts_desc, split_key_ts};
use damask_types::{KeyRange, Lock, Timestamp, WriteKind, WriteRef};

/// Steps among the records of one key before a seek.
const NEAR: usize = 8;

/// What decides a key so far.
enum Found {
    Nothing,
    /// In the scratch buffer.
    Short,
    Long(Timestamp),
}

struct Backward<'a> {
    snapshot: &'a dyn Snapshot,
    visibility: &'a Visibility,
    write: Box<dyn Cursor + 'a>,
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
    let (encoded, value, seek) = (Vec::new(), Vec::new(), Vec::new());
    let mut scan = Backward { snapshot, visibility, write, encoded, value, seek };
    while rows.len() < limit {
        let write_key = match scan.write.current() {
            Some((key, _)) => Some(split_key_ts(key)?.0),
            None => None,
        };
        // `None` sorts below every key, so the larger of the two is the next user key.
        if let Some((encoded, value)) = lock.current()
            && Some(encoded) >= write_key
        {
            let key = decode_key(encoded)?;
            let found = Lock::decode(value)?;
            if visibility.blocked_by(&key, &found) {
                return Ok(blocked(&key, found));
            }
            lock.prev()?;
            continue;
        }
        let Some(encoded) = write_key else { break };
        scan.encoded.clear();
        scan.encoded.extend_from_slice(encoded);
        if let Some(value) = scan.read_key()? {
            rows.push((decode_key(&scan.encoded)?, value));
        }
    }
    Ok(Read::Ok(rows))
}

impl Backward<'_> {
    /// The value of the key whose oldest record is at the cursor; moves to the key before.
    fn read_key(&mut self) -> Result<Option<Vec<u8>>> {
        let ts = self.visibility.ts;
        let mut found = Found::Nothing;
        let mut steps = 0;
        while let Some((key, value)) = self.write.current() {
            let (prefix, commit_ts) = split_key_ts(key)?;
            if prefix != self.encoded {
                return self.value_of(&found);
            }
            if steps == NEAR {
                if commit_ts <= ts {
                    found = self.seek_newest()?;
                }
                self.write.seek_for_prev(&self.encoded)?;
                return self.value_of(&found);
            }
            if commit_ts <= ts {
                let write = WriteRef::decode(value)?;
                if let Some(decides) = decide(&write, ts, &mut self.value) {
                    found = decides;
                }
            }
            steps += 1;
            self.write.prev()?;
        }
        self.value_of(&found)
    }

    /// The newest record at or below the timestamp that decides; the key has one record or more.
    fn seek_newest(&mut self) -> Result<Found> {
        self.seek.clear();
        self.seek.extend_from_slice(&self.encoded);
        put_ts_desc(&mut self.seek, self.visibility.ts);
        let mut pair = self.write.seek(&self.seek)?;
        while let Some((key, value)) = pair {
            if split_key_ts(key)?.0 != self.encoded {
                break;
            }
            let write = WriteRef::decode(value)?;
            if let Some(found) = decide(&write, self.visibility.ts, &mut self.value) {
                return Ok(found);
            }
            pair = self.write.next()?;
        }
        Ok(Found::Nothing)
    }

    fn value_of(&mut self, found: &Found) -> Result<Option<Vec<u8>>> {
        match found {
            Found::Nothing => Ok(None),
            Found::Short => Ok(Some(self.value.clone())),
            Found::Long(start_ts) => {
                self.seek.clear();
                self.seek.extend_from_slice(&self.encoded);
                put_ts_desc(&mut self.seek, *start_ts);
                match self.snapshot.get(Cf::Default, &self.seek)? {
                    Some(value) => Ok(Some(value.into())),
                    None => Err(missing_value(&decode_key(&self.encoded)?, *start_ts)),
                }
            }
        }
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
