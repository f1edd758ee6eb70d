//! Where the fields of a store's files are, by the drawings in `stable`, `log` and `manifest`, and
//! checksums made right again. It must never share code with the store, nor panic on wrong bytes.

use std::ops::Range;

/// Bytes of a descriptor: offset, len, crc, nulls, flags, type.
const DESCRIPTOR: usize = 28;
const TAIL: usize = 24;
const RECORD_HEAD: usize = 64;

/// Bytes of a file that mean something together.
#[derive(Clone, Debug)]
pub struct Field {
    pub what: &'static str,
    pub at: Range<usize>,
}

/// What a walk over the bytes of a file finds.
#[derive(Debug, Default)]
pub struct Fields {
    pub all: Vec<Field>,
    /// First bytes of descriptors, and the byte that their offsets count from.
    pub descriptors: Vec<(usize, usize)>,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    /// What offsets count from.
    base: usize,
    found: Fields,
}

pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

pub fn put(bytes: &mut [u8], value: u64) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = value.checked_shr(8 * index as u32).unwrap_or(0) as u8;
    }
}

impl Walk<'_> {
    fn field(&mut self, what: &'static str, len: usize) -> Option<u64> {
        let at = self.at..self.at.checked_add(len).filter(|end| *end <= self.end)?;
        self.at = at.end;
        let value = number(&self.bytes[at.clone()]);
        self.found.all.push(Field { what, at });
        Some(value)
    }

    fn text(&mut self, len: &'static str, text: &'static str) -> Option<()> {
        let len = self.field(len, 4)? as usize;
        if len > 0 {
            self.field(text, len)?;
        }
        Some(())
    }

    fn data_type(&mut self) -> Option<()> {
        self.field("type", 1)?;
        self.field("precision", 1)?;
        self.field("scale", 1).map(drop)
    }

    fn descriptor(&mut self) -> Option<()> {
        let first = self.at;
        self.found.descriptors.push((first, self.base));
        for (what, len) in [("offset", 8), ("len", 8), ("crc", 4), ("nulls", 4), ("flags", 1)] {
            self.field(what, len)?;
        }
        self.data_type()?;
        self.found.all.push(Field { what: "descriptor", at: first..first + DESCRIPTOR });
        Some(())
    }

    fn bounds(&mut self) -> Option<()> {
        match self.field("bounds", 1)? {
            1 => {
                self.field("min", 16)?;
                self.field("max", 16).map(drop)
            }
            2 => {
                self.field("min", 8)?;
                self.field("max", 8).map(drop)
            }
            3 => {
                self.text("min len", "min text")?;
                self.field("has max", 1)?;
                self.text("max len", "max text")
            }
            _ => Some(()),
        }
    }

    fn pack(&mut self, columns: u64, history: bool) -> Option<()> {
        let first = self.at;
        self.field("rows", 4)?;
        for what in ["first", "last", "min version", "max version", "max until"] {
            self.field(what, 8)?;
        }
        (0..2 + usize::from(history)).try_for_each(|_| self.descriptor())?;
        for _ in 0..columns {
            if self.field("is there", 1)? != 0 {
                self.descriptor()?;
                self.bounds()?;
            }
        }
        self.found.all.push(Field { what: "pack", at: first..self.at });
        Some(())
    }

    fn footer(&mut self) -> Option<()> {
        self.field("table", 8)?;
        let columns = self.field("columns", 4)?;
        for _ in 0..columns {
            self.text("name len", "name")?;
            self.data_type()?;
        }
        let (base, history) = (self.field("base packs", 4)?, self.field("history packs", 4)?);
        (0..base).try_for_each(|_| self.pack(columns, false))?;
        (0..history).try_for_each(|_| self.pack(columns, true))
    }

    fn record_body(&mut self, kind: u64, meta: u64) -> Option<()> {
        match kind {
            1 => {
                self.base = self.at;
                self.at = self.at.checked_add(meta as usize)?;
                self.field("table", 8)?;
                self.field("rows", 4)?;
                let columns = self.field("columns", 4)?;
                (0..columns).try_for_each(|_| self.text("name len", "name"))?;
                (0..3 + columns).try_for_each(|_| self.descriptor())
            }
            2 => ["table", "first", "last"].iter().try_for_each(|w| self.field(w, 8).map(drop)),
            _ => {
                for _ in 0..self.field("marks", 4)? {
                    self.field("key", 8)?;
                    self.text("mark len", "mark")?;
                }
                Some(())
            }
        }
    }
}

