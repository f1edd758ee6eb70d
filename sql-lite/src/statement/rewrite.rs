//! What sqlparser cannot parse and has an equal it can, changed among the tokens; and where the
//! items of the select list stand. It must never change a statement's meaning.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};
use std::collections::HashMap;

pub(super) fn is(token: Option<&TokenWithSpan>, word: &str) -> bool {
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

/// Does the statement ask how many rows it has without its LIMIT?
pub fn calculates_found_rows(tokens: &[TokenWithSpan]) -> bool {
    let first = tokens.iter().position(|t| t.token != Token::LParen).unwrap_or(0);
    is(tokens.get(first), "SELECT")
        && tokens[first + 1..]
            .iter()
            .take(MODIFIERS.len())
            .take_while(|t| matches!(t.token, Token::Word(_)))
            .any(|t| is(Some(t), "SQL_CALC_FOUND_ROWS"))
}

fn is_query(tokens: &[TokenWithSpan]) -> bool {
    let first = tokens.iter().find(|t| t.token != Token::LParen);
    ["SELECT", "WITH", "INSERT", "REPLACE", "UPDATE", "DELETE", "EXPLAIN", "DESC", "DESCRIBE", "DO"]
        .iter()
        .any(|word| is(first, word))
}

/// Takes `INTO @a, @b` out of a SELECT; the names of the variables, without the `@`.
pub fn take_into(tokens: &mut Vec<TokenWithSpan>) -> Option<Vec<String>> {
    if !is(tokens.first(), "SELECT") && !is(tokens.first(), "WITH") {
        return None;
    }
    let mut depth = 0i32;
    let into = tokens.iter().position(|token| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0 && is(Some(token), "INTO")
    })?;
    let variable = |at: usize| match tokens.get(at).map(|t| &t.token) {
        Some(Token::Word(w)) if w.value.starts_with('@') && !w.value.starts_with("@@") => {
            Some(w.value[1..].to_ascii_lowercase())
        }
        _ => None,
    };
    let mut names = vec![variable(into + 1)?];
    let mut end = into + 2;
    while tokens.get(end).is_some_and(|t| t.token == Token::Comma) {
        names.push(variable(end + 1)?);
        end += 2;
    }
    tokens.drain(into..end);
    Some(names)
}

/// * `TABLE t` becomes `SELECT * FROM t`;
/// * `LOCK IN SHARE MODE` becomes `FOR SHARE`;
/// * modifiers after SELECT and `CHARACTER SET x` in casts are dropped;
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
            let span = here[0].span;
            let words = ["FOR", "SHARE"].map(|word| Token::make_word(word, None));
            out.extend(words.map(|token| TokenWithSpan { token, span }));
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

/// Where the items of select lists stand: by the place of each SELECT, byte ranges.
pub type SelectLists = HashMap<usize, Vec<(usize, usize)>>;

/// A select list being read.
struct List {
    select: usize,
    depth: i32,
    item: Option<(usize, usize)>,
    items: Vec<(usize, usize)>,
    ended: bool,
}

impl List {
    fn next_item(&mut self) {
        self.items.extend(self.item.take());
    }
}

/// The items of every SELECT of a statement.
pub fn select_lists(tokens: &[TokenWithSpan]) -> SelectLists {
    let mut found = SelectLists::new();
    let mut open: Vec<List> = Vec::new();
    let mut depth = 0i32;
    let mut close = |list: Option<List>| {
        if let Some(mut list) = list {
            list.next_item();
            found.insert(list.select, list.items);
        }
    };
    for token in tokens {
        let (start, end) = (token.span.start.column as usize, token.span.end.column as usize);
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth -= 1;
                while open.last().is_some_and(|list| list.depth > depth) {
                    close(open.pop());
                }
            }
            Token::Word(w) if w.quote_style.is_none() && w.keyword == Keyword::SELECT => {
                if open.last().is_some_and(|list| list.depth == depth) {
                    close(open.pop());
                }
                open.push(List {
                    select: start,
                    depth,
                    item: None,
                    items: Vec::new(),
                    ended: false,
                });
                continue;
            }
            _ => {}
        }
        let Some(list) = open.last_mut().filter(|list| !list.ended) else { continue };
        match &token.token {
            Token::Word(w) if list.depth == depth && w.quote_style.is_none() => {
                let skipped =
                    matches!(w.keyword, Keyword::DISTINCT | Keyword::ALL | Keyword::DISTINCTROW);
                if skipped && list.item.is_none() && list.items.is_empty() {
                    continue;
                }
                if ends_list(w.keyword) {
                    list.next_item();
                    list.ended = true;
                    continue;
                }
            }
            Token::Comma if list.depth == depth => {
                list.next_item();
                continue;
            }
            _ => {}
        }
        list.item = Some((list.item.map_or(start, |(from, _)| from), end));
    }
    while !open.is_empty() {
        close(open.pop());
    }
    found
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
