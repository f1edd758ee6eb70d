//! Snapshots that keep their database open, and cursors over them. The only `unsafe` of this
//! crate: one lifetime, held by the order of fields. It must never hand that lifetime out.
//!
//! ```text
//! cursor over a range           an iterator with bounds, dropped with the cursor
//! cursor over one key's         an iterator of one prefix: a file whose filter does not know the
//!   versions (write family)     key is not read; kept by the snapshot for the next such cursor,
//!                               and by the engine for the next snapshot
//! reads of the lock family      a snapshot that is asked often looks once where the first and the
//!                               last lock are: mostly there is none, and nothing is looked up
//! ```
//!
//! Between two writes there is one snapshot, shared by all who ask for one: point reads at fresh
//! snapshots pay for what is read. After a write an iterator that an earlier snapshot has left is
//! made fresh; it is a view of the new snapshot only if nothing was written between the two.
#![allow(unsafe_code)]

use super::locks::LockSpan;
use super::{Inner, classify, family};
use crate::engine::{Cf, Cursor, Pair, Snapshot, VERSION_BYTES, is_empty_range, is_versions_range};
use crate::error::Result;
use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{DBRawIterator, ReadOptions};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// Idle iterators that an engine keeps.
const IDLE_MAX: usize = 4;
/// Iterators that a snapshot keeps: as many threads read single keys of it without making one.
const VERSIONS_MAX: usize = 8;
/// Gets of locks at one snapshot before it looks where the locks are, which costs as much as about
/// eight gets.
const LOCK_GETS_MIN: u32 = 8;
/// Keys as long as this are kept without an allocation.
const INLINE_BYTES: usize = 80;

/// The last snapshot, with the changes that had finished before it was taken.
#[derive(Default)]
pub(super) struct Latest(Mutex<Option<(u64, Arc<RocksSnapshot>)>>);

impl Latest {
    /// A snapshot that sees every finished change.
    pub fn get(&self, engine: &Arc<Inner>) -> Arc<RocksSnapshot> {
        let finished = engine.writes.finished();
        let mut latest = self.0.lock();
        if let Some((at, snapshot)) = &*latest
            && *at == finished
        {
            return snapshot.clone();
        }
        let fresh = Arc::new(RocksSnapshot::new(engine.clone()));
        let before = latest.replace((finished, fresh.clone()));
        drop(latest);
        drop(before);
        fresh
    }

    /// Keeps it no longer.
    pub fn clear(&self) {
        let before = self.0.lock().take();
        drop(before);
    }
}

/// Iterators of one prefix that no snapshot uses. They borrow from the database: whoever holds this
/// drops it first.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<DBRawIterator<'static>>>);

impl Idle {
    fn put(&self, iter: DBRawIterator<'static>) {
        let mut idle = self.0.lock();
        if idle.len() < IDLE_MAX {
            idle.push(iter);
        }
    }

    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        drop(all);
    }
}

/// A snapshot. `versions`, `options` and `view` borrow from `engine`, so they are declared, and
/// dropped, first.
pub(super) struct RocksSnapshot {
    /// Iterators of one prefix that no cursor uses.
    versions: Mutex<Vec<DBRawIterator<'static>>>,
    /// For gets.
    options: ReadOptions,
    /// Gets of locks so far, until the span is known.
    lock_gets: AtomicU32,
    locks: OnceLock<LockSpan>,
    view: rocksdb::Snapshot<'static>,
    /// Changes before it, if none was in progress when it was taken.
    quiet: Option<u64>,
    engine: Arc<Inner>,
}

impl Drop for RocksSnapshot {
    fn drop(&mut self) {
        std::mem::take(self.versions.get_mut()).into_iter().for_each(|i| self.engine.idle.put(i));
    }
}

