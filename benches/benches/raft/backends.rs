//! The log stores by name. It must not hide what a build lacks.

use damask_benches::Error;
use damask_env::RealDisk;
use damask_raftstore::{FileLogConfig, FileLogStore, LogStore, MemoryLogStore};
use std::path::Path;
use std::sync::Arc;

/// Those of this build: ours first, what they are measured against, and the floor.
pub const NAMES: &[&str] = &[
    "file",
    #[cfg(feature = "raft-engine")]
    "raft-engine",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    "memory",
];

/// An empty store in a folder of its own, which is made.
pub fn open(name: &str, folder: &Path) -> Result<Arc<dyn LogStore>, Error> {
    std::fs::create_dir_all(folder)?;
    Ok(match name {
        "memory" => Arc::new(MemoryLogStore::new()),
        "file" => {
            let disk = Arc::new(RealDisk::open(folder)?);
            Arc::new(FileLogStore::open(disk, "raft", FileLogConfig::default())?)
        }
        #[cfg(feature = "rocksdb")]
        "rocksdb" => {
            let config = damask_raftstore::RocksLogConfig::default();
            Arc::new(damask_raftstore::RocksLogStore::open(&folder.join("log"), &config)?)
        }
        #[cfg(feature = "raft-engine")]
        "raft-engine" => {
            let config = damask_raftstore::RaftEngineLogConfig::default();
            Arc::new(damask_raftstore::RaftEngineLogStore::open(&folder.join("log"), &config)?)
        }
        _ => return Err(format!("{name} is no log store of this build").into()),
    })
}
