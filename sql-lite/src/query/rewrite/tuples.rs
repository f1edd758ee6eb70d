//! Rows of values compared: `(a, b) = (c, d)`, `(a, b) IN ((c, d), …)`, and with a subquery, whose
//! rows become a table `__in` with columns `__c0`, `__c1`, … It must never lose an unknown (NULL)
//! where it differs from false.
//!
//! ```text
//!  (a, b) IN (Q)        EXISTS (SELECT 1 FROM (Q) __in WHERE __c0 = a AND __c1 = b)
//!  (a, b) NOT IN (Q)    NOT EXISTS (… WHERE (__c0 = a OR either IS NULL) AND …)
//!  as a value           CASE WHEN the first THEN TRUE WHEN the second's rows THEN NULL ELSE FALSE
//! ```
//! A plain `SELECT c, d FROM … WHERE …` gets the comparisons into its own WHERE, since DataFusion
//! takes no correlated subquery below a renamed table, if no name of the row means another column
//! there.

use super::select::gathers;
use super::{as_bool, nested, not, null, number, operation, value_of};
use crate::dml::default_of;
use crate::error::{Error, Result};
use crate::query::QueryContext;
use crate::statement::object_name;
use damask_types::{Datum, TableSchema};
use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::*;
use sqlparser::dialect::MySqlDialect;
use sqlparser::parser::Parser;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Compares a column with a value.
type Compare = fn(Expr, &Expr) -> Expr;

/// 1241.
pub(super) fn wrong_columns(columns: usize) -> Error {
    Error::operand_columns(format!("Operand should contain {columns} column(s)"))
}

/// `(a, b) = (c, d)` as `a = c AND b = d`; `None`: they are not two rows of one length.
pub(super) fn compared(left: &Expr, right: &Expr, op: &BinaryOperator) -> Result<Option<Expr>> {
    let (Expr::Tuple(left), Expr::Tuple(right)) = (left, right) else { return Ok(None) };
    if left.len() != right.len() {
        return Err(wrong_columns(left.len()));
    }
    let glue = if *op == BinaryOperator::NotEq { BinaryOperator::Or } else { BinaryOperator::And };
    let pairs = left.iter().zip(right);
    let pairs = pairs.map(|(a, b)| operation(a.clone(), op.clone(), b.clone()));
    Ok(pairs.reduce(|a, b| operation(a, glue.clone(), b)).map(nested))
}

/// `(a, b) IN ((c, d), …)`.
pub(super) fn in_list(row: &Expr, list: &[Expr], negated: bool) -> Result<Option<Expr>> {
    let Expr::Tuple(values) = row else { return Ok(None) };
    let mut any: Option<Expr> = None;
    for item in list {
        let Some(equal) = compared(row, item, &BinaryOperator::Eq)? else {
            return Err(wrong_columns(values.len()));
        };
        any = Some(match any {
            Some(any) => operation(any, BinaryOperator::Or, equal),
            None => equal,
        });
    }
    Ok(any.map(nested).map(|any| if negated { not(any) } else { any }))
}

/// Conditions where an unknown counts as false: `IN (subquery)` of a row becomes EXISTS.
pub(super) fn in_condition(condition: &mut Expr, scope: &Scope<'_>) -> Result<()> {
    match condition {
        Expr::Nested(inner) => in_condition(inner, scope),
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            in_condition(left, scope)?;
            in_condition(right, scope)
        }
        Expr::UnaryOp { op: UnaryOperator::Not | UnaryOperator::BangNot, expr } => {
            let mut inner = &mut **expr;
            while let Expr::Nested(nested) = inner {
                inner = nested;
            }
            if let Expr::InSubquery { expr, negated, .. } = inner
                && matches!(**expr, Expr::Tuple(_))
            {
                *negated = !*negated;
                let mut turned = inner.clone();
                in_condition(&mut turned, scope)?;
                *condition = turned;
            }
            Ok(())
        }
        Expr::InSubquery { expr, subquery, negated } => {
            let Expr::Tuple(values) = &**expr else { return Ok(()) };
            check_width(subquery, values.len())?;
            let compare = if *negated { maybe_equal } else { equal };
            *condition = match scope.within(subquery, values, compare) {
                Some(query) => Expr::Exists { subquery: Box::new(query), negated: *negated },
                None => exists(subquery, values, compare, *negated)?,
            };
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `(a, b) IN (subquery)` as a value of three.
pub(super) fn as_value(values: &[Expr], subquery: &Query, negated: bool) -> Result<Expr> {
    let truth = |value: bool| value_of(Value::Boolean(value));
    let when = |condition, result| CaseWhen { condition, result };
    let found = exists(subquery, values, equal, false)?;
    let unsure = exists(subquery, values, maybe_equal, false)?;
    Ok(Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![when(found, truth(!negated)), when(unsure, null())],
        else_result: Some(Box::new(truth(negated))),
    })
}

/// `(a, b) = (SELECT c, d …)`: each column of the one row on its own.
pub(super) fn with_row(values: &[Expr], subquery: &Query, op: &BinaryOperator) -> Result<Expr> {
    check_width(subquery, values.len())?;
    let cell = |at: usize| {
        let mut query = subquery.clone();
        match query.body.as_mut() {
            SetExpr::Select(select) if select.distinct.is_none() && !is_wild(select) => {
                select.projection = vec![select.projection[at].clone()];
                Ok(Expr::Subquery(Box::new(query)))
            }
            _ => {
                Err(Error::not_supported("Not supported yet: a row compared with such a subquery"))
            }
        }
    };
    let columns = (0..values.len()).map(cell).collect::<Result<Vec<_>>>()?;
    let row = Expr::Tuple(columns);
    let compared = compared(&Expr::Tuple(values.to_vec()), &row, op)?;
    compared.ok_or_else(|| wrong_columns(values.len()))
}

fn is_wild(select: &Select) -> bool {
    let wild = |item: &SelectItem| {
        !matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })
    };
    select.projection.iter().any(wild)
}

