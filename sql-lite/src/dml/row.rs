//! One row and its index entries as keys and values, for who deals with one index of a table. It
//! must never read or write anything itself.

use crate::error::{Error, Result};
use damask_types::codec::{DecodeError, put_i64_sorted};
use damask_types::key::{encode_handle, index_prefix};
use damask_types::row::{Cell, RowView, decode_value};
use damask_types::{ColumnSchema, Datum, IndexSchema, TableSchema};

/// The value of an entry whose key ends with the handle.
const NO_VALUE: &[u8] = b"0";

/// One row's entry in one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// What is stored under it.
    pub value: Vec<u8>,
    /// No other row may have the key.
    pub unique: bool,
}

/// A row, in the order of the table's columns, from its key's handle and its value.
///
/// # Errors
/// If the value is damaged.
pub fn decode(table: &TableSchema, handle: i64, value: &[u8]) -> Result<Vec<Datum>> {
    let damaged = |e: DecodeError| {
        Error::unknown(format!("row {handle} of table '{}' is damaged: {e}", table.name))
    };
    let view = RowView::new(value).map_err(damaged)?;
    let cell = |column: &ColumnSchema| {
        if table.handle_column == Some(column.id) {
            return Ok(match column.ty.is_unsigned() {
                true => Datum::UInt(handle as u64),
                false => Datum::Int(handle),
            });
        }
        match (view.get(column.id), &column.origin_default) {
            (Cell::Value(v), _) => decode_value(&column.ty, v).map_err(damaged),
            (Cell::Missing, Some(v)) => decode_value(&column.ty, v).map_err(damaged),
            (Cell::Null | Cell::Missing, _) => Ok(Datum::Null),
        }
    };
    table.columns.iter().map(cell).collect()
}

/// The entry of a row (in the order of the table's columns) in an index. A column that the table
/// does not have counts as NULL.
pub fn entry(table: &TableSchema, index: &IndexSchema, row: &[Datum], handle: i64) -> Entry {
    let value = |id: &damask_types::ColumnId| {
        table.position(*id).and_then(|at| row.get(at)).unwrap_or(&Datum::Null)
    };
    let prefix = index_prefix(table.id, index.id);
    entry_of(&prefix, index.unique, index.columns.iter().map(value), handle)
}

/// An entry from its values, in the order of the index's columns.
pub(super) fn entry_of<'d>(
    prefix: &[u8],
    unique: bool,
    values: impl ExactSizeIterator<Item = &'d Datum>,
    handle: i64,
) -> Entry {
    let mut unique = unique;
    let mut key = Vec::with_capacity(prefix.len() + 10 * values.len() + 8);
    key.extend_from_slice(prefix);
    for value in values {
        unique &= !value.is_null();
        value.put_sorted(&mut key);
    }
    if !unique {
        put_i64_sorted(&mut key, handle);
    }
    let value = if unique { encode_handle(handle) } else { NO_VALUE.to_vec() };
    Entry { key, value, unique }
}
