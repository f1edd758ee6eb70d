//! Reads of versions: each rule by hand, then everything against a map of versions. No test here
//! may depend on a backend's own order of work.

mod steps;

use super::*;
use crate::EngineConfig;
use crate::engine::{Engine, WriteBatch};
use crate::memory::MemoryEngine;
use crate::records::records_to_batch;
use crate::testing::history::{History as RandomHistory, events, key_of};
use crate::testing::{Random, Scratch};
use damask_types::mutation::SHORT_VALUE_MAX;
use damask_types::{LockKind, Record};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::path::Path;

const fn ts(n: u64) -> Timestamp {
    Timestamp(n)
}

/// What a test writes: a history of one key after another.
#[derive(Default)]
struct History {
    records: Vec<Record>,
}

impl History {
    fn commit(mut self, key: &str, start: u64, commit: u64, value: Option<&[u8]>) -> History {
        let (key, kind) =
            (key.as_bytes().to_vec(), value.map_or(WriteKind::Delete, |_| WriteKind::Put));
        let short = value.filter(|v| v.len() <= SHORT_VALUE_MAX).map(<[u8]>::to_vec);
        if let (Some(value), None) = (value, &short) {
            let (key, value) = (key.clone(), value.to_vec());
            self.records.push(Record::Value { key, start_ts: ts(start), value });
        }
        let write = Write::new(kind, ts(start), short);
        self.records.push(Record::Write { key, commit_ts: ts(commit), write });
        self
    }

    fn record(mut self, key: &str, commit: u64, write: Write) -> History {
        let key = key.as_bytes().to_vec();
        self.records.push(Record::Write { key, commit_ts: ts(commit), write });
        self
    }

    fn lock(self, key: &str, kind: LockKind, start: u64) -> History {
        self.lock_with(key, Lock::new(kind, b"primary".to_vec(), ts(start), 3000))
    }

    fn lock_with(mut self, key: &str, lock: Lock) -> History {
        self.records.push(Record::Lock { key: key.as_bytes().to_vec(), lock });
        self
    }

    fn reader(&self) -> MvccReader {
        let engine = MemoryEngine::new();
        engine.write(records_to_batch(&self.records)).expect("memory");
        MvccReader::new(engine.snapshot())
    }
}

fn get(reader: &MvccReader, key: &str, at: u64) -> Option<Vec<u8>> {
    match reader.get(key.as_bytes(), ts(at)).expect("reads") {
        Read::Ok(value) => value.map(|v| v.to_vec()),
        Read::Blocked(lock) => panic!("blocked by {lock:?}"),
    }
}

fn is_blocked(reader: &MvccReader, key: &str, at: Timestamp) -> bool {
    let point = matches!(reader.get(key.as_bytes(), at).expect("reads"), Read::Blocked(_));
    let range = KeyRange::point(key.as_bytes());
    for reverse in [false, true] {
        let scan = reader.scan(&range, at, 10, reverse).expect("scans");
        assert_eq!(matches!(scan, Read::Blocked(_)), point, "get and scan agree on {key}");
    }
    point
}

#[test]
fn a_read_sees_the_newest_commit_at_or_below() {
    let long = vec![7u8; SHORT_VALUE_MAX + 1];
    let reader = History::default()
        .commit("a", 1, 5, Some(b"v5"))
        .commit("a", 8, 10, Some(&long))
        .commit("a", 12, 15, None)
        .record("a", 18, Write::rollback(ts(18), true))
        .record("a", 20, Write::new(WriteKind::Lock, ts(19), None))
        .commit("a", 24, 25, Some(b""))
        .reader();
    for (at, expected) in [
        (4, None),
        (5, Some(&b"v5"[..])),
        (9, Some(b"v5")),
        (10, Some(&long)),
        (14, Some(&long)),
        (15, None),
        (20, None),
        (24, None),
        (25, Some(b"")),
        (u64::MAX, Some(b"")),
    ] {
        assert_eq!(get(&reader, "a", at).as_deref(), expected, "at {at}");
    }
    assert_eq!(get(&reader, "", 100), None);
    assert_eq!(get(&reader, "aa", 100), None);
}

