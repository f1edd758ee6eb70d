//! Committed rows on their way to the column store: gathered by table, so that one call stores the
//! rows of many log entries and regions. It must never drop a row of a table that exists.

use crate::error::{Error, Result};
use crate::transpose::{RowDecoder, RowError};
use arrow::array::builder::BooleanBufferBuilder;
use arrow::array::{
    Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array,
};
use arrow::compute::take;
use damask_deltatree::{ChangeBatch, ColumnStore, HandleRange};
use damask_env::{Mistake, mistaken};
use damask_types::{ErrorKind, TableId, TableSchema, Timestamp};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows of one [`ChangeBatch`], at most.
const BATCH_ROWS_MAX: usize = 65_536;
/// Bytes of row values in one [`ChangeBatch`], about.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// Merges that a full store gets before it counts as failed.
const MERGE_ROUNDS_MAX: u32 = 16;

/// Says what a table is.
pub trait SchemaSource: Send + Sync + 'static {
    /// The table's schema; `None`: it was dropped, for ever (table ids are not used twice).
    /// With `refresh` the answer is read from the catalog now; without, a cached one will do, but
    /// an unknown table is looked up. Waits until it knows; `Err` only when it cannot know any
    /// more (the node stops), as the learner then stops too.
    fn table(
        &self,
        id: TableId,
        refresh: bool,
    ) -> std::result::Result<Option<Arc<TableSchema>>, String>;

    /// The schema as the catalog has it now, without waiting for it to be reachable; `None`: nobody
    /// knows, or the table was dropped. For looking ahead of the rows that will need it; a source
    /// that cannot says nothing.
    fn glance(&self, _id: TableId) -> Option<Arc<TableSchema>> {
        None
    }
}

/// Schemas as last seen: looked at again from time to time, and at once by a row that they do not
/// fit (the two ways of the paper, section 3.2).
pub(crate) struct Schemas {
    source: Arc<dyn SchemaSource>,
    known: Mutex<HashMap<TableId, Option<Arc<TableSchema>>>>,
}

impl Schemas {
    pub(crate) fn new(source: Arc<dyn SchemaSource>) -> Schemas {
        Schemas { source, known: Mutex::new(HashMap::new()) }
    }

    fn get(&self, table: TableId) -> Result<Option<Arc<TableSchema>>> {
        if let Some(known) = self.known.lock().get(&table) {
            return Ok(known.clone());
        }
        match self.ask(table, false)? {
            None => self.ask(table, true),
            known => Ok(known),
        }
    }

    /// Looks at every table that was seen. How many have changed. One that was dropped stays: rows
    /// of it that are still to come may be read at timestamps before.
    pub(crate) fn refresh(&self) -> usize {
        let seen =
            |(id, schema): (&TableId, &Option<Arc<TableSchema>>)| Some((*id, schema.clone()?));
        let seen: Vec<_> = self.known.lock().iter().filter_map(seen).collect();
        let mut changed = 0;
        for (id, before) in seen {
            let newer = |now: &Arc<TableSchema>| now.version > before.version;
            let Some(now) = self.source.glance(id).filter(newer) else { continue };
            let mut known = self.known.lock();
            // A row that asked meanwhile was told something newer.
            let same = |at: &Option<Arc<TableSchema>>| {
                at.as_ref().is_some_and(|at| Arc::ptr_eq(at, &before))
            };
            if known.get(&id).is_some_and(same) {
                known.insert(id, Some(now));
                changed += 1;
            }
        }
        changed
    }

    fn ask(&self, table: TableId, refresh: bool) -> Result<Option<Arc<TableSchema>>> {
        let schema = self.source.table(table, refresh);
        let schema = schema.map_err(|detail| Error::Schema { table, detail })?;
        self.known.lock().insert(table, schema.clone());
        Ok(schema)
    }
}

/// Counts of what was applied.
#[derive(Default)]
pub(crate) struct Counters {
    pub rows: AtomicU64,
    pub batches: AtomicU64,
    pub skipped: AtomicU64,
    pub last_commit_ts: AtomicU64,
}

/// Gathers rows and stores them.
pub(crate) struct RowSink<'a> {
    store: &'a dyn ColumnStore,
    schemas: &'a Schemas,
    counters: &'a Counters,
    tables: Vec<(TableId, Option<TableRows>)>,
    /// Where the last row went: most rows follow one of the same table.
    last: usize,
    /// Rows that are to come, about.
    expected: usize,
    /// They come by table and handle, newest version first, and are kept until all are there.
    sorted: Option<Sorted>,
}

/// Batches by table, each ascending by (handle, version).
#[derive(Default)]
struct Sorted {
    last: Option<(TableId, i64)>,
    tables: BTreeMap<TableId, Vec<ChangeBatch>>,
}

