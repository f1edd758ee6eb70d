//! What is visible, and what a store that is closed and opened again still shows. No case here
//! breaks anything.

use super::*;

pub(super) fn run(make: &dyn Fn() -> Box<dyn LogBackend>) {
    let on = |case: fn(&dyn LogStore)| {
        let backend = make();
        case(backend.open().expect("an empty store opens").as_ref());
    };
    on(entries_are_readable_at_once);
    on(a_tail_is_overwritten);
    on(compaction_and_reset);
    on(groups_do_not_mix);
    on(holes_are_refused);
    reopened(make().as_ref());
    purge_keeps_what_is_needed(make().as_ref());
    for seed in 1..=20 {
        agrees_with_the_model(make().as_ref(), seed);
    }
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
    one(store, A, LogOp::HardState(hard));
    assert_eq!(group(store, A).hard, hard);
    assert_eq!(store.term(A, 11).expect("the store answers"), None);
    let before_the_first = store.term(A, 0).expect("the store answers");
    assert_eq!(before_the_first, Some(0), "the truncated position of a new group");
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
    one(store, A, LogOp::CompactTo(Applied { index: 6, term: 4 }));
    assert_eq!(terms(store, A), [(7, 4), (8, 4), (9, 4)]);
    assert_eq!(store.term(A, 6).expect("the store answers"), Some(4));
    assert_eq!(store.term(A, 5).expect("the store answers"), None);
    assert!(store.entries(A, 6, 8, u64::MAX, &mut Vec::new()).is_err());
    one(store, A, LogOp::CompactTo(Applied { index: 2, term: 4 }));
    assert_eq!(group(store, A).truncated.index, 6, "compaction never goes back");
    let at = Applied { index: 50, term: 7 };
    one(store, A, LogOp::Restoring(at));
    assert_eq!(group(store, A).restoring, Some(at));
    one(store, A, LogOp::Reset(at));
    let log = group(store, A);
    assert_eq!((log.last, log.restoring), (at, None));
    append(store, A, 51..=52, 8);
    assert_eq!(terms(store, A), [(51, 8), (52, 8)]);
}

fn groups_do_not_mix(store: &dyn LogStore) {
    let batch = vec![
        (A, LogOp::Append(vec![entry(1, 1)])),
        (B, LogOp::Append(vec![entry(1, 2), entry(2, 2)])),
        (A, LogOp::Append(vec![entry(2, 1)])),
    ];
    store.append(batch).expect("the store takes a batch");
    assert_eq!(terms(store, A), [(1, 1), (2, 1)]);
    assert_eq!(terms(store, B), [(1, 2), (2, 2)]);
    one(store, A, LogOp::Destroy);
    assert!(store.group(A).is_none());
    assert_eq!(store.recover().expect("the store answers").len(), 1);
    append(store, A, 1..=1, 9);
    assert_eq!(terms(store, A), [(1, 9)], "the same id, from the start");
}

fn holes_are_refused(store: &dyn LogStore) {
    append(store, A, 1..=2, 1);
    assert!(store.append(vec![(A, LogOp::Append(vec![entry(4, 1)]))]).is_err());
}

fn reopened(backend: &dyn LogBackend) {
    if !backend.is_durable() {
        return;
    }
    let hard = HardState { term: 5, vote: 3, commit: 17 };
    {
        let store = backend.open().expect("opens");
        append(store.as_ref(), A, 1..=20, 1);
        append(store.as_ref(), B, 1..=3, 2);
        one(store.as_ref(), A, LogOp::HardState(hard));
        one(store.as_ref(), A, LogOp::CompactTo(Applied { index: 4, term: 1 }));
        store.sync().expect("syncs");
    }
    let store = backend.open().expect("opens again");
    assert_eq!(terms(store.as_ref(), A), (5..=20).map(|i| (i, 1)).collect::<Vec<_>>());
    assert_eq!(terms(store.as_ref(), B), [(1, 2), (2, 2), (3, 2)]);
    assert_eq!(group(store.as_ref(), A).hard, hard);
    // And it goes on.
    append(store.as_ref(), A, 21..=21, 6);
    store.sync().expect("syncs");
    drop(store);
    let store = backend.open().expect("opens again");
    assert_eq!(group(store.as_ref(), A).last, Applied { index: 21, term: 6 });
}

fn purge_keeps_what_is_needed(backend: &dyn LogBackend) {
    let mut store = backend.open().expect("opens");
    append(store.as_ref(), B, 1..=3, 1);
    for round in 0..60u64 {
        append(store.as_ref(), A, round * 10 + 1..=round * 10 + 10, 1);
        store.sync().expect("syncs");
        one(store.as_ref(), A, LogOp::CompactTo(Applied { index: round * 10 + 5, term: 1 }));
        store.purge().expect("purges");
        if backend.is_durable() && round % 7 == 0 {
            drop(store);
            store = backend.open().expect("opens again");
            assert_eq!(terms(store.as_ref(), B), [(1, 1), (2, 1), (3, 1)], "round {round}");
            assert_eq!(group(store.as_ref(), A).last.index, round * 10 + 10);
        }
    }
    assert_eq!(terms(store.as_ref(), B), [(1, 1), (2, 1), (3, 1)]);
    let last = terms(store.as_ref(), A).pop();
    assert_eq!(last, Some((600, 1)));
}

/// Everything there is, in any order, with purges, closed and opened now and then.
fn agrees_with_the_model(backend: &dyn LogBackend, seed: u64) {
    let mut work = Workload::new(seed);
    let mut store = backend.open().expect("opens");
    for step in 0..150 {
        store.append(work.batch()).expect("the store takes what the model takes");
        if step % 3 == 0 {
            store.sync().expect("syncs");
        }
        if step % 10 == 0 {
            store.purge().expect("purges");
        }
        if backend.is_durable() && step % 25 == 24 {
            store.sync().expect("syncs");
            drop(store);
            store = backend.open().expect("opens again");
        }
        let found = shown(store.as_ref()).expect("the store answers");
        assert_eq!(found, work.shown(), "seed {seed}, step {step}");
    }
}
