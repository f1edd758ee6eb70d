//! A table: its segments in handle order, and which of them should be merged. It must never do
//! I/O after it began to change a segment.

use super::chunk::Rows;
use super::config::Config;
use super::log::Op;
use super::segment::{Durable, Segment, View};
use super::stable::Stable;
use crate::error::{Error, Result};
use crate::store::{HandleRange, TableStats};
use arrow::datatypes::DataType;
use damask_env::Disk;
use damask_types::{ErrorKind, TableId};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of the tree per delta row, about.
const INDEX_ROW_BYTES: u64 = 40;

/// A table, as its writer sees it.
#[derive(Debug)]
pub struct Table {
    id: TableId,
    segments: Vec<Segment>,
    columns: HashMap<String, DataType>,
    /// The last operation.
    pub last_seq: u64,
}

/// Why a merge may be needed beside the size of a delta.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Reads are at or after it.
    pub safe_point: u64,
    /// Operations up to this one keep log files that should go.
    pub pinned: Option<u64>,
    /// Memory is short.
    pub full: bool,
    /// Operations up to this one are durable.
    pub synced: u64,
}

impl Table {
    /// An empty table.
    pub fn new(id: TableId) -> Table {
        let segments = vec![Segment::new(HandleRange::ALL, None, 0)];
        Table { id, segments, columns: HashMap::new(), last_seq: 0 }
    }

    /// Opens the stable files that the manifest names.
    pub fn open(disk: &Arc<dyn Disk>, id: TableId, durable: &[Durable]) -> Result<Table> {
        let mut table = Table { id, segments: Vec::new(), columns: HashMap::new(), last_seq: 0 };
        for (index, segment) in durable.iter().enumerate() {
            let last = durable.get(index + 1).map_or(i64::MAX, |next| next.first - 1);
            let stable = match segment.file {
                Some(file) => Some(Arc::new(Stable::open(disk.clone(), id, file)?)),
                None => None,
            };
            let range = HandleRange { first: segment.first, last };
            if let Some(stable) = &stable {
                stable.check_range(range)?;
                table.know(stable)?;
            }
            table.last_seq = table.last_seq.max(segment.merged);
            table.segments.push(Segment::new(range, stable, segment.merged));
        }
        Ok(table)
    }

    /// Remembers a file's columns: all files of a table must agree.
    fn know(&mut self, stable: &Stable) -> Result<()> {
        for (name, data_type) in &stable.columns {
            let known = self.columns.entry(name.clone()).or_insert_with(|| data_type.clone());
            if known != data_type {
                let what = format!("column {name} is {data_type}, {known} elsewhere");
                return Err(stable.corrupt(what));
            }
        }
        Ok(())
    }

    /// What readers see now.
    pub fn views(&self) -> Vec<Arc<View>> {
        self.segments.iter().map(|segment| segment.view.clone()).collect()
    }

    /// What the manifest should know.
    pub fn durable(&self) -> Vec<Durable> {
        self.segments.iter().map(|segment| segment.durable).collect()
    }

    /// The oldest operation that is only in the delta.
    pub fn oldest(&self) -> u64 {
        self.segments.iter().map(|segment| segment.oldest).min().unwrap_or(u64::MAX)
    }

    /// The parts of sorted rows by segment: segment, offset, length.
    fn parts(&self, rows: &Rows) -> Vec<(usize, usize, usize)> {
        let handles = rows.handles.values();
        let mut parts = Vec::new();
        let mut start = 0;
        let mut segment = self.segments.partition_point(|s| s.view.range.last < rows.first);
        while start < handles.len() {
            let last = self.segments[segment].view.range.last;
            let len = handles[start..].partition_point(|handle| *handle <= last);
            if len > 0 {
                parts.push((segment, start, len));
            }
            (start, segment) = (start + len, segment + 1);
        }
        parts
    }

