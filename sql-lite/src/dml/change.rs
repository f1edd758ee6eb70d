//! UPDATE and DELETE: rows by key straight through the transaction, others by a query for their
//! handles and new values. Old rows always come from the transaction, so that the entries that
//! are removed are those that exist. It must never change a row that it did not read so.

use super::Context;
use super::access::{Access, Cursor, Found, Reader, access, by_handles};
use super::assign::{self, Assigned, Assignment};
use super::expr::{Node, Scope, all_hold, conjuncts};
use super::input::Input;
use super::planned::{self, Selection};
use super::rows::Layout;
use super::write::{CHUNK_ROWS, Writer};
use crate::error::{Error, Result};
use crate::outcome::Done;
use crate::statement::{Assign, Delete, TableName, Update, params};
use damask_types::{ColumnType, Datum, TableSchema};
use sqlparser::ast::{Expr, ObjectName, OrderByExpr, TableFactor, TableWithJoins};
use std::sync::Arc;

/// A table of FROM.
pub(super) struct Source {
    pub table: Arc<TableSchema>,
    /// Its alias, or its name.
    pub name: String,
}

/// The plain tables of FROM.
pub(super) fn sources(ctx: &Context<'_>, from: &[TableWithJoins]) -> Result<Vec<Source>> {
    let factors = from.iter().flat_map(|t| {
        std::iter::once(&t.relation).chain(t.joins.iter().map(|join| &join.relation))
    });
    let mut sources = Vec::new();
    for factor in factors {
        let TableFactor::Table { name, alias, .. } = factor else { continue };
        let name = table_name(name)?;
        let table = ctx.table(&name)?;
        let name = alias.as_ref().map_or(name.table, |alias| alias.name.value.clone());
        sources.push(Source { table, name });
    }
    Ok(sources)
}

pub(super) fn table_name(name: &ObjectName) -> Result<TableName> {
    let part = |at: usize| name.0.get(at)?.as_ident().map(|ident| ident.value.clone());
    match (name.0.len(), part(0), part(1)) {
        (1, Some(table), None) => Ok(TableName { database: None, table }),
        (2, Some(database), Some(table)) => Ok(TableName { database: Some(database), table }),
        _ => Err(Error::no_such_table(format!("Table '{name}' doesn't exist"))),
    }
}

fn is_single(from: &[TableWithJoins]) -> bool {
    matches!(from, [one] if one.joins.is_empty()
        && matches!(one.relation, TableFactor::Table { .. }))
}

/// Which rows, when no plan is needed.
struct Direct {
    parts: Vec<Node>,
    access: Access,
    limit: u64,
}

/// The direct way to the rows of one table, if there is one.
fn direct(
    layout: &Layout,
    scope: &Scope<'_>,
    selection: Option<&Expr>,
    order_by: &[OrderByExpr],
    limit: Option<&Expr>,
) -> Option<Direct> {
    let limit = match limit {
        None => u64::MAX,
        Some(limit) => match params::literal(limit)? {
            Datum::Int(n) => u64::try_from(n).ok()?,
            Datum::UInt(n) => n,
            _ => return None,
        },
    };
    let (parts, access) = match selection {
        None => (Vec::new(), Access::Range(i64::MIN, i64::MAX)),
        Some(selection) => {
            let parts = conjuncts(selection, scope)?;
            let access = access(layout, &parts).filter(Access::is_narrow)?;
            (parts, access)
        }
    };
    let ordered = order_by.is_empty() || access.is_point();
    ordered.then_some(Direct { parts, access, limit })
}

