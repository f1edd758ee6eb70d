//! Arrays, chunk descriptions and lists of runs as bytes. It must never trust a length it reads.
//!
//! ```text
//! column   = version u8 = 1 | has_present u8 | pad to 8 | [present: array] | values: array
//! array    = type u8, precision u8, scale i8, has_nulls u8, rows u32 | [nulls, padded to 8]
//!          | values: fixed width, or rows + 1 offsets u32, pad to 8, bytes | pad to 16
//! meta     = version u8 = 1 | large u8 | names: n u32, { bytes } | chunks: n u32, { chunk }
//! chunk    = rows u32, first i64, last i64, min version u64, max version u64, flags u8,
//!            { bounds } one per name
//! runs     = version u8 = 1 | n u32, { run u64, cleared: n u32, { first i64, last i64 } }
//! bytes    = n u32 | n bytes           all numbers little-endian; RocksDB adds the checksums
//! ```

use super::run::{ChunkMeta, Column};
use crate::error::{Error, Result};
use crate::store::HandleRange;
use crate::tree::bounds::Bounds;
use crate::values::Values;
use arrow::array::{Array, ArrayData, ArrayRef, AsArray, make_array};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::datatypes::{DataType, TimeUnit};
use damask_types::ErrorKind;

const VERSION: u8 = 1;
/// Buffers start at multiples of it: the alignment of the widest number.
const ALIGN: usize = 16;

fn corrupt(detail: &str) -> Error {
    Error::new("read", ErrorKind::Corrupt, format!("a run's page or list: {detail}"))
}

