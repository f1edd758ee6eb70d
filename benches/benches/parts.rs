//! Single parts, each beside a floor that does only what cannot be left out. It must never need a
//! cluster.
//!
//! `cargo bench -p damask-benches --bench parts -- [NAME]`; names: `kv`, `deltatree`, `tso`, `row`.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use damask_deltatree::testing::Numbers;
use damask_deltatree::{
    ChangeBatch, ColumnSnapshot, ColumnStore, Config, DeltaTree, HandleRange, ScanRequest,
};
use damask_env::{RealClock, RealDisk};
use damask_kv::{Cf, Engine, EngineConfig, EngineKind, WriteBatch};
use damask_tso::{BatchingOracle, LocalOracle, MemoryOracle, Oracle};
use damask_types::row::{Cell, RowView, decode_value, encode_row};
use damask_types::schema::IntWidth;
use damask_types::{ColumnId, ColumnType, Datum, Decimal, TableId, Timestamp};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Every random choice begins here.
const SEED: u64 = 7;
/// Keys in each engine.
const KEYS: u64 = 100_000;
/// Bytes of each value.
const VALUE_BYTES: usize = 100;
/// Puts in a batch, and pairs in a scan.
const BATCH_KEYS: u64 = 1000;
/// Rows in the column store.
const ROWS: i64 = 500_000;
/// One row in so many is updated.
const UPDATE_EVERY: usize = 100;
/// Rows in a batch, written or read.
const BATCH_ROWS: usize = 8192;
const TABLE: TableId = TableId(1);

criterion_group! {
    name = parts;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = kv, deltatree, tso, row
}
criterion_main!(parts);

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:012}").into_bytes()
}

/// Puts of `BATCH_KEYS` keys from `first` on.
fn puts(first: u64) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for n in first..first + BATCH_KEYS {
        batch.put(Cf::Default, key(n), vec![n as u8; VALUE_BYTES]);
    }
    batch
}

fn read_pairs(engine: &dyn Engine, first: u64) -> u64 {
    let (start, end) = (key(first), key(first + BATCH_KEYS));
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Default, &start, &end).expect("a cursor");
    let (mut pair, mut bytes) = (cursor.seek(&start).expect("a seek"), 0);
    while let Some((key, value)) = pair {
        bytes += (key.len() + value.len()) as u64;
        pair = cursor.next().expect("a step");
    }
    bytes
}

/// Row engines: the memory engine is the floor of the others.
fn kv(c: &mut Criterion) {
    let mut kinds = vec![EngineKind::Memory, EngineKind::Fjall];
    if EngineKind::preferred() == EngineKind::Rocks {
        kinds.push(EngineKind::Rocks);
    }
    for kind in kinds {
        let folder = tempfile::tempdir().expect("a folder");
        let config = EngineConfig::default();
        let engine = damask_kv::open(kind, &folder.path().join("kv"), &config).expect("opens");
        (0..KEYS)
            .step_by(BATCH_KEYS as usize)
            .for_each(|n| engine.write(puts(n)).expect("written"));
        engine.sync().expect("synced");
        let mut numbers = Numbers(SEED);

        let mut group = c.benchmark_group("kv/get one of 100k");
        group.bench_function(BenchmarkId::from_parameter(kind), |b| {
            let snapshot = engine.snapshot();
            b.iter(|| {
                let found = snapshot.get(Cf::Default, &key(numbers.below(KEYS))).expect("a get");
                assert_eq!(found.map(|value| value.len()), Some(VALUE_BYTES));
            });
        });
        group.finish();

        let mut group = c.benchmark_group("kv/scan 1000");
        group.throughput(Throughput::Elements(BATCH_KEYS));
        group.bench_function(BenchmarkId::from_parameter(kind), |b| {
            b.iter(|| {
                let bytes = read_pairs(engine.as_ref(), numbers.below(KEYS - BATCH_KEYS));
                assert_eq!(bytes, BATCH_KEYS * (16 + VALUE_BYTES as u64));
            });
        });
        group.finish();

        // Last, since it overwrites.
        let mut group = c.benchmark_group("kv/write 1000");
        group.throughput(Throughput::Elements(BATCH_KEYS));
        group.bench_function(BenchmarkId::from_parameter(kind), |b| {
            b.iter_batched(
                || puts(numbers.below(KEYS - BATCH_KEYS)),
                |batch| engine.write(batch).expect("written"),
                criterion::BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

/// Rows with these handles, whose column is `handle + version`.
fn change(handles: Vec<i64>, version: u64) -> ChangeBatch {
    let rows = handles.len();
    let values: Int64Array = handles.iter().map(|handle| Some(handle + version as i64)).collect();
    let schema = Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)]));
    ChangeBatch {
        table: TABLE,
        handles: Int64Array::from(handles),
        versions: UInt64Array::from(vec![version; rows]),
        deleted: BooleanArray::from(vec![false; rows]),
        columns: RecordBatch::try_new(schema, vec![Arc::new(values)]).expect("one column"),
    }
}

/// A store whose rows are all in packs; then one row in a hundred updated, if asked for.
fn loaded(folder: &std::path::Path, updated: bool) -> DeltaTree {
    let disk = Arc::new(RealDisk::open(folder).expect("a folder"));
    let store = DeltaTree::open(disk, Config::default()).expect("opens");
    let handles: Vec<i64> = (0..ROWS).collect();
    for part in handles.chunks(BATCH_ROWS) {
        store.apply(&change(part.to_vec(), 1)).expect("applied");
    }
    store.sync(&[]).expect("synced");
    while store.maintain(Timestamp(1), u64::MAX).expect("maintained") {}
    if updated {
        let some: Vec<i64> = handles.into_iter().step_by(UPDATE_EVERY).collect();
        store.apply(&change(some, 2)).expect("applied");
        store.sync(&[]).expect("synced");
    }
    let stats = store.stats(TABLE).expect("stats");
    let delta = if updated { ROWS as u64 / UPDATE_EVERY as u64 } else { 0 };
    assert_eq!((stats.stable_rows, stats.delta_rows), (ROWS as u64, delta));
    store
}

fn sum(array: &dyn Array) -> i64 {
    arrow::compute::sum(array.as_primitive::<Int64Type>()).unwrap_or(0)
}

fn scan_and_sum(snapshot: &dyn ColumnSnapshot) -> i64 {
    let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    let request = ScanRequest {
        ranges: vec![HandleRange::ALL],
        ts: Timestamp(10),
        schema: Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)])),
        defaults: vec![null],
        prune: Vec::new(),
        batch_rows: BATCH_ROWS,
    };
    let parts = snapshot.scan(&request, 1).expect("a scan");
    let batches = parts.into_iter().flatten();
    batches.map(|batch| sum(batch.expect("a batch").column(0))).sum()
}

