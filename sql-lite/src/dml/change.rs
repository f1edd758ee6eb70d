//! UPDATE and DELETE: rows by key straight through the transaction, others by a query for their
//! handles and new values. Old rows always come from the transaction, so that the entries that
//! are removed are those that exist. It must never change a row that it did not read so.

use super::Context;
use super::access::{Access, Cursor, Found, Reader, access, by_handles};
use super::assign::{self, Assigned, Assignment};
use super::checks::Checks;
use super::expr::{Node, Scope, all_hold, conjuncts};
use super::input::Input;
use super::planned::{self, Handles, Selection, Wanted};
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

/// The plain tables of FROM; each name there is one.
pub(super) fn sources(ctx: &Context<'_>, from: &[TableWithJoins]) -> Result<Vec<Source>> {
    sources_among(ctx, from, &|_| true)
}

/// The plain tables of FROM, where not every name is one.
pub(super) fn sources_among(
    ctx: &Context<'_>,
    from: &[TableWithJoins],
    is_plain: &dyn Fn(&ObjectName) -> bool,
) -> Result<Vec<Source>> {
    let factors = from.iter().flat_map(|t| {
        std::iter::once(&t.relation).chain(t.joins.iter().map(|join| &join.relation))
    });
    let mut sources = Vec::new();
    for factor in factors {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            let nested = std::slice::from_ref(table_with_joins.as_ref());
            sources.extend(sources_among(ctx, nested, is_plain)?);
            continue;
        }
        let TableFactor::Table { name, alias, .. } = factor else { continue };
        if !is_plain(name) {
            continue;
        }
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
pub(super) struct Direct {
    parts: Vec<Node>,
    pub access: Access,
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
            ctx.facts.interrupt.check()?;
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
    checks: Checks,
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
            ctx.lock_unchanged(self.layout.row_key(handle))?;
            return Ok(None);
        }
        assign::touch(table, &self.assignments, &self.input, &mut new);
        if let Some(error) = self.checks.violated(&new)? {
            if !self.ignore {
                return Err(error);
            }
            ctx.warnings.demote(error);
            return Ok(None);
        }
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
}

/// The tables whose columns are set, each with its assignments.
fn updated<'s>(
    sources: &'s [Source],
    assignments: &[Assign],
) -> Result<Vec<(&'s Source, Vec<Assign>)>> {
    let mut targets: Vec<(&Source, Vec<Assign>)> = Vec::new();
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
        match targets.iter_mut().find(|(target, _)| std::ptr::eq(*target, source)) {
            Some((_, own)) => own.push(assign.clone()),
            None => targets.push((source, vec![assign.clone()])),
        }
    }
    match targets.is_empty() {
        false => Ok(targets),
        true => Err(Error::not_supported("UPDATE of something that is not a table")),
    }
}

/// MySQL orders and limits changes of one table only: 1221.
fn check_tail(what: &str, order_by: &[OrderByExpr], limit: Option<&Expr>) -> Result<()> {
    let clause = match (order_by.is_empty(), limit) {
        (false, _) => "ORDER BY",
        (true, Some(_)) => "LIMIT",
        (true, None) => return Ok(()),
    };
    Err(Error::wrong_usage(format!("Incorrect usage of {what} and {clause}")))
}

/// One table's part of an UPDATE.
pub(super) struct Part {
    updater: Updater,
    /// The table or its alias.
    pub name: String,
    /// What the query engine is to evaluate.
    pub exprs: Vec<Expr>,
}

impl Part {
    /// The table.
    pub fn table(&self) -> &TableSchema {
        &self.updater.layout.table
    }
}

/// An UPDATE's tables, and the direct way to the rows if there is one.
pub(super) fn update_parts(
    ctx: &Context<'_>,
    update: &Update,
) -> Result<(Vec<Part>, Option<Direct>)> {
    let sources = sources(ctx, &update.from)?;
    let single = is_single(&update.from);
    let targets = match sources.as_slice() {
        [one] if single => vec![(one, update.assignments.clone())],
        several => {
            check_tail("UPDATE", &update.order_by, update.limit.as_ref())?;
            updated(several, &update.assignments)?
        }
    };
    let mut parts = Vec::with_capacity(targets.len());
    let mut way = None;
    for (target, assigns) in &targets {
        let mut input = Input::new(ctx.variables, ctx.facts, update.ignore);
        input.adjust_null = !input.rules.strict;
        let (table, name) = (target.table.clone(), Some(target.name.as_str()));
        let scope = Scope { table: &table, name, new: None, rules: input.rules };
        let assignments = assign::assignments(assigns, &scope)?;
        let layout = Layout::new(table.clone())?;
        let simple = |a: &Assignment| !matches!(a.value, Assigned::Planned(_));
        let moves = |a: &Assignment| Some(a.at) == layout.handle_at;
        if single && assignments.iter().all(simple) {
            let (selection, limit) = (update.selection.as_ref(), update.limit.as_ref());
            let found = direct(&layout, &scope, selection, &update.order_by, limit);
            // A row that moves along the table could be met again.
            way = found.filter(|way| way.access.is_narrow() || !assignments.iter().any(moves));
        }
        let exprs = match &way {
            Some(_) => Vec::new(),
            None => assign::in_sequence(assigns, &assignments, &scope)?,
        };
        let writer = Writer::new(ctx.view.clone());
        let checks = Checks::new(ctx.view.checks(table.id), &table, input.rules)?;
        let (ignore, matched, changed) = (update.ignore, 0, 0);
        let updater =
            Updater { layout, input, writer, checks, assignments, ignore, matched, changed };
        parts.push(Part { updater, name: target.name.clone(), exprs });
    }
    Ok((parts, way))
}

