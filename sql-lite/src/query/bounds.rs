//! Bounds that DataFusion's operators do not have: how deep a recursive query goes
//! (`cte_max_recursion_depth`), and that window functions account for the rows they keep. It must
//! never change what a plan within its bounds gives.

use super::memory;
use crate::error::Error;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What EXPLAIN leaves out.
pub(super) const NAME: &str = "BoundExec";

/// The plan with its bounds; `depth_max` is of recursive queries.
pub(super) fn bounded(
    plan: Arc<dyn ExecutionPlan>,
    depth_max: u64,
) -> Result<Arc<dyn ExecutionPlan>> {
    let bounded = plan.transform_up(|node| {
        let kind = match () {
            () if node.is::<WindowAggExec>() => Kind::Kept,
            () if node.is::<RecursiveQueryExec>() => {
                Kind::Repeated { times: Arc::default(), times_max: depth_max }
            }
            () => return Ok(Transformed::no(node)),
        };
        let mut children: Vec<_> = node.children().into_iter().cloned().collect();
        // Of a recursive query the last is the part that is repeated.
        if let Some(input) = children.pop() {
            children.push(Arc::new(Bound { input, kind }));
        }
        Ok(Transformed::yes(node.with_new_children(children)?))
    })?;
    Ok(bounded.data)
}

#[derive(Clone, Debug)]
enum Kind {
    /// All rows stay in memory until the operator above has read them.
    Kept,
    /// The operator above runs this again and again.
    Repeated { times: Arc<AtomicU64>, times_max: u64 },
}

/// Passes batches on within its bound.
#[derive(Debug)]
struct Bound {
    input: Arc<dyn ExecutionPlan>,
    kind: Kind,
}

impl DisplayAs for Bound {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl ExecutionPlan for Bound {
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
        Ok(Arc::new(Bound { input, kind: self.kind.clone() }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context.clone())?;
        match &self.kind {
            Kind::Kept => Ok(memory::counted(input, &context)),
            Kind::Repeated { times, times_max } => {
                let times = times.fetch_add(1, Ordering::Relaxed) + 1;
                match times > *times_max {
                    true => Err(too_deep(times)),
                    false => Ok(input),
                }
            }
        }
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.input.partition_statistics(partition)
    }
}

fn too_deep(times: u64) -> DataFusionError {
    let message = format!(
        "Recursive query aborted after {times} iterations. \
         Try increasing @@cte_max_recursion_depth to a larger value."
    );
    DataFusionError::External(Box::new(Error { code: 3636, state: "HY000", message }))
}
