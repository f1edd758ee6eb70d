//! What only RocksDB has: error words, counters, tidying of locks. It must never rely on when
//! RocksDB compacts by itself.

use super::*;
use crate::testing::Scratch;
use std::time::{Duration, Instant};

#[test]
fn words_become_classes() {
    let full = "IO error: No space left on device: While appending to file: x.sst";
    for (words, kind) in [
        (full, ErrorKind::NoSpace),
        ("Corruption: block checksum mismatch", ErrorKind::Corrupt),
        ("IO error: While fsync: x.sst: Input/output error", ErrorKind::Io),
        ("Invalid argument: x", ErrorKind::Invalid),
        ("Resource busy: x", ErrorKind::Retry),
    ] {
        assert_eq!(class(words), kind, "{words}");
    }
}

#[test]
fn an_open_folder_is_refused_and_a_poisoned_engine_too() {
    let scratch = Scratch::new();
    let path = scratch.path("engine");
    let engine = RocksEngine::open(&path, &EngineConfig::default()).expect("opens");
    let second = RocksEngine::open(&path, &EngineConfig::default());
    assert!(second.is_err(), "two engines on one folder");
    engine.inner.poisoned.store(true, Ordering::Release);
    let mut batch = WriteBatch::default();
    batch.put(Cf::Default, "a", "1");
    assert_eq!(engine.write(batch).expect_err("poisoned").kind(), ErrorKind::Poisoned);
    assert_eq!(engine.sync().expect_err("poisoned").kind(), ErrorKind::Poisoned);
}

#[test]
fn large_values_beside_many_small_ones_are_estimated_by_their_own_size() {
    let scratch = Scratch::new();
    let config = EngineConfig { write_buffer_bytes: 8 << 20, ..EngineConfig::default() };
    let engine = RocksEngine::open(&scratch.path("engine"), &config).expect("opens");
    let mut random = 1u64;
    let mut value = |len: usize| -> Vec<u8> {
        let mut step = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 56) as u8
        };
        (0..len).map(|_| step()).collect()
    };
    const SMALL: u64 = 20_000;
    const LARGE: u64 = 24;
    for n in 0..SMALL {
        let mut batch = WriteBatch::default();
        batch.put(Cf::Default, format!("a{n:08}"), value(300));
        engine.write(batch).expect("written");
    }
    for n in 0..LARGE {
        let mut batch = WriteBatch::default();
        batch.put(Cf::Default, format!("b{n:08}"), value(1 << 20));
        engine.write(batch).expect("written");
    }
    engine.sync().expect("synced");
    let within = |got: u64, expected: u64| (expected / 2..=expected * 2).contains(&got);
    for (from, to, keys, bytes) in
        [("a", "b", SMALL, SMALL * 309), ("b", "c", LARGE, LARGE * ((1 << 20) + 9))]
    {
        let found = engine.estimate(Cf::Default, from.as_bytes(), to.as_bytes()).expect("read");
        assert!(within(found.keys, keys) && within(found.bytes, bytes), "{from}: {found:?}");
    }
}

#[test]
fn a_scan_of_locks_rids_memory_of_removed_ones() {
    let scratch = Scratch::new();
    let config = EngineConfig::default();
    let engine = RocksEngine::open(&scratch.path("engine"), &config).expect("opens");
    for block in 0..REMOVED_LOCKS_MAX / 1024 {
        let mut batch = WriteBatch::default();
        for n in block * 1024..(block + 1) * 1024 {
            batch.put(Cf::Lock, n.to_be_bytes(), [0; 64]);
            batch.delete(Cf::Lock, n.to_be_bytes());
        }
        engine.write(batch).expect("writes");
    }
    let held = || engine.inner.property(Cf::Lock, "rocksdb.cur-size-all-mem-tables");
    let before = held();
    assert!(before > 1 << 20, "{before}");
    #[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
    let now = Instant::now;
    let deadline = now() + Duration::from_secs(30);
    while held() > before / 4 {
        let snapshot = engine.snapshot();
        let mut cursor = snapshot.cursor(Cf::Lock, b"", b"").expect("a cursor");
        assert_eq!(cursor.seek(b"").expect("seek"), None);
        assert!(now() < deadline, "the flush never came");
        std::thread::yield_now();
    }
}

