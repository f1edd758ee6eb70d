//! SHOW, DESCRIBE and EXPLAIN.

use super::parser::P;
use super::{Stmt, TableName};
use crate::error::Result;
use sqlparser::ast::Expr;
use sqlparser::tokenizer::Token;

/// LIKE or WHERE after a SHOW.
#[derive(Clone, Debug)]
pub enum Filter {
    /// LIKE on the first column.
    Like(String),
    /// WHERE over the result's columns.
    Where(Box<Expr>),
}

/// A SHOW statement.
#[derive(Clone, Debug)]
pub struct Show {
    /// What is shown.
    pub what: What,
    /// Which rows of it.
    pub filter: Option<Filter>,
}

/// What a SHOW statement shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// DATABASES, SCHEMAS.
    Databases,
    /// TABLES.
    Tables {
        /// FULL.
        full: bool,
        /// FROM; `None` = the current one.
        database: Option<String>,
    },
    /// TABLE STATUS.
    TableStatus {
        /// FROM.
        database: Option<String>,
    },
    /// COLUMNS, FIELDS, DESCRIBE.
    Columns {
        /// FULL.
        full: bool,
        /// Of this table.
        table: TableName,
    },
    /// INDEX, INDEXES, KEYS.
    Index(TableName),
    /// CREATE TABLE.
    CreateTable(TableName),
    /// CREATE DATABASE.
    CreateDatabase {
        /// Its name.
        name: String,
        /// IF NOT EXISTS.
        if_not_exists: bool,
    },
    /// CREATE VIEW.
    CreateView(TableName),
    /// VARIABLES.
    Variables {
        /// GLOBAL.
        global: bool,
    },
    /// STATUS.
    Status,
    /// WARNINGS; ERRORS shows those of level Error only.
    Warnings {
        /// ERRORS.
        errors: bool,
        /// LIMIT offset, count.
        limit: Option<(u64, u64)>,
    },
    /// COUNT(*) WARNINGS or ERRORS.
    WarningCount {
        /// ERRORS.
        errors: bool,
    },
    /// ENGINES.
    Engines,
    /// CHARACTER SET.
    Charsets,
    /// COLLATION.
    Collations,
    /// PLUGINS.
    Plugins,
    /// PRIVILEGES.
    Privileges,
    /// PROCESSLIST.
    Processlist {
        /// FULL.
        full: bool,
    },
    /// GRANTS.
    Grants,
    /// What is always empty here: TRIGGERS, EVENTS, FUNCTION STATUS, …: its column names.
    Nothing(&'static [&'static str]),
}

const TRIGGERS: &[&str] = &[
    "Trigger",
    "Event",
    "Table",
    "Statement",
    "Timing",
    "Created",
    "sql_mode",
    "Definer",
    "character_set_client",
    "collation_connection",
    "Database Collation",
];
const ROUTINES: &[&str] = &[
    "Db",
    "Name",
    "Type",
    "Definer",
    "Modified",
    "Created",
    "Security_type",
    "Comment",
    "character_set_client",
    "collation_connection",
    "Database Collation",
];
const EVENTS: &[&str] = &[
    "Db",
    "Name",
    "Definer",
    "Time zone",
    "Type",
    "Execute at",
    "Interval value",
    "Interval field",
    "Starts",
    "Ends",
    "Status",
    "Originator",
    "character_set_client",
    "collation_connection",
    "Database Collation",
];
const MASTER: &[&str] =
    &["File", "Position", "Binlog_Do_DB", "Binlog_Ignore_DB", "Executed_Gtid_Set"];
const OPEN_TABLES: &[&str] = &["Database", "Table", "In_use", "Name_locked"];
const PROFILES: &[&str] = &["Query_ID", "Duration", "Query"];
const BINARY_LOGS: &[&str] = &["Log_name", "File_size", "Encrypted"];

