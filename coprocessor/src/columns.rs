//! The column side of an endpoint: a learner's view of a region, then the column store's scan.
//! It must never copy a column that the store could hand out as it is.

use crate::decode::origin_default;
use crate::rows::counted;
use crate::spec::*;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema};
use damask_deltatree::{
    Aggregate, BatchIter, Derived, Grouping, HandleRange, Masked, MaskedIter, Predicate, Prune,
    Query, ScanRequest, Test,
};
use damask_learner::{ColumnView, LearnerRead, ReadError};
use damask_types::{Epoch, ErrorKind, KeyRange, RegionId, Timestamp};
use std::sync::Arc;

/// Opens a learner's view of part of a region: caught up, without blocking locks, of this epoch.
pub type OpenView = Box<
    dyn Fn(RegionId, Epoch, &[KeyRange], Timestamp) -> Result<ColumnView, ReadError> + Send + Sync,
>;

/// Columns of one store.
pub struct ColumnEndpoint {
    view: OpenView,
}

impl ColumnEndpoint {
    /// Reads what a learner applies.
    pub fn new(learner: LearnerRead) -> ColumnEndpoint {
        let view =
            move |region, epoch, ranges: &[KeyRange], ts| learner.view(region, epoch, ranges, ts);
        ColumnEndpoint { view: Box::new(view) }
    }

    /// Reads through `view`.
    pub fn over(view: OpenView) -> ColumnEndpoint {
        ColumnEndpoint { view }
    }
}

fn refused(error: ReadError) -> EndpointError {
    match error {
        ReadError::Region(e) => EndpointError::Region(e),
        ReadError::Locked(locks) => EndpointError::Locked(locks),
        ReadError::Timeout { .. } => damask_raftstore::Error::Busy("no read index in time").into(),
        ReadError::Store { kind, detail } => EndpointError::storage(kind, detail),
    }
}

/// How the store's batch becomes the answer's.
struct Shape {
    spec: Arc<ScanSpec>,
    /// For each field of the answer, the store's column.
    take: Vec<usize>,
}

impl Shape {
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, EndpointError> {
        let fields = self.spec.schema.fields().iter();
        let columns = self.take.iter().zip(fields).map(|(&i, field)| {
            let column = batch.column(i);
            retyped(column, field.data_type())
        });
        let columns = columns.collect::<Result<_, EndpointError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.spec.schema.clone(), columns, &options)?)
    }
}

impl Shape {
    /// A row that is masked out may be a deleted one, whose cells are all NULL: where the answer's
    /// columns must not be, the rows that count are copied.
    fn apply_masked(&self, masked: Masked) -> Result<Masked, EndpointError> {
        let Masked { batch, mask } = masked;
        let fields = self.spec.schema.fields().iter();
        let is_null = |(&at, field): (&usize, &Arc<Field>)| {
            !field.is_nullable() && batch.column(at).null_count() > 0
        };
        match mask {
            Some(mask) if self.take.iter().zip(fields).any(is_null) => {
                let batch = filter_record_batch(&batch, &BooleanArray::new(mask, None))?;
                Ok(Masked { batch: self.apply(&batch)?, mask: None })
            }
            mask => Ok(Masked { batch: self.apply(&batch)?, mask }),
        }
    }
}

impl ColumnEndpoint {
    fn view(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &ScanSpec,
    ) -> Result<ColumnView, EndpointError> {
        (self.view)(context.region, context.epoch, ranges, spec.ts).map_err(refused)
    }
}