impl Direct {
    /// Gives the rows that satisfy the conditions to `each`, some at a time.
    fn run<'a>(
        self,
        ctx: &mut Context<'a>,
        layout: &Layout,
        mut each: impl FnMut(&mut Context<'a>, Vec<Found>) -> Result<()>,
    ) -> Result<()> {
        let view = ctx.view.clone();
        let mut cursor = Cursor::new(layout, self.access);
        let mut left = self.limit;
        // Ends: each page leaves less to read.
        while left > 0 {
            let page = {
                let reader = Reader::Transaction(ctx.txn()?);
                cursor.next(&reader, &view, layout, CHUNK_ROWS)?
            };
            let Some(page) = page else { break };
            let mut rows = Vec::with_capacity(page.len());
            for found in page {
                if left > 0 && all_hold(&self.parts, &found.1)? {
                    rows.push(found);
                    left -= 1;
                }
            }
            each(ctx, rows)?;
        }
        Ok(())
    }
}

/// The rows with these handles, read in the transaction.
fn read(ctx: &mut Context<'_>, layout: &Layout, handles: &[i64]) -> Result<Vec<Found>> {
    let view = ctx.view.clone();
    by_handles(&Reader::Transaction(ctx.txn()?), &view, layout, handles)
}

/// One row's change.
struct Changed {
    handle: i64,
    old: Vec<Datum>,
    new: Vec<Datum>,
}

struct Updater {
    layout: Layout,
    input: Input,
    writer: Writer,
    assignments: Vec<Assignment>,
    ignore: bool,
    matched: u64,
    changed: u64,
}

impl Updater {
    /// Sets the assigned columns of a row; `values`: those of assignments that were planned.
    fn assign(
        &mut self,
        ctx: &mut Context<'_>,
        (handle, old): Found,
        values: Option<(Vec<Datum>, &[Option<ColumnType>])>,
    ) -> Result<Option<Changed>> {
        self.matched += 1;
        let table = &self.layout.table;
        let mut new = old.clone();
        let (values, types) = values.map_or((None, [].as_slice()), |(v, t)| (Some(v), t));
        let mut values = values.map(|values| values.into_iter().zip(types));
        for assignment in &self.assignments {
            let column = &table.columns[assignment.at];
            let (value, source) = match (&assignment.value, &mut values) {
                (Assigned::Default, _) => {
                    (self.input.default(column, ctx.warnings)?, Some(&column.ty))
                }
                (_, Some(values)) => {
                    let (value, ty) = values
                        .next()
                        .ok_or_else(|| Error::unknown("the query engine gave too few values"))?;
                    (value, ty.as_ref())
                }
                (Assigned::Node(node), None) => (node.eval(&new, &[])?, node.source(table)),
                (Assigned::Planned(_), None) => {
                    return Err(Error::unknown("a value was not planned"));
                }
            };
            let row = self.matched;
            let cell = assign::cell(&self.input, value, source, column, row, ctx.warnings)?;
            if assignment.remembered {
                ctx.facts.last_insert_id = super::insert::positive(&cell).unwrap_or(0);
            }
            new[assignment.at] = cell;
        }
        if new == old {
            return Ok(None);
        }
        assign::touch(table, &self.assignments, &self.input, &mut new);
        Ok(Some(Changed { handle, old, new }))
    }

    /// Writes changed rows; reads what may be in their way at once.
    fn write(&mut self, ctx: &mut Context<'_>, rows: Vec<Changed>) -> Result<()> {
        let Updater { layout, writer, .. } = self;
        let moves = |row: &Changed| {
            layout.handle_at.is_some_and(|at| row.old[at] != row.new[at])
                || layout.indexes.iter().any(|i| i.unique && !i.same(&row.old, &row.new))
        };
        let handle = |row: &Changed| layout.handle_of(&row.new).unwrap_or(row.handle);
        let mut keys = Vec::new();
        for row in rows.iter().filter(|row| moves(row)) {
            layout.unique_keys(&row.new, handle(row), &mut keys);
        }
        writer.prefetch(ctx.txn()?, keys)?;
        for row in &rows {
            let new = handle(row);
            if moves(row) {
                let txn = ctx.txn()?;
                let other = writer.in_the_way(txn, layout, &row.new, new, Some(row.handle))?;
                if let Some(other) = other {
                    let error = writer.duplicate(&other.key);
                    if !self.ignore {
                        return Err(error);
                    }
                    ctx.warnings.demote(error);
                    continue;
                }
            }
            writer.replace(ctx.txn()?, layout, (row.handle, &row.old), (new, &row.new))?;
            self.changed += 1;
        }
        Ok(())
    }