struct TableRows {
    decoder: RowDecoder,
    versions: Vec<u64>,
    deleted: BooleanBufferBuilder,
}

impl TableRows {
    fn new(table: TableId, schema: &TableSchema) -> Result<TableRows> {
        // The handle column is the handle.
        let stored = schema.columns.iter().filter(|c| Some(c.id) != schema.handle_column);
        let decoder = RowDecoder::new(&stored.cloned().collect::<Vec<_>>());
        let decoder = decoder.map_err(|e| Error::Schema { table, detail: e.to_string() })?;
        Ok(TableRows {
            decoder: decoder.with_newest(schema.max_column_id),
            versions: Vec::new(),
            deleted: BooleanBufferBuilder::new(0),
        })
    }

    fn reserve(&mut self, rows: usize) {
        self.decoder.reserve(rows);
        self.versions.reserve(rows);
        self.deleted.reserve(rows);
    }

    fn is_full(&self) -> bool {
        self.decoder.len() >= BATCH_ROWS_MAX || self.decoder.bytes() >= BATCH_BYTES_MAX
    }
}

impl<'a> RowSink<'a> {
    pub(crate) fn new(
        store: &'a dyn ColumnStore,
        schemas: &'a Schemas,
        counters: &'a Counters,
    ) -> RowSink<'a> {
        RowSink { store, schemas, counters, tables: Vec::new(), last: 0, expected: 0, sorted: None }
    }

    /// For rows that come by table and handle, newest version first, as a snapshot has them: they
    /// are stored by `ingest`.
    pub(crate) fn sorted(self) -> RowSink<'a> {
        RowSink { sorted: Some(Sorted::default()), ..self }
    }

    /// So many rows more are to come: mostly of one table, for which room is made at once.
    pub(crate) fn expect(&mut self, rows: usize) {
        self.expected += rows;
    }

    /// A version of a row: its value, or `None` when it was deleted.
    pub(crate) fn push(
        &mut self,
        (table, handle): (TableId, i64),
        version: Timestamp,
        value: Option<&[u8]>,
    ) -> Result<()> {
        let at = self.slot(table)?;
        self.end_batch_between_rows(at, (table, handle))?;
        let Some(rows) = &mut self.tables[at].1 else {
            self.counters.skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(()); // of a dropped table
        };
        match value {
            None => rows.decoder.append_nulls(handle),
            Some(value) => {
                let done = rows.decoder.append_row(handle, value);
                if done.is_err() && mistaken(Mistake::SchemaFilled) {
                    rows.decoder.append_nulls(handle);
                } else if let Err(e) = done {
                    return self.push_again((table, handle), version, value, e);
                }
            }
        }
        rows.versions.push(version.0);
        rows.deleted.append(value.is_none());
        if rows.is_full() && self.sorted.is_none() { self.flush_table(at) } else { Ok(()) }
    }

    /// Versions of one row stay in one batch, so that they can be sorted there.
    fn end_batch_between_rows(&mut self, at: usize, row: (TableId, i64)) -> Result<()> {
        let Some(sorted) = &mut self.sorted else { return Ok(()) };
        let is_new = sorted.last.replace(row) != Some(row);
        match &self.tables[at].1 {
            Some(rows) if is_new && rows.is_full() => self.flush_table(at),
            _ => Ok(()),
        }
    }

    /// A second try, with what the first one lacked: a newer schema, or room.
    fn push_again(
        &mut self,
        (table, handle): (TableId, i64),
        version: Timestamp,
        value: &[u8],
        e: RowError,
    ) -> Result<()> {
        let at = self.slot(table)?;
        self.flush_table(at)?;
        if e.wants_newer_schema() {
            let schema = self.schemas.ask(table, true)?;
            self.tables[at].1 = match schema {
                Some(schema) => Some(TableRows::new(table, &schema)?),
                None => None,
            };
        } else if e != RowError::Full {
            return Err(Error::Row { table, handle, detail: e.to_string() });
        }
        if let Some(rows) = &mut self.tables[at].1 {
            let appended = rows.decoder.append_row(handle, value);
            appended.map_err(|e| Error::Row { table, handle, detail: e.to_string() })?;
            rows.versions.push(version.0);
            rows.deleted.append(false);
        }
        Ok(())
    }

    fn slot(&mut self, table: TableId) -> Result<usize> {
        if self.tables.get(self.last).is_some_and(|(id, _)| *id == table) {
            return Ok(self.last);
        }
        self.last = match self.tables.iter().position(|(id, _)| *id == table) {
            Some(at) => at,
            None => {
                let schema = self.schemas.get(table)?;
                let mut rows = schema.map(|schema| TableRows::new(table, &schema)).transpose()?;
                if let Some(rows) = rows.as_mut().filter(|_| self.tables.is_empty()) {
                    rows.reserve(self.expected.min(BATCH_ROWS_MAX));
                }
                self.tables.push((table, rows));
                self.tables.len() - 1
            }
        };
        Ok(self.last)
    }

    /// Stores all that was gathered: visible on return.
    pub(crate) fn flush(&mut self) -> Result<()> {
        (0..self.tables.len()).try_for_each(|at| self.flush_table(at))
    }

    fn flush_table(&mut self, at: usize) -> Result<()> {
        let (table, Some(rows)) = &mut self.tables[at] else { return Ok(()) };
        if rows.decoder.is_empty() {
            return Ok(());
        }
        let finished = rows.decoder.finish();
        let finished =
            finished.map_err(|e| Error::Row { table: *table, handle: 0, detail: e.to_string() })?;
        let versions = std::mem::take(&mut rows.versions);
        let newest = versions.iter().copied().max().unwrap_or(0);
        let batch = ChangeBatch {
            table: *table,
            handles: finished.handles,
            versions: UInt64Array::new(versions.into(), None),
            deleted: BooleanArray::new(rows.deleted.finish(), None),
            columns: finished.columns,
        };
        match &mut self.sorted {
            Some(sorted) => sorted.tables.entry(batch.table).or_default().push(ascending(&batch)?),
            None => self.apply(&batch)?,
        }
        self.counters.rows.fetch_add(batch.handles.len() as u64, Ordering::Relaxed);
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.counters.last_commit_ts.fetch_max(newest, Ordering::Relaxed);
        Ok(())
    }

    /// Stores rows that came sorted, in the place of all that `handles` says of their tables.
    pub(crate) fn ingest(mut self, handles: impl Fn(TableId) -> Option<HandleRange>) -> Result<()> {
        self.flush()?;
        for (table, batches) in self.sorted.take().unwrap_or_default().tables {
            let range = handles(table).filter(|_| are_ascending(&batches));
            let mut rows = batches.iter().cloned().map(Ok);
            match range.map(|range| self.store.ingest(table, range, &mut rows)) {
                Some(Ok(())) => {}
                // a store that has no way of its own takes them as it takes all rows
                Some(Err(e)) if e.kind() != ErrorKind::Retry => return Err(e.into()),
                _ => batches.iter().try_for_each(|batch| self.apply(batch))?,
            }
        }
        Ok(())
    }

    /// Stores a batch; a store whose delta is full merges first. The log waits for it, which is
    /// what bounds memory.
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        let mut rounds = 0;
        loop {
            match self.store.apply(batch) {
                Err(e) if e.kind() == ErrorKind::Retry && rounds < MERGE_ROUNDS_MAX => {
                    rounds += 1;
                    // Rows may be durable before the mark that counts them: replaying them
                    // changes nothing.
                    self.store.sync(&[])?;
                    self.store.maintain(Timestamp::ZERO, u64::MAX)?;
                }
                done => return Ok(done?),
            }
        }
    }
}

