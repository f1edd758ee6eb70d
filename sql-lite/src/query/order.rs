//! ORDER BY with a subquery: its value becomes a hidden column of the select list, because the
//! planner lets a subquery name the columns of the rows only there. It must never show that column,
//! nor touch a query whose rows are told apart by all of their columns.

use crate::error::Result;
use datafusion::common::Column;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr as Planned, LogicalPlan, LogicalPlanBuilder, Sort};
use sqlparser::ast::{Expr, Ident, OrderByKind, Query, SelectItem, SetExpr, visit_expressions};
use std::ops::ControlFlow;

/// Moves such values into the select list; how many.
pub(super) fn hide(query: &mut Query) -> usize {
    let SetExpr::Select(select) = &mut *query.body else { return 0 };
    let kind = query.order_by.as_mut().map(|order| &mut order.kind);
    let (Some(OrderByKind::Expressions(list)), None) = (kind, &select.distinct) else { return 0 };
    let mut hidden = 0;
    for order in list.iter_mut().filter(|order| has_subquery(&order.expr)) {
        let alias = Ident::with_quote('`', format!("__order_{hidden}"));
        let expr = std::mem::replace(&mut order.expr, Expr::Identifier(alias.clone()));
        select.projection.push(SelectItem::ExprWithAlias { expr, alias });
        hidden += 1;
    }
    hidden
}

fn has_subquery(expr: &Expr) -> bool {
    let found = visit_expressions(expr, |expr| match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Does a subquery in an order name columns that the rows to sort do not have?
pub(super) fn names_hidden(plan: &LogicalPlan) -> bool {
    let lacks = |sort: &Sort, expr: &Planned| {
        let query = match expr {
            Planned::ScalarSubquery(query) => query,
            Planned::Exists(exists) => &exists.subquery,
            Planned::InSubquery(query) => &query.subquery,
            _ => return false,
        };
        query.outer_ref_columns.iter().any(|outer| match outer {
            Planned::OuterReferenceColumn(_, column) => !sort.input.schema().has_column(column),
            _ => false,
        })
    };
    let found = plan.exists(|node| {
        let LogicalPlan::Sort(sort) = node else { return Ok(false) };
        let mut exprs = sort.expr.iter();
        Ok(exprs.any(|s| s.expr.exists(|e| Ok(lacks(sort, e))).unwrap_or(false)))
    });
    found.unwrap_or(false)
}

/// The plan without its last columns.
pub(super) fn without(plan: LogicalPlan, hidden: usize) -> Result<LogicalPlan> {
    if hidden == 0 {
        return Ok(plan);
    }
    let shown = plan.schema().fields().len().saturating_sub(hidden);
    let columns =
        (0..shown).map(|at| Planned::Column(Column::from(plan.schema().qualified_field(at))));
    let columns: Vec<_> = columns.collect();
    let plan = LogicalPlanBuilder::from(plan).project(columns);
    plan.and_then(LogicalPlanBuilder::build).map_err(super::failure::error)
}
