//! Sums and extremes of a column under a mask, without a copy. They must never let a value under
//! a cleared bit into the result.
//!
//! A sum of whole numbers wraps around (see `wide`). Whether it was exact is told by the values'
//! magnitudes, gathered on the way; if not, the rows are added one by one, wider.

use super::wide::{self, Next, Word};
use crate::tree::bounds::Bounds;
use crate::values::{for_words, whole_words};
use arrow::buffer::BooleanBuffer;

/// Rows that are added before the sum is widened: 2^13 values below 2^50 stay below 2^63.
pub const BLOCK: usize = 1 << 13;

/// Set in the magnitude of a value that is too large for a block.
pub const LARGE: u64 = u64::MAX << 50;

/// Numbers below it in magnitude are small.
const SMALL: i128 = 1 << 49;

/// A number whose sums stay exact while its magnitude is small.
pub trait Small: Word + Into<i128> {
    /// The exact sum out of the wrapping sum of small values.
    fn widen(sum: u64) -> i128;
}

impl Small for i64 {
    fn widen(sum: u64) -> i128 {
        i128::from(sum as i64)
    }
}

impl Small for u64 {
    fn widen(sum: u64) -> i128 {
        i128::from(sum)
    }
}

/// Every value within these bounds is known to be small.
pub fn is_small(bounds: Option<&Bounds>) -> bool {
    let Some(Bounds::Numbers(min, max)) = bounds else { return false };
    -SMALL < *min && *max < SMALL
}

/// The exact sum of the values under set bits; at most 2^64 values. Of the hints, the first: they
/// are known to be small, whatever those under other bits are; the second: what is read next.
pub fn sum<T: Small>(
    values: &[T],
    mask: Option<&BooleanBuffer>,
    (is_small, next): (bool, Next),
) -> i128 {
    let all = mask.map(whole_words);
    let all: &[u64] = all.as_ref().map_or(&[], |words| words);
    let mut total = 0i128;
    let mut behind = values;
    for (index, values) in values.chunks(BLOCK).enumerate() {
        let words = mask.map(|_| &all[index * BLOCK / 64..]);
        behind = &behind[values.len()..];
        let next = if behind.is_empty() { next } else { Next::of(behind) };
        let (sum, seen) = wide::sum(values, words, is_small, next);
        total += match seen & LARGE {
            0 => T::widen(sum),
            _ => {
                let set = |row: usize| words.is_none_or(|w| w[row / 64] >> (row % 64) & 1 == 1);
                let rows = values.iter().enumerate().filter(|(row, _)| set(*row));
                rows.map(|(_, value)| (*value).into()).sum()
            }
        };
    }
    next.expect_behind();
    total
}

/// The sum of decimals under set bits; `None`: it does not fit.
pub fn sum_wide(values: &[i128], mask: Option<&BooleanBuffer>) -> Option<i128> {
    let (mut total, mut over) = (0i128, false);
    let mut add = |value: i128| {
        let (sum, overflows) = total.overflowing_add(value);
        total = sum;
        over |= overflows;
    };
    match mask {
        None => values.iter().for_each(|v| add(*v)),
        Some(mask) => for_words(mask, |base, bits| match bits {
            u64::MAX => values[base..base + 64].iter().for_each(|v| add(*v)),
            _ => {
                let mut rest = bits;
                while rest != 0 {
                    add(values[base + rest.trailing_zeros() as usize]);
                    rest &= rest - 1;
                }
            }
        }),
    }
    (!over).then_some(total)
}