/// The query for the rows of an UPDATE.
pub(super) fn update_selection(update: &Update) -> Selection<'_> {
    Selection {
        with: None,
        from: &update.from,
        selection: update.selection.as_ref(),
        order_by: &update.order_by,
        limit: update.limit.as_ref(),
    }
}

/// What is wanted of the rows of an UPDATE.
pub(super) fn update_wanted(parts: &[Part]) -> Vec<Wanted<'_>> {
    parts.iter().map(|part| Wanted { target: &part.name, exprs: &part.exprs }).collect()
}

/// UPDATE, of one table or several. Of several, every value is made of the rows as they were.
pub(super) fn update(ctx: &mut Context<'_>, update: &Update) -> Result<Done> {
    let (mut parts, way) = update_parts(ctx, update)?;
    match (way, parts.as_mut_slice()) {
        (Some(way), [part]) => update_directly(ctx, &mut part.updater, way)?,
        _ => {
            let found = planned::handles(ctx, &update_selection(update), &update_wanted(&parts))?;
            for (part, found) in parts.iter_mut().zip(found) {
                update_planned(ctx, &mut part.updater, found)?;
            }
        }
    }
    let matched = parts.iter().map(|part| part.updater.matched).sum::<u64>();
    let changed = parts.iter().map(|part| part.updater.changed).sum::<u64>();
    let warnings = ctx.warnings.count();
    Ok(Done {
        affected_rows: if ctx.found_rows { matched } else { changed },
        last_insert_id: 0,
        info: format!("Rows matched: {matched}  Changed: {changed}  Warnings: {warnings}"),
    })
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

fn update_planned(ctx: &mut Context<'_>, updater: &mut Updater, mut found: Handles) -> Result<()> {
    for chunk in found.rows.chunks_mut(CHUNK_ROWS) {
        ctx.facts.interrupt.check()?;
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

/// A table to delete from.
fn deleted<'s>(ctx: &Context<'_>, sources: &'s [Source], target: &TableName) -> Result<&'s Source> {
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

/// One table's part of a DELETE.
pub(super) struct Removed {
    pub layout: Layout,
    /// The table or its alias.
    pub name: String,
}

/// A DELETE's tables, and the direct way to the rows if there is one.
pub(super) fn delete_parts(
    ctx: &Context<'_>,
    delete: &Delete,
) -> Result<(Vec<Removed>, Option<Direct>)> {
    let sources = sources(ctx, &delete.from)?;
    let targets = match (delete.targets.as_slice(), sources.as_slice()) {
        ([], [one]) => vec![one],
        (named, _) => {
            check_tail("DELETE", &delete.order_by, delete.limit.as_ref())?;
            named.iter().map(|name| deleted(ctx, &sources, name)).collect::<Result<_>>()?
        }
    };
    let mut way = None;
    let mut parts: Vec<Removed> = Vec::with_capacity(targets.len());
    for target in targets {
        if parts.iter().any(|part| part.name.eq_ignore_ascii_case(&target.name)) {
            let message = format!("Not unique table/alias: '{}'", target.name);
            return Err(Error { code: 1066, state: "42000", message });
        }
        let layout = Layout::new(target.table.clone())?;
        if is_single(&delete.from) {
            let rules = Input::new(ctx.variables, ctx.facts, false).rules;
            let name = Some(target.name.as_str());
            let scope = Scope { table: &target.table, name, new: None, rules };
            let (selection, limit) = (delete.selection.as_ref(), delete.limit.as_ref());
            way = direct(&layout, &scope, selection, &delete.order_by, limit);
        }
        parts.push(Removed { layout, name: target.name.clone() });
    }
    Ok((parts, way))
}

/// The query for the rows of a DELETE.
pub(super) fn delete_selection(delete: &Delete) -> Selection<'_> {
    Selection {
        with: None,
        from: &delete.from,
        selection: delete.selection.as_ref(),
        order_by: &delete.order_by,
        limit: delete.limit.as_ref(),
    }
}

/// What is wanted of the rows of a DELETE.
pub(super) fn delete_wanted(parts: &[Removed]) -> Vec<Wanted<'_>> {
    parts.iter().map(|part| Wanted { target: &part.name, exprs: &[] }).collect()
}

/// DELETE, from one table or several.
pub(super) fn delete(ctx: &mut Context<'_>, delete: &Delete) -> Result<Done> {
    let (parts, way) = delete_parts(ctx, delete)?;
    let writer = Writer::new(ctx.view.clone());
    let mut deleted = 0;
    let mut remove = |ctx: &mut Context<'_>, layout: &Layout, rows: Vec<Found>| {
        deleted += rows.len() as u64;
        rows.iter().try_for_each(|(handle, row)| writer.remove(ctx.txn()?, layout, row, *handle))
    };
    match (way, parts.as_slice()) {
        (Some(way), [Removed { layout, .. }]) => {
            way.run(ctx, layout, |ctx, rows| remove(ctx, layout, rows))?;
        }
        _ => {
            let found = planned::handles(ctx, &delete_selection(delete), &delete_wanted(&parts))?;
            for (Removed { layout, .. }, found) in parts.iter().zip(found) {
                let handles: Vec<i64> = found.rows.iter().map(|(handle, _)| *handle).collect();
                for chunk in handles.chunks(CHUNK_ROWS) {
                    ctx.facts.interrupt.check()?;
                    let rows = read(ctx, layout, chunk)?;
                    remove(ctx, layout, rows)?;
                }
            }
        }
    }
    Ok(Done { affected_rows: deleted, last_insert_id: 0, info: String::new() })
}