#[test]
fn only_an_earlier_undecided_write_blocks() {
    let mut pushed = Lock::new(LockKind::Put, b"primary".to_vec(), ts(10), 3000);
    pushed.min_commit_ts = ts(30);
    let reader = History::default()
        .commit("put", 1, 5, Some(b"old"))
        .lock("put", LockKind::Put, 10)
        .lock("delete", LockKind::Delete, 10)
        .lock("lock", LockKind::Lock, 10)
        .lock("pessimistic", LockKind::Pessimistic, 10)
        .lock_with("pushed", pushed)
        .reader();
    for (key, at, expected) in [
        ("put", 9, false),
        ("put", 10, true),
        ("put", u64::MAX, true),
        ("delete", 9, false),
        ("delete", 10, true),
        ("lock", 50, false),
        ("pessimistic", 50, false),
        ("pushed", 29, false),
        ("pushed", 30, true),
    ] {
        assert_eq!(is_blocked(&reader, key, ts(at)), expected, "{key} at {at}");
    }
    let bypass = reader.bypassing([ts(10)]);
    assert!(!is_blocked(&bypass, "put", ts(50)));
    assert_eq!(get(&bypass, "put", 50).as_deref(), Some(&b"old"[..]));
}

#[test]
fn the_latest_ignores_an_undecided_primary_but_not_an_async_one() {
    let own = Lock::new(LockKind::Put, b"own".to_vec(), ts(10), 3000);
    let mut asynchronous = Lock::new(LockKind::Put, b"async".to_vec(), ts(10), 3000);
    asynchronous.secondaries = Some(Vec::new());
    let reader = History::default()
        .commit("own", 1, 5, Some(b"old"))
        .lock_with("own", own.clone())
        .lock_with("secondary", own)
        .lock_with("async", asynchronous)
        .reader();
    assert!(!is_blocked(&reader, "own", Timestamp::MAX));
    assert_eq!(get(&reader, "own", u64::MAX).as_deref(), Some(&b"old"[..]));
    assert!(is_blocked(&reader, "own", ts(50)), "only the latest may ignore it");
    assert!(is_blocked(&reader, "secondary", Timestamp::MAX));
    assert!(is_blocked(&reader, "async", Timestamp::MAX));
}

#[test]
fn a_fence_hides_a_record_whose_successor_is_gone() {
    let mut fenced = Write::new(WriteKind::Put, ts(1), Some(b"v".to_vec()));
    fenced.overlapped_rollback = true;
    fenced.gc_fence = Some(ts(20));
    let mut open = fenced.clone();
    open.gc_fence = Some(Timestamp::ZERO);
    let reader = History::default().record("a", 5, fenced).record("b", 5, open).reader();
    assert_eq!(get(&reader, "a", 19).as_deref(), Some(&b"v"[..]));
    assert_eq!(get(&reader, "a", 20), None);
    assert_eq!(get(&reader, "b", 20).as_deref(), Some(&b"v"[..]));
    for reverse in [false, true] {
        let scan = reader.scan(&KeyRange::all(), ts(20), 10, reverse).expect("scans");
        assert_eq!(scan, Read::Ok(vec![(b"b".to_vec(), b"v".to_vec())]));
    }
}

