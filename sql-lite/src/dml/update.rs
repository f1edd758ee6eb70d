//! UPDATE and DELETE. Rows are found by key where the condition allows, else by the query engine,
//! which is asked for row handles and new values; they are always written here. It must never
//! change a row that the condition was not tested on.

use super::access::{Named, RowOf, find, fulfils, read};
use super::eval::{Columns, column_ref, eval};
use super::insert::{default_value, each_row, now};
use super::writer::Writer;
use super::{Work, row, unknown_column};
use crate::error::{Error, Result};
use crate::outcome::Done;
use crate::query::{self, HANDLE_COLUMN};
use crate::session::Level;
use crate::statement::params::{expression, literal};
use crate::statement::{Assign, Delete, TableName, Update, object_name};
use crate::value::convert;
use damask_types::{ColumnType, Datum, TableSchema};
use sqlparser::ast::{
    Expr, GroupByExpr, Ident, LimitClause, OrderBy, OrderByExpr, OrderByKind, Query, Select,
    SelectItem, SetExpr, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use std::ops::ControlFlow;
use std::sync::Arc;



/// Rows that one statement may change.
pub const ROWS_MAX: usize = 2_000_000;
/// Rows read by key at most before the query engine is asked instead.
const DIRECT_MAX: usize = 10_000;
/// Rows written together.
const CHUNK: usize = 1_024;

/// The table to change and what it is called.
struct Target {
    table: Arc<TableSchema>,
    name: String,
    /// The FROM names nothing else.
    alone: bool,
}

/// One row to change, with the values that the query engine computed.
type Found = (i64, Vec<Datum>);

fn factors(from: &[TableWithJoins]) -> impl Iterator<Item = &TableFactor> {
    from.iter().flat_map(|t| std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)))
}

fn named_factor(factor: &TableFactor) -> Option<(TableName, String)> {
    let TableFactor::Table { name, alias, .. } = factor else { return None };
    let name = object_name(name)?;
    let called = alias.as_ref().map_or(name.table.clone(), |a| a.name.value.clone());
    Some((name, called))
}

/// Finds the one table that is changed: the one `wanted` accepts.
fn target(
    work: &mut Work<'_>,
    from: &[TableWithJoins],
    wanted: impl Fn(&str, &TableName) -> bool,
) -> Result<Target> {
    let alone = factors(from).count() == 1;
    for factor in factors(from) {
        let Some((name, called)) = named_factor(factor) else { continue };
        if alone || wanted(&called, &name) {
            let table = work.table(&name)?;
            return Ok(Target { table, name: called, alone });
        }
    }
    Err(Error::no_such_table("Unknown table in multi-table statement"))
}

/// Runs an UPDATE.
pub fn update(work: &mut Work<'_>, update: &Update) -> Result<Done> {
    let target = update_target(work, update)?;
    let assigns = checked(&target, &update.assignments)?;
    let found = match direct(work, &target, update.selection.as_ref(), &update.order_by, update.limit.as_ref())? {
        Some(handles) => {
            let rows = handles.into_iter().map(|h| (h, Vec::new())).collect();
            Search { rows, types: Vec::new(), computed: false }
        }
        None => search_update(work, &target, update, &assigns)?,
    };
    let mut counts = (0u64, 0u64);
    for chunk in found.rows.chunks(CHUNK) {
        let (matched, changed) =
            write_updates(work, &target, &assigns, &found, chunk, update.ignore)?;
        counts = (counts.0 + matched, counts.1 + changed);
    }
    let (matched, changed) = counts;
    let warnings = work.warnings.count();
    Ok(Done {
        affected_rows: if work.found_rows { matched } else { changed },
        last_insert_id: 0,
        info: format!("Rows matched: {matched}  Changed: {changed}  Warnings: {warnings}"),
    })
}

