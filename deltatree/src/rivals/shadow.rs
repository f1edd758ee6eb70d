//! Two stores fed alike, every answer compared. It must never give an answer that only one of them
//! gives: a difference is reported and is an error.
//!
//! ```text
//!  change ─► main ─► twin          question ─► main, twin ─► equal: main's answer
//!                                                           else: report, `Corrupt`
//! ```
//!
//! Changes go to both under one lock, so that both see them in one order; an error of the main
//! store is the caller's, before the twin is asked. One that only the twin has is a difference.

use crate::error::{Error, Result};
use crate::store::{
    BatchIter, ChangeBatch, ColumnSnapshot, ColumnStore, Grouping, HandleRange, Mark, MaskedIter,
    Query, RowsIter, ScanRequest, TableStats, Written,
};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use damask_types::{ErrorKind, TableId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;

/// Differences that are kept; later ones are only counted.
const REPORTS_MAX: usize = 100;

/// What was found to be different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// The first ones, in words: question, timestamp, first row that differs.
    pub reports: Vec<String>,
    /// How many there were.
    pub count: u64,
}

/// A store and its shadow.
pub struct ShadowColumns {
    main: Arc<dyn ColumnStore>,
    twin: Arc<dyn ColumnStore>,
    /// Held while both are changed, or both are looked at.
    order: Mutex<()>,
    differences: Arc<Mutex<Differences>>,
}

fn differ(differences: &Mutex<Differences>, op: &'static str, detail: String) -> Error {
    let mut all = differences.lock();
    all.count += 1;
    if all.reports.len() < REPORTS_MAX {
        all.reports.push(format!("{op}: {detail}"));
    }
    Error::new(op, ErrorKind::Corrupt, format!("the stores differ: {detail}"))
}

impl ShadowColumns {
    /// Both must hold the same to begin with.
    pub fn new(main: Arc<dyn ColumnStore>, twin: Arc<dyn ColumnStore>) -> ShadowColumns {
        ShadowColumns { main, twin, order: Mutex::new(()), differences: Arc::default() }
    }

    /// What differed so far.
    pub fn differences(&self) -> Differences {
        self.differences.lock().clone()
    }

    fn both(
        &self,
        op: &'static str,
        mut change: impl FnMut(&dyn ColumnStore) -> Result<()>,
    ) -> Result<()> {
        let _order = self.order.lock();
        change(&*self.main)?;
        change(&*self.twin)
            .map_err(|e| differ(&self.differences, op, format!("only the twin fails: {e}")))
    }
}

impl ColumnStore for ShadowColumns {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        self.both("apply", |store| store.apply(batch))
    }

    fn clear(&self, table: TableId, range: HandleRange) -> Result<()> {
        self.both("clear", |store| store.clear(table, range))
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        self.both("sync", |store| store.sync(marks))
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        let _order = self.order.lock();
        let (mut main, mut twin) = (self.main.marks()?, self.twin.marks()?);
        main.sort();
        twin.sort();
        match main == twin {
            true => Ok(main),
            false => Err(differ(&self.differences, "marks", format!("{main:?} and {twin:?}"))),
        }
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        let _order = self.order.lock();
        let (main, twin) = (self.main.snapshot(table)?, self.twin.snapshot(table)?);
        let differences = self.differences.clone();
        Ok(Arc::new(ShadowSnapshot { main, twin, differences, table }))
    }

    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> Result<bool> {
        let more = self.main.maintain(safe_point, budget_bytes)?;
        let twin = self.twin.maintain(safe_point, budget_bytes);
        let twin = twin.map_err(|e| differ(&self.differences, "maintain", e.to_string()))?;
        Ok(more || twin)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        self.main.stats(table)
    }

    fn ingest(&self, table: TableId, range: HandleRange, rows: RowsIter<'_>) -> Result<()> {
        let rows: Vec<ChangeBatch> = rows.collect::<Result<_>>()?;
        self.both("ingest", |store| store.ingest(table, range, &mut rows.iter().cloned().map(Ok)))
    }

    fn written(&self) -> Written {
        self.main.written()
    }
}

