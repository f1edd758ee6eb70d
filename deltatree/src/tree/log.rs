//! The delta log: operations since the last merges, and the caller's marks, made durable
//! together. It must never take a group of operations back up without the mark that closes it.
//!
//! ```text
//! file   = head 64 B: "DMSKLOG1" | version u32 | zeros
//!          record ...                                       files are numbered without gaps
//! record = head 64 B: "DMSKREC1" | kind u32 | crc32 u32 | body len u64 | seq u64 | meta u64
//!          | zeros
//!          body, padded with zeros to a multiple of 64
//!          the crc is of the head with crc 0, then the body with its padding
//! kind 1, rows:   of one `apply`, or of several, one after the other:
//!                 blocks (see `block`), then at `meta`: table i64 | rows u32 | columns u32
//!                 { name } | handles, versions, deleted (as i64), column ... descriptors
//! kind 2, clear:  table i64 | first i64 | last i64
//! kind 3, sync:   marks u32 { key u64 | bytes }     closes a group; empty bytes remove a mark
//! kind 4, marks:  the same, all marks; the first record of each file; closes a group
//!                 meta of both: 1 + where the group begins that was written with it; 0: not told
//! ```
//! Records behind the last kind 3 or 4 were not acknowledged and are cut off at open. A damaged
//! record with a whole closing record behind it is corruption, but for the last group: its sectors
//! reach the disk in any order, so that where one of them is missing (zeros), power went before its
//! sync.

use super::block::{self, Descriptor, Form};
use super::bytes::{ALIGN, NUMBER_MAX, Put, Reader, corrupt, io_error};
use super::chunk::Rows;
use crate::error::{Error, Result};
use crate::store::{HandleRange, Mark};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{Field, Int64Type, Schema, UInt64Type};
use damask_env::{Disk, File};
use damask_types::{ErrorKind, TableId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const HEAD: &[u8; 8] = b"DMSKLOG1";
const RECORD: &[u8; 8] = b"DMSKREC1";
const VERSION: u32 = 1;
const ROWS: u32 = 1;
const CLEAR: u32 = 2;
const SYNC: u32 = 3;
const MARKS: u32 = 4;
/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// Encoded bytes that are collected before they are handed to the disk.
const WRITE_BYTES: usize = 4 << 20;
/// Bytes of rows that get a record of their own: its head and padding are less than 1 % of them.
const OWN_RECORD_BYTES: usize = 256 << 10;
/// About the bytes of a record without its values.
const HEADS_BYTES: usize = 4096;

/// The folder of log files.
pub const FOLDER: &str = "log";

fn file_name(number: u64) -> String {
    format!("{FOLDER}/{number:012}.log")
}

/// One change, in the order it happened.
#[derive(Clone, Debug)]
pub enum Op {
    /// Sorted rows were applied.
    Rows(TableId, Box<Rows>),
    /// A range was removed.
    Clear(TableId, HandleRange),
}

#[derive(Debug)]
struct Closed {
    number: u64,
    last_seq: u64,
    len: u64,
}

struct Current {
    number: u64,
    last_seq: u64,
    len: u64,
    file: Arc<dyn File>,
}

/// All log files.
pub struct Log {
    disk: Arc<dyn Disk>,
    file_bytes: u64,
    closed: VecDeque<Closed>,
    current: Option<Current>,
    next_number: u64,
    marks: BTreeMap<u64, Vec<u8>>,
    poisoned: bool,
    written: u64,
}

/// Leaves room for a record's head; where it begins. The body follows, then `end_record`.
fn begin_record(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + ALIGN, 0);
    start
}

