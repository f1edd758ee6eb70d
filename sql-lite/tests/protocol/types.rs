//! Every type in text and binary rows, from datums and from columns, and its column definition.

use crate::client::{binaries, texts};
use crate::fake::Fake;
use crate::{connect, serve};
use arrow::array::*;
use damask_sql_lite::outcome::{ColumnMeta, RowBatch};
use damask_types::schema::IntWidth;
use damask_types::{ColumnType, Datum, Decimal};
use mysql_common::constants::{ColumnFlags, ColumnType as WireType};
use std::sync::Arc;

/// A type, a value as datum and as array (the second row is NULL), its text, its binary form, and
/// its definition: wire type, character set, length, decimals.
struct Case {
    ty: ColumnType,
    value: Datum,
    array: ArrayRef,
    text: &'static str,
    binary: Vec<u8>,
    wire: (WireType, u16, u32, u8),
}

fn int(width: IntWidth, unsigned: bool) -> ColumnType {
    ColumnType::Int { width, unsigned }
}

fn signed(v: i64) -> (Datum, ArrayRef) {
    (Datum::Int(v), Arc::new(Int64Array::from(vec![Some(v), None])))
}

fn unsigned(v: u64) -> (Datum, ArrayRef) {
    (Datum::UInt(v), Arc::new(UInt64Array::from(vec![Some(v), None])))
}

fn double(v: f64) -> (Datum, ArrayRef) {
    (Datum::Double(v), Arc::new(Float64Array::from(vec![Some(v), None])))
}

fn string(v: &str) -> (Datum, ArrayRef) {
    (Datum::Text(v.into()), Arc::new(StringArray::from(vec![Some(v), None])))
}

fn bytes(v: &[u8]) -> (Datum, ArrayRef) {
    (Datum::Bytes(v.into()), Arc::new(BinaryArray::from(vec![Some(v), None])))
}

fn moment(v: i64) -> (Datum, ArrayRef) {
    (Datum::DateTime(v), Arc::new(TimestampMicrosecondArray::from(vec![Some(v), None])))
}

fn time(v: i64) -> (Datum, ArrayRef) {
    (Datum::Time(v), Arc::new(DurationMicrosecondArray::from(vec![Some(v), None])))
}

fn decimal(unscaled: i128, precision: u8, scale: u8) -> (Datum, ArrayRef) {
    let array = Decimal128Array::from(vec![Some(unscaled), None]);
    let array = array.with_precision_and_scale(precision, scale as i8).unwrap();
    (Datum::Decimal(Decimal { unscaled, scale }), Arc::new(array))
}

fn date(v: i32) -> (Datum, ArrayRef) {
    (Datum::Date(v), Arc::new(Date32Array::from(vec![Some(v), None])))
}

fn case(
    ty: ColumnType,
    (value, array): (Datum, ArrayRef),
    text: &'static str,
    binary: &[u8],
    wire: (WireType, u16, u32, u8),
) -> Case {
    Case { ty, value, array, text, binary: binary.to_vec(), wire }
}

const DAY: i64 = 86_400_000_000;

fn numbers() -> Vec<Case> {
    use ColumnType as T;
    use IntWidth::*;
    use WireType::*;
    vec![
        case(T::Bool, signed(1), "1", &[1], (MYSQL_TYPE_TINY, 63, 1, 0)),
        case(int(Tiny, false), signed(-128), "-128", &[0x80], (MYSQL_TYPE_TINY, 63, 4, 0)),
        case(int(Tiny, true), unsigned(255), "255", &[255], (MYSQL_TYPE_TINY, 63, 3, 0)),
        case(int(Small, false), signed(-2), "-2", &[0xFE, 0xFF], (MYSQL_TYPE_SHORT, 63, 6, 0)),
        case(
            int(Medium, true),
            unsigned(16_777_215),
            "16777215",
            &[255, 255, 255, 0],
            (MYSQL_TYPE_INT24, 63, 8, 0),
        ),
        case(
            int(Normal, false),
            signed(i32::MIN.into()),
            "-2147483648",
            &i32::MIN.to_le_bytes(),
            (MYSQL_TYPE_LONG, 63, 11, 0),
        ),
        case(
            int(Big, false),
            signed(i64::MIN),
            "-9223372036854775808",
            &i64::MIN.to_le_bytes(),
            (MYSQL_TYPE_LONGLONG, 63, 20, 0),
        ),
        case(
            int(Big, true),
            unsigned(u64::MAX),
            "18446744073709551615",
            &[255; 8],
            (MYSQL_TYPE_LONGLONG, 63, 20, 0),
        ),
        case(T::Float, double(1.5), "1.5", &1.5f32.to_le_bytes(), (MYSQL_TYPE_FLOAT, 63, 12, 31)),
        case(
            T::Double,
            double(-1e300),
            "-1e300",
            &(-1e300f64).to_le_bytes(),
            (MYSQL_TYPE_DOUBLE, 63, 22, 31),
        ),
        case(
            T::Decimal { precision: 10, scale: 2 },
            decimal(-5, 10, 2),
            "-0.05",
            b"-0.05",
            (MYSQL_TYPE_NEWDECIMAL, 63, 12, 2),
        ),
        case(
            T::Decimal { precision: 38, scale: 0 },
            decimal(10i128.pow(38) - 1, 38, 0),
            "99999999999999999999999999999999999999",
            b"99999999999999999999999999999999999999",
            (MYSQL_TYPE_NEWDECIMAL, 63, 39, 0),
        ),
    ]
}