#[test]
fn a_transaction_is_found_by_its_start() {
    let mut overlapped = Write::new(WriteKind::Put, ts(30), Some(b"x".to_vec()));
    overlapped.overlapped_rollback = true;
    let reader = History::default()
        .commit("a", 10, 20, Some(b"1"))
        .record("a", 25, Write::rollback(ts(25), false))
        .record("a", 40, overlapped)
        .commit("a", 45, 50, Some(b"2"))
        .record("a", 55, Write::rollback(ts(55), true))
        .reader();
    let find = |start| reader.find_by_start_ts(b"a", ts(start)).expect("reads");
    let TxnRecord::Found { commit_ts, write } = find(10) else { panic!("{:?}", find(10)) };
    assert_eq!((commit_ts, write.kind), (ts(20), WriteKind::Put));
    let TxnRecord::Found { commit_ts, write } = find(25) else { panic!("{:?}", find(25)) };
    assert_eq!((commit_ts, write.kind), (ts(25), WriteKind::Rollback));
    assert_eq!(find(40), TxnRecord::OverlappedRollback);
    let TxnRecord::None { overlapped: Some(found) } = find(20) else { panic!("{:?}", find(20)) };
    assert_eq!((found.write.start_ts, found.gc_fence), (ts(10), ts(40)));
    let TxnRecord::None { overlapped: Some(found) } = find(50) else { panic!("{:?}", find(50)) };
    assert_eq!((found.write.start_ts, found.gc_fence), (ts(45), Timestamp::ZERO));
    for start in [1, 11, 33, 60] {
        assert_eq!(find(start), TxnRecord::None { overlapped: None }, "{start}");
    }
    let newest = |at| reader.seek_write(b"a", ts(at)).expect("reads").map(|(ts, _)| ts.0);
    assert_eq!(
        [newest(u64::MAX), newest(54), newest(49), newest(20), newest(19)],
        [Some(55), Some(50), Some(40), Some(20), None]
    );
    let (_, write) = reader.seek_write(b"a", ts(50)).expect("reads").expect("a commit");
    assert_eq!(reader.load_value(b"a", &write).expect("reads").as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_lost_long_value_is_corruption_and_not_absence() {
    let key = b"a".to_vec();
    let write = Write::new(WriteKind::Put, ts(1), None);
    let history = History { records: vec![Record::Write { key, commit_ts: ts(5), write }] };
    let reader = history.reader();
    let all = KeyRange::all();
    let errors = [
        reader.get(b"a", ts(9)).expect_err("no value"),
        reader.scan(&all, ts(9), 10, false).expect_err("no value"),
        reader.scan(&all, ts(9), 10, true).expect_err("no value"),
    ];
    assert!(errors.iter().all(|e| e.kind() == ErrorKind::Corrupt), "{errors:?}");
    let mut rows = Rows::default();
    rows.push(b"k", b"v");
    let mut scan = reader.scanner(&all, ts(9)).expect("a scan");
    scan.next_block(10, &mut rows).expect_err("no value");
    assert_eq!(rows.iter().collect::<Vec<_>>(), [(&b"k"[..], &b"v"[..])], "no half row stays");
}

#[test]
fn bad_bytes_are_corruption() {
    let engine = MemoryEngine::new();
    let mut batch = WriteBatch::default();
    batch.put(Cf::Write, encode_key_ts(b"a", ts(5)), b"?".to_vec());
    batch.put(Cf::Lock, encode_key(b"b"), b"?".to_vec());
    batch.put(Cf::Write, b"short".to_vec(), b"?".to_vec());
    engine.write(batch).expect("memory");
    let reader = MvccReader::new(engine.snapshot());
    let corrupt = |e: Error| assert_eq!(e.kind(), ErrorKind::Corrupt);
    corrupt(reader.get(b"a", ts(9)).expect_err("a bad record"));
    corrupt(reader.get(b"b", ts(9)).expect_err("a bad lock"));
    corrupt(reader.load_lock(b"b").expect_err("a bad lock"));
    corrupt(reader.scan_locks(&KeyRange::all(), |_| true, 9).expect_err("a bad lock"));
    corrupt(reader.scan(&KeyRange::all(), ts(9), 9, false).expect_err("bad bytes"));
    corrupt(reader.scan(&KeyRange::all(), ts(9), 9, true).expect_err("bad bytes"));
}

#[test]
fn a_scan_goes_past_many_versions_and_many_locks() {
    let mut history = History::default();
    for key in 0..20 {
        for version in 1..=40u64 {
            let value = version.to_string();
            let name = format!("k{key:02}");
            history = history.commit(&name, version * 10, version * 10 + 5, Some(value.as_bytes()));
        }
        history = history.lock(&format!("k{key:02}x"), LockKind::Lock, 1);
    }
    let reader = history.lock("k13", LockKind::Put, 300).reader();
    for (at, expected) in [(15, "1"), (205, "20"), (299, "29")] {
        for reverse in [false, true] {
            let scan = reader.scan(&KeyRange::all(), ts(at), 100, reverse).expect("scans");
            let Read::Ok(rows) = scan else { panic!("{scan:?}") };
            assert_eq!(rows.len(), 20);
            assert!(rows.iter().all(|(_, value)| value == expected.as_bytes()), "{rows:?}");
        }
    }
    let mut rows = Rows::default();
    let range = KeyRange::all();
    let mut scan = reader.scanner(&range, ts(300)).expect("a scan");
    assert_eq!(scan.next_block(5, &mut rows).expect("rows"), Read::Ok(5));
    assert_eq!(scan.next_block(5, &mut rows).expect("rows"), Read::Ok(5));
    for _ in 0..2 {
        let Read::Blocked(lock) = scan.next_block(5, &mut rows).expect("a lock") else {
            panic!("k13 is locked")
        };
        assert_eq!(lock.key, b"k13");
        assert_eq!(rows.len(), 13, "rows before the lock are there");
    }
    let locks = reader.scan_locks(&KeyRange::prefix(b"k1"), |lock| lock.kind == LockKind::Lock, 4);
    let keys: Vec<_> = locks.expect("reads").into_iter().map(|found| found.key).collect();
    assert_eq!(keys, [b"k10x", b"k11x", b"k12x", b"k13x"]);
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    (0u8..6, 0u8..7).prop_map(|(low, high)| {
        let end = if high == 6 { Vec::new() } else { key_of(high) };
        KeyRange::new(key_of(low), end)
    })
}

/// Reads at random moments, every way there is, against the map of versions.
fn check_random_moments(
    engine: &dyn Engine,
    history: &RandomHistory,
    range: &KeyRange,
    seed: u64,
    block: usize,
) {
    let reader = MvccReader::new(engine.snapshot());
    let mut random = Random(seed);
    for _ in 0..6 {
        let at = if random.below(8) == 0 { u64::MAX } else { random.below(history.end) };
        history.check(&reader, range, at, block);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn reads_agree_with_a_map_of_versions(
        events in events(90), seed in 1u64.., range in key_range(), block in 1usize..5,
    ) {
        let history = RandomHistory::new(&events);
        let engine = MemoryEngine::new();
        history.write_to(&engine);
        check_random_moments(&engine, &history, &range, seed, block);
    }
}

/// Buffers so small that a history reaches files.
fn small() -> EngineConfig {
    EngineConfig { write_buffer_bytes: 64 << 10, ..EngineConfig::default() }
}

/// One engine for all cases: each is a history of its own after everything was removed.
fn on_disk<E: Engine>(open: impl Fn(&Path) -> crate::Result<E>) {
    let scratch = Scratch::new();
    let engine = open(&scratch.path("engine")).expect("opens");
    let mut runner = TestRunner::new(ProptestConfig::with_cases(24));
    let input = (events(120), 1u64.., key_range(), 1usize..5);
    let outcome = runner.run(&input, |(events, seed, range, block)| {
        let mut batch = WriteBatch::default();
        Cf::ALL.into_iter().for_each(|cf| batch.delete_range(cf, b"", b""));
        engine.write(batch).expect("writes");
        let history = RandomHistory::new(&events);
        for (n, batch) in history.batches.iter().enumerate() {
            engine.write(batch.clone()).expect("writes");
            if (seed + n as u64).is_multiple_of(37) {
                engine.sync().expect("syncs");
            }
        }
        check_random_moments(&engine, &history, &range, seed, block);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn reads_agree_with_a_map_of_versions_in_fjall() {
    on_disk(|path| crate::FjallEngine::open(path, &small()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn reads_agree_with_a_map_of_versions_in_rocksdb() {
    on_disk(|path| crate::RocksEngine::open(path, &small()));
}
