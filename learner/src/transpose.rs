//! Row bytes into Arrow columns, cell by cell, without a datum in between. It must never guess:
//! bytes that do not fit a column's type are an error, and the row is then as if never appended.
//!
//! ```text
//!  row 1: 0x80 … ids, ends, body ─┐      ┌ "1": Vec<i64>  + validity ┐
//!  row 2: …                       ├─►────┤ "2": Vec<u8>, ends + …    ├──► RecordBatch
//!  row 3: …                       ┘      └ "4": Vec<i128> + …        ┘
//! ```
//! Where the columns are in a row is found once for all rows with the same head, one after another.

use arrow::array::builder::NullBufferBuilder;
use arrow::array::*;
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, SchemaRef};
use arrow::error::ArrowError;
use damask_deltatree::types::storage_schema;
use damask_types::codec::DecodeError;
use damask_types::row::{Cell, Place, RowView, value_decimal, value_f64, value_i64, value_u64};
use damask_types::{ColumnId, ColumnSchema, ColumnType, ErrorKind};
use std::sync::Arc;

/// Bytes of one text or binary column of a batch, at most: Arrow's offsets are i32.
const COLUMN_BYTES_MAX: usize = i32::MAX as usize;

/// Why a row was not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The row has a column that the schema does not know yet: the schema is stale.
    #[error("column {0} is newer than the schema")]
    UnknownColumn(ColumnId),
    /// A value is not of its column's type: the schema is stale, or the bytes are wrong.
    #[error("column {column}: {why}")]
    Value {
        /// The column.
        column: ColumnId,
        /// What is wrong.
        why: DecodeError,
    },
    /// The bytes are not a row.
    #[error("{0}")]
    Row(DecodeError),
    /// The batch is full: finish it, then append again.
    #[error("the batch is full")]
    Full,
    /// The finished columns do not make a batch (text that is not UTF-8).
    #[error("{0}")]
    Batch(String),
}

impl RowError {
    /// What the caller must do. `Retry`: again with a newer schema, or an empty batch.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RowError::UnknownColumn(_) | RowError::Full => ErrorKind::Retry,
            RowError::Value { .. } | RowError::Row(_) | RowError::Batch(_) => ErrorKind::Corrupt,
        }
    }

    /// Could a newer schema help?
    pub fn wants_newer_schema(&self) -> bool {
        matches!(self, RowError::UnknownColumn(_) | RowError::Value { .. })
    }
}

impl From<ArrowError> for RowError {
    fn from(e: ArrowError) -> RowError {
        RowError::Batch(e.to_string())
    }
}

/// Finished rows.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Their handles.
    pub handles: Int64Array,
    /// Their columns, named by column id.
    pub columns: RecordBatch,
}

/// Builds columns from rows.
pub struct RowDecoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    newest: Option<ColumnId>,
    layout: Layout,
    handles: Vec<i64>,
    bytes: usize,
}

/// Where rows with one head have the decoder's columns; that none of theirs is too new, is checked.
#[derive(Default)]
struct Layout {
    /// Of the last row; empty before the first.
    head: Vec<u8>,
    /// By column of the decoder.
    places: Vec<Place>,
}

impl RowDecoder {
    /// A decoder of these columns; others in a row are skipped.
    ///
    /// # Errors
    /// If a column's origin default is not of its type.
    pub fn new(columns: &[ColumnSchema]) -> Result<RowDecoder, RowError> {
        Ok(RowDecoder {
            schema: storage_schema(columns),
            columns: columns.iter().map(Column::new).collect::<Result<_, _>>()?,
            newest: None,
            layout: Layout::default(),
            handles: Vec::new(),
            bytes: 0,
        })
    }

    /// Refuses rows with a column id above `newest` (the schema's `max_column_id`): ids grow, so a
    /// smaller unknown id is a dropped column, a larger one says that the schema is stale.
    pub fn with_newest(self, newest: ColumnId) -> RowDecoder {
        RowDecoder { newest: Some(newest), layout: Layout::default(), ..self }
    }

    /// Makes room for more rows.
    pub fn reserve(&mut self, rows: usize) {
        self.handles.reserve(rows);
        self.columns.iter_mut().for_each(|column| column.cells.reserve(rows));
    }

    /// The schema of the finished columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows since the last `finish`.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// No rows since the last `finish`?
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// Bytes of row values since the last `finish`.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a row: its value in the row codec. Nothing is appended on `Err`.
    pub fn append_row(&mut self, handle: i64, value: &[u8]) -> Result<(), RowError> {
        let view = RowView::new(value).map_err(RowError::Row)?;
        if self.layout.head != view.head() {
            self.learn(&view)?;
        }
        for (i, place) in self.layout.places.iter().enumerate() {
            if let Err(e) = self.columns[i].push(view.at(*place)) {
                let rows = self.handles.len();
                self.columns[..=i].iter_mut().for_each(|column| column.truncate(rows));
                return Err(e);
            }
        }
        self.handles.push(handle);
        self.bytes += value.len();
        Ok(())
    }

