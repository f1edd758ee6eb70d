//! Tells a trace again: to a learner over any column store, at any rate. It must never go on
//! behind a record that is damaged.

use super::{Event, Events};
use crate::error::{Error, Result};
use crate::machine::ColumnMachine;
use crate::rows::SchemaSource;
use arrow::array::{Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use damask_deltatree::types::storage_schema;
use damask_deltatree::{ColumnStore, HandleRange, Query, ScanRequest, Written};
use damask_env::Clock;
use damask_raftstore::StateMachine;
use damask_types::{TableId, TableSchema, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Rows of a batch while a checksum is made.
const BATCH_ROWS: usize = 8192;

/// How a trace is told.
#[derive(Clone, Copy, Debug)]
pub struct ReplayPlan {
    /// Row versions a second; `None`: as fast as the store takes them.
    pub rows_per_second: Option<u64>,
    /// Records between two syncs, each followed by the maintenance that is due.
    pub sync_every: u64,
}

impl Default for ReplayPlan {
    fn default() -> ReplayPlan {
        ReplayPlan { rows_per_second: None, sync_every: 64 }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Records told.
    pub records: u64,
    /// Row versions stored.
    pub rows: u64,
    /// How long it took, syncs and maintenance included.
    pub taken: Duration,
    /// Bytes written by the store meanwhile, by cause.
    pub written: Written,
    /// The file ends in the middle of a record.
    pub incomplete: bool,
    /// The newest schema of each table that was not dropped.
    pub tables: BTreeMap<TableId, Arc<TableSchema>>,
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.taken.as_secs_f64();
        let rate = self.rows as f64 / seconds.max(f64::MIN_POSITIVE);
        let Replay { records, rows, written, .. } = self;
        writeln!(f, "{records} records, {rows} rows in {seconds:.3} s: {rate:.0} rows/s")?;
        let Written { applied, log, flush, compaction, merge, manifest } = written;
        write!(
            f,
            "bytes: {applied} applied; written {log} log, {flush} flush, {compaction} compaction, \
             {merge} merge, {manifest} manifest"
        )?;
        if let Some(amplification) = written.amplification() {
            write!(f, ": {amplification:.2} for each")?;
        }
        match self.incomplete {
            true => write!(f, "\nthe file ends in the middle of a record"),
            false => Ok(()),
        }
    }
}

/// The schemas of the trace, as far as it has been told.
#[derive(Default)]
struct Told(Mutex<BTreeMap<TableId, Option<Arc<TableSchema>>>>);

impl SchemaSource for Told {
    fn table(
        &self,
        id: TableId,
        _refresh: bool,
    ) -> std::result::Result<Option<Arc<TableSchema>>, String> {
        let told = self.0.lock().get(&id).cloned();
        told.ok_or_else(|| "the trace has no schema of it".to_owned())
    }
}

/// What one replay has to do with.
struct Teller<'a> {
    store: &'a Arc<dyn ColumnStore>,
    machine: ColumnMachine,
    schemas: Arc<Told>,
}

impl Teller<'_> {
    fn tell(&self, event: Event) -> Result<()> {
        let failed =
            |e: damask_raftstore::Error| Error::Store { kind: e.kind(), detail: e.to_string() };
        match event {
            Event::Schema(table, schema) => {
                self.schemas.0.lock().insert(table, schema);
                Ok(())
            }
            Event::Apply(batches) => self.machine.apply(batches).map_err(failed),
            Event::Import(state, replaced, chunks) => {
                self.machine.import(&state, &replaced, chunks).map_err(failed)
            }
            Event::Destroy(state) => self.machine.destroy(&state).map_err(failed),
        }
    }

    fn sync(&self) -> Result<()> {
        self.machine.sync().map_err(|e| Error::Store { kind: e.kind(), detail: e.to_string() })?;
        while self.store.maintain(Timestamp::ZERO, u64::MAX)? {}
        Ok(())
    }
}

/// Tells a trace, the bytes of a file, to a learner over an empty store.
pub fn replay(
    trace: &[u8],
    store: &Arc<dyn ColumnStore>,
    plan: &ReplayPlan,
    clock: &dyn Clock,
) -> Result<Replay> {
    let schemas = Arc::new(Told::default());
    let machine = ColumnMachine::open(store.clone(), schemas.clone())?;
    let teller = Teller { store, machine, schemas };
    let mut events = Events::new(trace)?;
    let (start, mut records) = (clock.monotonic(), 0);
    while let Some(event) = events.next_event()? {
        teller.tell(event)?;
        records += 1;
        if records % plan.sync_every.max(1) == 0 {
            teller.sync()?;
        }
        if let Some(rate) = plan.rows_per_second {
            let due = teller.machine.stats().rows as f64 / rate.max(1) as f64;
            let due = start + Duration::from_secs_f64(due);
            while let Some(early) = due.checked_sub(clock.monotonic()).filter(|d| !d.is_zero()) {
                std::thread::park_timeout(early);
            }
        }
    }
    teller.sync()?;
    let tables = teller.schemas.0.lock().clone();
    Ok(Replay {
        records,
        rows: teller.machine.stats().rows,
        taken: clock.monotonic() - start,
        written: store.written(),
        incomplete: events.incomplete,
        tables: tables.into_iter().filter_map(|(id, schema)| Some((id, schema?))).collect(),
    })
}

/// A checksum of all that a read at `ts` sees in these tables: equal for any two stores with the
/// same rows.
pub fn checksum(
    store: &dyn ColumnStore,
    tables: &BTreeMap<TableId, Arc<TableSchema>>,
    ts: Timestamp,
) -> Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    for (id, table) in tables {
        hasher.update(&id.0.to_le_bytes());
        let stored = table.columns.iter().filter(|c| Some(c.id) != table.handle_column);
        let stored = storage_schema(&stored.cloned().collect::<Vec<_>>());
        let mut fields = vec![Arc::new(Field::new("handle", DataType::Int64, true))];
        fields.extend(stored.fields().iter().cloned());
        let scan = ScanRequest {
            ranges: vec![HandleRange::ALL],
            ts,
            defaults: fields.iter().map(|field| new_null_array(field.data_type(), 1)).collect(),
            schema: Arc::new(Schema::new(fields)),
            prune: Vec::new(),
            batch_rows: BATCH_ROWS,
        };
        let query = Query { scan, filter: Vec::new() };
        for batch in store.snapshot(*id)?.ordered(&query)? {
            add_cells(&mut hasher, &batch?)?;
        }
    }
    Ok(hasher.finalize())
}

/// Each cell as text, behind its length; NULL has none.
fn add_cells(hasher: &mut crc32fast::Hasher, batch: &RecordBatch) -> Result<()> {
    let unknown = |e: arrow::error::ArrowError| Error::Invalid(format!("a checksum: {e}"));
    let options = FormatOptions::new();
    let columns = batch.columns().iter().map(|column| {
        let cells = ArrayFormatter::try_new(column.as_ref(), &options).map_err(unknown)?;
        Ok((column, cells))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        for (column, cells) in &columns {
            if column.is_null(row) {
                hasher.update(&u64::MAX.to_le_bytes());
                continue;
            }
            let text = cells.value(row).to_string();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    Ok(())
}
