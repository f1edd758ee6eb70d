//! What is encoded decodes to itself, sorts as it should, and no bytes make a decoder panic.

use damask_types::codec::{self, decode_key, encode_key, encode_key_ts, split_key_ts};
use damask_types::mutation::SHORT_VALUE_MAX;
use damask_types::row::{Cell, RowView, decode_value, encode_row, encode_value};
use damask_types::schema::IntWidth;
use damask_types::{
    ColumnId, ColumnType, Datum, Decimal, IndexId, KeyRange, Lock, LockKind, Record, TableId,
    Timestamp, Write, WriteKind, WriteRef, key,
};
use proptest::prelude::*;
use std::cmp::Ordering;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    // Mostly zeros, ones and edges, so that padding and prefixes meet.
    let byte = prop_oneof![Just(0u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()];
    proptest::collection::vec(byte, 0..max)
}

fn lock() -> impl Strategy<Value = Lock> {
    let kind = prop_oneof![
        Just(LockKind::Put),
        Just(LockKind::Delete),
        Just(LockKind::Lock),
        Just(LockKind::Pessimistic)
    ];
    let short = proptest::option::of(bytes(SHORT_VALUE_MAX + 1));
    let secondaries = proptest::option::of(proptest::collection::vec(bytes(20), 0..4));
    let rollbacks = proptest::collection::vec(any::<u64>().prop_map(Timestamp), 0..3);
    let numbers = any::<[u64; 5]>();
    (kind, bytes(20), numbers, short, secondaries, rollbacks).prop_map(
        |(kind, primary, [start_ts, ttl, update, size, min], short, secondaries, rollback_ts)| {
            Lock {
                short_value: short,
                for_update_ts: Timestamp(update),
                txn_size: size,
                min_commit_ts: Timestamp(min),
                secondaries,
                rollback_ts,
                ..Lock::new(kind, primary, Timestamp(start_ts), ttl)
            }
        },
    )
}

