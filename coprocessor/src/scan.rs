//! The leaf of a fragment: reads the units of a scan, filters and projects beside the data. Its
//! partitions share one queue of units and parts. It must never hold a batch back from a limit.

use crate::dispatch::{Dispatch, DispatchError, Opened, Unit};
use crate::fold::{is_optional, tells};
use crate::push::{Split, split};
use crate::queue::{Opening, Queue, Work};
use crate::spec::{EndpointError, ScanSpec, Source};
use arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{BatchCoalescer, filter_record_batch};
use arrow::datatypes::SchemaRef;
use damask_deltatree::Masked;
use damask_types::KeyRange;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{
    EquivalenceProperties, PhysicalExpr, conjunction, split_conjunction,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use std::fmt;
use std::sync::Arc;

/// The metric of how long a read of columns waited for their replica to be as new as it is.
pub(crate) const FRESHNESS_WAIT: &str = "freshness_wait";

/// What a scan reads and how it thins it out.
#[derive(Clone)]
pub struct ScanPlan {
    /// Sends the units.
    pub dispatch: Arc<Dispatch>,
    /// What to read.
    pub spec: Arc<ScanSpec>,
    /// From where, ascending.
    pub ranges: Vec<KeyRange>,
    /// Rows to keep, over the columns of `spec`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns to give out, as positions in `spec`; `None` = all.
    pub projection: Option<Vec<usize>>,
    /// Rows that are enough.
    pub fetch: Option<usize>,
    /// What is expected, of the columns given out.
    pub statistics: Statistics,
    /// Why this engine was chosen, for `EXPLAIN`.
    pub reason: String,
}

impl fmt::Debug for ScanPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanPlan").field("spec", &self.spec).field("ranges", &self.ranges).finish()
    }
}

/// A scan of regions.
pub struct RegionScanExec {
    plan: ScanPlan,
    /// Conditions that came down at run time (joins, TopK), over the columns given out.
    late: Option<Arc<dyn PhysicalExpr>>,
    /// The filter, as far as a column store checks it, and what is left of it.
    split: Arc<Split>,
    /// So many rows of each unit, the first by handle, are enough.
    first: Option<usize>,
    units: Vec<Unit>,
    queue: Arc<Queue>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl fmt::Debug for RegionScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionScanExec").field("plan", &self.plan).finish()
    }
}

