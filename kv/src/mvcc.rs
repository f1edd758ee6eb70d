//! Reads of versions over a [`Snapshot`]: the newest commit at or below a timestamp, unless a lock
//! blocks it. It must never write, and never decide a transaction's fate.
//!
//! Keys here are user keys; this module is where they meet `enc(key) !ts` (`types::mutation` has
//! the table of families).
//!
//! ```text
//! read(key, ts):   lock[enc]  ── blocks? ──► Read::Blocked
//!                  write[enc !ts ..]  first Put or Delete at or below ts
//!                  Put: short value inside, or default[enc !start_ts]
//! ```

mod reverse;
mod rows;
mod scan;
#[cfg(test)]
mod tests;

pub use rows::Rows;
pub use scan::Scan;

use crate::engine::{Cf, Cursor, Pair, Snapshot, VERSION_BYTES, versions_end};
use crate::error::{Error, Result};
use bytes::Bytes;
use damask_types::codec::{self, encode_key, encode_key_ts, split_key_ts};
use damask_types::{ErrorKind, KeyLock, KeyRange, Lock, Timestamp, Write, WriteKind, WriteRef};
use std::sync::Arc;

/// A read's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// The answer at the timestamp.
    Ok(T),
    /// A lock is in the way.
    Blocked(Box<KeyLock>),
}

/// What the write family knows of one transaction on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnRecord {
    /// Its own record: a commit, or (by `write.kind`) a rollback at `commit_ts == start_ts`.
    Found {
        /// The record's version.
        commit_ts: Timestamp,
        /// The record.
        write: Write,
    },
    /// Rolled back, as noted on another transaction's record whose version is this `start_ts`.
    OverlappedRollback,
    /// No trace.
    None {
        /// Another transaction's record at version `start_ts`: a rollback must mark it, not
        /// replace it.
        overlapped: Option<Overlapped>,
    },
}

/// A record that a rollback must mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlapped {
    /// The record as it is.
    pub write: Write,
    /// Version of the next newer Put or Delete of the key, to be set as fence. ZERO = none.
    pub gc_fence: Timestamp,
}

/// Which locks a read at `ts` waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visibility {
    pub ts: Timestamp,
    /// Transactions that the caller knows to be rolled back or to commit above `ts`.
    pub bypass: Arc<[Timestamp]>,
    /// The caller knows that nothing will be committed at or below `ts` any more.
    pub settled: bool,
}

impl Visibility {
    /// Must a read of `key` wait for this lock?
    fn blocked_by(&self, key: &[u8], lock: &Lock) -> bool {
        // "Latest" may ignore a primary that is not decided yet: its commit would be later.
        // An async commit may already be decided by its secondaries.
        let own_primary = || lock.primary == key && lock.secondaries.is_none();
        if self.settled {
            return false;
        }
        lock.blocks_read(self.ts)
            && !self.bypass.contains(&lock.start_ts)
            && !(self.ts == Timestamp::MAX && own_primary())
    }
}

/// Reads versions of user keys.
#[derive(Clone)]
pub struct MvccReader {
    /// The view that is read.
    pub snapshot: Arc<dyn Snapshot>,
    bypass: Arc<[Timestamp]>,
    settled: bool,
}

impl MvccReader {
    /// Reads this view.
    pub fn new(snapshot: Arc<dyn Snapshot>) -> MvccReader {
        MvccReader { snapshot, bypass: Arc::default(), settled: false }
    }

    /// Ignores locks of these transactions: known to be rolled back, or to commit above any
    /// timestamp that this reader is asked for.
    pub fn bypassing(mut self, start_ts: impl Into<Arc<[Timestamp]>>) -> MvccReader {
        self.bypass = start_ts.into();
        self
    }

    /// Ignores all locks: the caller knows that nothing will be committed at or below any timestamp
    /// that this reader is asked for.
    pub fn settled(mut self) -> MvccReader {
        self.settled = true;
        self
    }

    fn visibility(&self, ts: Timestamp) -> Visibility {
        Visibility { ts, bypass: self.bypass.clone(), settled: self.settled }
    }

