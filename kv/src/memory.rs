//! An engine in memory: the model in tests, the floor in benches, and the store of `--memory`
//! clusters. It must never let a reader block a writer for longer than one block of pairs.
//!
//! ```text
//! family: key ─► slot { newest (seq, value or removed), older [(seq, ..)] }
//! snapshot = a sequence number; reads see the newest version at or below it
//! ```
//!
//! A write keeps the version that it replaces only if a snapshot can see it. Such keys wait in a
//! queue ordered by sequence; every write purges a few.

mod crash;
mod cursor;

use crate::engine::{
    Capabilities, Cf, Cursor, Engine, Estimate, Ingestion, Op, Snapshot, WriteBatch, is_empty_range,
};
use crate::error::{Error, Result};
use crate::ingest::BatchIngestion;
use bytes::Bytes;
use crash::Journal;
use cursor::MemoryCursor;
use damask_types::ErrorKind;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// Waiting keys looked at per written key: more than one, so that the queue drains.
const PURGE_PER_WRITE: usize = 2;
/// Waiting keys looked at by every batch, however small.
const PURGE_MIN: usize = 16;
/// Keys added up per turn of the lock by `estimate`.
const ESTIMATE_BLOCK: usize = 4096;

type Version = (u64, Option<Bytes>);

/// All versions of a key that someone may still read.
#[derive(Debug)]
struct Slot {
    newest: Version,
    /// Oldest first; mostly empty, and then without memory of its own.
    older: Vec<Version>,
}

impl Slot {
    fn at(&self, seq: u64) -> Option<&Bytes> {
        if self.newest.0 <= seq {
            return self.newest.1.as_ref();
        }
        let older = self.older.iter().rev().find(|(version, _)| *version <= seq);
        older.and_then(|(_, value)| value.as_ref())
    }

    /// Forgets versions that no snapshot at or above `oldest` reads.
    fn purge(&mut self, oldest: u64) {
        if self.newest.0 <= oldest {
            self.older = Vec::new();
        } else if let Some(keep) = self.older.iter().rposition(|(seq, _)| *seq <= oldest) {
            self.older.drain(..keep);
        }
    }

    /// Does every reader find nothing?
    fn is_removed(&self) -> bool {
        self.newest.1.is_none() && self.older.is_empty()
    }
}

/// The sequence numbers that snapshots hold, when there are any.
#[derive(Clone, Copy)]
struct Held {
    oldest: u64,
    newest: u64,
}

type Family = BTreeMap<Bytes, Slot>;

#[derive(Default)]
struct State {
    families: [Family; 4],
    seq: u64,
    /// Keys with something to forget once every snapshot is at or above the number.
    waiting: VecDeque<(u64, Cf, Bytes)>,
    journal: Option<Journal>,
}

impl State {
    fn set(&mut self, cf: Cf, key: Bytes, value: Option<Bytes>, held: Option<Held>) {
        let version = (self.seq, value);
        let family = &mut self.families[cf as usize];
        let Some(slot) = family.get_mut(&key) else {
            if version.1.is_some() {
                family.insert(key, Slot { newest: version, older: Vec::new() });
            }
            return;
        };
        let replaced = std::mem::replace(&mut slot.newest, version);
        let seen = held.is_some_and(|held| held.newest >= replaced.0);
        if seen {
            slot.older.push(replaced);
        }
        slot.purge(held.map_or(self.seq, |held| held.oldest));
        if slot.is_removed() {
            family.remove(&key);
        } else if seen {
            self.waiting.push_back((self.seq, cf, key));
        }
    }

    fn remove_range(&mut self, cf: Cf, start: &[u8], end: &[u8], held: Option<Held>) {
        if is_empty_range(start, end) {
            return;
        }
        let family = &self.families[cf as usize];
        let live = family.range::<[u8], _>(bounds(start, end));
        let keys: Vec<Bytes> =
            live.filter(|(_, slot)| slot.newest.1.is_some()).map(|(k, _)| k.clone()).collect();
        keys.into_iter().for_each(|key| self.set(cf, key, None, held));
    }

    fn purge(&mut self, oldest: u64, mut turns: usize) {
        while turns > 0 && self.waiting.front().is_some_and(|(seq, ..)| *seq <= oldest) {
            turns -= 1;
            let Some((_, cf, key)) = self.waiting.pop_front() else { return };
            let family = &mut self.families[cf as usize];
            let Some(slot) = family.get_mut(&key) else { continue };
            slot.purge(oldest);
            if slot.is_removed() {
                family.remove(&key);
            }
        }
    }

    fn apply(&mut self, batch: WriteBatch, held: Option<Held>) {
        // Without spare capacity: most keys stay for long.
        let exact = |bytes: Vec<u8>| Bytes::from(bytes.into_boxed_slice());
        for op in batch.ops {
            match op {
                Op::Put(cf, key, value) => self.set(cf, exact(key), Some(exact(value)), held),
                Op::Delete(cf, key) => self.set(cf, key.into(), None, held),
                Op::DeleteRange(cf, start, end) => self.remove_range(cf, &start, &end, held),
            }
        }
    }
}

