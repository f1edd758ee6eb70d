//! Work that is pushed down, against the same work done by hand on the model's rows: exact
//! predicates with masks, order by handle, aggregates with and without groups. It must never use
//! the plain forms, which are themselves under test.

use super::model::{COLUMNS, Cell, Numbers, Seen, array, cell, handle_of, rows_of};
use crate::error::Result;
use crate::store::{
    Aggregate, ColumnSnapshot, Fold, Grouping, Predicate, Query, ScanRequest, Test,
};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A predicate, and the same as a function.
struct Condition {
    column: usize,
    test: Test,
    values: Vec<Cell>,
}

/// A value that is likely to divide the rows of a column.
fn value(column: usize, numbers: &mut Numbers) -> Cell {
    let a = numbers.below(1000) as i64;
    match column {
        0 => Cell::Int(a % 150),
        1 => Cell::Int(a),
        2 if a % 3 == 0 => Cell::Text(super::model::DEFAULT.to_owned()),
        2 => Cell::Text(format!("text {a}")),
        3 => Cell::Float(a as f64 / 4.0 - 40.0),
        4 => Cell::Decimal(i128::from(a) * 100 - 5000),
        _ => Cell::Unsigned(if a % 10 == 0 { u64::MAX / 2 } else { a as u64 % 4 }),
    }
}

fn condition(numbers: &mut Numbers) -> Condition {
    let column = numbers.below(COLUMNS as u64) as usize;
    let one = |numbers: &mut Numbers| vec![value(column, numbers)];
    type Make = fn(arrow::array::ArrayRef) -> Test;
    let compare: [Make; 6] = [
        Test::Equal,
        Test::NotEqual,
        Test::Less,
        Test::LessEqual,
        Test::Greater,
        Test::GreaterEqual,
    ];
    let (test, values) = match numbers.below(9) as usize {
        at @ 0..=5 => {
            let values = one(numbers);
            (compare[at](array(column, &values)), values)
        }
        6 => {
            let values: Vec<Cell> =
                (0..1 + numbers.below(12)).map(|_| value(column, numbers)).collect();
            (Test::In(array(column, &values)), values)
        }
        7 => (Test::Null, Vec::new()),
        _ => (Test::NotNull, Vec::new()),
    };
    Condition { column, test, values }
}

impl Condition {
    fn passes(&self, row: &Seen) -> bool {
        let cell = &row[self.column];
        let is = |accept: fn(Ordering) -> bool| cell.compare(&self.values[0]).is_some_and(accept);
        match self.test {
            Test::Equal(_) => is(Ordering::is_eq),
            Test::NotEqual(_) => is(Ordering::is_ne),
            Test::Less(_) => is(Ordering::is_lt),
            Test::LessEqual(_) => is(Ordering::is_le),
            Test::Greater(_) => is(Ordering::is_gt),
            Test::GreaterEqual(_) => is(Ordering::is_ge),
            Test::In(_) => self.values.contains(cell),
            Test::Null => *cell == Cell::Null,
            Test::NotNull => *cell != Cell::Null,
        }
    }
}

/// Compares pushed-down work with what the model's rows give; `all` are the rows of the request,
/// ascending by handle.
pub(super) fn check(
    snapshot: &dyn ColumnSnapshot,
    all: &[Seen],
    request: &ScanRequest,
    numbers: &mut Numbers,
) -> Result<()> {
    let conditions: Vec<Condition> = (0..numbers.below(3)).map(|_| condition(numbers)).collect();
    let filter: Vec<Predicate> =
        conditions.iter().map(|c| Predicate { column: c.column, test: c.test.clone() }).collect();
    let passes = |row: &&Seen| conditions.iter().all(|condition| condition.passes(row));
    let expected: Vec<Seen> = all.iter().filter(passes).cloned().collect();
    let query = Query { scan: request.clone(), filter };
    let context = format!("{:?} at {}", query.filter, request.ts.0);

    let mut seen = Vec::new();
    for part in snapshot.select(&query, 1 + numbers.below(3) as usize)? {
        for masked in part {
            let masked = masked?;
            assert!(masked.batch.num_rows() <= request.batch_rows, "a batch is too large");
            assert!(masked.rows() > 0, "a batch without a row");
            let rows = rows_of(&masked.batch).into_iter().enumerate();
            let counts = |at: usize| masked.mask.as_ref().is_none_or(|mask| mask.value(at));
            seen.extend(rows.filter(|(at, _)| counts(*at)).map(|(_, row)| row));
        }
    }
    seen.sort_by_key(handle_of);
    assert_eq!(seen, expected, "select {context}");

    let mut ordered = Vec::new();
    for batch in snapshot.ordered(&query)? {
        let batch = batch?;
        assert!(batch.num_rows() <= request.batch_rows, "a batch is too large");
        ordered.extend(rows_of(&batch));
    }
    assert_eq!(ordered, expected, "ordered {context}");
    aggregates(snapshot, &query, &expected, numbers, &context)
}

fn folds(numbers: &mut Numbers) -> Vec<Aggregate> {
    let all = [Fold::Count, Fold::Sum, Fold::Min, Fold::Max, Fold::Avg];
    let count = 1 + numbers.below(4);
    let aggregate = |_| {
        let fold = all[numbers.below(5) as usize];
        let column = numbers.below(COLUMNS as u64) as usize;
        let is_text = column == 2 && matches!(fold, Fold::Sum | Fold::Avg);
        let column = if is_text { 1 } else { column };
        let none = fold == Fold::Count && column % 2 == 0;
        Aggregate { fold, column: (!none).then_some(column) }
    };
    (0..count).map(aggregate).collect()
}

