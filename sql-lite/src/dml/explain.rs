//! EXPLAIN of INSERT, REPLACE, UPDATE, DELETE: what is written, and the way to the rows that are
//! read for it. It must never write, nor take an AUTO_INCREMENT value.

use super::Context;
use super::access::Access;
use super::change::{self, Direct};
use super::planned::{self, Selection, Wanted};
use crate::error::{Error, Result};
use crate::outcome::{ColumnMeta, RowBatch, Rows};
use crate::query;
use crate::statement::{Insert, InsertSource, Stmt};
use damask_types::{ColumnType, Datum, TableSchema};

/// Lines of a plan: operator, expected rows, what it does.
type Lines = Vec<Vec<Datum>>;

/// How a change would be done.
///
/// # Errors
/// Those that the change itself finds before it reads.
pub fn explain(ctx: &mut Context<'_>, statement: &Stmt) -> Result<Rows> {
    let lines = match statement {
        Stmt::Insert(insert) => self::insert(ctx, insert)?,
        Stmt::Update(update) => {
            let (parts, way) = change::update_parts(ctx, update)?;
            let heads = parts.iter().map(|part| head("Update", part.table())).collect();
            let (rows, wanted) = (change::update_selection(update), change::update_wanted(&parts));
            reads(ctx, heads, parts[0].table(), way.as_ref(), &rows, &wanted)?
        }
        Stmt::Delete(delete) => {
            let (parts, way) = change::delete_parts(ctx, delete)?;
            let heads = parts.iter().map(|part| head("Delete", &part.layout.table)).collect();
            let (rows, wanted) = (change::delete_selection(delete), change::delete_wanted(&parts));
            reads(ctx, heads, &parts[0].layout.table, way.as_ref(), &rows, &wanted)?
        }
        _ => {
            return Err(Error::not_supported(
                "This version of Damask doesn't yet support 'EXPLAIN of such a statement'",
            ));
        }
    };
    let text = |name| ColumnMeta::expression(name, ColumnType::VarChar { len: 16_383 });
    Ok(Rows::of(["id", "estRows", "info"].map(text).to_vec(), lines))
}

fn line(id: impl Into<String>, rows: impl Into<String>, info: impl Into<String>) -> Vec<Datum> {
    [id.into(), rows.into(), info.into()].map(Datum::Text).to_vec()
}

/// What is written.
fn head(operation: &str, table: &TableSchema) -> Vec<Datum> {
    let indexes = match table.indexes.len() {
        0 => "rows".to_owned(),
        1 => "rows and 1 index".to_owned(),
        n => format!("rows and {n} indexes"),
    };
    line(operation, "N/A", format!("{}.{}: {indexes}", table.database, table.name))
}

fn insert(ctx: &mut Context<'_>, insert: &Insert) -> Result<Lines> {
    let table = ctx.table(&insert.table)?;
    let operation = if insert.replace { "Replace" } else { "Insert" };
    let mut lines = vec![head(operation, &table)];
    match &insert.source {
        InsertSource::Values(rows) => lines.push(line("└─Values", rows.len().to_string(), "")),
        InsertSource::Query(source) => {
            below(&mut lines, query::explain(&ctx.query()?, source, false)?)?
        }
    }
    Ok(lines)
}

/// The way to the rows of an UPDATE or DELETE, below what is written.
fn reads(
    ctx: &Context<'_>,
    heads: Lines,
    table: &TableSchema,
    way: Option<&Direct>,
    rows: &Selection<'_>,
    wanted: &[Wanted<'_>],
) -> Result<Lines> {
    let mut lines = heads;
    match way {
        Some(way) => lines.push(direct(table, &way.access)),
        None => {
            let query = planned::query_of(rows, wanted)?;
            below(&mut lines, query::explain(&ctx.query()?, &query, false)?)?;
        }
    }
    Ok(lines)
}

fn direct(table: &TableSchema, access: &Access) -> Vec<Datum> {
    let name = &table.name;
    match access {
        Access::Handles(handles) => {
            line("└─Point_Get", handles.len().to_string(), format!("{name}: by row key"))
        }
        Access::Unique(keys) => {
            line("└─Point_Get", keys.len().to_string(), format!("{name}: by unique key"))
        }
        Access::Range(i64::MIN, i64::MAX) => {
            line("└─TableScan", "?", format!("{name}: all rows, in the transaction"))
        }
        Access::Range(first, last) => {
            let most = first.abs_diff(*last).saturating_add(1).to_string();
            line("└─TableRange", most, format!("{name}: row keys {first} to {last}"))
        }
    }
}

/// A query's plan, one level deeper.
fn below(lines: &mut Lines, mut plan: Rows) -> Result<()> {
    while let Some(batch) = plan.source.next()? {
        let RowBatch::Datums(rows) = batch else {
            return Err(Error::unknown("a plan is not made of lines"));
        };
        for mut row in rows {
            if let Some(Datum::Text(id)) = row.first_mut() {
                let indent = if id.trim_start().starts_with('└') { "  " } else { "└─" };
                *id = format!("{indent}{id}");
            }
            lines.push(row);
        }
    }
    Ok(())
}
