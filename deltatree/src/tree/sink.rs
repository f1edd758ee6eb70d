//! The end of a merge: rows come in handle order as references, wait until they fill a pack, then
//! their columns are gathered one after the other. It must never hold more than a pack of copies.

use super::block::Column;
use super::merge::Merge;
use super::stable::{WriteColumn, Writer};
use crate::error::Result;
use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use std::collections::HashMap;

/// A row of the view: packs first, then chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef {
    /// The pack or chunk.
    pub source: u32,
    /// The row in it.
    pub row: u32,
}

/// One version of a handle.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// Its commit timestamp.
    pub version: u64,
    /// Where its columns are.
    pub at: RowRef,
    /// A deletion.
    pub deleted: bool,
}

/// A new segment: its first handle, and its file if it has rows.
pub struct Output {
    /// First handle.
    pub first: i64,
    /// Number of the file.
    pub file: Option<u64>,
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

/// Where merged rows go.
pub struct Sink<'a, 'b> {
    merge: &'b Merge<'a>,
    /// Of the files.
    pub columns: Vec<(String, DataType)>,
    /// By source, by output column.
    pub sources: Vec<Vec<Option<Column>>>,
    writer: Option<(u64, Writer)>,
    base: Rows,
    history: Rows,
    first: i64,
    done: Vec<Output>,
    files: &'b mut Vec<u64>,
    bytes: u64,
}

impl<'a, 'b> Sink<'a, 'b> {
    /// Nothing written yet; `files` receives the number of every file that is begun.
    pub fn new(
        merge: &'b Merge<'a>,
        first: i64,
        columns: Vec<(String, DataType)>,
        files: &'b mut Vec<u64>,
    ) -> Sink<'a, 'b> {
        Sink {
            merge,
            columns,
            sources: Vec::new(),
            writer: None,
            base: Rows::default(),
            history: Rows::default(),
            first,
            done: Vec::new(),
            files,
            bytes: 0,
        }
    }

    /// Takes care that these columns are written from a handle on: a file has the same columns
    /// from its beginning to its end.
    pub fn add_columns(&mut self, columns: Vec<(String, DataType)>, handle: i64) -> Result<()> {
        let known = |name: &String| self.columns.iter().any(|(column, _)| column == name);
        let new: Vec<_> = columns.into_iter().filter(|(name, _)| !known(name)).collect();
        if !new.is_empty() && self.writer.is_some() {
            self.close()?;
            self.first = handle;
        }
        self.columns.extend(new);
        Ok(())
    }

    /// Takes the versions of a handle that are to stay, ascending.
    pub fn handle(&mut self, handle: i64, versions: &[Version]) -> Result<()> {
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

    /// Writes what waits.
    pub fn flush_all(&mut self) -> Result<()> {
        self.flush(false)?;
        self.flush(true)
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
        self.flush_all()?;
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

    /// Closes the last file.
    pub fn finish(mut self) -> Result<(Vec<Output>, u64)> {
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
