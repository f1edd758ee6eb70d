//! Columns that only grow: the upper bound of any scan. One sorted run in memory, no version ever
//! compared. It must never take a row that is not behind all others, nor a deletion.

use super::lsm::appended::{Appended, snapshot};
use crate::error::{Error, Result};
use crate::store::{
    ChangeBatch, ColumnSnapshot, ColumnStore, HandleRange, Mark, TableStats, Written,
};
use damask_types::{ErrorKind, TableId, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The store. It keeps nothing over a restart, and does not pass the conformance suite: updates,
/// deletions and clears are `Invalid`.
#[derive(Default)]
pub struct AppendColumns {
    tables: Mutex<BTreeMap<TableId, Appended>>,
    marks: Mutex<BTreeMap<u64, Vec<u8>>>,
    applied: AtomicU64,
}

impl AppendColumns {
    /// An empty store.
    pub fn new() -> AppendColumns {
        AppendColumns::default()
    }
}

impl ColumnStore for AppendColumns {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        if batch.deleted.true_count() > 0 {
            let detail = "append-only columns take no deletion";
            return Err(Error::new("apply", ErrorKind::Invalid, detail));
        }
        let mut tables = self.tables.lock();
        tables.entry(batch.table).or_default().append(batch)?;
        self.applied.fetch_add(batch.bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn clear(&self, table: TableId, _range: HandleRange) -> Result<()> {
        match self.tables.lock().contains_key(&table) {
            true => Err(Error::new("clear", ErrorKind::Invalid, "append-only columns stay")),
            false => Ok(()),
        }
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        let mut all = self.marks.lock();
        for (key, bytes) in marks {
            match bytes.is_empty() {
                true => all.remove(key),
                false => all.insert(*key, bytes.clone()),
            };
        }
        Ok(())
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        Ok(self.marks.lock().iter().map(|(key, bytes)| (*key, bytes.clone())).collect())
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        Ok(snapshot(self.tables.lock().get(&table)))
    }

    fn maintain(&self, _safe_point: Timestamp, _budget_bytes: u64) -> Result<bool> {
        Ok(false)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        let tables = self.tables.lock();
        let (rows, bytes) = tables.get(&table).map_or((0, 0), Appended::size);
        Ok(TableStats { stable_rows: rows, memory_bytes: bytes, ..TableStats::default() })
    }

    fn written(&self) -> Written {
        Written { applied: self.applied.load(Ordering::Relaxed), ..Written::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Int64Array, RecordBatch, UInt64Array};
    use arrow::datatypes::{DataType, Field, Schema};

    fn batch(handles: std::ops::Range<i64>, is_deleted: bool) -> ChangeBatch {
        let rows = (handles.end - handles.start) as usize;
        let schema = Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)]));
        let values = Int64Array::from_iter_values(handles.clone().map(|h| h * 2));
        ChangeBatch {
            table: TableId(1),
            handles: Int64Array::from_iter_values(handles),
            versions: UInt64Array::from(vec![5; rows]),
            deleted: BooleanArray::from(vec![is_deleted; rows]),
            columns: RecordBatch::try_new(schema, vec![Arc::new(values)]).expect("one column"),
        }
    }

    #[test]
    fn rows_come_in_order_or_not_at_all() {
        let store = AppendColumns::new();
        store.apply(&batch(0..10_000, false)).expect("in order");
        store.apply(&batch(10_000..10_010, false)).expect("behind them");
        for (wrong, why) in
            [(batch(5..6, false), "an update"), (batch(11_000..11_001, true), "gone")]
        {
            assert_eq!(store.apply(&wrong).expect_err(why).kind(), ErrorKind::Invalid, "{why}");
        }
        let snapshot = store.snapshot(TableId(1)).expect("a snapshot");
        let ranges = [HandleRange { first: 9_990, last: 20_000 }];
        assert_eq!(snapshot.count(&ranges, Timestamp(5)).expect("counted"), 20);
        assert_eq!(snapshot.count(&ranges, Timestamp(4)).expect("counted"), 0);
        assert_eq!(store.stats(TableId(1)).expect("stats").stable_rows, 10_010);
    }
}
