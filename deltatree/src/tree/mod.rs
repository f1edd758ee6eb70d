//! DeltaTree: the column store that takes writes into a delta and reads from packs. It must never
//! serve bytes whose checksum is wrong, nor lose a row that a sync made durable.
//!
//! ```text
//!   apply ─► segment (by handle) ─► delta: chunks + tree      sync ─► delta log + marks
//!                 ▲                    │ maintain
//!   ingest ──► stable files (load)     │
//!   snapshot ─► view ─► scan           └► merge ─► stable file ─► manifest ─► old file removed
//! ```
//! Locks, in the order they may be taken: `merging` (one merge at a time), `log`, a table,
//! `queue`. No lock but `merging` and `log` is held over a write to the disk.
//!
//! Limits: a version at or below a safe point given to `maintain` must not be applied again once
//! a `sync` after it returned: the deletion above it may be forgotten. A caller that replays a log
//! from its marks never does.

mod block;
pub(crate) mod bounds;
mod bytes;
mod chunk;
mod config;
mod encoding;
mod load;
mod log;
mod manifest;
mod mask;
mod merge;
mod ordered;
mod overlay;
mod plan;
mod scan;
mod segment;
mod sink;
mod stable;
mod table;
mod unit;
#[cfg(test)]
mod tests;

pub use config::Config;

use crate::error::{Error, Result};
use crate::store::{
    ChangeBatch, ColumnSnapshot, ColumnStore, HandleRange, Mark, RowsIter, TableStats, Written,
};
use bytes::{corrupt, io_error};
use chunk::Rows;
use damask_env::{Disk, Mistake, mistaken};
use damask_types::{ErrorKind, TableId, Timestamp};
use log::{Log, Op};
use manifest::Manifest;
use merge::Sealed;
use parking_lot::{Mutex, RwLock};
use segment::Segment;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use table::Table;

/// A DeltaTree on a disk.
pub struct DeltaTree {
    disk: Arc<dyn Disk>,
    config: Config,
    merging: Mutex<Manifest>,
    log: Mutex<Log>,
    tables: RwLock<BTreeMap<TableId, Arc<Mutex<Table>>>>,
    queue: Mutex<Queue>,
    /// Operations up to this one are durable.
    synced: AtomicU64,
    /// About the bytes of all deltas.
    delta_bytes: AtomicU64,
    next_file: AtomicU64,
    meters: Meters,
}

/// Bytes by cause; those of the log are counted there.
#[derive(Default)]
struct Meters {
    applied: AtomicU64,
    flush: AtomicU64,
    merge: AtomicU64,
    manifest: AtomicU64,
}

/// Operations that are visible but not durable.
struct Queue {
    last_seq: u64,
    pending: Vec<(u64, Op)>,
}

fn stable_numbers(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = disk.list(stable::FOLDER).map_err(|e| io_error("open", stable::FOLDER, e))?;
    let number = |name: &String| {
        let number = name.strip_suffix(".stable").and_then(|n| n.parse().ok());
        let number = number.filter(|number| *number <= bytes::NUMBER_MAX);
        number.ok_or_else(|| corrupt(&format!("{}/{name}", stable::FOLDER), "not a stable file"))
    };
    names.iter().map(number).collect()
}

fn load_manifest(disk: &dyn Disk, stable: &[u64]) -> Result<Manifest> {
    if let Some(manifest) = Manifest::load(disk)? {
        return Ok(manifest);
    }
    let logs = disk.list(log::FOLDER).map_err(|e| io_error("open", log::FOLDER, e))?;
    if !stable.is_empty() || !logs.is_empty() {
        return Err(corrupt(manifest::NAME, "the file is missing"));
    }
    let manifest = Manifest { first_log: 1, tables: BTreeMap::new() };
    manifest.store(disk)?;
    Ok(manifest)
}

