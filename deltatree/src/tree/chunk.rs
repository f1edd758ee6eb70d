//! A delta chunk: rows that arrived together, as columns, ascending by (handle, version) so that a
//! narrow read finds its rows by a binary search, with the time each row ends. It must never
//! change rows that a snapshot can see.

use super::bounds::Bounds;
use super::mask::Mask;
use crate::error::{Error, Result};
use crate::store::ChangeBatch;
use crate::values::pack_bits;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::array::{RecordBatchOptions, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat, take};
use damask_types::ErrorKind;
use std::sync::{Arc, OnceLock};

/// The rows of a chunk; immutable, cheap to clone.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Row handles, in any order.
    pub handles: Int64Array,
    /// Commit timestamps.
    pub versions: UInt64Array,
    /// Deletions.
    pub deleted: BooleanArray,
    /// User columns.
    pub columns: RecordBatch,
    /// Smallest handle.
    pub first: i64,
    /// Largest handle.
    pub last: i64,
    /// Smallest version.
    pub min_version: u64,
    /// Largest version.
    pub max_version: u64,
    /// About the bytes in memory.
    pub bytes: usize,
    /// Of the columns, found when first asked for.
    bounds: Vec<OnceLock<Bounds>>,
    handle_bounds: Bounds,
}

fn record_batch(columns: &RecordBatch, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(columns.schema(), arrays, &options)?)
}

impl Rows {
    /// Checks a batch and sorts it by (handle, version).
    pub fn sorted(batch: &ChangeBatch) -> Result<Rows> {
        let n = batch.handles.len();
        let invalid = |what: &str| Err(Error::new("apply", ErrorKind::Invalid, what));
        if batch.versions.len() != n || batch.deleted.len() != n || batch.columns.num_rows() != n {
            return invalid("columns of different lengths");
        }
        let nulls = batch.handles.null_count() + batch.versions.null_count();
        if nulls + batch.deleted.null_count() > 0 {
            return invalid("a handle, version or delete mark is NULL");
        }
        let versions = batch.versions.values();
        if versions.iter().any(|v| *v == 0 || *v == u64::MAX) {
            return invalid("version 0 or the largest version");
        }
        let arrays = batch.columns.columns().to_vec();
        let columns = record_batch(&batch.columns, arrays, n)?;
        let (handles, versions) = (batch.handles.clone(), batch.versions.clone());
        Rows::arranged(handles, versions, batch.deleted.clone(), columns)
    }

    /// Sorts by (handle, version); rows that are equal in both keep their order.
    pub fn arranged(
        handles: Int64Array,
        versions: UInt64Array,
        deleted: BooleanArray,
        columns: RecordBatch,
    ) -> Result<Rows> {
        let rows = Rows::new(handles, versions, deleted, columns);
        match rows.order() {
            None => Ok(rows),
            Some(order) => rows.pick(&order),
        }
    }

    /// The rows ascending by (handle, version), equal ones as they stand; `None`: they are.
    fn order(&self) -> Option<UInt32Array> {
        let key = |i: usize| (self.handles.value(i), self.versions.value(i));
        if (1..self.len()).all(|i| key(i - 1) <= key(i)) {
            return None;
        }
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_by_key(|i| key(*i as usize));
        Some(UInt32Array::from(order))
    }

    /// The rows in another order.
    fn pick(&self, order: &UInt32Array) -> Result<Rows> {
        let pick = |array: &dyn Array| -> Result<ArrayRef> { Ok(take(array, order, None)?) };
        let arrays = self.columns.columns().iter().map(|c| pick(c)).collect::<Result<_>>()?;
        Ok(Rows::new(
            Int64Array::from(pick(&self.handles)?.to_data()),
            UInt64Array::from(pick(&self.versions)?.to_data()),
            BooleanArray::from(pick(&self.deleted)?.to_data()),
            record_batch(&self.columns, arrays, order.len())?,
        ))
    }

