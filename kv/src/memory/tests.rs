//! What the memory engine forgets, and what a crash leaves of it. No test here may look at another
//! backend.

use super::*;

fn put(engine: &MemoryEngine, key: &str, value: &str) {
    let mut batch = WriteBatch::default();
    batch.put(Cf::Default, key, value);
    engine.write(batch).expect("memory");
}

fn delete(engine: &MemoryEngine, key: &str) {
    let mut batch = WriteBatch::default();
    batch.delete(Cf::Default, key);
    engine.write(batch).expect("memory");
}

fn stat(engine: &MemoryEngine, name: &str) -> u64 {
    let all = engine.statistics();
    all.into_iter().find(|(n, _)| n == name).expect("a known name").1
}

fn versions(engine: &MemoryEngine, key: &str) -> usize {
    let state = engine.shared.state.read();
    let slot = state.families[Cf::Default as usize].get(key.as_bytes());
    slot.map_or(0, |slot| slot.older.len() + 1)
}

#[test]
fn without_snapshots_nothing_old_is_kept() {
    let engine = MemoryEngine::new();
    for i in 0..100 {
        put(&engine, "a", &i.to_string());
    }
    assert_eq!(versions(&engine, "a"), 1);
    delete(&engine, "a");
    assert_eq!(versions(&engine, "a"), 0);
    assert_eq!(stat(&engine, "waiting"), 0);
}

#[test]
fn versions_go_when_their_snapshot_does() {
    let engine = MemoryEngine::new();
    put(&engine, "a", "1");
    let first = engine.snapshot();
    put(&engine, "a", "2");
    put(&engine, "a", "3");
    let third = engine.snapshot();
    delete(&engine, "a");
    assert_eq!(first.get(Cf::Default, b"a").expect("read").as_deref(), Some(&b"1"[..]));
    assert_eq!(third.get(Cf::Default, b"a").expect("read").as_deref(), Some(&b"3"[..]));
    drop(first);
    put(&engine, "b", "");
    assert_eq!(third.get(Cf::Default, b"a").expect("read").as_deref(), Some(&b"3"[..]));
    drop(third);
    put(&engine, "b", "");
    put(&engine, "b", "");
    assert_eq!(versions(&engine, "a"), 0, "a removed key leaves nothing behind");
    assert_eq!((stat(&engine, "waiting"), stat(&engine, "snapshots")), (0, 0));
}

#[test]
fn a_long_snapshot_does_not_hoard_what_it_cannot_see() {
    let engine = MemoryEngine::new();
    put(&engine, "a", "old");
    let old = engine.snapshot();
    for i in 0..1000 {
        drop(engine.snapshot());
        put(&engine, "a", &i.to_string());
    }
    assert_eq!(versions(&engine, "a"), 2, "the old one and the newest");
    drop(old);
    put(&engine, "a", "new");
    assert_eq!(versions(&engine, "a"), 1);
}

#[test]
fn a_crash_keeps_what_was_synced_and_a_prefix() {
    let engine = MemoryEngine::with_crashes();
    put(&engine, "a", "1");
    engine.sync().expect("memory");
    put(&engine, "b", "2");
    put(&engine, "c", "3");
    assert_eq!(engine.unsynced(), 2);
    let read = |engine: &MemoryEngine, key: &[u8]| {
        engine.snapshot().get(Cf::Default, key).expect("read").is_some()
    };
    for (keep, expected) in [(0, [true, false, false]), (1, [true, true, false])] {
        let left = engine.crash(keep).expect("made with crashes");
        assert_eq!([read(&left, b"a"), read(&left, b"b"), read(&left, b"c")], expected);
        assert_eq!(left.unsynced(), 0);
    }
    assert!(MemoryEngine::new().crash(0).is_err());
}
