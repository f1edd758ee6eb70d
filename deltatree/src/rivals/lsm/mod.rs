//! A columnar LSM: sorted runs of column chunks, kept in RocksDB, merged by universal compaction,
//! and merged again by each read. It must never resolve versions for more than one read: that is
//! DeltaTree's idea, and what it is compared with.
//!
//! ```text
//!  apply ─► runs in memory ──sync──► small run (log) or file ──maintain──► fewer, larger runs
//!                │                        │                                   │
//!  snapshot ─────┴────────────────────────┴───────────────────────────────────┘ oldest first
//!      scan: strong (masks, galloping) or naive (row by row through a heap)
//! ```
//!
//! The strong reader skips runs and chunks by their handles, versions and bounds, merges young runs
//! once per window of handles that fits the L2 cache, gallops the result into the largest run, and
//! hands out masks; hidden columns of chunks without a newer neighbour are not read. Decoded
//! columns are cached by bytes. Its limits: versions are compared for every read again, `apply`
//! merges small runs in memory under the lock that snapshots take, and one thread compacts.
//!
//! Durability: rows of a `sync`, its marks and the list of runs are one RocksDB commit, synced;
//! larger runs are files, synced before the commit that names them. A version at or below a safe
//! point given to `maintain` must not be applied again once a `sync` after it returned.
//!
//! Reading order: `run`, `pages`, `shelf`, `visible`, `scan`, `merge`, `compact`, `naive`.

pub(super) mod appended;
mod codec;
mod compact;
mod merge;
mod naive;
mod pages;
#[cfg(feature = "rocksdb")]
mod rocks;
mod run;
mod scan;
mod shelf;
#[cfg(test)]
mod tests;
mod visible;

use crate::error::{Error, Result};
use crate::store::{
    ChangeBatch, ColumnSnapshot, ColumnStore, HandleRange, Mark, TableStats, Written,
};
use compact::{Garbage, RunWriter, WrittenRun, pick};
use damask_types::{ErrorKind, TableId, Timestamp};
use pages::{Cause, Change, Pages};
use parking_lot::Mutex;
use run::{Rows, Run, RunData, Source};
use scan::LsmSnapshot;
use shelf::{Shelf, id_of, key, run_start};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// `apply` refuses rows when so many times `memory_rows_max` wait in memory.
const MEMORY_FACTOR: usize = 8;

/// How an LSM behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LsmConfig {
    /// Read row by row through a heap instead of with masks.
    pub naive: bool,
    /// Bytes of decoded columns that are kept.
    pub cache_bytes: usize,
    /// Rows of the young runs per 100 of the oldest from which all become one. RocksDB's default
    /// is 200; 25 is DeltaTree's, which reads faster and writes more.
    pub size_amplification_percent: u64,
    /// How much larger than the younger ones together a run may be to be merged with them.
    pub size_ratio_percent: u64,
    /// Runs below which nothing but the size is looked at.
    pub runs_trigger: usize,
    /// Runs above which the youngest are merged whatever their size.
    pub runs_max: usize,
    /// Rows up to which runs in memory are merged by `apply`.
    pub memory_run_rows: usize,
    /// Rows in memory above which `maintain` writes them, though not synced: bounded memory.
    pub memory_rows_max: usize,
    /// Rows from which a run is a file of its own, past the log.
    pub large_rows: usize,
}

impl Default for LsmConfig {
    fn default() -> LsmConfig {
        LsmConfig {
            naive: false,
            cache_bytes: 4 << 30,
            size_amplification_percent: 25,
            size_ratio_percent: 20,
            runs_trigger: 4,
            runs_max: 8,
            memory_run_rows: 65_536,
            memory_rows_max: 1 << 20,
            large_rows: 65_536,
        }
    }
}

impl LsmConfig {
    /// Small numbers, so that tests see many runs and compactions.
    pub fn small() -> LsmConfig {
        LsmConfig {
            cache_bytes: 16 << 10,
            memory_run_rows: 64,
            memory_rows_max: 100,
            large_rows: 60,
            ..LsmConfig::default()
        }
    }
}

