//! Bytes of any kind before every decoder that reads a log file or the wire: each answers with a
//! value that comes back, or with an error. None may panic, loop, or take memory by a number that
//! it has read.
//!
//! These are the fuzz targets of this crate: valid bytes of every shape, spoilt in one to three
//! places, the same in each run. A longer walk: `GARBAGE_ROUNDS=10000000 cargo test --release
//! -p damask-raftstore garbage`.

use crate::command::{self, Body, Command, MergeCommit};
use crate::file_log::format;
use crate::handle::{PeerChange, SplitChild};
use crate::hibernate::{Position, Word};
use crate::log_store::{EntryKind, HardState, LogEntry, LogOp};
use crate::machine::Applied;
use crate::merge::{Absorbed, MergeState, Prepared};
use crate::resolved::{SafeAt, SafeWord};
use crate::snapshot::{ChunkBuilder, ChunkReader};
use crate::wire::{self, SnapshotChunk};
use damask_kv::Cf;
use damask_types::codec::put_var_u64;
use damask_types::{
    Epoch, KeyRange, Lock, LockKind, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId,
    Timestamp, Write, WriteKind,
};
use raft::eraftpb::{Entry, Message, Snapshot, SnapshotMetadata};

const ROUNDS: u32 = 30_000;

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    /// Of any size: most small, some that fill every byte.
    fn number(&mut self) -> u64 {
        let bits = self.below(65);
        if bits == 64 { u64::MAX } else { self.below(1 << bits.min(63)) }
    }

    fn safe_word(&mut self) -> SafeWord {
        let (round, count) = ((self.number(), self.number()), self.below(4));
        match self.below(3) {
            0 => {
                let one = |_| (RegionId(self.number()), self.number());
                SafeWord::Check { round, regions: (0..count).map(one).collect() }
            }
            1 => {
                let regions = (0..count).map(|_| RegionId(self.number())).collect();
                SafeWord::Agree { round, regions }
            }
            _ => {
                let mut at = || SafeAt { ts: Timestamp(self.number()), index: self.number() };
                let safe: Vec<SafeAt> = (0..count).map(|_| at()).collect();
                let one = |safe: SafeAt| (RegionId(self.number()), self.number(), safe);
                SafeWord::Publish(safe.into_iter().map(one).collect())
            }
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(12)).map(|_| self.below(256) as u8).collect()
    }

    /// A byte changed, added or removed, the end cut, or a number as large as numbers are.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() as u64 + 1) as usize;
            match self.below(5) {
                0 => bytes.insert(at, self.below(256) as u8),
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..(at + 1).min(bytes.len()))),
                3 => {
                    let mut huge = Vec::new();
                    put_var_u64(&mut huge, [u64::MAX, 1 << 62, 1 << 45][self.below(3) as usize]);
                    bytes.splice(at..(at + 1).min(bytes.len()), huge);
                }
                _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = self.below(256) as u8),
            }
        }
    }

    fn applied(&mut self) -> Applied {
        Applied { index: self.number(), term: self.number() }
    }

    fn entry(&mut self, index: u64) -> LogEntry {
        let kind = [EntryKind::Normal, EntryKind::Change][self.below(2) as usize];
        LogEntry { index, term: self.number(), kind, context: self.bytes(), data: self.bytes() }
    }

    fn peer(&mut self) -> Peer {
        let role = [PeerRole::Voter, PeerRole::Learner][self.below(2) as usize];
        Peer { id: PeerId(self.number()), store: StoreId(self.number()), role }
    }

    fn epoch(&mut self) -> Epoch {
        Epoch { conf_ver: self.number(), version: self.number() }
    }

    fn region(&mut self) -> Region {
        let range = KeyRange::new(self.bytes(), self.bytes());
        let peers = (0..self.below(4)).map(|_| self.peer()).collect();
        Region { id: RegionId(self.number()), range, epoch: self.epoch(), peers }
    }

    fn merge(&mut self) -> MergeState {
        let prepared = (self.below(2) == 0).then(|| Prepared {
            target: self.region(),
            min_index: self.number(),
            commit: self.number(),
        });
        let absorbed = (0..self.below(3)).map(|_| Absorbed {
            region: RegionId(self.number()),
            into: RegionId(self.number()),
            version: self.number(),
        });
        let absorbed = absorbed.collect();
        let into = Some(self.number()).filter(|id| *id != 0).map(RegionId);
        MergeState { prepared, absorbed, forgotten: self.number(), into }
    }

    fn records(&mut self) -> Vec<Record> {
        (0..self.below(4)).map(|_| self.record()).collect()
    }

    fn record(&mut self) -> Record {
        let (key, start_ts) = (self.bytes(), Timestamp(self.number()));
        match self.below(4) {
            0 => Record::Unlock { key },
            1 => Record::Value { key, start_ts, value: self.bytes() },
            2 => Record::Lock { key, lock: Lock::new(LockKind::Put, self.bytes(), start_ts, 1) },
            _ => {
                let write = Write::new(WriteKind::Put, start_ts, Some(self.bytes()));
                Record::Write { key, commit_ts: Timestamp(self.number()), write }
            }
        }
    }

    fn command(&mut self) -> Vec<u8> {
        let epoch = self.epoch();
        match self.below(7) {
            0 => command::encode_write(epoch, &self.records()),
            1 => {
                let count = self.below(3);
                let keys: Vec<_> = (0..count).map(|_| self.bytes()).collect();
                let children: Vec<_> = (0..count)
                    .map(|_| SplitChild {
                        region: RegionId(self.number()),
                        peers: (0..self.below(4)).map(|_| PeerId(self.number())).collect(),
                    })
                    .collect();
                command::encode_split(epoch, &keys, &children)
            }
            2 => {
                let peer = self.peer();
                let changes = [
                    PeerChange::AddLearner(peer),
                    PeerChange::AddVoter(peer),
                    PeerChange::Remove(peer),
                ];
                command::encode_change(epoch, changes[self.below(3) as usize])
            }
            3 => command::encode_prepare(epoch, &self.region(), self.number()),
            4 => {
                let first = 1 + (self.number() >> 2);
                let end = first + self.below(3);
                let entries = (first..end).map(|index| self.entry(index)).collect();
                let merge = MergeCommit { source: self.region(), commit: end - 1, entries };
                command::encode_commit(epoch, &merge)
            }
            5 => command::encode_rollback(epoch, self.number()),
            _ => command::encode_refuse(epoch, RegionId(self.number())),
        }
    }

    fn message(&mut self) -> Message {
        let entries = (0..self.below(3)).map(|_| Entry {
            entry_type: self.below(3) as i32,
            term: self.number(),
            index: self.number(),
            data: self.bytes(),
            context: self.bytes(),
            sync_log: false,
        });
        let entries = entries.collect();
        let snapshot = (self.below(3) == 0).then(|| {
            let region = self.region();
            let mut data = Vec::new();
            wire::put_region(&mut data, &region);
            wire::put_merge(&mut data, &self.merge());
            let (index, term) = (self.number() | 1, self.number());
            let conf_state = Some(wire::conf_state(&region));
            Snapshot { data, metadata: Some(SnapshotMetadata { conf_state, index, term }) }
        });
        Message {
            msg_type: self.below(19) as i32,
            to: self.number(),
            from: self.number(),
            term: self.number(),
            log_term: self.number(),
            index: self.number(),
            commit: self.number(),
            commit_term: self.number(),
            reject: self.below(2) == 0,
            reject_hint: self.number(),
            priority: self.number() as i64,
            context: self.bytes(),
            entries,
            snapshot,
            ..Message::default()
        }
    }
}

