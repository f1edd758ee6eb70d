//! What the log of the placement driver's group is applied to: a few named values, each replaced
//! whole. It must never know what they mean.
//!
//! ```text
//! file "registers", replaced at each sync: { length u32 LE, chunk }*   (raftstore::snapshot)
//!   pairs   ""   ► JSON { region, index, term, tombstone, registers: their number }
//!           name ► value, …
//! ```
//! In memory between two syncs: what a crash takes, the log gives back from the index on.

use damask_env::Disk;
use damask_kv::Cf;
use damask_raftstore::snapshot::{ChunkReader, ChunkWriter};
use damask_raftstore::{
    Applied, ApplyBatch, Effect, Error, RangeSize, RegionState, Result, SnapshotChunks,
    StateMachine,
};
use damask_types::{KeyRange, Record, Region, RegionId, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// The file that holds them, on the member's own disk.
pub const FILE: &str = "registers";

/// The registers of one member.
pub struct Registers {
    disk: Arc<dyn Disk>,
    held: Mutex<Option<Held>>,
    /// What the file holds. Locked while it is written, before `held`.
    saved: Mutex<Option<Applied>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    state: RegionState,
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    region: Region,
    index: u64,
    term: u64,
    tombstone: bool,
    registers: usize,
}

/// The record that sets a register.
pub fn set(name: &str, value: Vec<u8>) -> Record {
    Record::Value { key: name.as_bytes().to_vec(), start_ts: Timestamp::ZERO, value }
}

impl Registers {
    /// Reads what the last sync has left; nothing, if there was none.
    ///
    /// # Errors
    /// The disk fails, or the file is damaged.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Registers> {
        let held = match disk.map(FILE) {
            Ok(content) => Some(decode(&content)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(FILE, &e)),
        };
        let saved = held.as_ref().map(|held| held.state.applied);
        Ok(Registers { disk, held: Mutex::new(held), saved: Mutex::new(saved) })
    }

    /// A register's value, as applied; `None`: it was never set.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.held.lock().as_ref()?.values.get(name.as_bytes()).cloned()
    }

    fn write(&self, held: &Held) -> Result<()> {
        self.disk.replace(FILE, &encode(held)).map_err(|e| Error::io(FILE, &e))
    }
}

