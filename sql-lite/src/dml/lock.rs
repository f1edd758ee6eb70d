//! SELECT … FOR UPDATE and FOR SHARE: which rows of a query are locked, and how. A pessimistic
//! transaction locks them when its statement ends; an optimistic one at its commit, which fails if
//! another transaction has changed them. It must never lock fewer rows than the query gives.
//!
//! | clause         | pessimistic                                  | optimistic              |
//! |----------------|----------------------------------------------|-------------------------|
//! | FOR UPDATE     | waits for others' locks                      | at commit               |
//! | … NOWAIT       | 3572 when another has one                    | at commit               |
//! | … SKIP LOCKED  | leaves out the rows that others have locked  | at commit, with a warning |
//! | FOR SHARE      | as FOR UPDATE: there is one kind of row lock | at commit               |
//!
//! An optimistic transaction looks at nobody's locks before its commit, so it has no row to skip:
//! of two that take the same row the second one to commit fails (9007).
//!
//! FOR SHARE locks nothing at all when `tidb_enable_shared_lock_promotion` is off. A clause is
//! about the plain tables of its own FROM; a subquery in FROM has its own, as in MySQL. Names of
//! WITH, tables of `information_schema` and its like and DUAL have no rows to lock.

use super::Context;
use super::change::{Source, sources_among, table_name};
use super::planned::{self, Selection, Wanted};
use super::skip;
use crate::catalog::{CatalogView, is_system};
use crate::error::{Error, Result};
use crate::failure;
use crate::interrupt::Interrupt;
use crate::session::Level;
use crate::statement::params;
use crate::variables::Variables;
use damask_txn::{Client, Error as TxnError, Mark, Mode, Options, Reads, Transaction, Wait};
use damask_types::Datum;
use damask_types::key::row_key;
use sqlparser::ast::*;
use std::borrow::Cow;
use std::ops::ControlFlow;

/// Longest wait for a lock before the sign to end the statement is looked at, milliseconds: how
/// late KILL is heard. Not shorter: a waiter that asks anew may be the one that closes a circle, and
/// then the victim of a deadlock is not the last to come.
const WAIT_SLICE_MS: u64 = 1_000;

/// What a locking read does about another transaction's lock; the stricter is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocked {
    /// SKIP LOCKED.
    Skip,
    /// Waits.
    Wait,
    /// NOWAIT: 3572.
    Fail,
}

/// How a query locks what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locking {
    /// FOR UPDATE, not only FOR SHARE.
    pub update: bool,
    /// When another has a lock.
    pub blocked: Blocked,
}

/// How the query, or one in its FROM, locks what it reads, if it does. Of several clauses the
/// strictest counts.
pub fn locking(query: &Query, variables: &Variables) -> Option<Locking> {
    let inner = derived(query).into_iter().filter_map(|inner| locking(inner, variables));
    own_locking(query, variables)
        .into_iter()
        .chain(inner)
        .reduce(|a, b| Locking { update: a.update || b.update, blocked: a.blocked.max(b.blocked) })
}

