//! Definitions: CREATE, and what ALTER shares with it. Types are resolved here, since their names
//! are grammar; what MySQL has and this server has not is refused by name (1235), never silently changed.

use super::check::CheckDef;
use super::parser::P;
use super::{AlterAction, Stmt, TableName};
use crate::error::Result;
use damask_types::ColumnType;
use sqlparser::ast::{Expr, Query};
use sqlparser::tokenizer::Token;

/// DEFAULT of a column.
#[derive(Clone, Debug)]
pub enum Default {
    /// A constant, NULL included.
    Constant(Box<Expr>),
    /// CURRENT_TIMESTAMP.
    Now,
}

/// What a column's definition says of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// PRIMARY KEY.
    Primary,
    /// UNIQUE.
    Unique,
    /// KEY, INDEX.
    Plain,
}

/// A column's definition.
#[derive(Clone, Debug)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
    /// NULL or NOT NULL, if said.
    pub nullable: Option<bool>,
    /// DEFAULT.
    pub default: Option<Default>,
    /// AUTO_INCREMENT.
    pub auto_increment: bool,
    /// ON UPDATE CURRENT_TIMESTAMP.
    pub on_update_now: bool,
    /// COMMENT.
    pub comment: String,
    /// PRIMARY KEY or UNIQUE within the definition.
    pub key: Option<KeyKind>,
    /// CHECK within the definition.
    pub checks: Vec<CheckDef>,
    /// What was read and has no effect: REFERENCES.
    pub ignored: Vec<&'static str>,
}

/// A key's definition.
#[derive(Clone, Debug)]
pub struct KeyDef {
    /// Its name, if given.
    pub name: Option<String>,
    /// Its columns.
    pub columns: Vec<String>,
    /// Primary, unique, plain.
    pub kind: KeyKind,
}

/// What stands beside columns in a table's definition.
#[derive(Clone, Debug)]
pub(super) enum Element {
    Key(KeyDef),
    Check(CheckDef),
    /// Read, and without effect.
    Ignored(&'static str),
}

/// CREATE TABLE.
#[derive(Clone, Debug)]
pub struct CreateTable {
    /// Its name.
    pub name: TableName,
    /// IF NOT EXISTS.
    pub if_not_exists: bool,
    /// Columns.
    pub columns: Vec<ColumnDef>,
    /// Keys.
    pub keys: Vec<KeyDef>,
    /// COMMENT.
    pub comment: String,
    /// AUTO_INCREMENT = n.
    pub auto_increment: Option<u64>,
    /// LIKE.
    pub like: Option<TableName>,
    /// AS SELECT.
    pub query: Option<Box<Query>>,
    /// CHECK constraints, those of columns first.
    pub checks: Vec<CheckDef>,
    /// What was read and has no effect: FOREIGN KEY.
    pub ignored: Vec<&'static str>,
}

pub(crate) const FOREIGN_KEY: &str = "FOREIGN KEY";
/// What collations named `…_ci` ask for.
pub(crate) const COLLATION: &str = "COLLATION";

impl P<'_> {
    pub(super) fn create(&mut self) -> Result<Stmt> {
        self.expect("CREATE")?;
        if self.word("DATABASE") || self.word("SCHEMA") {
            let if_not_exists = self.if_not_exists();
            let name = self.name()?;
            self.database_options()?;
            return Ok(Stmt::CreateDatabase { name, if_not_exists });
        }
        if self.word("TEMPORARY") {
            return self.unsupported("CREATE TEMPORARY TABLE");
        }
        if self.word("TABLE") {
            return self.create_table();
        }
        let kind = if self.word("UNIQUE") { KeyKind::Unique } else { KeyKind::Plain };
        if self.word("INDEX") {
            return self.create_index(kind);
        }
        for what in [
            "VIEW",
            "OR",
            "USER",
            "ROLE",
            "FUNCTION",
            "PROCEDURE",
            "TRIGGER",
            "EVENT",
            "SEQUENCE",
            "FULLTEXT",
            "SPATIAL",
            "VECTOR",
            "PLACEMENT",
            "BINDING",
            "GLOBAL",
            "SESSION",
            "RESOURCE",
            "ALGORITHM",
            "DEFINER",
            "SQL",
            "SERVER",
            "TABLESPACE",
        ] {
            if self.peek(what) {
                return self.unsupported(&format!("CREATE {what}"));
            }
        }
        self.fail()
    }

