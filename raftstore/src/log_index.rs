//! One group's log as an index in memory: positions, terms and a slot per entry. It does no I/O;
//! where an entry's bytes are is the slot's business. Whatever takes slots out hands each of them to
//! `gone`, so that their owner can count.

use crate::error::{Error, Result};
use crate::log_store::{GroupLog, HardState};
use crate::machine::Applied;
use std::collections::{BTreeMap, VecDeque};

/// One group. `slots[0]` is entry `base`, which is `truncated.index + 1` unless, in the middle of
/// a replay, the entries between were in files that are gone: then they are compacted later on, or
/// come again later on, from where they were moved to. Entries before such a hole are kept `aside`.
///
/// ```text
///   truncated │ aside 75 76 │ hole 77 │ slots 78 79 80
///                             └ moved, and so found in a later file
/// ```
#[derive(Debug)]
pub(crate) struct LogIndex<S> {
    pub hard: HardState,
    pub truncated: Applied,
    pub restoring: Option<Applied>,
    base: u64,
    slots: VecDeque<(u64, S)>,
    /// All below `base - 1`.
    aside: BTreeMap<u64, (u64, S)>,
}

impl<S> Default for LogIndex<S> {
    fn default() -> LogIndex<S> {
        LogIndex {
            hard: HardState::default(),
            truncated: Applied::default(),
            restoring: None,
            base: 1,
            slots: VecDeque::new(),
            aside: BTreeMap::new(),
        }
    }
}

impl<S> LogIndex<S> {
    /// The last entry, or the truncated position.
    pub fn last(&self) -> Applied {
        match self.slots.back() {
            Some((term, _)) => {
                Applied { index: self.base + self.slots.len() as u64 - 1, term: *term }
            }
            None => self.truncated,
        }
    }

    pub fn summary(&self) -> GroupLog {
        let last = self.last();
        GroupLog { hard: self.hard, truncated: self.truncated, last, restoring: self.restoring }
    }

    /// Adds an entry, cutting the tail from its index on.
    pub fn push(&mut self, index: u64, term: u64, slot: S, gone: &mut impl FnMut(S)) -> Result<()> {
        if index <= self.truncated.index || index > self.last().index + 1 {
            return Err(Error::Invalid(format!(
                "entry {index} does not follow a log of {}..={}",
                self.truncated.index + 1,
                self.last().index
            )));
        }
        self.replay(index, term, slot, gone);
        Ok(())
    }

    /// As `push`, from a file: a hole is allowed for the moment.
    pub fn replay(&mut self, index: u64, term: u64, slot: S, gone: &mut impl FnMut(S)) {
        if index > self.next() {
            self.begin_after_hole(index);
        } else if index < self.base {
            self.slots.drain(..).for_each(|(_, slot)| gone(slot));
            self.aside.split_off(&index).into_values().for_each(|(_, slot)| gone(slot));
            self.base = index;
        } else {
            let from = (index - self.base) as usize;
            self.slots.drain(from..).for_each(|(_, slot)| gone(slot));
        }
        self.slots.push_back((term, slot));
        self.close_hole();
    }

    /// Puts back entries (given from the last to the first) that another file holds now. One that
    /// has no place any more is handed to `gone` itself.
    pub fn replace(&mut self, index: u64, term: u64, slot: S, gone: &mut impl FnMut(S)) {
        if index <= self.truncated.index {
            return gone(slot);
        }
        if index > self.next() || self.slots.is_empty() {
            self.begin_after_hole(index);
        }
        if index == self.next() {
            self.slots.push_back((term, slot));
        } else if index + 1 == self.base {
            self.base = index;
            self.slots.push_front((term, slot));
        } else if index < self.base {
            let old = self.aside.insert(index, (term, slot));
            old.into_iter().for_each(|(_, slot)| gone(slot));
        } else {
            match self.slot_mut(index) {
                Some(there) if there.0 == term => gone(std::mem::replace(&mut there.1, slot)),
                _ => gone(slot),
            }
        }
        self.close_hole();
    }

    fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// The next slot is `index`, with entries missing before it.
    fn begin_after_hole(&mut self, index: u64) {
        self.aside.extend((self.base..).zip(self.slots.drain(..)));
        self.base = index;
    }

