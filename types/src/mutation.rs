//! What the replicated log says about versions: locks, values, commits, rollbacks. Rows and
//! columns read the same records, each into its own layout. `Lock` and `Write` have TiKV's exact
//! bytes (`components/txn_types/src/{lock,write}.rs`).
//!
//! ```text
//! family    key                      value
//! default   enc(key) !start_ts       value longer than 255 bytes
//! lock      enc(key)                 Lock
//! write     enc(key) !commit_ts      Write   (a rollback: at its start_ts)
//! ```

use crate::codec::{self, DecodeError, Result, take_u8, take_u64};
use crate::ts::Timestamp;

/// Values up to this many bytes live inside the lock and the write record.
pub const SHORT_VALUE_MAX: usize = 255;

/// What a lock stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// A value will be written.
    Put,
    /// The key will be deleted.
    Delete,
    /// Only locked (`SELECT … FOR UPDATE`, a unique check).
    Lock,
    /// A pessimistic lock: no value yet.
    Pessimistic,
}

/// An undecided write on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What it stands for.
    pub kind: LockKind,
    /// The key whose commit decides the transaction.
    pub primary: Vec<u8>,
    /// The transaction.
    pub start_ts: Timestamp,
    /// After this long without a heartbeat others may roll it back.
    pub ttl_ms: u64,
    /// The value, when at most [`SHORT_VALUE_MAX`] bytes.
    pub short_value: Option<Vec<u8>>,
    /// Pessimistic transactions: the newest version that was seen. ZERO = none.
    pub for_update_ts: Timestamp,
    /// Number of keys, a hint. 0 = unknown.
    pub txn_size: u64,
    /// The transaction may not commit below it. ZERO = none.
    pub min_commit_ts: Timestamp,
    /// Async commit: the primary's lock names the other keys. `None` = not async commit.
    pub secondaries: Option<Vec<Vec<u8>>>,
    /// Rollbacks that this lock's key must remember.
    pub rollback_ts: Vec<Timestamp>,
}

impl Lock {
    /// A lock with only what every lock has.
    pub fn new(kind: LockKind, primary: Vec<u8>, start_ts: Timestamp, ttl_ms: u64) -> Lock {
        Lock {
            kind,
            primary,
            start_ts,
            ttl_ms,
            short_value: None,
            for_update_ts: Timestamp::ZERO,
            txn_size: 0,
            min_commit_ts: Timestamp::ZERO,
            secondaries: None,
            rollback_ts: Vec::new(),
        }
    }

    /// TiKV's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.primary.len());
        out.push(match self.kind {
            LockKind::Put => b'P',
            LockKind::Delete => b'D',
            LockKind::Lock => b'L',
            LockKind::Pessimistic => b'S',
        });
        codec::put_compact_bytes(&mut out, &self.primary);
        codec::put_var_u64(&mut out, self.start_ts.0);
        codec::put_var_u64(&mut out, self.ttl_ms);
        if let Some(value) = &self.short_value {
            put_short_value(&mut out, value);
        }
        let mut tagged = |tag: u8, v: u64| {
            if v != 0 {
                out.push(tag);
                out.extend_from_slice(&v.to_be_bytes());
            }
        };
        tagged(b'f', self.for_update_ts.0);
        tagged(b't', self.txn_size);
        tagged(b'c', self.min_commit_ts.0);
        if let Some(keys) = &self.secondaries {
            out.push(b'a');
            codec::put_var_u64(&mut out, keys.len() as u64);
            keys.iter().for_each(|key| codec::put_compact_bytes(&mut out, key));
        }
        if !self.rollback_ts.is_empty() {
            out.push(b'r');
            codec::put_var_u64(&mut out, self.rollback_ts.len() as u64);
            self.rollback_ts.iter().for_each(|ts| out.extend_from_slice(&ts.0.to_be_bytes()));
        }
        out
    }

    /// Parses TiKV's bytes; unknown tags end parsing, as there.
    pub fn decode(mut buf: &[u8]) -> Result<Lock> {
        let buf = &mut buf;
        let kind = match take_u8(buf)? {
            b'P' => LockKind::Put,
            b'D' => LockKind::Delete,
            b'L' => LockKind::Lock,
            b'S' => LockKind::Pessimistic,
            _ => return Err(DecodeError("lock type")),
        };
        let primary = codec::take_compact_bytes(buf)?.to_vec();
        let start_ts = Timestamp(codec::take_var_u64(buf)?);
        let ttl_ms = if buf.is_empty() { 0 } else { codec::take_var_u64(buf)? };
        let mut lock = Lock::new(kind, primary, start_ts, ttl_ms);
        while !buf.is_empty() {
            match take_u8(buf)? {
                b'v' => {
                    let len = usize::from(take_u8(buf)?);
                    lock.short_value = Some(codec::take(buf, len)?.to_vec());
                }
                b'f' => lock.for_update_ts = Timestamp(take_u64(buf)?),
                b't' => lock.txn_size = take_u64(buf)?,
                b'c' => lock.min_commit_ts = Timestamp(take_u64(buf)?),
                b'a' => {
                    let n = codec::take_var_u64(buf)?;
                    let keys = (0..n).map(|_| Ok(codec::take_compact_bytes(buf)?.to_vec()));
                    lock.secondaries = Some(keys.collect::<Result<_>>()?);
                }
                b'r' => {
                    let n = codec::take_var_u64(buf)?;
                    let list = (0..n).map(|_| Ok(Timestamp(take_u64(buf)?)));
                    lock.rollback_ts = list.collect::<Result<_>>()?;
                }
                _ => break,
            }
        }
        Ok(lock)
    }

    /// Must a read at `ts` wait for this lock?
    pub fn blocks_read(&self, ts: Timestamp) -> bool {
        matches!(self.kind, LockKind::Put | LockKind::Delete)
            && self.start_ts <= ts
            && self.min_commit_ts <= ts
    }
}

