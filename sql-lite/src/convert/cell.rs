//! One value, borrowed from an array or a datum, and readers that find it without a cast per row.
//! It must never copy a string to show it.

use super::calendar::{self, DAY};
use super::number;
use crate::error::{Error, Result};
use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, TimeUnit, i256};
use damask_types::{ColumnType, Datum, Decimal};

/// One SQL value, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// Signed integers and BOOL.
    Int(i64),
    /// Unsigned integers.
    UInt(u64),
    /// FLOAT and DOUBLE.
    Double(f64),
    /// DECIMAL.
    Decimal(Decimal),
    /// A number wider than `Decimal` holds: 256 bits and its scale.
    Wide(i256, u8),
    /// Text.
    Text(&'a str),
    /// Binary strings.
    Bytes(&'a [u8]),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01 00:00:00.
    DateTime(i64),
    /// Microseconds.
    Time(i64),
}

impl<'a> Cell<'a> {
    /// Borrows a datum.
    pub fn of(value: &'a Datum) -> Cell<'a> {
        match value {
            Datum::Null => Cell::Null,
            Datum::Int(v) => Cell::Int(*v),
            Datum::UInt(v) => Cell::UInt(*v),
            Datum::Double(v) => Cell::Double(*v),
            Datum::Decimal(v) => Cell::Decimal(*v),
            Datum::Text(v) => Cell::Text(v),
            Datum::Bytes(v) => Cell::Bytes(v),
            Datum::Date(v) => Cell::Date(*v),
            Datum::DateTime(v) => Cell::DateTime(*v),
            Datum::Time(v) => Cell::Time(*v),
        }
    }

    /// Owns it. A number wider than 38 digits becomes its text.
    pub fn to_datum(self) -> Datum {
        match self {
            Cell::Null => Datum::Null,
            Cell::Int(v) => Datum::Int(v),
            Cell::UInt(v) => Datum::UInt(v),
            Cell::Double(v) => Datum::Double(v),
            Cell::Decimal(v) => Datum::Decimal(v),
            Cell::Wide(v, scale) => Datum::Text(wide_text(v, scale)),
            Cell::Text(v) => Datum::Text(v.to_owned()),
            Cell::Bytes(v) => Datum::Bytes(v.to_owned()),
            Cell::Date(v) => Datum::Date(v),
            Cell::DateTime(v) => Datum::DateTime(v),
            Cell::Time(v) => Datum::Time(v),
        }
    }

    /// The same value in the form its column's type has, where that loses nothing but digits past
    /// the type's scale; else itself.
    pub fn fitted(self, ty: &ColumnType) -> Cell<'a> {
        use ColumnType as T;
        let decimal = |d: Decimal, scale: u8| d.rescale(scale).map_or(self, Cell::Decimal);
        match (ty, self) {
            (T::Decimal { scale, .. }, Cell::Decimal(d)) if d.scale != *scale => decimal(d, *scale),
            (T::Decimal { scale, .. }, Cell::Int(v)) => {
                decimal(Decimal { unscaled: v.into(), scale: 0 }, *scale)
            }
            (T::Decimal { scale, .. }, Cell::UInt(v)) => {
                decimal(Decimal { unscaled: v.into(), scale: 0 }, *scale)
            }
            (T::Float | T::Double, Cell::Int(v)) => Cell::Double(v as f64),
            (T::Float | T::Double, Cell::UInt(v)) => Cell::Double(v as f64),
            (T::Float | T::Double, Cell::Decimal(d)) => Cell::Double(d.to_f64()),
            (T::Bool | T::Int { .. }, Cell::Int(_) | Cell::UInt(_)) => self.signed_as(ty),
            (T::Bool | T::Int { .. }, Cell::Double(v)) => {
                let rounded = v.round();
                let fits = rounded.abs() < 9_007_199_254_740_992.0;
                if fits { Cell::Int(rounded as i64).signed_as(ty) } else { self }
            }
            (T::Bool | T::Int { .. }, Cell::Decimal(d)) => {
                match d.rescale(0).and_then(|d| integer(d.unscaled)) {
                    Some(cell) => cell.signed_as(ty),
                    None => self,
                }
            }
            (T::Date, Cell::DateTime(v)) => {
                i32::try_from(v.div_euclid(DAY)).map_or(self, Cell::Date)
            }
            (T::DateTime { .. } | T::Timestamp { .. }, Cell::Date(v)) => {
                Cell::DateTime(i64::from(v) * DAY)
            }
            _ => self,
        }
    }

    /// Appends MySQL's text; false (and nothing) for NULL and for what is not finite.
    pub fn put_text(self, out: &mut Vec<u8>, ty: Option<&ColumnType>) -> bool {
        use ColumnType as T;
        let cell = ty.map_or(self, |ty| self.fitted(ty));
        match cell {
            Cell::Null => return false,
            Cell::Int(v) => number::put_i64(out, v),
            Cell::UInt(v) => number::put_u64(out, v),
            Cell::Double(v) if matches!(ty, Some(T::Float)) => return number::put_float(out, v),
            Cell::Double(v) => return number::put_double(out, v),
            Cell::Decimal(v) => number::put_decimal(out, v),
            Cell::Wide(v, scale) => out.extend_from_slice(wide_text(v, scale).as_bytes()),
            Cell::Text(v) => out.extend_from_slice(v.as_bytes()),
            Cell::Bytes(v) => out.extend_from_slice(v),
            Cell::Date(v) => calendar::put_date(out, v.into()),
            Cell::DateTime(v) => calendar::put_datetime(out, v, fsp(ty, v)),
            Cell::Time(v) => calendar::put_time(out, v, fsp(ty, v)),
        }
        true
    }

    /// `Int` or `UInt`, as the type's sign asks, if the value allows.
    fn signed_as(self, ty: &ColumnType) -> Cell<'a> {
        match (self, ty.is_unsigned()) {
            (Cell::Int(v), true) => u64::try_from(v).map_or(self, Cell::UInt),
            (Cell::UInt(v), false) => i64::try_from(v).map_or(self, Cell::Int),
            _ => self,
        }
    }
}

