//! The bytes of every stored form, written out: a change of any is a change of the format on disk.

use damask_types::codec::{self, encode_key, encode_key_ts};
use damask_types::key::{self, Hex};
use damask_types::mutation::SHORT_VALUE_MAX;
use damask_types::{
    ColumnId, Datum, Decimal, IndexId, Lock, LockKind, Record, TableId, Timestamp, Write,
    WriteKind, row,
};

fn hex(bytes: &[u8]) -> String {
    Hex(bytes).to_string()
}

#[test]
fn keys_in_groups_of_eight() {
    assert_eq!(hex(&encode_key(b"")), "0000000000000000f7");
    assert_eq!(hex(&encode_key(b"abc")), "6162630000000000fa");
    assert_eq!(hex(&encode_key(b"12345678")), "3132333435363738ff0000000000000000f7");
    assert_eq!(hex(&encode_key(b"123456789")), "3132333435363738ff3900000000000000f8");
    let versioned = encode_key_ts(b"abc", Timestamp(1));
    assert_eq!(hex(&versioned), "6162630000000000fafffffffffffffffe");
    assert_eq!(hex(&encode_key_ts(b"", Timestamp::MAX)), "0000000000000000f70000000000000000");
}

#[test]
fn numbers() {
    let mut out = Vec::new();
    codec::put_var_u64(&mut out, 0);
    codec::put_var_u64(&mut out, 300);
    codec::put_var_u64(&mut out, u64::MAX);
    assert_eq!(hex(&out), "00ac02ffffffffffffffffff01");
    out.clear();
    codec::put_var_i64(&mut out, -1);
    codec::put_var_i64(&mut out, 64);
    assert_eq!(hex(&out), "018001");
    out.clear();
    codec::put_i64_sorted(&mut out, -1);
    codec::put_f64_sorted(&mut out, 1.0);
    codec::put_f64_sorted(&mut out, -1.0);
    assert_eq!(hex(&out), "7fffffffffffffffbff0000000000000400fffffffffffff");
    out.clear();
    codec::put_compact_bytes(&mut out, b"pk");
    assert_eq!(hex(&out), "04706b");
}

#[test]
fn timestamps_hold_18_logical_bits() {
    let ts = Timestamp::compose(1, 5);
    assert_eq!(ts.0, (1 << 18) | 5);
    assert_eq!((ts.physical_ms(), ts.logical()), (1, 5));
}

#[test]
fn user_keys() {
    assert_eq!(hex(&key::row_key(TableId(1), 2)), "7480000000000000015f728000000000000002");
    let values = [Datum::Int(7), Datum::Text("a".into()), Datum::Null];
    let index = key::index_key(TableId(1), IndexId(3), &values, Some(2));
    assert_eq!(
        hex(&index),
        "7480000000000000015f698000000000000003\
         038000000000000007\
         016100000000000000f8\
         00\
         8000000000000002"
    );
}

#[test]
fn locks() {
    let mut lock = Lock::new(LockKind::Put, b"pk".to_vec(), Timestamp(5), 3000);
    assert_eq!(hex(&lock.encode()), "5004706b05b817");
    lock.kind = LockKind::Pessimistic;
    lock.short_value = Some(b"v".to_vec());
    lock.for_update_ts = Timestamp(6);
    lock.txn_size = 2;
    lock.min_commit_ts = Timestamp(7);
    lock.secondaries = Some(vec![b"s".to_vec()]);
    lock.rollback_ts = vec![Timestamp(8)];
    let bytes = lock.encode();
    assert_eq!(
        hex(&bytes),
        "5304706b05b817\
         760176\
         660000000000000006\
         740000000000000002\
         630000000000000007\
         61010273\
         72010000000000000008"
    );
    assert_eq!(Lock::decode(&bytes), Ok(lock.clone()));
    let future = [&bytes[..], b"z unknown"].concat();
    assert_eq!(Lock::decode(&future), Ok(lock), "an unknown tag ends parsing");
}

