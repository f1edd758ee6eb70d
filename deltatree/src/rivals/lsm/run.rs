//! A sorted run: chunks of about 8,192 rows, ascending by (handle, version), a page per column;
//! in memory or in pages. All versions of a handle are in one chunk of a run. It must never change
//! once it is made: what is cleared from it is noted beside it.

use super::codec;
use super::shelf::Shelf;
use crate::error::{Error, Result};
use crate::fold::wide::Next;
use crate::store::{ChangeBatch, HandleRange};
use crate::tree::bounds::Bounds;
use crate::values::Values;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, Int64Array, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{interleave, take};
use arrow::datatypes::{Int64Type, UInt64Type};
use damask_types::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows after which a chunk ends, once the handle changes.
pub(super) const CHUNK_ROWS: usize = 8192;

/// Groups of pages: three hidden columns, then the user's in the order of their names.
pub(super) const HANDLES: u16 = 0;
pub(super) const VERSIONS: u16 = 1;
pub(super) const DELETED: u16 = 2;
pub(super) const USER: u16 = 3;

/// Values of one column of a chunk.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub values: ArrayRef,
    /// Bit unset: the row was written without the column. `None`: with it, every row.
    pub present: Option<BooleanBuffer>,
}

/// What is known of a chunk without reading it.
#[derive(Clone, Debug)]
pub(super) struct ChunkMeta {
    pub rows: usize,
    pub first: i64,
    pub last: i64,
    pub min_version: u64,
    pub max_version: u64,
    /// No handle is there twice.
    pub single: bool,
    pub has_deleted: bool,
    /// One per name of the run; `Unknown` where rows lack the column.
    pub bounds: Vec<Bounds>,
}

/// A chunk in memory, by group; a column that no row has is `None`.
pub(super) type Chunk = Vec<Option<Column>>;

/// Where the chunks are.
pub(super) enum Source {
    Memory(Vec<Chunk>),
    Pages(Arc<Shelf>),
}

/// What a run holds.
pub(super) struct RunData {
    pub id: u64,
    /// Its pages were loaded as a file, past the log.
    pub large: bool,
    pub names: Vec<String>,
    pub chunks: Vec<ChunkMeta>,
    pub source: Source,
    /// In no list any more: its pages go with the last reader.
    pub retired: AtomicBool,
}

impl Drop for RunData {
    fn drop(&mut self) {
        if let (true, Source::Pages(shelf)) = (self.retired.load(Ordering::Acquire), &self.source) {
            shelf.discard(self.id, self.large);
        }
    }
}

/// A run and what was cleared from it.
#[derive(Clone)]
pub(super) struct Run {
    pub data: Arc<RunData>,
    pub cleared: Vec<HandleRange>,
}

impl Run {
    pub fn rows(&self) -> usize {
        self.data.chunks.iter().map(|chunk| chunk.rows).sum()
    }

    /// Bytes in memory, about.
    pub fn bytes(&self) -> u64 {
        let Source::Memory(chunks) = &self.data.source else { return 0 };
        let size = |c: &Column| c.values.to_data().get_slice_memory_size().unwrap_or(0) as u64;
        chunks.iter().flatten().flatten().map(size).sum()
    }

    pub fn min_version(&self) -> u64 {
        self.data.chunks.iter().map(|chunk| chunk.min_version).min().unwrap_or(u64::MAX)
    }

    /// May it hold rows of a range?
    pub fn overlaps(&self, range: HandleRange) -> bool {
        let (first, last) = (self.data.chunks.first(), self.data.chunks.last());
        match (first, last) {
            (Some(first), Some(last)) => first.first <= range.last && range.first <= last.last,
            _ => false,
        }
    }

    /// The chunks that may hold rows of a range.
    pub fn chunks_in(&self, range: HandleRange) -> std::ops::Range<usize> {
        let chunks = &self.data.chunks;
        let start = chunks.partition_point(|chunk| chunk.last < range.first);
        let end = chunks.partition_point(|chunk| chunk.first <= range.last);
        start..end.max(start)
    }

    /// A column of a chunk by group; `None`: no row of the chunk has it.
    pub fn column(&self, chunk: usize, group: u16) -> Result<Option<Column>> {
        match &self.data.source {
            Source::Memory(chunks) => Ok(chunks[chunk][usize::from(group)].clone()),
            Source::Pages(shelf) => shelf.column(self.data.id, self.data.large, chunk, group),
        }
    }

