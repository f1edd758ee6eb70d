//! The column state machine: applies a log to a column store. It must never let a reader see a
//! region between the drop of a lock and the row that the lock hid.
//!
//! Locks, outer to inner: `syncing`, `gate`, then `regions` and a slot's `hidden` (these only under
//! the gate, except that readers share `regions` for a look-up), then one slot's `seen`. Readers
//! hold `seen` while they check, no longer.

use crate::compact::{LockChange, compact};
use crate::error::{Error, Result};
use crate::import::import;
use crate::mark;
use crate::ranges::{handles_in, subtract, table_of};
use crate::region::{Hidden, Slot};
use crate::rows::{Counters, RowSink, SchemaSource, Schemas};
use damask_deltatree::{ColumnStore, Mark};
use damask_env::{Mistake, mistaken};
use damask_raftstore::{
    Applied, ApplyBatch, Effect, RangeSize, RegionState, SnapshotChunks, StateMachine,
};
use damask_types::key::decode_row_key;
use damask_types::{KeyRange, Record, RegionId, TableId, Timestamp};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// Applies logs to a column store.
pub struct ColumnMachine {
    store: Arc<dyn ColumnStore>,
    schemas: Schemas,
    counters: Counters,
    regions: RwLock<BTreeMap<RegionId, Arc<Slot>>>,
    /// Held while state changes, so that a mark speaks of a state between two calls.
    gate: Mutex<()>,
    /// Held over the store's sync: no half import may become durable with another's mark.
    syncing: Mutex<HashMap<RegionId, u64>>,
    failed: OnceLock<String>,
}

/// What the machine has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineStats {
    /// Row versions stored.
    pub rows: u64,
    /// Change batches stored.
    pub batches: u64,
    /// Row versions of dropped tables.
    pub skipped: u64,
    /// The newest commit that is stored; how fresh the columns are.
    pub last_commit_ts: Timestamp,
    /// Regions, tombstones too.
    pub regions: u64,
    /// Locks that some read would wait for.
    pub locks: u64,
}

/// Changes that wait until rows are stored.
struct Waiting {
    slot: Arc<Slot>,
    locks: Vec<LockChange>,
    applied: Option<Applied>,
}

impl ColumnMachine {
    /// Opens with the marks of the store's last sync.
    pub fn open(store: Arc<dyn ColumnStore>, source: Arc<dyn SchemaSource>) -> Result<Self> {
        let mut regions = BTreeMap::new();
        let mut synced = HashMap::new();
        for (key, bytes) in store.marks()? {
            let mark = mark::decode(&bytes)?;
            let id = mark.state.region.id;
            if id.0 != key {
                let detail = format!("region {id} under the key of {key}");
                return Err(Error::Corrupt { what: "a region's mark", detail });
            }
            if !mark.state.tombstone {
                synced.insert(id, mark.state.applied.index);
            }
            let slot = Slot::new(mark.state);
            if !mistaken(Mistake::LocksForgotten) {
                slot.seen.lock().locks = mark.locks;
            }
            *slot.hidden.lock() =
                Hidden { values: mark.values, tables: mark.tables, ..Hidden::default() };
            regions.insert(id, Arc::new(slot));
        }
        Ok(ColumnMachine {
            store,
            schemas: Schemas::new(source),
            counters: Counters::default(),
            regions: RwLock::new(regions),
            gate: Mutex::new(()),
            syncing: Mutex::new(synced),
            failed: OnceLock::new(),
        })
    }

    /// The column store that it writes.
    pub fn columns(&self) -> &Arc<dyn ColumnStore> {
        &self.store
    }

    /// Looks at the schema of every table seen so far, so that rows after a change need not wait for
    /// it: those that do not fit ask by themselves. How many have changed.
    pub fn refresh_schemas(&self) -> usize {
        self.schemas.refresh()
    }

    /// Counts since it was opened.
    pub fn stats(&self) -> MachineStats {
        let regions = self.regions.read();
        let locks = regions.values().map(|slot| slot.seen.lock().locks.len() as u64).sum();
        MachineStats {
            rows: self.counters.rows.load(Ordering::Relaxed),
            batches: self.counters.batches.load(Ordering::Relaxed),
            skipped: self.counters.skipped.load(Ordering::Relaxed),
            last_commit_ts: Timestamp(self.counters.last_commit_ts.load(Ordering::Relaxed)),
            regions: regions.len() as u64,
            locks,
        }
    }