#[test]
fn counters_move() {
    let scratch = Scratch::new();
    let engine = RocksEngine::open(&scratch.path("engine"), &EngineConfig::default());
    let engine = engine.expect("opens");
    let read = |name: &str| {
        let all = engine.statistics();
        all.into_iter().find(|(found, _)| found == name).expect("a known name").1
    };
    for round in 0..4u8 {
        let mut batch = WriteBatch::default();
        (0..100u8).for_each(|n| batch.put(Cf::Write, [n; 9], [round; 100]));
        engine.write(batch).expect("writes");
        engine.sync().expect("sync");
    }
    assert!(read("written_bytes") >= 4 * 100 * 100, "{}", read("written_bytes"));
    assert!(read("flushed_bytes") > 0 && read("write.file_bytes") > 0);
    engine.compact(Cf::Write, b"", b"");
    assert!(read("compaction_read_bytes") > 0 && read("compaction_written_bytes") > 0);
    assert_eq!(read("write.level0_files"), 0);
    let spared = read("filter_spared_seeks");
    let mut end = vec![9; 5];
    crate::engine::versions_end(&mut end);
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, &[9; 5], &end).expect("a cursor");
    assert_eq!(cursor.seek(&[9, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]).expect("seek"), None);
    assert!(read("filter_spared_seeks") > spared, "a file was read for a key that it has not");
}

/// Snapshots between two writes are one, and iterators are used again: whatever is reused, a reader
/// sees both families at one moment, and everything that was written before it asked.
#[test]
fn a_reused_snapshot_or_iterator_is_neither_torn_nor_old() {
    const WRITES: u64 = 3_000;
    let scratch = Scratch::new();
    let engine = RocksEngine::open(&scratch.path("engine"), &EngineConfig::default());
    let engine = engine.expect("opens");
    let finished = AtomicU64::new(0);
    let write = |n: u64| {
        let mut batch = WriteBatch::default();
        batch.put(Cf::Lock, "k", n.to_be_bytes());
        // Always the same version: what an iterator sees of it is what it was made for.
        batch.put(Cf::Write, b"k\0\0\0\0\0\0\0\x01".to_vec(), n.to_be_bytes());
        engine.write(batch).expect("writes");
        finished.store(n, Ordering::SeqCst);
    };
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let read = || {
        let before = finished.load(Ordering::SeqCst);
        let snapshot = engine.snapshot();
        let mut end = b"k".to_vec();
        crate::engine::versions_end(&mut end);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let mut cursor = snapshot.cursor(Cf::Write, b"k", &end).expect("a cursor");
            let pair = cursor.seek(b"k\0\0\0\0\0\0\0\0").expect("seek");
            seen.push(number(pair.expect("there").1));
            drop(cursor);
            seen.push(number(&snapshot.get(Cf::Lock, b"k").expect("get").expect("there")));
        }
        assert!(seen.iter().all(|n| *n == seen[0]), "{seen:?}");
        assert!(seen[0] >= before, "{} after {before}", seen[0]);
    };
    write(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while finished.load(Ordering::SeqCst) < WRITES {
                        read();
                    }
                })
            })
            .collect();
        (2..=WRITES).for_each(|n| {
            write(n);
            if n.is_multiple_of(500) {
                engine.sync().expect("syncs");
            }
        });
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
    });
    // Without writes between them they are one; after a write they are not.
    let (one, two) = (engine.latest.get(&engine.inner), engine.latest.get(&engine.inner));
    assert!(Arc::ptr_eq(&one, &two));
    write(WRITES + 1);
    assert!(!Arc::ptr_eq(&one, &engine.latest.get(&engine.inner)));
    read();
    assert_eq!(number(&one.get(Cf::Lock, b"k").expect("get").expect("there")), WRITES);
    // Nothing that is kept for readers keeps the folder open.
    drop((one, two));
    let path = scratch.path("engine");
    drop(engine);
    RocksEngine::open(&path, &EngineConfig::default()).expect("it was closed");
}

