//! Values through Arrow and MySQL's text, there and back, and what damaged input gives.

use super::{Cell, calendar, datum_at, text};
use arrow::array::*;
use arrow::datatypes::{DataType, Int8Type, TimeUnit, i256};
use damask_types::schema::IntWidth;
use damask_types::{ColumnType, Datum, Decimal};
use std::sync::Arc;

fn shown(value: Datum, ty: Option<ColumnType>) -> String {
    text(&value, ty.as_ref()).unwrap_or_else(|| "NULL".to_owned())
}

#[test]
fn doubles_print_as_mysql_prints_them() {
    // Left: what MariaDB 10.11 and MySQL 8 print.
    let cases = [
        ("100000000000000", 1e14),
        ("1e15", 1e15),
        ("0.00000000000001", 1e-14),
        ("0.000000000000001", 1e-15),
        ("1e-16", 1e-16),
        ("1.2345678901234568e17", 123_456_789_012_345_680.0),
        ("1.7976931348623157e308", f64::MAX),
        ("5e-324", 5e-324),
        ("123456.789", 123_456.789),
        ("999999.5", 999_999.5),
        ("0.1", 0.1),
        ("-1.5", -1.5),
        ("10", 10.0),
        ("0", 0.0),
    ];
    for (expected, value) in cases {
        assert_eq!(shown(Datum::Double(value), Some(ColumnType::Double)), expected);
        assert_eq!(expected.parse::<f64>(), Ok(value));
    }
    assert_eq!(shown(Datum::Double(f64::NAN), None), "NULL");
}

#[test]
fn floats_print_six_digits() {
    let cases = [
        ("16777200", 16_777_216.0),
        ("0.1", 0.1f32),
        ("1e15", 1e15),
        ("1.23457e18", 1.234_568e18),
        ("0.00000000000001", 1e-14),
        ("3.4e38", 3.4e38),
        ("1000000", 999_999.5),
        ("0.000123457", 0.000_123_456_78),
    ];
    for (expected, value) in cases {
        assert_eq!(shown(Datum::Double(value.into()), Some(ColumnType::Float)), expected);
    }
}

#[test]
fn decimals_keep_their_scale() {
    let decimal = |unscaled, scale| Datum::Decimal(Decimal { unscaled, scale });
    assert_eq!(shown(decimal(-5, 3), None), "-0.005");
    assert_eq!(shown(decimal(12345, 2), None), "123.45");
    assert_eq!(shown(decimal(0, 0), None), "0");
    let largest = 10i128.pow(38) - 1;
    assert_eq!(shown(decimal(-largest, 38), None), format!("-0.{}", "9".repeat(38)));
    let two = ColumnType::Decimal { precision: 10, scale: 2 };
    assert_eq!(shown(decimal(15, 1), Some(two.clone())), "1.50");
    assert_eq!(shown(decimal(-1005, 3), Some(two.clone())), "-1.01");
    assert_eq!(shown(Datum::Int(7), Some(two)), "7.00");
}

#[test]
fn dates_and_times_print() {
    assert_eq!(shown(Datum::Date(0), None), "1970-01-01");
    assert_eq!(shown(Datum::Date(-1), None), "1969-12-31");
    let moment = Datum::DateTime(951_782_399 * calendar::SECOND + 123_456);
    assert_eq!(shown(moment.clone(), None), "2000-02-28 23:59:59.123456");
    assert_eq!(shown(moment.clone(), Some(ColumnType::DateTime { fsp: 0 })), "2000-02-28 23:59:59");
    let three = ColumnType::Timestamp { fsp: 3 };
    assert_eq!(shown(moment.clone(), Some(three)), "2000-02-28 23:59:59.123");
    assert_eq!(shown(moment, Some(ColumnType::Date)), "2000-02-28");
    assert_eq!(
        shown(Datum::Date(1), Some(ColumnType::DateTime { fsp: 1 })),
        "1970-01-02 00:00:00.0"
    );
    let long = (838 * 3600 + 59 * 60 + 59) * calendar::SECOND;
    assert_eq!(shown(Datum::Time(-long), None), "-838:59:59");
    assert_eq!(shown(Datum::Time(-500_000), Some(ColumnType::Time { fsp: 1 })), "-00:00:00.5");
}

#[test]
fn days_go_and_come_back() {
    assert_eq!(calendar::days_from_civil(1970, 1, 1), 0);
    assert_eq!(calendar::days_from_civil(2000, 3, 1), 11_017);
    for days in (-719_528..2_932_897).step_by(17) {
        let (year, month, day) = calendar::civil_from_days(days);
        assert!(calendar::is_date(year, month, day));
        assert_eq!(calendar::days_from_civil(year, month, day), days);
    }
    assert!(calendar::is_date(2000, 2, 29));
    assert!(!calendar::is_date(1900, 2, 29));
    assert!(!calendar::is_date(2024, 13, 1));
    assert!(!calendar::is_date(2024, 4, 31));
}

