//! From text to sqlparser's tokens, one statement at a time, with MySQL's lexical rules: version
//! comments are executed, hints collected, `?` numbered, strings unescaped under the session's
//! `sql_mode`. A token's span holds its byte offsets as columns. It must never panic on any text.

use super::hints::Hints;
use crate::error::{Error, Result};
use crate::variables::SqlMode;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

/// Operators in one chain (`a + b + …`): a tree so deep is taken apart once, then balanced.
pub const CHAIN_MAX: u32 = 5_000;
/// AND and OR in one statement. Their chains are balanced, but planning takes them apart and puts
/// the parts in a row again.
pub const CONDITIONS_MAX: u32 = 20_000;
/// Parentheses within each other.
pub const PARENTHESES_MAX: usize = 70;
/// Set operations (UNION …) in one statement, for the same reason.
pub const SET_OPERATIONS_MAX: u32 = 200;
/// Stack of the threads that parse, plan and run statements: enough for all of the above. It is
/// address space, not memory, until used.
pub const STACK_BYTES: usize = 256 << 20;
/// `/*!NNNNNN …*/` is executed up to this version.
const VERSION_MAX: u32 = 80_099;

/// One statement's tokens.
#[derive(Debug)]
pub struct Lexed {
    /// Without blanks and comments, without the `;`.
    pub tokens: Vec<TokenWithSpan>,
    /// From `/*+ … */`.
    pub hints: Hints,
    /// How many `?`.
    pub params: usize,
    /// Where the next statement starts.
    pub end: usize,
}

/// MySQL's syntax error, from this offset on.
pub fn syntax_error(text: &str, at: usize) -> Error {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let line = 1 + text[..at].bytes().filter(|b| *b == b'\n').count();
    let near: String = text[at..].chars().take(80).collect();
    Error::parse(format!(
        "You have an error in your SQL syntax; check the manual that corresponds to your MySQL \
         server version for the right syntax to use near '{near}' at line {line}"
    ))
}

/// The statement is nested too deeply.
pub fn too_deep() -> Error {
    Error {
        code: 1436,
        state: "HY000",
        message: "Thread stack overrun: the statement is nested too deeply".to_owned(),
    }
}

/// Is there nothing but blanks, comments and `;` from here on?
pub fn is_blank(text: &str, from: usize) -> bool {
    let mut lexer = Lexer::new(text, from, SqlMode::default());
    loop {
        match lexer.skip_blanks() {
            Err(_) => return false,
            Ok(()) if lexer.at >= lexer.bytes.len() => return true,
            Ok(()) if lexer.bytes[lexer.at] == b';' => lexer.at += 1,
            Ok(()) => return false,
        }
    }
}

