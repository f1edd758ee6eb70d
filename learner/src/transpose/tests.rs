//! Row bytes to Arrow: every type, missing and added columns, rows that do not parse.

use super::*;
use damask_types::row::{encode_row, encode_value};
use damask_types::schema::IntWidth;
use damask_types::{Datum, Decimal};

fn column(id: i64, ty: ColumnType, origin_default: Option<Datum>) -> ColumnSchema {
    ColumnSchema {
        id: ColumnId(id),
        name: format!("c{id}"),
        ty,
        nullable: true,
        default: None,
        origin_default: origin_default.as_ref().and_then(encode_value),
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}

fn int() -> ColumnType {
    ColumnType::Int { width: IntWidth::Big, unsigned: false }
}

fn every_type() -> Vec<ColumnSchema> {
    let types = [
        ColumnType::Bool,
        int(),
        ColumnType::Int { width: IntWidth::Big, unsigned: true },
        ColumnType::Float,
        ColumnType::Double,
        ColumnType::Decimal { precision: 20, scale: 3 },
        ColumnType::VarChar { len: 10 },
        ColumnType::Blob { bytes_max: 99 },
        ColumnType::Date,
        ColumnType::DateTime { fsp: 6 },
        ColumnType::Timestamp { fsp: 0 },
        ColumnType::Time { fsp: 3 },
    ];
    types.into_iter().zip(1..).map(|(ty, id)| column(id, ty, None)).collect()
}

fn datums(seed: i64) -> Vec<Datum> {
    let big = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).rotate_left((seed % 64) as u32);
    vec![
        Datum::Int(seed & 1),
        Datum::Int(big),
        Datum::UInt(big as u64),
        Datum::Double(f64::from(seed as f32) * 0.5),
        Datum::Double(big as f64 / 7.0),
        Datum::Decimal(Decimal { unscaled: i128::from(big) * 3, scale: 3 }),
        Datum::Text(format!("é{seed}").repeat((seed % 4) as usize)),
        Datum::Bytes(big.to_le_bytes()[..(seed % 9) as usize].to_vec()),
        Datum::Date(big as i32),
        Datum::DateTime(big),
        Datum::DateTime(-seed),
        Datum::Time(big >> 9),
    ]
}

/// The datum at a place of an array, to compare by.
fn datum_at(array: &ArrayRef, row: usize, like: &Datum) -> Datum {
    if array.is_null(row) {
        return Datum::Null;
    }
    let any = array.as_any();
    match like {
        Datum::Int(_) => Datum::Int(any.downcast_ref::<Int64Array>().unwrap().value(row)),
        Datum::UInt(_) => Datum::UInt(any.downcast_ref::<UInt64Array>().unwrap().value(row)),
        Datum::Double(_) => Datum::Double(any.downcast_ref::<Float64Array>().unwrap().value(row)),
        Datum::Decimal(d) => {
            let unscaled = any.downcast_ref::<Decimal128Array>().unwrap().value(row);
            Datum::Decimal(Decimal { unscaled, scale: d.scale })
        }
        Datum::Text(_) => {
            Datum::Text(any.downcast_ref::<StringArray>().unwrap().value(row).to_owned())
        }
        Datum::Bytes(_) => {
            Datum::Bytes(any.downcast_ref::<BinaryArray>().unwrap().value(row).to_vec())
        }
        Datum::Date(_) => Datum::Date(any.downcast_ref::<Date32Array>().unwrap().value(row)),
        Datum::DateTime(_) => {
            Datum::DateTime(any.downcast_ref::<TimestampMicrosecondArray>().unwrap().value(row))
        }
        Datum::Time(_) => {
            Datum::Time(any.downcast_ref::<DurationMicrosecondArray>().unwrap().value(row))
        }
        Datum::Null => panic!("nothing to compare with"),
    }
}

