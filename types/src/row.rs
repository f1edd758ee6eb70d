//! The row codec: TiDB's row format v2 in shape. Column ids are sorted, so a reader with another
//! schema version finds, misses or skips each column by id. It must never need the schema to walk.
//!
//! ```text
//! 0x80 | flags (bit 0: large) | n_not_null u16 | n_null u16
//! ids of not-null columns, ascending | ids of null columns, ascending    u8 each, u32 if large
//! end offsets of the values                                              u16 each, u32 if large
//! values
//! ```
//! All integers little-endian. Value forms by type: integers 1, 2, 4 or 8 bytes (shortest that
//! holds it, sign- or zero-extended); FLOAT and DOUBLE 8 bytes; DECIMAL scale u8 + i128 in the
//! shortest of 1..16 bytes; text and bytes as they are; DATE, DATETIME, TIMESTAMP, TIME as i64 integers.

use crate::codec::{DecodeError, Result};
use crate::datum::{Datum, Decimal};
use crate::ids::ColumnId;
use crate::schema::ColumnType;

const VERSION: u8 = 0x80;
const LARGE: u8 = 1;
const HEADER: usize = 6;

fn put_int(out: &mut Vec<u8>, v: i64) {
    let bytes = v.to_le_bytes();
    let n = match v {
        _ if i8::try_from(v).is_ok() => 1,
        _ if i16::try_from(v).is_ok() => 2,
        _ if i32::try_from(v).is_ok() => 4,
        _ => 8,
    };
    out.extend_from_slice(&bytes[..n]);
}

fn put_uint(out: &mut Vec<u8>, v: u64) {
    let bytes = v.to_le_bytes();
    let n = match v {
        _ if u8::try_from(v).is_ok() => 1,
        _ if u16::try_from(v).is_ok() => 2,
        _ if u32::try_from(v).is_ok() => 4,
        _ => 8,
    };
    out.extend_from_slice(&bytes[..n]);
}

/// Appends the value form of a datum that is not NULL (NULL appends nothing).
pub fn put_value(out: &mut Vec<u8>, datum: &Datum) {
    match datum {
        Datum::Null => {}
        Datum::Int(v) | Datum::DateTime(v) | Datum::Time(v) => put_int(out, *v),
        Datum::Date(v) => put_int(out, i64::from(*v)),
        Datum::UInt(v) => put_uint(out, *v),
        Datum::Double(v) => out.extend_from_slice(&v.to_le_bytes()),
        Datum::Decimal(d) => {
            out.push(d.scale);
            let bytes = d.unscaled.to_le_bytes();
            let mut n = 16;
            // Drop bytes that only repeat the sign.
            while n > 1 && bytes[n - 1] == sign_byte(bytes[n - 2]) {
                n -= 1;
            }
            out.extend_from_slice(&bytes[..n]);
        }
        Datum::Text(s) => out.extend_from_slice(s.as_bytes()),
        Datum::Bytes(b) => out.extend_from_slice(b),
    }
}

fn sign_byte(top: u8) -> u8 {
    if top & 0x80 == 0 { 0 } else { 0xFF }
}

/// The value form on its own; `None` for NULL.
pub fn encode_value(datum: &Datum) -> Option<Vec<u8>> {
    if datum.is_null() {
        return None;
    }
    let mut out = Vec::new();
    put_value(&mut out, datum);
    Some(out)
}

/// A signed integer's value form.
pub fn value_i64(v: &[u8]) -> Result<i64> {
    Ok(match *v {
        [a] => i64::from(a as i8),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(DecodeError("integer of odd length")),
    })
}

/// An unsigned integer's value form.
pub fn value_u64(v: &[u8]) -> Result<u64> {
    Ok(match *v {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(DecodeError("integer of odd length")),
    })
}

/// A FLOAT's or DOUBLE's value form.
pub fn value_f64(v: &[u8]) -> Result<f64> {
    Ok(f64::from_le_bytes(v.try_into().map_err(|_| DecodeError("double of odd length"))?))
}

/// A DECIMAL's value form.
pub fn value_decimal(v: &[u8]) -> Result<Decimal> {
    let (scale, digits) = v.split_first().ok_or(DecodeError("empty decimal"))?;
    let top = *digits.last().ok_or(DecodeError("empty decimal"))?;
    if digits.len() > 16 {
        return Err(DecodeError("long decimal"));
    }
    let mut bytes = [sign_byte(top); 16];
    bytes[..digits.len()].copy_from_slice(digits);
    Ok(Decimal { unscaled: i128::from_le_bytes(bytes), scale: *scale })
}

/// A value form of a known type.
pub fn decode_value(ty: &ColumnType, v: &[u8]) -> Result<Datum> {
    use ColumnType::*;
    Ok(match ty {
        Int { unsigned: true, .. } => Datum::UInt(value_u64(v)?),
        Bool | Int { .. } => Datum::Int(value_i64(v)?),
        Float | Double => Datum::Double(value_f64(v)?),
        Decimal { .. } => Datum::Decimal(value_decimal(v)?),
        Char { .. } | VarChar { .. } | Text { .. } => {
            let text = std::str::from_utf8(v).map_err(|_| DecodeError("text is not UTF-8"))?;
            Datum::Text(text.to_owned())
        }
        Binary { .. } | VarBinary { .. } | Blob { .. } => Datum::Bytes(v.to_vec()),
        Date => {
            let days = i32::try_from(value_i64(v)?);
            Datum::Date(days.map_err(|_| DecodeError("date out of range"))?)
        }
        DateTime { .. } | Timestamp { .. } => Datum::DateTime(value_i64(v)?),
        Time { .. } => Datum::Time(value_i64(v)?),
    })
}