    pub(super) fn database_options(&mut self) -> Result<()> {
        while !self.at_end() {
            self.word("DEFAULT");
            let charset = self.words(&["CHARACTER", "SET"]) || self.word("CHARSET");
            if !charset && self.one_of(&["COLLATE", "ENCRYPTION"]).is_none() {
                return self.fail();
            }
            self.symbol(&Token::Eq);
            self.name_or_string()?;
        }
        Ok(())
    }

    pub(super) fn create_table(&mut self) -> Result<Stmt> {
        let if_not_exists = self.if_not_exists();
        let mut create = CreateTable {
            name: self.table_name()?,
            if_not_exists,
            columns: Vec::new(),
            keys: Vec::new(),
            comment: String::new(),
            auto_increment: None,
            like: None,
            query: None,
            checks: Vec::new(),
            ignored: Vec::new(),
        };
        if self.word("LIKE") {
            create.like = Some(self.table_name()?);
            return Ok(Stmt::CreateTable(Box::new(create)));
        }
        if self.peek_symbol(&Token::LParen) && self.peek_nth(1, "LIKE") {
            self.symbol(&Token::LParen);
            self.word("LIKE");
            create.like = Some(self.table_name()?);
            self.expect_symbol(&Token::RParen)?;
            return Ok(Stmt::CreateTable(Box::new(create)));
        }
        if self.peek_symbol(&Token::LParen) && !self.peek_nth(1, "SELECT") {
            self.symbol(&Token::LParen);
            self.list(|p| p.table_element(&mut create))?;
            self.expect_symbol(&Token::RParen)?;
        }
        self.table_options(&mut create)?;
        if self.folds_case {
            create.ignored.push(COLLATION);
        }
        if let Some(which) = self.one_of(&["IGNORE", "REPLACE"]) {
            return self.unsupported(&format!("CREATE TABLE … {which} SELECT"));
        }
        let explicit = self.word("AS");
        if explicit || self.peek("SELECT") || self.peek("WITH") || self.peek_symbol(&Token::LParen)
        {
            create.query = Some(self.query()?);
        }
        if create.columns.is_empty() && create.query.is_none() {
            return self.fail();
        }
        Ok(Stmt::CreateTable(Box::new(create)))
    }

    pub(super) fn table_element(&mut self, create: &mut CreateTable) -> Result<()> {
        if self.peek_key() {
            match self.key_def()? {
                Element::Key(key) => create.keys.push(key),
                Element::Check(check) => create.checks.push(check),
                Element::Ignored(what) => create.ignored.push(what),
            }
            return Ok(());
        }
        let column = self.column_def()?;
        create.ignored.extend(&column.ignored);
        create.checks.extend(column.checks.iter().cloned());
        create.columns.push(column);
        Ok(())
    }

    pub(super) fn peek_key(&self) -> bool {
        [
            "CONSTRAINT",
            "PRIMARY",
            "UNIQUE",
            "KEY",
            "INDEX",
            "FOREIGN",
            "CHECK",
            "FULLTEXT",
            "SPATIAL",
        ]
        .iter()
        .any(|w| self.peek(w))
    }

    /// A key, a constraint, or what is read and ignored.
    pub(super) fn key_def(&mut self) -> Result<Element> {
        let mut name = None;
        if self.word("CONSTRAINT") && !self.peek_key() {
            name = Some(self.name()?);
        }
        if self.word("CHECK") {
            return self.check(name).map(Element::Check);
        }
        if self.words(&["FOREIGN", "KEY"]) {
            if !self.peek_symbol(&Token::LParen) {
                self.name()?;
            }
            self.skip_group()?;
            self.references()?;
            return Ok(Element::Ignored(FOREIGN_KEY));
        }
        if self.peek("FULLTEXT") || self.peek("SPATIAL") {
            return self.unsupported("FULLTEXT and SPATIAL indexes");
        }
        let kind = if self.words(&["PRIMARY", "KEY"]) {
            KeyKind::Primary
        } else if self.word("UNIQUE") {
            let _ = self.one_of(&["KEY", "INDEX"]);
            KeyKind::Unique
        } else if self.one_of(&["KEY", "INDEX"]).is_some() {
            KeyKind::Plain
        } else {
            return self.fail();
        };
        if !self.peek_symbol(&Token::LParen) && !self.peek("USING") {
            name = Some(self.name()?);
        }
        self.index_type()?;
        let columns = self.key_columns(kind)?;
        self.index_options()?;
        Ok(Element::Key(KeyDef { name, columns, kind }))
    }

