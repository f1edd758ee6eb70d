//! How fast a log becomes columns, on one thread: records out of an entry's bytes, then what a
//! learner does with them. For benches; it must never time the making of what is applied.
//!
//! ```text
//!  entries (bytes) ─► records ─► ColumnMachine::apply ─► ColumnStore     sync, maintain
//!             └ decode ┘    └──── apply ─────────────────┘              └─ settle ──┘
//! ```

mod workload;

pub use workload::{Shape, Workload};

use crate::error::{Error, Result};
use crate::machine::ColumnMachine;
use crate::rows::SchemaSource;
use damask_deltatree::{
    ChangeBatch, ColumnSnapshot, ColumnStore, HandleRange, Mark, MemoryColumnStore, TableStats,
};
use damask_raftstore::{Applied, ApplyBatch, Effect, MergeState, RegionState, StateMachine};
use damask_types::codec::{DecodeError, take_var_u64};
use damask_types::key::row_range;
use damask_types::{Epoch, Record, Region, RegionId, TableId, TableSchema, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// The region that holds the whole table.
const REGION: RegionId = RegionId(1);
/// Entries that one call applies: as many as a busy store hands over at once.
const CALL_ENTRIES: usize = 32;
/// About the bytes of the smallest record of a row: room is made for no more of them.
const RECORD_BYTES: usize = 16;
/// Calls between two syncs, each followed by the maintenance that is due.
const SYNC_CALLS: usize = 32;

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Row versions.
    pub rows: u64,
    /// Bytes of the entries.
    pub bytes: u64,
    /// Records out of bytes.
    pub decode: Duration,
    /// Compact, decode rows, transpose, store.
    pub apply: Duration,
    /// Syncs and the maintenance that was due.
    pub settle: Duration,
}

impl Taken {
    /// Rows a second, without syncs and maintenance.
    pub fn rate(&self) -> f64 {
        self.rows as f64 / (self.decode + self.apply).as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Rows a second, all told.
    pub fn settled_rate(&self) -> f64 {
        let all = self.decode + self.apply + self.settle;
        self.rows as f64 / all.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

struct OneTable(Arc<TableSchema>);

impl SchemaSource for OneTable {
    fn table(
        &self,
        id: TableId,
        _refresh: bool,
    ) -> std::result::Result<Option<Arc<TableSchema>>, String> {
        Ok((id == self.0.id).then(|| self.0.clone()))
    }
}

/// A learner of one table over a store.
pub struct Ingest {
    store: Arc<dyn ColumnStore>,
    machine: ColumnMachine,
    index: u64,
}

fn failed(e: damask_raftstore::Error) -> Error {
    Error::Store { kind: e.kind(), detail: e.to_string() }
}

/// The records of an entry: a count, then each.
fn records(mut entry: &[u8]) -> std::result::Result<Vec<Record>, DecodeError> {
    let buf = &mut entry;
    let count = take_var_u64(buf)?;
    let mut records = Vec::with_capacity(count.min((buf.len() / RECORD_BYTES) as u64) as usize);
    for _ in 0..count {
        records.push(Record::take(buf)?);
    }
    Ok(records)
}

impl Ingest {
    /// Begins with an empty store.
    pub fn new(store: Arc<dyn ColumnStore>, shape: Shape) -> Result<Ingest> {
        let schema = shape.schema();
        let range = row_range(schema.id);
        let machine = ColumnMachine::open(store.clone(), Arc::new(OneTable(Arc::new(schema))))?;
        let applied = Applied { index: 5, term: 1 };
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let region = Region { id: REGION, range, epoch, peers: Vec::new() };
        let merge = MergeState::default();
        let state = RegionState { region, applied, tombstone: false, merge };
        let effects = vec![Effect::Regions(vec![state])];
        machine.apply(vec![ApplyBatch { region: REGION, applied, effects }]).map_err(failed)?;
        Ok(Ingest { store, machine, index: applied.index })
    }

    /// Applies entries; `now` is the time, of whatever kind the caller wants.
    pub fn run(&mut self, entries: &[Vec<u8>], now: &dyn Fn() -> Duration) -> Result<Taken> {
        let before = self.machine.stats().rows;
        let mut taken = Taken::default();
        for (number, call) in entries.chunks(CALL_ENTRIES).enumerate() {
            let start = now();
            let batches = call.iter().map(|entry| self.batch(entry)).collect::<Result<Vec<_>>>()?;
            let decoded = now();
            self.machine.apply(batches).map_err(failed)?;
            let applied = now();
            taken.decode += decoded.saturating_sub(start);
            taken.apply += applied.saturating_sub(decoded);
            taken.bytes += call.iter().map(|entry| entry.len() as u64).sum::<u64>();
            if number % SYNC_CALLS == SYNC_CALLS - 1 {
                self.settle()?;
                taken.settle += now().saturating_sub(applied);
            }
        }
        let end = now();
        self.settle()?;
        taken.settle += now().saturating_sub(end);
        taken.rows = self.machine.stats().rows - before;
        Ok(taken)
    }

    fn batch(&mut self, entry: &[u8]) -> Result<ApplyBatch> {
        self.index += 1;
        let records = records(entry)
            .map_err(|e| Error::Corrupt { what: "an entry", detail: e.to_string() })?;
        let applied = Applied { index: self.index, term: 1 };
        Ok(ApplyBatch { region: REGION, applied, effects: vec![Effect::Write(records)] })
    }

    fn settle(&self) -> Result<()> {
        self.machine.sync().map_err(failed)?;
        while self.store.maintain(Timestamp::ZERO, u64::MAX)? {}
        Ok(())
    }
}

/// A store that forgets every row at once: what is left is the learner's own work.
#[derive(Default)]
pub struct Forgetful(MemoryColumnStore);

impl ColumnStore for Forgetful {
    fn apply(&self, batch: &ChangeBatch) -> damask_deltatree::Result<()> {
        std::hint::black_box(batch);
        Ok(())
    }

    fn clear(&self, table: TableId, range: HandleRange) -> damask_deltatree::Result<()> {
        self.0.clear(table, range)
    }

    fn sync(&self, marks: &[Mark]) -> damask_deltatree::Result<()> {
        self.0.sync(marks)
    }

    fn marks(&self) -> damask_deltatree::Result<Vec<Mark>> {
        self.0.marks()
    }

    fn snapshot(&self, table: TableId) -> damask_deltatree::Result<Arc<dyn ColumnSnapshot>> {
        self.0.snapshot(table)
    }

    fn maintain(&self, _: Timestamp, _: u64) -> damask_deltatree::Result<bool> {
        Ok(false)
    }

    fn stats(&self, table: TableId) -> damask_deltatree::Result<TableStats> {
        self.0.stats(table)
    }
}

#[cfg(test)]
mod tests;
