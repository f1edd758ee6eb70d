//! Rows to packets, text and binary, from datums and from columns alike. It must never send a
//! value in another type than the column definition announced.
//!
//! ```text
//!  text row    each value: lenenc string, or FB for NULL
//!  binary row  00 | NULL bitmap, from bit 2 | each value that is not NULL
//! ```

use super::wire::{Wire, WireError};
use crate::convert::{Cell, Reader, calendar, prepare};
use crate::error::{Error, Result};
use crate::outcome::{ColumnMeta, RowBatch};
use arrow::array::RecordBatch;
use damask_types::ColumnType;
use damask_types::schema::IntWidth;
use mysql_common::io::BufMutExt;

/// How rows are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As answers of COM_QUERY.
    Text,
    /// As answers of COM_STMT_EXECUTE.
    Binary,
}

/// Why rows were not sent.
#[derive(Debug)]
pub enum Fail {
    /// The client is to be told.
    Sql(Error),
    /// There is no client to tell.
    Wire(WireError),
}

impl From<Error> for Fail {
    fn from(error: Error) -> Fail {
        Fail::Sql(error)
    }
}

impl From<WireError> for Fail {
    fn from(error: WireError) -> Fail {
        Fail::Wire(error)
    }
}

/// Sends a batch's rows.
pub fn send(
    wire: &mut Wire,
    columns: &[ColumnMeta],
    form: Form,
    batch: &RowBatch,
) -> std::result::Result<(), Fail> {
    match batch {
        RowBatch::Datums(rows) => {
            for row in rows {
                check_width(columns.len(), row.len())?;
                let cell = |i: usize| Cell::of(&row[i]);
                wire.packet(|out| Ok::<_, Fail>(put_row(out, columns, form, cell)?))?;
            }
            Ok(())
        }
        RowBatch::Columns(batch) => send_columns(wire, columns, form, batch),
    }
}

fn send_columns(
    wire: &mut Wire,
    columns: &[ColumnMeta],
    form: Form,
    batch: &RecordBatch,
) -> std::result::Result<(), Fail> {
    check_width(columns.len(), batch.num_columns())?;
    let arrays = batch.columns().iter().map(|a| Ok(prepare(a)?.unwrap_or_else(|| a.clone())));
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    let readers = arrays.iter().map(|a| Reader::new(a)).collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        let cell = |i: usize| readers[i].cell(row);
        wire.packet(|out| Ok::<_, Fail>(put_row(out, columns, form, cell)?))?;
    }
    Ok(())
}

fn check_width(announced: usize, got: usize) -> Result<()> {
    if announced == got {
        return Ok(());
    }
    Err(Error::unknown(format!("a row has {got} values where {announced} columns are announced")))
}