/// The whole part of a number in the smallest unit of its column.
fn units(cell: &Cell) -> i128 {
    match cell {
        Cell::Int(v) => i128::from(*v),
        Cell::Decimal(v) => *v,
        Cell::Unsigned(v) => i128::from(*v),
        other => panic!("not a number: {other:?}"),
    }
}

fn fold(fold: Fold, column: Option<usize>, rows: &[&Seen]) -> Cell {
    let Some(column) = column else { return Cell::Int(rows.len() as i64) };
    let values: Vec<&Cell> =
        rows.iter().map(|row| &row[column]).filter(|cell| **cell != Cell::Null).collect();
    let extreme = |side: Ordering| {
        let better = |a: &&Cell, b: &&Cell| a.compare(b).expect("numbers") == side;
        let best = values.iter().copied().reduce(|a, b| if better(&b, &a) { b } else { a });
        best.cloned().unwrap_or(Cell::Null)
    };
    let is_float = matches!(values.first(), Some(Cell::Float(_)));
    let floats = || values.iter().map(|cell| if let Cell::Float(v) = cell { *v } else { 0.0 });
    match fold {
        Fold::Count => Cell::Int(values.len() as i64),
        Fold::Min => extreme(Ordering::Less),
        Fold::Max => extreme(Ordering::Greater),
        Fold::Sum | Fold::Avg if values.is_empty() => Cell::Null,
        // quarters add up exactly
        Fold::Sum if is_float => Cell::Float(floats().sum()),
        Fold::Avg if is_float => Cell::Float(floats().sum::<f64>() / values.len() as f64),
        Fold::Sum => Cell::Decimal(values.iter().copied().map(units).sum()),
        Fold::Avg => {
            let sum: i128 = values.iter().copied().map(units).sum::<i128>() * 10_000;
            let count = values.len() as i128;
            let half = if sum < 0 { -count } else { count };
            Cell::Decimal((sum * 2 + half) / (count * 2))
        }
    }
}

/// Orders the values of groups: NULL first.
fn group_order(a: &Seen, b: &Seen) -> Ordering {
    let one = |(a, b): (&Cell, &Cell)| match (a, b) {
        (Cell::Null, Cell::Null) => Ordering::Equal,
        (Cell::Null, _) => Ordering::Less,
        (_, Cell::Null) => Ordering::Greater,
        (a, b) => a.compare(b).expect("values of one type"),
    };
    a.iter().zip(b).map(one).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn aggregates(
    snapshot: &dyn ColumnSnapshot,
    query: &Query,
    rows: &[Seen],
    numbers: &mut Numbers,
    context: &str,
) -> Result<()> {
    // floats make no groups here: whether 0.0 and -0.0 are one is not said
    let columns = [1, 2, 4, 5];
    let groups: Vec<usize> =
        (0..numbers.below(3)).map(|_| columns[numbers.below(4) as usize]).collect();
    let aggregates = folds(numbers);
    let groups_max = [3, 1000][numbers.below(2) as usize];
    let grouping = Grouping {
        groups: groups.clone(),
        aggregates: aggregates.clone(),
        groups_max,
        ..Grouping::default()
    };
    let context = format!("{grouping:?} of {context}");
    let threads = 1 + numbers.below(2) as usize;
    let answer = snapshot.aggregate(query, &grouping, threads)?;

    let mut by_group: BTreeMap<String, (Seen, Vec<&Seen>)> = BTreeMap::new();
    for row in rows {
        let key: Seen = groups.iter().map(|at| row[*at].clone()).collect();
        by_group.entry(format!("{key:?}")).or_insert_with(|| (key, Vec::new())).1.push(row);
    }
    if groups.is_empty() && by_group.is_empty() {
        by_group.insert(String::new(), (Vec::new(), Vec::new()));
    }
    let mut expected: Vec<(Seen, Vec<&Seen>)> = by_group.into_values().collect();
    expected.sort_by(|a, b| group_order(&a.0, &b.0));
    let Some(batch) = answer else {
        // a store may give up before it has seen that all rows fall into few groups
        assert!(expected.len() > groups_max, "given up on {} groups: {context}", expected.len());
        return Ok(());
    };
    let fits = groups.is_empty() || expected.len() <= groups_max;
    assert!(fits, "{} groups are too many: {context}", expected.len());
    assert_eq!(batch.num_rows(), expected.len(), "groups: {context}");
    for (at, (key, rows)) in expected.iter().enumerate() {
        let found: Seen = batch.columns().iter().map(|column| cell(column, at)).collect();
        let folded = aggregates.iter().map(|a| fold(a.fold, a.column, rows));
        let expected: Seen = key.iter().cloned().chain(folded).collect();
        assert_eq!(found, expected, "group {at}: {context}");
    }
    let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    let fields = groups.iter().map(|at| query.scan.schema.field(*at).name().clone());
    let expected: Vec<String> =
        fields.chain((0..aggregates.len()).map(|at| format!("a{at}"))).collect();
    assert_eq!(names, expected, "{context}");
    // without columns there is only counting
    if query.filter.is_empty() {
        let mut bare = query.clone();
        bare.scan.schema = Arc::new(arrow::datatypes::Schema::empty());
        bare.scan.defaults.clear();
        let count = Aggregate { fold: Fold::Count, column: None };
        let grouping = Grouping {
            groups: vec![],
            aggregates: vec![count],
            groups_max: 1,
            ..Grouping::default()
        };
        let batch = snapshot.aggregate(&bare, &grouping, 1)?.expect("one group");
        assert_eq!(cell(batch.column(0), 0), Cell::Int(rows.len() as i64), "{context}");
    }
    Ok(())
}
