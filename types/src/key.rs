//! User keys. All keys in regions, requests and records are *user keys*; only the row engine sees
//! their memcomparable form with a version (`codec::encode_key_ts`), which sorts the same way.
//!
//! ```text
//! t {table: i64 sorted} _r {handle: i64 sorted}                     a row
//! t {table} _i {index: i64 sorted} {datums sorted}                  a unique index entry -> handle
//! t {table} _i {index} {datums sorted} {handle: i64 sorted}         a non-unique one, or one with a NULL
//! m ...                                                            the catalog
//! ```
//!
//! It must never depend on a schema: callers pass datums.

use crate::codec::{self, DecodeError, Result, put_i64_sorted, take_i64_sorted};
use crate::datum::Datum;
use crate::ids::{IndexId, TableId};
use serde::{Deserialize, Serialize};

/// Length of a row key: `t`, table, `_r`, handle.
pub const ROW_KEY_LEN: usize = 1 + 8 + 2 + 8;

/// A half-open range of user keys; an empty `end` has no upper bound.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct KeyRange {
    /// First key inside.
    pub start: Vec<u8>,
    /// First key after; empty means "to the end".
    pub end: Vec<u8>,
}

impl std::fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {})", Hex(&self.start), Hex(&self.end))
    }
}

impl KeyRange {
    /// `[start, end)`.
    pub fn new(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> KeyRange {
        KeyRange { start: start.into(), end: end.into() }
    }

    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange::default()
    }

    /// Exactly one key.
    pub fn point(key: &[u8]) -> KeyRange {
        let mut end = key.to_vec();
        end.push(0);
        KeyRange { start: key.to_vec(), end }
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: &[u8]) -> KeyRange {
        KeyRange { start: prefix.to_vec(), end: prefix_end(prefix) }
    }

    /// Is `key` inside?
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && (self.end.is_empty() || key < self.end.as_slice())
    }

    /// No key can be inside.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }

    /// The common part, if there is one.
    pub fn intersect(&self, other: &KeyRange) -> Option<KeyRange> {
        let start = self.start.clone().max(other.start.clone());
        let end = match (self.end.is_empty(), other.end.is_empty()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => self.end.clone().min(other.end.clone()),
        };
        let range = KeyRange { start, end };
        (!range.is_empty()).then_some(range)
    }
}

/// The first key after all keys with `prefix`; empty if there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xFF {
            *last += 1;
            return end;
        }
        end.pop();
    }
    end
}

/// `t{table}`.
pub fn table_prefix(table: TableId) -> Vec<u8> {
    let mut key = Vec::with_capacity(ROW_KEY_LEN);
    key.push(b't');
    put_i64_sorted(&mut key, table.0);
    key
}

/// `t{table}_r`.
pub fn row_prefix(table: TableId) -> Vec<u8> {
    let mut key = table_prefix(table);
    key.extend_from_slice(b"_r");
    key
}

/// `t{table}_r{handle}`.
pub fn row_key(table: TableId, handle: i64) -> Vec<u8> {
    let mut key = row_prefix(table);
    put_i64_sorted(&mut key, handle);
    key
}

/// Every row of a table.
pub fn row_range(table: TableId) -> KeyRange {
    KeyRange::prefix(&row_prefix(table))
}

/// Rows with `first <= handle <= last`.
pub fn handle_range(table: TableId, first: i64, last: i64) -> KeyRange {
    let end = match last.checked_add(1) {
        Some(after) => row_key(table, after),
        None => row_range(table).end,
    };
    KeyRange { start: row_key(table, first), end }
}

/// The table and handle of a row key; `None` if it is another kind of key.
pub fn decode_row_key(key: &[u8]) -> Option<(TableId, i64)> {
    if key.len() != ROW_KEY_LEN || key[0] != b't' || &key[9..11] != b"_r" {
        return None;
    }
    let table = take_i64_sorted(&mut &key[1..9]).ok()?;
    let handle = take_i64_sorted(&mut &key[11..]).ok()?;
    Some((TableId(table), handle))
}

/// The table of any `t…` key.
pub fn decode_table(key: &[u8]) -> Option<TableId> {
    if key.len() < 9 || key[0] != b't' {
        return None;
    }
    take_i64_sorted(&mut &key[1..9]).ok().map(TableId)
}

/// `t{table}_i{index}`.
pub fn index_prefix(table: TableId, index: IndexId) -> Vec<u8> {
    let mut key = table_prefix(table);
    key.extend_from_slice(b"_i");
    put_i64_sorted(&mut key, index.0);
    key
}

/// An index entry's key; `handle` is appended when given (non-unique, or a NULL in a unique one).
pub fn index_key(table: TableId, index: IndexId, values: &[Datum], handle: Option<i64>) -> Vec<u8> {
    let mut key = index_prefix(table, index);
    for value in values {
        value.put_sorted(&mut key);
    }
    if let Some(handle) = handle {
        put_i64_sorted(&mut key, handle);
    }
    key
}

/// The datums of an index key and the handle if one follows. `columns` = columns in the index.
pub fn decode_index_key(key: &[u8], columns: usize) -> Result<(Vec<Datum>, Option<i64>)> {
    if key.len() < 19 || key[0] != b't' || &key[9..11] != b"_i" {
        return Err(DecodeError("not an index key"));
    }
    let mut buf = &key[19..];
    let values = (0..columns).map(|_| Datum::take_sorted(&mut buf)).collect::<Result<Vec<_>>>()?;
    let handle = if buf.is_empty() { None } else { Some(take_i64_sorted(&mut buf)?) };
    if buf.is_empty() { Ok((values, handle)) } else { Err(DecodeError("bytes after index key")) }
}

/// The value of a unique index entry: the row's handle.
pub fn encode_handle(handle: i64) -> Vec<u8> {
    handle.to_be_bytes().to_vec()
}

/// The handle in a unique index entry's value.
pub fn decode_handle(value: &[u8]) -> Result<i64> {
    let mut buf = value;
    let handle = codec::take_u64(&mut buf)? as i64;
    if buf.is_empty() { Ok(handle) } else { Err(DecodeError("bytes after handle")) }
}

/// Prints bytes as lower-case hex, for messages.
pub struct Hex<'a>(pub &'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
