//! SELECT of rows by key without a plan: plain columns of one table, found by primary key, unique
//! key or a narrow range of the primary key. Whatever else a query says makes it another one's
//! business. It must never answer differently than the plan would.

use super::access::{Access, Cursor, Reader, access};
use super::change::table_name;
use super::expr::{Node, Scope, all_hold, compile, conjuncts};
use super::input::Input;
use super::rows::Layout;
use super::{Blocked, Context, Reads};
use crate::error::Result;
use crate::failure;
use crate::outcome::{ColumnMeta, Rows};
use crate::statement::{Storage, params};
use damask_types::schema::IntWidth;
use damask_types::{ColumnType, Datum, TableSchema};
use sqlparser::ast::{
    Expr, GroupByExpr, LimitClause, ObjectName, OrderByKind, Query, Select, SelectFlavor,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor, WildcardAdditionalOptions,
};
use std::sync::Arc;

/// Fewest rows of a page, unless the conditions allow fewer.
const PAGE_MIN: usize = 256;

/// One column of the result.
enum Output {
    Column(usize),
    Const(Datum),
}

/// A query that needs no plan.
struct Point<'q> {
    table: Arc<TableSchema>,
    /// The table's alias, or its name.
    name: String,
    selection: &'q Expr,
    projection: &'q [SelectItem],
    order_by: Vec<&'q Expr>,
    offset: u64,
    limit: u64,
    lock: bool,
}

/// Answers the query if it is a point read.
pub(super) fn select(ctx: &mut Context<'_>, query: &Query) -> Result<Option<Rows>> {
    if !ctx.variables.read_engines().row {
        return Ok(None);
    }
    let Some(point) = recognize(ctx, query) else { return Ok(None) };
    let layout = Layout::new(point.table.clone())?;
    let rules = Input::new(ctx.variables, ctx.facts, false).rules;
    let scope = Scope { table: &point.table, name: Some(&point.name), new: None, rules };
    let Some(parts) = conjuncts(point.selection, &scope) else { return Ok(None) };
    let Some(access) = access(&layout, &parts).filter(Access::is_narrow) else { return Ok(None) };
    let ordered = point
        .order_by
        .iter()
        .all(|expr| access.is_point() && matches!(compile(expr, &scope), Some(Node::Column(_))));
    if !ordered {
        return Ok(None);
    }
    let Some((columns, outputs)) = outputs(&point, &scope) else { return Ok(None) };
    let found = read(ctx, &point, &layout, &parts, access)?;
    if point.lock && !ctx.commits {
        lock(ctx, &layout, &found)?;
    }
    let shift = rules.offset_us;
    let project = |(_, row): (i64, Vec<Datum>)| project(row, &outputs, &point.table, shift);
    Ok(Some(Rows::of(columns, found.into_iter().map(project).collect())))
}

