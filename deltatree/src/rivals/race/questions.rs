//! The questions of the race: how an engine is asked, and what the oracle answers. An answer must
//! never be taken for granted: each is compared before anything is timed.

use super::workload::{
    COLUMNS, DECIMALS, GROUPS, TABLE, VALUES, WORDS, WORDS_AT, Workload, schema, value, word,
};
use crate::store::{
    Aggregate, ColumnSnapshot, ColumnStore, Fold, Grouping, HandleRange, Predicate, Query,
    ScanRequest, Test,
};
use crate::testing::Numbers;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, new_null_array};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema};
use damask_types::Timestamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Single rows and short ranges per question.
const POINTS: u64 = 500;
const RANGES: u64 = 50;
const RANGE_ROWS: i64 = 1000;
const TOP: usize = 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The paper's: `count(id), count(k)`.
    Counts,
    /// `sum(k)`, folded by the engine.
    Sum,
    /// `sum(k)` from batches, added up here.
    SumOfBatches,
    /// `sum(k), min(c1), max(c2), sum(g)`.
    Four,
    /// `sum(c1)` where k is below this share of its values, in thousandths.
    Filter(u64),
    /// `count(*), sum(k)` by g.
    Groups,
    /// The ten largest k.
    Top,
    /// Single rows by handle.
    Points,
    /// `sum(k)` of 1,000 neighbouring rows.
    Ranges,
    /// The sum of a decimal column.
    Decimals,
    /// `sum(k)` where a text is one of six words.
    Word,
    /// The sums of eight whole numbers and two decimals.
    Ten,
}

/// Every question with its name.
pub(super) const ALL: [(&str, Ask); 10] = [
    ("Q1 count(id), count(k)", Ask::Counts),
    ("Q2 sum(k)", Ask::Sum),
    ("Q2 from batches", Ask::SumOfBatches),
    ("Q3 four columns", Ask::Four),
    ("filter 50 %", Ask::Filter(500)),
    ("filter 1 %", Ask::Filter(10)),
    ("group by, 6 groups", Ask::Groups),
    ("top 10", Ask::Top),
    ("500 single rows", Ask::Points),
    ("50 ranges of 1000", Ask::Ranges),
];

/// Those that only a wide table can answer.
pub(super) const WIDE: [(&str, Ask); 3] = [
    ("sum of decimals", Ask::Decimals),
    ("sum(k), text = word", Ask::Word),
    ("sums of ten columns", Ask::Ten),
];

/// Those that are asked again where updates lie otherwise.
pub(super) const PLACED: [(&str, Ask); 5] = [
    ("Q2 sum(k)", Ask::Sum),
    ("Q3 four columns", Ask::Four),
    ("filter 1 %", Ask::Filter(10)),
    ("500 single rows", Ask::Points),
    ("50 ranges of 1000", Ask::Ranges),
];

type Answer = Vec<i128>;

fn request(columns: &[usize], ranges: Vec<HandleRange>, ts: u64) -> ScanRequest {
    let schema = schema().project(columns).expect("columns of the table");
    ScanRequest {
        ranges,
        ts: Timestamp(ts),
        defaults: schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect(),
        schema: Arc::new(schema),
        prune: Vec::new(),
        batch_rows: 65_536,
    }
}

/// The numbers of a folded batch, row by row.
fn numbers(batch: &arrow::array::RecordBatch) -> Answer {
    let number = |column: &ArrayRef, row: usize| match column.data_type() {
        _ if column.is_null(row) => i128::MIN,
        DataType::Int64 => i128::from(column.as_primitive::<Int64Type>().value(row)),
        _ => column.as_primitive::<Decimal128Type>().value(row),
    };
    let rows = 0..batch.num_rows();
    rows.flat_map(|row| batch.columns().iter().map(move |column| number(column, row))).collect()
}

