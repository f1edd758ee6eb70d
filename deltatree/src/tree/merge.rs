//! Merging a segment's delta into a new stable file: a three-way walk in (handle, version) order,
//! then columns are gathered pack by pack. It must never drop a version that a read at or after
//! the safe point can see.

use super::block::Column;
use super::config::Config;
use super::segment::View;
use super::stable::{Stable, WriteColumn, Writer};
use crate::error::Result;
use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use damask_env::Disk;
use damask_types::TableId;
use std::collections::HashMap;

/// A row of the view: packs first, then chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowRef {
    source: u32,
    row: u32,
}

/// One version of a handle.
#[derive(Clone, Copy, Debug)]
struct Version {
    version: u64,
    at: RowRef,
    deleted: bool,
}

/// A new segment: its first handle, and its file if it has rows.
pub struct Output {
    /// First handle.
    pub first: i64,
    /// Number of the file.
    pub file: Option<u64>,
}

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

#[derive(Default)]
struct Rows {
    handles: Vec<i64>,
    versions: Vec<u64>,
    untils: Vec<u64>,
    at: Vec<RowRef>,
}

impl Rows {
    fn push(&mut self, handle: i64, version: Version, until: u64) {
        self.handles.push(handle);
        self.versions.push(version.version);
        self.untils.push(if version.deleted { 0 } else { until });
        self.at.push(version.at);
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

/// What a merge reads and how it writes.
pub struct Merge<'a> {
    /// Where the files go.
    pub disk: &'a dyn Disk,
    /// The table.
    pub table: TableId,
    /// Its numbers.
    pub config: &'a Config,
    /// The sealed view.
    pub view: &'a View,
    /// The live delta in key order.
    pub delta: &'a [((i64, u64), u32)],
    /// Reads are at or after it.
    pub safe_point: u64,
    /// Gives file numbers.
    pub next_file: &'a dyn Fn() -> u64,
}

struct Sink<'a, 'b> {
    merge: &'b Merge<'a>,
    columns: Vec<(String, DataType)>,
    /// By source, by output column.
    sources: Vec<Vec<Option<Column>>>,
    writer: Option<(u64, Writer)>,
    base: Rows,
    history: Rows,
    first: i64,
    done: Vec<Output>,
    files: &'b mut Vec<u64>,
    bytes: u64,
}

impl Merge<'_> {
    /// Writes the new files, durable; the segments and the bytes written. `files` receives the
    /// number of every file that was begun, also when it fails.
    pub fn run(&self, files: &mut Vec<u64>) -> Result<(Vec<Output>, u64)> {
        let columns = self.output_columns();
        let mut sink = Sink {
            merge: self,
            sources: self.sources(&columns)?,
            columns,
            writer: None,
            base: Rows::default(),
            history: Rows::default(),
            first: self.view.range.first,
            done: Vec::new(),
            files,
            bytes: 0,
        };
        let stable = self.view.stable.as_ref();
        let (base, all) = stable.map_or((0, 0), |s| (s.base_packs, s.packs.len()));
        let mut base_rows = PackCursor::new(self.view, 0..base)?;
        let mut history = PackCursor::new(self.view, base..all)?;
        let mut delta = self.delta.iter().peekable();
        let mut versions = Vec::new();
        loop {
            let heads = [
                base_rows.handle(),
                history.handle(),
                delta.peek().map(|((handle, _), _)| *handle),
            ];
            let Some(handle) = heads.into_iter().flatten().min() else { break };
            versions.clear();
            while history.handle() == Some(handle) {
                versions.push(history.take()?);
            }
            if base_rows.handle() == Some(handle) {
                versions.push(base_rows.take()?);
            }
            while let Some(((_, version), at)) = delta.next_if(|((h, _), _)| *h == handle) {
                versions.push(self.delta_version(*version, *at, all));
            }
            if versions.len() > 1 {
                versions.sort_unstable_by_key(|v| v.version);
            }
            sink.handle(handle, survivors(&versions, self.safe_point))?;
        }
        sink.finish()
    }

