//! Fragments: the part of a physical plan that runs beside the data, and the rule that cuts it.
//! It must never hold an operator that needs rows of another partition.
//!
//! ```text
//!   before                                   after
//!   Aggregate(Final)                         Aggregate(Final)
//!    Repartition                              Repartition
//!     Aggregate(Partial)                       Fragment[column] table=… filter=… aggr=…
//!      Projection
//!       RegionScan
//! ```

use crate::fold::{FoldExec, folded};
use crate::lookup::IndexLookupExec;
use crate::push::is_handle;
use crate::scan::{FRESHNESS_WAIT, RegionScanExec};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use std::fmt;
use std::sync::Arc;

/// More rows than these are not the first ones, but most: in order of handles they cost more.
const FIRST_ROWS_MAX: usize = 16_384;

/// A plan that runs beside the data, as one leaf.
#[derive(Debug)]
pub struct FragmentExec {
    inner: Arc<dyn ExecutionPlan>,
}

impl FragmentExec {
    /// What runs inside.
    pub fn inner(&self) -> &Arc<dyn ExecutionPlan> {
        &self.inner
    }

    /// The fragment in one line, as `EXPLAIN` shows it.
    pub fn describe(&self) -> Description {
        let mut description = Description::default();
        description.add_all(&self.inner);
        description
    }
}

/// What a fragment says of itself.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// `row`, `index` or `column`.
    pub engine: String,
    /// The table.
    pub table: String,
    /// Regions read.
    pub regions: usize,
    /// Conditions.
    pub filters: Vec<String>,
    /// Aggregates.
    pub aggregates: Vec<String>,
    /// Group keys.
    pub groups: Vec<String>,
    /// TopK or limit.
    pub limit: Option<String>,
    /// Why this engine.
    pub reason: String,
}

impl Description {
    fn add_all(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        // The visit never fails: the closure does not.
        let _ = plan.apply(|plan| {
            self.add(plan);
            Ok(TreeNodeRecursion::Continue)
        });
    }

    fn add(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        if let Some(fold) = plan.downcast_ref::<FoldExec>() {
            self.add_all(fold.general());
        } else if let Some(scan) = plan.downcast_ref::<RegionScanExec>() {
            self.engine = scan.plan().spec.source.name().to_owned();
            self.table = scan.plan().spec.table.name.clone();
            self.regions = scan.regions();
            self.filters.extend(scan.conditions());
            self.limit = self.limit.take().or(scan.plan().fetch.map(|n| n.to_string()));
            if self.reason.is_empty() {
                self.reason.clone_from(&scan.plan().reason);
            }
        } else if let Some(lookup) = plan.downcast_ref::<IndexLookupExec>() {
            self.filters.extend(lookup.condition());
            self.reason.clone_from(&lookup.plan().reason);
        } else if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
            self.aggregates = aggregate.aggr_expr().iter().map(|a| a.name().to_owned()).collect();
            let groups = aggregate.group_expr().expr();
            self.groups = groups.iter().map(|(_, name)| name.clone()).collect();
        } else if let Some(filter) = plan.downcast_ref::<FilterExec>() {
            self.filters.push(filter.predicate().to_string());
        } else if let Some(sort) = plan.downcast_ref::<SortExec>() {
            let fetch = sort.fetch().unwrap_or_default();
            self.limit = Some(format!("{fetch} by {}", sort.expr()));
        } else if let Some(limit) = plan.downcast_ref::<LocalLimitExec>() {
            self.limit = Some(limit.fetch().to_string());
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fragment[{}] table={} regions={}", self.engine, self.table, self.regions)?;
        if !self.filters.is_empty() {
            write!(f, " filter={}", self.filters.join(" AND "))?;
        }
        if !self.groups.is_empty() {
            write!(f, " group={}", self.groups.join(", "))?;
        }
        if !self.aggregates.is_empty() {
            write!(f, " aggr={}", self.aggregates.join(", "))?;
        }
        if let Some(limit) = &self.limit {
            write!(f, " limit={limit}")?;
        }
        write!(f, " ({})", self.reason)
    }
}

