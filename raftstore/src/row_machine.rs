//! The row reading of the log: records become changes of an ordered engine, and what is known of
//! each region moves in the same write. It must never write data without its applied index.
//!
//! ```text
//! meta family
//!   "s" region id, big-endian   version u8 = 2, tombstone u8, region, merge state (wire.rs);
//!                               version 1 has no merge state
//!   "a" region id, big-endian   applied index, applied term: varints
//! ```
//! The engine runs without a log of its own: what a crash takes from it, the Raft log gives back
//! from the applied index on.

use crate::error::{Error, Result};
use crate::machine::{Applied, ApplyBatch, Effect, RegionState, SnapshotChunks, StateMachine};
use crate::merge::MergeState;
use crate::snapshot::{ChunkReader, ChunkWriter, FAMILIES};
use crate::wire;
use damask_env::{Mistake, mistaken};
use damask_kv::gc::{Budget, sweep};
use damask_kv::{Cf, Engine, WriteBatch, append_records};
use damask_types::codec::{
    decode_key, encode_key, put_var_u64, split_key_ts, take_u8, take_var_u64,
};
use damask_types::{KeyRange, Region, RegionId, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

const VERSION: u8 = 2;
const VERSION_WITHOUT_MERGE: u8 = 1;
/// Keys visited at most when looking for the middle of a range.
const MIDDLE_STEPS_MAX: u64 = 1 << 22;

/// Rows over an engine.
pub struct RowMachine {
    engine: Arc<dyn Engine>,
    /// Held while a region's range is replaced as a whole, and by each piece of collection: what
    /// a piece has seen must still be there when its removals are written.
    replacing: Mutex<()>,
    /// Applied, as visible in the engine.
    applied: Mutex<BTreeMap<RegionId, Applied>>,
}

impl RowMachine {
    /// Rows in this engine.
    pub fn new(engine: Arc<dyn Engine>) -> RowMachine {
        RowMachine { engine, replacing: Mutex::default(), applied: Mutex::default() }
    }

    /// Where the rows are.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Removes versions of `range` that no read at or above the safe point sees, a piece of it;
    /// the key to go on with, or `None` at the end. Replicas need not agree on what is gone.
    pub fn collect(
        &self,
        range: &KeyRange,
        safe_point: Timestamp,
        budget: Budget,
    ) -> Result<Option<Vec<u8>>> {
        let _alone = self.replacing.lock();
        let swept = sweep(&*self.engine.snapshot(), range, safe_point, budget)?;
        if !swept.batch.ops.is_empty() {
            self.engine.write(swept.batch)?;
        }
        Ok(swept.resume)
    }

    fn clear(batch: &mut WriteBatch, range: &KeyRange) {
        let (start, end) = bounds(range);
        for family in FAMILIES {
            batch.delete_range(family, start.clone(), end.clone());
        }
    }

    /// `None`: the region is gone.
    fn set_applied(&self, changes: Vec<(RegionId, Option<Applied>)>) {
        let mut all = self.applied.lock();
        for (id, applied) in changes {
            match applied {
                Some(applied) => drop(all.insert(id, applied)),
                None => drop(all.remove(&id)),
            }
        }
    }
}

fn meta_key(tag: u8, region: RegionId) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend_from_slice(&region.0.to_be_bytes());
    key
}

/// A range of user keys in the engine's form.
fn bounds(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let form = |key: &[u8]| if key.is_empty() { Vec::new() } else { encode_key(key) };
    (form(&range.start), form(&range.end))
}

fn put_applied(batch: &mut WriteBatch, region: RegionId, applied: Applied) {
    let mut value = Vec::with_capacity(10);
    put_var_u64(&mut value, applied.index);
    put_var_u64(&mut value, applied.term);
    batch.put(Cf::Meta, meta_key(b'a', region), value);
}

fn put_state(batch: &mut WriteBatch, state: &RegionState) {
    let mut value = vec![VERSION, u8::from(state.tombstone)];
    wire::put_region(&mut value, &state.region);
    wire::put_merge(&mut value, &state.merge);
    batch.put(Cf::Meta, meta_key(b's', state.region.id), value);
    put_applied(batch, state.region.id, state.applied);
}

/// What `sync` may say of a state from now on.
fn counted(state: &RegionState) -> (RegionId, Option<Applied>) {
    (state.region.id, (!state.tombstone).then_some(state.applied))
}