pub(crate) fn to_datafusion(e: DispatchError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

fn properties(schema: &SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema.clone()),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

impl RegionScanExec {
    /// A scan in at most `partitions` streams. `parts` of the spec should be set so that cores
    /// times two parts exist in all.
    pub fn new(plan: ScanPlan, partitions: usize) -> Result<RegionScanExec> {
        let units = plan.dispatch.units(&plan.ranges);
        // Not known now: one unit that is located again when it is opened.
        let units = units.unwrap_or_else(|| {
            vec![Unit { region: unknown_region(), ranges: plan.ranges.clone() }]
        });
        let schema = match &plan.projection {
            Some(projection) => Arc::new(plan.spec.schema.project(projection)?),
            None => plan.spec.schema.clone(),
        };
        let partitions = partitions.clamp(1, (units.len() * plan.spec.parts.max(1)).max(1));
        let split = match plan.spec.source {
            Source::Columns => split(plan.filter.as_ref(), &plan.spec),
            _ => Split { tests: Vec::new(), rest: plan.filter.clone() },
        };
        Ok(RegionScanExec {
            split: Arc::new(split),
            first: None,
            properties: properties(&schema, partitions),
            queue: Arc::new(Queue::new(units.clone())),
            late: None,
            units,
            schema,
            metrics: ExecutionPlanMetricsSet::new(),
            plan,
        })
    }

    /// What it reads.
    pub fn plan(&self) -> &ScanPlan {
        &self.plan
    }

    /// Regions it reads.
    pub fn regions(&self) -> usize {
        self.units.len()
    }

    /// The conditions it evaluates, for `EXPLAIN`.
    pub fn conditions(&self) -> Vec<String> {
        let all = self.plan.filter.iter().chain(&self.late);
        all.map(|filter| filter.to_string()).collect()
    }

    /// What came down at run time, over the columns given out.
    pub(crate) fn late(&self) -> Option<&Arc<dyn PhysicalExpr>> {
        self.late.as_ref()
    }

    /// The filter by who checks it.
    pub(crate) fn split(&self) -> &Split {
        &self.split
    }

    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The same scan of other ranges, as one stream.
    pub(crate) fn of(&self, ranges: Vec<KeyRange>) -> Result<RegionScanExec> {
        let plan = ScanPlan { ranges, ..self.plan.clone() };
        let scan = RegionScanExec::new(plan, 1)?;
        Ok(RegionScanExec { late: self.late.clone(), ..scan })
    }

    /// The same scan, of which the first rows of each unit by handle are enough; `None`: only a
    /// store that checks the whole filter can tell which these are.
    pub(crate) fn first(&self, rows: usize) -> Option<RegionScanExec> {
        let mut late = self.late.iter().flat_map(|late| split_conjunction(late));
        let is_whole = self.split.rest.is_none() && late.all(is_optional);
        let spec = &self.plan.spec;
        let is_columns = spec.source == Source::Columns && !spec.columns.is_empty();
        let may = is_whole && is_columns && self.plan.fetch.is_none();
        may.then(|| RegionScanExec { first: Some(rows), late: None, ..self.copy() })
    }

    /// The same scan, not begun.
    pub(crate) fn copy(&self) -> RegionScanExec {
        RegionScanExec {
            plan: self.plan.clone(),
            late: self.late.clone(),
            split: self.split.clone(),
            first: self.first,
            units: self.units.clone(),
            queue: Arc::new(Queue::new(self.units.clone())),
            schema: self.schema.clone(),
            properties: self.properties.clone(),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

fn unknown_region() -> damask_types::Region {
    damask_types::Region {
        id: damask_types::RegionId(0),
        range: KeyRange::all(),
        epoch: damask_types::Epoch::default(),
        peers: Vec::new(),
    }
}

impl DisplayAs for RegionScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let spec = &self.plan.spec;
        write!(f, "RegionScan[{}] table={}", spec.source.name(), spec.table.name)?;
        write!(f, " regions={}", self.units.len())?;
        let conditions = self.conditions();
        if !conditions.is_empty() {
            write!(f, " filter={}", conditions.join(" AND "))?;
        }
        if let Some(fetch) = self.plan.fetch {
            write!(f, " limit={fetch}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for RegionScanExec {
    fn name(&self) -> &str {
        "RegionScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
        Ok(Arc::new(self.copy()))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let batch_rows = context.session_config().batch_size();
        // Columns come with masks, whatever is asked of them.
        let is_columns = self.plan.spec.source == Source::Columns;
        let filtered = is_columns || self.plan.filter.is_some() || self.late.is_some();
        // A batch is complete at the limit at the latest.
        let target = batch_rows.min(self.plan.fetch.unwrap_or(usize::MAX)).max(1);
        let mut coalescer = BatchCoalescer::new(self.schema.clone(), target);
        coalescer.set_biggest_coalesce_batch_size(Some(target / 2));
        let state = Stream {
            dispatch: self.plan.dispatch.clone(),
            spec: self.plan.spec.clone(),
            queue: self.queue.clone(),
            part: None,
            sieve: Sieve {
                schema: self.schema.clone(),
                filter: self.plan.filter.clone(),
                rest: self.split.rest.clone(),
                projection: self.plan.projection.clone(),
                late: self.late.clone(),
            },
            split: self.split.clone(),
            first: self.first,
            coalescer: (filtered && !self.schema.fields().is_empty()).then_some(coalescer),
            left: self.plan.fetch.unwrap_or(usize::MAX),
            ended: false,
            metrics: BaselineMetrics::new(&self.metrics, partition),
            waited: is_columns
                .then(|| MetricBuilder::new(&self.metrics).subset_time(FRESHNESS_WAIT, partition)),
        };
        let stream = futures::stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let statistics = &self.plan.statistics;
        Ok(match partition {
            None => Arc::new(statistics.clone()),
            Some(_) => Arc::new(Statistics::new_unknown(&self.schema)),
        })
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        let mut copy = self.copy();
        copy.plan.fetch = limit;
        Some(Arc::new(copy))
    }

    fn fetch(&self) -> Option<usize> {
        // Each partition stops there by itself; above, a limit still gathers.
        match self.properties.partitioning.partition_count() {
            1 => self.plan.fetch,
            _ => None,
        }
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        child: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let filters: Vec<_> = child.parent_filters.into_iter().map(|f| f.filter).collect();
        if filters.is_empty() || self.plan.fetch.is_some() {
            let filters = filters.iter().map(|_| PushedDown::No).collect();
            return Ok(FilterPushdownPropagation { filters, updated_node: None });
        }
        let mut copy = self.copy();
        let answer = filters.iter().map(|_| PushedDown::Yes).collect();
        copy.late = Some(conjunction(self.late.iter().cloned().chain(filters)));
        Ok(FilterPushdownPropagation { filters: answer, updated_node: Some(Arc::new(copy)) })
    }
}

/// Filters and projects batches.
pub(crate) struct Sieve {
    pub(crate) schema: SchemaRef,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// What is left of the filter for rows that a store selected.
    pub(crate) rest: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) projection: Option<Vec<usize>>,
    pub(crate) late: Option<Arc<dyn PhysicalExpr>>,
}

/// When a store keeps fewer than one row of so many, they are copied before they are filtered on.
const SPARSE: usize = 4;

/// A batch before the sieve.
pub(crate) enum Input {
    /// As it is stored.
    Plain(RecordBatch),
    /// With what a store has selected of it.
    Selected(Masked),
}

impl Sieve {
    /// The columns to give out, and which rows to keep (`None` = all).
    pub(crate) fn apply(&self, input: Input) -> Result<(RecordBatch, Option<BooleanArray>)> {
        let (batch, filter, selected) = match input {
            Input::Plain(batch) => (batch, &self.filter, None),
            Input::Selected(Masked { batch, mask }) => (batch, &self.rest, mask),
        };
        let Some(selected) = selected.map(|mask| BooleanArray::new(mask, None)) else {
            return self.filtered(&batch, filter);
        };
        if filter.is_none() && self.late.is_none() {
            return Ok((self.projected(&batch)?, Some(selected)));
        }
        // Rows that were not selected may be anything, also what an expression stumbles over.
        let tells = filter.iter().chain(&self.late).any(tells);
        if !tells
            && selected.true_count() * SPARSE >= batch.num_rows()
            && let Ok((batch, mask)) = self.filtered(&batch, filter)
        {
            let mask = match mask {
                Some(mask) => arrow::compute::and_kleene(&selected, &mask)?,
                None => selected,
            };
            return Ok((batch, Some(mask)));
        }
        self.filtered(&filter_record_batch(&batch, &selected)?, filter)
    }

    fn projected(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let Some(projection) = &self.projection else { return Ok(batch.clone()) };
        let columns = projection.iter().map(|&i| batch.column(i).clone()).collect();
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &rows)?)
    }

    fn filtered(
        &self,
        batch: &RecordBatch,
        filter: &Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<(RecordBatch, Option<BooleanArray>)> {
        let mask = filter.as_ref().map(|filter| mask(filter, batch)).transpose()?;
        let batch = self.projected(batch)?;
        let late = self.late.as_ref().map(|filter| self::mask(filter, &batch)).transpose()?;
        let mask = match (mask, late) {
            (Some(a), Some(b)) => Some(arrow::compute::and_kleene(&a, &b)?),
            (a, b) => a.or(b),
        };
        Ok((batch, mask))
    }
}

fn mask(filter: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let values = filter.evaluate(batch)?.into_array(batch.num_rows())?;
    Ok(values.as_boolean().clone())
}

impl Opened {
    fn next(&mut self) -> Option<std::result::Result<Input, EndpointError>> {
        match self {
            Opened::Plain(part) => Some(part.next()?.map(Input::Plain)),
            Opened::Selected(part) => Some(part.next()?.map(Input::Selected)),
        }
    }
}

/// One partition of a scan while it runs.
struct Stream {
    dispatch: Arc<Dispatch>,
    spec: Arc<ScanSpec>,
    queue: Arc<Queue>,
    part: Option<Opened>,
    sieve: Sieve,
    split: Arc<Split>,
    first: Option<usize>,
    coalescer: Option<BatchCoalescer>,
    left: usize,
    ended: bool,
    metrics: BaselineMetrics,
    /// Opening a unit of columns is waiting for them; nothing is read yet.
    waited: Option<Time>,
}

impl Stream {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while !self.ended && self.left > 0 {
            if let Some(batch) = self.coalescer.as_mut().and_then(|c| c.next_completed_batch()) {
                return Ok(Some(self.give(batch)));
            }
            if let Some(part) = &mut self.part {
                let _timer = self.metrics.elapsed_compute().timer();
                let Some(input) = part.next() else {
                    self.part = None;
                    continue;
                };
                let input = input.map_err(|e| {
                    to_datafusion(DispatchError { kind: e.kind(), detail: e.to_string() })
                })?;
                if let Some(batch) = sift(&self.sieve, &mut self.coalescer, input)? {
                    drop(_timer);
                    return Ok(Some(self.give(batch)));
                }
                continue;
            }
            match self.queue.next().await {
                Some(Work::Part(part)) => self.part = Some(part),
                Some(Work::Open(unit)) => self.open(unit).await?,
                _ => self.ended = true,
            }
        }
        let Some(coalescer) = &mut self.coalescer else { return Ok(None) };
        if self.left == 0 {
            return Ok(None);
        }
        coalescer.finish_buffered_batch()?;
        Ok(coalescer.next_completed_batch().map(|batch| self.give(batch)))
    }

    async fn open(&mut self, unit: Unit) -> Result<()> {
        let queue = self.queue.clone();
        let opening = Opening::new(&queue);
        let (dispatch, spec) = (self.dispatch.clone(), self.spec.clone());
        let (split, first) = (self.split.clone(), self.first);
        let waited = self.waited.clone();
        let task = SpawnedTask::spawn_blocking(move || {
            let _timer = waited.as_ref().map(Time::timer);
            match first {
                Some(rows) => dispatch.first(&unit.ranges, &spec, &split.tests, rows),
                None => dispatch.select(&unit.ranges, &spec, &split.tests),
            }
        });
        let parts = task.join().await.map_err(|e| DataFusionError::External(Box::new(e)))?;
        opening.done(parts.map_err(to_datafusion)?);
        Ok(())
    }

    fn give(&mut self, batch: RecordBatch) -> RecordBatch {
        let rows = batch.num_rows().min(self.left);
        self.left -= rows;
        self.metrics.record_output(rows);
        if rows == batch.num_rows() { batch } else { batch.slice(0, rows) }
    }
}

/// Passes a batch through the sieve; kept rows go to the coalescer, or come back when there is
/// none. `None`: nothing to give out yet.
pub(crate) fn sift(
    sieve: &Sieve,
    coalescer: &mut Option<BatchCoalescer>,
    input: Input,
) -> Result<Option<RecordBatch>> {
    let (batch, mask) = sieve.apply(input)?;
    let Some(coalescer) = coalescer else {
        let batch = match mask {
            Some(mask) => filter_record_batch(&batch, &mask)?,
            None => batch,
        };
        return Ok((batch.num_rows() > 0).then_some(batch));
    };
    match mask {
        Some(mask) => coalescer.push_batch_with_filter(batch, &mask)?,
        None => coalescer.push_batch(batch)?,
    }
    Ok(coalescer.next_completed_batch())
}