/// A snapshot that serves many reads looks once where the locks are; it misses none, however long
/// the search would be, and a later snapshot sees later locks.
#[test]
fn a_snapshot_that_knows_where_locks_are_misses_none() {
    let scratch = Scratch::new();
    let engine = RocksEngine::open(&scratch.path("engine"), &EngineConfig::default());
    let engine = engine.expect("opens");
    let keys: Vec<Vec<u8>> = (b'a'..=b'z').map(|letter| vec![letter]).collect();
    let put = |keys: &[&str]| {
        let mut batch = WriteBatch::default();
        batch.delete_range(Cf::Lock, "", "");
        keys.iter().for_each(|key| batch.put(Cf::Lock, *key, *key));
        engine.write(batch).expect("writes");
    };
    let found = |snapshot: &dyn Snapshot| -> Vec<String> {
        let got = keys.iter().filter_map(|key| snapshot.get(Cf::Lock, key).expect("reads"));
        let got: Vec<_> = got.map(|value| String::from_utf8_lossy(&value).into_owned()).collect();
        let mut walked = Vec::new();
        for pair in keys.windows(2) {
            let mut cursor = snapshot.cursor(Cf::Lock, &pair[0], &pair[1]).expect("a cursor");
            let at = cursor.seek(&pair[0]).expect("seek");
            walked.extend(at.map(|(key, _)| String::from_utf8_lossy(key).into_owned()));
        }
        assert_eq!(walked, got);
        got
    };
    // Asked only after the locks have changed.
    put(&["d", "m"]);
    let late = engine.snapshot();
    put(&[]);
    assert_eq!(found(&*late), ["d", "m"]);
    for tombstones in [0, 100, 2_000u32] {
        let mut old = Vec::new();
        for locks in [&[][..], &["d"], &["d", "m"], &["a", "c", "y"], &[]] {
            put(locks);
            for n in 0..tombstones {
                let mut batch = WriteBatch::default();
                batch.put(Cf::Lock, [b"c", &n.to_be_bytes()[..]].concat(), "gone");
                batch.delete(Cf::Lock, [b"c", &n.to_be_bytes()[..]].concat());
                engine.write(batch).expect("writes");
            }
            old.push((engine.snapshot(), locks));
            for (snapshot, locks) in &old {
                for _ in 0..2 {
                    assert_eq!(found(&**snapshot), *locks, "{tombstones} removed ones");
                }
            }
        }
    }
}

/// As many readers as a snapshot keeps iterators for share it without making more.
#[test]
fn readers_at_once_get_an_iterator_each() {
    let scratch = Scratch::new();
    let engine = RocksEngine::open(&scratch.path("engine"), &EngineConfig::default());
    let engine = engine.expect("opens");
    let mut batch = WriteBatch::default();
    for key in 0..100u8 {
        batch.put(Cf::Write, [&[key; 9][..], &[0; 8]].concat(), [key]);
    }
    engine.write(batch).expect("writes");
    let snapshot = engine.snapshot();
    let mut cursors: Vec<_> = (0..12u8)
        .map(|key| {
            let (start, mut end) = ([key; 9], vec![key; 9]);
            crate::engine::versions_end(&mut end);
            (key, snapshot.cursor(Cf::Write, &start, &end).expect("a cursor"))
        })
        .collect();
    for (key, cursor) in &mut cursors {
        let target = [&[*key; 9][..], &[0; 8]].concat();
        let found = cursor.seek(&target).expect("seek");
        assert_eq!(found, Some((&target[..], &[*key][..])));
    }
    for (key, cursor) in &cursors {
        assert_eq!(cursor.current().map(|(_, value)| value), Some(&[*key][..]), "its own place");
    }
    drop(cursors);
    assert_eq!(engine.latest.get(&engine.inner).kept(), 8);
}