/// The runs of a table by age: `stored`, then `sealed` (being synced), then `fresh`.
#[derive(Clone, Default)]
struct Table {
    stored: Vec<Arc<Run>>,
    sealed: Vec<Arc<Run>>,
    fresh: Vec<Arc<Run>>,
    /// The list in pages is not the one here.
    dirty: bool,
}

impl Table {
    fn runs(&self) -> Vec<Arc<Run>> {
        self.stored.iter().chain(&self.sealed).chain(&self.fresh).cloned().collect()
    }

    fn memory_rows(&self) -> usize {
        self.sealed.iter().chain(&self.fresh).map(|run| run.rows()).sum()
    }
}

/// The store. Locks in this order: `structure` (what changes lists of runs), `tables`.
pub struct LsmColumns {
    shelf: Arc<Shelf>,
    config: LsmConfig,
    structure: Mutex<()>,
    tables: Mutex<BTreeMap<TableId, Table>>,
    next_run: AtomicU64,
    applied: AtomicU64,
}

fn corrupt(detail: String) -> Error {
    Error::new("open", ErrorKind::Corrupt, detail)
}

impl LsmColumns {
    /// An LSM in memory: nothing is left when it is dropped.
    pub fn in_memory(config: LsmConfig) -> LsmColumns {
        LsmColumns::open_pages(Box::<pages::MemoryPages>::default(), config)
            .expect("nothing is there to be wrong")
    }

    /// Opens or makes an LSM in a folder of its own.
    #[cfg(feature = "rocksdb")]
    pub fn open(folder: &std::path::Path, config: LsmConfig) -> Result<LsmColumns> {
        LsmColumns::open_pages(Box::new(rocks::RocksPages::open(folder)?), config)
    }

    fn open_pages(pages: Box<dyn Pages>, config: LsmConfig) -> Result<LsmColumns> {
        LsmColumns::open_shelf(Shelf::new(pages, config.cache_bytes), config)
    }

    fn open_shelf(shelf: Arc<Shelf>, config: LsmConfig) -> Result<LsmColumns> {
        let (mut tables, mut used, mut last) = (BTreeMap::new(), HashSet::new(), 0);
        for (name, list) in shelf.pages.list(b"t")? {
            let table = id_of(&name).ok_or_else(|| corrupt("a table's key is short".into()))?;
            let mut stored = Vec::new();
            for (id, cleared) in codec::decode_runs(&list)? {
                let meta = shelf.pages.list(&key(b'm', id))?.pop();
                let meta = meta.ok_or_else(|| corrupt(format!("run {id} has no description")))?;
                let (large, names, chunks) = codec::decode_meta(&meta.1)?;
                let source = Source::Pages(shelf.clone());
                let retired = AtomicBool::new(false);
                let data = RunData { id, large, names, chunks, source, retired };
                stored.push(Arc::new(Run { data: Arc::new(data), cleared }));
                used.insert(id);
                last = last.max(id);
            }
            tables.insert(TableId(table as _), Table { stored, ..Table::default() });
        }
        last = last.max(remove_unused(&shelf, &used)?);
        Ok(LsmColumns {
            shelf,
            config,
            structure: Mutex::new(()),
            tables: Mutex::new(tables),
            next_run: AtomicU64::new(last + 1),
            applied: AtomicU64::new(0),
        })
    }

    /// Writes the rows of some runs as one.
    fn write_run(&self, runs: &[Arc<Run>], garbage: Garbage, cause: Cause) -> Result<WrittenRun> {
        let id = self.next_run.fetch_add(1, Ordering::Relaxed);
        let rows: usize = runs.iter().map(|run| run.rows()).sum();
        let large = (rows >= self.config.large_rows).then_some(cause);
        let mut writer = RunWriter::new(&self.shelf, id, compact::names(runs), large)?;
        compact::merge(runs, garbage, |rows| writer.add(&rows))?;
        writer.finish()
    }

