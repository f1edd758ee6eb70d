//! Loops over whole columns and masks that wide registers make faster: compiled once for any
//! processor and again for those that have them. It must never run an instruction that the
//! processor does not have.
#![allow(unsafe_code)] // calls of functions compiled for a feature that was found

/// A whole number as a word, with a measure of its size.
pub trait Word: Copy {
    /// The same bits, for wrapping sums.
    fn word(self) -> u64;
    /// Bits 51 and up are clear if the value is below 2^50 in magnitude.
    fn magnitude(self) -> u64;
}

impl Word for i64 {
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
fn add_all<T: Word>(values: &[T], sums: &mut (u64, u64)) {
    let (mut sum, mut seen) = *sums;
    for value in values {
        sum = sum.wrapping_add(value.word());
        seen |= value.magnitude();
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
fn sum_plain<T: Word>(values: &[T], words: Option<&[u64]>) -> (u64, u64) {
    let mut sums = (0, 0);
    let Some(words) = words else {
        add_all(values, &mut sums);
        return sums;
    };
    let (whole, rest) = values.as_chunks::<64>();
    for (values, bits) in whole.iter().zip(words) {
        match *bits {
            u64::MAX => add_all(values, &mut sums),
            0 => {}
            bits => add_some(values, bits, &mut sums),
        }
    }
    if let Some(bits) = words.get(whole.len()) {
        add_some(rest, *bits, &mut sums);
    }
    sums
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512<T: Word>(values: &[T], words: Option<&[u64]>) -> (u64, u64) {
    sum_plain(values, words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2<T: Word>(values: &[T], words: Option<&[u64]>) -> (u64, u64) {
    sum_plain(values, words)
}

/// The wrapping sum of the values under set bits, 64 to a word, and all their magnitudes in one.
pub fn sum<T: Word>(values: &[T], words: Option<&[u64]>) -> (u64, u64) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the function is safe but for needing the feature, which was just found.
            return unsafe { sum_avx512(values, words) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { sum_avx2(values, words) };
        }
    }
    sum_plain(values, words)
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
                assert_eq!(sum(&values, words), sum_plain(&values, words));
                assert_eq!(sum(&signed, words), sum_plain(&signed, words));
                let set = |i: usize| words.is_none_or(|w| w[i / 64] >> (i % 64) & 1 == 1);
                let one_by_one = (0..len).filter(|i| set(*i)).map(|i| signed[i]).sum::<i64>();
                assert_eq!(sum(&signed, words).0, one_by_one as u64);
            }
        }
    }
}
