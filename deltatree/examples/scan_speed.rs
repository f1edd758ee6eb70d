//! Prints how fast DeltaTree applies, merges and scans on this machine, beside plain arrays in
//! memory (the append-only bound) and one thread's memory bandwidth. Reads of one thread are
//! given in processor time, so that they can be compared on a machine that is not idle:
//! `cargo run --release -p damask-deltatree --example scan_speed [ROWS [WIDE_ROWS]]`.
#![allow(clippy::disallowed_methods)] // it measures

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Int64Array, RecordBatch,
    StringArray, UInt64Array,
};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Field, Int64Type, Schema};
use damask_deltatree::{
    Aggregate, ChangeBatch, ColumnStore, Config, DeltaTree, Fold, Grouping, HandleRange, Predicate,
    Query, ScanRequest, Test,
};
use damask_env::RealDisk;
use damask_types::{TableId, Timestamp};
use std::sync::Arc;
use std::time::Instant;

const BATCH: i64 = 4096;
type Failure = Box<dyn std::error::Error>;

fn batch(handles: Vec<i64>, version: u64) -> ChangeBatch {
    let n = handles.len();
    let money = |scale: i64| -> ArrayRef {
        let values = handles.iter().map(|h| i128::from((h * 7919) % 10_000 * scale));
        let array = Decimal128Array::from_iter_values(values);
        Arc::new(array.with_precision_and_scale(15, 2).expect("a decimal"))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(handles.clone())),
        Arc::new(Int64Array::from_iter_values(handles.iter().map(|h| h * 31 % 1000))),
        money(1),
        money(3),
        money(5),
        Arc::new(Date32Array::from_iter_values(handles.iter().map(|h| (8000 + h % 2500) as i32))),
        Arc::new(StringArray::from_iter_values(
            handles.iter().map(|h| ["A", "N", "R"][*h as usize % 3]),
        )),
        Arc::new(StringArray::from_iter_values(
            handles.iter().map(|h| format!("comment {}", h * 17)),
        )),
    ];
    let fields = columns.iter().enumerate();
    let fields = fields.map(|(i, c)| Field::new((i + 1).to_string(), c.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    ChangeBatch {
        table: TableId(100),
        handles: Int64Array::from(handles),
        versions: UInt64Array::from(vec![version; n]),
        deleted: BooleanArray::from(vec![false; n]),
        columns: RecordBatch::try_new(schema, columns).expect("columns of one length"),
    }
}

fn request(columns: &[(&str, DataType)], ts: u64) -> ScanRequest {
    let fields = columns.iter().map(|(name, ty)| Field::new(*name, ty.clone(), true));
    ScanRequest {
        ranges: vec![HandleRange::ALL],
        ts: Timestamp(ts),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        defaults: columns.iter().map(|(_, ty)| arrow::array::new_null_array(ty, 1)).collect(),
        prune: Vec::new(),
        batch_rows: 65_536,
    }
}

fn report(what: &str, rows: i64, seconds: f64) {
    let (ms, speed) = (seconds * 1e3, rows as f64 / seconds / 1e6);
    println!("{what:<44} {ms:>10.3} ms {speed:>10.2} M rows/s");
}

/// Seconds this thread has had a processor, as Linux counts them; elsewhere, the time.
fn thread_seconds(since: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let busy = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
    busy.map_or(since.elapsed().as_secs_f64(), |ns| ns as f64 / 1e9)
}

/// Seconds of one thread's work for one run: the mean over runs that take long enough to be
/// counted. Other work on the machine then costs caches and bandwidth, but not the time itself.
fn mean(mut run: impl FnMut() -> Result<i128, Failure>) -> Result<f64, Failure> {
    std::hint::black_box(run()?);
    let since = Instant::now();
    let (start, mut runs) = (thread_seconds(since), 0);
    while thread_seconds(since) - start < 0.15 {
        std::hint::black_box(run()?);
        runs += 1;
    }
    Ok((thread_seconds(since) - start) / f64::from(runs))
}

/// Seconds by the clock: the best of some runs.
fn best(mut run: impl FnMut() -> Result<i128, Failure>) -> Result<f64, Failure> {
    let mut best = f64::MAX;
    for _ in 0..15 {
        let start = Instant::now();
        std::hint::black_box(run()?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn scans(tree: &DeltaTree, rows: i64, what: &str, ts: u64) -> Result<(), Failure> {
    let decimal = DataType::Decimal128(15, 2);
    let two = request(&[("1", DataType::Int64), ("2", DataType::Int64)], ts);
    let sum_two = best(|| {
        let mut total = 0;
        for part in tree.snapshot(TableId(100))?.scan(&two, 1)? {
            for batch in part {
                let batch = batch?;
                for column in batch.columns() {
                    total += i128::from(sum(column.as_primitive::<Int64Type>()).unwrap_or(0));
                }
            }
        }
        Ok(total)
    })?;
    report(&format!("{what}: sum of 2 columns"), rows, sum_two);
    let four =
        [("6", DataType::Date32), ("3", decimal.clone()), ("4", decimal.clone()), ("5", decimal)];
    let four = request(&four, ts);
    let like_q6 = best(|| {
        let mut total = 0;
        for part in tree.snapshot(TableId(100))?.scan(&four, 1)? {
            for batch in part {
                let batch = batch?;
                let dates = batch.column(0).as_primitive::<Date32Type>().values();
                let money =
                    |i: usize| batch.column(i).as_primitive::<Decimal128Type>().values().clone();
                let (a, b, c) = (money(1), money(2), money(3));
                for row in 0..batch.num_rows() {
                    let hit = (8400..8765).contains(&dates[row]) & (a[row] < 5000);
                    total += (b[row] * c[row]) * i128::from(hit);
                }
            }
        }
        Ok(total)
    })?;
    report(&format!("{what}: like Q6, 4 columns"), rows, like_q6);
    let count = best(|| {
        let snapshot = tree.snapshot(TableId(100))?;
        Ok(snapshot.count(&[HandleRange::ALL], Timestamp(ts))?.into())
    })?;
    report(&format!("{what}: count"), rows, count);
    Ok(())
}

/// `COUNT` whole numbers a row.
const COUNT: usize = 4;

fn narrow_batch(handles: &[i64], version: u64) -> ChangeBatch {
    let column = |i: usize| -> ArrayRef {
        let value = |h: &i64| (h * [1, 31, 7919, 104_729][i] + version as i64) % 1_000_003;
        Arc::new(Int64Array::from_iter_values(handles.iter().map(value)))
    };
    let columns: Vec<ArrayRef> = (0..COUNT).map(column).collect();
    let fields = (0..COUNT).map(|i| Field::new((i + 1).to_string(), DataType::Int64, true));
    ChangeBatch {
        table: TableId(100),
        handles: Int64Array::from(handles.to_vec()),
        versions: UInt64Array::from(vec![version; handles.len()]),
        deleted: BooleanArray::from(vec![false; handles.len()]),
        columns: RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns)
            .expect("columns of one length"),
    }
}

fn narrow_request(columns: usize, ts: u64) -> ScanRequest {
    let names = ["1", "2", "3", "4"];
    let columns: Vec<_> = names[..columns].iter().map(|name| (*name, DataType::Int64)).collect();
    request(&columns, ts)
}

fn sum_of(batch: &RecordBatch) -> i128 {
    let sums = batch.columns().iter().map(|c| sum(c.as_primitive::<Int64Type>()).unwrap_or(0));
    sums.map(i128::from).sum()
}

/// Nanoseconds a row, and how many times as long as the bound takes.
fn compare(what: &str, rows: i64, seconds: f64, bound: f64) {
    let ns = seconds * 1e9 / rows as f64;
    println!("{what:<44} {:>10.3} ms {ns:>8.3} ns/row {:>6.2}x", seconds * 1e3, seconds / bound);
}

/// Pushed-down and plain reads of two and four columns beside the append-only bound.
fn narrow_scans(tree: &DeltaTree, rows: i64, what: &str, bound: &[f64; 2]) -> Result<(), Failure> {
    for (columns, bound) in [(2, bound[0]), (COUNT, bound[1])] {
        let query = Query { scan: narrow_request(columns, 100), filter: Vec::new() };
        let sums = (0..columns).map(|at| Aggregate { fold: Fold::Sum, column: Some(at) });
        let grouping = Grouping {
            groups: Vec::new(),
            aggregates: sums.collect(),
            groups_max: 1,
            ..Grouping::default()
        };
        for threads in [1, 2] {
            let run = || {
                let snapshot = tree.snapshot(TableId(100))?;
                let answer = snapshot.aggregate(&query, &grouping, threads)?;
                Ok(answer.map_or(0, |a| a.num_rows()) as i128)
            };
            let seconds = if threads == 1 { mean(run)? } else { best(run)? };
            let text = format!("{what}: fold {columns} sums, threads {threads}");
            compare(&text, rows, seconds, bound);
        }
        let seconds = mean(|| {
            let mut total = 0;
            for part in tree.snapshot(TableId(100))?.scan(&query.scan, 1)? {
                for batch in part {
                    total += sum_of(&batch?);
                }
            }
            Ok(total)
        })?;
        compare(&format!("{what}: scan {columns} columns, arrow sum"), rows, seconds, bound);
    }
    pushed(tree, rows, what, bound[0])
}

/// A filter, a group-by and an ordered scan.
fn pushed(tree: &DeltaTree, rows: i64, what: &str, bound: f64) -> Result<(), Failure> {
    let sums = vec![Aggregate { fold: Fold::Sum, column: Some(1) }];
    let grouping =
        Grouping { groups: Vec::new(), aggregates: sums, groups_max: 1000, ..Grouping::default() };
    for percent in [1, 10, 50] {
        let limit: ArrayRef = Arc::new(Int64Array::from(vec![10_000 * percent]));
        let filter = vec![Predicate { column: 0, test: Test::Less(limit) }];
        let query = Query { scan: narrow_request(2, 100), filter };
        let seconds = mean(|| {
            let answer = tree.snapshot(TableId(100))?.aggregate(&query, &grouping, 1)?;
            Ok(answer.map_or(0, |a| a.num_rows()) as i128)
        })?;
        compare(&format!("{what}: sum(2) where 1 passes {percent} %"), rows, seconds, bound);
    }
    let query = Query { scan: narrow_request(2, 100), filter: Vec::new() };
    let seconds = mean(|| {
        let mut total = 0;
        for batch in tree.snapshot(TableId(100))?.ordered(&query)? {
            total += i128::from(batch?.num_rows() as u64);
        }
        Ok(total)
    })?;
    compare(&format!("{what}: ordered scan, 2 columns"), rows, seconds, bound);
    Ok(())
}

/// Four columns of whole numbers: reads at several deltas against the append-only bound.
fn narrow(rows: i64) -> Result<(), Failure> {
    println!("-- narrow, {rows} rows");
    let all: Vec<i64> = (0..rows).collect();
    let batches: Vec<_> = all.chunks(8192).map(|h| narrow_batch(h, 10)).collect();
    let words = vec![1i64; rows as usize * 2];
    let roof = mean(|| Ok(words.iter().sum::<i64>().into()))?;
    let bytes = words.len() as f64 * 8.0;
    println!(
        "{:<44} {:>10.3} ms {:>8.2} GB/s",
        "one sum over memory",
        roof * 1e3,
        bytes / roof / 1e9
    );
    drop(words);
    let mut bound = [0.0; 2];
    for (slot, columns) in bound.iter_mut().zip([2, COUNT]) {
        let fields: Vec<usize> = (0..columns).collect();
        let parts: Vec<RecordBatch> =
            batches.iter().map(|b| b.columns.project(&fields)).collect::<Result<_, _>>()?;
        *slot = mean(|| Ok(parts.iter().map(sum_of).sum()))?;
        compare(&format!("append-only: arrow sum of {columns} columns"), rows, *slot, *slot);
    }
    let folder = tempfile::tempdir()?;
    let tree = DeltaTree::open(Arc::new(RealDisk::open(folder.path())?), Config::default())?;
    let since = Instant::now();
    let start = thread_seconds(since);
    for part in batches.chunks(64) {
        part.iter().try_for_each(|batch| tree.apply(batch))?;
        tree.sync(&[])?;
    }
    let seconds = thread_seconds(since) - start;
    report("apply and sync, ascending, batches of 8192", rows, seconds);
    drop(batches);
    let start = thread_seconds(since);
    tree.maintain(Timestamp(0), u64::MAX)?;
    report("merge into an empty stable space", rows, thread_seconds(since) - start);
    narrow_scans(&tree, rows, "clean", &bound)?;
    let mut updated = 0;
    for percent in [1, 5, 20] {
        let target = rows * percent / 100;
        let handles: Vec<i64> = (updated..target).map(|i| (i * 7_368_787) % rows).collect();
        let parts: Vec<_> = handles.chunks(1000).map(|part| narrow_batch(part, 20)).collect();
        let since = Instant::now();
        let start = thread_seconds(since);
        parts.iter().try_for_each(|batch| tree.apply(batch))?;
        let seconds = thread_seconds(since) - start;
        report(&format!("apply up to {percent} %, random, by 1000"), target - updated, seconds);
        updated = target;
        narrow_scans(&tree, rows, &format!("{percent} %"), &bound)?;
    }
    tree.sync(&[])?;
    let start = Instant::now();
    tree.maintain(Timestamp(25), u64::MAX)?;
    report("maintain", rows, start.elapsed().as_secs_f64());
    println!("{:?}", tree.stats(TableId(100))?);
    Ok(())
}

/// Sorted rows straight into the stable space.
fn ingest(rows: i64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let tree = DeltaTree::open(Arc::new(RealDisk::open(folder.path())?), Config::default())?;
    let all: Vec<i64> = (0..rows).collect();
    let mut batches = all.chunks(8192).map(|h| Ok(narrow_batch(h, 10)));
    let start = Instant::now();
    tree.ingest(TableId(100), HandleRange::ALL, &mut batches)?;
    report("ingest, making the rows included", rows, start.elapsed().as_secs_f64());
    let written = tree.written().amplification().unwrap_or(0.0);
    println!("{:<44} {written:>10.2} bytes per byte applied", "ingest");
    Ok(())
}

/// Rounds of random updates with merges as they fall due: bytes written by cause.
fn amplification(rows: i64) -> Result<(), Failure> {
    println!("-- write amplification, {rows} rows, 6 times as many updates");
    let folder = tempfile::tempdir()?;
    let tree = DeltaTree::open(Arc::new(RealDisk::open(folder.path())?), Config::default())?;
    let all: Vec<i64> = (0..rows).collect();
    all.chunks(8192).try_for_each(|h| tree.apply(&narrow_batch(h, 1)))?;
    tree.sync(&[])?;
    tree.maintain(Timestamp(0), u64::MAX)?;
    let before = tree.written();
    let (mut spent, since) = (0.0, Instant::now());
    for round in 0..(rows * 6 / 1000) {
        let handle = |i: i64| ((round * 1000 + i) * 7_368_787 + round / rows) % rows;
        let handles: Vec<i64> = (0..1000).map(handle).collect();
        let batch = narrow_batch(&handles, 2 + round as u64);
        let start = thread_seconds(since);
        tree.apply(&batch)?;
        if round % 10 == 9 {
            tree.sync(&[])?;
            tree.maintain(Timestamp(1 + round as u64), u64::MAX)?;
        }
        spent += thread_seconds(since) - start;
    }
    report("apply, sync and merge", rows * 6, spent);
    let after = tree.written();
    let applied = (after.applied - before.applied) as f64;
    let causes = [
        ("log", after.log - before.log),
        ("flush", after.flush - before.flush),
        ("merge", after.merge - before.merge),
        ("manifest", after.manifest - before.manifest),
        ("all", after.total() - before.total()),
    ];
    for (cause, bytes) in causes {
        println!("{cause:<44} {:>10.2} bytes per byte applied", bytes as f64 / applied);
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let number =
        |at: usize, default: i64| std::env::args().nth(at).map_or(Ok(default), |n| n.parse());
    narrow(number(1, 8_000_000)?)?;
    ingest(number(1, 8_000_000)?)?;
    amplification(number(1, 8_000_000)? / 4)?;
    wide(number(2, 600_000)?)
}

/// Eight columns of many types: writes, merges, and scans that copy.
fn wide(rows: i64) -> Result<(), Failure> {
    println!("-- wide, {rows} rows");
    let folder = tempfile::tempdir()?;
    let tree = DeltaTree::open(Arc::new(RealDisk::open(folder.path())?), Config::default())?;
    let all: Vec<i64> = (0..rows).collect();
    let batches: Vec<_> = all.chunks(BATCH as usize).map(|h| batch(h.to_vec(), 10)).collect();
    let start = Instant::now();
    batches.iter().try_for_each(|batch| tree.apply(batch))?;
    report("apply, ascending, batches of 4096", rows, start.elapsed().as_secs_f64());
    let start = Instant::now();
    tree.sync(&[])?;
    report("sync", rows, start.elapsed().as_secs_f64());
    scans(&tree, rows, "only delta", 100)?;
    let start = Instant::now();
    tree.maintain(Timestamp(0), u64::MAX)?;
    report("merge of the delta", rows, start.elapsed().as_secs_f64());
    scans(&tree, rows, "clean", 100)?;
    let stats = tree.stats(TableId(100))?;
    println!("{stats:?}");
    // 1 % of the rows, spread, in a shuffled order
    let updated: Vec<i64> = (0..rows / 100).map(|i| (i * 7_368_787) % rows).collect();
    let batches: Vec<_> = updated.chunks(512).map(|h| batch(h.to_vec(), 20)).collect();
    let start = Instant::now();
    batches.iter().try_for_each(|batch| tree.apply(batch))?;
    report("apply, 1 % updated, batches of 512", rows / 100, start.elapsed().as_secs_f64());
    scans(&tree, rows, "1 % updated", 100)?;
    scans(&tree, rows, "1 % updated, before the update", 15)?;
    let single: Vec<_> = (0..20_000).map(|i| batch(vec![(i * 7919) % rows], 25)).collect();
    let start = Instant::now();
    single.iter().try_for_each(|batch| tree.apply(batch))?;
    report("apply, single rows", single.len() as i64, start.elapsed().as_secs_f64());
    let moved: Vec<i64> = (0..rows).map(|i| (i * 7_368_787) % rows).collect();
    let batches: Vec<_> = moved.chunks(BATCH as usize).map(|h| batch(h.to_vec(), 30)).collect();
    let start = Instant::now();
    batches.iter().try_for_each(|batch| tree.apply(batch))?;
    report("apply, all updated, shuffled, batches of 4096", rows, start.elapsed().as_secs_f64());
    scans(&tree, rows, "all updated", 100)?;
    let start = Instant::now();
    tree.sync(&[])?;
    report("sync", rows, start.elapsed().as_secs_f64());
    let start = Instant::now();
    tree.maintain(Timestamp(25), u64::MAX)?;
    report("merge, all updated", rows, start.elapsed().as_secs_f64());
    scans(&tree, rows, "merged", 100)?;
    println!("{:?}", tree.stats(TableId(100))?);
    Ok(())
}
