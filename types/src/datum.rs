//! One SQL value. Comparison and arithmetic with MySQL's meaning belong to `sql-lite`; here are
//! only the value, and its sortable form for index keys.
//!
//! ```text
//! sortable form: flag, then
//!   00 NULL
//!   01 bytes (text and binary)   memcomparable groups
//!   03 i64                       sign flipped, big-endian
//!   04 u64                       big-endian
//!   05 f64                       IEEE bits made sortable
//!   06 decimal                   i128 sign flipped, big-endian; scale u8   (one scale a column)
//!   07 date                      days since 1970-01-01 as i64
//!   08 datetime, timestamp       microseconds since 1970-01-01 as i64
//!   09 time                      microseconds as i64
//! ```
//!
//! Text and bytes share a flag: within an index column only one of them occurs, and a decoder
//! returns `Bytes`; the schema says which it was.

use crate::codec::{self, DecodeError, Result};
use std::fmt;

/// Most digits of a DECIMAL here (MySQL allows 65; Arrow's `Decimal128` holds 38).
pub const DECIMAL_PRECISION_MAX: u8 = 38;

/// A fixed-point number: `unscaled / 10^scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// All digits, without the point.
    pub unscaled: i128,
    /// Digits after the point.
    pub scale: u8,
}

impl Decimal {
    /// The same number at another scale, rounding half away from zero; `None` on overflow.
    pub fn rescale(self, scale: u8) -> Option<Decimal> {
        let unscaled = if scale >= self.scale {
            self.unscaled.checked_mul(10i128.checked_pow(u32::from(scale - self.scale))?)?
        } else {
            let by = 10i128.checked_pow(u32::from(self.scale - scale))?;
            let half = by / 2 * self.unscaled.signum();
            self.unscaled.checked_add(half)? / by
        };
        Some(Decimal { unscaled, scale })
    }

    /// The nearest f64.
    pub fn to_f64(self) -> f64 {
        self.unscaled as f64 / 10f64.powi(i32::from(self.scale))
    }

    /// Parses `[-+]digits[.digits]`, no exponent; `None` if malformed or above 38 digits.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut unscaled = 0i128;
        for b in whole.bytes().chain(fraction.bytes()) {
            if !b.is_ascii_digit() {
                return None;
            }
            unscaled = unscaled.checked_mul(10)?.checked_add(i128::from(b - b'0'))?;
        }
        let scale = u8::try_from(fraction.len()).ok()?;
        let in_range = unscaled < 10i128.pow(u32::from(DECIMAL_PRECISION_MAX));
        let unscaled = if negative { -unscaled } else { unscaled };
        (in_range && scale <= DECIMAL_PRECISION_MAX).then_some(Decimal { unscaled, scale })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = usize::from(self.scale);
        let sign = if self.unscaled < 0 { "-" } else { "" };
        let digits = format!("{:0>width$}", self.unscaled.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        if scale == 0 { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{fraction}") }
    }
}

/// One SQL value.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Datum {
    /// SQL NULL.
    #[default]
    Null,
    /// Signed integers and BOOL.
    Int(i64),
    /// Unsigned integers.
    UInt(u64),
    /// FLOAT (rounded to f32 first) and DOUBLE.
    Double(f64),
    /// DECIMAL.
    Decimal(Decimal),
    /// CHAR, VARCHAR, TEXT.
    Text(String),
    /// BINARY, VARBINARY, BLOB.
    Bytes(Vec<u8>),
    /// DATE: days since 1970-01-01.
    Date(i32),
    /// DATETIME (as written) and TIMESTAMP (in UTC): microseconds since 1970-01-01 00:00:00.
    DateTime(i64),
    /// TIME: microseconds, may be negative or above a day.
    Time(i64),
}

const NULL: u8 = 0;
const BYTES: u8 = 1;
const INT: u8 = 3;
const UINT: u8 = 4;
const DOUBLE: u8 = 5;
const DECIMAL: u8 = 6;
const DATE: u8 = 7;
const DATETIME: u8 = 8;
const TIME: u8 = 9;

impl Datum {
    /// Is it SQL NULL?
    pub fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }

    /// Appends the sortable form.
    pub fn put_sorted(&self, out: &mut Vec<u8>) {
        let int = |out: &mut Vec<u8>, flag, v| {
            out.push(flag);
            codec::put_i64_sorted(out, v);
        };
        match self {
            Datum::Null => out.push(NULL),
            Datum::Int(v) => int(out, INT, *v),
            Datum::UInt(v) => {
                out.push(UINT);
                out.extend_from_slice(&v.to_be_bytes());
            }
            Datum::Double(v) => {
                out.push(DOUBLE);
                codec::put_f64_sorted(out, *v);
            }
            Datum::Decimal(d) => {
                out.push(DECIMAL);
                out.extend_from_slice(&((d.unscaled as u128) ^ (1 << 127)).to_be_bytes());
                out.push(d.scale);
            }
            Datum::Text(s) => {
                out.push(BYTES);
                codec::put_bytes_sorted(out, s.as_bytes());
            }
            Datum::Bytes(b) => {
                out.push(BYTES);
                codec::put_bytes_sorted(out, b);
            }
            Datum::Date(v) => int(out, DATE, i64::from(*v)),
            Datum::DateTime(v) => int(out, DATETIME, *v),
            Datum::Time(v) => int(out, TIME, *v),
        }
    }

    /// Takes one sortable form; text comes back as `Bytes`.
    pub fn take_sorted(buf: &mut &[u8]) -> Result<Datum> {
        Ok(match codec::take_u8(buf)? {
            NULL => Datum::Null,
            BYTES => {
                let mut bytes = Vec::new();
                codec::take_bytes_sorted(buf, &mut bytes)?;
                Datum::Bytes(bytes)
            }
            INT => Datum::Int(codec::take_i64_sorted(buf)?),
            UINT => Datum::UInt(codec::take_u64(buf)?),
            DOUBLE => Datum::Double(codec::take_f64_sorted(buf)?),
            DECIMAL => {
                let bytes = codec::take(buf, 16)?.try_into().expect("took 16 bytes");
                let unscaled = (u128::from_be_bytes(bytes) ^ (1 << 127)) as i128;
                Datum::Decimal(Decimal { unscaled, scale: codec::take_u8(buf)? })
            }
            DATE => {
                let days = i32::try_from(codec::take_i64_sorted(buf)?);
                Datum::Date(days.map_err(|_| DecodeError("date out of range"))?)
            }
            DATETIME => Datum::DateTime(codec::take_i64_sorted(buf)?),
            TIME => Datum::Time(codec::take_i64_sorted(buf)?),
            _ => return Err(DecodeError("unknown datum flag")),
        })
    }
}
