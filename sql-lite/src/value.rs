//! Values on their way into a column: MySQL's conversions, with an error in strict mode and an
//! adjusted value plus a warning otherwise. It must never store what the column's type cannot hold.

pub mod temporal;

#[cfg(test)]
mod tests;

use crate::convert::{self, calendar::DAY};
use crate::error::{Error, Result};
use crate::session::{Level, Warnings};
use damask_types::schema::IntWidth;
use damask_types::{ColumnSchema, ColumnType, Datum, Decimal};
use std::borrow::Cow;
use temporal::{parse_datetime, parse_time, round_us};

/// How one statement converts.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A wrong value fails the statement.
    pub strict: bool,
    /// The session's zone: microseconds to add to UTC.
    pub offset_us: i64,
    /// The statement's time, for TIME to DATETIME: UTC microseconds.
    pub now_us: i64,
}

/// One conversion: what, where, how.
struct Target<'a> {
    column: &'a ColumnSchema,
    row: u64,
    rules: Rules,
}

/// A wrong value: the error, and what is stored when it is only a warning.
struct Wrong {
    error: Error,
    instead: Datum,
}

type Tried = std::result::Result<Datum, Wrong>;

/// Converts a value for a column. `source` is the value's type where known: a TIMESTAMP is in UTC,
/// everything else in the session's zone. `row` counts from 1, for messages.
pub fn convert(
    value: Datum,
    source: Option<&ColumnType>,
    column: &ColumnSchema,
    row: u64,
    rules: Rules,
    warnings: &mut Warnings,
) -> Result<Datum> {
    if value.is_null() {
        if column.nullable {
            return Ok(Datum::Null);
        }
        return Err(Error::bad_null(format!("Column '{}' cannot be null", column.name)));
    }
    let target = Target { column, row, rules };
    let value = match (source, value) {
        (Some(ColumnType::Timestamp { .. }), Datum::DateTime(us)) => {
            Datum::DateTime(us + rules.offset_us)
        }
        (_, value) => value,
    };
    match target.convert(value) {
        Ok(value) => Ok(value),
        Err(wrong) if rules.strict => Err(wrong.error),
        Err(wrong) => {
            warnings.push(Level::Warning, wrong.error.code, wrong.error.message);
            if wrong.instead.is_null() && !column.nullable {
                return Ok(zero(&column.ty));
            }
            Ok(wrong.instead)
        }
    }
}

/// What a NOT NULL column without a default gets outside strict mode.
pub fn zero(ty: &ColumnType) -> Datum {
    match ty {
        ColumnType::Int { unsigned: true, .. } => Datum::UInt(0),
        ColumnType::Bool | ColumnType::Int { .. } => Datum::Int(0),
        ColumnType::Float | ColumnType::Double => Datum::Double(0.0),
        ColumnType::Decimal { scale, .. } => Datum::Decimal(Decimal { unscaled: 0, scale: *scale }),
        ty if ty.is_text() => Datum::Text(String::new()),
        ColumnType::Binary { len } => Datum::Bytes(vec![0; *len as usize]),
        ty if ty.is_binary() => Datum::Bytes(Vec::new()),
        ColumnType::Date => Datum::Date(0),
        ColumnType::Time { .. } => Datum::Time(0),
        _ => Datum::DateTime(0),
    }
}

/// The least and greatest value of an integer type.
pub fn integer_bounds(ty: &ColumnType) -> (i128, i128) {
    match ty {
        ColumnType::Int { width, unsigned: true } => (0, (1i128 << width.bits()) - 1),
        ColumnType::Int { width, .. } => {
            (-(1i128 << (width.bits() - 1)), (1i128 << (width.bits() - 1)) - 1)
        }
        _ => {
            let bits = IntWidth::Tiny.bits();
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        }
    }
}

/// The number at the front of a text, and whether nothing but blanks follows it.
pub fn leading_number(text: &str) -> (f64, bool) {
    let trimmed = text.trim();
    let bytes = trimmed.as_bytes();
    let mut end = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits(end);
    end += whole;
    let mut fraction = 0;
    if bytes.get(end) == Some(&b'.') {
        fraction = digits(end + 1);
        if whole + fraction > 0 {
            end += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return (0.0, false);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits((end + 1 + sign).min(bytes.len()));
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    (trimmed[..end].parse().unwrap_or(0.0), end == bytes.len())
}

fn big_endian(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0u64, |v, b| v << 8 | u64::from(*b)))
}

