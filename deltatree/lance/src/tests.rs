//! The conformance suites of the seam on Lance, in memory and on files, and what the suites do not
//! see: the marks of several tables, and columns that change their type.

use super::*;
use crate::compact::tier;
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use damask_deltatree::{ChangeBatch, ColumnStore, HandleRange, testing};
use damask_env::{Disk, MemoryDisk, RealDisk};
use damask_types::{ErrorKind, TableId, Timestamp};
use std::sync::Arc;

fn open(disk: Arc<dyn Disk>) -> damask_deltatree::Result<Arc<dyn ColumnStore>> {
    Ok(Arc::new(LanceStore::open(disk, LanceConfig::small())?))
}

#[test]
fn suite_in_memory() {
    testing::suite(|| {
        let disk = MemoryDisk::new();
        Box::new(move || open(Arc::new(disk.clone())).expect("it opens"))
    });
}

#[test]
fn suite_on_a_real_disk() {
    testing::suite(|| {
        let folder = tempfile::tempdir().expect("a folder");
        Box::new(move || {
            let disk = RealDisk::open(folder.path()).expect("a disk");
            open(Arc::new(disk)).expect("it opens")
        })
    });
}

#[test]
fn suite_of_power_cuts_and_failing_disks() {
    testing::crash_suite(&open);
}

#[test]
fn suite_of_flipped_bits() {
    testing::flip_suite(&open);
}

#[test]
fn on_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = || {
        let disk = RealDisk::open(folder.path()).expect("a disk");
        LanceStore::open(Arc::new(disk), LanceConfig::small()).expect("it opens")
    };
    let store = place();
    store.apply(&rows(7, 0..1000, 10)).expect("applied");
    store.sync(&[(1, vec![1])]).expect("synced");
    store.clear(TableId(7), HandleRange { first: 100, last: 199 }).expect("cleared");
    let mut later = rows(7, 500..600, 20);
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None; 100]));
    later.columns = RecordBatch::try_from_iter([("1", nulls)]).expect("a column");
    store.apply(&later).expect("applied: not all batches say that a column has no NULL");
    store.sync(&[(1, vec![2])]).expect("synced");
    drop(store);
    let store = place();
    assert_eq!(store.marks().expect("marks"), [(1, vec![2])]);
    let snapshot = store.snapshot(TableId(7)).expect("a snapshot");
    let count = |ts| snapshot.count(&[HandleRange::ALL], Timestamp(ts)).expect("a count");
    assert_eq!((count(9), count(10), count(20)), (0, 900, 900));
    let stats = store.stats(TableId(7)).expect("stats");
    assert_eq!((stats.stable_rows, stats.delta_rows), (1000, 0));
}

fn rows(table: u64, handles: std::ops::Range<i64>, version: u64) -> ChangeBatch {
    let len = handles.clone().count();
    let ints: ArrayRef = Arc::new(Int64Array::from_iter_values(handles.clone()));
    let texts = StringArray::from_iter_values(handles.clone().map(|h| format!("row {h}")));
    let columns = [("1", ints), ("2", Arc::new(texts) as ArrayRef)];
    ChangeBatch {
        table: TableId(table as _),
        handles: handles.collect::<Vec<_>>().into(),
        versions: UInt64Array::from(vec![version; len]),
        deleted: BooleanArray::from(vec![false; len]),
        columns: RecordBatch::try_from_iter(columns).expect("columns"),
    }
}

/// Two tables and their marks: cut at every operation, no mark speaks of rows that are not there.
#[test]
fn marks_never_run_ahead_of_any_table() {
    for fail_at in 0..60 {
        let disk = MemoryDisk::new();
        let store = open(Arc::new(disk.clone())).expect("it opens");
        let fault = damask_env::Fault { fail_at: Some(fail_at), ..Default::default() };
        disk.set_fault(fault);
        let mut acknowledged = 0u8;
        for round in 1..=4u8 {
            for table in [3, 5] {
                let handle = i64::from(round);
                store.apply(&rows(table, handle..handle + 1, 10)).expect("memory");
            }
            match store.sync(&[(9, vec![round])]) {
                Ok(()) => acknowledged = round,
                Err(_) => break,
            }
        }
        drop(store);
        let image = disk.crash_image(|_| 0);
        let store = open(Arc::new(image)).expect("it opens");
        let marks = store.marks().expect("marks");
        let mark = marks.first().map_or(0, |(_, bytes)| bytes[0]);
        assert!(mark >= acknowledged, "I/O {fail_at}: {mark} < {acknowledged}");
        for table in [3, 5] {
            let snapshot = store.snapshot(TableId(table)).expect("a snapshot");
            let count = snapshot.count(&[HandleRange::ALL], Timestamp::MAX).expect("a count");
            assert!(count >= u64::from(mark), "I/O {fail_at}: table {table} has {count} of {mark}");
        }
    }
}

#[test]
fn a_column_keeps_its_type() {
    let store = open(Arc::new(MemoryDisk::new())).expect("it opens");
    store.apply(&rows(1, 0..3, 10)).expect("applied");
    let mut other = rows(1, 0..3, 20);
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
    other.columns = RecordBatch::try_from_iter([("1", floats.clone())]).expect("a column");
    let error = store.apply(&other).expect_err("it was a whole number");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    other.columns = RecordBatch::try_from_iter([("handle", floats)]).expect("a column");
    let error = store.apply(&other).expect_err("it is the store's own");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn which_fragments_become_one() {
    for (sizes, expected) in [
        (vec![], None),
        (vec![100, 90, 80], None),
        (vec![100, 90, 80, 70], Some(0)),
        (vec![1000, 100, 90, 80, 70], Some(1)),
        (vec![1000, 300, 300, 300, 10], Some(0)),
        (vec![8500, 4000, 2000, 1000], None),
    ] {
        assert_eq!(tier(&sizes), expected, "{sizes:?}");
    }
}