    pub(crate) fn slot(&self, id: RegionId) -> Option<Arc<Slot>> {
        self.regions.read().get(&id).cloned()
    }

    fn sink(&self) -> RowSink<'_> {
        RowSink::new(&*self.store, &self.schemas, &self.counters)
    }

    /// Runs `body` unless an earlier one failed; a failure is remembered, since what it left
    /// behind in memory must not be made durable.
    fn guarded<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(why) = self.failed.get() {
            return Err(Error::Failed(why.clone()));
        }
        body().inspect_err(|e| {
            if !matches!(e, Error::Invalid(_)) {
                let _ = self.failed.set(e.to_string());
            }
        })
    }

    fn run(&self, batches: Vec<ApplyBatch>) -> Result<()> {
        let mut sink = self.sink();
        sink.expect(batches.iter().flat_map(|batch| &batch.effects).map(rows_of).sum());
        let mut waiting = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut locks = Vec::new();
            for effect in batch.effects {
                match effect {
                    Effect::Write(records) => {
                        let slot = self.known(batch.region)?;
                        compact(&mut slot.hidden.lock(), records, &mut sink, &mut locks)?;
                    }
                    Effect::Regions(states) => {
                        // What came before is seen under the old descriptions.
                        if let Some(slot) = self.slot(batch.region) {
                            let locks = std::mem::take(&mut locks);
                            waiting.push(Waiting { slot, locks, applied: None });
                        }
                        publish(&mut sink, &mut waiting)?;
                        self.change_regions(states);
                    }
                }
            }
            let slot = self.known(batch.region)?;
            waiting.push(Waiting { slot, locks, applied: Some(batch.applied) });
        }
        publish(&mut sink, &mut waiting)
    }

    fn known(&self, id: RegionId) -> Result<Arc<Slot>> {
        self.slot(id).ok_or_else(|| Error::Store {
            kind: damask_types::ErrorKind::Corrupt,
            detail: format!("effects for region {id}, which is not known here"),
        })
    }

    /// Takes new descriptions. Locks and values follow their keys into new regions, and into those
    /// that take in another one.
    fn change_regions(&self, states: Vec<RegionState>) {
        let mut regions = self.regions.write();
        let mut moving = Moving::default();
        let mut there = Vec::new();
        let mut created = Vec::new();
        for state in states {
            match regions.get(&state.region.id) {
                Some(slot) => {
                    moving.change(slot, state);
                    there.push(slot.clone());
                }
                None => created.push(state),
            }
        }
        for state in created {
            let id = state.region.id;
            let slot = Arc::new(Slot::new(state));
            moving.settle(&slot);
            regions.insert(id, slot);
        }
        there.iter().for_each(|slot| moving.settle(slot));
    }

    /// The parts of a range where no replica of a region lives but those of `going`.
    fn free_parts(&self, going: &[RegionId], range: &KeyRange) -> Vec<KeyRange> {
        let regions = self.regions.read();
        let others = regions.iter().filter(|(other, _)| !going.contains(other));
        let others = others.filter_map(|(_, slot)| {
            let seen = slot.seen.lock();
            (!seen.state.tombstone).then(|| seen.state.region.range.clone())
        });
        subtract(range, &others.collect::<Vec<_>>())
    }

    /// Removes the rows in a region's range, except where a replica of a region lives that is not
    /// one of `going`.
    fn clear(
        &self,
        going: &[RegionId],
        range: &KeyRange,
        tables: &BTreeSet<TableId>,
    ) -> Result<()> {
        let mut tables = tables.clone();
        tables.extend(table_of(range));
        for part in self.free_parts(going, range) {
            for table in &tables {
                if let Some(handles) = handles_in(*table, &part) {
                    self.store.clear(*table, handles)?;
                }
            }
        }
        Ok(())
    }

    /// Replaces what a region holds, and what those hold that it has taken in. Readers are refused
    /// meanwhile.
    fn replace(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: &SnapshotChunks,
    ) -> Result<()> {
        let id = state.region.id;
        let slot = {
            let mut regions = self.regions.write();
            let new = || Arc::new(Slot::new(state.clone()));
            regions.entry(id).or_insert_with(new).clone()
        };
        let mut marks = Vec::with_capacity(1 + replaced.len());
        let mut tables = BTreeSet::new();
        for gone in replaced {
            let Some(slot) = self.slot(gone.region.id) else { continue };
            let mut hidden = slot.hidden.lock();
            let mut seen = slot.seen.lock();
            seen.generation += 1;
            seen.locks.clear();
            seen.state = gone.clone();
            tables.append(&mut hidden.tables);
            *hidden = Hidden::default();
            marks.push((gone.region.id.0, mark::encode(&seen, &hidden)));
        }
        let mut hidden = slot.hidden.lock();
        {
            let mut seen = slot.seen.lock();
            seen.ready = false;
            seen.generation += 1;
        }
        tables.append(&mut hidden.tables);
        let going: Vec<RegionId> = replaced.iter().map(|gone| gone.region.id).chain([id]).collect();
        for range in replaced.iter().chain([state]).map(|s| &s.region.range) {
            self.clear(&going, range, &tables)?;
        }
        *hidden = Hidden::default();
        let mut sink = self.sink().sorted();
        let locks = import(chunks, &mut hidden, &mut sink)?;
        let range = &state.region.range;
        let is_alone = self.free_parts(&going, range) == [range.clone()];
        sink.ingest(|table| handles_in(table, range).filter(|_| is_alone))?;
        let mut seen = slot.seen.lock();
        seen.state = state.clone();
        seen.locks.clear();
        seen.publish(locks, None);
        marks.push((id.0, mark::encode(&seen, &hidden)));
        drop(seen);
        self.store.sync(&marks)?;
        slot.seen.lock().ready = true;
        Ok(())
    }

    fn remove(&self, state: &RegionState) -> Result<()> {
        let id = state.region.id;
        let mut state = state.clone();
        state.tombstone = true;
        let (slot, tables) = {
            let mut regions = self.regions.write();
            let new = || Arc::new(Slot::new(state.clone()));
            let slot = regions.entry(id).or_insert_with(new).clone();
            let tables = std::mem::take(&mut slot.hidden.lock().tables);
            (slot, tables)
        };
        let mut hidden = slot.hidden.lock();
        let range = {
            let mut seen = slot.seen.lock();
            seen.generation += 1;
            seen.locks.clear();
            std::mem::replace(&mut seen.state, state).region.range
        };
        self.clear(&[id], &range, &tables)?;
        *hidden = Hidden::default();
        let bytes = mark::encode(&slot.seen.lock(), &hidden);
        Ok(self.store.sync(&[(id.0, bytes)])?)
    }

    /// Marks of the regions that changed since the last call, and how far they are applied; `None`:
    /// they are gone.
    fn take_marks(&self) -> (Vec<Mark>, Vec<(RegionId, Option<u64>)>) {
        let regions = self.regions.read();
        let mut marks = Vec::new();
        let mut applied = Vec::new();
        for (id, slot) in regions.iter() {
            let mut hidden = slot.hidden.lock();
            if std::mem::take(&mut hidden.dirty) {
                let seen = slot.seen.lock();
                marks.push((id.0, mark::encode(&seen, &hidden)));
                let index = seen.state.applied.index;
                applied.push((*id, (!seen.state.tombstone).then_some(index)));
            }
        }
        (marks, applied)
    }
}

