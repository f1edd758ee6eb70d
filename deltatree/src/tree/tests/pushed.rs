//! Filters, masks, folds and ordered scans of DeltaTree against rows looked at one by one, over
//! every type, with deletions, old versions, absent columns and merges. It must never compute
//! the expected answer with the code under test.

use super::*;
use crate::plain;
use crate::testing::Numbers;
use crate::{
    Aggregate, ColumnSnapshot, Fold, Grouping, MemoryColumnStore, Predicate, Query, ScanRequest,
    Test,
};
use arrow::array::*;
use arrow::datatypes::{
    Date32Type, Decimal128Type, DurationMicrosecondType, Float64Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use std::cmp::Ordering as Order;
use std::collections::BTreeMap;

const TABLE: TableId = TableId(100);
const COLUMNS: usize = 9;

fn types() -> [DataType; COLUMNS] {
    [
        DataType::Int64,
        DataType::UInt64,
        DataType::Float64,
        DataType::Decimal128(38, 2),
        DataType::Utf8,
        DataType::Binary,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Duration(TimeUnit::Microsecond),
    ]
}

/// An array of a type out of small numbers; `None` is NULL.
fn array(ty: &DataType, values: &[Option<i64>]) -> ArrayRef {
    let text = |v: &Option<i64>| v.map(|v| format!("text number {v:04}, long enough to be cut"));
    let short = |v: &Option<i64>| v.map(|v| v.to_be_bytes()[6..].to_vec());
    let values = values.iter();
    match ty {
        DataType::Int64 => Arc::new(values.copied().collect::<Int64Array>()),
        DataType::UInt64 => Arc::new(values.map(|v| v.map(|v| v as u64)).collect::<UInt64Array>()),
        DataType::Float64 => {
            let float = |v: i64| if v == 0 { -0.0 } else { v as f64 / 4.0 };
            Arc::new(values.map(|v| v.map(float)).collect::<Float64Array>())
        }
        DataType::Decimal128(p, s) => {
            let array: Decimal128Array = values.map(|v| v.map(i128::from)).collect();
            Arc::new(array.with_precision_and_scale(*p, *s).expect("a decimal"))
        }
        DataType::Utf8 => Arc::new(values.map(text).collect::<StringArray>()),
        DataType::Binary => {
            let bytes: Vec<Option<Vec<u8>>> = values.map(short).collect();
            Arc::new(bytes.iter().map(|v| v.as_deref()).collect::<BinaryArray>())
        }
        DataType::Date32 => Arc::new(values.map(|v| v.map(|v| v as i32)).collect::<Date32Array>()),
        DataType::Timestamp(..) => Arc::new(values.copied().collect::<TimestampMicrosecondArray>()),
        _ => Arc::new(values.copied().collect::<DurationMicrosecondArray>()),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Number(i128),
    Float(f64),
    Text(Vec<u8>),
}

impl Cell {
    fn order(&self, other: &Cell) -> Order {
        match (self, other) {
            (Cell::Null, Cell::Null) => Order::Equal,
            (Cell::Null, _) => Order::Less,
            (_, Cell::Null) => Order::Greater,
            (Cell::Number(a), Cell::Number(b)) => a.cmp(b),
            (Cell::Float(a), Cell::Float(b)) => a.partial_cmp(b).expect("numbers"),
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            _ => panic!("one column has one type"),
        }
    }
}

fn cell(array: &ArrayRef, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Int64 => Cell::Number(array.as_primitive::<Int64Type>().value(row).into()),
        DataType::UInt64 => Cell::Number(array.as_primitive::<UInt64Type>().value(row).into()),
        DataType::Float64 => Cell::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => Cell::Number(array.as_primitive::<Decimal128Type>().value(row)),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).as_bytes().to_vec()),
        DataType::Binary => Cell::Text(array.as_binary::<i32>().value(row).to_vec()),
        DataType::Date32 => Cell::Number(array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(..) => {
            Cell::Number(array.as_primitive::<TimestampMicrosecondType>().value(row).into())
        }
        _ => Cell::Number(array.as_primitive::<DurationMicrosecondType>().value(row).into()),
    }
}

fn passes(test: &Test, value: &Cell) -> bool {
    let order = |with: &ArrayRef| match value {
        Cell::Null => None,
        value => Some(value.order(&cell(with, 0))),
    };
    match test {
        Test::Equal(with) => order(with) == Some(Order::Equal),
        Test::NotEqual(with) => order(with).is_some_and(Order::is_ne),
        Test::Less(with) => order(with).is_some_and(Order::is_lt),
        Test::LessEqual(with) => order(with).is_some_and(Order::is_le),
        Test::Greater(with) => order(with).is_some_and(Order::is_gt),
        Test::GreaterEqual(with) => order(with).is_some_and(Order::is_ge),
        Test::In(list) => {
            *value != Cell::Null && (0..list.len()).any(|row| value.order(&cell(list, row)).is_eq())
        }
        Test::Null => *value == Cell::Null,
        Test::NotNull => *value != Cell::Null,
    }
}

