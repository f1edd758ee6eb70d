//! Every backend does what the seam says, in one line each.

#[path = "../examples/new_engine.rs"]
mod new_engine;

use damask_kv::testing::{crash_suite, suite};
use damask_kv::{EngineConfig, FjallEngine, MemoryEngine};

/// Buffers so small that the suite writes files.
fn small() -> EngineConfig {
    EngineConfig {
        block_cache_bytes: 4 << 20,
        write_buffer_bytes: 256 << 10,
        small_write_buffer_bytes: 64 << 10,
        ..EngineConfig::default()
    }
}

#[test]
fn memory() {
    suite(|_| Ok(MemoryEngine::new()));
}

#[test]
fn memory_crashes() {
    crash_suite(MemoryEngine::with_crashes, |e, keep| e.crash(keep).expect("keeps a journal"));
}

#[test]
fn fjall() {
    suite(|path| FjallEngine::open(path, &small()));
}

#[test]
fn the_engine_of_the_example() {
    new_engine::main();
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks() {
    suite(|path| damask_kv::RocksEngine::open(path, &small()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks_with_its_own_log() {
    suite(|path| damask_kv::RocksEngine::open(path, &EngineConfig { wal: true, ..small() }));
}
