//! SET, transactions, PREPARE and the other statements about the session.

use super::parser::P;
use super::{Stmt, TableName};
use crate::error::Result;
use damask_txn::Mode;
use sqlparser::ast::Expr;
use sqlparser::tokenizer::Token;

/// What SET TRANSACTION ISOLATION LEVEL without a scope sets (TiDB's name).
pub const NEXT_ISOLATION: &str = "tx_isolation_one_shot";
/// What SET TRANSACTION READ ONLY without a scope sets.
pub const NEXT_READ_ONLY: &str = "tx_read_only_one_shot";
/// What SET TRANSACTION READ ONLY AS OF TIMESTAMP sets.
pub const NEXT_AS_OF: &str = "tx_read_ts_one_shot";

/// What a SET changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetScope {
    /// This session.
    Session,
    /// The server.
    Global,
}

/// A value in SET.
#[derive(Clone, Debug)]
pub enum SetValue {
    /// DEFAULT.
    Default,
    /// A bare word: `ON`, `utf8mb4`.
    Word(String),
    /// Anything else.
    Expr(Box<Expr>),
}

/// One assignment of a SET.
#[derive(Clone, Debug)]
pub enum SetItem {
    /// A system variable.
    System {
        /// Where.
        scope: SetScope,
        /// Its name.
        name: String,
        /// Its value.
        value: SetValue,
    },
    /// `@x`.
    User {
        /// Its name, without the `@`.
        name: String,
        /// Its value.
        value: Box<Expr>,
    },
    /// NAMES and CHARACTER SET.
    Names {
        /// The character set.
        charset: String,
        /// COLLATE.
        collation: Option<String>,
    },
}

/// Where PREPARE takes its text from.
#[derive(Clone, Debug)]
pub enum PrepareFrom {
    /// A literal.
    Text(String),
    /// A user variable, without the `@`.
    Variable(String),
}

