//! `column = value` of UPDATE and ON DUPLICATE KEY UPDATE. It must never lose that a later
//! assignment sees the values of earlier ones.

use super::expr::{self, Node, Scope, is_call, only_argument};
use super::input::Input;
use super::insert::unknown_column;
use crate::error::{Error, Result};
use crate::session::Warnings;
use crate::statement::{Assign, params};
use damask_types::{ColumnSchema, ColumnType, Datum, TableSchema};
use sqlparser::ast::{Expr, VisitMut, VisitorMut};
use std::ops::ControlFlow;

/// A new value.
#[derive(Clone, Debug)]
pub(super) enum Assigned {
    /// DEFAULT.
    Default,
    /// A simple expression.
    Node(Node),
    /// One that the query engine evaluates.
    Planned(Box<Expr>),
}

/// `column = value`.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    /// The column's position.
    pub at: usize,
    /// LAST_INSERT_ID(value): the session remembers it.
    pub remembered: bool,
    /// The value.
    pub value: Assigned,
}

fn is_default(expr: &Expr) -> bool {
    let Expr::Identifier(ident) = expr else { return false };
    ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default")
}

/// Resolves assignments to columns of one table.
pub(super) fn assignments(list: &[Assign], scope: &Scope<'_>) -> Result<Vec<Assignment>> {
    let table = scope.table;
    let assignment = |assign: &Assign| {
        let names_it = |name: &String| {
            name.eq_ignore_ascii_case(&table.name)
                || scope.name.is_some_and(|own| name.eq_ignore_ascii_case(own))
        };
        let name = &assign.column;
        if let Some(other) = assign.table.as_ref().filter(|name| !names_it(name)) {
            return Err(unknown_column(&format!("{other}.{name}")));
        }
        let at = table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
        let at = at.ok_or_else(|| unknown_column(name))?;
        let (remembered, expr) = match &assign.value {
            Expr::Function(f) if is_call(f, "LAST_INSERT_ID") => match only_argument(f) {
                Some(argument) => (true, argument),
                None => (false, &assign.value),
            },
            expr => (false, expr),
        };
        let value = match expr::compile(expr, scope) {
            _ if is_default(expr) => Assigned::Default,
            Some(node) => Assigned::Node(node),
            None => Assigned::Planned(Box::new(expr.clone())),
        };
        Ok(Assignment { at, remembered, value })
    };
    list.iter().map(assignment).collect()
}

/// Puts something else in the place of columns.
struct Replacer<F>(F);

impl<F: FnMut(&Expr) -> Option<Expr>> VisitorMut for Replacer<F> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(new) = (self.0)(expr) {
            *expr = new;
        }
        ControlFlow::Continue(())
    }
}

fn replace(expr: &mut Expr, by: impl FnMut(&Expr) -> Option<Expr>) {
    // It never breaks.
    let _ = expr.visit(&mut Replacer(by));
}

/// The column that an expression is.
fn column_of(expr: &Expr, scope: &Scope<'_>) -> Option<Node> {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Function(_) => {
            let node = expr::compile(expr, scope)?;
            matches!(node, Node::Column(_) | Node::New(_)).then_some(node)
        }
        _ => None,
    }
}

/// The expression with the values of two rows in the place of their columns.
pub(super) fn with_values(expr: &Expr, scope: &Scope<'_>, row: &[Datum], new: &[Datum]) -> Expr {
    let mut expr = expr.clone();
    replace(&mut expr, |part| {
        let (value, at) = match column_of(part, scope)? {
            Node::Column(at) => (row.get(at)?, at),
            Node::New(at) => (new.get(at)?, at),
            _ => return None,
        };
        let local = match (&scope.table.columns[at].ty, value) {
            // A literal is in the session's zone.
            (ColumnType::Timestamp { .. }, Datum::DateTime(us)) => {
                Datum::DateTime(us + scope.rules.offset_us)
            }
            _ => value.clone(),
        };
        Some(Expr::Nested(Box::new(params::expression(&local))))
    });
    expr
}

/// Expressions for the query engine, one for each assignment that is not DEFAULT: columns that
/// earlier assignments set are replaced by what they are set to.
pub(super) fn in_sequence(
    list: &[Assign],
    assignments: &[Assignment],
    scope: &Scope<'_>,
) -> Result<Vec<Expr>> {
    let mut set: Vec<(usize, Expr)> = Vec::new();
    let mut exprs = Vec::new();
    for (assign, assignment) in list.iter().zip(assignments) {
        let mut expr = match &assign.value {
            Expr::Function(f) if assignment.remembered => {
                only_argument(f).cloned().unwrap_or_else(|| assign.value.clone())
            }
            value => value.clone(),
        };
        if matches!(assignment.value, Assigned::Default) {
            continue;
        }
        replace(&mut expr, |part| {
            let Some(Node::Column(at)) = column_of(part, scope) else { return None };
            let (_, earlier) = set.iter().rfind(|(column, _)| *column == at)?;
            Some(Expr::Nested(Box::new(earlier.clone())))
        });
        set.push((assignment.at, expr.clone()));
        exprs.push(expr);
    }
    Ok(exprs)
}

/// A new value of a column of a row that exists. `row` counts from 1.
pub(super) fn cell(
    input: &Input,
    value: Datum,
    source: Option<&ColumnType>,
    column: &ColumnSchema,
    row: u64,
    warnings: &mut Warnings,
) -> Result<Datum> {
    let value = input.cell(value, source, column, row, warnings)?;
    if value.is_null() && !column.nullable {
        return Err(Error::bad_null(format!("Column '{}' cannot be null", column.name)));
    }
    Ok(value)
}

/// Sets columns with ON UPDATE CURRENT_TIMESTAMP of a row that changed, unless they were assigned.
pub(super) fn touch(
    table: &TableSchema,
    assignments: &[Assignment],
    input: &Input,
    new: &mut [Datum],
) {
    for (at, column) in table.columns.iter().enumerate() {
        if column.on_update_now && !assignments.iter().any(|a| a.at == at) {
            new[at] = input.now(column);
        }
    }
}
