//! Many replicated regions over an engine: one store's Raft groups, their logs, what the logs are
//! applied to, reads, splits and changes of replicas. It knows no transaction and no SQL; it must
//! never acknowledge what a majority of the voters has not made durable.
//!
//! ```text
//!            StoreHandle: propose, read, split, change_peer, receive
//!                 │           └─ on the caller's thread: by the leader's lease (local_read), by
//!                 │              any replica at a safe timestamp (resolved_read)
//!  ┌ driver ──────▼──────────────────────────────────────────────────────────────┐
//!  │ raft thread   store_core ─ replica ─ group ─ raft-rs                        │
//!  │                 │ append (visible)     │ messages                           │
//!  │ log thread    LogStore.sync ──────► held messages ──► Transport ──► stores  │
//!  │ apply thread  apply ──► StateMachine: rows (kv), columns (learner)          │
//!  │ compact       StateMachine.sync, LogStore.purge                             │
//!  └─────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A store that has nothing else to do, and talks to no other, syncs and applies on the thread that
//! proposes.
//!
//! Invariants:
//! * one log append and one sync serve all regions of a turn; votes and acknowledgements leave
//!   after the sync, a leader's entries before;
//! * data, applied index and region description move in one atomic write of the machine;
//! * a region's epoch is checked when a command is applied, alike on every replica;
//! * a lease starts when a message leaves and is shorter than the time for which whoever took it
//!   gives no vote, restarted or not; a term whose leader has told another to take over has none;
//! * no log entry is removed above what the machine has made durable;
//! * what a split makes is durable before anything of a new region leaves the store;
//! * who led a region in the term of its split leads the parts at once, in the term their logs
//!   start with, in which nobody is ever elected;
//! * a timestamp is safe on a replica once that has applied what its leader had, and for ever;
//! * a removed peer stays removed: its tombstone outlives late messages;
//! * a snapshot comes in parts, and changes nothing until all are here: it is put in place in one
//!   write;
//! * several replicas change in one step, by a joint configuration: until it is left, a majority of
//!   the voters before and one of those after decide together;
//! * a group in which nothing happens sleeps: one word per pair of stores says that all of a store's
//!   sleeping leaders still are, and whoever misses it stands for election as if awake;
//! * what is asked of regions is counted beside the requests, and a key at which to cut a busy one
//!   is named only to whoever asks: nothing is split here without being told to;
//! * a merge is decided by the target's log: until that has taken the region in, or never can any
//!   more, the region neither serves nor is served elsewhere.
//!
//! Reading order: as the modules below. `testing::sim` runs all of it but the threads from a seed.

mod error;
mod handle;
mod machine;
mod merge;

mod command;
mod hibernate;
pub mod snapshot;
mod wire;

mod file_log;
mod log_index;
mod log_store;
#[cfg(feature = "raft-engine")]
mod raft_engine_log;
#[cfg(feature = "rocksdb")]
mod rocks_log;

mod answer;
mod batch;
mod group;
mod lease;
mod load;
mod cells;
mod local_read;
mod resolved;
mod resolved_read;
mod replica;

mod apply;
mod store_core;

mod options;

#[cfg(test)]
mod garbage;

mod driver;
mod threads;
mod row_machine;
pub mod testing;

pub use apply::LOG_START;
pub use driver::{Store, StoreHandle, bootstrap};
pub use error::{Error, Result};
pub use file_log::{FileLogConfig, FileLogStore};
pub use handle::*;
pub use load::{LoadConfig, RegionLoad};
pub use log_store::{
    EntryKind, GroupLog, HardState, LogBatch, LogEntry, LogOp, LogStore, MemoryLogStore,
};
pub use machine::*;
pub use merge::{Absorbed, MergeState, Prepared};
pub use options::{OnChange, OnOpen, RaftConfig, StoreConfig, StoreOptions, Without};
#[cfg(feature = "raft-engine")]
pub use raft_engine_log::{RaftEngineLogConfig, RaftEngineLogStore};
pub use resolved::Resolved;
#[cfg(feature = "rocksdb")]
pub use rocks_log::{RocksLogConfig, RocksLogStore};
pub use row_machine::RowMachine;
pub use store_core::CoreConfig;