    /// Finds the columns of a row whose head is another one than that of the row before.
    fn learn(&mut self, view: &RowView<'_>) -> Result<(), RowError> {
        if let Some(newest) = self.newest
            && let Some(id) = view.column_ids().find(|id| *id > newest)
        {
            return Err(RowError::UnknownColumn(id));
        }
        let Layout { head, places } = &mut self.layout;
        places.clear();
        places.extend(self.columns.iter().map(|column| view.place(column.id)));
        head.clear();
        head.extend_from_slice(view.head());
        Ok(())
    }

    /// Appends a row without values: every column is NULL.
    pub fn append_nulls(&mut self, handle: i64) {
        self.columns.iter_mut().for_each(Column::push_null);
        self.handles.push(handle);
    }

    /// The rows so far; the decoder starts again.
    pub fn finish(&mut self) -> Result<Rows, RowError> {
        let rows = self.handles.len();
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        self.bytes = 0;
        Ok(Rows {
            handles: Int64Array::new(std::mem::take(&mut self.handles).into(), None),
            columns: RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?,
        })
    }
}

/// One column being built.
struct Column {
    id: ColumnId,
    cells: Cells,
    valid: NullBufferBuilder,
    /// What a row written without the column has: value form, `None` = NULL.
    missing: Option<Vec<u8>>,
}

/// Values by kind; a NULL has a zero or empty one.
enum Cells {
    Int(Vec<i64>),
    UInt(Vec<u64>),
    Double(Vec<f64>),
    Decimal { values: Vec<i128>, scale: u8 },
    Text(Strings),
    Binary(Strings),
    Date(Vec<i32>),
    DateTime(Vec<i64>),
    Time(Vec<i64>),
}

#[derive(Default)]
struct Strings {
    data: Vec<u8>,
    ends: Vec<i32>,
}

impl Strings {
    fn push(&mut self, v: &[u8]) -> Result<(), RowError> {
        if v.len() > COLUMN_BYTES_MAX - self.data.len() {
            return Err(RowError::Full);
        }
        self.data.extend_from_slice(v);
        self.push_end();
        Ok(())
    }

    fn push_end(&mut self) {
        self.ends.push(self.data.len() as i32);
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.data.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let mut offsets = Vec::with_capacity(self.ends.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.ends);
        let data = std::mem::take(&mut self.data);
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), Buffer::from_vec(data))
    }
}

impl Cells {
    fn new(ty: &ColumnType) -> Cells {
        use ColumnType::*;
        match ty {
            Int { unsigned: true, .. } => Cells::UInt(Vec::new()),
            Bool | Int { .. } => Cells::Int(Vec::new()),
            Float | Double => Cells::Double(Vec::new()),
            Decimal { scale, .. } => Cells::Decimal { values: Vec::new(), scale: *scale },
            Char { .. } | VarChar { .. } | Text { .. } => Cells::Text(Strings::default()),
            Binary { .. } | VarBinary { .. } | Blob { .. } => Cells::Binary(Strings::default()),
            Date => Cells::Date(Vec::new()),
            DateTime { .. } | Timestamp { .. } => Cells::DateTime(Vec::new()),
            Time { .. } => Cells::Time(Vec::new()),
        }
    }

    fn push(&mut self, v: &[u8]) -> Result<(), Fault> {
        match self {
            Cells::Int(cells) | Cells::DateTime(cells) | Cells::Time(cells) => {
                cells.push(value_i64(v)?);
            }
            Cells::UInt(cells) => cells.push(value_u64(v)?),
            Cells::Double(cells) => cells.push(value_f64(v)?),
            Cells::Decimal { values, scale } => {
                let decimal = value_decimal(v)?;
                values.push(match decimal.scale == *scale {
                    true => decimal.unscaled,
                    false => rescaled(decimal, *scale)?,
                });
            }
            Cells::Text(cells) | Cells::Binary(cells) => cells.push(v).map_err(Fault::Row)?,
            Cells::Date(cells) => {
                let days = i32::try_from(value_i64(v)?);
                cells.push(days.map_err(|_| DecodeError("date out of range"))?);
            }
        }
        Ok(())
    }

