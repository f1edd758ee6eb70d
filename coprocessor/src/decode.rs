//! Rows into Arrow columns: from the row codec's cells, from index keys, from datums.
//! It must never guess: bytes that do not fit the column's type are an error.

use crate::spec::ScanColumn;
use arrow::array::*;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use damask_types::codec::{DecodeError, Result};
use damask_types::row::value_u64;
use damask_types::row::{Cell, RowView, decode_value, value_decimal, value_f64, value_i64};
use damask_types::{ColumnType, Datum, Decimal, TableSchema};
use std::sync::Arc;

/// Builds one Arrow column of a catalog type.
pub enum ColumnBuilder {
    /// Signed integers, BOOL.
    Int(Int64Builder),
    /// Unsigned integers.
    UInt(UInt64Builder),
    /// FLOAT, DOUBLE.
    Double(Float64Builder),
    /// DECIMAL, at this scale.
    Decimal(Decimal128Builder, u8),
    /// CHAR, VARCHAR, TEXT.
    Text(StringBuilder),
    /// BINARY, VARBINARY, BLOB.
    Binary(BinaryBuilder),
    /// DATE.
    Date(Date32Builder),
    /// DATETIME, TIMESTAMP.
    DateTime(TimestampMicrosecondBuilder),
    /// TIME.
    Time(DurationMicrosecondBuilder),
}

const WRONG: DecodeError = DecodeError("a value of another type than its column");

impl ColumnBuilder {
    /// A builder of an Arrow type as [`crate::arrow_type`] gives.
    ///
    /// # Errors
    /// If no column type looks so.
    pub fn new(ty: &DataType, rows: usize) -> Result<ColumnBuilder> {
        Ok(match ty {
            DataType::Int64 => ColumnBuilder::Int(Int64Builder::with_capacity(rows)),
            DataType::UInt64 => ColumnBuilder::UInt(UInt64Builder::with_capacity(rows)),
            DataType::Float64 => ColumnBuilder::Double(Float64Builder::with_capacity(rows)),
            DataType::Decimal128(_, scale) => {
                let builder = Decimal128Builder::with_capacity(rows).with_data_type(ty.clone());
                let scale = u8::try_from(*scale).map_err(|_| WRONG)?;
                ColumnBuilder::Decimal(builder, scale)
            }
            DataType::Utf8 => ColumnBuilder::Text(StringBuilder::with_capacity(rows, rows * 8)),
            DataType::Binary => ColumnBuilder::Binary(BinaryBuilder::with_capacity(rows, rows * 8)),
            DataType::Date32 => ColumnBuilder::Date(Date32Builder::with_capacity(rows)),
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                ColumnBuilder::DateTime(TimestampMicrosecondBuilder::with_capacity(rows))
            }
            DataType::Duration(TimeUnit::Microsecond) => {
                ColumnBuilder::Time(DurationMicrosecondBuilder::with_capacity(rows))
            }
            _ => return Err(WRONG),
        })
    }

    /// Appends NULL.
    pub fn push_null(&mut self) {
        match self {
            ColumnBuilder::Int(b) => b.append_null(),
            ColumnBuilder::UInt(b) => b.append_null(),
            ColumnBuilder::Double(b) => b.append_null(),
            ColumnBuilder::Decimal(b, _) => b.append_null(),
            ColumnBuilder::Text(b) => b.append_null(),
            ColumnBuilder::Binary(b) => b.append_null(),
            ColumnBuilder::Date(b) => b.append_null(),
            ColumnBuilder::DateTime(b) => b.append_null(),
            ColumnBuilder::Time(b) => b.append_null(),
        }
    }

    /// Appends a value in the row codec's form.
    pub fn push_value(&mut self, v: &[u8]) -> Result<()> {
        match self {
            ColumnBuilder::Int(b) => b.append_value(value_i64(v)?),
            ColumnBuilder::UInt(b) => b.append_value(value_u64(v)?),
            ColumnBuilder::Double(b) => b.append_value(value_f64(v)?),
            ColumnBuilder::Decimal(b, scale) => {
                b.append_value(at_scale(value_decimal(v)?, *scale)?)
            }
            ColumnBuilder::Text(b) => {
                let text = std::str::from_utf8(v);
                b.append_value(text.map_err(|_| DecodeError("text is not UTF-8"))?);
            }
            ColumnBuilder::Binary(b) => b.append_value(v),
            ColumnBuilder::Date(b) => b.append_value(date(value_i64(v)?)?),
            ColumnBuilder::DateTime(b) => b.append_value(value_i64(v)?),
            ColumnBuilder::Time(b) => b.append_value(value_i64(v)?),
        }
        Ok(())
    }

    /// Appends a handle to an integer column.
    pub fn push_handle(&mut self, handle: i64) -> Result<()> {
        match self {
            ColumnBuilder::Int(b) => b.append_value(handle),
            ColumnBuilder::UInt(b) => b.append_value(handle as u64),
            _ => return Err(WRONG),
        }
        Ok(())
    }

    /// Appends a datum. Text may come as bytes (index keys do not tell them apart).
    pub fn push_datum(&mut self, datum: &Datum) -> Result<()> {
        match (self, datum) {
            (builder, Datum::Null) => builder.push_null(),
            (ColumnBuilder::Int(b), Datum::Int(v)) => b.append_value(*v),
            (ColumnBuilder::Int(b), Datum::UInt(v)) => {
                b.append_value(i64::try_from(*v).map_err(|_| WRONG)?);
            }
            (ColumnBuilder::UInt(b), Datum::UInt(v)) => b.append_value(*v),
            (ColumnBuilder::UInt(b), Datum::Int(v)) => {
                b.append_value(u64::try_from(*v).map_err(|_| WRONG)?);
            }
            (ColumnBuilder::Double(b), Datum::Double(v)) => b.append_value(*v),
            (ColumnBuilder::Decimal(b, scale), Datum::Decimal(v)) => {
                b.append_value(at_scale(*v, *scale)?);
            }
            (ColumnBuilder::Text(b), Datum::Text(v)) => b.append_value(v),
            (ColumnBuilder::Text(b), Datum::Bytes(v)) => {
                let text = std::str::from_utf8(v);
                b.append_value(text.map_err(|_| DecodeError("text is not UTF-8"))?);
            }
            (ColumnBuilder::Binary(b), Datum::Bytes(v)) => b.append_value(v),
            (ColumnBuilder::Binary(b), Datum::Text(v)) => b.append_value(v.as_bytes()),
            (ColumnBuilder::Date(b), Datum::Date(v)) => b.append_value(*v),
            (ColumnBuilder::DateTime(b), Datum::DateTime(v)) => b.append_value(*v),
            (ColumnBuilder::Time(b), Datum::Time(v)) => b.append_value(*v),
            _ => return Err(WRONG),
        }
        Ok(())
    }

    /// The column so far; the builder starts again.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            ColumnBuilder::Int(b) => Arc::new(b.finish()),
            ColumnBuilder::UInt(b) => Arc::new(b.finish()),
            ColumnBuilder::Double(b) => Arc::new(b.finish()),
            ColumnBuilder::Decimal(b, _) => Arc::new(b.finish()),
            ColumnBuilder::Text(b) => Arc::new(b.finish()),
            ColumnBuilder::Binary(b) => Arc::new(b.finish()),
            ColumnBuilder::Date(b) => Arc::new(b.finish()),
            ColumnBuilder::DateTime(b) => Arc::new(b.finish()),
            ColumnBuilder::Time(b) => Arc::new(b.finish()),
        }
    }
}

