//! What a store writes to, with the time it takes: logs, engines and columns of the product behind
//! wrappers that wait. It must never wait while anything is locked that others need, nor change
//! what is written.

use crate::alike::Told;
use crate::kernel::{Micros, kernel};
use crate::logs::{Seen, digested};
use crate::passed_on::passed_on;
use crate::rules::Ranges;
use damask_deltatree::{
    ChangeBatch, ColumnSnapshot, ColumnStore, DeltaTree, HandleRange, Mark, RowsIter, TableStats,
    Written,
};
use damask_env::simulation::pause;
use damask_env::{Content, Disk, File, MemoryDisk};
use damask_kv::{Engine, MemoryEngine, Snapshot, WriteBatch};
use damask_raftstore::{
    ApplyBatch, Effect, FileLogStore, GroupLog, LogBatch, LogEntry, LogStore, RangeSize,
    RegionState, Result, SnapshotChunks, StateMachine,
};
use damask_types::{KeyRange, Region, RegionId, TableId, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A reader is held back no longer than this, and looks up so often.
const HELD_MAX: Micros = 2_400_000;
/// See [`HELD_MAX`].
const HELD_STEP: Duration = Duration::from_millis(1);

/// How slow a node's disk is, and how often its threads are overtaken.
#[derive(Debug, Default)]
pub struct Pace {
    times: AtomicU64,
    until: AtomicU64,
    hesitate_permille: u64,
    hold_permille: u64,
    /// So many readers are held back next, for certain.
    hold_next: AtomicU64,
    /// Until then rows of columns wait before they are stored.
    rush_until: AtomicU64,
    /// Nobody is held back any more.
    calm: AtomicBool,
}

impl Pace {
    /// A disk of normal speed.
    pub fn new(hesitate_permille: u64, hold_permille: u64) -> Pace {
        let (times, until) = (AtomicU64::new(1), AtomicU64::new(0));
        let (hold_next, rush_until) = (AtomicU64::new(0), AtomicU64::new(0));
        let calm = AtomicBool::new(false);
        Pace { times, until, hesitate_permille, hold_permille, hold_next, rush_until, calm }
    }

    /// The next readers of columns are held back.
    pub fn hold(&self, readers: u64) {
        self.hold_next.store(readers, Ordering::Relaxed);
    }

    /// Rows of columns wait before they are stored, until then.
    pub fn rush(&self, until: Micros) {
        self.rush_until.store(until, Ordering::Relaxed);
    }

    /// The storm is over: everybody gets on.
    pub fn calm(&self) {
        self.slow(1, 0);
        self.rush(0);
        self.calm.store(true, Ordering::Relaxed);
    }

    fn wait_in_rush(&self) {
        let kernel = kernel();
        if kernel.time() < self.rush_until.load(Ordering::Relaxed) {
            let time = kernel.draw(|chance| chance.between(300, 5_000));
            pause(Duration::from_micros(time));
        }
    }

    fn holds(&self) -> bool {
        let next = self.hold_next.load(Ordering::Relaxed);
        self.hold_next.store(next.saturating_sub(1), Ordering::Relaxed);
        let calm = self.calm.load(Ordering::Relaxed);
        !calm && (next > 0 || kernel().draw(|chance| chance.permille(self.hold_permille)))
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
    /// Where what it says is judged.
    pub seen: Seen,
}

impl LogStore for SimLog {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        self.inner.recover()
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.inner.group(group)
    }

    fn append(&self, batch: LogBatch) -> Result<()> {
        let says = digested(&batch);
        self.inner.append(batch)?;
        self.seen.appended(&self.inner, says);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.pace.work(150, 2_500);
        self.inner.sync()?;
        self.seen.judge(|logs| logs.synced(self.seen.store));
        Ok(())
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
    /// Where what is applied is judged, and written down.
    pub seen: Seen,
    /// It holds rows.
    pub rows: bool,
    /// It holds columns: what it is told is judged here, what rows write is judged as they do.
    pub told: Option<Told>,
    /// Where its regions are.
    pub ranges: Mutex<Ranges>,
    /// Its engine is to be made durable: see [`FlushedEngine`].
    pub flushes: Arc<AtomicBool>,
}

impl SimMachine {
    fn judge(&self, batches: &[ApplyBatch]) {
        let Seen { world, store, alive, of_members, .. } = &self.seen;
        if !alive.get() {
            return;
        }
        self.seen.tell(|logs| logs.applies(*store, batches));
        let outside = self.ranges.lock().note(batches);
        let (mut broken, mut differs, mut untiled) = (None, None, None);
        if !of_members {
            untiled = world.keys.lock().note(batches);
        }
        if self.rows {
            let mut rules = world.rules.lock();
            rules.collect_below(world.safe_point.get());
            broken = rules.note(batches);
            drop(rules);
            differs = world.journal.lock().note(batches);
        }
        for why in [untiled, outside, broken, differs].into_iter().flatten() {
            world.fail(why);
        }
    }

    /// Regions that are there without being applied.
    fn know(&self, states: &[RegionState]) {
        let Seen { world, store, alive, of_members, .. } = &self.seen;
        if !alive.get() {
            return;
        }
        let overlap = self.ranges.lock().know(states);
        self.seen.tell(|logs| logs.know(*store, states));
        let untiled = (!of_members).then(|| world.keys.lock().know(states)).flatten();
        overlap.into_iter().chain(untiled).for_each(|why| world.fail(why));
    }
}

impl StateMachine for SimMachine {
    fn recover(&self) -> Result<Vec<RegionState>> {
        let states = self.inner.recover()?;
        self.know(&states);
        self.seen.tell(|logs| logs.recovered(self.seen.store, &states, self.rows));
        self.seen.judge(|logs| logs.alike.recovered(self.seen.store, &states));
        Ok(states)
    }

    fn apply(&self, batches: Vec<ApplyBatch>) -> Result<()> {
        self.pace.work(15, 900);
        self.judge(&batches);
        let points = applied(&batches);
        self.told.as_ref().map_or(Ok(()), |told| told.apply(&batches))?;
        self.inner.apply(batches)?;
        self.seen.tell(|logs| logs.applied(self.seen.store, points));
        self.pace.hesitate();
        Ok(())
    }

    fn sync(&self) -> Result<Vec<(RegionId, u64)>> {
        if self.rows {
            self.flushes.store(true, Ordering::Relaxed);
        } else {
            self.pace.work(200, 20_000);
        }
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
        self.inner.import(state, replaced, chunks)?;
        let states: Vec<RegionState> = replaced.iter().chain([state]).cloned().collect();
        self.know(&states);
        self.seen.judge(|logs| logs.alike.replaced(self.seen.store, &states));
        let point = (state.region.id, state.applied.index);
        self.seen.tell(|logs| logs.applied(self.seen.store, [point]));
        Ok(())
    }

    fn destroy(&self, state: &RegionState) -> Result<()> {
        self.pace.work(100, 5_000);
        self.inner.destroy(state)?;
        self.know(std::slice::from_ref(state));
        self.seen.judge(|logs| logs.alike.replaced(self.seen.store, std::slice::from_ref(state)));
        Ok(())
    }

    fn size(&self, range: &KeyRange, parts: usize) -> Result<RangeSize> {
        self.inner.size(range, parts)
    }
}

/// How far these lead, of each region, those that they make included.
fn applied(batches: &[ApplyBatch]) -> Vec<(RegionId, u64)> {
    let mut points = Vec::new();
    for ApplyBatch { region, applied, effects } in batches {
        for effect in effects {
            let Effect::Regions(states) = effect else { continue };
            let there = states.iter().filter(|state| !state.tombstone);
            points.extend(there.map(|state| (state.region.id, state.applied.index)));
        }
        // A description may be of an entry before the last.
        points.push((*region, applied.index));
    }
    points
}

/// The engine as a store's machine writes it: when the machine makes all durable, that takes its
/// time, and what is written towards the end of it is not in.
pub struct FlushedEngine {
    /// The engine.
    pub inner: MemoryEngine,
    /// How long it takes.
    pub pace: Arc<Pace>,
    /// The machine's own call is next. Others come with its locks held, and must not wait.
    pub flushes: Arc<AtomicBool>,
    /// Where it is noted what is durable.
    pub seen: Seen,
}

impl Engine for FlushedEngine {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.inner.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> damask_kv::Result<()> {
        self.seen.wrote(&batch);
        self.inner.write(batch)
    }

    fn sync(&self) -> damask_kv::Result<()> {
        let waits = self.flushes.swap(false, Ordering::Relaxed);
        if waits {
            self.pace.work(100, 10_000);
        }
        self.inner.sync()?;
        self.seen.tell(|logs| logs.flushed(self.seen.store));
        if waits {
            let long = kernel().draw(|chance| chance.permille(100));
            self.pace.work(100, if long { 80_000 } else { 10_000 });
        }
        Ok(())
    }

    passed_on!(inner);
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

    passed_on!(inner);
}

/// The disk of columns: merges wait for it, so that others write and read meanwhile.
pub struct ColumnDisk {
    /// What it holds.
    pub inner: MemoryDisk,
    /// How slow it is.
    pub pace: Arc<Pace>,
    /// A merge runs. Nobody else may wait here: the tree's locks are held over some operations.
    pub merges: Arc<AtomicBool>,
}

impl ColumnDisk {
    fn wait(&self, name: &str) {
        let of_merges = name.starts_with("stable") || name.starts_with("manifest");
        if of_merges && self.merges.load(Ordering::Relaxed) {
            self.pace.work(10, 4_000);
        }
    }
}

impl Disk for ColumnDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.wait(name);
        self.inner.open(name)
    }

    fn map(&self, name: &str) -> io::Result<Content> {
        self.inner.map(name)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.wait(name);
        self.inner.replace(name, bytes)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.wait(folder);
        self.inner.sync_folder(folder)
    }
}