    /// Takes back what was set aside and is not before a hole any more.
    fn close_hole(&mut self) {
        while let Some(slot) = self.aside.remove(&self.base.wrapping_sub(1)) {
            self.base -= 1;
            self.slots.push_front(slot);
        }
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut (u64, S)> {
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(at)
    }

    pub fn compact(&mut self, to: Applied, gone: &mut impl FnMut(S)) {
        if to.index <= self.truncated.index {
            return;
        }
        let kept = self.aside.split_off(&(to.index + 1));
        std::mem::replace(&mut self.aside, kept).into_values().for_each(|(_, slot)| gone(slot));
        while self.base <= to.index
            && let Some((_, slot)) = self.slots.pop_front()
        {
            gone(slot);
            self.base += 1;
        }
        if self.slots.is_empty() {
            self.base = to.index + 1;
        }
        self.truncated = to;
    }

    pub fn reset(&mut self, to: Applied, gone: &mut impl FnMut(S)) {
        self.slots.drain(..).for_each(|(_, slot)| gone(slot));
        std::mem::take(&mut self.aside).into_values().for_each(|(_, slot)| gone(slot));
        self.base = to.index + 1;
        self.truncated = to;
        self.restoring = None;
    }

    pub fn get(&self, index: u64) -> Option<&S> {
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        self.slots.get(at).map(|(_, slot)| slot)
    }

    pub fn get_mut(&mut self, index: u64) -> Option<&mut S> {
        self.slot_mut(index).map(|(_, slot)| slot)
    }

    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.index {
            return Some(self.truncated.term);
        }
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        self.slots.get(at).map(|(term, _)| *term)
    }

    /// Every entry: index, term, slot.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, &S)> {
        (self.base..).zip(&self.slots).map(|(index, (term, slot))| (index, *term, slot))
    }

    /// No hole, and nothing committed is missing.
    pub fn check(&self) -> std::result::Result<(), String> {
        if !self.slots.is_empty() && self.base != self.truncated.index + 1 {
            let (from, to) = (self.truncated.index + 1, self.base - 1);
            return Err(format!("entries {from}..={to} are missing"));
        }
        if self.hard.commit > self.last().index {
            let (commit, last) = (self.hard.commit, self.last().index);
            return Err(format!("committed up to {commit}, but the last entry is {last}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Index = LogIndex<&'static str>;

    fn shown(log: &Index) -> Vec<(u64, &'static str)> {
        log.iter().map(|(index, _, slot)| (index, *slot)).collect()
    }

    /// Files are removed from the oldest on, and what was in them comes again later, in pieces and
    /// in any order among the rest.
    #[test]
    fn moved_entries_find_their_places_among_those_that_stayed() {
        let expected = vec![(75, "b"), (76, "b"), (77, "c"), (78, "a"), (79, "a")];
        let orders: [&[u64]; 5] = [
            &[78, 79, 76, 75, 77],
            &[76, 75, 78, 79, 77],
            &[76, 75, 77, 78, 79],
            &[78, 76, 75, 79, 77],
            &[77, 76, 75, 78, 79],
        ];
        for order in orders {
            let (mut log, mut gone) = (Index::default(), Vec::new());
            let mut take = |slot| gone.push(slot);
            log.compact(Applied { index: 74, term: 1 }, &mut take);
            for index in order {
                match index {
                    75 | 76 => log.replace(*index, 1, "b", &mut take),
                    77 => log.replace(*index, 1, "c", &mut take),
                    _ => log.replay(*index, 1, "a", &mut take),
                }
            }
            assert_eq!((shown(&log), log.check()), (expected.clone(), Ok(())), "{order:?}");
            assert!(gone.is_empty(), "{order:?}: {gone:?}");
        }
    }

    #[test]
    fn what_is_set_aside_is_cut_compacted_and_reset_like_the_rest() {
        let filled = |gone: &mut Vec<&'static str>| {
            let (mut log, mut take) = (Index::default(), |slot| gone.push(slot));
            for (index, slot) in [(1, "1"), (2, "2"), (3, "3"), (9, "9")] {
                log.replay(index, 1, slot, &mut take);
            }
            assert!(log.check().is_err(), "4..=8 are missing");
            log
        };
        let mut gone = Vec::new();
        let mut log = filled(&mut gone);
        log.replay(3, 2, "3'", &mut |slot| gone.push(slot));
        assert_eq!((shown(&log), log.check()), (vec![(1, "1"), (2, "2"), (3, "3'")], Ok(())));
        assert_eq!(std::mem::take(&mut gone), ["9", "3"]);
        let mut log = filled(&mut gone);
        log.compact(Applied { index: 8, term: 1 }, &mut |slot| gone.push(slot));
        assert_eq!((shown(&log), log.check()), (vec![(9, "9")], Ok(())));
        assert_eq!(std::mem::take(&mut gone), ["1", "2", "3"]);
        let mut log = filled(&mut gone);
        log.reset(Applied { index: 20, term: 1 }, &mut |slot| gone.push(slot));
        assert_eq!((shown(&log), log.check()), (vec![], Ok(())));
        assert_eq!(gone, ["9", "1", "2", "3"]);
    }
}