impl DeltaTree {
    /// Opens the store on a disk; an empty disk gives an empty store. Damage is `Corrupt` and
    /// names the file.
    pub fn open(disk: Arc<dyn Disk>, config: Config) -> Result<DeltaTree> {
        config.validate()?;
        let files = stable_numbers(&*disk)?;
        let manifest = load_manifest(&*disk, &files)?;
        let mut tables = BTreeMap::new();
        for (table, segments) in &manifest.tables {
            tables.insert(*table, Table::open(&disk, *table, segments)?);
        }
        let used: HashSet<u64> =
            manifest.tables.values().flatten().filter_map(|segment| segment.file).collect();
        for file in files.iter().filter(|file| !used.contains(file)) {
            let name = stable::file_name(*file);
            disk.remove(&name).map_err(|e| io_error("open", &name, e))?;
        }
        let merged = manifest.tables.values().flatten().map(|s| s.merged).max().unwrap_or(0);
        let (mut last_seq, mut delta_bytes) = (merged, 0);
        let replay = |seq: u64, op: Op| {
            last_seq = last_seq.max(seq);
            let (Op::Rows(id, _) | Op::Clear(id, _)) = &op;
            let table = tables.entry(*id).or_insert_with(|| Table::new(*id));
            delta_bytes += table.replay(seq, op, config.chunk_rows)?;
            Ok(())
        };
        let log = Log::open(disk.clone(), manifest.first_log, config.log_file_bytes, replay)?;
        let last_seq = last_seq.max(log.last_seq());
        let shared = |(id, table)| (id, Arc::new(Mutex::new(table)));
        Ok(DeltaTree {
            disk,
            config,
            merging: Mutex::new(manifest),
            log: Mutex::new(log),
            tables: RwLock::new(tables.into_iter().map(shared).collect()),
            queue: Mutex::new(Queue { last_seq, pending: Vec::new() }),
            synced: AtomicU64::new(last_seq),
            delta_bytes: AtomicU64::new(delta_bytes),
            next_file: AtomicU64::new(files.iter().max().map_or(1, |max| max + 1)),
            meters: Meters::default(),
        })
    }

    fn table(&self, id: TableId) -> Option<Arc<Mutex<Table>>> {
        self.tables.read().get(&id).cloned()
    }

    fn table_or_new(&self, id: TableId) -> Arc<Mutex<Table>> {
        if let Some(table) = self.table(id) {
            return table;
        }
        let mut tables = self.tables.write();
        tables.entry(id).or_insert_with(|| Arc::new(Mutex::new(Table::new(id)))).clone()
    }

    /// Queues an operation for the log. The table's lock is held, so the order is the table's.
    fn enqueue(&self, op: Op) -> u64 {
        let mut queue = self.queue.lock();
        queue.last_seq += 1;
        let seq = queue.last_seq;
        queue.pending.push((seq, op));
        seq
    }

    /// Checks every byte of every stable file.
    pub fn verify(&self) -> Result<()> {
        let tables: Vec<_> = self.tables.read().values().cloned().collect();
        for table in tables {
            let views = table.lock().views();
            for stable in views.iter().filter_map(|view| view.stable.as_ref()) {
                stable.verify()?;
            }
        }
        Ok(())
    }

    /// Removes log files whose operations are all in stable files.
    fn trim_log(&self, manifest: &mut Manifest) -> Result<()> {
        let oldest = self.tables.read().values().map(|table| table.lock().oldest()).min();
        let first = self.log.lock().first_needed(oldest.unwrap_or(u64::MAX));
        if first > manifest.first_log {
            let next = Manifest { first_log: first, ..manifest.clone() };
            self.store(&next)?;
            *manifest = next;
        }
        self.log.lock().remove_before(manifest.first_log)
    }