fn update_target(work: &mut Work<'_>, update: &Update) -> Result<Target> {
    let first = &update.assignments[0];
    let mut qualifiers: Vec<&str> =
        update.assignments.iter().filter_map(|a| a.table.as_deref()).collect();
    qualifiers.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    if qualifiers.len() > 1 {
        return Err(Error::not_supported("UPDATE of several tables at once is not supported"));
    }
    let view = Arc::clone(&work.view);
    let database = work.database;
    target(work, &update.from, |called, name| match qualifiers.first() {
        Some(qualifier) => called.eq_ignore_ascii_case(qualifier),
        None => super::find_table(&view, database, name)
            .is_ok_and(|t| t.column(&first.column).is_some()),
    })
}

/// Assignments with the positions of their columns.
fn checked<'a>(target: &Target, assigns: &'a [Assign]) -> Result<Vec<(usize, &'a Expr)>> {
    assigns
        .iter()
        .map(|assign| {
            let foreign =
                assign.table.as_ref().is_some_and(|t| !t.eq_ignore_ascii_case(&target.name));
            let columns = &target.table.columns;
            let at = columns.iter().position(|c| c.name.eq_ignore_ascii_case(&assign.column));
            match at {
                Some(at) if !foreign => Ok((at, &assign.value)),
                _ => Err(unknown_column(&assign.column, "field list")),
            }
        })
        .collect()
}

/// Finds rows by key: `None` if the condition does not allow it.
fn direct(
    work: &Work<'_>,
    target: &Target,
    selection: Option<&Expr>,
    order_by: &[OrderByExpr],
    limit: Option<&Expr>,
) -> Result<Option<Vec<i64>>> {
    let offset_us = work.variables.time_zone_offset_us();
    let named = Named { table: &target.table, name: &target.name, offset_us };
    if !target.alone {
        return Ok(None);
    }
    let Some(access) = find(named, selection) else { return Ok(None) };
    let Some(stored) = read(&target.table, &access.path, &*work.txn, DIRECT_MAX)? else {
        return Ok(None);
    };
    // An order only matters with a limit that cuts.
    let limit = match limit.map(literal) {
        None => usize::MAX,
        Some(Some(Datum::Int(n))) => usize::try_from(n).unwrap_or(0),
        Some(_) => return Ok(None),
    };
    if !order_by.is_empty() && stored.len() > limit {
        return Ok(None);
    }
    let mut handles = Vec::with_capacity(stored.len());
    for (handle, bytes) in stored {
        if !access.rest.is_empty() {
            let values = row::decode(&target.table, handle, &bytes)?;
            match fulfils(&access.rest, &RowOf { named, values: &values }) {
                Some(true) => {}
                Some(false) => continue,
                None => return Ok(None),
            }
        }
        handles.push(handle);
        if handles.len() == limit {
            break;
        }
    }
    Ok(Some(handles))
}

/// Rows that the query engine found.
struct Search {
    rows: Vec<Found>,
    types: Vec<Option<ColumnType>>,
    /// New values are among them, in the order of the assignments.
    computed: bool,
}

fn search_update(
    work: &Work<'_>,
    target: &Target,
    update: &Update,
    assigns: &[(usize, &Expr)],
) -> Result<Search> {
    // An assignment sees what those before it assigned: their expressions take the columns' place.
    let mut values: Vec<Expr> = Vec::with_capacity(assigns.len());
    for (n, (_, value)) in assigns.iter().enumerate() {
        let mut value = (*value).clone();
        if is_default(&value) {
            value = expression(&Datum::Null);
        }
        for ((at, _), earlier) in assigns[..n].iter().zip(values.clone()).rev() {
            let column = &target.table.columns[*at].name;
            replace_column(&mut value, &target.name, column, &earlier);
        }
        values.push(value);
    }
    search(
        work,
        target,
        values,
        &update.from,
        update.selection.as_ref(),
        &update.order_by,
        update.limit.as_ref(),
    )
}

