//! Reads at and above the safe point stay what they were while compactions of all kinds collect.
//! No test here may rely on when an engine compacts by itself.

use super::*;
use crate::config::EngineConfig;
use crate::engine::{Cf, Engine, WriteBatch};
use crate::fjall::FjallEngine;
use crate::gc::{Budget, collect};
use crate::mvcc::MvccReader;
use crate::records::records_to_batch;
use crate::testing::history::{Event, History, events, key_of};
use crate::testing::{Random, Scratch};
use damask_types::codec::encode_key_ts;
use damask_types::{KeyRange, Record, Write};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use std::path::Path;

/// An engine that can be told to compact its write family.
trait Compacts: Engine + Sized {
    fn open(path: &Path, safe_point: &GcSafePoint) -> Self;
    fn compact(&self, cf: Cf, start: &[u8], end: &[u8]);

    fn collected(&self) -> u64 {
        let all = self.statistics();
        all.into_iter().find(|(name, _)| name == "gc_removed_records").expect("counted").1
    }
}

impl Compacts for FjallEngine {
    fn open(path: &Path, safe_point: &GcSafePoint) -> FjallEngine {
        FjallEngine::open_with_gc(path, &small(), safe_point).expect("opens")
    }

    fn compact(&self, cf: Cf, _: &[u8], _: &[u8]) {
        FjallEngine::compact(self, cf).expect("compacts");
    }
}

#[cfg(feature = "rocksdb")]
impl Compacts for crate::RocksEngine {
    fn open(path: &Path, safe_point: &GcSafePoint) -> crate::RocksEngine {
        crate::RocksEngine::open_with_gc(path, &small(), safe_point).expect("opens")
    }

    fn compact(&self, cf: Cf, start: &[u8], end: &[u8]) {
        crate::RocksEngine::compact(self, cf, start, end);
    }
}

/// Buffers and files so small that versions of one key lie in many files.
fn small() -> EngineConfig {
    EngineConfig {
        block_cache_bytes: 4 << 20,
        write_buffer_bytes: 64 << 10,
        small_write_buffer_bytes: 64 << 10,
        file_bytes: 16 << 10,
        ..EngineConfig::default()
    }
}

fn versions(engine: &dyn Engine, key: &[u8]) -> Vec<u64> {
    let reader = MvccReader::new(engine.snapshot());
    let mut versions = reader.versions(key).expect("a cursor");
    let mut found = Vec::new();
    let mut at = versions.seek(Timestamp::MAX).expect("seek");
    while let Some((ts, _)) = at {
        found.push(ts.0);
        at = versions.next().expect("next");
    }
    found
}

fn compaction_removes_what_needs_no_order_and_no_second_family<E: Compacts>() {
    let scratch = Scratch::new();
    let safe_point = GcSafePoint::new();
    let engine = E::open(&scratch.path("engine"), &safe_point);
    let put = |short: bool| short.then(|| b"v".to_vec());
    let write = |kind, start: u64, value| Write::new(kind, Timestamp(start), value);
    let records = [
        (9, write(WriteKind::Put, 8, put(true))),
        (7, write(WriteKind::Lock, 6, None)),
        (5, write(WriteKind::Delete, 4, None)),
        (4, Write::rollback(Timestamp(4), true)),
        (3, write(WriteKind::Put, 2, put(true))),
        (1, write(WriteKind::Put, 0, put(false))),
    ];
    for (ts, write) in records {
        let record = Record::Write { key: b"k".to_vec(), commit_ts: Timestamp(ts), write };
        engine.write(records_to_batch(&[record])).expect("writes");
    }
    engine.sync().expect("sync");
    engine.compact(Cf::Write, b"", b"");
    assert_eq!(versions(&engine, b"k"), [9, 7, 5, 4, 3, 1], "nothing was published");
    safe_point.advance(Timestamp(8));
    engine.compact(Cf::Write, b"", b"");
    // The newest delete hides a long value that only the sweep may remove.
    assert_eq!(versions(&engine, b"k"), [9, 5, 1]);
    assert_eq!(engine.collected(), 3);
    collect(&engine, &KeyRange::all(), &safe_point, Budget::default()).expect("sweeps");
    assert_eq!(versions(&engine, b"k"), [9]);
}

fn compaction_leaves_what_is_no_record<E: Compacts>() {
    let scratch = Scratch::new();
    let safe_point = GcSafePoint::new();
    let engine = E::open(&scratch.path("engine"), &safe_point);
    safe_point.advance(Timestamp(100));
    let mut batch = WriteBatch::default();
    batch.put(Cf::Write, "short", "?");
    batch.put(Cf::Write, encode_key_ts(b"a", Timestamp(5)), "?");
    batch.put(Cf::Default, encode_key_ts(b"a", Timestamp(5)), "R");
    engine.write(batch).expect("writes");
    engine.sync().expect("sync");
    Cf::ALL.into_iter().for_each(|cf| engine.compact(cf, b"", b""));
    for cf in [Cf::Write, Cf::Default] {
        let key = encode_key_ts(b"a", Timestamp(5));
        assert!(engine.snapshot().get(cf, &key).expect("reads").is_some(), "{cf:?}");
    }
    assert!(engine.snapshot().get(Cf::Write, b"short").expect("reads").is_some());
}

