//! Reads one stable file: immutable sorted packs, mapped once for the file's lifetime. It must
//! never change a file, and never hand out bytes that were not checked.
//!
//! ```text
//! file   = head 64 B: "DMSKSTB1" | version u32 | zeros
//!          blocks (see `block`), each at a multiple of 64
//!          footer
//!          tail 24 B: footer offset u64 | footer len u32 | footer crc32 u32 | "DMSKEND1"
//! footer = table i64 | columns u32 { name | type 3 B } | base packs u32 | history packs u32
//!          | pack ...                                     all base packs, then all history packs
//! pack   = rows u32 | first handle i64 | last handle i64 | min version u64 | max version u64
//!          | max until u64 | handles descriptor | versions descriptor
//!          | untils descriptor (history only)
//!          | per column: 0 u8, or 1 u8 | descriptor | bounds
//! ```
//! *Base* packs hold one row per handle, the newest, none deleted, sorted by handle; a read at
//! "now" takes them as they are. *History* packs hold what older reads need, sorted by (handle,
//! version): each row is visible from its version up to, not including, its `until`; `until` 0
//! marks a deletion, which no read sees.

use super::block::{Block, Column, Descriptor, Form, put_type};
use super::bounds::Bounds;
use super::bytes::{ALIGN, Put, Reader, corrupt, io_error};
use crate::error::{Error, Result};
use crate::fold::wide::{Next, prefetch, prefetch_from};
use crate::store::HandleRange;
use arrow::array::{ArrayRef, AsArray, Int64Array, UInt64Array};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use damask_env::{Content, Disk, File};
use damask_types::{ErrorKind, TableId};
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HEAD: &[u8; 8] = b"DMSKSTB1";
const END: &[u8; 8] = b"DMSKEND1";
/// Since version 2 the parts of a block may be encoded. Files of version 1, in which none is, are
/// read as they are; a merge replaces them by files of this version.
const VERSION: u32 = 2;
const VERSION_MIN: u32 = 1;
const TAIL_BYTES: usize = 24;
/// Of the description of a pack.
const PACK_BYTES_MIN: usize = 100;

/// The folder of stable files.
pub const FOLDER: &str = "stable";

/// The name of a stable file.
pub fn file_name(id: u64) -> String {
    format!("{FOLDER}/{id:012}.stable")
}

/// A column's values in a pack.
#[derive(Debug)]
pub struct PackColumn {
    block: Block,
    /// Of the values that are there.
    pub bounds: Bounds,
}

impl PackColumn {
    /// Some rows were written without the column.
    pub fn has_absent(&self) -> bool {
        self.block.descriptor.has_absent()
    }

    /// Some of the values that are there are NULL.
    pub fn has_nulls(&self) -> bool {
        self.block.descriptor.nulls > 0
    }
}

/// Rows of a stable file that are pruned, checked and masked together.
#[derive(Debug)]
#[repr(C)] // what every read looks at stands together, in the first lines
pub struct Pack {
    /// Rows.
    pub rows: usize,
    /// Smallest handle.
    pub first: i64,
    /// Largest handle.
    pub last: i64,
    /// Smallest version of any row.
    pub min_version: u64,
    /// Largest version of any row.
    pub max_version: u64,
    /// Largest `until`, or version of a deletion; `u64::MAX` in base packs. Reads from here on
    /// see none of the pack.
    pub max_until: u64,
    /// By the file's columns.
    pub columns: Vec<Option<PackColumn>>,
    /// The handles, as the bounds of a column.
    pub handle_bounds: Bounds,
    handles: Block,
    versions: Block,
    untils: Option<Block>,
}

/// The hidden columns of a pack.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Ascending.
    pub handles: &'a [i64],
    /// Commit timestamps.
    pub versions: &'a [u64],
    /// Of a history pack only.
    pub untils: Option<&'a [u64]>,
}

struct Owner(Content);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// An open stable file. It removes the file when the last user drops it, once it is obsolete.
pub struct Stable {
    /// The number in its name.
    pub id: u64,
    /// Names and types.
    pub columns: Vec<(String, DataType)>,
    /// Base packs, then history packs.
    pub packs: Vec<Pack>,
    /// How many of them are base packs.
    pub base_packs: usize,
    /// Rows in base packs.
    pub base_rows: u64,
    /// Rows in history packs.
    pub history_rows: u64,
    /// Largest version in the file.
    pub max_version: u64,
    name: String,
    bytes: Buffer,
    disk: Arc<dyn Disk>,
    obsolete: AtomicBool,
}

impl std::fmt::Debug for Stable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stable({}, {} packs)", self.name, self.packs.len())
    }
}

impl Drop for Stable {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            // a file that stays is swept at the next open
            let _ = self.disk.remove(&self.name);
        }
    }
}

