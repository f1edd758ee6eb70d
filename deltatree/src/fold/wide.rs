//! Loops over whole columns and masks that wide registers make faster: compiled once for any
//! processor and again for those that have them; and what asks memory for data ahead of its use.
//! It must never run an instruction that the processor does not have.
#![allow(unsafe_code)] // calls of functions compiled for a feature that was found, vector loads

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A whole number as a word, with a measure of its size.
pub trait Word: Copy {
    /// Is the highest bit a sign?
    const SIGNED: bool;
    /// The same bits, for wrapping sums.
    fn word(self) -> u64;
    /// Bits 51 and up are clear if the value is below 2^50 in magnitude.
    fn magnitude(self) -> u64;
}

impl Word for i64 {
    const SIGNED: bool = true;
    #[inline(always)]
    fn word(self) -> u64 {
        self as u64
    }
    #[inline(always)]
    fn magnitude(self) -> u64 {
        let word = self as u64;
        word ^ (word << 1) // equal neighbours at the top: only copies of the sign there
    }
}

impl Word for u64 {
    const SIGNED: bool = false;
    #[inline(always)]
    fn word(self) -> u64 {
        self
    }
    #[inline(always)]
    fn magnitude(self) -> u64 {
        self
    }
}

#[inline(always)]
fn add_all<T: Word>(values: &[T], is_small: bool, sums: &mut (u64, u64)) {
    let (mut sum, mut seen) = *sums;
    for value in values {
        sum = sum.wrapping_add(value.word());
        seen |= if is_small { 0 } else { value.magnitude() };
    }
    *sums = (sum, seen);
}

#[inline(always)]
fn add_some<T: Word>(values: &[T], bits: u64, sums: &mut (u64, u64)) {
    let (mut sum, mut seen) = *sums;
    for (bit, value) in values.iter().enumerate() {
        let keep = 0u64.wrapping_sub((bits >> bit) & 1);
        sum = sum.wrapping_add(value.word() & keep);
        seen |= value.magnitude() & keep;
    }
    *sums = (sum, seen);
}

/// The plain form, of which the others are copies.
#[inline(always)]
fn sum_plain<T: Word>(values: &[T], words: Option<&[u64]>, is_small: bool) -> (u64, u64) {
    let mut sums = (0, 0);
    let Some(words) = words else {
        add_all(values, is_small, &mut sums);
        return sums;
    };
    let (whole, rest) = values.as_chunks::<64>();
    for (values, bits) in whole.iter().zip(words) {
        match *bits {
            u64::MAX => add_all(values, is_small, &mut sums),
            0 => {}
            bits => add_some(values, bits, &mut sums),
        }
    }
    if let Some(bits) = words.get(whole.len()) {
        add_some(rest, *bits, &mut sums);
    }
    sums
}

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks memory for values that will be read soon; nothing waits for them.
#[inline(always)]
pub fn prefetch<T>(values: &[T]) {
    prefetch_from(values.as_ptr(), size_of_val(values));
}

/// Asks memory for bytes that will be read soon, if they are there; nothing waits for them.
#[inline(always)]
pub fn prefetch_from<T: ?Sized>(start: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(LINE_BYTES) {
        let line = start.cast::<i8>().wrapping_add(at);
        // SAFETY: a prefetch reads nothing that a program can see and fails at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes, LINE_BYTES);
}

/// Bytes that are asked for before a loop that looks ahead itself.
const FIRST_BYTES: usize = 2048;
/// Bytes that are asked for between two loops: what memory gives until the second one begins.
const BEHIND_BYTES: usize = 4096;

/// What a loop reads after its own values: it asks memory for it while the last of them are added, so
/// that memory is never idle. Only an address, at which nothing is ever looked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Next {
    first: usize,
    bytes: usize,
}

impl Next {
    /// From this address on.
    pub fn at(first: usize, bytes: usize) -> Next {
        Next { first, bytes }
    }

    /// These values.
    pub fn of<T>(values: &[T]) -> Next {
        Next::at(values.as_ptr() as usize, size_of_val(values))
    }

    /// Asks for the first of it now, where no loop of this module comes before.
    pub fn expect(self) {
        prefetch_from(self.first as *const u8, self.bytes.min(FIRST_BYTES));
    }

    /// Asks for what lies behind the groups that a loop over eight bytes each has asked for: memory
    /// has that to do while nothing is added.
    pub fn expect_behind(self) {
        let asked = AHEAD_GROUPS * 64 * 8;
        let bytes = self.bytes.saturating_sub(asked).min(BEHIND_BYTES);
        prefetch_from((self.first + asked) as *const u8, bytes);
    }

