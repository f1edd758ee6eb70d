//! One group's log as an index in memory: positions, terms and a slot per entry. It does no I/O;
//! where an entry's bytes are is the slot's business.

use crate::error::{Error, Result};
use crate::log_store::{GroupLog, HardState};
use crate::machine::Applied;
use std::collections::VecDeque;

/// One group. `slots[0]` is entry `base`, which is `truncated.index + 1` unless, in the middle of
/// a replay, the entries between are in files that are gone (and compacted later on, or written
/// again later on).
#[derive(Debug)]
pub(crate) struct LogIndex<S> {
    pub hard: HardState,
    pub truncated: Applied,
    pub restoring: Option<Applied>,
    base: u64,
    slots: VecDeque<(u64, S)>,
}

impl<S> Default for LogIndex<S> {
    fn default() -> LogIndex<S> {
        LogIndex {
            hard: HardState::default(),
            truncated: Applied::default(),
            restoring: None,
            base: 1,
            slots: VecDeque::new(),
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
    pub fn push(&mut self, index: u64, term: u64, slot: S) -> Result<()> {
        if index <= self.truncated.index || index > self.last().index + 1 {
            return Err(Error::Invalid(format!(
                "entry {index} does not follow a log of {}..={}",
                self.truncated.index + 1,
                self.last().index
            )));
        }
        self.replay(index, term, slot);
        Ok(())
    }

    /// As `push`, from a file: a hole is allowed for the moment.
    pub fn replay(&mut self, index: u64, term: u64, slot: S) {
        let next = self.base + self.slots.len() as u64;
        if index < self.base || index > next || self.slots.is_empty() {
            self.slots.clear();
            self.base = index;
        } else {
            self.slots.truncate((index - self.base) as usize);
        }
        self.slots.push_back((term, slot));
    }

    /// Puts back entries (given from the last to the first) that another file holds now.
    pub fn replace(&mut self, index: u64, term: u64, slot: S) {
        if index <= self.truncated.index {
            return;
        }
        if self.slots.is_empty() {
            self.base = index;
            self.slots.push_back((term, slot));
        } else if index + 1 == self.base {
            self.base = index;
            self.slots.push_front((term, slot));
        } else if let Some(there) = self.slot_mut(index)
            && there.0 == term
        {
            there.1 = slot;
        }
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut (u64, S)> {
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(at)
    }

    pub fn compact(&mut self, to: Applied) {
        if to.index <= self.truncated.index {
            return;
        }
        while self.base <= to.index && self.slots.pop_front().is_some() {
            self.base += 1;
        }
        if self.slots.is_empty() {
            self.base = to.index + 1;
        }
        self.truncated = to;
    }

    pub fn reset(&mut self, to: Applied) {
        self.slots.clear();
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
