//! SKIP LOCKED: rows that other transactions have locked are left out of a query as if they were
//! not there. It must never give a row that it has not locked, nor wait for one.
//!
//! ```text
//!  FROM, WHERE, ORDER BY ──► handles, a row of the join at a time, in the query's order
//!    ▲                         │ table by table: locked here, or another's? (nobody waits)
//!    │                         ▼ until LIMIT rows are held in all their tables, or none are left
//!    └─ again, without the rows that are another's, as long as an outer join has met new ones
//!  the query again: each row of the join is one that is held in all its tables
//! ```
//!
//! A table that an outer join may leave out has `handle NOT IN (others')` in the ON of that join,
//! so the join goes on with the table's other rows, or gives NULLs if there are none, as in MySQL,
//! where such a row is skipped when it is read. That may bring rows of the join that were not there
//! before; therefore the turns. What comes out is what the query gives of a database without the
//! rows that it met and others have locked; a row that fails WHERE is not met. A query that groups
//! its rows, or makes them distinct, locks all that it reads.

use super::Context;
use super::change::{Source, table_name};
use super::lock::{Lockable, number};
use super::planned::{self, Selection, Wanted};
use crate::error::{Error, Result};
use crate::failure;
use crate::query::HANDLE_COLUMN;
use damask_types::key::row_key;
use sqlparser::ast::*;
use std::collections::{BTreeMap, HashSet};

/// Rows that SKIP LOCKED locks in one statement at most, with those that it leaves out of outer
/// joins.
const ROWS_MAX: usize = 10_000;
/// Turns in which outer joins meet rows of others that they have not met before.
const ROUNDS_MAX: usize = 32;
/// Rows that are tried at once.
const CHUNK: usize = 256;
/// Rows that are first looked at for a LIMIT; four times as many in each further look.
const WINDOW: usize = 64;

/// Handles of one row of the join, by table; `None`: an outer join has none there.
type Combination = Vec<Option<i64>>;

/// Locks the rows that nobody else has locked, as many as the query asks for, and gives the query
/// for these rows.
pub(super) fn skip_locked(
    ctx: &mut Context<'_>,
    query: &Query,
    lockable: &Lockable<'_>,
    tables: &[Source],
    chosen: &[&Source],
) -> Result<Query> {
    let mut taken = Tables::new(lockable, chosen);
    if !chosen.is_empty() {
        take_free(ctx, lockable, &mut taken)?;
    }
    let view = ctx.view.clone();
    for (at, source) in chosen.iter().enumerate() {
        for handle in taken.handles(at, true) {
            failure::convert(ctx.txn()?.lock(row_key(source.table.id, handle)), &view)?;
        }
    }
    of_handles(query, tables, &taken)
}

/// Locks rows until there are enough, and the outer joins meet no more rows of others.
fn take_free(
    ctx: &mut Context<'_>,
    lockable: &Lockable<'_>,
    tables: &mut Tables<'_>,
) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        let before = tables.left_out();
        let from = tables.of_others_left_out(&lockable.select.from)?;
        take_round(ctx, lockable, &from, tables)?;
        if tables.left_out() == before {
            return Ok(());
        }
    }
    Err(Error::unknown(format!(
        "SKIP LOCKED: after {ROUNDS_MAX} turns an outer join still meets rows that are locked"
    )))
}

/// Locks rows until there are enough, in the query's order.
fn take_round(
    ctx: &mut Context<'_>,
    lockable: &Lockable<'_>,
    from: &[TableWithJoins],
    tables: &mut Tables<'_>,
) -> Result<()> {
    let limit = lockable.limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let enough = limit.unwrap_or(usize::MAX);
    let mut window = limit.map(|n| n.saturating_mul(2).max(WINDOW));
    let wanted: Vec<_> =
        tables.sources.iter().map(|source| Wanted { target: &source.name, exprs: &[] }).collect();
    let (mut whole, mut seen) = (0, HashSet::new());
    // Ends: each turn looks at more rows, until there are no more or enough.
    loop {
        let rows = window.map(|n| number(n as u64));
        let selection = Selection {
            with: lockable.with,
            from,
            selection: lockable.select.selection.as_ref(),
            order_by: if limit.is_some() { &lockable.order_by } else { &[] },
            limit: rows.as_ref(),
        };
        let found = planned::combinations(ctx, &selection, &wanted)?;
        let last = window.is_none_or(|window| found.len() < window);
        let mut fresh = found.into_iter().filter(|row| seen.insert(row.clone()));
        while whole < enough {
            let rows: Vec<_> = fresh.by_ref().take((enough - whole).min(CHUNK)).collect();
            if rows.is_empty() {
                break;
            }
            whole += tables.lock(ctx, rows)?;
            ctx.facts.interrupt.check()?;
        }
        if last || whole >= enough {
            return Ok(());
        }
        window = window.map(|window| window.saturating_mul(4));
    }
}

