//! Subqueries in subqueries, many deep, made into joins before DataFusion looks whether the plan is
//! sound: that look takes twice as long for each level. It must never touch a plan that is shallow:
//! DataFusion simplifies conditions first, and so makes better joins.

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Levels that stay as they are.
const SHALLOW: usize = 4;

/// The plan with EXISTS and IN as joins if they are nested deeply; `None`: they are not.
pub(super) fn flattened(
    plan: &LogicalPlan,
    config: &dyn OptimizerConfig,
) -> Result<Option<LogicalPlan>> {
    if depth(plan)? <= SHALLOW {
        return Ok(None);
    }
    let rule = DecorrelatePredicateSubquery::new();
    let flat = plan.clone().transform_down(|plan| rule.rewrite(plan, config))?;
    Ok(Some(flat.data))
}

/// How deep its subqueries are nested.
fn depth(plan: &LogicalPlan) -> Result<usize> {
    let mut deepest = 0;
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let query = match expr {
                    Expr::Exists(exists) => Some(&exists.subquery),
                    Expr::InSubquery(query) => Some(&query.subquery),
                    Expr::ScalarSubquery(query) => Some(query),
                    _ => None,
                };
                if let Some(query) = query {
                    deepest = deepest.max(1 + depth(&query.subquery)?);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(deepest)
}