    /// Where the values of a chunk in memory are, from a row on.
    pub fn next(&self, chunk: usize, group: u16, first: usize) -> Next {
        let Source::Memory(chunks) = &self.data.source else { return Next::default() };
        let Some(column) = &chunks[chunk][usize::from(group)] else { return Next::default() };
        match Values::of(&column.values) {
            Ok(Values::I64(values)) => Next::of(&values[first..]),
            _ => Next::default(),
        }
    }

    fn hidden(&self, chunk: usize, group: u16) -> Result<ArrayRef> {
        let column = self.column(chunk, group)?;
        let missing = || {
            let detail = format!("run {} lacks page {chunk} of group {group}", self.data.id);
            Error::new("read", ErrorKind::Corrupt, detail)
        };
        Ok(column.ok_or_else(missing)?.values)
    }

    pub fn handles(&self, chunk: usize) -> Result<Int64Array> {
        Ok(self.hidden(chunk, HANDLES)?.as_primitive::<Int64Type>().clone())
    }

    pub fn versions(&self, chunk: usize) -> Result<UInt64Array> {
        Ok(self.hidden(chunk, VERSIONS)?.as_primitive::<UInt64Type>().clone())
    }

    pub fn deleted(&self, chunk: usize) -> Result<BooleanArray> {
        Ok(self.hidden(chunk, DELETED)?.as_boolean().clone())
    }

    /// The group of a column, if the run has it.
    pub fn group(&self, name: &str) -> Option<u16> {
        let at = self.data.names.iter().position(|have| have == name)?;
        Some(USER + at as u16)
    }

    /// The bounds of a chunk's column.
    pub fn bounds(&self, chunk: usize, name: &str) -> &Bounds {
        let at = self.data.names.iter().position(|have| have == name);
        at.map_or(&Bounds::Unknown, |at| &self.data.chunks[chunk].bounds[at])
    }
}

/// Sorted rows without doubles, on their way into a run.
pub(super) struct Rows {
    pub handles: Int64Array,
    pub versions: UInt64Array,
    pub deleted: BooleanArray,
    pub names: Vec<String>,
    pub columns: Vec<Option<Column>>,
}

impl Rows {
    /// A batch in order; of a (handle, version) that is there twice the first row counts.
    pub fn sorted(batch: &ChangeBatch) -> Result<Rows> {
        let rows = batch.handles.len();
        let lengths = [batch.versions.len(), batch.deleted.len(), batch.columns.num_rows()];
        if lengths.iter().any(|len| *len != rows) || rows > u32::MAX as usize {
            let detail = "columns of different lengths";
            return Err(Error::new("apply", ErrorKind::Invalid, detail));
        }
        let names: Vec<String> =
            batch.columns.schema().fields().iter().map(|f| f.name().clone()).collect();
        let whole = |values: &ArrayRef| Some(Column { values: values.clone(), present: None });
        let (handles, versions) = (batch.handles.values(), batch.versions.values());
        let key = |row: usize| (handles[row], versions[row]);
        let (versions, deleted) = (batch.versions.clone(), batch.deleted.clone());
        if (1..rows).all(|row| key(row - 1) < key(row)) {
            let columns = batch.columns.columns().iter().map(whole).collect();
            return Ok(Rows { handles: batch.handles.clone(), versions, deleted, names, columns });
        }
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_by_key(|row| key(*row as usize));
        order.dedup_by_key(|row| key(*row as usize));
        let order = UInt32Array::from(order);
        let pick = |array: &dyn Array| take(array, &order, None);
        let columns = batch.columns.columns().iter().map(|c| Ok(whole(&pick(c)?)));
        Ok(Rows {
            handles: pick(&batch.handles)?.as_primitive::<Int64Type>().clone(),
            versions: pick(&versions)?.as_primitive::<UInt64Type>().clone(),
            deleted: pick(&deleted)?.as_boolean().clone(),
            names,
            columns: columns.collect::<Result<_>>()?,
        })
    }

    /// Cuts them into chunks; no handle is in two.
    pub fn chunks(&self) -> Vec<(ChunkMeta, Chunk)> {
        let handles = self.handles.values();
        let (mut chunks, mut start) = (Vec::new(), 0);
        while start < handles.len() {
            let left = handles.len() - start;
            let rows = if left <= CHUNK_ROWS + CHUNK_ROWS / 4 { left } else { CHUNK_ROWS };
            let mut end = start + rows;
            while end < handles.len() && handles[end] == handles[end - 1] {
                end += 1;
            }
            chunks.push(self.chunk(start, end - start));
            start = end;
        }
        chunks
    }