fn recognize<'q>(ctx: &Context<'_>, query: &'q Query) -> Option<Point<'q>> {
    let Query {
        with: None,
        body,
        order_by,
        limit_clause,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = query
    else {
        return None;
    };
    if !pipe_operators.is_empty() {
        return None;
    }
    let SetExpr::Select(select) = body.as_ref() else { return None };
    let (name, alias, selection) = one_table(select)?;
    let name = table_name(name).ok()?;
    let table = ctx.view.table(name.database.as_deref().or(ctx.database)?, &name.table)?;
    let shown = alias.unwrap_or(name.table);
    if ctx.hints.storage_of(&shown) == Some(Storage::Column)
        || ctx.hints.storage_of(&table.name) == Some(Storage::Column)
        || ctx.hints.storage_of(&format!("{}.{}", table.database, table.name)).is_some()
    {
        return None;
    }
    let order_by = match order_by.as_ref().map(|order| (&order.kind, &order.interpolate)) {
        None => Vec::new(),
        Some((OrderByKind::Expressions(list), None)) => list.iter().map(|o| &o.expr).collect(),
        Some(_) => return None,
    };
    let (offset, limit) = limits(limit_clause.as_ref())?;
    let lock = match super::lock::locking(query, ctx.variables) {
        None => false,
        Some(locking) if locking.blocked != Blocked::Skip => true,
        Some(_) => return None,
    };
    if locks.iter().any(|lock| lock.of.is_some()) {
        return None;
    }
    let projection = &select.projection;
    Some(Point { table, name: shown, selection, projection, order_by, offset, limit, lock })
}

/// The table and WHERE of a SELECT that has nothing else but a select list.
fn one_table(select: &Select) -> Option<(&ObjectName, Option<String>, &Expr)> {
    let Select {
        distinct: None,
        select_modifiers: None,
        top: None,
        exclude: None,
        into: None,
        from,
        lateral_views,
        prewhere: None,
        selection: Some(selection),
        connect_by,
        group_by: GroupByExpr::Expressions(groups, modifiers),
        cluster_by,
        distribute_by,
        sort_by,
        having: None,
        named_window,
        qualify: None,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
        ..
    } = select
    else {
        return None;
    };
    let plain = lateral_views.is_empty()
        && connect_by.is_empty()
        && groups.is_empty()
        && modifiers.is_empty()
        && cluster_by.is_empty()
        && distribute_by.is_empty()
        && sort_by.is_empty()
        && named_window.is_empty();
    let [from] = from.as_slice() else { return None };
    if !plain || !from.joins.is_empty() {
        return None;
    }
    let TableFactor::Table {
        name,
        alias,
        args: None,
        version: None,
        with_ordinality: false,
        json_path: None,
        sample: None,
        partitions,
        ..
    } = &from.relation
    else {
        return None;
    };
    if !partitions.is_empty() || alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
        return None;
    }
    Some((name, alias.as_ref().map(|a| a.name.value.clone()), selection))
}

/// OFFSET and LIMIT.
fn limits(clause: Option<&LimitClause>) -> Option<(u64, u64)> {
    let number = |expr: &Expr| match params::literal(expr)? {
        Datum::Int(n) => u64::try_from(n).ok(),
        Datum::UInt(n) => Some(n),
        _ => None,
    };
    match clause {
        None => Some((0, u64::MAX)),
        Some(LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
            let offset = offset.as_ref().map_or(Some(0), |offset| number(&offset.value))?;
            Some((offset, limit.as_ref().map_or(Some(u64::MAX), number)?))
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
            Some((number(offset)?, number(limit)?))
        }
        Some(_) => None,
    }
}

/// The result's columns and where they come from.
fn outputs(point: &Point<'_>, scope: &Scope<'_>) -> Option<(Vec<ColumnMeta>, Vec<Output>)> {
    let shift = scope.rules.offset_us;
    let column = |at: usize, shown: &str| {
        (meta(&point.table, &point.name, at, shown, shift), Output::Column(at))
    };
    let all = || point.table.columns.iter().enumerate().map(|(at, c)| column(at, &c.name));
    let mut items = Vec::new();
    for item in point.projection {
        let (expr, shown) = match item {
            SelectItem::Wildcard(options) if *options == plain_wildcard(options) => {
                items.extend(all());
                continue;
            }
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) if *options == plain_wildcard(options) => {
                let [part] = name.0.as_slice() else { return None };
                if !part.as_ident()?.value.eq_ignore_ascii_case(&point.name) {
                    return None;
                }
                items.extend(all());
                continue;
            }
            SelectItem::UnnamedExpr(expr) => (expr, None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value.clone())),
            _ => return None,
        };
        items.push(match (compile(expr, scope)?, expr) {
            (Node::Column(at), Expr::Identifier(ident)) => {
                column(at, shown.as_ref().unwrap_or(&ident.value))
            }
            (Node::Column(at), Expr::CompoundIdentifier(idents)) => {
                column(at, shown.as_ref().unwrap_or(&idents.last()?.value))
            }
            (Node::Const(value @ Datum::Int(_)), expr) => {
                let ty = ColumnType::Int { width: IntWidth::Big, unsigned: false };
                let shown = shown.unwrap_or_else(|| expr.to_string());
                let meta = ColumnMeta { nullable: false, ..ColumnMeta::expression(shown, ty) };
                (meta, Output::Const(value))
            }
            _ => return None,
        });
    }
    Some(items.into_iter().unzip())
}

