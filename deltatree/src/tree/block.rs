//! One Arrow array as aligned bytes, and back, without a copy of what is raw. It must never
//! return an array whose bytes do not match their checksum.
//!
//! ```text
//! block = [ validity bitmap ]  if flag VALIDITY: ceil(rows / 8) bytes   each part starts at a
//!         [ absent bitmap   ]  if flag ABSENT:   ceil(rows / 8) bytes   multiple of 64 and is
//!         [ offsets         ]  strings only: (rows + 1) x i32, first 0  padded with zeros
//!         [ values          ]  rows x width little-endian, or the strings' bytes
//! descriptor (in a footer or a record head) =
//!         offset u64 | len u64 | crc32 u32 of all len bytes | nulls u32 | flags u8 | type 3 B
//! flags = VALIDITY 1 | ABSENT 2 | encoded parts: validity 4, absent 8, offsets 16, values 32
//! type  = tag u8 | precision u8 | scale i8            (the last two only for decimals)
//! ```
//! A part that is not encoded is a ready Arrow buffer where it is mapped; an encoded one is as in
//! `encoding`. Stable files of version 1 and log records hold none. A row whose bit in `absent` is
//! set was written before the column existed: a read fills in its default.

use super::bytes::{ALIGN, Put, Reader, corrupt};
use super::encoding::{self, Shape};
use crate::error::{Error, Result};
use crate::fold::wide::{Next, prefetch_from};
use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{DataType, TimeUnit};
use damask_types::ErrorKind;
use std::sync::{Arc, OnceLock};

/// About the bytes of an array without its values.
const ARRAY_BYTES: usize = 128;
/// Bytes in front of it: the counts of those that share it, which handing it out writes.
const COUNTS_BYTES: usize = 16;

const VALIDITY: u8 = 1;
const ABSENT: u8 = 2;
const ENCODED_VALIDITY: u8 = 4;
const ENCODED_ABSENT: u8 = 8;
const ENCODED_OFFSETS: u8 = 16;
const ENCODED_VALUES: u8 = 32;
const ENCODED: u8 = ENCODED_VALIDITY | ENCODED_ABSENT | ENCODED_OFFSETS | ENCODED_VALUES;
const FLAGS: u8 = VALIDITY | ABSENT | ENCODED;

/// Where one block lies and what it must hash to.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// First byte, from the start of the file or record body.
    pub offset: u64,
    /// Bytes, padding included.
    pub len: u64,
    /// CRC32 of these bytes.
    pub crc: u32,
    /// NULLs, not counting absent rows.
    pub nulls: u32,
    flags: u8,
    /// The array's type.
    pub data_type: DataType,
}

/// Writes the three bytes of a type; `Invalid` if the column store has no such type.
pub fn put_type(out: &mut Vec<u8>, data_type: &DataType) -> Result<()> {
    let (tag, precision, scale) = match data_type {
        DataType::Int64 => (1, 0, 0),
        DataType::UInt64 => (2, 0, 0),
        DataType::Float64 => (3, 0, 0),
        DataType::Decimal128(precision, scale) => (4, *precision, *scale),
        DataType::Utf8 => (5, 0, 0),
        DataType::Binary => (6, 0, 0),
        DataType::Date32 => (7, 0, 0),
        DataType::Timestamp(TimeUnit::Microsecond, None) => (8, 0, 0),
        DataType::Duration(TimeUnit::Microsecond) => (9, 0, 0),
        other => {
            let detail = format!("the column store has no type {other}");
            return Err(Error::new("write", ErrorKind::Invalid, detail));
        }
    };
    out.extend_from_slice(&[tag, precision, scale as u8]);
    Ok(())
}

/// Reads the three bytes of a type.
pub fn read_type(r: &mut Reader<'_>, file: &str) -> Result<DataType> {
    let (tag, precision, scale) = (r.u8()?, r.u8()?, r.u8()? as i8);
    Ok(match tag {
        1 => DataType::Int64,
        2 => DataType::UInt64,
        3 => DataType::Float64,
        4 => DataType::Decimal128(precision, scale),
        5 => DataType::Utf8,
        6 => DataType::Binary,
        7 => DataType::Date32,
        8 => DataType::Timestamp(TimeUnit::Microsecond, None),
        9 => DataType::Duration(TimeUnit::Microsecond),
        other => return Err(corrupt(file, format!("unknown type {other}"))),
    })
}

/// Bytes of one value; `None` for strings.
pub fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Utf8 | DataType::Binary => None,
        DataType::Decimal128(..) => Some(16),
        DataType::Date32 => Some(4),
        _ => Some(8),
    }
}

/// What the values of a type are to an encoding.
fn shape(data_type: &DataType) -> Shape {
    let signed = !matches!(data_type, DataType::UInt64 | DataType::Float64);
    width(data_type).map_or(Shape::Text, |width| Shape::Values(width, signed))
}

