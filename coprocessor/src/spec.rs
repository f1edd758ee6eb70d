//! The wire of the read path: what is asked of one region, and what comes back. Plain values;
//! nothing here reads.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use damask_deltatree::{Grouping, Masked, Predicate};
use damask_types::{
    ColumnId, Epoch, ErrorKind, IndexId, KeyLock, KeyRange, RegionId, TableSchema, Timestamp,
};
use datafusion::physical_plan::metrics::Time;
use std::sync::Arc;

/// Which region, as the sender knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionContext {
    /// The region.
    pub region: RegionId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Where rows are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Row keys of the row engine.
    Rows,
    /// Entries of an index; only its columns and the handle can be asked for.
    Index(IndexId),
    /// The column store.
    Columns,
}

impl Source {
    /// As `EXPLAIN` names it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Rows => "row",
            Source::Index(_) => "index",
            Source::Columns => "column",
        }
    }
}

/// A column of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScanColumn {
    /// The row's handle, as Int64.
    Handle,
    /// A column of the table.
    Column(ColumnId),
}

/// Bounds of one column, used only to skip data: rows outside may still come back.
#[derive(Clone, Debug)]
pub struct PruneBound {
    /// Index into [`ScanSpec::columns`].
    pub column: usize,
    /// Smallest value that can match: a one-element array of the column's type.
    pub min: Option<ArrayRef>,
    /// Largest value that can match.
    pub max: Option<ArrayRef>,
}

/// What to read, the same for every region of a scan.
#[derive(Clone, Debug)]
pub struct ScanSpec {
    /// The table, at the schema version of the statement.
    pub table: Arc<TableSchema>,
    /// From where.
    pub source: Source,
    /// What. Empty: only how many rows there are (batches without columns).
    pub columns: Vec<ScanColumn>,
    /// The answer's fields, one for each of `columns`.
    pub schema: SchemaRef,
    /// The version.
    pub ts: Timestamp,
    /// May skip data.
    pub prune: Vec<PruneBound>,
    /// Rows of one part, at most.
    pub limit: Option<usize>,
    /// Rows of one batch, at most.
    pub batch_rows: usize,
    /// Parts that one region should be split into, about.
    pub parts: usize,
}

/// What is folded beside the data.
#[derive(Clone, Debug)]
pub struct FoldWork {
    /// All must hold; columns are those of the spec, with its types.
    pub filter: Vec<Predicate>,
    /// Columns below the number of the spec's are those; what derived columns are made of has the
    /// spec's types too.
    pub grouping: Grouping,
    /// Where a store adds up how long it waited until it had all that is to be folded.
    pub waited: Time,
}

/// Why an endpoint did not answer.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// About the region: reroute or retry.
    #[error(transparent)]
    Region(#[from] damask_raftstore::Error),
    /// Locks in the way: resolve them, then ask again.
    #[error("{} locks are in the way", .0.len())]
    Locked(Vec<KeyLock>),
    /// The store failed.
    #[error("{detail} ({kind:?})")]
    Storage {
        /// What the caller must do.
        kind: ErrorKind,
        /// The cause in words.
        detail: String,
    },
}

impl EndpointError {
    /// A failure of the store.
    pub fn storage(kind: ErrorKind, detail: impl ToString) -> EndpointError {
        EndpointError::Storage { kind, detail: detail.to_string() }
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EndpointError::Region(e) => e.kind(),
            EndpointError::Locked(_) => ErrorKind::ResolveLock,
            EndpointError::Storage { kind, .. } => *kind,
        }
    }
}

impl From<damask_kv::Error> for EndpointError {
    fn from(e: damask_kv::Error) -> EndpointError {
        EndpointError::storage(e.kind(), e)
    }
}

impl From<damask_deltatree::Error> for EndpointError {
    fn from(e: damask_deltatree::Error) -> EndpointError {
        EndpointError::storage(e.kind(), e)
    }
}

impl From<damask_types::codec::DecodeError> for EndpointError {
    fn from(e: damask_types::codec::DecodeError) -> EndpointError {
        EndpointError::storage(ErrorKind::Corrupt, e)
    }
}

impl From<arrow::error::ArrowError> for EndpointError {
    fn from(e: arrow::error::ArrowError) -> EndpointError {
        EndpointError::storage(ErrorKind::Invalid, e)
    }
}

/// Batches of one part of a region, in no promised order. A part never meets a lock.
pub type Part = Box<dyn Iterator<Item = Result<RecordBatch, EndpointError>> + Send>;

/// Masked batches of one part of a region, in no promised order. A part never meets a lock.
pub type MaskedPart = Box<dyn Iterator<Item = Result<Masked, EndpointError>> + Send>;

/// A store's read side. What it can do beyond handing out rows it says by its answers: `None` is
/// "no better than `open`", and the caller does the work itself.
pub trait Endpoint: Send + Sync + 'static {
    /// Opens a consistent view of part of a region at `spec.ts` and returns parts which together
    /// give each visible row of `ranges` (ascending, not overlapping, all inside the region) once.
    /// Blocks while the region catches up.
    fn open(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, EndpointError>;

    /// As `open`, of the rows that pass `filter` (whose columns are those of the spec, with its
    /// types); masks stand in for copies.
    fn select(
        &self,
        _context: RegionContext,
        _ranges: &[KeyRange],
        _spec: &Arc<ScanSpec>,
        _filter: &[Predicate],
    ) -> Result<Option<Vec<MaskedPart>>, EndpointError> {
        Ok(None)
    }

    /// As `select`, ascending by handle, in one part.
    fn ordered(
        &self,
        _context: RegionContext,
        _ranges: &[KeyRange],
        _spec: &Arc<ScanSpec>,
        _filter: &[Predicate],
    ) -> Result<Option<Part>, EndpointError> {
        Ok(None)
    }

    /// The rows that pass the filter, folded: columns as [`damask_deltatree::ColumnSnapshot`]'s
    /// `aggregate` gives them. `None` also where that gives up: too many groups, or a sum or a
    /// derived column that cannot be made so.
    fn fold(
        &self,
        _context: RegionContext,
        _ranges: &[KeyRange],
        _spec: &Arc<ScanSpec>,
        _work: &FoldWork,
    ) -> Result<Option<RecordBatch>, EndpointError> {
        Ok(None)
    }
}
