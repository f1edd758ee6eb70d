//! The row engine seam: ordered bytes in four families. It knows no region, no transaction and no
//! timestamp. Every method is synchronous; absent is `None`; errors carry a class.
//!
//! Keys are 1 to [`KEY_BYTES_MAX`] bytes and values up to [`VALUE_BYTES_MAX`]; a batch with any
//! other is refused whole, as invalid.

use crate::error::{Error, Result};
use bytes::Bytes;
use damask_types::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// Longest key, so that every backend can hold every key.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 512 << 20;

/// A column family: a closed set, so there is no look-up by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cf {
    /// Long values at start timestamps.
    Default = 0,
    /// Locks.
    Lock = 1,
    /// Write records at commit timestamps.
    Write = 2,
    /// What the store knows of its regions.
    Meta = 3,
}

impl Cf {
    /// Every family.
    pub const ALL: [Cf; 4] = [Cf::Default, Cf::Lock, Cf::Write, Cf::Meta];

    /// The name it has on disk.
    pub fn name(self) -> &'static str {
        match self {
            Cf::Default => "default",
            Cf::Lock => "lock",
            Cf::Write => "write",
            Cf::Meta => "meta",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set a key.
    Put(Cf, Vec<u8>, Vec<u8>),
    /// Remove a key; absent is fine.
    Delete(Cf, Vec<u8>),
    /// Remove `[start, end)`; an empty `end` has no upper bound. Nothing if `start >= end`.
    DeleteRange(Cf, Vec<u8>, Vec<u8>),
}

/// Changes that become visible, and survive, together. Applied in order.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// In order.
    pub ops: Vec<Op>,
}

impl WriteBatch {
    /// Adds a put.
    pub fn put(&mut self, cf: Cf, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.ops.push(Op::Put(cf, key.into(), value.into()));
    }

    /// Adds a delete.
    pub fn delete(&mut self, cf: Cf, key: impl Into<Vec<u8>>) {
        self.ops.push(Op::Delete(cf, key.into()));
    }

    /// Adds a range delete.
    pub fn delete_range(&mut self, cf: Cf, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) {
        self.ops.push(Op::DeleteRange(cf, start.into(), end.into()));
    }

    /// No changes.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds all changes of another batch.
    pub fn append(&mut self, mut other: WriteBatch) {
        self.ops.append(&mut other.ops);
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        let bytes = self.ops.iter().map(|op| match op {
            Op::Put(_, key, value) => key.len() + value.len(),
            Op::Delete(_, key) => key.len(),
            Op::DeleteRange(_, start, end) => start.len() + end.len(),
        });
        bytes.sum()
    }

