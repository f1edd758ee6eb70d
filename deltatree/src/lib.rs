//! Columns that accept writes: the column store seam, a plain store in memory, and DeltaTree
//! (after TiFlash's engine; *TiDB: A Raft-based HTAP Database*, VLDB 2020, section 4.2). It knows
//! no region, lock or Raft log, and runs no query beyond scan and count.
//!
//! ```text
//!  ChangeBatch ──► ColumnStore ──► ColumnSnapshot ──► batches at a timestamp
//!                   ├ memory      an ordered map: the model in tests
//!                   └ DeltaTree   delta (columns in memory + log) over stable (packs, mapped)
//! ```
//!
//! Invariants:
//! * a snapshot never changes, whatever is applied, cleared or merged after it was taken;
//! * a read at `ts` sees, of each handle, the newest version at or below `ts`, unless deleted;
//! * rows and marks of a `sync` come back together after a crash, or not at all;
//! * a byte whose checksum is wrong is never served.
//!
//! Reading order: as the modules below; in `tree`: `mod`, `segment`, `scan`, `stable`, `merge`.

pub mod error;
pub mod store;
pub mod types;

pub mod memory;
pub mod testing;
pub mod tree;

pub use error::{Error, Result};
pub use memory::MemoryColumnStore;
pub use store::*;
pub use tree::{Config, DeltaTree};
