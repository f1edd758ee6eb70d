//! The default engine: RocksDB, one column family per family. Its own log is off: what a crash
//! takes is replayed from the Raft log, and families are flushed together (`atomic_flush`), so that
//! a crash keeps a prefix of the writes. It must never answer from a block whose checksum is wrong.
//!
//! A limit of RocksDB: a wrong length in the last block of its manifest looks like the torn end that a
//! crash leaves; so does, with its own log on, a wrong byte anywhere in the log, since of pages that
//! were not synced any may be missing after a power cut. It then opens an earlier state, a prefix;
//! whoever keeps an applied index in the engine sees it.
//!
//! ```text
//! write ─► memtables ──(full, or sync)──► files, all families at one sequence number
//! ingest ─────────────────────────────────► files of one family
//!                                           compaction: the write family loses garbage (`filter`)
//! ```

mod filter;
mod ingest;
mod locks;
mod options;
mod snapshot;

use crate::config::EngineConfig;
use crate::engine::{
    Capabilities, Cf, Engine, Estimate, Ingestion, Op, Snapshot, WriteBatch, is_empty_range,
};
use crate::error::{Error, Result};
use crate::estimate::walk;
use crate::folder::sync_name;
use crate::gc::GcSafePoint;
use crate::writes::Writes;
use damask_types::ErrorKind;
use filter::GcFilterFactory;
use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::statistics::Ticker;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, FlushOptions, Options, Range,
    ReadOptions, WriteOptions,
};
use snapshot::{Idle, Latest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// `estimate` walks this many bytes before it asks the files.
const WALK_BYTES: u64 = 4 << 20;
/// And this many keys.
const WALK_KEYS: u64 = 50_000;
/// Removed locks in memory beyond which a scan of locks asks for a flush: it must step over each of
/// them (about 0.7 µs), and an idle engine would keep them for good.
const REMOVED_LOCKS_MAX: u64 = 16_384;
/// Idle iterators go after so many bytes written: each holds the buffers and files that were there
/// when it was used last.
const IDLE_BYTES_MAX: u64 = 1 << 20;
/// A scan asks for no flush while a family has this many files that are not compacted.
const LEVEL0_FILES_MAX: u64 = 8;

/// The engine. Clones are the same engine.
#[derive(Clone)]
pub struct RocksEngine {
    inner: Arc<Inner>,
    /// Not in `Inner`, which snapshots hold.
    latest: Arc<Latest>,
}

struct Inner {
    /// They borrow from `db`, so they are declared, and dropped, first.
    idle: Idle,
    db: DB,
    writes: Writes,
    /// Bytes written since idle iterators were dropped last.
    idle_bytes: AtomicU64,
    path: PathBuf,
    /// Holds the counters.
    database: Options,
    /// For files that are loaded, by family.
    file_options: [Options; 4],
    file_bytes: u64,
    /// Records that compaction removed below the safe point.
    collected: Arc<AtomicU64>,
    wal: bool,
    poisoned: AtomicBool,
    /// Locks removed since the last flush that was asked for here.
    removed_locks: AtomicU64,
    /// Held by range deletes without an end: they read what the last key is.
    unbounded: Mutex<()>,
}

impl RocksEngine {
    /// Opens or makes the engine in `path`.
    pub fn open(path: &Path, config: &EngineConfig) -> Result<RocksEngine> {
        RocksEngine::open_with_gc(path, config, &GcSafePoint::new())
    }

    /// Opens or makes the engine in `path`; compaction removes what nobody can read at or above
    /// the safe point, as it rises.
    pub fn open_with_gc(
        path: &Path,
        config: &EngineConfig,
        safe_point: &GcSafePoint,
    ) -> Result<RocksEngine> {
        config.validate()?;
        let collected = Arc::new(AtomicU64::new(0));
        let filter = GcFilterFactory { safe_point: safe_point.clone(), removed: collected.clone() };
        let all = options::of(config, filter);
        let db = DB::open_cf_descriptors(&all.database, path, all.families)
            .map_err(|e| classify("open", e))?;
        // RocksDB syncs the names inside its folder, not the folder's own.
        sync_name(path)?;
        ingest::clean(path)?;
        let inner = Inner {
            idle: Idle::default(),
            db,
            writes: Writes::default(),
            idle_bytes: AtomicU64::new(0),
            path: path.to_owned(),
            database: all.database,
            file_options: all.files,
            file_bytes: config.file_bytes,
            collected,
            wal: config.wal,
            poisoned: AtomicBool::new(false),
            removed_locks: AtomicU64::new(0),
            unbounded: Mutex::new(()),
        };
        Ok(RocksEngine { inner: Arc::new(inner), latest: Arc::default() })
    }

    /// The engine's own options for a bare database of one family that is asked for whole keys: for
    /// peers in benches, so that they differ in nothing but what is measured.
    pub fn peer_options(config: &EngineConfig) -> Options {
        options::of_peer(config)
    }

    /// Rewrites the files of `[start, end)` of a family (an empty `end` has no upper bound), down
    /// to the last level: space of removed pairs is freed, and GC takes what it may. Takes as long
    /// as copying the range.
    pub fn compact(&self, cf: Cf, start: &[u8], end: &[u8]) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        let end = (!end.is_empty()).then_some(end);
        let db = &self.inner.db;
        self.let_go();
        db.compact_range_cf_opt(family(db, cf), Some(start), end, &options);
    }
}

