//! Queries: a parsed SELECT and what its session knows in, rows out. It must never change data:
//! statements that do are planned as a SELECT of what they change, and written elsewhere.
//!
//! ```text
//!  ast::Query ─ rewrite ─► ast::Query ─ planner (operators by type) ─► LogicalPlan
//!      │ names, session values          │ table, functions, aggregates     │ choices, subqueries
//!      └ meta::items                    └ meta::columns ◄── LogicalPlan ◄──┘
//!                                                               │ DataFusion's rules
//!                                                               ▼
//!                                          table::scan: access, cost ─► ExecutionPlan ─ CutFragments
//!                                                                          ▼
//!                                                                     run: batches, as asked for
//! ```
//!
//! Limits: texts compare by bytes (utf8mb4_bin, without trailing blanks being ignored); DECIMAL has
//! at most 38 digits; zones are fixed offsets; user variables are read, not assigned.
//!
//! Reading order: `rewrite`, `value`, `functions`, `operators`, `types`, `choices`, `subqueries`,
//! `aggregates`, `apply`, `access`, `cost`, `table`, `planner`, `conditions`, `nesting`, `order`,
//! `meta`, `memory`, `bounds`, `run`, `stop`, `explain`, `failure`, `clause`.

mod access;
mod aggregates;
mod apply;
mod bounds;
mod choices;
mod clause;
mod conditions;
pub mod cost;
mod explain;
mod failure;
mod functions;
mod memory;
mod meta;
mod nesting;
mod operators;
mod order;
mod planner;
mod pushdown;
mod rewrite;
mod run;
mod stop;
mod subqueries;
mod table;
mod types;
pub(crate) mod value;

pub use cost::TableSize;
pub(crate) use failure::dispatch as dispatch_error;
pub(crate) use functions::sha256_hex;
pub use rewrite::HANDLE_COLUMN;
pub(crate) use table::whole_table;

use crate::catalog::CatalogView;
use crate::error::{Error, Result};
use crate::outcome::{ColumnMeta, Rows};
use crate::session::SessionFacts;
use crate::statement::hints::Hints;
use crate::variables::Variables;
use damask_coprocessor::Dispatch;
use damask_txn::{Client, Transaction};
use damask_types::{Datum, TableSchema, Timestamp};
use datafusion::execution::session_state::SessionState;
use sqlparser::ast;
use std::sync::Arc;

/// What the optimizer asks of the cluster.
pub trait TableFacts: Send + Sync + 'static {
    /// How large a table is, about.
    fn size(&self, table: &TableSchema) -> TableSize;
    /// Are all its column replicas there and caught up?
    fn columns_ready(&self, table: &TableSchema) -> bool;
    /// Has a part of it column replicas only on stores that do not run?
    fn columns_stopped(&self, table: &TableSchema) -> bool;
}

/// The tables of `information_schema` and its like.
pub trait SystemTables {
    /// Columns and rows; `None`: no such table.
    fn table(&self, database: &str, name: &str) -> Option<(Vec<ColumnMeta>, Vec<Vec<Datum>>)>;
}

/// No system tables.
pub struct NoSystemTables;

impl SystemTables for NoSystemTables {
    fn table(&self, _: &str, _: &str) -> Option<(Vec<ColumnMeta>, Vec<Vec<Datum>>)> {
        None
    }
}

/// What all queries of a server share.
pub struct QueryServices {
    /// The transaction client.
    pub client: Arc<Client>,
    /// Sends scans to where the data is.
    pub dispatch: Arc<Dispatch>,
    /// What the optimizer knows of tables.
    pub facts: Arc<dyn TableFacts>,
    /// Runs queries; not the runtime that talks to clients.
    pub runtime: tokio::runtime::Handle,
    state: Arc<SessionState>,
    memory: Arc<memory::Shared>,
}

impl QueryServices {
    /// Services that run each query on `cores` cores.
    pub fn new(
        client: Arc<Client>,
        dispatch: Arc<Dispatch>,
        facts: Arc<dyn TableFacts>,
        runtime: tokio::runtime::Handle,
        cores: usize,
    ) -> QueryServices {
        let (state, memory) = (Arc::new(planner::state(cores)), memory::Shared::of_machine());
        QueryServices { client, dispatch, facts, runtime, state, memory }
    }
}

