//! Rows, watched: what is applied at an index is the same on every store. It must never change a
//! batch.

use super::chance::{hash_bytes, mix};
use super::watch::Watch;
use crate::apply::LOG_START;
use crate::error::Result;
use crate::machine::{
    ApplyBatch, Effect, RangeSize, RegionState, SnapshotChunks, SnapshotSource, StateMachine,
};
use crate::row_machine::RowMachine;
use damask_kv::{Cf, Engine, MemoryEngine};
use damask_types::codec::encode_key;
use damask_types::{KeyRange, Lock, Region, RegionId, StoreId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Watched {
    store: StoreId,
    rows: RowMachine,
    engine: MemoryEngine,
    watch: Arc<Mutex<Watch>>,
    content: Mutex<BTreeMap<RegionId, u64>>,
}

impl Watched {
    pub fn new(store: StoreId, engine: MemoryEngine, watch: Arc<Mutex<Watch>>) -> Watched {
        let rows = RowMachine::new(Arc::new(engine.clone()));
        Watched { store, rows, engine, watch, content: Mutex::default() }
    }

    /// Continues the hash of a region from where it is applied.
    fn resume(&self, state: &RegionState, way: &'static str) {
        let index = state.applied.index;
        let mut watch = self.watch.lock();
        let content = watch.content_at(state.region.id, index);
        if content.is_none() {
            watch.violate(|| {
                format!("region {} is at {index}, where nobody ever was", state.region.id)
            });
        }
        let content = content.unwrap_or(0);
        watch.stepped(self.store, state.region.id, way, index, content);
        self.content.lock().insert(state.region.id, content);
    }

    /// The value under a key; 0 for none.
    pub fn value(&self, key: &[u8]) -> Result<u64> {
        let found = self.engine.snapshot().get(Cf::Lock, &encode_key(key))?;
        found.map_or(Ok(0), |bytes| Ok(Lock::decode(&bytes)?.start_ts.0))
    }

    /// Of everything in the range.
    pub fn scan(&self, range: &KeyRange) -> Result<u64> {
        let form = |key: &[u8]| if key.is_empty() { Vec::new() } else { encode_key(key) };
        let (start, end) = (form(&range.start), form(&range.end));
        let snapshot = self.engine.snapshot();
        let mut cursor = snapshot.cursor(Cf::Lock, &start, &end)?;
        let mut pair = cursor.seek(&start)?;
        let mut hash = 0;
        while let Some((key, value)) = pair {
            hash = mix(hash ^ hash_bytes(key) ^ hash_bytes(value).rotate_left(1));
            pair = cursor.next()?;
        }
        Ok(hash)
    }

    pub fn rows(&self) -> &RowMachine {
        &self.rows
    }
}

impl StateMachine for Watched {
    fn recover(&self) -> Result<Vec<RegionState>> {
        let states = self.rows.recover()?;
        states.iter().filter(|s| !s.tombstone).for_each(|state| self.resume(state, "recovered"));
        Ok(states)
    }

    fn apply(&self, batches: Vec<ApplyBatch>) -> Result<()> {
        for ApplyBatch { region, applied, effects } in &batches {
            let mut watch = self.watch.lock();
            let mut all = self.content.lock();
            let content = all.get(region).copied().unwrap_or(0);
            let content = watch.fold(content, effects);
            for effect in effects {
                let Effect::Regions(states) = effect else { continue };
                let fresh = states.iter().filter(|s| s.applied == LOG_START);
                all.extend(fresh.map(|s| (s.region.id, 0)));
                for gone in states.iter().filter(|s| s.tombstone) {
                    all.remove(&gone.region.id);
                    let index = gone.applied.index;
                    watch.stepped(self.store, gone.region.id, "merged", index, 0);
                }
            }
            all.insert(*region, content);
            watch.applied(self.store, *region, applied.index, content);
        }
        self.rows.apply(batches)
    }

    fn sync(&self) -> Result<Vec<(RegionId, u64)>> {
        self.rows.sync()
    }

    fn export(&self, region: &Region) -> Result<SnapshotChunks> {
        self.rows.export(region)
    }

    fn source(&self, region: &Region) -> Result<Arc<dyn SnapshotSource>> {
        self.rows.source(region)
    }

    fn import(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: SnapshotChunks,
    ) -> Result<()> {
        self.import_staged(state, replaced, &mut chunks.into_iter().map(Ok), false)
    }

    fn import_staged(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: &mut dyn Iterator<Item = Result<Vec<u8>>>,
        kept: bool,
    ) -> Result<()> {
        self.rows.import_staged(state, replaced, chunks, kept)?;
        let mut watch = self.watch.lock();
        watch.snapshots += 1;
        watch.replaced += replaced.len() as u64;
        drop(watch);
        for gone in replaced {
            self.content.lock().remove(&gone.region.id);
        }
        self.resume(state, "imported");
        Ok(())
    }

    fn destroy(&self, state: &RegionState) -> Result<()> {
        let index = state.applied.index;
        self.watch.lock().stepped(self.store, state.region.id, "destroyed", index, 0);
        self.content.lock().remove(&state.region.id);
        self.rows.destroy(state)
    }

    fn size(&self, range: &KeyRange, parts: usize) -> Result<RangeSize> {
        self.rows.size(range, parts)
    }
}
