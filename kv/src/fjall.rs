//! The pure-Rust engine: fjall's LSM trees, one keyspace per family. Its journal is always on;
//! `sync` makes it durable. It must never be asked to write one key twice in a batch: fjall gives a
//! batch one sequence number, so the last change of a key is found here.

mod filter;

use crate::config::EngineConfig;
use crate::engine::{
    Capabilities, Cf, Cursor, Engine, Estimate, Ingestion, Op, Pair, Snapshot, WriteBatch,
    is_empty_range,
};
use crate::error::{Error, Result};
use crate::estimate::walk;
use crate::gc::GcSafePoint;
use crate::ingest::Ascending;
use bytes::Bytes;
use damask_types::ErrorKind;
use filter::GcFilterFactory;
use fjall::compaction::filter::Factory;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{
    Database, Iter, Keyspace, KeyspaceCreateOptions, KvPair, PersistMode, Readable, UserKey,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks of a family that is mostly scanned.
const SCAN_BLOCK_BYTES: u32 = 16 << 10;
/// Smallest journal limit that fjall accepts. Bytes.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;

/// The engine. Clones are the same engine.
#[derive(Clone)]
pub struct FjallEngine {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    families: [Keyspace; 4],
    config: EngineConfig,
    /// Records that compaction removed below the safe point.
    collected: Arc<AtomicU64>,
    /// Bytes of keys and values written through this handle.
    written: AtomicU64,
    /// Held over a write: a range delete reads what it removes.
    writing: Mutex<()>,
}

impl FjallEngine {
    /// Opens or makes the engine in `path`.
    pub fn open(path: &Path, config: &EngineConfig) -> Result<FjallEngine> {
        FjallEngine::open_with_gc(path, config, &GcSafePoint::new())
    }

    /// Opens or makes the engine in `path`; compaction removes what nobody can read at or above
    /// the safe point, as it rises.
    pub fn open_with_gc(
        path: &Path,
        config: &EngineConfig,
        safe_point: &GcSafePoint,
    ) -> Result<FjallEngine> {
        config.validate()?;
        let collected = Arc::new(AtomicU64::new(0));
        let filter = GcFilterFactory { safe_point: safe_point.clone(), removed: collected.clone() };
        let filter: Arc<dyn Factory> = Arc::new(filter);
        let filters = move |family: &str| (family == Cf::Write.name()).then(|| filter.clone());
        let buffers = 2 * (config.write_buffer_bytes + config.small_write_buffer_bytes);
        let builder = Database::builder(path)
            .cache_size(config.block_cache_bytes)
            .worker_threads(config.background_threads as usize)
            .max_cached_files(Some(config.open_files_max as usize))
            .max_journaling_size((4 * buffers).max(JOURNAL_BYTES_MIN))
            .with_compaction_filter_factories(Arc::new(filters));
        // fjall asserts on some wrong bytes of a journal; nothing of it is left after that.
        let opened = catch_unwind(AssertUnwindSafe(|| builder.open()));
        let database = match opened {
            Ok(opened) => opened.map_err(|e| classify("open", e))?,
            Err(_) => {
                let detail = "the journal's bytes are wrong: fjall stopped at an assertion";
                return Err(Error::new("open", ErrorKind::Corrupt, detail));
            }
        };
        let family = |cf: Cf| {
            let options = || options(cf, config);
            database.keyspace(cf.name(), options).map_err(|e| classify("open", e))
        };
        let families =
            [family(Cf::Default)?, family(Cf::Lock)?, family(Cf::Write)?, family(Cf::Meta)?];
        let config = config.clone();
        let (written, writing) = (AtomicU64::new(0), Mutex::new(()));
        let inner = Inner { database, families, config, collected, written, writing };
        Ok(FjallEngine { inner: Arc::new(inner) })
    }

    /// Rewrites all files of a family: space of removed pairs is freed, and GC takes what it may.
    /// Takes as long as copying the family.
    pub fn compact(&self, cf: Cf) -> Result<()> {
        let family = self.inner.family(cf);
        family.rotate_memtable_and_wait().map_err(|e| classify("compact", e))?;
        family.major_compact().map_err(|e| classify("compact", e))
    }
}

/// What a family is made with; an existing one keeps what it has.
fn options(cf: Cf, config: &EngineConfig) -> KeyspaceCreateOptions {
    let bytes = match cf {
        Cf::Default | Cf::Write => config.write_buffer_bytes,
        Cf::Lock | Cf::Meta => config.small_write_buffer_bytes,
    };
    let options = KeyspaceCreateOptions::default().max_memtable_size(bytes);
    match cf {
        // Write records are sought, never got by their whole key: a filter of those is no use.
        Cf::Write => options
            .filter_policy(FilterPolicy::disabled())
            .data_block_size_policy(BlockSizePolicy::all(SCAN_BLOCK_BYTES)),
        // A value is got because its record says that it is there.
        Cf::Default => options.expect_point_read_hits(true),
        Cf::Lock | Cf::Meta => options,
    }
}

impl Inner {
    fn family(&self, cf: Cf) -> &Keyspace {
        &self.families[cf as usize]
    }

    /// The last change of each key: a value, or `None` for removed.
    fn resolve(&self, ops: Vec<Op>) -> Result<BTreeMap<(Cf, Vec<u8>), Option<Vec<u8>>>> {
        let mut changes = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(cf, key, value) => {
                    changes.insert((cf, key), Some(value));
                }
                Op::Delete(cf, key) => {
                    changes.insert((cf, key), None);
                }
                Op::DeleteRange(cf, start, end) if !is_empty_range(&start, &end) => {
                    let before = changes.range_mut((cf, start.clone())..);
                    for ((_, key), value) in before.take_while(|((c, _), _)| *c == cf) {
                        if end.is_empty() || *key < end {
                            *value = None;
                        }
                    }
                    for guard in self.family(cf).range::<&[u8], _>(bounds(&start, &end)) {
                        let key = guard.key().map_err(|e| classify("write", e))?;
                        changes.insert((cf, key.to_vec()), None);
                    }
                }
                Op::DeleteRange(..) => {}
            }
        }
        Ok(changes)
    }
}