    fn done(&self, ctx: &Context<'_>) -> Done {
        let (matched, changed, warnings) = (self.matched, self.changed, ctx.warnings.count());
        Done {
            affected_rows: if ctx.found_rows { matched } else { changed },
            last_insert_id: 0,
            info: format!("Rows matched: {matched}  Changed: {changed}  Warnings: {warnings}"),
        }
    }
}

/// The table whose columns are set.
fn updated<'s>(sources: &'s [Source], assignments: &[Assign]) -> Result<&'s Source> {
    let mut target: Option<&Source> = None;
    for assign in assignments {
        let named = |source: &&Source| match &assign.table {
            Some(name) => source.name.eq_ignore_ascii_case(name),
            None => source.table.column(&assign.column).is_some(),
        };
        let mut found = sources.iter().filter(named);
        let shown = || match &assign.table {
            Some(table) => format!("{table}.{}", assign.column),
            None => assign.column.clone(),
        };
        let source = found.next().ok_or_else(|| super::insert::unknown_column(&shown()))?;
        if found.next().is_some() {
            let message = format!("Column '{}' in field list is ambiguous", shown());
            return Err(Error { code: 1052, state: "23000", message });
        }
        if target.is_some_and(|target| !std::ptr::eq(target, source)) {
            return Err(Error::not_supported("UPDATE of several tables is not supported"));
        }
        target = Some(source);
    }
    target.ok_or_else(|| Error::not_supported("UPDATE of something that is not a table"))
}

/// UPDATE.
pub(super) fn update(ctx: &mut Context<'_>, update: &Update) -> Result<Done> {
    let sources = sources(ctx, &update.from)?;
    let target = match sources.as_slice() {
        [one] if is_single(&update.from) => one,
        several => updated(several, &update.assignments)?,
    };
    let mut input = Input::new(ctx.variables, ctx.facts, update.ignore);
    input.adjust_null = !input.rules.strict;
    let (table, name) = (target.table.clone(), Some(target.name.as_str()));
    let scope = Scope { table: &table, name, new: None, rules: input.rules };
    let assignments = assign::assignments(&update.assignments, &scope)?;
    let layout = Layout::new(table.clone())?;
    let simple = |a: &Assignment| !matches!(a.value, Assigned::Planned(_));
    let moves = |a: &Assignment| Some(a.at) == layout.handle_at;
    let way = match is_single(&update.from) && assignments.iter().all(simple) {
        true => {
            let (selection, limit) = (update.selection.as_ref(), update.limit.as_ref());
            direct(&layout, &scope, selection, &update.order_by, limit)
        }
        false => None,
    };
    // A row that moves along the table could be met again.
    let way = way.filter(|way| way.access.is_narrow() || !assignments.iter().any(moves));
    let writer = Writer::new(ctx.view.clone());
    let ignore = update.ignore;
    let mut updater =
        Updater { layout, input, writer, assignments, ignore, matched: 0, changed: 0 };
    match way {
        Some(way) => update_directly(ctx, &mut updater, way)?,
        None => {
            let exprs = assign::in_sequence(&update.assignments, &updater.assignments, &scope)?;
            update_planned(ctx, &mut updater, update, &target.name, &exprs)?;
        }
    }
    Ok(updater.done(ctx))
}

fn update_directly(ctx: &mut Context<'_>, updater: &mut Updater, way: Direct) -> Result<()> {
    let layout = Layout::new(updater.layout.table.clone())?;
    let narrow = way.access.is_narrow();
    let mut waiting = Vec::new();
    way.run(ctx, &layout, |ctx, rows| {
        for found in rows {
            waiting.extend(updater.assign(ctx, found, None)?);
        }
        // Few rows are written when all are read: one that moves is not met again.
        match narrow {
            true => Ok(()),
            false => updater.write(ctx, std::mem::take(&mut waiting)),
        }
    })?;
    updater.write(ctx, waiting)
}

