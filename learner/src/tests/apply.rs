//! What the log says becomes rows, at the right timestamps.

use super::fixture::*;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use damask_deltatree::ChangeBatch;
use damask_raftstore::StateMachine;
use damask_types::key::{index_key, row_key};
use damask_types::row::encode_row;
use damask_types::schema::IntWidth;
use damask_types::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn long() -> Vec<u8> {
    row(7, &"x".repeat(400))
}

#[test]
fn a_row_is_there_from_its_commit_on() {
    let mut f = Fixture::new();
    let value = row(10, "a");
    f.write(prewrite(1, 20, Some(&value)));
    assert!(f.rows(1000).is_empty(), "a lock is no row");
    assert_eq!(f.machine.stats().locks, 1);
    f.write(commit(1, 20, 30, Some(&value)));
    assert!(f.rows(29).is_empty());
    assert_eq!(f.rows(30), [(1, Some(10), Some("a".into()))]);
    let stats = f.machine.stats();
    assert_eq!((stats.rows, stats.locks, stats.last_commit_ts), (1, 0, Timestamp(30)));
}

#[test]
fn prewrite_and_commit_may_be_one_entry_or_one_call() {
    let mut f = Fixture::new();
    let (short, long) = (row(10, "a"), long());
    let mut records = prewrite(1, 20, Some(&short));
    records.extend(commit(1, 20, 30, Some(&short)));
    f.write(records);
    let batches = vec![
        batch(R, f.index + 1, prewrite(2, 21, Some(&long))),
        batch(R, f.index + 2, commit(2, 21, 31, Some(&long))),
        batch(R, f.index + 3, prewrite(2, 32, Some(&short))),
    ];
    let before = f.machine.stats().batches;
    f.machine.apply(batches).unwrap();
    assert_eq!(f.rows(31).len(), 2);
    assert_eq!(f.rows(31)[1], (2, Some(7), Some("x".repeat(400))));
    let stats = f.machine.stats();
    assert_eq!((stats.batches - before, stats.locks), (1, 1), "the later lock stays");
}

/// Table 1 of the paper (VLDB 2020, 4.2.1): eight records, of which transaction 1 is rolled back, become
/// three rows by column, with their operations and commit timestamps; and in one call.
#[test]
fn the_papers_log_becomes_the_papers_columns() {
    let f = Fixture::new();
    let values = [1, 2, 3].map(|n| row(n, &format!("b{n}")));
    let [one, two, three] = values.each_ref().map(|value| Some(value.as_slice()));
    let log = [
        prewrite(1, 1, one),
        prewrite(2, 2, two),
        prewrite(3, 3, three),
        rollback(1, 1, false),
        commit(2, 2, 4, two),
        commit(3, 3, 5, three),
        prewrite(4, 6, None),
        commit(4, 6, 7, None),
    ];
    let entries = (f.index + 1..).zip(log).map(|(index, records)| batch(R, index, records));
    f.machine.apply(entries.collect()).unwrap();
    let stored = f.store.stored();
    assert_eq!(stored.len(), 1, "one batch of columns");
    let ChangeBatch { table, handles, versions, deleted, columns } = &stored[0];
    assert_eq!((*table, handles.values().as_ref()), (T, &[2, 3, 4][..]));
    assert_eq!(versions.values().as_ref(), [4, 5, 7]);
    assert_eq!(deleted.iter().flatten().collect::<Vec<_>>(), [false, false, true]);
    let a = columns.column(0).as_primitive::<Int64Type>();
    assert_eq!(a.iter().collect::<Vec<_>>(), [Some(2), Some(3), None]);
    let b = columns.column(1).as_string::<i32>();
    assert_eq!(b.iter().collect::<Vec<_>>(), [Some("b2"), Some("b3"), None]);
    assert_eq!(f.machine.stats().locks, 0);
}

#[test]
fn a_full_store_merges_and_goes_on() {
    let mut f = Fixture::new();
    f.store.full.store(3, Ordering::SeqCst);
    let value = row(10, "a");
    f.write(prewrite(1, 20, Some(&value)));
    f.write(commit(1, 20, 30, Some(&value)));
    assert_eq!(f.rows(30), [(1, Some(10), Some("a".into()))]);
    assert_eq!(f.store.full.load(Ordering::SeqCst), 0);
}

