//! The column store seam: rows arrive as columns with a handle, a version and a delete mark;
//! reads see a table at any timestamp. It knows no region beyond an opaque mark, no lock, no log.

use crate::error::Result;
use arrow::array::{BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use damask_types::{TableId, Timestamp};
use std::sync::Arc;

/// Committed row versions of one table, column-wise. Any order; duplicates of a
/// (handle, version) that was applied before are legal and change nothing.
#[derive(Clone, Debug)]
pub struct ChangeBatch {
    /// Which table.
    pub table: TableId,
    /// Row handles.
    pub handles: Int64Array,
    /// Commit timestamps.
    pub versions: UInt64Array,
    /// True: the row was deleted at that version; its columns then hold nulls or defaults.
    pub deleted: BooleanArray,
    /// User columns, named by column id in decimal (`"3"`), all nullable. A column that is
    /// missing here but asked for by a read takes the read's default.
    pub columns: RecordBatch,
}

/// Opaque bytes of the caller, one per key, durable together with the rows they speak of.
pub type Mark = (u64, Vec<u8>);

/// Handles `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleRange {
    /// First handle inside.
    pub first: i64,
    /// Last handle inside.
    pub last: i64,
}

impl HandleRange {
    /// Every handle.
    pub const ALL: HandleRange = HandleRange { first: i64::MIN, last: i64::MAX };
}

/// A comparison of one column with a constant, used only to skip packs: rows that do not match
/// may still be returned.
#[derive(Clone, Debug)]
pub struct Prune {
    /// Index into [`ScanRequest::schema`].
    pub column: usize,
    /// Smallest value that can match; a one-element array of the column's type.
    pub min: Option<arrow::array::ArrayRef>,
    /// Largest value that can match.
    pub max: Option<arrow::array::ArrayRef>,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// Ranges of handles, ascending, not overlapping.
    pub ranges: Vec<HandleRange>,
    /// The version to read at.
    pub ts: Timestamp,
    /// Columns to return, named by column id in decimal, with their types. The name `"handle"`
    /// stands for the row's handle.
    pub schema: SchemaRef,
    /// For each column, the value of rows written without it: a one-element array, null for NULL.
    pub defaults: Vec<arrow::array::ArrayRef>,
    /// Conditions that may skip packs.
    pub prune: Vec<Prune>,
    /// Rows in a returned batch, at most.
    pub batch_rows: usize,
}

/// Batches of a scan; no order is promised.
pub type BatchIter = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// How large a table is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Rows in the stable space.
    pub stable_rows: u64,
    /// Rows in the delta.
    pub delta_rows: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
}

/// Columns that accept writes.
pub trait ColumnStore: Send + Sync + 'static {
    /// Makes the rows visible to snapshots taken after it returns; durable after `sync`.
    fn apply(&self, batch: &ChangeBatch) -> Result<()>;
    /// Physically removes every version in a range (a replica left, or a snapshot replaces it);
    /// open snapshots keep what they saw.
    fn clear(&self, table: TableId, range: HandleRange) -> Result<()>;
    /// All that `apply` and `clear` did before this call is durable when it returns, and with it,
    /// atomically, `marks`: each replaces the earlier mark of its key; empty bytes remove it.
    fn sync(&self, marks: &[Mark]) -> Result<()>;
    /// The marks of the last completed `sync`. After a crash the rows are those of that `sync` too,
    /// or newer ones (then `apply` will see duplicates).
    fn marks(&self) -> Result<Vec<Mark>>;
    /// A consistent view of one table; an unknown table is empty.
    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>>;
    /// Background work (merge of delta into stable, file removal) within a budget of bytes
    /// written; versions that no read at or after `safe_point` can see may go. True: more to do.
    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> Result<bool>;
    /// Sizes.
    fn stats(&self, table: TableId) -> Result<TableStats>;
}

/// A consistent view of one table.
pub trait ColumnSnapshot: Send + Sync {
    /// Splits a scan into parts that may run in parallel: at most about `parts` iterators, which
    /// together return each visible row once.
    fn scan(&self, request: &ScanRequest, parts: usize) -> Result<Vec<BatchIter>>;
    /// Rows visible at `ts`, without reading columns.
    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64>;
}
