//! Bytes of any kind in the engine are answered with values, locks or `Corrupt`: decoders of disk
//! bytes never panic and never take more memory than the bytes have. These are the fuzz targets of
//! this crate in a form that every test run takes a walk through.

use damask_kv::gc::{Budget, KeyGc, sweep};
use damask_kv::{Cf, Engine, ErrorKind, MemoryEngine, MvccReader, Read, Rows, WriteBatch};
use damask_types::codec::{encode_key, encode_key_ts};
use damask_types::{KeyRange, Lock, LockKind, Timestamp, Write, WriteKind, WriteRef};
use proptest::prelude::*;

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

fn corrupt<T>(result: damask_kv::Result<T>) -> Option<T> {
    result.map_err(|e| assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}")).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

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

    #[test]
    fn any_record_is_decoded_or_refused(bytes in value(), at in 0u64..10) {
        if let Ok(write) = WriteRef::decode(&bytes) {
            KeyGc::new(Timestamp(at)).visit(Timestamp(at / 2), &write);
            let again = Write::decode(&bytes).expect("both or neither");
            prop_assert_eq!(again.short_value.as_deref(), write.short_value);
        }
        if let Ok(lock) = Lock::decode(&bytes) {
            prop_assert!(lock.secondaries.is_none_or(|keys| keys.len() <= bytes.len()));
            prop_assert!(lock.rollback_ts.len() <= bytes.len());
        }
    }
}
