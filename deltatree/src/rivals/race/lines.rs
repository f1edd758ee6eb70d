//! What a race does not show: how near to the memory's speed clean packs are read, by one thread
//! and by two, and what a read costs while rows are written. It must never compare runs that did
//! not alternate.

use super::workload::{COLUMNS, GROUPS, Placement, TABLE, UPDATE_ROWS, Workload};
use super::{Error, RaceConfig, Result, Times};
use crate::fold::wide::{self, Next};
use crate::store::{Aggregate, ColumnStore, Fold, Grouping, HandleRange, Query, ScanRequest};
use crate::tree::{Config, DeltaTree};
use arrow::array::{ArrayRef, Int64Array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use damask_env::{Clock, Content, Disk, RealClock, RealDisk, spawn};
use damask_types::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Rows written a second while reads are timed.
pub(super) const WRITTEN_PER_SECOND: u64 = 10_000;
/// Transactions a second that these come in.
const TRANSACTIONS_PER_SECOND: u64 = 100;
/// Words of a file that are written at a time.
const PART_WORDS: usize = 1 << 16;
/// How long reads are timed at a time, with and without writes in turn.
const PHASE_SECONDS: f64 = 0.1;

/// Seconds to sum one column of clean packs.
#[derive(Clone, Debug)]
pub(super) struct Bandwidth {
    pub bytes: u64,
    /// The same bytes in one piece of memory, one thread.
    pub memory: Times,
    /// The same with a half for each of two threads: what two can have at most here.
    pub memory_two: Times,
    /// The same bytes in one piece of a mapped file, one thread.
    pub mapped: Times,
    /// The same with a half for each of two threads.
    pub mapped_two: Times,
    pub one: Times,
    pub two: Times,
    /// Of the same rows, sums by group: more work for a byte, which memory does not bound.
    pub groups_one: Times,
    /// The same by two threads.
    pub groups_two: Times,
}

/// Seconds of a read of now.
#[derive(Clone, Debug)]
pub(super) struct UnderWrites {
    pub quiet: Times,
    pub written: Times,
    /// Rows that were written meanwhile, each second.
    pub rate: f64,
}

/// The sum of k, by values of further columns.
fn sum_by(store: &DeltaTree, groups: &[&str], threads: usize) -> Result<usize> {
    let names = std::iter::once(&"1").chain(groups);
    let fields: Vec<_> = names.map(|name| Field::new(*name, DataType::Int64, true)).collect();
    let default: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    let scan = ScanRequest {
        ranges: vec![HandleRange::ALL],
        ts: Timestamp(u64::MAX),
        defaults: vec![default; fields.len()],
        schema: Arc::new(Schema::new(fields)),
        prune: Vec::new(),
        batch_rows: 65_536,
    };
    let query = Query { scan, filter: Vec::new() };
    let grouping = Grouping {
        aggregates: vec![Aggregate { fold: Fold::Sum, column: Some(0) }],
        groups: (1..=groups.len()).collect(),
        groups_max: GROUPS as usize,
        ..Grouping::default()
    };
    let answer = store.snapshot(TABLE)?.aggregate(&query, &grouping, threads)?;
    Ok(answer.ok_or("more groups than there are")?.num_rows())
}

fn sum_of(store: &DeltaTree, threads: usize) -> Result<usize> {
    sum_by(store, &[], threads)
}

fn loaded(folder: &Path, workload: &Workload) -> Result<DeltaTree> {
    std::fs::create_dir_all(folder)?;
    let store = DeltaTree::open(Arc::new(RealDisk::open(folder)?), Config::default())?;
    store.ingest(TABLE, HandleRange::ALL, &mut workload.sorted().map(Ok))?;
    store.sync(&[])?;
    Ok(store)
}

fn seconds(clock: &RealClock, work: impl FnOnce() -> Result<usize>) -> Result<f64> {
    let start = clock.monotonic();
    std::hint::black_box(work()?);
    Ok((clock.monotonic() - start).as_secs_f64())
}

struct Owner(Content);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The words as a file, mapped.
fn mapped(folder: &Path, words: &[u64]) -> Result<ScalarBuffer<u64>> {
    let disk = RealDisk::open(folder)?;
    let file = disk.open("words")?;
    for part in words.chunks(PART_WORDS) {
        let bytes: Vec<u8> = part.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.append(&bytes)?;
    }
    file.sync()?;
    let content = disk.map("words")?;
    Ok(Buffer::from(bytes::Bytes::from_owner(Owner(content))).into())
}

fn sum_of_halves(memory: &[u64]) -> usize {
    let (low, high) = memory.split_at(memory.len() / 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| wide::sum(high, None, true, Next::default()).0);
        let own = wide::sum(low, None, true, Next::default()).0;
        own.wrapping_add(other.join().unwrap_or(0)) as usize
    })
}