fn search(
    work: &Work<'_>,
    target: &Target,
    values: Vec<Expr>,
    from: &[TableWithJoins],
    selection: Option<&Expr>,
    order_by: &[OrderByExpr],
    limit: Option<&Expr>,
) -> Result<Search> {
    let computed = !values.is_empty();
    let query = select_of(&target.name, values, from, selection, order_by, limit)?;
    let rows = query::select(&work.query(), &query)?;
    let types: Vec<_> = rows.columns.iter().map(|c| c.ty.clone()).collect();
    let mut found: Vec<Found> = Vec::new();
    let mut source = rows.source;
    while let Some(batch) = source.next()? {
        each_row(&batch, &types, |mut values| {
            let handle = match values.first() {
                Some(Datum::Int(handle)) => *handle,
                // The outer side of a join may have no row here.
                Some(Datum::Null) => return Ok(()),
                _ => return Err(Error::unknown("a row handle is not an integer")),
            };
            if found.len() >= ROWS_MAX {
                return Err(Error::transaction_too_large(format!(
                    "Transaction is too large: a statement may change {ROWS_MAX} rows"
                )));
            }
            values.remove(0);
            found.push((handle, values));
            Ok(())
        })?;
    }
    // A join may find a row more than once: it is changed once.
    if !target.alone {
        let mut seen = std::collections::HashSet::new();
        found.retain(|(handle, _)| seen.insert(*handle));
    }
    Ok(Search { rows: found, types: types.into_iter().skip(1).collect(), computed })
}

fn select_of(
    name: &str,
    values: Vec<Expr>,
    from: &[TableWithJoins],
    selection: Option<&Expr>,
    order_by: &[OrderByExpr],
    limit: Option<&Expr>,
) -> Result<Query> {
    let parsed = crate::statement::parse("SELECT 1", 0, crate::variables::SqlMode::default())?;
    let crate::statement::Stmt::Query(mut query) = parsed.stmt else {
        return Err(Error::unknown("a SELECT did not parse as one"));
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(Error::unknown("a SELECT did not parse as one"));
    };
    let ident = |text: &str| Ident::with_quote('`', text);
    let handle = Expr::CompoundIdentifier(vec![ident(name), ident(HANDLE_COLUMN)]);
    let select: &mut Select = select;
    select.projection = vec![SelectItem::UnnamedExpr(handle)];
    for (n, expr) in values.into_iter().enumerate() {
        let alias = ident(&format!("_damask_value_{n}"));
        select.projection.push(SelectItem::ExprWithAlias { expr, alias });
    }
    select.from = from.to_vec();
    select.selection = selection.cloned();
    select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
    if !order_by.is_empty() {
        let kind = OrderByKind::Expressions(order_by.to_vec());
        query.order_by = Some(OrderBy { kind, interpolate: None });
    }
    if let Some(limit) = limit {
        let limit = Some(limit.clone());
        query.limit_clause =
            Some(LimitClause::LimitOffset { limit, offset: None, limit_by: Vec::new() });
    }
    Ok(*query)
}

fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(i)
        if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}

struct ReplaceColumn<'a> {
    table: &'a str,
    column: &'a str,
    with: &'a Expr,
}

impl VisitorMut for ReplaceColumn<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Some((qualifier, name)) = column_ref(expr) else { return ControlFlow::Continue(()) };
        let here = qualifier.is_none_or(|q| q.eq_ignore_ascii_case(self.table));
        if here && name.eq_ignore_ascii_case(self.column) && !matches!(expr, Expr::Nested(_)) {
            *expr = Expr::Nested(Box::new(self.with.clone()));
        }
        ControlFlow::Continue(())
    }
}

fn replace_column(expr: &mut Expr, table: &str, column: &str, with: &Expr) {
    let _ = expr.visit(&mut ReplaceColumn { table, column, with });
}

/// A row whose TIMESTAMPs are in the session's zone, as expressions see them.
struct Local<'a> {
    target: &'a Target,
    values: &'a [Datum],
    offset_us: i64,
}

