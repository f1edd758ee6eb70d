//! The plain column store in memory: an ordered map of versions. The model in tests; it must
//! never be clever, and it keeps nothing over a restart.

use crate::error::{Error, Result};
use crate::store::{
    BatchIter, ChangeBatch, ColumnSnapshot, ColumnStore, HandleRange, Mark, ScanRequest, TableStats,
};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::interleave;
use damask_types::{ErrorKind, TableId, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a version's columns are: a batch and a row in it; `None`: deleted.
type Place = Option<(Arc<RecordBatch>, usize)>;
type Versions = BTreeMap<(i64, u64), Place>;

#[derive(Default)]
struct State {
    tables: BTreeMap<TableId, Arc<Versions>>,
    marks: BTreeMap<u64, Vec<u8>>,
}

/// The store.
#[derive(Default)]
pub struct MemoryColumnStore {
    state: Mutex<State>,
}

impl MemoryColumnStore {
    /// An empty store.
    pub fn new() -> MemoryColumnStore {
        MemoryColumnStore::default()
    }
}

impl ColumnStore for MemoryColumnStore {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        let rows = batch.handles.len();
        let lengths = [batch.versions.len(), batch.deleted.len(), batch.columns.num_rows()];
        if lengths.iter().any(|len| *len != rows) {
            let detail = "columns of different lengths";
            return Err(Error::new("apply", ErrorKind::Invalid, detail));
        }
        let mut state = self.state.lock();
        let versions = Arc::make_mut(state.tables.entry(batch.table).or_default());
        let columns = Arc::new(batch.columns.clone());
        for row in 0..rows {
            let place = (!batch.deleted.value(row)).then(|| (columns.clone(), row));
            let key = (batch.handles.value(row), batch.versions.value(row));
            versions.entry(key).or_insert(place);
        }
        Ok(())
    }

    fn clear(&self, table: TableId, range: HandleRange) -> Result<()> {
        if let Some(versions) = self.state.lock().tables.get_mut(&table) {
            let inside = |handle: i64| range.first <= handle && handle <= range.last;
            Arc::make_mut(versions).retain(|(handle, _), _| !inside(*handle));
        }
        Ok(())
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        let mut state = self.state.lock();
        for (key, bytes) in marks {
            match bytes.is_empty() {
                true => state.marks.remove(key),
                false => state.marks.insert(*key, bytes.clone()),
            };
        }
        Ok(())
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        let state = self.state.lock();
        Ok(state.marks.iter().map(|(key, bytes)| (*key, bytes.clone())).collect())
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        let versions = self.state.lock().tables.get(&table).cloned().unwrap_or_default();
        Ok(Arc::new(MemorySnapshot { versions }))
    }

    fn maintain(&self, safe_point: Timestamp, _budget_bytes: u64) -> Result<bool> {
        for versions in self.state.lock().tables.values_mut() {
            let versions = Arc::make_mut(versions);
            let newest = |versions: &Versions, handle: i64| {
                let seen = versions.range((handle, 0)..=(handle, safe_point.0));
                seen.last().map(|((_, version), place)| (*version, place.is_none()))
            };
            let all = std::mem::take(versions);
            let kept = all.iter().filter(|((handle, version), _)| {
                newest(&all, *handle).is_none_or(|(newest, deleted)| {
                    *version > newest || (*version == newest && !deleted)
                })
            });
            *versions = kept.map(|(key, place)| (*key, place.clone())).collect();
        }
        Ok(false)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        let rows = self.state.lock().tables.get(&table).map_or(0, |versions| versions.len());
        Ok(TableStats { delta_rows: rows as u64, ..TableStats::default() })
    }
}

struct MemorySnapshot {
    versions: Arc<Versions>,
}

impl MemorySnapshot {
    fn visible(&self, ranges: &[HandleRange], ts: Timestamp) -> BTreeMap<i64, &Place> {
        let mut newest = BTreeMap::new();
        for range in ranges.iter().filter(|range| range.first <= range.last) {
            let inside = self.versions.range((range.first, 0)..=(range.last, u64::MAX));
            for ((handle, _), place) in inside.filter(|((_, version), _)| *version <= ts.0) {
                newest.insert(*handle, place);
            }
        }
        newest.retain(|_, place| place.is_some());
        newest
    }
}

impl ColumnSnapshot for MemorySnapshot {
    fn scan(&self, request: &ScanRequest, _parts: usize) -> Result<Vec<BatchIter>> {
        if request.batch_rows == 0 || request.defaults.len() != request.schema.fields().len() {
            let detail = "one default per column and batch_rows above 0 are needed";
            return Err(Error::new("scan", ErrorKind::Invalid, detail));
        }
        let visible: Vec<(i64, &Place)> =
            self.visible(&request.ranges, request.ts).into_iter().collect();
        let batches = visible.chunks(request.batch_rows).map(|rows| gather(request, rows));
        let batches: Vec<_> = batches.collect();
        Ok(vec![Box::new(batches.into_iter())])
    }

    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64> {
        Ok(self.visible(ranges, ts).len() as u64)
    }
}

fn gather(request: &ScanRequest, rows: &[(i64, &Place)]) -> Result<RecordBatch> {
    let fields = request.schema.fields().iter().zip(&request.defaults);
    let columns = fields.map(|(field, default)| -> Result<ArrayRef> {
        if field.name() == "handle" {
            return Ok(Arc::new(
                rows.iter().map(|(handle, _)| Some(*handle)).collect::<Int64Array>(),
            ));
        }
        let mut arrays: Vec<&dyn Array> = vec![default];
        let mut picks = Vec::with_capacity(rows.len());
        for (batch, row) in rows.iter().flat_map(|(_, place)| place.as_ref()) {
            picks.push(match batch.column_by_name(field.name()) {
                None => (0, 0),
                Some(array) => {
                    arrays.push(array);
                    (arrays.len() - 1, *row)
                }
            });
        }
        Ok(interleave(&arrays, &picks)?)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(request.schema.clone(), columns, &options)?)
}
