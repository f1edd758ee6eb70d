//! What every `LogStore` must do. Each case starts from an empty store and says what it proves; it
//! must never depend on timing or on a backend's limits.

use crate::log_store::{HardState, LogEntry, LogOp, LogStore};
use crate::machine::Applied;
use damask_types::RegionId;
use std::sync::Arc;

/// What a crash leaves: `keep(n)` says how many of a file's n unsynced bytes survive.
pub type Crash = Box<dyn Fn(&mut dyn FnMut(usize) -> usize) -> Arc<dyn LogStore>>;

/// A store under test.
pub struct LogHarness {
    /// Empty.
    pub store: Arc<dyn LogStore>,
    /// Opens what a power cut would leave now; `None` for a store without durability.
    pub crash: Option<Crash>,
}

const A: RegionId = RegionId(1);
const B: RegionId = RegionId(2);

fn entry(index: u64, term: u64) -> LogEntry {
    let data = format!("{index}@{term}").repeat(3).into_bytes();
    LogEntry { index, term, data, ..LogEntry::default() }
}

fn append(store: &dyn LogStore, group: RegionId, range: std::ops::RangeInclusive<u64>, term: u64) {
    let entries = range.map(|i| entry(i, term)).collect();
    store.append(vec![(group, LogOp::Append(entries))]).expect("the store answers");
}

fn terms(store: &dyn LogStore, group: RegionId) -> Vec<(u64, u64)> {
    let Some(log) = store.group(group) else { return Vec::new() };
    let mut out = Vec::new();
    let (low, high) = (log.truncated.index + 1, log.last.index + 1);
    store.entries(group, low, high, u64::MAX, &mut out).expect("the store answers");
    for e in &out {
        assert_eq!(*e, entry(e.index, e.term));
        assert_eq!(store.term(group, e.index).expect("the store answers"), Some(e.term));
    }
    out.iter().map(|e| (e.index, e.term)).collect()
}

/// Runs every case, each on a new store.
pub fn log_store_suite(make: &dyn Fn() -> LogHarness) {
    entries_are_readable_at_once(make().store.as_ref());
    a_tail_is_overwritten(make().store.as_ref());
    compaction_and_reset(make().store.as_ref());
    groups_do_not_mix(make().store.as_ref());
    holes_are_refused(make().store.as_ref());
    synced_survives(&make());
    a_crash_keeps_a_prefix(make);
    purge_keeps_what_is_needed(&make());
}

