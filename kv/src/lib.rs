//! Ordered bytes and their versions: the row engine seam, its backends, MVCC reads on top.
//! It is not a transaction layer: nothing here decides, waits or retries.
//!
//! ```text
//!   mvcc      user key at a timestamp ─► value, or the lock in the way
//!   gc        versions that nobody can read any more ─► batch; reads that are refused
//!   records   log records ─► batch
//!     │
//!   engine    four families of ordered bytes: snapshot, write, sync, ingest   (the seam)
//!     ├── memory    versions in a tree; the model, and the crash model
//!     ├── rocks     RocksDB, its log off            (feature `rocksdb`, the default)
//!     └── fjall     pure Rust
//!   testing   what every engine must do, and engines that fail on purpose
//! ```
//!
//! Invariants:
//! * a batch is seen, and survives, whole or not at all, over all families;
//! * a crash keeps what was synced and a prefix of what was written since;
//! * a snapshot never changes, and outlives the engine's handle; but compaction may take from it
//!   versions below the published safe point ([`gc::GcSafePoint::check`]);
//! * a load (`ingest`) is seen, and survives, whole or not at all, within its family;
//! * wrong bytes on disk are an error with [`damask_types::ErrorKind::Corrupt`], never an answer.
//!
//! Reading order: `engine`, `error`, `mvcc`, `gc`, `records`, `ingest`, `memory`, then the other
//! backends.

pub mod engine;
pub mod error;
pub mod gc;
pub mod mvcc;
pub mod records;

mod config;
mod estimate;
mod fjall;
mod folder;
mod ingest;
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;
pub mod testing;
#[cfg(any(feature = "rocksdb", test))]
mod writes;

pub use config::{EngineConfig, EngineKind, open, open_with_gc};
pub use damask_types::ErrorKind;
pub use engine::{
    Capabilities, Cf, Cursor, Engine, Estimate, Ingestion, Op, Pair, Snapshot, WriteBatch,
};
pub use error::{Error, Result};
pub use fjall::FjallEngine;
pub use gc::{BelowSafePoint, GcSafePoint};
pub use ingest::{Ascending, BatchIngestion};
pub use memory::MemoryEngine;
pub use mvcc::{MvccReader, Overlapped, Read, Rows, Scan, TxnRecord, Versions};
pub use records::{append_records, records_to_batch};
#[cfg(feature = "rocksdb")]
pub use rocks::RocksEngine;
