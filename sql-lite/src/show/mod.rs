//! SHOW and DESCRIBE: the catalog, the session and the server as MySQL's clients expect to see
//! them. It must never change anything, nor read rows of a user's table.
//!
//! ```text
//!  statement::Show ─ answer ─► columns, rows ─ filter (LIKE, WHERE) ─► Rows
//!                      ├─ catalog: databases, tables, columns, indexes
//!                      ├─ create:  SHOW CREATE …
//!                      └─ server:  variables, engines, character sets, processes, …
//!  describe: a schema in MySQL's words; shared with `information_schema`
//! ```

mod catalog;
mod create;
pub(crate) mod describe;
mod filter;
pub(crate) mod lock_waits;
mod replicas;
pub(crate) mod result;
pub(crate) mod server;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use catalog::{database_names, estimate, index_columns, storage};
pub use lock_waits::{LockWait, LockWaits};
pub use replicas::ColumnReplicas;

use crate::catalog::CatalogView;
use crate::error::Result;
use crate::outcome::Rows;
use crate::query::TableFacts;
use crate::session::{SessionFacts, Warnings};
use crate::statement::show::What;
use crate::statement::{Filter, Show};
use crate::variables::Variables;
use damask_types::Timestamp;
use result::Answer;
use std::sync::Arc;

/// What SHOW and the system tables may look at.
pub struct Context<'a> {
    /// The catalog at the statement's schema version.
    pub view: Arc<CatalogView>,
    /// The current database.
    pub database: Option<&'a str>,
    /// The session's variables.
    pub variables: &'a Variables,
    /// What the session knows of itself.
    pub facts: &'a SessionFacts,
    /// Those of the statement before.
    pub warnings: &'a Warnings,
    /// Column replicas' progress.
    pub replicas: &'a dyn ColumnReplicas,
    /// The connections of this server.
    pub processes: &'a [Process],
    /// What is known of tables: about how many rows they have.
    pub tables: &'a dyn TableFacts,
    /// Who waits for whose row locks.
    pub lock_waits: &'a LockWaits,
}

/// One connection, as SHOW PROCESSLIST shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// CONNECTION_ID().
    pub id: u32,
    /// The user name.
    pub user: String,
    /// The peer's address.
    pub host: String,
    /// Its current database.
    pub database: Option<String>,
    /// `Query`, `Sleep`, …
    pub command: String,
    /// How long it has been so, in seconds.
    pub seconds: u64,
    /// What the statement does; may be empty.
    pub state: String,
    /// The statement's text.
    pub info: Option<String>,
    /// The transaction that asks for row locks, and perhaps waits for them.
    pub locking: Option<Timestamp>,
}

/// Answers a SHOW statement.
///
/// # Errors
/// 1046 without a current database, 1049 and 1146 for what does not exist, 1347 for a table that is
/// not a view, 1054 and 1235 for a WHERE that names no column of the result or is too rich.
pub fn show(ctx: &Context<'_>, show: &Show) -> Result<Rows> {
    let like = match &show.filter {
        Some(Filter::Like(pattern)) => Some(pattern.as_str()),
        _ => None,
    };
    let mut answer = answer(ctx, &show.what, like)?;
    match &show.filter {
        None => {}
        Some(Filter::Like(pattern)) => filter::like_first(&mut answer, pattern),
        Some(Filter::Where(condition)) => filter::matching(ctx, &mut answer, condition)?,
    }
    Ok(Rows::of(answer.columns, answer.rows))
}

fn answer(ctx: &Context<'_>, what: &What, like: Option<&str>) -> Result<Answer> {
    Ok(match what {
        What::Databases => catalog::databases(ctx, like),
        What::Tables { full, database } => catalog::tables(ctx, database.as_deref(), *full, like)?,
        What::TableStatus { database } => catalog::table_status(ctx, database.as_deref())?,
        What::Columns { full, table } => {
            catalog::columns(ctx, &*describe::find(ctx, table)?, *full)?
        }
        What::Index(table) => catalog::index(ctx, &*describe::find(ctx, table)?),
        What::CreateTable(table) => create::table(ctx, &*describe::find(ctx, table)?)?,
        What::CreateDatabase { name, if_not_exists } => {
            create::database(ctx, name, *if_not_exists)?
        }
        What::CreateView(table) => return Err(create::view(&*describe::find(ctx, table)?)),
        What::Variables { global } => server::variables(ctx, *global),
        What::Status => server::status(ctx),
        What::Warnings { errors, limit } => server::warnings(ctx, *errors, *limit),
        What::WarningCount { errors } => server::warning_count(ctx, *errors),
        What::Engines => server::engines(),
        What::Charsets => server::charsets(),
        What::Collations => server::collations(),
        What::Plugins => server::plugins(),
        What::Privileges => server::privileges(),
        What::Processlist { full } => server::processlist(ctx, *full),
        What::Grants => server::grants(ctx),
        What::Nothing(names) => Answer::of_names(names),
    })
}
