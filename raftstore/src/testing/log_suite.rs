//! What every `LogStore` must do: one call for each backend. The model is [`MemoryLogStore`]; after
//! every crash, torn write, failed sync or flipped bit a store must show a state that the model was
//! in, or name the damage. It must never depend on timing or on a backend's limits.
//!
//! ```text
//!   log_store_suite(&|| Box::new(OnMemoryDisk::new(|disk| MyStore::open(disk))))
//!                          └ a LogBackend: opens, cuts the power, breaks the disk, flips bits
//! ```

mod backend;
mod faults;
mod visible;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod watched;

pub use backend::{InFolder, InMemory, LogBackend, OnMemoryDisk};
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use watched::OnWatchedFolder;

use crate::log_store::{GroupLog, HardState, LogBatch, LogEntry, LogOp, LogStore, MemoryLogStore};
use crate::machine::Applied;
use damask_types::RegionId;
use std::collections::BTreeMap;

/// Runs every case, each on new storage.
///
/// # Panics
/// With the first promise that is broken.
pub fn log_store_suite(make: &dyn Fn() -> Box<dyn LogBackend>) {
    visible::run(make);
    faults::run(make);
}

const A: RegionId = RegionId(1);
const B: RegionId = RegionId(2);

fn entry(index: u64, term: u64) -> LogEntry {
    let data = format!("{index}@{term}").repeat(3).into_bytes();
    LogEntry { index, term, data, ..LogEntry::default() }
}

fn append(store: &dyn LogStore, group: RegionId, range: std::ops::RangeInclusive<u64>, term: u64) {
    let entries = range.map(|i| entry(i, term)).collect();
    store.append(vec![(group, LogOp::Append(entries))]).expect("the store takes entries");
}

fn one(store: &dyn LogStore, group: RegionId, op: LogOp) {
    store.append(vec![(group, op)]).expect("the store takes an operation");
}

fn group(store: &dyn LogStore, id: RegionId) -> GroupLog {
    store.group(id).expect("the group is there")
}

/// Index and term of every entry of a group; reads all of it in several ways.
fn terms(store: &dyn LogStore, group: RegionId) -> Vec<(u64, u64)> {
    let found = try_terms(store, group).expect("the store answers");
    for (index, term) in &found {
        assert_eq!(store.term(group, *index).expect("the store answers"), Some(*term));
    }
    found
}

fn try_terms(store: &dyn LogStore, group: RegionId) -> crate::Result<Vec<(u64, u64)>> {
    let Some(log) = store.group(group) else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let (low, high) = (log.truncated.index + 1, log.last.index + 1);
    store.entries(group, low, high, u64::MAX, &mut out)?;
    for e in &out {
        assert_eq!(*e, entry(e.index, e.term), "another entry than was appended");
    }
    let found: Vec<_> = out.iter().map(|e| (e.index, e.term)).collect();
    assert!(found.iter().map(|(index, _)| *index).eq(low..high), "{low}..{high}: {found:?}");
    Ok(found)
}

/// Everything that a store shows.
type Shown = BTreeMap<RegionId, (GroupLog, Vec<(u64, u64)>)>;

fn shown(store: &dyn LogStore) -> crate::Result<Shown> {
    let mut all = Shown::new();
    for (id, log) in store.recover()? {
        assert_eq!(store.group(id), Some(log), "two answers about group {id}");
        all.insert(id, (log, try_terms(store, id)?));
    }
    Ok(all)
}

/// A generator of numbers that needs no crate.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Batches as a store makes them, by seed, with the model's state after each.
struct Workload {
    model: MemoryLogStore,
    chance: Chance,
    term: u64,
}

impl Workload {
    fn new(seed: u64) -> Workload {
        Workload { model: MemoryLogStore::new(), chance: Chance::new(seed), term: 1 }
    }

    /// The next batch, which the model has taken.
    fn batch(&mut self) -> LogBatch {
        let mut all = LogBatch::new();
        for _ in 0..=self.chance.below(3) {
            let id = RegionId(1 + self.chance.below(4));
            let op = self.op(id);
            self.model.append(vec![(id, op.clone())]).expect("the model takes what is made for it");
            all.push((id, op));
        }
        all
    }

    fn op(&mut self, id: RegionId) -> LogOp {
        let log = self.model.group(id).unwrap_or_default();
        let (first, last) = (log.truncated.index, log.last.index);
        let chance = &mut self.chance;
        match chance.below(16) {
            0..=8 => {
                self.term += chance.below(4) / 3;
                // What is committed stays.
                let low = log.hard.commit.max(first) + 1;
                let from = if chance.below(4) == 0 { low } else { last + 1 };
                let to = from + chance.below(6);
                LogOp::Append((from..=to).map(|index| entry(index, self.term)).collect())
            }
            9..=11 => {
                let committed = log.hard.commit;
                let commit = committed + chance.below(last.saturating_sub(committed) + 1);
                LogOp::HardState(HardState { term: self.term, vote: chance.below(3), commit })
            }
            12 | 13 if log.hard.commit > first => {
                let index = first + 1 + chance.below(log.hard.commit - first);
                let term = self.model.term(id, index).expect("answers").expect("it is there");
                LogOp::CompactTo(Applied { index, term })
            }
            14 => match chance.below(3) {
                0 => LogOp::Destroy,
                1 => LogOp::Restoring(Applied { index: last + 3, term: self.term }),
                _ => LogOp::Reset(Applied { index: last + 3, term: self.term }),
            },
            _ => LogOp::HardState(HardState { term: self.term, ..log.hard }),
        }
    }

    fn shown(&self) -> Shown {
        shown(&self.model).expect("the model answers")
    }
}
