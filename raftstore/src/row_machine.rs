//! The row reading of the log: records become changes of an ordered engine, and what is known of
//! each region moves in the same write. It must never write data without its applied index.
//!
//! ```text
//! meta family
//!   "s" region id, big-endian   version u8 = 2, tombstone u8, region, merge state (wire.rs);
//!                               version 1 has no merge state
//!   "a" region id, big-endian   applied index, applied term: varints
//!   "i"                         an import that is not finished (row_machine/import.rs)
//! ```
//! The engine runs without a log of its own: what a crash takes from it, the Raft log gives back
//! from the applied index on.

mod import;
mod size;

use crate::error::{Error, Result};
use crate::machine::{
    Applied, ApplyBatch, Effect, RangeSize, RegionState, SnapshotChunks, SnapshotPiece,
    SnapshotSource, StateMachine, Unfinished,
};
use crate::merge::MergeState;
use crate::snapshot::{CHUNK_BYTES, ChunkBuilder, FAMILIES};
use crate::wire;
use damask_env::{Mistake, mistaken};
use damask_kv::gc::{Budget, sweep};
use damask_kv::{Cf, Engine, Op, Snapshot, WriteBatch, append_records};
use damask_types::codec::{encode_key, put_var_u64, take_u8, take_var_u64};
use damask_types::{KeyRange, Region, RegionId, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

const VERSION: u8 = 2;
const VERSION_WITHOUT_MERGE: u8 = 1;

/// Rows over an engine.
pub struct RowMachine {
    engine: Arc<dyn Engine>,
    /// Held while a region's range is replaced as a whole, and by each piece of collection: what
    /// a piece has seen must still be there when its removals are written.
    replacing: Mutex<()>,
    /// Applied, as visible in the engine.
    applied: Mutex<BTreeMap<RegionId, Applied>>,
    /// Bytes of one write of an import in several.
    import_bytes: usize,
}

impl RowMachine {
    /// Rows in this engine.
    pub fn new(engine: Arc<dyn Engine>) -> RowMachine {
        let (replacing, applied) = Default::default();
        RowMachine { engine, replacing, applied, import_bytes: import::WRITE_BYTES }
    }

    /// With so many bytes in one write of an import in several.
    #[cfg(test)]
    pub(crate) fn with_import_bytes(self, import_bytes: usize) -> RowMachine {
        RowMachine { import_bytes, ..self }
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
                VERSION if !mistaken(Mistake::MergingForgotten) => wire::take_merge(buf)?,
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
        let several = batches.len() > 1;
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
        if mistaken(Mistake::ApplySkipsDelete) && several {
            write.ops.retain(|op| !matches!(op, Op::Delete(..)));
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
        let source = self.source(region)?;
        let (mut chunks, mut next) = (SnapshotChunks::new(), Some(Vec::new()));
        while let Some(from) = next {
            let piece = source.read(&from, CHUNK_BYTES)?;
            chunks.push(piece.chunk);
            next = piece.next;
        }
        chunks.retain(|chunk| !chunk.is_empty());
        Ok(chunks)
    }

    fn source(&self, region: &Region) -> Result<Arc<dyn SnapshotSource>> {
        let (start, end) = bounds(&region.range);
        Ok(Arc::new(RowSource { snapshot: self.engine.snapshot(), start, end }))
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
        let _alone = self.replacing.lock();
        import::import(self, state, replaced, chunks, kept)
    }

    fn unfinished(&self) -> Result<Option<Unfinished>> {
        import::unfinished(self)
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

    fn size(&self, range: &KeyRange, parts: usize) -> Result<RangeSize> {
        size::size(self.engine.as_ref(), range, parts)
    }
}

/// A region's rows as they were at one moment. A position is a family, and the key to go on with.
struct RowSource {
    snapshot: Arc<dyn Snapshot>,
    start: Vec<u8>,
    end: Vec<u8>,
}

impl std::fmt::Debug for RowSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowSource").finish_non_exhaustive()
    }
}

impl SnapshotSource for RowSource {
    fn read(&self, from: &[u8], bytes: usize) -> Result<SnapshotPiece> {
        let (first, key) = match from.split_first() {
            None => (0, &self.start[..]),
            Some((family, key)) => (usize::from(*family), key),
        };
        let mut builder = ChunkBuilder::default();
        for (at, family) in FAMILIES.iter().enumerate().skip(first) {
            let from = if at == first { key } else { &self.start };
            let mut cursor = self.snapshot.cursor(*family, from, &self.end)?;
            let mut pair = cursor.seek(from)?;
            while let Some((key, value)) = pair {
                if builder.len() >= bytes && !builder.is_empty() {
                    let next = Some([&[at as u8], key].concat());
                    return Ok(SnapshotPiece { chunk: builder.finish(), next });
                }
                builder.push(*family, key, value);
                pair = cursor.next()?;
            }
        }
        Ok(SnapshotPiece { chunk: builder.finish(), next: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ChunkReader;
    use damask_kv::MemoryEngine;
    use damask_types::{Epoch, Lock, LockKind, Record};

    fn machine() -> RowMachine {
        RowMachine::new(Arc::new(MemoryEngine::new()))
    }

    fn region() -> Region {
        let range = KeyRange::new("b", "y");
        Region { id: RegionId(1), range, epoch: Epoch { conf_ver: 1, version: 1 }, peers: vec![] }
    }

    fn put(machine: &RowMachine, key: &str, index: u64) {
        let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(index), 1);
        let records = vec![Record::Lock { key: key.as_bytes().to_vec(), lock }];
        let (applied, effects) = (Applied { index, term: 6 }, vec![Effect::Write(records)]);
        machine.apply(vec![ApplyBatch { region: RegionId(1), applied, effects }]).unwrap();
    }

    fn pieces(source: &dyn SnapshotSource, bytes: usize) -> SnapshotChunks {
        let (mut chunks, mut next) = (Vec::new(), Some(Vec::new()));
        while let Some(from) = next {
            let piece = source.read(&from, bytes).unwrap();
            assert_eq!(source.read(&from, bytes).unwrap(), piece, "the same again");
            chunks.push(piece.chunk);
            next = piece.next;
        }
        chunks
    }

    /// Written after the source was made, or outside of the region: in no part.
    #[test]
    fn parts_of_any_size_make_the_content_of_one_moment() {
        let machine = machine();
        for (index, key) in ["a", "b", "c", "m", "x", "y"].into_iter().enumerate() {
            put(&machine, key, index as u64 + 6);
        }
        let whole = machine.export(&region()).unwrap();
        let source = machine.source(&region()).unwrap();
        put(&machine, "d", 20);
        let pairs = |chunks: &SnapshotChunks| {
            let mut keys = Vec::new();
            for chunk in chunks {
                let mut reader = ChunkReader::new(chunk).unwrap();
                while let Some(pair) = reader.next_pair().unwrap() {
                    keys.push((pair.family, pair.key.to_vec(), pair.value.to_vec()));
                }
            }
            keys
        };
        assert_eq!((whole.len(), pairs(&whole).len()), (1, 4));
        for (bytes, parts) in [(1, 4), (40, 2), (1 << 20, 1)] {
            let chunks = pieces(source.as_ref(), bytes);
            assert_eq!((chunks.len(), pairs(&chunks)), (parts, pairs(&whole)), "{bytes}");
        }
        let state = RegionState {
            region: region(),
            applied: Applied { index: 11, term: 6 },
            tombstone: false,
            merge: MergeState::default(),
        };
        let other = self::machine();
        let mut chunks = pieces(source.as_ref(), 1).into_iter().map(Ok);
        other.import_staged(&state, &[], &mut chunks, false).unwrap();
        assert_eq!(other.export(&region()).unwrap(), whole);
        // A damaged part changes nothing.
        let mut damaged = whole.clone();
        damaged[0][9] ^= 1;
        let bad = machine.import_staged(&state, &[], &mut damaged.into_iter().map(Ok), false);
        assert_eq!(bad.unwrap_err().kind(), damask_types::ErrorKind::Corrupt);
        assert_eq!(pairs(&machine.export(&region()).unwrap()).len(), 5);
    }

    #[test]
    fn an_empty_region_is_one_part_without_a_pair() {
        assert_eq!(pieces(machine().source(&region()).unwrap().as_ref(), 1), [Vec::<u8>::new()]);
    }
}