impl Stable {
    /// Maps a file and checks its footer; blocks are checked when first used.
    pub fn open(disk: Arc<dyn Disk>, table: TableId, id: u64) -> Result<Stable> {
        let name = file_name(id);
        let content = disk.map(&name).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => corrupt(&name, "the file is missing"),
            _ => io_error("open", &name, e),
        })?;
        let bytes = Buffer::from(bytes::Bytes::from_owner(Owner(content)));
        let footer = footer_of(&bytes, &name)?;
        let mut r = Reader::new(footer, &name);
        if r.u64()? as i64 != table.0 {
            return Err(corrupt(&name, "it belongs to another table"));
        }
        let mut columns = Vec::new();
        for _ in 0..r.count()? {
            let column = r.text()?.to_owned();
            if columns.iter().any(|(known, _)| *known == column) {
                return Err(corrupt(&name, format!("it has column {column} twice")));
            }
            columns.push((column, super::block::read_type(&mut r, &name)?));
        }
        let (base_packs, history_packs) = (r.count()?, r.count()?);
        let all = base_packs + history_packs;
        let mut packs = Vec::with_capacity(all.min(r.remaining() / PACK_BYTES_MIN));
        for index in 0..all {
            let pack = Pack::read(&mut r, &name, &columns, index >= base_packs)?;
            pack.check(&name, bytes.len() as u64, &columns)?;
            packs.push(pack);
        }
        check_order(&packs, base_packs, &name)?;
        if r.remaining() > 0 {
            return Err(corrupt(&name, "bytes behind the last pack"));
        }
        let rows = |packs: &[Pack]| packs.iter().map(|p| p.rows as u64).sum();
        Ok(Stable {
            id,
            base_packs,
            base_rows: rows(&packs[..base_packs]),
            history_rows: rows(&packs[base_packs..]),
            max_version: packs.iter().map(|p| p.max_version).max().unwrap_or(0),
            columns,
            packs,
            name,
            bytes,
            disk,
            obsolete: AtomicBool::new(false),
        })
    }

    /// Where the file is mapped.
    #[cfg(test)]
    pub fn mapped(&self) -> std::ops::Range<usize> {
        let first = self.bytes.as_ptr() as usize;
        first..first + self.bytes.len()
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// From now on the file goes when its last user goes.
    pub fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The error for wrong bytes of this file.
    pub fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        corrupt(&self.name, what)
    }

    /// All handles must lie in the segment that the file belongs to.
    pub fn check_range(&self, range: HandleRange) -> Result<()> {
        let outside = |pack: &Pack| pack.first < range.first || range.last < pack.last;
        match self.packs.iter().any(outside) {
            true => Err(self.corrupt("it has rows that do not belong to its segment")),
            false => Ok(()),
        }
    }

    /// The hidden columns of a pack.
    pub fn keys(&self, pack: usize) -> Result<Keys<'_>> {
        let pack = &self.packs[pack];
        let handles = self.read(&pack.handles, pack.rows)?.array.as_primitive::<Int64Type>();
        let ends = (handles.values().first(), handles.values().last());
        if ends != (Some(&pack.first), Some(&pack.last)) {
            return Err(self.corrupt("handles that do not begin and end as the footer says"));
        }
        let u64s = |block| -> Result<&[u64]> {
            Ok(self.read(block, pack.rows)?.array.as_primitive::<UInt64Type>().values())
        };
        let versions = u64s(&pack.versions)?;
        let untils = pack.untils.as_ref().map(u64s).transpose()?;
        Ok(Keys { handles: handles.values(), versions, untils })
    }

    /// The handles of a pack as an array.
    pub fn handles(&self, pack: usize) -> Result<ArrayRef> {
        let pack = &self.packs[pack];
        Ok(self.read(&pack.handles, pack.rows)?.array.clone())
    }

    /// A column of a pack; `None` if all its rows were written without it.
    pub fn column(&self, pack: usize, column: usize) -> Result<Option<&Column>> {
        let pack = &self.packs[pack];
        match &pack.columns[column] {
            Some(column) => self.read(&column.block, pack.rows).map(Some),
            None => Ok(None),
        }
    }

    /// Asks memory for what every read looks at of a pack, which will be soon.
    pub fn expect_pack(&self, pack: usize) {
        prefetch_from(&self.packs[pack], offset_of!(Pack, handle_bounds));
    }

    /// The same of a column's description; the pack's was asked for before.
    pub fn expect_column(&self, pack: usize, column: usize) {
        prefetch(std::slice::from_ref(&self.packs[pack].columns[column]));
    }

    /// The same of a column's array; its description was asked for before.
    pub fn expect_array(&self, pack: usize, column: usize) {
        if let Some(column) = &self.packs[pack].columns[column] {
            column.block.expect();
        }
    }

    /// Where a column's values begin, if it was read before.
    pub fn next(&self, pack: usize, column: usize) -> Next {
        self.packs[pack].columns[column].as_ref().map_or(Next::default(), |c| c.block.next())
    }

    /// Where a column is among [`Stable::columns`].
    pub fn find_column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|(column, _)| column == name)
    }

    /// Checks every block.
    pub fn verify(&self) -> Result<()> {
        for pack in &self.packs {
            let hidden = [&pack.handles, &pack.versions].into_iter().chain(&pack.untils);
            for block in hidden.chain(pack.columns.iter().flatten().map(|c| &c.block)) {
                block.check(&self.name, &self.bytes, pack.rows)?;
            }
        }
        Ok(())
    }

    fn read<'a>(&'a self, block: &'a Block, rows: usize) -> Result<&'a Column> {
        block.get(&self.name, &self.bytes, rows)
    }
}