/// A user key and the lock on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLock {
    /// The locked key.
    pub key: Vec<u8>,
    /// Its lock.
    pub lock: Lock,
}

/// What a write record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteKind {
    /// A value became visible.
    Put,
    /// The key was deleted.
    Delete,
    /// Only locked: nothing visible changed.
    Lock,
    /// The transaction was rolled back on this key.
    Rollback,
}

/// A decision about a key, at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What was decided.
    pub kind: WriteKind,
    /// The transaction; the value is at this version of the default family.
    pub start_ts: Timestamp,
    /// The value, when short; `p` in a protected rollback.
    pub short_value: Option<Vec<u8>>,
    /// Another transaction's rollback has this record's version as its start.
    pub overlapped_rollback: bool,
    /// Set when GC must know of a rewrite of this record.
    pub gc_fence: Option<Timestamp>,
}

impl Write {
    /// A record without flags.
    pub fn new(kind: WriteKind, start_ts: Timestamp, short_value: Option<Vec<u8>>) -> Write {
        Write { kind, start_ts, short_value, overlapped_rollback: false, gc_fence: None }
    }

    /// A rollback; a protected one is never collapsed into a later one.
    pub fn rollback(start_ts: Timestamp, protected: bool) -> Write {
        Write::new(WriteKind::Rollback, start_ts, protected.then(|| b"p".to_vec()))
    }

    /// Is it a rollback that must stay?
    pub fn is_protected(&self) -> bool {
        self.kind == WriteKind::Rollback && self.short_value.as_deref() == Some(b"p")
    }

    /// TiKV's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let short = self.short_value.as_deref();
        let mut out = Vec::with_capacity(16 + short.map_or(0, <[u8]>::len));
        out.push(match self.kind {
            WriteKind::Put => b'P',
            WriteKind::Delete => b'D',
            WriteKind::Lock => b'L',
            WriteKind::Rollback => b'R',
        });
        codec::put_var_u64(&mut out, self.start_ts.0);
        if let Some(value) = short {
            put_short_value(&mut out, value);
        }
        if self.overlapped_rollback {
            out.push(b'R');
        }
        if let Some(fence) = self.gc_fence {
            out.push(b'F');
            out.extend_from_slice(&fence.0.to_be_bytes());
        }
        out
    }

    /// Parses TiKV's bytes; unknown tags end parsing, as there.
    pub fn decode(buf: &[u8]) -> Result<Write> {
        let view = WriteRef::decode(buf)?;
        Ok(Write {
            kind: view.kind,
            start_ts: view.start_ts,
            short_value: view.short_value.map(<[u8]>::to_vec),
            overlapped_rollback: view.overlapped_rollback,
            gc_fence: view.gc_fence,
        })
    }
}

/// A [`Write`] read in place: scans parse one per row, so nothing is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRef<'a> {
    /// What was decided.
    pub kind: WriteKind,
    /// The transaction.
    pub start_ts: Timestamp,
    /// The value, when short.
    pub short_value: Option<&'a [u8]>,
    /// As in [`Write`].
    pub overlapped_rollback: bool,
    /// As in [`Write`].
    pub gc_fence: Option<Timestamp>,
}