/// The tables to lock, and what came of it.
struct Tables<'s> {
    sources: &'s [&'s Source],
    /// The order in which they are tried: those first that no outer join leaves out.
    order: Vec<usize>,
    /// May an outer join leave it out?
    absent: Vec<bool>,
    /// Is there a LIMIT, so that not all rows are tried?
    limited: bool,
    /// Handles that were tried; is the row held?
    tried: Vec<BTreeMap<i64, bool>>,
}

impl<'s> Tables<'s> {
    fn new(lockable: &Lockable<'_>, sources: &'s [&'s Source]) -> Tables<'s> {
        let mut names = HashSet::new();
        lockable.select.from.iter().for_each(|from| drop(names_in(from, &mut names)));
        let absent: Vec<bool> =
            sources.iter().map(|source| names.contains(&source.name.to_lowercase())).collect();
        let mut order: Vec<usize> = (0..sources.len()).collect();
        order.sort_by_key(|at| absent[*at]);
        let tried = vec![BTreeMap::new(); sources.len()];
        Tables { sources, order, absent, limited: lockable.limit.is_some(), tried }
    }

    /// The rows of a table that are held, or are another's.
    fn handles(&self, at: usize, held: bool) -> Vec<i64> {
        let tried = self.tried[at].iter();
        tried.filter(|(_, is_held)| **is_held == held).map(|(handle, _)| *handle).collect()
    }

    /// Rows of others that outer joins have met.
    fn left_out(&self) -> usize {
        let others = |(absent, tried): (&bool, &BTreeMap<i64, bool>)| match absent {
            true => tried.values().filter(|held| !**held).count(),
            false => 0,
        };
        self.absent.iter().zip(&self.tried).map(others).sum()
    }

    /// FROM whose outer joins do not see the rows of others that are known.
    fn of_others_left_out(&self, from: &[TableWithJoins]) -> Result<Vec<TableWithJoins>> {
        let mut conditions = Conditions::new();
        for (at, source) in self.sources.iter().enumerate().filter(|(at, _)| self.absent[*at]) {
            let others = self.handles(at, false);
            let free = (!others.is_empty()).then(|| is_one_of(source, &others, true));
            conditions.insert(source.name.to_lowercase(), free);
        }
        let mut from = from.to_vec();
        for from in &mut from {
            place(from, &mut conditions)?;
        }
        Ok(from)
    }

    /// Is the row of this table held, if there is one? `None`: it is. Without LIMIT all rows of
    /// the join were tried, so what an outer join still sees of those that WHERE lets through is
    /// held.
    fn is_held(&self, at: usize) -> Option<Expr> {
        if self.absent[at] && !self.limited {
            return None;
        }
        let source = self.sources[at];
        let held = self.handles(at, true);
        let none = || Expr::IsNull(Box::new(handle_of(source)));
        Some(match (self.absent[at], held.is_empty()) {
            (false, false) => is_one_of(source, &held, false),
            (false, true) => Expr::BinaryOp {
                left: Box::new(number(1)),
                op: BinaryOperator::Eq,
                right: Box::new(number(0)),
            },
            (true, false) => joined(none(), BinaryOperator::Or, is_one_of(source, &held, false)),
            (true, true) => none(),
        })
    }

    /// Tries these rows, table by table: what one table's lock has ruled out is not tried in the
    /// next, unless the join goes on without that table. How many rows are held in all tables.
    fn lock(&mut self, ctx: &mut Context<'_>, rows: Vec<Combination>) -> Result<usize> {
        let view = ctx.view.clone();
        let mut rows: Vec<_> = rows.into_iter().map(|row| (row, true)).collect();
        for &at in &self.order {
            let table = self.sources[at].table.id;
            let tried = &mut self.tried[at];
            let mut known = HashSet::new();
            let fresh = |handle: &i64| !tried.contains_key(handle) && known.insert(*handle);
            let handles: Vec<i64> =
                rows.iter().filter_map(|(row, _)| row[at]).filter(fresh).collect();
            let keys: Vec<_> = handles.iter().map(|handle| row_key(table, *handle)).collect();
            let held = failure::convert(ctx.txn()?.try_lock(&keys), &view)?;
            tried.extend(handles.into_iter().zip(held));
            for (row, whole) in &mut rows {
                *whole &= row[at].is_none_or(|handle| tried.get(&handle) == Some(&true));
            }
            if !self.absent[at] {
                rows.retain(|(_, whole)| *whole);
            }
        }
        let held = |tried: &BTreeMap<i64, bool>| tried.values().filter(|held| **held).count();
        let held: usize = self.tried.iter().map(held).sum();
        match held + self.left_out() > ROWS_MAX {
            true => Err(Error::unknown(format!(
                "SKIP LOCKED locks {ROWS_MAX} rows in one statement at most"
            ))),
            false => Ok(rows.iter().filter(|(_, whole)| *whole).count()),
        }
    }
}

/// The names of the tables; `absent` gets those that an outer join may leave out.
fn names_in(from: &TableWithJoins, absent: &mut HashSet<String>) -> Vec<String> {
    let of_factor = |factor: &TableFactor, absent: &mut HashSet<String>| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => names_in(table_with_joins, absent),
        factor => name_of(factor).into_iter().collect(),
    };
    let mut names = of_factor(&from.relation, absent);
    for join in &from.joins {
        let own = of_factor(&join.relation, absent);
        match &join.join_operator {
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => absent.extend(own.clone()),
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => absent.extend(names.clone()),
            _ => {}
        }
        names.extend(own);
    }
    names
}

/// The name by which a plain table is known, in lower case.
fn name_of(factor: &TableFactor) -> Option<String> {
    let TableFactor::Table { name, alias, .. } = factor else { return None };
    let name = match alias {
        Some(alias) => alias.name.value.clone(),
        None => table_name(name).ok()?.table,
    };
    Some(name.to_lowercase())
}

/// The query for the rows that are held of its locked tables only.
fn of_handles(query: &Query, tables: &[Source], taken: &Tables<'_>) -> Result<Query> {
    let mut query = query.clone();
    query.locks.clear();
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(query) };
    if taken.sources.iter().any(|source| source.table.handle_column.is_none()) {
        name_columns(select, tables)?;
    }
    select.from = taken.of_others_left_out(&select.from)?;
    let held = (0..taken.sources.len()).filter_map(|at| taken.is_held(at));
    let selection = select.selection.take();
    let all = |left, right| joined(left, BinaryOperator::And, right);
    select.selection = selection.into_iter().chain(held).reduce(all);
    Ok(query)
}