impl P<'_> {
    pub(super) fn show(&mut self) -> Result<Stmt> {
        self.expect("SHOW")?;
        let what = self.show_what()?;
        let filter = if self.word("LIKE") {
            Some(Filter::Like(self.string()?))
        } else if self.word("WHERE") {
            Some(Filter::Where(Box::new(self.expr()?)))
        } else {
            None
        };
        Ok(Stmt::Show(Box::new(Show { what, filter })))
    }

    fn show_what(&mut self) -> Result<What> {
        let scope = self.one_of(&["GLOBAL", "SESSION", "LOCAL"]);
        if self.word("VARIABLES") {
            return Ok(What::Variables { global: scope == Some("GLOBAL") });
        }
        if self.word("STATUS") {
            return Ok(What::Status);
        }
        if scope.is_some() {
            return self.fail();
        }
        let _ = self.word("EXTENDED");
        let full = self.word("FULL");
        if self.word("TABLES") {
            return Ok(What::Tables { full, database: self.in_database()? });
        }
        if self.word("COLUMNS") || self.word("FIELDS") {
            let table = self.in_table()?;
            return Ok(What::Columns { full, table });
        }
        if self.word("PROCESSLIST") {
            return Ok(What::Processlist { full });
        }
        if full {
            return self.fail();
        }
        if self.words(&["TABLE", "STATUS"]) {
            return Ok(What::TableStatus { database: self.in_database()? });
        }
        if self.one_of(&["INDEX", "INDEXES", "KEYS"]).is_some() {
            return Ok(What::Index(self.in_table()?));
        }
        if self.word("CREATE") {
            return self.show_create();
        }
        self.show_list()
    }

    fn show_create(&mut self) -> Result<What> {
        if self.word("TABLE") {
            return Ok(What::CreateTable(self.table_name()?));
        }
        if self.word("VIEW") {
            return Ok(What::CreateView(self.table_name()?));
        }
        if self.word("DATABASE") || self.word("SCHEMA") {
            let if_not_exists = self.if_not_exists();
            return Ok(What::CreateDatabase { name: self.name()?, if_not_exists });
        }
        self.unsupported("SHOW CREATE of this kind")
    }

    fn show_list(&mut self) -> Result<What> {
        let simple = [
            (&["DATABASES"][..], What::Databases),
            (&["SCHEMAS"], What::Databases),
            (&["STORAGE", "ENGINES"], What::Engines),
            (&["ENGINES"], What::Engines),
            (&["CHARACTER", "SET"], What::Charsets),
            (&["CHARSET"], What::Charsets),
            (&["COLLATION"], What::Collations),
            (&["PLUGINS"], What::Plugins),
            (&["PRIVILEGES"], What::Privileges),
            (&["FUNCTION", "STATUS"], What::Nothing(ROUTINES)),
            (&["PROCEDURE", "STATUS"], What::Nothing(ROUTINES)),
            (&["PACKAGE", "STATUS"], What::Nothing(ROUTINES)),
            (&["PACKAGE", "BODY", "STATUS"], What::Nothing(ROUTINES)),
            (&["MASTER", "STATUS"], What::Nothing(MASTER)),
            (&["BINARY", "LOG", "STATUS"], What::Nothing(MASTER)),
            (&["BINARY", "LOGS"], What::Nothing(BINARY_LOGS)),
            (&["MASTER", "LOGS"], What::Nothing(BINARY_LOGS)),
            (&["SLAVE", "STATUS"], What::Nothing(MASTER)),
            (&["REPLICA", "STATUS"], What::Nothing(MASTER)),
            (&["PROFILES"], What::Nothing(PROFILES)),
        ];
        for (words, what) in simple {
            if self.words(words) {
                return Ok(what);
            }
        }
        for (word, columns) in [("TRIGGERS", TRIGGERS), ("EVENTS", EVENTS), ("OPEN", OPEN_TABLES)] {
            if self.word(word) {
                self.word("TABLES");
                self.in_database()?;
                return Ok(What::Nothing(columns));
            }
        }
        if self.word("COUNT") {
            self.expect_symbol(&Token::LParen)?;
            self.expect_symbol(&Token::Mul)?;
            self.expect_symbol(&Token::RParen)?;
            return match self.one_of(&["WARNINGS", "ERRORS"]) {
                Some(word) => Ok(What::WarningCount { errors: word == "ERRORS" }),
                None => self.fail(),
            };
        }
        if let Some(word) = self.one_of(&["WARNINGS", "ERRORS"]) {
            let limit = self.show_limit()?;
            return Ok(What::Warnings { errors: word == "ERRORS", limit });
        }
        if self.word("GRANTS") {
            while !self.at_end() {
                self.parser.next_token();
            }
            return Ok(What::Grants);
        }
        self.fail()
    }

    fn show_limit(&mut self) -> Result<Option<(u64, u64)>> {
        if !self.word("LIMIT") {
            return Ok(None);
        }
        let first = self.number()?;
        Ok(Some(if self.symbol(&Token::Comma) { (first, self.number()?) } else { (0, first) }))
    }

    fn in_database(&mut self) -> Result<Option<String>> {
        if self.word("FROM") || self.word("IN") { self.name().map(Some) } else { Ok(None) }
    }

    /// `FROM t [FROM d]`, `FROM d.t`.
    fn in_table(&mut self) -> Result<TableName> {
        if !self.word("FROM") && !self.word("IN") {
            return self.fail();
        }
        let mut table = self.table_name()?;
        if let Some(database) = self.in_database()? {
            table.database = Some(database);
        }
        Ok(table)
    }

    /// EXPLAIN, DESCRIBE and DESC mean the same.
    pub(super) fn explain(&mut self) -> Result<Stmt> {
        self.parser.next_token();
        if self.words(&["FOR", "CONNECTION"]) {
            return self.unsupported("EXPLAIN FOR CONNECTION");
        }
        let mut analyze = self.word("ANALYZE");
        if self.word("FORMAT") {
            self.expect_symbol(&Token::Eq)?;
            self.name_or_string()?;
        }
        analyze |= self.word("ANALYZE");
        let _ = self.one_of(&["EXTENDED", "PARTITIONS"]);
        let query = ["SELECT", "WITH", "VALUES"].iter().any(|w| self.peek(w))
            || self.peek_symbol(&Token::LParen);
        if query {
            let statement = Box::new(self.query_statement()?);
            return Ok(Stmt::Explain { statement, analyze });
        }
        let statement = if self.peek("INSERT") || self.peek("REPLACE") {
            self.insert()?
        } else if self.peek("UPDATE") {
            self.update()?
        } else if self.peek("DELETE") {
            self.delete()?
        } else if analyze {
            return self.fail();
        } else {
            return self.describe();
        };
        Ok(Stmt::Explain { statement: Box::new(statement), analyze })
    }

    /// `DESC t [column | 'pattern']`.
    fn describe(&mut self) -> Result<Stmt> {
        self.word("TABLE");
        let table = self.table_name()?;
        let filter = if self.at_end() { None } else { Some(Filter::Like(self.name_or_string()?)) };
        let what = What::Columns { full: false, table };
        Ok(Stmt::Show(Box::new(Show { what, filter })))
    }
}