    /// The value of `key` at `ts`; [`Timestamp::MAX`] reads the latest.
    pub fn get(&self, key: &[u8], ts: Timestamp) -> Result<Read<Option<Bytes>>> {
        let point = Point::new(key, ts);
        if let Some(bytes) = self.snapshot.get(Cf::Lock, point.key())? {
            let lock = Lock::decode(&bytes)?;
            if self.visibility(ts).blocked_by(key, &lock) {
                return Ok(blocked(key, lock));
            }
        }
        let mut cursor = self.snapshot.cursor(Cf::Write, point.key(), point.end())?;
        let mut pair = cursor.seek(point.version())?;
        while let Some((_, value)) = pair {
            let write = WriteRef::decode(value)?;
            if matches!(write.kind, WriteKind::Put | WriteKind::Delete) {
                if write.kind == WriteKind::Delete || !write.is_current_at(ts) {
                    return Ok(Read::Ok(None));
                }
                if let Some(short) = write.short_value {
                    return Ok(Read::Ok(Some(Bytes::copy_from_slice(short))));
                }
                return self.long_value(key, write.start_ts).map(|v| Read::Ok(Some(v)));
            }
            pair = cursor.next()?;
        }
        Ok(Read::Ok(None))
    }

    /// Up to `limit` pairs of the range at `ts`, in key order or from the end. Stops at the first
    /// blocking lock, even if pairs were found before it.
    pub fn scan(
        &self,
        range: &KeyRange,
        ts: Timestamp,
        limit: usize,
        reverse: bool,
    ) -> Result<Read<Vec<(Vec<u8>, Vec<u8>)>>> {
        if reverse {
            return reverse::scan(&*self.snapshot, range, &self.visibility(ts), limit);
        }
        let mut scan = self.scanner(range, ts)?;
        let mut rows = Rows::default();
        while rows.len() < limit {
            match scan.next_block(limit - rows.len(), &mut rows)? {
                Read::Ok(0) => break,
                Read::Ok(_) => {}
                Read::Blocked(lock) => return Ok(Read::Blocked(lock)),
            }
        }
        Ok(Read::Ok(rows.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect()))
    }

    /// A forward scan in blocks, for whole tables.
    pub fn scanner(&self, range: &KeyRange, ts: Timestamp) -> Result<Scan<'_>> {
        Scan::new(&*self.snapshot, range, self.visibility(ts))
    }

    /// The key's lock, of any kind.
    pub fn load_lock(&self, key: &[u8]) -> Result<Option<Lock>> {
        match self.snapshot.get(Cf::Lock, &encode_key(key))? {
            Some(bytes) => Ok(Some(Lock::decode(&bytes)?)),
            None => Ok(None),
        }
    }

    /// The key's newest write record, of any kind, whose version is at or below `ts`.
    pub fn seek_write(&self, key: &[u8], ts: Timestamp) -> Result<Option<(Timestamp, Write)>> {
        self.versions(key)?.seek(ts)
    }

    /// Every write record of one key.
    pub fn versions(&self, key: &[u8]) -> Result<Versions<'_>> {
        let prefix = encode_key(key);
        let cursor = versions_cursor(&*self.snapshot, &prefix)?;
        Ok(Versions { cursor, prefix })
    }

    /// How the transaction `start_ts` ended on `key`, as far as the write family knows. Reads
    /// records from the newest down to `start_ts`.
    pub fn find_by_start_ts(&self, key: &[u8], start_ts: Timestamp) -> Result<TxnRecord> {
        let mut versions = self.versions(key)?;
        let mut gc_fence = Timestamp::ZERO;
        let mut at = versions.seek(Timestamp::MAX)?;
        while let Some((commit_ts, write)) = at {
            if write.start_ts == start_ts {
                return Ok(TxnRecord::Found { commit_ts, write });
            }
            if commit_ts == start_ts {
                return Ok(match write.overlapped_rollback {
                    true => TxnRecord::OverlappedRollback,
                    false => TxnRecord::None { overlapped: Some(Overlapped { write, gc_fence }) },
                });
            }
            if commit_ts < start_ts {
                break;
            }
            if matches!(write.kind, WriteKind::Put | WriteKind::Delete) {
                gc_fence = commit_ts;
            }
            at = versions.next()?;
        }
        Ok(TxnRecord::None { overlapped: None })
    }

    /// Up to `limit` locks of the range that `wanted` accepts, in key order.
    pub fn scan_locks(
        &self,
        range: &KeyRange,
        mut wanted: impl FnMut(&Lock) -> bool,
        limit: usize,
    ) -> Result<Vec<KeyLock>> {
        let (start, end) = encoded_bounds(range);
        let mut cursor = self.snapshot.cursor(Cf::Lock, &start, &end)?;
        let mut locks = Vec::new();
        let mut pair = cursor.seek(&start)?;
        while let Some((key, value)) = pair {
            if locks.len() >= limit {
                break;
            }
            let lock = Lock::decode(value)?;
            if wanted(&lock) {
                locks.push(KeyLock { key: codec::decode_key(key)?, lock });
            }
            pair = cursor.next()?;
        }
        Ok(locks)
    }

    /// The value that a record made visible; `None` unless it is a Put.
    pub fn load_value(&self, key: &[u8], write: &Write) -> Result<Option<Bytes>> {
        if write.kind != WriteKind::Put {
            return Ok(None);
        }
        match &write.short_value {
            Some(short) => Ok(Some(Bytes::copy_from_slice(short))),
            None => self.long_value(key, write.start_ts).map(Some),
        }
    }

    fn long_value(&self, key: &[u8], start_ts: Timestamp) -> Result<Bytes> {
        let value = self.snapshot.get(Cf::Default, &encode_key_ts(key, start_ts))?;
        value.ok_or_else(|| missing_value(key, start_ts))
    }
}