fn integer<'a>(value: i128) -> Option<Cell<'a>> {
    match i64::try_from(value) {
        Ok(v) => Some(Cell::Int(v)),
        Err(_) => u64::try_from(value).ok().map(Cell::UInt),
    }
}

fn fsp(ty: Option<&ColumnType>, micros: i64) -> u8 {
    use ColumnType as T;
    match ty {
        Some(T::DateTime { fsp } | T::Timestamp { fsp } | T::Time { fsp }) => *fsp,
        _ => calendar::natural_fsp(micros),
    }
}

fn wide_text(value: i256, scale: u8) -> String {
    let scale = usize::from(scale);
    let text = value.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |d| ("-", d));
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Casts what [`Reader`] does not read; `None` if it reads the array as it is.
pub fn prepare(array: &dyn Array) -> Result<Option<ArrayRef>> {
    use DataType as D;
    let to = match array.data_type() {
        D::Dictionary(_, values) => values.as_ref().clone(),
        D::RunEndEncoded(_, values) => values.data_type().clone(),
        D::Float16 => D::Float64,
        D::Decimal32(p, s) | D::Decimal64(p, s) if *s >= 0 => D::Decimal128(*p, *s),
        D::Decimal32(..) | D::Decimal64(..) => D::Decimal128(38, 0),
        D::Decimal128(_, s) if *s < 0 => D::Decimal128(38, 0),
        D::Decimal256(_, s) if *s < 0 => D::Decimal256(76, 0),
        D::Date64 => D::Date32,
        D::Time32(_) => D::Time64(TimeUnit::Microsecond),
        D::Interval(_) | D::List(_) | D::LargeList(_) | D::FixedSizeList(..) => D::Utf8,
        D::Struct(_) | D::Map(..) | D::Union(..) | D::ListView(_) | D::LargeListView(_) => D::Utf8,
        _ => return Ok(None),
    };
    let cast = arrow::compute::cast(array, &to);
    let cast = cast.map_err(|e| Error::unknown(format!("a column cannot be shown: {e}")))?;
    Ok(Some(prepare(&cast)?.unwrap_or(cast)))
}

/// Microseconds = value * `times` / `over`.
#[derive(Clone, Copy)]
struct Unit {
    times: i64,
    over: i64,
}

impl Unit {
    fn of(unit: &TimeUnit) -> Unit {
        match unit {
            TimeUnit::Second => Unit { times: 1_000_000, over: 1 },
            TimeUnit::Millisecond => Unit { times: 1000, over: 1 },
            TimeUnit::Microsecond => Unit { times: 1, over: 1 },
            TimeUnit::Nanosecond => Unit { times: 1, over: 1000 },
        }
    }

    fn micros(self, value: i64) -> i64 {
        value.saturating_mul(self.times).div_euclid(self.over)
    }
}

