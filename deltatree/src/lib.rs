//! Columns that accept writes: the column store seam, a plain store in memory, and DeltaTree
//! (after TiFlash's engine; *TiDB: A Raft-based HTAP Database*, VLDB 2020, section 4.2). It knows
//! no region, lock or Raft log; of queries it knows filters of one column, simple aggregates and
//! the order of handles.
//!
//! ```text
//!  ChangeBatch ──► ColumnStore ──► ColumnSnapshot ──► at a timestamp: scan    batches
//!                   │                                                 select  batches and masks
//!                   │                                                 ordered batches by handle
//!                   │                                                 aggregate  one row a group
//!                   ├ memory      an ordered map: the model in tests
//!                   └ DeltaTree   delta (columns in memory + log) over stable (packs, mapped)
//! ```
//!
//! Invariants:
//! * a snapshot never changes, whatever is applied, cleared or merged after it was taken;
//! * a read at `ts` sees, of each handle, the newest version at or below `ts`, unless deleted;
//! * pushed-down work gives what its plain form gives;
//! * rows and marks of a `sync` come back together after a crash, or not at all; ingested rows
//!   may come back without the mark, never instead of rows that it speaks of;
//! * a byte whose checksum is wrong is never served.
//!
//! How DeltaTree reads fast: where a row's older version is, is found once, when it is written.
//! That clears a bit in a mask that snapshots share and a writer copies; so a read of now takes
//! packs and masks as they are, and a read of the past puts back only what ended later.
//!
//! Reading order: as the modules below; in `tree`: `mod`, `segment`, `chunk`, `overlay`, `unit`,
//! `plan`, `scan`, `stable`, `merge`, `load`.

pub mod error;
pub mod store;
pub mod types;

mod fold;
pub mod plain;
mod predicate;
mod values;

pub mod memory;
pub mod testing;
pub mod tree;

pub mod rivals;

pub use error::{Error, Result};
pub use memory::MemoryColumnStore;
pub use store::*;
pub use tree::{Config, DeltaTree};