fn fold(
    snapshot: &dyn ColumnSnapshot,
    query: &Query,
    folds: &[(Fold, Option<usize>)],
    groups: Vec<usize>,
) -> super::Result<Answer> {
    let aggregate =
        |(fold, column): &(Fold, Option<usize>)| Aggregate { fold: *fold, column: *column };
    let aggregates = folds.iter().map(aggregate).collect();
    let grouping = Grouping { groups, aggregates, groups_max: 1000, ..Grouping::default() };
    let batch = snapshot.aggregate(query, &grouping, 1)?;
    Ok(numbers(&batch.ok_or("the engine gave up on a few groups")?))
}

fn some_handles(rows: u64, count: u64) -> Vec<i64> {
    let mut numbers = Numbers(99);
    (0..count).map(|_| numbers.below(rows) as i64).collect()
}

/// `sum` of the first column, from batches.
fn sum_of_batches(snapshot: &dyn ColumnSnapshot, request: &ScanRequest) -> super::Result<i128> {
    let mut total = 0;
    for part in snapshot.scan(request, 1)? {
        for batch in part {
            let batch = batch?;
            total += i128::from(sum(batch.column(0).as_primitive::<Int64Type>()).unwrap_or(0));
        }
    }
    Ok(total)
}

fn top(snapshot: &dyn ColumnSnapshot, ts: u64) -> super::Result<Answer> {
    let query = Query { scan: request(&[0], vec![HandleRange::ALL], ts), filter: Vec::new() };
    let mut heap: BinaryHeap<Reverse<i64>> = BinaryHeap::new();
    for part in snapshot.select(&query, 1)? {
        for masked in part {
            let masked = masked?;
            let values = masked.batch.column(0).as_primitive::<Int64Type>().values();
            let mut least = heap.peek().filter(|_| heap.len() == TOP).map_or(i64::MIN, |v| v.0);
            for (row, value) in values.iter().enumerate() {
                let counts = || masked.mask.as_ref().is_none_or(|mask| mask.value(row));
                if (*value > least || heap.len() < TOP) && counts() {
                    heap.push(Reverse(*value));
                    if heap.len() > TOP {
                        heap.pop();
                    }
                    least = heap.peek().map_or(i64::MIN, |v| v.0);
                }
            }
        }
    }
    let mut all: Answer = heap.into_iter().map(|v| i128::from(v.0)).collect();
    all.sort_unstable();
    Ok(all)
}

/// Asks an engine at a timestamp.
pub(super) fn ask(store: &dyn ColumnStore, ask: Ask, rows: u64, ts: u64) -> super::Result<Answer> {
    let snapshot = store.snapshot(TABLE)?;
    let snapshot = &*snapshot;
    let all = || vec![HandleRange::ALL];
    let query = |columns: &[usize]| Query { scan: request(columns, all(), ts), filter: Vec::new() };
    match ask {
        Ask::Counts => {
            let mut query = query(&[0, 0]);
            let id = Field::new("handle", DataType::Int64, true);
            let k = Field::new("1", DataType::Int64, true);
            query.scan.schema = Arc::new(Schema::new(vec![id, k]));
            fold(snapshot, &query, &[(Fold::Count, Some(0)), (Fold::Count, Some(1))], vec![])
        }
        Ask::Sum => fold(snapshot, &query(&[0]), &[(Fold::Sum, Some(0))], vec![]),
        Ask::SumOfBatches => Ok(vec![sum_of_batches(snapshot, &query(&[0]).scan)?]),
        Ask::Four => {
            let folds = [Fold::Sum, Fold::Min, Fold::Max, Fold::Sum];
            let folds: Vec<_> =
                folds.into_iter().enumerate().map(|(at, fold)| (fold, Some(at))).collect();
            fold(snapshot, &query(&[0, 1, 2, 3]), &folds, vec![])
        }
        Ask::Filter(thousandths) => {
            let mut query = query(&[0, 1]);
            let limit = (VALUES * thousandths / 1000) as i64;
            let test = Test::Less(Arc::new(Int64Array::from(vec![limit])));
            query.filter = vec![Predicate { column: 0, test }];
            fold(snapshot, &query, &[(Fold::Sum, Some(1))], vec![])
        }
        Ask::Groups => {
            let folds = [(Fold::Count, None), (Fold::Sum, Some(0))];
            fold(snapshot, &query(&[0, 3]), &folds, vec![1])
        }
        Ask::Top => top(snapshot, ts),
        Ask::Decimals => fold(snapshot, &query(&[DECIMALS]), &[(Fold::Sum, Some(0))], vec![]),
        Ask::Word => {
            let mut query = query(&[WORDS_AT, 0]);
            let test = Test::Equal(Arc::new(StringArray::from(vec![WORDS[2]])));
            query.filter = vec![Predicate { column: 0, test }];
            fold(snapshot, &query, &[(Fold::Sum, Some(1))], vec![])
        }
        Ask::Ten => {
            let folds: Vec<_> = (0..ten().len()).map(|at| (Fold::Sum, Some(at))).collect();
            fold(snapshot, &query(&ten()), &folds, vec![])
        }
        Ask::Points => {
            let handles = some_handles(rows, POINTS).into_iter();
            let range = |first| vec![HandleRange { first, last: first }];
            handles.map(|h| sum_of_batches(snapshot, &request(&[0], range(h), ts))).collect()
        }
        Ask::Ranges => {
            let handles = some_handles(rows, RANGES).into_iter();
            let range = |first| vec![HandleRange { first, last: first + RANGE_ROWS - 1 }];
            handles.map(|h| sum_of_batches(snapshot, &request(&[0], range(h), ts))).collect()
        }
    }
}