    fn chunk(&self, start: usize, len: usize) -> (ChunkMeta, Chunk) {
        let handles = self.handles.slice(start, len);
        let versions = self.versions.slice(start, len);
        let deleted = self.deleted.slice(start, len);
        let cut = |column: &Option<Column>| {
            let column = column.as_ref()?;
            let present = column.present.as_ref().map(|bits| bits.slice(start, len));
            let present = present.filter(|bits| bits.count_set_bits() < len);
            (present.as_ref().is_none_or(|bits| bits.count_set_bits() > 0))
                .then(|| Column { values: column.values.slice(start, len), present })
        };
        let columns: Vec<_> = self.columns.iter().map(cut).collect();
        let bounds = |column: &Option<Column>| match column {
            Some(Column { values, present: None }) => Bounds::of(values),
            _ => Bounds::Unknown,
        };
        let meta = ChunkMeta {
            rows: len,
            first: handles.value(0),
            last: handles.value(len - 1),
            min_version: versions.values().iter().copied().min().unwrap_or(0),
            max_version: versions.values().iter().copied().max().unwrap_or(0),
            single: handles.values().windows(2).all(|pair| pair[0] != pair[1]),
            has_deleted: deleted.values().count_set_bits() > 0,
            bounds: columns.iter().map(bounds).collect(),
        };
        let hidden = |values: ArrayRef| Some(Column { values, present: None });
        let mut chunk =
            vec![hidden(Arc::new(handles)), hidden(Arc::new(versions)), hidden(Arc::new(deleted))];
        chunk.extend(columns);
        (meta, chunk)
    }

    /// A run in memory.
    pub fn into_run(self) -> Run {
        in_memory(self.names.clone(), self.chunks())
    }
}

/// A run in memory of chunks that are ascending.
pub(super) fn in_memory(names: Vec<String>, chunks: Vec<(ChunkMeta, Chunk)>) -> Run {
    let (chunks, memory) = chunks.into_iter().unzip();
    let (source, retired) = (Source::Memory(memory), AtomicBool::new(false));
    let data = RunData { id: 0, large: false, names, chunks, source, retired };
    Run { data: Arc::new(data), cleared: Vec::new() }
}

/// A run in memory with more chunks behind its own.
pub(super) fn grown(run: &Run, more: Vec<(ChunkMeta, Chunk)>) -> Run {
    let old = match &run.data.source {
        Source::Memory(chunks) => chunks.clone(),
        Source::Pages(_) => Vec::new(),
    };
    let old = run.data.chunks.iter().cloned().zip(old);
    in_memory(run.data.names.clone(), old.chain(more).collect())
}

/// Pages of a chunk: group, bytes.
pub(super) fn pages(chunk: &Chunk) -> Result<Vec<(u16, Vec<u8>)>> {
    let present = chunk.iter().enumerate().filter_map(|(at, c)| Some((at as u16, c.as_ref()?)));
    present.map(|(group, column)| Ok((group, codec::encode_column(column)?))).collect()
}

/// Rows of several chunks in one column: `picks` are (index into `sources`, row).
pub(super) fn gather(
    sources: &[Option<Column>],
    picks: &[(usize, usize)],
) -> Result<Option<Column>> {
    let Some(some) = sources.iter().flatten().next() else { return Ok(None) };
    let data_type = some.values.data_type().clone();
    if let Some(other) = sources.iter().flatten().find(|c| *c.values.data_type() != data_type) {
        let detail = format!("a column is {data_type} and {}", other.values.data_type());
        return Err(Error::new("maintain", ErrorKind::Invalid, detail));
    }
    let null = new_null_array(&data_type, 1);
    let arrays: Vec<&dyn Array> =
        sources.iter().map(|c| c.as_ref().map_or(&*null, |c| &*c.values)).collect();
    let mixed = sources.iter().any(|c| c.as_ref().is_none_or(|c| c.present.is_some()));
    if !mixed {
        return Ok(Some(Column { values: interleave(&arrays, picks)?, present: None }));
    }
    let mut present = BooleanBufferBuilder::new(picks.len());
    let mut rows = Vec::with_capacity(picks.len());
    for (source, row) in picks {
        let column = sources[*source].as_ref();
        let has = column.is_some_and(|c| c.present.as_ref().is_none_or(|bits| bits.value(*row)));
        present.append(has);
        // a source without the column is one NULL
        rows.push((*source, if column.is_some() { *row } else { 0 }));
    }
    Ok(Some(Column { values: interleave(&arrays, &rows)?, present: Some(present.finish()) }))
}
