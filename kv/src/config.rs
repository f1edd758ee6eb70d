//! Which engine, and how much memory it may take. Plain data; it must never open a file before
//! its numbers were checked.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fjall::FjallEngine;
use crate::gc::GcSafePoint;
use crate::memory::MemoryEngine;
use damask_types::ErrorKind;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// A backend's name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// `memory`: nothing survives the process.
    Memory,
    /// `rocksdb`: the default.
    Rocks,
    /// `fjall`: pure Rust.
    Fjall,
}

impl EngineKind {
    /// The best one that this build holds.
    pub fn preferred() -> EngineKind {
        if cfg!(feature = "rocksdb") { EngineKind::Rocks } else { EngineKind::Fjall }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Memory => "memory",
            EngineKind::Rocks => "rocksdb",
            EngineKind::Fjall => "fjall",
        })
    }
}

impl FromStr for EngineKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<EngineKind> {
        match name {
            "memory" => Ok(EngineKind::Memory),
            "rocksdb" | "rocks" => Ok(EngineKind::Rocks),
            "fjall" => Ok(EngineKind::Fjall),
            _ => {
                let detail = format!("unknown engine '{name}': memory, rocksdb or fjall");
                Err(Error::new("configure", ErrorKind::Invalid, detail))
            }
        }
    }
}

/// Limits of an engine. The defaults let three engines idle in one small process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Blocks of files kept in memory, with their indexes and filters. Bytes.
    pub block_cache_bytes: u64,
    /// Recent writes kept in memory before they go to a file, for the default and the write
    /// family each. Bytes. All families together are held to about twice this.
    pub write_buffer_bytes: u64,
    /// The same for the lock and the meta family: small, since a lock lives for a moment.
    pub small_write_buffer_bytes: u64,
    /// Bytes of one file, once it is compacted (RocksDB).
    pub file_bytes: u64,
    /// Threads that write and compact files.
    pub background_threads: u32,
    /// Files kept open.
    pub open_files_max: u32,
    /// Keep the backend's own log. Off by default: the Raft log replays what a crash takes, and
    /// `sync` writes buffers to files. Ignored by backends that cannot do without.
    pub wal: bool,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            block_cache_bytes: 64 << 20,
            write_buffer_bytes: 32 << 20,
            small_write_buffer_bytes: 8 << 20,
            file_bytes: 32 << 20,
            background_threads: 2,
            open_files_max: 512,
            wal: false,
        }
    }
}

impl EngineConfig {
    /// Explains what is wrong, if anything is.
    pub fn validate(&self) -> Result<()> {
        let limits = [
            ("block_cache_bytes", self.block_cache_bytes, 1 << 20, 1 << 40),
            ("write_buffer_bytes", self.write_buffer_bytes, 64 << 10, 1 << 32),
            ("small_write_buffer_bytes", self.small_write_buffer_bytes, 64 << 10, 1 << 32),
            ("file_bytes", self.file_bytes, 16 << 10, 1 << 32),
            ("background_threads", u64::from(self.background_threads), 1, 64),
            ("open_files_max", u64::from(self.open_files_max), 16, 1 << 20),
        ];
        for (name, value, low, high) in limits {
            if !(low..=high).contains(&value) {
                let detail = format!("{name} = {value} is not within {low} and {high}");
                return Err(Error::new("configure", ErrorKind::Invalid, detail));
            }
        }
        Ok(())
    }
}

/// Opens the engine that the configuration names; makes it if the folder does not exist. `path` is
/// not used by the memory engine.
pub fn open(kind: EngineKind, path: &Path, config: &EngineConfig) -> Result<Arc<dyn Engine>> {
    open_with_gc(kind, path, config, &GcSafePoint::new())
}

/// [`open`], and compaction removes versions below this safe point as it rises. The memory
/// engine leaves all to [`crate::gc::sweep`].
pub fn open_with_gc(
    kind: EngineKind,
    path: &Path,
    config: &EngineConfig,
    safe_point: &GcSafePoint,
) -> Result<Arc<dyn Engine>> {
    config.validate()?;
    match kind {
        EngineKind::Memory => Ok(Arc::new(MemoryEngine::new())),
        EngineKind::Fjall => Ok(Arc::new(FjallEngine::open_with_gc(path, config, safe_point)?)),
        EngineKind::Rocks => open_rocks(path, config, safe_point),
    }
}

#[cfg(feature = "rocksdb")]
fn open_rocks(path: &Path, config: &EngineConfig, gc: &GcSafePoint) -> Result<Arc<dyn Engine>> {
    Ok(Arc::new(crate::rocks::RocksEngine::open_with_gc(path, config, gc)?))
}

#[cfg(not(feature = "rocksdb"))]
fn open_rocks(_: &Path, _: &EngineConfig, _: &GcSafePoint) -> Result<Arc<dyn Engine>> {
    let detail = "this build has no RocksDB: build with the feature `rocksdb`, or choose fjall";
    Err(Error::new("open", ErrorKind::Invalid, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_refused() {
        for kind in [EngineKind::Memory, EngineKind::Rocks, EngineKind::Fjall] {
            assert_eq!(kind.to_string().parse::<EngineKind>().expect("its own name"), kind);
        }
        let error = "level".parse::<EngineKind>().expect_err("not an engine");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn bad_numbers_are_named() {
        let config = EngineConfig { background_threads: 0, ..EngineConfig::default() };
        let error = config.validate().expect_err("no thread at all");
        assert!(error.to_string().contains("background_threads = 0"), "{error}");
        EngineConfig::default().validate().expect("the defaults are fine");
    }

    #[cfg(not(feature = "rocksdb"))]
    #[test]
    fn a_kind_that_is_not_compiled_in_says_so() {
        let opened = open(EngineKind::Rocks, Path::new("unused"), &EngineConfig::default());
        let error = opened.err().expect("not compiled in");
        assert!(error.to_string().contains("feature `rocksdb`"), "{error}");
    }
}
