//! Partial aggregates that a column store folds itself, unit by unit, in place of a scan below an
//! operator. It must never give another answer than the operator would: what a store does not
//! fold is scanned.
//!
//! ```text
//!   Aggregate(Partial)          Fold  ── unit ──► store: filter, derived columns, groups, states
//!    Projection          ──►     │                       │ too many groups, a failing expression
//!     RegionScan                 └── the same operators over a scan of that unit ◄┘
//! ```

use crate::dispatch::{Folded, Unit};
use crate::push::{Expr, is_as_stored, is_exact, split};
use crate::scan::{FRESHNESS_WAIT, RegionScanExec, to_datafusion};
use crate::spec::{FoldWork, ScanSpec, Source};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef};
use damask_deltatree::{Aggregate, Derived, Fold, Grouping};
use damask_types::{ErrorKind, KeyRange};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Volatility;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, Literal};
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputOrderMode,
    PlanProperties,
};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Groups of one unit above which scanning is the better way: hashing then costs most.
const GROUPS_MAX: usize = 4096;

/// What a state is where there was no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Empty {
    /// What the store says.
    Same,
    /// 0, where the store says NULL.
    Zero,
    /// NULL, where the store says 0.
    Null,
}

/// How a column of states is made of a folded one.
#[derive(Clone, Copy, Debug)]
struct Output {
    /// Of the folded batch.
    column: usize,
    empty: Empty,
}

/// A partial aggregate that stores fold.
#[derive(Debug)]
pub struct FoldExec {
    /// The operators that it stands for.
    general: Arc<dyn ExecutionPlan>,
    scan: Arc<RegionScanExec>,
    work: Arc<FoldWork>,
    outputs: Arc<Vec<Output>>,
    units: Arc<Mutex<VecDeque<Unit>>>,
    /// A store gave up on a unit: so would others.
    given_up: Arc<AtomicBool>,
    metrics: ExecutionPlanMetricsSet,
}

impl FoldExec {
    fn new(
        general: Arc<dyn ExecutionPlan>,
        scan: Arc<RegionScanExec>,
        work: Arc<FoldWork>,
        outputs: Arc<Vec<Output>>,
    ) -> FoldExec {
        let units = Arc::new(Mutex::new(scan.units().to_vec().into()));
        let (given_up, metrics) = Default::default();
        let waited = MetricBuilder::new(&metrics).subset_time(FRESHNESS_WAIT, 0);
        let work = Arc::new(FoldWork { waited, ..FoldWork::clone(&work) });
        FoldExec { general, scan, work, outputs, units, given_up, metrics }
    }

    /// The operators that it stands for.
    pub fn general(&self) -> &Arc<dyn ExecutionPlan> {
        &self.general
    }
}

/// An aggregate with its scan, as one that stores fold; `None`: it is not of that kind.
pub(crate) fn folded(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else { return Ok(None) };
    let partial = match aggregate.mode() {
        AggregateMode::Partial => plan.clone(),
        AggregateMode::Single if aggregate.input().output_partitioning().partition_count() == 1 => {
            Arc::new(AggregateExec::try_new(
                AggregateMode::Partial,
                aggregate.group_expr().clone(),
                aggregate.aggr_expr().to_vec(),
                aggregate.filter_expr().to_vec(),
                aggregate.input().clone(),
                aggregate.input_schema(),
            )?)
        }
        _ => return Ok(None),
    };
    let Some(fold) = fold_of(&partial)? else { return Ok(None) };
    let fold: Arc<dyn ExecutionPlan> = Arc::new(fold);
    if *aggregate.mode() == AggregateMode::Partial {
        return Ok(Some(fold));
    }
    let count = aggregate.aggr_expr().len();
    let whole = AggregateExec::try_new(
        AggregateMode::Final,
        aggregate.group_expr().as_final(),
        aggregate.aggr_expr().to_vec(),
        vec![None; count],
        fold,
        aggregate.input_schema(),
    )?;
    let same = whole.schema() == plan.schema();
    Ok(same.then(|| Arc::new(whole) as Arc<dyn ExecutionPlan>))
}