/// `make` gives valid bytes, which `read` must accept; then it is given spoilt ones, and answers
/// whether it has taken them.
fn walk(make: impl Fn(&mut Chance) -> Vec<u8>, read: impl Fn(&[u8]) -> bool) {
    let rounds = std::env::var("GARBAGE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let mut chance = Chance(1);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let mut bytes = make(&mut chance);
        assert!(read(&bytes), "round {round}: valid bytes are refused: {bytes:02x?}");
        if round % 16 == 0 {
            for len in 0..bytes.len() {
                read(&bytes[..len]);
            }
        }
        match round % 8 {
            0 => bytes = (0..chance.below(60)).map(|_| chance.below(256) as u8).collect(),
            _ => chance.spoil(&mut bytes),
        }
        *(if read(&bytes) { &mut taken } else { &mut refused }) += 1;
    }
    assert!(refused > 0, "{taken} spoilt, and none was refused: is anything checked?");
}

#[test]
fn log_entries() {
    let make = |chance: &mut Chance| {
        let (mut out, index) = (Vec::new(), chance.number());
        format::put_entry(&mut out, &chance.entry(index));
        out
    };
    walk(make, |mut bytes| {
        let Ok(entry) = format::take_entry(&mut bytes) else { return false };
        let mut again = Vec::new();
        format::put_entry(&mut again, &entry);
        assert_eq!(format::take_entry(&mut again.as_slice()), Ok(entry));
        true
    });
}