/// Whether parts may be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For what is read once: each part raw.
    Raw,
    /// Each part in the form that `encoding` chooses.
    Chosen,
}

/// The parts of a block, one after the other.
struct Parts<'a> {
    out: &'a mut Vec<u8>,
    form: Form,
    flags: u8,
}

impl Parts<'_> {
    /// Appends a part that is `encoded` if the flags say so.
    fn put(&mut self, shape: Shape, encoded: u8, raw: &[u8]) {
        let chosen = match self.form {
            Form::Raw => None,
            Form::Chosen => encoding::encode(shape, raw),
        };
        if chosen.is_some() {
            self.flags |= encoded;
        }
        self.out.reserve(raw.len() + ALIGN);
        self.out.extend_from_slice(chosen.as_deref().unwrap_or(raw));
        self.out.pad();
    }

    fn put_bits(&mut self, encoded: u8, bits: &BooleanBuffer) {
        let mut bytes = bits.sliced().as_slice()[..bits.len().div_ceil(8)].to_vec();
        // the bits behind the last row are part of the checksum: keep them zero
        if !bits.len().is_multiple_of(8) {
            let last = bytes.last_mut().expect("a bitmap that is not empty has a last byte");
            *last &= (1u8 << (bits.len() % 8)) - 1;
        }
        self.put(Shape::Bits, encoded, &bytes);
    }
}

/// Appends `array` to `out` (whose length must be a multiple of 64); `base` is the position of
/// `out`'s first byte in the file. It may be "negative", wrapped around: where offsets count from
/// a later byte of `out`.
pub fn write(
    out: &mut Vec<u8>,
    base: u64,
    array: &dyn Array,
    absent: Option<&BooleanBuffer>,
    form: Form,
) -> Result<Descriptor> {
    debug_assert!(out.len().is_multiple_of(ALIGN));
    let start = out.len();
    let data = array.to_data();
    let rows = data.len();
    let form = if rows > encoding::ROWS_MAX { Form::Raw } else { form };
    let mut parts = Parts { out: &mut *out, form, flags: 0 };
    if let Some(nulls) = data.nulls().filter(|nulls| nulls.null_count() > 0) {
        parts.flags |= VALIDITY;
        parts.put_bits(ENCODED_VALIDITY, nulls.inner());
    }
    if let Some(absent) = absent {
        parts.flags |= ABSENT;
        parts.put_bits(ENCODED_ABSENT, absent);
    }
    let values = match width(data.data_type()) {
        Some(width) => {
            let values = data.buffers()[0].as_slice();
            &values[data.offset() * width..(data.offset() + rows) * width]
        }
        None => {
            let offsets: &[i32] = &data.buffer::<i32>(0)[..=rows];
            let (first, last) = (offsets[0], offsets[rows]);
            let mut from_zero = Vec::with_capacity(offsets.len() * 4);
            offsets.iter().for_each(|o| from_zero.extend_from_slice(&(o - first).to_le_bytes()));
            parts.put(Shape::Offsets, ENCODED_OFFSETS, &from_zero);
            &data.buffers()[1].as_slice()[first as usize..last as usize]
        }
    };
    parts.put(shape(data.data_type()), ENCODED_VALUES, values);
    let flags = parts.flags;
    Ok(Descriptor {
        offset: base.wrapping_add(start as u64),
        len: (out.len() - start) as u64,
        crc: crc32fast::hash(&out[start..]),
        nulls: data.null_count() as u32,
        flags,
        data_type: data.data_type().clone(),
    })
}

impl Descriptor {
    /// Appends the descriptor.
    pub fn put(&self, out: &mut Vec<u8>) -> Result<()> {
        out.put_u64(self.offset);
        out.put_u64(self.len);
        out.put_u32(self.crc);
        out.put_u32(self.nulls);
        out.put_u8(self.flags);
        put_type(out, &self.data_type)
    }

    /// Reads a descriptor.
    pub fn read(r: &mut Reader<'_>, file: &str) -> Result<Descriptor> {
        let descriptor = Descriptor {
            offset: r.u64()?,
            len: r.u64()?,
            crc: r.u32()?,
            nulls: r.u32()?,
            flags: r.u8()?,
            data_type: read_type(r, file)?,
        };
        match descriptor.flags & !FLAGS {
            0 => Ok(descriptor),
            unknown => Err(corrupt(file, format!("unknown flags {unknown} of a block"))),
        }
    }

    /// Rows without the column exist in the block.
    pub fn has_absent(&self) -> bool {
        self.flags & ABSENT != 0
    }

    /// Some part has to be decoded.
    pub fn is_encoded(&self) -> bool {
        self.flags & ENCODED != 0
    }