/// The subqueries in FROM.
fn derived(query: &Query) -> Vec<&Query> {
    fn collect<'q>(from: &'q TableWithJoins, found: &mut Vec<&'q Query>) {
        let joined = from.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&from.relation).chain(joined) {
            match factor {
                TableFactor::Derived { subquery, .. } => found.push(subquery),
                TableFactor::NestedJoin { table_with_joins, .. } => {
                    collect(table_with_joins, found);
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    if let SetExpr::Select(select) = query.body.as_ref() {
        select.from.iter().for_each(|from| collect(from, &mut found));
    }
    found
}

/// As the query's own clauses say.
fn own_locking(query: &Query, variables: &Variables) -> Option<Locking> {
    if query.locks.is_empty() {
        return None;
    }
    let update = query.locks.iter().any(|lock| matches!(lock.lock_type, LockType::Update));
    if !update && variables.number("tidb_enable_shared_lock_promotion") == 0 {
        return None;
    }
    let has = |wanted| query.locks.iter().any(|lock| lock.nonblock == wanted);
    let blocked = match () {
        () if has(Some(NonBlock::Nowait)) => Blocked::Fail,
        () if has(None) => Blocked::Wait,
        () => Blocked::Skip,
    };
    Some(Locking { update, blocked })
}

/// A SELECT whose rows can be locked.
pub(super) struct Lockable<'q> {
    /// WITH of the queries around it.
    pub with: Option<&'q With>,
    pub select: &'q Select,
    /// In terms of what it reads. Only if it has a limit.
    pub order_by: Cow<'q, [OrderByExpr]>,
    /// Rows up to the end of its LIMIT, if each row that it gives is one that it reads.
    pub limit: Option<u64>,
}

/// 1235 for set operations and queries that begin with WITH.
fn lockable<'q>(query: &'q Query, around: Option<&'q With>) -> Result<Lockable<'q>> {
    let refused = || Error::not_supported("FOR UPDATE of such a query is not supported");
    let Query { with: None, body, order_by, limit_clause, .. } = query else {
        return Err(refused());
    };
    let SetExpr::Select(select) = body.as_ref() else { return Err(refused()) };
    let grouped = match &select.group_by {
        GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
        GroupByExpr::All(_) => true,
    };
    let plain = !grouped
        && select.having.is_none()
        && select.distinct.is_none()
        && !gathers(&select.projection);
    let order_by = match order_by.as_ref().map(|order| &order.kind) {
        None => &[][..],
        Some(OrderByKind::Expressions(list)) => list.as_slice(),
        Some(OrderByKind::All(_)) => return Err(refused()),
    };
    let limit = limit_clause.as_ref().filter(|_| plain).and_then(last_row);
    let order_by = match limit {
        None => Cow::Borrowed(&[][..]),
        Some(_) => resolved(order_by, &select.projection),
    };
    Ok(Lockable { with: around, select, order_by, limit })
}

/// ORDER BY with what its numbers and aliases stand for.
fn resolved<'q>(order_by: &'q [OrderByExpr], items: &[SelectItem]) -> Cow<'q, [OrderByExpr]> {
    let meant = |expr: &Expr| match expr {
        Expr::Identifier(name) => items.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { expr, alias }
                if alias.value.eq_ignore_ascii_case(&name.value) =>
            {
                Some(expr.clone())
            }
            _ => None,
        }),
        expr => {
            let Some(Datum::Int(place)) = params::literal(expr) else { return None };
            let place = usize::try_from(place).ok()?.checked_sub(1)?;
            // Before the place nothing may stand for several columns.
            let all = items.get(..=place)?;
            let mut items = all.iter().map(|item| match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                    Some(expr)
                }
                _ => None,
            });
            items.all(|item| item.is_some()).then(|| all.last())?.and_then(|item| match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                    Some(expr.clone())
                }
                _ => None,
            })
        }
    };
    let changed =
        |order: &OrderByExpr| meant(&order.expr).map(|expr| OrderByExpr { expr, ..order.clone() });
    match order_by.iter().any(|order| changed(order).is_some()) {
        false => Cow::Borrowed(order_by),
        true => {
            let all = order_by.iter().map(|order| changed(order).unwrap_or_else(|| order.clone()));
            Cow::Owned(all.collect())
        }
    }
}