fn footer_of<'a>(bytes: &'a [u8], name: &'a str) -> Result<&'a [u8]> {
    let tail_at = bytes.len().checked_sub(TAIL_BYTES).filter(|at| *at >= ALIGN);
    let tail_at = tail_at.ok_or_else(|| corrupt(name, "too short for a stable file"))?;
    if !bytes.starts_with(HEAD) || !bytes.ends_with(END) {
        return Err(corrupt(name, "not a stable file"));
    }
    let mut head = Reader::new(&bytes[HEAD.len()..], name);
    let version = head.u32()?;
    if !(VERSION_MIN..=VERSION).contains(&version)
        || bytes[HEAD.len() + 4..ALIGN].iter().any(|b| *b != 0)
    {
        return Err(corrupt(name, format!("wrong head, version {version}")));
    }
    let mut tail = Reader::new(&bytes[tail_at..], name);
    let (offset, len, crc) = (tail.u64()?, tail.u32()?, tail.u32()?);
    let mut all = Reader::new(&bytes[..tail_at], name);
    all.take(usize::try_from(offset).unwrap_or(usize::MAX))?;
    let footer = all.take(len as usize)?;
    if all.remaining() != 0 || crc32fast::hash(footer) != crc {
        return Err(corrupt(name, "footer checksum mismatch"));
    }
    Ok(footer)
}

impl Pack {
    fn read(
        r: &mut Reader<'_>,
        name: &str,
        columns: &[(String, DataType)],
        history: bool,
    ) -> Result<Pack> {
        let rows = r.u32()? as usize;
        let (first, last) = (r.u64()? as i64, r.u64()? as i64);
        let (min_version, max_version, max_until) = (r.u64()?, r.u64()?, r.u64()?);
        let block = |r: &mut Reader<'_>| Descriptor::read(r, name).map(Block::new);
        let (handles, versions) = (block(r)?, block(r)?);
        let untils = if history { Some(block(r)?) } else { None };
        let mut all = Vec::with_capacity(columns.len());
        for _ in columns {
            all.push(match r.u8()? {
                0 => None,
                _ => Some(PackColumn { block: block(r)?, bounds: Bounds::read(r, name)? }),
            });
        }
        Ok(Pack {
            rows,
            first,
            last,
            min_version,
            max_version,
            max_until,
            handle_bounds: Bounds::Numbers(first.into(), last.into()),
            handles,
            versions,
            untils,
            columns: all,
        })
    }

    /// Nothing that is made of the pack may take memory by a number that is only claimed, nor
    /// meet a type that it does not expect.
    fn check(&self, name: &str, file_len: u64, columns: &[(String, DataType)]) -> Result<()> {
        let handles = &self.handles.descriptor;
        let (rows, bytes) = (self.rows as u64, size_of::<i64>() as u64);
        let rows_max = match handles.is_encoded() {
            true => super::encoding::ROWS_MAX as u64,
            false => handles.len / bytes,
        };
        if rows == 0 || rows > rows_max || self.first > self.last {
            return Err(corrupt(name, format!("a pack of {rows} rows that cannot be")));
        }
        let hidden = [(handles, &DataType::Int64), (&self.versions.descriptor, &DataType::UInt64)];
        let untils = self.untils.iter().map(|block| (&block.descriptor, &DataType::UInt64));
        let columns = self.columns.iter().zip(columns);
        let columns = columns.filter_map(|(column, (_, data_type))| {
            column.as_ref().map(|column| (&column.block.descriptor, data_type))
        });
        for (descriptor, data_type) in hidden.into_iter().chain(untils).chain(columns) {
            let end = descriptor.offset.checked_add(descriptor.len);
            if end.is_none_or(|end| end > file_len) || descriptor.data_type != *data_type {
                return Err(corrupt(name, "a block that is not where or what it should be"));
            }
        }
        Ok(())
    }
}

