//! Reads at and above the safe point are the same before, during and after GC, also over a crash.
//! No test here may need a file.

use super::*;
use crate::engine::{Cf, WriteBatch};
use crate::memory::MemoryEngine;
use crate::records::records_to_batch;
use crate::testing::history::{History, events};
use damask_types::codec::{decode_key, split_key_ts};
use damask_types::{KeyRange, Record, Write, WriteKind, WriteRef};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// `P9 D5` = a Put committed at 9 (begun at 8), a Delete at 5; `p` = with a long value; `F9:7` = a
/// Put at 9 whose fence is 7.
fn engine_of(records: &str) -> MemoryEngine {
    let mut all = Vec::new();
    for word in records.split_whitespace() {
        let (kind, rest) = word.split_at(1);
        let (at, fence) = rest.split_once(':').unwrap_or((rest, "0"));
        let at: u64 = at.parse().expect("a version");
        let start = Timestamp(at - 1);
        let short = Some(b"v".to_vec());
        let key = b"key".to_vec();
        let (at, write) = match kind {
            "P" => (at, Write::new(WriteKind::Put, start, short)),
            "p" => {
                let value = vec![b'v'; 300];
                all.push(Record::Value { key: key.clone(), start_ts: start, value });
                (at, Write::new(WriteKind::Put, start, None))
            }
            "F" => {
                let mut write = Write::new(WriteKind::Put, start, short);
                write.overlapped_rollback = true;
                write.gc_fence = Some(Timestamp(fence.parse().expect("a fence")));
                (at, write)
            }
            "D" => (at, Write::new(WriteKind::Delete, start, None)),
            "L" => (at, Write::new(WriteKind::Lock, start, None)),
            "R" => (at, Write::rollback(Timestamp(at), true)),
            other => panic!("{other}"),
        };
        all.push(Record::Write { key, commit_ts: Timestamp(at), write });
    }
    let engine = MemoryEngine::with_crashes();
    engine.write(records_to_batch(&all)).expect("memory");
    engine
}

/// The write records as words, and how many long values there are.
fn left(engine: &dyn Engine) -> (String, usize) {
    let snapshot = engine.snapshot();
    let mut words = Vec::new();
    let mut cursor = snapshot.cursor(Cf::Write, b"", b"").expect("a cursor");
    let mut pair = cursor.seek(b"").expect("seek");
    while let Some((key, value)) = pair {
        let write = WriteRef::decode(value).expect("a record");
        let letter = match write.kind {
            WriteKind::Put if write.gc_fence.is_some() => "F",
            WriteKind::Put if write.short_value.is_none() => "p",
            WriteKind::Put => "P",
            WriteKind::Delete => "D",
            WriteKind::Lock => "L",
            WriteKind::Rollback => "R",
        };
        words.push(format!("{letter}{}", split_key_ts(key).expect("a version").1));
        pair = cursor.next().expect("next");
    }
    let mut cursor = snapshot.cursor(Cf::Default, b"", b"").expect("a cursor");
    let mut values = 0;
    let mut at = cursor.seek(b"").expect("seek").is_some();
    while at {
        values += 1;
        at = cursor.next().expect("next").is_some();
    }
    (words.join(" "), values)
}

fn point(ts: u64) -> GcSafePoint {
    let safe_point = GcSafePoint::new();
    safe_point.advance(Timestamp(ts));
    safe_point
}

#[test]
fn what_goes_and_what_stays() {
    for (before, safe_point, after, values) in [
        ("P9 P5 P3", 0, "P9 P5 P3", 0),
        ("P9 P5 P3", 4, "P9 P5 P3", 0),
        ("P9 P5 P3", 5, "P9 P5", 0),
        ("P9 P5 P3", 8, "P9 P5", 0),
        ("P9 P5 P3", 9, "P9", 0),
        ("p9 p5 p3", 9, "p9", 1),
        ("P9 p5 p3", 9, "P9", 0),
        // The newest delete at or below goes too, with all that it hides.
        ("P9 D5 p3", 8, "P9", 0),
        ("D9 p5 p3", 9, "", 0),
        ("D9 p5 p3", 8, "D9 p5", 1),
        ("D9", 9, "", 0),
        // Lock records and rollbacks hide nothing.
        ("L9 R8 P5 R4 L3 P2", 9, "P5", 0),
        ("L9 R8 P5 R4 L3 P2", 7, "L9 R8 P5", 0),
        ("R9 L7", 9, "", 0),
        ("R9 D7 P5", 9, "", 0),
        // A fence at or below the safe point: the record is seen by nobody, as if deleted.
        ("F5:7 P3", 6, "F5", 0),
        ("F5:7 P3", 7, "", 0),
        ("F5:0 P3", 9, "F5", 0),
        ("P8 F5:7 P3", 7, "P8", 0),
    ] {
        for removals_max in [1, 2, 100] {
            let engine = engine_of(before);
            let budget = Budget { records_max: 3, removals_max };
            collect(&engine, &KeyRange::all(), &point(safe_point), budget).expect("sweeps");
            assert_eq!(left(&engine), (after.to_owned(), values), "{before} under {safe_point}");
            let again = collect(&engine, &KeyRange::all(), &point(safe_point), budget);
            assert_eq!(again.expect("sweeps"), 0, "{before}: a second sweep finds nothing");
        }
    }
}