/// Reads an array's values one by one.
pub struct Reader<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Null,
    Bool(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Decimal128(&'a [i128], u8),
    Decimal256(&'a [i256], u8),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a BinaryViewArray),
    FixedBinary(&'a FixedSizeBinaryArray),
    Date32(&'a [i32]),
    Moment(&'a [i64], Unit),
    Span(&'a [i64], Unit),
}

impl<'a> Reader<'a> {
    /// Reads this array.
    ///
    /// # Errors
    /// For a type that [`prepare`] would have cast.
    pub fn new(array: &'a dyn Array) -> Result<Reader<'a>> {
        use DataType as D;
        fn of<T: ArrowPrimitiveType>(array: &dyn Array) -> &[T::Native] {
            array.as_primitive::<T>().values()
        }
        let values = match array.data_type() {
            D::Null => Values::Null,
            D::Boolean => Values::Bool(array.as_boolean()),
            D::Int8 => Values::Int8(of::<Int8Type>(array)),
            D::Int16 => Values::Int16(of::<Int16Type>(array)),
            D::Int32 => Values::Int32(of::<Int32Type>(array)),
            D::Int64 => Values::Int64(of::<Int64Type>(array)),
            D::UInt8 => Values::UInt8(of::<UInt8Type>(array)),
            D::UInt16 => Values::UInt16(of::<UInt16Type>(array)),
            D::UInt32 => Values::UInt32(of::<UInt32Type>(array)),
            D::UInt64 => Values::UInt64(of::<UInt64Type>(array)),
            D::Float32 => Values::Float32(of::<Float32Type>(array)),
            D::Float64 => Values::Float64(of::<Float64Type>(array)),
            D::Decimal128(_, s @ 0..) => Values::Decimal128(of::<Decimal128Type>(array), *s as u8),
            D::Decimal256(_, s @ 0..) => Values::Decimal256(of::<Decimal256Type>(array), *s as u8),
            D::Utf8 => Values::Utf8(array.as_string()),
            D::LargeUtf8 => Values::LargeUtf8(array.as_string()),
            D::Utf8View => Values::Utf8View(array.as_string_view()),
            D::Binary => Values::Binary(array.as_binary()),
            D::LargeBinary => Values::LargeBinary(array.as_binary()),
            D::BinaryView => Values::BinaryView(array.as_binary_view()),
            D::FixedSizeBinary(_) => Values::FixedBinary(array.as_fixed_size_binary()),
            D::Date32 => Values::Date32(of::<Date32Type>(array)),
            D::Timestamp(unit, _) => Values::Moment(moments(array, unit), Unit::of(unit)),
            D::Duration(unit) => Values::Span(spans(array, unit), Unit::of(unit)),
            D::Time64(unit @ TimeUnit::Microsecond) => {
                Values::Span(of::<Time64MicrosecondType>(array), Unit::of(unit))
            }
            D::Time64(unit @ TimeUnit::Nanosecond) => {
                Values::Span(of::<Time64NanosecondType>(array), Unit::of(unit))
            }
            other => return Err(Error::unknown(format!("a column of type {other} is not shown"))),
        };
        Ok(Reader { nulls: array.nulls(), values })
    }

    /// The value at a row.
    ///
    /// # Panics
    /// Past the array's end.
    pub fn cell(&self, row: usize) -> Cell<'a> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return Cell::Null;
        }
        match &self.values {
            Values::Null => Cell::Null,
            Values::Bool(a) => Cell::Int(a.value(row).into()),
            Values::Int8(a) => Cell::Int(a[row].into()),
            Values::Int16(a) => Cell::Int(a[row].into()),
            Values::Int32(a) => Cell::Int(a[row].into()),
            Values::Int64(a) => Cell::Int(a[row]),
            Values::UInt8(a) => Cell::UInt(a[row].into()),
            Values::UInt16(a) => Cell::UInt(a[row].into()),
            Values::UInt32(a) => Cell::UInt(a[row].into()),
            Values::UInt64(a) => Cell::UInt(a[row]),
            Values::Float32(a) => Cell::Double(a[row].into()),
            Values::Float64(a) => Cell::Double(a[row]),
            Values::Decimal128(a, scale) => {
                Cell::Decimal(Decimal { unscaled: a[row], scale: *scale })
            }
            Values::Decimal256(a, scale) => match a[row].to_i128() {
                Some(unscaled) => Cell::Decimal(Decimal { unscaled, scale: *scale }),
                None => Cell::Wide(a[row], *scale),
            },
            Values::Utf8(a) => Cell::Text(a.value(row)),
            Values::LargeUtf8(a) => Cell::Text(a.value(row)),
            Values::Utf8View(a) => Cell::Text(a.value(row)),
            Values::Binary(a) => Cell::Bytes(a.value(row)),
            Values::LargeBinary(a) => Cell::Bytes(a.value(row)),
            Values::BinaryView(a) => Cell::Bytes(a.value(row)),
            Values::FixedBinary(a) => Cell::Bytes(a.value(row)),
            Values::Date32(a) => Cell::Date(a[row]),
            Values::Moment(a, unit) => Cell::DateTime(unit.micros(a[row])),
            Values::Span(a, unit) => Cell::Time(unit.micros(a[row])),
        }
    }
}

fn moments<'a>(array: &'a dyn Array, unit: &TimeUnit) -> &'a [i64] {
    match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    }
}

fn spans<'a>(array: &'a dyn Array, unit: &TimeUnit) -> &'a [i64] {
    match unit {
        TimeUnit::Second => array.as_primitive::<DurationSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<DurationMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<DurationMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<DurationNanosecondType>().values(),
    }
}