#[derive(Default)]
struct Shared {
    state: RwLock<State>,
    /// Sequence numbers that snapshots hold, with how many hold each. Locked after `state`.
    held: Mutex<BTreeMap<u64, usize>>,
}

/// The engine. Clones are the same engine.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    shared: Arc<Shared>,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// An empty engine that remembers what `sync` made durable, for [`MemoryEngine::crash`]. It
    /// keeps everything twice.
    pub fn with_crashes() -> MemoryEngine {
        let engine = MemoryEngine::default();
        engine.shared.state.write().journal = Some(Journal::default());
        engine
    }

    /// The engine that a crash would leave: what was synced, and the first `keep` batches of those
    /// written since. This engine is unchanged.
    pub fn crash(&self, keep: usize) -> Result<MemoryEngine> {
        let state = self.shared.state.read();
        let Some(journal) = &state.journal else {
            let detail = "made without `with_crashes`";
            return Err(Error::new("crash", ErrorKind::Invalid, detail));
        };
        let left = MemoryEngine::with_crashes();
        for batch in journal.after_crash(keep) {
            left.write(batch)?;
        }
        left.sync()?;
        Ok(left)
    }

    /// Batches written since the last sync; 0 without [`MemoryEngine::with_crashes`].
    pub fn unsynced(&self) -> usize {
        self.shared.state.read().journal.as_ref().map_or(0, Journal::unsynced)
    }
}

impl Engine for MemoryEngine {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        // The state stays locked until the number is registered, or a write could forget a
        // version in between.
        let state = self.shared.state.read();
        *self.shared.held.lock().entry(state.seq).or_insert(0) += 1;
        Arc::new(MemorySnapshot { shared: self.shared.clone(), seq: state.seq })
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        batch.validate()?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.shared.state.write();
        state.seq += 1;
        let held = {
            let held = self.shared.held.lock();
            held.first_key_value()
                .zip(held.last_key_value())
                .map(|((oldest, _), (newest, _))| Held { oldest: *oldest, newest: *newest })
        };
        let turns = batch.ops.len() * PURGE_PER_WRITE + PURGE_MIN;
        if let Some(journal) = &mut state.journal {
            journal.wrote(&batch);
        }
        state.apply(batch, held);
        let oldest = held.map_or(state.seq, |held| held.oldest);
        state.purge(oldest, turns);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if let Some(journal) = &mut self.shared.state.write().journal {
            journal.synced();
        }
        Ok(())
    }

    /// Exact; walks the range.
    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        let mut sum = Estimate::default();
        if is_empty_range(start, end) {
            return Ok(sum);
        }
        let mut from = Bound::Included(Bytes::copy_from_slice(start));
        loop {
            let state = self.shared.state.read();
            let low = as_slice(&from);
            let high = bounds(start, end).1;
            let mut last = None;
            let block = state.families[cf as usize].range::<[u8], _>((low, high));
            for (key, slot) in block.take(ESTIMATE_BLOCK) {
                if let Some(value) = &slot.newest.1 {
                    sum.keys += 1;
                    sum.bytes += (key.len() + value.len()) as u64;
                }
                last = Some(key.clone());
            }
            match last {
                Some(key) => from = Bound::Excluded(key),
                None => return Ok(sum),
            }
        }
    }

    fn checkpoint(&self, _: &Path) -> Result<()> {
        let detail = "the memory engine keeps no files";
        Err(Error::new("checkpoint", ErrorKind::Invalid, detail))
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>> {
        Ok(Box::new(BatchIngestion::new(self, cf)))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { persistent: false, checkpoint: false, ingest: false }
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let state = self.shared.state.read();
        let keys = Cf::ALL
            .map(|cf| (format!("{}.keys", cf.name()), state.families[cf as usize].len() as u64));
        let mut all = Vec::from(keys);
        all.push(("waiting".into(), state.waiting.len() as u64));
        all.push(("snapshots".into(), self.shared.held.lock().values().sum::<usize>() as u64));
        all
    }
}

struct MemorySnapshot {
    shared: Arc<Shared>,
    seq: u64,
}

impl Snapshot for MemorySnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let state = self.shared.state.read();
        Ok(state.families[cf as usize].get(key).and_then(|slot| slot.at(self.seq)).cloned())
    }

    fn cursor<'a>(&'a self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Box<dyn Cursor + 'a>> {
        Ok(Box::new(MemoryCursor::new(self, cf, start, end)))
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock();
        if let Some(count) = held.get_mut(&self.seq) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.seq);
            }
        }
    }
}

/// Bounds of a range that is not empty.
fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let high = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
    (Bound::Included(start), high)
}

fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests;
