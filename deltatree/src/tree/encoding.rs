//! The buffers of a block in fewer bytes: numbers as a base and narrow differences, strings by
//! LZ4. It must never panic on wrong bytes, nor take memory that no right bytes could ask for.
//!
//! ```text
//! encoded = encoding u8 | bits u8 | zero u16 | body len u32 | body
//! body    = 1 frame: base                  | rows x bits        v[i] = base + d[i]
//!           2 steps: first | smallest step | (rows - 1) x bits  v[i] = v[i-1] + step + d[i-1]
//!           3 LZ4, one block without its length
//! base, first, step: 16 B, little-endian; d: lowest bits first, in little-endian words of 8 B
//! ```
//! With 0 bits a frame is one constant, and steps are a series: dense handles, the offsets of
//! strings of one length. All sums wrap in the width of the value, and floats count as the bits
//! they are, so that every value comes back bit by bit.
//!
//! A raw buffer is read where it is mapped; an encoded one is decoded to memory of its own. So
//! an encoding must win clearly: see [`SAVED_PERCENT_VALUES`] and [`SAVED_PERCENT_STRINGS`].

use super::bytes::{ALIGN, Put};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::ArrowNativeType;

/// Percent of the bytes that an encoding must save of fixed-width values: a narrow pass over
/// memory that is mapped is as fast as memory, and every first read of an encoded buffer takes a
/// decoding, about that of two such passes. At three quarters (at most 16 of 64 bits are left)
/// the disk gives back more than the decoding takes.
pub const SAVED_PERCENT_VALUES: usize = 75;
/// The same of strings, their offsets and bitmaps: whoever reads strings works longer on each
/// than a decoding does, so half is enough.
pub const SAVED_PERCENT_STRINGS: usize = 50;
/// Rows of a block up to which it is encoded, and decoded: it bounds what a few wrong bytes can
/// make a reader allocate. A pack has more only if one handle has so many versions.
pub const ROWS_MAX: usize = 65_536;

/// Numbers that are looked at first: their spread is at most that of all, so numbers that are
/// already too far apart here need no second look.
const FIRST_NUMBERS: usize = 256;
/// Bytes of strings that are compressed first, where there are several times as many: what LZ4
/// does to them it does to about all.
const SAMPLE_BYTES: usize = 8 << 10;
/// Percent that LZ4 must save of the sample. Less than of all: it finds more to repeat in more.
const SAMPLE_SAVED_PERCENT: usize = 35;
/// LZ4 never makes more of a byte.
const LZ4_RATIO_MAX: usize = 255;
const HEAD_BYTES: usize = 8;
const BASE_BYTES: usize = 16;
const FRAME: u8 = 1;
const STEPS: u8 = 2;
const LZ4: u8 = 3;

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Bits, eight in a byte.
    Bits,
    /// Offsets of strings.
    Offsets,
    /// Values of so many bytes; do they have a sign?
    Values(usize, bool),
    /// The bytes of all strings.
    Text,
}

impl Shape {
    fn saved_percent(self) -> usize {
        match self {
            Shape::Values(..) => SAVED_PERCENT_VALUES,
            _ => SAVED_PERCENT_STRINGS,
        }
    }
}

/// The buffer in the form that a file should hold: `None` is raw. It depends on nothing but the
/// bytes: the smallest form that saves enough, the first of equally small ones.
pub fn encode(shape: Shape, raw: &[u8]) -> Option<Vec<u8>> {
    let percent = shape.saved_percent();
    let encoded = match shape {
        Shape::Bits => promising::<u8>(raw, false, percent),
        Shape::Offsets => promising::<u32>(raw, false, percent),
        Shape::Values(4, signed) => promising::<u32>(raw, signed, percent),
        Shape::Values(8, signed) => promising::<u64>(raw, signed, percent),
        Shape::Values(_, signed) => promising::<u128>(raw, signed, percent),
        Shape::Text => is_promising(raw).then(|| text(raw)),
    };
    encoded.filter(|encoded| saves(raw.len(), encoded.len(), percent))
}

