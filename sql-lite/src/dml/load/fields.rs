//! Lines and fields of LOAD DATA, found in bytes that arrive in pieces. It must never end a field
//! or a line before all the bytes that decide it are there.

use crate::error::{Error, Result};
use crate::statement::LoadData;

/// Longest line.
const LINE_BYTES_MAX: usize = 64 << 20;

/// One field of the line at hand.
#[derive(Clone, Copy, Debug)]
struct Field {
    start: usize,
    end: usize,
    /// In `scratch`, because something in it was escaped.
    copied: bool,
    null: bool,
}

/// Splits bytes into lines and fields.
pub(super) struct Splitter {
    field_end: Vec<u8>,
    line_start: Vec<u8>,
    line_end: Vec<u8>,
    enclosed: Option<u8>,
    escaped: Option<u8>,
    /// Bytes that may mean something outside quotes.
    special: [bool; 256],
    /// Lines still to be left out.
    skip: u64,
    buffer: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    line: (usize, usize),
    fields: Vec<Field>,
    scratch: Vec<u8>,
}

/// How far a terminator is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    No,
    Yes,
    /// As far as there are bytes.
    Partly,
}

/// What ended a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// At its terminator: the next field begins here.
    Field(usize),
    /// With its line: the next line begins here.
    Line(usize),
    /// More bytes are needed.
    More,
}

fn found(buffer: &[u8], at: usize, what: &[u8]) -> Found {
    let there = &buffer[at.min(buffer.len())..];
    match there.len() >= what.len() {
        true if there.starts_with(what) => Found::Yes,
        false if what.starts_with(there) => Found::Partly,
        _ => Found::No,
    }
}

fn find(buffer: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut at = from;
    while let Some(n) = buffer[at..].iter().position(|b| *b == first) {
        if buffer[at + n..].starts_with(what) {
            return Some(at + n);
        }
        at += n + 1;
    }
    None
}