    pub(super) fn references(&mut self) -> Result<()> {
        self.expect("REFERENCES")?;
        self.table_name()?;
        if self.peek_symbol(&Token::LParen) {
            self.skip_group()?;
        }
        if self.word("MATCH") {
            self.name_or_string()?;
        }
        while self.word("ON") {
            if self.one_of(&["DELETE", "UPDATE"]).is_none() {
                return self.fail();
            }
            let action = self.one_of(&["RESTRICT", "CASCADE"]).is_some()
                || self.words(&["SET", "NULL"])
                || self.words(&["SET", "DEFAULT"])
                || self.words(&["NO", "ACTION"]);
            if !action {
                return self.fail();
            }
        }
        Ok(())
    }

    pub(super) fn index_type(&mut self) -> Result<()> {
        if self.word("USING") && self.one_of(&["BTREE", "HASH", "RTREE"]).is_none() {
            return self.fail();
        }
        Ok(())
    }

    pub(super) fn key_columns(&mut self, kind: KeyKind) -> Result<Vec<String>> {
        self.parenthesized(|p| {
            if p.peek_symbol(&Token::LParen) {
                return p.unsupported("expression index");
            }
            let name = p.name()?;
            if p.optional_length()?.is_some() && kind != KeyKind::Plain {
                return p.unsupported("unique prefix index");
            }
            let _ = p.one_of(&["ASC", "DESC"]);
            Ok(name)
        })
    }

    pub(super) fn index_options(&mut self) -> Result<()> {
        loop {
            if self.word("COMMENT") {
                self.string()?;
            } else if self.word("KEY_BLOCK_SIZE") {
                self.symbol(&Token::Eq);
                self.number()?;
            } else if self.words(&["WITH", "PARSER"]) {
                self.name()?;
            } else if self.peek("USING") {
                self.index_type()?;
            } else if self
                .one_of(&["VISIBLE", "INVISIBLE", "CLUSTERED", "NONCLUSTERED", "GLOBAL"])
                .is_none()
            {
                return Ok(());
            }
        }
    }

    pub(super) fn create_index(&mut self, kind: KeyKind) -> Result<Stmt> {
        let if_not_exists = self.if_not_exists();
        let name = Some(self.name()?);
        self.index_type()?;
        self.expect("ON")?;
        let table = self.table_name()?;
        let columns = self.key_columns(kind)?;
        self.index_options()?;
        self.algorithm()?;
        let key = KeyDef { name, columns, kind };
        Ok(Stmt::AlterTable { table, actions: vec![AlterAction::AddKey { key, if_not_exists }] })
    }

    /// ALGORITHM and LOCK of index statements.
    pub(super) fn algorithm(&mut self) -> Result<()> {
        while self.one_of(&["ALGORITHM", "LOCK"]).is_some() {
            self.symbol(&Token::Eq);
            self.name_or_string()?;
        }
        Ok(())
    }

    pub(super) fn table_options(&mut self, create: &mut CreateTable) -> Result<()> {
        loop {
            self.symbol(&Token::Comma);
            if self.word("COMMENT") {
                self.symbol(&Token::Eq);
                create.comment = self.string()?;
            } else if self.word("AUTO_INCREMENT") {
                self.symbol(&Token::Eq);
                create.auto_increment = Some(self.number()?);
            } else if self.peek("PARTITION") {
                return self.unsupported("PARTITION BY");
            } else if !self.plain_table_option()? {
                return Ok(());
            }
        }
    }