/// A wildcard like this one without EXCEPT, REPLACE and their like.
fn plain_wildcard(like: &WildcardAdditionalOptions) -> WildcardAdditionalOptions {
    let wildcard_token = like.wildcard_token.clone();
    WildcardAdditionalOptions { wildcard_token, ..WildcardAdditionalOptions::default() }
}

fn meta(table: &TableSchema, alias: &str, at: usize, shown: &str, shift: i64) -> ColumnMeta {
    let column = &table.columns[at];
    let in_key = |primary: bool| {
        table.indexes.iter().any(|index| match primary {
            true => index.primary && index.columns.contains(&column.id),
            false => index.unique && !index.primary && index.columns == [column.id],
        })
    };
    let ty = match &column.ty {
        // What is shifted into the session's zone is no longer stored as a TIMESTAMP is.
        ColumnType::Timestamp { fsp } if shift != 0 => ColumnType::DateTime { fsp: *fsp },
        ty => ty.clone(),
    };
    ColumnMeta {
        name: shown.to_owned(),
        database: table.database.clone(),
        table: alias.to_owned(),
        org_table: table.name.clone(),
        org_name: column.name.clone(),
        ty: Some(ty),
        nullable: column.nullable,
        primary_key: table.handle_column == Some(column.id) || in_key(true),
        unique_key: in_key(false),
        auto_increment: column.auto_increment,
    }
}

fn read(
    ctx: &mut Context<'_>,
    point: &Point<'_>,
    layout: &Layout,
    parts: &[Node],
    access: Access,
) -> Result<Vec<(i64, Vec<Datum>)>> {
    let view = ctx.view.clone();
    let reader = match &ctx.reads {
        Reads::Transaction(txn) => Reader::Transaction(txn),
        Reads::Latest(client) if access.is_one_key() => Reader::Latest(client),
        Reads::Latest(client) => {
            let ts = failure::convert(client.timestamp(), &view)?;
            Reader::Snapshot(client.snapshot(ts))
        }
    };
    let wanted = usize::try_from(point.offset.saturating_add(point.limit)).unwrap_or(usize::MAX);
    let mut cursor = Cursor::new(layout, access);
    let mut rows = Vec::new();
    // Ends: each page leaves less to read.
    while rows.len() < wanted {
        let Some(page) = cursor.next(&reader, &view, layout, wanted.max(PAGE_MIN))? else { break };
        for found in page {
            if all_hold(parts, &found.1)? {
                rows.push(found);
            }
        }
    }
    rows.truncate(wanted);
    rows.drain(..usize::try_from(point.offset).unwrap_or(usize::MAX).min(rows.len()));
    Ok(rows)
}

/// FOR UPDATE: the commit fails if another transaction changes these rows meanwhile.
fn lock(ctx: &mut Context<'_>, layout: &Layout, rows: &[(i64, Vec<Datum>)]) -> Result<()> {
    let view = ctx.view.clone();
    if let Reads::Transaction(txn) = &mut ctx.reads {
        for (handle, _) in rows {
            failure::convert(txn.lock(layout.row_key(*handle)), &view)?;
        }
    }
    Ok(())
}

fn project(mut row: Vec<Datum>, outputs: &[Output], table: &TableSchema, shift: i64) -> Vec<Datum> {
    if shift != 0 {
        for (cell, column) in row.iter_mut().zip(&table.columns) {
            if let (ColumnType::Timestamp { .. }, Datum::DateTime(us)) = (&column.ty, cell) {
                *us += shift;
            }
        }
    }
    let whole = outputs.len() == row.len()
        && outputs.iter().zip(0..).all(|(o, i)| matches!(o, Output::Column(at) if *at == i));
    if whole {
        return row;
    }
    let cell = |output: &Output| match output {
        Output::Column(at) => row[*at].clone(),
        Output::Const(value) => value.clone(),
    };
    outputs.iter().map(cell).collect()
}