    /// Are all keys and values of a length that every backend holds? Backends call it first.
    pub fn validate(&self) -> Result<()> {
        let invalid = |detail: String| Error::new("write", ErrorKind::Invalid, detail);
        for op in &self.ops {
            match op {
                Op::Put(_, key, _) | Op::Delete(_, key)
                    if key.is_empty() || key.len() > KEY_BYTES_MAX =>
                {
                    return Err(invalid(format!("key of {} bytes", key.len())));
                }
                Op::Put(_, _, value) if value.len() > VALUE_BYTES_MAX => {
                    return Err(invalid(format!("value of {} bytes", value.len())));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a backend can do beyond the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Data survives the process at all.
    pub persistent: bool,
    /// `checkpoint` works.
    pub checkpoint: bool,
    /// `ingest` goes past the log and the write buffers, so its memory is bounded.
    pub ingest: bool,
}

/// Rough size of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes of keys and values, within about 2x.
    pub bytes: u64,
    /// Keys, within about 2x.
    pub keys: u64,
}

/// An ordered key-value engine.
pub trait Engine: Send + Sync + 'static {
    /// A consistent view of every family; later writes are not seen.
    fn snapshot(&self) -> Arc<dyn Snapshot>;
    /// All or nothing over families; visible to snapshots taken after it returns; durable after
    /// [`Engine::sync`]. A crash before that keeps a prefix of the writes, never a hole.
    fn write(&self, batch: WriteBatch) -> Result<()>;
    /// Everything whose `write` returned before this call is durable when it returns `Ok`.
    /// After a failure the engine is poisoned until reopened.
    fn sync(&self) -> Result<()>;
    /// Rough size of `[start, end)` in a family.
    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate>;
    /// A directory that the backend's `open` accepts, equal to a snapshot taken during the call.
    /// `into` must not exist; its parent must.
    fn checkpoint(&self, into: &Path) -> Result<()>;
    /// Begins a bulk load of one family; dropped before its end it leaves nothing.
    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>>;
    /// What this backend can do.
    fn capabilities(&self) -> Capabilities;
    /// Numbers for people: name and value, in the backend's own words. Cheap.
    fn statistics(&self) -> Vec<(String, u64)>;
}

impl<E: Engine + ?Sized> Engine for Arc<E> {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        (**self).snapshot()
    }
    fn write(&self, batch: WriteBatch) -> Result<()> {
        (**self).write(batch)
    }
    fn sync(&self) -> Result<()> {
        (**self).sync()
    }
    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        (**self).estimate(cf, start, end)
    }
    fn checkpoint(&self, into: &Path) -> Result<()> {
        (**self).checkpoint(into)
    }
    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>> {
        (**self).ingest(cf)
    }
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
    fn statistics(&self) -> Vec<(String, u64)> {
        (**self).statistics()
    }
}

/// Sorted pairs on their way into one family.
pub trait Ingestion {
    /// Adds a pair; keys must rise strictly. After an error the load can only be dropped.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    /// All pairs become visible together, newer than everything written before, and are durable
    /// with everything that was written before this call began. Says how many there were. A write
    /// that runs at the same time is ordered before or after it, and is durable by the next `sync`.
    fn finish(self: Box<Self>) -> Result<u64>;
}

/// A consistent view.
pub trait Snapshot: Send + Sync {
    /// A key's value.
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>>;
    /// A cursor over `[start, end)`; an empty `end` has no upper bound. A range that
    /// [`versions_end`] makes, of the write family, holds versions of one key and nothing else, so
    /// a backend may serve it in a faster way.
    fn cursor<'a>(&'a self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Box<dyn Cursor + 'a>>;
}

/// Is `[start, end)` without any key? An empty `end` has no upper bound.
pub fn is_empty_range(start: &[u8], end: &[u8]) -> bool {
    !end.is_empty() && start >= end
}

/// Bytes of a version at the end of a key of the write and the default family.
pub const VERSION_BYTES: usize = 8;

/// Makes of a key's bytes the end of the range of its versions (but for version 0, which no record
/// has): the largest version there is. `end` begins as a copy of the key, without a version.
pub fn versions_end(end: &mut Vec<u8>) {
    end.extend_from_slice(&[0xFF; VERSION_BYTES]);
}

/// Was the range made by [`versions_end`]?
pub fn is_versions_range(start: &[u8], end: &[u8]) -> bool {
    let len = start.len();
    len > 0 && end.len() == len + VERSION_BYTES && end[len..] == [0xFF; 8] && end[..len] == *start
}

/// Key and value at a cursor's position.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// Positioned reads inside the cursor's bounds; `None` = outside. Unpositioned until a `seek`.
pub trait Cursor {
    /// The first key `>= key`.
    fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>>;
    /// The last key `<= key`.
    fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>>;
    /// The last key inside the bounds.
    fn seek_to_last(&mut self) -> Result<Option<Pair<'_>>>;
    /// The key after the position; still `None` once the end was passed, until the next `seek`.
    fn next(&mut self) -> Result<Option<Pair<'_>>>;
    /// The key before the position; still `None` once the start was passed, until the next `seek`.
    fn prev(&mut self) -> Result<Option<Pair<'_>>>;
    /// The pair at the position, again.
    fn current(&self) -> Option<Pair<'_>>;
}
