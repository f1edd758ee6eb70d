//! Merging segments into new stable files: a three-way walk in (handle, version) order, then
//! columns are gathered pack by pack (see `sink`). It must never drop a version that a read at
//! or after the safe point can see.

use super::block::Column;
use super::chunk;
use super::config::Config;
use super::segment::View;
use super::sink::{Output, RowRef, Sink, Version};
use super::stable::Stable;
use crate::error::Result;
use arrow::datatypes::DataType;
use damask_env::Disk;
use damask_types::TableId;
use std::sync::Arc;

/// Packs of rows that a load collects before it writes them.
const LOAD_PACKS: usize = 8;

/// The versions that must stay, out of all of one handle (ascending): from the newest at or
/// below the safe point on, and that one only if it is not a deletion.
fn survivors(versions: &[Version], safe_point: u64) -> &[Version] {
    let older = versions.partition_point(|v| v.version <= safe_point);
    match older.checked_sub(1) {
        None => versions,
        Some(newest) if versions[newest].deleted => &versions[older..],
        Some(newest) => &versions[newest..],
    }
}

/// A walk over the rows of some packs that were not removed.
struct PackCursor<'a> {
    view: &'a View,
    stable: Option<&'a Stable>,
    pack: usize,
    end: usize,
    row: usize,
    handles: &'a [i64],
    versions: &'a [u64],
    untils: Option<&'a [u64]>,
}

