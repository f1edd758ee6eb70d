//! What a cluster in one process is made of: plain data, read from a TOML file (`--config`) or built
//! in code, and checked before anything starts. It must never take what it does not know.
//!
//! ```toml
//! data = "/var/lib/damask"
//! stores = 3                  # row stores
//! columns = 1                 # column stores
//! pds = 1                     # members of the placement driver: 1, 3 or 5
//! mysql = "127.0.0.1:4000"
//! status = "127.0.0.1:10080"
//! column_store = "deltatree"
//! reserve_bytes = 536870912   # of the disk, kept free
//! [kv]
//! engine = "rocksdb"
//! [row_engine]                # of each row store
//! block_cache_bytes = 67108864
//! [raft]
//! log = "file"
//! tick_ms = 100
//! resolved_ts_interval_ms = 1000   # of reads at safe timestamps; 0: all reads ask a leader
//! [trace]                     # recordings of what column stores are told; none by default
//! folder = "/var/tmp/damask"
//! ```

use damask_kv::{EngineConfig, EngineKind};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A cluster in one process.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of all data; `None`: everything in memory, gone at the end.
    pub data: Option<PathBuf>,
    /// Row stores, 1..=9. Each region has a voter on up to three of them.
    pub stores: usize,
    /// Column stores, 0..=4.
    pub columns: usize,
    /// Members of the placement driver and its oracle: 1, or a Raft group of 3 or 5.
    pub pds: usize,
    /// Where MySQL clients connect; `None`: no server.
    pub mysql: Option<SocketAddr>,
    /// Where status and metrics are served over HTTP; `None`: nowhere.
    pub status: Option<SocketAddr>,
    /// MySQL connections at most.
    pub connections_max: usize,
    /// How column stores keep their columns.
    pub column_store: ColumnStoreName,
    /// With `column_store = "shadow"`: which store answers, and which one is compared with it.
    pub shadow: [ColumnStoreName; 2],
    /// Bytes of the data folder's file system that stay free: with fewer, rows are removed and
    /// tables dropped, and nothing new is written (1021). `None`: 1/20 of it, at most 512 MiB.
    pub reserve_bytes: Option<u64>,
    /// The row engine.
    pub kv: Kv,
    /// Limits of the row engine, if it is on disk.
    pub row_engine: RowEngine,
    /// The replicated log.
    pub raft: Raft,
    /// Old versions.
    pub gc: Gc,
    /// Recordings of what column stores are told; `None`: there are none.
    pub trace: Option<Trace>,
}

/// Recordings of what column stores are told: `damask trace replay` tells one again, to any column
/// store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// Folder of the files: one for each start of a column store.
    pub folder: PathBuf,
    /// Bytes of one file, at most: the recording ends there, with a warning.
    #[serde(default = "Trace::bytes_max")]
    pub bytes_max: u64,
}

impl Trace {
    fn bytes_max() -> u64 {
        1 << 30
    }
}

/// The row engine's part.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kv {
    /// `rocksdb` or `fjall`. Without a data folder it is always `memory`.
    pub engine: EngineName,
}

/// Limits of the row engine of each store, with the defaults of [`EngineConfig`]. The engine's own
/// log is not among them: the Raft log replays what a crash takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowEngine {
    /// Blocks of files kept in memory, with their indexes and filters. Bytes.
    pub block_cache_bytes: u64,
    /// Recent writes of rows kept in memory, for each of two families; about twice this in all.
    /// Bytes.
    pub write_buffer_bytes: u64,
    /// The same for locks and for what the store knows of its regions. Bytes.
    pub small_write_buffer_bytes: u64,
    /// Bytes of one file, once it is compacted (RocksDB).
    pub file_bytes: u64,
    /// Threads that write and compact files.
    pub background_threads: u32,
    /// Files kept open.
    pub open_files_max: u32,
}

impl RowEngine {
    /// As the engine crate takes it.
    pub fn config(&self) -> EngineConfig {
        EngineConfig {
            block_cache_bytes: self.block_cache_bytes,
            write_buffer_bytes: self.write_buffer_bytes,
            small_write_buffer_bytes: self.small_write_buffer_bytes,
            file_bytes: self.file_bytes,
            background_threads: self.background_threads,
            open_files_max: self.open_files_max,
            wal: false,
        }
    }
}

impl Default for RowEngine {
    fn default() -> RowEngine {
        let all = EngineConfig::default();
        RowEngine {
            block_cache_bytes: all.block_cache_bytes,
            write_buffer_bytes: all.write_buffer_bytes,
            small_write_buffer_bytes: all.small_write_buffer_bytes,
            file_bytes: all.file_bytes,
            background_threads: all.background_threads,
            open_files_max: all.open_files_max,
        }
    }
}