/// So many bytes less of a file, in which every buffer ends at a multiple of [`ALIGN`].
fn saves(raw: usize, encoded: usize, percent: usize) -> bool {
    let (raw, encoded) = (raw.next_multiple_of(ALIGN), encoded.next_multiple_of(ALIGN));
    encoded < raw && encoded * 100 <= raw * (100 - percent)
}

/// The `len` bytes of a buffer whose encoded form `stored` begins with, and the bytes of that
/// form; otherwise what is wrong.
pub fn decode(shape: Shape, stored: &[u8], len: usize) -> Result<(Buffer, usize), &'static str> {
    let (head, rest) = stored.split_at_checked(HEAD_BYTES).ok_or("an encoding without a head")?;
    let (encoding, bits) = (head[0], u32::from(head[1]));
    let body_len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let body = rest.get(..body_len).ok_or("an encoding longer than its block")?;
    let buffer = match (encoding, shape) {
        (FRAME | STEPS, Shape::Bits) => values::<u8>(encoding, bits, body, len),
        (FRAME | STEPS, Shape::Offsets | Shape::Values(4, _)) => {
            values::<u32>(encoding, bits, body, len)
        }
        (FRAME | STEPS, Shape::Values(8, _)) => values::<u64>(encoding, bits, body, len),
        (FRAME | STEPS, Shape::Values(..)) => values::<u128>(encoding, bits, body, len),
        (LZ4, Shape::Text) => inflate(body, len),
        _ => Err("an unknown encoding"),
    }?;
    Ok((buffer, HEAD_BYTES + body_len))
}

fn put_head(out: &mut Vec<u8>, encoding: u8, bits: u32, body: usize) {
    out.extend_from_slice(&[encoding, bits as u8, 0, 0]);
    out.put_u32(body as u32);
}

/// A number of some width; sums wrap.
trait Word: ArrowNativeType + Ord {
    /// The bit of the sign.
    const SIGN: Self;
    const BITS: u32;
    fn read(bytes: &[u8]) -> Self;
    fn wide(self) -> u128;
    fn of_wide(wide: u128) -> Self;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    /// In the order of numbers with a sign if `flip` is the sign, without if it is 0; and back.
    fn flipped(self, flip: Self) -> Self;
}

macro_rules! words {
    ($($word:ty),*) => { $(impl Word for $word {
        const SIGN: Self = 1 << (<$word>::BITS - 1);
        const BITS: u32 = <$word>::BITS;
        fn read(bytes: &[u8]) -> Self {
            Self::from_le_bytes(bytes.try_into().expect("as many bytes as the width"))
        }
        fn wide(self) -> u128 {
            self as u128
        }
        fn of_wide(wide: u128) -> Self {
            wide as Self
        }
        fn plus(self, other: Self) -> Self {
            self.wrapping_add(other)
        }
        fn minus(self, other: Self) -> Self {
            self.wrapping_sub(other)
        }
        fn flipped(self, flip: Self) -> Self {
            self ^ flip
        }
    })* };
}
words!(u8, u32, u64, u128);

/// The smallest of some numbers, and the bits of what each is above it.
struct Spread<W> {
    base: W,
    bits: u32,
}

impl<W: Word> Spread<W> {
    /// `None` if the differences need more than 64 bits.
    fn of(values: impl Iterator<Item = W>, signed: bool) -> Option<Spread<W>> {
        let flip = if signed { W::SIGN } else { W::of_wide(0) };
        let mut ends: Option<(W, W)> = None;
        for value in values.map(|value| value.flipped(flip)) {
            let (min, max) = ends.unwrap_or((value, value));
            ends = Some((min.min(value), max.max(value)));
        }
        let (min, max) = ends.unwrap_or((flip, flip));
        let bits = u128::BITS - max.minus(min).wide().leading_zeros();
        (bits <= u64::BITS).then_some(Spread { base: min.flipped(flip), bits })
    }
}

