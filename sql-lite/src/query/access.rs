//! From conditions on columns to ranges of keys: which part of a table, or of an index, can hold
//! matching rows. Ranges may be too wide, never too narrow: every condition is evaluated again.

use super::operators::fit;
use arrow::array::ArrayRef;
use damask_coprocessor::arrow_type;
use damask_types::key::{self, index_prefix, prefix_end};
use damask_types::{ColumnId, ColumnType, Datum, Decimal, IndexSchema, KeyRange, TableSchema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{BinaryExpr, InList};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Between, Expr, Operator};

/// Ranges of one scan at most; more points than that are read as one range.
pub(crate) const RANGES_MAX: usize = 4096;

/// One end of a range of values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Open,
    Including(ScalarValue),
    Excluding(ScalarValue),
}

/// What conditions say of one column. A NULL never matches.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub column: ColumnId,
    /// The only values that match; sorted, without repeats.
    pub points: Option<Vec<ScalarValue>>,
    pub low: End,
    pub high: End,
}

impl Condition {
    fn on(column: ColumnId) -> Condition {
        Condition { column, points: None, low: End::Open, high: End::Open }
    }

    /// Is there anything that it excludes besides NULL?
    fn is_useful(&self) -> bool {
        self.points.is_some() || self.low != End::Open || self.high != End::Open
    }

    fn and_points(&mut self, mut points: Vec<ScalarValue>) {
        points.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        points.dedup();
        match &mut self.points {
            Some(own) => own.retain(|p| points.contains(p)),
            None => self.points = Some(points),
        }
    }

    fn and(&mut self, op: Operator, value: ScalarValue) {
        let tighter = |end: &End, value: &ScalarValue, want: std::cmp::Ordering| match end {
            End::Open => true,
            End::Including(own) | End::Excluding(own) => value.partial_cmp(own) == Some(want),
        };
        use std::cmp::Ordering::{Greater, Less};
        match op {
            Operator::Eq => self.and_points(vec![value]),
            Operator::Lt if tighter(&self.high, &value, Less) => self.high = End::Excluding(value),
            Operator::LtEq if tighter(&self.high, &value, Less) => {
                self.high = End::Including(value);
            }
            Operator::Gt if tighter(&self.low, &value, Greater) => {
                self.low = End::Excluding(value);
            }
            Operator::GtEq if tighter(&self.low, &value, Greater) => {
                self.low = End::Including(value);
            }
            _ => {}
        }
    }

    /// Smallest and largest value as one-element arrays, for pruning.
    pub fn bounds(&self) -> (Option<ArrayRef>, Option<ArrayRef>) {
        let array = |value: &ScalarValue| value.to_array().ok();
        let end = |end: &End| match end {
            End::Open => None,
            End::Including(v) | End::Excluding(v) => array(v),
        };
        match &self.points {
            Some(points) => (points.first().and_then(array), points.last().and_then(array)),
            None => (end(&self.low), end(&self.high)),
        }
    }
}

/// The conditions of a conjunction on the table's columns. The hidden handle counts as the handle
/// column's name does when the table has one; see [`HANDLE`].
pub(crate) fn conditions(table: &TableSchema, filters: &[Expr]) -> Vec<Condition> {
    let mut all: Vec<Condition> = Vec::new();
    for filter in filters.iter().flat_map(split_conjunction) {
        one(table, filter, &mut all);
    }
    all.retain(Condition::is_useful);
    all
}

/// Stands for the hidden handle where a column is meant.
pub(crate) const HANDLE: ColumnId = ColumnId(-1);

fn column_of(table: &TableSchema, expr: &Expr) -> Option<(ColumnId, ColumnType)> {
    let Expr::Column(column) = expr else { return None };
    if column.name == super::rewrite::HANDLE_COLUMN {
        let ty = ColumnType::Int { width: damask_types::schema::IntWidth::Big, unsigned: false };
        return Some((HANDLE, ty));
    }
    let column = table.column(&column.name)?;
    Some((column.id, column.ty.clone()))
}

fn literal_for(ty: &ColumnType, expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) if !value.is_null() => fit(value, &arrow_type(ty)),
        _ => None,
    }
}

fn entry(all: &mut Vec<Condition>, column: ColumnId) -> &mut Condition {
    let at = all.iter().position(|c| c.column == column).unwrap_or_else(|| {
        all.push(Condition::on(column));
        all.len() - 1
    });
    &mut all[at]
}