/// Writes a history with syncs and compactions of random parts in between, while the safe point
/// rises; reads at and above it stay what they were.
fn collect_in_compactions<E: Compacts>(history: &History, seed: u64) -> u64 {
    let scratch = Scratch::new();
    let safe_point = GcSafePoint::new();
    let engine = E::open(&scratch.path("engine"), &safe_point);
    let mut random = Random(seed);
    let bound = |random: &mut Random| match random.below(3) {
        0 => Vec::new(),
        _ => {
            let key = key_of(random.below(6) as u8);
            encode_key_ts(&key, Timestamp(random.below(history.end)))
        }
    };
    let half = history.batches.len() / 2;
    for batch in &history.batches[..half] {
        engine.write(batch.clone()).expect("writes");
        match random.below(8) {
            0 => engine.sync().expect("sync"),
            1 => engine.compact(Cf::Write, &bound(&mut random), &bound(&mut random)),
            _ => {}
        }
    }
    history.batches[half..].iter().for_each(|b| engine.write(b.clone()).expect("writes"));
    for round in 1..=6 {
        let ts = history.end * round / 6;
        if !history.is_locked_below(ts) {
            safe_point.advance(Timestamp(ts));
        }
        for _ in 0..3 {
            match random.below(8) {
                0 => engine.sync().expect("sync"),
                1 => engine.write(history.late_marks()).expect("writes"),
                2 => {
                    let budget = Budget { records_max: 20, removals_max: 10 };
                    let mut range = KeyRange::all();
                    range.start = key_of(random.below(6) as u8);
                    collect(&engine, &range, &safe_point, budget).expect("sweeps");
                }
                _ => engine.compact(Cf::Write, &bound(&mut random), &bound(&mut random)),
            }
            let now = safe_point.get().0;
            let reader = MvccReader::new(engine.snapshot());
            for at in [now, now + 1, now + random.below(9), history.end, u64::MAX] {
                history.check(&reader, &KeyRange::all(), at.max(now), 4);
            }
        }
    }
    let removed = engine.collected();
    collect(&engine, &KeyRange::all(), &safe_point, Budget::default()).expect("sweeps");
    history.check_from(&engine, safe_point.get().0.max(history.end.saturating_sub(8)));
    removed
}

fn compaction_collects_something<E: Compacts>() {
    let put = |n: u32| ((n % 6) as u8, Event::Put(vec![n as u8; 200]));
    let events: Vec<_> = (0..400u32).map(put).collect();
    assert!(collect_in_compactions::<E>(&History::new(&events), 7) > 100);
}

/// Invariant 18 in all kinds of layouts of levels.
fn all<E: Compacts>(cases: u32) {
    compaction_removes_what_needs_no_order_and_no_second_family::<E>();
    compaction_leaves_what_is_no_record::<E>();
    compaction_collects_something::<E>();
    let config = ProptestConfig {
        max_shrink_iters: 64,
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    };
    let case = |(events, seed): (Vec<(u8, Event)>, u64)| -> TestCaseResult {
        collect_in_compactions::<E>(&History::new(&events), seed);
        Ok(())
    };
    let outcome = TestRunner::new(config).run(&(events(240), 1u64..), case);
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn fjall() {
    all::<FjallEngine>(6);
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks() {
    all::<crate::RocksEngine>(24);
}

#[test]
fn an_older_copy_of_a_record_is_left_to_its_snapshot() {
    let safe_point = GcSafePoint::new();
    safe_point.advance(Timestamp(9));
    let mut gc = CompactionGc::new(&safe_point);
    let put = Write::new(WriteKind::Put, Timestamp(1), Some(b"v".to_vec())).encode();
    let mut may_go = |key: &[u8], ts| gc.may_go(&encode_key_ts(key, Timestamp(ts)), &put);
    assert!(!may_go(b"a", 5) && !may_go(b"a", 5), "a copy of what is kept");
    assert!(may_go(b"a", 4));
    assert!(!may_go(b"b", 4), "the next key begins anew");
    assert!(may_go(b"b", 3));
    for bytes in [&b""[..], b"?", b"P"] {
        assert!(!gc.may_go(bytes, &put) && !gc.may_go(&encode_key_ts(b"b", Timestamp(2)), bytes));
    }
}
