//! The double read of an index path: handles come from index entries, rows from point reads,
//! batch by batch. It must never assume that a handle's row is in the index entry's region.

use crate::dispatch::DispatchError;
use crate::scan::{Input, ScanPlan, Sieve, sift, to_datafusion};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{Int64Type, SchemaRef};
use damask_types::{KeyRange, key};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;
use std::fmt;
use std::sync::Arc;

/// Reads the rows of the handles that its input gives in its only column.
#[derive(Debug)]
pub struct IndexLookupExec {
    input: Arc<dyn ExecutionPlan>,
    plan: ScanPlan,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl IndexLookupExec {
    /// `input` gives handles as its first column; `plan` says what to read of the rows (its
    /// ranges are not used).
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: ScanPlan) -> Result<IndexLookupExec> {
        let schema = match &plan.projection {
            Some(projection) => Arc::new(plan.spec.schema.project(projection)?),
            None => plan.spec.schema.clone(),
        };
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            input.boundedness(),
        ));
        Ok(IndexLookupExec { input, plan, schema, properties, metrics: Default::default() })
    }

    /// What it reads.
    pub fn plan(&self) -> &ScanPlan {
        &self.plan
    }

    /// The condition on rows, for `EXPLAIN`.
    pub fn condition(&self) -> Option<String> {
        self.plan.filter.as_ref().map(ToString::to_string)
    }
}

impl DisplayAs for IndexLookupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "IndexLookup table={}", self.plan.spec.table.name)?;
        match self.condition() {
            Some(condition) => write!(f, " filter={condition}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for IndexLookupExec {
    fn name(&self) -> &str {
        "IndexLookupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        Ok(Arc::new(IndexLookupExec::new(input, self.plan.clone())?))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let batch_rows = context.session_config().batch_size();
        let target = batch_rows.min(self.plan.fetch.unwrap_or(usize::MAX)).max(1);
        let input = self.input.execute(partition, context)?;
        let sieve = Sieve {
            schema: self.schema.clone(),
            filter: self.plan.filter.clone(),
            rest: None,
            projection: self.plan.projection.clone(),
            late: None,
        };
        let state = Lookup {
            input,
            plan: self.plan.clone(),
            sieve,
            coalescer: (!self.schema.fields().is_empty())
                .then(|| BatchCoalescer::new(self.schema.clone(), target)),
            ready: Vec::new(),
            left: self.plan.fetch.unwrap_or(usize::MAX),
            metrics: BaselineMetrics::new(&self.metrics, partition),
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
        Ok(match partition {
            None => Arc::new(self.plan.statistics.clone()),
            Some(_) => Arc::new(Statistics::new_unknown(&self.schema)),
        })
    }
}

/// One partition of a lookup while it runs.
struct Lookup {
    input: SendableRecordBatchStream,
    plan: ScanPlan,
    sieve: Sieve,
    coalescer: Option<BatchCoalescer>,
    ready: Vec<RecordBatch>,
    left: usize,
    metrics: BaselineMetrics,
}

impl Lookup {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.left > 0 {
            if let Some(batch) = self.ready.pop() {
                if let Some(batch) = sift(&self.sieve, &mut self.coalescer, Input::Plain(batch))? {
                    return Ok(Some(self.give(batch)));
                }
                continue;
            }
            if let Some(batch) = self.coalescer.as_mut().and_then(|c| c.next_completed_batch()) {
                return Ok(Some(self.give(batch)));
            }
            let Some(batch) = self.input.next().await else { break };
            self.ready = rows_of(&self.plan, &batch?).await?;
        }
        let Some(coalescer) = &mut self.coalescer else { return Ok(None) };
        if self.left == 0 {
            return Ok(None);
        }
        coalescer.finish_buffered_batch()?;
        Ok(coalescer.next_completed_batch().map(|batch| self.give(batch)))
    }

    fn give(&mut self, batch: RecordBatch) -> RecordBatch {
        let rows = batch.num_rows().min(self.left);
        self.left -= rows;
        self.metrics.record_output(rows);
        if rows == batch.num_rows() { batch } else { batch.slice(0, rows) }
    }
}

/// The rows of a batch of handles.
async fn rows_of(plan: &ScanPlan, handles: &RecordBatch) -> Result<Vec<RecordBatch>> {
    let table = plan.spec.table.id;
    let mut handles = handles.column(0).as_primitive::<Int64Type>().values().to_vec();
    handles.sort_unstable();
    handles.dedup();
    let mut ranges: Vec<KeyRange> = Vec::with_capacity(handles.len());
    let mut span: Option<(i64, i64)> = None;
    let range = |(first, last): (i64, i64)| match first == last {
        true => KeyRange::point(&key::row_key(table, first)),
        false => key::handle_range(table, first, last),
    };
    for handle in handles {
        match &mut span {
            Some((_, last)) if handle.checked_sub(*last) == Some(1) => *last = handle,
            _ => ranges.extend(span.replace((handle, handle)).map(range)),
        }
    }
    ranges.extend(span.map(range));
    let (dispatch, spec) = (plan.dispatch.clone(), plan.spec.clone());
    let task = SpawnedTask::spawn_blocking(move || {
        let parts = dispatch.open(&ranges, &spec)?;
        let batches = parts.into_iter().flatten();
        let batches = batches.map(|batch| {
            batch.map_err(|e| DispatchError { kind: e.kind(), detail: e.to_string() })
        });
        batches.collect::<std::result::Result<Vec<_>, _>>()
    });
    let batches = task.join().await.map_err(|e| DataFusionError::External(Box::new(e)))?;
    batches.map_err(to_datafusion)
}