fn entries_are_readable_at_once(store: &dyn LogStore) {
    assert!(store.group(A).is_none());
    append(store, A, 1..=10, 1);
    assert_eq!(terms(store, A), (1..=10).map(|i| (i, 1)).collect::<Vec<_>>());
    let mut some = Vec::new();
    store.entries(A, 3, 11, 1, &mut some).expect("the store answers");
    assert_eq!(some.len(), 1, "at least one, whatever its size");
    store.entries(A, 4, 6, u64::MAX, &mut some).expect("the store answers");
    assert_eq!(some.iter().map(|e| e.index).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(store.entries(A, 10, 12, u64::MAX, &mut some).is_err());
    let hard = HardState { term: 3, vote: 2, commit: 9 };
    store.append(vec![(A, LogOp::HardState(hard))]).expect("the store answers");
    assert_eq!(store.group(A).expect("the store answers").hard, hard);
    assert_eq!(store.term(A, 11).expect("the store answers"), None);
    assert_eq!(
        store.term(A, 0).expect("the store answers"),
        Some(0),
        "the truncated position of a new group"
    );
}

fn a_tail_is_overwritten(store: &dyn LogStore) {
    append(store, A, 1..=5, 1);
    append(store, A, 3..=4, 2);
    assert_eq!(terms(store, A), [(1, 1), (2, 1), (3, 2), (4, 2)]);
    append(store, A, 1..=1, 3);
    assert_eq!(terms(store, A), [(1, 3)]);
}

fn compaction_and_reset(store: &dyn LogStore) {
    append(store, A, 1..=9, 4);
    store
        .append(vec![(A, LogOp::CompactTo(Applied { index: 6, term: 4 }))])
        .expect("the store answers");
    assert_eq!(terms(store, A), [(7, 4), (8, 4), (9, 4)]);
    assert_eq!(store.term(A, 6).expect("the store answers"), Some(4));
    assert_eq!(store.term(A, 5).expect("the store answers"), None);
    assert!(store.entries(A, 6, 8, u64::MAX, &mut Vec::new()).is_err());
    store
        .append(vec![(A, LogOp::CompactTo(Applied { index: 2, term: 4 }))])
        .expect("the store answers");
    assert_eq!(
        store.group(A).expect("the store answers").truncated.index,
        6,
        "compaction never goes back"
    );
    store
        .append(vec![(A, LogOp::Restoring(Applied { index: 50, term: 7 }))])
        .expect("the store answers");
    assert_eq!(
        store.group(A).expect("the store answers").restoring,
        Some(Applied { index: 50, term: 7 })
    );
    store
        .append(vec![(A, LogOp::Reset(Applied { index: 50, term: 7 }))])
        .expect("the store answers");
    let log = store.group(A).expect("the store answers");
    assert_eq!((log.last, log.restoring), (Applied { index: 50, term: 7 }, None));
    append(store, A, 51..=52, 8);
    assert_eq!(terms(store, A), [(51, 8), (52, 8)]);
}

fn groups_do_not_mix(store: &dyn LogStore) {
    let batch = vec![
        (A, LogOp::Append(vec![entry(1, 1)])),
        (B, LogOp::Append(vec![entry(1, 2), entry(2, 2)])),
        (A, LogOp::Append(vec![entry(2, 1)])),
    ];
    store.append(batch).expect("the store answers");
    assert_eq!(terms(store, A), [(1, 1), (2, 1)]);
    assert_eq!(terms(store, B), [(1, 2), (2, 2)]);
    store.append(vec![(A, LogOp::Destroy)]).expect("the store answers");
    assert!(store.group(A).is_none());
    assert_eq!(store.recover().expect("the store answers").len(), 1);
    append(store, A, 1..=1, 9);
    assert_eq!(terms(store, A), [(1, 9)], "the same id, from the start");
}

fn holes_are_refused(store: &dyn LogStore) {
    append(store, A, 1..=2, 1);
    assert!(store.append(vec![(A, LogOp::Append(vec![entry(4, 1)]))]).is_err());
}

fn synced_survives(harness: &LogHarness) {
    let Some(crash) = &harness.crash else { return };
    let store = harness.store.as_ref();
    append(store, A, 1..=20, 1);
    append(store, B, 1..=3, 2);
    let hard = HardState { term: 5, vote: 3, commit: 17 };
    store.append(vec![(A, LogOp::HardState(hard))]).expect("the store answers");
    store
        .append(vec![(A, LogOp::CompactTo(Applied { index: 4, term: 1 }))])
        .expect("the store answers");
    store.sync().expect("the store answers");
    append(store, A, 15..=16, 6);
    let after = crash(&mut |_| 0);
    assert_eq!(terms(after.as_ref(), A), (5..=20).map(|i| (i, 1)).collect::<Vec<_>>());
    assert_eq!(terms(after.as_ref(), B), [(1, 2), (2, 2), (3, 2)]);
    assert_eq!(after.group(A).expect("the store answers").hard, hard);
    // And it goes on.
    append(after.as_ref(), A, 21..=21, 6);
    after.sync().expect("the store answers");
    assert_eq!(after.group(A).expect("the store answers").last, Applied { index: 21, term: 6 });
}

/// Every number of surviving bytes leaves the state before the sync or after it, nothing between.
fn a_crash_keeps_a_prefix(make: &dyn Fn() -> LogHarness) {
    for kept in 0..400 {
        let harness = make();
        let Some(crash) = &harness.crash else { return };
        let store = harness.store.as_ref();
        append(store, A, 1..=2, 1);
        store.sync().expect("the store answers");
        append(store, A, 3..=4, 2);
        append(store, B, 1..=4, 2);
        store.sync().expect("the store answers");
        append(store, A, 4..=9, 3);
        let mut left = kept;
        let after = crash(&mut |unsynced| {
            let keep = unsynced.min(left);
            left -= keep;
            keep
        });
        let found = terms(after.as_ref(), A);
        assert_eq!(found, [(1, 1), (2, 1), (3, 2), (4, 2)], "{kept} bytes");
        assert_eq!(terms(after.as_ref(), B).len(), 4);
    }
}

fn purge_keeps_what_is_needed(harness: &LogHarness) {
    let store = harness.store.as_ref();
    append(store, B, 1..=3, 1);
    for round in 0..60u64 {
        append(store, A, round * 10 + 1..=round * 10 + 10, 1);
        store.sync().expect("the store answers");
        let to = Applied { index: round * 10 + 5, term: 1 };
        store.append(vec![(A, LogOp::CompactTo(to))]).expect("the store answers");
        store.purge().expect("the store answers");
        if let Some(crash) = &harness.crash
            && round % 7 == 0
        {
            let after = crash(&mut |_| 0);
            assert_eq!(terms(after.as_ref(), B), [(1, 1), (2, 1), (3, 1)], "round {round}");
            assert_eq!(after.group(A).expect("the store answers").last.index, round * 10 + 10);
        }
    }
    assert_eq!(terms(store, B), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(terms(store, A), (596..=600).map(|i| (i, 1)).collect::<Vec<_>>());
}
