//! Sorted rows with what reads need of them in memory: handle, version, delete mark, and the
//! version that ended each row. It must never touch a disk: columns stay with their source.

use crate::file::DataFile;
use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
    UInt64Array,
};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::{interleave, take, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use damask_deltatree::{ChangeBatch, Error, HandleRange, Result};
use damask_types::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

/// Rows that share one copy-on-write block of ends.
pub(crate) const CHUNK: usize = 8192;
/// The end of a row that nothing has replaced.
const OPEN: u64 = u64::MAX;

/// Where the columns of a run are.
#[derive(Clone)]
pub(crate) enum Source {
    /// In memory: the user columns, in the order of the run.
    Memory(RecordBatch),
    /// In a data file of the dataset.
    File(Arc<DataFile>),
}

/// Rows ascending by (handle, version), each key once. A change makes a copy of what it changes.
#[derive(Clone)]
pub(crate) struct Run {
    pub handles: ScalarBuffer<i64>,
    pub versions: ScalarBuffer<u64>,
    pub deleted: BooleanBuffer,
    pub newest: u64,
    /// By chunk: the version that replaced a row, or `OPEN`; `None`: no row was replaced.
    ends: Vec<Option<Arc<Vec<u64>>>>,
    /// Set: physically removed.
    pub dead: Option<BooleanBuffer>,
    /// The deletion vector on disk is not `dead`.
    pub dead_changed: bool,
    pub source: Source,
}

/// A row of one of several runs.
pub(crate) type Place = (u32, u32);

fn invalid(detail: &str) -> Error {
    Error::new("apply", ErrorKind::Invalid, detail)
}

impl Run {
    pub fn new(
        handles: ScalarBuffer<i64>,
        versions: ScalarBuffer<u64>,
        deleted: BooleanBuffer,
        source: Source,
    ) -> Run {
        let newest = versions.iter().copied().max().unwrap_or(0);
        let ends = vec![None; handles.len().div_ceil(CHUNK)];
        Run { handles, versions, deleted, newest, ends, dead: None, dead_changed: false, source }
    }

    /// Of a batch in any order; of a key that comes twice the first row counts.
    pub fn sorted(batch: &ChangeBatch) -> Result<Run> {
        let rows = batch.handles.len();
        let lengths = [batch.versions.len(), batch.deleted.len(), batch.columns.num_rows()];
        if lengths.iter().any(|len| *len != rows) {
            return Err(invalid("columns of different lengths"));
        }
        let nulls = batch.handles.null_count() + batch.versions.null_count();
        if nulls + batch.deleted.null_count() > 0 || rows > u32::MAX as usize {
            return Err(invalid("NULL handles, versions or delete marks, or too many rows"));
        }
        if batch.versions.values().contains(&OPEN) {
            return Err(invalid("the largest version is reserved"));
        }
        let (handles, versions) = (batch.handles.values(), batch.versions.values());
        let key = |row: &u32| (handles[*row as usize], versions[*row as usize]);
        let mut order: Vec<u32> = (0..rows as u32).collect();
        if !order.is_sorted_by(|a, b| key(a) < key(b)) {
            order.sort_by_key(key);
            order.dedup_by_key(|row| key(row));
        }
        Self::picked(batch, order)
    }

    fn picked(batch: &ChangeBatch, order: Vec<u32>) -> Result<Run> {
        // whatever a batch says of its columns, another one may have NULLs in them
        let fields = batch.columns.schema_ref().fields().iter();
        let fields = fields.map(|f| Field::new(f.name(), f.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = batch.columns.columns().to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.handles.len()));
        let columns = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let deleted = batch.deleted.values();
        let pick = |row: &u32| *row as usize;
        Ok(Run::new(
            order.iter().map(|row| batch.handles.value(pick(row))).collect(),
            order.iter().map(|row| batch.versions.value(pick(row))).collect(),
            order.iter().map(|row| deleted.value(pick(row))).collect(),
            Source::Memory(take_record_batch(&columns, &UInt32Array::from(order))?),
        ))
    }

    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Names and types of the user columns.
    pub fn shape(&self) -> SchemaRef {
        match &self.source {
            Source::Memory(columns) => columns.schema(),
            Source::File(file) => file.shape.clone(),
        }
    }

    pub fn is_dead(&self, row: usize) -> bool {
        self.dead.as_ref().is_some_and(|dead| dead.value(row))
    }

    /// Rows that were not physically removed.
    pub fn live_rows(&self) -> usize {
        self.len() - self.dead.as_ref().map_or(0, BooleanBuffer::count_set_bits)
    }

    /// The version that replaced a row.
    pub fn end(&self, row: usize) -> Option<u64> {
        let end = self.ends[row / CHUNK].as_ref().map_or(OPEN, |ends| ends[row % CHUNK]);
        (end != OPEN).then_some(end)
    }

    pub fn set_end(&mut self, row: usize, end: u64) {
        let ends = self.ends[row / CHUNK].get_or_insert_with(|| Arc::new(vec![OPEN; CHUNK]));
        Arc::make_mut(ends)[row % CHUNK] = end;
    }

    /// Rows of a range of handles.
    pub fn rows_in(&self, range: HandleRange) -> Range<usize> {
        if range.first > range.last {
            return 0..0;
        }
        let first = self.handles.partition_point(|handle| *handle < range.first);
        let last = self.handles.partition_point(|handle| *handle <= range.last);
        first..last
    }

    /// One bit per row of `rows`: is it seen at `ts`?
    pub fn visible(&self, rows: Range<usize>, ts: u64) -> BooleanBuffer {
        let mut mask = !&self.deleted.slice(rows.start, rows.len());
        if let Some(dead) = &self.dead {
            mask = &mask & &!&dead.slice(rows.start, rows.len());
        }
        if self.newest > ts {
            let versions = &self.versions[rows.clone()];
            let written = BooleanBuffer::collect_bool(rows.len(), |row| versions[row] <= ts);
            mask = &mask & &written;
        }
        if rows.is_empty() {
            return mask;
        }
        let chunks = rows.start / CHUNK..=(rows.end - 1) / CHUNK;
        if self.ends[chunks].iter().all(Option::is_none) {
            return mask;
        }
        let limit = ts.min(OPEN - 1);
        let mut bits = arrow::array::BooleanBufferBuilder::new(rows.len());
        let mut row = rows.start;
        while row < rows.end {
            let stop = rows.end.min((row / CHUNK + 1) * CHUNK);
            match &self.ends[row / CHUNK] {
                None => bits.append_n(stop - row, true),
                Some(ends) => {
                    let ends = &ends[row % CHUNK..row % CHUNK + (stop - row)];
                    let open = |row: usize| ends[row] > limit;
                    bits.append_buffer(&BooleanBuffer::collect_bool(ends.len(), open));
                }
            }
            row = stop;
        }
        &mask & &bits.finish()
    }

    /// Physically removes the rows of a range; `true`: there were some.
    pub fn remove(&mut self, range: HandleRange) -> bool {
        let rows = self.rows_in(range);
        if rows.is_empty() {
            return false;
        }
        let old = self.dead.take();
        let is_dead = |row| old.as_ref().is_some_and(|dead| dead.value(row));
        let dead = |row| rows.contains(&row) || is_dead(row);
        self.dead = Some(BooleanBuffer::collect_bool(self.len(), dead));
        self.dead_changed = true;
        true
    }

    /// Bytes of memory beside the columns.
    pub fn index_bytes(&self) -> u64 {
        let ends = self.ends.iter().flatten().count() * CHUNK * 8;
        (self.len() * 16 + self.len().div_ceil(8) + ends) as u64
    }
}

/// The first row at or behind `from` whose handle is not below `handle`.
fn seek(handles: &[i64], from: usize, handle: i64) -> usize {
    let (mut low, mut step) = (from, 1);
    while low + step < handles.len() && handles[low + step] < handle {
        low += step;
        step *= 2;
    }
    let high = handles.len().min(low + step + 1);
    low + handles[low..high].partition_point(|found| *found < handle)
}

/// The neighbours of a version among runs.
#[derive(Default)]
struct Around {
    before: Option<(u64, usize, usize)>,
    after: Option<u64>,
    present: bool,
}

fn around(runs: &[&mut Arc<Run>], cursors: &mut [usize], handle: i64, version: u64) -> Around {
    let mut found = Around::default();
    for (number, run) in runs.iter().enumerate() {
        let at = seek(&run.handles, cursors[number], handle);
        cursors[number] = at;
        let same = run.handles[at..].iter().take_while(|other| **other == handle).count();
        for row in (at..at + same).filter(|row| !run.is_dead(*row)) {
            let other = run.versions[row];
            found.present |= other == version;
            if other < version && found.before.is_none_or(|(before, ..)| before < other) {
                found.before = Some((other, number, row));
            }
            if other > version && found.after.is_none_or(|after| other < after) {
                found.after = Some(other);
            }
        }
    }
    found
}

/// Puts the rows of a run of memory among others: those that are there already are dropped, and
/// every row learns what replaced it. `None`: nothing is new.
pub(crate) fn link(mut runs: Vec<&mut Arc<Run>>, new: Run) -> Result<Option<Run>> {
    let mut cursors = vec![0; runs.len()];
    let mut kept: Vec<u32> = Vec::with_capacity(new.len());
    let mut ends: Vec<u64> = Vec::with_capacity(new.len());
    for row in 0..new.len() {
        let (handle, version) = (new.handles[row], new.versions[row]);
        let found = around(&runs, &mut cursors, handle, version);
        if found.present {
            continue;
        }
        if let Some(last) = kept.last().filter(|last| new.handles[**last as usize] == handle) {
            debug_assert!(new.versions[*last as usize] < version);
            let end = ends.last_mut().expect("as many as kept");
            *end = (*end).min(version);
        }
        if let Some((_, number, row)) = found.before
            && runs[number].end(row).is_none_or(|end| version < end)
        {
            Arc::make_mut(runs[number]).set_end(row, version);
        }
        kept.push(row as u32);
        ends.push(found.after.unwrap_or(OPEN));
    }
    if kept.is_empty() {
        return Ok(None);
    }
    let mut run = if kept.len() == new.len() { new } else { subset(&new, kept)? };
    for (row, end) in ends.into_iter().enumerate().filter(|(_, end)| *end != OPEN) {
        run.set_end(row, end);
    }
    Ok(Some(run))
}

fn subset(run: &Run, rows: Vec<u32>) -> Result<Run> {
    let Source::Memory(columns) = &run.source else { unreachable!("new rows are in memory") };
    Ok(Run::new(
        rows.iter().map(|row| run.handles[*row as usize]).collect(),
        rows.iter().map(|row| run.versions[*row as usize]).collect(),
        rows.iter().map(|row| run.deleted.value(*row as usize)).collect(),
        Source::Memory(take_record_batch(columns, &UInt32Array::from(rows))?),
    ))
}

/// The places of the rows of several runs that are kept, ascending by key; dead rows never are.
pub(crate) fn order(runs: &[Arc<Run>], keep: impl Fn(usize, usize) -> bool) -> Vec<Place> {
    let mut places = Vec::with_capacity(runs.iter().map(|run| run.len()).sum());
    for (number, run) in runs.iter().enumerate() {
        let rows = (0..run.len()).filter(|row| !run.is_dead(*row) && keep(number, *row));
        places.extend(rows.map(|row| (number as u32, row as u32)));
    }
    let key = |(run, row): &Place| {
        let (run, row) = (&runs[*run as usize], *row as usize);
        (run.handles[row], run.versions[row])
    };
    places.sort_by_key(key);
    places
}

/// A run of `places`, without its ends; see [`carry_ends`].
pub(crate) fn gathered(runs: &[Arc<Run>], places: &[Place], source: Source) -> Run {
    let at = |place: &Place| (&runs[place.0 as usize], place.1 as usize);
    Run::new(
        places.iter().map(at).map(|(run, row)| run.handles[row]).collect(),
        places.iter().map(at).map(|(run, row)| run.versions[row]).collect(),
        places.iter().map(at).map(|(run, row)| run.deleted.value(row)).collect(),
        source,
    )
}

/// Gives the rows of a run the ends they have at their places.
pub(crate) fn carry_ends(run: &mut Run, runs: &[Arc<Run>], places: &[Place]) {
    for (row, (number, place)) in places.iter().enumerate() {
        if let Some(end) = runs[*number as usize].end(*place as usize) {
            run.set_end(row, end);
        }
    }
}

/// The values of a user column at places.
pub(crate) fn gather(columns: &[ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    let arrays: Vec<&dyn Array> = columns.iter().map(|column| &**column).collect();
    let places: Vec<(usize, usize)> =
        places.iter().map(|(run, row)| (*run as usize, *row as usize)).collect();
    Ok(interleave(&arrays, &places)?)
}

/// Runs of memory of one shape as one.
pub(crate) fn merged(runs: &[Arc<Run>]) -> Result<Run> {
    let places = order(runs, |_, _| true);
    let shape = runs[0].shape();
    let column = |index: usize| {
        let arrays: Vec<ArrayRef> = runs.iter().map(|run| memory_column(run, index)).collect();
        gather(&arrays, &places)
    };
    let columns = (0..shape.fields().len()).map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
    let batch = RecordBatch::try_new_with_options(shape, columns, &options)?;
    let mut run = gathered(runs, &places, Source::Memory(batch));
    carry_ends(&mut run, runs, &places);
    Ok(run)
}

/// A column of a run of memory.
pub(crate) fn memory_column(run: &Run, index: usize) -> ArrayRef {
    match &run.source {
        Source::Memory(columns) => columns.column(index).clone(),
        Source::File(_) => unreachable!("only runs of memory are asked"),
    }
}

/// The three columns of the store itself at places: handle, version, delete mark.
pub(crate) fn own_columns(runs: &[Arc<Run>], places: &[Place]) -> [ArrayRef; 3] {
    let at = |place: &Place| (&runs[place.0 as usize], place.1 as usize);
    let handles = places.iter().map(at).map(|(run, row)| run.handles[row]);
    let versions = places.iter().map(at).map(|(run, row)| run.versions[row]);
    let deleted = places.iter().map(at).map(|(run, row)| run.deleted.value(row));
    [
        Arc::new(Int64Array::from_iter_values(handles)),
        Arc::new(UInt64Array::from_iter_values(versions)),
        Arc::new(BooleanArray::from(deleted.collect::<Vec<bool>>())),
    ]
}

/// A one-element array, `rows` times.
pub(crate) fn repeated(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    Ok(take(value, &UInt32Array::from(vec![0; rows]), None)?)
}