/// What is below an aggregate, as columns of a spec and columns derived from them.
struct Below<'a> {
    spec: &'a ScanSpec,
    derived: Vec<Derived>,
    /// For each field of the operator that was looked at last, the column.
    fields: Vec<usize>,
    schema: SchemaRef,
}

/// Types that a store can sum, group by or compare, and truths.
fn is_foldable(ty: &DataType) -> bool {
    is_exact(ty) || matches!(ty, DataType::Float64 | DataType::Boolean)
}

/// Does it tell of the rows that it sees, as a division tells of zeros? Then it must see those of
/// the query alone.
pub(crate) fn tells(expr: &Expr) -> bool {
    let is_stable = |expr: &Expr| {
        let function = expr.downcast_ref::<ScalarFunctionExpr>();
        function.is_some_and(|f| f.fun().signature().volatility == Volatility::Stable)
    };
    expr.exists(|expr| Ok(is_stable(expr))).unwrap_or(true)
}

fn is_volatile(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(expr.is_volatile_node())).unwrap_or(true)
}

/// The columns that an expression names, at other positions.
fn moved(expr: Expr, to: impl Fn(usize) -> usize) -> Result<Expr> {
    let moved = expr.transform_down(|expr| {
        Ok(match expr.downcast_ref::<Column>() {
            Some(column) => {
                Transformed::yes(Arc::new(Column::new(column.name(), to(column.index()))) as Expr)
            }
            None => Transformed::no(expr),
        })
    });
    Ok(moved?.data)
}

impl Below<'_> {
    fn type_of(&self, column: usize) -> &DataType {
        let own = self.spec.columns.len();
        match column < own {
            true => self.spec.schema.field(column).data_type(),
            false => &self.derived[column - own].data_type,
        }
    }

    /// The column with an expression's values; `None`: there can be none.
    fn column(&mut self, expr: &Expr) -> Result<Option<usize>> {
        if let Some(column) = expr.downcast_ref::<Column>() {
            return Ok(self.fields.get(column.index()).copied());
        }
        let data_type = expr.data_type(&self.schema)?;
        if is_volatile(expr) || tells(expr) || !is_foldable(&data_type) {
            return Ok(None);
        }
        let mut used: Vec<usize> = collect_columns(expr).iter().map(Column::index).collect();
        used.sort_unstable();
        let inputs = used.iter().map(|at| self.fields.get(*at).copied());
        let Some(inputs) = inputs.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let place = |at: usize| used.binary_search(&at).unwrap_or_default();
        let expr = moved(expr.clone(), place)?;
        let fields: Vec<Field> = used.iter().map(|at| self.schema.field(*at).clone()).collect();
        let schema = Arc::new(Schema::new(
            fields.into_iter().map(|f| f.with_nullable(true)).collect::<Vec<_>>(),
        ));
        let derive = move |arrays: &[ArrayRef], rows: usize| {
            let failed =
                |e: DataFusionError| damask_deltatree::Error::new("derive", ErrorKind::Invalid, e);
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch =
                RecordBatch::try_new_with_options(schema.clone(), arrays.to_vec(), &options)?;
            expr.evaluate(&batch).and_then(|value| value.into_array(rows)).map_err(failed)
        };
        self.derived.push(Derived { inputs, data_type, derive: Arc::new(derive) });
        Ok(Some(self.spec.columns.len() + self.derived.len() - 1))
    }

    /// Goes up through a projection.
    fn project(&mut self, projection: &ProjectionExec) -> Result<bool> {
        let mut fields = Vec::with_capacity(projection.expr().len());
        for item in projection.expr() {
            let Some(column) = self.column(&item.expr)? else { return Ok(false) };
            fields.push(column);
        }
        (self.fields, self.schema) = (fields, projection.schema());
        Ok(true)
    }

    /// A column to group by or to compare: one whose values mean the same in the store.
    fn exact(&mut self, expr: &Expr) -> Result<Option<usize>> {
        let Some(column) = self.column(expr)? else { return Ok(None) };
        let own = column >= self.spec.columns.len() || is_as_stored(self.spec, column);
        Ok((own && is_exact(self.type_of(column))).then_some(column))
    }
}