/// The sum of floats under set bits, in eight lanes.
pub fn sum_floats(values: &[f64], mask: Option<&BooleanBuffer>) -> f64 {
    let mut lanes = [0f64; 8];
    let mut rest = 0f64;
    let mut add_all = |values: &[f64]| {
        let (eights, tail) = values.as_chunks::<8>();
        for eight in eights {
            lanes.iter_mut().zip(eight).for_each(|(lane, v)| *lane += v);
        }
        tail.iter().for_each(|v| rest += v);
    };
    match mask {
        None => add_all(values),
        Some(mask) => {
            let mut some = 0f64;
            for_words(mask, |base, mut bits| match bits {
                u64::MAX => add_all(&values[base..base + 64]),
                _ => {
                    while bits != 0 {
                        some += values[base + bits.trailing_zeros() as usize];
                        bits &= bits - 1;
                    }
                }
            });
            rest += some;
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// The value that `better` prefers among those under set bits.
pub fn best<T: Copy>(
    values: &[T],
    mask: Option<&BooleanBuffer>,
    better: impl Fn(T, T) -> T,
) -> Option<T> {
    let fold = |values: &[T], best: Option<T>| -> Option<T> {
        let (first, _) = values.split_first()?;
        Some(values.iter().fold(best.unwrap_or(*first), |best, v| better(best, *v)))
    };
    let Some(mask) = mask else { return fold(values, None) };
    let mut found = None;
    for_words(mask, |base, mut bits| match bits {
        u64::MAX => found = fold(&values[base..base + 64], found),
        _ => {
            while bits != 0 {
                let value = values[base + bits.trailing_zeros() as usize];
                found = Some(found.map_or(value, |best| better(best, value)));
                bits &= bits - 1;
            }
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(len: usize) -> Vec<Option<BooleanBuffer>> {
        let every = |n: usize, set: bool| {
            Some(BooleanBuffer::collect_bool(len, |row| row.is_multiple_of(n) == set))
        };
        let shifted = BooleanBuffer::collect_bool(len + 3, |row| row % 5 != 0).slice(3, len);
        let mixed = BooleanBuffer::collect_bool(len, |row| row < 200 || row % 3 == 0);
        vec![None, every(7, true), every(7, false), Some(shifted), Some(mixed)]
    }

    fn set(mask: &Option<BooleanBuffer>, row: usize) -> bool {
        mask.as_ref().is_none_or(|mask| mask.value(row))
    }

    #[test]
    fn sums_are_exact_also_where_64_bits_overflow() {
        for len in [0, 1, 64, 65, 1000, 20_000] {
            for large in [false, true] {
                let scale = if large { i64::MAX / 4 } else { 1 };
                let signed: Vec<i64> =
                    (0..len).map(|i| ((i as i64 * 7919) % 8 - 2).wrapping_mul(scale)).collect();
                let plain: Vec<u64> =
                    signed.iter().map(|v| *v as u64 >> (13 * u8::from(!large))).collect();
                let wide: Vec<i128> = signed.iter().map(|v| i128::from(*v) << 40).collect();
                for mask in masks(len) {
                    let rows = || (0..len).filter(|row| set(&mask, *row));
                    let expected: i128 = rows().map(|row| i128::from(signed[row])).sum();
                    assert_eq!(
                        sum(&signed, mask.as_ref(), (false, Next::default())),
                        expected,
                        "{len} {large}"
                    );
                    if !large {
                        assert_eq!(
                            sum(&signed, mask.as_ref(), (true, Next::default())),
                            expected,
                            "{len}"
                        );
                    }
                    let expected: i128 = rows().map(|row| i128::from(plain[row])).sum();
                    assert_eq!(
                        sum(&plain, mask.as_ref(), (false, Next::default())),
                        expected,
                        "{len} {large}"
                    );
                    let expected: i128 = rows().map(|row| wide[row]).sum();
                    assert_eq!(sum_wide(&wide, mask.as_ref()), Some(expected));
                    let floats: Vec<f64> = signed.iter().map(|v| (*v % 1000) as f64).collect();
                    let expected: f64 = rows().map(|row| floats[row]).sum();
                    assert_eq!(sum_floats(&floats, mask.as_ref()), expected);
                    let expected = rows().map(|row| signed[row]).min();
                    assert_eq!(best(&signed, mask.as_ref(), i64::min), expected);
                }
            }
        }
        assert_eq!(sum_wide(&[i128::MAX, 1], None), None);
    }

    #[test]
    fn bounds_tell_what_is_small() {
        let small = |min, max| is_small(Some(&Bounds::Numbers(min, max)));
        assert!(small(1 - SMALL, SMALL - 1));
        assert!(!small(-SMALL, 0) && !small(0, SMALL) && !small(0, i64::MAX.into()));
        assert!(!is_small(None) && !is_small(Some(&Bounds::Unknown)));
        // a block of the largest small numbers
        let values = vec![(SMALL - 1) as i64; BLOCK];
        assert_eq!(sum(&values, None, (true, Next::default())), (SMALL - 1) * BLOCK as i128);
    }
}
