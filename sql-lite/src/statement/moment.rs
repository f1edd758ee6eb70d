//! `AS OF TIMESTAMP x` behind the tables of a query: taken out of its tokens before they come to
//! sqlparser, which does not know it. It must never leave a part of such a clause behind.

use super::Stmt;
use super::dialect::Dialected;
use super::parser::{DEPTH_MAX, P};
use super::rewrite::{SelectLists, is};
use crate::error::Result;
use sqlparser::ast::Expr;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan};

/// Takes every `AS OF TIMESTAMP x` out of a query; the tokens of each x.
pub fn take_as_of(tokens: &mut Vec<TokenWithSpan>) -> Vec<Vec<TokenWithSpan>> {
    let mut found = Vec::new();
    let first = tokens.iter().find(|t| t.token != Token::LParen);
    if !["SELECT", "WITH", "EXPLAIN", "DESC", "DESCRIBE"].iter().any(|word| is(first, word)) {
        return found;
    }
    let mut at = 0;
    while at < tokens.len() {
        let clause = |at: usize| ["AS", "OF", "TIMESTAMP"].iter().zip(at..);
        if !clause(at).all(|(word, at)| is(tokens.get(at), word)) {
            at += 1;
            continue;
        }
        let end = at + 3 + end_of_moment(&tokens[at + 3..]);
        found.push(tokens.drain(at..end).skip(3).collect());
    }
    found
}

/// Tokens up to where the clause around an expression goes on.
fn end_of_moment(tokens: &[TokenWithSpan]) -> usize {
    let mut depth = 0i32;
    let ends = |at: usize, token: &TokenWithSpan| match &token.token {
        Token::Comma | Token::SemiColon | Token::EOF => true,
        Token::Word(word) if word.quote_style.is_none() => {
            // LEFT(…) and RIGHT(…) are functions.
            let called = matches!(tokens.get(at + 1).map(|t| &t.token), Some(Token::LParen));
            !called && ENDS_MOMENT.contains(&word.keyword)
                || ENDS_MOMENT_BEFORE_PAREN.contains(&word.keyword)
        }
        _ => false,
    };
    for (at, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return at,
            Token::RParen => depth -= 1,
            _ if depth == 0 && ends(at, token) => return at,
            _ => {}
        }
    }
    tokens.len()
}

const ENDS_MOMENT: [Keyword; 20] = [
    Keyword::WHERE,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::ORDER,
    Keyword::LIMIT,
    Keyword::UNION,
    Keyword::INTERSECT,
    Keyword::EXCEPT,
    Keyword::JOIN,
    Keyword::INNER,
    Keyword::LEFT,
    Keyword::RIGHT,
    Keyword::CROSS,
    Keyword::NATURAL,
    Keyword::STRAIGHT_JOIN,
    Keyword::FOR,
    Keyword::USE,
    Keyword::FORCE,
    Keyword::WINDOW,
    Keyword::INTO,
];
const ENDS_MOMENT_BEFORE_PAREN: [Keyword; 2] = [Keyword::ON, Keyword::USING];

impl P<'_> {
    /// The statement, with the moments that were taken out of it.
    pub(super) fn as_of(&self, stmt: Stmt, moments: Vec<Vec<TokenWithSpan>>) -> Result<Stmt> {
        if moments.is_empty() {
            return Ok(stmt);
        }
        let Stmt::Query(query) = stmt else { return self.unsupported("AS OF TIMESTAMP here") };
        let at = moments.into_iter().map(|tokens| self.moment(tokens)).collect::<Result<_>>()?;
        Ok(Stmt::AsOf { query, at })
    }

    /// The expression that these tokens are.
    fn moment(&self, tokens: Vec<TokenWithSpan>) -> Result<Expr> {
        let dialect = Dialected::default();
        let parser = Parser::new(&dialect).with_recursion_limit(DEPTH_MAX);
        let parser = parser.with_tokens_with_locations(tokens);
        let columns = SelectLists::new();
        let mut p = P { parser, text: self.text, columns, folds_case: false };
        let expr = p.expr()?;
        p.expect_end().map(|()| expr)
    }
}