impl Engine for FjallEngine {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        let view = self.inner.database.snapshot();
        Arc::new(FjallSnapshot { view, inner: self.inner.clone() })
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        batch.validate()?;
        let _writing = self.inner.writing.lock();
        self.inner.written.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        let changes = self.inner.resolve(batch.ops)?;
        let mut out = self.inner.database.batch();
        for ((cf, key), value) in changes {
            match value {
                Some(value) => out.insert(self.inner.family(cf), key, value),
                None => out.remove(self.inner.family(cf), key),
            }
        }
        out.commit().map_err(|e| classify("write", e))
    }

    fn sync(&self) -> Result<()> {
        // fjall poisons itself when this fails.
        self.inner.database.persist(PersistMode::SyncAll).map_err(|e| classify("sync", e))
    }

    /// Exact; walks the range.
    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        let snapshot = self.snapshot();
        let mut cursor = snapshot.cursor(cf, start, end)?;
        Ok(walk(&mut *cursor, start, u64::MAX, u64::MAX)?.0)
    }

    /// A copy, file by file and not by links: fjall has none. It grows beside `into` and gets its
    /// name when it is whole.
    fn checkpoint(&self, into: &Path) -> Result<()> {
        if into.exists() {
            let detail = format!("{} exists", into.display());
            return Err(Error::new("checkpoint", ErrorKind::Invalid, detail));
        }
        let mut partial = into.as_os_str().to_owned();
        partial.push(".partial");
        let partial = Path::new(&partial);
        let snapshot = self.snapshot();
        let copied = fs::remove_dir_all(partial).or_else(absent_is_fine).map_err(io);
        let copied = copied.and_then(|()| copy(&*snapshot, partial, &self.inner.config));
        let done = copied.and_then(|()| fs::rename(partial, into).map_err(io));
        if done.is_err() {
            // What stays is removed by the next try.
            let _ = fs::remove_dir_all(partial);
        }
        done
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>> {
        let load = self.inner.family(cf).start_ingestion().map_err(|e| classify("ingest", e))?;
        let mut load = Some(load);
        // fjall does not name the type of a load.
        let step = move |step: Step<'_>| match (step, load.as_mut()) {
            (Step::Put(key, value), Some(load)) => load.write(key, value),
            (Step::Finish, _) => load.take().map_or(Ok(()), |load| load.finish()),
            (Step::Put(..), None) => Ok(()),
        };
        let order = Ascending::default();
        Ok(Box::new(FjallIngestion { engine: self, step: Box::new(step), order }))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { persistent: true, checkpoint: true, ingest: true }
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let database = &self.inner.database;
        let compacting_us = database.time_compacting().as_micros() as u64;
        let mut all: Vec<(String, u64)> = [
            ("written_bytes", self.inner.written.load(Ordering::Relaxed)),
            ("write_buffer_bytes", database.write_buffer_size()),
            ("cache_bytes", database.cache_size()),
            ("journals", database.journal_count() as u64),
            ("flushes_waiting", database.outstanding_flushes() as u64),
            ("compactions_active", database.active_compactions() as u64),
            ("compactions_done", database.compactions_completed() as u64),
            ("compacting_us", compacting_us),
            ("gc_removed_records", self.inner.collected.load(Ordering::Relaxed)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for cf in Cf::ALL {
            let family = self.inner.family(cf);
            for (name, value) in [
                ("file_bytes", family.disk_space()),
                ("files", family.table_count() as u64),
                ("level0_files", family.l0_table_count() as u64),
                ("memtables_waiting", family.sealed_memtable_count() as u64),
                ("keys", family.approximate_len() as u64),
            ] {
                all.push((format!("{}.{name}", cf.name()), value));
            }
        }
        all
    }
}

/// Makes an engine in `path` of all pairs of a snapshot.
fn copy(snapshot: &dyn Snapshot, path: &Path, config: &EngineConfig) -> Result<()> {
    let copy = FjallEngine::open(path, config)?;
    for cf in Cf::ALL {
        let mut load = copy.ingest(cf)?;
        let mut cursor = snapshot.cursor(cf, &[], &[])?;
        let mut pair = cursor.seek(&[])?;
        while let Some((key, value)) = pair {
            load.put(key, value)?;
            pair = cursor.next()?;
        }
        load.finish()?;
    }
    Ok(())
}

fn absent_is_fine(e: std::io::Error) -> std::io::Result<()> {
    if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

fn io(e: std::io::Error) -> Error {
    classify("checkpoint", fjall::Error::Io(e))
}

enum Step<'a> {
    Put(&'a [u8], &'a [u8]),
    Finish,
}

/// Tables that are registered at the end.
struct FjallIngestion<'a> {
    engine: &'a FjallEngine,
    step: Box<dyn FnMut(Step<'_>) -> fjall::Result<()> + 'a>,
    order: Ascending,
}

impl Ingestion for FjallIngestion<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // fjall panics if keys do not rise.
        self.order.check(key, value)?;
        (self.step)(Step::Put(key, value)).map_err(|e| classify("ingest", e))
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        let _writing = self.engine.inner.writing.lock();
        self.engine.sync()?;
        if self.order.pairs() > 0 {
            (self.step)(Step::Finish).map_err(|e| classify("ingest", e))?;
        }
        Ok(self.order.pairs())
    }
}