/// 1241 unless the subquery gives so many columns, as far as can be seen without its tables.
fn check_width(query: &Query, columns: usize) -> Result<()> {
    let mut body = query.body.as_ref();
    while let SetExpr::SetOperation { left, .. } = body {
        body = left;
    }
    match body {
        SetExpr::Select(select) if !is_wild(select) && select.projection.len() != columns => {
            Err(wrong_columns(columns))
        }
        _ => Ok(()),
    }
}

fn column(at: usize) -> Expr {
    let quoted = |name: String| Ident::with_quote('`', name);
    Expr::CompoundIdentifier(vec![quoted("__in".to_owned()), quoted(format!("__c{at}"))])
}

fn equal(column: Expr, value: &Expr) -> Expr {
    operation(column, BinaryOperator::Eq, nested(value.clone()))
}

/// Not false.
fn maybe_equal(column: Expr, value: &Expr) -> Expr {
    let is_null = |expr| Expr::IsNull(Box::new(expr));
    let unsure =
        operation(is_null(column.clone()), BinaryOperator::Or, is_null(nested(value.clone())));
    nested(operation(equal(column, value), BinaryOperator::Or, unsure))
}

/// The tables of one FROM, as they are called; those of the catalog with their columns.
pub(super) struct Scope<'a> {
    ctx: &'a QueryContext<'a>,
    tables: Vec<(String, Option<Arc<TableSchema>>)>,
}