/// Reads one statement from an offset.
pub fn lex(text: &str, from: usize, mode: SqlMode) -> Result<Lexed> {
    let mut lexer = Lexer::new(text, from, mode);
    loop {
        lexer.skip_blanks()?;
        if lexer.at >= lexer.bytes.len() {
            break;
        }
        if lexer.bytes[lexer.at] == b';' {
            lexer.at += 1;
            break;
        }
        lexer.token()?;
    }
    if lexer.in_version_comment {
        return Err(syntax_error(text, text.len()));
    }
    let Lexer { tokens, hints, params, at, .. } = lexer;
    Ok(Lexed { tokens, hints, params, end: at })
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    mode: SqlMode,
    tokens: Vec<TokenWithSpan>,
    hints: Hints,
    params: usize,
    in_version_comment: bool,
    chains: Vec<u32>,
    conditions: u32,
    set_operations: u32,
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, from: usize, mode: SqlMode) -> Lexer<'a> {
        Lexer {
            text,
            bytes: text.as_bytes(),
            at: from,
            mode,
            tokens: Vec::with_capacity((text.len() - from.min(text.len())).min(1 << 20) / 5 + 4),
            hints: Hints::default(),
            params: 0,
            in_version_comment: false,
            chains: vec![0],
            conditions: 0,
            set_operations: 0,
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn fail<T>(&self) -> Result<T> {
        Err(syntax_error(self.text, self.at))
    }

    fn push(&mut self, token: Token, start: usize) -> Result<()> {
        self.count(&token)?;
        let at = |offset: usize| Location { line: 1, column: offset as u64 };
        self.tokens
            .push(TokenWithSpan { token, span: Span { start: at(start), end: at(self.at) } });
        Ok(())
    }

    fn count(&mut self, token: &Token) -> Result<()> {
        let operator = match token {
            Token::LParen => {
                if self.chains.len() > PARENTHESES_MAX {
                    return Err(too_deep());
                }
                self.chains.push(0);
                false
            }
            Token::RParen => {
                if self.chains.len() > 1 {
                    self.chains.pop();
                }
                false
            }
            Token::Comma => {
                *self.chains.last_mut().expect("never empty") = 0;
                false
            }
            Token::Word(w) => match w.keyword {
                Keyword::AND | Keyword::OR => {
                    self.conditions += 1;
                    if self.conditions > CONDITIONS_MAX {
                        return Err(too_deep());
                    }
                    *self.chains.last_mut().expect("never empty") = 0;
                    false
                }
                Keyword::XOR => true,
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT => {
                    self.set_operations += 1;
                    if self.set_operations > SET_OPERATIONS_MAX {
                        return Err(too_deep());
                    }
                    false
                }
                _ => false,
            },
            Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::Mod => true,
            Token::StringConcat | Token::Overlap | Token::Pipe | Token::Ampersand => true,
            Token::Caret | Token::Eq | Token::Lt | Token::Gt | Token::Neq => true,
            Token::LtEq | Token::GtEq | Token::Spaceship => true,
            Token::ShiftLeft | Token::ShiftRight | Token::Arrow | Token::LongArrow => true,
            _ => false,
        };
        if operator {
            let chain = self.chains.last_mut().expect("never empty");
            *chain += 1;
            if *chain > CHAIN_MAX {
                return Err(too_deep());
            }
        }
        Ok(())
    }

    fn skip_blanks(&mut self) -> Result<()> {
        loop {
            match self.peek(0) {
                0 if self.at >= self.bytes.len() => return Ok(()),
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'#' => self.skip_line(),
                b'-' if self.peek(1) == b'-'
                    && (self.at + 2 >= self.bytes.len() || self.peek(2) <= b' ') =>
                {
                    self.skip_line();
                }
                b'/' if self.peek(1) == b'*' => self.comment()?,
                b'*' if self.peek(1) == b'/' && self.in_version_comment => {
                    self.at += 2;
                    self.in_version_comment = false;
                }
                _ => return Ok(()),
            }
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.bytes[self.at..];
        self.at += rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |n| n + 1);
    }

    fn comment(&mut self) -> Result<()> {
        if self.peek(2) == b'!' {
            let digits = self.bytes[self.at + 3..].iter().take_while(|b| b.is_ascii_digit());
            let digits = digits.take(6).count();
            let number = &self.text[self.at + 3..self.at + 3 + digits];
            if number.parse::<u32>().unwrap_or(0) <= VERSION_MAX && !self.in_version_comment {
                self.at += 3 + digits;
                self.in_version_comment = true;
                return Ok(());
            }
        }
        let body = &self.text[self.at + 2..];
        let Some(end) = body.find("*/") else { return self.fail() };
        if let Some(hint) = body[..end].strip_prefix('+') {
            self.hints.add(hint);
        }
        self.at += end + 4;
        Ok(())
    }

    fn token(&mut self) -> Result<()> {
        let start = self.at;
        match self.peek(0) {
            b'\'' => self.string(b'\'', start),
            b'"' if self.mode.ansi_quotes() => self.quoted_word(b'"', start),
            b'"' => self.string(b'"', start),
            b'`' => self.quoted_word(b'`', start),
            b'@' => self.variable(start),
            b'?' => {
                self.at += 1;
                let number = self.params;
                self.params += 1;
                self.push(Token::Placeholder(format!("?{number}")), start)
            }
            b'0'..=b'9' => self.number_or_word(start),
            b'.' if self.peek(1).is_ascii_digit() && !self.after_name() => self.number(start),
            b'x' | b'X' | b'b' | b'B' | b'n' | b'N' if self.peek(1) == b'\'' => {
                self.prefixed_string(start)
            }
            b if is_word(b) => {
                while is_word(self.peek(0)) {
                    self.at += 1;
                }
                self.push(Token::make_word(&self.text[start..self.at], None), start)
            }
            _ => self.operator(start),
        }
    }

    /// A name directly before: `t.5x` is a column, not `t` and `.5`.
    fn after_name(&self) -> bool {
        self.tokens.last().is_some_and(|t| {
            matches!(&t.token, Token::Word(_)) && t.span.end.column == self.at as u64
        })
    }

    fn number_or_word(&mut self, start: usize) -> Result<()> {
        let (first, second) = (self.peek(0), self.peek(1));
        if first == b'0' && (second == b'x' || second == b'b') {
            let digits = &self.bytes[self.at + 2..];
            let hex = second == b'x';
            let ok = |b: &&u8| if hex { b.is_ascii_hexdigit() } else { matches!(b, b'0' | b'1') };
            let n = digits.iter().take_while(ok).count();
            if n > 0 && !digits.get(n).is_some_and(|b| is_word(*b)) {
                self.at += 2 + n;
                let digits = self.text[start + 2..self.at].to_owned();
                return self.push(
                    if hex { Token::HexStringLiteral(digits) } else { bits(&digits) },
                    start,
                );
            }
        }
        let run = self.bytes[start..].iter().take_while(|b| is_word(**b)).count();
        let run = &self.bytes[start..start + run];
        let after_period = matches!(self.tokens.last().map(|t| &t.token), Some(Token::Period));
        let numeric = {
            let digits = run.iter().take_while(|b| b.is_ascii_digit()).count();
            // 1e5, 1E5; with a sign the exponent continues after the run.
            let rest = &run[digits..];
            rest.is_empty()
                || (matches!(rest[0], b'e' | b'E')
                    && rest[1..].iter().all(u8::is_ascii_digit)
                    && (rest.len() > 1
                        || (matches!(self.peek(run.len()), b'+' | b'-')
                            && self.peek(run.len() + 1).is_ascii_digit())))
        };
        if numeric && !after_period {
            return self.number(start);
        }
        self.at = start + run.len();
        self.push(Token::make_word(&self.text[start..self.at], None), start)
    }

    fn number(&mut self, start: usize) -> Result<()> {
        let digits = |lexer: &mut Self| {
            while lexer.peek(0).is_ascii_digit() {
                lexer.at += 1;
            }
        };
        digits(self);
        if self.peek(0) == b'.' {
            self.at += 1;
            digits(self);
        }
        if matches!(self.peek(0), b'e' | b'E') {
            let signed = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + signed).is_ascii_digit() {
                self.at += 1 + signed;
                digits(self);
            }
        }
        self.push(Token::Number(self.text[start..self.at].to_owned(), false), start)
    }

    fn prefixed_string(&mut self, start: usize) -> Result<()> {
        let kind = self.peek(0).to_ascii_lowercase();
        self.at += 1;
        if kind == b'n' {
            return self.string(b'\'', start);
        }
        let body = &self.text[self.at + 1..];
        let Some(end) = body.find('\'') else { return self.fail() };
        let digits = body[..end].to_owned();
        let fine = match kind {
            b'x' => digits.len().is_multiple_of(2) && digits.bytes().all(|b| b.is_ascii_hexdigit()),
            _ => digits.bytes().all(|b| matches!(b, b'0' | b'1')),
        };
        if !fine {
            self.at = start;
            return self.fail();
        }
        self.at += end + 2;
        self.push(if kind == b'x' { Token::HexStringLiteral(digits) } else { bits(&digits) }, start)
    }

    fn quoted_word(&mut self, quote: u8, start: usize) -> Result<()> {
        let Some(name) = self.quoted(quote) else { return self.fail() };
        self.push(Token::make_word(&name, Some('`')), start)
    }

    /// Text up to the closing quote, a doubled quote meaning one; no escapes.
    fn quoted(&mut self, quote: u8) -> Option<String> {
        let mut name = Vec::new();
        let mut at = self.at + 1;
        loop {
            let b = *self.bytes.get(at)?;
            if b == quote {
                if self.bytes.get(at + 1) != Some(&quote) {
                    break;
                }
                at += 1;
            }
            name.push(b);
            at += 1;
        }
        self.at = at + 1;
        String::from_utf8(name).ok()
    }

    fn variable(&mut self, start: usize) -> Result<()> {
        while self.peek(0) == b'@' && self.at < start + 2 {
            self.at += 1;
        }
        let at_signs = self.at - start;
        match self.peek(0) {
            quote @ (b'`' | b'\'' | b'"') if at_signs == 1 => {
                let Some(name) = self.quoted(quote) else { return self.fail() };
                self.push(Token::make_word(&format!("@{name}"), None), start)
            }
            b'`' => {
                let Some(name) = self.quoted(b'`') else { return self.fail() };
                self.push(Token::make_word(&format!("@@{name}"), None), start)
            }
            b if is_word(b) || (at_signs == 1 && b == b'.') => {
                // A user variable's name may hold dots.
                while is_word(self.peek(0)) || (at_signs == 1 && self.peek(0) == b'.') {
                    self.at += 1;
                }
                self.push(Token::make_word(&self.text[start..self.at], None), start)
            }
            _ if at_signs == 1 => self.push(Token::AtSign, start),
            _ => self.fail(),
        }
    }

    fn string(&mut self, quote: u8, start: usize) -> Result<()> {
        let escapes = !self.mode.no_backslash_escapes();
        let body = self.at + 1;
        let mut at = body;
        let mut plain = true;
        // The common string has nothing to unescape and is copied whole.
        let end = loop {
            match self.bytes.get(at) {
                None => return Err(syntax_error(self.text, start)),
                Some(b) if *b == quote => {
                    if self.bytes.get(at + 1) != Some(&quote) {
                        break at;
                    }
                    plain = false;
                    at += 2;
                }
                Some(b'\\') if escapes => {
                    plain = false;
                    at += 2;
                }
                Some(_) => at += 1,
            }
        };
        let raw = &self.text[body..end];
        let value = if plain { raw.to_owned() } else { unescape(raw, quote, escapes) };
        self.at = end + 1;
        if let Some(TokenWithSpan { token: Token::SingleQuotedString(before), .. }) =
            self.tokens.last_mut()
        {
            before.push_str(&value);
            return Ok(());
        }
        self.push(Token::SingleQuotedString(value), start)
    }

    fn operator(&mut self, start: usize) -> Result<()> {
        let three = [self.peek(0), self.peek(1), self.peek(2)];
        let (token, len) = match three {
            [b'<', b'=', b'>'] => (Token::Spaceship, 3),
            [b'-', b'>', b'>'] => (Token::LongArrow, 3),
            [b'<', b'=', _] => (Token::LtEq, 2),
            [b'>', b'=', _] => (Token::GtEq, 2),
            [b'<', b'>', _] | [b'!', b'=', _] => (Token::Neq, 2),
            [b'<', b'<', _] => (Token::ShiftLeft, 2),
            [b'>', b'>', _] => (Token::ShiftRight, 2),
            [b':', b'=', _] => (Token::Assignment, 2),
            [b'|', b'|', _] => (Token::StringConcat, 2),
            [b'&', b'&', _] => (Token::Overlap, 2),
            [b'-', b'>', _] => (Token::Arrow, 2),
            [b'=', ..] => (Token::Eq, 1),
            [b'<', ..] => (Token::Lt, 1),
            [b'>', ..] => (Token::Gt, 1),
            [b'+', ..] => (Token::Plus, 1),
            [b'-', ..] => (Token::Minus, 1),
            [b'*', ..] => (Token::Mul, 1),
            [b'/', ..] => (Token::Div, 1),
            [b'%', ..] => (Token::Mod, 1),
            [b'(', ..] => (Token::LParen, 1),
            [b')', ..] => (Token::RParen, 1),
            [b',', ..] => (Token::Comma, 1),
            [b'.', ..] => (Token::Period, 1),
            [b':', ..] => (Token::Colon, 1),
            [b'&', ..] => (Token::Ampersand, 1),
            [b'|', ..] => (Token::Pipe, 1),
            [b'^', ..] => (Token::Caret, 1),
            [b'~', ..] => (Token::Tilde, 1),
            [b'!', ..] => (Token::ExclamationMark, 1),
            [b'{', ..] => (Token::LBrace, 1),
            [b'}', ..] => (Token::RBrace, 1),
            _ => return self.fail(),
        };
        self.at += len;
        self.push(token, start)
    }
}

