//! Reads of a list of runs: windows of handles, in each the pieces that are seen, of each piece the
//! columns that were asked for. It must never touch another column before the filter has spoken.

use super::naive;
use super::run::{Column, Run};
use super::visible::{Piece, pieces};
use crate::error::{Error, Result};
use crate::fold::known::Known;
use crate::fold::wide::Next;
use crate::fold::{Folder, Rows};
use crate::plain::compact;
use crate::predicate::{Filter, Rough, same_type};
use crate::store::{
    BatchIter, ColumnSnapshot, Grouping, HandleRange, Masked, MaskedIter, Query, ScanRequest,
};
use crate::tree::bounds::Bounds;
use crate::values::{both, count};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, Scalar, UInt32Array,
};
use arrow::compute::kernels::zip::zip;
use arrow::compute::take;
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// The name that stands for the row's handle.
pub(super) const HANDLE: &str = "handle";
/// Chunks of the largest run in a window: what is merged at a time stays in the L2 cache.
const WINDOW_CHUNKS: usize = 16;

/// A view of a table's runs, oldest first.
pub(super) struct LsmSnapshot {
    pub runs: Arc<Vec<Arc<Run>>>,
    /// Row by row through a heap, instead of galloping with masks.
    pub naive: bool,
}

fn invalid(detail: &str) -> Error {
    Error::new("scan", ErrorKind::Invalid, detail)
}

pub(super) fn check(request: &ScanRequest) -> Result<()> {
    let columns = request.schema.fields().len();
    if request.batch_rows == 0 || request.defaults.len() != columns {
        return Err(invalid("one default per column and batch_rows above 0 are needed"));
    }
    if request.defaults.iter().any(|default| default.len() != 1)
        || request.prune.iter().any(|prune| prune.column >= columns)
    {
        return Err(invalid("a default has one value, and a condition names a column"));
    }
    Ok(())
}

/// Ranges that together are `ranges`, each about `WINDOW_CHUNKS` of the largest run.
fn windows(runs: &[Arc<Run>], ranges: &[HandleRange]) -> Vec<HandleRange> {
    let Some(largest) = runs.iter().max_by_key(|run| run.rows()) else { return Vec::new() };
    let mut windows = Vec::new();
    for range in ranges.iter().filter(|range| range.first <= range.last) {
        let chunks = largest.chunks_in(*range);
        let starts = chunks.skip(WINDOW_CHUNKS).step_by(WINDOW_CHUNKS);
        let mut first = range.first;
        for chunk in starts {
            let next = largest.data.chunks[chunk].first;
            if first < next {
                windows.push(HandleRange { first, last: next - 1 });
                first = next;
            }
        }
        windows.push(HandleRange { first, last: range.last });
    }
    windows
}

impl ColumnSnapshot for LsmSnapshot {
    fn scan(&self, request: &ScanRequest, parts: usize) -> Result<Vec<BatchIter>> {
        let query = Query { scan: request.clone(), filter: Vec::new() };
        let part = |masked: MaskedIter| -> BatchIter {
            Box::new(masked.map(|masked| masked.and_then(compact)))
        };
        Ok(self.select(&query, parts)?.into_iter().map(part).collect())
    }

    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64> {
        if self.naive {
            return naive::count(&self.runs, ranges, ts.0);
        }
        let mut rows = 0;
        for window in windows(&self.runs, ranges) {
            for piece in pieces(&self.runs, window, ts.0)? {
                rows += piece.mask.as_ref().map_or(piece.rows, count);
            }
        }
        Ok(rows as u64)
    }

    fn select(&self, query: &Query, parts: usize) -> Result<Vec<MaskedIter>> {
        check(&query.scan)?;
        let filter = Filter::new(&query.scan.schema, &query.filter)?;
        let read = Arc::new(Read { runs: self.runs.clone(), request: query.scan.clone(), filter });
        if self.naive {
            return Ok(vec![naive::select(read)]);
        }
        let windows = windows(&self.runs, &query.scan.ranges);
        let share = windows.len().div_ceil(parts.max(1)).max(1);
        let part = |windows: &[HandleRange]| -> MaskedIter {
            let (read, windows) = (read.clone(), windows.to_vec().into());
            Box::new(Part { read, windows, pieces: VecDeque::new(), ready: VecDeque::new() })
        };
        Ok(windows.chunks(share).map(part).collect())
    }