impl<'a> Scope<'a> {
    /// The scope of a SELECT.
    pub fn new(ctx: &'a QueryContext<'a>, from: &[TableWithJoins]) -> Scope<'a> {
        let factors = from.iter().flat_map(|from| {
            std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
        });
        let table = |factor: &TableFactor| match factor {
            TableFactor::Table { name, alias, .. } => {
                let name = object_name(name);
                let schema = name.as_ref().and_then(|name| {
                    let database = name.database.as_deref().or(ctx.database)?;
                    ctx.catalog.table(database, &name.table)
                });
                let own = name.map(|name| name.table).unwrap_or_default();
                (alias.as_ref().map_or(own, |alias| alias.name.value.clone()), schema)
            }
            TableFactor::Derived { alias, .. } | TableFactor::NestedJoin { alias, .. } => {
                (alias.as_ref().map(|alias| alias.name.value.clone()).unwrap_or_default(), None)
            }
            _ => (String::new(), None),
        };
        Scope { ctx, tables: factors.map(table).collect() }
    }

    /// The subquery with the comparisons in its WHERE, if it is plain and no name of the values can
    /// mean something else there.
    fn within(&self, subquery: &Query, values: &[Expr], compare: Compare) -> Option<Query> {
        let plain = subquery.with.is_none() && subquery.limit_clause.is_none();
        let SetExpr::Select(select) = &*subquery.body else { return None };
        let ungrouped = matches!(&select.group_by,
            GroupByExpr::Expressions(exprs, _) if exprs.is_empty());
        if !plain || !ungrouped || select.distinct.is_some() || select.having.is_some() {
            return None;
        }
        let items = select.projection.iter().map(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
            _ => None,
        });
        let items = items.collect::<Option<Vec<_>>>()?;
        if items.iter().any(|item| gathers(item)) {
            return None;
        }
        let inner = Scope::new(self.ctx, &select.from);
        let values = values.iter().map(|value| self.qualified(value, &inner));
        let values = values.collect::<Option<Vec<_>>>()?;
        let pairs = items.into_iter().zip(&values);
        let compared = pairs.map(|(item, value)| compare(nested(item.clone()), value));
        let compared = select.selection.iter().map(|own| nested(own.clone())).chain(compared);
        let compared = compared.reduce(|a, b| operation(a, BinaryOperator::And, b));
        let mut query = subquery.clone();
        query.order_by = None;
        let SetExpr::Select(select) = query.body.as_mut() else { return None };
        select.selection = compared;
        select.projection = vec![SelectItem::UnnamedExpr(number(1))];
        Some(query)
    }

    /// A value whose names carry their table; `None` if one is not known, or would be another's.
    fn qualified(&self, value: &Expr, inner: &Scope<'_>) -> Option<Expr> {
        let mut value = value.clone();
        let taken = |table: &str| inner.tables.iter().any(|(n, _)| n.eq_ignore_ascii_case(table));
        let found = visit_expressions_mut(&mut value, |expr| {
            let known = match expr {
                Expr::Identifier(ident) if ident.value.starts_with('@') => true,
                Expr::Identifier(ident) => {
                    let column = ident.clone();
                    match self.table_of(&column.value).filter(|table| !taken(table)) {
                        Some(table) => {
                            let table = Ident::with_quote('`', table);
                            *expr = Expr::CompoundIdentifier(vec![table, column]);
                            true
                        }
                        None => false,
                    }
                }
                Expr::CompoundIdentifier(idents) => {
                    idents[0].value.starts_with('@')
                        || idents.len() == 2 && !taken(&idents[0].value)
                }
                Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => false,
                _ => true,
            };
            if known { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        found.is_continue().then_some(value)
    }

    /// DEFAULT(column) of one of the tables; `None`: none has the column.
    pub fn default_of(&self, idents: &[Ident]) -> Option<Result<Datum>> {
        let (table, column) = match idents {
            [column] => (None, column),
            [.., table, column] => (Some(table), column),
            [] => return None,
        };
        let named = |name: &str| table.is_none_or(|t| t.value.eq_ignore_ascii_case(name));
        let found = self.tables.iter().filter(|(name, _)| named(name));
        let column = found
            .filter_map(|(_, schema)| schema.as_ref()?.column(&column.value).cloned())
            .next()?;
        let offset_us = self.ctx.variables.time_zone_offset_us();
        Some(default_of(&column, self.ctx.session.now_us, offset_us))
    }

    /// The only table that has the column.
    fn table_of(&self, column: &str) -> Option<&str> {
        let mut found = None;
        for (name, schema) in &self.tables {
            if schema.as_ref()?.column(column).is_some() {
                match found {
                    None => found = Some(name.as_str()),
                    Some(_) => return None,
                }
            }
        }
        found
    }
}

/// Gives names to the columns that have none of their own: the planner needs different ones.
fn name_columns(body: &mut SetExpr) {
    let mut body = body;
    while let SetExpr::SetOperation { left, .. } = body {
        body = left;
    }
    let SetExpr::Select(select) = body else { return };
    let mut seen: Vec<String> = Vec::new();
    for (at, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        if let Expr::Identifier(ident) = expr
            && !seen.contains(&ident.value)
        {
            seen.push(ident.value.clone());
            continue;
        }
        let (expr, alias) = (expr.clone(), Ident::with_quote('`', format!("__v{at}")));
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
}

/// Is there a row of the subquery whose columns stand so to the values?
fn exists(subquery: &Query, values: &[Expr], compare: Compare, negated: bool) -> Result<Expr> {
    check_width(subquery, values.len())?;
    let columns: Vec<_> = (0..values.len()).map(|at| format!("`__c{at}`")).collect();
    let text = format!("SELECT 1 FROM (SELECT 1) AS `__in` ({})", columns.join(", "));
    let broken = |e: sqlparser::parser::ParserError| Error::unknown(e.to_string());
    let parser = Parser::new(&MySqlDialect {}).try_with_sql(&text).map_err(broken);
    let mut query = parser.and_then(|mut parser| parser.parse_query().map_err(broken))?;
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(Error::unknown("a SELECT is none"));
    };
    let conditions = values.iter().enumerate().map(|(at, value)| compare(column(at), value));
    select.selection = conditions.reduce(|a, b| operation(a, BinaryOperator::And, b)).map(as_bool);
    select.projection = vec![SelectItem::UnnamedExpr(number(1))];
    if let [TableWithJoins { relation: TableFactor::Derived { subquery: rows, .. }, .. }] =
        select.from.as_mut_slice()
    {
        **rows = subquery.clone();
        name_columns(&mut rows.body);
    }
    Ok(Expr::Exists { subquery: query, negated })
}
