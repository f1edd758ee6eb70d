//! Values that cross crates: keys, timestamps, regions, schemas, rows, log records, error kinds.
//! It must never do I/O, take a lock, read a clock or start a thread.
//!
//! ```text
//!  ids ── ts ── codec ── key ── region          where and when
//!  datum ── schema ── row                       what a table holds
//!  mutation                                     what the log says
//!  error                                        what the caller must do
//! ```
//!
//! Invariants:
//! * every `encode` has a `decode` that returns the same value, and never panics on bad bytes;
//! * the memcomparable forms sort as the values do.
//!
//! Reading order: as the modules below.

pub mod codec;
pub mod datum;
pub mod error;
pub mod ids;
pub mod key;
pub mod mutation;
pub mod region;
pub mod row;
pub mod schema;
pub mod ts;

pub use datum::{Datum, Decimal};
pub use error::ErrorKind;
pub use ids::{ColumnId, IndexId, PeerId, RegionId, StoreId, TableId};
pub use key::KeyRange;
pub use mutation::{KeyLock, Lock, LockKind, Record, Write, WriteKind, WriteRef};
pub use region::{Epoch, Peer, PeerRole, Region};
pub use schema::{ColumnSchema, ColumnType, IndexSchema, TableSchema};
pub use ts::Timestamp;