/// Binary searches over packs need them in order: base packs have one row per handle; the versions
/// of one may go on in the next history pack.
fn check_order(packs: &[Pack], base_packs: usize, name: &str) -> Result<()> {
    let (base, history) = packs.split_at(base_packs);
    let ascend = base.windows(2).all(|pair| pair[0].last < pair[1].first)
        && history.windows(2).all(|pair| pair[0].last <= pair[1].first);
    match ascend && !packs.is_empty() {
        true => Ok(()),
        false => Err(corrupt(name, "packs that do not ascend")),
    }
}

/// A column to be written: values, and which rows lack it.
pub type WriteColumn = Option<(ArrayRef, Option<BooleanBuffer>)>;

/// Writes a stable file, pack by pack.
pub struct Writer {
    name: String,
    file: Arc<dyn File>,
    at: u64,
    buffer: Vec<u8>,
    table: TableId,
    columns: Vec<(String, DataType)>,
    packs: [(u32, Vec<u8>); 2],
    rows: u64,
}

impl Writer {
    /// Starts a new file.
    pub fn create(
        disk: &dyn Disk,
        id: u64,
        table: TableId,
        columns: Vec<(String, DataType)>,
    ) -> Result<Writer> {
        let name = file_name(id);
        let file = disk.open(&name).map_err(|e| io_error("merge", &name, e))?;
        let mut buffer = HEAD.to_vec();
        buffer.put_u32(VERSION);
        buffer.pad();
        let packs = Default::default();
        Ok(Writer { name, file, at: 0, buffer, table, columns, packs, rows: 0 })
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a pack: of history if `untils` are given. Rows are sorted by (handle, version).
    pub fn pack(
        &mut self,
        handles: Vec<i64>,
        versions: Vec<u64>,
        untils: Option<Vec<u64>>,
        columns: Vec<WriteColumn>,
    ) -> Result<()> {
        let (packs, footer) = &mut self.packs[usize::from(untils.is_some())];
        *packs += 1;
        self.rows += handles.len() as u64;
        footer.put_u32(handles.len() as u32);
        footer.put_u64(*handles.first().expect("a pack has rows") as u64);
        footer.put_u64(*handles.last().expect("a pack has rows") as u64);
        footer.put_u64(versions.iter().copied().min().expect("a pack has rows"));
        footer.put_u64(versions.iter().copied().max().expect("a pack has rows"));
        // a deletion is needed as long as a read could be in front of it
        let needed = |untils: &Vec<u64>| untils.iter().zip(&versions).map(|(u, v)| *u.max(v)).max();
        footer.put_u64(untils.as_ref().and_then(needed).unwrap_or(u64::MAX));
        let (at, out) = (self.at, &mut self.buffer);
        super::block::write(out, at, &Int64Array::from(handles), None, Form::Chosen)?
            .put(footer)?;
        super::block::write(out, at, &UInt64Array::from(versions), None, Form::Chosen)?
            .put(footer)?;
        if let Some(untils) = untils {
            super::block::write(out, at, &UInt64Array::from(untils), None, Form::Chosen)?
                .put(footer)?;
        }
        debug_assert_eq!(columns.len(), self.columns.len());
        for column in columns {
            match column {
                None => footer.put_u8(0),
                Some((array, absent)) => {
                    footer.put_u8(1);
                    super::block::write(out, at, &array, absent.as_ref(), Form::Chosen)?
                        .put(footer)?;
                    Bounds::of(&array).put(footer);
                }
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.file.append(&self.buffer).map_err(|e| io_error("merge", &self.name, e))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the footer and makes the file durable; its length.
    pub fn finish(mut self) -> Result<u64> {
        let mut footer = Vec::new();
        footer.put_u64(self.table.0 as u64);
        footer.put_u32(self.columns.len() as u32);
        for (name, data_type) in &self.columns {
            footer.put_bytes(name.as_bytes());
            put_type(&mut footer, data_type)?;
        }
        footer.put_u32(self.packs[0].0);
        footer.put_u32(self.packs[1].0);
        footer.extend_from_slice(&self.packs[0].1);
        footer.extend_from_slice(&self.packs[1].1);
        let len = u32::try_from(footer.len());
        let too_large = |_| Error::new("merge", ErrorKind::Invalid, "a footer over 4 GiB");
        let (offset, len) = (self.at + self.buffer.len() as u64, len.map_err(too_large)?);
        self.buffer.extend_from_slice(&footer);
        self.buffer.put_u64(offset);
        self.buffer.put_u32(len);
        self.buffer.put_u32(crc32fast::hash(&footer));
        self.buffer.extend_from_slice(END);
        self.flush()?;
        self.file.sync().map_err(|e| io_error("merge", &self.name, e))?;
        Ok(self.at)
    }
}
