//! A cursor that copies a block of pairs per turn of the engine's lock. It must never hold that
//! lock between calls.

use super::{MemorySnapshot, Slot, bounds};
use crate::engine::{Cf, Cursor, Pair, is_empty_range};
use crate::error::Result;
use bytes::Bytes;
use std::ops::Bound;

/// Pairs in the first block after a seek: a point read wants few.
const BLOCK_MIN: usize = 2;
/// Pairs in a block once a scan is under way.
const BLOCK_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Backward,
}

/// Walks one family at a snapshot.
pub(super) struct MemoryCursor<'a> {
    snapshot: &'a MemorySnapshot,
    cf: Cf,
    start: Vec<u8>,
    end: Vec<u8>,
    /// Pairs in the direction of `way`; the position is `block[at]`.
    block: Vec<(Bytes, Bytes)>,
    at: usize,
    way: Way,
    /// Pairs that the next block may hold.
    size: usize,
}

impl<'a> MemoryCursor<'a> {
    pub fn new(snapshot: &'a MemorySnapshot, cf: Cf, start: &[u8], end: &[u8]) -> Self {
        MemoryCursor {
            snapshot,
            cf,
            start: start.to_vec(),
            end: end.to_vec(),
            block: Vec::new(),
            at: 0,
            way: Way::Forward,
            size: BLOCK_MIN,
        }
    }

    /// Replaces the block by pairs within `(low, high)`, nearest first.
    fn fill(&mut self, way: Way, low: Bound<&[u8]>, high: Bound<&[u8]>) {
        self.block.clear();
        self.at = 0;
        self.way = way;
        if is_inverted(low, high) {
            return;
        }
        let seq = self.snapshot.seq;
        let pair = |(key, slot): (&Bytes, &Slot)| Some((key.clone(), slot.at(seq)?.clone()));
        let state = self.snapshot.shared.state.read();
        let range = state.families[self.cf as usize].range::<[u8], _>((low, high));
        match way {
            Way::Forward => self.block.extend(range.filter_map(pair).take(self.size)),
            Way::Backward => self.block.extend(range.rev().filter_map(pair).take(self.size)),
        }
        self.size = (self.size * 4).min(BLOCK_MAX);
    }

    fn step(&mut self, way: Way) -> Option<Pair<'_>> {
        self.block.get(self.at)?;
        if self.way == way && self.at + 1 < self.block.len() {
            self.at += 1;
            return self.current();
        }
        let key = self.block[self.at].0.clone();
        let start = std::mem::take(&mut self.start);
        let end = std::mem::take(&mut self.end);
        let (low, high) = bounds(&start, &end);
        match way {
            Way::Forward => self.fill(way, Bound::Excluded(&key), high),
            Way::Backward => self.fill(way, low, Bound::Excluded(&key)),
        }
        self.start = start;
        self.end = end;
        self.current()
    }

    fn seek_from(&mut self, way: Way, key: Option<&[u8]>) -> Option<Pair<'_>> {
        self.size = BLOCK_MIN;
        let start = std::mem::take(&mut self.start);
        let end = std::mem::take(&mut self.end);
        let (low, high) = bounds(&start, &end);
        if !is_empty_range(&start, &end) {
            match (way, key) {
                (Way::Forward, Some(key)) if key > start.as_slice() => {
                    self.fill(way, Bound::Included(key), high);
                }
                (Way::Backward, Some(key)) if end.is_empty() || key < end.as_slice() => {
                    self.fill(way, low, Bound::Included(key));
                }
                _ => self.fill(way, low, high),
            }
        }
        self.start = start;
        self.end = end;
        self.current()
    }
}

/// Would a tree refuse these bounds?
fn is_inverted(low: Bound<&[u8]>, high: Bound<&[u8]>) -> bool {
    match (low, high) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
    }
}

impl Cursor for MemoryCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        Ok(self.seek_from(Way::Forward, Some(key)))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        Ok(self.seek_from(Way::Backward, Some(key)))
    }

    fn seek_to_last(&mut self) -> Result<Option<Pair<'_>>> {
        Ok(self.seek_from(Way::Backward, None))
    }

    fn next(&mut self) -> Result<Option<Pair<'_>>> {
        Ok(self.step(Way::Forward))
    }

    fn prev(&mut self) -> Result<Option<Pair<'_>>> {
        Ok(self.step(Way::Backward))
    }

    fn current(&self) -> Option<Pair<'_>> {
        self.block.get(self.at).map(|(key, value)| (&key[..], &value[..]))
    }
}