fn qualified(source: &Source, column: &str) -> Expr {
    let idents = vec![Ident::with_quote('`', &source.name), Ident::with_quote('`', column)];
    Expr::CompoundIdentifier(idents)
}

/// Writes a `*` out: a hidden column that is named anywhere would be among its columns.
fn name_columns(select: &mut Select, tables: &[Source]) -> Result<()> {
    let refused = || {
        Error::not_supported(
            "This version of Damask doesn't yet support 'SKIP LOCKED with * of a table without \
             primary key beside a subquery, WITH, USING or NATURAL'",
        )
    };
    let is_star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_));
    let is_plain = |from: &TableWithJoins| is_of_plain_tables(from, tables);
    if select.projection.iter().any(is_star) && !select.from.iter().all(is_plain) {
        return Err(refused());
    }
    let all = |source: &Source| -> Vec<SelectItem> {
        let item = |name: &String| SelectItem::ExprWithAlias {
            expr: qualified(source, name),
            alias: Ident::with_quote('`', name),
        };
        source.table.columns.iter().map(|column| item(&column.name)).collect()
    };
    let mut items = Vec::new();
    for item in select.projection.drain(..) {
        match &item {
            SelectItem::Wildcard(_) => items.extend(tables.iter().flat_map(all)),
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                let name = table_name(name)?.table;
                let named = |source: &&Source| source.name.eq_ignore_ascii_case(&name);
                match tables.iter().find(named) {
                    Some(source) => items.extend(all(source)),
                    None => items.push(item),
                }
            }
            _ => items.push(item),
        }
    }
    select.projection = items;
    Ok(())
}