/// Bytes of so many packed differences.
fn packed_bytes(count: usize, bits: u32) -> usize {
    (count * bits as usize).div_ceil(64) * 8
}

/// The smaller one of a frame and of steps: which, its spread, and the bytes of its body if there
/// are `count` numbers. `numbers` are some of them, so that it is a bound, or all.
fn smaller<W: Word>(numbers: &[W], count: usize, signed: bool) -> Option<(u8, Spread<W>, usize)> {
    numbers.first()?;
    let frame = Spread::of(numbers.iter().copied(), signed);
    let frame = frame.map(|spread| {
        let size = BASE_BYTES + packed_bytes(count, spread.bits);
        (FRAME, spread, size)
    });
    let steps = Spread::of(steps(numbers), true).map(|spread| {
        let size = 2 * BASE_BYTES + packed_bytes(count - 1, spread.bits);
        (STEPS, spread, size)
    });
    frame.into_iter().chain(steps).min_by_key(|(_, _, size)| *size)
}

/// What each number is above the one before it.
fn steps<W: Word>(numbers: &[W]) -> impl Iterator<Item = W> {
    numbers.windows(2).map(|pair| pair[1].minus(pair[0]))
}

fn words<W: Word>(raw: &[u8]) -> Vec<W> {
    raw.chunks_exact(size_of::<W>()).map(W::read).collect()
}

/// As `numbers`, unless the first of them say already that it does not save enough.
fn promising<W: Word>(raw: &[u8], signed: bool, percent: usize) -> Option<Vec<u8>> {
    let first = &raw[..raw.len().min(FIRST_NUMBERS * size_of::<W>())];
    let count = raw.len() / size_of::<W>();
    let (_, _, at_least) = smaller::<W>(&words(first), count, signed)?;
    saves(raw.len(), HEAD_BYTES + at_least, percent).then(|| numbers::<W>(raw, signed))?
}

/// Numbers as a frame or as steps, whichever is smaller.
fn numbers<W: Word>(raw: &[u8], signed: bool) -> Option<Vec<u8>> {
    debug_assert!(raw.len().is_multiple_of(size_of::<W>()), "whole values");
    let values: Vec<W> = words(raw);
    let first = *values.first()?;
    let (encoding, spread, body) = smaller(&values, values.len(), signed)?;
    let mut out = Vec::with_capacity(HEAD_BYTES + body);
    put_head(&mut out, encoding, spread.bits, body);
    let above = |value: W| value.minus(spread.base).wide() as u64;
    if encoding == STEPS {
        out.extend_from_slice(&first.wide().to_le_bytes());
    }
    out.extend_from_slice(&spread.base.wide().to_le_bytes());
    match encoding {
        FRAME => pack(&mut out, spread.bits, values.iter().map(|value| above(*value))),
        _ => pack(&mut out, spread.bits, steps(&values).map(above)),
    }
    debug_assert_eq!(out.len(), HEAD_BYTES + body);
    Some(out)
}

/// Appends the lowest `bits` of each number; the others are zero.
fn pack(out: &mut Vec<u8>, bits: u32, numbers: impl Iterator<Item = u64>) {
    let (mut word, mut filled) = (0u64, 0);
    for number in numbers.filter(|_| bits > 0) {
        word |= number << filled;
        filled += bits;
        if filled >= u64::BITS {
            out.put_u64(word);
            filled -= u64::BITS;
            word = if filled == 0 { 0 } else { number >> (bits - filled) };
        }
    }
    if filled > 0 {
        out.put_u64(word);
    }
}