/// The same rows by (handle, version).
fn ascending(batch: &ChangeBatch) -> Result<ChangeBatch> {
    let keys = |at: usize| (batch.handles.value(at), batch.versions.value(at));
    let mut order: Vec<u32> = (0..batch.handles.len() as u32).collect();
    order.sort_unstable_by_key(|at| keys(*at as usize));
    let order = UInt32Array::from(order);
    let sorted = |array: &dyn Array| {
        let error = |detail| Error::Row { table: batch.table, handle: 0, detail };
        take(array, &order, None).map_err(|e| error(e.to_string()))
    };
    let columns =
        batch.columns.columns().iter().map(|array| sorted(array)).collect::<Result<_>>()?;
    // a table may have no column but its handle
    let rows = RecordBatchOptions::new().with_row_count(Some(order.len()));
    let columns = RecordBatch::try_new_with_options(batch.columns.schema(), columns, &rows);
    Ok(ChangeBatch {
        table: batch.table,
        handles: sorted(&batch.handles)?.as_primitive().clone(),
        versions: sorted(&batch.versions)?.as_primitive().clone(),
        deleted: sorted(&batch.deleted)?.as_boolean().clone(),
        columns: columns.expect("arrays as they were in a batch, of one length"),
    })
}

/// By (handle, version) over all batches, none of them twice: a schema that changed in between may
/// have parted the versions of a row.
fn are_ascending(batches: &[ChangeBatch]) -> bool {
    let keys = batches.iter().flat_map(|batch| {
        batch.handles.values().iter().copied().zip(batch.versions.values().iter().copied())
    });
    keys.is_sorted_by(|before, after| before < after)
}