fn others() -> Vec<Case> {
    use ColumnType as T;
    use WireType::*;
    vec![
        case(
            T::Char { len: 3 },
            string("äö"),
            "äö",
            "äö".as_bytes(),
            (MYSQL_TYPE_STRING, 45, 12, 0),
        ),
        case(T::VarChar { len: 5 }, string(""), "", b"", (MYSQL_TYPE_VAR_STRING, 45, 20, 0)),
        case(
            T::Text { bytes_max: 65_535 },
            string("long"),
            "long",
            b"long",
            (MYSQL_TYPE_BLOB, 45, 262_140, 0),
        ),
        case(T::Binary { len: 2 }, bytes(b"a\0"), "a\0", b"a\0", (MYSQL_TYPE_STRING, 63, 2, 0)),
        case(T::VarBinary { len: 9 }, bytes(b"b"), "b", b"b", (MYSQL_TYPE_VAR_STRING, 63, 9, 0)),
        case(T::Blob { bytes_max: 255 }, bytes(b"c"), "c", b"c", (MYSQL_TYPE_BLOB, 63, 255, 0)),
        case(T::Date, date(-1), "1969-12-31", &[0xB1, 7, 12, 31], (MYSQL_TYPE_DATE, 63, 10, 0)),
        case(
            T::DateTime { fsp: 0 },
            moment(DAY),
            "1970-01-02 00:00:00",
            &[0xB2, 7, 1, 2],
            (MYSQL_TYPE_DATETIME, 63, 19, 0),
        ),
        case(
            T::DateTime { fsp: 3 },
            moment(DAY + 3_661_000_000),
            "1970-01-02 01:01:01.000",
            &[0xB2, 7, 1, 2, 1, 1, 1],
            (MYSQL_TYPE_DATETIME, 63, 23, 3),
        ),
        case(
            T::Timestamp { fsp: 6 },
            moment(-1),
            "1969-12-31 23:59:59.999999",
            &[0xB1, 7, 12, 31, 23, 59, 59, 0x3F, 0x42, 0x0F, 0],
            (MYSQL_TYPE_TIMESTAMP, 63, 26, 6),
        ),
        case(
            T::Time { fsp: 0 },
            time(-(DAY + 3_661_000_000)),
            "-25:01:01",
            &[1, 1, 0, 0, 0, 1, 1, 1],
            (MYSQL_TYPE_TIME, 63, 10, 0),
        ),
        case(T::Time { fsp: 1 }, time(0), "00:00:00.0", &[], (MYSQL_TYPE_TIME, 63, 12, 1)),
        case(
            T::Time { fsp: 6 },
            time(1),
            "00:00:00.000001",
            &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            (MYSQL_TYPE_TIME, 63, 17, 6),
        ),
    ]
}

fn cases() -> Vec<Case> {
    numbers().into_iter().chain(others()).collect()
}

fn columns(cases: &[Case]) -> Vec<ColumnMeta> {
    let name = |(i, case): (usize, &Case)| ColumnMeta::expression(format!("c{i}"), case.ty.clone());
    cases.iter().enumerate().map(name).collect()
}

fn add_table(fake: &Fake, name: &str, columns: Vec<ColumnMeta>, batch: RowBatch) {
    fake.tables.lock().unwrap().insert(name.into(), (columns, vec![batch]));
}

fn add_tables(fake: &Fake, cases: &[Case]) {
    let values = cases.iter().map(|case| case.value.clone()).collect();
    let nulls = vec![Datum::Null; cases.len()];
    add_table(fake, "datums", columns(cases), RowBatch::Datums(vec![values, nulls]));
    let arrays = cases.iter().enumerate().map(|(i, case)| (i.to_string(), case.array.clone()));
    let batch = RecordBatch::try_from_iter_with_nullable(arrays.map(|(n, a)| (n, a, true)));
    add_table(fake, "columns", columns(cases), RowBatch::Columns(batch.unwrap()));
}