impl RocksSnapshot {
    pub fn new(engine: Arc<Inner>) -> RocksSnapshot {
        // SAFETY: the database is on the heap behind an `Arc` that this value holds until after
        // every field that borrows from it is dropped, and nothing makes a unique reference from a
        // shared `Arc<Inner>`. The `'static` lifetime stays private: methods borrow from `self`.
        let forever: &'static Inner = unsafe { &*Arc::as_ptr(&engine) };
        let quiet = engine.writes.quiet();
        let view = forever.db.snapshot();
        let mut options = ReadOptions::default();
        options.set_snapshot(&view);
        let (versions, locks) = (Mutex::default(), OnceLock::new());
        let lock_gets = AtomicU32::new(0);
        RocksSnapshot { versions, options, lock_gets, locks, view, quiet, engine }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.view);
        options
    }

    fn whole(&self, cf: Cf, start: &[u8], end: &[u8]) -> DBRawIterator<'_> {
        let mut options = self.options();
        options.set_total_order_seek(true);
        if !start.is_empty() {
            options.set_iterate_lower_bound(start);
        }
        if !end.is_empty() {
            options.set_iterate_upper_bound(end);
        }
        self.engine.db.raw_iterator_cf_opt(family(&self.engine.db, cf), options)
    }

    fn take_versions(&self) -> DBRawIterator<'static> {
        if let Some(iter) = self.versions.lock().pop() {
            return iter;
        }
        if let Some(iter) = self.refreshed() {
            return iter;
        }
        // SAFETY: as in `new`; the iterator goes back into `self`, or is dropped, before the
        // cursor that borrows `self` ends, and from there into the engine's idle ones, which are
        // dropped before its database.
        let forever: &'static Inner = unsafe { &*Arc::as_ptr(&self.engine) };
        let mut options = self.options();
        options.set_prefix_same_as_start(true);
        // A point read reads one block.
        options.set_auto_readahead_size(false);
        forever.db.raw_iterator_cf_opt(family(&forever.db, Cf::Write), options)
    }

    fn give_versions(&self, iter: DBRawIterator<'static>) {
        let mut kept = self.versions.lock();
        if kept.len() < VERSIONS_MAX {
            kept.push(iter);
        }
    }

    /// Can a lock be in `[start, end)`? An empty `end` has no upper bound.
    fn may_hold_lock(&self, start: &[u8], end: &[u8]) -> bool {
        let known = self.locks.get().or_else(|| {
            let often = self.lock_gets.fetch_add(1, Ordering::Relaxed) >= LOCK_GETS_MIN;
            often.then(|| self.locks.get_or_init(|| LockSpan::find(&self.engine.db, &self.view)))
        });
        known.is_none_or(|span| span.may_hold(start, end))
    }
}

#[cfg(test)]
impl RocksSnapshot {
    /// Iterators that are kept for single keys.
    pub fn kept(&self) -> usize {
        self.versions.lock().len()
    }
}

impl RocksSnapshot {
    /// An idle iterator that sees what this snapshot sees: the newest state, if that is still it.
    fn refreshed(&self) -> Option<DBRawIterator<'static>> {
        let quiet = self.quiet.filter(|quiet| self.engine.writes.is_still(*quiet))?;
        let mut iter = self.engine.idle.0.lock().pop()?;
        // One that cannot be refreshed is dropped.
        iter.refresh().ok()?;
        if self.engine.writes.is_still(quiet) {
            return Some(iter);
        }
        self.engine.idle.put(iter);
        None
    }
}

impl Snapshot for RocksSnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        if cf == Cf::Lock && !self.may_hold_lock(key, key) {
            return Ok(None);
        }
        let db = &self.engine.db;
        let found = db.get_pinned_cf_opt(family(db, cf), key, &self.options);
        let found = found.map_err(|e| classify("get", e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor<'a>(&'a self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Box<dyn Cursor + 'a>> {
        if is_empty_range(start, end) {
            return Ok(Box::new(RocksCursor { iter: None }));
        }
        if cf == Cf::Write && is_versions_range(start, end) {
            let iter = Some(self.take_versions());
            let end = Inline::new(end);
            let cursor = VersionsCursor { snapshot: self, iter, sought: false, end, turned: None };
            return Ok(Box::new(cursor));
        }
        if cf == Cf::Lock {
            if self.locks.get().is_some_and(|span| !span.may_hold(start, end)) {
                return Ok(Box::new(RocksCursor { iter: None }));
            }
            self.engine.tidy_locks();
        }
        Ok(Box::new(RocksCursor { iter: Some(self.whole(cf, start, end)) }))
    }
}

/// Moves; then an invalid position is either the end or an error.
fn go<'a>(
    iter: &'a mut DBRawIterator<'_>,
    how: impl FnOnce(&mut DBRawIterator<'_>),
) -> Result<Option<Pair<'a>>> {
    how(iter);
    let found = iter.item();
    if found.is_none() {
        iter.status().map_err(|e| classify("read", e))?;
    }
    Ok(found)
}

