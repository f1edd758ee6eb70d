//! The values of an array as a plain slice, and masks as words. It must never look behind the
//! last row of a mask.

use crate::error::{Error, Result};
use crate::fold::wide::{Next, ones};
use arrow::array::{Array, AsArray};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DurationMicrosecondType, Float64Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use damask_types::ErrorKind;

/// Strings or bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'a> {
    /// One more than rows.
    pub offsets: &'a [i32],
    /// All bytes.
    pub bytes: &'a [u8],
}

impl<'a> Texts<'a> {
    /// The bytes of a row.
    pub fn get(&self, row: usize) -> &'a [u8] {
        &self.bytes[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}

/// The values of an array, whatever its NULLs; the value under a NULL is anything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values<'a> {
    /// Whole numbers, times.
    I64(&'a [i64]),
    /// Whole numbers without a sign.
    U64(&'a [u64]),
    /// Days.
    I32(&'a [i32]),
    /// Floats.
    F64(&'a [f64]),
    /// Decimals.
    I128(&'a [i128]),
    /// Strings, bytes.
    Texts(Texts<'a>),
}

/// The error for a type the column store does not have.
pub(crate) fn unknown_type(data_type: &DataType) -> Error {
    Error::new("scan", ErrorKind::Invalid, format!("the column store has no type {data_type}"))
}

/// The error for a request that makes no sense.
pub(crate) fn invalid(detail: impl ToString) -> Error {
    Error::new("scan", ErrorKind::Invalid, detail)
}

impl<'a> Values<'a> {
    /// Where they begin, if they are what sums look ahead into.
    pub fn next(&self) -> Next {
        match self {
            Values::I64(values) => Next::of(values),
            Values::U64(values) => Next::of(values),
            _ => Next::default(),
        }
    }

    /// Of an array of a type the column store has.
    pub fn of(array: &'a dyn Array) -> Result<Values<'a>> {
        Ok(match array.data_type() {
            DataType::Int64 => Values::I64(array.as_primitive::<Int64Type>().values()),
            DataType::UInt64 => Values::U64(array.as_primitive::<UInt64Type>().values()),
            DataType::Date32 => Values::I32(array.as_primitive::<Date32Type>().values()),
            DataType::Float64 => Values::F64(array.as_primitive::<Float64Type>().values()),
            DataType::Decimal128(..) => {
                Values::I128(array.as_primitive::<Decimal128Type>().values())
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Values::I64(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            DataType::Duration(TimeUnit::Microsecond) => {
                Values::I64(array.as_primitive::<DurationMicrosecondType>().values())
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                let (offsets, bytes) = (array.value_offsets(), array.value_data());
                Values::Texts(Texts { offsets, bytes })
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                let (offsets, bytes) = (array.value_offsets(), array.value_data());
                Values::Texts(Texts { offsets, bytes })
            }
            other => return Err(unknown_type(other)),
        })
    }
}

/// One bit per value: does it pass?
pub(crate) fn pack_bits<T: Copy>(values: &[T], test: impl Fn(T) -> bool) -> BooleanBuffer {
    let mut words = Vec::with_capacity(values.len().div_ceil(64));
    let (whole, rest) = values.as_chunks::<64>();
    for chunk in whole {
        // bytes first: the comparison then runs in vector registers
        let mut bytes = [0u8; 64];
        for (byte, value) in bytes.iter_mut().zip(chunk) {
            *byte = u8::from(test(*value));
        }
        let mut word = 0;
        for (index, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            word |= bits << (index * 8);
        }
        words.push(word);
    }
    if !rest.is_empty() {
        let bits = rest.iter().enumerate();
        words.push(bits.fold(0, |word, (bit, value)| word | u64::from(test(*value)) << bit));
    }
    BooleanBuffer::new(Buffer::from_vec(words), 0, values.len())
}

/// The words of a mask as they lie in memory, if they do; bits behind the last row are anything.
pub(crate) fn words(mask: &BooleanBuffer) -> Option<ScalarBuffer<u64>> {
    let (buffer, words) = (mask.inner(), mask.len().div_ceil(64));
    let whole = mask.offset().is_multiple_of(64)
        && (mask.offset() / 64 + words) * 8 <= buffer.len()
        && (buffer.as_ptr() as usize).is_multiple_of(align_of::<u64>());
    whole.then(|| ScalarBuffer::new(buffer.clone(), mask.offset() / 64, words))
}

/// The words of a mask, copied if they do not lie in memory as such; bits behind the last row are
/// anything.
pub(crate) fn whole_words(mask: &BooleanBuffer) -> ScalarBuffer<u64> {
    words(mask).unwrap_or_else(|| {
        let mut copied = Vec::with_capacity(mask.len().div_ceil(64));
        for_words(mask, |_, bits| copied.push(bits));
        copied.into()
    })
}

/// How many bits of a mask are set.
pub(crate) fn count(mask: &BooleanBuffer) -> usize {
    let Some(words) = words(mask) else { return mask.count_set_bits() };
    match mask.len() % 64 {
        0 => ones(&words),
        rest => {
            let (last, whole) = words.split_last().expect("a rest has a word");
            ones(whole) + (last & ((1 << rest) - 1)).count_ones() as usize
        }
    }
}

/// Calls back for each row of a mask, or for all, in order.
pub(crate) fn for_rows(rows: usize, mask: Option<&BooleanBuffer>, mut each: impl FnMut(usize)) {
    match mask {
        None => (0..rows).for_each(each),
        Some(mask) => for_words(mask, |base, mut word| {
            while word != 0 {
                each(base + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }),
    }
}

/// Calls back for each 64 rows of a mask, the last ones padded with zeros: first row, bits.
pub(crate) fn for_words(mask: &BooleanBuffer, mut each: impl FnMut(usize, u64)) {
    let chunks = mask.bit_chunks();
    let mut base = 0;
    for word in chunks.iter() {
        each(base, word);
        base += 64;
    }
    if base < mask.len() {
        each(base, chunks.remainder_bits());
    }
}

/// Both masks; `None` is all rows.
pub(crate) fn both(a: Option<BooleanBuffer>, b: Option<BooleanBuffer>) -> Option<BooleanBuffer> {
    match (a, b) {
        (Some(a), Some(b)) => Some(&a & &b),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_packed_in_order_whatever_the_length() {
        for len in [0, 1, 63, 64, 65, 128, 200] {
            let values: Vec<usize> = (0..len).collect();
            let mask = pack_bits(&values, |v| v % 3 == 1);
            assert_eq!(mask.len(), len);
            for row in 0..len {
                assert_eq!(mask.value(row), row % 3 == 1, "row {row} of {len}");
            }
            if len > 5 {
                assert_eq!(count(&mask), mask.count_set_bits());
                let part = mask.slice(5, len - 5);
                assert_eq!(count(&part), part.count_set_bits());
                let mut rows = Vec::new();
                for_rows(len - 5, Some(&part), |row| rows.push(row + 5));
                assert_eq!(rows, (5..len).filter(|v| v % 3 == 1).collect::<Vec<_>>());
            }
        }
    }
}