    /// Checks the checksum and makes the array, without a copy where the bytes are aligned and
    /// raw. What is decoded lies in memory of its own.
    pub fn open(&self, file: &str, bytes: &Buffer, rows: usize) -> Result<Column> {
        let bad = |what: &str| corrupt(file, format!("block at byte {}: {what}", self.offset));
        let end = self.offset.checked_add(self.len).filter(|end| *end <= bytes.len() as u64);
        if end.is_none() || !self.offset.is_multiple_of(ALIGN as u64) {
            return Err(bad("outside of the file"));
        }
        let block = bytes.slice_with_length(self.offset as usize, self.len as usize);
        if crc32fast::hash(&block) != self.crc {
            return Err(bad("checksum mismatch"));
        }
        let mut at = 0;
        let mut part = |shape: Shape, encoded: u8, len: usize| -> Result<Buffer> {
            let start = at;
            let (buffer, stored) = match self.flags & encoded {
                0 if start + len > block.len() => Err("shorter than its rows"),
                0 => Ok((block.slice_with_length(start, len), len)),
                _ if rows > encoding::ROWS_MAX => Err("encoded, with too many rows"),
                _ => encoding::decode(shape, block.get(start..).unwrap_or(&[]), len),
            }
            .map_err(bad)?;
            at = start + stored.next_multiple_of(ALIGN);
            Ok(buffer)
        };
        let mut bits = |flag: u8, encoded: u8| match self.flags & flag {
            0 => Ok(None),
            _ => part(Shape::Bits, encoded, rows.div_ceil(8))
                .map(|b| Some(BooleanBuffer::new(b, 0, rows))),
        };
        let validity = bits(VALIDITY, ENCODED_VALIDITY)?;
        let absent = bits(ABSENT, ENCODED_ABSENT)?;
        let mut data = ArrayData::builder(self.data_type.clone()).len(rows);
        let len = match width(&self.data_type) {
            Some(width) => rows * width,
            None => {
                let offsets = part(Shape::Offsets, ENCODED_OFFSETS, (rows + 1) * 4)?;
                let last = &offsets[rows * 4..];
                let last = i32::from_le_bytes(last.try_into().expect("one i32"));
                data = data.add_buffer(offsets);
                usize::try_from(last).map_err(|_| bad("a negative offset"))?
            }
        };
        data = data.add_buffer(part(shape(&self.data_type), ENCODED_VALUES, len)?);
        // checks lengths, offsets and UTF-8, and copies what is not aligned
        let data = data.nulls(validity.map(NullBuffer::new)).align_buffers(true).build();
        let array = make_array(data.map_err(|e| bad(&e.to_string()))?);
        Ok(Column { array, absent })
    }
}

/// An opened block.
#[derive(Clone, Debug)]
pub struct Column {
    /// The values.
    pub array: ArrayRef,
    /// Rows that were written without the column.
    pub absent: Option<BooleanBuffer>,
}

/// A block that is checked and opened at its first use, then kept: a mapped one costs a few
/// words, a decoded one the bytes it would have raw.
#[derive(Debug)]
pub struct Block {
    /// Where it is.
    pub descriptor: Descriptor,
    opened: OnceLock<Opened>,
}

#[derive(Debug)]
struct Opened {
    column: Column,
    values: Next,
}

impl Block {
    /// Not opened yet.
    pub fn new(descriptor: Descriptor) -> Block {
        Block { descriptor, opened: OnceLock::new() }
    }

    /// Asks memory for an opened column's array, which will be read soon.
    pub fn expect(&self) {
        let Some(opened) = self.opened.get() else { return };
        let counts = Arc::as_ptr(&opened.column.array).cast::<u8>().wrapping_sub(COUNTS_BYTES);
        prefetch_from(counts, COUNTS_BYTES + ARRAY_BYTES);
    }

    /// Where an opened column's values begin.
    pub fn next(&self) -> Next {
        self.opened.get().map_or(Next::default(), |opened| opened.values)
    }

    /// The column; wrong bytes are an error each time, never an array.
    pub fn get(&self, file: &str, bytes: &Buffer, rows: usize) -> Result<&Column> {
        if let Some(opened) = self.opened.get() {
            return Ok(&opened.column);
        }
        let column = self.descriptor.open(file, bytes, rows)?;
        let values = Next::of(column.array.to_data().buffers()[0].as_slice());
        Ok(&self.opened.get_or_init(|| Opened { column, values }).column)
    }

    /// Checks the column. What has to be decoded is not kept: only reads decide what takes memory.
    pub fn check(&self, file: &str, bytes: &Buffer, rows: usize) -> Result<()> {
        match self.descriptor.is_encoded() {
            false => self.get(file, bytes, rows).map(drop),
            true => self.descriptor.open(file, bytes, rows).map(drop),
        }
    }
}