    fn delta_version(&self, version: u64, position: u32, packs: usize) -> Version {
        let (chunk, row) = self.view.at(position);
        let deleted = self.view.chunks[chunk].rows.deleted.value(row);
        Version { version, at: RowRef { source: (packs + chunk) as u32, row: row as u32 }, deleted }
    }

    fn output_columns(&self) -> Vec<(String, DataType)> {
        let mut columns = self.view.stable.as_ref().map_or(Vec::new(), |s| s.columns.clone());
        for chunk in &self.view.chunks {
            for field in chunk.rows.columns.schema_ref().fields() {
                if !columns.iter().any(|(name, _)| name == field.name()) {
                    columns.push((field.name().clone(), field.data_type().clone()));
                }
            }
        }
        columns
    }

    fn sources(&self, columns: &[(String, DataType)]) -> Result<Vec<Vec<Option<Column>>>> {
        let mut sources = Vec::new();
        if let Some(stable) = &self.view.stable {
            let at: Vec<_> = columns.iter().map(|(name, _)| stable.find_column(name)).collect();
            for pack in 0..stable.packs.len() {
                let column = |at: &Option<usize>| match at {
                    Some(at) => Ok(stable.column(pack, *at)?.cloned()),
                    None => Ok(None),
                };
                sources.push(at.iter().map(column).collect::<Result<Vec<_>>>()?);
            }
        }
        for chunk in &self.view.chunks {
            let column = |(name, _): &(String, DataType)| {
                let array = chunk.rows.columns.column_by_name(name).cloned();
                array.map(|array| Column { array, absent: None })
            };
            sources.push(columns.iter().map(column).collect());
        }
        Ok(sources)
    }
}

impl Sink<'_, '_> {
    fn handle(&mut self, handle: i64, versions: &[Version]) -> Result<()> {
        let Some((newest, older)) = versions.split_last() else { return Ok(()) };
        self.cut(handle)?;
        for (index, version) in older.iter().enumerate() {
            self.history.push(handle, *version, versions[index + 1].version);
        }
        match newest.deleted {
            true => self.history.push(handle, *newest, 0),
            false => self.base.push(handle, *newest, u64::MAX),
        }
        if self.base.handles.len() >= self.merge.config.pack_rows {
            self.flush(false)?;
        }
        if self.history.handles.len() >= self.merge.config.pack_rows {
            self.flush(true)?;
        }
        Ok(())
    }

    /// Starts the next segment at a handle if this one is full.
    fn cut(&mut self, handle: i64) -> Result<()> {
        let written = self.writer.as_ref().map_or(0, |(_, writer)| writer.rows());
        if written >= self.merge.config.segment_rows_max {
            self.close()?;
            self.first = handle;
        }
        Ok(())
    }

    fn flush(&mut self, history: bool) -> Result<()> {
        let rows = std::mem::take(if history { &mut self.history } else { &mut self.base });
        let mut parts = Vec::new();
        parts.push(0..rows.handles.len());
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let middle = part.start + part.len() / 2;
            if part.len() > 1 && self.string_bytes(&rows.at[part.clone()]) > self.bytes_max() {
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            let columns = self.gather(&rows.at[part.clone()])?;
            let untils = history.then(|| rows.untils[part.clone()].to_vec());
            let (handles, versions) = (&rows.handles[part.clone()], &rows.versions[part]);
            self.writer()?.pack(handles.to_vec(), versions.to_vec(), untils, columns)?;
        }
        Ok(())
    }

    fn bytes_max(&self) -> usize {
        self.merge.config.pack_bytes_max
    }

    fn writer(&mut self) -> Result<&mut Writer> {
        if self.writer.is_none() {
            let id = (self.merge.next_file)();
            self.files.push(id);
            let (disk, table) = (self.merge.disk, self.merge.table);
            let writer = Writer::create(disk, id, table, self.columns.clone())?;
            self.writer = Some((id, writer));
        }
        Ok(&mut self.writer.as_mut().expect("just set").1)
    }

