//! A small store with everything that files can hold, and everything that can be asked of it. It
//! must never expect anything of the rows: a forged file may lie.

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
    DurationMicrosecondArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema};
use damask_deltatree::{
    Aggregate, ChangeBatch, ColumnSnapshot, ColumnStore, Config, DeltaTree, Fold, Grouping,
    HandleRange, Predicate, Prune, Query, Result, ScanRequest, Test,
};
use damask_env::{Disk, MemoryDisk};
use damask_types::{TableId, Timestamp};
use std::sync::Arc;

const TABLE: TableId = TableId(9);
const HANDLES: i64 = 260;
/// Rows that a store of so few may give in a whole scan, whatever its files say.
const ROWS_MAX: usize = 1 << 22;
/// Rounds of `maintain` after which it never ends.
const MAINTAIN_MAX: usize = 200;

pub type Files = Vec<(String, Vec<u8>)>;

pub fn config() -> Config {
    // packs of 64 rows are large enough to be encoded
    Config { pack_rows: 64, segment_rows_max: 200, merge_rows_min: 60, ..Config::small() }
}

/// A value of each type, by handle and version; some NULL, some that encode well and some not.
fn columns(handles: &[i64], version: u64, narrow: bool) -> RecordBatch {
    let at = |h: i64| (h % 11 != 3).then_some(h % 1000 * 3 + version as i64);
    let noise = |h: i64| (h as u64 ^ version << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let ints = || handles.iter().map(|h| at(*h));
    let words = || handles.iter().map(|h| at(*h).map(|v| format!("some words, {}", v % 5)));
    let decimals = Decimal128Array::from_iter(ints().map(|v| v.map(i128::from)));
    let all: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(ints())),
        Arc::new(UInt64Array::from_iter(handles.iter().map(|h| Some(noise(*h))))),
        Arc::new(Float64Array::from_iter(ints().map(|v| v.map(|v| v as f64 / 3.0)))),
        Arc::new(decimals.with_precision_and_scale(38, 2).expect("38 digits fit")),
        Arc::new(StringArray::from_iter(words())),
        Arc::new(BinaryArray::from_iter(
            handles.iter().map(|h| at(*h).map(|_| noise(*h).to_le_bytes())),
        )),
        Arc::new(Date32Array::from_iter(ints().map(|v| v.map(|v| v as i32)))),
        Arc::new(TimestampMicrosecondArray::from_iter(ints())),
        Arc::new(DurationMicrosecondArray::from_iter(ints())),
    ];
    let named = all.into_iter().enumerate().filter(|(at, _)| !narrow || at % 3 == 0);
    let named = named.map(|(at, array)| (format!("{}", at + 1), array, true));
    RecordBatch::try_from_iter_with_nullable(named).expect("columns of one length")
}

fn batch(handles: Vec<i64>, version: u64, deleted: bool, narrow: bool) -> ChangeBatch {
    ChangeBatch {
        table: TABLE,
        versions: UInt64Array::from(vec![version; handles.len()]),
        deleted: BooleanArray::from(vec![deleted; handles.len()]),
        columns: columns(&handles, version, narrow),
        handles: Int64Array::from(handles),
    }
}

fn every(step: usize) -> Vec<i64> {
    (0..HANDLES).step_by(step).collect()
}

/// The files of a store: two segments, base and history packs, and a log of what came later.
pub fn files() -> Files {
    let disk = MemoryDisk::new();
    let tree = DeltaTree::open(Arc::new(disk.clone()), config()).expect("an empty disk");
    tree.apply(&batch(every(1), 10, false, false)).expect("applied");
    tree.apply(&batch(every(2), 20, false, true)).expect("applied");
    tree.apply(&batch(every(9), 30, true, true)).expect("applied");
    tree.sync(&[(1, b"mark".to_vec())]).expect("synced");
    while tree.maintain(Timestamp(0), u64::MAX).expect("merged") {}
    tree.apply(&batch((20..30).collect(), 40, false, false)).expect("applied");
    tree.clear(TABLE, HandleRange { first: 100, last: 104 }).expect("cleared");
    tree.apply(&batch((95..102).collect(), 50, false, true)).expect("applied");
    tree.sync(&[(1, b"later".to_vec()), (2, b"other".to_vec())]).expect("synced");
    drop(tree);
    let content = |name: String| {
        let bytes = disk.map(&name).expect("it is there").to_vec();
        (name, bytes)
    };
    disk.files().into_iter().map(|(name, _)| content(name)).collect()
}

/// A disk with these files.
pub fn disk(files: &Files) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    for (name, bytes) in files {
        disk.replace(name, bytes).expect("written");
    }
    Arc::new(disk)
}

fn request(ranges: Vec<HandleRange>, ts: u64) -> ScanRequest {
    let handle = Field::new("handle", DataType::Int64, true);
    let all = columns(&[1], 1, false).schema();
    let missing = Field::new("77", DataType::Int64, true);
    let fields = std::iter::once(handle).chain(all.fields().iter().map(|f| (**f).clone()));
    let schema = Schema::new(fields.chain([missing]).collect::<Vec<_>>());
    let defaults = schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
    let schema = Arc::new(schema);
    ScanRequest { ranges, ts: Timestamp(ts), schema, defaults, prune: Vec::new(), batch_rows: 50 }
}

