//! The smallest and largest value of a pack's column, and whether a condition can skip the pack.
//! It must never say "skip" when a row could match.
//!
//! ```text
//! bounds = tag u8: 0 unknown | 1 numbers: min i128, max i128 | 2 floats: min f64, max f64
//!                | 3 strings: min bytes, has-max u8, max bytes      (prefixes of 16 bytes)
//! ```

use super::bytes::{Put, Reader, corrupt};
use crate::error::Result;
use arrow::array::{Array, AsArray};
use arrow::compute;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DurationMicrosecondType, Float64Type, Int64Type,
    TimestampMicrosecondType, UInt64Type,
};

const PREFIX: usize = 16;

/// What is known of a column's values, NULLs left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Bounds {
    /// Nothing.
    Unknown,
    /// All whole and decimal numbers, dates and times, as stored.
    Numbers(i128, i128),
    /// Floats, none of them NaN.
    Floats(f64, f64),
    /// Strings: not below the first, and not above the second if there is one.
    Strings(Vec<u8>, Option<Vec<u8>>),
}

fn pair<T>(min: Option<T>, max: Option<T>, make: impl Fn(T, T) -> Bounds) -> Bounds {
    match (min, max) {
        (Some(min), Some(max)) => make(min, max),
        _ => Bounds::Unknown,
    }
}

macro_rules! numbers {
    ($array:expr, $ty:ty) => {{
        let array = $array.as_primitive::<$ty>();
        pair(compute::min(array), compute::max(array), |a, b| {
            Bounds::Numbers(i128::from(a), i128::from(b))
        })
    }};
}

fn strings(min: &[u8], max: &[u8]) -> Bounds {
    let low = min[..min.len().min(PREFIX)].to_vec();
    if max.len() <= PREFIX {
        return Bounds::Strings(low, Some(max.to_vec()));
    }
    // the smallest string above all that share the prefix
    let mut high = max[..PREFIX].to_vec();
    while let Some(last) = high.pop() {
        if last < u8::MAX {
            high.push(last + 1);
            return Bounds::Strings(low, Some(high));
        }
    }
    Bounds::Strings(low, None)
}

impl Bounds {
    /// Of all values of an array that are not NULL.
    pub fn of(array: &dyn Array) -> Bounds {
        match array.data_type() {
            DataType::Int64 => numbers!(array, Int64Type),
            DataType::UInt64 => numbers!(array, UInt64Type),
            DataType::Decimal128(..) => numbers!(array, Decimal128Type),
            DataType::Date32 => numbers!(array, Date32Type),
            DataType::Timestamp(..) => numbers!(array, TimestampMicrosecondType),
            DataType::Duration(..) => numbers!(array, DurationMicrosecondType),
            DataType::Float64 => {
                let array = array.as_primitive::<Float64Type>();
                if array.iter().flatten().any(f64::is_nan) {
                    return Bounds::Unknown;
                }
                pair(compute::min(array), compute::max(array), Bounds::Floats)
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                pair(compute::min_string(array), compute::max_string(array), |a, b| {
                    strings(a.as_bytes(), b.as_bytes())
                })
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                pair(compute::min_binary(array), compute::max_binary(array), strings)
            }
            _ => Bounds::Unknown,
        }
    }

    /// Every value is certainly below `min` or above `max` (of the same kind; NULL bounds say
    /// nothing).
    pub fn outside(&self, min: &Bounds, max: &Bounds) -> bool {
        use Bounds::*;
        let below = match (self, min) {
            (Numbers(_, high), Numbers(_, min)) => high < min,
            (Floats(_, high), Floats(_, min)) => high < min,
            // a bound that was cut is only a lower bound of itself: use the part below
            (Strings(_, Some(high)), Strings(min, _)) => high < min,
            _ => false,
        };
        below
            || match (self, max) {
                (Numbers(low, _), Numbers(max, _)) => low > max,
                (Floats(low, _), Floats(max, _)) => low > max,
                (Strings(low, _), Strings(_, Some(max))) => low > max,
                _ => false,
            }
    }

    /// Appends them.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Bounds::Unknown => out.put_u8(0),
            Bounds::Numbers(min, max) => {
                out.put_u8(1);
                out.extend_from_slice(&min.to_le_bytes());
                out.extend_from_slice(&max.to_le_bytes());
            }
            Bounds::Floats(min, max) => {
                out.put_u8(2);
                out.put_u64(min.to_bits());
                out.put_u64(max.to_bits());
            }
            Bounds::Strings(min, max) => {
                out.put_u8(3);
                out.put_bytes(min);
                out.put_u8(u8::from(max.is_some()));
                out.put_bytes(max.as_deref().unwrap_or_default());
            }
        }
    }

    /// Reads them.
    pub fn read(r: &mut Reader<'_>, file: &str) -> Result<Bounds> {
        let number = |r: &mut Reader<'_>| -> Result<i128> {
            Ok(i128::from_le_bytes(r.take(16)?.try_into().expect("16 bytes were taken")))
        };
        Ok(match r.u8()? {
            0 => Bounds::Unknown,
            1 => Bounds::Numbers(number(r)?, number(r)?),
            2 => Bounds::Floats(f64::from_bits(r.u64()?), f64::from_bits(r.u64()?)),
            3 => {
                let (min, has_max) = (r.bytes()?.to_vec(), r.u8()? != 0);
                let max = r.bytes()?.to_vec();
                Bounds::Strings(min, has_max.then_some(max))
            }
            other => return Err(corrupt(file, format!("unknown kind of bounds {other}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};

    fn one(v: &str) -> Bounds {
        Bounds::of(&StringArray::from(vec![v]))
    }

    #[test]
    fn numbers_outside() {
        let pack = Bounds::of(&Int64Array::from(vec![Some(3), None, Some(9)]));
        let at = |v: i64| Bounds::of(&Int64Array::from(vec![v]));
        assert!(pack.outside(&at(10), &Bounds::Unknown));
        assert!(pack.outside(&Bounds::Unknown, &at(2)));
        assert!(!pack.outside(&at(9), &at(9)));
        assert!(!pack.outside(&at(4), &at(5)));
    }

    #[test]
    fn long_strings_are_bounded_by_prefixes() {
        let long = "m".repeat(40);
        let pack = one(&long);
        for (value, skips) in [("m", false), (long.as_str(), false), ("n", true), ("zz", true)] {
            assert_eq!(pack.outside(&one(value), &Bounds::Unknown), skips, "min {value}");
        }
        assert!(pack.outside(&Bounds::Unknown, &one("a")));
        assert!(!pack.outside(&Bounds::Unknown, &one(&long)));
        assert_eq!(strings(&[255; 20], &[255; 20]), Bounds::Strings(vec![255; 16], None));
    }

    #[test]
    fn nan_makes_bounds_unknown() {
        assert_eq!(Bounds::of(&Float64Array::from(vec![1.0, f64::NAN])), Bounds::Unknown);
    }
}