fn one(table: &TableSchema, filter: &Expr, all: &mut Vec<Condition>) {
    match filter {
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            if let Some((column, points)) = points_of_or(table, filter) {
                entry(all, column).and_points(points);
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let Some((column, ty)) = column_of(table, left) {
                if let Some(value) = literal_for(&ty, right) {
                    entry(all, column).and(*op, value);
                }
            } else if let Some((column, ty)) = column_of(table, right)
                && let (Some(value), Some(op)) = (literal_for(&ty, left), op.swap())
            {
                entry(all, column).and(op, value);
            }
        }
        Expr::Between(Between { expr, negated: false, low, high }) => {
            if let Some((column, ty)) = column_of(table, expr) {
                if let Some(low) = literal_for(&ty, low) {
                    entry(all, column).and(Operator::GtEq, low);
                }
                if let Some(high) = literal_for(&ty, high) {
                    entry(all, column).and(Operator::LtEq, high);
                }
            }
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            let Some((column, ty)) = column_of(table, expr) else { return };
            // NULLs in the list match nothing.
            let wanted = list.iter().filter(|e| !matches!(e, Expr::Literal(v, _) if v.is_null()));
            let points: Option<Vec<_>> = wanted.map(|e| literal_for(&ty, e)).collect();
            if let Some(points) = points {
                entry(all, column).and_points(points);
            }
        }
        _ => {}
    }
}

/// `a = 1 OR a = 2 OR …`: short lists come so.
fn points_of_or(table: &TableSchema, filter: &Expr) -> Option<(ColumnId, Vec<ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (column, mut points) = points_of_or(table, left)?;
            let (other, more) = points_of_or(table, right)?;
            points.extend(more);
            (column == other).then_some((column, points))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let (column, literal) = match column_of(table, left) {
                Some(column) => (column, right),
                None => (column_of(table, right)?, left),
            };
            Some((column.0, vec![literal_for(&column.1, literal)?]))
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            let (column, ty) = column_of(table, expr)?;
            let points = list.iter().map(|e| literal_for(&ty, e)).collect::<Option<_>>()?;
            Some((column, points))
        }
        _ => None,
    }
}

/// A part of a table or index, and how much of it that is.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// Ascending, not overlapping.
    pub ranges: Vec<KeyRange>,
    /// Rows at most, if the conditions tell.
    pub rows_max: Option<f64>,
    /// What is left of all rows otherwise.
    pub share: f64,
}

/// Share of rows that a condition keeps, when nothing better is known.
const SHARE_EQUAL: f64 = 0.001;
const SHARE_BETWEEN: f64 = 0.05;
const SHARE_HALF_OPEN: f64 = 0.33;

fn handle_of(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Int64(v) => *v,
        ScalarValue::UInt64(v) => v.map(|v| v as i64),
        _ => None,
    }
}

/// The rows that can match, by handle.
pub(crate) fn row_ranges(table: &TableSchema, conditions: &[Condition]) -> Ranges {
    let whole = Ranges { ranges: vec![key::row_range(table.id)], rows_max: None, share: 1.0 };
    let on_handle = |c: &&Condition| c.column == HANDLE || table.handle_column == Some(c.column);
    let mut best = whole;
    for condition in conditions.iter().filter(on_handle) {
        let found = handle_ranges(table, condition);
        if found.rows_max.unwrap_or(f64::MAX) < best.rows_max.unwrap_or(f64::MAX)
            || found.share < best.share
        {
            best = found;
        }
    }
    best
}

fn handle_ranges(table: &TableSchema, condition: &Condition) -> Ranges {
    if let Some(points) = &condition.points {
        let mut handles: Vec<i64> = points.iter().filter_map(handle_of).collect();
        handles.sort_unstable();
        let rows_max = Some(handles.len() as f64);
        if handles.len() > RANGES_MAX {
            let (first, last) = (handles[0], handles[handles.len() - 1]);
            let ranges = vec![key::handle_range(table.id, first, last)];
            return Ranges { ranges, rows_max: None, share: SHARE_BETWEEN };
        }
        let point = |h: i64| KeyRange::point(&key::row_key(table.id, h));
        return Ranges { ranges: handles.into_iter().map(point).collect(), rows_max, share: 1.0 };
    }
    let first = match &condition.low {
        End::Open => Some(i64::MIN),
        End::Including(v) => handle_of(v),
        End::Excluding(v) => handle_of(v).and_then(|h| h.checked_add(1)),
    };
    let last = match &condition.high {
        End::Open => Some(i64::MAX),
        End::Including(v) => handle_of(v),
        End::Excluding(v) => handle_of(v).and_then(|h| h.checked_sub(1)),
    };
    let (Some(first), Some(last)) = (first, last) else {
        return Ranges { ranges: Vec::new(), rows_max: Some(0.0), share: 0.0 };
    };
    if first > last {
        return Ranges { ranges: Vec::new(), rows_max: Some(0.0), share: 0.0 };
    }
    let closed = condition.low != End::Open && condition.high != End::Open;
    let width = last.abs_diff(first) as f64 + 1.0;
    Ranges {
        ranges: vec![key::handle_range(table.id, first, last)],
        rows_max: closed.then_some(width),
        share: if closed { SHARE_BETWEEN } else { SHARE_HALF_OPEN },
    }
}