struct ShadowSnapshot {
    main: Arc<dyn ColumnSnapshot>,
    twin: Arc<dyn ColumnSnapshot>,
    differences: Arc<Mutex<Differences>>,
    table: TableId,
}

/// The request with the handle behind its columns, so that rows have an order.
fn with_handle(request: &ScanRequest) -> ScanRequest {
    let mut fields: Vec<Arc<Field>> = request.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("handle", DataType::Int64, true)));
    let mut defaults = request.defaults.clone();
    defaults.push(Arc::new(Int64Array::from(vec![None])) as ArrayRef);
    ScanRequest { schema: Arc::new(Schema::new(fields)), defaults, ..request.clone() }
}

fn describe(batch: &RecordBatch, row: usize) -> String {
    let value =
        |column: &ArrayRef| array_value_to_string(column, row).unwrap_or_else(|e| format!("({e})"));
    batch.columns().iter().map(value).collect::<Vec<_>>().join(", ")
}

/// The first row that two answers do not share, in words.
fn first_difference(main: &RecordBatch, twin: &RecordBatch) -> Option<String> {
    let rows = main.num_rows().min(twin.num_rows());
    if main.num_rows() == twin.num_rows() && main.columns() == twin.columns() {
        return None;
    }
    let same = |row: &usize| main.slice(*row, 1).columns() == twin.slice(*row, 1).columns();
    Some(match (0..rows).find(|row| !same(row)) {
        Some(row) => {
            let (main, twin) = (describe(main, row), describe(twin, row));
            format!("row {row} is ({main}) and ({twin})")
        }
        None => {
            let (longer, name) = match main.num_rows() > rows {
                true => (main, "main"),
                false => (twin, "twin"),
            };
            let next = describe(longer, rows);
            format!(
                "{} and {} rows; {name} goes on with ({next})",
                main.num_rows(),
                twin.num_rows()
            )
        }
    })
}

impl ShadowSnapshot {
    fn report(&self, op: &'static str, ts: Timestamp, detail: String) -> Error {
        let at = format!("table {} at {}: {detail}", self.table.0, ts.0);
        differ(&self.differences, op, at)
    }

    /// All rows of a question, ascending by handle; pruning may keep more than it must, so it is
    /// left out.
    fn rows(&self, snapshot: &dyn ColumnSnapshot, query: &Query) -> Result<RecordBatch> {
        let scan = ScanRequest { prune: Vec::new(), ..with_handle(&query.scan) };
        let query = Query { scan: scan.clone(), filter: query.filter.clone() };
        let mut batches = Vec::new();
        for part in snapshot.select(&query, 1)? {
            for masked in part {
                batches.push(crate::plain::compact(masked?)?);
            }
        }
        let all = concat_batches(&scan.schema, &batches)?;
        let order = sort_to_indices(all.column(all.num_columns() - 1), None, None)?;
        Ok(take_record_batch(&all, &order)?)
    }

    fn compare(&self, op: &'static str, query: &Query) -> Result<()> {
        let main = self.rows(&*self.main, query)?;
        let ts = query.scan.ts;
        let twin = self.rows(&*self.twin, query);
        let twin = twin.map_err(|e| self.report(op, ts, format!("only the twin fails: {e}")))?;
        match first_difference(&main, &twin) {
            None => Ok(()),
            Some(detail) => Err(self.report(op, ts, detail)),
        }
    }
}

impl ColumnSnapshot for ShadowSnapshot {
    fn scan(&self, request: &ScanRequest, parts: usize) -> Result<Vec<BatchIter>> {
        let answer = self.main.scan(request, parts)?;
        self.compare("scan", &Query { scan: request.clone(), filter: Vec::new() })?;
        Ok(answer)
    }

    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64> {
        let main = self.main.count(ranges, ts)?;
        match self.twin.count(ranges, ts) {
            Ok(twin) if twin == main => Ok(main),
            twin => Err(self.report("count", ts, format!("{main} and {twin:?}"))),
        }
    }