/// Rows that an effect commits, about.
fn rows_of(effect: &Effect) -> usize {
    let commits = |record: &&Record| {
        matches!(record, Record::Write { .. }) && decode_row_key(record.key()).is_some()
    };
    match effect {
        Effect::Write(records) => records.iter().filter(commits).count(),
        Effect::Regions(_) => 0,
    }
}

/// Rows first, then what hid them.
fn publish(sink: &mut RowSink<'_>, waiting: &mut Vec<Waiting>) -> Result<()> {
    if !mistaken(Mistake::LockBeforeRow) {
        sink.flush()?;
    }
    for Waiting { slot, locks, applied } in waiting.drain(..) {
        slot.hidden.lock().dirty = true;
        slot.seen.lock().publish(locks, applied);
    }
    sink.flush() // there is nothing left
}

/// Locks and values that have left their region in a split or a merge.
#[derive(Default)]
struct Moving {
    locks: Vec<(Vec<u8>, Box<damask_types::Lock>)>,
    values: Vec<((Vec<u8>, Timestamp), Vec<u8>)>,
    tables: BTreeSet<TableId>,
}

impl Moving {
    /// A new description of a known region; an older one changes nothing.
    fn change(&mut self, slot: &Slot, state: RegionState) {
        let mut hidden = slot.hidden.lock();
        let mut seen = slot.seen.lock();
        if state.region.epoch.is_stale(&seen.state.region.epoch) {
            return;
        }
        if seen.state.tombstone {
            seen.state.applied = state.applied; // a new replica of a region that was here before
        }
        if state.region.range != seen.state.region.range || state.tombstone != seen.state.tombstone
        {
            seen.generation += 1;
        }
        // A region that was taken in keeps its range, and nothing in it.
        let stays = |key: &[u8]| !state.tombstone && state.region.range.contains(key);
        self.locks.extend(seen.locks.extract_if(.., |key, _| !stays(key)));
        self.values.extend(hidden.values.extract_if(|(key, _), _| !stays(key)));
        self.tables.extend(&hidden.tables);
        hidden.dirty = true;
        if state.tombstone {
            hidden.tables.clear();
            hidden.last_table = None;
        }
        seen.state.tombstone = state.tombstone;
        seen.state.merge = state.merge;
        seen.state.region = state.region;
    }

