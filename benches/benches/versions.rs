//! Reads of versions, GC and loads over every row engine: the seam between them, part by part; and
//! every command of a transaction. The engine in memory is the floor. It must never need a cluster.
//!
//! `cargo bench -p damask-benches --bench versions -- [NAME]`; names: `mvcc`, `gc`, `engine`,
//! `seam`, `command`.

#[path = "versions/commands.rs"]
mod commands;
#[path = "versions/seam.rs"]
mod seam;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use damask_deltatree::testing::Numbers;
use damask_kv::gc::{Budget, sweep};
use damask_kv::{
    Cf, Engine, EngineConfig, EngineKind, MvccReader, Read, Rows, WriteBatch, records_to_batch,
};
use damask_types::{KeyRange, Lock, LockKind, Record, TableId, Timestamp, Write, WriteKind, key};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Every random choice begins here.
const SEED: u64 = 7;
/// Rows, and versions of each.
const ROWS: u64 = 50_000;
const VERSIONS: u64 = 3;
/// Bytes of each value.
const VALUE_BYTES: usize = 100;
/// Rows of a scan, of a batch and of a load.
const MANY: u64 = 1_000;
/// The newest version of every row.
const NEWEST: Timestamp = Timestamp(VERSIONS * 10);

criterion_group! {
    name = versions;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = mvcc, gc, engine, seam::seam, commands::commands
}
criterion_main!(versions);

fn row(n: u64) -> Vec<u8> {
    key::row_key(TableId(1), n as i64)
}

fn value(n: u64) -> Vec<u8> {
    vec![n as u8; VALUE_BYTES]
}

fn kinds() -> Vec<EngineKind> {
    let mut kinds = vec![EngineKind::Memory, EngineKind::Fjall];
    if EngineKind::preferred() == EngineKind::Rocks {
        kinds.push(EngineKind::Rocks);
    }
    kinds
}

fn open(kind: EngineKind, folder: &Path) -> Arc<dyn Engine> {
    damask_kv::open(kind, &folder.join("kv"), &EngineConfig::default()).expect("opens")
}

fn commit(n: u64, version: u64) -> Record {
    let commit_ts = Timestamp(version * 10);
    let write = Write::new(WriteKind::Put, commit_ts.prev(), Some(value(n)));
    Record::Write { key: row(n), commit_ts, write }
}

/// All versions of all rows, the oldest first.
fn load(engine: &dyn Engine) {
    for version in 1..=VERSIONS {
        for first in (0..ROWS).step_by(MANY as usize) {
            let records: Vec<_> = (first..first + MANY).map(|n| commit(n, version)).collect();
            engine.write(records_to_batch(&records)).expect("writes");
        }
    }
    engine.sync().expect("syncs");
}

fn scan(reader: &MvccReader, first: u64, reverse: bool) -> usize {
    let range = KeyRange::new(row(first), row(first + MANY));
    match reader.scan(&range, NEWEST, MANY as usize, reverse).expect("scans") {
        Read::Ok(rows) => rows.len(),
        Read::Blocked(lock) => panic!("{lock:?}"),
    }
}

