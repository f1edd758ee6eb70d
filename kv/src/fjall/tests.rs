//! What only this engine does. It must never depend on when a file is written.

use super::*;
use crate::testing::Scratch;
use std::fs;
use std::sync::atomic::AtomicBool;

fn open(scratch: &Scratch, name: &str, config: &EngineConfig) -> FjallEngine {
    FjallEngine::open(&scratch.path(name), config).expect("opens")
}

fn small() -> EngineConfig {
    EngineConfig {
        write_buffer_bytes: 256 << 10,
        small_write_buffer_bytes: 64 << 10,
        ..EngineConfig::default()
    }
}

#[test]
fn counters_move() {
    let scratch = Scratch::new();
    let engine = open(&scratch, "engine", &EngineConfig::default());
    let read = |name: &str| {
        let all = engine.statistics();
        all.into_iter().find(|(found, _)| found == name).expect("a known name").1
    };
    let mut batch = WriteBatch::default();
    (0..100u8).for_each(|n| batch.put(Cf::Write, [n; 9], [n; 100]));
    engine.write(batch).expect("writes");
    assert_eq!(read("written_bytes"), 100 * 109);
    assert_eq!((read("write.keys"), read("write.files")), (100, 0));
    engine.compact(Cf::Write).expect("compacts");
    assert!(read("write.files") > 0 && read("write.file_bytes") > 0);
    assert_eq!(read("lock.keys"), 0);
}

/// A crash in the middle of the very first open leaves nothing that is in the way.
#[test]
fn a_half_made_engine_is_made_anew() {
    let scratch = Scratch::new();
    let partial = scratch.path("engine.partial");
    fs::create_dir_all(&partial).expect("a folder");
    fs::write(partial.join("0.jnl"), b"half").expect("a file");
    let engine = open(&scratch, "engine", &EngineConfig::default());
    assert!(!partial.exists());
    assert_eq!(engine.estimate(Cf::Meta, b"", b"").expect("reads").keys, 0);
}

/// More than is walked: the tables are asked, and what is in memory is added.
#[test]
fn large_ranges_are_estimated_from_tables() {
    const KEYS: u64 = 160_000;
    let scratch = Scratch::new();
    let engine = open(&scratch, "engine", &EngineConfig::default());
    let put = |from: u64, to: u64| {
        let mut batch = WriteBatch::default();
        for n in from..to {
            batch.put(Cf::Default, n.to_be_bytes(), [n as u8; 60]);
        }
        engine.write(batch).expect("writes");
    };
    put(0, KEYS / 4 * 3);
    engine.compact(Cf::Default).expect("compacts");
    put(KEYS / 4 * 3, KEYS);
    engine.compact(Cf::Default).expect("compacts");
    let within = |from: u64, to: u64| {
        let (start, end) = (from.to_be_bytes(), to.to_be_bytes());
        let found = engine.estimate(Cf::Default, &start, &end).expect("reads");
        let (keys, bytes) = (to - from, (to - from) * 68);
        assert!((keys / 2..=keys * 2).contains(&found.keys), "{from}..{to}: {found:?}");
        assert!((bytes / 2..=bytes * 2).contains(&found.bytes), "{from}..{to}: {found:?}");
    };
    let family = engine.inner.family(Cf::Default);
    let of_tables = estimate::of_range(family, b"", b"", &Estimate::default());
    let keys = of_tables.expect("all is in tables").keys;
    assert!((KEYS / 2..=KEYS * 2).contains(&keys), "{keys}");
    within(1, KEYS - 1);
    within(0, KEYS / 2);
    within(KEYS / 2, KEYS);
    within(KEYS / 4, KEYS / 4 * 3);
    within(10, 20);
}

/// A checkpoint is one moment of an engine that is written, flushed and merged meanwhile, and stays
/// what it is when the engine's tables go.
#[test]
fn a_checkpoint_of_a_busy_engine_is_one_of_its_states() {
    let scratch = Scratch::new();
    let engine = open(&scratch, "engine", &small());
    let done = AtomicBool::new(false);
    let write = |n: u64| {
        let mut batch = WriteBatch::default();
        for cf in Cf::ALL {
            batch.put(cf, n.to_be_bytes(), vec![n as u8; 8000]);
            batch.put(cf, "last", n.to_be_bytes());
        }
        engine.write(batch).expect("writes");
    };
    let last = |engine: &FjallEngine, cf| {
        let last = engine.snapshot().get(cf, b"last").expect("reads").expect("was written");
        u64::from_be_bytes(last[..].try_into().expect("8 bytes"))
    };
    let check = |engine: &FjallEngine| {
        let newest = last(engine, Cf::Meta);
        for cf in Cf::ALL {
            assert_eq!(last(engine, cf), newest, "{cf:?}");
            assert_eq!(
                engine.estimate(cf, b"", b"last").expect("reads").keys,
                newest + 1,
                "{cf:?}"
            );
        }
        newest
    };
    write(0);
    let mut newest = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..400).take_while(|_| !done.load(Ordering::Relaxed)).for_each(write));
        for n in 0..5 {
            let before = last(&engine, Cf::Lock);
            engine.checkpoint(&scratch.path(&format!("copy{n}"))).expect("a checkpoint");
            newest.push(check(&open(&scratch, &format!("copy{n}"), &small())));
            assert!(newest[n] >= before, "older than its begin");
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut batch = WriteBatch::default();
    Cf::ALL.into_iter().for_each(|cf| batch.delete_range(cf, "", ""));
    engine.write(batch).expect("writes");
    Cf::ALL.into_iter().for_each(|cf| engine.compact(cf).expect("compacts"));
    drop(engine);
    for (n, newest) in newest.into_iter().enumerate() {
        assert_eq!(check(&open(&scratch, &format!("copy{n}"), &small())), newest);
    }
}

/// Links end at a file system's edge.
#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_may_be_on_another_file_system() {
    let scratch = Scratch::new();
    let engine = open(&scratch, "engine", &small());
    let mut batch = WriteBatch::default();
    (0..100u8).for_each(|n| batch.put(Cf::Write, [n; 9], [n; 100]));
    engine.write(batch).expect("writes");
    engine.compact(Cf::Write).expect("compacts");
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
    let copy = elsewhere.path().join("copy");
    engine.checkpoint(&copy).expect("a checkpoint");
    let copy = FjallEngine::open(&copy, &small()).expect("opens");
    let value = copy.snapshot().get(Cf::Write, &[7; 9]).expect("reads");
    assert_eq!(value.as_deref(), Some(&[7; 100][..]));
}