/// The product's column store: others overtake between a learner's steps.
pub struct SimColumns {
    inner: Arc<DeltaTree>,
    pace: Arc<Pace>,
    /// One merge at a time, as in the tree, whose own lock is no place to wait at.
    merging: Mutex<()>,
    merges: Arc<AtomicBool>,
    /// Counts the ranges of each table whose rows were removed.
    cleared: Mutex<BTreeMap<TableId, u64>>,
}

impl SimColumns {
    /// Over a tree whose disk waits while `merges` is set.
    pub fn new(inner: Arc<DeltaTree>, pace: Arc<Pace>, merges: Arc<AtomicBool>) -> SimColumns {
        let (merging, cleared) = (Mutex::default(), Mutex::default());
        SimColumns { inner, pace, merging, merges, cleared }
    }

    /// A reader is overtaken by whoever replaces rows next: its snapshot is taken when some of
    /// them are gone, and it goes on when they are there again.
    fn hold(&self, table: TableId) -> damask_deltatree::Result<Arc<dyn ColumnSnapshot>> {
        let cleared = || self.cleared.lock().get(&table).copied();
        let (before, end) = (cleared(), kernel().time() + HELD_MAX);
        while cleared() == before && kernel().time() < end {
            pause(HELD_STEP);
        }
        let snapshot = self.inner.snapshot(table);
        pause(Duration::from_micros(kernel().draw(|chance| chance.between(1_000, 60_000))));
        snapshot
    }

