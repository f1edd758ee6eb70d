//! Columns that the caller makes of others, folded: also where making them fails for rows that do
//! not belong to the answer. It must never compute the expected answer with the code under test.

use super::*;
use crate::{Aggregate, Derived, Fold, Grouping, Predicate, Query, Test};
use arrow::array::*;
use arrow::datatypes::{Decimal128Type, Int64Type};

/// Above it, deriving fails.
const LIMIT: i64 = 400;

fn doubled(input: usize) -> Derived {
    let derive = |inputs: &[ArrayRef], rows: usize| -> crate::Result<ArrayRef> {
        let values = inputs[0].as_primitive::<Int64Type>();
        assert_eq!(values.len(), rows);
        if values.iter().flatten().any(|value| value >= LIMIT) {
            return Err(crate::Error::new("derive", ErrorKind::Invalid, "too large"));
        }
        Ok(Arc::new(values.unary::<_, Int64Type>(|value| value * 2)))
    };
    Derived { inputs: vec![input], data_type: DataType::Int64, derive: Arc::new(derive) }
}

fn is_odd_third(input: usize) -> Derived {
    let derive = |inputs: &[ArrayRef], _: usize| -> crate::Result<ArrayRef> {
        let values = inputs[0].as_primitive::<Int64Type>().iter();
        Ok(Arc::new(values.map(|v| v.map(|v| v % 3 == 1)).collect::<BooleanArray>()))
    };
    Derived { inputs: vec![input], data_type: DataType::Boolean, derive: Arc::new(derive) }
}

/// Column 0 of row h is 2h, NULL where h is a multiple of 7.
fn values(rows: i64) -> impl Iterator<Item = i64> {
    (0..rows).filter(|h| h % 7 != 0).map(|h| h * 2)
}

fn fold(tree: &DeltaTree, below: Option<i64>, grouping: &Grouping) -> crate::Result<RecordBatch> {
    let test = |limit: i64| Test::Less(Arc::new(Int64Array::from(vec![limit])) as ArrayRef);
    let filter = below.map(|limit| Predicate { column: 0, test: test(limit) });
    let query = Query { scan: request(9), filter: filter.into_iter().collect() };
    let snapshot = tree.snapshot(TableId(100))?;
    let folded = snapshot.aggregate(&query, grouping, 1)?.expect("few groups");
    let plain = crate::plain::aggregate(&*snapshot, &query, grouping, 1)?.expect("few groups");
    assert_eq!(folded, plain, "the plain form");
    Ok(folded)
}

#[test]
fn derived_columns_are_folded_for_the_rows_of_the_answer_alone() {
    let tree = DeltaTree::open(Arc::new(MemoryDisk::new()), Config::small()).expect("open");
    tree.apply(&rows(0..300, 5)).expect("applied");
    tree.sync(&[]).expect("synced");
    tree.maintain(Timestamp(0), u64::MAX).expect("merged");
    tree.apply(&rows(40..260, 6)).expect("applied");
    let width = request(9).schema.fields().len();
    let quadrupled = Derived { inputs: vec![width], ..doubled(width) };
    let count = Aggregate { fold: Fold::Count, column: Some(width) };
    let sum = |column| Aggregate { fold: Fold::Sum, column: Some(column) };
    let grouping = Grouping {
        derived: vec![doubled(0), quadrupled],
        aggregates: vec![sum(width), sum(width + 1), count],
        groups_max: 1,
        ..Grouping::default()
    };
    let number =
        |batch: &RecordBatch, at: usize| batch.column(at).as_primitive::<Decimal128Type>().value(0);
    for limit in [10, 60, 150, 200] {
        let batch = fold(&tree, Some(limit), &grouping).expect("all of them can be made");
        let kept: Vec<i128> = values(300).filter(|v| *v < limit).map(i128::from).collect();
        let total: i128 = kept.iter().sum();
        assert_eq!((number(&batch, 0), number(&batch, 1)), (total * 2, total * 4));
        assert_eq!(batch.column(2).as_primitive::<Int64Type>().value(0), kept.len() as i64);
    }
    let error = fold(&tree, None, &grouping).expect_err("some of the rows cannot be made");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn rows_are_kept_by_a_derived_truth_and_grouped_by_a_derived_value() {
    let tree = DeltaTree::open(Arc::new(MemoryDisk::new()), Config::small()).expect("open");
    tree.apply(&rows(0..200, 5)).expect("applied");
    tree.sync(&[]).expect("synced");
    tree.maintain(Timestamp(0), u64::MAX).expect("merged");
    tree.apply(&rows(150..190, 6)).expect("applied");
    let width = request(9).schema.fields().len();
    let rest = |inputs: &[ArrayRef], _: usize| -> crate::Result<ArrayRef> {
        Ok(Arc::new(inputs[0].as_primitive::<Int64Type>().unary::<_, Int64Type>(|v| v % 5)))
    };
    let rest = Derived { inputs: vec![0], data_type: DataType::Int64, derive: Arc::new(rest) };
    let grouping = Grouping {
        derived: vec![is_odd_third(0), rest],
        keep: Some(width),
        groups: vec![width + 1],
        aggregates: vec![Aggregate { fold: Fold::Sum, column: Some(0) }],
        groups_max: 5,
    };
    let batch = fold(&tree, None, &grouping).expect("folded");
    let mut expected = [0i128; 5];
    values(200).filter(|v| v % 3 == 1).for_each(|v| expected[(v % 5) as usize] += i128::from(v));
    let groups = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(groups, [0, 1, 2, 3, 4]);
    let sums = batch.column(1).as_primitive::<Decimal128Type>().values().to_vec();
    assert_eq!(sums, expected);
    let none = Grouping { keep: Some(0), ..grouping.clone() };
    assert!(fold(&tree, None, &none).is_err(), "a column of the request keeps no rows");
    let late = Grouping { derived: vec![doubled(width), is_odd_third(0)], ..grouping };
    assert!(fold(&tree, None, &late).is_err(), "made of a column that is not there yet");
}
