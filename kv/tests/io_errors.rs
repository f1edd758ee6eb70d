//! Engines whose disk fails, fills up or loses power: one line each. It must never weaken what the
//! suite asks for: an engine that fails it is mended, or its limit is written down.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use damask_kv::testing::disk::{failing_calls, power_cuts};
use damask_kv::{
    Capabilities, Cf, Engine, EngineConfig, Estimate, FjallEngine, Ingestion, Result, Snapshot,
    WriteBatch,
};
use std::path::Path;
use std::sync::Arc;

/// Buffers so small that files are written and merged.
fn small() -> EngineConfig {
    EngineConfig {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 64 << 10,
        small_write_buffer_bytes: 64 << 10,
        ..EngineConfig::default()
    }
}

/// RocksDB's flush threads are the whole program's, and sleep for a second after each failure.
#[cfg(feature = "rocksdb")]
fn threads() -> EngineConfig {
    let mut all = rocksdb::Env::new().expect("the program's own");
    all.set_high_priority_background_threads(16);
    EngineConfig { background_threads: 8, ..small() }
}

damask_kv::disk_suite! {
    fjall => |path| FjallEngine::open(path, &small());
    #[cfg(feature = "rocksdb")]
    rocks => |path| damask_kv::RocksEngine::open(path, &threads());
    #[cfg(feature = "rocksdb")]
    rocks_with_its_own_log => |path| {
        damask_kv::RocksEngine::open(path, &EngineConfig { wal: true, ..threads() })
    };
}

/// Says that it synced.
#[derive(Clone, Copy)]
enum Lie {
    /// And did nothing.
    Nothing,
    /// And did not look at what came of it.
    Unseen,
}

struct Lying(FjallEngine, Lie);

impl Engine for Lying {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.0.snapshot()
    }
    fn write(&self, batch: WriteBatch) -> Result<()> {
        self.0.write(batch)
    }
    fn sync(&self) -> Result<()> {
        match self.1 {
            Lie::Nothing => Ok(()),
            Lie::Unseen => self.0.sync().or(Ok(())),
        }
    }
    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        self.0.estimate(cf, start, end)
    }
    fn checkpoint(&self, into: &Path) -> Result<()> {
        self.0.checkpoint(into)
    }
    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>> {
        self.0.ingest(cf)
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn statistics(&self) -> Vec<(String, u64)> {
        self.0.statistics()
    }
}

fn lying(path: &Path, lie: Lie) -> Result<Lying> {
    Ok(Lying(FjallEngine::open(path, &small())?, lie))
}

#[test]
#[should_panic(expected = "3 steps were synced and 3 begun; there is what 0 left")]
fn a_sync_that_does_nothing_is_found_by_a_power_cut() {
    power_cuts(|path| lying(path, Lie::Nothing));
}

#[test]
#[should_panic(expected = "a failed write or sync, call ")]
fn a_failed_sync_that_is_passed_over_is_found() {
    failing_calls(|path| lying(path, Lie::Unseen));
}