/// A value in the sortable form that the index's column has.
fn datum(ty: &ColumnType, value: &ScalarValue) -> Option<Datum> {
    Some(match value {
        ScalarValue::Int64(Some(v)) => Datum::Int(*v),
        ScalarValue::UInt64(Some(v)) => Datum::UInt(*v),
        ScalarValue::Float64(Some(v)) => Datum::Double(*v),
        ScalarValue::Decimal128(Some(v), _, scale) => {
            let ColumnType::Decimal { scale: own, .. } = ty else { return None };
            let value = Decimal { unscaled: *v, scale: u8::try_from(*scale).ok()? };
            (value.scale == *own).then_some(Datum::Decimal(value))?
        }
        ScalarValue::Utf8(Some(v)) => Datum::Text(v.clone()),
        ScalarValue::Binary(Some(v)) => Datum::Bytes(v.clone()),
        ScalarValue::Date32(Some(v)) => Datum::Date(*v),
        ScalarValue::TimestampMicrosecond(Some(v), _) => Datum::DateTime(*v),
        ScalarValue::DurationMicrosecond(Some(v)) => Datum::Time(*v),
        _ => return None,
    })
}

/// The entries of an index that can match: equal prefixes, then one range. `None`: the index's
/// first column has no condition.
pub(crate) fn index_ranges(
    table: &TableSchema,
    index: &IndexSchema,
    conditions: &[Condition],
) -> Option<Ranges> {
    let mut prefixes = vec![index_prefix(table.id, index.id)];
    let mut equal = 0;
    let mut share = 1.0;
    let mut ranges: Option<Vec<KeyRange>> = None;
    for id in &index.columns {
        let Some(condition) = conditions.iter().find(|c| c.column == *id) else { break };
        let ty = &table.column_by_id(*id)?.ty;
        if let Some(points) = &condition.points {
            let datums: Option<Vec<Datum>> = points.iter().map(|p| datum(ty, p)).collect();
            let Some(datums) = datums else { break };
            if prefixes.len() * datums.len().max(1) > RANGES_MAX {
                break;
            }
            let longer = |prefix: &Vec<u8>| {
                let prefix = prefix.clone();
                datums.iter().map(move |d| {
                    let mut key = prefix.clone();
                    d.put_sorted(&mut key);
                    key
                })
            };
            prefixes = prefixes.iter().flat_map(longer).collect::<Vec<_>>();
            prefixes.sort();
            equal += 1;
            share *= SHARE_EQUAL;
            continue;
        }
        let bounded = |prefix: &Vec<u8>| bounded(prefix, ty, condition);
        ranges = prefixes.iter().map(bounded).collect::<Option<Vec<_>>>();
        if ranges.is_some() {
            let closed = condition.low != End::Open && condition.high != End::Open;
            share *= if closed { SHARE_BETWEEN } else { SHARE_HALF_OPEN };
        }
        break;
    }
    if equal == 0 && ranges.is_none() {
        return None;
    }
    let found = prefixes.len() as f64;
    let unique = index.unique && equal == index.columns.len();
    let ranges = ranges.unwrap_or_else(|| prefixes.iter().map(|p| KeyRange::prefix(p)).collect());
    let ranges = ranges.into_iter().filter(|r| !r.is_empty()).collect();
    let share = (share * found).min(1.0);
    Some(Ranges { ranges, rows_max: unique.then_some(found), share })
}

/// Entries after a prefix whose next column lies between two ends; NULLs lie before all of them.
fn bounded(prefix: &[u8], ty: &ColumnType, condition: &Condition) -> Option<KeyRange> {
    let with = |value: &ScalarValue| {
        let mut key = prefix.to_vec();
        datum(ty, value)?.put_sorted(&mut key);
        Some(key)
    };
    let start = match &condition.low {
        End::Open => {
            let mut key = prefix.to_vec();
            Datum::Null.put_sorted(&mut key);
            prefix_end(&key)
        }
        End::Including(v) => with(v)?,
        End::Excluding(v) => prefix_end(&with(v)?),
    };
    let end = match &condition.high {
        End::Open => prefix_end(prefix),
        End::Including(v) => prefix_end(&with(v)?),
        End::Excluding(v) => with(v)?,
    };
    Some(KeyRange::new(start, end))
}
