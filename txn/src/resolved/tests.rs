//! Locks in, timestamps out: what holds which region back, and by how much.

use super::*;
use damask_kv::{Engine, MemoryEngine, records_to_batch};
use damask_types::{Epoch, KeyRange, Record};

fn region(id: u64, start: &str, end: &str, version: u64) -> Region {
    let (range, epoch) = (KeyRange::new(start, end), Epoch { conf_ver: 1, version });
    Region { id: RegionId(id), range, epoch, peers: Vec::new() }
}

fn lock(key: &str, kind: LockKind, start_ts: u64, min_commit_ts: u64) -> Record {
    let mut lock = Lock::new(kind, b"p".to_vec(), Timestamp(start_ts), 1);
    lock.min_commit_ts = Timestamp(min_commit_ts);
    Record::Lock { key: key.into(), lock }
}

fn engine(records: &[Record]) -> MemoryEngine {
    let engine = MemoryEngine::new();
    engine.write(records_to_batch(records)).expect("memory");
    engine
}

/// Region, where it is resolved, and the key that is in the way.
type Found = Vec<(u64, u64, Option<String>)>;

fn look(engine: &MemoryEngine, spans: &mut [Span], pushed: &Pushed, mut max: usize) -> Found {
    let looked = under_locks(&*engine.snapshot(), spans, pushed, &mut max).expect("memory is read");
    let text = |held: &KeyLock| String::from_utf8(held.key.clone()).expect("text");
    let one = |s: &Span| (s.region.0, s.ts.0, s.held.as_ref().map(text));
    spans[..looked].iter().map(one).collect()
}

fn spans(regions: &[Region]) -> Vec<Span> {
    let span = |r: &Region| Span::new(r, Timestamp(100), Timestamp::ZERO);
    disjoint(regions.iter().map(span).collect())
}

fn three() -> [Region; 3] {
    [region(1, "", "h", 1), region(2, "h", "p", 1), region(3, "p", "", 1)]
}

#[test]
fn the_lowest_version_that_a_lock_may_commit_at_is_above() {
    let key = |key: &str| Some(key.to_owned());
    let put = |key, start, min| lock(key, LockKind::Put, start, min);
    let engine = engine(&[
        put("a", 60, 0),
        put("b", 50, 71),
        put("c", 200, 0),
        lock("i", LockKind::Pessimistic, 10, 0),
        lock("j", LockKind::Lock, 10, 0),
        lock("k", LockKind::Delete, 40, 101),
        lock("q", LockKind::Delete, 30, 0),
        put("r", 20, 0),
    ]);
    let mut all = spans(&three());
    let found = look(&engine, &mut all, &Pushed::default(), LOCKS_MAX);
    // 50 commits at 71 or above, 40 at 101; what only locks changes nothing.
    assert_eq!(found, [(1, 60, key("a")), (2, 100, None), (3, 20, key("r"))]);
    let mut pushed = Pushed::default();
    pushed.add(Timestamp(60), Timestamp(80));
    pushed.add(Timestamp(20), Timestamp(90));
    pushed.add(Timestamp(20), Timestamp(10));
    let mut all = spans(&three());
    let found = look(&engine, &mut all, &pushed, LOCKS_MAX);
    assert_eq!(found, [(1, 70, key("b")), (2, 100, None), (3, 30, key("q"))]);
}

#[test]
fn a_gap_between_regions_is_nobodys() {
    let put = |key, start| lock(key, LockKind::Put, start, 0);
    let engine = engine(&[put("a", 5), put("d", 50), put("i", 6), put("z", 7)]);
    let mut all = spans(&[region(1, "b", "h", 1), region(3, "p", "z", 1)]);
    let found = look(&engine, &mut all, &Pushed::default(), LOCKS_MAX);
    assert_eq!(found, [(1, 50, Some("d".to_owned())), (3, 100, None)]);
    assert_eq!(look(&engine, &mut [], &Pushed::default(), LOCKS_MAX), []);
}

#[test]
fn a_look_that_has_met_too_many_locks_ends_with_the_region() {
    let keys = ["a", "b", "c", "i", "q"];
    let records: Vec<Record> = keys.map(|key| lock(key, LockKind::Put, 50, 0)).to_vec();
    let engine = engine(&records);
    let mut all = spans(&three());
    let found = look(&engine, &mut all, &Pushed::default(), 2);
    assert_eq!(found, [(1, 50, Some("a".to_owned()))]);
    let found = look(&engine, &mut all[1..], &Pushed::default(), 1);
    assert_eq!(found, [(2, 50, Some("i".to_owned()))]);
    // What is known to be no news is passed at its first lock.
    let mut all = spans(&three());
    all.iter_mut().for_each(|span| span.last = Timestamp(50));
    let found = look(&engine, &mut all, &Pushed::default(), 3);
    assert_eq!(found.len(), 3);
}

#[test]
fn of_descriptions_that_overlap_the_newer_one_counts() {
    let old = region(9, "b", "x", 1);
    let new = [region(1, "b", "h", 2), region(2, "h", "p", 2), region(3, "p", "x", 2)];
    let ids = |regions: &[Region]| -> Vec<u64> {
        spans(regions).iter().map(|span| span.region.0).collect()
    };
    assert_eq!(ids(&[vec![old.clone()], new.to_vec()].concat()), [1, 2, 3]);
    assert_eq!(ids(&[vec![old.clone()], new[1..].to_vec()].concat()), [2, 3]);
    assert_eq!(ids(&[old.clone(), region(8, "x", "", 5), region(7, "a", "b", 1)]), [7, 9, 8]);
    assert_eq!(ids(&[region(1, "", "", 3), old]), [1]);
}

#[test]
fn what_is_not_applied_yet_counts_for_its_region() {
    let mut all = spans(&[region(1, "b", "h", 1), region(3, "p", "", 1)]);
    let one = |key: &str, limit| (encode_key(key.as_bytes()), Timestamp(limit));
    let unfinished = [one("a", 1), one("c", 70), one("d", 60), one("h", 2), one("z", 150)];
    under_unfinished(&mut all, unfinished.into_iter());
    assert_eq!(all.iter().map(|span| span.ts.0).collect::<Vec<_>>(), [60, 100]);
}

#[test]
fn so_many_pushed_transactions_are_remembered() {
    let mut pushed = Pushed::default();
    for n in 0..PUSHED_MAX as u64 + 10 {
        pushed.add(Timestamp(n + 1), Timestamp(1 << 40));
    }
    assert_eq!(pushed.0.len(), PUSHED_MAX);
    let Record::Lock { lock, .. } = lock("a", LockKind::Put, 10, 0) else { unreachable!() };
    assert_eq!(pushed.limit(&lock), Some(Timestamp(10)), "the oldest are forgotten");
}
