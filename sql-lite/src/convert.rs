//! Values between columns, rows and text: what a client sees of a value, as MySQL prints it.
//! It must never guess: a value that its declared type cannot hold is an error, not another value.
//!
//! ```text
//!  Arrow array ──Reader──┐
//!                        ├─> Cell (borrowed) ──> text   (SHOW, CAST, text protocol)
//!  Datum ────Cell::of────┘           └─────────> Datum  (point reads, DML)
//! ```

pub mod calendar;
mod cell;
pub mod number;

#[cfg(test)]
mod tests;

pub use cell::{Cell, Reader, prepare};

use crate::error::{Error, Result};
use arrow::array::Array;
use damask_types::{ColumnType, Datum};

/// A value as MySQL prints it; `None` for NULL. With a type, fractions of seconds, FLOAT's six
/// digits and DECIMAL's scale follow it. Bytes that are not UTF-8 are shown with U+FFFD.
pub fn text(value: &Datum, ty: Option<&ColumnType>) -> Option<String> {
    let mut out = Vec::new();
    if !Cell::of(value).put_text(&mut out, ty) {
        return None;
    }
    let text = String::from_utf8(out);
    Some(text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// One value of an array, fitted to its column's type where a plain conversion exists.
///
/// # Errors
/// If Arrow cannot show the array's type as text, or `row` is past its end.
pub fn datum_at(array: &dyn Array, row: usize, ty: Option<&ColumnType>) -> Result<Datum> {
    if row >= array.len() {
        return Err(Error::unknown(format!("row {row} of a column of {} rows", array.len())));
    }
    let prepared = prepare(array)?;
    let array = prepared.as_deref().unwrap_or(array);
    let cell = Reader::new(array)?.cell(row);
    Ok(ty.map_or(cell, |ty| cell.fitted(ty)).to_datum())
}
