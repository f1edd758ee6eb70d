//! SELECT … FOR UPDATE and FOR SHARE: which rows of a query are locked, and how. A pessimistic
//! transaction locks them when its statement ends; an optimistic one at its commit, which fails if
//! another transaction has changed them. It must never lock fewer rows than the query gives.
//!
//! | clause         | pessimistic                                  | optimistic |
//! |----------------|----------------------------------------------|------------|
//! | FOR UPDATE     | waits for others' locks                      | at commit  |
//! | … NOWAIT       | 3572 when another has one                    | at commit  |
//! | … SKIP LOCKED  | leaves out the rows that others have locked  | 1235       |
//! | FOR SHARE      | as FOR UPDATE: there is one kind of row lock | at commit  |
//!
//! FOR SHARE locks nothing at all when `tidb_enable_shared_lock_promotion` is off.

use super::Context;
use super::change::{Source, sources};
use super::planned::{self, Selection, Wanted};
use crate::catalog::CatalogView;
use crate::error::{Error, Result};
use crate::failure;
use crate::interrupt::Interrupt;
use crate::query::HANDLE_COLUMN;
use crate::statement::params;
use crate::variables::Variables;
use damask_txn::{Client, Error as TxnError, Mark, Mode, Options, Reads, Transaction, Wait};
use damask_types::Datum;
use damask_types::key::row_key;
use sqlparser::ast::*;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Rows that SKIP LOCKED locks in one statement at most.
const SKIP_ROWS_MAX: usize = 10_000;
/// Rows that are tried at once.
const SKIP_CHUNK: usize = 256;
/// Rows that are first looked at for a LIMIT; four times as many in each further look.
const SKIP_WINDOW: usize = 64;

/// Longest wait for a lock before the sign to end the statement is looked at, milliseconds.
const WAIT_SLICE_MS: u64 = 1_000;

/// What a locking read does about another transaction's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Waits.
    Wait,
    /// NOWAIT: 3572.
    Fail,
    /// SKIP LOCKED.
    Skip,
}

/// How a query locks what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locking {
    /// FOR UPDATE, not only FOR SHARE.
    pub update: bool,
    /// When another has a lock.
    pub blocked: Blocked,
}

/// How the query locks what it reads, if it does. Of several clauses the strictest counts.
pub fn locking(query: &Query, variables: &Variables) -> Option<Locking> {
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
struct Lockable<'q> {
    select: &'q Select,
    order_by: &'q [OrderByExpr],
    /// Each row that it gives is one that it reads.
    plain: bool,
    /// Rows up to the end of its LIMIT, if it is plain.
    limit: Option<u64>,
}

/// 1235 for set operations and queries that begin with WITH.
fn lockable(query: &Query) -> Result<Lockable<'_>> {
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
    Ok(Lockable { select, order_by, plain, limit })
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

fn number(value: u64) -> Expr {
    Expr::Value(Value::Number(value.to_string(), false).into())
}

/// Locks the rows that a query reads from its plain tables; the query itself is run as any other,
/// in the same statement. `Some`: this one is run in its place, which leaves out rows.
pub fn lock_rows(ctx: &mut Context<'_>, query: &Query, locking: Locking) -> Result<Option<Query>> {
    let lockable = lockable(query)?;
    let tables = sources(ctx, &lockable.select.from)?;
    let chosen = chosen(&tables, &query.locks)?;
    if locking.blocked == Blocked::Skip {
        return skip_locked(ctx, query, &lockable, &chosen).map(Some);
    }
    let limit = lockable.limit.map(number);
    let selection = Selection {
        from: &lockable.select.from,
        selection: lockable.select.selection.as_ref(),
        order_by: if limit.is_some() { lockable.order_by } else { &[] },
        limit: limit.as_ref(),
    };
    let wanted: Vec<_> =
        chosen.iter().map(|source| Wanted { target: &source.name, exprs: &[] }).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let found = planned::handles(ctx, &selection, &wanted)?;
    let view = ctx.view.clone();
    for (source, found) in chosen.iter().zip(found) {
        for (handle, _) in found.rows {
            failure::convert(ctx.txn()?.lock(row_key(source.table.id, handle)), &view)?;
        }
    }
    Ok(None)
}

