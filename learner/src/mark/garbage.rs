//! Bytes of any kind as a region's mark: a mark that comes back, or `Corrupt`. The checksum is made
//! right after the damage, so that what is behind it is met too; it must never panic, nor take
//! memory by a number that it has read.
//!
//! A fuzz target, the same in each run. A longer walk: `GARBAGE_ROUNDS=10000000 cargo test
//! --release -p damask-learner garbage`.

use super::*;
use damask_raftstore::{Absorbed, Prepared};
use damask_types::{ErrorKind, LockKind};

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

    fn number(&mut self) -> u64 {
        let bits = self.below(65);
        if bits == 64 { u64::MAX } else { self.below(1 << bits.min(63)) }
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(12)).map(|_| self.below(256) as u8).collect()
    }

    fn region(&mut self) -> Region {
        let peers = (0..self.below(4)).map(|_| Peer {
            id: PeerId(self.number()),
            store: StoreId(self.number()),
            role: [PeerRole::Voter, PeerRole::Learner][self.below(2) as usize],
        });
        let peers = peers.collect();
        let range = KeyRange::new(self.bytes(), self.bytes());
        let epoch = Epoch { conf_ver: self.number(), version: self.number() };
        Region { id: RegionId(self.number()), range, epoch, peers }
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

    fn mark(&mut self) -> (Seen, Hidden) {
        let state = RegionState {
            region: self.region(),
            applied: Applied { index: self.number(), term: self.number() },
            tombstone: self.below(2) == 0,
            merge: self.merge(),
        };
        let mut locks = BTreeMap::new();
        for _ in 0..self.below(3) {
            let start_ts = Timestamp(self.number());
            let mut lock = Lock::new(LockKind::Put, self.bytes(), start_ts, self.number());
            lock.short_value = (self.below(2) == 0).then(|| self.bytes());
            locks.insert(self.bytes(), Box::new(lock));
        }
        let mut hidden = Hidden::default();
        for _ in 0..self.below(3) {
            hidden.tables.insert(TableId(self.number() as i64));
            hidden.values.insert((self.bytes(), Timestamp(self.number())), self.bytes());
        }
        (Seen { state, locks, generation: 0, ready: true }, hidden)
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
}

/// The mark as what it was made of.
fn parts(mark: Mark) -> (Seen, Hidden) {
    let Mark { state, tables, locks, values } = mark;
    let hidden = Hidden { values, tables, ..Hidden::default() };
    (Seen { state, locks, generation: 0, ready: true }, hidden)
}

#[test]
fn damaged_marks_are_refused_or_come_back() {
    let rounds = std::env::var("GARBAGE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let mut chance = Chance(1);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let (seen, hidden) = chance.mark();
        let mut bytes = encode(&seen, &hidden);
        let whole = decode(&bytes).expect("it was just made");
        assert_eq!((&whole.state, &whole.locks), (&seen.state, &seen.locks), "round {round}");
        assert_eq!((&whole.tables, &whole.values), (&hidden.tables, &hidden.values));
        match round % 8 {
            0 => bytes = (0..chance.below(60)).map(|_| chance.below(256) as u8).collect(),
            _ => chance.spoil(&mut bytes),
        }
        if bytes.len() >= 5 {
            let crc = crc32fast::hash(&bytes[5..]);
            bytes[1..5].copy_from_slice(&crc.to_le_bytes());
        }
        match decode(&bytes) {
            Ok(mark) => {
                taken += 1;
                let (seen, hidden) = parts(mark);
                let again = decode(&encode(&seen, &hidden)).expect("just made");
                let (seen_again, hidden_again) = parts(again);
                assert_eq!((seen_again.state, seen_again.locks), (seen.state, seen.locks));
                assert_eq!(hidden_again.tables, hidden.tables);
                assert_eq!(hidden_again.values, hidden.values);
            }
            Err(e) => {
                refused += 1;
                assert_eq!(e.kind(), ErrorKind::Corrupt, "round {round}");
            }
        }
    }
    assert!(taken > 0 && refused > taken / 100, "{taken} taken, {refused} refused");
}
