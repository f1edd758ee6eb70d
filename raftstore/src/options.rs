//! What a store is started with: plain values, checked before anything runs. They must never be
//! changed while it runs.

use crate::driver::StoreHandle;
use crate::error::{Error, Result};
use crate::handle::{ReadMode, ReplicaStatus};
use crate::load::LoadConfig;
use crate::store_core::CoreConfig;
use damask_env::Disk;
use damask_types::{Region, StoreId};
use std::sync::Arc;
use std::time::Duration;

/// Optimisations of the write path that a store goes without, so that benches tell what each gains.
/// It must never change what is promised, only when it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// One event a turn: nothing shares an entry, an append, a message or a sync.
    pub batching: bool,
    /// A leader's entries leave only after its own sync.
    pub early_sends: bool,
    /// The raft thread syncs, and does nothing else meanwhile.
    pub log_thread: bool,
    /// The raft thread applies, likewise.
    pub apply_thread: bool,
}

impl Without {
    /// The naive path: one request, one entry, one sync, applied before the next is looked at. A
    /// group still sends on before it is answered: that is `RaftConfig::inflight_messages`.
    pub const EVERYTHING: Without =
        Without { batching: true, early_sends: true, log_thread: true, apply_thread: true };
}

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// One tick: 100 ms makes elections take 1 to 2 seconds.
    pub tick: Duration,
    /// Of the core; its `tick` and `nonce` are set by `start`.
    pub core: CoreConfig,
    /// How `read_index` reads.
    pub reads: ReadMode,
    /// What the write path leaves out. For benches.
    pub without: Without,
    /// Largest command.
    pub command_bytes_max: usize,
    /// Commands taken and not yet answered, in bytes.
    pub requests_bytes_max: usize,
    /// Messages received and not yet stepped, in bytes.
    pub messages_bytes_max: usize,
    /// Entries committed and not yet applied, in bytes, above which a follower takes no more.
    pub apply_bytes_max: usize,
    /// When a busy region is to be cut, and how that is found out.
    pub load: LoadConfig,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            tick: Duration::from_millis(100),
            core: CoreConfig::default(),
            reads: ReadMode::default(),
            without: Without::default(),
            command_bytes_max: 8 << 20,
            requests_bytes_max: 64 << 20,
            messages_bytes_max: 128 << 20,
            apply_bytes_max: 128 << 20,
            load: LoadConfig::default(),
        }
    }
}

impl StoreConfig {
    /// Explains what cannot work.
    pub fn validate(&self) -> Result<()> {
        let raft = &self.core.raft;
        let wrong = if self.tick.is_zero() {
            "tick must not be zero"
        } else if raft.heartbeat_ticks == 0 || raft.election_ticks <= raft.heartbeat_ticks {
            "election_ticks must be above heartbeat_ticks, and those above zero"
        } else if matches!(self.reads, ReadMode::Stale(_)) {
            "reads must be linearizable"
        } else if self.core.compact_ticks == 0 {
            "compact_ticks must not be zero"
        } else if self.core.snapshot_chunk_bytes == 0 || self.core.snapshot_bytes_per_second == 0 {
            "snapshot_chunk_bytes and snapshot_bytes_per_second must not be zero"
        } else if self.core.snapshot_sends_max == 0 || self.core.snapshot_receives_max == 0 {
            "snapshot_sends_max and snapshot_receives_max must not be zero"
        } else if self.core.hibernate_max_ticks == 0 {
            "hibernate_max_ticks must not be zero"
        } else if self.core.log_max_bytes == 0 {
            "log_max_bytes must not be zero"
        } else if let Some(wrong) = self.load.wrong() {
            wrong
        } else {
            return Ok(());
        };
        Err(Error::Invalid(wrong.to_owned()))
    }
}

/// Called on the raft thread when a leader appears or a description changes; must not block.
pub type OnChange = Arc<dyn Fn(ReplicaStatus) + Send + Sync>;
/// Called once with the store's handle, before its first message leaves.
pub type OnOpen = Box<dyn FnOnce(StoreHandle) + Send>;

/// What a store is started with.
pub struct StoreOptions {
    /// Who it is.
    pub id: StoreId,
    /// How it behaves.
    pub config: StoreConfig,
    /// The first region, to be made if the store is empty and is to have a replica of it.
    pub bootstrap: Option<Region>,
    /// The store is known to have held data: if it is empty now, it does not start.
    pub held_data: bool,
    /// Who wants to know of changes.
    pub on_change: Option<OnChange>,
    /// Who makes the store reachable, so that the answers to its first messages find it.
    pub on_open: Option<OnOpen>,
    /// Where the chunks of snapshots wait until all are there; without it, in memory. Nothing in
    /// it has to outlive a restart.
    pub staging: Option<Arc<dyn Disk>>,
}

impl StoreOptions {
    /// With nothing but an id.
    pub fn new(id: StoreId) -> StoreOptions {
        let config = StoreConfig::default();
        let (bootstrap, held_data) = (None, false);
        let (on_change, on_open, staging) = (None, None, None);
        StoreOptions { id, config, bootstrap, held_data, on_change, on_open, staging }
    }
}

/// How the groups of a store behave.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Ticks without a leader before an election; the timeout is up to twice that.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Bytes of entries in one message.
    pub message_bytes: u64,
    /// Messages on their way to one follower.
    pub inflight_messages: usize,
    /// Writes of one turn share an entry, up to so many bytes; 0: each has its own.
    pub entry_bytes: usize,
    /// Bytes that a leader has proposed and not committed.
    pub uncommitted_bytes: u64,
    /// Bytes of entries that are applied in one go.
    pub apply_bytes: u64,
    /// Makes election timeouts differ between runs.
    pub seed: u64,
}

impl Default for RaftConfig {
    fn default() -> RaftConfig {
        RaftConfig {
            election_ticks: 10,
            heartbeat_ticks: 2,
            message_bytes: 1 << 20,
            inflight_messages: 256,
            entry_bytes: 64 << 10,
            uncommitted_bytes: 64 << 20,
            apply_bytes: 16 << 20,
            seed: 0,
        }
    }
}
