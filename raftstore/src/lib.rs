//! Many replicated regions over an engine: one store's Raft groups, their logs, what the logs are
//! applied to, reads, splits and changes of replicas. It knows no transaction and no SQL; it must
//! never acknowledge what a majority of the voters has not made durable.
//!
//! ```text
//!            StoreHandle: propose, read_index, split, change_peer, receive
//!                 │
//!  ┌ driver ──────▼──────────────────────────────────────────────────────────────┐
//!  │ raft thread   store_core ─ replica ─ group ─ raft-rs                        │
//!  │                 │ append (visible)     │ messages                           │
//!  │ log thread    LogStore.sync ──────► held messages ──► Transport ──► stores  │
//!  │ apply thread  apply ──► StateMachine: rows (kv), columns (learner)          │
//!  │ compact       StateMachine.sync, LogStore.purge                             │
//!  └─────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! * one log append and one sync serve all regions of a turn; votes and acknowledgements leave
//!   after the sync, a leader's entries before;
//! * data, applied index and region description move in one atomic write of the machine;
//! * a region's epoch is checked when a command is applied, alike on every replica;
//! * no log entry is removed above what the machine has made durable;
//! * what a split makes is durable before anything of a new region leaves the store;
//! * a removed peer stays removed: its tombstone outlives late messages.
//!
//! Reading order: as the modules below.

mod error;
mod handle;
mod machine;

mod command;
pub mod snapshot;
mod wire;

mod file_log;
mod log_index;
mod log_store;

mod answer;
mod group;
mod replica;

mod apply;
mod store_core;

mod options;

mod driver;
mod row_machine;
pub mod testing;

pub use apply::LOG_START;
pub use driver::{Store, StoreHandle, bootstrap};
pub use error::{Error, Result};
pub use file_log::{FileLogConfig, FileLogStore};
pub use group::RaftConfig;
pub use handle::*;
pub use log_store::{
    EntryKind, GroupLog, HardState, LogBatch, LogEntry, LogOp, LogStore, MemoryLogStore,
};
pub use machine::*;
pub use options::{OnChange, OnOpen, StoreConfig, StoreOptions};
pub use row_machine::RowMachine;
pub use store_core::CoreConfig;