impl<'a> PackCursor<'a> {
    fn new(view: &'a View, packs: std::ops::Range<usize>) -> Result<PackCursor<'a>> {
        let stable = view.stable.as_deref();
        let (pack, end) = (packs.start, packs.end);
        let none = (&[][..], &[][..]);
        let (handles, versions) = none;
        let mut cursor =
            PackCursor { view, stable, pack, end, row: 0, handles, versions, untils: None };
        cursor.load()?;
        cursor.settle()?;
        Ok(cursor)
    }

    fn load(&mut self) -> Result<()> {
        if let Some(stable) = self.stable.filter(|_| self.pack < self.end) {
            let keys = stable.keys(self.pack)?;
            (self.handles, self.versions, self.untils) = (keys.handles, keys.versions, keys.untils);
        }
        Ok(())
    }

    /// Moves over removed rows and pack ends.
    fn settle(&mut self) -> Result<()> {
        while self.pack < self.end {
            if self.row == self.handles.len() {
                (self.pack, self.row) = (self.pack + 1, 0);
                self.load()?;
            } else if self.view.overlays[self.pack].as_ref().is_some_and(|o| o.is_killed(self.row))
            {
                self.row += 1;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn handle(&self) -> Option<i64> {
        (self.pack < self.end).then(|| self.handles[self.row])
    }

    fn take(&mut self) -> Result<Version> {
        let row = self.row;
        let at = RowRef { source: self.pack as u32, row: row as u32 };
        let deleted = self.untils.is_some_and(|untils| untils[row] == 0);
        let version = Version { version: self.versions[row], at, deleted };
        self.row += 1;
        self.settle()?;
        Ok(version)
    }
}

/// A segment as a merge reads it.
pub struct Sealed {
    /// The sealed view.
    pub view: Arc<View>,
    /// The live delta in key order.
    pub delta: Vec<((i64, u64), u32)>,
}

/// What a merge reads and how it writes.
pub struct Merge<'a> {
    /// Where the files go.
    pub disk: &'a dyn Disk,
    /// The table.
    pub table: TableId,
    /// Its numbers.
    pub config: &'a Config,
    /// Reads are at or after it.
    pub safe_point: u64,
    /// Gives file numbers.
    pub next_file: &'a dyn Fn() -> u64,
}

impl Merge<'_> {
    /// Writes neighbouring segments, in handle order, into new files, durable; the segments and
    /// the bytes written. `files` receives the number of every file that was begun, also when it
    /// fails.
    pub fn run(&self, inputs: &[Sealed], files: &mut Vec<u64>) -> Result<(Vec<Output>, u64)> {
        let first = inputs[0].view.range.first;
        let mut sink = Sink::new(self, first, output_columns(inputs), files);
        for input in inputs {
            self.feed(input, &mut sink)?;
        }
        sink.finish()
    }

    /// Hands a segment to the sink.
    fn feed(&self, input: &Sealed, sink: &mut Sink<'_, '_>) -> Result<()> {
        sink.sources = sources(&input.view, &sink.columns)?;
        self.walk(input, sink)?;
        sink.flush_all() // what waits refers to this segment's columns
    }

    /// Writes rows that come ascending by (handle, version) into new files; as `run`.
    pub fn load(
        &self,
        first: i64,
        rows: &mut dyn Iterator<Item = Result<chunk::Rows>>,
        files: &mut Vec<u64>,
    ) -> Result<(Vec<Output>, u64)> {
        let mut sink = Sink::new(self, first, Vec::new(), files);
        let mut waiting: Vec<chunk::Rows> = Vec::new();
        let mut count = 0;
        for rows in rows {
            let rows = rows?;
            count += rows.len();
            waiting.push(rows);
            let last = waiting.last().map_or(i64::MIN, |rows| rows.last);
            if count < self.config.pack_rows * LOAD_PACKS || last == i64::MIN {
                continue;
            }
            // the versions of the last handle may go on in the next rows
            self.load_some(&waiting, last - 1, &mut sink)?;
            waiting = waiting.iter().filter_map(|rows| part(rows, last, last)).collect();
            count = waiting.iter().map(chunk::Rows::len).sum();
        }
        self.load_some(&waiting, i64::MAX, &mut sink)?;
        sink.finish()
    }

    /// The rows up to a handle.
    fn load_some(&self, rows: &[chunk::Rows], last: i64, sink: &mut Sink<'_, '_>) -> Result<()> {
        let parts = rows.iter().filter_map(|rows| part(rows, i64::MIN, last));
        let input = input_of(&parts.collect::<Vec<_>>());
        let Some(first) = input.delta.first().map(|((handle, _), _)| *handle) else {
            return Ok(());
        };
        let columns = output_columns(std::slice::from_ref(&input));
        sink.add_columns(columns, first)?;
        self.feed(&input, sink)
    }

    /// Hands all versions of one segment to the sink, handle by handle.
    fn walk(&self, input: &Sealed, sink: &mut Sink<'_, '_>) -> Result<()> {
        let view = &input.view;
        let stable = view.stable.as_ref();
        let (base, all) = stable.map_or((0, 0), |s| (s.base_packs, s.packs.len()));
        let mut base_rows = PackCursor::new(view, 0..base)?;
        let mut history = PackCursor::new(view, base..all)?;
        let mut delta = input.delta.iter().peekable();
        let (mut versions, mut last) = (Vec::new(), None);
        loop {
            let heads = [
                base_rows.handle(),
                history.handle(),
                delta.peek().map(|((handle, _), _)| *handle),
            ];
            let Some(handle) = heads.into_iter().flatten().min() else { return Ok(()) };
            if last.is_some_and(|last| handle <= last) {
                // only rows of a file can be: the delta was sorted here
                let error = |stable: &Arc<Stable>| stable.corrupt("handles that do not ascend");
                return stable.map_or(Ok(()), |stable| Err(error(stable)));
            }
            last = Some(handle);
            versions.clear();
            while history.handle() == Some(handle) {
                versions.push(history.take()?);
            }
            if base_rows.handle() == Some(handle) {
                versions.push(base_rows.take()?);
            }
            while let Some(((_, version), at)) = delta.next_if(|((h, _), _)| *h == handle) {
                versions.push(delta_version(view, *version, *at, all));
            }
            if versions.len() > 1 {
                versions.sort_unstable_by_key(|v| v.version);
            }
            sink.handle(handle, survivors(&versions, self.safe_point))?;
        }
    }
}

fn output_columns(inputs: &[Sealed]) -> Vec<(String, DataType)> {
    let mut columns: Vec<(String, DataType)> = Vec::new();
    let mut add = |name: &String, data_type: &DataType| {
        if !columns.iter().any(|(known, _)| known == name) {
            columns.push((name.clone(), data_type.clone()));
        }
    };
    for input in inputs {
        let stable = input.view.stable.iter().flat_map(|stable| &stable.columns);
        stable.for_each(|(name, data_type)| add(name, data_type));
        for chunk in &input.view.chunks {
            let fields = chunk.rows.columns.schema_ref().fields();
            fields.iter().for_each(|field| add(field.name(), field.data_type()));
        }
    }
    columns
}

/// The rows with handles in a range, if any.
fn part(rows: &chunk::Rows, first: i64, last: i64) -> Option<chunk::Rows> {
    let handles = rows.handles.values();
    let from = handles.partition_point(|handle| *handle < first);
    let end = handles.partition_point(|handle| *handle <= last);
    (from < end).then(|| rows.slice(from, end - from))
}

/// Sorted rows as a segment that has nothing but a delta.
fn input_of(rows: &[chunk::Rows]) -> Sealed {
    let (mut chunks, mut delta, mut position) = (Vec::new(), Vec::new(), 0);
    for rows in rows {
        let keys = rows.handles.values().iter().zip(rows.versions.values());
        delta.extend(keys.zip(position..).map(|((h, v), position)| ((*h, *v), position)));
        chunks.push(chunk::Chunk::new(position, rows.clone()));
        position += rows.len() as u32;
    }
    let (range, overlays) = (crate::store::HandleRange::ALL, Vec::new());
    Sealed { view: Arc::new(View { range, stable: None, overlays, chunks }), delta }
}

fn delta_version(view: &View, version: u64, position: u32, packs: usize) -> Version {
    let (chunk, row) = view.at(position);
    let deleted = view.chunks[chunk].rows.deleted.value(row);
    Version { version, at: RowRef { source: (packs + chunk) as u32, row: row as u32 }, deleted }
}

/// The columns of each pack, then of each chunk.
fn sources(view: &View, columns: &[(String, DataType)]) -> Result<Vec<Vec<Option<Column>>>> {
    let mut sources = Vec::new();
    if let Some(stable) = &view.stable {
        let at: Vec<_> = columns.iter().map(|(name, _)| stable.find_column(name)).collect();
        for pack in 0..stable.packs.len() {
            let column = |at: &Option<usize>| match at {
                Some(at) => Ok(stable.column(pack, *at)?.cloned()),
                None => Ok(None),
            };
            sources.push(at.iter().map(column).collect::<Result<Vec<_>>>()?);
        }
    }
    for chunk in &view.chunks {
        let column = |(name, _): &(String, DataType)| {
            let array = chunk.rows.columns.column_by_name(name).cloned();
            array.map(|array| Column { array, absent: None })
        };
        sources.push(columns.iter().map(column).collect());
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_keep_what_a_read_at_the_safe_point_sees() {
        let at = RowRef { source: 0, row: 0 };
        let all: Vec<Version> = [(3, false), (5, true), (7, false), (9, true)]
            .map(|(version, deleted)| Version { version, at, deleted })
            .to_vec();
        let left = |safe_point| survivors(&all, safe_point).iter().map(|v| v.version);
        assert_eq!(left(2).collect::<Vec<_>>(), [3, 5, 7, 9]);
        assert_eq!(left(4).collect::<Vec<_>>(), [3, 5, 7, 9]);
        assert_eq!(left(5).collect::<Vec<_>>(), [7, 9]);
        assert_eq!(left(8).collect::<Vec<_>>(), [7, 9]);
        assert_eq!(left(9).count(), 0);
    }
}