impl Target<'_> {
    fn convert(&self, value: Datum) -> Tried {
        match &self.column.ty {
            ColumnType::Bool | ColumnType::Int { .. } => self.integer(value),
            ColumnType::Float | ColumnType::Double => self.double(&value),
            ColumnType::Decimal { precision, scale } => self.decimal(&value, *precision, *scale),
            ColumnType::Char { len } => match self.characters(value, *len as usize)? {
                Datum::Text(text) if text.ends_with(' ') => {
                    Ok(Datum::Text(text.trim_end_matches(' ').to_owned()))
                }
                other => Ok(other),
            },
            ColumnType::VarChar { len } => self.characters(value, *len as usize),
            ColumnType::Text { bytes_max } => self.text(value, *bytes_max as usize),
            ColumnType::Binary { len } => match self.bytes(value, *len as usize)? {
                Datum::Bytes(mut bytes) => {
                    bytes.resize(*len as usize, 0);
                    Ok(Datum::Bytes(bytes))
                }
                other => Ok(other),
            },
            ColumnType::VarBinary { len } => self.bytes(value, *len as usize),
            ColumnType::Blob { bytes_max } => self.bytes(value, *bytes_max as usize),
            ColumnType::Date => self.date(&value),
            ColumnType::DateTime { fsp } => self.datetime(&value, *fsp).map(Datum::DateTime),
            ColumnType::Timestamp { fsp } => self.timestamp(&value, *fsp),
            ColumnType::Time { fsp } => self.time(&value, *fsp),
        }
    }

    fn out_of_range(&self, instead: Datum) -> Wrong {
        let (name, row) = (&self.column.name, self.row);
        let message = format!("Out of range value for column '{name}' at row {row}");
        Wrong { error: Error::out_of_range(message), instead }
    }

    fn incorrect(&self, kind: &str, value: &Datum, instead: Datum) -> Wrong {
        let shown = convert::text(value, None).unwrap_or_default();
        let (name, row) = (&self.column.name, self.row);
        let message = format!("Incorrect {kind} value: '{shown}' for column '{name}' at row {row}");
        let error = match kind {
            "date" | "datetime" | "time" => Error::wrong_value(message),
            _ => Error::wrong_value_for_field(message),
        };
        Wrong { error, instead }
    }

    fn truncated(&self, instead: Datum) -> Wrong {
        let (name, row) = (&self.column.name, self.row);
        let message = format!("Data truncated for column '{name}' at row {row}");
        Wrong { error: Error::data_truncated(message), instead }
    }

    fn too_long(&self, instead: Datum) -> Wrong {
        let (name, row) = (&self.column.name, self.row);
        let message = format!("Data too long for column '{name}' at row {row}");
        Wrong { error: Error::data_too_long(message), instead }
    }

    fn integer(&self, value: Datum) -> Tried {
        let number: i128 = match &value {
            Datum::Int(v) => i128::from(*v),
            Datum::UInt(v) => i128::from(*v),
            Datum::Decimal(d) => d.rescale(0).map_or(i128::MAX, |d| d.unscaled),
            Datum::Double(v) => rounded(*v),
            Datum::Text(text) => return self.integer_of_text(text, &value),
            Datum::Bytes(bytes) => match big_endian(bytes) {
                Some(v) => i128::from(v),
                None => i128::MAX,
            },
            Datum::Date(_) | Datum::DateTime(_) | Datum::Time(_) => {
                i128::from(temporal::as_number(&value) as i64)
            }
            Datum::Null => return Ok(Datum::Null),
        };
        self.fit_integer(number)
    }

    fn integer_of_text(&self, text: &str, value: &Datum) -> Tried {
        if let Ok(v) = text.trim().parse::<i128>() {
            return self.fit_integer(v);
        }
        let (number, whole) = leading_number(text);
        let fitted = self.fit_integer(rounded(number));
        if whole {
            return fitted;
        }
        let instead = fitted.unwrap_or_else(|wrong| wrong.instead);
        let none =
            !text.trim_start().starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        if none || text.trim().is_empty() {
            return Err(self.incorrect("integer", value, instead));
        }
        Err(self.truncated(instead))
    }

    fn fit_integer(&self, number: i128) -> Tried {
        let (min, max) = integer_bounds(&self.column.ty);
        let unsigned = self.column.ty.is_unsigned();
        let datum = |v: i128| if unsigned { Datum::UInt(v as u64) } else { Datum::Int(v as i64) };
        if (min..=max).contains(&number) {
            Ok(datum(number))
        } else {
            Err(self.out_of_range(datum(number.clamp(min, max))))
        }
    }

    fn double(&self, value: &Datum) -> Tried {
        let mut wrong = None;
        let number = match value {
            Datum::Int(v) => *v as f64,
            Datum::UInt(v) => *v as f64,
            Datum::Double(v) => *v,
            Datum::Decimal(d) => d.to_f64(),
            Datum::Bytes(bytes) => big_endian(bytes).map_or(f64::MAX, |v| v as f64),
            Datum::Text(text) => {
                let (number, whole) = leading_number(text);
                if !whole {
                    wrong = Some(self.incorrect("double", value, Datum::Double(number)));
                }
                number
            }
            _ => temporal::as_number(value),
        };
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if self.column.ty == ColumnType::Float {
            let single = number as f32;
            if !single.is_finite() {
                let max = f64::from(f32::MAX);
                return Err(self.out_of_range(Datum::Double(max.copysign(number))));
            }
            return Ok(Datum::Double(f64::from(single)));
        }
        if number.is_finite() {
            return Ok(Datum::Double(number));
        }
        Err(self.out_of_range(Datum::Double(f64::MAX.copysign(number))))
    }

    fn decimal(&self, value: &Datum, precision: u8, scale: u8) -> Tried {
        let max = 10i128.pow(u32::from(precision)) - 1;
        let clamp = |negative: bool| {
            let unscaled = if negative { -max } else { max };
            self.out_of_range(Datum::Decimal(Decimal { unscaled, scale }))
        };
        let exact = match value {
            Datum::Int(v) => Some(Decimal { unscaled: i128::from(*v), scale: 0 }),
            Datum::UInt(v) => Some(Decimal { unscaled: i128::from(*v), scale: 0 }),
            Datum::Decimal(d) => Some(*d),
            Datum::Double(v) => decimal_of(*v, scale),
            Datum::Bytes(bytes) => {
                big_endian(bytes).map(|v| Decimal { unscaled: i128::from(v), scale: 0 })
            }
            Datum::Text(text) => match Decimal::parse(text.trim()) {
                Some(d) => Some(d),
                None => {
                    let (number, whole) = leading_number(text);
                    let near = decimal_of(number, scale).unwrap_or(Decimal { unscaled: 0, scale });
                    if !whole {
                        return Err(self.incorrect("decimal", value, Datum::Decimal(near)));
                    }
                    decimal_of(number, scale)
                }
            },
            other => decimal_of(temporal::as_number(other), scale),
        };
        let negative = match value {
            Datum::Double(v) => *v < 0.0,
            Datum::Text(text) => text.trim_start().starts_with('-'),
            _ => exact.is_some_and(|d| d.unscaled < 0),
        };
        match exact.and_then(|d| d.rescale(scale)) {
            Some(d) if d.unscaled.abs() <= max => Ok(Datum::Decimal(d)),
            _ => Err(clamp(negative)),
        }
    }

    fn string(&self, value: Datum) -> std::result::Result<String, Wrong> {
        match value {
            Datum::Text(text) => Ok(text),
            Datum::Bytes(bytes) => String::from_utf8(bytes).map_err(|e| {
                let shown: String =
                    e.as_bytes().iter().take(6).map(|b| format!("\\x{b:02X}")).collect();
                let lossy = String::from_utf8_lossy(e.as_bytes()).into_owned();
                let value = Datum::Text(shown);
                self.incorrect("string", &value, Datum::Text(lossy))
            }),
            other => Ok(convert::text(&other, None).unwrap_or_default()),
        }
    }

    fn characters(&self, value: Datum, max: usize) -> Tried {
        let text = self.string(value)?;
        if text.len() <= max {
            return Ok(Datum::Text(text));
        }
        let Some((cut, _)) = text.char_indices().nth(max) else { return Ok(Datum::Text(text)) };
        let kept = Datum::Text(text[..cut].to_owned());
        // Blanks beyond the length are no loss.
        if text[cut..].bytes().all(|b| b == b' ') { Ok(kept) } else { Err(self.too_long(kept)) }
    }

    fn text(&self, value: Datum, bytes_max: usize) -> Tried {
        let text = self.string(value)?;
        if text.len() <= bytes_max {
            return Ok(Datum::Text(text));
        }
        let mut cut = bytes_max;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        Err(self.too_long(Datum::Text(text[..cut].to_owned())))
    }

    fn bytes(&self, value: Datum, max: usize) -> Tried {
        let mut bytes = match value {
            Datum::Bytes(bytes) => bytes,
            Datum::Text(text) => text.into_bytes(),
            other => convert::text(&other, None).unwrap_or_default().into_bytes(),
        };
        if bytes.len() <= max {
            return Ok(Datum::Bytes(bytes));
        }
        bytes.truncate(max);
        Err(self.too_long(Datum::Bytes(bytes)))
    }

    /// Microseconds in the session's zone, not rounded.
    fn moment(&self, value: &Datum, kind: &str) -> std::result::Result<i64, Wrong> {
        let text: Cow<'_, str> = match value {
            Datum::DateTime(us) => return Ok(*us),
            Datum::Date(days) => return Ok(i64::from(*days) * DAY),
            Datum::Time(us) => {
                let local = self.rules.now_us + self.rules.offset_us;
                return Ok(local.div_euclid(DAY) * DAY + us);
            }
            Datum::Text(text) => Cow::Borrowed(text),
            Datum::Bytes(bytes) => String::from_utf8_lossy(bytes),
            other => Cow::Owned(convert::text(other, None).unwrap_or_default()),
        };
        let parsed = match value {
            Datum::Int(_) | Datum::UInt(_) => temporal::datetime_of_digits(&text),
            _ => parse_datetime(&text, self.rules.offset_us),
        };
        parsed.ok_or_else(|| self.incorrect(kind, value, Datum::Null))
    }

    fn date(&self, value: &Datum) -> Tried {
        let us = self.moment(value, "date")?;
        Ok(Datum::Date(us.div_euclid(DAY) as i32))
    }

    fn datetime(&self, value: &Datum, fsp: u8) -> std::result::Result<i64, Wrong> {
        let us = round_us(self.moment(value, "datetime")?, fsp);
        if temporal::in_range(us) {
            Ok(us)
        } else {
            Err(self.incorrect("datetime", value, Datum::Null))
        }
    }

    fn timestamp(&self, value: &Datum, fsp: u8) -> Tried {
        let us = self.datetime(value, fsp)? - self.rules.offset_us;
        if (temporal::TIMESTAMP_MIN..=temporal::TIMESTAMP_MAX).contains(&us) {
            Ok(Datum::DateTime(us))
        } else {
            Err(self.incorrect("datetime", value, Datum::Null))
        }
    }

    fn time(&self, value: &Datum, fsp: u8) -> Tried {
        let parsed = match value {
            Datum::Time(us) => Some(*us),
            Datum::DateTime(us) => Some(us.rem_euclid(DAY)),
            Datum::Date(_) => Some(0),
            Datum::Bytes(bytes) => parse_time(&String::from_utf8_lossy(bytes)),
            Datum::Text(text) => parse_time(text),
            other => parse_time(&convert::text(other, None).unwrap_or_default()),
        };
        let Some(us) = parsed else { return Err(self.incorrect("time", value, Datum::Time(0))) };
        let us = round_us(us, fsp);
        if us.abs() <= temporal::TIME_MAX {
            return Ok(Datum::Time(us));
        }
        let instead = Datum::Time(temporal::TIME_MAX * us.signum());
        Err(self.out_of_range(instead))
    }
}

/// Rounds half away from zero, as MySQL does on the way into an integer.
fn rounded(v: f64) -> i128 {
    v.round() as i128
}

/// The decimal nearest to a double at this scale.
fn decimal_of(v: f64, scale: u8) -> Option<Decimal> {
    if !v.is_finite() {
        return None;
    }
    // The shortest text that reads back the same is what MySQL rounds.
    let text = format!("{v}");
    match Decimal::parse(&text) {
        Some(d) => Some(d),
        None => {
            let digits = format!("{v:.*}", usize::from(scale));
            Decimal::parse(&digits)
        }
    }
}