impl Columns for Local<'_> {
    fn column(&self, qualifier: Option<&str>, name: &str) -> Option<Datum> {
        if qualifier.is_some_and(|q| !q.eq_ignore_ascii_case(&self.target.name)) {
            return None;
        }
        let columns = &self.target.table.columns;
        let at = columns.iter().position(|c| c.name.eq_ignore_ascii_case(name))?;
        Some(match (&columns[at].ty, &self.values[at]) {
            (ColumnType::Timestamp { .. }, Datum::DateTime(us)) => {
                Datum::DateTime(us + self.offset_us)
            }
            (_, value) => value.clone(),
        })
    }
}

/// `(rows matched, rows changed)`.
fn write_updates(
    work: &mut Work<'_>,
    target: &Target,
    assigns: &[(usize, &Expr)],
    found: &Search,
    chunk: &[Found],
    ignore: bool,
) -> Result<(u64, u64)> {
    let table = &target.table;
    let view = Arc::clone(&work.view);
    let handles: Vec<_> = chunk.iter().map(|(handle, _)| *handle).collect();
    let old_rows = Writer::new(table, &view, work.txn).rows(&handles)?;
    let assigned: Vec<_> = assigns.iter().map(|(at, _)| *at).collect();
    let moves = assigned.iter().any(|at| is_key(table, *at));
    let (mut matched, mut changed) = (0, 0);
    for (n, old) in old_rows.into_iter().enumerate() {
        let Some(old) = old else { continue };
        let (handle, values) = &chunk[n];
        matched += 1;
        let computed = found.computed.then_some((values.as_slice(), found.types.as_slice()));
        let mut new = new_row(work, target, assigns, &old, computed, matched, ignore)?;
        if new == old {
            continue;
        }
        touch_timestamps_in(work, table, &assigned, &mut new);
        let new_handle = row::handle_of(table, &new).unwrap_or(*handle);
        let check = work.check_now || ignore;
        let mut writer = Writer::new(table, &view, work.txn);
        if moves && check
            && let Some(other) = writer.existing(new_handle, &new, Some(*handle))?
        {
            let error = writer.duplicate(&other);
            if !ignore {
                return Err(error);
            }
            work.warnings.demote(error);
            continue;
        }
        writer.update(*handle, &old, new_handle, &new)?;
        changed += 1;
    }
    Ok((matched, changed))
}

/// Is the column part of a key that must stay unique?
fn is_key(table: &TableSchema, at: usize) -> bool {
    let id = table.columns[at].id;
    table.handle_column == Some(id)
        || table.indexes.iter().any(|i| i.unique && i.columns.contains(&id))
}

fn new_row(
    work: &mut Work<'_>,
    target: &Target,
    assigns: &[(usize, &Expr)],
    old: &[Datum],
    computed: Option<(&[Datum], &[Option<ColumnType>])>,
    number: u64,
    ignore: bool,
) -> Result<Vec<Datum>> {
    let rules = work.rules(ignore);
    let mut new = old.to_vec();
    for (n, (at, expr)) in assigns.iter().enumerate() {
        let column = &target.table.columns[*at];
        if is_default(expr) {
            new[*at] = default_value(column, work, ignore)?;
            continue;
        }
        let (value, source) = match computed {
            Some((values, types)) => (values[n].clone(), types[n].as_ref()),
            None => {
                let row = Local { target, values: &new, offset_us: rules.offset_us };
                let value = match eval(expr, &row) {
                    Some(value) => value,
                    None => eval_by_engine(work, expr, &row, |_| None)?,
                };
                (value, None)
            }
        };
        if value.is_null() && !column.nullable && !rules.strict {
            let message = format!("Column '{}' cannot be null", column.name);
            work.warnings.push(Level::Warning, 1048, message);
            new[*at] = crate::value::zero(&column.ty);
            continue;
        }
        new[*at] = convert(value, source, column, number, rules, work.warnings)?;
    }
    Ok(new)
}