    /// The columns have the same names and types.
    pub fn is_like(&self, other: &Rows) -> bool {
        let (own, others) = (self.columns.schema_ref(), other.columns.schema_ref());
        Arc::ptr_eq(own, others) || own.fields() == others.fields()
    }

    /// Rows from their columns, which are equally long.
    pub fn new(
        handles: Int64Array,
        versions: UInt64Array,
        deleted: BooleanArray,
        columns: RecordBatch,
    ) -> Rows {
        let size = |a: &ArrayRef| a.to_data().get_slice_memory_size().unwrap_or(0);
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        for handle in handles.values() {
            (first, last) = (first.min(*handle), last.max(*handle));
        }
        let (mut min_version, mut max_version) = (u64::MAX, 0);
        for version in versions.values() {
            (min_version, max_version) = (min_version.min(*version), max_version.max(*version));
        }
        Rows {
            first,
            last,
            min_version,
            max_version,
            bytes: columns.columns().iter().map(size).sum::<usize>() + handles.len() * 17,
            bounds: vec![OnceLock::new(); columns.num_columns()],
            handle_bounds: Bounds::Numbers(first.into(), last.into()),
            handles,
            versions,
            deleted,
            columns,
        }
    }

    /// The bounds of the handles.
    pub fn handle_bounds(&self) -> &Bounds {
        &self.handle_bounds
    }

    /// The bounds of a column, hidden rows included.
    pub fn bounds(&self, column: usize) -> &Bounds {
        self.bounds[column].get_or_init(|| Bounds::of(self.columns.column(column)))
    }

    /// The same, if somebody has asked for them before.
    pub fn known_bounds(&self, column: usize) -> Option<&Bounds> {
        self.bounds[column].get()
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// A part of the rows, without a copy.
    pub fn slice(&self, offset: usize, len: usize) -> Rows {
        Rows::new(
            self.handles.slice(offset, len),
            self.versions.slice(offset, len),
            self.deleted.slice(offset, len),
            self.columns.slice(offset, len),
        )
    }

    /// All rows of some with the same columns, one after the other; perhaps not sorted.
    pub fn join(all: &[&Rows]) -> Result<Rows> {
        let joined = |pick: &dyn Fn(&Rows) -> ArrayRef| -> Result<ArrayRef> {
            let arrays: Vec<ArrayRef> = all.iter().map(|rows| pick(rows)).collect();
            let arrays: Vec<&dyn Array> = arrays.iter().map(|array| &**array).collect();
            Ok(concat(&arrays)?)
        };
        let columns = (0..all[0].columns.num_columns())
            .map(|at| joined(&|rows| rows.columns.column(at).clone()))
            .collect::<Result<Vec<_>>>()?;
        let rows = all.iter().map(|rows| rows.len()).sum();
        Ok(Rows::new(
            Int64Array::from(joined(&|rows| Arc::new(rows.handles.clone()))?.to_data()),
            UInt64Array::from(joined(&|rows| Arc::new(rows.versions.clone()))?.to_data()),
            BooleanArray::from(joined(&|rows| Arc::new(rows.deleted.clone()))?.to_data()),
            record_batch(&all[0].columns, columns, rows)?,
        ))
    }
}

/// When the rows of a chunk end, and what follows from that.
#[derive(Clone, Debug)]
pub struct Ends {
    /// A row is visible from its version up to, not including, this; 0: never (a deletion, a
    /// duplicate, or physically removed).
    untils: Vec<u64>,
    /// Bit set: the row is visible at the end of time.
    latest: Mask,
    /// Not above any of `untils`.
    min_until: u64,
    /// Not below any of `untils` but `u64::MAX`.
    max_until: u64,
}

impl Ends {
    fn new(rows: usize) -> Ends {
        let (untils, latest) = (vec![0; rows], Mask::none(rows));
        Ends { untils, latest, min_until: u64::MAX, max_until: 0 }
    }

