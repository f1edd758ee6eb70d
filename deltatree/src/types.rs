//! How column types look in Arrow; the one place that says so.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef, TimeUnit};
use damask_types::{ColumnSchema, ColumnType};
use std::sync::Arc;

/// The Arrow type of a column: every integer is 64-bit, every time in microseconds.
pub fn arrow_type(ty: &ColumnType) -> DataType {
    use ColumnType::*;
    match ty {
        Int { unsigned: true, .. } => DataType::UInt64,
        Bool | Int { .. } => DataType::Int64,
        Float | Double => DataType::Float64,
        Decimal { precision, scale } => DataType::Decimal128(*precision, *scale as i8),
        Char { .. } | VarChar { .. } | Text { .. } => DataType::Utf8,
        Binary { .. } | VarBinary { .. } | Blob { .. } => DataType::Binary,
        Date => DataType::Date32,
        DateTime { .. } | Timestamp { .. } => DataType::Timestamp(TimeUnit::Microsecond, None),
        Time { .. } => DataType::Duration(TimeUnit::Microsecond),
    }
}

/// The type in which a column is stored: that of [`arrow_type`], but wide enough for every type
/// that `ALTER TABLE` may change it to without touching a row (DECIMAL may get more digits).
pub fn storage_type(ty: &ColumnType) -> DataType {
    match arrow_type(ty) {
        DataType::Decimal128(_, scale) => DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale),
        other => other,
    }
}

/// The schema of a table's columns in the column store: fields named by column id.
pub fn storage_schema<'a>(columns: impl IntoIterator<Item = &'a ColumnSchema>) -> SchemaRef {
    let fields =
        columns.into_iter().map(|c| Field::new(c.id.to_string(), storage_type(&c.ty), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
