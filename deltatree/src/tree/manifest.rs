//! The manifest: which stable file holds which handles, and which logs are still needed. It must
//! never name a file that is not yet durable.
//!
//! ```text
//! manifest = "DMSKMAN1" | version u32 | first log u64 | tables u32
//!            { table i64 | segments u32 { first handle i64 | file u64, 0: none | merged u64 } }
//!            | crc32 u32 of all before
//! ```
//! It is small and replaced whole.

use super::bytes::{Put, Reader, corrupt, io_error};
use super::segment::Durable;
use crate::error::Result;
use damask_env::Disk;
use damask_types::TableId;
use std::collections::{BTreeMap, HashSet};

const HEAD: &[u8; 8] = b"DMSKMAN1";
const VERSION: u32 = 1;

/// Its name.
pub const NAME: &str = "manifest";

/// Its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The oldest log file that is needed.
    pub first_log: u64,
    /// Segments by first handle; the first of a table starts at the smallest handle.
    pub tables: BTreeMap<TableId, Vec<Durable>>,
}

impl Manifest {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = HEAD.to_vec();
        out.put_u32(VERSION);
        out.put_u64(self.first_log);
        out.put_u32(self.tables.len() as u32);
        for (table, segments) in &self.tables {
            out.put_u64(table.0 as u64);
            out.put_u32(segments.len() as u32);
            for segment in segments {
                out.put_u64(segment.first as u64);
                out.put_u64(segment.file.unwrap_or(0));
                out.put_u64(segment.merged);
            }
        }
        out.put_u32(crc32fast::hash(&out));
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Manifest> {
        let at = bytes.len().saturating_sub(4);
        let (body, crc) = bytes.split_at(at);
        if crc != crc32fast::hash(body).to_le_bytes() || !body.starts_with(HEAD) {
            return Err(corrupt(NAME, "checksum mismatch"));
        }
        let mut r = Reader::new(&body[HEAD.len()..], NAME);
        let version = r.u32()?;
        if version != VERSION {
            return Err(corrupt(NAME, format!("unknown version {version}")));
        }
        let mut manifest = Manifest { first_log: r.number()?, tables: BTreeMap::new() };
        for _ in 0..r.count()? {
            let table = TableId(r.u64()? as i64);
            let mut segments = Vec::new();
            for _ in 0..r.count()? {
                let (first, file, merged) = (r.u64()? as i64, r.number()?, r.number()?);
                segments.push(Durable { first, file: Some(file).filter(|f| *f != 0), merged });
            }
            let ascending = segments.windows(2).all(|pair| pair[0].first < pair[1].first);
            if segments.first().is_none_or(|s| s.first != i64::MIN) || !ascending {
                return Err(corrupt(NAME, format!("the segments of table {table} have gaps")));
            }
            if manifest.tables.last_key_value().is_some_and(|(last, _)| *last >= table) {
                return Err(corrupt(NAME, format!("table {table} is out of order")));
            }
            manifest.tables.insert(table, segments);
        }
        let mut files = HashSet::new();
        let mut all = manifest.tables.values().flatten().filter_map(|segment| segment.file);
        if let Some(file) = all.find(|file| !files.insert(*file)) {
            return Err(corrupt(NAME, format!("file {file} belongs to two segments")));
        }
        match r.remaining() {
            0 => Ok(manifest),
            left => Err(corrupt(NAME, format!("{left} bytes after the end"))),
        }
    }

    /// Reads it; `None` if there is none.
    pub fn load(disk: &dyn Disk) -> Result<Option<Manifest>> {
        match disk.map(NAME) {
            Ok(bytes) => Manifest::decode(&bytes).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("open", NAME, e)),
        }
    }

    /// Makes it durable in place of the earlier one; the bytes written.
    pub fn store(&self, disk: &dyn Disk) -> Result<u64> {
        let bytes = self.encode();
        disk.replace(NAME, &bytes).map_err(|e| io_error("maintain", NAME, e))?;
        Ok(bytes.len() as u64)
    }
}

#[cfg(test)]
mod garbage;