    /// Gives a region its own; one that is gone gets nothing.
    fn settle(&mut self, slot: &Slot) {
        let mut hidden = slot.hidden.lock();
        let mut seen = slot.seen.lock();
        if seen.state.tombstone {
            return;
        }
        let range = seen.state.region.range.clone();
        seen.locks.extend(self.locks.extract_if(.., |(key, _)| range.contains(key)));
        hidden.values.extend(self.values.extract_if(.., |((key, _), _)| range.contains(key)));
        hidden.tables.extend(&self.tables);
    }
}

impl StateMachine for ColumnMachine {
    fn recover(&self) -> damask_raftstore::Result<Vec<RegionState>> {
        let marks = self.store.marks().map_err(Error::from)?;
        let mut states = Vec::with_capacity(marks.len());
        for (_, bytes) in marks {
            states.push(mark::decode(&bytes)?.state);
        }
        states.sort_by_key(|state| state.region.id);
        Ok(states)
    }

    fn apply(&self, batches: Vec<ApplyBatch>) -> damask_raftstore::Result<()> {
        let _gate = damask_env::lock(&self.gate);
        Ok(self.guarded(|| self.run(batches))?)
    }

    fn sync(&self) -> damask_raftstore::Result<Vec<(RegionId, u64)>> {
        let mut synced = damask_env::lock(&self.syncing);
        self.guarded(|| {
            let (marks, applied) = {
                let _gate = damask_env::lock(&self.gate);
                // A call of `apply` may have failed while this one waited.
                if let Some(why) = self.failed.get() {
                    return Err(Error::Failed(why.clone()));
                }
                self.take_marks()
            };
            if !marks.is_empty() {
                self.store.sync(&marks)?;
            }
            for (id, index) in applied {
                match index {
                    Some(index) => drop(synced.insert(id, index)),
                    None => drop(synced.remove(&id)),
                }
            }
            Ok(())
        })?;
        let mut indexes: Vec<_> = synced.iter().map(|(id, index)| (*id, *index)).collect();
        indexes.sort();
        Ok(indexes)
    }

    fn export(&self, region: &damask_types::Region) -> damask_raftstore::Result<SnapshotChunks> {
        let text = format!("region {}: a learner of columns has no rows to export", region.id);
        Err(Error::Invalid(text).into())
    }

    fn import(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: SnapshotChunks,
    ) -> damask_raftstore::Result<()> {
        let mut synced = damask_env::lock(&self.syncing);
        let _gate = damask_env::lock(&self.gate);
        self.guarded(|| self.replace(state, replaced, &chunks))?;
        for gone in replaced {
            synced.remove(&gone.region.id);
        }
        synced.insert(state.region.id, state.applied.index);
        Ok(())
    }

    fn destroy(&self, state: &RegionState) -> damask_raftstore::Result<()> {
        let mut synced = damask_env::lock(&self.syncing);
        let _gate = damask_env::lock(&self.gate);
        self.guarded(|| self.remove(state))?;
        synced.remove(&state.region.id);
        Ok(())
    }

    fn size(&self, _range: &KeyRange, _parts: usize) -> damask_raftstore::Result<RangeSize> {
        Ok(RangeSize::default()) // only a leader is asked whether to split
    }
}