/// Names of log stores in configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogName {
    /// In memory: nothing survives the process. Only without a data folder.
    Memory,
    /// Segmented files; without a data folder, on a disk in memory.
    File,
    /// RocksDB, in a folder of its own. Only with a data folder.
    Rocksdb,
}

/// Names of column stores in configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnStoreName {
    /// The plain model: sorted rows in memory. Only without a data folder.
    Memory,
    /// Delta and stable packs.
    Deltatree,
    /// The columnar LSM that DeltaTree is measured against; on disk it needs RocksDB.
    Lsm,
    /// Two of the others ([`Config::shadow`]): fed alike, every answer compared, a difference is
    /// an error. For those who change either.
    Shadow,
}

/// Names of row engines in configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// In memory: nothing survives the process.
    Memory,
    /// RocksDB.
    Rocksdb,
    /// fjall, pure Rust.
    Fjall,
}

impl EngineName {
    /// The best that this build has.
    pub fn best() -> EngineName {
        if cfg!(feature = "rocksdb") { EngineName::Rocksdb } else { EngineName::Fjall }
    }

    /// As the engine crate names it.
    pub fn kind(self) -> EngineKind {
        match self {
            EngineName::Memory => EngineKind::Memory,
            EngineName::Rocksdb => EngineKind::Rocks,
            EngineName::Fjall => EngineKind::Fjall,
        }
    }
}

/// The replicated log's part.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// Where logs are; `None`: `file` with a data folder, `memory` without.
    pub log: Option<LogName>,
    /// Milliseconds of one tick.
    pub tick_ms: u64,
    /// Ticks without a leader before an election.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Rough bytes above which a region is split.
    pub region_bytes_max: u64,
    /// Versions of rows above which it is split.
    pub region_keys_max: u64,
    /// Requests a second, reads and writes together, from which a region is busy: if it stays so for
    /// ten seconds, it is split where that parts its load (TiKV's `split.qps-threshold`). A read of
    /// several keys counts for each. 0: none is split for its load.
    pub split_requests_min: u64,
    /// Or bytes a second, read and written (TiKV's `split.byte-threshold`).
    pub split_bytes_min: u64,
    /// MiB of snapshots that a store sends in a second, at most.
    pub snapshot_mib_per_second: u64,
    /// Milliseconds between two moves of the timestamps up to which any replica may be read without
    /// asking its leader (TiKV's `advance-ts-interval`: 20 s). 0: they stay.
    pub resolved_ts_interval_ms: u64,
    /// Do groups in which nothing happens stop their heartbeats (TiKV's `hibernate-regions`)?
    pub hibernate_regions: bool,
}

/// When old versions go.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// Milliseconds for which every version can be read (TiDB's `tidb_gc_life_time`: 10 minutes).
    /// Older ones stay as long as a running transaction needs them.
    pub life_time_ms: u64,
    /// Milliseconds between two moves of the safe point.
    pub interval_ms: u64,
}

impl Default for Gc {
    fn default() -> Gc {
        Gc { life_time_ms: 600_000, interval_ms: 60_000 }
    }
}

impl Default for Kv {
    fn default() -> Kv {
        Kv { engine: EngineName::best() }
    }
}

impl Raft {
    /// Sets a store's ticks, elections and snapshots.
    pub(crate) fn set(&self, store: &mut damask_raftstore::StoreConfig) {
        store.tick = Duration::from_millis(self.tick_ms);
        store.core.raft.election_ticks = self.election_ticks;
        store.core.raft.heartbeat_ticks = self.heartbeat_ticks;
        store.core.hibernate_regions = self.hibernate_regions;
        store.load.requests_min = self.split_requests_min;
        store.load.bytes_min = self.split_bytes_min;
        store.core.snapshot_bytes_per_second = self.snapshot_mib_per_second.saturating_mul(1 << 20);
    }
}

impl Default for Raft {
    fn default() -> Raft {
        let load = damask_raftstore::LoadConfig::default();
        Raft {
            log: None,
            tick_ms: 100,
            election_ticks: 10,
            heartbeat_ticks: 2,
            region_bytes_max: 96 << 20,
            split_requests_min: load.requests_min,
            split_bytes_min: load.bytes_min,
            snapshot_mib_per_second: 100,
            resolved_ts_interval_ms: 1_000,
            region_keys_max: damask_pd::Config::default().region_keys_max,
            hibernate_regions: true,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: None,
            stores: 3,
            columns: 1,
            pds: 1,
            mysql: None,
            status: None,
            connections_max: 151,
            column_store: ColumnStoreName::Deltatree,
            shadow: [ColumnStoreName::Deltatree, ColumnStoreName::Lsm],
            reserve_bytes: None,
            kv: Kv::default(),
            row_engine: RowEngine::default(),
            raft: Raft::default(),
            gc: Gc::default(),
            trace: None,
        }
    }
}