impl Endpoint for ColumnEndpoint {
    fn open(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, EndpointError> {
        let ColumnView { snapshot, handles, .. } = self.view(context, ranges, spec)?;
        if handles.is_empty() {
            return Ok(Vec::new());
        }
        if spec.columns.is_empty() {
            let rows = usize::try_from(snapshot.count(&handles, spec.ts)?);
            let rows = rows.map_err(|e| EndpointError::storage(ErrorKind::Invalid, e))?;
            let batch = counted(spec, rows)?;
            return Ok(vec![Box::new(std::iter::once(Ok(batch)))]);
        }
        let (request, take) = request(spec, handles)?;
        let shape = Arc::new(Shape { spec: spec.clone(), take });
        let parts = snapshot.scan(&request, spec.parts.max(1))?;
        let part = |batches: BatchIter| -> Part {
            let shape = shape.clone();
            let mut left = shape.spec.limit.unwrap_or(usize::MAX);
            let batches = batches.map(move |batch| shape.apply(&batch?));
            Box::new(batches.map_while(move |batch| match batch {
                _ if left == 0 => None,
                Ok(batch) => {
                    let rows = batch.num_rows().min(left);
                    left -= rows;
                    Some(Ok(batch.slice(0, rows)))
                }
                Err(e) => {
                    left = 0;
                    Some(Err(e))
                }
            }))
        };
        Ok(parts.into_iter().map(part).collect())
    }

    fn select(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
    ) -> Result<Option<Vec<MaskedPart>>, EndpointError> {
        // A limit is one of rows that are kept; only whole batches are counted here.
        if spec.columns.is_empty() || spec.limit.is_some() {
            return Ok(None);
        }
        let ColumnView { snapshot, handles, .. } = self.view(context, ranges, spec)?;
        if handles.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let (query, take) = query(spec, handles, filter)?;
        let shape = Arc::new(Shape { spec: spec.clone(), take });
        let part = |batches: MaskedIter| -> MaskedPart {
            let shape = shape.clone();
            Box::new(batches.map(move |masked| shape.apply_masked(masked?)))
        };
        let parts = snapshot.select(&query, spec.parts.max(1))?;
        Ok(Some(parts.into_iter().map(part).collect()))
    }

    fn ordered(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
    ) -> Result<Option<Part>, EndpointError> {
        if spec.columns.is_empty() || spec.limit.is_some() {
            return Ok(None);
        }
        let ColumnView { snapshot, handles, .. } = self.view(context, ranges, spec)?;
        let (query, take) = query(spec, handles, filter)?;
        let shape = Shape { spec: spec.clone(), take };
        let batches = snapshot.ordered(&query)?;
        Ok(Some(Box::new(batches.map(move |batch| shape.apply(&batch?)))))
    }

    fn fold(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        work: &FoldWork,
    ) -> Result<Option<RecordBatch>, EndpointError> {
        let ColumnView { snapshot, handles, .. } = {
            let _timer = work.waited.timer();
            self.view(context, ranges, spec)?
        };
        let (query, take) = query(spec, handles, &work.filter)?;
        let grouping = grouping(spec, &work.grouping, query.scan.schema.fields().len(), &take);
        // Half of the parts are there to balance the work; here it balances itself.
        let threads = spec.parts.div_ceil(2).max(1);
        match snapshot.aggregate(&query, &grouping, threads) {
            // A sum that is too large, an expression that fails: the rows must tell.
            Err(e) if e.kind() == ErrorKind::Invalid => Ok(None),
            answer => Ok(answer?),
        }
    }
}

/// The store's query, and where each field of the answer is in its batches.
fn query(
    spec: &ScanSpec,
    handles: Vec<HandleRange>,
    filter: &[Predicate],
) -> Result<(Query, Vec<usize>), EndpointError> {
    let (scan, take) = request(spec, handles)?;
    let typed =
        |array: &ArrayRef, column: usize| retyped(array, scan.schema.field(column).data_type());
    let predicate = |predicate: &Predicate| {
        let column = take[predicate.column];
        let test = match &predicate.test {
            Test::Equal(v) => Test::Equal(typed(v, column)?),
            Test::NotEqual(v) => Test::NotEqual(typed(v, column)?),
            Test::Less(v) => Test::Less(typed(v, column)?),
            Test::LessEqual(v) => Test::LessEqual(typed(v, column)?),
            Test::Greater(v) => Test::Greater(typed(v, column)?),
            Test::GreaterEqual(v) => Test::GreaterEqual(typed(v, column)?),
            Test::In(v) => Test::In(typed(v, column)?),
            Test::Null => Test::Null,
            Test::NotNull => Test::NotNull,
        };
        Ok(Predicate { column, test })
    };
    let filter = filter.iter().map(predicate).collect::<Result<_, EndpointError>>()?;
    Ok((Query { scan, filter }, take))
}

/// A grouping of the spec's columns as one of the `base` columns of a request.
fn grouping(spec: &Arc<ScanSpec>, asked: &Grouping, base: usize, take: &[usize]) -> Grouping {
    let own = spec.columns.len();
    let at = |column: usize| if column < own { take[column] } else { base + column - own };
    let derived = asked.derived.iter().map(|derived| {
        let (inputs, spec, derive) = (derived.inputs.clone(), spec.clone(), derived.derive.clone());
        let typed = inputs.clone();
        Derived {
            inputs: inputs.into_iter().map(at).collect(),
            data_type: derived.data_type.clone(),
            derive: Arc::new(move |arrays, rows| {
                let arrays = arrays.iter().zip(&typed).map(|(array, column)| {
                    match spec.schema.fields().get(*column) {
                        Some(field) => retyped(array, field.data_type()).map_err(derive_error),
                        None => Ok(array.clone()),
                    }
                });
                derive(&arrays.collect::<Result<Vec<_>, _>>()?, rows)
            }),
        }
    });
    Grouping {
        derived: derived.collect(),
        keep: asked.keep.map(at),
        groups: asked.groups.iter().map(|column| at(*column)).collect(),
        aggregates: asked
            .aggregates
            .iter()
            .map(|a| Aggregate { column: a.column.map(at), ..*a })
            .collect(),
        groups_max: asked.groups_max,
    }
}

fn derive_error(e: EndpointError) -> damask_deltatree::Error {
    damask_deltatree::Error::new("derive", e.kind(), e)
}

/// The column in a type that holds the same values: a DECIMAL column is stored with more digits
/// than it has, the handle of an unsigned column as signed. Only the latter is copied.
fn retyped(column: &ArrayRef, ty: &DataType) -> Result<ArrayRef, EndpointError> {
    match (column.data_type(), ty) {
        (stored, ty) if stored == ty => Ok(column.clone()),
        (DataType::Decimal128(_, a), DataType::Decimal128(precision, b)) if a == b => {
            let values = column.as_primitive::<Decimal128Type>().clone();
            Ok(Arc::new(values.with_precision_and_scale(*precision, *b)?))
        }
        _ => Ok(cast(column, ty)?),
    }
}

/// The store's request, and where each field of the answer is in its batches.
fn request(
    spec: &ScanSpec,
    ranges: Vec<HandleRange>,
) -> Result<(ScanRequest, Vec<usize>), EndpointError> {
    let mut fields: Vec<Field> = Vec::new();
    let mut defaults: Vec<ArrayRef> = Vec::new();
    let mut take = Vec::with_capacity(spec.columns.len());
    for column in &spec.columns {
        let (name, ty, default): (String, DataType, ArrayRef) = match column {
            ScanColumn::Column(id) if spec.table.handle_column != Some(*id) => {
                let column = spec.table.column_by_id(*id);
                let column = column.ok_or_else(|| {
                    EndpointError::storage(ErrorKind::Invalid, "a column is not in the table")
                })?;
                let default = origin_default(&column.ty, column.origin_default.as_deref())?;
                let ty = crate::storage_type(&column.ty);
                (id.to_string(), ty.clone(), retyped(&default, &ty)?)
            }
            _ => ("handle".into(), DataType::Int64, Arc::new(Int64Array::from(vec![None]))),
        };
        match fields.iter().position(|f| *f.name() == name) {
            Some(i) => take.push(i),
            None => {
                take.push(fields.len());
                fields.push(Field::new(name, ty, true));
                defaults.push(default);
            }
        }
    }
    let prune = spec.prune.iter().map(|bound| {
        let ty = fields[take[bound.column]].data_type();
        let value = |v: &Option<ArrayRef>| v.as_ref().map(|v| cast(v, ty)).transpose();
        Ok(Prune { column: take[bound.column], min: value(&bound.min)?, max: value(&bound.max)? })
    });
    let prune = prune.collect::<Result<_, EndpointError>>()?;
    let schema = Arc::new(Schema::new(fields));
    let batch_rows = spec.batch_rows.max(1);
    Ok((ScanRequest { ranges, ts: spec.ts, schema, defaults, prune, batch_rows }, take))
}