    fn set(&mut self, row: usize, until: u64) {
        self.untils[row] = until;
        self.min_until = self.min_until.min(until);
        match until == u64::MAX {
            true => self.latest.set(row),
            false => self.latest.clear(row),
        }
        if until != u64::MAX {
            self.max_until = self.max_until.max(until);
        }
    }
}

/// Rows and when each ends.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its first position in the segment's delta.
    pub start: u32,
    /// The rows, ascending by handle.
    pub rows: Arc<Rows>,
    ends: Arc<Ends>,
    /// The row of each position; `None`: they are in the same order.
    slots: Option<Arc<Vec<u32>>>,
}

/// The rows of a chunk that a read sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All of them.
    All,
    /// None of them.
    Nothing,
    /// Those with a bit.
    Some(BooleanBuffer),
}

impl Chunk {
    /// A chunk whose rows, ascending by handle, no read sees yet.
    pub fn new(start: u32, rows: Rows) -> Chunk {
        debug_assert!(rows.handles.values().is_sorted(), "narrow reads search by handle");
        let ends = Arc::new(Ends::new(rows.len()));
        Chunk { start, rows: Arc::new(rows), ends, slots: None }
    }

    /// The row at a position, counted from `start`.
    pub fn row(&self, position: u32) -> usize {
        self.slots.as_ref().map_or(position, |slots| slots[position as usize]) as usize
    }

    /// When a row ends.
    pub fn until(&self, row: usize) -> u64 {
        self.ends.untils[row]
    }

    /// Sets when a row ends.
    pub fn set_until(&mut self, row: usize, until: u64) {
        Arc::make_mut(&mut self.ends).set(row, until);
    }

    /// Which of `rows` rows from `first` on a read at `ts` sees. At "now" that is known without a
    /// look at any row; no other row is ever looked at.
    pub fn seen(&self, ts: u64, first: usize, rows: usize) -> Seen {
        let ends = &*self.ends;
        if ts < self.rows.min_version {
            return Seen::Nothing;
        }
        if self.rows.max_version <= ts && ts < ends.min_until {
            return Seen::All;
        }
        if self.rows.max_version <= ts && ends.max_until <= ts {
            return match ends.latest.count() {
                0 => Seen::Nothing,
                _ => Seen::Some(ends.latest.part(first, rows)),
            };
        }
        let versions = pack_bits(&self.rows.versions.values()[first..first + rows], |v| v <= ts);
        let untils = pack_bits(&ends.untils[first..first + rows], |until| ts < until);
        Seen::Some(&versions & &untils)
    }

    /// Asks memory for the mask of the end of time, which will be read soon.
    pub fn expect(&self) {
        self.ends.latest.expect();
    }

    /// Rows that a read at `ts` sees, if it needs nothing but the mask of the end of time.
    pub fn live(&self, ts: u64) -> Option<usize> {
        let ends = &*self.ends;
        (self.rows.max_version <= ts && ends.max_until <= ts).then_some(ends.latest.count())
    }

    /// Bytes of what is kept about the rows.
    pub fn ends_bytes(&self) -> usize {
        let slots = self.slots.as_ref().map_or(0, |slots| slots.len());
        self.rows.len() * 8 + self.ends.latest.bytes() + slots * 4
    }

