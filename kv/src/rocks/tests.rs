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
