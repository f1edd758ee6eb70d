//! SELECT … FOR UPDATE: the rows that a query reads are locked in its transaction, so that the
//! commit fails if another transaction changes them meanwhile. Nobody waits. It must never lock in
//! a statement that commits by itself: nothing would be held.

use super::Context;
use super::change::sources;
use super::planned::{self, Selection};
use crate::error::{Error, Result};
use crate::failure;
use damask_types::key::row_key;
use sqlparser::ast::{Expr, GroupByExpr, LimitClause, LockType, OrderByKind, Query, SetExpr};

/// Does the query ask for locks? FOR SHARE does not count: a snapshot already gives what it reads.
pub fn asks_for_locks(query: &Query) -> bool {
    query.locks.iter().any(|lock| matches!(lock.lock_type, LockType::Update))
}

/// Locks the rows that a query with FOR UPDATE reads from its plain tables; the query itself is
/// run as any other, before or after. Grouped and nested queries are refused: 1235.
pub fn lock_rows(ctx: &mut Context<'_>, query: &Query) -> Result<()> {
    let refused = || Error::not_supported("FOR UPDATE of such a query is not supported");
    let Query { with: None, body, order_by, limit_clause, .. } = query else {
        return Err(refused());
    };
    let SetExpr::Select(select) = body.as_ref() else { return Err(refused()) };
    let grouped = match &select.group_by {
        GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
        GroupByExpr::All(_) => true,
    };
    if grouped || select.having.is_some() || select.distinct.is_some() {
        return Err(refused());
    }
    let order_by = match order_by.as_ref().map(|order| &order.kind) {
        None => &[][..],
        Some(OrderByKind::Expressions(list)) => list.as_slice(),
        Some(OrderByKind::All(_)) => return Err(refused()),
    };
    // With an offset the rows before it are locked too.
    let limit: Option<&Expr> = match limit_clause {
        Some(LimitClause::LimitOffset { limit, offset: None, .. }) => limit.as_ref(),
        _ => None,
    };
    let tables = sources(ctx, &select.from)?;
    let of: Vec<_> = query.locks.iter().filter_map(|lock| lock.of.as_ref()).collect();
    for source in &tables {
        if !of.is_empty() && !of.iter().any(|n| n.to_string().eq_ignore_ascii_case(&source.name)) {
            continue;
        }
        let selection = Selection {
            from: &select.from,
            selection: select.selection.as_ref(),
            order_by: if limit.is_some() { order_by } else { &[] },
            limit,
            target: &source.name,
        };
        let found = planned::handles(ctx, &selection, &[])?;
        let view = ctx.view.clone();
        for (handle, _) in found.rows {
            failure::convert(ctx.txn()?.lock(row_key(source.table.id, handle)), &view)?;
        }
    }
    Ok(())
}
