//! A delta chunk: rows in the order they arrived, as columns, with the time each row ends. It
//! must never change rows that a snapshot can see.

use super::bounds::Bounds;
use super::overlay;
use crate::error::{Error, Result};
use crate::store::ChangeBatch;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::array::{RecordBatchOptions, UInt64Array};
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
        let n = handles.len();
        let key = |i: usize| (handles.value(i), versions.value(i));
        if (1..n).all(|i| key(i - 1) <= key(i)) {
            return Ok(Rows::new(handles, versions, deleted, columns));
        }
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by_key(|i| key(*i as usize));
        let order = UInt32Array::from(order);
        let pick = |array: &dyn Array| -> Result<ArrayRef> { Ok(take(array, &order, None)?) };
        let arrays = columns.columns().iter().map(|c| pick(c)).collect::<Result<_>>()?;
        Ok(Rows::new(
            Int64Array::from(pick(&handles)?.to_data()),
            UInt64Array::from(pick(&versions)?.to_data()),
            BooleanArray::from(pick(&deleted)?.to_data()),
            record_batch(&columns, arrays, n)?,
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
    latest: Vec<u64>,
    /// Bits set in `latest`.
    live: usize,
    /// Not above any of `untils`.
    min_until: u64,
    /// Not below any of `untils` but `u64::MAX`.
    max_until: u64,
}

impl Ends {
    fn new(rows: usize) -> Ends {
        let (untils, latest) = (vec![0; rows], vec![0; rows.div_ceil(64)]);
        Ends { untils, latest, live: 0, min_until: u64::MAX, max_until: 0 }
    }

    fn set(&mut self, row: usize, until: u64) {
        self.untils[row] = until;
        self.min_until = self.min_until.min(until);
        match (until == u64::MAX, overlay::get(&self.latest, row)) {
            (true, false) => {
                overlay::set(&mut self.latest, row);
                self.live += 1;
            }
            (false, true) => {
                overlay::clear(&mut self.latest, row);
                self.live -= 1;
            }
            _ => {}
        }
        if until != u64::MAX {
            self.max_until = self.max_until.max(until);
        }
    }
}

/// Rows and when each ends.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The position of its first row in the segment's delta.
    pub start: u32,
    /// The rows.
    pub rows: Arc<Rows>,
    ends: Arc<Ends>,
}

/// The rows of a chunk that a read sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All of them.
    All,
    /// None of them.
    Nothing,
    /// Those with a bit.
    Some(Vec<u64>),
}

impl Chunk {
    /// A chunk whose rows no read sees yet.
    pub fn new(start: u32, rows: Rows) -> Chunk {
        let ends = Arc::new(Ends::new(rows.len()));
        Chunk { start, rows: Arc::new(rows), ends }
    }

    /// When a row ends.
    pub fn until(&self, row: usize) -> u64 {
        self.ends.untils[row]
    }

    /// Sets when a row ends.
    pub fn set_until(&mut self, row: usize, until: u64) {
        Arc::make_mut(&mut self.ends).set(row, until);
    }

    /// The rows that a read at `ts` sees. At "now" that is known without a look at any row.
    pub fn seen(&self, ts: u64) -> Seen {
        let ends = &*self.ends;
        if ts < self.rows.min_version {
            return Seen::Nothing;
        }
        if self.rows.max_version <= ts && ts < ends.min_until {
            return Seen::All;
        }
        if self.rows.max_version <= ts && ends.max_until <= ts {
            return match ends.live {
                0 => Seen::Nothing,
                _ => Seen::Some(ends.latest.clone()),
            };
        }
        let word = |(versions, untils): (&[u64], &[u64])| {
            let mut word = 0;
            for (bit, (version, until)) in versions.iter().zip(untils).enumerate() {
                word |= u64::from((*version <= ts) & (ts < *until)) << bit;
            }
            word
        };
        let versions = self.rows.versions.values().chunks(64);
        Seen::Some(versions.zip(ends.untils.chunks(64)).map(word).collect())
    }

    /// Bytes of what is kept about the rows.
    pub fn ends_bytes(&self) -> usize {
        self.rows.len() * 8 + self.ends.latest.len() * 8
    }

    /// One chunk in place of neighbours that are alike.
    pub fn join(chunks: &[Chunk]) -> Result<Chunk> {
        let rows: Vec<&Rows> = chunks.iter().map(|chunk| &*chunk.rows).collect();
        let rows = Rows::join(&rows)?;
        let mut ends = Ends::new(rows.len());
        let untils = chunks.iter().flat_map(|chunk| &chunk.ends.untils);
        untils.enumerate().for_each(|(row, until)| ends.set(row, *until));
        Ok(Chunk { start: chunks[0].start, rows: Arc::new(rows), ends: Arc::new(ends) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;

    #[test]
    fn the_mask_of_now_is_kept_up_and_the_past_is_computed() {
        let versions = UInt64Array::from(vec![5, 6, 7]);
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let columns =
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options);
        let handles = Int64Array::from(vec![1, 2, 3]);
        let deleted = BooleanArray::from(vec![false; 3]);
        let rows = Rows::new(handles, versions, deleted, columns.expect("no columns"));
        let mut chunk = Chunk::new(0, rows);
        (0..3).for_each(|row| chunk.set_until(row, u64::MAX));
        assert_eq!(chunk.seen(4), Seen::Nothing);
        assert_eq!(chunk.seen(6), Seen::Some(vec![0b011]));
        assert_eq!(chunk.seen(7), Seen::All);
        let before = chunk.clone();
        chunk.set_until(1, 9);
        assert_eq!(chunk.seen(8), Seen::All);
        assert_eq!(chunk.seen(9), Seen::Some(vec![0b101]));
        assert_eq!(before.seen(9), Seen::All, "a copy that a snapshot holds never changes");
        chunk.set_until(0, 0);
        chunk.set_until(2, 12);
        assert_eq!(chunk.seen(11), Seen::Some(vec![0b100]));
        assert_eq!(chunk.seen(12), Seen::Nothing);
        assert_eq!(Chunk::join(&[chunk.clone()]).expect("joined").seen(8), chunk.seen(8));
    }
}
