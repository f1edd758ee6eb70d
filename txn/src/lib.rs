//! The write path, both ends: transactions over regions (Percolator, with TiKV's meaning), as a
//! client that drives them and a server end that decides on each key.
//!
//! Optimistic and pessimistic; committed in two phases, async, or in one; repeatable read is
//! snapshot isolation, which permits write skew, and read committed is an option.
//!
//! ```text
//!  Client ── Transaction ── Buffer, Held (pessimistic locks)            who writes
//!    │ snapshot, commit, resolve, gc; region (routing, back-off)
//!    ▼ request::{Context, Request} ⇢ wire ⇢ Response
//!  TxnServer ── Latches, Waits ── percolator::decide(view, request) -> records      who decides
//!    │    │          └─ a key that is let go passes on to its first waiter, in the same entry
//!    │    └─ Manager: max_ts, locks being written
//!    │ Replica: leads, read index, propose
//!    ▼
//!  raftstore (or LocalReplica) ── kv::Engine
//! ```
//!
//! Invariants:
//! * in two phases a transaction is committed exactly when its primary is, async exactly when all
//!   its keys are locked; every other key follows it;
//! * of two transactions that overlap in time and write one key, one fails or waits;
//! * what was read at a timestamp stays so for ever: no commit at or below it comes later;
//! * a safe timestamp is one below which nothing will be committed any more: any replica serves it;
//! * who begins after a commit was answered sees it;
//! * a rolled back transaction stays so, however late its commands arrive;
//! * a command sent twice does what it does once;
//! * latches, and the table of locks, are held until the log has answered;
//! * a decision is proposed in the term of its view, or confirmed by a read index of that term;
//! * of a circle of waiters one gives way;
//! * an outcome that is not known is an error of its own.
//!
//! Not here: locks in memory only (a pessimistic lock is a log entry), and the threads that call
//! [`Gc`] and sweep the stores: the cluster drives both.
//!
//! Reading order: `request`, `percolator`, `latch`, `concurrency`, `replica`, `waits`, `deadlock`,
//! `resolved`, `server`; then `client`, `options`, `transaction`, `buffer`, `held`, `snapshot`,
//! `commit`, `resolve`, `region`, `backoff`, `keeper`, `running`, `gc`; `history` checks what
//! clients saw.

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
mod resolved;
mod running;
pub mod snapshot;
pub mod testing;
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
pub use options::{Isolation, Mode, Options, ReadFrom, Reads, Wait};
pub use region::Services;
pub use replica::{LocalReplica, Replica};
pub use request::*;
pub use resolved::Advance;
pub use server::TxnServer;
pub use snapshot::{Pair, SnapshotReader};
pub use transaction::Transaction;