fn end_record(out: &mut Vec<u8>, start: usize, kind: u32, seq: u64, meta: u64) {
    out.pad();
    let mut head = Vec::with_capacity(ALIGN);
    head.extend_from_slice(RECORD);
    head.put_u32(kind);
    head.put_u32(0);
    head.put_u64((out.len() - start - ALIGN) as u64);
    head.put_u64(seq);
    head.put_u64(meta);
    out[start..start + head.len()].copy_from_slice(&head);
    let crc = crc32fast::hash(&out[start..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
}

/// Appends the record of an operation.
pub fn put_op(out: &mut Vec<u8>, seq: u64, op: &Op) -> Result<()> {
    let (table, rows) = match op {
        Op::Rows(table, rows) => (table, rows),
        Op::Clear(table, range) => {
            let start = begin_record(out);
            out.put_u64(table.0 as u64);
            out.put_u64(range.first as u64);
            out.put_u64(range.last as u64);
            end_record(out, start, CLEAR, seq, 0);
            return Ok(());
        }
    };
    let deleted: Int64Array = rows.deleted.iter().map(|d| d.map(i64::from)).collect();
    let hidden: [&dyn Array; 3] = [&rows.handles, &rows.versions, &deleted];
    let columns = rows.columns.columns().iter().map(|c| c.as_ref());
    out.reserve(rows.bytes + HEADS_BYTES);
    let start = begin_record(out);
    let body = out.len();
    let mut descriptors = Vec::new();
    for array in hidden.into_iter().chain(columns) {
        // offsets count from the body's first byte
        block::write(out, 0u64.wrapping_sub(body as u64), array, None, Form::Raw)?
            .put(&mut descriptors)?;
    }
    let meta = (out.len() - body) as u64;
    out.put_u64(table.0 as u64);
    out.put_u32(rows.len() as u32);
    out.put_u32(rows.columns.num_columns() as u32);
    for field in rows.columns.schema_ref().fields() {
        out.put_bytes(field.name().as_bytes());
    }
    out.extend_from_slice(&descriptors);
    end_record(out, start, ROWS, seq, meta);
    Ok(())
}

fn put_marks<'a>(
    out: &mut Vec<u8>,
    kind: u32,
    seq: u64,
    group: u64,
    marks: impl Iterator<Item = (u64, &'a [u8])>,
) {
    let start = begin_record(out);
    let at = out.len();
    out.put_u32(0);
    let mut count = 0u32;
    for (key, bytes) in marks {
        count += 1;
        out.put_u64(key);
        out.put_bytes(bytes);
    }
    out[at..at + 4].copy_from_slice(&count.to_le_bytes());
    end_record(out, start, kind, seq, group + 1);
}

/// Replaces and removes marks.
pub fn merge_marks(all: &mut BTreeMap<u64, Vec<u8>>, changes: impl Iterator<Item = Mark>) {
    for (key, bytes) in changes {
        match bytes.is_empty() {
            true => all.remove(&key),
            false => all.insert(key, bytes),
        };
    }
}

/// A checked record.
struct Record {
    kind: u32,
    seq: u64,
    meta: u64,
    body: std::ops::Range<usize>,
}

/// The record at `at`; `None` if there is no whole one.
fn record_at(bytes: &[u8], at: usize) -> Option<Record> {
    let head = bytes.get(at..at + ALIGN)?;
    let mut r = Reader::new(head, "");
    if r.take(8).ok()? != RECORD {
        return None;
    }
    let (kind, crc) = (r.u32().ok()?, r.u32().ok()?);
    let (len, seq, meta) = (r.u64().ok()?, r.u64().ok()?, r.u64().ok()?);
    let end = (at + ALIGN).checked_add(usize::try_from(len).ok()?)?;
    let body = bytes.get(at + ALIGN..end)?;
    let mut hash = crc32fast::Hasher::new();
    hash.update(&head[..12]);
    hash.update(&[0; 4]);
    hash.update(&head[16..]);
    hash.update(body);
    let whole = hash.finalize() == crc && len.is_multiple_of(ALIGN as u64);
    whole.then_some(Record { kind, seq, meta, body: at + ALIGN..end })
}

/// Did some sector of a part never reach the disk?
fn has_hole(bytes: &[u8], part: std::ops::Range<usize>) -> bool {
    let mut at = part.start;
    while at < part.end {
        let end = (at + 1).next_multiple_of(SECTOR).min(part.end);
        if bytes[at..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = end;
    }
    false
}

/// The end of the last closing record. Damage in front of it is an error.
fn closed_len(bytes: &[u8], name: &str) -> Result<usize> {
    let (mut at, mut closed) = (ALIGN, 0);
    let head_ok = bytes.len() >= ALIGN
        && bytes.starts_with(HEAD)
        && bytes[8..12] == VERSION.to_le_bytes()
        && bytes[12..ALIGN].iter().all(|b| *b == 0);
    if head_ok {
        while let Some(record) = record_at(bytes, at) {
            at = record.body.end;
            if matches!(record.kind, SYNC | MARKS) {
                closed = at;
            }
        }
    }
    let mut later = (at.min(bytes.len()) / ALIGN * ALIGN..bytes.len()).step_by(ALIGN);
    // Of the group that is damaged: a later one is only written when this one is durable.
    let is_torn = |end: usize, record: &Record| {
        let begins = record.meta.checked_sub(1);
        begins.is_some_and(|begins| begins <= closed as u64) && has_hole(bytes, closed..end)
    };
    let proves = |end: usize| {
        let record = record_at(bytes, end).filter(|r| matches!(r.kind, SYNC | MARKS));
        record.is_some_and(|record| !is_torn(end, &record))
    };
    if later.any(proves) {
        return Err(corrupt(name, format!("damaged record at byte {at}, whole ones follow")));
    }
    Ok(closed)
}

fn read_rows(bytes: &Buffer, record: &Record, name: &str) -> Result<Op> {
    let body = bytes.slice_with_length(record.body.start, record.body.len());
    let mut r = Reader::new(&body, name);
    r.take(usize::try_from(record.meta).unwrap_or(usize::MAX))?;
    let table = TableId(r.u64()? as i64);
    let rows = r.u32()? as usize;
    let count = r.count()?;
    let names = (0..count).map(|_| r.text().map(str::to_owned)).collect::<Result<Vec<_>>>()?;
    let mut next = || -> Result<ArrayRef> {
        Ok(Descriptor::read(&mut r, name)?.open(name, &body, rows)?.array)
    };
    let (handles, versions, deleted) = (next()?, next()?, next()?);
    let arrays = (0..count).map(|_| next()).collect::<Result<Vec<_>>>()?;
    let typed = (
        handles.as_primitive_opt::<Int64Type>(),
        versions.as_primitive_opt::<UInt64Type>(),
        deleted.as_primitive_opt::<Int64Type>(),
    );
    let (Some(handles), Some(versions), Some(deleted)) = typed else {
        return Err(corrupt(name, "a hidden column has the wrong type"));
    };
    let nulls = handles.null_count() + versions.null_count() + deleted.null_count();
    if nulls > 0 || versions.values().iter().any(|v| *v == 0 || *v == u64::MAX) {
        return Err(corrupt(name, "a hidden column has a value that no row has"));
    }
    let fields = names.iter().zip(&arrays);
    let fields = fields.map(|(n, a)| Field::new(n, a.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let columns = RecordBatch::try_new_with_options(schema, arrays, &options)?;
    let deleted: BooleanArray = deleted.values().iter().map(|d| Some(*d != 0)).collect();
    let rows = Rows::arranged(handles.clone(), versions.clone(), deleted, columns)?;
    Ok(Op::Rows(table, Box::new(rows)))
}

/// What is wrong with a request is wrong with the bytes where nobody asked but the file.
fn stored(e: Error, name: &str) -> Error {
    match e.kind() {
        ErrorKind::Invalid => corrupt(name, e.detail),
        _ => e,
    }
}

impl Log {
    /// Reads all files from `first` on, hands out the operations in order, and cuts a torn tail.
    pub fn open(
        disk: Arc<dyn Disk>,
        first: u64,
        file_bytes: u64,
        mut replay: impl FnMut(u64, Op) -> Result<()>,
    ) -> Result<Log> {
        let io = |e| io_error("open", FOLDER, e);
        let mut numbers = Vec::new();
        for name in disk.list(FOLDER).map_err(io)? {
            let number = name.strip_suffix(".log").and_then(|n| n.parse::<u64>().ok());
            let number = number.filter(|number| *number <= NUMBER_MAX);
            let full = format!("{FOLDER}/{name}");
            match number {
                Some(number) if number >= first => numbers.push(number),
                Some(_) => disk.remove(&full).map_err(io)?, // a merge made it useless
                None => return Err(corrupt(&full, "not a log file")),
            }
        }
        let mut log = Log {
            disk,
            file_bytes,
            closed: VecDeque::new(),
            current: None,
            next_number: first,
            marks: BTreeMap::new(),
            poisoned: false,
            written: 0,
        };
        let last = numbers.last().copied();
        for number in numbers {
            if number != log.next_number {
                return Err(corrupt(&file_name(log.next_number), "the file is missing"));
            }
            log.recover(number, Some(number) == last, &mut replay)?;
        }
        Ok(log)
    }

    fn recover(
        &mut self,
        number: u64,
        is_last: bool,
        replay: &mut impl FnMut(u64, Op) -> Result<()>,
    ) -> Result<()> {
        let name = file_name(number);
        let io = |e| io_error("open", &name, e);
        let file = self.disk.open(&name).map_err(io)?;
        let len = file.len().map_err(io)?;
        let bytes = Buffer::from_vec(file.read_at(0, len as usize).map_err(io)?);
        let closed = closed_len(&bytes, &name)?;
        if (closed as u64) < len {
            if !is_last {
                return Err(corrupt(&name, format!("damaged record after byte {closed}")));
            }
            if closed == 0 {
                // the file was being started: nothing in it was acknowledged
                return self.disk.remove(&name).map_err(io);
            }
            file.truncate(closed as u64).map_err(io)?;
            file.sync().map_err(io)?;
        }
        let (mut at, mut last_seq) = (ALIGN, 0);
        while at < closed {
            let record = record_at(&bytes, at).expect("checked by `closed_len`");
            last_seq = record.seq;
            self.replay(&bytes, &record, &name, replay)?;
            at = record.body.end;
        }
        self.next_number = number + 1;
        let len = closed as u64;
        match is_last {
            true => self.current = Some(Current { number, last_seq, len, file }),
            false => self.closed.push_back(Closed { number, last_seq, len }),
        }
        Ok(())
    }

    fn replay(
        &mut self,
        bytes: &Buffer,
        record: &Record,
        name: &str,
        replay: &mut impl FnMut(u64, Op) -> Result<()>,
    ) -> Result<()> {
        let mut r = Reader::new(&bytes[record.body.clone()], name);
        if record.seq > NUMBER_MAX {
            return Err(corrupt(name, format!("nobody counts to {}", record.seq)));
        }
        match record.kind {
            ROWS => {
                let op = read_rows(bytes, record, name);
                op.and_then(|op| replay(record.seq, op)).map_err(|e| stored(e, name))
            }
            CLEAR => {
                let table = TableId(r.u64()? as i64);
                let range = HandleRange { first: r.u64()? as i64, last: r.u64()? as i64 };
                if range.first > range.last {
                    return Err(corrupt(name, "a removal of a range that ends before it begins"));
                }
                replay(record.seq, Op::Clear(table, range)).map_err(|e| stored(e, name))
            }
            SYNC | MARKS => {
                let mut marks = Vec::new();
                for _ in 0..r.count()? {
                    marks.push((r.u64()?, r.bytes()?.to_vec()));
                }
                if record.kind == MARKS {
                    self.marks.clear();
                }
                merge_marks(&mut self.marks, marks.into_iter());
                Ok(())
            }
            other => Err(corrupt(name, format!("unknown record kind {other}"))),
        }
    }

    /// Makes operations and marks durable. An error other than `Poisoned` means that nothing
    /// happened and the same call may be repeated.
    pub fn append(&mut self, ops: &[(u64, Op)], last_seq: u64, marks: &[Mark]) -> Result<()> {
        if self.poisoned {
            let detail = "an earlier sync of the delta log failed";
            return Err(Error::new("sync", ErrorKind::Poisoned, detail));
        }
        if self.current.as_ref().is_none_or(|c| c.len >= self.file_bytes) {
            self.start_file()?;
        }
        let buffer = self.head(last_seq);
        let current = self.current.as_mut().expect("a file was started");
        let name = file_name(current.number);
        let start = current.len;
        let mut end = start;
        if let Err(e) = write_group(&*current.file, &name, buffer, ops, last_seq, marks, &mut end) {
            // the tail is undefined: take it off, or nothing is certain any more
            self.poisoned = current.file.truncate(start).is_err();
            return Err(match self.poisoned {
                true => Error::new("sync", ErrorKind::Poisoned, e.detail),
                false => e,
            });
        }
        let synced = current.file.sync();
        let synced = match start {
            0 => synced.and_then(|()| self.disk.sync_folder(FOLDER)),
            _ => synced,
        };
        synced.map_err(|e| {
            self.poisoned = true;
            Error::new("sync", ErrorKind::Poisoned, format!("{name}: {e}"))
        })?;
        self.written += end - start;
        current.len = end;
        current.last_seq = last_seq;
        merge_marks(&mut self.marks, marks.iter().cloned());
        Ok(())
    }

    /// What the current file must begin with, if it is empty.
    fn head(&self, last_seq: u64) -> Vec<u8> {
        let mut buffer = Vec::new();
        if self.current.as_ref().is_some_and(|c| c.len == 0) {
            buffer.extend_from_slice(HEAD);
            buffer.put_u32(VERSION);
            buffer.pad();
            let marks = self.marks.iter().map(|(key, bytes)| (*key, bytes.as_slice()));
            put_marks(&mut buffer, MARKS, last_seq, 0, marks);
        }
        buffer
    }

    fn start_file(&mut self) -> Result<()> {
        let number = self.next_number;
        let name = file_name(number);
        let file = self.disk.open(&name).map_err(|e| io_error("sync", &name, e))?;
        // left by a failed start
        file.truncate(0).map_err(|e| io_error("sync", &name, e))?;
        let fresh = Current { number, last_seq: 0, len: 0, file };
        if let Some(Current { number, last_seq, len, .. }) = self.current.replace(fresh) {
            self.closed.push_back(Closed { number, last_seq, len });
        }
        self.next_number += 1;
        Ok(())
    }

    /// The last operation in the files, 0 if there is none.
    pub fn last_seq(&self) -> u64 {
        let closed = self.closed.iter().map(|c| c.last_seq);
        closed.chain(self.current.as_ref().map(|c| c.last_seq)).max().unwrap_or(0)
    }

    /// The marks of the last completed sync.
    pub fn marks(&self) -> Vec<Mark> {
        self.marks.iter().map(|(key, bytes)| (*key, bytes.clone())).collect()
    }

    /// Bytes appended since it was opened.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |c| c.len);
        self.closed.iter().map(|c| c.len).sum::<u64>() + current
    }

    /// The last operation in the oldest file that is not written any more.
    pub fn oldest_closed(&self) -> Option<u64> {
        self.closed.front().map(|c| c.last_seq)
    }

    /// The number of the first file that is needed when all operations before `oldest` are
    /// merged. The newest file with anything in it is: it holds the marks.
    pub fn first_needed(&self, oldest: u64) -> u64 {
        let needed = self.closed.iter().find(|c| c.last_seq >= oldest).map(|c| c.number);
        let (newest, current) = (self.closed.back(), self.current.as_ref());
        let begun = current.filter(|c| c.len > 0 || newest.is_none()).map(|c| c.number);
        let holds_marks = begun.or(newest.map(|c| c.number));
        needed.or(holds_marks).unwrap_or(self.next_number)
    }

    /// Removes the files in front of `first`.
    pub fn remove_before(&mut self, first: u64) -> Result<()> {
        while let Some(file) = self.closed.front().filter(|c| c.number < first) {
            let name = file_name(file.number);
            self.disk.remove(&name).map_err(|e| io_error("maintain", &name, e))?;
            self.closed.pop_front();
        }
        Ok(())
    }
}

/// How many operations from the first on go into one record: rows of one table, with the same
/// columns. A record of few rows is mostly head and padding; many rows are not copied for it. All
/// of a record are durable together or not at all, so the number of the last one stands for all: a
/// merge that took some of them forgets no deletion (see `merge` in `mod`), and what is applied
/// again is a duplicate.
fn joinable(ops: &[(u64, Op)]) -> usize {
    let Some((_, Op::Rows(table, first))) = ops.first() else { return 1 };
    let mut bytes = 0;
    let alike = ops.iter().take_while(|(_, op)| match op {
        Op::Rows(other, rows) => {
            bytes += rows.bytes;
            let small = rows.bytes < OWN_RECORD_BYTES && bytes <= WRITE_BYTES;
            other == table && rows.is_like(first) && small
        }
        Op::Clear(..) => false,
    });
    alike.count().max(1)
}

fn joined(table: TableId, group: &[(u64, Op)]) -> Result<Op> {
    let rows = group.iter().filter_map(|(_, op)| match op {
        Op::Rows(_, rows) => Some(&**rows),
        Op::Clear(..) => None,
    });
    let rows = Rows::join(&rows.collect::<Vec<_>>())?;
    Ok(Op::Rows(table, Box::new(rows)))
}

fn write_group(
    file: &dyn File,
    name: &str,
    mut buffer: Vec<u8>,
    ops: &[(u64, Op)],
    last_seq: u64,
    marks: &[Mark],
    end: &mut u64,
) -> Result<()> {
    let start = *end;
    let mut flush = |buffer: &mut Vec<u8>| {
        *end += buffer.len() as u64;
        let done = file.append(buffer).map_err(|e| io_error("sync", name, e));
        buffer.clear();
        done
    };
    let mut ops = ops;
    while let [(_, op), ..] = ops {
        let (group, rest) = ops.split_at(joinable(ops));
        let (seq, _) = group[group.len() - 1];
        match (op, group.len()) {
            (op, 1) => put_op(&mut buffer, seq, op)?,
            (Op::Rows(table, _), _) => put_op(&mut buffer, seq, &joined(*table, group)?)?,
            (Op::Clear(..), _) => unreachable!("a removal is never joined"),
        }
        ops = rest;
        if buffer.len() >= WRITE_BYTES {
            flush(&mut buffer)?;
        }
    }
    let marks = marks.iter().map(|(key, bytes)| (*key, bytes.as_slice()));
    put_marks(&mut buffer, SYNC, last_seq, start, marks);
    flush(&mut buffer)
}
