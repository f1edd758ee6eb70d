//! A column store on Lance: a rival of DeltaTree behind the same seam, in a package of its own,
//! because of what Lance costs to compile. It must never be part of a cluster's default build.
//!
//! ```text
//!  apply ─► runs in memory ──sync──► a fragment each, one manifest ──maintain──► fewer fragments
//!                │                             │
//!  snapshot ─────┴── handle, version, end of every row in memory ── columns decoded by Lance
//! ```
//!
//! Lance has fragments, deletion vectors and versions of a dataset; it has no version of a row. So
//! every version of a row is a row of the dataset, with its handle, commit timestamp and delete
//! mark; `clear` sets deletion vectors; compaction writes fragments again without what no read at
//! or after the safe point sees. Versions of the dataset are not kept: they are commits of this
//! store, not timestamps.
//!
//! What is given to Lance, so that it does its best: positions are resolved at write, as in
//! DeltaTree. An index in memory says of every row which version ended it, so no read merges
//! versions or touches the key columns. It costs 16 bytes a row, 8 more where rows were replaced,
//! and an `open` that reads every file once.
//!
//! What is used of Lance: its data files (format 2.1, with its own encodings) and its table format
//! (manifests, fragments, deletion vectors), through its crates `lance-file` and `lance-table`, so
//! any reader of Lance opens a table's folder. The crate `lance` on top (its scanner, DataFusion,
//! indexes, object stores) is not: its writes are not synced, its files have no checksums, and
//! everything it does on a read is done here without a runtime, from mapped bytes.
//!
//! Invariants:
//! * files are durable before the manifest that names them; the manifest is the commit, and holds
//!   the rows' marks;
//! * every byte that is read was checked against a CRC-32 that the manifest holds;
//! * a snapshot never changes: runs are copied when they are written.
//!
//! Limits: a table's fragments are merged in memory by order (24 bytes a row) and column by
//! column; bounds of columns are not kept, so [`damask_deltatree::Prune`] skips nothing; filters
//! and aggregates take their plain form; emptied tables keep their folder.
//!
//! Reading order: `rows`, `file`, `dataset`, `snapshot`, `compact`, `store`.

mod rows;
mod file;
mod dataset;
mod snapshot;
mod compact;
mod store;
#[cfg(test)]
mod tests;

pub use store::{LanceConfig, LanceStore};