/// The column store; a sum over plain Arrow arrays in memory is the floor.
fn deltatree(c: &mut Criterion) {
    let clean_sum = (1..=ROWS).sum::<i64>();
    let updates = ROWS / UPDATE_EVERY as i64;
    let mut group = c.benchmark_group("deltatree/scan and sum 500k");
    group.throughput(Throughput::Elements(ROWS as u64));
    let values: Vec<i64> = (1..=ROWS).collect();
    let plain: Vec<ArrayRef> = values
        .chunks(BATCH_ROWS)
        .map(|part| Arc::new(Int64Array::from(part.to_vec())) as ArrayRef)
        .collect();
    group.bench_function("plain Arrow", |b| {
        b.iter(|| {
            let total: i64 = black_box(&plain).iter().map(|array| sum(array)).sum();
            assert_eq!(total, clean_sum);
        });
    });
    for (name, updated) in [("clean", false), ("1 % updated", true)] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = loaded(folder.path(), updated);
        let snapshot = store.snapshot(TABLE).expect("a snapshot");
        let expected = clean_sum + if updated { updates } else { 0 };
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(scan_and_sum(snapshot.as_ref()), expected));
        });
    }
    group.finish();
}

/// Timestamp oracles; one atomic addition is the floor.
fn tso(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(RealDisk::open(folder.path()).expect("a disk"));
    let clock = Arc::new(RealClock::default());
    let local = LocalOracle::open(clock, disk, "timestamp").expect("opens");
    let local: Arc<dyn Oracle> = Arc::new(local);
    let oracles: [(&str, Arc<dyn Oracle>); 3] = [
        ("memory", Arc::new(MemoryOracle::default())),
        ("local", local.clone()),
        ("batching over local", Arc::new(BatchingOracle::new(local))),
    ];
    let mut group = c.benchmark_group("tso/get 1");
    let counter = AtomicU64::new(1);
    group.bench_function("atomic add", |b| {
        b.iter(|| black_box(&counter).fetch_add(1, Ordering::SeqCst));
    });
    for (name, oracle) in oracles {
        group.bench_function(name, |b| b.iter(|| oracle.get(1).expect("a timestamp")));
    }
    group.finish();
}

/// A row like one of TPC-H's `lineitem`.
fn lineitem() -> Vec<(ColumnType, Datum)> {
    let int = ColumnType::Int { width: IntWidth::Big, unsigned: false };
    let money = ColumnType::Decimal { precision: 15, scale: 2 };
    let text = |len| ColumnType::VarChar { len };
    let mut cells: Vec<(ColumnType, Datum)> = Vec::new();
    for n in [3_001, 155_190, 7_706, 1] {
        cells.push((int.clone(), Datum::Int(n)));
    }
    for unscaled in [1_700, 2_116_823, 4, 2] {
        cells.push((money.clone(), Datum::Decimal(Decimal { unscaled, scale: 2 })));
    }
    for days in [9_568, 9_538, 9_576] {
        cells.push((ColumnType::Date, Datum::Date(days)));
    }
    for word in ["N", "O", "DELIVER IN PERSON", "TRUCK", "egular courts above the"] {
        cells.push((text(44), Datum::Text(word.to_owned())));
    }
    cells
}

/// The row codec; a copy of the encoded bytes is the floor.
fn row(c: &mut Criterion) {
    let cells = lineitem();
    let ids = (1..).map(ColumnId);
    let row: Vec<(ColumnId, &Datum)> = ids.zip(cells.iter().map(|(_, datum)| datum)).collect();
    let bytes = encode_row(&row);
    let mut group = c.benchmark_group("row/16 columns");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("copy of the bytes", |b| b.iter(|| black_box(&bytes).to_vec()));
    group.bench_function("encode", |b| b.iter(|| encode_row(black_box(&row))));
    group.bench_function("find one column", |b| {
        b.iter(|| {
            let view = RowView::new(black_box(&bytes)).expect("a row");
            assert!(matches!(view.get(ColumnId(6)), Cell::Value(_)));
        });
    });
    group.bench_function("decode all", |b| {
        b.iter(|| {
            let view = RowView::new(black_box(&bytes)).expect("a row");
            let decoded: Vec<Datum> = (1..)
                .map(ColumnId)
                .zip(&cells)
                .map(|(id, (ty, _))| match view.get(id) {
                    Cell::Value(value) => decode_value(ty, value).expect("a value"),
                    Cell::Null | Cell::Missing => Datum::Null,
                })
                .collect();
            assert_eq!(decoded.len(), cells.len());
            decoded
        });
    });
    group.finish();
}