/// Sums clean packs beside a piece of memory and a mapped file.
pub(super) fn bandwidth(config: &RaceConfig) -> Result<Bandwidth> {
    let clock = RealClock::default();
    let rows = config.bandwidth_rows;
    let store = loaded(&config.folder.join("bandwidth"), &Workload::new(rows, Placement::Uniform))?;
    let memory: Vec<u64> = (0..rows).collect();
    let file = mapped(&config.folder.join("bandwidth-file"), &memory)?;
    let by = COLUMNS.to_string();
    let mut times = [const { Vec::new() }; 8];
    for round in 0..=2 * config.repeats {
        let taken = [
            seconds(&clock, || Ok(wide::sum(&memory, None, true, Next::default()).0 as usize))?,
            seconds(&clock, || Ok(sum_of_halves(&memory)))?,
            seconds(&clock, || Ok(wide::sum(&file, None, true, Next::default()).0 as usize))?,
            seconds(&clock, || Ok(sum_of_halves(&file)))?,
            seconds(&clock, || sum_of(&store, 1))?,
            seconds(&clock, || sum_of(&store, 2))?,
            seconds(&clock, || sum_by(&store, &[&by], 1))?,
            seconds(&clock, || sum_by(&store, &[&by], 2))?,
        ];
        if round > 0 {
            times.iter_mut().zip(taken).for_each(|(all, seconds)| all.push(seconds));
        }
    }
    let [memory, memory_two, mapped, mapped_two, one, two, groups_one, groups_two] =
        times.map(Times::new);
    let bytes = rows * 8;
    Ok(Bandwidth {
        bytes,
        memory,
        memory_two,
        mapped,
        mapped_two,
        one,
        two,
        groups_one,
        groups_two,
    })
}

/// Writes transactions at a steady rate while it is told to.
struct Writer {
    writes: AtomicBool,
    stop: AtomicBool,
    rows: AtomicU64,
}

fn write(store: &DeltaTree, workload: &mut Workload, writer: &Writer) -> Result<()> {
    let clock = RealClock::default();
    let pause = Duration::from_secs(1) / TRANSACTIONS_PER_SECOND as u32;
    let mut next = clock.monotonic();
    while !writer.stop.load(Ordering::Acquire) {
        next += pause;
        std::thread::park_timeout(next.saturating_sub(clock.monotonic()));
        if !writer.writes.load(Ordering::Acquire) {
            continue;
        }
        let rows = WRITTEN_PER_SECOND / TRANSACTIONS_PER_SECOND;
        for batch in workload.transactions(rows) {
            store.apply(&batch)?;
        }
        store.sync(&[])?;
        writer.rows.fetch_add(rows, Ordering::Relaxed);
    }
    Ok(())
}

/// Times reads of now, with and without writes in turn.
pub(super) fn under_writes(config: &RaceConfig) -> Result<UnderWrites> {
    let mut workload = Workload::new(config.rows, Placement::Uniform);
    let store = Arc::new(loaded(&config.folder.join("under-writes"), &workload)?);
    for batch in workload.transactions(config.rows / 100 + UPDATE_ROWS) {
        store.apply(&batch)?;
    }
    let writer = Arc::new(Writer {
        writes: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        rows: AtomicU64::new(0),
    });
    let (shared, own) = (store.clone(), writer.clone());
    let failed = Arc::new(parking_lot::Mutex::new(None));
    let report = failed.clone();
    let task = spawn("writer", move || {
        if let Err(e) = write(&shared, &mut workload, &own) {
            *report.lock() = Some(e.to_string());
        }
    });
    let timed = in_turn(&store, &writer, config.repeats);
    writer.stop.store(true, Ordering::Release);
    task.join().map_err(Error::from)?;
    if let Some(detail) = failed.lock().take() {
        return Err(Error::from(detail));
    }
    timed
}

/// Reads while the writer pauses, and while it writes.
fn in_turn(store: &DeltaTree, writer: &Writer, repeats: usize) -> Result<UnderWrites> {
    let clock = RealClock::default();
    let (mut times, mut spent) = ([const { Vec::new() }; 2], 0.0);
    for round in 0..=2 * repeats {
        for (at, times) in times.iter_mut().enumerate() {
            writer.writes.store(at == 1, Ordering::Release);
            let start = clock.monotonic();
            while (clock.monotonic() - start).as_secs_f64() < PHASE_SECONDS {
                let taken = seconds(&clock, || sum_of(store, 1))?;
                if round > 0 {
                    times.push(taken);
                }
            }
            spent += at as f64 * (clock.monotonic() - start).as_secs_f64();
        }
    }
    let rate = writer.rows.load(Ordering::Relaxed) as f64 / spent.max(f64::MIN_POSITIVE);
    let [quiet, written] = times.map(Times::new);
    Ok(UnderWrites { quiet, written, rate })
}