#[test]
fn a_rollback_leaves_nothing() {
    let mut f = Fixture::new();
    f.write(prewrite(1, 20, Some(&long())));
    f.write(rollback(1, 20, true));
    f.write(prewrite(2, 21, Some(&row(1, ""))));
    f.write(rollback(2, 21, false));
    assert!(f.rows(1000).is_empty());
    assert_eq!(f.machine.stats().locks, 0);
    let slot = f.machine.slot(R).unwrap();
    assert!(slot.hidden.lock().values.is_empty());
}

#[test]
fn a_delete_hides_the_row_from_its_commit_on() {
    let mut f = Fixture::new();
    let value = row(10, "a");
    f.write(prewrite(1, 20, Some(&value)));
    f.write(commit(1, 20, 30, Some(&value)));
    f.write(prewrite(1, 40, None));
    f.write(commit(1, 40, 50, None));
    assert_eq!((f.rows(49).len(), f.rows(50).len()), (1, 0));
}

#[test]
fn what_is_not_a_row_is_skipped() {
    let mut f = Fixture::new();
    let lock = |kind| Lock::new(kind, key(1), Timestamp(20), 1);
    let index = index_key(T, IndexId(1), &[Datum::Int(1)], Some(1));
    let write = |kind| Write::new(kind, Timestamp(20), Some(b"junk".to_vec()));
    let commit_ts = Timestamp(30);
    f.write(vec![
        Record::Lock { key: index.clone(), lock: lock(LockKind::Put) },
        Record::Lock { key: b"mv".to_vec(), lock: lock(LockKind::Put) },
        Record::Lock { key: key(1), lock: lock(LockKind::Lock) },
        Record::Lock { key: key(2), lock: lock(LockKind::Pessimistic) },
        Record::Write { key: index, commit_ts, write: write(WriteKind::Put) },
        Record::Write { key: key(1), commit_ts, write: write(WriteKind::Lock) },
        Record::DropWrite { key: key(1), commit_ts },
    ]);
    assert!(f.rows(1000).is_empty());
    assert_eq!(f.machine.stats().locks, 0);
}

#[test]
fn a_record_written_again_changes_nothing() {
    let mut f = Fixture::new();
    let long = long();
    f.write(prewrite(1, 20, Some(&long)));
    f.write(commit(1, 20, 30, Some(&long)));
    let mut again = Write::new(WriteKind::Put, Timestamp(20), None);
    again.overlapped_rollback = true;
    let record = |write| Record::Write { key: key(1), commit_ts: Timestamp(30), write };
    f.write(vec![record(again.clone())]);
    again.gc_fence = Some(Timestamp(99));
    f.write(vec![record(again)]);
    assert_eq!(f.rows(1000).len(), 1);
    let lost = Write::new(WriteKind::Put, Timestamp(21), None);
    let failed = f.machine.apply(vec![batch(R, 99, vec![record(lost)])]).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
    let failed = f.machine.sync().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Poisoned, "half an apply is never made durable");
}