fn at_scale(v: Decimal, scale: u8) -> Result<i128> {
    if v.scale == scale {
        return Ok(v.unscaled);
    }
    v.rescale(scale).map(|d| d.unscaled).ok_or(DecodeError("decimal out of range"))
}

fn date(days: i64) -> Result<i32> {
    i32::try_from(days).map_err(|_| DecodeError("date out of range"))
}

/// How one field of a row batch is filled.
enum Slot {
    Handle,
    /// A column by id, with the value of rows written without it.
    Column(damask_types::ColumnId, Option<Vec<u8>>),
}

/// Builds record batches of rows in the row codec's form.
pub struct RowBatchBuilder {
    schema: SchemaRef,
    slots: Vec<Slot>,
    builders: Vec<ColumnBuilder>,
    rows: usize,
}

impl RowBatchBuilder {
    /// A builder of batches with `schema`, one field for each of `columns`.
    pub fn new(
        table: &TableSchema,
        columns: &[ScanColumn],
        schema: SchemaRef,
        rows: usize,
    ) -> Result<RowBatchBuilder> {
        let slots = columns.iter().map(|column| match column {
            ScanColumn::Handle => Ok(Slot::Handle),
            ScanColumn::Column(id) if table.handle_column == Some(*id) => Ok(Slot::Handle),
            ScanColumn::Column(id) => {
                let column = table.column_by_id(*id).ok_or(DecodeError("no such column"))?;
                Ok(Slot::Column(*id, column.origin_default.clone()))
            }
        });
        let slots = slots.collect::<Result<_>>()?;
        let types = schema.fields().iter().map(|f| ColumnBuilder::new(f.data_type(), rows));
        let builders = types.collect::<Result<_>>()?;
        Ok(RowBatchBuilder { schema, slots, builders, rows: 0 })
    }

    /// Appends a row.
    pub fn push(&mut self, handle: i64, row: &[u8]) -> Result<()> {
        let view = RowView::new(row)?;
        for (slot, builder) in self.slots.iter().zip(&mut self.builders) {
            match slot {
                Slot::Handle => builder.push_handle(handle)?,
                Slot::Column(id, default) => match (view.get(*id), default) {
                    (Cell::Value(v), _) => builder.push_value(v)?,
                    (Cell::Missing, Some(v)) => builder.push_value(v)?,
                    (Cell::Null | Cell::Missing, _) => builder.push_null(),
                },
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The batch so far; the builder starts again.
    pub fn finish(&mut self) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
        let columns = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
    }
}

/// A one-element array of the value that rows written without the column have.
pub fn origin_default(ty: &ColumnType, value: Option<&[u8]>) -> Result<ArrayRef> {
    let mut builder = ColumnBuilder::new(&crate::arrow_type(ty), 1)?;
    match value {
        Some(value) => builder.push_datum(&decode_value(ty, value)?)?,
        None => builder.push_null(),
    }
    Ok(builder.finish())
}
