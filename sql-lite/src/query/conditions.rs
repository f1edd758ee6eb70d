//! Long conjunctions as balanced trees again: DataFusion takes conditions apart to move them and
//! puts them in a row, and then asks every term's type once for each term after it. It must never
//! change the order of the terms, nor touch a short condition.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Operator};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};
use std::sync::Arc;

/// Terms in a row that stay as they are.
const SHORT: usize = 32;

/// DataFusion's rules, with this one after those that move conditions.
pub(super) fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Vec::new();
    for rule in Optimizer::new().rules {
        let moves = matches!(rule.name(), "push_down_filter" | "simplify_expressions");
        rules.push(rule);
        if moves {
            rules.push(Arc::new(Balanced));
        }
    }
    rules
}

#[derive(Debug)]
struct Balanced;

impl OptimizerRule for Balanced {
    fn name(&self) -> &'static str {
        "balance_conditions"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = plan else { return Ok(Transformed::no(plan)) };
        if !is_long(&filter.predicate) {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        }
        let predicate = join(split_conjunction_owned(filter.predicate));
        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
    }
}

fn is_long(predicate: &Expr) -> bool {
    let mut at = predicate;
    for _ in 0..SHORT {
        match at {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, .. }) => at = left,
            _ => return false,
        }
    }
    true
}

/// Neighbours in pairs, and pairs of those, until one is left.
fn join(mut terms: Vec<Expr>) -> Expr {
    while terms.len() > 1 {
        let mut pairs = Vec::with_capacity(terms.len().div_ceil(2));
        let mut rest = terms.into_iter();
        while let Some(first) = rest.next() {
            pairs.push(match rest.next() {
                Some(second) => first.and(second),
                None => first,
            });
        }
        terms = pairs;
    }
    terms.pop().expect("a condition has a term")
}
