//! A delta chunk: rows in the order they arrived, as columns, with the time each row ends. It
//! must never change rows that a snapshot can see.

use crate::error::{Error, Result};
use crate::store::ChangeBatch;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::array::{RecordBatchOptions, UInt64Array};
use arrow::compute::{concat, take};
use damask_types::ErrorKind;
use std::sync::Arc;

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
    /// Largest version.
    pub max_version: u64,
    /// About the bytes in memory.
    pub bytes: usize,
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
        let (handles, versions) = (batch.handles.values(), batch.versions.values());
        if versions.iter().any(|v| *v == 0 || *v == u64::MAX) {
            return invalid("version 0 or the largest version");
        }
        let key = |i: usize| (handles[i], versions[i]);
        if (1..n).all(|i| key(i - 1) <= key(i)) {
            let arrays = batch.columns.columns().to_vec();
            let columns = record_batch(&batch.columns, arrays, n)?;
            let (handles, versions) = (batch.handles.clone(), batch.versions.clone());
            return Ok(Rows::new(handles, versions, batch.deleted.clone(), columns));
        }
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by_key(|i| key(*i as usize));
        let order = UInt32Array::from(order);
        let pick = |array: &dyn Array| -> Result<ArrayRef> { Ok(take(array, &order, None)?) };
        let arrays = batch.columns.columns().iter().map(|c| pick(c)).collect::<Result<_>>()?;
        Ok(Rows::new(
            Int64Array::from(pick(&batch.handles)?.to_data()),
            UInt64Array::from(pick(&batch.versions)?.to_data()),
            BooleanArray::from(pick(&batch.deleted)?.to_data()),
            record_batch(&batch.columns, arrays, n)?,
        ))
    }

    /// Rows from their columns, which are equally long.
    pub fn new(
        handles: Int64Array,
        versions: UInt64Array,
        deleted: BooleanArray,
        columns: RecordBatch,
    ) -> Rows {
        let size = |a: &ArrayRef| a.to_data().get_slice_memory_size().unwrap_or(0);
        Rows {
            first: handles.values().iter().copied().min().unwrap_or(i64::MAX),
            last: handles.values().iter().copied().max().unwrap_or(i64::MIN),
            max_version: versions.values().iter().copied().max().unwrap_or(0),
            bytes: columns.columns().iter().map(size).sum::<usize>() + handles.len() * 17,
            handles,
            versions,
            deleted,
            columns,
        }
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

    /// These rows, then those of `next`, which has the same columns.
    fn join(&self, next: &Rows) -> Result<Rows> {
        let both = |a: &dyn Array, b: &dyn Array| -> Result<ArrayRef> { Ok(concat(&[a, b])?) };
        let columns = self.columns.columns().iter().zip(next.columns.columns());
        let columns = columns.map(|(a, b)| both(a, b)).collect::<Result<Vec<_>>>()?;
        Ok(Rows::new(
            Int64Array::from(both(&self.handles, &next.handles)?.to_data()),
            UInt64Array::from(both(&self.versions, &next.versions)?.to_data()),
            BooleanArray::from(both(&self.deleted, &next.deleted)?.to_data()),
            record_batch(&self.columns, columns, self.len() + next.len())?,
        ))
    }
}

/// Rows and when each ends.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The position of its first row in the segment's delta.
    pub start: u32,
    /// The rows.
    pub rows: Arc<Rows>,
    /// A row is visible from its version up to, not including, this; 0: never (a deletion, a
    /// duplicate, or physically removed).
    pub untils: Arc<Vec<u64>>,
    /// Not above any of `untils`.
    pub min_until: u64,
}

impl Chunk {
    /// A chunk whose rows no read sees yet.
    pub fn new(start: u32, rows: Rows) -> Chunk {
        let untils = Arc::new(vec![0; rows.len()]);
        Chunk { start, rows: Arc::new(rows), untils, min_until: u64::MAX }
    }

    /// Sets when a row ends.
    pub fn set_until(&mut self, row: usize, until: u64) {
        Arc::make_mut(&mut self.untils)[row] = until;
        self.min_until = self.min_until.min(until);
    }

    /// A read at `ts` sees every row.
    pub fn is_clean(&self, ts: u64) -> bool {
        self.rows.max_version <= ts && ts < self.min_until
    }

    /// The rows that a read at `ts` sees, as mask words.
    pub fn visible(&self, ts: u64) -> Vec<u64> {
        let word = |(versions, untils): (&[u64], &[u64])| {
            let mut word = 0;
            for (bit, (version, until)) in versions.iter().zip(untils).enumerate() {
                word |= u64::from((*version <= ts) & (ts < *until)) << bit;
            }
            word
        };
        let versions = self.rows.versions.values().chunks(64);
        versions.zip(self.untils.chunks(64)).map(word).collect()
    }

    /// One chunk in place of two neighbours, if they are alike and small. `None`: leave them.
    pub fn join(&self, next: &Chunk, rows_max: usize) -> Result<Option<Chunk>> {
        let (a, b) = (self.rows.len(), next.rows.len());
        let alike =
            self.rows.columns.schema_ref().fields() == next.rows.columns.schema_ref().fields();
        // equal sizes at least: each row is then copied a logarithmic number of times
        if a + b > rows_max || a > b || !alike {
            return Ok(None);
        }
        let mut untils = Vec::with_capacity(a + b);
        untils.extend_from_slice(&self.untils);
        untils.extend_from_slice(&next.untils);
        Ok(Some(Chunk {
            start: self.start,
            rows: Arc::new(self.rows.join(&next.rows)?),
            untils: Arc::new(untils),
            min_until: self.min_until.min(next.min_until),
        }))
    }
}