    /// An option that changes nothing here.
    pub(super) fn plain_table_option(&mut self) -> Result<bool> {
        const NAMES: [&str; 23] = [
            "ENGINE",
            "CHARSET",
            "COLLATE",
            "ROW_FORMAT",
            "KEY_BLOCK_SIZE",
            "AVG_ROW_LENGTH",
            "MAX_ROWS",
            "MIN_ROWS",
            "CHECKSUM",
            "DELAY_KEY_WRITE",
            "PACK_KEYS",
            "INSERT_METHOD",
            "STATS_PERSISTENT",
            "STATS_AUTO_RECALC",
            "STATS_SAMPLE_PAGES",
            "COMPRESSION",
            "ENCRYPTION",
            "TABLESPACE",
            "CONNECTION",
            "PASSWORD",
            "SHARD_ROW_ID_BITS",
            "PRE_SPLIT_REGIONS",
            "AUTO_ID_CACHE",
        ];
        self.word("DEFAULT");
        if !self.words(&["CHARACTER", "SET"]) && self.one_of(&NAMES).is_none() {
            return Ok(false);
        }
        self.symbol(&Token::Eq);
        match self.parser.peek_token_ref().token {
            Token::Number(..) => drop(self.number()?),
            _ => self.collation()?,
        }
        Ok(true)
    }

    pub(super) fn column_def(&mut self) -> Result<ColumnDef> {
        let name = self.name()?;
        let ty = self.data_type()?;
        let mut column = ColumnDef {
            name,
            ty,
            nullable: None,
            default: None,
            auto_increment: false,
            on_update_now: false,
            comment: String::new(),
            key: None,
            checks: Vec::new(),
            ignored: Vec::new(),
        };
        while self.column_option(&mut column)? {}
        Ok(column)
    }

    pub(super) fn column_option(&mut self, column: &mut ColumnDef) -> Result<bool> {
        if self.words(&["NOT", "NULL"]) {
            column.nullable = Some(false);
        } else if self.word("NULL") {
            column.nullable = Some(true);
        } else if self.word("DEFAULT") {
            column.default = Some(self.default_value()?);
        } else if self.word("AUTO_INCREMENT") {
            column.auto_increment = true;
        } else if self.words(&["ON", "UPDATE"]) {
            self.now()?;
            column.on_update_now = true;
        } else if self.word("UNIQUE") {
            self.word("KEY");
            column.key = Some(KeyKind::Unique);
        } else if self.words(&["PRIMARY", "KEY"]) || self.word("KEY") {
            column.key = Some(KeyKind::Primary);
            let _ = self.one_of(&["CLUSTERED", "NONCLUSTERED"]);
        } else if self.word("COMMENT") {
            column.comment = self.string()?;
        } else if self.one_of(&["COLLATE", "COLUMN_FORMAT", "STORAGE"]).is_some() {
            self.collation()?;
        } else if self.peek("REFERENCES") {
            self.references()?;
            column.ignored.push(FOREIGN_KEY);
        } else if self.peek("CHECK") || (self.peek("CONSTRAINT") && !self.peek_nth(1, "PRIMARY")) {
            let named = self.word("CONSTRAINT") && !self.peek("CHECK");
            let name = if named { Some(self.name()?) } else { None };
            self.expect("CHECK")?;
            let check = self.check(name)?;
            column.checks.push(check);
        } else if self.peek("GENERATED") || self.peek("AS") {
            return self.unsupported("generated columns");
        } else if self.peek("AUTO_RANDOM") {
            return self.unsupported("AUTO_RANDOM");
        } else {
            return Ok(self.one_of(&["VISIBLE"]).is_some());
        }
        Ok(true)
    }

    pub(super) fn default_value(&mut self) -> Result<Default> {
        if ["CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"].iter().any(|w| self.peek(w))
        {
            self.now()?;
            return Ok(Default::Now);
        }
        if self.symbol(&Token::LParen) {
            let default = self.default_value()?;
            self.expect_symbol(&Token::RParen)?;
            return Ok(default);
        }
        // A literal with its sign: a whole expression would swallow NOT NULL and COLLATE.
        let expr = self.parser.parse_prefix();
        let expr = self.convert(expr)?;
        if super::params::literal(&expr).is_none() {
            return self.unsupported("expressions as DEFAULT");
        }
        Ok(Default::Constant(Box::new(expr)))
    }

    pub(super) fn now(&mut self) -> Result<()> {
        if self.one_of(&["CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"]).is_none() {
            return self.fail();
        }
        if self.symbol(&Token::LParen) {
            if !self.peek_symbol(&Token::RParen) {
                self.number()?;
            }
            self.expect_symbol(&Token::RParen)?;
        }
        Ok(())
    }
}