/// Looks at each value, as whoever prints them would.
fn consume(batch: &RecordBatch, rows: &mut usize) {
    *rows += batch.num_rows();
    assert!(*rows < ROWS_MAX, "a scan without end");
    for column in batch.columns() {
        column.to_data().validate_full().expect("an array as arrow wants it");
    }
}

fn filters() -> Vec<Predicate> {
    let number: ArrayRef = Arc::new(Int64Array::from(vec![200]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["some words, 2"]));
    let float: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    vec![
        Predicate { column: 1, test: Test::Less(number) },
        Predicate { column: 5, test: Test::GreaterEqual(text) },
        Predicate { column: 3, test: Test::NotEqual(float) },
        Predicate { column: 7, test: Test::NotNull },
    ]
}

fn aggregate(snapshot: &dyn ColumnSnapshot, query: &Query) -> Result<()> {
    let one = |fold, column| Aggregate { fold, column: Some(column) };
    let mut aggregates = vec![Aggregate { fold: Fold::Count, column: None }];
    aggregates.extend([one(Fold::Sum, 1), one(Fold::Sum, 2), one(Fold::Avg, 3), one(Fold::Sum, 0)]);
    // a forged decimal may be too large for a sum, which is an error of its own
    let extreme = [Fold::Min, Fold::Max];
    aggregates.extend((0..11).map(|at| one(extreme[at % 2], at)));
    for groups in [vec![], vec![5, 1]] {
        let grouping = Grouping {
            groups,
            aggregates: aggregates.clone(),
            groups_max: 1000,
            ..Grouping::default()
        };
        if let Some(batch) = snapshot.aggregate(query, &grouping, 2)? {
            consume(&batch, &mut 0);
        }
    }
    Ok(())
}

fn read_at(snapshot: &dyn ColumnSnapshot, ranges: Vec<HandleRange>, ts: u64) -> Result<()> {
    let mut scan = request(ranges, ts);
    let mut rows = 0;
    for batch in snapshot.scan(&scan, 2)?.into_iter().flatten() {
        consume(&batch?, &mut rows);
    }
    snapshot.count(&scan.ranges, Timestamp(ts))?;
    let (min, max): (ArrayRef, ArrayRef) =
        (Arc::new(Int64Array::from(vec![100])), Arc::new(Int64Array::from(vec![500])));
    scan.prune = vec![Prune { column: 1, min: Some(min), max: Some(max) }];
    let filter = if ts.is_multiple_of(2) { Vec::new() } else { filters() };
    let query = Query { scan, filter };
    let mut rows = 0;
    for masked in snapshot.select(&query, 2)?.into_iter().flatten() {
        consume(&masked?.batch, &mut rows);
    }
    let mut rows = 0;
    for batch in snapshot.ordered(&query)? {
        consume(&batch?, &mut rows);
    }
    aggregate(snapshot, &query)
}

fn read(tree: &DeltaTree, results: &mut Vec<Result<()>>) {
    let some = |first, last| HandleRange { first, last };
    let snapshot = tree.snapshot(TABLE).expect("a snapshot needs no disk");
    for ts in [10, 25, u64::MAX] {
        let all = vec![HandleRange::ALL];
        results.push(read_at(&*snapshot, all, ts));
    }
    let ranges = vec![some(-5, 3), some(60, 66), some(99, 130), some(255, i64::MAX)];
    results.push(read_at(&*snapshot, ranges, 25));
}

fn write(tree: &DeltaTree, results: &mut Vec<Result<()>>) {
    results.push(tree.verify());
    // a batch that fails does nothing, so each handle is tried on its own, too
    for handles in [every(7), vec![0], vec![97], vec![259], vec![i64::MIN, i64::MAX]] {
        results.push(tree.apply(&batch(handles.clone(), 60, false, false)));
        results.push(tree.apply(&batch(handles, 15, false, true)));
    }
    for (first, last) in [(10, 12), (63, 64), (120, 260), (i64::MAX, i64::MAX)] {
        results.push(tree.clear(TABLE, HandleRange { first, last }));
    }
    results.push(tree.sync(&[(3, vec![3])]));
}

fn maintain(tree: &DeltaTree, results: &mut Vec<Result<()>>) {
    for round in 0.. {
        assert!(round < MAINTAIN_MAX, "`maintain` has always more to do");
        // enough that every segment is due
        let more = batch(every(3), 70 + round as u64, false, false);
        results.push(tree.apply(&more));
        results.push(tree.sync(&[]));
        match tree.maintain(Timestamp(25), 1 << 14) {
            Ok(false) => return,
            Ok(true) => {}
            Err(e) => return results.push(Err(e)),
        }
    }
}

/// Everything that can be asked of a store on a disk, and what came of it.
pub fn exercise(disk: Arc<MemoryDisk>) -> Vec<Result<()>> {
    let mut results = Vec::new();
    let open = |results: &mut Vec<Result<()>>| match DeltaTree::open(disk.clone(), config()) {
        Ok(tree) => Some(tree),
        Err(e) => {
            results.push(Err(e));
            None
        }
    };
    let Some(tree) = open(&mut results) else { return results };
    read(&tree, &mut results);
    write(&tree, &mut results);
    maintain(&tree, &mut results);
    read(&tree, &mut results);
    drop(tree);
    if let Some(tree) = open(&mut results) {
        read(&tree, &mut results);
    }
    results
}
