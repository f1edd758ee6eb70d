//! The pure-Rust engine: fjall's LSM trees, one keyspace per family. Its journal is always on;
//! `sync` makes it durable. It must never be asked to write one key twice in a batch: fjall gives a
//! batch one sequence number, so the last change of a key is found here.
//!
//! What fjall 3.1 cannot do, and RocksDB can:
//! * filter by a key's prefix: its filters are of whole keys, so a read of a key's newest version
//!   looks into every run of tables whose first and last key are around it;
//! * remove a range without reading it: each key is removed by itself, while other writes wait;
//! * do without its journal: every byte is written there first;
//! * tell bytes of a part of a table: within one, keys are taken to be spread evenly;
//! * read whole values of a block without a copy into the caller's buffer.
//!
//! What it has no call for and is done here: checkpoints by links (`checkpoint`), sizes of ranges
//! (`estimate`), the names of its folders brought to the disk, a first open that a crash may cut short.

mod checkpoint;
mod estimate;
mod filter;

use crate::config::EngineConfig;
use crate::engine::{
    Capabilities, Cf, Cursor, Engine, Estimate, Ingestion, Op, Pair, Snapshot, WriteBatch,
    is_empty_range,
};
use crate::error::{Error, Result};
use crate::estimate::walk;
use crate::folder::{kind_of, make_whole, sync_names};
use crate::gc::GcSafePoint;
use crate::ingest::Ascending;
use bytes::Bytes;
use damask_types::ErrorKind;
use filter::GcFilterFactory;
use fjall::compaction::filter::Factory;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{
    AbstractTree, Database, Iter, Keyspace, KeyspaceCreateOptions, KvPair, PersistMode, Readable,
    UserKey,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks of a family that is mostly scanned.
const SCAN_BLOCK_BYTES: u32 = 16 << 10;
/// `estimate` walks this many bytes before it asks the tables.
const WALK_BYTES: u64 = 4 << 20;
/// And this many keys.
const WALK_KEYS: u64 = 50_000;
/// Bytes of a memtable at which fjall closes it by itself: never. `rotate_full` does.
const NO_LIMIT: u64 = 1 << 40;
/// The folder of the families' folders, inside the engine's.
const KEYSPACES: &str = "keyspaces";
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
    /// A larger memtable is closed, by family.
    memtable_bytes: [u64; 4],
    path: PathBuf,
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
        if !path.exists() {
            // fjall refuses a folder that a crash left when it was half made.
            let make = |new: &Path| FjallEngine::open_existing(new, config, safe_point).map(drop);
            make_whole("open", path, make)?;
        }
        FjallEngine::open_existing(path, config, safe_point)
    }

    fn open_existing(
        path: &Path,
        config: &EngineConfig,
        safe_point: &GcSafePoint,
    ) -> Result<FjallEngine> {
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
            let options = || options(cf);
            database.keyspace(cf.name(), options).map_err(|e| classify("open", e))
        };
        let families =
            [family(Cf::Default)?, family(Cf::Lock)?, family(Cf::Write)?, family(Cf::Meta)?];
        // fjall does not sync the names of its families' folders.
        sync_names(&path.join(KEYSPACES))?;
        let path = path.to_owned();
        let (written, writing) = (AtomicU64::new(0), Mutex::new(()));
        let memtable_bytes = Cf::ALL.map(|cf| match cf {
            Cf::Default | Cf::Write => config.write_buffer_bytes,
            Cf::Lock | Cf::Meta => config.small_write_buffer_bytes,
        });
        let inner = Inner { database, families, memtable_bytes, path, collected, written, writing };
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
fn options(cf: Cf) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default().max_memtable_size(NO_LIMIT);
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
    /// Closes the memtables that are full. fjall's own way is a request to its workers with every
    /// write until one of them comes to it; while all of them compact, requests fill the queue that
    /// workers, too, put theirs into, and every one of them then waits for another to take some out.
    fn rotate_full(&self) -> Result<()> {
        for (family, limit) in self.families.iter().zip(self.memtable_bytes) {
            if family.tree.active_memtable().size() > limit {
                family.rotate_memtable().map_err(|e| classify("write", e))?;
            }
        }
        Ok(())
    }

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
        out.commit().map_err(|e| classify("write", e))?;
        self.inner.rotate_full()
    }

    fn sync(&self) -> Result<()> {
        // fjall poisons itself when this fails.
        self.inner.database.persist(PersistMode::SyncAll).map_err(|e| classify("sync", e))
    }

    /// Exact for small ranges; beyond, from what is known of the tables.
    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        if is_empty_range(start, end) {
            return Ok(Estimate::default());
        }
        let snapshot = self.snapshot();
        let mut cursor = snapshot.cursor(cf, start, end)?;
        let (seen, whole) = walk(&mut *cursor, start, WALK_KEYS, WALK_BYTES)?;
        if whole {
            return Ok(seen);
        }
        match estimate::of_range(self.inner.family(cf), start, end, &seen) {
            Some(found) => Ok(found),
            None => Ok(walk(&mut *cursor, start, u64::MAX, u64::MAX)?.0),
        }
    }

    /// By links to the tables; journals are copied, and writes wait for that.
    fn checkpoint(&self, into: &Path) -> Result<()> {
        if into.exists() {
            let detail = format!("{} exists", into.display());
            return Err(Error::new("checkpoint", ErrorKind::Invalid, detail));
        }
        make_whole("checkpoint", into, |partial| {
            let _writing = self.inner.writing.lock();
            // What is still in a buffer goes to the journal.
            self.sync()?;
            let linked = checkpoint::link(&self.inner.path, partial);
            linked.map_err(|e| classify("checkpoint", fjall::Error::Io(e)))
        })
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
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
        _ => kind_of(e),
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
mod tests;