#[test]
fn every_type_comes_back_in_two_batches() {
    let columns = every_type();
    let mut decoder = RowDecoder::new(&columns).unwrap();
    decoder.reserve(100);
    for batch in 0..2 {
        let mut expected = Vec::new();
        for seed in batch * 100..batch * 100 + 100 {
            let mut row = datums(seed);
            if seed % 3 == 0 {
                row[(seed % 12) as usize] = Datum::Null;
            }
            let cells: Vec<_> = columns.iter().map(|c| c.id).zip(&row).collect();
            decoder.append_row(seed, &encode_row(&cells)).unwrap();
            expected.push(row);
        }
        assert_eq!(decoder.len(), 100);
        let rows = decoder.finish().unwrap();
        assert!(decoder.is_empty() && decoder.bytes() == 0);
        assert_eq!(rows.columns.schema(), *decoder.schema());
        assert_eq!(rows.handles.value(7), batch * 100 + 7);
        for (i, row) in expected.iter().enumerate() {
            for (c, datum) in row.iter().enumerate() {
                let like = &datums(1)[c];
                assert_eq!(datum_at(rows.columns.column(c), i, like), *datum, "row {i} column {c}");
            }
        }
    }
}

#[test]
fn a_missing_column_takes_the_origin_default() {
    let columns = [column(1, int(), None), column(2, int(), Some(Datum::Int(42)))];
    let mut decoder = RowDecoder::new(&columns).unwrap();
    decoder.append_row(1, &encode_row(&[])).unwrap();
    decoder.append_row(2, &encode_row(&[(ColumnId(2), &Datum::Null)])).unwrap();
    decoder.append_nulls(3);
    let rows = decoder.finish().unwrap().columns;
    assert_eq!(rows.column(0).null_count(), 3);
    assert_eq!(datum_at(rows.column(1), 0, &Datum::Int(0)), Datum::Int(42));
    assert!(rows.column(1).is_null(1) && rows.column(1).is_null(2));
    assert!(RowDecoder::new(&[column(1, int(), Some(Datum::Bytes(vec![1; 3])))]).is_err());
}

#[test]
fn a_refused_row_leaves_nothing_behind() {
    let text = ColumnType::VarChar { len: 9 };
    let columns =
        [column(1, text, None), column(2, int(), None), column(3, ColumnType::Date, None)];
    let mut decoder = RowDecoder::new(&columns).unwrap().with_newest(ColumnId(5));
    let row = |third: Datum, extra: i64| {
        let text = Datum::Text("abc".into());
        let cells = [
            (ColumnId(1), &text),
            (ColumnId(2), &Datum::Null),
            (ColumnId(3), &third),
            (ColumnId(extra), &Datum::Int(1)),
        ];
        encode_row(&cells)
    };
    decoder.append_row(1, &row(Datum::Date(10), 4)).unwrap();
    let refused = decoder.append_row(2, &row(Datum::Int(1 << 40), 4)).unwrap_err();
    assert!(matches!(refused, RowError::Value { column: ColumnId(3), .. }));
    let refused = decoder.append_row(2, &row(Datum::Date(1), 6)).unwrap_err();
    assert_eq!(refused, RowError::UnknownColumn(ColumnId(6)));
    assert!(refused.wants_newer_schema());
    assert!(matches!(decoder.append_row(2, b"junk"), Err(RowError::Row(_))));
    decoder.append_row(3, &row(Datum::Date(30), 5)).unwrap();
    let rows = decoder.finish().unwrap();
    assert_eq!(rows.handles.values(), &[1, 3]);
    assert_eq!(
        datum_at(rows.columns.column(0), 1, &Datum::Text("".into())),
        Datum::Text("abc".into())
    );
    assert_eq!(rows.columns.column(1).null_count(), 2);
    assert_eq!(datum_at(rows.columns.column(2), 1, &Datum::Date(0)), Datum::Date(30));
}

