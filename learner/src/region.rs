//! What a learner keeps of one region besides its rows. The seen part is what readers check, under
//! a lock held briefly; the hidden part belongs to the apply thread.

use crate::compact::LockChange;
use damask_raftstore::{Applied, RegionState};
use damask_types::{KeyLock, KeyRange, Lock, TableId, Timestamp};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Locks given back to one reader, at most: it resolves these, and asks again.
const LOCKS_MAX: usize = 1024;

/// A region of this store.
pub(crate) struct Slot {
    pub seen: Mutex<Seen>,
    pub hidden: Mutex<Hidden>,
}

/// What readers check.
#[derive(Debug)]
pub(crate) struct Seen {
    pub state: RegionState,
    /// Locks that block some read.
    pub locks: BTreeMap<Vec<u8>, Box<Lock>>,
    /// Raised whenever a reader's snapshot taken meanwhile would be wrong: a split, an import.
    pub generation: u64,
    /// False while an import replaces the rows.
    pub ready: bool,
}

/// What only apply touches.
#[derive(Debug, Default)]
pub(crate) struct Hidden {
    /// Long values whose transactions are undecided.
    pub values: HashMap<(Vec<u8>, Timestamp), Vec<u8>>,
    /// Tables with rows here; what a clear must go through.
    pub tables: BTreeSet<TableId>,
    pub last_table: Option<TableId>,
    /// Changed since the last mark.
    pub dirty: bool,
}

impl Hidden {
    /// Notes that the region has rows of this table.
    pub(crate) fn note_table(&mut self, table: TableId) {
        if self.last_table != Some(table) {
            self.tables.insert(table);
            self.last_table = Some(table);
        }
    }
}

impl Slot {
    pub(crate) fn new(state: RegionState) -> Slot {
        Slot {
            seen: Mutex::new(Seen { state, locks: BTreeMap::new(), generation: 0, ready: true }),
            hidden: Mutex::new(Hidden { dirty: true, ..Hidden::default() }),
        }
    }
}

impl Seen {
    /// Makes changes of locks visible; with `applied`, in the same instant.
    pub(crate) fn publish(&mut self, locks: Vec<LockChange>, applied: Option<Applied>) {
        for change in locks {
            match change {
                LockChange::Set(key, lock) => {
                    self.locks.insert(key, lock);
                }
                LockChange::Remove(key) => {
                    self.locks.remove(&key);
                }
            }
        }
        if let Some(applied) = applied {
            self.state.applied = applied;
        }
    }

    /// Locks in these ranges that a read at `ts` must wait for.
    pub(crate) fn blocking(&self, ranges: &[KeyRange], ts: Timestamp) -> Vec<KeyLock> {
        use std::ops::Bound;
        let bounds = |range: &KeyRange| {
            let end = match range.end.is_empty() {
                true => Bound::Unbounded,
                false => Bound::Excluded(range.end.clone()),
            };
            (Bound::Included(range.start.clone()), end)
        };
        ranges
            .iter()
            .filter(|range| !range.is_empty())
            .flat_map(|range| self.locks.range::<Vec<u8>, _>(bounds(range)))
            .filter(|(_, lock)| lock.blocks_read(ts))
            .take(LOCKS_MAX)
            .map(|(key, lock)| KeyLock { key: key.clone(), lock: Lock::clone(lock) })
            .collect()
    }
}
