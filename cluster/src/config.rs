//! What a cluster in one process is made of: plain data, read from TOML or built in code, and
//! checked before anything starts.

use damask_kv::EngineKind;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Where MySQL clients connect; `None`: no server.
    pub mysql: Option<SocketAddr>,
    /// Where status and metrics are served over HTTP; `None`: nowhere.
    pub status: Option<SocketAddr>,
    /// MySQL connections at most.
    pub connections_max: usize,
    /// The row engine.
    pub kv: Kv,
    /// The replicated log.
    pub raft: Raft,
}

/// The row engine's part.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kv {
    /// `rocksdb`, `fjall` or `memory`. Without a data folder it is always `memory`.
    pub engine: EngineName,
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
    /// Milliseconds of one tick.
    pub tick_ms: u64,
    /// Ticks without a leader before an election.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Rough bytes above which a region is split.
    pub region_bytes_max: u64,
}

impl Default for Kv {
    fn default() -> Kv {
        Kv { engine: EngineName::best() }
    }
}

impl Default for Raft {
    fn default() -> Raft {
        Raft { tick_ms: 100, election_ticks: 10, heartbeat_ticks: 2, region_bytes_max: 96 << 20 }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: None,
            stores: 3,
            columns: 1,
            mysql: None,
            status: None,
            connections_max: 151,
            kv: Kv::default(),
            raft: Raft::default(),
        }
    }
}

impl Config {
    /// Everything in memory, no servers: for tests and examples.
    pub fn memory() -> Config {
        Config::default()
    }

    /// Explains what is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=9).contains(&self.stores) {
            return Err(format!("stores = {}: 1 to 9 are possible", self.stores));
        }
        if self.columns > 4 {
            return Err(format!("columns = {}: 0 to 4 are possible", self.columns));
        }
        if self.raft.tick_ms == 0 || self.raft.election_ticks <= self.raft.heartbeat_ticks {
            return Err(
                "raft: tick_ms must be above 0, election_ticks above heartbeat_ticks".into()
            );
        }
        if self.kv.engine == EngineName::Rocksdb && !cfg!(feature = "rocksdb") {
            return Err("this build has no RocksDB (it was built with --light): use fjall".into());
        }
        Ok(())
    }
}