impl P<'_> {
    pub(super) fn control(&mut self, word: &str) -> Result<Stmt> {
        match word {
            "BEGIN" | "START" => self.begin(),
            "COMMIT" => self.end_transaction(Stmt::Commit),
            "ROLLBACK" => self.rollback(),
            "SAVEPOINT" => {
                self.parser.next_token();
                Ok(Stmt::Savepoint(self.name()?))
            }
            "RELEASE" => {
                self.parser.next_token();
                self.expect("SAVEPOINT")?;
                Ok(Stmt::Release(self.name()?))
            }
            "SET" => self.set(),
            "USE" => {
                self.parser.next_token();
                Ok(Stmt::Use(self.name()?))
            }
            "PREPARE" => self.prepare(),
            "EXECUTE" => self.execute(),
            "DEALLOCATE" => {
                self.parser.next_token();
                self.expect("PREPARE")?;
                Ok(Stmt::Deallocate(self.name()?))
            }
            "KILL" => self.kill(),
            "ANALYZE" => self.maintain("analyze"),
            "OPTIMIZE" => self.maintain("optimize"),
            "CHECK" => self.maintain("check"),
            "REPAIR" => self.maintain("repair"),
            "ADMIN" => self.admin(),
            "LOCK" | "UNLOCK" | "FLUSH" => self.no_effect(),
            "DO" => {
                self.parser.next_token();
                Ok(Stmt::Do(self.list(P::expr)?))
            }
            word => self.unsupported_first_word(word),
        }
    }

    fn begin(&mut self) -> Result<Stmt> {
        if self.word("BEGIN") {
            self.word("WORK");
            let mode = self.one_of(&["PESSIMISTIC", "OPTIMISTIC"]).map(|word| match word {
                "PESSIMISTIC" => Mode::Pessimistic,
                _ => Mode::Optimistic,
            });
            return Ok(Stmt::Begin { mode, read_only: None, as_of: None });
        }
        self.expect("START")?;
        if self.word("SLAVE") || self.word("REPLICA") {
            return self.unsupported("START REPLICA");
        }
        self.expect("TRANSACTION")?;
        let (mut read_only, mut as_of) = (None, None);
        if !self.at_end() {
            self.list(|p| {
                let access = match () {
                    () if p.words(&["WITH", "CONSISTENT", "SNAPSHOT"]) => return Ok(()),
                    () if p.words(&["READ", "WRITE"]) => false,
                    () if p.words(&["READ", "ONLY"]) => true,
                    () => return p.fail(),
                };
                // Not both.
                if read_only.replace(access).is_some() { p.fail() } else { Ok(()) }
            })?;
            if read_only == Some(true) && self.words(&["AS", "OF", "TIMESTAMP"]) {
                as_of = Some(Box::new(self.expr()?));
            }
        }
        Ok(Stmt::Begin { mode: None, read_only, as_of })
    }

    /// COMMIT, ROLLBACK with `[WORK] [AND NO CHAIN] [NO RELEASE]`.
    fn end_transaction(&mut self, stmt: Stmt) -> Result<Stmt> {
        self.parser.next_token();
        self.word("WORK");
        if self.word("AND") && !self.words(&["NO", "CHAIN"]) {
            return if self.peek("CHAIN") { self.unsupported("AND CHAIN") } else { self.fail() };
        }
        if !self.words(&["NO", "RELEASE"]) && self.peek("RELEASE") {
            return self.unsupported("RELEASE");
        }
        Ok(stmt)
    }

    fn rollback(&mut self) -> Result<Stmt> {
        let work = usize::from(self.peek_nth(1, "WORK"));
        if !self.peek_nth(1 + work, "TO") {
            return self.end_transaction(Stmt::Rollback);
        }
        (0..2 + work).for_each(|_| drop(self.parser.next_token()));
        self.word("SAVEPOINT");
        Ok(Stmt::RollbackTo(self.name()?))
    }

    fn set(&mut self) -> Result<Stmt> {
        self.expect("SET")?;
        for (word, what) in [
            ("PASSWORD", "SET PASSWORD"),
            ("ROLE", "SET ROLE"),
            ("RESOURCE", "SET RESOURCE GROUP"),
            ("CONFIG", "SET CONFIG"),
        ] {
            if self.peek(word) && !matches!(self.parser.peek_nth_token_ref(1).token, Token::Eq) {
                return self.unsupported(what);
            }
        }
        if self.words(&["DEFAULT", "ROLE"]) {
            return self.unsupported("SET DEFAULT ROLE");
        }
        let mut items = Vec::new();
        loop {
            self.set_item(&mut items)?;
            if !self.symbol(&Token::Comma) {
                return Ok(Stmt::Set(items));
            }
        }
    }

    fn set_item(&mut self, items: &mut Vec<SetItem>) -> Result<()> {
        if self.word("NAMES") {
            let charset = self.name_or_string()?;
            let collation = if self.word("COLLATE") { Some(self.name_or_string()?) } else { None };
            items.push(SetItem::Names { charset, collation });
            return Ok(());
        }
        if self.words(&["CHARACTER", "SET"]) || self.word("CHARSET") {
            items.push(SetItem::Names { charset: self.name_or_string()?, collation: None });
            return Ok(());
        }
        let scope = self.one_of(&["GLOBAL", "PERSIST", "SESSION", "LOCAL"]);
        let scope = scope.map(|word| match word {
            "GLOBAL" | "PERSIST" => SetScope::Global,
            _ => SetScope::Session,
        });
        if self.word("TRANSACTION") {
            return self.set_transaction(scope, items);
        }
        let scope = scope.unwrap_or(SetScope::Session);
        let Token::Word(word) = self.parser.peek_token_ref().token.clone() else {
            return self.fail();
        };
        self.parser.next_token();
        if let Some(name) = word.value.strip_prefix('@').filter(|n| !n.starts_with('@')) {
            self.assign()?;
            let value = Box::new(self.expr()?);
            items.push(SetItem::User { name: name.to_ascii_lowercase(), value });
            return Ok(());
        }
        let (scope, name) = self.system_name(scope, &word.value)?;
        self.assign()?;
        let value = self.set_value()?;
        items.push(SetItem::System { scope, name, value });
        Ok(())
    }

    /// `@@x`, `@@session.x`, `x`.
    fn system_name(&mut self, scope: SetScope, word: &str) -> Result<(SetScope, String)> {
        let Some(word) = word.strip_prefix("@@") else { return Ok((scope, word.to_owned())) };
        let scope = match word.to_ascii_lowercase().as_str() {
            "global" | "persist" => SetScope::Global,
            "session" | "local" => SetScope::Session,
            _ => return Ok((SetScope::Session, word.to_owned())),
        };
        self.expect_symbol(&Token::Period)?;
        Ok((scope, self.name_or_string()?))
    }

    fn assign(&mut self) -> Result<()> {
        if self.symbol(&Token::Eq) || self.symbol(&Token::Assignment) {
            Ok(())
        } else {
            self.fail()
        }
    }

    fn set_value(&mut self) -> Result<SetValue> {
        let alone = matches!(
            self.parser.peek_nth_token_ref(1).token,
            Token::EOF | Token::Comma | Token::SemiColon
        );
        let word = match &self.parser.peek_token_ref().token {
            Token::Word(w) if alone && !w.value.starts_with('@') => Some(w.clone()),
            _ => None,
        };
        let Some(word) = word else { return Ok(SetValue::Expr(Box::new(self.expr()?))) };
        match word.value.to_ascii_uppercase().as_str() {
            "DEFAULT" if word.quote_style.is_none() => {
                self.parser.next_token();
                Ok(SetValue::Default)
            }
            "NULL" | "TRUE" | "FALSE" => Ok(SetValue::Expr(Box::new(self.expr()?))),
            _ => {
                self.parser.next_token();
                Ok(SetValue::Word(word.value))
            }
        }
    }

    /// Without a scope it is for the next transaction only.
    fn set_transaction(&mut self, scope: Option<SetScope>, items: &mut Vec<SetItem>) -> Result<()> {
        let once = scope.is_none();
        let names = match scope {
            Some(_) => ("transaction_isolation", "transaction_read_only"),
            None => (NEXT_ISOLATION, NEXT_READ_ONLY),
        };
        let scope = scope.unwrap_or(SetScope::Session);
        loop {
            let (name, value) = if self.words(&["ISOLATION", "LEVEL"]) {
                let level = if self.words(&["REPEATABLE", "READ"]) {
                    "REPEATABLE-READ"
                } else if self.words(&["READ", "COMMITTED"]) {
                    "READ-COMMITTED"
                } else if self.words(&["READ", "UNCOMMITTED"]) {
                    "READ-UNCOMMITTED"
                } else if self.word("SERIALIZABLE") {
                    "SERIALIZABLE"
                } else {
                    return self.fail();
                };
                (names.0, level)
            } else if self.words(&["READ", "ONLY"]) {
                (names.1, "ON")
            } else if self.words(&["READ", "WRITE"]) {
                (names.1, "OFF")
            } else {
                return self.fail();
            };
            let only = value == "ON";
            let value = SetValue::Word(value.to_owned());
            items.push(SetItem::System { scope, name: name.to_owned(), value });
            if only && once && self.words(&["AS", "OF", "TIMESTAMP"]) {
                let value = SetValue::Expr(Box::new(self.expr()?));
                items.push(SetItem::System { scope, name: NEXT_AS_OF.to_owned(), value });
            }
            if !self.symbol(&Token::Comma) {
                return Ok(());
            }
        }
    }

    fn prepare(&mut self) -> Result<Stmt> {
        self.expect("PREPARE")?;
        let name = self.name()?;
        self.expect("FROM")?;
        if let Token::SingleQuotedString(text) = self.parser.peek_token_ref().token.clone() {
            self.parser.next_token();
            return Ok(Stmt::Prepare { name, from: PrepareFrom::Text(text) });
        }
        let variable = self.user_variable()?;
        Ok(Stmt::Prepare { name, from: PrepareFrom::Variable(variable) })
    }

    pub(super) fn user_variable(&mut self) -> Result<String> {
        let name = match &self.parser.peek_token_ref().token {
            Token::Word(w) if w.value.starts_with('@') && !w.value.starts_with("@@") => {
                w.value[1..].to_ascii_lowercase()
            }
            _ => return self.fail(),
        };
        self.parser.next_token();
        Ok(name)
    }

    fn execute(&mut self) -> Result<Stmt> {
        self.expect("EXECUTE")?;
        let name = self.name()?;
        let using = if self.word("USING") { self.list(P::user_variable)? } else { Vec::new() };
        Ok(Stmt::Execute { name, using })
    }

    fn kill(&mut self) -> Result<Stmt> {
        self.expect("KILL")?;
        self.word("TIDB");
        let query = self.one_of(&["QUERY", "CONNECTION"]) == Some("QUERY");
        Ok(Stmt::Kill { id: self.number()?, query })
    }

    fn maintain(&mut self, operation: &'static str) -> Result<Stmt> {
        self.parser.next_token();
        let _ = self.one_of(&["NO_WRITE_TO_BINLOG", "LOCAL"]);
        if !self.word("TABLE") && !self.word("TABLES") {
            return self.fail();
        }
        let tables = self.list(P::table_name)?;
        // Options: MySQL's FOR UPGRADE, QUICK, UPDATE HISTOGRAM …, TiDB's ALL COLUMNS, WITH n ….
        while !self.at_end() {
            self.parser.next_token();
        }
        Ok(Stmt::Maintain { operation, tables })
    }

    /// ADMIN CHECK TABLE (TiDB).
    fn admin(&mut self) -> Result<Stmt> {
        if !self.words(&["ADMIN", "CHECK", "TABLE"]) {
            return self.unsupported("ADMIN other than CHECK TABLE");
        }
        Ok(Stmt::AdminCheck(self.list(P::table_name)?))
    }

    fn no_effect(&mut self) -> Result<Stmt> {
        if self.words(&["UNLOCK", "TABLES"]) || self.words(&["UNLOCK", "TABLE"]) {
            return Ok(Stmt::NoEffect);
        }
        if self.word("LOCK") {
            if !self.word("TABLES") && !self.word("TABLE") {
                return self.fail();
            }
            self.list(|p| {
                let name: TableName = p.table_name()?;
                if p.word("AS") || !(p.peek("READ") || p.peek("WRITE") || p.peek("LOW_PRIORITY")) {
                    p.name()?;
                }
                p.word("LOW_PRIORITY");
                match p.one_of(&["READ", "WRITE"]) {
                    Some(_) => {
                        p.word("LOCAL");
                        Ok(name)
                    }
                    None => p.fail(),
                }
            })?;
            return Ok(Stmt::NoEffect);
        }
        self.expect("FLUSH")?;
        while !self.at_end() {
            self.parser.next_token();
        }
        Ok(Stmt::NoEffect)
    }
}