/// Does the condition only say which rows cannot matter, while the plan runs?
pub(crate) fn is_optional(condition: &Expr) -> bool {
    condition.is::<DynamicFilterPhysicalExpr>()
}

/// The filters of a scan over its spec's columns: what a store checks, and the others.
fn filters(scan: &RegionScanExec) -> Result<(FoldWork, Vec<Expr>)> {
    let spec = &scan.plan().spec;
    let mut tests = scan.split().tests.clone();
    let mut rest: Vec<Expr> = scan.split().rest.iter().cloned().collect();
    let given = |at: usize| scan.plan().projection.as_ref().map_or(at, |given| given[at]);
    for late in scan.late().iter().flat_map(|late| split_conjunction(late)) {
        if is_optional(late) {
            continue;
        }
        let parts = split(Some(&moved((*late).clone(), given)?), spec);
        tests.extend(parts.tests);
        rest.extend(parts.rest);
    }
    let (grouping, waited) = Default::default();
    Ok((FoldWork { filter: tests, grouping, waited }, rest))
}

/// The scan below an aggregate, with the projections between, from the top.
fn below(plan: &Arc<dyn ExecutionPlan>) -> Option<(&RegionScanExec, Vec<&ProjectionExec>)> {
    let (mut plan, mut projections) = (plan, Vec::new());
    loop {
        if let Some(scan) = plan.downcast_ref::<RegionScanExec>() {
            return Some((scan, projections));
        }
        if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            projections.push(projection);
            plan = projection.input();
        } else {
            plan = plan.downcast_ref::<CooperativeExec>()?.input();
        }
    }
}

fn fold_of(partial: &Arc<dyn ExecutionPlan>) -> Result<Option<FoldExec>> {
    let Some(aggregate) = partial.downcast_ref::<AggregateExec>() else { return Ok(None) };
    let Some((scan, projections)) = below(aggregate.input()) else { return Ok(None) };
    let plan = scan.plan();
    let is_plain = aggregate.limit_options().is_none()
        && aggregate.filter_expr().iter().all(Option::is_none)
        && aggregate.group_expr().is_single()
        && *aggregate.input_order_mode() == InputOrderMode::Linear;
    let is_whole = plan.fetch.is_none() && plan.spec.limit.is_none();
    if !is_plain || !is_whole || plan.spec.source != Source::Columns {
        return Ok(None);
    }
    let (mut work, rest) = filters(scan)?;
    let all: Vec<usize> = (0..plan.spec.columns.len()).collect();
    let schema = plan.spec.schema.clone();
    let mut below = Below { spec: &plan.spec, derived: Vec::new(), fields: all, schema };
    if let Some(rest) = datafusion::physical_expr::conjunction_opt(rest) {
        work.grouping.keep = match below.column(&rest)? {
            Some(column) if *below.type_of(column) == DataType::Boolean => Some(column),
            _ => return Ok(None),
        };
        if work.grouping.keep.is_some_and(|column| column < plan.spec.columns.len()) {
            return Ok(None);
        }
    }
    if let Some(given) = &plan.projection {
        (below.fields, below.schema) = (given.clone(), scan.schema());
    }
    for projection in projections.into_iter().rev() {
        if !below.project(projection)? {
            return Ok(None);
        }
    }
    for (expr, _) in aggregate.group_expr().expr() {
        let Some(column) = below.exact(expr)? else { return Ok(None) };
        work.grouping.groups.push(column);
    }
    let mut outputs: Vec<Output> = (0..work.grouping.groups.len())
        .map(|column| Output { column, empty: Empty::Same })
        .collect();
    for call in aggregate.aggr_expr() {
        let Some(states) = states(call, &mut below, &mut work.grouping)? else {
            return Ok(None);
        };
        outputs.extend(states);
    }
    work.grouping.derived = below.derived;
    work.grouping.groups_max = GROUPS_MAX;
    let scan = Arc::new(scan.copy());
    let fold = FoldExec::new(partial.clone(), scan, Arc::new(work), Arc::new(outputs));
    Ok((fold.outputs.len() == fold.schema().fields().len()).then_some(fold))
}