impl DisplayAs for FragmentExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.describe())
    }
}

/// Below the topmost operator only the waits are shown.
fn add_waits(plan: &Arc<dyn ExecutionPlan>, all: &mut MetricsSet) {
    for child in plan.children() {
        let metrics = child.metrics();
        let below = metrics.iter().flat_map(|metrics| metrics.iter());
        below.filter(|m| m.value().name() == FRESHNESS_WAIT).for_each(|m| all.push(m.clone()));
        add_waits(child, all);
    }
}

impl ExecutionPlan for FragmentExec {
    fn name(&self) -> &str {
        "FragmentExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
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
        let reset = datafusion::physical_plan::execution_plan::reset_plan_states;
        Ok(Arc::new(FragmentExec { inner: reset(self.inner.clone())? }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.inner.execute(partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut all = self.inner.metrics().unwrap_or_default();
        add_waits(&self.inner, &mut all);
        Some(all)
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.inner.partition_statistics(partition)
    }
}

/// Wraps the largest parts of a plan that may run beside the data; the last physical rule.
#[derive(Debug, Default)]
pub struct CutFragments;

/// May the operator run in a fragment, given that its input does?
fn belongs(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        // A whole aggregate of the only partition needs no other rows either.
        let alone = one_partition(aggregate.input());
        return *aggregate.mode() == AggregateMode::Partial || alone;
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        let apart = sort.preserve_partitioning() || one_partition(sort.input());
        return sort.fetch().is_some() && apart;
    }
    plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<IndexLookupExec>()
}

fn one_partition(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.output_partitioning().partition_count() == 1
}

fn is_fragment(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.is::<RegionScanExec>() || plan.is::<FoldExec>() {
        return true;
    }
    match plan.children().as_slice() {
        [child] => belongs(plan) && is_fragment(child),
        _ => false,
    }
}

/// The first rows by handle, of which a store gives only those; `None`: it is another sort.
fn first_rows(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(sort) = plan.downcast_ref::<SortExec>() else { return Ok(None) };
    let Some(rows) = sort.fetch().filter(|rows| *rows <= FIRST_ROWS_MAX) else { return Ok(None) };
    let mut input = sort.input();
    while let Some(cooperative) = input.downcast_ref::<CooperativeExec>() {
        input = cooperative.input();
    }
    let Some(scan) = input.downcast_ref::<RegionScanExec>() else { return Ok(None) };
    let by = sort.expr().first();
    let Some(column) = by.expr.downcast_ref::<Column>().filter(|_| !by.options.descending) else {
        return Ok(None);
    };
    let given = scan.plan().projection.as_ref();
    let at = given.map_or(Some(column.index()), |given| given.get(column.index()).copied());
    // Handles are unique: nothing that is sorted by after one matters.
    let is_handle = at.is_some_and(|at| is_handle(&scan.plan().spec, at));
    match scan.first(rows).filter(|_| is_handle) {
        Some(scan) => plan.clone().with_new_children(vec![Arc::new(scan)]).map(Some),
        None => Ok(None),
    }
}

impl PhysicalOptimizerRule for CutFragments {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let pushed = plan.transform_down(|plan| {
            let better = match folded(&plan)? {
                Some(fold) => Some(fold),
                None => first_rows(&plan)?,
            };
            Ok(match better {
                Some(better) => Transformed::new(better, true, TreeNodeRecursion::Jump),
                None => Transformed::no(plan),
            })
        });
        let cut = pushed?.data.transform_down(|plan| match is_fragment(&plan) {
            true => {
                let fragment: Arc<dyn ExecutionPlan> = Arc::new(FragmentExec { inner: plan });
                Ok(Transformed::new(fragment, true, TreeNodeRecursion::Jump))
            }
            false => Ok(Transformed::no(plan)),
        });
        Ok(cut?.data)
    }

    fn name(&self) -> &str {
        "cut_fragments"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