fn write() -> impl Strategy<Value = Write> {
    let kind = prop_oneof![
        Just(WriteKind::Put),
        Just(WriteKind::Delete),
        Just(WriteKind::Lock),
        Just(WriteKind::Rollback)
    ];
    let short = proptest::option::of(bytes(SHORT_VALUE_MAX + 1));
    (kind, any::<u64>(), short, any::<bool>(), proptest::option::of(any::<u64>())).prop_map(
        |(kind, start_ts, short_value, overlapped_rollback, fence)| Write {
            kind,
            start_ts: Timestamp(start_ts),
            short_value,
            overlapped_rollback,
            gc_fence: fence.map(Timestamp),
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let ts = || any::<u64>().prop_map(Timestamp);
    prop_oneof![
        (bytes(30), lock()).prop_map(|(key, lock)| Record::Lock { key, lock }),
        bytes(30).prop_map(|key| Record::Unlock { key }),
        (bytes(30), ts(), bytes(600)).prop_map(|(key, start_ts, value)| Record::Value {
            key,
            start_ts,
            value
        }),
        (bytes(30), ts()).prop_map(|(key, start_ts)| Record::DropValue { key, start_ts }),
        (bytes(30), ts(), write()).prop_map(|(key, commit_ts, write)| Record::Write {
            key,
            commit_ts,
            write
        }),
        (bytes(30), ts()).prop_map(|(key, commit_ts)| Record::DropWrite { key, commit_ts }),
    ]
}

fn datum() -> impl Strategy<Value = Datum> {
    prop_oneof![
        Just(Datum::Null),
        any::<i64>().prop_map(Datum::Int),
        any::<u64>().prop_map(Datum::UInt),
        any::<f64>().prop_map(Datum::Double),
        (any::<i128>(), 0u8..38)
            .prop_map(|(unscaled, scale)| Datum::Decimal(Decimal { unscaled, scale })),
        bytes(20).prop_map(Datum::Bytes),
        any::<i32>().prop_map(Datum::Date),
        any::<i64>().prop_map(Datum::DateTime),
        any::<i64>().prop_map(Datum::Time),
    ]
}

fn sorted(datum: &Datum) -> Vec<u8> {
    let mut out = Vec::new();
    datum.put_sorted(&mut out);
    out
}

/// Order of two values of one column.
fn order(a: &Datum, b: &Datum) -> Option<Ordering> {
    match (a, b) {
        (Datum::Null, Datum::Null) => Some(Ordering::Equal),
        (Datum::Null, _) => Some(Ordering::Less),
        (_, Datum::Null) => Some(Ordering::Greater),
        (Datum::Int(a), Datum::Int(b))
        | (Datum::DateTime(a), Datum::DateTime(b))
        | (Datum::Time(a), Datum::Time(b)) => Some(a.cmp(b)),
        (Datum::UInt(a), Datum::UInt(b)) => Some(a.cmp(b)),
        (Datum::Double(a), Datum::Double(b)) => a.partial_cmp(b),
        (Datum::Decimal(a), Datum::Decimal(b)) if a.scale == b.scale => {
            Some(a.unscaled.cmp(&b.unscaled))
        }
        (Datum::Bytes(a), Datum::Bytes(b)) => Some(a.cmp(b)),
        (Datum::Date(a), Datum::Date(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn type_of(datum: &Datum) -> Option<ColumnType> {
    Some(match datum {
        Datum::Int(_) => ColumnType::Int { width: IntWidth::Big, unsigned: false },
        Datum::UInt(_) => ColumnType::Int { width: IntWidth::Big, unsigned: true },
        Datum::Double(_) => ColumnType::Double,
        Datum::Decimal(d) => ColumnType::Decimal { precision: 38, scale: d.scale },
        Datum::Date(_) => ColumnType::Date,
        _ => return None,
    })
}

proptest! {
    #[test]
    fn encoded_keys_decode_and_sort(a in bytes(30), b in bytes(30), x: u64, y: u64) {
        prop_assert_eq!(decode_key(&encode_key(&a)), Ok(a.clone()));
        prop_assert_eq!(encode_key(&a).cmp(&encode_key(&b)), a.cmp(&b));
        let (left, right) = (encode_key_ts(&a, Timestamp(x)), encode_key_ts(&b, Timestamp(y)));
        let (prefix, ts) = split_key_ts(&left).expect("has a version");
        let expected = encode_key(&a);
        prop_assert_eq!((prefix, ts), (expected.as_slice(), Timestamp(x)));
        prop_assert_eq!(left.cmp(&right), a.cmp(&b).then(y.cmp(&x)), "newer versions first");
    }

    #[test]
    fn numbers_decode_and_sort(a: i64, b: i64, u: u64, f in any::<f64>(), g in any::<f64>()) {
        let put = |v| {
            let mut out = Vec::new();
            codec::put_i64_sorted(&mut out, v);
            out
        };
        prop_assert_eq!(codec::take_i64_sorted(&mut put(a).as_slice()), Ok(a));
        prop_assert_eq!(put(a).cmp(&put(b)), a.cmp(&b));
        let mut out = Vec::new();
        codec::put_var_u64(&mut out, u);
        codec::put_var_i64(&mut out, a);
        let mut buf = out.as_slice();
        prop_assert_eq!(codec::take_var_u64(&mut buf), Ok(u));
        prop_assert_eq!(codec::take_var_i64(&mut buf), Ok(a));
        let float = |v| {
            let mut out = Vec::new();
            codec::put_f64_sorted(&mut out, v);
            out
        };
        prop_assert_eq!(codec::take_f64_sorted(&mut float(f).as_slice()), Ok(f));
        prop_assert_eq!(Some(float(f).cmp(&float(g))), f.partial_cmp(&g));
    }

    #[test]
    fn locks_writes_and_records_decode(lock in lock(), write in write(), record in record()) {
        prop_assert_eq!(Lock::decode(&lock.encode()), Ok(lock));
        let encoded = write.encode();
        prop_assert_eq!(Write::decode(&encoded), Ok(write.clone()));
        let view = WriteRef::decode(&encoded).expect("as above");
        prop_assert_eq!(view.short_value, write.short_value.as_deref());
        let mut out = Vec::new();
        record.put(&mut out);
        out.extend_from_slice(b"rest");
        let mut buf = out.as_slice();
        prop_assert_eq!(Record::take(&mut buf), Ok(record));
        prop_assert_eq!(buf, b"rest");
    }

    #[test]
    fn datums_decode_and_sort(a in datum(), b in datum()) {
        let bytes = sorted(&a);
        let mut buf = bytes.as_slice();
        prop_assert_eq!(Datum::take_sorted(&mut buf), Ok(a.clone()));
        prop_assert!(buf.is_empty());
        if let Some(order) = order(&a, &b) {
            prop_assert_eq!(bytes.cmp(&sorted(&b)), order);
        }
    }

    #[test]
    fn rows_give_every_cell_back(
        cells in proptest::collection::btree_map(1i64..400, datum(), 0..30),
        absent in 400i64..500,
    ) {
        let given: Vec<_> = cells.iter().rev().map(|(id, d)| (ColumnId(*id), d)).collect();
        let row = encode_row(&given);
        let view = RowView::new(&row).expect("just encoded");
        for (id, datum) in &given {
            match (view.get(*id), encode_value(datum)) {
                (Cell::Null, None) => {}
                (Cell::Value(got), Some(expected)) => {
                    prop_assert_eq!(got, expected.as_slice());
                    if let Some(ty) = type_of(datum) {
                        prop_assert_eq!(&decode_value(&ty, got), &Ok((*datum).clone()));
                    }
                }
                (cell, expected) => prop_assert!(false, "{:?} for {:?}", cell, expected),
            }
        }
        prop_assert_eq!(view.get(ColumnId(absent)), Cell::Missing);
        prop_assert_eq!(view.column_ids().count(), cells.len());
    }

    #[test]
    fn index_keys_give_values_and_handle_back(
        values in proptest::collection::vec(datum(), 1..4),
        handle in proptest::option::of(any::<i64>()),
    ) {
        let key = key::index_key(TableId(7), IndexId(2), &values, handle);
        prop_assert_eq!(key::decode_index_key(&key, values.len()), Ok((values, handle)));
        prop_assert_eq!(key::decode_table(&key), Some(TableId(7)));
        prop_assert_eq!(key::decode_row_key(&key), None);
    }

    #[test]
    fn handle_ranges_hold_their_handles(first: i64, last: i64, probe: i64) {
        let range = key::handle_range(TableId(1), first, last);
        let inside = (first..=last).contains(&probe);
        prop_assert_eq!(range.contains(&key::row_key(TableId(1), probe)), inside);
        prop_assert!(!range.contains(&key::row_key(TableId(2), probe)));
        let decoded = key::decode_row_key(&key::row_key(TableId(1), probe));
        prop_assert_eq!(decoded, Some((TableId(1), probe)));
    }

    #[test]
    fn ranges_intersect_as_their_keys_do(
        a in bytes(3), b in bytes(3), c in bytes(3), d in bytes(3), k in bytes(3),
    ) {
        let (left, right) = (KeyRange::new(a, b), KeyRange::new(c, d));
        let both = left.contains(&k) && right.contains(&k);
        let common = left.intersect(&right);
        prop_assert_eq!(common.is_some_and(|range| range.contains(&k)), both);
        prop_assert!(KeyRange::point(&k).contains(&k));
        prop_assert!(KeyRange::prefix(&k).contains(&[&k[..], &[0xFF]].concat()));
    }

    #[test]
    fn no_bytes_panic_a_decoder(input in bytes(64)) {
        let buf = input.as_slice();
        let _ = decode_key(buf);
        let _ = split_key_ts(buf);
        let _ = Lock::decode(buf);
        let _ = Write::decode(buf);
        let _ = Record::take(&mut &buf[..]);
        let _ = Datum::take_sorted(&mut &buf[..]);
        let index = [&key::index_prefix(TableId(1), IndexId(1))[..], buf].concat();
        let _ = key::decode_index_key(&index, 2);
        let framed = [&[0x80, input.first().copied().unwrap_or(0) & 1][..], buf].concat();
        if let Ok(row) = RowView::new(&framed) {
            for id in row.column_ids() {
                let Cell::Value(value) = row.get(id) else { continue };
                let _ = decode_value(&ColumnType::Decimal { precision: 38, scale: 2 }, value);
                let _ = decode_value(&ColumnType::Date, value);
            }
        }
    }

    #[test]
    fn decimals_print_and_parse(
        unscaled in -(10i128.pow(38) - 1)..10i128.pow(38), scale in 0u8..38,
    ) {
        let decimal = Decimal { unscaled, scale };
        prop_assert_eq!(Decimal::parse(&decimal.to_string()), Some(decimal));
    }
}
