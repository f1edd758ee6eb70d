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
