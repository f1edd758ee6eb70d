//! The engine's own operations, engine by engine: snapshot, get, scans both ways, a batch made
//! durable. It must never go through MVCC: its keys are the engine's.

use super::{MANY, ROWS, SEED, commits, kinds, load, open};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use damask_deltatree::testing::Numbers;
use damask_kv::{Cf, Engine};
use std::hint::black_box;

/// Rows of the small batch that is synced.
const FEW: u64 = 10;

pub(crate) fn seam(c: &mut Criterion) {
    for kind in kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = open(kind, folder.path());
        load(&*engine);
        let keys = keys_of(&*engine);
        let mut numbers = Numbers(SEED);
        let mut group = c.benchmark_group("seam/one");
        group.bench_function(BenchmarkId::new("snapshot", kind), |b| {
            b.iter(|| black_box(engine.snapshot()));
        });
        group.bench_function(BenchmarkId::new("get", kind), |b| {
            let snapshot = engine.snapshot();
            b.iter(|| {
                let key = &keys[numbers.below(keys.len() as u64) as usize];
                assert!(snapshot.get(Cf::Write, key).expect("a get").is_some());
            });
        });
        group.finish();
        let mut group = c.benchmark_group("seam/scan 1000");
        group.throughput(Throughput::Elements(MANY));
        for (name, reverse) in [("forward", false), ("reverse", true)] {
            group.bench_function(BenchmarkId::new(name, kind), |b| {
                let snapshot = engine.snapshot();
                b.iter(|| {
                    let first = numbers.below(keys.len() as u64 - MANY) as usize;
                    let (start, end) = (&keys[first], &keys[first + MANY as usize]);
                    let mut cursor = snapshot.cursor(Cf::Write, start, end).expect("a cursor");
                    let mut pair = match reverse {
                        true => cursor.seek_to_last(),
                        false => cursor.seek(start),
                    };
                    let mut pairs = 0;
                    while let Some((key, value)) = pair.expect("a pair") {
                        black_box((key, value));
                        pairs += 1;
                        pair = if reverse { cursor.prev() } else { cursor.next() };
                    }
                    assert_eq!(pairs, MANY);
                });
            });
        }
        group.finish();
        // Last, since it overwrites.
        let mut group = c.benchmark_group("seam/write and sync");
        group.throughput(Throughput::Elements(FEW));
        group.bench_function(BenchmarkId::new("10 rows", kind), |b| {
            b.iter_batched(
                || commits(&(0..FEW).map(|_| numbers.below(ROWS)).collect::<Vec<_>>()),
                |batch| engine.write(batch).and_then(|()| engine.sync()).expect("durable"),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

/// All of them, rising.
fn keys_of(engine: &dyn Engine) -> Vec<Vec<u8>> {
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, b"", b"").expect("a cursor");
    let mut pair = cursor.seek(b"").expect("a seek");
    let mut keys = Vec::new();
    while let Some((key, _)) = pair {
        keys.push(key.to_vec());
        pair = cursor.next().expect("a step");
    }
    keys
}
