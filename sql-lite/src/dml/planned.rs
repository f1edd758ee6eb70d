//! The query engine's part in changes: values of expressions, rows of a query, and the handles
//! (with new values) that a change's FROM, WHERE, ORDER BY and LIMIT select. It must never change
//! anything.

use super::Context;
use crate::convert::{Reader, prepare};
use crate::error::{Error, Result};
use crate::outcome::{RowBatch, RowSource, Rows};
use crate::query::{self, HANDLE_COLUMN};
use arrow::array::RecordBatch;
use damask_types::{ColumnType, Datum};
use sqlparser::ast::{
    Expr, Ident, LimitClause, OrderBy, OrderByExpr, OrderByKind, Query, SelectItem, SetExpr,
    Statement, TableWithJoins, With,
};
use sqlparser::dialect::MySqlDialect;
use sqlparser::parser::Parser;
use std::collections::HashSet;

/// Values of expressions without columns.
pub(super) fn eval(ctx: &Context<'_>, exprs: &[Expr]) -> Result<Vec<Datum>> {
    let values = query::eval(&ctx.query()?, exprs)?;
    match values.len() == exprs.len() {
        true => Ok(values),
        false => Err(Error::unknown("the query engine gave a wrong number of values")),
    }
}

/// Rows of a query, as they come.
pub(super) struct PlannedRows {
    /// Types of the columns where known.
    pub types: Vec<Option<ColumnType>>,
    source: Box<dyn RowSource>,
}

/// Runs a query in the transaction.
pub(super) fn rows(ctx: &Context<'_>, query: &Query) -> Result<PlannedRows> {
    let Rows { columns, source } = query::select_exact(&ctx.query()?, query)?;
    Ok(PlannedRows { types: columns.into_iter().map(|c| c.ty).collect(), source })
}

impl PlannedRows {
    /// The next rows.
    pub fn next(&mut self) -> Result<Option<Vec<Vec<Datum>>>> {
        match self.source.next()? {
            None => Ok(None),
            Some(RowBatch::Datums(rows)) => Ok(Some(rows)),
            Some(RowBatch::Columns(batch)) => transpose(&batch, &self.types).map(Some),
        }
    }
}

fn transpose(batch: &RecordBatch, types: &[Option<ColumnType>]) -> Result<Vec<Vec<Datum>>> {
    let width = batch.num_columns();
    let mut rows: Vec<_> = (0..batch.num_rows()).map(|_| Vec::with_capacity(width)).collect();
    for (array, ty) in batch.columns().iter().zip(types) {
        let prepared = prepare(array)?;
        let reader = Reader::new(prepared.as_deref().unwrap_or(array))?;
        for (at, row) in rows.iter_mut().enumerate() {
            let cell = reader.cell(at);
            row.push(ty.as_ref().map_or(cell, |ty| cell.fitted(ty)).to_datum());
        }
    }
    Ok(rows)
}

/// What rows a change is about, as the statement says it.
pub(super) struct Selection<'s> {
    /// The WITH that it stands in.
    pub with: Option<&'s With>,
    pub from: &'s [TableWithJoins],
    pub selection: Option<&'s Expr>,
    pub order_by: &'s [OrderByExpr],
    pub limit: Option<&'s Expr>,
}

/// What is wanted of a table's rows besides their handles.
pub(super) struct Wanted<'s> {
    /// The table or alias whose rows are changed.
    pub target: &'s str,
    /// Values of these.
    pub exprs: &'s [Expr],
}

/// `WITH … SELECT target._damask_handle, exprs…, target2._damask_handle, … FROM … WHERE … ORDER BY …
/// LIMIT …`.
pub(super) fn query_of(selection: &Selection<'_>, wanted: &[Wanted<'_>]) -> Result<Query> {
    let broken = || Error::unknown("a query for a change cannot be made");
    let parsed = Parser::parse_sql(&MySqlDialect {}, "SELECT 1").map_err(|_| broken())?;
    let Some(Statement::Query(mut query)) = parsed.into_iter().next() else { return Err(broken()) };
    query.with = selection.with.cloned();
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(broken()) };
    select.projection.clear();
    for wanted in wanted {
        let handle = vec![Ident::with_quote('`', wanted.target), Ident::new(HANDLE_COLUMN)];
        let handle = std::iter::once(Expr::CompoundIdentifier(handle));
        for expr in handle.chain(wanted.exprs.iter().cloned()) {
            let alias = Ident::new(format!("_damask_value_{}", select.projection.len()));
            select.projection.push(SelectItem::ExprWithAlias { expr, alias });
        }
    }
    select.from = selection.from.to_vec();
    select.selection = selection.selection.cloned();
    if !selection.order_by.is_empty() {
        let kind = OrderByKind::Expressions(selection.order_by.to_vec());
        query.order_by = Some(OrderBy { kind, interpolate: None });
    }
    query.limit_clause = selection.limit.map(|limit| LimitClause::LimitOffset {
        limit: Some(limit.clone()),
        offset: None,
        limit_by: Vec::new(),
    });
    Ok(*query)
}

/// Handles of the rows to change, in order, each with the values of the expressions.
pub(super) struct Handles {
    pub rows: Vec<(i64, Vec<Datum>)>,
    /// Types of the values where known.
    pub types: Vec<Option<ColumnType>>,
}

/// Finds the rows to change, for each table that is wanted. NULL handles (of outer joins) are left
/// out; a row that a join gives several times comes once, with the values of the first time.
pub(super) fn handles(
    ctx: &Context<'_>,
    selection: &Selection<'_>,
    wanted: &[Wanted<'_>],
) -> Result<Vec<Handles>> {
    let mut found = rows(ctx, &query_of(selection, wanted)?)?;
    let one_table = selection.from.len() == 1 && selection.from[0].joins.is_empty();
    let mut types = found.types.clone().into_iter();
    let mut out = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let types = types.by_ref().take(1 + wanted.exprs.len()).skip(1).collect();
        out.push((Handles { rows: Vec::new(), types }, HashSet::new()));
    }
    while let Some(batch) = found.next()? {
        for row in batch {
            let mut cells = row.into_iter();
            for (wanted, (handles, seen)) in wanted.iter().zip(&mut out) {
                let first = cells.next();
                let values: Vec<_> = cells.by_ref().take(wanted.exprs.len()).collect();
                let Some(handle) = handle_of(first)? else { continue };
                if one_table || seen.insert(handle) {
                    handles.rows.push((handle, values));
                }
            }
        }
    }
    Ok(out.into_iter().map(|(handles, _)| handles).collect())
}

/// The handle in a cell; `None` where an outer join has no row.
fn handle_of(cell: Option<Datum>) -> Result<Option<i64>> {
    match cell {
        Some(Datum::Int(v)) => Ok(Some(v)),
        Some(Datum::UInt(v)) => Ok(Some(v as i64)),
        Some(Datum::Null) => Ok(None),
        other => Err(Error::unknown(format!("{other:?} is no handle"))),
    }
}

/// The rows that FROM, WHERE, ORDER BY and LIMIT give, each as the handles of these tables' rows in
/// it.
pub(super) fn combinations(
    ctx: &Context<'_>,
    selection: &Selection<'_>,
    wanted: &[Wanted<'_>],
) -> Result<Vec<Vec<Option<i64>>>> {
    let mut found = rows(ctx, &query_of(selection, wanted)?)?;
    let mut out = Vec::new();
    while let Some(batch) = found.next()? {
        for row in batch {
            let handles = row.into_iter().map(|cell| handle_of(Some(cell)));
            out.push(handles.collect::<Result<_>>()?);
        }
    }
    Ok(out)
}
