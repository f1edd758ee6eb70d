//! Pushed-down work in its plain form, built on nothing but `scan`, `clear` and `apply`. It is
//! what a store does that knows nothing better, and what a better one must agree with.

use crate::error::{Error, Result};
use crate::fold::wide::{self, Lane};
use crate::fold::{Folder, Rows};
use crate::predicate::Filter;
use crate::store::{
    BatchIter, ColumnSnapshot, ColumnStore, Grouping, HandleRange, Masked, MaskedIter, Query,
    RowsIter, ScanRequest,
};
use crate::values::{count, invalid, whole_words};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array, PrimitiveArray,
    RecordBatch, RecordBatchOptions,
};
use arrow::compute::{
    FilterBuilder, FilterPredicate, concat_batches, sort_to_indices, take_record_batch,
};
use arrow::datatypes::{
    DataType, DurationMicrosecondType, Field, Float64Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use damask_types::{ErrorKind, TableId};
use std::sync::Arc;

/// Checks that a batch lies inside a range and behind `last`; its last (handle, version).
pub(crate) fn sorted_inside(
    batch: &crate::store::ChangeBatch,
    range: HandleRange,
    mut last: Option<(i64, u64)>,
) -> Result<Option<(i64, u64)>> {
    if batch.handles.len() != batch.versions.len() {
        return Err(Error::new("ingest", ErrorKind::Invalid, "columns of different lengths"));
    }
    for key in batch.handles.values().iter().zip(batch.versions.values()) {
        let key = (*key.0, *key.1);
        if key.0 < range.first || range.last < key.0 || last.is_some_and(|last| key <= last) {
            let detail = "rows are not ascending, or outside of the range";
            return Err(Error::new("ingest", ErrorKind::Invalid, detail));
        }
        last = Some(key);
    }
    Ok(last)
}

/// See [`ColumnStore::ingest`].
pub fn ingest<S: ColumnStore + ?Sized>(
    store: &S,
    table: TableId,
    range: HandleRange,
    rows: RowsIter<'_>,
) -> Result<()> {
    store.clear(table, range)?;
    let mut last = None;
    for batch in rows {
        let batch = batch?;
        if batch.table != table {
            return Err(Error::new("ingest", ErrorKind::Invalid, "rows of another table"));
        }
        last = sorted_inside(&batch, range, last)?;
        store.apply(&batch)?;
    }
    Ok(())
}

/// See [`ColumnSnapshot::select`].
pub fn select<S: ColumnSnapshot + ?Sized>(
    snapshot: &S,
    query: &Query,
    parts: usize,
) -> Result<Vec<MaskedIter>> {
    let filter = Arc::new(Filter::new(&query.scan.schema, &query.filter)?);
    let part = |batches: BatchIter| -> MaskedIter {
        let filter = filter.clone();
        Box::new(batches.filter_map(move |batch| match batch {
            Ok(batch) => masked(batch, &filter).transpose(),
            Err(e) => Some(Err(e)),
        }))
    };
    Ok(snapshot.scan(&query.scan, parts)?.into_iter().map(part).collect())
}

fn masked(batch: RecordBatch, filter: &Filter) -> Result<Option<Masked>> {
    let mask = filter.rows(|column| Ok(batch.column(column).clone()))?;
    let rows = mask.as_ref().map_or(batch.num_rows(), count);
    let mask = mask.filter(|_| rows < batch.num_rows());
    Ok((rows > 0).then_some(Masked { batch, mask }))
}

/// Copies the rows that belong to the answer.
pub fn compact(masked: Masked) -> Result<RecordBatch> {
    let Masked { batch, mask } = masked;
    let Some(mask) = mask else { return Ok(batch) };
    let (rows, words) = (count(&mask), whole_words(&mask));
    let mut others: Option<FilterPredicate> = None;
    let mut columns = Vec::with_capacity(batch.num_columns());
    for column in batch.columns() {
        columns.push(match picked(column, &words, rows) {
            Some(array) => array,
            None => {
                let build = || {
                    FilterBuilder::new(&BooleanArray::new(mask.clone(), None)).optimize().build()
                };
                others.get_or_insert_with(build).filter(column)?
            }
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

/// The rows under a mask's words, if the values have 8 bytes each and none is NULL.
fn picked(column: &ArrayRef, words: &[u64], rows: usize) -> Option<ArrayRef> {
    fn numbers<T: ArrowPrimitiveType>(
        column: &ArrayRef,
        words: &[u64],
        rows: usize,
    ) -> Option<ArrayRef>
    where
        T::Native: Lane,
    {
        let values = wide::pick(column.as_primitive::<T>().values(), words, rows);
        Some(Arc::new(PrimitiveArray::<T>::new(values.into(), None)))
    }
    if column.null_count() > 0 {
        return None;
    }
    match column.data_type() {
        DataType::Int64 => numbers::<Int64Type>(column, words, rows),
        DataType::UInt64 => numbers::<UInt64Type>(column, words, rows),
        DataType::Float64 => numbers::<Float64Type>(column, words, rows),
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            numbers::<TimestampMicrosecondType>(column, words, rows)
        }
        DataType::Duration(TimeUnit::Microsecond) => {
            numbers::<DurationMicrosecondType>(column, words, rows)
        }
        _ => None,
    }
}

/// See [`ColumnSnapshot::ordered`].
pub fn ordered<S: ColumnSnapshot + ?Sized>(snapshot: &S, query: &Query) -> Result<BatchIter> {
    let request = &query.scan;
    let columns = request.schema.fields().len();
    let mut fields: Vec<Arc<Field>> = request.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("handle", DataType::Int64, true)));
    let mut defaults = request.defaults.clone();
    defaults.push(Arc::new(Int64Array::from(vec![None])) as ArrayRef);
    // the handle may be asked for already: the added one has the last place
    let with_handle = Arc::new(Schema::new(fields));
    let scan = ScanRequest { schema: with_handle.clone(), defaults, ..request.clone() };
    let query = Query { scan, filter: query.filter.clone() };
    let mut batches = Vec::new();
    for part in snapshot.select(&query, 1)? {
        for masked in part {
            batches.push(compact(masked?)?);
        }
    }
    let all = concat_batches(&with_handle, &batches)?;
    let order = sort_to_indices(all.column(columns), None, None)?;
    let sorted = take_record_batch(&all, &order)?;
    let sorted = sorted.project(&(0..columns).collect::<Vec<_>>())?;
    let rows = request.batch_rows.max(1);
    let starts = (0..sorted.num_rows()).step_by(rows);
    let parts: Vec<_> =
        starts.map(|at| Ok(sorted.slice(at, rows.min(sorted.num_rows() - at)))).collect();
    Ok(Box::new(parts.into_iter()))
}

/// See [`ColumnSnapshot::aggregate`].
pub fn aggregate<S: ColumnSnapshot + ?Sized>(
    snapshot: &S,
    query: &Query,
    grouping: &Grouping,
    _threads: usize,
) -> Result<Option<RecordBatch>> {
    let mut folder = Folder::new(&query.scan.schema, grouping)?;
    if query.scan.schema.fields().is_empty() {
        if !query.filter.is_empty() {
            return Err(invalid("a predicate names no column"));
        }
        if !grouping.derived.is_empty() || !grouping.groups.is_empty() {
            return Err(invalid("a column is made of none"));
        }
        let rows = snapshot.count(&query.scan.ranges, query.scan.ts)?;
        folder.add_rows(rows);
        return folder.finish().map(Some);
    }
    for part in snapshot.select(query, 1)? {
        for masked in part {
            let Masked { batch, mask } = masked?;
            let rows = Rows::of(batch.num_rows(), mask);
            if !folder.update(rows, |at| Ok(batch.column(at).clone()))? {
                return Ok(None);
            }
        }
    }
    folder.finish().map(Some)
}
