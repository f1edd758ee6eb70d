//! A region's content comes in: in one write, or in several with a mark that outlives a crash. It
//! must never leave a range half replaced without that mark.
//!
//! ```text
//! chunks in memory   clear · pairs · states ─ sync
//! chunks kept        mark ─ sync ─ clear · pairs ─ pairs ─ … ─ pairs · states · no mark ─ sync
//! ```
//! The engine keeps a prefix of the writes, so that whatever a crash leaves is the old content, or
//! has the mark, or is the new one. With the mark the import is done again from its beginning
//! (`StateMachine::unfinished`), from the chunks that were made durable before.
//!
//! ```text
//! "i"   version u8 = 1, states: count varint, then of each
//!       tombstone u8, region, merge state (wire.rs), applied index, applied term: varints
//! ```
//! The first state is the region's new one; the others are what goes with its old content.

use super::{RowMachine, counted, put_state};
use crate::error::{Error, Result};
use crate::machine::{Applied, RegionState, Unfinished};
use crate::snapshot::ChunkReader;
use crate::wire;
use damask_kv::{Cf, WriteBatch};
use damask_types::codec::{put_var_u64, take_u8, take_var_u64};

/// Where the mark is, in the meta family.
const MARK: &[u8] = b"i";
const VERSION: u8 = 1;
/// States in a mark, at most.
const STATES_MAX: u64 = 1 << 16;
/// Bytes of pairs in one write, about, of chunks that are kept (TiKV: 10 MB).
pub(super) const WRITE_BYTES: usize = 8 << 20;

/// See `StateMachine::import_staged`. The caller sees to it that nobody else replaces anything.
pub(super) fn import(
    machine: &RowMachine,
    state: &RegionState,
    replaced: &[RegionState],
    chunks: &mut dyn Iterator<Item = Result<Vec<u8>>>,
    kept: bool,
) -> Result<()> {
    let engine = machine.engine();
    let states = || replaced.iter().chain([state]);
    let mut batch = WriteBatch::default();
    if kept {
        batch.put(Cf::Meta, MARK.to_vec(), encode(state, replaced));
        engine.write(std::mem::take(&mut batch))?;
        // Before anything goes: who finds the range without it takes it for whole.
        engine.sync()?;
    }
    states().for_each(|s| RowMachine::clear(&mut batch, &s.region.range));
    let mut bytes = 0;
    for chunk in chunks {
        let chunk = chunk?;
        let mut reader = ChunkReader::new(&chunk)?;
        while let Some(pair) = reader.next_pair()? {
            bytes += pair.key.len() + pair.value.len();
            batch.put(pair.family, pair.key, pair.value);
        }
        if kept && bytes >= machine.import_bytes {
            engine.write(std::mem::take(&mut batch))?;
            bytes = 0;
        }
    }
    // All of them at once: a crash must not leave the log of one with the content of the other.
    states().for_each(|s| put_state(&mut batch, s));
    if kept {
        batch.delete(Cf::Meta, MARK);
    }
    engine.write(batch)?;
    engine.sync()?;
    machine.set_applied(states().map(counted).collect());
    Ok(())
}

/// The import that a crash has cut short.
pub(super) fn unfinished(machine: &RowMachine) -> Result<Option<Unfinished>> {
    let found = machine.engine().snapshot().get(Cf::Meta, MARK)?;
    found.map(|bytes| decode(&bytes)).transpose()
}

fn encode(state: &RegionState, replaced: &[RegionState]) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_var_u64(&mut out, replaced.len() as u64 + 1);
    for state in [state].into_iter().chain(replaced) {
        out.push(u8::from(state.tombstone));
        wire::put_region(&mut out, &state.region);
        wire::put_merge(&mut out, &state.merge);
        put_var_u64(&mut out, state.applied.index);
        put_var_u64(&mut out, state.applied.term);
    }
    out
}

fn decode(mut bytes: &[u8]) -> Result<Unfinished> {
    let buf = &mut bytes;
    if take_u8(buf)? != VERSION {
        return Err(Error::corrupt("the version of an unfinished import"));
    }
    let count = take_var_u64(buf)?;
    if count == 0 || count > STATES_MAX {
        return Err(Error::corrupt("an unfinished import of no region"));
    }
    let mut states = Vec::new();
    for _ in 0..count {
        let tombstone = take_u8(buf)? != 0;
        let (region, merge) = (wire::take_region(buf)?, wire::take_merge(buf)?);
        let applied = Applied { index: take_var_u64(buf)?, term: take_var_u64(buf)? };
        states.push(RegionState { region, applied, tombstone, merge });
    }
    let state = states.remove(0);
    Ok(Unfinished { state, replaced: states })
}

#[cfg(test)]
mod tests {
    //! An import that stops anywhere leaves the old content, the new one, or the mark.

    use super::*;
    use crate::machine::{SnapshotChunks, StateMachine};
    use crate::snapshot::ChunkBuilder;
    use damask_kv::testing::Faulty;
    use damask_kv::{Engine, MemoryEngine};
    use damask_types::codec::encode_key_ts;
    use damask_types::{Epoch, ErrorKind, KeyRange, Peer, PeerId, PeerRole, Region, RegionId};
    use damask_types::{StoreId, Timestamp};
    use std::sync::Arc;

