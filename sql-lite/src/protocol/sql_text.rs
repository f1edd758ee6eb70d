//! The bytes of a COM_QUERY before the parser sees them. It must never change what a statement
//! means.
//!
//! Two things cannot wait for a parser: clients escape binary strings as raw bytes within quotes
//! (`_binary'\xff…'`), which is not UTF-8; and a client that did not ask for several statements in
//! a text must not get a second one run, for that is how an injected one would come.

use crate::error::{Error, Result};
use std::borrow::Cow;

/// What starts at a place of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lexeme {
    /// Blanks and comments.
    Nothing,
    /// A quoted string.
    Text,
    /// Anything else.
    Other,
}

/// The lexeme at `at` and where it ends.
fn lexeme(sql: &[u8], at: usize) -> (Lexeme, usize) {
    let rest = &sql[at..];
    let until = |found: Option<usize>| found.map_or(sql.len(), |i| at + i + 1);
    match rest[0] {
        quote @ (b'\'' | b'"') => (Lexeme::Text, string_end(sql, at, quote)),
        b'`' => (Lexeme::Other, until(rest.iter().skip(1).position(|b| *b == b'`').map(|i| i + 1))),
        b'#' => (Lexeme::Nothing, until(rest.iter().position(|b| *b == b'\n'))),
        b'-' if rest.starts_with(b"--") && rest.get(2).is_none_or(|b| b.is_ascii_whitespace()) => {
            (Lexeme::Nothing, until(rest.iter().position(|b| *b == b'\n')))
        }
        // The text of `/*! … */` and `/*+ … */` is not a comment.
        b'/' if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") => (Lexeme::Other, at + 3),
        b'/' if rest.starts_with(b"/*") => {
            let end = rest[2..].windows(2).position(|pair| pair == b"*/");
            (Lexeme::Nothing, until(end.map(|i| i + 3)))
        }
        b if b.is_ascii_whitespace() => (Lexeme::Nothing, at + 1),
        _ => (Lexeme::Other, at + 1),
    }
}

/// Where the string starting at `at` ends: past its closing quote. `''` and `\'` do not close it.
fn string_end(sql: &[u8], at: usize, quote: u8) -> usize {
    let mut i = at + 1;
    while i < sql.len() {
        match sql[i] {
            b'\\' => i += 2,
            b if b == quote && sql.get(i + 1) == Some(&quote) => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    sql.len()
}

/// Fails if the text holds more than one statement.
pub fn check_single(sql: &str) -> Result<()> {
    let bytes = sql.as_bytes();
    if !bytes.contains(&b';') {
        return Ok(());
    }
    let mut ended = false;
    let mut at = 0;
    while at < bytes.len() {
        let (kind, end) = lexeme(bytes, at);
        if bytes[at] == b';' {
            ended = true;
        } else if ended && kind != Lexeme::Nothing {
            let near: String = sql[at..].chars().take(80).collect();
            let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
            return Err(Error::parse(format!(
                "You have an error in your SQL syntax; check the manual that corresponds to your \
                 server version for the right syntax to use near '{near}' at line {line}"
            )));
        }
        at = end;
    }
    Ok(())
}

/// The text as UTF-8: strings that are not become hexadecimal literals.
pub fn to_utf8(sql: &[u8]) -> Result<Cow<'_, str>> {
    let Err(error) = std::str::from_utf8(sql) else {
        return Ok(String::from_utf8_lossy(sql));
    };
    let bad = error.valid_up_to();
    let mut out = Vec::with_capacity(sql.len() + 64);
    let mut at = 0;
    while at < sql.len() {
        let (kind, end) = lexeme(sql, at);
        let piece = &sql[at..end];
        if kind == Lexeme::Text && end > bad && std::str::from_utf8(piece).is_err() {
            drop_introducer(&mut out);
            out.extend_from_slice(b"X'");
            for byte in unescape(piece) {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            out.push(b'\'');
        } else {
            out.extend_from_slice(piece);
        }
        at = end;
    }
    match String::from_utf8(out) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(_) => {
            let shown = sql[bad..].iter().take(6).map(|b| format!("\\x{b:02X}"));
            let shown: String = shown.collect();
            let message = format!("Invalid utf8mb4 character string: '{shown}'");
            Err(Error { code: 1300, state: "HY000", message })
        }
    }
}

/// Takes a trailing `_binary` off: a hexadecimal literal is binary by itself.
fn drop_introducer(out: &mut Vec<u8>) {
    const BINARY: &[u8] = b"_binary";
    let end = out.trim_ascii_end().len();
    let Some(start) = end.checked_sub(BINARY.len()) else {
        return;
    };
    let word_before =
        start > 0 && (out[start - 1].is_ascii_alphanumeric() || out[start - 1] == b'_');
    if out[start..end].eq_ignore_ascii_case(BINARY) && !word_before {
        out.truncate(start);
    }
}

/// The bytes a quoted string stands for.
fn unescape(quoted: &[u8]) -> Vec<u8> {
    let quote = quoted[0];
    let closed = quoted.len() > 1 && quoted.ends_with(&[quote]);
    let body = &quoted[1..quoted.len() - usize::from(closed)];
    let mut out = Vec::with_capacity(body.len());
    let mut bytes = body.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            match bytes.next() {
                Some(b'0') => out.push(0),
                Some(b'b') => out.push(8),
                Some(b'n') => out.push(b'\n'),
                Some(b'r') => out.push(b'\r'),
                Some(b't') => out.push(b'\t'),
                Some(b'Z') => out.push(26),
                Some(other) => out.push(other),
                None => {}
            }
        } else {
            out.push(byte);
            if byte == quote && bytes.peek() == Some(&quote) {
                bytes.next();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_statement_is_seen_where_there_is_one() {
        let single = [
            "SELECT 1",
            "SELECT 1;",
            "SELECT 1; -- done",
            "SELECT 1 ; # done\n ; /* ; */",
            "SELECT ';', \"a;b\", `c;d`, 'it''s; \\'; x' -- ; SELECT\n",
            "SELECT 5--1;",
            "",
            ";",
        ];
        for sql in single {
            assert_eq!(check_single(sql), Ok(()), "{sql}");
        }
        let several = [
            "SELECT 1; SELECT 2",
            "SELECT 1;/*!40100 SET x=1 */",
            "SELECT '\\\\'; DROP TABLE t",
            "SELECT 1;--1",
            "SELECT `a`;x",
        ];
        for sql in several {
            assert_eq!(check_single(sql).map_err(|e| e.code), Err(1064), "{sql}");
        }
    }

    #[test]
    fn unfinished_texts_end() {
        for sql in ["'", "\"\\", "`", "/*", "/", "-", "--", "#", "'a\\", ";'", ";/*!"] {
            let _ = check_single(sql);
            let mut bytes = vec![0xFF];
            bytes.extend_from_slice(sql.as_bytes());
            assert!(to_utf8(&bytes).is_err());
            bytes.rotate_left(1);
            let _ = to_utf8(&bytes);
        }
    }

    #[test]
    fn raw_bytes_become_hexadecimal() {
        let sql = b"INSERT INTO t VALUES ('\xc3\xa9', _binary'\xff\\0\\'''', \"\xfe\"\"\")";
        let text = to_utf8(sql).unwrap();
        assert_eq!(text, "INSERT INTO t VALUES ('é', X'FF002727', X'FE22')");
        assert_eq!(to_utf8(b"SELECT 'a'").unwrap(), "SELECT 'a'");
        assert_eq!(to_utf8(b"SELECT \xff").unwrap_err().code, 1300);
    }
}
