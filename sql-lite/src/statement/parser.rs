//! The statement parser's frame: which statement is it, and helpers over sqlparser's parser.
//! Errors are MySQL's 1064 with the text from the token in the way, or 1235 for what is known to
//! MySQL and not supported here.

use super::balance::balance;
use super::dialect::Dialected;
use super::hints::Hints;
use super::lexer::{lex, syntax_error, too_deep};
use super::moment::take_as_of;
use super::rewrite::{SelectLists, calculates_found_rows, rewrite, select_lists, take_into};
use super::{Stmt, TableName};
use crate::error::{Error, Result};
use crate::variables::SqlMode;
use sqlparser::ast::{
    Expr, Ident, ObjectName, Query, SelectItem, SetExpr, TableFactor, VisitMut, VisitorMut,
};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};
use std::ops::ControlFlow;

/// How deep expressions and subqueries may nest.
pub(super) const DEPTH_MAX: usize = 80;

/// One parsed statement.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What it asks for.
    pub stmt: Stmt,
    /// From `/*+ … */`.
    pub hints: Hints,
    /// How many `?`.
    pub params: usize,
    /// Where the next statement starts.
    pub end: usize,
}

/// Parses the statement that starts at an offset.
pub fn parse(text: &str, from: usize, mode: SqlMode) -> Result<Parsed> {
    let lexed = lex(text, from, mode)?;
    let (mut hints, params, end) = (lexed.hints, lexed.params, lexed.end);
    hints.calc_found_rows = calculates_found_rows(&lexed.tokens);
    let dialect = Dialected::default();
    let mut tokens = rewrite(lexed.tokens);
    let (moments, into) = (take_as_of(&mut tokens), take_into(&mut tokens));
    let columns = select_lists(&tokens);
    let deep = nests_deeply(&tokens);
    let parser =
        Parser::new(&dialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
    let mut p = P { parser, text: &text[..end], columns, folds_case: false };
    let read = p.statement().and_then(|stmt| p.expect_end().and_then(|()| p.as_of(stmt, moments)));
    // Where a word may also be a name, sqlparser tries that, and then says something else.
    let mut stmt = read.map_err(|error| match deep {
        true if error.code == Error::parse("").code => too_deep(),
        _ => error,
    })?;
    if let Some(variables) = into {
        let Stmt::Query(query) = stmt else { return p.fail() };
        stmt = Stmt::SelectInto { query, variables };
    }
    Ok(Parsed { stmt, hints, params, end })
}

/// Are more NOT or CASE within each other than the parser goes down?
fn nests_deeply(tokens: &[TokenWithSpan]) -> bool {
    let (mut nots, mut cases, mut deepest) = (0, 0usize, 0);
    for token in tokens {
        let word = match &token.token {
            Token::Word(word) => word.keyword,
            Token::LParen => continue,
            _ => Keyword::NoKeyword,
        };
        nots = if word == Keyword::NOT { nots + 1 } else { 0 };
        match word {
            Keyword::CASE => cases += 1,
            Keyword::END => cases = cases.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(nots + cases);
    }
    deepest > DEPTH_MAX / 2
}

/// The parser of one statement.
pub(super) struct P<'a> {
    pub parser: Parser<'a>,
    pub text: &'a str,
    /// Where the items of select lists stand in the text.
    pub columns: SelectLists,
    /// A collation was named that takes upper and lower case for the same.
    pub folds_case: bool,
}

/// The first words of statements that MySQL or TiDB know and that do nothing here.
const UNSUPPORTED: [&str; 25] = [
    "BATCH",
    "BINLOG",
    "CACHE",
    "CALL",
    "CHANGE",
    "CHECKSUM",
    "CLONE",
    "FLASHBACK",
    "GET",
    "GRANT",
    "HANDLER",
    "HELP",
    "IMPORT",
    "INSTALL",
    "PURGE",
    "RECOVER",
    "RESET",
    "RESIGNAL",
    "REVOKE",
    "SIGNAL",
    "SPLIT",
    "STOP",
    "TRACE",
    "UNINSTALL",
    "XA",
];

impl<'a> P<'a> {
    fn statement(&mut self) -> Result<Stmt> {
        let token = self.parser.peek_token_ref().token.clone();
        let word = match &token {
            Token::EOF => return Ok(Stmt::Empty),
            Token::LParen => return self.query_statement(),
            Token::Word(w) if w.quote_style.is_none() => w.value.to_ascii_uppercase(),
            _ => return self.fail(),
        };
        match word.as_str() {
            "SELECT" | "WITH" | "VALUES" => self.query_statement(),
            "INSERT" | "REPLACE" => self.insert(),
            "UPDATE" => self.update(),
            "DELETE" => self.delete(),
            "LOAD" => self.load(),
            "CREATE" => self.create(),
            "ALTER" => self.alter(),
            "DROP" => self.drop(),
            "TRUNCATE" => self.truncate(),
            "RENAME" => self.rename(),
            "EXPLAIN" | "DESCRIBE" | "DESC" => self.explain(),
            "SHOW" => self.show(),
            _ => self.control(&word),
        }
    }

    pub fn query_statement(&mut self) -> Result<Stmt> {
        Ok(Stmt::Query(self.query()?))
    }

    pub fn unsupported_first_word<T>(&self, word: &str) -> Result<T> {
        if UNSUPPORTED.contains(&word) { self.unsupported(word) } else { self.fail() }
    }

    // Helpers.

    /// 1064 at the next token.
    pub fn fail<T>(&self) -> Result<T> {
        Err(syntax_error(self.text, self.offset()))
    }

    /// 1235.
    pub fn unsupported<T>(&self, what: &str) -> Result<T> {
        Err(Error::not_supported(format!("This version of Damask doesn't yet support '{what}'")))
    }

    /// The next token's place in the text.
    pub fn offset(&self) -> usize {
        match self.parser.peek_token_ref() {
            TokenWithSpan { token: Token::EOF, .. } => self.text.len(),
            TokenWithSpan { span, .. } => span.start.column as usize,
        }
    }

    /// sqlparser's error as MySQL's.
    pub fn convert<T>(&self, result: std::result::Result<T, ParserError>) -> Result<T> {
        result.map_err(|error| match error {
            ParserError::RecursionLimitExceeded => too_deep(),
            _ => syntax_error(self.text, self.offset()),
        })
    }

    /// Is the next token this unquoted word?
    pub fn peek(&self, word: &str) -> bool {
        self.peek_nth(0, word)
    }

    pub fn peek_nth(&self, n: usize, word: &str) -> bool {
        matches!(&self.parser.peek_nth_token_ref(n).token, Token::Word(w)
            if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    pub fn peek_symbol(&self, token: &Token) -> bool {
        self.parser.peek_token_ref().token == *token
    }

    /// Takes this word if it is next.
    pub fn word(&mut self, word: &str) -> bool {
        let found = self.peek(word);
        if found {
            self.parser.next_token();
        }
        found
    }

    /// Takes these words if all of them are next.
    pub fn words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(n, w)| self.peek_nth(n, w));
        if found {
            words.iter().for_each(|_| drop(self.parser.next_token()));
        }
        found
    }

    /// Takes one of these words.
    pub fn one_of(&mut self, words: &[&'static str]) -> Option<&'static str> {
        words.iter().copied().find(|w| self.word(w))
    }

    pub fn expect(&mut self, word: &str) -> Result<()> {
        if self.word(word) { Ok(()) } else { self.fail() }
    }

    pub fn symbol(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub fn expect_symbol(&mut self, token: &Token) -> Result<()> {
        if self.symbol(token) { Ok(()) } else { self.fail() }
    }

    pub fn at_end(&self) -> bool {
        self.peek_symbol(&Token::EOF)
    }

    pub fn expect_end(&self) -> Result<()> {
        if self.at_end() { Ok(()) } else { self.fail() }
    }

    /// An identifier, quoted or not; reserved words only when quoted.
    pub fn name(&mut self) -> Result<String> {
        match &self.parser.peek_token_ref().token {
            Token::Word(w) if w.quote_style.is_some() || !is_reserved(&w.value) => {
                let name = w.value.clone();
                self.parser.next_token();
                Ok(name)
            }
            _ => self.fail(),
        }
    }

    /// An identifier or a string, as aliases and variable values are given.
    pub fn name_or_string(&mut self) -> Result<String> {
        match &self.parser.peek_token_ref().token {
            Token::SingleQuotedString(_) => self.string(),
            Token::Word(w) => {
                let name = w.value.clone();
                self.parser.next_token();
                Ok(name)
            }
            _ => self.fail(),
        }
    }

    /// The name of a character set or collation, which changes nothing here.
    pub fn collation(&mut self) -> Result<()> {
        let name = self.name_or_string()?;
        self.folds_case |= name.to_ascii_lowercase().ends_with("_ci");
        Ok(())
    }

    pub fn string(&mut self) -> Result<String> {
        match &self.parser.peek_token_ref().token {
            Token::SingleQuotedString(text) => {
                let text = text.clone();
                self.parser.next_token();
                Ok(text)
            }
            _ => self.fail(),
        }
    }

    pub fn number(&mut self) -> Result<u64> {
        let number = match &self.parser.peek_token_ref().token {
            Token::Number(digits, _) => digits.parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => {
                self.parser.next_token();
                Ok(number)
            }
            None => self.fail(),
        }
    }

    /// `(n)` if it is next.
    pub fn optional_length(&mut self) -> Result<Option<u64>> {
        if !self.symbol(&Token::LParen) {
            return Ok(None);
        }
        let n = self.number()?;
        self.expect_symbol(&Token::RParen)?;
        Ok(Some(n))
    }

    pub fn table_name(&mut self) -> Result<TableName> {
        let first = self.name()?;
        if !self.symbol(&Token::Period) {
            return Ok(TableName { database: None, table: first });
        }
        // After the period any word is a name.
        let table = match &self.parser.peek_token_ref().token {
            Token::Word(w) => w.value.clone(),
            _ => return self.fail(),
        };
        self.parser.next_token();
        Ok(TableName { database: Some(first), table })
    }

    /// One or more, separated by commas.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.symbol(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `(a, b)`.
    pub fn parenthesized<T>(&mut self, item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        self.expect_symbol(&Token::LParen)?;
        let items = self.list(item)?;
        self.expect_symbol(&Token::RParen)?;
        Ok(items)
    }

    pub fn expr(&mut self) -> Result<Expr> {
        let expr = self.parser.parse_expr();
        let mut expr = self.convert(expr)?;
        balance(&mut expr)?;
        Ok(expr)
    }

    pub fn query(&mut self) -> Result<Box<Query>> {
        let query = self.parser.parse_query();
        let mut query = self.convert(query)?;
        balance(query.as_mut())?;
        self.name_columns(&mut query);
        let _: ControlFlow<()> = query.visit(&mut Derived(self));
        Ok(query)
    }

    /// `IF [NOT] EXISTS`.
    pub fn if_exists(&mut self) -> bool {
        self.words(&["IF", "EXISTS"])
    }

    pub fn if_not_exists(&mut self) -> bool {
        self.words(&["IF", "NOT", "EXISTS"])
    }

    /// Skips a parenthesized group, the opening one being next.
    pub fn skip_group(&mut self) -> Result<()> {
        self.expect_symbol(&Token::LParen)?;
        let mut depth = 1;
        while depth > 0 {
            match self.parser.next_token().token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                Token::EOF => return self.fail(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Names the result columns that are expressions by their text, as MySQL does.
    fn name_columns(&self, query: &mut Query) {
        let mut body = query.body.as_mut();
        while let SetExpr::SetOperation { left, .. } = body {
            body = left.as_mut();
        }
        let SetExpr::Select(select) = body else { return };
        let at = select.select_token.0.span.start.column as usize;
        let Some(columns) = self.columns.get(&at) else { return };
        if select.projection.len() != columns.len() {
            return;
        }
        for (item, (from, to)) in select.projection.iter_mut().zip(columns) {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            if matches!(expr, Expr::Identifier(i) if !i.value.starts_with('@'))
                || matches!(expr, Expr::CompoundIdentifier(i) if !i[0].value.starts_with('@'))
            {
                continue;
            }
            let value = column_text(&self.text[*from..*to], expr);
            let alias = Ident { value, quote_style: Some('`'), span: Span::empty() };
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

/// Names the columns of derived tables and of WITH, which the query around them may name.
struct Derived<'p, 'a>(&'p P<'a>);

impl VisitorMut for Derived<'_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        for table in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            self.0.name_columns(&mut table.query);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived { subquery, .. } = factor {
            self.0.name_columns(subquery);
        }
        ControlFlow::Continue(())
    }
}

/// A string literal's column is called as its value, anything else as its text.
fn column_text(text: &str, expr: &Expr) -> String {
    match expr {
        Expr::Value(v) => match &v.value {
            sqlparser::ast::Value::SingleQuotedString(value) => value.clone(),
            _ => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

/// The database and table of a name in a query; `None` if it has another shape.
pub fn object_name(name: &ObjectName) -> Option<TableName> {
    let mut parts = name.0.iter().map(|p| p.as_ident().map(|i| i.value.clone()));
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Some(table)), None, None) => Some(TableName { database: None, table }),
        (Some(Some(database)), Some(Some(table)), None) => {
            Some(TableName { database: Some(database), table })
        }
        _ => None,
    }
}

/// MySQL's reserved words that must be quoted to be names. A word missing here is only accepted
/// more widely than in MySQL.
fn is_reserved(word: &str) -> bool {
    RESERVED.binary_search(&word.to_ascii_uppercase().as_str()).is_ok()
}

/// In order, for a binary search.
pub const RESERVED: [&str; 134] = [
    "ADD",
    "ALL",
    "ALTER",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BIGINT",
    "BINARY",
    "BLOB",
    "BOTH",
    "BY",
    "CASCADE",
    "CASE",
    "CHANGE",
    "CHAR",
    "CHARACTER",
    "CHECK",
    "COLLATE",
    "COLUMN",
    "CONSTRAINT",
    "CONVERT",
    "CREATE",
    "CROSS",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "CURRENT_USER",
    "DATABASE",
    "DATABASES",
    "DECIMAL",
    "DEFAULT",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DIV",
    "DOUBLE",
    "DROP",
    "ELSE",
    "ENCLOSED",
    "ESCAPED",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FLOAT",
    "FOR",
    "FORCE",
    "FOREIGN",
    "FROM",
    "FULLTEXT",
    "GRANT",
    "GROUP",
    "GROUPS",
    "HAVING",
    "IF",
    "IGNORE",
    "IN",
    "INDEX",
    "INFILE",
    "INNER",
    "INSERT",
    "INT",
    "INTEGER",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "KEY",
    "KEYS",
    "KILL",
    "LEADING",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LINES",
    "LOAD",
    "LOCK",
    "LONGBLOB",
    "LONGTEXT",
    "MATCH",
    "MEDIUMBLOB",
    "MEDIUMINT",
    "MEDIUMTEXT",
    "MOD",
    "NATURAL",
    "NOT",
    "NULL",
    "NUMERIC",
    "ON",
    "OPTIMIZE",
    "OPTION",
    "OR",
    "ORDER",
    "OUTER",
    "PARTITION",
    "PRIMARY",
    "PROCEDURE",
    "RANGE",
    "RANK",
    "READ",
    "REFERENCES",
    "REGEXP",
    "RENAME",
    "REPLACE",
    "REVOKE",
    "RIGHT",
    "SCHEMA",
    "SELECT",
    "SET",
    "SHOW",
    "SMALLINT",
    "SQL",
    "STARTING",
    "TABLE",
    "TERMINATED",
    "THEN",
    "TO",
    "TRUE",
    "UNION",
    "UNIQUE",
    "UNLOCK",
    "UNSIGNED",
    "UPDATE",
    "USE",
    "USING",
    "VALUES",
    "VARCHAR",
    "WHEN",
    "WHERE",
    "WITH",
    "WRITE",
];

#[cfg(test)]
mod tests {
    #[test]
    fn reserved_words_are_sorted() {
        assert!(super::RESERVED.is_sorted());
    }
}