    /// Checks the columns of rows against what is known of the table, and remembers new ones.
    pub fn admit(&mut self, rows: &Rows) -> Result<()> {
        for field in rows.columns.schema_ref().fields() {
            super::block::put_type(&mut Vec::new(), field.data_type())?;
            let known = self.columns.get(field.name());
            if known.is_some_and(|known| known != field.data_type()) {
                let (table, name) = (self.id, field.name());
                let detail = format!("column {name} of table {table} changed its type");
                return Err(Error::new("apply", ErrorKind::Invalid, detail));
            }
        }
        for field in rows.columns.schema_ref().fields() {
            if !self.columns.contains_key(field.name()) {
                self.columns.insert(field.name().clone(), field.data_type().clone());
            }
        }
        Ok(())
    }

    /// Checks sorted rows; nothing can fail in `insert` after it.
    pub fn prepare(&mut self, rows: &Rows) -> Result<()> {
        for (segment, start, len) in self.parts(rows) {
            let (first, last) = (rows.handles.value(start), rows.handles.value(start + len - 1));
            self.segments[segment].prepare(first, last, len)?;
        }
        self.admit(rows)
    }

    /// No segment in the range has a row, living or dead.
    pub fn is_empty_in(&mut self, range: HandleRange) -> bool {
        let empty = |view: &View| view.stable.is_none() && view.chunks.is_empty();
        self.overlapping(range).all(|segment| empty(&segment.view))
    }

    /// Seals the segment that the range lies in, if it has no rows and no removal that is not
    /// durable yet: the segment's range, and the last operation.
    pub fn seal_empty(&mut self, range: HandleRange, synced: u64) -> Option<(HandleRange, u64)> {
        let last_seq = self.last_seq;
        let segment = self.overlapping(range).next()?;
        let own = segment.view.range;
        let inside = own.first <= range.first && range.last <= own.last;
        let empty = segment.view.stable.is_none() && segment.index.is_empty();
        if !inside || !empty || segment.last_clear > synced {
            return None;
        }
        segment.seal();
        Some((own, last_seq))
    }

    /// Adds prepared rows.
    pub fn insert(&mut self, rows: Rows, seq: u64, chunk_rows: usize) {
        self.last_seq = seq;
        for (segment, start, len) in self.parts(&rows) {
            self.segments[segment].insert(rows.slice(start, len), seq, None, chunk_rows);
        }
    }

    fn overlapping(&mut self, range: HandleRange) -> impl Iterator<Item = &mut Segment> {
        self.segments.iter_mut().filter(move |segment| {
            let own = segment.view.range;
            own.first <= range.last && range.first <= own.last
        })
    }

    /// Checks a range; nothing can fail in `clear` after it.
    pub fn prepare_clear(&mut self, range: HandleRange) -> Result<()> {
        self.overlapping(range).try_for_each(|s| s.prepare(range.first, range.last, 0))
    }

    /// Removes a prepared range.
    pub fn clear(&mut self, range: HandleRange, seq: u64) {
        self.last_seq = seq;
        self.overlapping(range).for_each(|segment| segment.clear(range, seq));
    }

    /// Does again what the log says, where the stable files do not have it yet; the bytes it
    /// added.
    pub fn replay(&mut self, seq: u64, op: Op, chunk_rows: usize) -> Result<u64> {
        self.last_seq = self.last_seq.max(seq);
        match op {
            Op::Rows(_, rows) => {
                self.prepare(&rows)?;
                let mut bytes = 0;
                for (segment, start, len) in self.parts(&rows) {
                    if self.segments[segment].durable.merged < seq {
                        let part = rows.slice(start, len);
                        bytes += part.bytes as u64;
                        self.segments[segment].insert(part, seq, None, chunk_rows);
                    }
                }
                Ok(bytes)
            }
            Op::Clear(_, range) => {
                self.prepare_clear(range)?;
                let behind = self.overlapping(range).filter(|s| s.durable.merged < seq);
                behind.for_each(|segment| segment.clear(range, seq));
                Ok(0)
            }
        }
    }