    fn push_zero(&mut self) {
        match self {
            Cells::Int(cells) | Cells::DateTime(cells) | Cells::Time(cells) => cells.push(0),
            Cells::UInt(cells) => cells.push(0),
            Cells::Double(cells) => cells.push(0.0),
            Cells::Decimal { values, .. } => values.push(0),
            Cells::Text(cells) | Cells::Binary(cells) => cells.push_end(),
            Cells::Date(cells) => cells.push(0),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Cells::Int(cells) | Cells::DateTime(cells) | Cells::Time(cells) => cells.truncate(rows),
            Cells::UInt(cells) => cells.truncate(rows),
            Cells::Double(cells) => cells.truncate(rows),
            Cells::Decimal { values, .. } => values.truncate(rows),
            Cells::Text(cells) | Cells::Binary(cells) => cells.truncate(rows),
            Cells::Date(cells) => cells.truncate(rows),
        }
    }

    fn reserve(&mut self, rows: usize) {
        match self {
            Cells::Int(cells) | Cells::DateTime(cells) | Cells::Time(cells) => cells.reserve(rows),
            Cells::UInt(cells) => cells.reserve(rows),
            Cells::Double(cells) => cells.reserve(rows),
            Cells::Decimal { values, .. } => values.reserve(rows),
            Cells::Text(cells) | Cells::Binary(cells) => cells.ends.reserve(rows),
            Cells::Date(cells) => cells.reserve(rows),
        }
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef, RowError> {
        use std::mem::take;
        Ok(match self {
            Cells::Int(cells) => Arc::new(Int64Array::new(take(cells).into(), nulls)),
            Cells::UInt(cells) => Arc::new(UInt64Array::new(take(cells).into(), nulls)),
            Cells::Double(cells) => Arc::new(Float64Array::new(take(cells).into(), nulls)),
            Cells::Decimal { values, scale } => {
                let array = Decimal128Array::new(take(values).into(), nulls);
                let digits = DECIMAL128_MAX_PRECISION;
                Arc::new(array.with_precision_and_scale(digits, *scale as i8)?)
            }
            Cells::Text(cells) => {
                let (offsets, data) = cells.finish();
                Arc::new(StringArray::try_new(offsets, data, nulls)?)
            }
            Cells::Binary(cells) => {
                let (offsets, data) = cells.finish();
                Arc::new(BinaryArray::try_new(offsets, data, nulls)?)
            }
            Cells::Date(cells) => Arc::new(Date32Array::new(take(cells).into(), nulls)),
            Cells::DateTime(cells) => {
                Arc::new(TimestampMicrosecondArray::new(take(cells).into(), nulls))
            }
            Cells::Time(cells) => {
                Arc::new(DurationMicrosecondArray::new(take(cells).into(), nulls))
            }
        })
    }
}

/// A cell's failure, before its column is known.
enum Fault {
    Value(DecodeError),
    Row(RowError),
}

impl From<DecodeError> for Fault {
    fn from(e: DecodeError) -> Fault {
        Fault::Value(e)
    }
}

/// The same number at the column's scale; refused when digits would be lost.
fn rescaled(decimal: damask_types::Decimal, scale: u8) -> Result<i128, DecodeError> {
    let there = decimal.rescale(scale).ok_or(DecodeError("decimal out of range"))?;
    match there.rescale(decimal.scale) == Some(decimal) {
        true => Ok(there.unscaled),
        false => Err(DecodeError("decimal of another scale")),
    }
}

impl Column {
    fn new(schema: &ColumnSchema) -> Result<Column, RowError> {
        let mut column = Column {
            id: schema.id,
            cells: Cells::new(&schema.ty),
            valid: NullBufferBuilder::new(0),
            missing: schema.origin_default.clone(),
        };
        if column.missing.is_some() {
            column.push(Cell::Missing)?;
            column.truncate(0);
        }
        Ok(column)
    }

    fn push(&mut self, cell: Cell<'_>) -> Result<(), RowError> {
        let pushed = match (cell, &self.missing) {
            (Cell::Value(v), _) => self.cells.push(v),
            (Cell::Missing, Some(v)) => self.cells.push(v),
            (Cell::Null, _) | (Cell::Missing, None) => {
                self.push_null();
                return Ok(());
            }
        };
        pushed.map_err(|fault| match fault {
            Fault::Value(why) => RowError::Value { column: self.id, why },
            Fault::Row(e) => e,
        })?;
        self.valid.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.cells.push_zero();
        self.valid.append_null();
    }

    /// Forgets all but the first `rows` (there may be one fewer validity bit than cells).
    fn truncate(&mut self, rows: usize) {
        self.cells.truncate(rows);
        self.valid.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, RowError> {
        let nulls = self.valid.finish();
        self.cells.finish(nulls)
    }
}

#[cfg(test)]
mod tests;