/// What is left of some bytes.
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len).ok_or_else(|| corrupt("it is short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes were taken")))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes were taken")))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(self.u64()? as i64)
    }

    fn i128(&mut self) -> Result<i128> {
        Ok(i128::from_le_bytes(self.take(16)?.try_into().expect("16 bytes were taken")))
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let len = self.u32()? as usize;
        Ok(self.take(len)?.to_vec())
    }

    fn version(&mut self) -> Result<()> {
        match self.u8()? {
            VERSION => Ok(()),
            other => Err(corrupt(&format!("version {other} is not known"))),
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn type_bytes(data_type: &DataType) -> Result<[u8; 3]> {
    Ok(match data_type {
        DataType::Boolean => [0, 0, 0],
        DataType::Int64 => [1, 0, 0],
        DataType::UInt64 => [2, 0, 0],
        DataType::Float64 => [3, 0, 0],
        DataType::Decimal128(precision, scale) => [4, *precision, *scale as u8],
        DataType::Date32 => [5, 0, 0],
        DataType::Timestamp(TimeUnit::Microsecond, None) => [6, 0, 0],
        DataType::Duration(TimeUnit::Microsecond) => [7, 0, 0],
        DataType::Utf8 => [8, 0, 0],
        DataType::Binary => [9, 0, 0],
        other => return Err(crate::values::unknown_type(other)),
    })
}

fn data_type(bytes: [u8; 3]) -> Result<DataType> {
    Ok(match bytes[0] {
        0 => DataType::Boolean,
        1 => DataType::Int64,
        2 => DataType::UInt64,
        3 => DataType::Float64,
        4 => DataType::Decimal128(bytes[1], bytes[2] as i8),
        5 => DataType::Date32,
        6 => DataType::Timestamp(TimeUnit::Microsecond, None),
        7 => DataType::Duration(TimeUnit::Microsecond),
        8 => DataType::Utf8,
        9 => DataType::Binary,
        other => return Err(corrupt(&format!("type {other} is not known"))),
    })
}

fn put_bits(out: &mut Vec<u8>, bits: &BooleanBuffer) {
    let words = bits.bit_chunks();
    words.iter_padded().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

/// Bytes of a mask of so many rows: whole words, and one more, as `iter_padded` gives.
fn bits_bytes(rows: usize) -> usize {
    (rows / 64 + 1) * 8
}

fn put_numbers<T: Copy, const N: usize>(
    out: &mut Vec<u8>,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) {
    out.reserve(values.len() * N);
    values.iter().for_each(|value| out.extend_from_slice(&bytes(*value)));
}

fn put_array(out: &mut Vec<u8>, array: &dyn Array) -> Result<()> {
    out.extend_from_slice(&type_bytes(array.data_type())?);
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    out.push(u8::from(nulls.is_some()));
    out.extend_from_slice(&(array.len() as u32).to_le_bytes());
    pad(out, ALIGN);
    if let Some(nulls) = nulls {
        put_bits(out, nulls.inner());
        pad(out, ALIGN);
    }
    if *array.data_type() == DataType::Boolean {
        put_bits(out, array.as_boolean().values());
        pad(out, ALIGN);
        return Ok(());
    }
    match Values::of(array)? {
        Values::I64(values) => put_numbers(out, values, i64::to_le_bytes),
        Values::U64(values) => put_numbers(out, values, u64::to_le_bytes),
        Values::I32(values) => put_numbers(out, values, i32::to_le_bytes),
        Values::F64(values) => put_numbers(out, values, f64::to_le_bytes),
        Values::I128(values) => put_numbers(out, values, i128::to_le_bytes),
        Values::Texts(texts) => {
            let first = texts.offsets[0];
            put_numbers(out, texts.offsets, |offset: i32| (offset - first).to_le_bytes());
            pad(out, ALIGN);
            let last = texts.offsets[texts.offsets.len() - 1];
            out.extend_from_slice(&texts.bytes[first as usize..last as usize]);
        }
    }
    pad(out, ALIGN);
    Ok(())
}

/// Reads at `at`, which moves behind the array.
fn read_array(page: &Buffer, at: &mut usize) -> Result<ArrayRef> {
    let part = |at: &mut usize, len: usize| -> Result<Buffer> {
        let start = *at;
        if start.checked_add(len).is_none_or(|end| end > page.len()) {
            return Err(corrupt("an array is short"));
        }
        *at = (start + len).next_multiple_of(ALIGN);
        Ok(page.slice_with_length(start, len))
    };
    let head = part(at, 8)?;
    let ty = data_type([head[0], head[1], head[2]])?;
    let rows = u32::from_le_bytes(head[4..8].try_into().expect("8 bytes were taken")) as usize;
    let mut data = ArrayData::builder(ty.clone()).len(rows);
    if head[3] != 0 {
        data = data.null_bit_buffer(Some(part(at, bits_bytes(rows))?));
    }
    match &ty {
        DataType::Boolean => data = data.add_buffer(part(at, bits_bytes(rows))?),
        DataType::Utf8 | DataType::Binary => {
            let offsets = part(at, (rows + 1) * 4)?;
            let last = offsets[rows * 4..].try_into().expect("4 bytes are left");
            let bytes = part(at, u32::from_le_bytes(last) as usize)?;
            data = data.add_buffer(offsets).add_buffer(bytes);
        }
        fixed => {
            let width = fixed.primitive_width().ok_or_else(|| corrupt("a type without width"))?;
            data = data.add_buffer(part(at, rows * width)?);
        }
    }
    let data = data.align_buffers(true).build();
    Ok(make_array(data.map_err(|e| corrupt(&e.to_string()))?))
}

/// A column of a chunk as a page.
pub(super) fn encode_column(column: &Column) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(column.values.get_array_memory_size() + 64);
    out.extend_from_slice(&[VERSION, u8::from(column.present.is_some())]);
    pad(&mut out, ALIGN);
    if let Some(present) = &column.present {
        put_array(&mut out, &arrow::array::BooleanArray::new(present.clone(), None))?;
    }
    put_array(&mut out, &column.values)?;
    Ok(out)
}

/// A column of a chunk, without a copy where the page lies well in memory.
pub(super) fn decode_column(page: Vec<u8>) -> Result<Column> {
    let page = Buffer::from_vec(page);
    if page.len() < ALIGN || page[0] != VERSION {
        return Err(corrupt("a page's version is not known"));
    }
    let mut at = ALIGN;
    let present = match page[1] {
        0 => None,
        _ => Some(read_array(&page, &mut at)?),
    };
    let present = match &present {
        None => None,
        Some(bits) => {
            let bits = bits.as_boolean_opt().ok_or_else(|| corrupt("presence is not a mask"))?;
            Some(bits.values().clone())
        }
    };
    let values = read_array(&page, &mut at)?;
    if present.as_ref().is_some_and(|present| present.len() != values.len()) {
        return Err(corrupt("a column and its presence differ in length"));
    }
    Ok(Column { values, present })
}

fn put_bounds(out: &mut Vec<u8>, bounds: &Bounds) {
    match bounds {
        Bounds::Unknown => out.push(0),
        Bounds::Numbers(min, max) => {
            out.push(1);
            out.extend_from_slice(&min.to_le_bytes());
            out.extend_from_slice(&max.to_le_bytes());
        }
        Bounds::Floats(min, max) => {
            out.push(2);
            out.extend_from_slice(&min.to_le_bytes());
            out.extend_from_slice(&max.to_le_bytes());
        }
        Bounds::Strings(min, max) => {
            out.push(3 + u8::from(max.is_some()));
            put_bytes(out, min);
            put_bytes(out, max.as_deref().unwrap_or_default());
        }
    }
}

fn read_bounds(input: &mut In<'_>) -> Result<Bounds> {
    Ok(match input.u8()? {
        0 => Bounds::Unknown,
        1 => Bounds::Numbers(input.i128()?, input.i128()?),
        2 => Bounds::Floats(f64::from_bits(input.u64()?), f64::from_bits(input.u64()?)),
        kind @ (3 | 4) => {
            let (min, max) = (input.bytes()?, input.bytes()?);
            Bounds::Strings(min, (kind == 4).then_some(max))
        }
        other => return Err(corrupt(&format!("bounds of kind {other}"))),
    })
}

/// A run's description.
pub(super) fn encode_meta(large: bool, names: &[String], chunks: &[ChunkMeta]) -> Vec<u8> {
    let mut out = vec![VERSION, u8::from(large)];
    out.extend_from_slice(&(names.len() as u32).to_le_bytes());
    names.iter().for_each(|name| put_bytes(&mut out, name.as_bytes()));
    out.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
    for chunk in chunks {
        out.extend_from_slice(&(chunk.rows as u32).to_le_bytes());
        out.extend_from_slice(&chunk.first.to_le_bytes());
        out.extend_from_slice(&chunk.last.to_le_bytes());
        out.extend_from_slice(&chunk.min_version.to_le_bytes());
        out.extend_from_slice(&chunk.max_version.to_le_bytes());
        out.push(u8::from(chunk.single) | u8::from(chunk.has_deleted) << 1);
        chunk.bounds.iter().for_each(|bounds| put_bounds(&mut out, bounds));
    }
    out
}

/// A run's description: large, names, chunks.
pub(super) fn decode_meta(bytes: &[u8]) -> Result<(bool, Vec<String>, Vec<ChunkMeta>)> {
    let mut input = In(bytes);
    input.version()?;
    let large = input.u8()? != 0;
    let count = input.u32()?;
    let name = |_| String::from_utf8(input.bytes()?).map_err(|_| corrupt("a name is not UTF-8"));
    let names: Vec<String> = (0..count).map(name).collect::<Result<_>>()?;
    let count = input.u32()?;
    let mut chunks = Vec::new();
    for _ in 0..count {
        let (rows, first, last) = (input.u32()? as usize, input.i64()?, input.i64()?);
        let (min_version, max_version, flags) = (input.u64()?, input.u64()?, input.u8()?);
        let bounds = names.iter().map(|_| read_bounds(&mut input)).collect::<Result<_>>()?;
        let (single, has_deleted) = (flags & 1 != 0, flags & 2 != 0);
        chunks.push(ChunkMeta {
            rows,
            first,
            last,
            min_version,
            max_version,
            single,
            has_deleted,
            bounds,
        });
    }
    Ok((large, names, chunks))
}

/// The runs of a table, oldest first, with what was cleared from them.
pub(super) fn encode_runs<'a>(
    runs: impl ExactSizeIterator<Item = (u64, &'a [HandleRange])>,
) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&(runs.len() as u32).to_le_bytes());
    for (id, cleared) in runs {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(cleared.len() as u32).to_le_bytes());
        for range in cleared {
            out.extend_from_slice(&range.first.to_le_bytes());
            out.extend_from_slice(&range.last.to_le_bytes());
        }
    }
    out
}

/// The runs of a table.
pub(super) fn decode_runs(bytes: &[u8]) -> Result<Vec<(u64, Vec<HandleRange>)>> {
    let mut input = In(bytes);
    input.version()?;
    let count = input.u32()?;
    let mut runs = Vec::new();
    for _ in 0..count {
        let (id, ranges) = (input.u64()?, input.u32()?);
        let range = |_| Ok(HandleRange { first: input.i64()?, last: input.i64()? });
        runs.push((id, (0..ranges).map(range).collect::<Result<_>>()?));
    }
    Ok(runs)
}