/// RocksDB's iterator; `None` for a range that cannot hold a key.
struct RocksCursor<'a> {
    iter: Option<DBRawIterator<'a>>,
}

impl RocksCursor<'_> {
    fn go(&mut self, how: impl FnOnce(&mut DBRawIterator<'_>)) -> Result<Option<Pair<'_>>> {
        match &mut self.iter {
            Some(iter) => go(iter, how),
            None => Ok(None),
        }
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.go(|iter| iter.seek(key))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.go(|iter| iter.seek_for_prev(key))
    }

    fn seek_to_last(&mut self) -> Result<Option<Pair<'_>>> {
        self.go(|iter| iter.seek_to_last())
    }

    fn next(&mut self) -> Result<Option<Pair<'_>>> {
        self.go(|iter| iter.next())
    }

    fn prev(&mut self) -> Result<Option<Pair<'_>>> {
        self.go(|iter| iter.prev())
    }

    fn current(&self) -> Option<Pair<'_>> {
        self.iter.as_ref().and_then(|iter| iter.item())
    }
}

/// A copy of bytes that are mostly few.
enum Inline {
    Few([u8; INLINE_BYTES], u8),
    Many(Vec<u8>),
}

impl Inline {
    fn new(bytes: &[u8]) -> Inline {
        if bytes.len() > INLINE_BYTES {
            return Inline::Many(bytes.to_vec());
        }
        let mut few = [0; INLINE_BYTES];
        few[..bytes.len()].copy_from_slice(bytes);
        Inline::Few(few, bytes.len() as u8)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Inline::Few(few, len) => &few[..usize::from(*len)],
            Inline::Many(bytes) => bytes,
        }
    }
}

/// Over the versions of one key. Backward steps, and targets that are not versions of the key,
/// are for another iterator: this one's seeks are right only inside its prefix.
struct VersionsCursor<'a> {
    snapshot: &'a RocksSnapshot,
    iter: Option<DBRawIterator<'static>>,
    /// The iterator stands where this cursor put it, not an earlier one.
    sought: bool,
    /// The key, then the largest version.
    end: Inline,
    turned: Option<RocksCursor<'a>>,
}

impl VersionsCursor<'_> {
    fn key(&self) -> &[u8] {
        let end = self.end.bytes();
        &end[..end.len() - VERSION_BYTES]
    }

    /// Gives the iterator back and goes on with one that may move everywhere.
    fn turn(&mut self) -> &mut dyn Cursor {
        if let Some(iter) = self.iter.take() {
            let mut whole = self.snapshot.whole(Cf::Write, self.key(), self.end.bytes());
            if let Some(key) = iter.key().filter(|_| self.sought) {
                whole.seek(key);
            }
            self.snapshot.give_versions(iter);
            self.turned = Some(RocksCursor { iter: Some(whole) });
        }
        self.turned.as_mut().expect("made when the iterator was given back")
    }
}

impl Drop for VersionsCursor<'_> {
    fn drop(&mut self) {
        if let Some(iter) = self.iter.take() {
            self.snapshot.give_versions(iter);
        }
    }
}

impl Cursor for VersionsCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        let end = self.end.bytes();
        let inside = key.len() == end.len() && key.starts_with(self.key()) && key < end;
        if !inside || self.iter.is_none() {
            return self.turn().seek(key);
        }
        self.sought = true;
        match &mut self.iter {
            Some(iter) => go(iter, |iter| iter.seek(key)),
            None => Ok(None),
        }
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.turn().seek_for_prev(key)
    }

    fn seek_to_last(&mut self) -> Result<Option<Pair<'_>>> {
        self.turn().seek_to_last()
    }

    fn next(&mut self) -> Result<Option<Pair<'_>>> {
        if self.iter.is_none() {
            return self.turn().next();
        }
        match self.iter.as_mut().filter(|_| self.sought) {
            Some(iter) => go(iter, |iter| iter.next()),
            None => Ok(None),
        }
    }

    fn prev(&mut self) -> Result<Option<Pair<'_>>> {
        self.turn().prev()
    }

    fn current(&self) -> Option<Pair<'_>> {
        match (&self.iter, &self.turned) {
            (Some(iter), _) => iter.item().filter(|_| self.sought),
            (None, Some(turned)) => turned.current(),
            (None, None) => None,
        }
    }
}