#[test]
fn the_last_delete_goes_after_everything_it_hides() {
    let engine = engine_of("D9 P7 P5 P3");
    let mut range = KeyRange::all();
    let mut steps = Vec::new();
    loop {
        let budget = Budget { records_max: 1, removals_max: 1 };
        let swept = sweep(&*engine.snapshot(), &range, Timestamp(9), budget).expect("sweeps");
        engine.write(swept.batch).expect("memory");
        steps.push(left(&engine).0);
        match swept.resume {
            Some(resume) => range.start = resume,
            None => break,
        }
    }
    assert_eq!(steps, ["D9 P5 P3", "D9 P3", "D9", ""]);
}

#[test]
fn a_piece_is_bounded_and_ends_between_keys() {
    let engine = MemoryEngine::new();
    let mut records = Vec::new();
    for key in 0..100u8 {
        for version in [2, 4, 6] {
            let write = Write::new(WriteKind::Put, Timestamp(version - 1), Some(vec![key]));
            let commit_ts = Timestamp(version);
            records.push(Record::Write { key: vec![key], commit_ts, write });
        }
    }
    engine.write(records_to_batch(&records)).expect("memory");
    let budget = Budget { records_max: 30, removals_max: 1000 };
    let range = KeyRange::new([10], [90]);
    let swept = sweep(&*engine.snapshot(), &range, Timestamp(6), budget).expect("sweeps");
    assert_eq!((swept.records, swept.removed), (30, 20));
    assert_eq!(swept.resume, Some(vec![20]));
    let budget = Budget { records_max: 1000, removals_max: 7 };
    let swept = sweep(&*engine.snapshot(), &range, Timestamp(6), budget).expect("sweeps");
    assert_eq!((swept.removed, swept.resume), (7, Some(vec![13])), "in the middle of a key");
    let removed = collect(&engine, &range, &point(6), budget).expect("sweeps");
    assert_eq!(removed, 80 * 2, "and nothing outside the range");
}

#[test]
fn many_versions_above_the_safe_point_are_jumped_over() {
    let words: Vec<String> = (10..2000).map(|at| format!("P{at}")).collect();
    let engine = engine_of(&format!("{} P5 P3", words.join(" ")));
    let budget = Budget::default();
    let swept = sweep(&*engine.snapshot(), &KeyRange::all(), Timestamp(9), budget).expect("sweeps");
    assert_eq!(swept.removed, 1);
    assert!(swept.records < 20, "{} records were read", swept.records);
}

#[test]
fn a_bad_record_stops_the_sweep() {
    let engine = engine_of("P9 P5");
    let mut batch = WriteBatch::default();
    batch.put(Cf::Write, damask_types::codec::encode_key_ts(b"key", Timestamp(3)), b"?".to_vec());
    engine.write(batch).expect("memory");
    let swept = sweep(&*engine.snapshot(), &KeyRange::all(), Timestamp(9), Budget::default());
    assert_eq!(swept.expect_err("a bad record").kind(), ErrorKind::Corrupt);
}

#[test]
fn a_read_below_the_safe_point_is_refused_by_name() {
    let safe_point = GcSafePoint::new();
    safe_point.check(Timestamp(0)).expect("nothing was published");
    safe_point.advance(Timestamp(10));
    safe_point.advance(Timestamp(7));
    assert_eq!(safe_point.get(), Timestamp(10), "it never falls");
    safe_point.check(Timestamp(10)).expect("at the safe point");
    safe_point.check(Timestamp::MAX).expect("the latest");
    let error = safe_point.check(Timestamp(9)).expect_err("below");
    assert_eq!(error, BelowSafePoint { ts: Timestamp(9), safe_point: Timestamp(10) });
    let words = Error::from(error).to_string();
    assert!(words.contains("GC life time is shorter than transaction duration"), "{words}");
}