#[test]
fn every_type_in_every_form() {
    let (server, fake) = serve();
    let cases = cases();
    add_tables(&fake, &cases);
    let mut client = connect(&server);
    for table in ["table datums", "table columns"] {
        let answer = client.query(table).rows();
        let expected: Vec<_> = cases.iter().map(|case| Some(case.text.to_owned())).collect();
        assert_eq!(texts(&answer.rows[0]), expected, "{table}");
        assert_eq!(texts(&answer.rows[1]), vec![None; cases.len()], "{table}");

        let (id, _, definitions) = client.prepare(table).unwrap();
        let answer = client.execute(id, &[]).rows();
        assert_eq!(answer.columns, definitions);
        let expected: Vec<_> = cases.iter().map(|case| Some(case.binary.clone())).collect();
        assert_eq!(binaries(&answer.rows[0], &answer.columns), expected, "{table}");
        assert_eq!(binaries(&answer.rows[1], &answer.columns), vec![None; cases.len()], "{table}");
    }
}

#[test]
fn definitions_say_what_drivers_read() {
    let (server, fake) = serve();
    let cases = cases();
    add_tables(&fake, &cases);
    let mut client = connect(&server);
    let answer = client.query("table datums").rows();
    for (case, column) in cases.iter().zip(&answer.columns) {
        let wire = (
            column.column_type(),
            column.character_set(),
            column.column_length(),
            column.decimals(),
        );
        assert_eq!(wire, case.wire, "{:?}", case.ty);
        let flags = column.flags();
        assert_eq!(flags.contains(ColumnFlags::UNSIGNED_FLAG), case.ty.is_unsigned());
        assert_eq!(flags.contains(ColumnFlags::BINARY_FLAG), case.wire.1 == 63, "{:?}", case.ty);
    }
    let meta = ColumnMeta {
        database: "d".into(),
        table: "alias".into(),
        org_table: "t".into(),
        org_name: "id".into(),
        nullable: false,
        primary_key: true,
        auto_increment: true,
        ..ColumnMeta::expression("i", int(IntWidth::Big, false))
    };
    let unique = ColumnMeta {
        unique_key: true,
        ..ColumnMeta::expression("u", ColumnType::VarChar { len: 1 })
    };
    add_table(&fake, "t", vec![meta, unique], RowBatch::Datums(vec![]));
    let mut client = connect(&server);
    let columns = client.query("table t").rows().columns;
    let names = [
        columns[0].schema_str(),
        columns[0].table_str(),
        columns[0].org_table_str(),
        columns[0].name_str(),
        columns[0].org_name_str(),
    ];
    assert_eq!(names, ["d", "alias", "t", "i", "id"]);
    let key = ColumnFlags::NOT_NULL_FLAG
        | ColumnFlags::PRI_KEY_FLAG
        | ColumnFlags::AUTO_INCREMENT_FLAG
        | ColumnFlags::BINARY_FLAG
        | ColumnFlags::NUM_FLAG;
    assert_eq!(columns[0].flags(), key);
    assert_eq!(columns[1].flags(), ColumnFlags::UNIQUE_KEY_FLAG);
}

#[test]
fn fields_are_listed() {
    let (server, fake) = serve();
    let cases = cases();
    add_tables(&fake, &cases);
    let mut client = connect(&server);
    client.command(0x04, b"datums\0%");
    for _ in &cases {
        let payload = client.read().unwrap();
        assert_eq!(payload.last(), Some(&0xFB));
    }
    client.eof().expect("an end");
    client.command(0x04, b"nothing\0");
    assert_eq!(client.answer().code(), 1146);
}

#[test]
fn a_value_of_another_type_is_an_error() {
    let (server, fake) = serve();
    let wrong = [
        (ColumnType::Date, Datum::Text("x".into())),
        (int(IntWidth::Tiny, false), Datum::Int(128)),
        (int(IntWidth::Big, true), Datum::Int(-1)),
        (ColumnType::Double, Datum::Text("1".into())),
    ];
    for (i, (ty, value)) in wrong.iter().enumerate() {
        let columns = vec![ColumnMeta::expression("c", ty.clone())];
        add_table(&fake, &i.to_string(), columns, RowBatch::Datums(vec![vec![value.clone()]]));
    }
    let two = vec![ColumnMeta::expression("c", ColumnType::Date); 2];
    add_table(&fake, "narrow", two, RowBatch::Datums(vec![vec![Datum::Null]]));
    let mut client = connect(&server);
    for (i, case) in wrong.iter().enumerate() {
        let (id, ..) = client.prepare(&format!("table {i}")).unwrap();
        assert!([1105, 1690].contains(&client.execute(id, &[]).code()), "{case:?}");
    }
    assert_eq!(client.query("table narrow").code(), 1105);
    assert!(client.is_alive());
}