    fn aggregate(
        &self,
        query: &Query,
        grouping: &Grouping,
        threads: usize,
    ) -> Result<Option<RecordBatch>> {
        if self.naive || query.scan.schema.fields().is_empty() {
            return crate::plain::aggregate(self, query, grouping, threads);
        }
        check(&query.scan)?;
        let filter = Filter::new(&query.scan.schema, &query.filter)?;
        let read = Read { runs: self.runs.clone(), request: query.scan.clone(), filter };
        let windows = windows(&self.runs, &query.scan.ranges);
        let fold = |windows: &[HandleRange]| read.fold(windows, grouping);
        if threads < 2 {
            return fold(&windows)?.map(Folder::finish).transpose();
        }
        let share = windows.len().div_ceil(threads).max(1);
        let done = Mutex::new(Vec::with_capacity(threads));
        std::thread::scope(|scope| {
            for part in windows.chunks(share) {
                let (fold, done) = (&fold, &done);
                scope.spawn(move || {
                    let folded = fold(part);
                    done.lock().push(folded);
                });
            }
        });
        let mut all = Folder::new(&query.scan.schema, grouping)?;
        for folder in done.into_inner() {
            let Some(folder) = folder? else { return Ok(None) };
            if !all.merge(folder)? {
                return Ok(None);
            }
        }
        all.finish().map(Some)
    }
}

/// One read.
pub(super) struct Read {
    pub runs: Arc<Vec<Arc<Run>>>,
    pub request: ScanRequest,
    pub filter: Filter,
}

/// Some windows of a read.
struct Part {
    read: Arc<Read>,
    windows: VecDeque<HandleRange>,
    pieces: VecDeque<Piece>,
    ready: VecDeque<Masked>,
}

impl Part {
    fn advance(&mut self) -> Result<Option<Masked>> {
        loop {
            if let Some(masked) = self.ready.pop_front() {
                return Ok(Some(masked));
            }
            if let Some(piece) = self.pieces.pop_front() {
                self.pieces.front().iter().for_each(|next| self.read.look_ahead(next));
                self.read.masked(&piece, &mut self.ready)?;
                continue;
            }
            let Some(window) = self.windows.pop_front() else { return Ok(None) };
            self.pieces = pieces(&self.read.runs, window, self.read.request.ts.0)?.into();
        }
    }
}

impl Iterator for Part {
    type Item = Result<Masked>;

    fn next(&mut self) -> Option<Result<Masked>> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.windows.clear();
            self.pieces.clear();
        }
        next
    }
}

/// One value, so many times.
pub(super) fn repeat(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    Ok(take(value, &UInt32Array::from(vec![0; rows]), None)?)
}

impl Read {
    /// Can bounds already say that no row of a chunk matters?
    fn is_pruned(&self, run: &Run, chunk: usize) -> bool {
        let name = |column: usize| self.request.schema.field(column).name();
        let pruned = self.request.prune.iter().any(|prune| {
            let bound = |value: &Option<ArrayRef>| {
                value.as_ref().map_or(Bounds::Unknown, |value| Bounds::of(value))
            };
            let bounds = run.bounds(chunk, name(prune.column));
            bounds.outside(&bound(&prune.min), &bound(&prune.max))
        });
        pruned
            || self.filter.columns().enumerate().any(|(condition, column)| {
                let bounds = run.bounds(chunk, name(column));
                self.filter.rough(condition, bounds) == Rough::Nothing
            })
    }

    /// A column of the request, all rows of a chunk.
    pub fn column(&self, run: &Run, chunk: usize, column: usize) -> Result<ArrayRef> {
        let field = self.request.schema.field(column);
        if field.name() == HANDLE {
            return Ok(Arc::new(run.handles(chunk)?));
        }
        let rows = run.data.chunks[chunk].rows;
        let default = &self.request.defaults[column];
        let found = match run.group(field.name()) {
            Some(group) => run.column(chunk, group)?,
            None => None,
        };
        let Some(Column { values, present }) = found else { return repeat(default, rows) };
        same_type(field.data_type(), values.data_type(), field.name())?;
        match present {
            None => Ok(values),
            Some(present) => {
                let present = BooleanArray::new(present, None);
                Ok(zip(&present, &values, &Scalar::new(default.clone()))?)
            }
        }
    }

