//! What sqlparser cannot parse and has an equal it can, changed among the tokens; and where the
//! items of the select list stand. It must never change a statement's meaning.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

fn is(token: Option<&TokenWithSpan>, word: &str) -> bool {
    matches!(token.map(|t| &t.token), Some(Token::Word(w))
        if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// Words directly after SELECT that only tune MySQL's own execution.
const MODIFIERS: [&str; 8] = [
    "SQL_NO_CACHE",
    "SQL_CACHE",
    "SQL_SMALL_RESULT",
    "SQL_BIG_RESULT",
    "SQL_BUFFER_RESULT",
    "HIGH_PRIORITY",
    "SQL_CALC_FOUND_ROWS",
    "STRAIGHT_JOIN",
];

fn is_query(tokens: &[TokenWithSpan]) -> bool {
    let first = tokens.iter().find(|t| t.token != Token::LParen);
    ["SELECT", "WITH", "INSERT", "REPLACE", "UPDATE", "DELETE", "EXPLAIN", "DESC", "DESCRIBE", "DO"]
        .iter()
        .any(|word| is(first, word))
}

/// * `TABLE t` becomes `SELECT * FROM t`;
/// * modifiers after SELECT, `LOCK IN SHARE MODE` and `CHARACTER SET x` in casts are dropped;
/// * `INTO` and everything else stays as it is.
pub fn rewrite(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if is(tokens.first(), "TABLE") {
        let span = tokens[0].span;
        let words = [Token::make_word("SELECT", None), Token::Mul, Token::make_word("FROM", None)];
        tokens.splice(0..1, words.map(|token| TokenWithSpan { token, span }));
        return tokens;
    }
    if !is_query(&tokens) || !needs_rewrite(&tokens) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let here = &tokens[at..];
        if is(here.first(), "LOCK")
            && is(here.get(1), "IN")
            && is(here.get(2), "SHARE")
            && is(here.get(3), "MODE")
        {
            at += 4;
        } else if is(here.first(), "CHARACTER") && is(here.get(1), "SET") && here.len() > 2 {
            at += 3;
        } else if is(here.first(), "CHARSET")
            && here.len() > 1
            && !matches!(here[1].token, Token::LParen)
        {
            at += 2;
        } else {
            let select = is(here.first(), "SELECT");
            out.push(tokens[at].clone());
            at += 1;
            while select && MODIFIERS.iter().any(|m| is(tokens.get(at), m)) {
                at += 1;
            }
        }
    }
    out
}

fn needs_rewrite(tokens: &[TokenWithSpan]) -> bool {
    tokens.iter().any(|t| match &t.token {
        Token::Word(w) if w.quote_style.is_none() => {
            matches!(w.keyword, Keyword::LOCK | Keyword::CHARACTER | Keyword::CHARSET)
                || (w.value.len() >= 9 && MODIFIERS.iter().any(|m| w.value.eq_ignore_ascii_case(m)))
        }
        _ => false,
    })
}

/// Byte ranges of the items of the outermost SELECT; empty if there is none.
pub fn select_list(tokens: &[TokenWithSpan]) -> Vec<(usize, usize)> {
    let mut depth = 0i32;
    let mut items = Vec::new();
    let mut start: Option<usize> = None;
    let mut end = 0;
    let mut inside = false;
    for token in tokens {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(w) if depth == 0 && w.quote_style.is_none() => {
                if !inside && w.keyword == Keyword::SELECT {
                    inside = true;
                    continue;
                }
                let skipped =
                    matches!(w.keyword, Keyword::DISTINCT | Keyword::ALL | Keyword::DISTINCTROW);
                if inside && start.is_none() && items.is_empty() && skipped {
                    continue;
                }
                if inside && ends_list(w.keyword) {
                    break;
                }
            }
            Token::Comma if depth == 0 && inside => {
                if let Some(from) = start.take() {
                    items.push((from, end));
                }
                continue;
            }
            _ => {}
        }
        if inside {
            start.get_or_insert(token.span.start.column as usize);
            end = token.span.end.column as usize;
        }
    }
    if let Some(from) = start {
        items.push((from, end));
    }
    items
}

fn ends_list(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::FROM
            | Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::ORDER
            | Keyword::LIMIT
            | Keyword::UNION
            | Keyword::INTERSECT
            | Keyword::EXCEPT
            | Keyword::INTO
            | Keyword::WINDOW
            | Keyword::FOR
    )
}