impl StateMachine for RowMachine {
    fn recover(&self) -> Result<Vec<RegionState>> {
        let snapshot = self.engine.snapshot();
        let mut states = Vec::new();
        let mut cursor = snapshot.cursor(Cf::Meta, b"s", b"t")?;
        let mut pair = cursor.seek(b"s")?;
        while let Some((_, mut value)) = pair {
            let buf = &mut value;
            let version = take_u8(buf)?;
            if !(VERSION_WITHOUT_MERGE..=VERSION).contains(&version) {
                return Err(Error::corrupt("region state version"));
            }
            let tombstone = take_u8(buf)? != 0;
            let region = wire::take_region(buf)?;
            let merge = match version {
                VERSION => wire::take_merge(buf)?,
                _ => MergeState::default(),
            };
            let found = snapshot.get(Cf::Meta, &meta_key(b'a', region.id))?;
            let found = found.ok_or_else(|| Error::corrupt("a region without applied index"))?;
            let buf = &mut &found[..];
            let applied = Applied { index: take_var_u64(buf)?, term: take_var_u64(buf)? };
            states.push(RegionState { region, applied, tombstone, merge });
            pair = cursor.next()?;
        }
        self.set_applied(states.iter().map(counted).collect());
        Ok(states)
    }

    fn apply(&self, batches: Vec<ApplyBatch>) -> Result<()> {
        let mut write = WriteBatch::default();
        let mut changes = Vec::with_capacity(batches.len());
        for ApplyBatch { region, applied, effects } in batches {
            for effect in effects {
                match effect {
                    Effect::Write(records) => append_records(&mut write, &records),
                    Effect::Regions(states) => {
                        for state in states {
                            put_state(&mut write, &state);
                            changes.push(counted(&state));
                        }
                    }
                }
            }
            put_applied(&mut write, region, applied);
            changes.push((region, Some(applied)));
        }
        if mistaken(Mistake::AppliedFirst) {
            let mut early = WriteBatch::default();
            let moved = changes.iter().filter_map(|(region, applied)| Some((*region, (*applied)?)));
            moved.for_each(|(region, applied)| put_applied(&mut early, region, applied));
            self.engine.write(early)?;
        }
        self.engine.write(write)?;
        self.set_applied(changes);
        Ok(())
    }

    fn sync(&self) -> Result<Vec<(RegionId, u64)>> {
        let applied: Vec<(RegionId, u64)> =
            self.applied.lock().iter().map(|(id, applied)| (*id, applied.index)).collect();
        self.engine.sync()?;
        Ok(applied)
    }

    fn export(&self, region: &Region) -> Result<SnapshotChunks> {
        let snapshot = self.engine.snapshot();
        let (start, end) = bounds(&region.range);
        let mut writer = ChunkWriter::new();
        for family in FAMILIES {
            let mut cursor = snapshot.cursor(family, &start, &end)?;
            let mut pair = cursor.seek(&start)?;
            while let Some((key, value)) = pair {
                writer.push(family, key, value);
                pair = cursor.next()?;
            }
        }
        Ok(writer.finish())
    }

    fn import(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: SnapshotChunks,
    ) -> Result<()> {
        let _alone = self.replacing.lock();
        let mut batch = WriteBatch::default();
        replaced.iter().chain([state]).for_each(|s| Self::clear(&mut batch, &s.region.range));
        for chunk in &chunks {
            let mut reader = ChunkReader::new(chunk)?;
            while let Some(pair) = reader.next_pair()? {
                batch.put(pair.family, pair.key, pair.value);
            }
        }
        // All in one: a crash must not leave the log of one with the content of the other.
        for state in replaced.iter().chain([state]) {
            put_state(&mut batch, state);
        }
        self.engine.write(batch)?;
        self.engine.sync()?;
        self.set_applied(replaced.iter().chain([state]).map(counted).collect());
        Ok(())
    }

    fn destroy(&self, state: &RegionState) -> Result<()> {
        let _alone = self.replacing.lock();
        let mut batch = WriteBatch::default();
        Self::clear(&mut batch, &state.region.range);
        put_state(&mut batch, state);
        self.engine.write(batch)?;
        self.engine.sync()?;
        self.applied.lock().remove(&state.region.id);
        Ok(())
    }

    fn size(&self, range: &KeyRange) -> Result<(u64, Option<Vec<u8>>)> {
        let (start, end) = bounds(range);
        let writes = self.engine.estimate(Cf::Write, &start, &end)?.bytes;
        let values = self.engine.estimate(Cf::Default, &start, &end)?.bytes;
        let snapshot = self.engine.snapshot();
        let mut cursor = snapshot.cursor(Cf::Write, &start, &end)?;
        let mut pair = cursor.seek(&start)?;
        let (mut passed, mut steps) = (0, 0);
        let mut middle = None;
        while let Some((key, value)) = pair {
            passed += (key.len() + value.len()) as u64;
            steps += 1;
            if passed * 2 >= writes || steps >= MIDDLE_STEPS_MAX {
                middle = Some(decode_key(split_key_ts(key)?.0)?);
                break;
            }
            pair = cursor.next()?;
        }
        Ok((writes + values, middle.filter(|key| *key > range.start)))
    }
}
