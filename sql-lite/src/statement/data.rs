//! INSERT, REPLACE, UPDATE, DELETE, LOAD DATA. Rows of literals are read straight from tokens,
//! since a load is made of them.

use super::params::literal_token;
use super::parser::{P, object_name};
use super::{Stmt, TableName};
use crate::error::Result;
use damask_types::Datum;
use sqlparser::ast::{Expr, ObjectName, OrderByExpr, Query, TableFactor, TableWithJoins};
use sqlparser::tokenizer::Token;

/// One value of a row to insert.
#[derive(Clone, Debug)]
pub enum Value {
    /// A constant.
    Literal(Datum),
    /// DEFAULT.
    Default,
    /// The n-th `?`.
    Param(usize),
    /// Anything else.
    Expr(Box<Expr>),
}

/// Where the rows of an INSERT come from.
#[derive(Clone, Debug)]
pub enum InsertSource {
    /// VALUES and SET.
    Values(Vec<Vec<Value>>),
    /// SELECT.
    Query(Box<Query>),
}

/// `column = value`.
#[derive(Clone, Debug)]
pub struct Assign {
    /// Table or alias before the column, if named.
    pub table: Option<String>,
    /// The column.
    pub column: String,
    /// Its new value; `Expr::Identifier("DEFAULT")` stands for DEFAULT.
    pub value: Expr,
}

/// INSERT or REPLACE.
#[derive(Clone, Debug)]
pub struct Insert {
    /// Into this table.
    pub table: TableName,
    /// The columns named; `None` = all in order.
    pub columns: Option<Vec<String>>,
    /// The rows.
    pub source: InsertSource,
    /// REPLACE.
    pub replace: bool,
    /// IGNORE.
    pub ignore: bool,
    /// ON DUPLICATE KEY UPDATE.
    pub on_duplicate: Vec<Assign>,
    /// `AS new(a, b)`: the alias of the new row, and of its columns.
    pub row_alias: Option<(String, Vec<String>)>,
}

/// UPDATE.
#[derive(Clone, Debug)]
pub struct Update {
    /// What stands between UPDATE and SET.
    pub from: Vec<TableWithJoins>,
    /// SET.
    pub assignments: Vec<Assign>,
    /// WHERE.
    pub selection: Option<Expr>,
    /// ORDER BY.
    pub order_by: Vec<OrderByExpr>,
    /// LIMIT.
    pub limit: Option<Expr>,
    /// IGNORE.
    pub ignore: bool,
}

/// DELETE.
#[derive(Clone, Debug)]
pub struct Delete {
    /// The tables or aliases to delete from; none when FROM names just one.
    pub targets: Vec<TableName>,
    /// FROM.
    pub from: Vec<TableWithJoins>,
    /// WHERE.
    pub selection: Option<Expr>,
    /// ORDER BY.
    pub order_by: Vec<OrderByExpr>,
    /// LIMIT.
    pub limit: Option<Expr>,
}

/// LOAD DATA.
#[derive(Clone, Debug)]
pub struct LoadData {
    /// LOCAL.
    pub local: bool,
    /// The file's name.
    pub file: String,
    /// Into this table.
    pub table: TableName,
    /// REPLACE rows with the same key.
    pub replace: bool,
    /// Skip rows with the same key (LOCAL does so by itself).
    pub ignore: bool,
    /// FIELDS TERMINATED BY.
    pub fields_terminated: String,
    /// FIELDS ENCLOSED BY; `None` = nothing.
    pub enclosed: Option<u8>,
    /// FIELDS ESCAPED BY; `None` = nothing.
    pub escaped: Option<u8>,
    /// LINES STARTING BY.
    pub lines_starting: String,
    /// LINES TERMINATED BY.
    pub lines_terminated: String,
    /// IGNORE n LINES.
    pub skip_lines: u64,
    /// Columns and `@variables` (skipped) in the file's order; `None` = all columns.
    pub columns: Option<Vec<String>>,
}