/// Does a select list make one row of several, or look at several rows?
fn gathers(projection: &[SelectItem]) -> bool {
    const AGGREGATES: [&str; 13] = [
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "group_concat",
        "any_value",
        "bit_and",
        "bit_or",
        "bit_xor",
        "json_arrayagg",
        "json_objectagg",
        "approx_count_distinct",
    ];
    let gathers = |function: &Function| {
        let name = function.name.to_string().to_ascii_lowercase();
        function.over.is_some()
            || AGGREGATES.contains(&name.as_str())
            || name.starts_with("std")
            || name.starts_with("var")
    };
    let found = visit_expressions(&projection.to_vec(), |expr| match expr {
        Expr::Function(function) if gathers(function) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Rows before the end of LIMIT and OFFSET, when they are numbers.
fn last_row(clause: &LimitClause) -> Option<u64> {
    let number = |expr: &Expr| match params::literal(expr)? {
        Datum::Int(n) => u64::try_from(n).ok(),
        Datum::UInt(n) => Some(n),
        _ => None,
    };
    let (limit, offset) = match clause {
        LimitClause::LimitOffset { limit, offset, .. } => {
            (number(limit.as_ref()?)?, offset.as_ref().map_or(Some(0), |o| number(&o.value))?)
        }
        LimitClause::OffsetCommaLimit { offset, limit } => (number(limit)?, number(offset)?),
    };
    limit.checked_add(offset)
}

/// The tables whose rows are locked: all, or those of OF. 3568 for a name that is none of them.
fn chosen<'s>(tables: &'s [Source], locks: &[LockClause]) -> Result<Vec<&'s Source>> {
    if locks.iter().any(|lock| lock.of.is_none()) {
        return Ok(tables.iter().collect());
    }
    let named = |lock: &LockClause| {
        let name = lock.of.as_ref().map(ToString::to_string).unwrap_or_default();
        let plain = name.replace('`', "");
        tables.iter().find(|table| table.name.eq_ignore_ascii_case(&plain)).ok_or_else(|| Error {
            code: 3568,
            state: "HY000",
            message: format!("Unresolved table name `{plain}` in locking clause."),
        })
    };
    locks.iter().map(named).collect()
}

pub(super) fn number(value: u64) -> Expr {
    Expr::Value(Value::Number(value.to_string(), false).into())
}

/// Locks the rows that a query, and those in its FROM, read from their plain tables; the query
/// itself is run as any other, in the same statement. `Some`: this one is run in its place, which
/// leaves out rows.
pub fn lock_rows(ctx: &mut Context<'_>, query: &Query) -> Result<Option<Query>> {
    lock_within(ctx, query, None)
}

/// The same of a query that may name what the WITH around it defines.
fn lock_within(
    ctx: &mut Context<'_>,
    query: &Query,
    around: Option<&With>,
) -> Result<Option<Query>> {
    let variables = ctx.variables;
    let inner = match derived(query).iter().any(|inner| locking(inner, variables).is_some()) {
        true => lock_derived(ctx, query, around)?,
        false => None,
    };
    let query = inner.as_ref().unwrap_or(query);
    let Some(mut locking) = own_locking(query, variables) else { return Ok(inner) };
    if locking.blocked == Blocked::Skip && ctx.txn()?.options().mode == Mode::Optimistic {
        let message = "SKIP LOCKED leaves out no rows in an optimistic transaction: \
            rows are locked when it commits";
        ctx.warnings.push(Level::Warning, Error::not_supported("").code, message);
        locking.blocked = Blocked::Wait;
    }
    let lockable = lockable(query, around)?;
    let plain = |name: &ObjectName| is_plain(ctx, name, around);
    let tables = sources_among(ctx, &lockable.select.from, &plain)?;
    let chosen = chosen(&tables, &query.locks)?;
    if locking.blocked == Blocked::Skip {
        return skip::skip_locked(ctx, query, &lockable, &tables, &chosen).map(Some);
    }
    let limit = lockable.limit.map(number);
    let selection = Selection {
        with: around,
        from: &lockable.select.from,
        selection: lockable.select.selection.as_ref(),
        order_by: &lockable.order_by,
        limit: limit.as_ref(),
    };
    let wanted: Vec<_> =
        chosen.iter().map(|source| Wanted { target: &source.name, exprs: &[] }).collect();
    if wanted.is_empty() {
        return Ok(inner);
    }
    let found = planned::handles(ctx, &selection, &wanted)?;
    let view = ctx.view.clone();
    for (source, found) in chosen.iter().zip(found) {
        for (handle, _) in found.rows {
            failure::convert(ctx.txn()?.lock(row_key(source.table.id, handle)), &view)?;
        }
    }
    Ok(inner)
}

/// Can a name in FROM be one of a table with rows to lock?
fn is_plain(ctx: &Context<'_>, name: &ObjectName, around: Option<&With>) -> bool {
    let Ok(table) = table_name(name) else { return true };
    let defined = |with: &With| with.cte_tables.iter().any(|cte| names(cte, &table.table));
    match table.database.as_deref() {
        Some(database) => !is_system(database),
        // In backquotes it is a table like any other.
        None if name.to_string().eq_ignore_ascii_case("dual") => false,
        None => !around.is_some_and(defined) && !ctx.database.is_some_and(is_system),
    }
}

fn names(cte: &Cte, name: &str) -> bool {
    cte.alias.name.value.eq_ignore_ascii_case(name)
}

/// Both WITH in one. 1235 where one list could not mean what they do.
fn nested(around: Option<&With>, own: Option<&With>) -> Result<Option<With>> {
    let (Some(around), Some(own)) = (around, own) else {
        return Ok(around.or(own).cloned());
    };
    let hides =
        |cte: &Cte| around.cte_tables.iter().any(|other| names(other, &cte.alias.name.value));
    if around.recursive != own.recursive || own.cte_tables.iter().any(hides) {
        return Err(Error::not_supported(
            "This version of Damask doesn't yet support 'FOR UPDATE of a subquery within two WITH, \
             of which one is RECURSIVE or hides names of the other'",
        ));
    }
    let mut both = around.clone();
    both.cte_tables.extend(own.cte_tables.iter().cloned());
    Ok(Some(both))
}

/// Locks what the subqueries in FROM read; the query with those that leave out rows.
fn lock_derived(
    ctx: &mut Context<'_>,
    query: &Query,
    around: Option<&With>,
) -> Result<Option<Query>> {
    let with = nested(around, query.with.as_ref())?;
    let mut query = query.clone();
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(None) };
    let mut changed = false;
    for from in &mut select.from {
        changed |= lock_joined(ctx, from, with.as_ref())?;
    }
    Ok(changed.then_some(query))
}