    /// One chunk in place of neighbours that are alike; each position keeps its row.
    pub fn join(chunks: &[Chunk]) -> Result<Chunk> {
        let rows: Vec<&Rows> = chunks.iter().map(|chunk| &*chunk.rows).collect();
        let mut rows = Rows::join(&rows)?;
        let untils: Vec<u64> =
            chunks.iter().flat_map(|chunk| &chunk.ends.untils).copied().collect();
        let mut slots: Vec<u32> = Vec::with_capacity(rows.len());
        for chunk in chunks {
            let (first, len) = (slots.len(), chunk.rows.len() as u32);
            slots.extend((0..len).map(|position| (first + chunk.row(position)) as u32));
        }
        let mut ends = Ends::new(rows.len());
        match rows.order() {
            None => untils.iter().enumerate().for_each(|(row, until)| ends.set(row, *until)),
            Some(order) => {
                rows = rows.pick(&order)?;
                let mut moved = vec![0; slots.len()];
                for (row, old) in order.values().iter().enumerate() {
                    ends.set(row, untils[*old as usize]);
                    moved[*old as usize] = row as u32;
                }
                slots.iter_mut().for_each(|slot| *slot = moved[*slot as usize]);
            }
        }
        let slots = Some(Arc::new(slots));
        Ok(Chunk { start: chunks[0].start, rows: Arc::new(rows), ends: Arc::new(ends), slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;

    fn chunk(start: u32, rows: &[(i64, u64)]) -> Chunk {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let columns =
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options);
        let handles = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
        let versions = UInt64Array::from_iter_values(rows.iter().map(|row| row.1));
        let deleted = BooleanArray::from(vec![false; rows.len()]);
        let rows = Rows::new(handles, versions, deleted, columns.expect("no columns"));
        let len = rows.len();
        let mut chunk = Chunk::new(start, rows);
        (0..len).for_each(|row| chunk.set_until(row, u64::MAX));
        chunk
    }

    fn some(bits: &[bool]) -> Seen {
        Seen::Some(BooleanBuffer::from(bits.to_vec()))
    }

    #[test]
    fn the_mask_of_now_is_kept_up_and_the_past_is_computed() {
        let mut chunk = chunk(0, &[(1, 5), (2, 6), (3, 7)]);
        assert_eq!(chunk.seen(4, 0, 3), Seen::Nothing);
        assert_eq!(chunk.seen(6, 0, 3), some(&[true, true, false]));
        assert_eq!(chunk.seen(6, 1, 2), some(&[true, false]));
        assert_eq!(chunk.seen(7, 0, 3), Seen::All);
        let before = chunk.clone();
        chunk.set_until(1, 9);
        assert_eq!(chunk.seen(8, 0, 3), Seen::All);
        assert_eq!(chunk.seen(9, 0, 3), some(&[true, false, true]));
        assert_eq!(chunk.seen(9, 1, 1), some(&[false]));
        assert_eq!(before.seen(9, 0, 3), Seen::All, "a copy that a snapshot holds never changes");
        chunk.set_until(0, 0);
        chunk.set_until(2, 12);
        assert_eq!(chunk.seen(11, 0, 3), some(&[false, false, true]));
        assert_eq!(chunk.seen(12, 0, 3), Seen::Nothing);
        let joined = Chunk::join(&[chunk.clone()]).expect("joined");
        assert_eq!(joined.seen(8, 0, 3), chunk.seen(8, 0, 3));
    }

    #[test]
    fn joined_chunks_are_in_order_and_each_position_keeps_its_row() {
        let rows = [(2, 5), (9, 5), (1, 6), (9, 6), (9, 7), (0, 8)];
        let mut parts = [chunk(10, &rows[..2]), chunk(12, &rows[2..5]), chunk(15, &rows[5..])];
        parts[0].set_until(1, 6);
        parts[1].set_until(1, 7);
        let once = Chunk::join(&parts[..2]).expect("joined");
        let joined = Chunk::join(&[once, parts[2].clone()]).expect("joined again");
        assert_eq!(joined.rows.handles.values()[..], [0, 1, 2, 9, 9, 9]);
        assert_eq!(joined.start, 10);
        for (position, (handle, version)) in rows.into_iter().enumerate() {
            let row = joined.row(position as u32);
            assert_eq!(joined.rows.handles.value(row), handle, "position {position}");
            assert_eq!(joined.rows.versions.value(row), version, "position {position}");
        }
        let untils: Vec<u64> = (3..6).map(|row| joined.until(row)).collect();
        assert_eq!(untils, [6, 7, u64::MAX]);
        assert_eq!(joined.ends.latest.count(), 4);
    }
}