    /// Asks memory for what the next piece begins with, as DeltaTree's scan does.
    fn look_ahead(&self, piece: &Piece) {
        let run = &self.runs[piece.run];
        let fields = self.request.schema.fields().iter();
        for group in fields.filter_map(|field| run.group(field.name())) {
            run.next(piece.chunk, group, piece.first).expect();
        }
    }

    /// Folds what is seen in some windows. As DeltaTree does, from a chunk's bounds alone where
    /// its values cannot change the answer. `None`: too many groups.
    fn fold(&self, windows: &[HandleRange], grouping: &Grouping) -> Result<Option<Folder>> {
        let mut folder = Folder::new(&self.request.schema, grouping)?;
        for window in windows {
            let pieces = pieces(&self.runs, *window, self.request.ts.0)?;
            for (at, piece) in pieces.iter().enumerate() {
                if !self.fold_piece(piece, pieces.get(at + 1), &mut folder)? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(folder))
    }

    fn fold_piece(&self, piece: &Piece, next: Option<&Piece>, folder: &mut Folder) -> Result<bool> {
        let run = &self.runs[piece.run];
        if self.is_pruned(run, piece.chunk) {
            return Ok(true);
        }
        let mut columns = Loaded::new(self, piece);
        let mask = both(piece.mask.clone(), self.filter.rows(|at| columns.get(at))?);
        let rows = Rows::of(piece.rows, mask);
        folder.update_known(rows, |at| columns.get(at), &Beside { scan: self, piece, next })
    }

    fn masked(&self, piece: &Piece, out: &mut VecDeque<Masked>) -> Result<()> {
        if self.is_pruned(&self.runs[piece.run], piece.chunk) {
            return Ok(());
        }
        let columns = self.request.schema.fields().len();
        let mut loaded = Loaded::new(self, piece);
        let mut column = |at: usize| loaded.get(at);
        let mask = both(piece.mask.clone(), self.filter.rows(&mut column)?);
        let seen = mask.as_ref().map_or(piece.rows, count);
        if seen == 0 {
            return Ok(());
        }
        let mask = mask.filter(|_| seen < piece.rows);
        let arrays = (0..columns).map(&mut column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(piece.rows));
        let schema = self.request.schema.clone();
        let batch = RecordBatch::try_new_with_options(schema, arrays, &options)?;
        let step = self.request.batch_rows;
        for start in (0..piece.rows).step_by(step) {
            let rows = step.min(piece.rows - start);
            let mask = mask.as_ref().map(|mask| mask.slice(start, rows));
            if mask.as_ref().is_none_or(|mask| count(mask) > 0) {
                let mask = mask.filter(|mask| count(mask) < rows);
                out.push_back(Masked { batch: batch.slice(start, rows), mask });
            }
        }
        Ok(())
    }
}

/// What is known of a piece beside its values, as of DeltaTree's units.
struct Beside<'a> {
    scan: &'a Read,
    piece: &'a Piece,
    next: Option<&'a Piece>,
}

impl Known for Beside<'_> {
    /// Those of the chunk, hidden rows included.
    fn bounds(&self, at: usize, _sought: bool) -> Option<&Bounds> {
        let name = self.scan.request.schema.field(at).name();
        Some(self.scan.runs[self.piece.run].bounds(self.piece.chunk, name))
    }

    fn next(&self, at: usize) -> Next {
        let Some(piece) = self.next else { return Next::default() };
        let run = &self.scan.runs[piece.run];
        let group = run.group(self.scan.request.schema.field(at).name());
        group.map_or(Next::default(), |group| run.next(piece.chunk, group, piece.first))
    }
}

/// The columns of a piece, each read once it is asked for.
struct Loaded<'a> {
    read: &'a Read,
    piece: &'a Piece,
    columns: Vec<Option<ArrayRef>>,
}

impl<'a> Loaded<'a> {
    fn new(read: &'a Read, piece: &'a Piece) -> Loaded<'a> {
        Loaded { read, piece, columns: vec![None; read.request.schema.fields().len()] }
    }

    fn get(&mut self, at: usize) -> Result<ArrayRef> {
        if let Some(column) = &self.columns[at] {
            return Ok(column.clone());
        }
        let Piece { run, chunk, first, rows, .. } = *self.piece;
        let column = self.read.column(&self.read.runs[run], chunk, at)?.slice(first, rows);
        self.columns[at] = Some(column.clone());
        Ok(column)
    }
}

/// The handle column of a batch of picked rows.
pub(super) fn handle_array(handles: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(handles))
}