struct FjallSnapshot {
    view: fjall::Snapshot,
    inner: Arc<Inner>,
}

impl Snapshot for FjallSnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.view.get(self.inner.family(cf), key).map_err(|e| classify("get", e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor<'a>(&'a self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Box<dyn Cursor + 'a>> {
        Ok(Box::new(FjallCursor {
            snapshot: self,
            cf,
            start: start.to_vec(),
            end: end.to_vec(),
            iter: None,
            current: None,
        }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Backward,
}

/// One of fjall's iterators at a time; a change of direction makes a new one.
struct FjallCursor<'a> {
    snapshot: &'a FjallSnapshot,
    cf: Cf,
    start: Vec<u8>,
    end: Vec<u8>,
    iter: Option<(Way, Iter)>,
    current: Option<KvPair>,
}

impl FjallCursor<'_> {
    fn open(&mut self, way: Way, low: Bound<&[u8]>, high: Bound<&[u8]>) {
        let inverted = match (low, high) {
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (
                Bound::Included(low) | Bound::Excluded(low),
                Bound::Included(high) | Bound::Excluded(high),
            ) => low >= high,
            _ => false,
        };
        self.iter = (!inverted).then(|| {
            let family = self.snapshot.inner.family(self.cf);
            (way, self.snapshot.view.range::<&[u8], _>(family, (low, high)))
        });
    }

    /// Takes the iterator's next pair as the position.
    fn advance(&mut self) -> Result<Option<Pair<'_>>> {
        let guard = match &mut self.iter {
            Some((Way::Forward, iter)) => iter.next(),
            Some((Way::Backward, iter)) => iter.next_back(),
            None => None,
        };
        self.current = match guard {
            Some(guard) => Some(guard.into_inner().map_err(|e| classify("read", e))?),
            None => None,
        };
        Ok(self.current())
    }

    fn step(&mut self, way: Way) -> Result<Option<Pair<'_>>> {
        let Some((key, _)) = &self.current else { return Ok(None) };
        if self.iter.as_ref().is_none_or(|(now, _)| *now != way) {
            let key: UserKey = key.clone();
            let (start, end) = self.take_bounds();
            let (low, high) = bounds(&start, &end);
            match way {
                Way::Forward => self.open(way, Bound::Excluded(&key), high),
                Way::Backward => self.open(way, low, Bound::Excluded(&key)),
            }
            (self.start, self.end) = (start, end);
        }
        self.advance()
    }

    fn seek_from(&mut self, way: Way, key: Option<&[u8]>) -> Result<Option<Pair<'_>>> {
        let (start, end) = self.take_bounds();
        let (low, high) = bounds(&start, &end);
        match (way, key) {
            _ if is_empty_range(&start, &end) => self.iter = None,
            (Way::Forward, Some(key)) if key > start.as_slice() => {
                self.open(way, Bound::Included(key), high);
            }
            (Way::Backward, Some(key)) if end.is_empty() || key < end.as_slice() => {
                self.open(way, low, Bound::Included(key));
            }
            _ => self.open(way, low, high),
        }
        (self.start, self.end) = (start, end);
        self.advance()
    }

    /// To be put back: they are taken only while an iterator is made of them.
    fn take_bounds(&mut self) -> (Vec<u8>, Vec<u8>) {
        (std::mem::take(&mut self.start), std::mem::take(&mut self.end))
    }
}

