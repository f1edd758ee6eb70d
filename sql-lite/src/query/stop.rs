//! Operators that may make far more rows than they read (joins, recursion) look at the statement's
//! sign before each batch, and join conditions before each evaluation: what feeds on its own work
//! never waits, so nobody else could end it. It must never change what a plan gives.

use crate::interrupt::Interrupt;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What EXPLAIN leaves out.
pub(super) const NAME: &str = "StopExec";

/// The plan, which ends with an error soon after the sign is raised.
pub(super) fn stoppable(
    plan: Arc<dyn ExecutionPlan>,
    interrupt: &Arc<Interrupt>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let watched = plan.transform_up(|node| {
        let node = match watched_filter(&node, interrupt)? {
            Some(node) => node,
            None => node,
        };
        let multiplies = node.is::<CrossJoinExec>()
            || node.is::<NestedLoopJoinExec>()
            || node.is::<HashJoinExec>()
            || node.is::<SortMergeJoinExec>()
            || node.is::<RecursiveQueryExec>();
        Ok(match multiplies {
            true => Transformed::yes(Arc::new(Stop { input: node, interrupt: interrupt.clone() })),
            false => Transformed::no(node),
        })
    })?;
    Ok(watched.data)
}

/// A join whose condition looks at the sign; `None`: it has no condition but equality.
fn watched_filter(
    node: &Arc<dyn ExecutionPlan>,
    interrupt: &Arc<Interrupt>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let watched = |filter: &JoinFilter| {
        let expr = filter.expression().clone();
        let expr = Arc::new(Watched { expr, interrupt: interrupt.clone() });
        let (indices, schema) = (filter.column_indices().to_vec(), filter.schema().clone());
        Some(JoinFilter::new(expr, indices, schema))
    };
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        let join = NestedLoopJoinExecBuilder::from(join).with_filter(watched(filter)).build()?;
        return Ok(Some(Arc::new(join)));
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>()
        && let Some(filter) = join.filter()
    {
        let join = join.builder().with_filter(watched(filter)).build()?;
        return Ok(Some(Arc::new(join)));
    }
    Ok(None)
}

fn check(interrupt: &Interrupt) -> Result<()> {
    interrupt.check().map_err(|e| DataFusionError::External(Box::new(e)))
}

/// Passes batches on until the sign is raised.
#[derive(Debug)]
struct Stop {
    input: Arc<dyn ExecutionPlan>,
    interrupt: Arc<Interrupt>,
}

impl DisplayAs for Stop {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl ExecutionPlan for Stop {
    fn name(&self) -> &'static str {
        NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| self.input.clone());
        Ok(Arc::new(Stop { input, interrupt: self.interrupt.clone() }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (schema, interrupt) = (input.schema(), self.interrupt.clone());
        let batches = input.map(move |batch| check(&interrupt).and(batch));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.input.partition_statistics(partition)
    }
}

/// A condition that fails once the sign is raised.
#[derive(Debug)]
struct Watched {
    expr: Arc<dyn PhysicalExpr>,
    interrupt: Arc<Interrupt>,
}

impl PartialEq for Watched {
    fn eq(&self, other: &Watched) -> bool {
        self.expr.eq(&other.expr)
    }
}

impl Eq for Watched {}

impl Hash for Watched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl PhysicalExpr for Watched {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.expr.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.expr.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        check(&self.interrupt)?;
        self.expr.evaluate(batch)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.expr.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expr]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = children.pop().unwrap_or_else(|| self.expr.clone());
        Ok(Arc::new(Watched { expr, interrupt: self.interrupt.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt_sql(f)
    }
}