fn mvcc(c: &mut Criterion) {
    for kind in kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = open(kind, folder.path());
        load(&*engine);
        let mut numbers = Numbers(SEED);
        let reader = MvccReader::new(engine.snapshot());
        let mut group = c.benchmark_group("mvcc/one of 50k rows of 3 versions");
        group.bench_function(BenchmarkId::new("get", kind), |b| {
            b.iter(|| {
                let reader = MvccReader::new(engine.snapshot());
                let found = reader.get(&row(numbers.below(ROWS)), Timestamp::MAX).expect("gets");
                assert!(matches!(found, Read::Ok(Some(_))));
            });
        });
        group.bench_function(BenchmarkId::new("get of none", kind), |b| {
            b.iter(|| {
                let found = reader.get(&row(ROWS + numbers.below(ROWS)), NEWEST).expect("gets");
                assert_eq!(found, Read::Ok(None));
            });
        });
        group.bench_function(BenchmarkId::new("find by start", kind), |b| {
            b.iter(|| {
                let key = row(numbers.below(ROWS));
                black_box(reader.find_by_start_ts(&key, Timestamp(9)).expect("reads"))
            });
        });
        group.finish();
        let mut group = c.benchmark_group("mvcc/scan 1000 of 3 versions");
        group.throughput(Throughput::Elements(MANY));
        for (name, reverse) in [("forward", false), ("reverse", true)] {
            group.bench_function(BenchmarkId::new(name, kind), |b| {
                b.iter(|| {
                    let rows = scan(&reader, numbers.below(ROWS - MANY), reverse);
                    assert_eq!(rows as u64, MANY);
                });
            });
        }
        let mut rows = Rows::default();
        group.bench_function(BenchmarkId::new("in blocks", kind), |b| {
            b.iter(|| {
                rows.clear();
                let first = numbers.below(ROWS - MANY);
                let range = KeyRange::new(row(first), row(first + MANY));
                let mut scan = reader.scanner(&range, NEWEST).expect("a scan");
                while scan.next_block(256, &mut rows).expect("rows") != Read::Ok(0) {}
                assert_eq!(rows.len() as u64, MANY);
            });
        });
        group.finish();
    }
}

/// A sweep of 1,000 rows of which two versions in three go; nothing is written.
fn gc(c: &mut Criterion) {
    let mut group = c.benchmark_group("gc/sweep 1000 rows of 3 versions");
    group.throughput(Throughput::Elements(MANY));
    for kind in kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = open(kind, folder.path());
        load(&*engine);
        let mut numbers = Numbers(SEED);
        group.bench_function(BenchmarkId::from_parameter(kind), |b| {
            b.iter(|| {
                let first = numbers.below(ROWS - MANY);
                let range = KeyRange::new(row(first), row(first + MANY));
                let snapshot = engine.snapshot();
                let swept = sweep(&*snapshot, &range, NEWEST, Budget::default()).expect("sweeps");
                assert_eq!(swept.removed, MANY * (VERSIONS - 1));
            });
        });
    }
    group.finish();
}

/// What a store does to its engine: locks, commits, syncs, loads.
fn engine(c: &mut Criterion) {
    for kind in kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = open(kind, folder.path());
        let mut numbers = Numbers(SEED);
        let mut group = c.benchmark_group("engine/1000 rows");
        group.throughput(Throughput::Elements(MANY));
        group.bench_function(BenchmarkId::new("lock and commit", kind), |b| {
            b.iter_batched(
                || {
                    let rows: Vec<u64> = (0..MANY).map(|_| numbers.below(ROWS)).collect();
                    [locks(&rows), commits(&rows)]
                },
                |batches| batches.map(|batch| engine.write(batch).expect("writes")),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("commit and sync", kind), |b| {
            b.iter_batched(
                || commits(&(0..MANY).map(|_| numbers.below(ROWS)).collect::<Vec<_>>()),
                |batch| engine.write(batch).and_then(|()| engine.sync()).expect("durable"),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("load", kind), |b| {
            b.iter(|| {
                let mut load = engine.ingest(Cf::Default).expect("a load");
                for n in 0..MANY {
                    load.put(&row(n), &value(n)).expect("in order");
                }
                assert_eq!(load.finish().expect("comes in"), MANY);
            });
        });
        group.finish();
    }
}

fn locks(rows: &[u64]) -> WriteBatch {
    let lock = |n: &u64| {
        let lock = Lock::new(LockKind::Put, row(rows[0]), NEWEST, 3_000);
        Record::Lock { key: row(*n), lock }
    };
    records_to_batch(&rows.iter().map(lock).collect::<Vec<_>>())
}

fn commits(rows: &[u64]) -> WriteBatch {
    let of_row = |n: &u64| [commit(*n, VERSIONS + 1), Record::Unlock { key: row(*n) }];
    records_to_batch(&rows.iter().flat_map(of_row).collect::<Vec<_>>())
}
