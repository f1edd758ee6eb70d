//! Usual fields of a file straight into datums. Whatever is not plainly a value of the column's
//! type is left to the conversion that all statements share. It must never read a field otherwise
//! than that would.

use crate::convert::calendar::{DAY, SECOND, days_from_civil, is_date};
use crate::value::{integer_bounds, temporal};
use damask_types::{ColumnType, Datum, Decimal};

/// Most digits read here.
const DIGITS_MAX: usize = 18;

/// Reads fields of one column.
pub(super) struct Parser {
    ty: ColumnType,
    bounds: (i64, i64),
    /// 10 to the precision of a DECIMAL.
    limit: i128,
    offset_us: i64,
}

impl Parser {
    pub fn new(ty: &ColumnType, offset_us: i64) -> Parser {
        let (min, max) = integer_bounds(ty);
        let bounds = (min.max(i64::MIN.into()) as i64, max.min(i64::MAX.into()) as i64);
        let limit = match ty {
            ColumnType::Decimal { precision, .. } => 10i128.pow(u32::from(*precision)),
            _ => 0,
        };
        Parser { ty: ty.clone(), bounds, limit, offset_us }
    }

    /// A field for the conversion that all statements share.
    pub fn text(bytes: &[u8]) -> Datum {
        match std::str::from_utf8(bytes) {
            Ok(text) => Datum::Text(text.to_owned()),
            Err(_) => Datum::Bytes(bytes.to_vec()),
        }
    }

    /// The field's value; `None` when it is not a usual one.
    pub fn parse(&self, bytes: &[u8]) -> Option<Datum> {
        match &self.ty {
            ColumnType::Bool | ColumnType::Int { .. } => self.integer(bytes),
            ColumnType::Decimal { scale, .. } => self.decimal(bytes, *scale),
            ColumnType::Float => {
                let v = f64::from(double(bytes)? as f32);
                v.is_finite().then_some(Datum::Double(v))
            }
            ColumnType::Double => double(bytes).map(Datum::Double),
            ColumnType::Char { len } => {
                let text = text(bytes, *len)?;
                Some(Datum::Text(text.trim_end_matches(' ').to_owned()))
            }
            ColumnType::VarChar { len } => text(bytes, *len).map(|t| Datum::Text(t.to_owned())),
            ColumnType::Text { bytes_max } => {
                text(bytes, *bytes_max).map(|t| Datum::Text(t.to_owned()))
            }
            ColumnType::VarBinary { len: max } | ColumnType::Blob { bytes_max: max } => {
                (bytes.len() <= *max as usize).then(|| Datum::Bytes(bytes.to_vec()))
            }
            ColumnType::Date => match bytes.len() {
                10 => date(bytes).map(|days| Datum::Date(days as i32)),
                _ => None,
            },
            ColumnType::DateTime { .. } => moment(bytes).map(Datum::DateTime),
            ColumnType::Timestamp { .. } => {
                let us = moment(bytes)? - self.offset_us;
                let held = temporal::TIMESTAMP_MIN..=temporal::TIMESTAMP_MAX;
                held.contains(&us).then_some(Datum::DateTime(us))
            }
            ColumnType::Binary { .. } | ColumnType::Time { .. } => None,
        }
    }

    fn integer(&self, bytes: &[u8]) -> Option<Datum> {
        let (negative, digits) = sign(bytes);
        let v = number(digits)?;
        let v = if negative { -v } else { v };
        if v < self.bounds.0 || v > self.bounds.1 {
            return None;
        }
        Some(if self.ty.is_unsigned() { Datum::UInt(v as u64) } else { Datum::Int(v) })
    }

    fn decimal(&self, bytes: &[u8], scale: u8) -> Option<Datum> {
        let (negative, digits) = sign(bytes);
        let point = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
        let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or(&[]));
        let missing = usize::from(scale).checked_sub(fraction.len())?;
        let fraction = if fraction.is_empty() { 0 } else { number(fraction)? };
        let places = 10i128.pow(u32::from(scale));
        let unscaled = i128::from(number(whole)?).checked_mul(places)?
            + i128::from(fraction) * 10i128.pow(missing as u32);
        if unscaled >= self.limit {
            return None;
        }
        let unscaled = if negative { -unscaled } else { unscaled };
        Some(Datum::Decimal(Decimal { unscaled, scale }))
    }
}

