//! What each type takes, refuses and adjusts.

use super::*;
use damask_types::ColumnId;

fn column(ty: ColumnType) -> ColumnSchema {
    ColumnSchema {
        id: ColumnId(1),
        name: "c".to_owned(),
        ty,
        nullable: false,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}

fn strict(value: Datum, ty: ColumnType) -> Result<Datum> {
    let rules = Rules { strict: true, offset_us: 0, now_us: 0 };
    convert(value, None, &column(ty), 1, rules, &mut Warnings::default())
}

fn lax(value: Datum, ty: ColumnType) -> (Datum, u64) {
    let rules = Rules { strict: false, offset_us: 0, now_us: 0 };
    let mut warnings = Warnings::default();
    let value = convert(value, None, &column(ty), 1, rules, &mut warnings).expect("lax");
    (value, warnings.count())
}

fn text(s: &str) -> Datum {
    Datum::Text(s.to_owned())
}

const TINY: ColumnType = ColumnType::Int { width: IntWidth::Tiny, unsigned: false };
const BIG_UNSIGNED: ColumnType = ColumnType::Int { width: IntWidth::Big, unsigned: true };

#[test]
fn integers() {
    assert_eq!(strict(text(" 12 "), TINY), Ok(Datum::Int(12)));
    assert_eq!(strict(text("1.5"), TINY), Ok(Datum::Int(2)));
    assert_eq!(strict(Datum::Double(-2.5), TINY), Ok(Datum::Int(-3)));
    assert_eq!(strict(Datum::Int(128), TINY).expect_err("range").code, 1264);
    assert_eq!(strict(Datum::Int(-1), BIG_UNSIGNED).expect_err("range").code, 1264);
    assert_eq!(strict(text("18446744073709551615"), BIG_UNSIGNED), Ok(Datum::UInt(u64::MAX)));
    assert_eq!(strict(text("abc"), TINY).expect_err("text").code, 1366);
    assert_eq!(strict(text("12abc"), TINY).expect_err("text").code, 1265);
    assert_eq!(strict(Datum::Null, TINY).expect_err("null").code, 1048);
    assert_eq!(lax(Datum::Int(300), TINY), (Datum::Int(127), 1));
    assert_eq!(lax(text("12abc"), TINY), (Datum::Int(12), 1));
}

#[test]
fn decimals_round_and_overflow() {
    let ty = ColumnType::Decimal { precision: 5, scale: 2 };
    let d = |unscaled| Datum::Decimal(Decimal { unscaled, scale: 2 });
    assert_eq!(strict(text("1.005"), ty.clone()), Ok(d(101)));
    assert_eq!(strict(Datum::Double(1.005), ty.clone()), Ok(d(101)));
    assert_eq!(strict(Datum::Int(-7), ty.clone()), Ok(d(-700)));
    assert_eq!(strict(text("1e2"), ty.clone()), Ok(d(10_000)));
    assert_eq!(strict(Datum::Int(1000), ty.clone()).expect_err("range").code, 1264);
    assert_eq!(strict(text("x"), ty.clone()).expect_err("text").code, 1366);
    assert_eq!(lax(Datum::Int(-1000), ty), (d(-99_999), 1));
}

#[test]
fn strings_are_measured_in_characters_or_bytes() {
    assert_eq!(strict(text("éé"), ColumnType::VarChar { len: 2 }), Ok(text("éé")));
    assert_eq!(strict(text("abc"), ColumnType::VarChar { len: 2 }).expect_err("long").code, 1406);
    assert_eq!(strict(text("ab  "), ColumnType::VarChar { len: 2 }), Ok(text("ab")));
    assert_eq!(strict(text("ab "), ColumnType::Char { len: 5 }), Ok(text("ab")));
    assert_eq!(strict(text("é"), ColumnType::Text { bytes_max: 1 }).expect_err("long").code, 1406);
    assert_eq!(strict(Datum::Int(7), ColumnType::VarChar { len: 2 }), Ok(text("7")));
    assert_eq!(
        strict(text("a"), ColumnType::Binary { len: 3 }),
        Ok(Datum::Bytes(vec![b'a', 0, 0]))
    );
    let bad = strict(Datum::Bytes(vec![0xff]), ColumnType::VarChar { len: 2 });
    assert_eq!(bad.expect_err("not UTF-8").code, 1366);
}

#[test]
fn dates_in_their_spellings() {
    let day = |s: &str| strict(text(s), ColumnType::Date);
    assert_eq!(day("2024-02-29"), Ok(Datum::Date(19_782)));
    for same in ["20240229", "240229", "2024/2/29", "2024-02-29 23:59:59", "2024-02-29T01:02:03Z"] {
        assert_eq!(day(same), Ok(Datum::Date(19_782)), "{same}");
    }
    for bad in ["2023-02-29", "0000-00-00", "x", "", "2024-13-01", "2024-01", "2024-01-01 25:00:00"]
    {
        assert_eq!(day(bad).expect_err(bad).code, 1292, "{bad}");
    }
    let second = ColumnType::DateTime { fsp: 0 };
    assert_eq!(
        strict(text("1970-01-01 00:00:01.5"), second.clone()),
        Ok(Datum::DateTime(2_000_000))
    );
    assert_eq!(strict(text("1970-01-01 02:00:00+02:00"), second.clone()), Ok(Datum::DateTime(0)));
    assert_eq!(strict(Datum::Int(19_700_101_000_001), second), Ok(Datum::DateTime(1_000_000)));
    let stamp = ColumnType::Timestamp { fsp: 0 };
    assert_eq!(strict(text("1969-12-31 00:00:00"), stamp.clone()).expect_err("range").code, 1292);
    assert_eq!(strict(text("2039-01-01 00:00:00"), stamp).expect_err("range").code, 1292);
}

#[test]
fn timestamps_are_kept_in_utc() {
    let rules = Rules { strict: true, offset_us: 3_600_000_000, now_us: 0 };
    let stamp = column(ColumnType::Timestamp { fsp: 0 });
    let plain = column(ColumnType::DateTime { fsp: 0 });
    let go = |value, source: Option<&ColumnType>, column| {
        convert(value, source, column, 1, rules, &mut Warnings::default())
    };
    assert_eq!(go(text("1970-01-01 02:00:00"), None, &stamp), Ok(Datum::DateTime(3_600_000_000)));
    let ty = ColumnType::Timestamp { fsp: 0 };
    assert_eq!(go(Datum::DateTime(7_000_000), Some(&ty), &stamp), Ok(Datum::DateTime(7_000_000)));
    assert_eq!(go(Datum::DateTime(0), Some(&ty), &plain), Ok(Datum::DateTime(3_600_000_000)));
}

#[test]
fn times_go_beyond_a_day() {
    let ty = ColumnType::Time { fsp: 0 };
    let hour = 3_600_000_000;
    assert_eq!(strict(text("26:00:00"), ty.clone()), Ok(Datum::Time(26 * hour)));
    assert_eq!(strict(text("-1 02:00:00"), ty.clone()), Ok(Datum::Time(-26 * hour)));
    assert_eq!(strict(text("10:30"), ty.clone()), Ok(Datum::Time(10 * hour + hour / 2)));
    assert_eq!(strict(Datum::Int(10_000), ty.clone()), Ok(Datum::Time(hour)));
    assert_eq!(strict(text("999:00:00"), ty.clone()).expect_err("range").code, 1264);
    assert_eq!(strict(text("1:99:00"), ty).expect_err("minutes").code, 1292);
}

#[test]
fn floats() {
    assert_eq!(strict(text("1e400"), ColumnType::Double).expect_err("range").code, 1264);
    assert_eq!(strict(Datum::Double(1e39), ColumnType::Float).expect_err("range").code, 1264);
    assert_eq!(strict(Datum::Double(0.1), ColumnType::Float), Ok(Datum::Double(f64::from(0.1f32))));
}