    /// Asks for the group of 64 values at a place, if there is one.
    #[inline(always)]
    fn expect_group<T>(self, group: usize) {
        let bytes = size_of::<[T; 64]>();
        if (group + 1) * bytes <= self.bytes {
            prefetch_from((self.first + group * bytes) as *const u8, bytes);
        }
    }
}

/// Eight values in one register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn load<T: Copy>(eight: &[T; 8]) -> __m512i {
    const { assert!(size_of::<T>() == 8, "a lane has 8 bytes") };
    // SAFETY: the 64 bytes of the array are read, as numbers, from an address that need not be
    // aligned; `T` is `i64`, `u64` or `f64`, which have no padding.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(eight).cast()) }
}

/// Groups of 64 values between the one that is added and the one that is asked for: a page and more,
/// since the processor's own look ahead ends where a page does.
const AHEAD_GROUPS: usize = 10;

/// Magnitudes of eight values, in one word each; none if they do not matter.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn magnitudes<T: Word>(lanes: __m512i) -> __m512i {
    match T::SIGNED {
        true => _mm512_xor_si512(lanes, _mm512_slli_epi64::<1>(lanes)),
        false => lanes,
    }
}

/// Of every value.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_all_avx512<T: Word, const SMALL: bool>(values: &[T], next: Next) -> (u64, u64) {
    let (whole, rest) = values.as_chunks::<64>();
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut seen = _mm512_setzero_si512();
    for (at, values) in whole.iter().enumerate() {
        match whole.get(at + AHEAD_GROUPS) {
            Some(later) => prefetch(later),
            None => next.expect_group::<T>(at + AHEAD_GROUPS - whole.len()),
        }
        for (at, eight) in values.as_chunks::<8>().0.iter().enumerate() {
            let lanes = load(eight);
            sums[at % 4] = _mm512_add_epi64(sums[at % 4], lanes);
            if !SMALL {
                seen = _mm512_or_si512(seen, magnitudes::<T>(lanes));
            }
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
    let mut sums = (_mm512_reduce_add_epi64(sum) as u64, _mm512_reduce_or_epi64(seen) as u64);
    add_all(rest, SMALL, &mut sums);
    sums
}

/// Under a mask: no branch depends on it, save that words without a bit are passed over, and that
/// those of which every bit is set (half of all where one row in 100 is hidden) need no mask.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_some_avx512<T: Word, const SMALL: bool>(
    values: &[T],
    words: &[u64],
    next: Next,
) -> (u64, u64) {
    let (whole, rest) = values.as_chunks::<64>();
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut seen = _mm512_setzero_si512();
    for (at, (values, bits)) in whole.iter().zip(words).enumerate() {
        match whole.get(at + AHEAD_GROUPS) {
            Some(later) => prefetch(later),
            None => next.expect_group::<T>(at + AHEAD_GROUPS - whole.len()),
        }
        if *bits == 0 {
            continue;
        }
        if *bits == u64::MAX {
            for (at, eight) in values.as_chunks::<8>().0.iter().enumerate() {
                let lanes = load(eight);
                sums[at % 4] = _mm512_add_epi64(sums[at % 4], lanes);
                if !SMALL {
                    seen = _mm512_or_si512(seen, magnitudes::<T>(lanes));
                }
            }
            continue;
        }
        for (at, eight) in values.as_chunks::<8>().0.iter().enumerate() {
            let lanes = load(eight);
            let mask = (*bits >> (8 * at)) as __mmask8;
            sums[at % 4] = _mm512_mask_add_epi64(sums[at % 4], mask, sums[at % 4], lanes);
            if !SMALL {
                seen = _mm512_mask_or_epi64(seen, mask, seen, magnitudes::<T>(lanes));
            }
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
    let mut sums = (_mm512_reduce_add_epi64(sum) as u64, _mm512_reduce_or_epi64(seen) as u64);
    if let Some(bits) = words.get(whole.len()) {
        add_some(rest, *bits, &mut sums);
    }
    sums
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512<T: Word>(
    values: &[T],
    words: Option<&[u64]>,
    is_small: bool,
    next: Next,
) -> (u64, u64) {
    match (words, is_small) {
        (None, true) => sum_all_avx512::<T, true>(values, next),
        (None, false) => sum_all_avx512::<T, false>(values, next),
        (Some(words), true) => sum_some_avx512::<T, true>(values, words, next),
        (Some(words), false) => sum_some_avx512::<T, false>(values, words, next),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2<T: Word>(values: &[T], words: Option<&[u64]>, is_small: bool) -> (u64, u64) {
    sum_plain(values, words, is_small)
}

/// The wrapping sum of the values under set bits, 64 to a word, and all their magnitudes in one:
/// with `is_small` it does not matter, and may be 0. `next` is read after them.
pub fn sum<T: Word>(values: &[T], words: Option<&[u64]>, is_small: bool, next: Next) -> (u64, u64) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the function is safe but for needing the feature, which was just found.
            return unsafe { sum_avx512(values, words, is_small, next) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { sum_avx2(values, words, is_small) };
        }
    }
    let _ = next; // the processor's own look ahead has to do
    sum_plain(values, words, is_small)
}

/// What a value of 8 bytes is to `pick`.
pub trait Lane: Copy {}

impl Lane for i64 {}
impl Lane for u64 {}
impl Lane for f64 {}

fn pick_plain<T: Lane>(values: &[T], words: &[u64], picked: &mut Vec<T>) {
    for (values, bits) in values.chunks(64).zip(words) {
        let mut bits = match values.len() {
            64 => *bits,
            rows => bits & ((1 << rows) - 1),
        };
        if bits == u64::MAX {
            picked.extend_from_slice(values);
            continue;
        }
        while bits != 0 {
            picked.push(values[bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
    }
}

/// Whole words of the mask only; the rows behind them are left to `pick_plain`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f", enable = "popcnt")]
fn pick_avx512<T: Lane>(values: &[[T; 64]], words: &[u64], picked: &mut Vec<T>) {
    picked.reserve(ones_plain(&words[..values.len()]) + 8);
    let mut len = picked.len();
    let start = picked.as_mut_ptr();
    for (values, bits) in values.iter().zip(words) {
        for (at, eight) in values.as_chunks::<8>().0.iter().enumerate() {
            let mask = (*bits >> (8 * at)) as __mmask8;
            let lanes = _mm512_maskz_compress_epi64(mask, load(eight));
            // SAFETY: room for every picked value and 8 more was reserved, and `len` is the number
            // of those picked before: 64 bytes from there on are inside. What is written behind the
            // picked ones is written over, or stays outside of the length.
            unsafe { _mm512_storeu_si512(start.add(len).cast(), lanes) };
            len += mask.count_ones() as usize;
        }
    }
    // SAFETY: `len` values were written one behind the other, each a copy of a `T`.
    unsafe { picked.set_len(len) };
}

/// Copies of the `rows` values under set bits, in order; bits behind the last value are anything.
pub fn pick<T: Lane>(values: &[T], words: &[u64], rows: usize) -> Vec<T> {
    let mut picked = Vec::with_capacity(rows + 8);
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("popcnt")
    {
        let (whole, rest) = values.as_chunks::<64>();
        // SAFETY: the function needs the features that were just found, and as many words as
        // there are whole groups of values, which the slice below makes sure of.
        unsafe { pick_avx512(whole, &words[..whole.len()], &mut picked) };
        pick_plain(rest, &words[whole.len()..], &mut picked);
        return picked;
    }
    pick_plain(values, words, &mut picked);
    picked
}

#[inline(always)]
fn ones_plain(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn ones_popcnt(words: &[u64]) -> usize {
    ones_plain(words)
}

/// How many bits are set.
pub fn ones(words: &[u64]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("popcnt") {
        // SAFETY: the function is safe but for needing the feature, which was just found.
        return unsafe { ones_popcnt(words) };
    }
    ones_plain(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_registers_give_what_the_plain_form_gives() {
        for len in [0usize, 1, 63, 64, 65, 640, 1001] {
            let mix = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let values: Vec<u64> = (0..len).map(mix).collect();
            let signed: Vec<i64> = values.iter().map(|v| (*v as i64) >> 20).collect();
            let word = |i: usize| [u64::MAX, 0, mix(i), !(1 << (i % 64))][i % 4];
            let words: Vec<u64> = (0..len.div_ceil(64)).map(word).collect();
            assert_eq!(ones(&words), ones_plain(&words));
            for words in [None, Some(words.as_slice())] {
                assert_eq!(
                    sum(&values, words, false, Next::default()),
                    sum_plain(&values, words, false)
                );
                assert_eq!(
                    sum(&signed, words, false, Next::default()),
                    sum_plain(&signed, words, false)
                );
                assert_eq!(
                    sum(&signed, words, true, Next::default()).0,
                    sum(&signed, words, false, Next::default()).0
                );
                let set = |i: usize| words.is_none_or(|w| w[i / 64] >> (i % 64) & 1 == 1);
                if let Some(words) = words {
                    let rows = (0..len).filter(|i| set(*i)).map(|i| signed[i]);
                    let (rows, mut plain) = (rows.collect::<Vec<_>>(), Vec::new());
                    pick_plain(&signed, words, &mut plain);
                    assert_eq!(plain, rows);
                    assert_eq!(pick(&signed, words, rows.len()), rows);
                }
                let one_by_one = (0..len).filter(|i| set(*i)).map(|i| signed[i]).sum::<i64>();
                assert_eq!(sum(&signed, words, false, Next::default()).0, one_by_one as u64);
            }
        }
    }
}
