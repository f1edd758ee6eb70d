//! The column store seam: rows arrive as columns with a handle, a version and a delete mark;
//! reads see a table at any timestamp. It knows no region beyond an opaque mark, no lock, no log.
//!
//! Work may be pushed down: `select` filters and hands out masks, `aggregate` folds, `ordered`
//! sorts by handle. Each has a plain form in [`crate::plain`], built on `scan` alone, which is
//! what a store has that knows nothing better.

use crate::error::Result;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, SchemaRef};
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

impl ChangeBatch {
    /// Bytes of the rows as the user sees them: values with their NULL bits and offsets, and 17 a
    /// row for handle, version and delete mark. What write amplification is measured against.
    pub fn bytes(&self) -> u64 {
        let size = |a: &ArrayRef| a.to_data().get_slice_memory_size().unwrap_or(0);
        let columns: usize = self.columns.columns().iter().map(size).sum();
        (columns + self.handles.len() * 17) as u64
    }
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

/// What a predicate asks of one value. NULL passes no test but `Null`. Numbers, dates and times
/// compare as numbers (-0.0 equals 0.0; NaN only differs), strings and bytes byte by byte: a
/// caller with another collation must not push its comparison down.
#[derive(Clone, Debug)]
pub enum Test {
    /// Equal to a one-element array of the column's type, which is not NULL; so are the next.
    Equal(ArrayRef),
    /// Not equal.
    NotEqual(ArrayRef),
    /// Below.
    Less(ArrayRef),
    /// Below or equal.
    LessEqual(ArrayRef),
    /// Above.
    Greater(ArrayRef),
    /// Above or equal.
    GreaterEqual(ArrayRef),
    /// Equal to one of the values of an array of the column's type, none of them NULL.
    In(ArrayRef),
    /// NULL.
    Null,
    /// Anything but NULL.
    NotNull,
}

/// A test of one column.
#[derive(Clone, Debug)]
pub struct Predicate {
    /// Index into [`ScanRequest::schema`].
    pub column: usize,
    /// What its value must pass.
    pub test: Test,
}

/// A scan whose rows must pass every predicate. Unlike [`Prune`], predicates are exact.
#[derive(Clone, Debug)]
pub struct Query {
    /// What to read. It need not repeat the predicates in `prune`.
    pub scan: ScanRequest,
    /// All must hold.
    pub filter: Vec<Predicate>,
}

/// Rows with those among them that count. Rows that do not count may be anything.
#[derive(Clone, Debug)]
pub struct Masked {
    /// The columns of the request.
    pub batch: RecordBatch,
    /// Bit set: the row belongs to the answer. `None`: every row does. Some bit is set.
    pub mask: Option<BooleanBuffer>,
}

impl Masked {
    /// Rows that belong to the answer.
    pub fn rows(&self) -> usize {
        self.mask.as_ref().map_or(self.batch.num_rows(), BooleanBuffer::count_set_bits)
    }
}

/// Masked batches; no order is promised.
pub type MaskedIter = Box<dyn Iterator<Item = Result<Masked>> + Send>;

/// How values of a group become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Rows; with a column, rows where it is not NULL. An `Int64`.
    Count,
    /// Sum of `Int64`, `UInt64` or `Decimal128` as an exact `Decimal128(38, scale)`, of `Float64`
    /// as `Float64` (in no certain order). NULL without values.
    Sum,
    /// Smallest value, in the column's type. NULL without values.
    Min,
    /// Largest value.
    Max,
    /// Sum by count: of whole and decimal numbers as `Decimal128(38, scale + 4)`, rounded half
    /// away from zero, of `Float64` as `Float64`. NULL without values.
    Avg,
}

/// One aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// What is made of the values.
    pub fold: Fold,
    /// Index into [`ScanRequest::schema`]; only `Count` can do without.
    pub column: Option<usize>,
}

/// One value for each row, out of the columns that a [`Derived`] is made of, and how many rows.
pub type Derive = Arc<dyn Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync>;

/// A column made of others of the same rows, by the caller.
#[derive(Clone)]
pub struct Derived {
    /// What it is made of: indexes into [`ScanRequest::schema`] or, behind those, of earlier
    /// derived columns.
    pub inputs: Vec<usize>,
    /// Its type; `Boolean` is good for `keep` alone.
    pub data_type: DataType,
    /// Makes it. Rows that do not belong to the answer may be among those it is given; if it fails
    /// then, it is asked again without them. Only that failure is one of the answer.
    pub derive: Derive,
}

