//! Bytes of any kind in the engine are answered with values, locks or `Corrupt`: decoders of disk
//! bytes never panic and never take more memory than the bytes have.
//!
//! These are the fuzz targets of this crate: coverage-guided fuzzing needs a nightly compiler, so
//! bytes are made by grammar and then damaged, and every test run takes a walk. For a long one:
//! `PROPTEST_CASES=1000000 cargo test --release -p damask-kv --test garbage`.

use damask_kv::gc::{Budget, KeyGc, sweep};
use damask_kv::{
    Cf, Engine, EngineConfig, ErrorKind, FjallEngine, GcSafePoint, MemoryEngine, MvccReader, Read,
    Rows, WriteBatch,
};
use damask_types::codec::{decode_key, encode_key, encode_key_ts, put_ts_desc, split_key_ts};
use damask_types::row::{Cell, RowView, decode_value, encode_row};
use damask_types::schema::IntWidth;
use damask_types::{
    ColumnId, ColumnType, Datum, IndexId, KeyRange, Lock, LockKind, Record, TableId, Timestamp,
    Write, WriteKind, WriteRef, key,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A valid engine key, or anything.
fn engine_key() -> impl Strategy<Value = Vec<u8>> {
    let user = || proptest::collection::vec(0u8..3, 0..10);
    prop_oneof![
        4 => (user(), 0u64..8).prop_map(|(key, ts)| encode_key_ts(&key, Timestamp(ts))),
        2 => user().prop_map(|key| encode_key(&key)),
        2 => proptest::collection::vec(any::<u8>(), 1..30),
    ]
}

/// A valid record or lock, one with a byte changed or cut off, or anything.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![
        Just(WriteKind::Put),
        Just(WriteKind::Delete),
        Just(WriteKind::Lock),
        Just(WriteKind::Rollback)
    ];
    let short = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..5));
    let write = (kinds, 0u64..8, short, proptest::option::of(0u64..8)).prop_map(
        |(kind, start, short, fence)| {
            let mut write = Write::new(kind, Timestamp(start), short);
            write.overlapped_rollback = fence.is_some();
            write.gc_fence = fence.map(Timestamp);
            write.encode()
        },
    );
    let lock = (0u64..8, any::<bool>()).prop_map(|(start, asynchronous)| {
        let mut lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(start), 1);
        lock.secondaries = asynchronous.then(|| vec![b"s".to_vec()]);
        lock.rollback_ts = vec![Timestamp(start)];
        lock.encode()
    });
    let good = prop_oneof![3 => write, 1 => lock];
    prop_oneof![
        4 => good.clone(),
        3 => (good, any::<usize>(), any::<u8>()).prop_map(|(mut bytes, at, with)| {
            let at = at % bytes.len();
            if with == 0 { bytes.truncate(at) } else { bytes[at] ^= with }
            bytes
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

fn family() -> impl Strategy<Value = Cf> {
    prop_oneof![Just(Cf::Write), Just(Cf::Write), Just(Cf::Lock), Just(Cf::Default)]
}

fn datum() -> impl Strategy<Value = Datum> {
    prop_oneof![
        Just(Datum::Null),
        any::<i64>().prop_map(Datum::Int),
        any::<u64>().prop_map(Datum::UInt),
        any::<f64>().prop_map(Datum::Double),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Datum::Bytes),
    ]
}

fn corrupt<T>(result: damask_kv::Result<T>) -> Option<T> {
    result.map_err(|e| assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}")).ok()
}

/// As many cases as the environment says, else a walk.
fn cases() -> ProptestConfig {
    cases_or(512)
}

fn cases_or(walk: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(walk),
    }
}

/// Compaction with garbage collection: what is no record stays, to be named by a read, and nothing
/// is made up.
fn check_compaction<E: Engine>(
    pairs: &BTreeMap<Vec<u8>, Vec<u8>>,
    open: impl Fn(&Path, &GcSafePoint) -> E,
    compact: impl Fn(&E),
) {
    let (folder, safe_point) = (tempfile::tempdir().expect("a folder"), GcSafePoint::new());
    safe_point.advance(Timestamp(6));
    let engine = open(&folder.path().join("engine"), &safe_point);
    let mut batch = WriteBatch::default();
    for (key, value) in pairs {
        batch.put(Cf::Write, key.clone(), value.clone());
    }
    engine.write(batch).expect("written");
    compact(&engine);
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, b"", b"").expect("a cursor");
    let mut left = BTreeMap::new();
    let mut pair = cursor.seek(b"").expect("reads");
    while let Some((key, value)) = pair {
        left.insert(key.to_vec(), value.to_vec());
        pair = cursor.next().expect("reads");
    }
    assert!(left.iter().all(|(key, value)| pairs.get(key) == Some(value)));
    for (key, value) in pairs {
        let record = split_key_ts(key).is_ok() && WriteRef::decode(value).is_ok();
        assert!(record || left.contains_key(key), "{key:?} {value:?} was no record, and is gone");
    }
}