impl Cursor for FjallCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.seek_from(Way::Forward, Some(key))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.seek_from(Way::Backward, Some(key))
    }

    fn seek_to_last(&mut self) -> Result<Option<Pair<'_>>> {
        self.seek_from(Way::Backward, None)
    }

    fn next(&mut self) -> Result<Option<Pair<'_>>> {
        self.step(Way::Forward)
    }

    fn prev(&mut self) -> Result<Option<Pair<'_>>> {
        self.step(Way::Backward)
    }

    fn current(&self) -> Option<Pair<'_>> {
        self.current.as_ref().map(|(key, value)| (&key[..], &value[..]))
    }
}

fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let high = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
    (Bound::Included(start), high)
}

fn classify(op: &'static str, error: fjall::Error) -> Error {
    let io = |e: &std::io::Error| match e.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    let kind = match &error {
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => io(e),
        fjall::Error::Poisoned => ErrorKind::Poisoned,
        fjall::Error::Locked | fjall::Error::KeyspaceDeleted => ErrorKind::Invalid,
        fjall::Error::Storage(_)
        | fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidVersion(_)
        | fjall::Error::Decompress(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::new(op, kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn counters_move() {
        let scratch = Scratch::new();
        let engine = FjallEngine::open(&scratch.path("engine"), &EngineConfig::default());
        let engine = engine.expect("opens");
        let read = |name: &str| {
            let all = engine.statistics();
            all.into_iter().find(|(found, _)| found == name).expect("a known name").1
        };
        let mut batch = WriteBatch::default();
        (0..100u8).for_each(|n| batch.put(Cf::Write, [n; 9], [n; 100]));
        engine.write(batch).expect("writes");
        assert_eq!(read("written_bytes"), 100 * 109);
        assert_eq!((read("write.keys"), read("write.files")), (100, 0));
        engine.compact(Cf::Write).expect("compacts");
        assert!(read("write.files") > 0 && read("write.file_bytes") > 0);
        assert_eq!(read("lock.keys"), 0);
    }
}