impl std::fmt::Debug for Derived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Derived({} of {:?})", self.data_type, self.inputs)
    }
}

/// What is to be folded, and by what.
#[derive(Clone, Debug, Default)]
pub struct Grouping {
    /// Columns made of the request's, which stand behind those for `keep`, `groups` and
    /// `aggregates`; as fields they are named `d0`, `d1`, ...
    pub derived: Vec<Derived>,
    /// A derived column of truths: only rows where it is true are folded.
    pub keep: Option<usize>,
    /// Columns whose values make a group, as indexes into [`ScanRequest::schema`]; NULLs are
    /// equal. None: all rows are one group, which is there even without a row.
    pub groups: Vec<usize>,
    /// The aggregates.
    pub aggregates: Vec<Aggregate>,
    /// More groups than this are not folded here: the answer is `None`, and the caller scans.
    pub groups_max: usize,
}

/// Bytes handed to the disk since the store was opened, by cause; `applied` is what the caller
/// handed to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows given to `apply` and `ingest`, by [`ChangeBatch::bytes`].
    pub applied: u64,
    /// Appended to a log, which is replayed at open.
    pub log: u64,
    /// Written from memory into sorted or columnar files for the first time.
    pub flush: u64,
    /// Rewritten by compaction among new data (minor compaction, small runs).
    pub compaction: u64,
    /// Rewritten by merging new data into old (delta into stable, the largest run).
    pub merge: u64,
    /// Lists of files.
    pub manifest: u64,
}

impl Written {
    /// All bytes that went to the disk.
    pub fn total(&self) -> u64 {
        self.log + self.flush + self.compaction + self.merge + self.manifest
    }

    /// Bytes on disk per byte applied; `None` before the first.
    pub fn amplification(&self) -> Option<f64> {
        (self.applied > 0).then(|| self.total() as f64 / self.applied as f64)
    }
}

/// Sorted rows for `ingest`: ascending by (handle, version) over all batches.
pub type RowsIter<'a> = &'a mut dyn Iterator<Item = Result<ChangeBatch>>;

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
    /// Puts sorted rows in the place of all that a range holds (a snapshot, a bulk load): like
    /// `clear`, then `apply` of each batch, and durable like them after `sync`, but a store may
    /// spare the detour through its delta. Rows outside of the range are `Invalid`. After an
    /// error the range holds some of the rows.
    fn ingest(&self, table: TableId, range: HandleRange, rows: RowsIter<'_>) -> Result<()> {
        crate::plain::ingest(self, table, range, rows)
    }
    /// Bytes written since it was opened; zeros if it does not count.
    fn written(&self) -> Written {
        Written::default()
    }
}

/// A consistent view of one table.
pub trait ColumnSnapshot: Send + Sync {
    /// Splits a scan into parts that may run in parallel: at most about `parts` iterators, which
    /// together return each visible row once.
    fn scan(&self, request: &ScanRequest, parts: usize) -> Result<Vec<BatchIter>>;
    /// Rows visible at `ts`, without reading columns.
    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64>;
    /// Like `scan`, of the rows that pass the filter; masks stand in for copies. A batch has at
    /// most `batch_rows` rows, those that do not count included.
    fn select(&self, query: &Query, parts: usize) -> Result<Vec<MaskedIter>> {
        crate::plain::select(self, query, parts)
    }
    /// Like `scan`, of the rows that pass the filter, ascending by handle.
    fn ordered(&self, query: &Query) -> Result<BatchIter> {
        crate::plain::ordered(self, query)
    }
    /// Folds the rows that pass the filter, on up to `threads` threads: the groups' columns (as
    /// in the request's schema), then one column per aggregate (named `a0`, `a1`, ...); one row
    /// per group, ascending by the groups' values, NULL first. `None`: too many groups. A sum
    /// that does not fit its type is `Invalid`.
    fn aggregate(
        &self,
        query: &Query,
        grouping: &Grouping,
        threads: usize,
    ) -> Result<Option<RecordBatch>> {
        crate::plain::aggregate(self, query, grouping, threads)
    }
}
