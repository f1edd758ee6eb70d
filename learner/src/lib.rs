//! The second reading of the log: a learner turns the records that rows are made of into columns.
//! It must never vote, never answer a write, and never show a row that its transaction has not
//! committed.
//!
//! ```text
//!  apply ──► compact ───────────► transpose ─────► ColumnStore::apply     1. rows are stored
//!            values wait for        row bytes          │
//!            their commit           → Arrow            ▼
//!            locks ────────────────────────────► locks dropped, applied   2. then what hid them goes
//!  sync ──► mark per region {state, locks, values} ─► ColumnStore::sync   3. both, or neither
//!
//!  view ──► leader at ts, wait ──► locks that block ts? ──► snapshot ──► still the same region?
//! ```
//!
//! Invariants:
//! * rows are stored before the locks that hid them are dropped, and before `applied` moves: a
//!   reader that sees no lock finds the row;
//! * a mark speaks of the state between two calls of `apply`, so that after a crash the log is
//!   replayed onto the locks and long values that were there;
//! * a reader's snapshot is taken after its lock check, and the region is checked again after that;
//! * rows that change again after a replay are the same (handle, version): they change nothing.
//!
//! What it is not: no index entries are kept, `SELECT … FOR UPDATE` locks are ignored, rows of a
//! table that the schema source says is dropped are skipped.
//!
//! Reading order: `transpose`, `rows`, `compact`, `region`, `mark`, `machine`, `import`, `read`,
//! `trace`, `speed`.

mod compact;
pub mod error;
mod import;
pub mod machine;
mod mark;
pub mod ranges;
pub mod read;
mod region;
mod rows;
pub mod speed;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod transpose;

pub use error::{Error, Result};
pub use machine::{ColumnMachine, MachineStats};
pub use read::{AskLeader, ColumnView, LearnerRead, ReadError, ReadIndex, SafePoint, StoreReads};
pub use rows::SchemaSource;
pub use transpose::{RowDecoder, RowError};
