//! WITH and LIMIT: recursive tables get the names of their column list where DataFusion looks for
//! them, names are given once, counts of rows that no table has are no limit. It must never touch
//! the expressions inside.

use crate::error::{Error, Result};
use crate::statement::syntax_error;
use sqlparser::ast::*;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Tables of WITH that a query may read, each as often as it is named: every name stands for the
/// whole plan behind it.
const READS_MAX: u64 = 1024;

/// Before a query's parts are visited; its names are in lower case.
pub(super) fn prepare(query: &mut Query) -> Result<()> {
    if let Some(with) = &mut query.with {
        names_once(with)?;
        reads_bounded(with)?;
        if with.recursive {
            with.cte_tables.iter_mut().try_for_each(recursive)?;
        }
    }
    limits(query)
}

fn names_once(with: &With) -> Result<()> {
    let mut seen = Vec::with_capacity(with.cte_tables.len());
    for cte in &with.cte_tables {
        let name = cte.alias.name.value.as_str();
        if seen.contains(&name) {
            let message = format!("Not unique table/alias: '{name}'");
            return Err(Error { code: 1066, state: "42000", message });
        }
        seen.push(name);
    }
    Ok(())
}

/// 1116 for tables that read each other so often that no plan can hold them.
fn reads_bounded(with: &With) -> Result<()> {
    let mut reads: HashMap<&str, u64> = HashMap::with_capacity(with.cte_tables.len());
    for cte in &with.cte_tables {
        let mut sum = 1u64;
        let _: ControlFlow<()> = visit_relations(&cte.query, |name| {
            if let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() {
                let of_it = reads.get(ident.value.to_lowercase().as_str());
                sum = sum.saturating_add(of_it.copied().unwrap_or(0));
            }
            ControlFlow::Continue(())
        });
        if sum > READS_MAX {
            let message =
                format!("Too many tables; a query can only use {READS_MAX} tables of WITH");
            return Err(Error { code: 1116, state: "HY000", message });
        }
        reads.insert(&cte.alias.name.value, sum);
    }
    Ok(())
}

/// `n(a, b) AS (SELECT 1, 2 UNION …)` as
/// `n AS (SELECT * FROM (SELECT 1 AS a, 2 AS b) AS … UNION …)`.
///
/// The part that names itself is planned with the names of the part that does not. The columns are
/// those of a derived table, which keeps the optimizer from leaving out some of them: the rows that
/// UNION tells apart would be others.
fn recursive(cte: &mut Cte) -> Result<()> {
    let SetExpr::SetOperation { left, right, .. } = &mut *cte.query.body else { return Ok(()) };
    let names: Vec<Ident> = cte.alias.columns.iter().map(|c| c.name.clone()).collect();
    let mut alias = cte.alias.clone();
    if let Some(width) = width(left)
        && !names.is_empty()
    {
        if width != names.len() {
            let message = "In definition of view, derived table or common table expression, SELECT \
                list and column names list have different column counts";
            return Err(Error { code: 1353, state: "HY000", message: message.to_owned() });
        }
        named(left, &|at| names[at].clone());
        alias.columns.clear();
    }
    **left = derived(left, alias)?;
    cte.alias.columns.clear();
    named(right, &|at| Ident::with_quote('`', format!("__{at}")));
    Ok(())
}

/// How many columns a query's first SELECT lists; `None`: that is not written there.
fn width(body: &SetExpr) -> Option<usize> {
    match body {
        SetExpr::SetOperation { left, .. } => width(left),
        SetExpr::Query(query) => width(&query.body),
        SetExpr::Select(select) => is_listed(select).then_some(select.projection.len()),
        _ => None,
    }
}

/// Does it name each of its columns?
fn is_listed(select: &Select) -> bool {
    let listed = |item: &SelectItem| {
        matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })
    };
    select.projection.iter().all(listed)
}

/// Gives the items of every SELECT names by their places.
fn named(body: &mut SetExpr, name: &dyn Fn(usize) -> Ident) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            named(left, name);
            // Of a UNION only the first names count, and a wider one is an error elsewhere.
            named(right, &|at| Ident::with_quote('`', format!("__{at}")));
        }
        SetExpr::Query(query) => named(&mut query.body, name),
        SetExpr::Select(select) if is_listed(select) => {
            for (at, item) in select.projection.iter_mut().enumerate() {
                match item {
                    SelectItem::UnnamedExpr(expr) => {
                        let expr = expr.clone();
                        *item = SelectItem::ExprWithAlias { expr, alias: name(at) };
                    }
                    SelectItem::ExprWithAlias { alias, .. } => *alias = name(at),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// `SELECT * FROM (body) AS name(columns)`.
fn derived(body: &SetExpr, alias: TableAlias) -> Result<SetExpr> {
    let mut query = crate::query::run::empty_query()?;
    let inner = Query { body: Box::new(body.clone()), ..query.clone() };
    let SetExpr::Select(select) = &mut *query.body else {
        return Err(Error::unknown("an empty query has no SELECT"));
    };
    select.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
    let name = Ident::with_quote('`', format!("__{}", alias.name.value));
    select.from = vec![TableWithJoins {
        relation: TableFactor::Derived {
            lateral: false,
            subquery: Box::new(inner),
            alias: Some(TableAlias { name, ..alias }),
            sample: None,
        },
        joins: Vec::new(),
    }];
    Ok(*query.body)
}

/// Counts are whole numbers; one beyond any number of rows (MySQL's way to say "all the rest") is
/// no limit.
fn limits(query: &mut Query) -> Result<()> {
    let Some(clause) = query.limit_clause.take() else { return Ok(()) };
    let (limit, offset, limit_by) = match clause {
        LimitClause::LimitOffset { limit, offset, limit_by } => {
            (limit, offset.map(|offset| offset.value), limit_by)
        }
        LimitClause::OffsetCommaLimit { offset, limit } => (Some(limit), Some(offset), Vec::new()),
    };
    let limit = limit.map(count).transpose()?.flatten();
    let offset = match offset {
        Some(offset) => Some(count(offset)?.unwrap_or_else(|| super::number(i64::MAX))),
        None => None,
    };
    if limit.is_some() || offset.is_some() || !limit_by.is_empty() {
        let offset = offset.map(|value| Offset { value, rows: OffsetRows::None });
        query.limit_clause = Some(LimitClause::LimitOffset { limit, offset, limit_by });
    }
    Ok(())
}

/// A count of rows; `None`: more than there are.
fn count(expr: Expr) -> Result<Option<Expr>> {
    let text = match &expr {
        Expr::Value(ValueWithSpan { value: Value::Number(text, _), .. }) => text,
        Expr::Value(ValueWithSpan { value: Value::Null, .. }) => return Ok(Some(expr)),
        Expr::UnaryOp { .. } | Expr::Value(_) => return Err(syntax_error(&expr.to_string(), 0)),
        _ => return Ok(Some(expr)),
    };
    match text.parse::<u64>() {
        Ok(n) if i64::try_from(n).is_ok() => Ok(Some(expr)),
        Ok(_) => Ok(None),
        Err(_) => Err(syntax_error(text, 0)),
    }
}
