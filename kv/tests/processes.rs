//! Engines whose process is killed, whose files may not grow, that may open no more files: one line
//! each. It must never leave a child behind.
#![cfg(target_os = "linux")]

use damask_kv::testing::process_suite;
use damask_kv::{EngineConfig, FjallEngine};

/// Buffers so small that files are written all the time.
fn small() -> EngineConfig {
    EngineConfig {
        write_buffer_bytes: 512 << 10,
        small_write_buffer_bytes: 128 << 10,
        ..EngineConfig::default()
    }
}

#[test]
fn fjall() {
    process_suite("fjall", |path| FjallEngine::open(path, &small()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks() {
    process_suite("rocks", |path| damask_kv::RocksEngine::open(path, &small()));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks_with_its_own_log() {
    let config = || EngineConfig { wal: true, ..small() };
    process_suite("rocks_with_its_own_log", |path| damask_kv::RocksEngine::open(path, &config()));
}
