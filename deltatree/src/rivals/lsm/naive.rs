//! The naive reader: every row of every run through a heap, versions compared one by one, the rows
//! that are seen gathered by their places. It must never use what the descriptions of chunks know
//! beyond the range of handles.

use super::merge::{Merge, Picked};
use super::run::Run;
use super::scan::{HANDLE, Read, handle_array};
use crate::error::Result;
use crate::store::{HandleRange, Masked, MaskedIter};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::interleave;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The row that a read sees of each handle, ascending.
struct Seen {
    runs: Arc<Vec<Arc<Run>>>,
    ranges: VecDeque<HandleRange>,
    merge: Option<Merge>,
    newest: Option<Picked>,
    ts: u64,
}

impl Seen {
    fn new(runs: &Arc<Vec<Arc<Run>>>, ranges: &[HandleRange], ts: u64) -> Seen {
        let ranges = ranges.iter().copied().filter(|range| range.first <= range.last).collect();
        Seen { runs: runs.clone(), ranges, merge: None, newest: None, ts }
    }

    fn next(&mut self) -> Result<Option<Picked>> {
        loop {
            let Some(merge) = &mut self.merge else {
                let Some(range) = self.ranges.pop_front() else { return Ok(None) };
                self.merge = Some(Merge::new(self.runs.clone(), range)?);
                continue;
            };
            let row = merge.next()?;
            let done = match (&self.newest, &row) {
                (Some(newest), Some(row)) if newest.handle == row.handle => None,
                _ => self.newest.take(),
            };
            match row {
                Some(row) if row.version <= self.ts => self.newest = Some(row),
                Some(_) => {}
                None => self.merge = None,
            }
            if let Some(seen) = done.filter(|seen| !seen.deleted) {
                return Ok(Some(seen));
            }
        }
    }
}

/// Rows that a read sees.
pub(super) fn count(runs: &Arc<Vec<Arc<Run>>>, ranges: &[HandleRange], ts: u64) -> Result<u64> {
    let (mut seen, mut rows) = (Seen::new(runs, ranges, ts), 0);
    while seen.next()?.is_some() {
        rows += 1;
    }
    Ok(rows)
}

/// The batches of a read.
pub(super) fn select(read: Arc<Read>) -> MaskedIter {
    let seen = Seen::new(&read.runs, &read.request.ranges, read.request.ts.0);
    Box::new(Batches { read, seen, is_done: false })
}

struct Batches {
    read: Arc<Read>,
    seen: Seen,
    is_done: bool,
}

impl Batches {
    fn advance(&mut self) -> Result<Option<Masked>> {
        let mut picks = Vec::new();
        while !self.is_done {
            match self.seen.next()? {
                Some(row) => picks.push(row),
                None => self.is_done = true,
            }
            let is_full = picks.len() == self.read.request.batch_rows;
            if is_full || (self.is_done && !picks.is_empty()) {
                if let Some(masked) = gather(&self.read, &picks)? {
                    return Ok(Some(masked));
                }
                picks.clear();
            }
        }
        Ok(None)
    }
}

impl Iterator for Batches {
    type Item = Result<Masked>;

    fn next(&mut self) -> Option<Result<Masked>> {
        let next = self.advance().transpose();
        self.is_done |= matches!(next, Some(Err(_)));
        next
    }
}

fn gather(read: &Read, picks: &[Picked]) -> Result<Option<Masked>> {
    let mut sources: HashMap<(usize, usize), usize> = HashMap::new();
    let mut places = Vec::with_capacity(picks.len());
    for pick in picks {
        let next = sources.len();
        let source = *sources.entry((pick.run, pick.chunk)).or_insert(next);
        places.push((source, pick.row));
    }
    let mut order = vec![(0, 0); sources.len()];
    sources.iter().for_each(|(place, at)| order[*at] = *place);
    let column = |at: usize| -> Result<ArrayRef> {
        if read.request.schema.field(at).name() == HANDLE {
            return Ok(handle_array(picks.iter().map(|pick| pick.handle).collect()));
        }
        let load = |(run, chunk): &(usize, usize)| read.column(&read.runs[*run], *chunk, at);
        let arrays = order.iter().map(load).collect::<Result<Vec<_>>>()?;
        let arrays: Vec<&dyn Array> = arrays.iter().map(|array| &**array).collect();
        Ok(interleave(&arrays, &places)?)
    };
    let columns = read.request.schema.fields().len();
    let arrays = (0..columns).map(column).collect::<Result<Vec<_>>>()?;
    let mask = read.filter.rows(|at| Ok(arrays[at].clone()))?;
    let rows = mask.as_ref().map_or(picks.len(), BooleanBuffer::count_set_bits);
    let mask = mask.filter(|_| rows < picks.len());
    let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
    let schema = read.request.schema.clone();
    let batch = RecordBatch::try_new_with_options(schema, arrays, &options)?;
    Ok((rows > 0).then_some(Masked { batch, mask }))
}