#[test]
fn log_operations() {
    let make = |chance: &mut Chance| {
        let (mut out, group) = (Vec::new(), RegionId(chance.number()));
        let hard =
            HardState { term: chance.number(), vote: chance.number(), commit: chance.number() };
        match chance.below(7) {
            0 => {
                let count = chance.below(4);
                format::put_entries_head(&mut out, group, chance.below(2) == 0, count as usize);
                for index in 0..count {
                    format::put_entry(&mut out, &chance.entry(index));
                }
            }
            1 => format::put_op(&mut out, group, &LogOp::HardState(hard)),
            2 => format::put_op(&mut out, group, &LogOp::CompactTo(chance.applied())),
            3 => format::put_op(&mut out, group, &LogOp::Reset(chance.applied())),
            4 => format::put_op(&mut out, group, &LogOp::Restoring(chance.applied())),
            5 => format::put_op(&mut out, group, &LogOp::Destroy),
            _ => {
                let truncated = chance.applied();
                let restoring = (chance.below(2) == 0).then(|| chance.applied());
                format::put_state(&mut out, group, hard, truncated, restoring);
            }
        }
        out
    };
    walk(make, |mut bytes| {
        let before = bytes.len();
        let Ok((_, op)) = format::take_op(&mut bytes) else { return false };
        if let format::Stored::Entries { entries, .. } = op {
            assert!(entries.len() <= before, "an entry has bytes");
            for stored in entries {
                // What is found in place is an entry, but perhaps of a kind that is unknown.
                if let Ok(entry) = format::take_entry(&mut &*stored.bytes) {
                    assert_eq!((entry.index, entry.term), (stored.index, stored.term));
                }
            }
        }
        true
    });
}

#[cfg(any(feature = "rocksdb", feature = "raft-engine"))]
#[test]
fn states_of_groups() {
    use crate::log_store::GroupLog;
    let make = |chance: &mut Chance| {
        let hard =
            HardState { term: chance.number(), vote: chance.number(), commit: chance.number() };
        let truncated = chance.applied();
        let restoring = (chance.below(2) == 0).then(|| chance.applied());
        format::encode_state(&GroupLog { hard, truncated, last: truncated, restoring })
    };
    walk(make, |bytes| {
        let Ok(state) = format::decode_state(bytes) else { return false };
        let again = format::decode_state(&format::encode_state(&state));
        assert_eq!(format!("{again:?}"), format!("{:?}", Ok::<_, ()>(state)));
        true
    });
}

/// A decoded command's bytes.
fn encode(Command { epoch, body }: &Command) -> Vec<u8> {
    match body {
        Body::Write(records) => command::encode_write(*epoch, records),
        Body::Split { keys, children } => command::encode_split(*epoch, keys, children),
        Body::Change(change) => command::encode_change(*epoch, *change),
        Body::Prepare { target, min_index } => command::encode_prepare(*epoch, target, *min_index),
        Body::Commit(merge) => command::encode_commit(*epoch, merge),
        Body::Rollback { commit } => command::encode_rollback(*epoch, *commit),
        Body::Refuse { source } => command::encode_refuse(*epoch, *source),
        Body::Joint(changes) => command::encode_joint(*epoch, changes),
        Body::Leave => command::encode_leave(*epoch),
    }
}

