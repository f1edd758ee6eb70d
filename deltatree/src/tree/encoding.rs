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
    let encoded = match shape {
        Shape::Bits => numbers::<u8>(raw, false),
        Shape::Offsets => numbers::<u32>(raw, false),
        Shape::Values(4, signed) => numbers::<u32>(raw, signed),
        Shape::Values(8, signed) => numbers::<u64>(raw, signed),
        Shape::Values(_, signed) => numbers::<u128>(raw, signed),
        Shape::Text => Some(text(raw)),
    };
    encoded.filter(|encoded| saves(raw.len(), encoded.len(), shape.saved_percent()))
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

/// Numbers as a frame or as steps, whichever is smaller.
fn numbers<W: Word>(raw: &[u8], signed: bool) -> Option<Vec<u8>> {
    debug_assert!(raw.len().is_multiple_of(size_of::<W>()), "whole values");
    let values: Vec<W> = raw.chunks_exact(size_of::<W>()).map(W::read).collect();
    let first = *values.first()?;
    let steps = || values.windows(2).map(|pair| pair[1].minus(pair[0]));
    let size = |encoding, spread: &Spread<W>| match encoding {
        FRAME => BASE_BYTES + packed_bytes(values.len(), spread.bits),
        _ => 2 * BASE_BYTES + packed_bytes(values.len() - 1, spread.bits),
    };
    let frame = Spread::of(values.iter().copied(), signed).map(|spread| (FRAME, spread));
    let steps_spread = Spread::of(steps(), true).map(|spread| (STEPS, spread));
    let forms = frame.into_iter().chain(steps_spread);
    let (encoding, spread) = forms.min_by_key(|(encoding, spread)| size(*encoding, spread))?;
    let body = size(encoding, &spread);
    let mut out = Vec::with_capacity(HEAD_BYTES + body);
    put_head(&mut out, encoding, spread.bits, body);
    let above = |value: W| value.minus(spread.base).wide() as u64;
    if encoding == STEPS {
        out.extend_from_slice(&first.wide().to_le_bytes());
    }
    out.extend_from_slice(&spread.base.wide().to_le_bytes());
    match encoding {
        FRAME => pack(&mut out, spread.bits, values.iter().map(|value| above(*value))),
        _ => pack(&mut out, spread.bits, steps().map(above)),
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

/// Number `index` of packed ones; `bits` is not 0, and there are so many.
fn unpack(packed: &[u8], bits: u32, index: usize) -> u64 {
    let word = |at: usize| {
        u64::from_le_bytes(packed[at * 8..at * 8 + 8].try_into().expect("a word has 8 bytes"))
    };
    let (at, shift) = (index * bits as usize / 64, (index * bits as usize % 64) as u32);
    let low = word(at) >> shift;
    let all = if shift + bits > u64::BITS { low | word(at + 1) << (64 - shift) } else { low };
    all & (u64::MAX >> (u64::BITS - bits))
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
    let difference = |index| match bits {
        0 => W::of_wide(0),
        _ => W::of_wide(u128::from(unpack(packed, bits, index))),
    };
    let mut buffer = MutableBuffer::from_len_zeroed(len);
    let out: &mut [W] = buffer.typed_data_mut();
    let mut value = W::of_wide(wide(0));
    if encoding == FRAME {
        let base = value;
        out.iter_mut().enumerate().for_each(|(i, slot)| *slot = base.plus(difference(i)));
    } else {
        let step = W::of_wide(wide(1));
        out[0] = value;
        for (i, slot) in out[1..].iter_mut().enumerate() {
            value = value.plus(step).plus(difference(i));
            *slot = value;
        }
    }
    Ok(buffer.into())
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