#[test]
fn every_array_is_read() {
    let arrays: Vec<(ArrayRef, Datum)> = vec![
        (Arc::new(BooleanArray::from(vec![true])), Datum::Int(1)),
        (Arc::new(Int8Array::from(vec![-1])), Datum::Int(-1)),
        (Arc::new(Int16Array::from(vec![-2])), Datum::Int(-2)),
        (Arc::new(Int32Array::from(vec![-3])), Datum::Int(-3)),
        (Arc::new(Int64Array::from(vec![i64::MIN])), Datum::Int(i64::MIN)),
        (Arc::new(UInt8Array::from(vec![255])), Datum::UInt(255)),
        (Arc::new(UInt64Array::from(vec![u64::MAX])), Datum::UInt(u64::MAX)),
        (Arc::new(Float32Array::from(vec![1.5])), Datum::Double(1.5)),
        (Arc::new(Float64Array::from(vec![0.1])), Datum::Double(0.1)),
        (Arc::new(StringArray::from(vec!["a"])), Datum::Text("a".into())),
        (Arc::new(LargeStringArray::from(vec!["b"])), Datum::Text("b".into())),
        (Arc::new(StringViewArray::from(vec!["c"])), Datum::Text("c".into())),
        (Arc::new(BinaryArray::from(vec![&b"\xff"[..]])), Datum::Bytes(vec![255])),
        (Arc::new(BinaryViewArray::from(vec![&b"\xfe"[..]])), Datum::Bytes(vec![254])),
        (Arc::new(Date32Array::from(vec![3])), Datum::Date(3)),
        (Arc::new(Date64Array::from(vec![86_400_000])), Datum::Date(1)),
        (Arc::new(TimestampSecondArray::from(vec![-1])), Datum::DateTime(-1_000_000)),
        (Arc::new(TimestampNanosecondArray::from(vec![-1])), Datum::DateTime(-1)),
        (Arc::new(DurationMicrosecondArray::from(vec![-5])), Datum::Time(-5)),
        (Arc::new(Time32SecondArray::from(vec![61])), Datum::Time(61_000_000)),
        (Arc::new(NullArray::new(1)), Datum::Null),
        (Arc::new(Int64Array::from(vec![None])), Datum::Null),
        (Arc::new(DictionaryArray::<Int8Type>::from_iter(["x"])), Datum::Text("x".into())),
        (
            Arc::new(Decimal128Array::from(vec![123]).with_precision_and_scale(5, 1).unwrap()),
            Datum::Decimal(Decimal { unscaled: 123, scale: 1 }),
        ),
        (
            Arc::new(
                Decimal256Array::from(vec![i256::from_i128(5)])
                    .with_precision_and_scale(60, 2)
                    .unwrap(),
            ),
            Datum::Decimal(Decimal { unscaled: 5, scale: 2 }),
        ),
    ];
    for (array, expected) in arrays {
        assert_eq!(datum_at(&array, 0, None), Ok(expected), "{}", array.data_type());
        assert!(datum_at(&array, 1, None).is_err());
    }
}

#[test]
fn wide_decimals_are_shown_in_full() {
    let wide = i256::from_i128(10i128.pow(38)).wrapping_mul(i256::from_i128(-25));
    let array = Decimal256Array::from(vec![wide]).with_precision_and_scale(60, 2).unwrap();
    let expected = format!("-25{}.00", "0".repeat(36));
    assert_eq!(datum_at(&array, 0, None), Ok(Datum::Text(expected)));
}

#[test]
fn slices_and_nulls_keep_their_rows() {
    let array = Int64Array::from(vec![Some(1), None, Some(3)]).slice(1, 2);
    assert_eq!(datum_at(&array, 0, None), Ok(Datum::Null));
    assert_eq!(datum_at(&array, 1, None), Ok(Datum::Int(3)));
}

#[test]
fn values_are_fitted_only_without_loss() {
    let big = ColumnType::Int { width: IntWidth::Big, unsigned: false };
    let unsigned = ColumnType::Int { width: IntWidth::Big, unsigned: true };
    assert_eq!(Cell::UInt(7).fitted(&big), Cell::Int(7));
    assert_eq!(Cell::UInt(u64::MAX).fitted(&big), Cell::UInt(u64::MAX));
    assert_eq!(Cell::Int(7).fitted(&unsigned), Cell::UInt(7));
    assert_eq!(Cell::Int(-7).fitted(&unsigned), Cell::Int(-7));
    assert_eq!(Cell::Double(2.5).fitted(&big), Cell::Int(3));
    assert_eq!(Cell::Double(1e300).fitted(&big), Cell::Double(1e300));
    let count = Decimal { unscaled: 42_00, scale: 2 };
    assert_eq!(Cell::Decimal(count).fitted(&big), Cell::Int(42));
    assert_eq!(Cell::Int(3).fitted(&ColumnType::Double), Cell::Double(3.0));
    let array = TimestampMillisecondArray::from(vec![86_400_001]);
    assert_eq!(array.data_type(), &DataType::Timestamp(TimeUnit::Millisecond, None));
    assert_eq!(datum_at(&array, 0, Some(&ColumnType::Date)), Ok(Datum::Date(1)));
}
