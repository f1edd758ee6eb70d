//! The model that every store must agree with: a map of versions, read by the definition of a
//! timestamp. It must never be clever.

use crate::error::Result;
use crate::store::{ChangeBatch, ColumnSnapshot, HandleRange, ScanRequest};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, UInt64Array,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type,
};
use damask_types::{TableId, Timestamp};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The table of the suites.
pub(super) const TABLE: TableId = TableId(107);
/// What rows have that were written without column 2.
pub(super) const DEFAULT: &str = "default";

/// A small generator of numbers (SplitMix64): the same seed gives the same run.
pub struct Numbers(pub u64);

impl Numbers {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Column 1, and column 2 if the row was written with it. Columns 3 to 5 follow from column 1.
pub(super) type Row = (Option<i64>, Option<Option<String>>);

/// One version of a row; no row: a deletion.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Version {
    pub handle: i64,
    pub version: u64,
    pub row: Option<Row>,
}

/// A row with column 1 and without column 2.
pub(super) fn row(handle: i64, version: u64, a: i64) -> Version {
    Version { handle, version, row: Some((Some(a), None)) }
}

/// A row with both columns.
pub(super) fn wide(handle: i64, version: u64, a: i64, text: &str) -> Version {
    Version { handle, version, row: Some((Some(a), Some(Some(text.to_owned())))) }
}

/// A deletion.
pub(super) fn gone(handle: i64, version: u64) -> Version {
    Version { handle, version, row: None }
}

/// A value of any column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Float(f64),
    /// Hundredths.
    Decimal(i128),
    Unsigned(u64),
}

impl Cell {
    /// `None` with NULL.
    pub fn compare(&self, other: &Cell) -> Option<Ordering> {
        match (self, other) {
            (Cell::Int(a), Cell::Int(b)) => Some(a.cmp(b)),
            (Cell::Text(a), Cell::Text(b)) => Some(a.cmp(b)),
            (Cell::Float(a), Cell::Float(b)) => a.partial_cmp(b),
            (Cell::Decimal(a), Cell::Decimal(b)) => Some(a.cmp(b)),
            (Cell::Unsigned(a), Cell::Unsigned(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// The columns of a read, in its order: handle, then columns 1 to 5.
pub(super) const COLUMNS: usize = 6;

/// What is read of a row.
pub(super) type Seen = Vec<Cell>;

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("handle", DataType::Int64, true),
        Field::new("1", DataType::Int64, true),
        Field::new("2", DataType::Utf8, true),
        Field::new("3", DataType::Float64, true),
        Field::new("4", DataType::Decimal128(38, 2), true),
        Field::new("5", DataType::UInt64, true),
    ]))
}

/// An array of a column of [`schema`].
pub(super) fn array(column: usize, cells: &[Cell]) -> ArrayRef {
    macro_rules! of {
        ($kind:path, $array:ty) => {
            Arc::new(<$array>::from_iter(cells.iter().map(|cell| match cell {
                $kind(value) => Some(value.clone()),
                _ => None,
            })))
        };
    }
    match column {
        0 | 1 => of!(Cell::Int, Int64Array),
        2 => of!(Cell::Text, StringArray),
        3 => of!(Cell::Float, Float64Array),
        4 => {
            let decimals = Decimal128Array::from_iter(cells.iter().map(|cell| match cell {
                Cell::Decimal(value) => Some(*value),
                _ => None,
            }));
            Arc::new(decimals.with_precision_and_scale(38, 2).expect("38 digits fit"))
        }
        _ => of!(Cell::Unsigned, UInt64Array),
    }
}

/// The value of an array that comes from a store.
pub(super) fn cell(array: &dyn Array, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Float64 => Cell::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            Cell::Decimal(array.as_primitive::<Decimal128Type>().value(row))
        }
        DataType::UInt64 => Cell::Unsigned(array.as_primitive::<UInt64Type>().value(row)),
        other => panic!("no column has the type {other}"),
    }
}

/// Columns 3 to 5 of a row.
fn derived(a: Option<i64>) -> [Cell; 3] {
    let Some(a) = a else { return [Cell::Null, Cell::Decimal(-5), Cell::Null] };
    let float = if a % 5 == 0 { Cell::Null } else { Cell::Float(a as f64 / 4.0 - 40.0) };
    let unsigned = if a % 11 == 0 { u64::MAX - a as u64 } else { a as u64 % 4 };
    [float, Cell::Decimal(i128::from(a) * 100 - 5000), Cell::Unsigned(unsigned)]
}