/// Calls `take` with each of `count` packed numbers and its place; there are so many, and `bits`
/// is not 0.
fn unpack(packed: &[u8], bits: u32, count: usize, mut take: impl FnMut(usize, u64)) {
    let mask = u64::MAX >> (u64::BITS - bits);
    let read = |at: usize| u64::from_le_bytes(packed[at..at + 8].try_into().expect("8 bytes"));
    // while a number lies in the 8 bytes from its first one on, and these are there
    let simple = match bits {
        ..=56 => count.min(packed.len().saturating_sub(8) * 8 / bits as usize),
        _ => 0,
    };
    for index in 0..simple {
        let bit = index * bits as usize;
        take(index, read(bit / 8) >> (bit % 8) & mask);
    }
    for index in simple..count {
        let bit = index * bits as usize;
        let (word, shift) = (bit / 64 * 8, (bit % 64) as u32);
        let mut number = read(word) >> shift;
        if shift + bits > u64::BITS {
            number |= read(word + 8) << (u64::BITS - shift);
        }
        take(index, number & mask);
    }
}

/// The numbers of a frame or of steps, as `len` bytes.
fn values<W: Word>(
    encoding: u8,
    bits: u32,
    body: &[u8],
    len: usize,
) -> Result<Buffer, &'static str> {
    let count = len / size_of::<W>();
    if count * size_of::<W>() != len || count == 0 || len > (ROWS_MAX + 1) * BASE_BYTES {
        return Err("an encoding of a wrong number of rows");
    }
    let (bases, differences) = if encoding == FRAME { (1, count) } else { (2, count - 1) };
    let exact = bases * BASE_BYTES + packed_bytes(differences, bits);
    if bits > W::BITS.min(u64::BITS) || body.len() != exact {
        return Err("an encoding that is not as long as its rows");
    }
    let (bases, packed) = body.split_at(bases * BASE_BYTES);
    let wide = |at: usize| u128::read(&bases[at * BASE_BYTES..(at + 1) * BASE_BYTES]);
    let mut buffer = MutableBuffer::from_len_zeroed(len);
    let out: &mut [W] = buffer.typed_data_mut();
    let first = W::of_wide(wide(0));
    let above = |number: u64| W::of_wide(u128::from(number));
    if encoding == FRAME {
        out.fill(first);
        if bits > 0 {
            unpack(packed, bits, count, |at, number| out[at] = first.plus(above(number)));
        }
        return Ok(buffer.into());
    }
    let (mut value, step) = (first, W::of_wide(wide(1)));
    out[0] = value;
    let mut next = |at: usize, number: u64| {
        value = value.plus(step).plus(above(number));
        out[at + 1] = value;
    };
    match bits {
        0 => (0..differences).for_each(|at| next(at, 0)),
        _ => unpack(packed, bits, differences, next),
    }
    Ok(buffer.into())
}

/// A part of the strings is worth compressing.
fn is_promising(raw: &[u8]) -> bool {
    let sample = raw.get(..SAMPLE_BYTES).filter(|_| raw.len() >= 4 * SAMPLE_BYTES);
    sample.is_none_or(|sample| {
        let len = lz4_flex::block::compress(sample).len();
        saves(sample.len(), len, SAMPLE_SAVED_PERCENT)
    })
}

fn text(raw: &[u8]) -> Vec<u8> {
    let body = lz4_flex::block::compress(raw);
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    put_head(&mut out, LZ4, 0, body.len());
    out.extend_from_slice(&body);
    out
}

fn inflate(body: &[u8], len: usize) -> Result<Buffer, &'static str> {
    if len > body.len() * LZ4_RATIO_MAX {
        return Err("strings longer than their bytes can be");
    }
    let mut buffer = MutableBuffer::from_len_zeroed(len);
    match lz4_flex::block::decompress_into(body, &mut buffer) {
        Ok(written) if written == len => Ok(buffer.into()),
        _ => Err("strings that are not as long as their offsets say"),
    }
}

#[cfg(test)]
mod tests;