/// The write records of one key, newest first.
pub struct Versions<'a> {
    cursor: Box<dyn Cursor + 'a>,
    prefix: Vec<u8>,
}

impl Versions<'_> {
    /// The newest record at or below `ts`; the position of [`Versions::next`].
    pub fn seek(&mut self, ts: Timestamp) -> Result<Option<(Timestamp, Write)>> {
        let len = self.prefix.len();
        codec::put_ts_desc(&mut self.prefix, ts);
        let found = self.cursor.seek(&self.prefix);
        let record = found.and_then(version);
        self.prefix.truncate(len);
        record
    }

    /// The next older record.
    #[expect(clippy::should_implement_trait, reason = "an error is not the end")]
    pub fn next(&mut self) -> Result<Option<(Timestamp, Write)>> {
        version(self.cursor.next()?)
    }
}

fn version(pair: Option<Pair<'_>>) -> Result<Option<(Timestamp, Write)>> {
    let Some((key, value)) = pair else { return Ok(None) };
    let (_, commit_ts) = split_key_ts(key)?;
    Ok(Some((commit_ts, Write::decode(value)?)))
}

/// A cursor over exactly the versions of one encoded key.
fn versions_cursor<'a>(snapshot: &'a dyn Snapshot, encoded: &[u8]) -> Result<Box<dyn Cursor + 'a>> {
    let mut end = Vec::with_capacity(encoded.len() + VERSION_BYTES);
    end.extend_from_slice(encoded);
    versions_end(&mut end);
    snapshot.cursor(Cf::Write, encoded, &end)
}

/// What a read of one key asks the engine for, in one buffer.
///
/// ```text
/// enc(key) !ts | enc(key) FF FF FF FF FF FF FF FF
/// └─ key ─┘
/// └─ version ┘   └────────── end ───────────────┘
/// ```
struct Point {
    bytes: Vec<u8>,
    key_bytes: usize,
}

impl Point {
    fn new(key: &[u8], ts: Timestamp) -> Point {
        let groups = key.len() / codec::GROUP + 1;
        let mut bytes = Vec::with_capacity(2 * (groups * (codec::GROUP + 1) + VERSION_BYTES));
        codec::put_bytes_sorted(&mut bytes, key);
        let key_bytes = bytes.len();
        codec::put_ts_desc(&mut bytes, ts);
        bytes.extend_from_within(..key_bytes);
        versions_end(&mut bytes);
        Point { bytes, key_bytes }
    }

    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes]
    }

    fn version(&self) -> &[u8] {
        &self.bytes[..self.key_bytes + VERSION_BYTES]
    }

    fn end(&self) -> &[u8] {
        &self.bytes[self.key_bytes + VERSION_BYTES..]
    }
}

/// Engine bounds of a range of user keys, for any family.
pub(crate) fn encoded_bounds(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let end = if range.end.is_empty() { Vec::new() } else { encode_key(&range.end) };
    (encode_key(&range.start), end)
}

fn blocked<T>(key: &[u8], lock: Lock) -> Read<T> {
    Read::Blocked(Box::new(KeyLock { key: key.to_vec(), lock }))
}

fn missing_value(key: &[u8], start_ts: Timestamp) -> Error {
    let key = damask_types::key::Hex(key);
    let detail = format!("value of key {key} at {start_ts} is missing");
    Error::new("read", ErrorKind::Corrupt, detail)
}