/// One row's payload.
pub fn put_row<'a>(
    out: &mut Vec<u8>,
    columns: &[ColumnMeta],
    form: Form,
    cell: impl Fn(usize) -> Cell<'a>,
) -> Result<()> {
    if form == Form::Text {
        for (i, column) in columns.iter().enumerate() {
            put_text(out, cell(i), column.ty.as_ref());
        }
        return Ok(());
    }
    out.push(0x00);
    let bitmap = out.len();
    out.resize(bitmap + (columns.len() + 2).div_ceil(8), 0);
    for (i, column) in columns.iter().enumerate() {
        if !put_binary(out, cell(i), column)? {
            out[bitmap + (i + 2) / 8] |= 1 << ((i + 2) % 8);
        }
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, cell: Cell<'_>, ty: Option<&ColumnType>) {
    match cell {
        Cell::Text(v) => out.put_lenenc_str(v.as_bytes()),
        Cell::Bytes(v) => out.put_lenenc_str(v),
        _ => {
            // Every other value's text is shorter than 251 bytes: its length is one byte.
            let at = out.len();
            out.push(0);
            if cell.put_text(out, ty) {
                out[at] = (out.len() - at - 1) as u8;
            } else {
                out[at] = 0xFB;
            }
        }
    }
}

/// A value of a binary row; false for NULL.
fn put_binary(out: &mut Vec<u8>, cell: Cell<'_>, column: &ColumnMeta) -> Result<bool> {
    use ColumnType as T;
    let Some(ty) = &column.ty else {
        return if cell == Cell::Null { Ok(false) } else { Err(misfit(column)) };
    };
    match (ty, cell.fitted(ty)) {
        (_, Cell::Null) => return Ok(false),
        (T::Float | T::Double, Cell::Double(v)) if !v.is_finite() => return Ok(false),
        (T::Bool, Cell::Int(v)) => put_integer(out, v.into(), IntWidth::Tiny, false, column)?,
        (T::Int { width, unsigned }, Cell::Int(v)) => {
            put_integer(out, v.into(), *width, *unsigned, column)?;
        }
        (T::Int { width, unsigned }, Cell::UInt(v)) => {
            put_integer(out, v.into(), *width, *unsigned, column)?;
        }
        (T::Float, Cell::Double(v)) => out.extend_from_slice(&(v as f32).to_le_bytes()),
        (T::Double, Cell::Double(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (T::Date, Cell::Date(v)) => put_date(out, v, column)?,
        (T::DateTime { .. } | T::Timestamp { .. }, Cell::DateTime(v)) => {
            put_datetime(out, v, column)?;
        }
        (T::Time { .. }, Cell::Time(v)) => put_time(out, v),
        (T::Decimal { .. }, Cell::Decimal(_) | Cell::Wide(..) | Cell::Double(_)) => {
            put_text(out, cell, Some(ty));
        }
        (ty, cell) if ty.is_text() || ty.is_binary() => put_text(out, cell, None),
        _ => return Err(misfit(column)),
    }
    Ok(true)
}

fn misfit(column: &ColumnMeta) -> Error {
    let name = &column.name;
    Error::unknown(format!("a value of column '{name}' is not of the column's type"))
}

fn put_integer(
    out: &mut Vec<u8>,
    value: i128,
    width: IntWidth,
    unsigned: bool,
    column: &ColumnMeta,
) -> Result<()> {
    // MEDIUMINT travels in 4 bytes.
    let bytes = match width {
        IntWidth::Tiny => 1,
        IntWidth::Small => 2,
        IntWidth::Medium | IntWidth::Normal => 4,
        IntWidth::Big => 8,
    };
    let bits = 8 * bytes as u32;
    let range = if unsigned { 0..1i128 << bits } else { -(1i128 << (bits - 1))..1 << (bits - 1) };
    if !range.contains(&value) {
        let name = &column.name;
        return Err(Error::expression_out_of_range(format!(
            "value {value} of column '{name}' is out of range"
        )));
    }
    out.extend_from_slice(&value.to_le_bytes()[..bytes]);
    Ok(())
}

fn year(year: i64, column: &ColumnMeta) -> Result<[u8; 2]> {
    u16::try_from(year).map(u16::to_le_bytes).map_err(|_| misfit(column))
}

fn put_date(out: &mut Vec<u8>, days: i32, column: &ColumnMeta) -> Result<()> {
    let (y, month, day) = calendar::civil_from_days(days.into());
    let year = year(y, column)?;
    out.extend_from_slice(&[4, year[0], year[1], month as u8, day as u8]);
    Ok(())
}

fn put_datetime(out: &mut Vec<u8>, micros: i64, column: &ColumnMeta) -> Result<()> {
    let p = calendar::parts(micros);
    let year = year(p.year, column)?;
    let len = match (p.hour | p.minute | p.second, p.micros) {
        (0, 0) => 4,
        (_, 0) => 7,
        _ => 11,
    };
    out.extend_from_slice(&[len, year[0], year[1], p.month as u8, p.day as u8]);
    if len >= 7 {
        out.extend_from_slice(&[p.hour as u8, p.minute as u8, p.second as u8]);
    }
    if len == 11 {
        out.extend_from_slice(&p.micros.to_le_bytes());
    }
    Ok(())
}

fn put_time(out: &mut Vec<u8>, micros: i64) {
    let all = micros.unsigned_abs();
    let fraction = (all % calendar::SECOND as u64) as u32;
    let seconds = all / calendar::SECOND as u64;
    if all == 0 {
        out.push(0);
        return;
    }
    out.push(if fraction == 0 { 8 } else { 12 });
    out.push(u8::from(micros < 0));
    out.extend_from_slice(&((seconds / 86_400) as u32).to_le_bytes());
    let of_day = seconds % 86_400;
    out.extend_from_slice(&[(of_day / 3600) as u8, (of_day / 60 % 60) as u8, (of_day % 60) as u8]);
    if fraction != 0 {
        out.extend_from_slice(&fraction.to_le_bytes());
    }
}