#[test]
fn a_safe_point_that_passes_while_the_snapshot_is_taken_refuses_it() {
    struct Moves(GcSafePoint, MemoryEngine);
    impl Engine for Moves {
        fn snapshot(&self) -> Arc<dyn Snapshot> {
            self.0.advance(Timestamp(10));
            self.1.snapshot()
        }
        fn write(&self, batch: WriteBatch) -> crate::Result<()> {
            self.1.write(batch)
        }
        fn sync(&self) -> crate::Result<()> {
            self.1.sync()
        }
        fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> crate::Result<crate::Estimate> {
            self.1.estimate(cf, start, end)
        }
        fn checkpoint(&self, into: &std::path::Path) -> crate::Result<()> {
            self.1.checkpoint(into)
        }
        fn ingest(&self, cf: Cf) -> crate::Result<Box<dyn crate::Ingestion + '_>> {
            self.1.ingest(cf)
        }
        fn capabilities(&self) -> crate::Capabilities {
            self.1.capabilities()
        }
        fn statistics(&self) -> Vec<(String, u64)> {
            self.1.statistics()
        }
    }
    let safe_point = GcSafePoint::new();
    let engine = Moves(safe_point.clone(), MemoryEngine::new());
    assert!(safe_point.snapshot(&engine, Timestamp(9)).is_err(), "checked after it was taken");
    assert!(safe_point.snapshot(&engine, Timestamp(10)).is_ok());
}

/// Every record that the rules of this module say is garbage is gone, and every value has its
/// record.
fn nothing_removable_is_left(engine: &dyn Engine, safe_point: u64) {
    let snapshot = engine.snapshot();
    let mut kept: BTreeMap<Vec<u8>, Vec<(u64, WriteKind, bool)>> = BTreeMap::new();
    let mut values = 0;
    let mut cursor = snapshot.cursor(Cf::Write, b"", b"").expect("a cursor");
    let mut pair = cursor.seek(b"").expect("seek");
    while let Some((key, value)) = pair {
        let (prefix, ts) = split_key_ts(key).expect("a version");
        let write = WriteRef::decode(value).expect("a record");
        values += usize::from(write.kind == WriteKind::Put && write.short_value.is_none());
        if ts.0 <= safe_point {
            let current = write.is_current_at(Timestamp(safe_point));
            kept.entry(decode_key(prefix).expect("a key"))
                .or_default()
                .push((ts.0, write.kind, current));
        }
        pair = cursor.next().expect("next");
    }
    for (key, records) in kept {
        assert!(matches!(records[..], [(_, WriteKind::Put, true)]), "{key:?}: {records:?}");
    }
    assert_eq!(left(engine).1, values, "values without a record");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Invariant 18, after every piece and after a crash between any two of them.
    #[test]
    fn reads_at_or_above_the_safe_point_are_the_same(
        events in events(40), point_share in 0u64..=100, records_max in 1usize..12,
        removals_max in 1usize..6, crash_after in 0usize..30, keep in 0usize..4,
    ) {
        let history = History::new(&events);
        let mut ts = history.end * point_share / 100;
        while history.is_locked_below(ts) {
            ts -= 1;
        }
        let mut engine = MemoryEngine::with_crashes();
        history.write_to(&engine);
        engine.sync().expect("memory");
        let budget = Budget { records_max, removals_max };
        let mut range = KeyRange::all();
        for piece in 0.. {
            let swept = sweep(&*engine.snapshot(), &range, Timestamp(ts), budget).expect("sweeps");
            prop_assert!(swept.removed as usize <= removals_max + 1);
            engine.write(swept.batch).expect("memory");
            history.check_from(&engine, ts);
            if piece == crash_after {
                // Unsynced pieces go, but for a few of the first.
                engine = engine.crash(keep).expect("made with crashes");
                history.check_from(&engine, ts);
                range.start.clear();
                continue;
            }
            match swept.resume {
                Some(resume) => range.start = resume,
                None => break,
            }
        }
        if ts > 0 {
            nothing_removable_is_left(&engine, ts);
        }
        // A late rollback brings back a record that is gone here: its fence hides it.
        engine.write(history.late_marks()).expect("memory");
        history.check_from(&engine, ts);
        collect(&engine, &KeyRange::all(), &point(ts), budget).expect("sweeps");
        history.check_from(&engine, ts);
    }
}
