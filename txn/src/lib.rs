//! The write path, both ends: two-phase commit over regions (Percolator, with TiKV's meaning), as
//! a client that drives it and a server end that decides on each key.
//!
//! Not here: pessimistic locks, async commit, one-phase commit, garbage collection. Snapshot
//! isolation permits write skew.
//!
//! ```text
//!  Client ── Transaction ── Buffer                      who writes
//!    │ snapshot, commit, resolve, region (routing, back-off)
//!    ▼ request::{Context, Request} ⇢ wire ⇢ Response
//!  TxnServer ── Latches ── percolator::decide(view, request) -> records      who decides
//!    │ Replica: read index, propose
//!    ▼
//!  raftstore (or LocalReplica) ── kv::Engine
//! ```
//!
//! Invariants:
//! * a transaction is committed exactly when its primary is; every other key follows it;
//! * of two transactions that overlap in time and write one key, one fails;
//! * a rolled back transaction stays so, however late its commands arrive;
//! * a command sent twice does what it does once;
//! * latches are held until the log has answered;
//! * an outcome that is not known is an error of its own.
//!
//! Reading order: `request`, `percolator`, `latch`, `replica`, `server`; then `client`,
//! `transaction`, `buffer`, `snapshot`, `commit`, `resolve`, `region`, `backoff`, `keeper`.

pub mod concurrency;
pub mod deadlock;
pub mod latch;
pub mod percolator;
pub mod replica;
pub mod request;
pub mod server;
mod sync;
pub mod waits;

mod backoff;
mod buffer;
pub mod client;
mod commit;
pub mod config;
pub mod error;
pub mod gc;
mod held;
pub mod history;
mod keeper;
pub mod local;
pub mod options;
mod region;
mod resolve;
mod running;
pub mod snapshot;
pub mod transaction;
mod workers;

pub use buffer::Mark;
pub use client::Client;
pub use concurrency::Manager;
pub use config::Config;
pub use deadlock::{Deadlocks, LocalDeadlocks};
pub use error::{Error, Result};
pub use gc::Gc;
pub use local::LocalCluster;
pub use options::{Isolation, Mode, Options, Reads, Wait};
pub use region::Services;
pub use replica::{LocalReplica, Replica};
pub use request::*;
pub use server::TxnServer;
pub use snapshot::{Pair, SnapshotReader};
pub use transaction::Transaction;
