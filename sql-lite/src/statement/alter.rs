//! ALTER, DROP, TRUNCATE and RENAME: changes of what is there. The definitions themselves are
//! parsed in `ddl`. It must never drop an action silently: what has no effect says so.

use super::check::CheckDef;
use super::ddl::*;
use super::parser::P;
use super::{Stmt, TableName};
use crate::error::Result;
use sqlparser::tokenizer::Token;

/// Where a new column goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// At the end.
    Last,
    /// FIRST.
    First,
    /// AFTER.
    After(String),
}

/// One action of ALTER TABLE.
#[derive(Clone, Debug)]
pub enum AlterAction {
    /// ADD COLUMN.
    AddColumn {
        /// The column.
        column: ColumnDef,
        /// Where.
        position: Position,
        /// IF NOT EXISTS.
        if_not_exists: bool,
    },
    /// DROP COLUMN.
    DropColumn {
        /// Its name.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// MODIFY and CHANGE COLUMN.
    ChangeColumn {
        /// Its name so far.
        old: String,
        /// What it becomes.
        column: ColumnDef,
        /// FIRST and AFTER; `None` = stays.
        position: Option<Position>,
    },
    /// ALTER COLUMN SET/DROP DEFAULT.
    SetDefault {
        /// The column.
        name: String,
        /// `None` = DROP.
        default: Option<Default>,
    },
    /// RENAME COLUMN.
    RenameColumn {
        /// From.
        old: String,
        /// To.
        new: String,
    },
    /// ADD KEY, CREATE INDEX.
    AddKey {
        /// The key.
        key: KeyDef,
        /// IF NOT EXISTS.
        if_not_exists: bool,
    },
    /// DROP KEY, DROP INDEX.
    DropKey {
        /// Its name; PRIMARY for the primary key.
        name: String,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// RENAME INDEX.
    RenameKey {
        /// From.
        old: String,
        /// To.
        new: String,
    },
    /// RENAME TO.
    RenameTo(TableName),
    /// SET COLUMN REPLICA, SET TIFLASH REPLICA.
    SetColumnReplica(u32),
    /// COMMENT.
    Comment(String),
    /// AUTO_INCREMENT = n.
    AutoIncrement(u64),
    /// ADD CHECK.
    AddCheck(CheckDef),
    /// DROP CHECK, DROP CONSTRAINT.
    DropCheck {
        /// Its name.
        name: String,
        /// DROP CONSTRAINT: it may be a key's name, or a foreign key's.
        any: bool,
    },
    /// ALTER CHECK … [NOT] ENFORCED.
    EnforceCheck {
        /// Its name.
        name: String,
        /// Without NOT.
        enforced: bool,
    },
    /// FOREIGN KEY: read, no effect, a warning.
    Ignored(&'static str),
    /// Character sets, engine, ENABLE KEYS …: read, no effect.
    NoEffect,
}

impl P<'_> {
    pub(super) fn alter(&mut self) -> Result<Stmt> {
        self.expect("ALTER")?;
        if self.word("DATABASE") || self.word("SCHEMA") {
            let options = ["DEFAULT", "CHARACTER", "CHARSET", "COLLATE", "ENCRYPTION"];
            let unnamed = options.iter().any(|w| self.peek(w));
            let name = if unnamed { None } else { Some(self.name()?) };
            self.database_options()?;
            return Ok(Stmt::AlterDatabase { name });
        }
        let _ = self.one_of(&["ONLINE", "IGNORE"]);
        if !self.word("TABLE") {
            for what in [
                "USER",
                "VIEW",
                "INSTANCE",
                "FUNCTION",
                "PROCEDURE",
                "EVENT",
                "SEQUENCE",
                "PLACEMENT",
                "RESOURCE",
                "SERVER",
            ] {
                if self.peek(what) {
                    return self.unsupported(&format!("ALTER {what}"));
                }
            }
            return self.fail();
        }
        let table = self.table_name()?;
        let mut actions = Vec::new();
        if !self.at_end() {
            self.list(|p| p.alter_action(&mut actions))?;
        }
        Ok(Stmt::AlterTable { table, actions })
    }

    pub(super) fn alter_action(&mut self, actions: &mut Vec<AlterAction>) -> Result<()> {
        if self.word("ADD") {
            return self.alter_add(actions);
        }
        if self.word("DROP") {
            let action = self.alter_drop()?;
            actions.push(action);
            return Ok(());
        }
        let action = if self.word("MODIFY") {
            self.word("COLUMN");
            let column = self.column_def()?;
            let position = self.position()?;
            AlterAction::ChangeColumn { old: column.name.clone(), column, position }
        } else if self.word("CHANGE") {
            self.word("COLUMN");
            let old = self.name()?;
            let column = self.column_def()?;
            AlterAction::ChangeColumn { old, column, position: self.position()? }
        } else if self.word("RENAME") {
            self.alter_rename()?
        } else if self.word("ALTER") {
            self.alter_column()?
        } else if self.word("SET") {
            self.replica()?
        } else {
            self.alter_option()?
        };
        actions.push(action);
        Ok(())
    }

    pub(super) fn alter_add(&mut self, actions: &mut Vec<AlterAction>) -> Result<()> {
        if self.peek("PARTITION") {
            return self.unsupported("PARTITION BY");
        }
        if self.peek_key() {
            let if_not_exists = false;
            actions.push(match self.key_def()? {
                Element::Key(key) => AlterAction::AddKey { key, if_not_exists },
                Element::Check(check) => AlterAction::AddCheck(check),
                Element::Ignored(what) => AlterAction::Ignored(what),
            });
            return Ok(());
        }
        self.word("COLUMN");
        let if_not_exists = self.if_not_exists();
        if self.peek_symbol(&Token::LParen) {
            let columns = self.parenthesized(P::column_def)?;
            for column in columns {
                let position = Position::Last;
                actions.push(AlterAction::AddColumn { column, position, if_not_exists });
            }
            return Ok(());
        }
        let column = self.column_def()?;
        let position = self.position()?.unwrap_or(Position::Last);
        actions.push(AlterAction::AddColumn { column, position, if_not_exists });
        Ok(())
    }

    pub(super) fn position(&mut self) -> Result<Option<Position>> {
        if self.word("FIRST") {
            return Ok(Some(Position::First));
        }
        if self.word("AFTER") { Ok(Some(Position::After(self.name()?))) } else { Ok(None) }
    }

    pub(super) fn alter_drop(&mut self) -> Result<AlterAction> {
        if self.words(&["PRIMARY", "KEY"]) {
            return Ok(AlterAction::DropKey { name: "PRIMARY".to_owned(), if_exists: false });
        }
        if self.words(&["FOREIGN", "KEY"]) {
            self.name()?;
            return Ok(AlterAction::Ignored(FOREIGN_KEY));
        }
        if let Some(which) = self.one_of(&["CHECK", "CONSTRAINT"]) {
            return Ok(AlterAction::DropCheck { name: self.name()?, any: which == "CONSTRAINT" });
        }
        if self.one_of(&["INDEX", "KEY"]).is_some() {
            let if_exists = self.if_exists();
            return Ok(AlterAction::DropKey { name: self.index_name()?, if_exists });
        }
        if self.peek("PARTITION") {
            return self.unsupported("PARTITION BY");
        }
        self.word("COLUMN");
        let if_exists = self.if_exists();
        let name = self.name()?;
        let _ = self.one_of(&["RESTRICT", "CASCADE"]);
        Ok(AlterAction::DropColumn { name, if_exists })
    }

    /// PRIMARY is a reserved word and an index's name.
    pub(super) fn index_name(&mut self) -> Result<String> {
        if self.word("PRIMARY") { Ok("PRIMARY".to_owned()) } else { self.name() }
    }

    pub(super) fn alter_rename(&mut self) -> Result<AlterAction> {
        if self.word("COLUMN") {
            let old = self.name()?;
            self.expect("TO")?;
            return Ok(AlterAction::RenameColumn { old, new: self.name()? });
        }
        if self.one_of(&["INDEX", "KEY"]).is_some() {
            let old = self.name()?;
            self.expect("TO")?;
            return Ok(AlterAction::RenameKey { old, new: self.name()? });
        }
        if !self.word("TO") && !self.word("AS") {
            self.symbol(&Token::Eq);
        }
        Ok(AlterAction::RenameTo(self.table_name()?))
    }

    pub(super) fn alter_column(&mut self) -> Result<AlterAction> {
        if self.word("INDEX") {
            self.name()?;
            let known = self.one_of(&["VISIBLE", "INVISIBLE"]).is_some();
            return if known { Ok(AlterAction::NoEffect) } else { self.fail() };
        }
        if self.one_of(&["CHECK", "CONSTRAINT"]).is_some() {
            let name = self.name()?;
            let enforced = !self.word("NOT");
            self.expect("ENFORCED")?;
            return Ok(AlterAction::EnforceCheck { name, enforced });
        }
        self.word("COLUMN");
        let name = self.name()?;
        if self.words(&["DROP", "DEFAULT"]) {
            return Ok(AlterAction::SetDefault { name, default: None });
        }
        self.expect("SET")?;
        self.expect("DEFAULT")?;
        Ok(AlterAction::SetDefault { name, default: Some(self.default_value()?) })
    }

    /// `SET COLUMN REPLICA n`, `SET TIFLASH REPLICA n [LOCATION LABELS …]`.
    pub(super) fn replica(&mut self) -> Result<AlterAction> {
        if self.one_of(&["COLUMN", "TIFLASH"]).is_none() {
            return self.fail();
        }
        self.expect("REPLICA")?;
        let replicas = self.number()?;
        if self.words(&["LOCATION", "LABELS"]) {
            return self.unsupported("LOCATION LABELS");
        }
        match u32::try_from(replicas) {
            Ok(replicas) => Ok(AlterAction::SetColumnReplica(replicas)),
            Err(_) => self.fail(),
        }
    }

    pub(super) fn alter_option(&mut self) -> Result<AlterAction> {
        if self.word("COMMENT") {
            self.symbol(&Token::Eq);
            return Ok(AlterAction::Comment(self.string()?));
        }
        if self.word("AUTO_INCREMENT") {
            self.symbol(&Token::Eq);
            return Ok(AlterAction::AutoIncrement(self.number()?));
        }
        if self.words(&["CONVERT", "TO"]) {
            if !self.words(&["CHARACTER", "SET"]) {
                self.expect("CHARSET")?;
            }
            self.name_or_string()?;
            if self.word("COLLATE") {
                self.name_or_string()?;
            }
            return Ok(AlterAction::NoEffect);
        }
        if self.words(&["DISABLE", "KEYS"]) || self.words(&["ENABLE", "KEYS"]) || self.word("FORCE")
        {
            return Ok(AlterAction::NoEffect);
        }
        if self.peek("ALGORITHM") || self.peek("LOCK") {
            self.algorithm()?;
            return Ok(AlterAction::NoEffect);
        }
        for what in [
            "PARTITION",
            "REORGANIZE",
            "TRUNCATE",
            "EXCHANGE",
            "REMOVE",
            "COALESCE",
            "DISCARD",
            "IMPORT",
            "ORDER",
            "TTL",
            "CACHE",
            "PLACEMENT",
        ] {
            if self.peek(what) {
                return self.unsupported(&format!("ALTER TABLE … {what}"));
            }
        }
        let mut any = false;
        while self.plain_table_option()? {
            any = true;
        }
        if any { Ok(AlterAction::NoEffect) } else { self.fail() }
    }

    pub(super) fn drop(&mut self) -> Result<Stmt> {
        self.expect("DROP")?;
        if self.word("DATABASE") || self.word("SCHEMA") {
            let if_exists = self.if_exists();
            return Ok(Stmt::DropDatabase { name: self.name()?, if_exists });
        }
        if self.word("TEMPORARY") && !self.peek("TABLE") {
            return self.fail();
        }
        if self.word("TABLE") || self.word("TABLES") {
            let if_exists = self.if_exists();
            let names = self.list(P::table_name)?;
            let _ = self.one_of(&["RESTRICT", "CASCADE"]);
            return Ok(Stmt::DropTable { names, if_exists });
        }
        if self.word("INDEX") {
            let if_exists = self.if_exists();
            let name = self.index_name()?;
            self.expect("ON")?;
            let table = self.table_name()?;
            self.algorithm()?;
            let actions = vec![AlterAction::DropKey { name, if_exists }];
            return Ok(Stmt::AlterTable { table, actions });
        }
        if self.one_of(&["VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT"]).is_some() {
            let if_exists = self.if_exists();
            let name = self.list(P::table_name)?.swap_remove(0);
            let _ = self.one_of(&["RESTRICT", "CASCADE"]);
            return Ok(Stmt::DropNothing { if_exists, name });
        }
        for what in
            ["USER", "ROLE", "SEQUENCE", "GLOBAL", "SESSION", "BINDING", "PLACEMENT", "RESOURCE"]
        {
            if self.peek(what) {
                return self.unsupported(&format!("DROP {what}"));
            }
        }
        self.fail()
    }

    pub(super) fn truncate(&mut self) -> Result<Stmt> {
        self.expect("TRUNCATE")?;
        self.word("TABLE");
        Ok(Stmt::Truncate(self.table_name()?))
    }

    pub(super) fn rename(&mut self) -> Result<Stmt> {
        self.expect("RENAME")?;
        if self.peek("USER") {
            return self.unsupported("RENAME USER");
        }
        if !self.word("TABLE") && !self.word("TABLES") {
            return self.fail();
        }
        let names = self.list(|p| {
            let from = p.table_name()?;
            p.expect("TO")?;
            Ok((from, p.table_name()?))
        })?;
        Ok(Stmt::RenameTables(names))
    }
}