    fn select(&self, query: &Query, parts: usize) -> Result<Vec<MaskedIter>> {
        let answer = self.main.select(query, parts)?;
        self.compare("select", query)?;
        Ok(answer)
    }

    fn ordered(&self, query: &Query) -> Result<BatchIter> {
        let (mut main, mut twin) = (Vec::new(), Vec::new());
        for (snapshot, batches) in [(&self.main, &mut main), (&self.twin, &mut twin)] {
            for batch in snapshot.ordered(query)? {
                batches.push(batch?);
            }
        }
        let schema = &query.scan.schema;
        let whole = (concat_batches(schema, &main)?, concat_batches(schema, &twin)?);
        match first_difference(&whole.0, &whole.1) {
            None => Ok(Box::new(main.into_iter().map(Ok))),
            Some(detail) => Err(self.report("ordered", query.scan.ts, detail)),
        }
    }

    fn aggregate(
        &self,
        query: &Query,
        grouping: &Grouping,
        threads: usize,
    ) -> Result<Option<RecordBatch>> {
        let main = self.main.aggregate(query, grouping, threads)?;
        let twin = self.twin.aggregate(query, grouping, threads)?;
        let difference = match (&main, &twin) {
            (Some(main), Some(twin)) => first_difference(main, twin),
            (None, None) => None,
            (main, _) => {
                let name = if main.is_none() { "main" } else { "twin" };
                Some(format!("only {name} gives up on the groups"))
            }
        };
        match difference {
            None => Ok(main),
            Some(detail) => Err(self.report("aggregate", query.scan.ts, detail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryColumnStore;
    use arrow::array::{BooleanArray, UInt64Array};

    fn batch(handles: &[i64], version: u64) -> ChangeBatch {
        let values: ArrayRef =
            Arc::new(Int64Array::from_iter_values(handles.iter().map(|h| h * 3)));
        let schema = Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)]));
        ChangeBatch {
            table: TableId(4),
            handles: Int64Array::from(handles.to_vec()),
            versions: UInt64Array::from(vec![version; handles.len()]),
            deleted: BooleanArray::from(vec![false; handles.len()]),
            columns: RecordBatch::try_new(schema, vec![values]).expect("one column"),
        }
    }

    fn request(ts: u64) -> ScanRequest {
        ScanRequest {
            ranges: vec![HandleRange::ALL],
            ts: Timestamp(ts),
            schema: batch(&[], 0).columns.schema(),
            defaults: vec![Arc::new(Int64Array::from(vec![None]))],
            prune: Vec::new(),
            batch_rows: 10,
        }
    }

    #[test]
    fn the_first_row_that_differs_is_named_with_its_timestamp() {
        let twin = Arc::new(MemoryColumnStore::new());
        let shadow = ShadowColumns::new(Arc::new(MemoryColumnStore::new()), twin.clone());
        shadow.apply(&batch(&[1, 2, 3], 5)).expect("applied");
        let scan = |ts| {
            let snapshot = shadow.snapshot(TableId(4))?;
            snapshot.scan(&request(ts), 1).map(|_| ())
        };
        scan(9).expect("equal");
        assert_eq!(shadow.differences(), Differences::default());
        // behind its back
        twin.apply(&batch(&[4], 7)).expect("applied");
        scan(6).expect("still equal at 6");
        assert_eq!(scan(7).expect_err("different").kind(), ErrorKind::Corrupt);
        let snapshot = shadow.snapshot(TableId(4)).expect("a snapshot");
        let count = snapshot.count(&[HandleRange::ALL], Timestamp(8));
        assert_eq!(count.expect_err("different").kind(), ErrorKind::Corrupt);
        let found = shadow.differences();
        assert_eq!(found.count, 2);
        let expected = "scan: table 4 at 7: 3 and 4 rows; twin goes on with (12, 4)";
        assert_eq!(found.reports[0], expected);
    }
}