impl P<'_> {
    pub(super) fn insert(&mut self) -> Result<Stmt> {
        let replace = self.one_of(&["INSERT", "REPLACE"]) == Some("REPLACE");
        let _ = self.one_of(&["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY"]);
        let ignore = self.word("IGNORE");
        self.word("INTO");
        let table = self.table_name()?;
        if self.peek("PARTITION") {
            return self.unsupported("PARTITION");
        }
        let (columns, source) = self.insert_source()?;
        let row_alias = if self.word("AS") {
            let name = self.name()?;
            let columns = if self.peek_symbol(&Token::LParen) {
                self.parenthesized(P::name)?
            } else {
                Vec::new()
            };
            Some((name, columns))
        } else {
            None
        };
        let on_duplicate = if self.words(&["ON", "DUPLICATE", "KEY", "UPDATE"]) {
            self.list(P::assignment)?
        } else {
            Vec::new()
        };
        if self.peek("RETURNING") {
            return self.unsupported("RETURNING");
        }
        let insert = Insert { table, columns, source, replace, ignore, on_duplicate, row_alias };
        Ok(Stmt::Insert(Box::new(insert)))
    }

    fn insert_source(&mut self) -> Result<(Option<Vec<String>>, InsertSource)> {
        if self.word("SET") {
            let mut columns = Vec::new();
            let mut row = Vec::new();
            self.list(|p| {
                columns.push(p.column()?);
                p.expect_symbol(&Token::Eq)?;
                row.push(p.value()?);
                Ok(())
            })?;
            return Ok((Some(columns), InsertSource::Values(vec![row])));
        }
        let subquery = ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|w| self.peek_nth(1, w))
            || self.parser.peek_nth_token_ref(1).token == Token::LParen;
        let columns = if self.peek_symbol(&Token::LParen) && !subquery {
            self.symbol(&Token::LParen);
            if self.symbol(&Token::RParen) {
                Some(Vec::new())
            } else {
                let columns = self.list(P::column)?;
                self.expect_symbol(&Token::RParen)?;
                Some(columns)
            }
        } else {
            None
        };
        if self.word("VALUES") || self.word("VALUE") {
            let rows = self.list(P::row)?;
            return Ok((columns, InsertSource::Values(rows)));
        }
        if self.word("SET") {
            return self.fail();
        }
        Ok((columns, InsertSource::Query(self.query()?)))
    }

    /// A column, perhaps with its table before it.
    fn column(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.symbol(&Token::Period) {
            name = self.name_or_string()?;
        }
        Ok(name)
    }

    fn row(&mut self) -> Result<Vec<Value>> {
        self.word("ROW");
        self.expect_symbol(&Token::LParen)?;
        let mut values = Vec::new();
        if self.symbol(&Token::RParen) {
            return Ok(values);
        }
        loop {
            values.push(self.value()?);
            if self.symbol(&Token::RParen) {
                return Ok(values);
            }
            self.expect_symbol(&Token::Comma)?;
        }
    }

    fn value(&mut self) -> Result<Value> {
        let ends = |token: &Token| matches!(token, Token::Comma | Token::RParen | Token::EOF);
        let first = &self.parser.peek_token_ref().token;
        if ends(&self.parser.peek_nth_token_ref(1).token) {
            let value = match first {
                Token::Word(w)
                    if w.quote_style.is_none() && w.value.eq_ignore_ascii_case("default") =>
                {
                    Some(Value::Default)
                }
                Token::Placeholder(p) => p[1..].parse().ok().map(Value::Param),
                token => literal_token(token, false).map(Value::Literal),
            };
            if let Some(value) = value {
                self.parser.next_token();
                return Ok(value);
            }
        } else if *first == Token::Minus && ends(&self.parser.peek_nth_token_ref(2).token) {
            let number = literal_token(&self.parser.peek_nth_token_ref(1).token, true);
            if let Some(datum) = number {
                self.parser.next_token();
                self.parser.next_token();
                return Ok(Value::Literal(datum));
            }
        }
        let called = self.parser.peek_nth_token_ref(1).token == Token::LParen;
        if !called && self.word("DEFAULT") {
            return Ok(Value::Default);
        }
        Ok(Value::Expr(Box::new(self.expr()?)))
    }

    fn assignment(&mut self) -> Result<Assign> {
        let mut parts = vec![self.name()?];
        while self.symbol(&Token::Period) {
            parts.push(self.name_or_string()?);
        }
        let column = parts.pop().expect("one was pushed");
        self.expect_symbol(&Token::Eq)?;
        let value = self.expr()?;
        Ok(Assign { table: parts.pop(), column, value })
    }

    fn tables(&mut self) -> Result<Vec<TableWithJoins>> {
        self.list(|p| {
            let table = p.parser.parse_table_and_joins();
            p.convert(table)
        })
    }

    fn tail(&mut self) -> Result<(Option<Expr>, Vec<OrderByExpr>, Option<Expr>)> {
        let selection = if self.word("WHERE") { Some(self.expr()?) } else { None };
        let order_by = if self.words(&["ORDER", "BY"]) {
            self.list(|p| {
                let item = p.parser.parse_order_by_expr();
                p.convert(item)
            })?
        } else {
            Vec::new()
        };
        let limit = if self.word("LIMIT") { Some(self.expr()?) } else { None };
        if self.peek("RETURNING") {
            return self.unsupported("RETURNING");
        }
        Ok((selection, order_by, limit))
    }

    pub(super) fn update(&mut self) -> Result<Stmt> {
        self.expect("UPDATE")?;
        self.word("LOW_PRIORITY");
        let ignore = self.word("IGNORE");
        let from = self.tables()?;
        self.expect("SET")?;
        let assignments = self.list(P::assignment)?;
        let (selection, order_by, limit) = self.tail()?;
        let update = Update { from, assignments, selection, order_by, limit, ignore };
        Ok(Stmt::Update(Box::new(update)))
    }

    pub(super) fn delete(&mut self) -> Result<Stmt> {
        self.expect("DELETE")?;
        while self.one_of(&["LOW_PRIORITY", "QUICK", "IGNORE"]).is_some() {}
        let mut targets = Vec::new();
        if !self.word("FROM") {
            targets = self.delete_targets()?;
            self.expect("FROM")?;
        }
        let mut from = self.tables()?;
        if self.word("USING") {
            for table in &from {
                let TableFactor::Table { name, .. } = &table.relation else { return self.fail() };
                targets.extend(object_name(name));
            }
            from = self.tables()?;
        }
        let (selection, order_by, limit) = self.tail()?;
        let joined = from.len() > 1 || from.iter().any(|table| !table.joins.is_empty());
        if targets.is_empty() && joined {
            return self.fail();
        }
        let delete = Delete { targets, from, selection, order_by, limit };
        Ok(Stmt::Delete(Box::new(delete)))
    }

    fn delete_targets(&mut self) -> Result<Vec<TableName>> {
        self.list(|p| {
            let name: std::result::Result<ObjectName, _> = p.parser.parse_object_name(false);
            let name = p.convert(name)?;
            if p.symbol(&Token::Period) {
                p.expect_symbol(&Token::Mul)?;
            }
            match object_name(&name) {
                Some(name) => Ok(name),
                None => p.fail(),
            }
        })
    }

    pub(super) fn load(&mut self) -> Result<Stmt> {
        self.expect("LOAD")?;
        if !self.word("DATA") {
            return if self.peek("STATS") { self.unsupported("LOAD STATS") } else { self.fail() };
        }
        let _ = self.one_of(&["LOW_PRIORITY", "CONCURRENT"]);
        let local = self.word("LOCAL");
        self.expect("INFILE")?;
        let file = self.string()?;
        let action = self.one_of(&["REPLACE", "IGNORE"]);
        self.expect("INTO")?;
        self.expect("TABLE")?;
        let mut load = LoadData {
            local,
            file,
            table: self.table_name()?,
            replace: action == Some("REPLACE"),
            ignore: action == Some("IGNORE") || local,
            fields_terminated: "\t".to_owned(),
            enclosed: None,
            escaped: Some(b'\\'),
            lines_starting: String::new(),
            lines_terminated: "\n".to_owned(),
            skip_lines: 0,
            columns: None,
        };
        if self.words(&["CHARACTER", "SET"]) {
            self.name_or_string()?;
        }
        self.load_format(&mut load)?;
        if self.word("IGNORE") {
            load.skip_lines = self.number()?;
            if self.one_of(&["LINES", "ROWS"]).is_none() {
                return self.fail();
            }
        }
        if self.peek_symbol(&Token::LParen) {
            load.columns = Some(self.parenthesized(|p| {
                if p.peek_symbol(&Token::AtSign) { p.fail() } else { p.name() }
            })?);
        }
        if self.peek("SET") {
            return self.unsupported("LOAD DATA … SET");
        }
        Ok(Stmt::LoadData(Box::new(load)))
    }

    fn load_format(&mut self, load: &mut LoadData) -> Result<()> {
        let byte = |p: &Self, text: &str| match text.as_bytes() {
            [] => Ok(None),
            [b] => Ok(Some(*b)),
            _ => p.fail(),
        };
        if self.word("FIELDS") || self.word("COLUMNS") {
            loop {
                if self.words(&["TERMINATED", "BY"]) {
                    load.fields_terminated = self.string()?;
                } else if self.words(&["OPTIONALLY", "ENCLOSED", "BY"])
                    || self.words(&["ENCLOSED", "BY"])
                {
                    let text = self.string()?;
                    load.enclosed = byte(self, &text)?;
                } else if self.words(&["ESCAPED", "BY"]) {
                    let text = self.string()?;
                    load.escaped = byte(self, &text)?;
                } else {
                    break;
                }
            }
        }
        if self.word("LINES") {
            loop {
                if self.words(&["STARTING", "BY"]) {
                    load.lines_starting = self.string()?;
                } else if self.words(&["TERMINATED", "BY"]) {
                    load.lines_terminated = self.string()?;
                } else {
                    break;
                }
            }
        }
        if load.fields_terminated.is_empty() || load.lines_terminated.is_empty() {
            return self.unsupported("LOAD DATA with empty terminators");
        }
        Ok(())
    }
}