    /// Bytes of the string values of some rows.
    fn string_bytes(&self, rows: &[RowRef]) -> usize {
        let mut bytes = 0;
        for column in 0..self.columns.len() {
            if super::block::width(&self.columns[column].1).is_some() {
                continue;
            }
            for at in rows {
                if let Some(column) = &self.sources[at.source as usize][column] {
                    bytes += match column.array.as_string_opt::<i32>() {
                        Some(array) => array.value_length(at.row as usize) as usize,
                        None => {
                            column.array.as_binary::<i32>().value_length(at.row as usize) as usize
                        }
                    };
                }
            }
        }
        bytes
    }

    /// The columns of some rows.
    fn gather(&self, rows: &[RowRef]) -> Result<Vec<WriteColumn>> {
        let mut locals = HashMap::new();
        let mut sources: Vec<usize> = Vec::new();
        let mut picks = Vec::with_capacity(rows.len());
        let mut last = (u32::MAX, 0);
        for at in rows {
            if at.source != last.0 {
                let local = *locals.entry(at.source).or_insert_with(|| {
                    sources.push(at.source as usize);
                    sources.len() - 1
                });
                last = (at.source, local);
            }
            picks.push((last.1, at.row as usize));
        }
        (0..self.columns.len()).map(|column| self.gather_column(column, &sources, &picks)).collect()
    }

    fn gather_column(
        &self,
        column: usize,
        sources: &[usize],
        picks: &[(usize, usize)],
    ) -> Result<WriteColumn> {
        let from: Vec<Option<&Column>> =
            sources.iter().map(|source| self.sources[*source][column].as_ref()).collect();
        if from.iter().all(Option::is_none) {
            return Ok(None);
        }
        if from.iter().all(|c| c.is_some_and(|c| c.absent.is_none())) {
            let arrays: Vec<&dyn Array> = from.iter().flatten().map(|c| &*c.array).collect();
            return Ok(Some((pick(&arrays, picks)?, None)));
        }
        let null = new_null_array(&self.columns[column].1, 1);
        let mut arrays: Vec<&dyn Array> =
            from.iter().map(|c| c.map_or(&*null, |c| &*c.array)).collect();
        arrays.push(&*null);
        let is_absent = |(source, row): (usize, usize)| match from[source] {
            Some(column) => column.absent.as_ref().is_some_and(|absent| absent.value(row)),
            None => true,
        };
        let absent = BooleanBuffer::collect_bool(picks.len(), |i| is_absent(picks[i]));
        if absent.count_set_bits() == picks.len() {
            return Ok(None);
        }
        let nulls = arrays.len() - 1;
        let filled = picks.iter().map(|at| if is_absent(*at) { (nulls, 0) } else { *at });
        let array = pick(&arrays, &filled.collect::<Vec<_>>())?;
        let some_absent = absent.count_set_bits() > 0;
        Ok(Some((array, some_absent.then_some(absent))))
    }

    fn close(&mut self) -> Result<()> {
        self.flush(false)?;
        self.flush(true)?;
        let file = match self.writer.take() {
            Some((id, writer)) => {
                self.bytes += writer.finish()?;
                Some(id)
            }
            None => None,
        };
        self.done.push(Output { first: self.first, file });
        Ok(())
    }

    fn finish(mut self) -> Result<(Vec<Output>, u64)> {
        self.close()?;
        Ok((self.done, self.bytes))
    }
}

/// The picked rows; without a copy if they lie together.
fn pick(arrays: &[&dyn Array], picks: &[(usize, usize)]) -> Result<ArrayRef> {
    let (source, start) = picks[0];
    let together = (source, start + picks.len() - 1) == picks[picks.len() - 1]
        && picks.iter().enumerate().all(|(i, at)| *at == (source, start + i));
    match together {
        true => Ok(arrays[source].slice(start, picks.len())),
        false => Ok(interleave(arrays, picks)?),
    }
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
