//! Log stores over real files, through the suite with a disk that fails and loses power: the calls
//! of the C library are this program's own. What a store cannot promise is said where it is
//! excluded, and nowhere else.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use damask_raftstore::testing::{OnWatchedFolder, log_store_suite};
use damask_raftstore::{Error, FileLogConfig, FileLogStore, LogStore, Result};
use std::path::Path;
use std::sync::Arc;

damask_kv::disk_calls!();

#[test]
fn file_log() {
    let open = |folder: &Path| -> Result<Arc<dyn LogStore>> {
        let disk = damask_env::RealDisk::open(folder).map_err(|e| Error::io("folder", &e))?;
        // Small, so that files are begun, rewritten and removed.
        let config = FileLogConfig {
            segment_bytes: 700,
            cache_bytes: 300,
            segments_max: 3,
            reserve_bytes: 256,
            compress_bytes_min: 400,
        };
        Ok(Arc::new(FileLogStore::open(Arc::new(disk), "log", config)?))
    };
    log_store_suite(&|| Box::new(OnWatchedFolder::new(open, |_| true)));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_log() {
    use damask_raftstore::{RocksLogConfig, RocksLogStore};
    let open = |folder: &Path| -> Result<Arc<dyn LogStore>> {
        let config = RocksLogConfig { write_buffer_bytes: 64 << 10, wal_bytes_max: 1 << 20 };
        Ok(Arc::new(RocksLogStore::open(folder, &config)?))
    };
    // A wrong byte in the newest record of its write-ahead log is a torn end to RocksDB.
    // Each opening writes new files of the other kinds, so that a bit could not be flipped back.
    let sorted = |file: &Path| file.extension().is_some_and(|kind| kind == "sst");
    log_store_suite(&|| Box::new(OnWatchedFolder::new(open, sorted)));
}

#[cfg(feature = "raft-engine")]
#[test]
fn raft_engine_log() {
    use damask_raftstore::{RaftEngineLogConfig, RaftEngineLogStore};
    let open = |folder: &Path| -> Result<Arc<dyn LogStore>> {
        let config = RaftEngineLogConfig {
            segment_bytes: 2 << 10,
            purge_bytes: 8 << 10,
            compress_bytes_min: 512,
            cache_bytes: 2 << 10,
        };
        Ok(Arc::new(RaftEngineLogStore::open(folder, &config)?))
    };
    // Damage at the end of its newest file is a write cut short to raft-engine.
    log_store_suite(&|| Box::new(OnWatchedFolder::new(open, |_| false)));
}