/// The folds whose results are the states of a call, in their order.
fn states(
    call: &AggregateFunctionExpr,
    below: &mut Below<'_>,
    grouping: &mut Grouping,
) -> Result<Option<Vec<Output>>> {
    if call.is_distinct() || !call.order_bys().is_empty() {
        return Ok(None);
    }
    let fields = call.state_fields()?;
    let types: Vec<&DataType> = fields.iter().map(|field| field.data_type()).collect();
    let args = call.expressions();
    let [arg] = args.as_slice() else { return Ok(None) };
    let mut output = |fold, column, empty| {
        let aggregate = Aggregate { fold, column };
        let groups = grouping.groups.len();
        let known = grouping.aggregates.iter().position(|known| *known == aggregate);
        let at = known.unwrap_or_else(|| {
            grouping.aggregates.push(aggregate);
            grouping.aggregates.len() - 1
        });
        Output { column: groups + at, empty }
    };
    use DataType::{Decimal128, Float64, Int64, UInt64};
    Ok(match (call.fun().name(), types.as_slice()) {
        ("count", [Int64]) => {
            if let Some(literal) = arg.downcast_ref::<Literal>() {
                let counts = !literal.value().is_null();
                return Ok(counts.then(|| vec![output(Fold::Count, None, Empty::Same)]));
            }
            let Some(column) = below.column(arg)? else { return Ok(None) };
            Some(vec![output(Fold::Count, Some(column), Empty::Same)])
        }
        ("sum", [state]) => {
            let Some(column) = below.column(arg)? else { return Ok(None) };
            let own = column >= below.spec.columns.len() || is_as_stored(below.spec, column);
            let fits = match (below.type_of(column), state) {
                (Int64 | UInt64, Decimal128(_, 0)) => own,
                (Decimal128(_, scale), Decimal128(_, state)) => scale == state,
                (Float64, Float64) => true,
                _ => false,
            };
            fits.then(|| vec![output(Fold::Sum, Some(column), Empty::Same)])
        }
        ("avg", [UInt64, state]) => {
            let Some(column) = below.column(arg)? else { return Ok(None) };
            let (count, sum) = match (below.type_of(column), state) {
                // The state has the digits, but not the point.
                (Decimal128(..), Decimal128(_, 0)) => (Empty::Same, Empty::Zero),
                (Float64, Float64) => (Empty::Null, Empty::Same),
                _ => return Ok(None),
            };
            let count = output(Fold::Count, Some(column), count);
            Some(vec![count, output(Fold::Sum, Some(column), sum)])
        }
        (name @ ("min" | "max"), [state]) => {
            let Some(column) = below.exact(arg)? else { return Ok(None) };
            let fold = if name == "min" { Fold::Min } else { Fold::Max };
            (below.type_of(column) == *state).then(|| vec![output(fold, Some(column), Empty::Same)])
        }
        _ => None,
    })
}

/// A folded column as a column of states.
fn state_of(array: &ArrayRef, output: Output, ty: &DataType) -> Result<ArrayRef> {
    Ok(match (array.data_type(), ty) {
        (own, ty) if own == ty => array.clone(),
        (DataType::Decimal128(..), DataType::Decimal128(precision, scale)) => {
            let values = array.as_primitive::<Decimal128Type>();
            let values = match output.empty == Empty::Zero && values.null_count() > 0 {
                true => values.iter().map(|value| Some(value.unwrap_or(0))).collect(),
                false => values.clone(),
            };
            Arc::new(values.with_precision_and_scale(*precision, *scale)?)
        }
        (DataType::Int64, DataType::UInt64) if output.empty == Empty::Null => {
            let counts = array.as_primitive::<Int64Type>().iter();
            Arc::new(UInt64Array::from_iter(counts.map(|n| n.filter(|n| *n > 0).map(|n| n as u64))))
        }
        _ => cast(array, ty)?,
    })
}