/// Encodes a row. `cells` may be in any order; ids must be distinct and positive.
pub fn encode_row(cells: &[(ColumnId, &Datum)]) -> Vec<u8> {
    let mut sorted: Vec<_> = cells.iter().collect();
    sorted.sort_by_key(|(id, _)| *id);
    let (nulls, values): (Vec<_>, Vec<_>) = sorted.into_iter().partition(|(_, d)| d.is_null());
    let mut body = Vec::with_capacity(values.len() * 8);
    let mut ends = Vec::with_capacity(values.len());
    for (_, datum) in &values {
        put_value(&mut body, datum);
        ends.push(body.len() as u32);
    }
    let ids = || values.iter().chain(&nulls).map(|(id, _)| id.0 as u32);
    let large = body.len() > usize::from(u16::MAX) || ids().any(|id| id > u32::from(u8::MAX));
    let mut out = Vec::with_capacity(HEADER + cells.len() * if large { 8 } else { 3 } + body.len());
    out.extend_from_slice(&[VERSION, if large { LARGE } else { 0 }]);
    out.extend_from_slice(&(values.len() as u16).to_le_bytes());
    out.extend_from_slice(&(nulls.len() as u16).to_le_bytes());
    if large {
        ids().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
    } else {
        ids().for_each(|id| out.push(id as u8));
        ends.iter().for_each(|end| out.extend_from_slice(&(*end as u16).to_le_bytes()));
    }
    out.extend_from_slice(&body);
    out
}

/// What a row says of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// The row was written without this column: take its origin default.
    Missing,
    /// SQL NULL.
    Null,
    /// The value form.
    Value(&'a [u8]),
}

/// Where a row has a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The row was written without it.
    Missing,
    /// It is NULL there.
    Null,
    /// It is the n-th value, counted from 0.
    Value(usize),
}

/// A row's bytes, checked once and then read in place.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    large: bool,
    values: usize,
    nulls: usize,
    head: &'a [u8],
    ends: &'a [u8],
    body: &'a [u8],
}

impl<'a> RowView<'a> {
    /// Checks the structure; no value is decoded.
    pub fn new(row: &'a [u8]) -> Result<RowView<'a>> {
        if row.len() < HEADER || row[0] != VERSION {
            return Err(DecodeError("not a row"));
        }
        let large = row[1] & LARGE != 0;
        let values = usize::from(u16::from_le_bytes([row[2], row[3]]));
        let nulls = usize::from(u16::from_le_bytes([row[4], row[5]]));
        let (id_size, end_size) = if large { (4, 4) } else { (1, 2) };
        let ids_len = (values + nulls) * id_size;
        let ends_len = values * end_size;
        let rest = &row[HEADER..];
        if rest.len() < ids_len + ends_len {
            return Err(DecodeError("row too short"));
        }
        let (ends, body) = rest[ids_len..].split_at(ends_len);
        let head = &row[..HEADER + ids_len];
        let view = RowView { large, values, nulls, head, ends, body };
        let mut last = 0;
        for i in 0..values {
            let end = view.end(i);
            if end < last || end > body.len() {
                return Err(DecodeError("row offsets"));
            }
            last = end;
        }
        Ok(view)
    }

    fn id(&self, i: usize) -> i64 {
        let ids = &self.head[HEADER..];
        if self.large {
            let b = &ids[i * 4..i * 4 + 4];
            i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        } else {
            i64::from(ids[i])
        }
    }

    fn end(&self, i: usize) -> usize {
        if self.large {
            let b = &self.ends[i * 4..i * 4 + 4];
            u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize
        } else {
            usize::from(u16::from_le_bytes([self.ends[i * 2], self.ends[i * 2 + 1]]))
        }
    }

    fn find(&self, from: usize, len: usize, id: i64) -> Option<usize> {
        let (mut low, mut high) = (from, from + len);
        while low < high {
            let mid = (low + high) / 2;
            match self.id(mid).cmp(&id) {
                std::cmp::Ordering::Equal => return Some(mid),
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Greater => high = mid,
            }
        }
        None
    }

    /// The cell of a column.
    pub fn get(&self, id: ColumnId) -> Cell<'a> {
        self.at(self.place(id))
    }

    /// What says which columns the row holds, and which of them are NULL. Rows that are equal in
    /// it have every column at the same place.
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Where the row has a column.
    pub fn place(&self, id: ColumnId) -> Place {
        match self.find(0, self.values, id.0) {
            Some(at) => Place::Value(at),
            None => match self.find(self.values, self.nulls, id.0) {
                Some(_) => Place::Null,
                None => Place::Missing,
            },
        }
    }

    /// The cell at a place of this row, or of another one with the same head.
    pub fn at(&self, place: Place) -> Cell<'a> {
        match place {
            Place::Missing => Cell::Missing,
            Place::Null => Cell::Null,
            Place::Value(at) => {
                let start = if at == 0 { 0 } else { self.end(at - 1) };
                Cell::Value(&self.body[start..self.end(at)])
            }
        }
    }

    /// Every column id that the row holds, null or not.
    pub fn column_ids(&self) -> impl Iterator<Item = ColumnId> + '_ {
        (0..self.values + self.nulls).map(|i| ColumnId(self.id(i)))
    }
}
