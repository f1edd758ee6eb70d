//! Prints how fast DeltaTree applies, merges and scans on this machine:
//! `cargo run --release -p damask-deltatree --example scan_speed [ROWS]`.
#![allow(clippy::disallowed_methods)] // it measures

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Int64Array, RecordBatch,
    StringArray, UInt64Array,
};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Field, Int64Type, Schema};
use damask_deltatree::{ChangeBatch, ColumnStore, Config, DeltaTree, HandleRange, ScanRequest};
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

fn main() -> Result<(), Failure> {
    let rows: i64 = std::env::args().nth(1).map_or(Ok(600_000), |n| n.parse())?;
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
