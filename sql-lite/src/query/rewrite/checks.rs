//! What MySQL refuses by looking at a query as it is written: names given twice, derived tables
//! without one, positions beyond the select list, aggregates in aggregates, indexes that are not
//! there. It must never refuse what MySQL takes, so what it does not see here is left to planning.

use super::functions::is_aggregate;
use crate::error::{Error, Result};
use crate::query::QueryContext;
use sqlparser::ast::*;
use std::ops::ControlFlow;

/// Of one SELECT, before anything is rewritten.
pub(super) fn select(select: &Select) -> Result<()> {
    names_of_tables(select)?;
    let items = select.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    items.chain(&select.having).try_for_each(aggregates)?;
    if let GroupByExpr::Expressions(exprs, _) = &select.group_by {
        positions(exprs.iter(), select, "group statement")?;
    }
    Ok(())
}

/// ORDER BY of a query.
pub(super) fn order(query: &Query) -> Result<()> {
    let (SetExpr::Select(select), Some(order)) = (&*query.body, &query.order_by) else {
        return Ok(());
    };
    match &order.kind {
        OrderByKind::Expressions(exprs) => {
            positions(exprs.iter().map(|o| &o.expr), select, "order clause")
        }
        OrderByKind::All(_) => Ok(()),
    }
}

/// A table in FROM.
pub(super) fn factor(ctx: &QueryContext<'_>, factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Derived { alias: None, .. } => Err(Error {
            code: 1248,
            state: "42000",
            message: "Every derived table must have its own alias".to_owned(),
        }),
        TableFactor::Table { name, index_hints, .. } if !index_hints.is_empty() => {
            indexes(ctx, name, index_hints)
        }
        _ => Ok(()),
    }
}

/// A collation that there is.
pub(super) fn collation(name: &ObjectName) -> Result<()> {
    let name = name.to_string().replace(['`', '\'', '"'], "");
    let plain = name.to_ascii_lowercase().replace("utf8mb3_", "utf8_");
    let known = crate::variables::COLLATIONS.iter().any(|c| c.0 == plain);
    // Those that clients of MySQL name most; all compare as the ones there are.
    let usual = plain.starts_with("utf8mb4_") || plain.starts_with("utf8_");
    match known || usual {
        true => Ok(()),
        false => {
            let message = format!("Unknown collation: '{name}'");
            Err(Error { code: 1273, state: "HY000", message })
        }
    }
}

/// A character set that there is.
pub(super) fn charset(name: &ObjectName) -> Result<()> {
    let name = name.to_string().replace(['`', '\'', '"'], "");
    let plain = name.to_ascii_lowercase().replace("utf8mb3", "utf8");
    match crate::variables::CHARSETS.iter().any(|c| c.name == plain) {
        true => Ok(()),
        false => Err(Error::unknown_character_set(format!("Unknown character set: '{name}'"))),
    }
}

/// 1066 for a name that two tables of a FROM have.
fn names_of_tables(select: &Select) -> Result<()> {
    let mut seen: Vec<(String, String)> = Vec::new();
    let factors = select.from.iter().flat_map(|from| {
        std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
    });
    for factor in factors {
        let (database, name) = match factor {
            TableFactor::Table { alias: Some(alias), .. }
            | TableFactor::Derived { alias: Some(alias), .. } => {
                (String::new(), alias.name.value.to_lowercase())
            }
            TableFactor::Table { name, args: None, .. } => {
                let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).collect();
                match parts.as_slice() {
                    [table] => (String::new(), table.value.to_lowercase()),
                    [database, table] => {
                        (database.value.to_lowercase(), table.value.to_lowercase())
                    }
                    _ => continue,
                }
            }
            _ => continue,
        };
        let name = (database, name);
        if seen.contains(&name) {
            let message = format!("Not unique table/alias: '{}'", name.1);
            return Err(Error { code: 1066, state: "42000", message });
        }
        seen.push(name);
    }
    Ok(())
}

/// 1111 for an aggregate of an aggregate of the same SELECT.
fn aggregates(expr: &Expr) -> Result<()> {
    let mut finder = Aggregates { aggregates: 0, queries: 0 };
    match expr.visit(&mut finder) {
        ControlFlow::Break(()) => Err(Error::invalid_query("Invalid use of group function")),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Aggregates {
    /// Around the current expression.
    aggregates: usize,
    /// Subqueries around it: they are looked at on their own.
    queries: usize,
}

impl Visitor for Aggregates {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.queries == 0 && gathers(expr) {
            self.aggregates += 1;
            if self.aggregates > 1 {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.queries == 0 && gathers(expr) {
            self.aggregates -= 1;
        }
        ControlFlow::Continue(())
    }
}

fn gathers(expr: &Expr) -> bool {
    matches!(expr, Expr::Function(f) if f.over.is_none() && is_aggregate(&f.name))
}

/// 1054 for a position that the select list does not have.
fn positions<'q>(
    exprs: impl Iterator<Item = &'q Expr>,
    select: &Select,
    clause: &str,
) -> Result<()> {
    let listed = |item: &SelectItem| {
        matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })
    };
    if !select.projection.iter().all(listed) {
        return Ok(());
    }
    for expr in exprs {
        let Expr::Value(ValueWithSpan { value: Value::Number(text, _), .. }) = expr else {
            continue;
        };
        let Ok(at) = text.parse::<usize>() else { continue };
        if !(1..=select.projection.len()).contains(&at) {
            let message = format!("Unknown column '{text}' in '{clause}'");
            return Err(Error::unknown_column(message));
        }
    }
    Ok(())
}

/// 1176 for a hint's index that the table does not have.
fn indexes(ctx: &QueryContext<'_>, name: &ObjectName, hints: &[TableIndexHints]) -> Result<()> {
    let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let (database, name) = match parts.as_slice() {
        [name] => (ctx.database.unwrap_or_default(), &name.value),
        [database, name] => (database.value.as_str(), &name.value),
        _ => return Ok(()),
    };
    // A table that is not there has an error of its own.
    let Some(table) = ctx.catalog.table(database, name) else { return Ok(()) };
    for index in hints.iter().flat_map(|hint| &hint.index_names) {
        let known = index.value.eq_ignore_ascii_case("primary")
            || table.indexes.iter().any(|i| i.name.eq_ignore_ascii_case(&index.value));
        if !known {
            let message = format!("Key '{}' doesn't exist in table '{name}'", index.value);
            return Err(Error { code: 1176, state: "42000", message });
        }
    }
    Ok(())
}
