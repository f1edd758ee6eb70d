//! Ingest of sorted rows, into free ranges and into ranges that hold rows. It must never let a
//! write that races with an ingest get lost.

use super::*;
use crate::MemoryColumnStore;
use crate::store::ScanRequest;
use crate::testing::Numbers;
use arrow::array::{ArrayRef, RecordBatch};

const TABLE: TableId = TableId(100);

/// Ascending rows, several versions of some handles, deletions; later batches have a column more.
fn batches(numbers: &mut Numbers, first: i64, count: usize, size: usize) -> Vec<ChangeBatch> {
    let mut keys = Vec::new();
    let mut handle = first;
    while keys.len() < count {
        for version in 0..1 + numbers.below(3) * numbers.below(2) {
            keys.push((handle, 10 + version * 10 + numbers.below(10)));
        }
        handle += 1 + numbers.below(2) as i64;
    }
    let batch = |(index, keys): (usize, &[(i64, u64)])| {
        let value = |&(h, v): &(i64, u64)| Some(h.wrapping_mul(1000).wrapping_add(v as i64));
        let number: ArrayRef = Arc::new(keys.iter().map(value).collect::<Int64Array>());
        let mut columns = vec![("1", number)];
        if index > 0 {
            let text = keys.iter().map(|(h, v)| format!("{h} at {v}"));
            columns.push(("2", Arc::new(StringArray::from_iter_values(text))));
        }
        let fields = columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        ChangeBatch {
            table: TABLE,
            handles: Int64Array::from_iter_values(keys.iter().map(|k| k.0)),
            versions: UInt64Array::from_iter_values(keys.iter().map(|k| k.1)),
            deleted: BooleanArray::from_iter(keys.iter().map(|k| Some(k.1 % 5 == 0))),
            columns: RecordBatch::try_new(schema, columns).expect("columns of one length"),
        }
    };
    keys.chunks(size).enumerate().map(batch).collect()
}

fn rows_of(store: &dyn ColumnStore, ts: u64) -> Vec<(i64, Option<i64>, Option<String>)> {
    let fields = vec![
        Field::new("handle", DataType::Int64, true),
        Field::new("1", DataType::Int64, true),
        Field::new("2", DataType::Utf8, true),
    ];
    let number: ArrayRef = Arc::new(Int64Array::from(vec![None::<i64>]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["default"]));
    let request = ScanRequest {
        schema: Arc::new(Schema::new(fields)),
        defaults: vec![number.clone(), number, text],
        ..request(ts)
    };
    let mut rows = Vec::new();
    let parts = store.snapshot(TABLE).expect("a snapshot").scan(&request, 2).expect("a scan");
    for batch in parts.into_iter().flatten() {
        let batch = batch.expect("a batch");
        let handles = batch.column(0).as_primitive::<Int64Type>();
        let numbers = batch.column(1).as_primitive::<Int64Type>().iter();
        let texts = batch.column(2).as_string::<i32>().iter();
        let others = numbers.zip(texts).map(|(n, t)| (n, t.map(str::to_owned)));
        rows.extend(handles.values().iter().zip(others).map(|(h, (n, t))| (*h, n, t)));
    }
    rows.sort();
    rows
}

fn agree(tree: &dyn ColumnStore, model: &dyn ColumnStore) {
    for ts in [5, 12, 17, 20, 25, 33, 40, u64::MAX] {
        assert_eq!(rows_of(tree, ts), rows_of(model, ts), "at {ts}");
    }
}

fn ingest(store: &dyn ColumnStore, range: HandleRange, batches: &[ChangeBatch]) -> Result<()> {
    store.ingest(TABLE, range, &mut batches.iter().cloned().map(Ok))
}

