//! Reads: which rows are seen is known in memory; only their columns come from Lance. It must
//! never read a column that nobody asked for.

use crate::file::{FileBatches, HANDLE, OWN};
use crate::rows::{CHUNK, Run, Source, repeated};
use arrow::array::{ArrayRef, BooleanBufferBuilder, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;
use damask_deltatree::{
    BatchIter, ColumnSnapshot, Error, HandleRange, Masked, MaskedIter, Query, Result, ScanRequest,
    plain,
};
use damask_types::{ErrorKind, Timestamp};
use std::ops::Range;
use std::sync::Arc;

/// A table at one moment.
pub(crate) struct LanceSnapshot {
    pub runs: Vec<Arc<Run>>,
}

fn invalid(detail: impl ToString) -> Error {
    Error::new("scan", ErrorKind::Invalid, detail)
}

/// Rows of one run that a part reads.
struct Piece {
    run: Arc<Run>,
    ranges: Vec<Range<usize>>,
}

impl LanceSnapshot {
    /// Pieces with a row that is seen, in about `parts` groups of about as many rows.
    fn split(&self, ranges: &[HandleRange], ts: u64, parts: usize) -> Vec<Vec<Piece>> {
        let mut chunks: Vec<(usize, Range<usize>)> = Vec::new();
        for (number, run) in self.runs.iter().enumerate() {
            for rows in ranges.iter().map(|range| run.rows_in(*range)) {
                let mut start = rows.start;
                while start < rows.end {
                    let end = rows.end.min((start / CHUNK + 1) * CHUNK);
                    if run.visible(start..end, ts).count_set_bits() > 0 {
                        chunks.push((number, start..end));
                    }
                    start = end;
                }
            }
        }
        let total: usize = chunks.iter().map(|(_, rows)| rows.len()).sum();
        let share = total.div_ceil(parts.max(1)).max(1);
        let mut groups: Vec<Vec<Piece>> = Vec::new();
        let (mut filled, mut last) = (share, None);
        for (number, rows) in chunks {
            if filled >= share {
                groups.push(Vec::new());
                (filled, last) = (0, None);
            }
            filled += rows.len();
            let group = groups.last_mut().expect("one was pushed");
            if last != Some(number) {
                group.push(Piece { run: self.runs[number].clone(), ranges: Vec::new() });
                last = Some(number);
            }
            let piece = group.last_mut().expect("one was pushed");
            match piece.ranges.last_mut() {
                Some(before) if before.end == rows.start => before.end = rows.end,
                _ => piece.ranges.push(rows),
            }
        }
        groups
    }

    fn parts(&self, request: &ScanRequest, parts: usize) -> Result<Vec<MaskedIter>> {
        if request.batch_rows == 0 || request.defaults.len() != request.schema.fields().len() {
            return Err(invalid("one default per column and batch_rows above 0 are needed"));
        }
        let request = Arc::new(request.clone());
        let groups = self.split(&request.ranges, request.ts.0, parts);
        let part = |pieces: Vec<Piece>| -> MaskedIter {
            let request = request.clone();
            Box::new(pieces.into_iter().flat_map(move |piece| read(&request, piece)))
        };
        Ok(groups.into_iter().map(part).collect())
    }
}

impl ColumnSnapshot for LanceSnapshot {
    fn scan(&self, request: &ScanRequest, parts: usize) -> Result<Vec<BatchIter>> {
        let compact = |part: MaskedIter| -> BatchIter {
            Box::new(part.map(|masked| plain::compact(masked?)))
        };
        Ok(self.parts(request, parts)?.into_iter().map(compact).collect())
    }

    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64> {
        let of = |run: &Arc<Run>, range: &HandleRange| {
            run.visible(run.rows_in(*range), ts.0).count_set_bits() as u64
        };
        Ok(self.runs.iter().flat_map(|run| ranges.iter().map(|range| of(run, range))).sum())
    }

    fn select(&self, query: &Query, parts: usize) -> Result<Vec<MaskedIter>> {
        match query.filter.is_empty() {
            true => self.parts(&query.scan, parts),
            false => plain::select(self, query, parts),
        }
    }
}

/// Batches of a piece; a failure is the only item then.
fn read(request: &Arc<ScanRequest>, piece: Piece) -> MaskedIter {
    match Reader::open(request.clone(), piece) {
        Ok(reader) => Box::new(reader),
        Err(e) => Box::new(std::iter::once(Err(e))),
    }
}

/// Where a column of a request comes from.
enum Origin {
    Handle,
    /// A column of the batch that was read.
    Read(usize),
    Default,
}

struct Reader {
    request: Arc<ScanRequest>,
    piece: Piece,
    origins: Vec<Origin>,
    /// `None`: no column of the file is needed, or the run is in memory.
    batches: Option<FileBatches>,
    /// Of memory: the columns read.
    memory: Option<RecordBatch>,
    /// The range and the row in it where the next batch begins.
    range: usize,
    row: usize,
}

/// The columns to read, ascending, and where each one of the request is.
fn origins(request: &ScanRequest, shape: &SchemaRef) -> Result<(Vec<usize>, Vec<Origin>)> {
    let mut wanted = Vec::new();
    for field in request.schema.fields().iter().filter(|field| field.name() != HANDLE) {
        if let Some((at, stored)) = shape.column_with_name(field.name()) {
            if stored.data_type() != field.data_type() {
                let (name, have) = (field.name(), stored.data_type());
                return Err(invalid(format!("column {name} is {have}, not {}", field.data_type())));
            }
            wanted.push(at);
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let origin = |name: &String| match shape.index_of(name) {
        _ if name == HANDLE => Origin::Handle,
        Ok(at) => Origin::Read(wanted.binary_search(&at).expect("it is wanted")),
        Err(_) => Origin::Default,
    };
    let origins = request.schema.fields().iter().map(|field| origin(field.name())).collect();
    Ok((wanted, origins))
}

impl Reader {
    fn open(request: Arc<ScanRequest>, piece: Piece) -> Result<Reader> {
        let (wanted, origins) = origins(&request, &piece.run.shape())?;
        let (mut batches, mut memory) = (None, None);
        match &piece.run.source {
            _ if wanted.is_empty() => {}
            Source::Memory(columns) => memory = Some(columns.project(&wanted)?),
            Source::File(file) => {
                let ranges = piece.ranges.iter().map(|r| r.start as u64..r.end as u64).collect();
                let columns: Vec<usize> = wanted.iter().map(|at| at + OWN).collect();
                let rows = u32::try_from(request.batch_rows).unwrap_or(u32::MAX);
                batches = Some(file.read(&columns, ranges, rows)?);
            }
        }
        let row = piece.ranges.first().map_or(0, |range| range.start);
        Ok(Reader { request, piece, origins, batches, memory, range: 0, row })
    }

    /// The next `rows` rows, or those up to the end of their range.
    fn advance(&mut self, rows: usize) -> Option<Range<usize>> {
        let range = self.piece.ranges.get(self.range)?;
        let taken = self.row..range.end.min(self.row + rows);
        self.row = taken.end;
        if taken.end == range.end {
            self.range += 1;
            self.row = self.piece.ranges.get(self.range).map_or(0, |range| range.start);
        }
        Some(taken)
    }

    fn step(&mut self) -> Result<Option<Masked>> {
        let Some(batches) = &mut self.batches else {
            let Some(rows) = self.advance(self.request.batch_rows) else { return Ok(None) };
            let read = self.memory.as_ref().map(|batch| batch.slice(rows.start, rows.len()));
            return self.assemble(read.as_ref(), &[rows]).map(Some);
        };
        let Some(batch) = batches.next().transpose()? else { return Ok(None) };
        let (mut left, mut rows) = (batch.num_rows(), Vec::new());
        while left > 0 {
            let next = self.advance(left).ok_or_else(|| invalid("Lance gives too many rows"))?;
            left -= next.len();
            rows.push(next);
        }
        self.assemble(Some(&batch), &rows).map(Some)
    }

    fn assemble(&self, read: Option<&RecordBatch>, rows: &[Range<usize>]) -> Result<Masked> {
        let len = rows.iter().map(Range::len).sum();
        let column = |(at, origin): (usize, &Origin)| -> Result<ArrayRef> {
            match origin {
                Origin::Handle => Ok(Arc::new(Int64Array::new(self.handles(rows), None))),
                Origin::Read(at) => Ok(read.expect("columns were read").column(*at).clone()),
                Origin::Default => repeated(&self.request.defaults[at], len),
            }
        };
        let columns = self.origins.iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(len));
        let schema = self.request.schema.clone();
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let mask = self.mask(rows);
        let mask = (mask.count_set_bits() < len).then_some(mask);
        Ok(Masked { batch, mask })
    }

    fn handles(&self, rows: &[Range<usize>]) -> ScalarBuffer<i64> {
        match rows {
            [rows] => self.piece.run.handles.slice(rows.start, rows.len()),
            _ => rows
                .iter()
                .flat_map(|r| self.piece.run.handles[r.clone()].iter().copied())
                .collect(),
        }
    }

    fn mask(&self, rows: &[Range<usize>]) -> BooleanBuffer {
        let visible = |rows: &Range<usize>| self.piece.run.visible(rows.clone(), self.request.ts.0);
        if let [rows] = rows {
            return visible(rows);
        }
        let mut mask = BooleanBufferBuilder::new(rows.iter().map(Range::len).sum());
        rows.iter().for_each(|rows| mask.append_buffer(&visible(rows)));
        mask.finish()
    }
}

impl Iterator for Reader {
    type Item = Result<Masked>;

    fn next(&mut self) -> Option<Result<Masked>> {
        loop {
            match self.step() {
                Ok(Some(masked)) if masked.rows() == 0 => {}
                Ok(masked) => return masked.map(Ok),
                Err(e) => {
                    (self.range, self.batches, self.memory) = (usize::MAX, None, None);
                    return Some(Err(e));
                }
            }
        }
    }
}