#[test]
fn a_newer_column_refreshes_the_schema_once() {
    let mut f = Fixture::new();
    let put = |f: &mut Fixture, handle: i64, value: &[u8]| {
        f.write(prewrite(handle, 20, Some(value)));
        f.write(commit(handle, 20, 30, Some(value)));
    };
    put(&mut f, 1, &row(1, "old"));
    let asked = f.source.refreshes.load(Ordering::SeqCst);
    let int = ColumnType::Int { width: IntWidth::Big, unsigned: false };
    f.source.catalog.lock().insert(T, Arc::new(schema(T, &[column(4, int)])));
    let two = Datum::Int(2);
    let newer = encode_row(&[(ColumnId(2), &two), (ColumnId(4), &Datum::Int(44))]);
    // In one call: before and after the change.
    let mut records = Vec::new();
    for (handle, value) in [(2, row(2, "b")), (3, newer.clone()), (4, newer.clone())] {
        records.extend(prewrite(handle, 40, Some(&value)));
        records.extend(commit(handle, 40, 50, Some(&value)));
    }
    f.write(records);
    put(&mut f, 5, &newer);
    assert_eq!(f.source.refreshes.load(Ordering::SeqCst), asked + 1);
    assert_eq!(f.rows(1000).len(), 5);
    // A column below the newest id that is not there was dropped.
    let mut dropped = schema(T, &[]);
    dropped.max_column_id = ColumnId(9);
    f.source.catalog.lock().insert(T, Arc::new(dropped));
    let nine = encode_row(&[(ColumnId(9), &two)]);
    put(&mut f, 6, &nine);
    // A column that nobody knows stops the replica.
    let ten = encode_row(&[(ColumnId(10), &two)]);
    let records = commit(7, 20, 30, Some(&ten));
    assert_eq!(
        f.machine.apply(vec![batch(R, 99, records)]).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

/// With the periodic look rows after a change ask for nothing; an answer that is older than what a
/// row was told meanwhile is not used, and a dropped table keeps what it had.
#[test]
fn a_look_at_the_schemas_is_ahead_of_the_rows_and_never_behind_them() {
    let mut f = Fixture::new();
    f.write(commit(1, 20, 30, Some(&row(1, "old"))));
    let asked = f.source.refreshes.load(Ordering::SeqCst);
    assert_eq!(f.machine.refresh_schemas(), 0, "nothing has changed");
    let int = ColumnType::Int { width: IntWidth::Big, unsigned: false };
    let with = |ids: &[i64], version| {
        let columns: Vec<_> = ids.iter().map(|id| column(*id, int.clone())).collect();
        Arc::new(TableSchema { version, ..schema(T, &columns) })
    };
    let before = f.source.catalog.lock()[&T].version;
    f.source.catalog.lock().insert(T, with(&[4], before + 1));
    assert_eq!((f.machine.refresh_schemas(), f.machine.refresh_schemas()), (1, 0));
    let with_four = encode_row(&[(ColumnId(4), &Datum::Int(44))]);
    f.write(commit(2, 40, 50, Some(&with_four)));
    assert_eq!(f.source.refreshes.load(Ordering::SeqCst), asked, "it was known before");

    // Between the answer and its use another column comes, and a row of it.
    f.source.catalog.lock().insert(T, with(&[4, 5], before + 2));
    let (machine, source) = (f.machine.clone(), f.source.clone());
    let newest = with(&[4, 5, 6], before + 3);
    let with_six = encode_row(&[(ColumnId(6), &Datum::Int(66))]);
    f.index += 1;
    let at = f.index;
    *f.source.after_glance.lock() = Some(Box::new(move || {
        source.catalog.lock().insert(T, newest.clone());
        let records = commit(3, 60, 70, Some(&with_six));
        machine.apply(vec![batch(R, at, records)]).unwrap();
    }));
    assert_eq!(f.machine.refresh_schemas(), 0, "the row was told something newer");
    *f.source.after_glance.lock() = None;
    assert_eq!(f.source.refreshes.load(Ordering::SeqCst), asked + 1);
    let with_both = encode_row(&[(ColumnId(5), &Datum::Int(5)), (ColumnId(6), &Datum::Int(6))]);
    f.write(commit(4, 80, 90, Some(&with_both)));
    assert_eq!(f.source.refreshes.load(Ordering::SeqCst), asked + 1);
    f.source.catalog.lock().remove(&T);
    assert_eq!(f.machine.refresh_schemas(), 0);
    f.write(commit(5, 80, 90, Some(&with_both)));
    assert_eq!((f.machine.stats().skipped, f.rows(1000).len()), (0, 5));
}

#[test]
fn rows_of_a_dropped_table_are_skipped() {
    let mut f = Fixture::new();
    let gone = row_key(TableId(101), 1);
    let value = Some(row(1, "a"));
    let write = Write::new(WriteKind::Put, Timestamp(20), value);
    let record = Record::Write { key: gone, commit_ts: Timestamp(30), write };
    f.write(vec![record.clone(), record]);
    assert_eq!(f.machine.stats().skipped, 2);
    assert_eq!(f.machine.stats().rows, 0);
}

#[test]
fn rows_are_stored_before_locks_are_dropped() {
    let mut f = Fixture::new();
    let value = row(1, "a");
    f.write(prewrite(1, 20, Some(&value)));
    let machine = f.machine.clone();
    let seen = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (count, index) = (seen.clone(), f.index);
    *f.store.before_apply.lock() = Some(Box::new(move || {
        let slot = machine.slot(R).unwrap();
        let now = slot.seen.lock();
        assert_eq!(now.locks.len(), 1, "the lock still hides the row");
        assert_eq!(now.locks[&key(1)].start_ts, Timestamp(20), "not yet the next one");
        assert_eq!(now.state.applied.index, index);
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let batches = vec![
        batch(R, f.index + 1, commit(1, 20, 30, Some(&value))),
        batch(R, f.index + 2, prewrite(1, 40, Some(&value))),
    ];
    f.machine.apply(batches).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}