    /// Makes everything in memory durable, with marks. `structure` is held.
    fn flush(&self, marks: &[Mark]) -> Result<()> {
        let work: Vec<(TableId, Table)> = {
            let mut tables = self.tables.lock();
            for table in tables.values_mut() {
                table.sealed.append(&mut table.fresh);
            }
            let due = tables.iter().filter(|(_, table)| table.dirty || !table.sealed.is_empty());
            due.map(|(id, table)| (*id, table.clone())).collect()
        };
        let mut changes: Vec<Change> = Vec::new();
        let mut done = Vec::new();
        for (id, mut table) in work {
            let sealed = std::mem::take(&mut table.sealed);
            let (run, pages, _) = self.write_run(&sealed, Garbage::NONE, Cause::Flush)?;
            changes.extend(pages);
            table.stored.extend(run);
            changes.push(list_of(id, &table.stored));
            done.push((id, table.stored));
        }
        for (id, bytes) in marks {
            changes.push((key(b'k', *id), (!bytes.is_empty()).then(|| bytes.clone())));
        }
        if !changes.is_empty() {
            self.shelf.pages.commit(changes)?;
        }
        let mut tables = self.tables.lock();
        for (id, stored) in done {
            let table = tables.entry(id).or_default();
            table.sealed.clear();
            table.stored = stored;
            table.dirty = false;
        }
        Ok(())
    }

    /// One compaction of a table, if one is due; the bytes written. `structure` is held.
    fn compact(&self, id: TableId, safe_point: u64) -> Result<Option<u64>> {
        let table = self.tables.lock().get(&id).cloned().unwrap_or_default();
        let sizes: Vec<u64> = table.stored.iter().map(|run| run.rows() as u64).collect();
        let Some(range) = pick(&sizes, &self.config) else { return Ok(None) };
        let others = table.stored[..range.start].iter().chain(&table.stored[range.end..]);
        let deletions_below = others.map(|run| run.min_version()).min().unwrap_or(u64::MAX);
        // what is not durable will be replayed after a crash, and must meet what hides it
        let garbage = match table.memory_rows() {
            0 => Garbage { safe_point, deletions_below },
            _ => Garbage::NONE,
        };
        let cause = if range.start == 0 { Cause::Merge } else { Cause::Compaction };
        let old = &table.stored[range.clone()];
        let (run, mut changes, bytes) = self.write_run(old, garbage, cause)?;
        let mut stored = table.stored.clone();
        stored.splice(range.clone(), run);
        changes.push(list_of(id, &stored));
        changes.extend(old.iter().map(|run| (key(b'm', run.data.id), None)));
        self.shelf.pages.commit(changes)?;
        old.iter().for_each(|run| run.data.retired.store(true, Ordering::Release));
        let mut tables = self.tables.lock();
        let table = tables.entry(id).or_default();
        table.stored = stored;
        table.dirty = false;
        Ok(Some(bytes))
    }

    /// Merges the youngest runs in memory while they are of about one size.
    fn collapse(&self, fresh: &mut Vec<Arc<Run>>) -> Result<()> {
        while let [.., older, younger] = fresh.as_slice() {
            let (a, b) = (older.rows(), younger.rows());
            if a > 2 * b || a + b > self.config.memory_run_rows {
                break;
            }
            let pair = [older.clone(), younger.clone()];
            let mut chunks = Vec::new();
            compact::merge(&pair, Garbage::NONE, |rows| {
                chunks.extend(rows.chunks());
                Ok(())
            })?;
            fresh.truncate(fresh.len() - 2);
            if !chunks.is_empty() {
                fresh.push(Arc::new(run::in_memory(compact::names(&pair), chunks)));
            }
        }
        Ok(())
    }
}

/// The change that makes a table's list of runs durable.
fn list_of(id: TableId, stored: &[Arc<Run>]) -> Change {
    let runs = stored.iter().map(|run| (run.data.id, run.cleared.as_slice()));
    (key(b't', id.0 as u64), Some(codec::encode_runs(runs)))
}