fn test(numbers: &mut Numbers, ty: &DataType) -> Test {
    let one = array(ty, &[Some(numbers.below(60) as i64)]);
    match numbers.below(9) {
        0 => Test::Equal(one),
        1 => Test::NotEqual(one),
        2 => Test::Less(one),
        3 => Test::LessEqual(one),
        4 => Test::Greater(one),
        5 => Test::GreaterEqual(one),
        6 => {
            let list: Vec<_> =
                (0..1 + numbers.below(12)).map(|_| Some(numbers.below(60) as i64)).collect();
            Test::In(array(ty, &list))
        }
        7 => Test::Null,
        _ => Test::NotNull,
    }
}

fn changes(numbers: &mut Numbers, now: u64) -> ChangeBatch {
    let start = numbers.below(200) as i64;
    let dense = numbers.below(2) == 0;
    let count = 1 + numbers.below(60) as i64;
    let mut handles: Vec<i64> =
        (0..count).map(|i| if dense { start + i } else { numbers.below(250) as i64 }).collect();
    handles.sort_unstable();
    handles.dedup();
    let rows = handles.len();
    let columns = 4 + numbers.below(COLUMNS as u64 - 3) as usize; // the last ones may be missing
    // values near the handle, so that bounds of packs say something
    let mut value =
        |handle: &i64| (numbers.below(8) > 0).then(|| handle / 5 + numbers.below(3) as i64);
    let arrays: Vec<ArrayRef> = types()[..columns]
        .iter()
        .map(|ty| array(ty, &handles.iter().map(&mut value).collect::<Vec<_>>()))
        .collect();
    let fields = types().into_iter().enumerate().take(columns);
    let fields = fields.map(|(at, ty)| Field::new((at + 1).to_string(), ty, true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    ChangeBatch {
        table: TABLE,
        handles: Int64Array::from(handles),
        versions: UInt64Array::from(vec![now; rows]),
        deleted: BooleanArray::from_iter((0..rows).map(|_| Some(numbers.below(7) == 0))),
        columns: RecordBatch::try_new(schema, arrays).expect("columns of one length"),
    }
}

fn query(numbers: &mut Numbers, now: u64) -> Query {
    let mut fields = vec![Field::new("handle", DataType::Int64, true)];
    fields.extend(
        types().into_iter().enumerate().map(|(at, ty)| Field::new((at + 1).to_string(), ty, true)),
    );
    let value = |at: usize| if at.is_multiple_of(2) { None } else { Some(at as i64) };
    let defaults = fields.iter().enumerate().map(|(at, f)| array(f.data_type(), &[value(at)]));
    let defaults = defaults.collect();
    let schema = Arc::new(Schema::new(fields));
    let ranges = match numbers.below(3) {
        0 => vec![HandleRange { first: 20, last: 90 }, HandleRange { first: 130, last: 131 }],
        _ => vec![HandleRange::ALL],
    };
    let ts =
        Timestamp([u64::MAX, now, now.saturating_sub(numbers.below(6))][numbers.below(3) as usize]);
    let batch_rows = [5, 1000][numbers.below(2) as usize];
    let filter = (0..numbers.below(3)).map(|_| {
        let column = numbers.below(COLUMNS as u64 + 1) as usize;
        Predicate { column, test: test(numbers, schema.field(column).data_type()) }
    });
    let filter = filter.collect();
    let prune = Vec::new();
    let scan = ScanRequest { ranges, ts, schema, defaults, prune, batch_rows };
    Query { scan, filter }
}

/// The rows of the answer, by handle.
fn expected(model: &dyn ColumnSnapshot, query: &Query) -> BTreeMap<i128, Vec<Cell>> {
    let mut rows = BTreeMap::new();
    for batch in model.scan(&query.scan, 1).expect("a scan").into_iter().flatten() {
        let batch = batch.expect("a batch");
        for row in 0..batch.num_rows() {
            let cells: Vec<Cell> = batch.columns().iter().map(|a| cell(a, row)).collect();
            if query.filter.iter().all(|p| passes(&p.test, &cells[p.column])) {
                let Cell::Number(handle) = cells[0] else { panic!("a handle") };
                rows.insert(handle, cells);
            }
        }
    }
    rows
}

fn check_rows(snapshot: &dyn ColumnSnapshot, query: &Query, rows: &BTreeMap<i128, Vec<Cell>>) {
    let cells = |batch: &RecordBatch, row: usize| -> Vec<Cell> {
        batch.columns().iter().map(|a| cell(a, row)).collect()
    };
    let mut seen = BTreeMap::new();
    for part in snapshot.select(query, 3).expect("parts") {
        for masked in part {
            let masked = masked.expect("a batch");
            assert!(masked.rows() > 0 && masked.batch.num_rows() <= query.scan.batch_rows);
            for row in 0..masked.batch.num_rows() {
                if masked.mask.as_ref().is_none_or(|mask| mask.value(row)) {
                    let cells = cells(&masked.batch, row);
                    let Cell::Number(handle) = cells[0] else { panic!("a handle") };
                    assert!(seen.insert(handle, cells).is_none(), "handle {handle} twice");
                }
            }
        }
    }
    assert_eq!(seen, *rows, "{query:?}");
    let mut ordered = Vec::new();
    for batch in snapshot.ordered(query).expect("batches") {
        let batch = batch.expect("a batch");
        assert!(batch.num_rows() <= query.scan.batch_rows);
        ordered.extend((0..batch.num_rows()).map(|row| cells(&batch, row)));
    }
    assert!(ordered.iter().eq(rows.values()), "{query:?}: the order");
}

fn fold(fold: Fold, cells: &[&Cell], ty: &DataType) -> Cell {
    let values: Vec<&Cell> = cells.iter().copied().filter(|c| **c != Cell::Null).collect();
    let count = values.len() as i128;
    let sum = values.iter().fold(0, |sum, v| match v {
        Cell::Number(n) => sum + n,
        _ => sum,
    });
    let floats = values.iter().fold(0.0, |sum, v| match v {
        Cell::Float(f) => sum + f,
        _ => sum,
    });
    match fold {
        Fold::Count => Cell::Number(count),
        _ if values.is_empty() => Cell::Null,
        Fold::Min => (**values.iter().min_by(|a, b| a.order(b)).expect("some")).clone(),
        Fold::Max => (**values.iter().max_by(|a, b| a.order(b)).expect("some")).clone(),
        Fold::Sum if *ty == DataType::Float64 => Cell::Float(floats),
        Fold::Sum => Cell::Number(sum),
        Fold::Avg if *ty == DataType::Float64 => Cell::Float(floats / count as f64),
        Fold::Avg => {
            // all values are positive
            Cell::Number((sum * 10_000 * 2 + count) / (count * 2))
        }
    }
}

fn check_folds(
    snapshot: &dyn ColumnSnapshot,
    numbers: &mut Numbers,
    query: &Query,
    rows: &BTreeMap<i128, Vec<Cell>>,
) {
    let groups: Vec<usize> =
        (0..numbers.below(4)).map(|_| numbers.below(COLUMNS as u64 + 1) as usize).collect();
    let mut aggregates = vec![Aggregate { fold: Fold::Count, column: None }];
    for column in 1..=COLUMNS {
        let all: &[Fold] = match column {
            1..=4 => &[Fold::Count, Fold::Sum, Fold::Min, Fold::Max, Fold::Avg],
            _ => &[Fold::Count, Fold::Min, Fold::Max],
        };
        aggregates.extend(all.iter().map(|fold| Aggregate { fold: *fold, column: Some(column) }));
    }
    let mut expected: Vec<(Vec<Cell>, Vec<&Vec<Cell>>)> = Vec::new();
    for row in rows.values() {
        let key: Vec<Cell> = groups.iter().map(|at| row[*at].clone()).collect();
        match expected.iter_mut().find(|(k, _)| *k == key) {
            Some((_, rows)) => rows.push(row),
            None => expected.push((key, vec![row])),
        }
    }
    if groups.is_empty() && expected.is_empty() {
        expected.push((Vec::new(), Vec::new()));
    }
    expected.sort_by(|(a, _), (b, _)| {
        a.iter().zip(b).map(|(a, b)| a.order(b)).find(|o| o.is_ne()).unwrap_or(Order::Equal)
    });
    let grouping =
        Grouping { groups: groups.clone(), aggregates, groups_max: 1000, ..Grouping::default() };
    let answers = [
        snapshot.aggregate(query, &grouping, 1).expect("folded"),
        plain::aggregate(snapshot, query, &grouping, 1).expect("folded"),
    ];
    for answer in answers {
        let answer = answer.expect("few groups");
        assert_eq!(answer.num_rows(), expected.len(), "{query:?} {grouping:?}");
        for (row, (key, rows)) in expected.iter().enumerate() {
            let seen: Vec<Cell> = answer.columns().iter().map(|a| cell(a, row)).collect();
            assert_eq!(seen[..groups.len()], **key, "{query:?}");
            for (aggregate, seen) in grouping.aggregates.iter().zip(&seen[groups.len()..]) {
                let expected = match aggregate.column {
                    None => Cell::Number(rows.len() as i128),
                    Some(at) => {
                        let cells: Vec<&Cell> = rows.iter().map(|row| &row[at]).collect();
                        fold(aggregate.fold, &cells, query.scan.schema.field(at).data_type())
                    }
                };
                assert_eq!(*seen, expected, "{aggregate:?} of group {key:?}, {query:?}");
            }
        }
    }
    let one = Grouping { groups_max: expected.len().saturating_sub(1), ..grouping };
    if !groups.is_empty() && !expected.is_empty() {
        assert!(snapshot.aggregate(query, &one, 1).expect("folded").is_none());
    }
}

#[test]
fn pushed_work_agrees_with_rows_looked_at_one_by_one() {
    for seed in 0..6 {
        let mut numbers = Numbers(seed);
        let tree = DeltaTree::open(Arc::new(MemoryDisk::new()), Config::small()).expect("open");
        let model = MemoryColumnStore::new();
        for ts in 1..40 {
            let batch = changes(&mut numbers, ts);
            tree.apply(&batch).expect("applied");
            model.apply(&batch).expect("applied");
            if numbers.below(6) == 0 {
                tree.sync(&[]).expect("synced");
                tree.maintain(Timestamp(ts.saturating_sub(8)), u64::MAX).expect("merged");
            }
            let (tree, model) = (tree.snapshot(TABLE), model.snapshot(TABLE));
            let (tree, model) = (tree.expect("a snapshot"), model.expect("a snapshot"));
            for _ in 0..3 {
                let query = query(&mut numbers, ts);
                let rows = expected(&*model, &query);
                check_rows(&*tree, &query, &rows);
                check_folds(&*tree, &mut numbers, &query, &rows);
            }
        }
    }
}

#[test]
fn threads_share_a_fold() {
    let config = Config { merge_rows_min: 1, ..Config::default() };
    let tree = DeltaTree::open(Arc::new(MemoryDisk::new()), config).expect("open");
    for start in (0..600_000).step_by(50_000) {
        tree.apply(&rows(start..start + 50_000, 5)).expect("applied");
    }
    tree.maintain(Timestamp(0), u64::MAX).expect("merged");
    tree.apply(&rows(100..2000, 6)).expect("applied");
    let snapshot = tree.snapshot(TABLE).expect("a snapshot");
    let query = Query { scan: request(9), filter: Vec::new() };
    let aggregates = vec![
        Aggregate { fold: Fold::Sum, column: Some(0) },
        Aggregate { fold: Fold::Count, column: None },
    ];
    let grouping =
        Grouping { groups: Vec::new(), aggregates, groups_max: 1, ..Grouping::default() };
    let sum: i128 = (0..600_000i128).filter(|h| h % 7 != 0).map(|h| h * 2).sum();
    for threads in [1, 2, 5] {
        let answer = snapshot.aggregate(&query, &grouping, threads).expect("folded");
        let answer = answer.expect("one group");
        assert_eq!(cell(answer.column(0), 0), Cell::Number(sum));
        assert_eq!(cell(answer.column(1), 0), Cell::Number(600_000));
    }
}

#[test]
fn senseless_work_is_refused() {
    let tree = merged_tree(&MemoryDisk::new(), Config::small());
    let snapshot = tree.snapshot(TABLE).expect("a snapshot");
    let scan = request(9);
    let of = |column, test| Query { scan: scan.clone(), filter: vec![Predicate { column, test }] };
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let two: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    for query in
        [of(5, Test::Null), of(0, Test::Equal(text)), of(0, Test::Less(two)), of(0, Test::In(null))]
    {
        let error = snapshot.select(&query, 1).map(drop).expect_err("no sense");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(snapshot.ordered(&query).is_err());
    }
    let query = Query { scan, filter: Vec::new() };
    let grouping = |fold, column| Grouping {
        groups: Vec::new(),
        aggregates: vec![Aggregate { fold, column }],
        groups_max: 1,
        ..Grouping::default()
    };
    for (fold, column) in [(Fold::Sum, None), (Fold::Min, Some(7))] {
        assert!(snapshot.aggregate(&query, &grouping(fold, column), 1).is_err());
    }
}