    fn state(id: u64, range: KeyRange, tombstone: bool, index: u64) -> RegionState {
        let peer = Peer { id: PeerId(id), store: StoreId(1), role: PeerRole::Voter };
        let epoch = Epoch { conf_ver: 2, version: index };
        let region = Region { id: RegionId(id), range, epoch, peers: vec![peer] };
        let applied = Applied { index, term: 6 };
        RegionState { region, applied, tombstone, merge: Default::default() }
    }

    fn chunk(keys: std::ops::Range<u64>, value: &[u8]) -> Vec<u8> {
        let mut builder = ChunkBuilder::default();
        for key in keys {
            let key = format!("k{key:03}");
            builder.push(Cf::Write, &encode_key_ts(key.as_bytes(), Timestamp(9)), value);
        }
        builder.finish()
    }

    fn new_chunks() -> SnapshotChunks {
        (0..8).map(|n| chunk(n * 10..n * 10 + 10, b"new")).collect()
    }

    /// Two regions with old rows, and one more beside them.
    fn old() -> MemoryEngine {
        let engine = MemoryEngine::with_crashes();
        let machine = RowMachine::new(Arc::new(engine.clone()));
        for (id, start, end, keys) in
            [(1, "k000", "k050", 0..50), (2, "k050", "k100", 50..100), (3, "k100", "", 100..150)]
        {
            let state = state(id, KeyRange::new(start, end), false, 7);
            let mut chunks = [chunk(keys, b"old")].into_iter().map(Ok);
            machine.import_staged(&state, &[], &mut chunks, false).unwrap();
        }
        engine
    }

    /// Region 1 has taken region 2 in.
    fn take_in(machine: &RowMachine, kept: bool) -> Result<()> {
        let new = state(1, KeyRange::new("k000", "k100"), false, 40);
        let gone = state(2, KeyRange::new("k050", "k100"), true, 20);
        machine.import_staged(&new, &[gone], &mut new_chunks().into_iter().map(Ok), kept)
    }

    fn machine(engine: &MemoryEngine) -> RowMachine {
        let mut machine = RowMachine::new(Arc::new(engine.clone()));
        machine.import_bytes = 300;
        machine
    }

    type Pairs = Vec<(Cf, Vec<u8>, Vec<u8>)>;

    fn all(engine: &MemoryEngine) -> Pairs {
        let mut out = Vec::new();
        for family in Cf::ALL {
            let snapshot = engine.snapshot();
            let mut cursor = snapshot.cursor(family, b"", b"").unwrap();
            let mut pair = cursor.seek(b"").unwrap();
            while let Some((key, value)) = pair {
                out.push((family, key.to_vec(), value.to_vec()));
                pair = cursor.next().unwrap();
            }
        }
        out
    }

    #[test]
    fn many_writes_leave_what_one_write_leaves() {
        let (one, many) = (old(), old());
        take_in(&machine(&one), false).unwrap();
        take_in(&machine(&many), true).unwrap();
        assert_eq!(all(&one), all(&many));
        assert!(machine(&many).unfinished().unwrap().is_none());
        assert_eq!(machine(&many).recover().unwrap().len(), 3);
    }

    /// The n-th write or sync fails, and then the power: whatever is left of what was not synced.
    #[test]
    fn wherever_it_stops_it_is_old_or_new_or_done_again() {
        let before = all(&old());
        let done = old();
        take_in(&machine(&done), false).unwrap();
        let (after, mut again, mut writes) = (all(&done), 0, 0);
        for nth in 0.. {
            let engine = old();
            let faulty = Arc::new(Faulty::new(engine.clone(), nth, ErrorKind::Io));
            let mut machine = RowMachine::new(faulty.clone());
            machine.import_bytes = 300;
            let result = take_in(&machine, true);
            assert_eq!(result.is_err(), faulty.has_failed());
            for keep in 0..=engine.unsynced() {
                let left = engine.crash(keep).unwrap();
                let machine = self::machine(&left);
                let Some(Unfinished { state, replaced }) = machine.unfinished().unwrap() else {
                    let found = all(&left);
                    assert!(found == before || found == after, "failure {nth}, {keep} kept");
                    continue;
                };
                again += 1;
                assert_eq!((state.region.id, replaced[0].region.id), (RegionId(1), RegionId(2)));
                let mut chunks = new_chunks().into_iter().map(Ok);
                machine.import_staged(&state, &replaced, &mut chunks, true).unwrap();
                assert!(all(&left) == after, "failure {nth}, {keep} kept, done again");
            }
            if !faulty.has_failed() {
                break;
            }
            writes = nth;
        }
        assert!(writes > 6 && again > 6, "{writes} writes, {again} imports done again");
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_named() {
        let new = state(1, KeyRange::new("a", "b"), false, 40);
        let bytes = encode(&new, &[state(2, KeyRange::new("b", "c"), true, 20)]);
        assert_eq!(decode(&bytes).unwrap().replaced.len(), 1);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(decode(&[2, 1]).is_err() && decode(&[VERSION, 0]).is_err());
    }
}
