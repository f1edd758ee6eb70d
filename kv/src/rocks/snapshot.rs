//! Snapshots that keep their database open, and cursors over them. The only `unsafe` of this
//! crate: one lifetime, held by the order of two fields. It must never hand that lifetime out.
#![allow(unsafe_code)]

use super::{Inner, classify, family};
use crate::engine::{Cf, Cursor, Pair, Snapshot, is_empty_range};
use crate::error::Result;
use bytes::Bytes;
use rocksdb::{DBRawIterator, ReadOptions};
use std::sync::Arc;

/// A snapshot. `view` borrows from `engine`, so it is declared, and dropped, first.
pub(super) struct RocksSnapshot {
    view: rocksdb::Snapshot<'static>,
    engine: Arc<Inner>,
}

impl RocksSnapshot {
    pub fn new(engine: Arc<Inner>) -> RocksSnapshot {
        // SAFETY: the database is on the heap behind an `Arc` that this value holds until after
        // `view` is dropped, and nothing makes a unique reference from a shared `Arc<Inner>`. The
        // `'static` lifetime stays private: all methods borrow from `self`.
        let forever: &'static Inner = unsafe { &*Arc::as_ptr(&engine) };
        RocksSnapshot { view: forever.db.snapshot(), engine }
    }
}

impl Snapshot for RocksSnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.view.get_pinned_cf(family(&self.engine.db, cf), key);
        let found = found.map_err(|e| classify("get", e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor<'a>(&'a self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Box<dyn Cursor + 'a>> {
        if is_empty_range(start, end) {
            return Ok(Box::new(RocksCursor { iter: None }));
        }
        if cf == Cf::Lock {
            self.engine.tidy_locks();
        }
        let mut options = ReadOptions::default();
        if !start.is_empty() {
            options.set_iterate_lower_bound(start);
        }
        if !end.is_empty() {
            options.set_iterate_upper_bound(end);
        }
        let iter = self.view.raw_iterator_cf_opt(family(&self.engine.db, cf), options);
        Ok(Box::new(RocksCursor { iter: Some(iter) }))
    }
}

/// RocksDB's iterator; `None` for a range that cannot hold a key.
struct RocksCursor<'a> {
    iter: Option<DBRawIterator<'a>>,
}

impl RocksCursor<'_> {
    /// Moves; then an invalid position is either the end or an error.
    fn go(&mut self, how: impl FnOnce(&mut DBRawIterator<'_>)) -> Result<Option<Pair<'_>>> {
        let Some(iter) = &mut self.iter else { return Ok(None) };
        how(iter);
        if !iter.valid() {
            iter.status().map_err(|e| classify("read", e))?;
        }
        Ok(iter.item())
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