proptest! {
    #![proptest_config(cases_or(12))]

    #[test]
    fn any_bytes_pass_a_compaction(
        pairs in proptest::collection::btree_map(engine_key(), value(), 0..200),
    ) {
        let config = EngineConfig::default();
        check_compaction(
            &pairs,
            |path, gc| FjallEngine::open_with_gc(path, &config, gc).expect("opens"),
            |engine| engine.compact(Cf::Write).expect("compacts"),
        );
        #[cfg(feature = "rocksdb")]
        check_compaction(
            &pairs,
            |path, gc| damask_kv::RocksEngine::open_with_gc(path, &config, gc).expect("opens"),
            |engine| engine.compact(Cf::Write, b"", b""),
        );
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_are_read_without_a_panic(
        pairs in proptest::collection::vec((family(), engine_key(), value()), 0..24),
        key in proptest::collection::vec(0u8..3, 0..10), at in 0u64..10,
    ) {
        let engine = MemoryEngine::new();
        let mut batch = WriteBatch::default();
        for (cf, key, value) in pairs {
            batch.put(cf, key, value);
        }
        engine.write(batch).expect("memory");
        let reader = MvccReader::new(engine.snapshot());
        let ts = Timestamp(at);
        corrupt(reader.get(&key, ts));
        corrupt(reader.load_lock(&key));
        corrupt(reader.seek_write(&key, ts));
        corrupt(reader.find_by_start_ts(&key, ts));
        let all = KeyRange::all();
        corrupt(reader.scan_locks(&all, |_| true, 100));
        for range in [&all, &KeyRange::prefix(&key), &KeyRange::point(&key)] {
            for reverse in [false, true] {
                corrupt(reader.scan(range, ts, 100, reverse));
            }
            let mut rows = Rows::default();
            if let Some(mut scan) = corrupt(reader.scanner(range, ts)) {
                while let Some(Read::Ok(1..)) = corrupt(scan.next_block(2, &mut rows)) {}
            }
            let budget = Budget { records_max: 4, removals_max: 2 };
            corrupt(sweep(&*engine.snapshot(), range, ts, budget));
        }
    }

    /// Rows, index keys and log records that were valid before a byte was changed, or the end cut.
    #[test]
    fn damaged_rows_keys_and_log_records_are_refused_or_read(
        cells in proptest::collection::vec((1i64..40, datum()), 0..6),
        at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
        value in value(),
    ) {
        let spoil = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len().max(1));
            match cut {
                true => bytes.truncate(at),
                false => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = byte),
            }
            bytes
        };
        let cells: BTreeMap<ColumnId, Datum> =
            cells.into_iter().map(|(id, datum)| (ColumnId(id), datum)).collect();
        let of_row: Vec<(ColumnId, &Datum)> = cells.iter().map(|(id, d)| (*id, d)).collect();
        let row = encode_row(&of_row);
        let whole = RowView::new(&row).expect("it was just made");
        let ids: BTreeSet<ColumnId> = whole.column_ids().collect();
        prop_assert!(ids.iter().eq(cells.keys()));
        if let Ok(row) = RowView::new(&spoil(row)) {
            for id in row.column_ids() {
                let Cell::Value(value) = row.get(id) else { continue };
                for ty in [
                    ColumnType::Int { width: IntWidth::Big, unsigned: false },
                    ColumnType::Double,
                    ColumnType::Decimal { precision: 38, scale: 2 },
                    ColumnType::VarChar { len: 9 },
                    ColumnType::Date,
                ] {
                    decode_value(&ty, value).ok();
                }
            }
        }
        let values: Vec<Datum> = cells.into_values().collect();
        let index = key::index_key(TableId(1), IndexId(2), &values, Some(7));
        let (found, handle) = key::decode_index_key(&index, values.len()).expect("just made");
        prop_assert_eq!((found.len(), handle), (values.len(), Some(7)));
        let index = spoil(index);
        key::decode_index_key(&index, values.len()).ok();
        key::decode_row_key(&index);
        key::decode_table(&index);
        key::decode_handle(&index).ok();
        let mut log = Vec::new();
        Record::Value { key: index.clone(), start_ts: Timestamp(1), value }.put(&mut log);
        Record::Unlock { key: index }.put(&mut log);
        let taken = |mut rest: &[u8]| -> (usize, bool) {
            let mut records = 0;
            while !rest.is_empty() {
                let before = rest.len();
                if Record::take(&mut rest).is_err() {
                    return (records, false);
                }
                assert!(rest.len() < before, "a record has bytes");
                records += 1;
            }
            (records, true)
        };
        prop_assert_eq!(taken(&log), (2, true));
        taken(&spoil(log));
    }

    /// There is one form of each key: what is decoded is encoded to the same bytes.
    #[test]
    fn any_key_is_decoded_to_what_it_was_or_refused(
        key in engine_key(), at in any::<proptest::sample::Index>(), with in any::<u8>(),
    ) {
        let mut damaged = key.clone();
        damaged[at.index(key.len())] ^= with;
        for key in [key, damaged] {
            if let Ok(user) = decode_key(&key) {
                prop_assert_eq!(&encode_key(&user), &key);
            }
            if let Ok((prefix, ts)) = split_key_ts(&key) {
                let mut again = prefix.to_vec();
                put_ts_desc(&mut again, ts);
                prop_assert_eq!(again, key);
            }
        }
    }

    #[test]
    fn any_record_is_decoded_or_refused(bytes in value(), at in 0u64..10) {
        if let Ok(write) = WriteRef::decode(&bytes) {
            KeyGc::new(Timestamp(at)).visit(Timestamp(at / 2), &write);
            let again = Write::decode(&bytes).expect("both or neither");
            prop_assert_eq!(again.short_value.as_deref(), write.short_value);
            // A tag that is not known ends the record; what was known is kept.
            prop_assert_eq!(Write::decode(&again.encode()).expect("just made"), again);
        }
        if let Ok(lock) = Lock::decode(&bytes) {
            prop_assert!(lock.secondaries.iter().all(|keys| keys.len() <= bytes.len()));
            prop_assert!(lock.rollback_ts.len() <= bytes.len());
            prop_assert_eq!(Lock::decode(&lock.encode()).expect("just made"), lock);
        }
    }
}