/// The same for a join: has it changed?
fn lock_joined(
    ctx: &mut Context<'_>,
    from: &mut TableWithJoins,
    with: Option<&With>,
) -> Result<bool> {
    let mut changed = false;
    let joined = from.joins.iter_mut().map(|join| &mut join.relation);
    for factor in std::iter::once(&mut from.relation).chain(joined) {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => {
                changed |= lock_joined(ctx, table_with_joins, with)?;
            }
            TableFactor::Derived { lateral: true, subquery, .. }
                if locking(subquery, ctx.variables).is_some() =>
            {
                return Err(Error::not_supported(
                    "This version of Damask doesn't yet support 'FOR UPDATE in a LATERAL subquery'",
                ));
            }
            TableFactor::Derived { subquery, .. } => {
                if let Some(fewer) = lock_within(ctx, subquery, with)? {
                    **subquery = fewer;
                    changed = true;
                }
            }
            _ => {}
        }
    }
    Ok(changed)
}

impl Context<'_> {
    /// Locks a row that a change met and left as it was, as it would lock one that it changed. An
    /// optimistic transaction has no need to: it only has to commit what it writes.
    pub(super) fn lock_unchanged(&mut self, key: Vec<u8>) -> Result<()> {
        let view = self.view.clone();
        let txn = self.txn()?;
        match txn.options().mode {
            Mode::Optimistic => Ok(()),
            Mode::Pessimistic => failure::convert(txn.lock(key), &view),
        }
    }

    /// Will the end of the statement see whether new keys exist already?
    pub(super) fn finds_duplicates_later(&self) -> bool {
        let pessimistic = |txn: &Transaction| txn.options().mode == Mode::Pessimistic;
        self.commits || matches!(&self.reads, super::Reads::Transaction(txn) if pessimistic(txn))
    }
}

/// A transaction of the server's own that may find others in its way. The first try is optimistic;
/// the later ones are pessimistic: they wait for their turn.
pub(crate) struct Try {
    /// The transaction.
    pub txn: Transaction,
    mark: Mark,
}

impl Try {
    /// Begins it.
    pub fn begin(client: &Client, first: bool, view: &CatalogView) -> Result<Try> {
        let mode = if first { Mode::Optimistic } else { Mode::Pessimistic };
        let options = Options { mode, ..Options::default() };
        let mut txn = failure::convert(client.begin_with(options), view)?;
        failure::convert(txn.begin_statement(Reads::Current), view)?;
        let mark = txn.mark();
        Ok(Try { txn, mark })
    }

    /// All has been written; what is given is to be committed.
    pub fn written(
        mut self,
        wait: Wait,
        interrupt: &Interrupt,
        view: &CatalogView,
    ) -> Result<Transaction> {
        lock_written(&mut self.txn, &self.mark, wait, interrupt, view)?;
        self.txn.release(self.mark);
        Ok(self.txn)
    }
}

/// Locks what was written since the mark; looks at the sign to end between slices of the wait.
pub(crate) fn lock_written(
    txn: &mut Transaction,
    mark: &Mark,
    wait: Wait,
    interrupt: &Interrupt,
    view: &CatalogView,
) -> Result<()> {
    let Wait::Millis(mut left) = wait else {
        return failure::convert(txn.lock_written(mark, Wait::No), view);
    };
    // Ends: each turn takes from what is left.
    loop {
        let slice = left.min(WAIT_SLICE_MS);
        match txn.lock_written(mark, Wait::Millis(slice)) {
            Err(TxnError::LockTimeout { .. }) if left > slice => left -= slice,
            done => return failure::convert(done, view),
        }
        interrupt.check()?;
    }
}
