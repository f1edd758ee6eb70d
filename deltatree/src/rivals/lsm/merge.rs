//! Runs as one ascending stream of (handle, version), row by row through a heap. It must never
//! give a (handle, version) twice: the oldest run's row counts.

use super::run::Run;
use crate::error::Result;
use crate::store::HandleRange;
use arrow::array::{BooleanArray, Int64Array, UInt64Array};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Picked {
    pub handle: i64,
    pub version: u64,
    pub deleted: bool,
    pub run: usize,
    pub chunk: usize,
    pub row: usize,
}

/// The open chunk of a run.
struct Cursor {
    chunk: usize,
    row: usize,
    handles: Int64Array,
    versions: UInt64Array,
    deleted: BooleanArray,
}

/// The rows of runs in a range, merged.
pub(super) struct Merge {
    runs: Arc<Vec<Arc<Run>>>,
    range: HandleRange,
    cursors: Vec<Option<Cursor>>,
    heap: BinaryHeap<Reverse<(i64, u64, usize)>>,
    last: Option<(i64, u64)>,
}

fn open(run: &Run, chunk: usize, range: HandleRange) -> Result<Option<Cursor>> {
    let Some(meta) = run.data.chunks.get(chunk).filter(|meta| meta.first <= range.last) else {
        return Ok(None);
    };
    let handles = run.handles(chunk)?;
    let row = match meta.first < range.first {
        true => handles.values().partition_point(|handle| *handle < range.first),
        false => 0,
    };
    let (versions, deleted) = (run.versions(chunk)?, run.deleted(chunk)?);
    Ok(Some(Cursor { chunk, row, handles, versions, deleted }))
}

impl Merge {
    pub fn new(runs: Arc<Vec<Arc<Run>>>, range: HandleRange) -> Result<Merge> {
        let open_first = |run: &Arc<Run>| open(run, run.chunks_in(range).start, range);
        let cursors = runs.iter().map(open_first).collect::<Result<Vec<_>>>()?;
        let mut merge = Merge { runs, range, cursors, heap: BinaryHeap::new(), last: None };
        for run in 0..merge.runs.len() {
            merge.push(run)?;
        }
        Ok(merge)
    }

    /// Puts the run's row into the heap, behind rows that were cleared.
    fn push(&mut self, run: usize) -> Result<()> {
        while let Some(cursor) = &mut self.cursors[run] {
            if cursor.row == cursor.handles.len() {
                let next = cursor.chunk + 1;
                self.cursors[run] = open(&self.runs[run], next, self.range)?;
                continue;
            }
            let handle = cursor.handles.value(cursor.row);
            if handle > self.range.last {
                self.cursors[run] = None;
                return Ok(());
            }
            let cleared = &self.runs[run].cleared;
            if cleared.iter().any(|range| range.first <= handle && handle <= range.last) {
                cursor.row += 1;
                continue;
            }
            let version = cursor.versions.value(cursor.row);
            self.heap.push(Reverse((handle, version, run)));
            return Ok(());
        }
        Ok(())
    }

    /// The next row.
    pub fn next(&mut self) -> Result<Option<Picked>> {
        while let Some(Reverse((handle, version, run))) = self.heap.pop() {
            let cursor = self.cursors[run].as_mut().expect("a run in the heap has a cursor");
            let (chunk, row) = (cursor.chunk, cursor.row);
            let deleted = cursor.deleted.value(row);
            cursor.row += 1;
            self.push(run)?;
            if self.last != Some((handle, version)) {
                self.last = Some((handle, version));
                return Ok(Some(Picked { handle, version, deleted, run, chunk, row }));
            }
        }
        Ok(None)
    }
}
