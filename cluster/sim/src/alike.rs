//! What replicas hold: of everything that each writes to its engine as it applies a region's log, a
//! hash that goes on from entry to entry, the same on all of them wherever two have stood at one
//! index. It must never depend on how entries are put together for one write, nor on what replicas
//! need not agree on: what is collected as garbage, and when.
//!
//! ```text
//!   row machine's write:  Put.. Put "s"1 "a"1 Put "s"7 "a"7 "a"1 | Put Delete "a"2 | ..
//!                         '--- region 1, to the index in its last "a" --'  '- region 2 -'
//!
//!   hash(1, index) = fold(hash before, every change of the part but "a")
//!   a split        its child begins with the parent's hash there, and the child's id
//!   a merge        the hash of the region that is taken in is folded into the other one's
//!   a snapshot, a restart: goes on with the hash that somebody had at that index
//! ```
//! A store of columns is judged by what rows would write of the same entries ([`Told`]).

use crate::chance::{fold_words, mix};
use crate::logs::Seen;
use crate::passed_on::passed_on;
use damask_kv::{Cf, Engine, MemoryEngine, Op, Snapshot, WriteBatch};
use damask_raftstore::{ApplyBatch, LOG_START, RegionState, Result, RowMachine, StateMachine};
use damask_types::codec::take_var_u64;
use damask_types::{RegionId, StoreId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where a replica stands.
#[derive(Clone, Copy, Debug)]
struct Held {
    hash: u64,
    /// The last index at which somebody else had stood before, or nobody needed to.
    alike: u64,
}

/// What all replicas have held.
#[derive(Default)]
pub struct Alike {
    /// At each index at which anybody stood: the hash, and who was first.
    at: HashMap<(RegionId, u64), (u64, StoreId)>,
    stores: BTreeMap<StoreId, BTreeMap<RegionId, Held>>,
}

impl Alike {
    /// A store starts with these regions; what contradicts.
    pub fn recovered(&mut self, store: StoreId, states: &[RegionState]) -> Option<String> {
        self.stores.insert(store, BTreeMap::new());
        let mut there = states.iter().filter(|state| !state.tombstone);
        there.find_map(|state| self.resumes(store, state))
    }

    /// A region's content is there as a whole, or gone; what contradicts.
    pub fn replaced(&mut self, store: StoreId, states: &[RegionState]) -> Option<String> {
        let mut broken = None;
        for state in states {
            self.stores.entry(store).or_default().remove(&state.region.id);
            if !state.tombstone {
                broken = broken.or_else(|| self.resumes(store, state));
            }
        }
        broken
    }

    /// Goes on from where a region is applied.
    fn resumes(&mut self, store: StoreId, state: &RegionState) -> Option<String> {
        let (id, index) = (state.region.id, state.applied.index);
        if index == LOG_START.index {
            // The first region: parts of others have been there since they were split off.
            self.at.entry((id, index)).or_insert((0, store));
        }
        let Some((hash, _)) = self.at.get(&(id, index)).copied() else {
            return Some(format!(
                "region {id}: store {store} goes on at index {index}, where nobody ever was"
            ));
        };
        let held = Held { hash, alike: index };
        self.stores.entry(store).or_default().insert(id, held);
        None
    }

    /// A store writes this to its engine; where it becomes unlike others that were there.
    pub fn wrote(&mut self, store: StoreId, batch: &WriteBatch) -> Option<String> {
        let mut broken = None;
        let mut begin = 0;
        for (at, op) in batch.ops.iter().enumerate() {
            let Some((b'a', id, mut value)) = meta(op) else { continue };
            let before = at.checked_sub(1).and_then(|before| meta(&batch.ops[before]));
            if before.is_some_and(|(tag, other, _)| tag == b's' && other == id) {
                continue; // a description's own
            }
            let Ok(index) = take_var_u64(&mut value) else { continue };
            let found = self.moves(store, id, index, &batch.ops[begin..at]);
            broken = broken.or(found);
            begin = at + 1;
        }
        broken
    }

    /// A replica moves to this index by these changes.
    fn moves(&mut self, store: StoreId, id: RegionId, index: u64, ops: &[Op]) -> Option<String> {
        let here = self.stores.entry(store).or_default();
        let Some(mut held) = here.get(&id).copied() else {
            if index == LOG_START.index {
                // The first region is written as a new store begins, before it starts.
                let hash = self.at.entry((id, index)).or_insert((0, store)).0;
                here.insert(id, Held { hash, alike: index });
                return None;
            }
            return Some(format!("region {id}: store {store} applies {index} without having it"));
        };
        for op in ops {
            let (tag, other, value) = meta(op).unwrap_or((0, id, &[]));
            if tag == b'a' {
                continue;
            }
            held.hash = fold(held.hash, op);
            if tag == b's' && other != id {
                let is_gone = value.get(1).is_some_and(|tombstone| *tombstone != 0);
                if is_gone {
                    let theirs = here.remove(&other).map_or(0, |held| held.hash);
                    held.hash = mix(held.hash ^ theirs.rotate_left(1));
                } else {
                    let hash = mix(held.hash ^ other.0);
                    let first = LOG_START.index;
                    self.at.entry((other, first)).or_insert((hash, store));
                    here.insert(other, Held { hash, alike: first });
                }
            }
        }
        let (hash, first) = *self.at.entry((id, index)).or_insert((held.hash, store));
        let alike = held.alike;
        if hash == held.hash {
            held.alike = if first == store { alike } else { index };
        }
        here.insert(id, held);
        let differs = || {
            format!(
                "region {id} is not alike on stores {first} and {store} at index {index}: \
                 {hash:016x} and {:016x}; it was at {alike}",
                held.hash
            )
        };
        (hash != held.hash).then(differs)
    }
}

/// What the row machine notes of a region: the tag, the region, the note.
fn meta(op: &Op) -> Option<(u8, RegionId, &[u8])> {
    let Op::Put(Cf::Meta, key, value) = op else { return None };
    let (tag, id) = key.split_first()?;
    Some((*tag, RegionId(u64::from_be_bytes(id.try_into().ok()?)), value))
}

fn fold(hash: u64, op: &Op) -> u64 {
    let (kind, cf, one, other) = match op {
        Op::Put(cf, key, value) => (1, cf, key, &value[..]),
        Op::Delete(cf, key) => (2, cf, key, &[][..]),
        Op::DeleteRange(cf, start, end) => (3, cf, start, &end[..]),
    };
    let hash = hash ^ (kind << 8 | *cf as u64);
    fold_words(fold_words(hash, one), other)
}

/// What a store of columns is told, as rows would write it: judged, and kept nowhere.
pub struct Told(RowMachine);

impl Told {
    /// Judged where everything else of the store is.
    pub fn new(seen: Seen) -> Told {
        Told(RowMachine::new(Arc::new(Judge { seen, nothing: MemoryEngine::new() })))
    }

    /// It is told this.
    pub fn apply(&self, batches: &[ApplyBatch]) -> Result<()> {
        self.0.apply(batches.to_vec())
    }
}

/// An engine that keeps nothing.
struct Judge {
    seen: Seen,
    nothing: MemoryEngine,
}

impl Engine for Judge {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.nothing.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> damask_kv::Result<()> {
        self.seen.wrote(&batch);
        Ok(())
    }

    fn sync(&self) -> damask_kv::Result<()> {
        Ok(())
    }

    passed_on!(nothing);
}

#[cfg(test)]
mod tests;