#[test]
fn commands() {
    walk(Chance::command, |bytes| {
        let Ok(command) = Command::decode(bytes) else { return false };
        assert_eq!(Command::decode(&encode(&command)).as_ref(), Ok(&command));
        let plain = LogEntry { data: bytes.to_vec(), ..LogEntry::default() };
        assert_eq!(command::is_plain(&plain), matches!(command.body, Body::Write(_)));
        true
    });
}

#[test]
fn messages() {
    walk(
        |chance| wire::encode_message(&chance.message()),
        |bytes| {
            let Ok(message) = wire::decode_message(bytes) else { return false };
            // A snapshot of nothing is not sent; one that a peer sends all the same is read.
            if message.snapshot.as_ref().is_none_or(|snapshot| !snapshot.is_empty()) {
                let again = wire::decode_message(&wire::encode_message(&message));
                assert_eq!(again, Ok(message));
            }
            true
        },
    );
}

#[test]
fn notices_words_and_parts_of_snapshots() {
    let make = |chance: &mut Chance| match chance.below(6) {
        0 => wire::encode_merged(RegionId(chance.number())),
        1 => wire::encode_hopeless(chance.number()),
        2 => wire::encode_chunks_here(chance.number(), chance.number()),
        3 => wire::encode_chunk(&SnapshotChunk {
            stream: chance.number(),
            at: chance.number(),
            last: chance.below(2) == 0,
            message: chance.bytes(),
            data: chance.bytes(),
        }),
        4 => chance.safe_word().encode(),
        _ => Word::Ask(Position { term: chance.number(), index: chance.number() }).encode(),
    };
    walk(make, |bytes| {
        let merged = wire::decode_merged(bytes);
        let hopeless = wire::decode_hopeless(bytes);
        let word = Word::decode(bytes);
        let safe = SafeWord::decode(bytes);
        let here = wire::decode_chunks_here(bytes);
        let chunk = wire::decode_chunk(bytes).and_then(Result::ok);
        let found = [
            merged.is_some(),
            hopeless.is_some(),
            word.is_some(),
            safe.is_some(),
            here.is_some(),
            chunk.is_some(),
            wire::decode_message(bytes).is_ok(),
        ];
        assert!(found.into_iter().filter(|found| *found).count() <= 1, "one meaning: {bytes:?}");
        if let Some(chunk) = &chunk {
            let again = wire::decode_chunk(&wire::encode_chunk(chunk));
            assert_eq!(again, Some(Ok(chunk.clone())));
        }
        if let Some(word) = word {
            assert!(Word::decode(&word.encode()).is_some());
        }
        if let Some(safe) = &safe {
            assert_eq!(SafeWord::decode(&safe.encode()).as_ref(), Some(safe));
        }
        found.contains(&true)
    });
}

#[test]
fn regions_with_what_merges_have_left() {
    let make = |chance: &mut Chance| {
        let mut out = Vec::new();
        wire::put_region(&mut out, &chance.region());
        wire::put_merge(&mut out, &chance.merge());
        out
    };
    walk(make, |mut bytes| {
        let Ok(region) = wire::take_region(&mut bytes) else { return false };
        let Ok(merge) = wire::take_merge(&mut bytes) else { return false };
        let mut again = Vec::new();
        wire::put_region(&mut again, &region);
        wire::put_merge(&mut again, &merge);
        let again = &mut again.as_slice();
        assert_eq!(wire::take_region(again), Ok(region));
        assert_eq!(wire::take_merge(again), Ok(merge));
        true
    });
}

/// Its checksum is made right again, so that what is behind it is met too.
#[test]
fn chunks_of_a_content() {
    let make = |chance: &mut Chance| {
        let mut chunk = ChunkBuilder::default();
        for family in [Cf::Default, Cf::Lock, Cf::Write] {
            chunk.push(family, &chance.bytes(), &chance.bytes());
        }
        chunk.finish()
    };
    walk(make, |bytes| {
        let mut bytes = bytes.to_vec();
        if bytes.len() >= 8 {
            let crc = crc32fast::hash(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        let Ok(mut reader) = ChunkReader::new(&bytes) else { return false };
        loop {
            match reader.next_pair() {
                Ok(Some(pair)) => assert!(pair.key.len() + pair.value.len() < bytes.len()),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    });
}