#[test]
fn writes() {
    let put = Write::new(WriteKind::Put, Timestamp(5), Some(b"val".to_vec()));
    assert_eq!(hex(&put.encode()), "50057603".to_owned() + &hex(b"val"));
    assert_eq!(hex(&Write::new(WriteKind::Delete, Timestamp(300), None).encode()), "44ac02");
    assert_eq!(hex(&Write::new(WriteKind::Lock, Timestamp(1), None).encode()), "4c01");
    assert_eq!(hex(&Write::rollback(Timestamp(5), false).encode()), "5205");
    let protected = Write::rollback(Timestamp(5), true);
    assert_eq!(hex(&protected.encode()), "5205760170");
    assert!(protected.is_protected() && !put.is_protected());
    let mut marked = put.clone();
    marked.overlapped_rollback = true;
    marked.gc_fence = Some(Timestamp(9));
    assert_eq!(hex(&marked.encode()), "5005760376616c52460000000000000009");
    assert_eq!(Write::decode(&marked.encode()), Ok(marked));
}

#[test]
#[should_panic(expected = "default family")]
fn a_long_value_never_becomes_a_short_one() {
    Write::new(WriteKind::Put, Timestamp(5), Some(vec![0; SHORT_VALUE_MAX + 1])).encode();
}

#[test]
fn records() {
    let key = b"k".to_vec();
    let lock = Lock::new(LockKind::Delete, b"k".to_vec(), Timestamp(5), 0);
    let write = Write::new(WriteKind::Delete, Timestamp(5), None);
    let all = [
        (Record::Lock { key: key.clone(), lock }, "01016b0544026b0500"),
        (Record::Unlock { key: key.clone() }, "02016b"),
        (
            Record::Value { key: key.clone(), start_ts: Timestamp(5), value: b"v".to_vec() },
            "03016b050176",
        ),
        (Record::DropValue { key: key.clone(), start_ts: Timestamp(5) }, "04016b05"),
        (Record::Write { key: key.clone(), commit_ts: Timestamp(6), write }, "05016b06024405"),
        (Record::DropWrite { key, commit_ts: Timestamp(6) }, "06016b06"),
    ];
    for (record, expected) in all {
        let mut out = Vec::new();
        record.put(&mut out);
        assert_eq!(hex(&out), expected, "{record:?}");
        let mut buf = out.as_slice();
        assert_eq!(Record::take(&mut buf), Ok(record));
        assert!(buf.is_empty());
    }
}

#[test]
fn rows_small_and_large() {
    let cells = [
        (ColumnId(3), Datum::Text("ab".into())),
        (ColumnId(1), Datum::Int(-2)),
        (ColumnId(2), Datum::Null),
    ];
    let cells: Vec<_> = cells.iter().map(|(id, datum)| (*id, datum)).collect();
    assert_eq!(
        hex(&row::encode_row(&cells)),
        "8000 0200 0100 0103 02 0100 0300 fe 6162".replace(' ', "")
    );
    let wide = [(ColumnId(256), &Datum::UInt(65535))];
    assert_eq!(
        hex(&row::encode_row(&wide)),
        "8001 0100 0000 00010000 02000000 ffff".replace(' ', "")
    );
}

#[test]
fn values() {
    let value = |datum: Datum| row::encode_value(&datum).map(|bytes| hex(&bytes));
    assert_eq!(value(Datum::Null), None);
    assert_eq!(value(Datum::Int(127)).as_deref(), Some("7f"));
    assert_eq!(value(Datum::Int(128)).as_deref(), Some("8000"));
    assert_eq!(value(Datum::Int(-32769)).as_deref(), Some("ff7fffff"));
    assert_eq!(value(Datum::Int(i64::MIN)).as_deref(), Some("0000000000000080"));
    assert_eq!(value(Datum::UInt(256)).as_deref(), Some("0001"));
    assert_eq!(value(Datum::Double(1.5)).as_deref(), Some("000000000000f83f"));
    let decimal = |unscaled, scale| value(Datum::Decimal(Decimal { unscaled, scale }));
    assert_eq!(decimal(0, 2).as_deref(), Some("0200"));
    assert_eq!(decimal(-1, 2).as_deref(), Some("02ff"));
    assert_eq!(decimal(128, 0).as_deref(), Some("008000"));
    assert_eq!(value(Datum::Date(-1)).as_deref(), Some("ff"));
    assert_eq!(value(Datum::DateTime(1000)).as_deref(), Some("e803"));
}