/// Locks the rows that nobody else has locked, as many as the query asks for, and gives the query
/// for these rows.
fn skip_locked(
    ctx: &mut Context<'_>,
    query: &Query,
    lockable: &Lockable<'_>,
    chosen: &[&Source],
) -> Result<Query> {
    let refused = |what: &str| {
        Error::not_supported(format!(
            "This version of Damask doesn't yet support 'SKIP LOCKED {what}'"
        ))
    };
    if ctx.txn()?.options().mode == Mode::Optimistic {
        return Err(refused("in an optimistic transaction"));
    }
    let joined = lockable.select.from.iter().any(|from| !from.joins.is_empty());
    let [source] = chosen else { return Err(refused("of several tables")) };
    if joined || lockable.select.from.len() != 1 {
        return Err(refused("of several tables"));
    }
    if !lockable.plain {
        return Err(refused("of grouped rows"));
    }
    let limit = lockable.limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let taken = take_free(ctx, lockable, source, limit)?;
    let view = ctx.view.clone();
    for handle in &taken {
        failure::convert(ctx.txn()?.lock(row_key(source.table.id, *handle)), &view)?;
    }
    Ok(of_handles(query, source, &taken))
}

/// Locks rows until there are enough, in the query's order.
fn take_free(
    ctx: &mut Context<'_>,
    lockable: &Lockable<'_>,
    source: &Source,
    limit: Option<usize>,
) -> Result<Vec<i64>> {
    let enough = limit.unwrap_or(usize::MAX);
    let mut window = limit.map(|n| n.saturating_mul(2).max(SKIP_WINDOW));
    let (mut taken, mut tried) = (Vec::new(), HashSet::new());
    let view = ctx.view.clone();
    // Ends: each turn looks at more rows, until there are no more or enough.
    loop {
        let rows = window.map(|n| number(n as u64));
        let selection = Selection {
            from: &lockable.select.from,
            selection: lockable.select.selection.as_ref(),
            order_by: lockable.order_by,
            limit: rows.as_ref(),
        };
        let wanted = [Wanted { target: &source.name, exprs: &[] }];
        let found = planned::handles(ctx, &selection, &wanted)?;
        let found: Vec<i64> =
            found.into_iter().flat_map(|found| found.rows).map(|(handle, _)| handle).collect();
        let last = window.is_none_or(|window| found.len() < window);
        let mut fresh = found.into_iter().filter(|handle| tried.insert(*handle));
        while taken.len() < enough {
            let chunk = (enough - taken.len()).min(SKIP_CHUNK);
            let handles: Vec<i64> = fresh.by_ref().take(chunk).collect();
            if handles.is_empty() {
                break;
            }
            let keys: Vec<_> = handles.iter().map(|h| row_key(source.table.id, *h)).collect();
            let held = failure::convert(ctx.txn()?.try_lock(&keys), &view)?;
            taken.extend(handles.iter().zip(held).filter(|(_, held)| *held).map(|(h, _)| *h));
            if taken.len() > SKIP_ROWS_MAX {
                return Err(Error::unknown(format!(
                    "SKIP LOCKED locks {SKIP_ROWS_MAX} rows in one statement at most"
                )));
            }
            ctx.facts.interrupt.check()?;
        }
        if last || taken.len() >= enough {
            return Ok(taken);
        }
        window = window.map(|window| window.saturating_mul(4));
    }
}

/// The query for these rows of its one table only.
fn of_handles(query: &Query, source: &Source, handles: &[i64]) -> Query {
    let mut query = query.clone();
    query.locks.clear();
    let SetExpr::Select(select) = query.body.as_mut() else { return query };
    let table = &source.table;
    let qualified = |column: &str| {
        let idents = vec![Ident::with_quote('`', &source.name), Ident::with_quote('`', column)];
        Expr::CompoundIdentifier(idents)
    };
    let handle_column = table.handle_column.and_then(|id| table.column_by_id(id));
    let key = match handle_column {
        Some(column) => qualified(&column.name),
        None => {
            // The hidden column is named: it would be among those of a `*`.
            let all = || {
                table.columns.iter().map(|c| SelectItem::ExprWithAlias {
                    expr: qualified(&c.name),
                    alias: Ident::with_quote('`', &c.name),
                })
            };
            let expand = |item: SelectItem| match item {
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => all().collect(),
                item => vec![item],
            };
            select.projection = select.projection.drain(..).flat_map(expand).collect();
            qualified(HANDLE_COLUMN)
        }
    };
    let unsigned = handle_column.is_some_and(|column| column.ty.is_unsigned());
    let literal = |handle: &i64| match unsigned {
        true => number(*handle as u64),
        false if *handle < 0 => {
            let expr = Box::new(number(handle.unsigned_abs()));
            Expr::UnaryOp { op: UnaryOperator::Minus, expr }
        }
        false => number(*handle as u64),
    };
    let these = match handles {
        [] => Expr::BinaryOp {
            left: Box::new(number(1)),
            op: BinaryOperator::Eq,
            right: Box::new(number(0)),
        },
        handles => Expr::InList {
            expr: Box::new(key),
            list: handles.iter().map(literal).collect(),
            negated: false,
        },
    };
    select.selection = Some(match select.selection.take() {
        None => these,
        Some(selection) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(selection))),
            op: BinaryOperator::And,
            right: Box::new(these),
        },
    });
    query
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
