//! What a store writes to, with the time it takes: logs, engines and columns of the product behind
//! wrappers that wait. It must never wait while anything is locked that others need, nor change
//! what is written.

use crate::kernel::{Micros, kernel};
use damask_deltatree::{
    ChangeBatch, ColumnSnapshot, ColumnStore, DeltaTree, HandleRange, Mark, RowsIter, TableStats,
    Written,
};
use damask_env::simulation::pause;
use damask_kv::{
    Capabilities, Cf, Engine, Estimate, Ingestion, MemoryEngine, Snapshot, WriteBatch,
};
use damask_raftstore::{
    ApplyBatch, FileLogStore, GroupLog, LogBatch, LogEntry, LogStore, RegionState, Result,
    SnapshotChunks, StateMachine,
};
use damask_types::{KeyRange, Region, RegionId, TableId, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How slow a node's disk is, and how often its threads are overtaken.
#[derive(Debug, Default)]
pub struct Pace {
    times: AtomicU64,
    until: AtomicU64,
    hesitate_permille: u64,
}

impl Pace {
    /// A disk of normal speed.
    pub fn new(hesitate_permille: u64) -> Pace {
        Pace { times: AtomicU64::new(1), until: AtomicU64::new(0), hesitate_permille }
    }

    /// So many times slower until then.
    pub fn slow(&self, times: u64, until: Micros) {
        self.times.store(times, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
    }

    /// Waits as long as the disk takes.
    fn work(&self, least: Micros, most: Micros) {
        let kernel = kernel();
        let slow = kernel.time() < self.until.load(Ordering::Relaxed);
        let times = if slow { self.times.load(Ordering::Relaxed) } else { 1 };
        let time = kernel.draw(|chance| chance.between(least, most)) * times;
        pause(Duration::from_micros(time));
    }

    /// Lets others overtake, now and then.
    pub fn hesitate(&self) {
        let permille = self.hesitate_permille;
        let time = kernel().draw(|chance| match chance.permille(permille) {
            true => chance.between(1, 3_000),
            false => 0,
        });
        if time > 0 {
            pause(Duration::from_micros(time));
        }
    }
}

/// The product's log on files.
pub struct SimLog {
    /// The log.
    pub inner: FileLogStore,
    /// Its disk.
    pub pace: Arc<Pace>,
}

impl LogStore for SimLog {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        self.inner.recover()
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.inner.group(group)
    }

    fn append(&self, batch: LogBatch) -> Result<()> {
        self.inner.append(batch)
    }

    fn sync(&self) -> Result<()> {
        self.pace.work(150, 2_500);
        self.inner.sync()
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        self.inner.entries(group, low, high, max_bytes, out)
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        self.inner.term(group, index)
    }

    fn purge(&self) -> Result<()> {
        self.pace.work(100, 2_000);
        self.inner.purge()
    }
}

/// A state machine of the product.
pub struct SimMachine {
    /// The machine.
    pub inner: Arc<dyn StateMachine>,
    /// Its disk.
    pub pace: Arc<Pace>,
}

impl StateMachine for SimMachine {
    fn recover(&self) -> Result<Vec<RegionState>> {
        self.inner.recover()
    }

    fn apply(&self, batches: Vec<ApplyBatch>) -> Result<()> {
        self.pace.work(15, 900);
        self.inner.apply(batches)?;
        self.pace.hesitate();
        Ok(())
    }

    fn sync(&self) -> Result<Vec<(RegionId, u64)>> {
        self.pace.work(200, 20_000);
        self.inner.sync()
    }

    fn export(&self, region: &Region) -> Result<SnapshotChunks> {
        self.pace.work(100, 5_000);
        self.inner.export(region)
    }

    fn import(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: SnapshotChunks,
    ) -> Result<()> {
        self.pace.work(100, 20_000);
        self.inner.import(state, replaced, chunks)
    }

    fn destroy(&self, state: &RegionState) -> Result<()> {
        self.pace.work(100, 5_000);
        self.inner.destroy(state)
    }

    fn size(&self, range: &KeyRange) -> Result<(u64, Option<Vec<u8>>)> {
        self.inner.size(range)
    }
}

/// The engine as a store's transaction server reads it: others overtake around each snapshot.
pub struct SimEngine {
    /// The engine.
    pub inner: MemoryEngine,
    /// Who overtakes.
    pub pace: Arc<Pace>,
}

impl Engine for SimEngine {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.pace.hesitate();
        let snapshot = self.inner.snapshot();
        self.pace.hesitate();
        snapshot
    }

    fn write(&self, batch: WriteBatch) -> damask_kv::Result<()> {
        self.inner.write(batch)
    }

    fn sync(&self) -> damask_kv::Result<()> {
        self.inner.sync()
    }

    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> damask_kv::Result<Estimate> {
        self.inner.estimate(cf, start, end)
    }

    fn checkpoint(&self, into: &Path) -> damask_kv::Result<()> {
        self.inner.checkpoint(into)
    }

    fn ingest(&self, cf: Cf) -> damask_kv::Result<Box<dyn Ingestion + '_>> {
        self.inner.ingest(cf)
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        self.inner.statistics()
    }
}

/// The product's column store: others overtake between a learner's steps.
pub struct SimColumns {
    /// The columns.
    pub inner: Arc<DeltaTree>,
    /// Their disk.
    pub pace: Arc<Pace>,
}

impl ColumnStore for SimColumns {
    fn apply(&self, batch: &ChangeBatch) -> damask_deltatree::Result<()> {
        self.pace.work(10, 700);
        self.inner.apply(batch)?;
        self.pace.hesitate();
        Ok(())
    }

    fn clear(&self, table: TableId, range: HandleRange) -> damask_deltatree::Result<()> {
        self.pace.hesitate();
        self.inner.clear(table, range)
    }

    fn sync(&self, marks: &[Mark]) -> damask_deltatree::Result<()> {
        self.pace.work(150, 2_500);
        self.inner.sync(marks)
    }

    fn marks(&self) -> damask_deltatree::Result<Vec<Mark>> {
        self.inner.marks()
    }

    fn snapshot(&self, table: TableId) -> damask_deltatree::Result<Arc<dyn ColumnSnapshot>> {
        self.pace.hesitate();
        let snapshot = self.inner.snapshot(table);
        self.pace.hesitate();
        snapshot
    }

    fn maintain(&self, safe_point: Timestamp, budget: u64) -> damask_deltatree::Result<bool> {
        self.inner.maintain(safe_point, budget)
    }

    fn stats(&self, table: TableId) -> damask_deltatree::Result<TableStats> {
        self.inner.stats(table)
    }

    fn ingest(
        &self,
        table: TableId,
        range: HandleRange,
        rows: RowsIter<'_>,
    ) -> damask_deltatree::Result<()> {
        self.pace.hesitate();
        self.inner.ingest(table, range, rows)
    }

    fn written(&self) -> Written {
        self.inner.written()
    }
}