fn encode(held: &Held) -> Vec<u8> {
    let Applied { index, term } = held.state.applied;
    let registers = held.values.len();
    let (region, tombstone) = (held.state.region.clone(), held.state.tombstone);
    let head = Head { region, index, term, tombstone, registers };
    let head = serde_json::to_vec(&head).expect("plain data has a JSON form");
    let mut writer = ChunkWriter::new();
    writer.push(Cf::Default, b"", &head);
    held.values.iter().for_each(|(name, value)| writer.push(Cf::Default, name, value));
    let mut out = Vec::new();
    for chunk in writer.finish() {
        let length = u32::try_from(chunk.len()).expect("a chunk is far below 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&chunk);
    }
    out
}

fn decode(mut bytes: &[u8]) -> Result<Held> {
    let corrupt = |what: &str| Error::corrupt(format!("{FILE}: {what}"));
    let mut values = BTreeMap::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk().ok_or_else(|| corrupt("it is cut"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (chunk, rest) = rest.split_at_checked(length).ok_or_else(|| corrupt("it is cut"))?;
        take(chunk, &mut values)?;
        bytes = rest;
    }
    let head = values.remove(&b""[..]).ok_or_else(|| corrupt("it has no head"))?;
    let head: Head = serde_json::from_slice(&head).map_err(|e| corrupt(&e.to_string()))?;
    if head.registers != values.len() {
        return Err(corrupt("registers are missing"));
    }
    let applied = Applied { index: head.index, term: head.term };
    let merge = Default::default();
    let state = RegionState { region: head.region, applied, tombstone: head.tombstone, merge };
    Ok(Held { state, values })
}

/// Adds a chunk's registers.
fn take(chunk: &[u8], values: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    let mut reader = ChunkReader::new(chunk)?;
    while let Some(pair) = reader.next_pair()? {
        values.insert(pair.key.to_vec(), pair.value.to_vec());
    }
    Ok(())
}

impl StateMachine for Registers {
    fn recover(&self) -> Result<Vec<RegionState>> {
        Ok(self.held.lock().iter().map(|held| held.state.clone()).collect())
    }

    fn apply(&self, batches: Vec<ApplyBatch>) -> Result<()> {
        let mut there = self.held.lock();
        // All or nothing: what is refused has changed nothing.
        let mut next = there.clone();
        for ApplyBatch { region, applied, effects } in batches {
            for effect in effects {
                match (effect, &mut next) {
                    (Effect::Regions(states), held) => {
                        for state in states {
                            match held {
                                Some(held) => held.state = state,
                                None => *held = Some(Held { state, values: BTreeMap::new() }),
                            }
                        }
                    }
                    (Effect::Write(records), Some(held)) => {
                        for record in records {
                            let Record::Value { key, value, .. } = record else {
                                return Err(Error::Invalid("a register is only set".to_owned()));
                            };
                            held.values.insert(key, value);
                        }
                    }
                    (Effect::Write(_), None) => return Err(Error::RegionNotFound(region)),
                }
            }
            let held = next.as_mut().filter(|held| held.state.region.id == region);
            held.ok_or(Error::RegionNotFound(region))?.state.applied = applied;
        }
        *there = next;
        Ok(())
    }

    fn sync(&self) -> Result<Vec<(RegionId, u64)>> {
        let mut saved = self.saved.lock();
        let Some(held) = self.held.lock().clone() else { return Ok(Vec::new()) };
        if *saved != Some(held.state.applied) {
            self.write(&held)?;
            *saved = Some(held.state.applied);
        }
        let lives = !held.state.tombstone;
        Ok(lives.then_some((held.state.region.id, held.state.applied.index)).into_iter().collect())
    }

    fn export(&self, _: &Region) -> Result<SnapshotChunks> {
        let held = self.held.lock();
        let mut writer = ChunkWriter::new();
        for (name, value) in held.iter().flat_map(|held| &held.values) {
            writer.push(Cf::Default, name, value);
        }
        Ok(writer.finish())
    }

    fn import(&self, state: &RegionState, _: &[RegionState], chunks: SnapshotChunks) -> Result<()> {
        let mut values = BTreeMap::new();
        chunks.iter().try_for_each(|chunk| take(chunk, &mut values))?;
        let held = Held { state: state.clone(), values };
        let mut saved = self.saved.lock();
        self.write(&held)?;
        *saved = Some(held.state.applied);
        *self.held.lock() = Some(held);
        Ok(())
    }

    fn destroy(&self, state: &RegionState) -> Result<()> {
        self.import(state, &[], Vec::new())
    }

    fn size(&self, _: &KeyRange, _: usize) -> Result<RangeSize> {
        let held = self.held.lock();
        let values = held.iter().flat_map(|held| &held.values);
        let bytes = values.map(|(name, value)| (name.len() + value.len()) as u64).sum();
        Ok(RangeSize { bytes, ..RangeSize::default() })
    }
}

#[cfg(test)]
mod tests {
    //! What is synced is found again, damage is named, and a snapshot replaces all.

    use super::*;
    use damask_env::MemoryDisk;
    use damask_types::ErrorKind;

    fn filled(disk: &Arc<MemoryDisk>) -> Registers {
        let registers = Registers::open(disk.clone()).expect("opens");
        let region = crate::region(3);
        damask_raftstore::bootstrap(&registers, region.peers[0].store, region).expect("made");
        let (small, large) = (set("a", vec![1; 3]), set("b", vec![2; 2 << 20]));
        let effects = vec![Effect::Write(vec![small, large, set("c", Vec::new())])];
        let (region, applied) = (crate::GROUP, Applied { index: 9, term: 7 });
        registers.apply(vec![ApplyBatch { region, applied, effects }]).expect("applies");
        registers
    }

    #[test]
    fn what_is_synced_is_found_again() {
        let disk = Arc::new(MemoryDisk::new());
        let registers = filled(&disk);
        let before = Registers::open(disk.clone()).expect("opens");
        assert_eq!((before.get("a"), before.recover().expect("one").len()), (None, 1));
        assert_eq!(registers.sync().expect("syncs"), [(crate::GROUP, 9)]);
        let after = Registers::open(disk.clone()).expect("opens");
        assert_eq!(after.get("b"), Some(vec![2; 2 << 20]));
        assert_eq!(*after.held.lock(), *registers.held.lock());
        let refused = Effect::Write(vec![set("a", vec![9]), Record::Unlock { key: vec![1] }]);
        let (region, applied) = (crate::GROUP, Applied { index: 10, term: 7 });
        let batch = ApplyBatch { region, applied, effects: vec![refused] };
        assert!(after.apply(vec![batch]).is_err());
        assert_eq!((after.get("a"), after.sync().expect("syncs")[0].1), (Some(vec![1; 3]), 9));
    }

    #[test]
    fn a_snapshot_replaces_everything_and_is_durable() {
        let (from, to) = (Arc::new(MemoryDisk::new()), Arc::new(MemoryDisk::new()));
        let registers = filled(&from);
        let state = registers.recover().expect("one").remove(0);
        let chunks = registers.export(&state.region).expect("exports");
        assert!(chunks.len() > 1, "more than one chunk");
        let other = Registers::open(to.clone()).expect("opens");
        other.import(&state, &[], chunks).expect("imports");
        let other = Registers::open(to).expect("opens");
        assert_eq!(*other.held.lock(), *registers.held.lock());
        let gone = RegionState { tombstone: true, ..state };
        other.destroy(&gone).expect("destroys");
        assert_eq!((other.get("a"), other.sync().expect("nothing lives")), (None, Vec::new()));
    }

    #[test]
    fn damage_is_named() {
        let state = filled(&Arc::new(MemoryDisk::new())).recover().expect("one").remove(0);
        let values = [(b"a".to_vec(), vec![1, 2, 3])].into();
        let held = Held { state, values };
        let bytes = encode(&held);
        assert_eq!(decode(&bytes).expect("whole"), held);
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(decode(&bad).expect_err("flipped").kind(), ErrorKind::Corrupt, "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