impl Splitter {
    pub fn new(format: &LoadData) -> Splitter {
        let mut special = [false; 256];
        let first = |text: &str| text.as_bytes().first().copied();
        let bytes = [first(&format.fields_terminated), first(&format.lines_terminated)];
        for byte in bytes.into_iter().chain([format.escaped]).flatten() {
            special[usize::from(byte)] = true;
        }
        Splitter {
            field_end: format.fields_terminated.as_bytes().to_vec(),
            line_start: format.lines_starting.as_bytes().to_vec(),
            line_end: format.lines_terminated.as_bytes().to_vec(),
            enclosed: format.enclosed,
            escaped: format.escaped,
            special,
            skip: format.skip_lines,
            buffer: Vec::new(),
            at: 0,
            line: (0, 0),
            fields: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Goes to the next line; `false`: more bytes are needed, or with `end`, there is none.
    pub fn next(&mut self, end: bool) -> Result<bool> {
        let moved = self.advance(end);
        if !moved && self.buffer.len() - self.at > LINE_BYTES_MAX {
            return Err(Error::packet_too_large(format!(
                "a line of the file is longer than {LINE_BYTES_MAX} bytes"
            )));
        }
        Ok(moved)
    }

    /// Fields of the line.
    pub fn fields(&self) -> usize {
        self.fields.len()
    }

    /// A field's bytes; `None` = NULL.
    pub fn field(&self, at: usize) -> Option<&[u8]> {
        let field = self.fields[at];
        let bytes = if field.copied { &self.scratch } else { &self.buffer };
        (!field.null).then(|| &bytes[field.start..field.end])
    }

    /// Bytes of the line.
    pub fn line_bytes(&self) -> usize {
        self.line.1 - self.line.0
    }

    fn advance(&mut self, end: bool) -> bool {
        while self.skip > 0 {
            match find(&self.buffer, self.at, &self.line_end) {
                Some(at) => self.at = at + self.line_end.len(),
                None if end => {
                    self.at = self.buffer.len();
                    return false;
                }
                None => return false,
            }
            self.skip -= 1;
        }
        let Some(mut at) = self.begin(end) else { return false };
        if at >= self.buffer.len() {
            return false;
        }
        self.fields.clear();
        self.scratch.clear();
        // Ends: each field leaves fewer bytes.
        loop {
            let quoted = self.enclosed.is_some() && self.buffer.get(at).copied() == self.enclosed;
            let ended = if quoted { self.quoted(at + 1, end) } else { self.plain(at, end) };
            match ended {
                Ended::More => return false,
                Ended::Field(next) => at = next,
                Ended::Line(next) => {
                    self.line = (self.at, next);
                    self.at = next;
                    return true;
                }
            }
        }
    }

    /// Where the next line's first field begins: after LINES STARTING BY.
    fn begin(&mut self, end: bool) -> Option<usize> {
        if self.line_start.is_empty() {
            return Some(self.at);
        }
        // Ends: each turn leaves a line out.
        loop {
            let start = find(&self.buffer, self.at, &self.line_start);
            let line_end = find(&self.buffer, self.at, &self.line_end);
            match (start, line_end) {
                (Some(start), Some(line_end)) if start < line_end => {
                    return Some(start + self.line_start.len());
                }
                (_, Some(line_end)) => self.at = line_end + self.line_end.len(),
                (Some(start), None) => return Some(start + self.line_start.len()),
                (None, None) => {
                    if end {
                        self.at = self.buffer.len();
                    }
                    return None;
                }
            }
        }
    }

    /// Does a line or a field end here?
    fn ends(&self, at: usize, end: bool) -> Option<Ended> {
        let line = found(&self.buffer, at, &self.line_end);
        if line == Found::Yes {
            return Some(Ended::Line(at + self.line_end.len()));
        }
        let field = found(&self.buffer, at, &self.field_end);
        match (line, field) {
            (Found::Partly, _) if !end => Some(Ended::More),
            (_, Found::Yes) => Some(Ended::Field(at + self.field_end.len())),
            (_, Found::Partly) if !end => Some(Ended::More),
            _ => None,
        }
    }

    fn plain(&mut self, start: usize, end: bool) -> Ended {
        let mut at = start;
        // Where the field's copy begins, once something is escaped.
        let mut copy: Option<usize> = None;
        let mut null = false;
        let ended = loop {
            let Some(&byte) = self.buffer.get(at) else {
                if !end {
                    return Ended::More;
                }
                break Ended::Line(at);
            };
            if !self.special[usize::from(byte)] {
                if copy.is_some() {
                    self.scratch.push(byte);
                }
                at += 1;
                continue;
            }
            if self.escaped == Some(byte) {
                match self.buffer.get(at + 1).copied() {
                    None if !end => return Ended::More,
                    None => {}
                    Some(next) => {
                        null = next == b'N' && at == start;
                        self.start_copy(&mut copy, start, at);
                        self.scratch.push(unescaped(next));
                        at += 2;
                        continue;
                    }
                }
            } else if let Some(ended) = self.ends(at, end) {
                break ended;
            }
            if copy.is_some() {
                self.scratch.push(byte);
            }
            at += 1;
        };
        if ended == Ended::More {
            return ended;
        }
        // `\N` is NULL only if nothing follows it.
        null &= at == start + 2;
        let word = self.escaped.is_none() || self.enclosed.is_some();
        let is_word = || self.buffer[start..at].eq_ignore_ascii_case(b"NULL");
        null |= word && copy.is_none() && is_word();
        self.push(start, at, copy, null);
        ended
    }

    fn quoted(&mut self, start: usize, end: bool) -> Ended {
        let quote = self.enclosed;
        let mut at = start;
        let mut copy: Option<usize> = None;
        loop {
            let Some(&byte) = self.buffer.get(at) else {
                if !end {
                    return Ended::More;
                }
                self.push(start, at, copy, false);
                return Ended::Line(at);
            };
            let next = self.buffer.get(at + 1).copied();
            if next.is_none() && !end && (Some(byte) == quote || Some(byte) == self.escaped) {
                return Ended::More;
            }
            // A quote that is the escape character too only doubles.
            if self.escaped == Some(byte)
                && quote != Some(byte)
                && let Some(next) = next
            {
                self.start_copy(&mut copy, start, at);
                self.scratch.push(unescaped(next));
                at += 2;
                continue;
            }
            if Some(byte) == quote {
                if next == quote {
                    self.start_copy(&mut copy, start, at);
                    self.scratch.push(byte);
                    at += 2;
                    continue;
                }
                let ended = match next {
                    None => Some(Ended::Line(at + 1)),
                    Some(_) => self.ends(at + 1, end),
                };
                match ended {
                    Some(Ended::More) => return Ended::More,
                    Some(ended) => {
                        self.push(start, at, copy, false);
                        return ended;
                    }
                    // Not at the field's end: a character like others.
                    None => {}
                }
            }
            if copy.is_some() {
                self.scratch.push(byte);
            }
            at += 1;
        }
    }

    fn start_copy(&mut self, copy: &mut Option<usize>, start: usize, at: usize) {
        if copy.is_none() {
            *copy = Some(self.scratch.len());
            self.scratch.extend_from_slice(&self.buffer[start..at]);
        }
    }

    fn push(&mut self, start: usize, end: usize, copy: Option<usize>, null: bool) {
        self.fields.push(match copy {
            Some(start) => Field { start, end: self.scratch.len(), copied: true, null },
            None => Field { start, end, copied: false, null },
        });
    }
}

/// What a byte after the escape character stands for.
fn unescaped(byte: u8) -> u8 {
    match byte {
        b'0' => 0,
        b'b' => 8,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'Z' => 26,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::TableName;

    fn format() -> LoadData {
        LoadData {
            local: true,
            file: "f".to_owned(),
            table: TableName { database: None, table: "t".to_owned() },
            replace: false,
            ignore: true,
            fields_terminated: "\t".to_owned(),
            enclosed: None,
            escaped: Some(b'\\'),
            lines_starting: String::new(),
            lines_terminated: "\n".to_owned(),
            skip_lines: 0,
            columns: None,
        }
    }

    /// All lines, the text given in pieces of `piece` bytes.
    fn split(format: &LoadData, text: &str, piece: usize) -> Vec<Vec<String>> {
        let mut splitter = Splitter::new(format);
        let mut lines = Vec::new();
        let mut take = |splitter: &mut Splitter, end| {
            while splitter.next(end).expect("short lines") {
                let field = |at| match splitter.field(at) {
                    None => "<null>".to_owned(),
                    Some(bytes) => String::from_utf8(bytes.to_vec()).expect("text"),
                };
                lines.push((0..splitter.fields()).map(field).collect());
            }
        };
        for bytes in text.as_bytes().chunks(piece) {
            splitter.feed(bytes);
            take(&mut splitter, false);
        }
        take(&mut splitter, true);
        lines
    }

    fn check(format: &LoadData, text: &str, expected: &[&[&str]]) {
        for piece in [1, 2, 3, 7, text.len().max(1)] {
            assert_eq!(split(format, text, piece), expected, "pieces of {piece}: {text:?}");
        }
    }

    #[test]
    fn tabs_and_escapes() {
        let format = format();
        check(
            &format,
            "1\ta\\tb\\\\\n2\t\\N\n3\t",
            &[&["1", "a\tb\\"], &["2", "<null>"], &["3", ""]],
        );
        check(&format, "\\Nx\tx\\N\n", &[&["Nx", "xN"]]);
        check(&format, "a\\\nb\tc\n\n", &[&["a\nb", "c"], &[""]]);
        check(&format, "", &[]);
    }

    #[test]
    fn quotes_lines_of_windows_and_a_head() {
        let mut format = format();
        format.fields_terminated = ",".to_owned();
        format.enclosed = Some(b'"');
        format.lines_terminated = "\r\n".to_owned();
        format.skip_lines = 1;
        check(
            &format,
            "id,name\r\n1,\"a,\"\"b\"\"\r\nc\"\r\n\"2\",NULL\r\n\"3\",\"NULL\"",
            &[&["1", "a,\"b\"\r\nc"], &["2", "<null>"], &["3", "NULL"]],
        );
        check(&format, "h\r\n\"a\"b\",\r\r\n", &[&["a\"b", "\r"]]);
    }

    #[test]
    fn a_line_end_that_begins_as_a_field_end_does() {
        let mut format = format();
        format.fields_terminated = "|".to_owned();
        format.lines_terminated = "|\n".to_owned();
        check(&format, "1|x|\n2||\n", &[&["1", "x"], &["2", ""]]);
    }

    #[test]
    fn lines_begin_where_they_are_said_to() {
        let mut format = format();
        format.lines_starting = "xx:".to_owned();
        check(&format, "noise xx:1\t2\nnothing\nxx:3\t4\nrest", &[&["1", "2"], &["3", "4"]]);
    }
}
