//! Rows of a table as datums in display order, their stored form, and their index entries. It must
//! never store the handle column in the value: the key holds it.

use crate::error::{Error, Result};
use damask_types::key::{encode_handle, index_key, row_key};
use damask_types::row::{Cell, RowView, decode_value, encode_row};
use damask_types::{ColumnSchema, Datum, IndexSchema, TableSchema};

/// The value of an entry of a non-unique index: the key says all.
const NON_UNIQUE: &[u8] = b"0";

fn corrupt(table: &TableSchema, handle: i64, why: impl std::fmt::Display) -> Error {
    Error::unknown(format!("row {handle} of table '{}' is damaged: {why}", table.name))
}

/// Decodes all columns of a stored row.
pub fn decode(table: &TableSchema, handle: i64, bytes: &[u8]) -> Result<Vec<Datum>> {
    let view = RowView::new(bytes).map_err(|e| corrupt(table, handle, e))?;
    table.columns.iter().map(|column| cell(table, column, handle, &view)).collect()
}

/// Decodes some columns, by position.
pub fn decode_some(
    table: &TableSchema,
    handle: i64,
    bytes: &[u8],
    positions: &[usize],
) -> Result<Vec<Datum>> {
    let view = RowView::new(bytes).map_err(|e| corrupt(table, handle, e))?;
    positions.iter().map(|p| cell(table, &table.columns[*p], handle, &view)).collect()
}

fn cell(
    table: &TableSchema,
    column: &ColumnSchema,
    handle: i64,
    view: &RowView<'_>,
) -> Result<Datum> {
    if table.handle_column == Some(column.id) {
        return Ok(handle_datum(column, handle));
    }
    let value = match view.get(column.id) {
        Cell::Null => return Ok(Datum::Null),
        Cell::Value(value) => value,
        Cell::Missing => match &column.origin_default {
            None => return Ok(Datum::Null),
            Some(value) => value,
        },
    };
    decode_value(&column.ty, value).map_err(|e| corrupt(table, handle, e))
}

/// The handle as its column's value.
pub fn handle_datum(column: &ColumnSchema, handle: i64) -> Datum {
    if column.ty.is_unsigned() { Datum::UInt(handle as u64) } else { Datum::Int(handle) }
}

/// The handle that a row's own value gives; `None` when the handle is hidden.
pub fn handle_of(table: &TableSchema, row: &[Datum]) -> Option<i64> {
    let at = table.position(table.handle_column?)?;
    match row[at] {
        Datum::Int(v) => Some(v),
        Datum::UInt(v) => i64::try_from(v).ok(),
        _ => None,
    }
}

/// The stored form of a row.
pub fn encode(table: &TableSchema, row: &[Datum]) -> Vec<u8> {
    let cells: Vec<_> = table
        .columns
        .iter()
        .zip(row)
        .filter(|(column, _)| table.handle_column != Some(column.id))
        .map(|(column, datum)| (column.id, datum))
        .collect();
    encode_row(&cells)
}

/// An index entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// No other row may have this key.
    pub unique: bool,
}

/// The values of a row in an index's columns.
pub fn index_values(table: &TableSchema, index: &IndexSchema, row: &[Datum]) -> Vec<Datum> {
    let position = |id| table.position(id).expect("an index's columns are its table's");
    index.columns.iter().map(|id| row[position(*id)].clone()).collect()
}

/// A row's entry in an index. A NULL makes an entry of a unique index plain.
pub fn entry(table: &TableSchema, index: &IndexSchema, row: &[Datum], handle: i64) -> Entry {
    let values = index_values(table, index, row);
    let unique = index.unique && !values.iter().any(Datum::is_null);
    if unique {
        let key = index_key(table.id, index.id, &values, None);
        return Entry { key, value: encode_handle(handle), unique };
    }
    let key = index_key(table.id, index.id, &values, Some(handle));
    Entry { key, value: NON_UNIQUE.to_vec(), unique }
}

/// The key of a row.
pub fn key(table: &TableSchema, handle: i64) -> Vec<u8> {
    row_key(table.id, handle)
}