#[test]
fn rows_of_other_columns_may_follow_each_other() {
    let text = ColumnType::VarChar { len: 9 };
    let columns =
        [column(1, int(), None), column(2, text, None), column(3, int(), Some(Datum::Int(7)))];
    let mut decoder = RowDecoder::new(&columns).unwrap().with_newest(ColumnId(9));
    let word = Datum::Text("word".into());
    let rows: [&[(ColumnId, &Datum)]; 6] = [
        &[(ColumnId(1), &Datum::Int(1)), (ColumnId(2), &word), (ColumnId(3), &Datum::Int(3))],
        &[(ColumnId(2), &word), (ColumnId(3), &Datum::Int(3)), (ColumnId(8), &Datum::Int(1))],
        &[(ColumnId(1), &Datum::Int(1)), (ColumnId(2), &Datum::Null), (ColumnId(3), &Datum::Null)],
        &[(ColumnId(1), &Datum::Null), (ColumnId(2), &word), (ColumnId(3), &Datum::Int(3))],
        &[],
        &[(ColumnId(1), &Datum::Int(1)), (ColumnId(2), &word), (ColumnId(300), &Datum::Int(1))],
    ];
    // every pair of neighbours, in both orders
    let order = [0, 1, 2, 3, 4, 0, 2, 4, 1, 3, 0, 4, 3, 2, 1, 0, 3, 1, 4, 2, 0];
    for (handle, row) in order.into_iter().enumerate() {
        decoder.append_row(handle as i64, &encode_row(rows[row])).unwrap();
        let newer = decoder.append_row(-1, &encode_row(rows[5])).unwrap_err();
        assert_eq!(newer, RowError::UnknownColumn(ColumnId(300)), "nor is it learnt");
    }
    let finished = decoder.finish().unwrap();
    assert_eq!(finished.handles.len(), order.len());
    for (at, row) in order.into_iter().enumerate() {
        for (column, schema) in columns.iter().enumerate() {
            let array = finished.columns.column(column);
            let written = rows[row].iter().find(|(id, _)| *id == schema.id).map(|(_, d)| *d);
            let expected = match (written, column) {
                (Some(datum), _) => datum.clone(),
                (None, 2) => Datum::Int(7),
                (None, _) => Datum::Null,
            };
            assert_eq!(array.is_null(at), expected.is_null(), "row {row} column {column}");
            if !expected.is_null() {
                assert_eq!(datum_at(array, at, &expected), expected, "row {row} column {column}");
            }
        }
    }
}

#[test]
fn text_must_be_utf8() {
    let mut decoder = RowDecoder::new(&[column(1, ColumnType::VarChar { len: 9 }, None)]).unwrap();
    decoder.append_row(1, &encode_row(&[(ColumnId(1), &Datum::Bytes(vec![0xFF]))])).unwrap();
    assert!(matches!(decoder.finish(), Err(RowError::Batch(_))));
}

#[test]
fn a_decimal_keeps_its_value_or_is_refused() {
    let ty = ColumnType::Decimal { precision: 10, scale: 2 };
    let mut decoder = RowDecoder::new(&[column(1, ty, None)]).unwrap();
    let mut push = |unscaled, scale| {
        let datum = Datum::Decimal(Decimal { unscaled, scale });
        decoder.append_row(1, &encode_row(&[(ColumnId(1), &datum)]))
    };
    push(15, 1).unwrap();
    push(1500, 3).unwrap();
    assert!(push(1501, 3).is_err());
    let rows = decoder.finish().unwrap().columns;
    let cells = rows.column(0).as_any().downcast_ref::<Decimal128Array>().unwrap();
    assert_eq!(cells.values(), &[150, 150]);
}

#[test]
fn no_columns_still_count_rows() {
    let mut decoder = RowDecoder::new(&[]).unwrap();
    decoder.append_row(1, &encode_row(&[])).unwrap();
    assert_eq!(decoder.finish().unwrap().columns.num_rows(), 1);
}