/// Removes pages and descriptions that no list names: a crash left them; the largest id seen.
fn remove_unused(shelf: &Shelf, used: &HashSet<u64>) -> Result<u64> {
    let (metas, mut last) = (shelf.pages.list(b"m")?, 0);
    let ids = metas.iter().filter_map(|(name, _)| id_of(name));
    let unused: Vec<Change> =
        ids.filter(|id| !used.contains(id)).map(|id| (key(b'm', id), None)).collect();
    if !unused.is_empty() {
        shelf.pages.commit(unused)?;
    }
    for large in [false, true] {
        let mut at = 0;
        while let Some(found) = shelf.pages.next(large, &run_start(at))? {
            let Some(id) = id_of(&found).filter(|_| found[0] == b'p') else { break };
            last = last.max(id);
            at = id + 1;
            if !used.contains(&id) {
                shelf.pages.remove(large, &run_start(id), &run_start(at))?;
            }
        }
    }
    Ok(last)
}

impl ColumnStore for LsmColumns {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        let rows = Rows::sorted(batch)?;
        if rows.handles.is_empty() {
            return Ok(());
        }
        let run = Arc::new(rows.into_run());
        let mut tables = self.tables.lock();
        let table = tables.entry(batch.table).or_default();
        if table.memory_rows() > MEMORY_FACTOR * self.config.memory_rows_max {
            let detail = "memory is full: `sync` or `maintain` must write first";
            return Err(Error::new("apply", ErrorKind::Retry, detail));
        }
        table.fresh.push(run);
        self.applied.fetch_add(batch.bytes(), Ordering::Relaxed);
        self.collapse(&mut table.fresh)
    }

    fn clear(&self, table: TableId, range: HandleRange) -> Result<()> {
        let _structure = self.structure.lock();
        if let Some(table) = self.tables.lock().get_mut(&table) {
            let Table { stored, sealed, fresh, dirty } = table;
            for run in stored.iter_mut().chain(sealed).chain(fresh) {
                if range.first <= range.last && run.overlaps(range) {
                    let mut cleared = run.cleared.clone();
                    cleared.push(range);
                    *run = Arc::new(Run { data: run.data.clone(), cleared });
                    *dirty = true;
                }
            }
        }
        Ok(())
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        let _structure = self.structure.lock();
        self.flush(marks)?;
        self.shelf.sweep()
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        let pairs = self.shelf.pages.list(b"k")?.into_iter();
        let mark = |(name, bytes): (Vec<u8>, Vec<u8>)| {
            let id = id_of(&name).ok_or_else(|| corrupt("a mark's key is short".into()))?;
            Ok((id, bytes))
        };
        pairs.map(mark).collect()
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        let runs = self.tables.lock().get(&table).map_or(Vec::new(), Table::runs);
        Ok(Arc::new(LsmSnapshot { runs: Arc::new(runs), naive: self.config.naive }))
    }

    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> Result<bool> {
        let _structure = self.structure.lock();
        let (rows, ids): (usize, Vec<TableId>) = {
            let tables = self.tables.lock();
            (tables.values().map(Table::memory_rows).sum(), tables.keys().copied().collect())
        };
        if rows > self.config.memory_rows_max {
            self.flush(&[])?;
        }
        let mut written = 0;
        for id in ids {
            while let Some(bytes) = self.compact(id, safe_point.0)? {
                written += bytes;
                if written >= budget_bytes {
                    self.shelf.sweep()?;
                    return Ok(true);
                }
            }
        }
        self.shelf.sweep()?;
        Ok(false)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        let Some(table) = self.tables.lock().get(&table).cloned() else {
            return Ok(TableStats::default());
        };
        let rows = |runs: &[Arc<Run>]| runs.iter().map(|run| run.rows() as u64).sum::<u64>();
        let largest = table.stored.iter().map(|run| run.rows() as u64).max().unwrap_or(0);
        let memory: u64 = table.sealed.iter().chain(&table.fresh).map(|run| run.bytes()).sum();
        Ok(TableStats {
            stable_rows: largest,
            delta_rows: rows(&table.runs()) - largest,
            disk_bytes: self.shelf.pages.disk_bytes(),
            memory_bytes: memory + self.shelf.cached_bytes(),
        })
    }

    fn written(&self) -> Written {
        let applied = self.applied.load(Ordering::Relaxed);
        Written { applied, ..self.shelf.pages.written() }
    }
}
