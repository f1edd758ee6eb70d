//! A bit for each row, changed one by one and handed out without a copy. It must never change what
//! was handed out.

use crate::fold::wide::prefetch;
use arrow::buffer::{BooleanBuffer, Buffer};
use std::sync::OnceLock;

/// Bits of rows.
#[derive(Debug)]
pub struct Mask {
    words: Vec<u64>,
    rows: usize,
    /// Bits that are set.
    set: usize,
    /// The words as they were first asked for since the last change: all who ask share them.
    shared: OnceLock<Buffer>,
}

impl Clone for Mask {
    /// Who copies a mask is about to change it.
    fn clone(&self) -> Mask {
        Mask { words: self.words.clone(), shared: OnceLock::new(), ..*self }
    }
}

impl Mask {
    /// No bit is set.
    pub fn none(rows: usize) -> Mask {
        Mask { words: vec![0; rows.div_ceil(64)], rows, set: 0, shared: OnceLock::new() }
    }

    /// Every bit is set.
    pub fn all(rows: usize) -> Mask {
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        if !rows.is_multiple_of(64) {
            *words.last_mut().expect("rows is not 0") = (1 << (rows % 64)) - 1;
        }
        Mask { words, rows, set: rows, shared: OnceLock::new() }
    }

    /// How many rows it is for.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bits that are set.
    pub fn count(&self) -> usize {
        self.set
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let copies = 1 + usize::from(self.shared.get().is_some());
        self.words.len() * size_of::<u64>() * copies
    }

    /// Is the bit of a row set?
    pub fn get(&self, row: usize) -> bool {
        self.words[row / 64] >> (row % 64) & 1 == 1
    }

    /// Sets the bit of a row.
    pub fn set(&mut self, row: usize) {
        if !self.get(row) {
            self.shared.take();
            self.set += 1;
            self.words[row / 64] |= 1 << (row % 64);
        }
    }

    /// Clears the bit of a row.
    pub fn clear(&mut self, row: usize) {
        if self.get(row) {
            self.shared.take();
            self.set -= 1;
            self.words[row / 64] &= !(1 << (row % 64));
        }
    }

    /// Asks memory for the bits, which will be read soon.
    pub fn expect(&self) {
        match self.shared.get() {
            Some(shared) => prefetch(shared.as_slice()),
            None => prefetch(&self.words),
        }
    }

    /// The bits of some rows. Those of all are copied at most once after a change, those of a few
    /// alone: a single row must not cost as much as a pack.
    pub fn part(&self, first: usize, rows: usize) -> BooleanBuffer {
        let shared = match rows == self.rows {
            true => Some(self.shared.get_or_init(|| Buffer::from_slice_ref(&self.words))),
            false => self.shared.get(),
        };
        let Some(shared) = shared else { return self.part_with(first, rows, std::iter::empty()) };
        let (start, end) = (first / 64, (first + rows).div_ceil(64));
        let bytes = size_of::<u64>();
        let words = shared.slice_with_length(start * bytes, (end - start) * bytes);
        BooleanBuffer::new(words, first % 64, rows)
    }

    /// A copy of the bits of some rows, in which those of `more` of them are set.
    pub fn part_with(
        &self,
        first: usize,
        rows: usize,
        more: impl Iterator<Item = usize>,
    ) -> BooleanBuffer {
        let start = first / 64;
        let mut words = self.words[start..(first + rows).div_ceil(64)].to_vec();
        more.for_each(|row| words[row / 64 - start] |= 1 << (row % 64));
        BooleanBuffer::new(Buffer::from_vec(words), first % 64, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(part: &BooleanBuffer) -> Vec<usize> {
        part.set_indices().collect()
    }

    #[test]
    fn what_was_handed_out_never_changes_and_is_copied_once() {
        let mut mask = Mask::none(130);
        mask.set(3);
        mask.set(129);
        mask.set(129);
        let before = mask.part(0, 130);
        assert_eq!((set(&before), mask.count()), (vec![3, 129], 2));
        assert!(mask.part(0, 130).inner().ptr_eq(before.inner()), "copied twice");
        assert_eq!(set(&mask.part(65, 65)), [64]);
        mask.clear(3);
        mask.clear(3);
        assert_eq!(set(&before), [3, 129]);
        assert_eq!((set(&mask.part(0, 130)), mask.count()), (vec![129], 1));
        assert_eq!(set(&mask.part_with(64, 66, [70].into_iter())), [6, 65]);
        assert_eq!(set(&mask.part(0, 130)), [129]);
    }

    #[test]
    fn a_mask_of_all_rows_has_no_bit_behind_the_last_one() {
        for rows in [1, 63, 64, 65, 200] {
            let mask = Mask::all(rows);
            assert_eq!((mask.rows(), mask.count()), (rows, rows));
            let ones: u32 = mask.words.iter().map(|word| word.count_ones()).sum();
            assert_eq!(ones as usize, rows);
            assert_eq!(mask.part(0, rows).count_set_bits(), rows);
        }
    }
}