fn sign(bytes: &[u8]) -> (bool, &[u8]) {
    match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, bytes),
    }
}

/// One to eighteen digits.
fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    let mut v = 0i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        v = v * 10 + i64::from(digit);
    }
    Some(v)
}

fn double(bytes: &[u8]) -> Option<f64> {
    let plain = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
    if !bytes.iter().all(plain) {
        return None;
    }
    let v: f64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    v.is_finite().then_some(v)
}

/// Text of at most `max` bytes, and so of at most `max` characters.
fn text(bytes: &[u8], max: u32) -> Option<&str> {
    if bytes.len() > max as usize {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

/// `YYYY-MM-DD` at the front, as days.
fn date(bytes: &[u8]) -> Option<i64> {
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = number(&bytes[..4])?;
    let (month, day) = (number(&bytes[5..7])? as u32, number(&bytes[8..10])? as u32);
    is_date(year, month, day).then(|| days_from_civil(year, month, day))
}

/// `YYYY-MM-DD hh:mm:ss`, as microseconds.
fn moment(bytes: &[u8]) -> Option<i64> {
    if bytes.len() != 19 || bytes[10] != b' ' || bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let days = date(bytes)?;
    let (hour, minute) = (number(&bytes[11..13])?, number(&bytes[14..16])?);
    let second = number(&bytes[17..19])?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(days * DAY + (hour * 3600 + minute * 60 + second) * SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Warnings;
    use crate::value::{Rules, convert};
    use damask_types::schema::IntWidth;
    use damask_types::{ColumnId, ColumnSchema};

    /// Whatever is read here is read the same by the conversion of all statements.
    #[test]
    fn fields_mean_what_they_mean_everywhere() {
        let int = |width, unsigned| ColumnType::Int { width, unsigned };
        let types = [
            ColumnType::Bool,
            int(IntWidth::Tiny, true),
            int(IntWidth::Normal, false),
            int(IntWidth::Big, true),
            ColumnType::Float,
            ColumnType::Double,
            ColumnType::Decimal { precision: 5, scale: 2 },
            ColumnType::Decimal { precision: 38, scale: 30 },
            ColumnType::Char { len: 3 },
            ColumnType::VarChar { len: 12 },
            ColumnType::Text { bytes_max: 20 },
            ColumnType::VarBinary { len: 4 },
            ColumnType::Binary { len: 12 },
            ColumnType::Date,
            ColumnType::DateTime { fsp: 0 },
            ColumnType::Timestamp { fsp: 3 },
            ColumnType::Time { fsp: 0 },
        ];
        let fields = [
            "",
            "0",
            "-0",
            "7",
            "-7",
            "+7",
            " 7",
            "255",
            "256",
            "-129",
            "2147483648",
            "1.5",
            "-1.25",
            "999.99",
            "1000",
            "1.",
            ".5",
            "1.234",
            "1e3",
            "inf",
            "nan",
            "999999999999999999",
            "18446744073709551615",
            "ab ",
            "abcd",
            "äöü",
            "2020-02-29",
            "2021-02-29",
            "2020-2-9",
            "0000-00-00",
            "2020-01-02 03:04:05",
            "2020-01-02 24:00:00",
            "1960-01-01 00:00:00",
            "2020-01-02 03:04:05.678",
            "12:13:14",
            "x",
            "99999-1-1",
            "2020-01-02T03:04:05",
        ];
        let (mut usual, mut all) = (0, 0);
        for ty in types {
            let column = ColumnSchema {
                id: ColumnId(1),
                name: "c".to_owned(),
                ty: ty.clone(),
                nullable: true,
                default: None,
                origin_default: None,
                auto_increment: false,
                on_update_now: false,
                comment: String::new(),
            };
            let rules = Rules { strict: true, offset_us: 7_200_000_000, now_us: 0 };
            let parser = Parser::new(&ty, rules.offset_us);
            for field in fields {
                all += 1;
                let Some(read) = parser.parse(field.as_bytes()) else { continue };
                usual += 1;
                let value = Datum::Text(field.to_owned());
                let converted = convert(value, None, &column, 1, rules, &mut Warnings::default());
                assert_eq!(converted, Ok(read), "{field:?} as {ty:?}");
            }
        }
        assert!(usual * 4 > all, "{usual} of {all}");
    }
}