/// Columns of whole numbers and of decimals, as they are added up in one question.
fn ten() -> Vec<usize> {
    (0..DECIMALS + 2).collect()
}

/// What the oracle answers at a timestamp, from the workload's oldest on.
pub(super) fn expected(workload: &Workload, ask: Ask, ts: u64) -> Answer {
    let versions = workload.versions_at(ts);
    let rows = || versions.iter().enumerate().map(|(h, version)| (h as i64, *version));
    let column = |at: usize| rows().map(move |(h, v)| i128::from(value(h, v, at)));
    let total = workload.rows() as i128;
    match ask {
        Ask::Counts => vec![total, total],
        Ask::Sum | Ask::SumOfBatches => vec![column(0).sum()],
        Ask::Four => vec![
            column(0).sum(),
            column(1).min().unwrap_or(i128::MIN),
            column(2).max().unwrap_or(i128::MIN),
            column(COLUMNS - 1).sum(),
        ],
        Ask::Filter(thousandths) => {
            let limit = (VALUES * thousandths / 1000) as i64;
            let passing = rows().filter(|(h, v)| value(*h, *v, 0) < limit);
            vec![passing.map(|(h, v)| i128::from(value(h, v, 1))).sum()]
        }
        Ask::Groups => {
            let mut groups = vec![(0i128, 0i128); GROUPS as usize];
            for (h, v) in rows() {
                let group = &mut groups[value(h, v, COLUMNS - 1) as usize];
                *group = (group.0 + 1, group.1 + i128::from(value(h, v, 0)));
            }
            let seen = groups.iter().enumerate().filter(|(_, group)| group.0 > 0);
            seen.flat_map(|(at, group)| [at as i128, group.0, group.1]).collect()
        }
        Ask::Top => {
            let mut all: Answer = column(0).collect();
            all.sort_unstable();
            all.split_off(all.len().saturating_sub(TOP))
        }
        Ask::Decimals => vec![column(DECIMALS).sum()],
        Ask::Word => {
            let passing = rows().filter(|(h, v)| word(value(*h, *v, WORDS_AT)) == WORDS[2]);
            vec![passing.map(|(h, v)| i128::from(value(h, v, 0))).sum()]
        }
        Ask::Ten => ten().into_iter().map(|at| column(at).sum()).collect(),
        Ask::Points => {
            let one = |h: i64| i128::from(value(h, versions[h as usize], 0));
            some_handles(workload.rows(), POINTS).into_iter().map(one).collect()
        }
        Ask::Ranges => {
            let one = |first: i64| -> i128 {
                let last = (first + RANGE_ROWS).min(workload.rows() as i64);
                (first..last).map(|h| i128::from(value(h, versions[h as usize], 0))).sum()
            };
            some_handles(workload.rows(), RANGES).into_iter().map(one).collect()
        }
    }
}