impl<'a> WriteRef<'a> {
    /// Parses TiKV's bytes; unknown tags end parsing, as there.
    pub fn decode(mut buf: &'a [u8]) -> Result<WriteRef<'a>> {
        let buf = &mut buf;
        let kind = match take_u8(buf)? {
            b'P' => WriteKind::Put,
            b'D' => WriteKind::Delete,
            b'L' => WriteKind::Lock,
            b'R' => WriteKind::Rollback,
            _ => return Err(DecodeError("write type")),
        };
        let mut write = WriteRef {
            kind,
            start_ts: Timestamp(codec::take_var_u64(buf)?),
            short_value: None,
            overlapped_rollback: false,
            gc_fence: None,
        };
        while !buf.is_empty() {
            match take_u8(buf)? {
                b'v' => {
                    let len = usize::from(take_u8(buf)?);
                    write.short_value = Some(codec::take(buf, len)?);
                }
                b'R' => write.overlapped_rollback = true,
                b'F' => write.gc_fence = Some(Timestamp(take_u64(buf)?)),
                _ => break,
            }
        }
        Ok(write)
    }

    /// Is it still what a reader at `ts` should see, when it is the newest record there? Not if its
    /// fence names a version at or below `ts`: that version was there and GC has removed it since.
    pub fn is_current_at(&self, ts: Timestamp) -> bool {
        self.gc_fence.is_none_or(|fence| fence == Timestamp::ZERO || fence > ts)
    }
}

/// A longer value would lose its length's upper bits, and with them itself.
fn put_short_value(out: &mut Vec<u8>, value: &[u8]) {
    assert!(value.len() <= SHORT_VALUE_MAX, "a long value belongs into the default family");
    out.extend_from_slice(&[b'v', value.len() as u8]);
    out.extend_from_slice(value);
}

/// One effect of a transaction command, as replicated. Keys are user keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Set or replace the key's lock.
    Lock {
        /// The key.
        key: Vec<u8>,
        /// Its lock.
        lock: Lock,
    },
    /// Remove the key's lock.
    Unlock {
        /// The key.
        key: Vec<u8>,
    },
    /// A long value, not yet visible.
    Value {
        /// The key.
        key: Vec<u8>,
        /// The transaction.
        start_ts: Timestamp,
        /// The value.
        value: Vec<u8>,
    },
    /// Remove a long value that will never be visible, or no longer is.
    DropValue {
        /// The key.
        key: Vec<u8>,
        /// The transaction.
        start_ts: Timestamp,
    },
    /// A write record at a version: a commit, or a rollback at its start.
    Write {
        /// The key.
        key: Vec<u8>,
        /// The version.
        commit_ts: Timestamp,
        /// The record.
        write: Write,
    },
    /// Remove a write record (GC, collapsed rollbacks).
    DropWrite {
        /// The key.
        key: Vec<u8>,
        /// The version.
        commit_ts: Timestamp,
    },
}

impl Record {
    /// The user key that it touches.
    pub fn key(&self) -> &[u8] {
        match self {
            Record::Lock { key, .. }
            | Record::Unlock { key }
            | Record::Value { key, .. }
            | Record::DropValue { key, .. }
            | Record::Write { key, .. }
            | Record::DropWrite { key, .. } => key,
        }
    }

    /// Appends `tag, key, rest`, lengths as varints.
    pub fn put(&self, out: &mut Vec<u8>) {
        let bytes = |out: &mut Vec<u8>, b: &[u8]| {
            codec::put_var_u64(out, b.len() as u64);
            out.extend_from_slice(b);
        };
        let (tag, key) = match self {
            Record::Lock { key, .. } => (1, key),
            Record::Unlock { key } => (2, key),
            Record::Value { key, .. } => (3, key),
            Record::DropValue { key, .. } => (4, key),
            Record::Write { key, .. } => (5, key),
            Record::DropWrite { key, .. } => (6, key),
        };
        out.push(tag);
        bytes(out, key);
        match self {
            Record::Lock { lock, .. } => bytes(out, &lock.encode()),
            Record::Unlock { .. } => {}
            Record::Value { start_ts, value, .. } => {
                codec::put_var_u64(out, start_ts.0);
                bytes(out, value);
            }
            Record::DropValue { start_ts, .. } => codec::put_var_u64(out, start_ts.0),
            Record::Write { commit_ts, write, .. } => {
                codec::put_var_u64(out, commit_ts.0);
                bytes(out, &write.encode());
            }
            Record::DropWrite { commit_ts, .. } => codec::put_var_u64(out, commit_ts.0),
        }
    }

    /// Takes one record.
    pub fn take(buf: &mut &[u8]) -> Result<Record> {
        fn bytes<'a>(buf: &mut &'a [u8]) -> Result<&'a [u8]> {
            let n = codec::take_var_u64(buf)?;
            codec::take(buf, usize::try_from(n).map_err(|_| DecodeError("length"))?)
        }
        let tag = take_u8(buf)?;
        let key = bytes(buf)?.to_vec();
        Ok(match tag {
            1 => Record::Lock { key, lock: Lock::decode(bytes(buf)?)? },
            2 => Record::Unlock { key },
            3 => {
                let start_ts = Timestamp(codec::take_var_u64(buf)?);
                Record::Value { key, start_ts, value: bytes(buf)?.to_vec() }
            }
            4 => Record::DropValue { key, start_ts: Timestamp(codec::take_var_u64(buf)?) },
            5 => {
                let commit_ts = Timestamp(codec::take_var_u64(buf)?);
                Record::Write { key, commit_ts, write: Write::decode(bytes(buf)?)? }
            }
            6 => Record::DropWrite { key, commit_ts: Timestamp(codec::take_var_u64(buf)?) },
            _ => return Err(DecodeError("record tag")),
        })
    }
}