fn walk(bytes: &[u8], within: Range<usize>) -> Walk<'_> {
    Walk { bytes, at: within.start, end: within.end, base: 0, found: Fields::default() }
}

/// Where the footer of a stable file is.
pub fn footer(bytes: &[u8]) -> Range<usize> {
    let tail = bytes.len() - TAIL;
    number(&bytes[tail..tail + 8]) as usize..tail
}

/// The fields of a stable file's footer, as far as it can be read.
pub fn stable(bytes: &[u8]) -> Fields {
    let mut walk = walk(bytes, footer(bytes));
    let _ = walk.footer();
    walk.found
}

/// Records of a log: head and body, as far as they can be read.
pub fn records(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut at, mut records) = (RECORD_HEAD, Vec::new());
    while let Some(head) = bytes.get(at..at + RECORD_HEAD) {
        let body = number(&head[16..24]) as usize;
        let end = at.saturating_add(RECORD_HEAD).saturating_add(body);
        if end > bytes.len() {
            break;
        }
        records.push(at..end);
        at = end;
    }
    records
}

/// The fields of a log record.
pub fn record(bytes: &[u8], at: Range<usize>) -> Fields {
    let (kind, meta) = (number(&bytes[at.start + 8..][..4]), number(&bytes[at.start + 32..][..8]));
    let mut walk = walk(bytes, at);
    for (what, len) in
        [("magic", 8), ("kind", 4), ("crc", 4), ("body len", 8), ("seq", 8), ("meta", 8)]
    {
        walk.field(what, len);
    }
    walk.at = walk.end.min(walk.at + RECORD_HEAD - 40);
    let _ = walk.record_body(kind, meta);
    walk.found
}

/// The fields of a manifest.
pub fn manifest(bytes: &[u8]) -> Fields {
    let mut walk = walk(bytes, 8..bytes.len() - 4);
    let mut all = || {
        walk.field("version", 4)?;
        walk.field("first log", 8)?;
        for _ in 0..walk.field("tables", 4)? {
            walk.field("table", 8)?;
            for _ in 0..walk.field("segments", 4)? {
                for what in ["first", "file", "merged"] {
                    walk.field(what, 8)?;
                }
            }
        }
        Some(())
    };
    let _ = all();
    walk.found
}

/// Makes the checksums of blocks right, wherever their descriptors now point.
fn seal_blocks(bytes: &mut [u8], fields: &Fields) {
    for (at, base) in &fields.descriptors {
        let (offset, len) = (number(&bytes[*at..at + 8]), number(&bytes[at + 8..at + 16]));
        let first = (offset as usize).checked_add(*base);
        let end = first.and_then(|first| first.checked_add(len as usize));
        if let (Some(first), Some(end)) = (first, end)
            && let Some(block) = bytes.get(first..end)
        {
            let crc = crc32fast::hash(block);
            bytes[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Makes every checksum of a stable file right; its footer begins at `footer` and may have grown.
pub fn seal_stable(bytes: &mut [u8], footer: usize) {
    let tail = bytes.len() - TAIL;
    bytes[tail..tail + 8].copy_from_slice(&(footer as u64).to_le_bytes());
    bytes[tail + 8..tail + 12].copy_from_slice(&((tail - footer) as u32).to_le_bytes());
    let fields = stable(bytes);
    seal_blocks(bytes, &fields);
    let crc = crc32fast::hash(&bytes[footer..tail]);
    bytes[tail + 12..tail + 16].copy_from_slice(&crc.to_le_bytes());
}

/// Makes every checksum of a log right.
pub fn seal_log(bytes: &mut [u8]) {
    for at in records(bytes) {
        let fields = record(bytes, at.clone());
        seal_blocks(bytes, &fields);
        bytes[at.start + 12..at.start + 16].fill(0);
        let crc = crc32fast::hash(&bytes[at.clone()]);
        bytes[at.start + 12..at.start + 16].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes the checksum of a manifest right.
pub fn seal_manifest(bytes: &mut [u8]) {
    if let Some(at) = bytes.len().checked_sub(4) {
        let crc = crc32fast::hash(&bytes[..at]);
        bytes[at..].copy_from_slice(&crc.to_le_bytes());
    }
}