    /// Merges `count` neighbouring segments into new ones; the bytes written.
    fn merge(
        &self,
        (id, table): (TableId, &Mutex<Table>),
        (first, count): (i64, usize),
        safe_point: u64,
        manifest: &mut Manifest,
    ) -> Result<u64> {
        let (inputs, merged, safe_point) = {
            let mut table = table.lock();
            let merged = table.last_seq;
            let segments = table.segments_at(first, count);
            let synced = self.synced.load(Ordering::Acquire);
            if segments.iter().any(|segment| segment.last_clear > synced) {
                return Ok(0); // see `table::is_due`
            }
            // what the caller will replay after a crash must meet the deletions above it
            let durable = segments.iter().all(|segment| segment.newest <= synced);
            let inputs: Vec<Sealed> = segments.iter_mut().map(Segment::seal).collect();
            (inputs, merged, if durable { safe_point } else { 0 })
        };
        let mut files = Vec::new();
        let written = self.write_merged(id, &inputs, safe_point, merged, &mut files);
        let (mut segments, bytes) = match written {
            Ok(done) => done,
            Err(e) => {
                table.lock().segments_at(first, count).iter_mut().for_each(Segment::unseal);
                // what stays is swept at the next open
                files.iter().for_each(|id| drop(self.disk.remove(&stable::file_name(*id))));
                return Err(e);
            }
        };
        let mut next = manifest.clone();
        let all = next.tables.entry(id).or_insert_with(|| table.lock().durable());
        let at = all.partition_point(|segment| segment.first < first);
        all.splice(at..at + count, segments.iter().map(|segment| segment.durable));
        let stored = match mistaken(Mistake::ManifestForgotten) {
            true => Ok(()),
            false => self.store(&next),
        };
        if let Err(e) = stored {
            // the manifest may name the old or the new files: both stay
            table.lock().segments_at(first, count).iter_mut().for_each(Segment::unseal);
            return Err(e);
        }
        *manifest = next;
        segments.iter_mut().for_each(|segment| segment.safe_point = safe_point);
        table.lock().replace_segments(first, count, segments, self.config.chunk_rows);
        let left = self.tables.read().values().map(|table| table.lock().delta_bytes()).sum();
        self.delta_bytes.store(left, Ordering::Relaxed);
        inputs.iter().filter_map(|input| input.view.stable.as_ref()).for_each(|old| old.retire());
        let rewrites = inputs.iter().any(|input| input.view.stable.is_some());
        let cause = if rewrites { &self.meters.merge } else { &self.meters.flush };
        cause.fetch_add(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    fn store(&self, manifest: &Manifest) -> Result<()> {
        let bytes = manifest.store(&*self.disk)?;
        self.meters.manifest.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn write_merged(
        &self,
        id: TableId,
        inputs: &[Sealed],
        safe_point: u64,
        merged: u64,
        files: &mut Vec<u64>,
    ) -> Result<(Vec<Segment>, u64)> {
        let next_file = || self.next_file.fetch_add(1, Ordering::Relaxed);
        let merge = merge::Merge {
            disk: &*self.disk,
            table: id,
            config: &self.config,
            safe_point,
            next_file: &next_file,
        };
        let (outputs, bytes) = merge.run(inputs, files)?;
        let end = inputs.last().expect("a merge reads a segment").view.range.last;
        Ok((self.open_merged(id, &outputs, end, merged)?, bytes))
    }

    /// Makes new files' names durable, reads them back, and makes segments of them.
    fn open_merged(
        &self,
        id: TableId,
        outputs: &[sink::Output],
        end: i64,
        merged: u64,
    ) -> Result<Vec<Segment>> {
        let io = |e| io_error("maintain", stable::FOLDER, e);
        self.disk.sync_folder(stable::FOLDER).map_err(io)?;
        let mut segments = Vec::new();
        for (index, output) in outputs.iter().enumerate() {
            let last = outputs.get(index + 1).map_or(end, |next| next.first - 1);
            let file = match output.file {
                Some(file) => Some(Arc::new(stable::Stable::open(self.disk.clone(), id, file)?)),
                None => None,
            };
            if let Some(file) = &file {
                file.verify()?; // what is read back is what was written
            }
            segments.push(Segment::new(HandleRange { first: output.first, last }, file, merged));
        }
        Ok(segments)
    }
}

impl ColumnStore for DeltaTree {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        let rows = Rows::sorted(batch)?;
        if rows.len() == 0 {
            return Ok(());
        }
        if self.delta_bytes.load(Ordering::Relaxed) > self.config.delta_bytes_max {
            let detail = "the delta is full: `maintain` must merge first";
            return Err(Error::new("apply", ErrorKind::Retry, detail));
        }
        let table = self.table_or_new(batch.table);
        let mut table = table.lock();
        table.prepare(&rows)?;
        let seq = self.enqueue(Op::Rows(batch.table, Box::new(rows.clone())));
        self.meters.applied.fetch_add(rows.bytes as u64, Ordering::Relaxed);
        self.delta_bytes.fetch_add(rows.bytes as u64, Ordering::Relaxed);
        table.insert(rows, seq, self.config.chunk_rows);
        Ok(())
    }

    fn clear(&self, table: TableId, range: HandleRange) -> Result<()> {
        let Some(shared) = self.table(table).filter(|_| range.first <= range.last) else {
            return Ok(());
        };
        let mut locked = shared.lock();
        if locked.is_empty_in(range) || mistaken(Mistake::ClearIgnored) {
            return Ok(());
        }
        locked.prepare_clear(range)?;
        let seq = self.enqueue(Op::Clear(table, range));
        locked.clear(range, seq);
        Ok(())
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        let mut log = self.log.lock();
        let (ops, last_seq) = {
            let mut queue = self.queue.lock();
            (std::mem::take(&mut queue.pending), queue.last_seq)
        };
        if ops.is_empty() && marks.is_empty() {
            return Ok(());
        }
        if let Err(e) = log.append(&ops, last_seq, marks) {
            let mut queue = self.queue.lock();
            queue.pending.splice(0..0, ops);
            return Err(e);
        }
        self.synced.store(last_seq, Ordering::Release);
        Ok(())
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        Ok(self.log.lock().marks())
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        let views = self.table(table).map_or(Vec::new(), |table| table.lock().views());
        Ok(Arc::new(scan::Snapshot::new(views)))
    }

    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> Result<bool> {
        let ignored = mistaken(Mistake::SafePointIgnored);
        let safe_point = if ignored { Timestamp::MAX } else { safe_point };
        let mut manifest = self.merging.lock();
        let tables: Vec<_> =
            self.tables.read().iter().map(|(id, table)| (*id, table.clone())).collect();
        let mut written = 0;
        for (id, table) in tables {
            let pinned = {
                let log = self.log.lock();
                log.oldest_closed().filter(|_| log.bytes() > self.config.log_bytes_max)
            };
            let full = self.delta_bytes.load(Ordering::Relaxed) > self.config.delta_bytes_max / 2;
            let synced = self.synced.load(Ordering::Acquire);
            let need = table::Need { safe_point: safe_point.0, pinned, full, synced };
            let all_due = table.lock().due(&self.config, &need);
            for due in all_due {
                if written > 0 && written >= budget_bytes {
                    self.trim_log(&mut manifest)?;
                    return Ok(true);
                }
                written += self.merge((id, &table), due, safe_point.0, &mut manifest)?;
            }
        }
        self.trim_log(&mut manifest)?;
        Ok(false)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        Ok(self.table(table).map_or(TableStats::default(), |table| table.lock().stats()))
    }

    fn ingest(&self, table: TableId, range: HandleRange, rows: RowsIter<'_>) -> Result<()> {
        match self.load(table, range, rows)? {
            true => Ok(()),
            false => crate::plain::ingest(self, table, range, rows),
        }
    }

    fn written(&self) -> Written {
        let read = |meter: &AtomicU64| meter.load(Ordering::Relaxed);
        Written {
            applied: read(&self.meters.applied),
            log: self.log.lock().written(),
            flush: read(&self.meters.flush),
            compaction: 0, // chunks are joined in memory
            merge: read(&self.meters.merge),
            manifest: read(&self.meters.manifest),
        }
    }
}