fn seen(handle: i64, row: &Row) -> Seen {
    let text = row.1.clone().unwrap_or(Some(DEFAULT.to_owned()));
    let mut cells = vec![
        Cell::Int(handle),
        row.0.map_or(Cell::Null, Cell::Int),
        text.map_or(Cell::Null, Cell::Text),
    ];
    cells.extend(derived(row.0));
    cells
}

/// Every version, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Model(pub BTreeMap<(i64, u64), Option<Row>>);

impl Model {
    pub fn apply(&mut self, versions: &[Version]) {
        for v in versions {
            self.0.entry((v.handle, v.version)).or_insert_with(|| v.row.clone());
        }
    }

    pub fn clear(&mut self, range: HandleRange) {
        self.0.retain(|(handle, _), _| *handle < range.first || range.last < *handle);
    }

    /// What is there at a timestamp, ascending by handle.
    pub fn read(&self, ranges: &[HandleRange], ts: u64) -> Vec<Seen> {
        let mut newest = BTreeMap::new();
        for ((handle, version), row) in &self.0 {
            let inside = ranges.iter().any(|r| r.first <= *handle && *handle <= r.last);
            if inside && *version <= ts {
                newest.insert(*handle, row);
            }
        }
        let rows = newest.into_iter();
        rows.filter_map(|(handle, row)| Some(seen(handle, row.as_ref()?))).collect()
    }
}

/// Versions as a batch; either all or none of the rows have column 2.
pub(super) fn batch(versions: &[Version]) -> ChangeBatch {
    let rows: Vec<Seen> = versions
        .iter()
        .map(|v| match &v.row {
            Some(row) => seen(v.handle, row),
            None => vec![Cell::Null; COLUMNS],
        })
        .collect();
    let has_text = versions.iter().any(|v| v.row.as_ref().is_some_and(|r| r.1.is_some()));
    let columns: Vec<usize> = (1..COLUMNS).filter(|at| *at != 2 || has_text).collect();
    let arrays = columns.iter().map(|at| {
        let cells: Vec<Cell> = rows.iter().map(|row| row[*at].clone()).collect();
        array(*at, &cells)
    });
    let columns_schema = schema().project(&columns).expect("columns of the schema");
    ChangeBatch {
        table: TABLE,
        handles: versions.iter().map(|v| Some(v.handle)).collect(),
        versions: UInt64Array::from_iter_values(versions.iter().map(|v| v.version)),
        deleted: BooleanArray::from_iter(versions.iter().map(|v| Some(v.row.is_none()))),
        columns: RecordBatch::try_new(Arc::new(columns_schema), arrays.collect())
            .expect("columns of one length"),
    }
}

/// All columns.
pub(super) fn request(ranges: &[HandleRange], ts: u64, batch_rows: usize) -> ScanRequest {
    let default = |at| match at {
        2 => array(2, &[Cell::Text(DEFAULT.to_owned())]),
        at => array(at, &[Cell::Null]),
    };
    ScanRequest {
        ranges: ranges.to_vec(),
        ts: Timestamp(ts),
        schema: schema(),
        defaults: (0..COLUMNS).map(default).collect(),
        prune: Vec::new(),
        batch_rows,
    }
}

/// The rows of a batch.
pub(super) fn rows_of(batch: &RecordBatch) -> Vec<Seen> {
    let row = |row| batch.columns().iter().map(|column| cell(column, row)).collect();
    (0..batch.num_rows()).map(row).collect()
}

pub(super) fn handle_of(row: &Seen) -> i64 {
    match row[0] {
        Cell::Int(handle) => handle,
        _ => panic!("a row without handle: {row:?}"),
    }
}

/// What a store's scan gives, by handle.
pub(super) fn scan(
    snapshot: &dyn ColumnSnapshot,
    request: &ScanRequest,
    parts: usize,
) -> Result<Vec<Seen>> {
    let mut rows = Vec::new();
    for part in snapshot.scan(request, parts)? {
        for batch in part {
            let batch = batch?;
            assert!(batch.num_rows() <= request.batch_rows, "a batch is too large");
            assert_eq!(batch.schema(), request.schema);
            rows.extend(rows_of(&batch));
        }
    }
    rows.sort_by_key(handle_of);
    Ok(rows)
}
