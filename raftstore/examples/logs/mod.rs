//! The log stores by name, for the examples here. It must not hide what a build lacks.

use damask_env::RealDisk;
use damask_raftstore::{FileLogConfig, FileLogStore, LogStore, MemoryLogStore};
use std::path::Path;
use std::sync::Arc;

/// All names; those of features may be missing in a build.
pub const NAMES: [&str; 4] = ["memory", "file", "rocksdb", "raft-engine"];

/// An empty store in a folder of its own. `None`: not in this build, or not known. `file-plain`
/// neither reserves room nor compresses.
pub fn open(name: &str, folder: &Path) -> Option<Arc<dyn LogStore>> {
    let file = |config| {
        let disk = Arc::new(RealDisk::open(folder).expect("the folder can be made"));
        let store = FileLogStore::open(disk, "raft", config);
        Some(Arc::new(store.expect("an empty log opens")) as Arc<dyn LogStore>)
    };
    let config = FileLogConfig::default();
    match name {
        "memory" => Some(Arc::new(MemoryLogStore::new())),
        "file" => file(config),
        "file-plain" => {
            file(FileLogConfig { reserve_bytes: 0, compress_bytes_min: usize::MAX, ..config })
        }
        #[cfg(feature = "rocksdb")]
        "rocksdb" => {
            let config = damask_raftstore::RocksLogConfig::default();
            let store = damask_raftstore::RocksLogStore::open(folder, &config);
            Some(Arc::new(store.expect("an empty log opens")))
        }
        #[cfg(feature = "raft-engine")]
        "raft-engine" => {
            let config = damask_raftstore::RaftEngineLogConfig::default();
            let store = damask_raftstore::RaftEngineLogStore::open(folder, &config);
            Some(Arc::new(store.expect("an empty log opens")))
        }
        _ => None,
    }
}
