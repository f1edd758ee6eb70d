//! A table's rows and index entries as keys and values. The integer primary key that is the handle
//! is in the row's key and not in its value. It must never read or write anything itself.

use crate::error::{Error, Result};
use damask_types::codec::{DecodeError, put_i64_sorted};
use damask_types::key::{decode_handle, encode_handle, index_prefix, row_key};
use damask_types::row::{Cell, RowView, decode_value, encode_row};
use damask_types::schema::IndexState;
use damask_types::{ColumnId, ColumnSchema, Datum, IndexId, TableSchema};
use std::sync::Arc;

/// The value of an entry whose key ends with the handle.
const NO_VALUE: &[u8] = b"0";

/// One row's entry in one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// What is stored under it.
    pub value: Vec<u8>,
    /// No other row may have the key.
    pub unique: bool,
}

/// An index by positions of columns.
pub(crate) struct Index {
    /// Its id.
    pub id: IndexId,
    /// Its columns' positions in the table.
    pub positions: Vec<usize>,
    /// At most one row a key without NULLs.
    pub unique: bool,
    /// May it be read?
    pub public: bool,
    prefix: Vec<u8>,
}

/// How a table's rows are stored. Rows are datums in the order of the table's columns.
pub(crate) struct Layout {
    /// The table.
    pub table: Arc<TableSchema>,
    /// Position of the column that is the handle; `None` = hidden row id.
    pub handle_at: Option<usize>,
    /// Its indexes, public or not.
    pub indexes: Vec<Index>,
    /// Columns of a row's value in the order of their ids, with their positions.
    stored: Vec<(ColumnId, usize)>,
}

impl Index {
    /// The entry of a row.
    pub fn entry(&self, row: &[Datum], handle: i64) -> Entry {
        let mut unique = self.unique;
        let mut key = Vec::with_capacity(self.prefix.len() + 10 * self.positions.len() + 8);
        key.extend_from_slice(&self.prefix);
        for at in &self.positions {
            unique &= !row[*at].is_null();
            row[*at].put_sorted(&mut key);
        }
        if !unique {
            put_i64_sorted(&mut key, handle);
        }
        let value = if unique { encode_handle(handle) } else { NO_VALUE.to_vec() };
        Entry { key, value, unique }
    }

    /// The key of the entry with these values, none of them NULL, in a unique index.
    pub fn unique_key<'d>(&self, values: impl Iterator<Item = &'d Datum>) -> Vec<u8> {
        let mut key = self.prefix.clone();
        values.for_each(|value| value.put_sorted(&mut key));
        key
    }

    /// Do two rows have the same entry, but for the handle?
    pub fn same(&self, a: &[Datum], b: &[Datum]) -> bool {
        self.positions.iter().all(|at| a[*at] == b[*at])
    }
}

impl Layout {
    /// The layout of a table.
    ///
    /// # Errors
    /// If an index names a column that the table does not have.
    pub fn new(table: Arc<TableSchema>) -> Result<Layout> {
        let missing = || Error::unknown(format!("catalog: table '{}' is damaged", table.name));
        let handle_at = match table.handle_column {
            Some(id) => Some(table.position(id).ok_or_else(missing)?),
            None => None,
        };
        let index = |index: &damask_types::IndexSchema| {
            let positions = index.columns.iter().map(|id| table.position(*id));
            Some(Index {
                id: index.id,
                positions: positions.collect::<Option<_>>()?,
                unique: index.unique,
                public: index.state == IndexState::Public,
                prefix: index_prefix(table.id, index.id),
            })
        };
        let indexes = table.indexes.iter().map(index).collect::<Option<_>>().ok_or_else(missing)?;
        let mut stored: Vec<_> = table.columns.iter().map(|c| c.id).zip(0..).collect();
        stored.retain(|(_, at)| Some(*at) != handle_at);
        stored.sort_unstable();
        Ok(Layout { table, handle_at, indexes, stored })
    }

    /// A row's key.
    pub fn row_key(&self, handle: i64) -> Vec<u8> {
        row_key(self.table.id, handle)
    }

    /// A row's value.
    pub fn encode(&self, row: &[Datum]) -> Vec<u8> {
        let cells: Vec<_> = self.stored.iter().map(|(id, at)| (*id, &row[*at])).collect();
        encode_row(&cells)
    }

    /// A row from its key's handle and its value.
    ///
    /// # Errors
    /// If the value is damaged.
    pub fn decode(&self, handle: i64, value: &[u8]) -> Result<Vec<Datum>> {
        let table = &*self.table;
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

    /// One of the indexes.
    pub fn index(&self, id: IndexId) -> Option<&Index> {
        self.indexes.iter().find(|index| index.id == id)
    }

    /// The handle that a row has by its primary key; `None`: it needs a row id.
    pub fn handle_of(&self, row: &[Datum]) -> Option<i64> {
        match row[self.handle_at?] {
            Datum::Int(v) => Some(v),
            Datum::UInt(v) => Some(v as i64),
            _ => None,
        }
    }

    /// A row's entries, in the order of the indexes.
    pub fn entries<'l>(
        &'l self,
        row: &'l [Datum],
        handle: i64,
    ) -> impl Iterator<Item = Entry> + 'l {
        self.indexes.iter().map(move |index| index.entry(row, handle))
    }

    /// Keys that no other row may have.
    pub fn unique_keys(&self, row: &[Datum], handle: i64, out: &mut Vec<Vec<u8>>) {
        if self.handle_at.is_some() {
            out.push(self.row_key(handle));
        }
        let unique = self.indexes.iter().filter(|index| index.unique);
        let entries = unique.map(|index| index.entry(row, handle)).filter(|entry| entry.unique);
        out.extend(entries.map(|entry| entry.key));
    }

    /// Must anything be unique?
    pub fn has_unique(&self) -> bool {
        self.handle_at.is_some() || self.indexes.iter().any(|index| index.unique)
    }

    /// The handle in a unique entry's value.
    pub fn handle_in(&self, value: &[u8]) -> Result<i64> {
        decode_handle(value).map_err(|e| {
            let table = &self.table.name;
            Error::unknown(format!("an index entry of table '{table}' is damaged: {e}"))
        })
    }
}