fn states_of(batch: &RecordBatch, outputs: &[Output], schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = outputs.iter().zip(schema.fields());
    let columns = columns
        .map(|(output, field)| state_of(batch.column(output.column), *output, field.data_type()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// The operators over a scan of some ranges.
fn over(general: &Arc<dyn ExecutionPlan>, ranges: &[KeyRange]) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = general.clone().transform_up(|plan| {
        Ok(match plan.downcast_ref::<RegionScanExec>() {
            Some(scan) => {
                let scan: Arc<dyn ExecutionPlan> = Arc::new(scan.of(ranges.to_vec())?);
                Transformed::yes(scan)
            }
            None => Transformed::no(plan),
        })
    });
    Ok(plan?.data)
}

/// One partition while it runs.
struct Stream {
    general: Arc<dyn ExecutionPlan>,
    scan: Arc<RegionScanExec>,
    work: Arc<FoldWork>,
    outputs: Arc<Vec<Output>>,
    schema: SchemaRef,
    units: Arc<Mutex<VecDeque<Unit>>>,
    given_up: Arc<AtomicBool>,
    context: Arc<TaskContext>,
    ready: Vec<RecordBatch>,
    refused: Vec<Vec<KeyRange>>,
    scanning: Option<SendableRecordBatchStream>,
    metrics: BaselineMetrics,
}

impl Stream {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop() {
                self.metrics.record_output(batch.num_rows());
                return Ok(Some(batch));
            }
            if let Some(stream) = &mut self.scanning {
                match stream.next().await {
                    Some(batch) => self.ready.push(batch?),
                    None => self.scanning = None,
                }
                continue;
            }
            if let Some(ranges) = self.refused.pop() {
                let plan = over(&self.general, &ranges)?;
                self.scanning = Some(plan.execute(0, self.context.clone())?);
                continue;
            }
            let unit = self.units.lock().pop_front();
            let Some(unit) = unit else { return Ok(None) };
            match self.given_up.load(Ordering::Relaxed) {
                true => self.refused.push(unit.ranges),
                false => self.fold(unit).await?,
            }
        }
    }

    async fn fold(&mut self, unit: Unit) -> Result<()> {
        let plan = self.scan.plan();
        let (dispatch, spec) = (plan.dispatch.clone(), plan.spec.clone());
        let work = self.work.clone();
        let timer = self.metrics.elapsed_compute().timer();
        let task = SpawnedTask::spawn_blocking(move || dispatch.fold(&unit.ranges, &spec, &work));
        let answers = task.join().await.map_err(|e| DataFusionError::External(Box::new(e)))?;
        timer.done();
        for answer in answers.map_err(to_datafusion)? {
            match answer {
                Folded::Batch(batch) => {
                    self.ready.push(states_of(&batch, &self.outputs, &self.schema)?);
                }
                Folded::Refused(ranges) => {
                    self.given_up.store(true, Ordering::Relaxed);
                    self.refused.push(ranges);
                }
            }
        }
        Ok(())
    }
}

impl DisplayAs for FoldExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Fold of ")?;
        self.general.fmt_as(t, f)
    }
}

impl ExecutionPlan for FoldExec {
    fn name(&self) -> &str {
        "FoldExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.general.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let general =
            datafusion::physical_plan::execution_plan::reset_plan_states(self.general.clone())?;
        let (scan, work) = (self.scan.clone(), self.work.clone());
        Ok(Arc::new(FoldExec::new(general, scan, work, self.outputs.clone())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let state = Stream {
            general: self.general.clone(),
            scan: self.scan.clone(),
            work: self.work.clone(),
            outputs: self.outputs.clone(),
            schema: schema.clone(),
            units: self.units.clone(),
            given_up: self.given_up.clone(),
            context,
            ready: Vec::new(),
            refused: Vec::new(),
            scanning: None,
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let stream = futures::stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.general.partition_statistics(partition)
    }
}
