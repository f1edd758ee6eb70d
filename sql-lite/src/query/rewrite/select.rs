//! The shape of one SELECT: modifiers that change nothing are dropped, HAVING without groups
//! becomes a WHERE, conditions become boolean. It must never touch a subquery: those are visited
//! on their own.

use super::{as_bool, functions, lower, lower_name, tuples};
use crate::error::{Error, Result};
use crate::query::QueryContext;
use sqlparser::ast::*;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Before its expressions are rewritten.
pub(super) fn prepare(ctx: &QueryContext<'_>, select: &mut Select) -> Result<()> {
    rows_in_subqueries(ctx, select)?;
    select.select_modifiers = None;
    select.optimizer_hints.clear();
    drop_dual(select);
    having_to_where(select);
    rollup(select)?;
    for item in &mut select.projection {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => lower(alias),
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(n), _) => {
                lower_name(n);
            }
            _ => {}
        }
    }
    for window in &mut select.named_window {
        lower(&mut window.0);
    }
    for join in select.from.iter_mut().flat_map(|from| &mut from.joins) {
        if let JoinOperator::StraightJoin(constraint) = &join.join_operator {
            join.join_operator = JoinOperator::Inner(constraint.clone());
        }
        if let Some(JoinConstraint::Using(names)) = constraint(&mut join.join_operator) {
            names.iter_mut().for_each(lower_name);
        }
    }
    Ok(())
}

/// `(a, b) IN (SELECT …)` in conditions.
fn rows_in_subqueries(ctx: &QueryContext<'_>, select: &mut Select) -> Result<()> {
    let scope = tuples::Scope::new(ctx, &select.from);
    let joins = select.from.iter_mut().flat_map(|from| &mut from.joins);
    let on = joins.filter_map(|join| match constraint(&mut join.join_operator) {
        Some(JoinConstraint::On(on)) => Some(on),
        _ => None,
    });
    let mut conditions = select.selection.iter_mut().chain(&mut select.having).chain(on);
    conditions.try_for_each(|condition| tuples::in_condition(condition, &scope))
}

/// After its expressions were rewritten.
pub(super) fn finish(select: &mut Select) {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            let _: ControlFlow<()> = visit_expressions_mut(expr, |expr| {
                exists_to_count(expr);
                ControlFlow::Continue(())
            });
        }
    }
    for condition in [&mut select.selection, &mut select.having] {
        if let Some(expr) = condition.take() {
            *condition = Some(as_bool(expr));
        }
    }
    for join in select.from.iter_mut().flat_map(|from| &mut from.joins) {
        if let Some(JoinConstraint::On(on)) = constraint(&mut join.join_operator) {
            let expr = std::mem::replace(on, super::null());
            *on = as_bool(expr);
        }
    }
}

/// `EXISTS (SELECT …)` as a value: `(SELECT count(*) …) > 0`. As a condition it is planned as it is.
fn exists_to_count(expr: &mut Expr) {
    let Expr::Exists { subquery, negated } = expr else { return };
    let plain = subquery.limit_clause.is_none() && subquery.with.is_none();
    let SetExpr::Select(select) = &mut *subquery.body else { return };
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
    };
    let items = select.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    if !plain || grouped || select.having.is_some() || items.into_iter().any(gathers) {
        return;
    }
    let count = super::call("count", vec![super::number(1)]);
    select.projection = vec![SelectItem::UnnamedExpr(count)];
    select.distinct = None;
    subquery.order_by = None;
    let count = Expr::Subquery(subquery.clone());
    let op = if *negated { BinaryOperator::Eq } else { BinaryOperator::Gt };
    *expr = super::nested(super::operation(count, op, super::number(0)));
}

fn constraint(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    use JoinOperator as J;
    match operator {
        J::Join(c) | J::Inner(c) | J::Left(c) | J::LeftOuter(c) | J::Right(c) => Some(c),
        J::RightOuter(c) | J::FullOuter(c) | J::CrossJoin(c) => Some(c),
        _ => None,
    }
}

/// FROM DUAL is no FROM.
fn drop_dual(select: &mut Select) {
    let is_dual = |from: &TableWithJoins| match &from.relation {
        TableFactor::Table { name, .. } => {
            from.joins.is_empty() && name.to_string().eq_ignore_ascii_case("dual")
        }
        _ => false,
    };
    if select.from.len() == 1 && is_dual(&select.from[0]) {
        select.from.clear();
    }
}

/// Without groups and aggregates HAVING is a condition on rows that may name aliases.
fn having_to_where(select: &mut Select) {
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
    };
    let Some(having) = &select.having else { return };
    let items = || {
        select.projection.iter().filter_map(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
            _ => None,
        })
    };
    if grouped || items().chain([having]).any(gathers) {
        return;
    }
    let aliases: HashMap<String, Expr> = select
        .projection
        .iter()
        .filter_map(|item| match item {
            SelectItem::ExprWithAlias { expr, alias } => {
                Some((alias.value.to_lowercase(), Expr::Nested(Box::new(expr.clone()))))
            }
            _ => None,
        })
        .collect();
    let Some(mut having) = select.having.take() else { return };
    let _: ControlFlow<()> = visit_expressions_mut(&mut having, |expr| {
        if let Expr::Identifier(ident) = expr
            && let Some(aliased) = aliases.get(&ident.value.to_lowercase())
        {
            *expr = aliased.clone();
        }
        ControlFlow::Continue(())
    });
    select.selection = Some(match select.selection.take() {
        Some(selection) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(selection))),
            op: BinaryOperator::And,
            right: Box::new(Expr::Nested(Box::new(having))),
        },
        None => having,
    });
}

/// Does the expression hold an aggregate or a window function?
pub(super) fn gathers(expr: &Expr) -> bool {
    let found = visit_expressions(expr, |e| match e {
        Expr::Function(f) if f.over.is_some() || functions::is_aggregate(&f.name) => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// GROUP BY … WITH ROLLUP in standard form, with positions in the select list looked up.
fn rollup(select: &mut Select) -> Result<()> {
    let GroupByExpr::Expressions(exprs, modifiers) = &mut select.group_by else { return Ok(()) };
    let Some(modifier) = modifiers.first() else { return Ok(()) };
    if *modifier != GroupByWithModifier::Rollup {
        return Err(Error::not_supported(format!(
            "This version of Damask doesn't yet support 'GROUP BY … {modifier}'"
        )));
    }
    let positioned = |expr: Expr| {
        let Expr::Value(ValueWithSpan { value: Value::Number(n, _), .. }) = &expr else {
            return Ok(vec![expr]);
        };
        let at = n.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        match at.and_then(|at| select.projection.get(at)) {
            Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => {
                Ok(vec![expr.clone()])
            }
            _ => Err(Error::unknown_column(format!("Unknown column '{n}' in 'group statement'"))),
        }
    };
    let sets = std::mem::take(exprs).into_iter().map(positioned).collect::<Result<_>>()?;
    *exprs = vec![Expr::Rollup(sets)];
    modifiers.clear();
    Ok(())
}
