//! Counts and sums by group for batches of which most rows count: no branch on the mask, and
//! neighbouring rows in lanes of their own, for they are often of one group. It must never let a
//! row that does not count into a group.

use super::Rows;
use super::kernels::{BLOCK, LARGE};
use super::wide::Word;
use crate::error::Result;
use crate::values::{Values, for_rows, for_words};

/// Lanes, so that additions do not wait for each other.
const LANES: usize = 4;
/// Lanes of more groups than these cost more to clear than they save.
const GROUPS_MAX: usize = 512;
/// When at most one row of so many counts, the others are skipped, not added to a lane of no use.
const SPARSE: usize = 4;

/// Rows with the number of each one's group.
pub(super) struct Numbered<'a> {
    /// Of rows that count; of others anything.
    pub ids: &'a [u32],
    /// Which count.
    pub rows: Rows,
    /// Groups so far.
    pub groups: usize,
    counts: Option<Vec<u64>>,
    /// Rows that do not count have the number behind the last; `None`: as `ids`.
    dense: Option<Vec<u32>>,
}

impl<'a> Numbered<'a> {
    /// Rows of a batch.
    pub fn new(ids: &'a [u32], rows: Rows, groups: usize) -> Numbered<'a> {
        Numbered { ids, rows, groups, counts: None, dense: None }
    }

    fn is_dense(&self) -> bool {
        self.groups <= GROUPS_MAX && self.rows.set * SPARSE > self.rows.rows
    }

    /// The number of each row's group, behind the last for rows that do not count.
    fn dense(&mut self) -> &[u32] {
        let Some(mask) = &self.rows.mask else { return self.ids };
        let (ids, none) = (self.ids, self.groups as u32);
        self.dense.get_or_insert_with(|| {
            let mut dense = ids.to_vec();
            for_words(mask, |base, bits| {
                let end = dense.len().min(base + 64);
                let mut rest = !bits;
                if end - base < 64 {
                    rest &= (1 << (end - base)) - 1;
                }
                while rest != 0 {
                    dense[base + rest.trailing_zeros() as usize] = none;
                    rest &= rest - 1;
                }
            });
            dense
        })
    }

    /// Rows that count, by group.
    pub fn counts(&mut self) -> &[u64] {
        if self.counts.is_none() {
            let groups = self.groups;
            let counts = match self.is_dense() {
                true => {
                    let mut lanes = vec![0u64; LANES * (groups + 1)];
                    for ids in self.dense().chunks(LANES) {
                        for (lane, id) in ids.iter().enumerate() {
                            lanes[lane * (groups + 1) + *id as usize] += 1;
                        }
                    }
                    joined(&lanes, groups)
                }
                false => {
                    let mut counts = vec![0; groups];
                    let (ids, mask) = (self.ids, self.rows.mask.as_ref());
                    for_rows(ids.len(), mask, |row| counts[ids[row] as usize] += 1);
                    counts
                }
            };
            self.counts = Some(counts);
        }
        self.counts.as_deref().unwrap_or_default()
    }

    /// Adds the values of rows that count to their groups' sums and counts. False: it did not, and
    /// they are to be added one by one.
    pub fn add(&mut self, all: &mut [(i128, u64)], values: Values<'_>) -> Result<bool> {
        if !self.is_dense() {
            return Ok(false);
        }
        let groups = self.groups;
        let ids = self.dense();
        let sums = match values {
            Values::I64(values) => sums(values, ids, groups, |v| (v.word(), v.magnitude())),
            Values::U64(values) => sums(values, ids, groups, |v| (v.word(), v.magnitude())),
            Values::I128(values) => sums(values, ids, groups, |v| {
                let low = v as i64;
                // the high word must only repeat the sign
                let is_wide = (v >> 64) as i64 != low >> 63;
                (low.word(), low.magnitude() | 0u64.wrapping_sub(u64::from(is_wide)))
            }),
            _ => None,
        };
        let Some(sums) = sums else { return Ok(false) };
        let counts = self.counts();
        for ((slot, sum), count) in all.iter_mut().zip(sums).zip(counts) {
            slot.0 = slot.0.checked_add(sum).ok_or_else(super::overflow)?;
            slot.1 += count;
        }
        Ok(true)
    }
}

fn joined(lanes: &[u64], groups: usize) -> Vec<u64> {
    let mut all = vec![0u64; groups];
    for lane in lanes.chunks(groups + 1) {
        all.iter_mut().zip(lane).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
    }
    all
}

/// The exact sums by group; `None`: some value is too large to be added so. `word` gives a value's
/// low word and a measure of its size.
fn sums<T: Copy>(
    values: &[T],
    ids: &[u32],
    groups: usize,
    word: impl Fn(T) -> (u64, u64),
) -> Option<Vec<i128>> {
    let width = groups + 1;
    let mut all = vec![0i128; groups];
    let mut lanes = vec![0u64; LANES * width];
    for (values, ids) in values.chunks(BLOCK).zip(ids.chunks(BLOCK)) {
        let mut seen = 0;
        let (fours, rest) = values.as_chunks::<LANES>();
        let (four_ids, rest_ids) = ids.as_chunks::<LANES>();
        for (values, ids) in fours.iter().zip(four_ids) {
            for lane in 0..LANES {
                let (value, size) = word(values[lane]);
                let slot = &mut lanes[lane * width + ids[lane] as usize];
                *slot = slot.wrapping_add(value);
                seen |= size;
            }
        }
        for (value, id) in rest.iter().zip(rest_ids) {
            let (value, size) = word(*value);
            lanes[*id as usize] = lanes[*id as usize].wrapping_add(value);
            seen |= size;
        }
        if seen & LARGE != 0 {
            return None;
        }
        let block = joined(&lanes, groups);
        all.iter_mut().zip(block).for_each(|(sum, more)| *sum += i128::from(more as i64));
        lanes.fill(0);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::buffer::BooleanBuffer;

    #[test]
    fn lanes_give_what_single_additions_give() {
        for rows in [1usize, 3, 64, 1000, 20_000] {
            for share in [2usize, 3, 50] {
                let ids: Vec<u32> = (0..rows).map(|row| (row as u32 * 7 / 3) % 5).collect();
                let mask = BooleanBuffer::collect_bool(rows, |row| row % share != 0);
                let set = mask.count_set_bits();
                if set * SPARSE <= rows {
                    continue;
                }
                for mask in [None, Some(mask)] {
                    let counts = |row: usize| mask.as_ref().is_none_or(|m| m.value(row));
                    let batch = Rows {
                        rows,
                        set: if mask.is_some() { set } else { rows },
                        mask: mask.clone(),
                    };
                    let mut numbered = Numbered::new(&ids, batch, 5);
                    let value = |row: usize| (row as i128 - 400) * 1_000_003;
                    let values: Vec<i128> = (0..rows).map(value).collect();
                    let mut all = vec![(0i128, 0u64); 5];
                    assert!(numbered.add(&mut all, Values::I128(&values)).expect("small"));
                    let mut expected = vec![(0i128, 0u64); 5];
                    for row in (0..rows).filter(|row| counts(*row)) {
                        let slot = &mut expected[ids[row] as usize];
                        *slot = (slot.0 + value(row), slot.1 + 1);
                    }
                    assert_eq!(all, expected);
                }
            }
        }
    }

    #[test]
    fn large_values_are_left_to_slower_additions() {
        let ids = [0u32, 1, 0];
        for value in [1i128 << 64, -(1i128 << 64), 1 << 51, i128::from(u64::MAX), i128::MIN] {
            let mut numbered = Numbered::new(&ids, Rows::all(3), 2);
            let mut all = vec![(0i128, 0u64); 2];
            let done = numbered.add(&mut all, Values::I128(&[1, value, 3])).expect("no overflow");
            assert!(!done, "{value}");
            assert_eq!(all, [(0, 0); 2], "nothing was added");
        }
    }
}