impl RocksEngine {
    /// Makes a change visible, and forgets what was kept for readers of the state before it.
    fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        let done = self.inner.writes.run(change);
        self.latest.clear();
        done
    }

    /// Drops everything that holds buffers and files for readers that may come.
    fn let_go(&self) {
        self.latest.clear();
        self.inner.idle.clear();
        self.inner.idle_bytes.store(0, Ordering::Relaxed);
    }
}

/// A family's handle.
fn family(db: &DB, cf: Cf) -> &ColumnFamily {
    db.cf_handle(cf.name()).expect("every family was opened")
}

/// Writes the buffers of all families to files, at one sequence number.
fn flush(db: &DB, wait: bool) -> std::result::Result<(), rocksdb::Error> {
    let families = Cf::ALL.map(|cf| family(db, cf));
    let mut options = FlushOptions::default();
    options.set_wait(wait);
    db.flush_cfs_opt(&families, &options)
}

impl Inner {
    fn check(&self, op: &'static str) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            let detail = "an earlier sync failed; reopen the engine";
            return Err(Error::new(op, ErrorKind::Poisoned, detail));
        }
        Ok(())
    }

    fn property(&self, cf: Cf, name: &str) -> u64 {
        let value = self.db.property_int_value_cf(family(&self.db, cf), name);
        value.ok().flatten().unwrap_or(0)
    }

    /// Bytes of keys and values for a byte of the tables' blocks: how well they are compressed.
    fn bytes_per_stored(&self, cf: Cf) -> f64 {
        let name = "rocksdb.aggregated-table-properties";
        let all = self.db.property_value_cf(family(&self.db, cf), name).ok().flatten();
        let all = all.unwrap_or_default();
        let number = |name: &str| -> f64 {
            let mut pairs = all.split(';').filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(found, _)| *found == name).and_then(|(_, n)| n.parse().ok()).unwrap_or(0.0)
        };
        let (raw, stored) =
            (number("raw key size") + number("raw value size"), number("data block size"));
        if raw > 0.0 && stored > 0.0 { raw / stored } else { 1.0 }
    }

    /// Called before locks are scanned; starts a flush in the background when too many removed ones
    /// are in memory. A failure is left for `sync` to meet: the scan is right without it.
    fn tidy_locks(&self) {
        if self.removed_locks.load(Ordering::Relaxed) < REMOVED_LOCKS_MAX {
            return;
        }
        // RocksDB lets a flush wait for compaction; a reader must not.
        let level0 = |cf| self.property(cf, "rocksdb.num-files-at-level0");
        if Cf::ALL.into_iter().all(|cf| level0(cf) < LEVEL0_FILES_MAX) {
            self.removed_locks.store(0, Ordering::Relaxed);
            let _ = flush(&self.db, false);
        }
    }

    /// The first key after all keys, for a range delete without an end; `puts` are those of the
    /// same batch. `None` if there is no key.
    fn after_last(&self, cf: Cf, puts: &[Op]) -> Result<Option<Vec<u8>>> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let mut iter = self.db.raw_iterator_cf_opt(family(&self.db, cf), options);
        iter.seek_to_last();
        iter.status().map_err(|e| classify("write", e))?;
        let written = puts.iter().filter_map(|op| match op {
            Op::Put(put, key, _) if *put == cf => Some(key.as_slice()),
            _ => None,
        });
        let last = written.chain(iter.key()).max();
        Ok(last.map(|key| [key, &[0]].concat()))
    }
}