struct Substitute<'a, F> {
    row: &'a dyn Columns,
    special: F,
}

impl<F: Fn(&Expr) -> Option<Datum>> VisitorMut for Substitute<'_, F> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let value = (self.special)(expr).or_else(|| {
            let (qualifier, name) = column_ref(expr)?;
            self.row.column(qualifier, name)
        });
        if let Some(value) = value {
            *expr = expression(&value);
        }
        ControlFlow::Continue(())
    }
}

/// Evaluates any expression on one row: its columns become literals, the query engine the rest.
pub fn eval_by_engine(
    work: &Work<'_>,
    expr: &Expr,
    row: &dyn Columns,
    special: impl Fn(&Expr) -> Option<Datum>,
) -> Result<Datum> {
    let mut expr = expr.clone();
    let _ = expr.visit(&mut Substitute { row, special });
    let mut values = query::eval(&work.query(), std::slice::from_ref(&expr))?;
    values.pop().ok_or_else(|| Error::unknown("an expression has no value"))
}

/// ON UPDATE CURRENT_TIMESTAMP of columns that the statement does not assign.
pub fn touch_timestamps(table: &TableSchema, assigned: &[usize], row: &mut [Datum], now_us: i64) {
    touch(table, assigned, row, now_us, 0);
}

fn touch_timestamps_in(work: &Work<'_>, table: &TableSchema, assigned: &[usize], row: &mut [Datum]) {
    let offset_us = work.variables.time_zone_offset_us();
    touch(table, assigned, row, work.facts.now_us, offset_us);
}

fn touch(table: &TableSchema, assigned: &[usize], row: &mut [Datum], now_us: i64, offset_us: i64) {
    for (at, column) in table.columns.iter().enumerate() {
        if column.on_update_now && !assigned.contains(&at) {
            row[at] = now(column, now_us, offset_us);
        }
    }
}

/// Runs a DELETE.
pub fn delete(work: &mut Work<'_>, delete: &Delete) -> Result<Done> {
    let target = target(work, &delete.from, |called, name| {
        delete.target.as_ref().is_some_and(|wanted| {
            wanted.table.eq_ignore_ascii_case(called)
                || (wanted.database.is_some() && wanted.table.eq_ignore_ascii_case(&name.table))
        })
    })?;
    if let Some(wanted) = &delete.target
        && !wanted.table.eq_ignore_ascii_case(&target.name)
        && !wanted.table.eq_ignore_ascii_case(&target.table.name)
    {
        let message = format!("Unknown table '{}' in MULTI DELETE", wanted.table);
        return Err(Error { code: 1109, state: "42S02", message });
    }
    let selection = delete.selection.as_ref();
    let limit = delete.limit.as_ref();
    let handles = match direct(work, &target, selection, &delete.order_by, limit)? {
        Some(handles) => handles,
        None => {
            let found =
                search(work, &target, Vec::new(), &delete.from, selection, &delete.order_by, limit)?;
            found.rows.into_iter().map(|(handle, _)| handle).collect()
        }
    };
    let view = Arc::clone(&work.view);
    let mut writer = Writer::new(&target.table, &view, work.txn);
    let mut affected = 0;
    for chunk in handles.chunks(CHUNK) {
        let rows = writer.rows(chunk)?;
        for (handle, values) in chunk.iter().zip(rows) {
            let Some(values) = values else { continue };
            writer.delete(*handle, &values)?;
            affected += 1;
        }
    }
    Ok(Done { affected_rows: affected, ..Done::default() })
}

/// The query that finds what a change would change, for EXPLAIN.
pub fn as_query(from: &[TableWithJoins], selection: Option<&Expr>) -> Result<Box<Query>> {
    let first = factors(from).next().and_then(named_factor);
    let (_, name) = first.ok_or_else(|| Error::not_supported("EXPLAIN of this change"))?;
    select_of(&name, Vec::new(), from, selection, &[], None).map(Box::new)
}
