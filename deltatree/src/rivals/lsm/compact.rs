//! Universal compaction: which neighbouring runs become one, and how. It must never drop a version
//! that a read at or after the safe point can see, nor a deletion that still hides something.

use super::merge::{Merge, Picked};
use super::pages::{Cause, Change, Loading};
use super::run::{CHUNK_ROWS, Chunk, ChunkMeta, Column, Rows, Run, RunData, Source, USER, gather};
use super::shelf::{Shelf, key, page_key};
use super::{LsmConfig, codec, run};
use crate::error::Result;
use crate::store::HandleRange;
use arrow::array::{BooleanArray, Int64Array, UInt64Array};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Which runs are to become one; `sizes` in rows, oldest first. As RocksDB's universal style: all,
/// if the young ones take too much beside the oldest; young ones of about the same size; the
/// youngest, if there are too many.
pub(super) fn pick(sizes: &[u64], config: &LsmConfig) -> Option<Range<usize>> {
    let count = sizes.len();
    if count < 2 {
        return None;
    }
    let young: u64 = sizes[1..].iter().sum();
    if young * 100 >= sizes[0] * config.size_amplification_percent {
        return Some(0..count);
    }
    if count < config.runs_trigger {
        return None;
    }
    for end in (2..=count).rev() {
        let (mut start, mut total) = (end - 1, sizes[end - 1]);
        while start > 1 && sizes[start - 1] * 100 <= total * (100 + config.size_ratio_percent) {
            start -= 1;
            total += sizes[start];
        }
        if end - start > 1 {
            return Some(start..end);
        }
    }
    (count > config.runs_max).then(|| config.runs_max - 1..count)
}

/// What may be dropped.
#[derive(Clone, Copy)]
pub(super) struct Garbage {
    /// Versions that no read at or after it can see.
    pub safe_point: u64,
    /// Deletions below it hide nothing outside of the runs that are merged.
    pub deletions_below: u64,
}

impl Garbage {
    pub const NONE: Garbage = Garbage { safe_point: 0, deletions_below: 0 };

    /// The versions of one handle, ascending, that stay.
    fn keep(&self, versions: &mut Vec<Picked>) {
        let newest = versions.iter().rposition(|row| row.version <= self.safe_point);
        let Some(newest) = newest else { return };
        let row = versions[newest];
        let is_gone = row.deleted && row.version < self.deletions_below;
        versions.drain(..newest + usize::from(is_gone));
    }
}

/// Runs, oldest first, as rows of about a chunk each; `each` takes them in order.
pub(super) fn merge(
    runs: &[Arc<Run>],
    garbage: Garbage,
    mut each: impl FnMut(Rows) -> Result<()>,
) -> Result<()> {
    let mut merge = Merge::new(Arc::new(runs.to_vec()), HandleRange::ALL)?;
    let (mut picks, mut versions): (Vec<Picked>, Vec<Picked>) = (Vec::new(), Vec::new());
    loop {
        let row = merge.next()?;
        if versions.last().is_some_and(|last| row.is_none_or(|row| row.handle != last.handle)) {
            garbage.keep(&mut versions);
            picks.append(&mut versions);
        }
        if (picks.len() >= CHUNK_ROWS && versions.is_empty()) || row.is_none() {
            if !picks.is_empty() {
                each(rows_of(runs, &picks)?)?;
            }
            picks.clear();
        }
        match row {
            Some(row) => versions.push(row),
            None => return Ok(()),
        }
    }
}

/// The columns' names of all runs.
pub(super) fn names(runs: &[Arc<Run>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in runs.iter().flat_map(|run| &run.data.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn rows_of(runs: &[Arc<Run>], picks: &[Picked]) -> Result<Rows> {
    let mut sources: HashMap<(usize, usize), usize> = HashMap::new();
    let mut order = Vec::new();
    let mut places = Vec::with_capacity(picks.len());
    let mut last = ((usize::MAX, 0), 0);
    for pick in picks {
        let place = (pick.run, pick.chunk);
        if last.0 != place {
            let source = *sources.entry(place).or_insert_with(|| {
                order.push(place);
                order.len() - 1
            });
            last = (place, source);
        }
        places.push((last.1, pick.row));
    }
    let names = names(runs);
    let column = |name: &String| -> Result<Option<Column>> {
        let load = |(run, chunk): &(usize, usize)| match runs[*run].group(name) {
            Some(group) => runs[*run].column(*chunk, group),
            None => Ok(None),
        };
        gather(&order.iter().map(load).collect::<Result<Vec<_>>>()?, &places)
    };
    Ok(Rows {
        handles: Int64Array::from_iter_values(picks.iter().map(|pick| pick.handle)),
        versions: UInt64Array::from_iter_values(picks.iter().map(|pick| pick.version)),
        deleted: BooleanArray::from_iter(picks.iter().map(|pick| Some(pick.deleted))),
        columns: names.iter().map(column).collect::<Result<_>>()?,
        names,
    })
}

/// Puts a run's chunks into pages: large ones past the log, small ones into a commit to come.
pub(super) struct RunWriter<'a> {
    shelf: &'a Arc<Shelf>,
    id: u64,
    names: Vec<String>,
    chunks: Vec<ChunkMeta>,
    loading: Option<Box<dyn Loading + 'a>>,
    changes: Vec<Change>,
    bytes: u64,
}

/// A run in pages, what a commit must add for it, and its bytes.
pub(super) type WrittenRun = (Option<Arc<Run>>, Vec<Change>, u64);

impl<'a> RunWriter<'a> {
    pub fn new(
        shelf: &'a Arc<Shelf>,
        id: u64,
        names: Vec<String>,
        large: Option<Cause>,
    ) -> Result<RunWriter<'a>> {
        let loading = large.map(|cause| shelf.pages.load(cause)).transpose()?;
        let (chunks, changes) = (Vec::new(), Vec::new());
        Ok(RunWriter { shelf, id, names, chunks, loading, changes, bytes: 0 })
    }

    /// Rows behind those before, of the names given to `new`.
    pub fn add(&mut self, rows: &Rows) -> Result<()> {
        for (meta, chunk) in rows.chunks() {
            self.add_chunk(meta, &chunk)?;
        }
        Ok(())
    }

    fn add_chunk(&mut self, meta: ChunkMeta, chunk: &Chunk) -> Result<()> {
        debug_assert_eq!(chunk.len(), usize::from(USER) + self.names.len());
        for (group, page) in run::pages(chunk)? {
            let key = page_key(self.id, self.chunks.len(), group);
            self.bytes += (key.len() + page.len()) as u64;
            match &mut self.loading {
                Some(loading) => loading.put(&key, &page)?,
                None => self.changes.push((key, Some(page))),
            }
        }
        self.chunks.push(meta);
        Ok(())
    }

    /// The run, if it has rows. It counts once its changes are committed.
    pub fn finish(mut self) -> Result<WrittenRun> {
        if self.chunks.is_empty() {
            return Ok((None, Vec::new(), 0));
        }
        let large = self.loading.is_some();
        if let Some(loading) = self.loading.take() {
            loading.finish()?;
        }
        let meta = codec::encode_meta(large, &self.names, &self.chunks);
        self.changes.push((key(b'm', self.id), Some(meta)));
        let data = RunData {
            id: self.id,
            large,
            names: self.names,
            chunks: self.chunks,
            source: Source::Pages(self.shelf.clone()),
            retired: AtomicBool::new(false),
        };
        let run = Arc::new(Run { data: Arc::new(data), cleared: Vec::new() });
        Ok((Some(run), self.changes, self.bytes))
    }
}
