//! The conformance suite must be able to fail: a store that is wrong in one named way never passes
//! it. The faults are thin layers over the store in memory, which passes.

use arrow::array::AsArray;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use damask_deltatree::{
    BatchIter, ChangeBatch, ColumnSnapshot, ColumnStore, Grouping, HandleRange, Mark, Masked,
    MaskedIter, MemoryColumnStore, Query, Result, ScanRequest, TableStats, testing,
};
use damask_types::{TableId, Timestamp};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// What the store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    ForgetsDeletions,
    ForgetsLateVersions,
    ClearsTooLittle,
    ClearsTooMuch,
    CollectsTooMuch,
    ForgetsMarks,
    SnapshotsMove,
    CountsAtTheEndOfTime,
    ReadsTheFirstRangeOnly,
    LosesTheLastBatch,
    GivesLargeBatches,
    DropsMasks,
    FiltersNothing,
    OrdersBackwards,
    FoldsWithoutFilter,
}

use Fault::*;
const FAULTS: [Fault; 15] = [
    ForgetsDeletions,
    ForgetsLateVersions,
    ClearsTooLittle,
    ClearsTooMuch,
    CollectsTooMuch,
    ForgetsMarks,
    SnapshotsMove,
    CountsAtTheEndOfTime,
    ReadsTheFirstRangeOnly,
    LosesTheLastBatch,
    GivesLargeBatches,
    DropsMasks,
    FiltersNothing,
    OrdersBackwards,
    FoldsWithoutFilter,
];

struct Faulty {
    store: Arc<MemoryColumnStore>,
    fault: Option<Fault>,
    newest: Mutex<HashMap<i64, u64>>,
    marks: Mutex<Vec<Mark>>,
}

fn only(batch: &ChangeBatch, keep: &BooleanArray) -> ChangeBatch {
    ChangeBatch {
        table: batch.table,
        handles: filter(&batch.handles, keep).expect("filtered").as_primitive().clone(),
        versions: filter(&batch.versions, keep).expect("filtered").as_primitive().clone(),
        deleted: filter(&batch.deleted, keep).expect("filtered").as_boolean().clone(),
        columns: filter_record_batch(&batch.columns, keep).expect("filtered"),
    }
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn late(&self, batch: &ChangeBatch) -> BooleanArray {
        let mut newest = self.newest.lock().expect("no panic under it");
        let rows = batch.handles.values().iter().zip(batch.versions.values());
        let keep = rows.map(|(handle, version)| {
            let seen = newest.entry(*handle).or_default();
            let keep = version >= seen;
            *seen = (*seen).max(*version);
            Some(keep)
        });
        keep.collect()
    }
}

impl ColumnStore for Faulty {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        let whole = batch.versions.len() == batch.handles.len();
        match self.fault {
            Some(ForgetsDeletions) if whole => {
                let keep = arrow::compute::not(&batch.deleted)?;
                self.store.apply(&only(batch, &keep))
            }
            Some(ForgetsLateVersions) if whole => self.store.apply(&only(batch, &self.late(batch))),
            _ => self.store.apply(batch),
        }
    }

    fn clear(&self, table: TableId, range: HandleRange) -> Result<()> {
        let HandleRange { first, last } = range;
        let range = match self.fault {
            Some(ClearsTooLittle) => HandleRange { first, last: last.saturating_sub(1) },
            Some(ClearsTooMuch) => HandleRange { first: first.saturating_sub(1), last },
            _ => range,
        };
        self.store.clear(table, range)
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        *self.marks.lock().expect("no panic under it") = marks.to_vec();
        self.store.sync(marks)
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        match self.is(ForgetsMarks) {
            true => Ok(self.marks.lock().expect("no panic under it").clone()),
            false => self.store.marks(),
        }
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        let fault = self.fault;
        let snapshot = self.store.snapshot(table)?;
        let live = self.is(SnapshotsMove).then(|| (self.store.clone(), table));
        Ok(Arc::new(FaultySnapshot { snapshot, live, fault }))
    }

    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> Result<bool> {
        let more = if self.is(CollectsTooMuch) { 3 } else { 0 };
        self.store.maintain(Timestamp(safe_point.0 + more), budget_bytes)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        self.store.stats(table)
    }
}

struct FaultySnapshot {
    snapshot: Arc<dyn ColumnSnapshot>,
    live: Option<(Arc<MemoryColumnStore>, TableId)>,
    fault: Option<Fault>,
}

impl FaultySnapshot {
    fn view(&self) -> Result<Arc<dyn ColumnSnapshot>> {
        match &self.live {
            Some((store, table)) => store.snapshot(*table),
            None => Ok(self.snapshot.clone()),
        }
    }
}

impl ColumnSnapshot for FaultySnapshot {
    fn scan(&self, request: &ScanRequest, parts: usize) -> Result<Vec<BatchIter>> {
        let mut request = request.clone();
        match self.fault {
            Some(ReadsTheFirstRangeOnly) => request.ranges.truncate(1),
            Some(GivesLargeBatches) => request.batch_rows *= 2,
            _ => {}
        }
        let parts = self.view()?.scan(&request, parts)?;
        if self.fault != Some(LosesTheLastBatch) {
            return Ok(parts);
        }
        let shorten = |part: BatchIter| -> BatchIter {
            let mut all: Vec<_> = part.collect();
            if all.len() > 2 {
                all.pop();
            }
            Box::new(all.into_iter())
        };
        Ok(parts.into_iter().map(shorten).collect())
    }

    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64> {
        let ts = if self.fault == Some(CountsAtTheEndOfTime) { Timestamp::MAX } else { ts };
        self.view()?.count(ranges, ts)
    }

    fn select(&self, query: &Query, parts: usize) -> Result<Vec<MaskedIter>> {
        let mut query = query.clone();
        if self.fault == Some(FiltersNothing) {
            query.filter.clear();
        }
        let parts = self.view()?.select(&query, parts)?;
        if self.fault != Some(DropsMasks) {
            return Ok(parts);
        }
        let bare = |part: MaskedIter| -> MaskedIter {
            Box::new(part.map(|masked| Ok(Masked { batch: masked?.batch, mask: None })))
        };
        Ok(parts.into_iter().map(bare).collect())
    }

    fn ordered(&self, query: &Query) -> Result<BatchIter> {
        let ordered = self.view()?.ordered(query)?;
        if self.fault != Some(OrdersBackwards) {
            return Ok(ordered);
        }
        let all: Vec<_> = ordered.collect();
        Ok(Box::new(all.into_iter().rev()))
    }

    fn aggregate(
        &self,
        query: &Query,
        grouping: &Grouping,
        threads: usize,
    ) -> Result<Option<RecordBatch>> {
        let mut query = query.clone();
        if self.fault == Some(FoldsWithoutFilter) {
            query.filter.clear();
        }
        self.view()?.aggregate(&query, grouping, threads)
    }
}

fn passes(fault: Option<Fault>) -> bool {
    let run = || {
        testing::suite(|| {
            let (newest, marks) = (Mutex::default(), Mutex::default());
            let store = Arc::new(MemoryColumnStore::new());
            let store = Arc::new(Faulty { store, fault, newest, marks });
            Box::new(move || store.clone())
        });
    };
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

#[test]
fn a_store_with_a_fault_never_passes_and_without_one_does() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let missed: Vec<Fault> = FAULTS.into_iter().filter(|fault| passes(Some(*fault))).collect();
    std::panic::set_hook(hook);
    assert_eq!(missed, [], "faults that the suite does not see");
    assert!(passes(None), "the layer itself is right");
}