impl Config {
    /// The kinds of column stores that a node opens.
    fn column_stores(&self) -> &[ColumnStoreName] {
        match &self.column_store {
            ColumnStoreName::Shadow => &self.shadow,
            one => std::slice::from_ref(one),
        }
    }

    /// Everything in memory, no servers: for tests and examples.
    pub fn memory() -> Config {
        Config::default()
    }

    /// Reads TOML. What is not said has its default; an unknown name is an error.
    ///
    /// # Errors
    /// What is wrong, with its line, in words for the user.
    pub fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    /// Explains what is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=9).contains(&self.stores) {
            return Err(format!("stores = {}: 1 to 9 are possible", self.stores));
        }
        if self.columns > 4 {
            return Err(format!("columns = {}: 0 to 4 are possible", self.columns));
        }
        if ![1, 3, 5].contains(&self.pds) {
            return Err(format!("pds = {}: 1, 3 or 5 are possible", self.pds));
        }
        if self.raft.tick_ms == 0 || self.raft.election_ticks <= self.raft.heartbeat_ticks {
            return Err(
                "raft: tick_ms must be above 0, election_ticks above heartbeat_ticks".into()
            );
        }
        if self.gc.interval_ms == 0 {
            return Err("gc: interval_ms must be above 0".into());
        }
        self.row_engine.config().validate().map_err(|e| format!("row_engine: {}", e.detail))?;
        if self.kv.engine == EngineName::Rocksdb && !cfg!(feature = "rocksdb") {
            return Err("this build has no RocksDB (it was built with --light): use fjall".into());
        }
        if self.raft.log == Some(LogName::Rocksdb) && !cfg!(feature = "rocksdb") {
            return Err(
                "this build has no RocksDB (it was built with --light): log = 'file'".into()
            );
        }
        if self.raft.log == Some(LogName::Rocksdb) && self.data.is_none() {
            return Err("raft: log = 'rocksdb' needs a data folder".into());
        }
        let [main, twin] = self.shadow;
        if main == twin || self.shadow.contains(&ColumnStoreName::Shadow) {
            return Err("shadow: two different ones of 'deltatree', 'lsm', 'memory'".into());
        }
        let column_stores = self.column_stores();
        if column_stores.contains(&ColumnStoreName::Lsm)
            && self.data.is_some()
            && !cfg!(feature = "rocksdb")
        {
            return Err("this build has no RocksDB (it was built with --light): \
                        column_store = 'deltatree'"
                .into());
        }
        let forgets = self.kv.engine == EngineName::Memory
            || self.raft.log == Some(LogName::Memory)
            || column_stores.contains(&ColumnStoreName::Memory);
        if self.data.is_some() && forgets {
            return Err(
                "a part in `memory` would forget what the others keep in the data folder: \
                        choose --memory, or keep all of it"
                    .into(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_differs_from_the_defaults() {
        let all = r#"
            data = "/tmp/d"
            stores = 5
            columns = 2
            pds = 3
            mysql = "127.0.0.1:4001"
            status = "127.0.0.1:10081"
            connections_max = 7
            column_store = "deltatree"
            [kv]
            engine = "fjall"
            [raft]
            log = "file"
            tick_ms = 20
            election_ticks = 12
            heartbeat_ticks = 3
            region_bytes_max = 4096
            split_requests_min = 700
            split_bytes_min = 8192
        "#;
        let config = Config::parse(all).expect("valid");
        assert_eq!((config.stores, config.columns, config.connections_max), (5, 2, 7));
        assert_eq!(config.data, Some(PathBuf::from("/tmp/d")));
        assert_eq!((config.pds, Config::default().pds), (3, 1));
        for pds in [0, 2, 4, 7] {
            let refusal = Config { pds, ..Config::memory() }.validate().expect_err("refused");
            assert!(refusal.contains(&format!("pds = {pds}")), "{refusal}");
        }
        assert_eq!(config.mysql.map(|addr| addr.port()), Some(4001));
        assert_eq!((config.kv.engine, config.raft.log), (EngineName::Fjall, Some(LogName::File)));
        assert_eq!((config.raft.tick_ms, config.raft.region_bytes_max), (20, 4096));
        let mut store = damask_raftstore::StoreConfig::default();
        config.raft.set(&mut store);
        assert_eq!((store.load.requests_min, store.load.bytes_min), (700, 8192));
        config.validate().expect("it can work");
        let little = Config::parse("[raft]\nlog = \"memory\"").expect("valid");
        assert_eq!((little.stores, little.raft.tick_ms), (3, 100));
        assert_eq!(little.raft.log, Some(LogName::Memory));
        little.validate().expect("nothing is kept");
    }

    #[test]
    fn the_row_engine_gets_what_the_file_says() {
        let text = "[row_engine]\nblock_cache_bytes = 4194304\nwrite_buffer_bytes = 131072\n\
                    small_write_buffer_bytes = 65536\nfile_bytes = 1048576\n\
                    background_threads = 3\nopen_files_max = 99";
        let config = Config::parse(text).expect("valid");
        config.validate().expect("it can work");
        let expected = EngineConfig {
            block_cache_bytes: 4 << 20,
            write_buffer_bytes: 128 << 10,
            small_write_buffer_bytes: 64 << 10,
            file_bytes: 1 << 20,
            background_threads: 3,
            open_files_max: 99,
            wal: false,
        };
        assert_eq!(config.row_engine.config(), expected);
        assert_eq!(Config::default().row_engine.config(), EngineConfig::default());
        let little = Config::parse("[row_engine]\nopen_files_max = 99").expect("valid");
        let only = EngineConfig { open_files_max: 99, ..EngineConfig::default() };
        assert_eq!(little.row_engine.config(), only);
        let unknown = Config::parse("[row_engine]\nblock_cache = 1").expect_err("refused");
        assert!(unknown.contains("block_cache") && unknown.contains("line 2"), "{unknown}");
        let none = Config::parse("[row_engine]\nbackground_threads = 0").expect("a number");
        let refusal = none.validate().expect_err("no thread at all");
        assert!(refusal.contains("row_engine: background_threads = 0"), "{refusal}");
    }

    #[test]
    fn a_recording_has_a_folder_and_a_limit() {
        assert_eq!(Config::parse("stores = 1").expect("valid").trace, None);
        let trace = |text: &str| Config::parse(text).map(|config| config.trace.expect("given"));
        let folder = PathBuf::from("/tmp/t");
        let found = trace("[trace]\nfolder = '/tmp/t'").expect("valid");
        assert_eq!(found, Trace { folder: folder.clone(), bytes_max: 1 << 30 });
        let found = trace("[trace]\nfolder = '/tmp/t'\nbytes_max = 5").expect("valid");
        assert_eq!(found, Trace { folder, bytes_max: 5 });
        assert!(trace("[trace]\nbytes_max = 5").expect_err("no folder").contains("folder"));
    }

    #[test]
    fn what_is_not_known_is_named_with_its_line() {
        let refused = |text: &str| Config::parse(text).expect_err("refused");
        let error = refused("stores = 3\nstorez = 4");
        assert!(error.contains("storez") && error.contains("line 2"), "{error}");
        assert!(refused("[kv]\nengine = \"leveldb\"").contains("leveldb"));
        assert!(refused("[kv]\nengines = \"fjall\"").contains("engines"));
        assert!(refused("stores = \"three\"").contains("stores"));
        assert!(refused("stores = ").contains("line 1"));
    }

    #[test]
    fn a_shadow_is_of_two_different_stores() {
        let with = |two: &str| {
            let text = format!("column_store = 'shadow'\nshadow = {two}");
            Config::parse(&text).and_then(|config| config.validate())
        };
        for two in ["['lsm', 'deltatree']", "['memory', 'lsm']", "['deltatree', 'memory']"] {
            with(two).expect(two);
        }
        for two in ["['lsm', 'lsm']", "['shadow', 'lsm']", "['lsm', 'lance']", "['lsm']"] {
            assert!(with(two).expect_err(two).contains("shadow"), "{two}");
        }
    }

    #[test]
    fn what_is_kept_and_what_is_forgotten_do_not_mix() {
        for part in [
            "column_store = \"memory\"",
            "column_store = 'shadow'\nshadow = ['lsm', 'memory']",
            "[kv]\nengine = \"memory\"",
            "[raft]\nlog = \"memory\"",
        ] {
            let mut config = Config::parse(part).expect("valid");
            config.validate().expect("in memory it may be");
            config.data = Some("/tmp/d".into());
            let refusal = config.validate().expect_err("not beside a data folder");
            assert!(refusal.contains("--memory"), "{part}: {refusal}");
        }
    }
}
