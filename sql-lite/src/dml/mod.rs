//! Changes of rows: INSERT, REPLACE, UPDATE, DELETE, LOAD DATA, and point reads beside them. Rows
//! and index entries go straight into the transaction; only what needs a plan (joins, functions,
//! other conditions) asks the query engine, and only for handles and values. It must never write
//! a row without its index entries.
//!
//! ```text
//!  INSERT ─ literals ──────────────┐            ┌─ unique entries and rows in the way? (one read)
//!  LOAD ── bytes ──────────────────┤            │
//!  INSERT … SELECT ─ query::select ┴─► rows ────┴─► write ──► txn.insert / put / delete
//!  UPDATE, DELETE ─ access by key ─┬─► old rows ─► new rows ──┘
//!                 └ query::select ─┘ (handles, new values)
//!  SELECT by key ─ access ─► get, scan ─► Rows
//! ```
//!
//! Reading order: `rows` (bytes of rows and entries), `write` (keys in the way), `input`
//! (defaults and conversion), `checks` (CHECK), `insert`, `expr` and `access` (simple
//! conditions), `change`, `explain`, `point`, `lock`, `skip`, `load`.

mod access;
mod assign;
mod change;
mod checks;
mod explain;
mod expr;
mod input;
pub mod insert;
pub mod load;
mod lock;
mod planned;
mod point;
pub(crate) mod rows;
mod skip;
mod upsert;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use self::checks::{Checks, is_simple};
pub use self::explain::explain;
pub(crate) use self::input::default_of;
use self::insert::Target;
pub use self::lock::{Blocked, Locking, lock_rows, locking};
pub(crate) use self::lock::{Try, lock_written};
use crate::catalog::CatalogView;
use crate::catalog::ids::Ids;
use crate::error::{Error, Result};
use crate::outcome::{Done, Rows};
use crate::query::{QueryContext, QueryServices, SystemTables};
use crate::session::{SessionFacts, Warnings};
use crate::statement::{Hints, Stmt, TableName};
use crate::variables::Variables;
use damask_txn::{Client, Transaction};
use damask_types::TableSchema;
use sqlparser::ast;
use std::sync::Arc;

/// Where a statement reads.
pub enum Reads<'a> {
    /// In a transaction. The only one in which rows can be changed.
    Transaction(&'a mut Transaction),
    /// What is committed now: a SELECT that is a transaction of its own.
    Latest(&'a Client),
}

/// What a statement is run with.
pub struct Context<'a> {
    /// The catalog.
    pub view: Arc<CatalogView>,
    /// The current database.
    pub database: Option<&'a str>,
    /// Where to read and write.
    pub reads: Reads<'a>,
    /// The transaction is committed right after this statement: keys that must be new may be
    /// looked at by the commit. When false, a failed statement takes its own writes back.
    pub commits: bool,
    /// The session's variables.
    pub variables: &'a Variables,
    /// The session's facts: `last_insert_id` is written.
    pub facts: &'a mut SessionFacts,
    /// Tables that are not in the catalog.
    pub system: &'a dyn SystemTables,
    /// Warnings of the statement.
    pub warnings: &'a mut Warnings,
    /// AUTO_INCREMENT values and hidden row ids.
    pub ids: &'a Ids,
    /// CLIENT_FOUND_ROWS: matched rows count as affected.
    pub found_rows: bool,
    /// Hints of the statement.
    pub hints: &'a Hints,
    /// What the query engine needs.
    pub services: &'a QueryServices,
}

/// Runs an INSERT, REPLACE, UPDATE or DELETE in `ctx.reads`' transaction. After an error the
/// transaction holds what it held before, unless `ctx.commits`.
pub fn execute(ctx: &mut Context<'_>, statement: &Stmt) -> Result<Done> {
    let mark = if ctx.commits { None } else { Some(ctx.txn()?.mark()) };
    ctx.facts.strict_division = divides_strictly(ctx.variables, statement);
    let done = match statement {
        Stmt::Insert(insert) => insert::insert(ctx, insert),
        Stmt::Update(update) => change::update(ctx, update),
        Stmt::Delete(delete) => change::delete(ctx, delete),
        _ => Err(Error::not_supported("This statement does not change rows")),
    };
    ctx.facts.strict_division = false;
    // Who was told to end does not commit.
    let done = done.and_then(|done| ctx.facts.interrupt.check().map(|()| done));
    if let Some(mark) = mark {
        match &done {
            Ok(_) => ctx.txn()?.release(mark),
            Err(_) => ctx.txn()?.rollback_to(mark),
        }
    }
    done
}

/// Is division by zero an error in the statement? (IGNORE makes it a NULL.)
fn divides_strictly(variables: &Variables, statement: &Stmt) -> bool {
    let mode = variables.sql_mode();
    let ignores = match statement {
        Stmt::Insert(insert) => insert.ignore,
        Stmt::Update(update) => update.ignore,
        _ => false,
    };
    mode.strict() && mode.error_for_division_by_zero() && !ignores
}

/// A SELECT of rows by primary key, unique key or a narrow range of the primary key; `None` when
/// the query is anything else, or rows are not to be read: plan it then.
pub fn point_select(ctx: &mut Context<'_>, query: &ast::Query) -> Result<Option<Rows>> {
    point::select(ctx, query)
}

/// A table of users' databases: 1046, 1146.
pub fn find_table(
    view: &CatalogView,
    database: Option<&str>,
    name: &TableName,
) -> Result<Arc<TableSchema>> {
    let database = name.database.as_deref().or(database);
    let database = database.ok_or_else(|| Error::no_database("No database selected"))?;
    view.table(database, &name.table).ok_or_else(|| {
        Error::no_such_table(format!("Table '{database}.{}' doesn't exist", name.table))
    })
}

/// 1054.
pub fn unknown_column(name: &str, clause: &str) -> Error {
    Error::unknown_column(format!("Unknown column '{name}' in '{clause}'"))
}

impl Context<'_> {
    /// The transaction.
    fn txn(&mut self) -> Result<&mut Transaction> {
        match &mut self.reads {
            Reads::Transaction(txn) => Ok(txn),
            Reads::Latest(_) => Err(Error::unknown("a change of rows without a transaction")),
        }
    }

    /// What rows are written with.
    fn target(&mut self) -> Result<Target<'_>> {
        match &mut self.reads {
            Reads::Transaction(txn) => Ok(Target { txn, ids: self.ids, warnings: self.warnings }),
            Reads::Latest(_) => Err(Error::unknown("a change of rows without a transaction")),
        }
    }

    /// A table to change: 1046, 1146, 1142 as MySQL gives them.
    fn table(&self, name: &TableName) -> Result<Arc<TableSchema>> {
        let database = name.database.as_deref().or(self.database);
        if database.is_some_and(crate::catalog::is_system) {
            return Err(Error {
                code: 1142,
                state: "42000",
                message: format!("command denied for table '{}'", name.table),
            });
        }
        find_table(&self.view, self.database, name)
    }

    /// What the query engine is asked with.
    fn query(&self) -> Result<QueryContext<'_>> {
        let Reads::Transaction(txn) = &self.reads else {
            return Err(Error::unknown("a change of rows without a transaction"));
        };
        Ok(QueryContext {
            catalog: self.view.clone(),
            database: self.database,
            variables: self.variables,
            session: self.facts,
            txn: Some(txn),
            read_ts: txn.read_ts(),
            hints: self.hints,
            services: self.services,
            system: self.system,
        })
    }
}