/// `b'101'`: the bytes it stands for, as a hexadecimal literal.
fn bits(digits: &str) -> Token {
    let bytes = digits.len().div_ceil(8).max(1);
    let padded = format!("{digits:0>width$}", width = bytes * 8);
    let hex = padded.as_bytes().chunks(4).map(|nibble| {
        let value = nibble.iter().fold(0, |v, b| v * 2 + u32::from(b - b'0'));
        char::from_digit(value, 16).expect("four bits")
    });
    Token::HexStringLiteral(hex.collect())
}

fn unescape(raw: &str, quote: u8, escapes: bool) -> String {
    let quote = char::from(quote);
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            chars.next();
            out.push(quote);
        } else if c == '\\' && escapes {
            match chars.next() {
                Some('0') => out.push('\0'),
                Some('b') => out.push('\u{8}'),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('Z') => out.push('\u{1a}'),
                // LIKE needs to see these.
                Some(wildcard @ ('%' | '_')) => {
                    out.push('\\');
                    out.push(wildcard);
                }
                Some(other) => out.push(other),
                None => {}
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<String> {
        let lexed = lex(text, 0, SqlMode::default()).expect(text);
        lexed.tokens.iter().map(|t| t.token.to_string()).collect()
    }

    #[test]
    fn comments_by_kind() {
        assert_eq!(tokens("a -- b\n c # d\n /* e */ f"), ["a", "c", "f"]);
        assert_eq!(tokens("SHOW /*!50002 FULL*/ TABLES"), ["SHOW", "FULL", "TABLES"]);
        assert_eq!(tokens("/*!40100 SET x=1 */"), ["SET", "x", "=", "1"]);
        assert_eq!(tokens("/*M!100100 SET x=1 */"), [""; 0]);
        assert_eq!(tokens("/*!999999 x */ y"), ["y"]);
        assert_eq!(tokens("1--1"), ["1", "-", "-", "1"]);
        assert!(lex("a /* b", 0, SqlMode::default()).is_err());
        assert!(lex("/*!40100 b", 0, SqlMode::default()).is_err());
        let hinted = lex("select /*+ READ_FROM_STORAGE(TIKV[t]) */ 1", 0, SqlMode::default());
        assert_eq!(hinted.expect("lexes").hints.storage.len(), 1);
    }

    #[test]
    fn literals() {
        assert_eq!(
            tokens("1.5e-3 .5 1. 1e5 1abc t.5x"),
            ["1.5e-3", ".5", "1.", "1e5", "1abc", "t", ".", "5x"]
        );
        assert_eq!(tokens("0x4D x'4d' b'1000001'"), ["X'4D'", "X'4d'", "X'41'"]);
        assert_eq!(tokens(r"'a\'b''c\n\%' 'd'"), ["'a'b'c\n\\%d'"]);
        assert_eq!(tokens("@x @@session.y @`z z`"), ["@x", "@@session", ".", "y", "@z z"]);
        assert!(lex("'open", 0, SqlMode::default()).is_err());
        assert!(lex("x'4'", 0, SqlMode::default()).is_err());
    }

    #[test]
    fn modes_change_quotes_and_escapes() {
        let ansi = SqlMode::parse("ANSI_QUOTES").expect("mode");
        let lexed = lex("\"a\"", 0, ansi).expect("lexes");
        assert!(matches!(&lexed.tokens[0].token, Token::Word(w) if w.value == "a"));
        let raw = SqlMode::parse("NO_BACKSLASH_ESCAPES").expect("mode");
        let lexed = lex(r"'a\n'", 0, raw).expect("lexes");
        assert_eq!(lexed.tokens[0].token, Token::SingleQuotedString(r"a\n".to_owned()));
    }

    #[test]
    fn statements_are_split_and_params_numbered() {
        let text = "select ';', ? ; ; select ?";
        let first = lex(text, 0, SqlMode::default()).expect("first");
        assert_eq!((first.tokens.len(), first.params), (4, 1));
        assert!(!is_blank(text, first.end));
        assert!(is_blank("select 1; -- done\n ; ", 8));
    }

    #[test]
    fn long_chains_are_refused() {
        let lexed = |text: &str| lex(text, 0, SqlMode::default()).map(drop);
        let chain = |n: u32, term: &str| format!("select 1{}", term.repeat(n as usize));
        assert!(lexed(&chain(CHAIN_MAX, " + 1")).is_ok());
        assert_eq!(lexed(&chain(CHAIN_MAX + 1, " + 1")).expect_err("long").code, 1436);
        assert!(lexed(&chain(CONDITIONS_MAX, " or a = 1")).is_ok());
        assert_eq!(lexed(&chain(CONDITIONS_MAX + 1, " and a = 1")).expect_err("long").code, 1436);
        let list = format!("select 1{}", ", 1 + 1".repeat(3_000));
        assert!(lex(&list, 0, SqlMode::default()).is_ok());
    }
}