fn update_planned(
    ctx: &mut Context<'_>,
    updater: &mut Updater,
    update: &Update,
    target: &str,
    exprs: &[Expr],
) -> Result<()> {
    let selection = Selection {
        from: &update.from,
        selection: update.selection.as_ref(),
        order_by: &update.order_by,
        limit: update.limit.as_ref(),
        target,
    };
    let mut found = planned::handles(ctx, &selection, exprs)?;
    for chunk in found.rows.chunks_mut(CHUNK_ROWS) {
        let handles: Vec<i64> = chunk.iter().map(|(handle, _)| *handle).collect();
        let rows = read(ctx, &updater.layout, &handles)?;
        let mut values = chunk.iter_mut();
        let mut changed = Vec::with_capacity(rows.len());
        for row in rows {
            // Rows come in the order of the handles, without those that do not exist.
            let values = values.find(|(handle, _)| *handle == row.0);
            let values = values.map(|(_, values)| std::mem::take(values)).unwrap_or_default();
            changed.extend(updater.assign(ctx, row, Some((values, &found.types)))?);
        }
        updater.write(ctx, changed)?;
    }
    Ok(())
}

/// The table to delete from.
fn deleted<'s>(
    ctx: &Context<'_>,
    sources: &'s [Source],
    target: Option<&TableName>,
) -> Result<&'s Source> {
    let Some(target) = target else {
        return match sources {
            [one] => Ok(one),
            _ => Err(Error::not_supported("DELETE from several tables is not supported")),
        };
    };
    let by_alias = sources.iter().find(|source| {
        target.database.is_none() && source.name.eq_ignore_ascii_case(&target.table)
    });
    let by_name = || {
        let table = ctx.table(target).ok()?;
        sources.iter().find(|source| source.table.id == table.id)
    };
    by_alias.or_else(by_name).ok_or_else(|| Error {
        code: 1109,
        state: "42S02",
        message: format!("Unknown table '{}' in MULTI DELETE", target.table),
    })
}

/// DELETE.
pub(super) fn delete(ctx: &mut Context<'_>, delete: &Delete) -> Result<Done> {
    let sources = sources(ctx, &delete.from)?;
    let target = deleted(ctx, &sources, delete.target.as_ref())?;
    let rules = Input::new(ctx.variables, ctx.facts, false).rules;
    let (table, name) = (target.table.clone(), Some(target.name.as_str()));
    let scope = Scope { table: &table, name, new: None, rules };
    let layout = Layout::new(table.clone())?;
    let (selection, limit) = (delete.selection.as_ref(), delete.limit.as_ref());
    let way = match is_single(&delete.from) {
        true => direct(&layout, &scope, selection, &delete.order_by, limit),
        false => None,
    };
    let writer = Writer::new(ctx.view.clone());
    let mut deleted = 0;
    let mut remove = |ctx: &mut Context<'_>, rows: Vec<Found>| {
        deleted += rows.len() as u64;
        rows.iter().try_for_each(|(handle, row)| writer.remove(ctx.txn()?, &layout, row, *handle))
    };
    match way {
        Some(way) => way.run(ctx, &layout, |ctx, rows| remove(ctx, rows))?,
        None => {
            let selection = Selection {
                from: &delete.from,
                selection,
                order_by: &delete.order_by,
                limit,
                target: &target.name,
            };
            let found = planned::handles(ctx, &selection, &[])?;
            let handles: Vec<i64> = found.rows.iter().map(|(handle, _)| *handle).collect();
            for chunk in handles.chunks(CHUNK_ROWS) {
                let rows = read(ctx, &layout, chunk)?;
                remove(ctx, rows)?;
            }
        }
    }
    Ok(Done { affected_rows: deleted, last_insert_id: 0, info: String::new() })
}