/// Is `*` the columns of each table, one after the other?
fn is_of_plain_tables(from: &TableWithJoins, tables: &[Source]) -> bool {
    let plain = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => {
            is_of_plain_tables(table_with_joins, tables)
        }
        factor => name_of(factor)
            .is_some_and(|name| tables.iter().any(|source| source.name.to_lowercase() == name)),
    };
    let keeps_all = |join: &Join| {
        constraint(&join.join_operator)
            .is_some_and(|c| matches!(c, JoinConstraint::On(_) | JoinConstraint::None))
    };
    plain(&from.relation) && from.joins.iter().all(|join| plain(&join.relation) && keeps_all(join))
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::CrossJoin(c)
        | JoinOperator::StraightJoin(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c) => Some(c),
        _ => None,
    }
}

/// Conditions on tables, by the names in lower case; `None`: there is nothing to ask.
type Conditions = BTreeMap<String, Option<Expr>>;

/// Puts the conditions on the tables that an outer join may leave out into its ON. Those on the
/// others are given back.
fn place(from: &mut TableWithJoins, conditions: &mut Conditions) -> Result<Vec<Option<Expr>>> {
    let mut open = of_factor(&mut from.relation, conditions)?;
    for join in &mut from.joins {
        let own = of_factor(&mut join.relation, conditions)?;
        match &mut join.join_operator {
            JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => attach(c, own)?,
            JoinOperator::Right(c) | JoinOperator::RightOuter(c) => {
                attach(c, std::mem::replace(&mut open, own))?;
            }
            _ => open.extend(own),
        }
    }
    Ok(open)
}

fn of_factor(factor: &mut TableFactor, conditions: &mut Conditions) -> Result<Vec<Option<Expr>>> {
    match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => place(table_with_joins, conditions),
        factor => {
            let own = name_of(factor).and_then(|name| conditions.remove(&name));
            Ok(own.into_iter().collect())
        }
    }
}

/// 1235 for USING and NATURAL, whether there is something to ask or not.
fn attach(constraint: &mut JoinConstraint, more: Vec<Option<Expr>>) -> Result<()> {
    let natural = matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural);
    if natural && !more.is_empty() {
        return Err(Error::not_supported(
            "This version of Damask doesn't yet support 'SKIP LOCKED of an outer join with USING \
             or NATURAL'",
        ));
    }
    for more in more.into_iter().flatten() {
        let all = match constraint {
            JoinConstraint::On(on) => joined(on.clone(), BinaryOperator::And, more),
            _ => more,
        };
        *constraint = JoinConstraint::On(all);
    }
    Ok(())
}

/// `(left) op (right)`.
fn joined(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    let nested = |expr| Box::new(Expr::Nested(Box::new(expr)));
    Expr::BinaryOp { left: nested(left), op, right: nested(right) }
}

/// The column that holds a table's handle.
fn handle_of(source: &Source) -> Expr {
    let table = &source.table;
    let column = table.handle_column.and_then(|id| table.column_by_id(id));
    qualified(source, column.map_or(HANDLE_COLUMN, |column| &column.name))
}

/// `handle IN (…)`, or NOT IN. Not for an empty list.
fn is_one_of(source: &Source, handles: &[i64], negated: bool) -> Expr {
    let table = &source.table;
    let column = table.handle_column.and_then(|id| table.column_by_id(id));
    let unsigned = column.is_some_and(|column| column.ty.is_unsigned());
    let literal = |handle: &i64| match unsigned {
        false if *handle < 0 => {
            let expr = Box::new(number(handle.unsigned_abs()));
            Expr::UnaryOp { op: UnaryOperator::Minus, expr }
        }
        _ => number(*handle as u64),
    };
    let list = handles.iter().map(literal).collect();
    Expr::InList { expr: Box::new(handle_of(source)), list, negated }
}
