//! Statements: what the text of one asks for. The parser is written by hand over sqlparser's
//! expression and query parser, because its MySQL dialect knows about half of MySQL. It must never
//! look anything up: names are as written.
//!
//! ```text
//!  text ── lexer ──► tokens, hints, number of ? ── parser ──► Stmt
//!                                                  ├─ data:  INSERT UPDATE DELETE LOAD
//!                                                  ├─ ddl:   CREATE
//!                                                  ├─ alter: ALTER DROP RENAME …
//!                                                  ├─ control: SET BEGIN PREPARE …
//!                                                  └─ show:  SHOW DESCRIBE
//!  Stmt + values of ? ── params ──► Stmt
//! ```

pub mod alter;
pub mod check;
pub mod control;
pub mod data;
pub mod ddl;
mod balance;
mod dialect;
mod digest;
pub mod hints;
mod lexer;
mod moment;
pub mod params;
mod parser;
mod rewrite;
pub mod show;
mod types;
#[cfg(test)]
mod tests;

pub use alter::{AlterAction, Position};
pub use control::{SetItem, SetScope, SetValue};
pub use data::{Assign, Delete, Insert, InsertSource, LoadData, Update, Value};
pub use ddl::{ColumnDef, CreateTable, Default, KeyDef, KeyKind};
pub use dialect::UNITS;
pub use digest::normalized;
pub use hints::{Hints, Storage};
pub use lexer::{STACK_BYTES, is_blank, syntax_error};
pub use parser::{Parsed, RESERVED, object_name, parse};
pub use show::{Filter, Show};

use damask_txn::Mode;
use sqlparser::ast::{Expr, Query};

/// A table's name as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// Its database, if named.
    pub database: Option<String>,
    /// Its name.
    pub table: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.database {
            Some(database) => write!(f, "{database}.{}", self.table),
            None => f.write_str(&self.table),
        }
    }
}

/// One statement.
#[derive(Clone, Debug)]
pub enum Stmt {
    /// Nothing but blanks.
    Empty,
    /// SELECT, WITH, VALUES, TABLE.
    Query(Box<Query>),
    /// SELECT … FROM t AS OF TIMESTAMP x.
    AsOf {
        /// Without that.
        query: Box<Query>,
        /// Of each table that has it.
        at: Vec<Expr>,
    },
    /// SELECT … INTO @a, @b.
    SelectInto {
        /// What gives the row.
        query: Box<Query>,
        /// User variables, without the `@`.
        variables: Vec<String>,
    },
    /// EXPLAIN [ANALYZE] of a query or a change.
    Explain {
        /// What is explained.
        statement: Box<Stmt>,
        /// Run it and report what happened.
        analyze: bool,
    },
    /// INSERT or REPLACE.
    Insert(Box<Insert>),
    /// UPDATE.
    Update(Box<Update>),
    /// DELETE.
    Delete(Box<Delete>),
    /// LOAD DATA.
    LoadData(Box<LoadData>),
    /// DO: evaluate and forget.
    Do(Vec<Expr>),
    /// CREATE DATABASE.
    CreateDatabase {
        /// Its name.
        name: String,
        /// IF NOT EXISTS.
        if_not_exists: bool,
    },
    /// DROP DATABASE.
    DropDatabase {
        /// Its name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// ALTER DATABASE: only character sets, which change nothing here.
    AlterDatabase {
        /// Its name; `None` = the current one.
        name: Option<String>,
    },
    /// CREATE TABLE.
    CreateTable(Box<CreateTable>),
    /// DROP TABLE.
    DropTable {
        /// The tables.
        names: Vec<TableName>,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// DROP VIEW and other things that cannot exist here.
    DropNothing {
        /// IF EXISTS.
        if_exists: bool,
        /// As the error names it.
        name: TableName,
    },
    /// TRUNCATE.
    Truncate(TableName),
    /// RENAME TABLE: from, to.
    RenameTables(Vec<(TableName, TableName)>),
    /// ALTER TABLE, CREATE INDEX, DROP INDEX.
    AlterTable {
        /// The table.
        table: TableName,
        /// What to do, in order.
        actions: Vec<AlterAction>,
    },
    /// BEGIN, START TRANSACTION.
    Begin {
        /// PESSIMISTIC or OPTIMISTIC, if said.
        mode: Option<Mode>,
        /// READ ONLY or READ WRITE, if said.
        read_only: Option<bool>,
        /// AS OF TIMESTAMP, after READ ONLY.
        as_of: Option<Box<Expr>>,
    },
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// SAVEPOINT.
    Savepoint(String),
    /// ROLLBACK TO.
    RollbackTo(String),
    /// RELEASE SAVEPOINT.
    Release(String),
    /// SET.
    Set(Vec<SetItem>),
    /// SHOW, DESCRIBE.
    Show(Box<Show>),
    /// USE.
    Use(String),
    /// PREPARE name FROM a text.
    Prepare {
        /// Its name.
        name: String,
        /// The text, or the user variable that holds it.
        from: control::PrepareFrom,
    },
    /// EXECUTE.
    Execute {
        /// Its name.
        name: String,
        /// User variables, without the `@`.
        using: Vec<String>,
    },
    /// DEALLOCATE PREPARE.
    Deallocate(String),
    /// KILL.
    Kill {
        /// The connection.
        id: u64,
        /// Only its statement.
        query: bool,
    },
    /// ANALYZE, OPTIMIZE, CHECK, REPAIR TABLE: answered with a row for each table.
    Maintain {
        /// `analyze`, `optimize`, …
        operation: &'static str,
        /// The tables.
        tables: Vec<TableName>,
    },
    /// ADMIN CHECK TABLE: fails if one is damaged.
    AdminCheck(Vec<TableName>),
    /// LOCK/UNLOCK TABLES, FLUSH and others that have no effect here.
    NoEffect,
}

impl Stmt {
    /// Does it commit an open transaction before it runs?
    pub fn commits_implicitly(&self) -> bool {
        matches!(
            self,
            Stmt::CreateDatabase { .. }
                | Stmt::DropDatabase { .. }
                | Stmt::AlterDatabase { .. }
                | Stmt::CreateTable(_)
                | Stmt::DropTable { .. }
                | Stmt::DropNothing { .. }
                | Stmt::Truncate(_)
                | Stmt::RenameTables(_)
                | Stmt::AlterTable { .. }
                | Stmt::Maintain { .. }
        )
    }

    /// Does it change rows?
    pub fn is_change(&self) -> bool {
        matches!(self, Stmt::Insert(_) | Stmt::Update(_) | Stmt::Delete(_) | Stmt::LoadData(_))
    }
}