#[test]
fn ingested_rows_go_straight_to_stable_files_and_stay() {
    for seed in 0..5 {
        let mut numbers = Numbers(seed);
        let disk = MemoryDisk::new();
        let tree = DeltaTree::open(Arc::new(disk.clone()), Config::small()).expect("it opens");
        let model = MemoryColumnStore::new();
        for (first, last) in [(0, 999), (2000, i64::MAX), (i64::MIN, -1)] {
            let size = 1 + numbers.below(60) as usize;
            let all = batches(&mut numbers, first, 400, size);
            let range = HandleRange { first, last };
            ingest(&tree, range, &all).expect("ingested");
            ingest(&model, range, &all).expect("ingested");
            agree(&tree, &model);
        }
        let written = tree.written();
        assert_eq!((written.log, written.merge), (0, 0), "no detour");
        assert!(written.flush > 0 && written.applied > 0);
        // durable before a sync: rows newer than the marks
        let image = Arc::new(disk.crash_image(|_| 0));
        let again = DeltaTree::open(image, Config::small()).expect("it opens");
        agree(&again, &model);
        // writes over it, a second ingest over the first, merges
        let update = batches(&mut numbers, 10, 100, 50);
        for store in [&tree as &dyn ColumnStore, &model] {
            update.iter().for_each(|batch| store.apply(batch).expect("applied"));
        }
        agree(&tree, &model);
        let range = HandleRange { first: 300, last: 600 };
        let all = batches(&mut numbers, 300, 90, 20);
        ingest(&tree, range, &all).expect("ingested");
        ingest(&model, range, &all).expect("ingested");
        agree(&tree, &model);
        tree.sync(&[]).expect("synced");
        while tree.maintain(Timestamp(0), u64::MAX).expect("merged") {}
        agree(&tree, &model);
        let image = Arc::new(disk.crash_image(|_| 0));
        agree(&DeltaTree::open(image, Config::small()).expect("it opens"), &model);
    }
}

#[test]
fn a_write_during_an_ingest_is_kept() {
    let tree = DeltaTree::open(Arc::new(MemoryDisk::new()), Config::small()).expect("it opens");
    let model = MemoryColumnStore::new();
    let all = batches(&mut Numbers(3), 0, 200, 30);
    let late = batches(&mut Numbers(4), 50, 40, 40);
    let range = HandleRange { first: 0, last: 5000 };
    let mut rows = all.iter().enumerate().map(|(index, batch)| {
        if index == 3 {
            late.iter().for_each(|batch| tree.apply(batch).expect("applied"));
            tree.sync(&[]).expect("synced");
        }
        Ok(batch.clone())
    });
    tree.ingest(TABLE, range, &mut rows).expect("ingested");
    ingest(&model, range, &all).expect("ingested");
    late.iter().for_each(|batch| model.apply(batch).expect("applied"));
    agree(&tree, &model);
    while tree.maintain(Timestamp(0), u64::MAX).expect("merged") {}
    agree(&tree, &model);
}

#[test]
fn a_wrong_ingest_leaves_nothing_behind() {
    let disk = MemoryDisk::new();
    let tree = DeltaTree::open(Arc::new(disk.clone()), Config::small()).expect("it opens");
    let good = batches(&mut Numbers(1), 0, 300, 50);
    let range = HandleRange { first: 0, last: 1000 };
    let mut backwards = good.clone();
    backwards.swap(3, 4);
    let mut elsewhere = good.clone();
    elsewhere[2].table = TableId(7);
    let narrow = HandleRange { first: 0, last: 40 };
    for (range, rows) in [(range, &backwards), (range, &elsewhere), (narrow, &good)] {
        let error = ingest(&tree, range, rows).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(rows_of(&tree, u64::MAX).is_empty());
    }
    assert!(disk.files().iter().all(|(name, _)| !name.starts_with("stable/")));
    ingest(&tree, range, &good).expect("ingested");
    assert!(!rows_of(&tree, u64::MAX).is_empty());
}

#[test]
fn a_removal_that_is_not_durable_is_not_overtaken() {
    let disk = MemoryDisk::new();
    let tree = DeltaTree::open(Arc::new(disk.clone()), Config::small()).expect("it opens");
    tree.apply(&rows(0..40, 5)).expect("applied");
    tree.sync(&[(1, vec![1])]).expect("synced");
    tree.clear(TABLE, HandleRange::ALL).expect("cleared");
    let all = batches(&mut Numbers(1), 0, 100, 50);
    ingest(&tree, HandleRange::ALL, &all).expect("ingested");
    // the mark speaks of 40 rows: a crash must not leave it with others only
    let image = Arc::new(disk.crash_image(|unsynced| unsynced));
    let again = DeltaTree::open(image, Config::small()).expect("it opens");
    assert_eq!(again.marks().expect("marks"), [(1, vec![1])]);
    assert_eq!(rows_of(&again, 9).len(), 40);
}
