//! LOAD DATA: a stream of bytes cut into records and fields. It must never hold more of the file
//! than one batch of records.

use crate::error::{Error, Result};
use crate::statement::LoadData;

/// Bytes of one record at most.
const RECORD_MAX: usize = 16 << 20;

/// A field: `None` = NULL.
pub type Field = Option<Vec<u8>>;

/// Cuts a stream into records.
pub struct Records {
    format: LoadData,
    buffer: Vec<u8>,
    at: usize,
    skip: u64,
}

/// What the scanner found at the front of the buffer.
enum Cut {
    /// A record and where it ends.
    Record(Vec<Field>, usize),
    /// The record's end has not come yet.
    More,
}

impl Records {
    /// For a statement's format.
    pub fn new(format: &LoadData) -> Records {
        Records { format: format.clone(), buffer: Vec::new(), at: 0, skip: format.skip_lines }
    }

    /// Adds bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next record that is whole; at the file's end also one without a terminator.
    pub fn next(&mut self, end: bool) -> Result<Option<Vec<Field>>> {
        // Ends: each turn takes a line or returns.
        loop {
            if self.at >= self.buffer.len() {
                return Ok(None);
            }
            if self.skip > 0 {
                let terminator = self.format.lines_terminated.as_bytes();
                let Some(line) = find(&self.buffer[self.at..], terminator) else {
                    if end {
                        self.at = self.buffer.len();
                    }
                    return self.bounded();
                };
                self.at += line + terminator.len();
                self.skip -= 1;
                continue;
            }
            return match self.cut(end) {
                Cut::Record(fields, length) => {
                    self.at += length;
                    Ok(Some(fields))
                }
                Cut::More => self.bounded(),
            };
        }
    }

    fn bounded(&self) -> Result<Option<Vec<Field>>> {
        if self.buffer.len() - self.at > RECORD_MAX {
            return Err(Error::packet_too_large("A record of the file is longer than 16 MiB"));
        }
        Ok(None)
    }

    fn cut(&self, end: bool) -> Cut {
        let rest = &self.buffer[self.at..];
        let mut at = 0;
        let start = self.format.lines_starting.as_bytes();
        if !start.is_empty() {
            match find(rest, start) {
                Some(found) => at = found + start.len(),
                None if end => return Cut::Record(Vec::new(), rest.len()),
                None => return Cut::More,
            }
        }
        let mut fields = Vec::new();
        // Ends: each field moves forward.
        loop {
            match self.field(rest, at, end) {
                None => return Cut::More,
                Some((field, next, last)) => {
                    fields.push(field);
                    at = next;
                    if last {
                        return Cut::Record(fields, at);
                    }
                }
            }
        }
    }

    /// A field, where the next one starts, and whether the record ends with it.
    fn field(&self, rest: &[u8], from: usize, end: bool) -> Option<(Field, usize, bool)> {
        let field_end = self.format.fields_terminated.as_bytes();
        let line_end = self.format.lines_terminated.as_bytes();
        let enclosed = self.format.enclosed.filter(|q| rest.get(from) == Some(q));
        let mut at = from + usize::from(enclosed.is_some());
        let mut value = Vec::new();
        let mut null = false;
        loop {
            let Some(&b) = rest.get(at) else {
                return end.then(|| (self.finish(value, null, false), at, true));
            };
            if self.format.escaped == Some(b) {
                let Some(&next) = rest.get(at + 1) else {
                    if !end {
                        return None;
                    }
                    value.push(b);
                    at += 1;
                    continue;
                };
                null = next == b'N' && value.is_empty() && enclosed.is_none();
                value.push(unescape(next));
                at += 2;
                continue;
            }
            if let Some(quote) = enclosed {
                if b != quote {
                    value.push(b);
                    at += 1;
                    continue;
                }
                if rest.get(at + 1) == Some(&quote) {
                    value.push(quote);
                    at += 2;
                    continue;
                }
                // The closing quote counts only before a terminator or the end.
                let after = &rest[at + 1..];
                if after.starts_with(field_end) {
                    return Some((self.finish(value, null, true), at + 1 + field_end.len(), false));
                }
                if after.starts_with(line_end) {
                    return Some((self.finish(value, null, true), at + 1 + line_end.len(), true));
                }
                if after.is_empty() || after.len() < field_end.len().max(line_end.len()) {
                    if !end {
                        return None;
                    }
                    if after.is_empty() {
                        return Some((self.finish(value, null, true), at + 1, true));
                    }
                }
                value.push(b);
                at += 1;
                continue;
            }
            let tail = &rest[at..];
            if tail.starts_with(field_end) {
                return Some((self.finish(value, null, false), at + field_end.len(), false));
            }
            if tail.starts_with(line_end) {
                return Some((self.finish(value, null, false), at + line_end.len(), true));
            }
            if tail.len() < field_end.len().max(line_end.len()) && !end {
                return None;
            }
            value.push(b);
            at += 1;
        }
    }

    fn finish(&self, value: Vec<u8>, null: bool, enclosed: bool) -> Field {
        let escaped = null && value.len() == 1;
        let word = self.format.enclosed.is_some() && !enclosed && value == b"NULL";
        (!escaped && !word).then_some(value)
    }
}

fn unescape(b: u8) -> u8 {
    match b {
        b'0' => 0,
        b'b' => 8,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'Z' => 26,
        other => other,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Stmt, parse};
    use crate::variables::SqlMode;

    fn records(format: &str, file: &str, step: usize) -> Vec<Vec<Option<String>>> {
        let text = format!("LOAD DATA LOCAL INFILE 'x' INTO TABLE t {format}");
        let Stmt::LoadData(load) = parse(&text, 0, SqlMode::default()).expect(format).stmt else {
            panic!("{format}");
        };
        let mut records = Records::new(&load);
        let mut out = Vec::new();
        let text = |f: Field| f.map(|b| String::from_utf8(b).expect("utf-8"));
        for bytes in file.as_bytes().chunks(step) {
            records.push(bytes);
            while let Some(record) = records.next(false).expect("fine") {
                out.push(record.into_iter().map(text).collect());
            }
        }
        while let Some(record) = records.next(true).expect("fine") {
            out.push(record.into_iter().map(text).collect());
        }
        out
    }

    fn some(s: &str) -> Option<String> {
        Some(s.to_owned())
    }

    #[test]
    fn tabs_escapes_and_nulls_however_the_bytes_come() {
        for step in [1, 2, 3, 1000] {
            let got = records("", "1\ta\\tb\n2\t\\N\n3\tx", step);
            assert_eq!(
                got,
                [vec![some("1"), some("a\tb")], vec![some("2"), None], vec![some("3"), some("x")]],
                "step {step}"
            );
        }
    }

    #[test]
    fn csv_with_quotes_and_a_header() {
        let format = "FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' \
            LINES TERMINATED BY '\\r\\n' IGNORE 1 LINES";
        for step in [1, 2, 5, 1000] {
            let got = records(format, "a,b\r\n1,\"x,\"\"y\"\"\r\nz\"\r\n2,NULL\r\n3,\"NULL\"\r\n", step);
            assert_eq!(
                got,
                [
                    vec![some("1"), some("x,\"y\"\r\nz")],
                    vec![some("2"), None],
                    vec![some("3"), some("NULL")],
                ],
                "step {step}"
            );
        }
    }
}