    /// What should be merged: the first handle, and how many neighbours make one merge.
    pub fn due(&self, config: &Config, need: &Need) -> Vec<(i64, usize)> {
        let mut due = Vec::new();
        let mut left = self.segments.as_slice();
        while let [segment, rest @ ..] = left {
            left = rest;
            let first = segment.view.range.first;
            if let [next, rest @ ..] = rest
                && are_small([segment, next], config, need)
            {
                due.push((first, 2));
                left = rest;
            } else if is_due(segment, config, need) {
                due.push((first, 1));
            }
        }
        due
    }

    /// Puts merged segments in the place of `count` that start at `first`.
    pub fn replace_segments(
        &mut self,
        first: i64,
        count: usize,
        mut merged: Vec<Segment>,
        chunk_rows: usize,
    ) {
        let at = self.segments.partition_point(|s| s.view.range.first < first);
        for old in &mut self.segments[at..at + count] {
            old.hand_over(&mut merged, chunk_rows);
        }
        self.segments.splice(at..at + count, merged);
    }

    /// The segments from the one that starts at `first` on.
    pub fn segments_at(&mut self, first: i64, count: usize) -> &mut [Segment] {
        let at = self.segments.partition_point(|s| s.view.range.first < first);
        &mut self.segments[at..at + count]
    }

    /// About the bytes of the delta's rows.
    pub fn delta_bytes(&self) -> u64 {
        let chunks = self.segments.iter().flat_map(|segment| &segment.view.chunks);
        chunks.map(|chunk| chunk.rows.bytes as u64).sum()
    }

    /// Sizes.
    pub fn stats(&self) -> TableStats {
        let mut stats = TableStats::default();
        for segment in &self.segments {
            let view = &segment.view;
            stats.stable_rows += view.stable_rows();
            stats.delta_rows += view.delta_rows();
            stats.disk_bytes += view.stable.as_ref().map_or(0, |s| s.len());
            let chunks = view.chunks.iter();
            stats.memory_bytes +=
                chunks.map(|c| (c.rows.bytes + c.ends_bytes()) as u64).sum::<u64>();
            stats.memory_bytes += segment.index.len() as u64 * INDEX_ROW_BYTES;
        }
        stats
    }
}

/// Two neighbours that together are far from a full segment. They become one, so that removals
/// and moves of regions do not leave ever more files and ranges behind.
fn are_small(pair: [&Segment; 2], config: &Config, need: &Need) -> bool {
    let rows = |s: &Segment| s.view.stable_rows() + s.view.delta_rows();
    let durable = pair.iter().all(|segment| segment.last_clear <= need.synced);
    durable && rows(pair[0]) + rows(pair[1]) <= config.segment_rows_max / 4
}

fn is_due(segment: &Segment, config: &Config, need: &Need) -> bool {
    // a removal that is not durable must not become so before the marks that belong to it
    if segment.last_clear > need.synced {
        return false;
    }
    let view = &segment.view;
    let (delta, stable) = (view.delta_rows(), view.stable_rows());
    let large =
        |rows: u64| rows >= config.merge_rows_min && rows * 100 >= config.merge_percent * stable;
    let pinned = need.pinned.is_some_and(|pinned| segment.oldest <= pinned);
    if large(delta) || pinned || (need.full && delta > 0) {
        return true;
    }
    let Some(file) = &view.stable else { return false };
    let packs = file.packs.iter().zip(&view.overlays);
    let removed = packs.filter_map(|(pack, overlay)| {
        let overlay = overlay.as_ref().filter(|overlay| overlay.has_killed())?;
        Some(overlay.dead_rows(pack.rows) as u64)
    });
    let removed: u64 = removed.sum();
    let history = file.packs[file.base_packs..].iter();
    let old: u64 = match need.safe_point > segment.safe_point && segment.newest <= need.synced {
        true => history.filter(|p| p.max_until <= need.safe_point).map(|p| p.rows as u64).sum(),
        false => 0,
    };
    removed == stable || large(removed) || large(old)
}