impl Engine for RocksEngine {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.latest.get(&self.inner)
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        self.inner.check("write")?;
        batch.validate()?;
        let db = &self.inner.db;
        let endless = |op: &Op| matches!(op, Op::DeleteRange(_, _, end) if end.is_empty());
        let _unbounded = batch.ops.iter().any(endless).then(|| self.inner.unbounded.lock());
        let bytes = batch.bytes();
        let mut out = rocksdb::WriteBatch::with_capacity_bytes(bytes + 8 * batch.ops.len());
        for (i, op) in batch.ops.iter().enumerate() {
            match op {
                Op::Put(cf, key, value) => out.put_cf(family(db, *cf), key, value),
                Op::Delete(cf, key) => out.delete_cf(family(db, *cf), key),
                Op::DeleteRange(cf, start, end) if end.is_empty() => {
                    if let Some(end) = self.inner.after_last(*cf, &batch.ops[..i])?
                        && *start < end
                    {
                        out.delete_range_cf(family(db, *cf), start.as_slice(), &end);
                    }
                }
                Op::DeleteRange(_, start, end) if is_empty_range(start, end) => {}
                Op::DeleteRange(cf, start, end) => {
                    out.delete_range_cf(family(db, *cf), start, end);
                }
            }
        }
        let removed = |op: &&Op| matches!(op, Op::Delete(Cf::Lock, _));
        let removed = batch.ops.iter().filter(removed).count() as u64;
        self.inner.removed_locks.fetch_add(removed, Ordering::Relaxed);
        let mut options = WriteOptions::default();
        options.disable_wal(!self.inner.wal);
        let written = self.change(|| db.write_opt(out, &options));
        let before = self.inner.idle_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before + bytes as u64 > IDLE_BYTES_MAX {
            self.let_go();
        }
        written.map_err(|e| classify("write", e))
    }

    fn sync(&self) -> Result<()> {
        self.inner.check("sync")?;
        self.let_go();
        let db = &self.inner.db;
        let done = if self.inner.wal {
            db.flush_wal(true)
        } else {
            self.inner.removed_locks.store(0, Ordering::Relaxed);
            flush(db, true)
        };
        done.map_err(|e| {
            let error = classify("sync", e);
            // A flush without space keeps its memtables and may be repeated; a failed fsync of a
            // log may have dropped what it was to write.
            if self.inner.wal || error.kind() != ErrorKind::NoSpace {
                self.inner.poisoned.store(true, Ordering::Release);
            }
            error
        })
    }

    /// Exact for small ranges; beyond, the files' share of the range times the family's keys.
    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        if is_empty_range(start, end) {
            return Ok(Estimate::default());
        }
        let inner = &self.inner;
        let snapshot = self.snapshot();
        let mut cursor = snapshot.cursor(cf, start, end)?;
        let (seen, whole) = walk(&mut *cursor, start, WALK_KEYS, WALK_BYTES)?;
        let in_memory = inner.property(cf, "rocksdb.cur-size-all-mem-tables");
        let in_files = inner.property(cf, "rocksdb.live-sst-files-size");
        if whole {
            return Ok(seen);
        }
        if in_files < in_memory {
            return Ok(walk(&mut *cursor, start, u64::MAX, u64::MAX)?.0);
        }
        let top = [0xFF; 32];
        let end = if end.is_empty() { &top } else { end };
        let sizes =
            inner.db.get_approximate_sizes_cf(family(&inner.db, cf), &[Range::new(start, end)]);
        // By bytes, as a range's values may be much larger or smaller than the family's. What is
        // still in memory is taken to be spread as the files are.
        let stored = sizes[0] as f64 * (1.0 + in_memory as f64 / in_files as f64);
        let bytes = ((stored * inner.bytes_per_stored(cf)) as u64).max(seen.bytes);
        let each = (seen.bytes / seen.keys.max(1)).max(1);
        Ok(Estimate { keys: (bytes / each).max(seen.keys), bytes })
    }

    fn checkpoint(&self, into: &Path) -> Result<()> {
        let checkpoint = Checkpoint::new(&self.inner.db).map_err(|e| classify("checkpoint", e))?;
        checkpoint.create_checkpoint(into).map_err(|e| classify("checkpoint", e))
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>> {
        self.inner.check("ingest")?;
        Ok(Box::new(ingest::RocksIngestion::new(self, cf)?))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { persistent: true, checkpoint: true, ingest: true }
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let mut all = vec![(
            "block_cache_bytes".into(),
            self.inner.property(Cf::Default, "rocksdb.block-cache-usage"),
        )];
        for (name, ticker) in [
            ("gets", Ticker::NumberKeysRead),
            ("seeks", Ticker::NumberDbSeek),
            ("written_bytes", Ticker::BytesWritten),
            ("log_bytes", Ticker::WalFileBytes),
            ("flushed_bytes", Ticker::FlushWriteBytes),
            ("compaction_written_bytes", Ticker::CompactWriteBytes),
            ("compaction_read_bytes", Ticker::CompactReadBytes),
            ("block_cache_hits", Ticker::BlockCacheHit),
            ("block_cache_misses", Ticker::BlockCacheMiss),
            ("filter_spared_gets", Ticker::BloomFilterUseful),
            ("filter_spared_seeks", Ticker::LastLevelSeekFiltered),
            ("filter_spared_upper_seeks", Ticker::NonLastLevelSeekFiltered),
            ("write_stall_us", Ticker::StallMicros),
        ] {
            all.push((name.into(), self.inner.database.get_ticker_count(ticker)));
        }
        all.push(("gc_removed_records".into(), self.inner.collected.load(Ordering::Relaxed)));
        for cf in Cf::ALL {
            for (name, property) in [
                ("memtable_bytes", "rocksdb.cur-size-all-mem-tables"),
                ("file_bytes", "rocksdb.live-sst-files-size"),
                ("level0_files", "rocksdb.num-files-at-level0"),
                ("keys", "rocksdb.estimate-num-keys"),
                ("compaction_bytes_pending", "rocksdb.estimate-pending-compaction-bytes"),
                ("reader_bytes", "rocksdb.estimate-table-readers-mem"),
            ] {
                let value = self.inner.property(cf, property);
                all.push((format!("{}.{name}", cf.name()), value));
            }
        }
        all
    }
}

fn classify(op: &'static str, error: rocksdb::Error) -> Error {
    Error::new(op, class(error.as_ref()), error)
}

/// RocksDB's C interface tells what failed only in words: the class, a colon, then details.
fn class(words: &str) -> ErrorKind {
    let no_space =
        ["No space left", "Space limit reached", "Disk quota exceeded", "File too large"];
    if no_space.iter().any(|part| words.contains(part)) {
        return ErrorKind::NoSpace;
    }
    match words.split(':').next().unwrap_or("") {
        "Corruption" => ErrorKind::Corrupt,
        "Resource busy" | "Operation failed. Try again." | "Operation timed out" => {
            ErrorKind::Retry
        }
        "Invalid argument" | "Not implemented" => ErrorKind::Invalid,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests;