    fn alone<T>(&self, body: impl FnOnce() -> T) -> T {
        let _alone = damask_env::lock(&self.merging);
        self.merges.store(true, Ordering::Relaxed);
        let done = body();
        self.merges.store(false, Ordering::Relaxed);
        done
    }
}

impl ColumnStore for SimColumns {
    fn apply(&self, batch: &ChangeBatch) -> damask_deltatree::Result<()> {
        self.pace.work(10, 700);
        self.pace.wait_in_rush();
        self.inner.apply(batch)?;
        self.pace.hesitate();
        Ok(())
    }

    fn clear(&self, table: TableId, range: HandleRange) -> damask_deltatree::Result<()> {
        self.pace.hesitate();
        self.inner.clear(table, range)?;
        *self.cleared.lock().entry(table).or_default() += 1;
        self.pace.work(100, 4_000);
        Ok(())
    }

    fn sync(&self, marks: &[Mark]) -> damask_deltatree::Result<()> {
        self.pace.work(150, 2_500);
        self.inner.sync(marks)
    }

    fn marks(&self) -> damask_deltatree::Result<Vec<Mark>> {
        self.inner.marks()
    }

    fn snapshot(&self, table: TableId) -> damask_deltatree::Result<Arc<dyn ColumnSnapshot>> {
        if self.pace.holds() {
            return self.hold(table);
        }
        self.pace.hesitate();
        let snapshot = self.inner.snapshot(table);
        self.pace.hesitate();
        snapshot
    }

    fn maintain(&self, safe_point: Timestamp, budget: u64) -> damask_deltatree::Result<bool> {
        self.alone(|| self.inner.maintain(safe_point, budget))
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
        self.alone(|| self.inner.ingest(table, range, rows))
    }

    fn written(&self) -> Written {
        self.inner.written()
    }
}