/// What one query may look at.
pub struct QueryContext<'a> {
    /// The catalog at the statement's schema version.
    pub catalog: Arc<CatalogView>,
    /// The current database.
    pub database: Option<&'a str>,
    /// The session's variables.
    pub variables: &'a Variables,
    /// What the session knows of itself.
    pub session: &'a SessionFacts,
    /// The open transaction, whose own writes are seen.
    pub txn: Option<&'a Transaction>,
    /// The version that is read.
    pub read_ts: Timestamp,
    /// The statement's hints.
    pub hints: &'a Hints,
    /// The server's services.
    pub services: &'a QueryServices,
    /// Tables that are not in the catalog.
    pub system: &'a dyn SystemTables,
}

/// Runs a query. Blocks while it is planned; rows come as they are asked for. Must not be called
/// on a thread of an async runtime that may not block.
pub fn select(ctx: &QueryContext<'_>, query: &ast::Query) -> Result<Rows> {
    let (plan, columns) = planned(ctx, query, Digits::Shown)?;
    run::rows(ctx, plan, columns)
}

/// The rows of a query that are calculated with or stored, not shown: DECIMAL quotients keep the
/// digits that MySQL keeps of them.
pub fn select_exact(ctx: &QueryContext<'_>, query: &ast::Query) -> Result<Rows> {
    let (plan, columns) = planned(ctx, query, Digits::All)?;
    run::rows(ctx, plan, columns)
}

/// The plan of a query, as rows of text; with `analyze`, run, with what was measured.
pub fn explain(ctx: &QueryContext<'_>, query: &ast::Query, analyze: bool) -> Result<Rows> {
    let (plan, _) = planned(ctx, query, Digits::Shown)?;
    explain::rows(ctx, plan, analyze)
}

/// The columns that a query gives, without running it.
pub fn columns(ctx: &QueryContext<'_>, query: &ast::Query) -> Result<Vec<ColumnMeta>> {
    Ok(planned(ctx, query, Digits::Shown)?.1)
}

/// Values of expressions without a table: SET, defaults, LIMIT.
pub fn eval(ctx: &QueryContext<'_>, exprs: &[ast::Expr]) -> Result<Vec<Datum>> {
    let item = |(i, expr): (usize, &ast::Expr)| ast::SelectItem::ExprWithAlias {
        expr: expr.clone(),
        alias: ast::Ident::new(format!("e{i}")),
    };
    let mut query = run::empty_query()?;
    let ast::SetExpr::Select(select) = &mut *query.body else {
        return Err(Error::unknown("an empty query has no SELECT"));
    };
    select.projection = exprs.iter().enumerate().map(item).collect();
    let mut rows = self::select_exact(ctx, &query)?;
    let mut values = run::collect(&mut rows)?;
    match values.len() {
        1 => Ok(values.remove(0)),
        _ => Err(Error::unknown("an expression gave no value")),
    }
}

/// Which digits a quotient has in a result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    Shown,
    All,
}

type Made = (datafusion::logical_expr::LogicalPlan, Vec<ColumnMeta>);

fn planned(ctx: &QueryContext<'_>, query: &ast::Query, digits: Digits) -> Result<Made> {
    let mut made = planned_as(ctx, query, query.clone(), 0, digits);
    // Perhaps a column stands beside the `*` that it is among: `SELECT *, id`.
    if matches!(&made, Err(error) if failure::names_twice(error)) {
        let mut other = query.clone();
        if meta::beside_wildcards(&mut other) {
            made = planned_as(ctx, query, other, 0, digits).or(made);
        }
    }
    // Perhaps a subquery in its ORDER BY names columns that are not shown.
    let fails = match &made {
        Ok((plan, _)) => order::names_hidden(plan),
        Err(error) => error.code == Error::unknown_column("").code,
    };
    if fails {
        let mut other = query.clone();
        let hidden = order::hide(&mut other);
        if hidden > 0 {
            return planned_as(ctx, query, other, hidden, digits).or(made);
        }
    }
    made
}

/// Plans `query`, which is `written` with hidden columns at the end.
fn planned_as(
    ctx: &QueryContext<'_>,
    written: &ast::Query,
    mut query: ast::Query,
    hidden: usize,
    digits: Digits,
) -> Result<Made> {
    let items = meta::items(written);
    let found = rewrite::query(ctx, &mut query)?;
    meta::separate(&mut query);
    let names = planner::Names::new(ctx, &found);
    let plan = names.plan(query, written)?;
    names.warn_of_unknown_hints();
    let plan = order::without(plan, hidden)?;
    let finished = choices::unify(plan).and_then(subqueries::rewrite);
    let finished = finished.and_then(|plan| match digits {
        Digits::Shown => choices::rounded(plan),
        Digits::All => Ok(plan),
    });
    let plan = finished.map_err(failure::error)?;
    let columns = meta::columns(&plan, &items, &found.columns);
    Ok((plan, columns))
}
