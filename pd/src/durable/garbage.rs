//! Bytes of any kind as the placement driver's state: one that comes back, or `Corrupt`. The
//! checksum is made right after the damage, so that what is behind it is met too; it must never
//! panic, nor take memory by a number that it has read.
//!
//! A fuzz target, the same in each run. A longer walk: `GARBAGE_ROUNDS=10000000 cargo test
//! --release -p damask-pd garbage`.

use super::*;
use crate::values::{Intent, StoreKind};
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, RegionId};

const ROUNDS: u32 = 15_000;

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

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(6)).map(|_| self.below(256) as u8).collect()
    }

    fn range(&mut self) -> KeyRange {
        KeyRange::new(self.bytes(), self.bytes())
    }

    fn durable(&mut self) -> Durable {
        let mut durable = Durable {
            cluster_id: self.below(1 << 60),
            id_bound: self.below(1 << 60),
            ..Durable::default()
        };
        let id = StoreId(self.below(9));
        if self.below(2) == 0 {
            let role = [PeerRole::Voter, PeerRole::Learner][self.below(2) as usize];
            durable.first = Some(Region {
                id: RegionId(self.below(99)),
                range: self.range(),
                epoch: Epoch { conf_ver: self.below(9), version: self.below(9) },
                peers: vec![Peer { id: PeerId(self.below(99)), store: id, role }],
            });
            durable.initialised.insert(id);
        }
        if self.below(2) == 0 {
            let kind = [StoreKind::Row, StoreKind::Column][self.below(2) as usize];
            durable.stores.push(StoreInfo { id, kind, address: "a\"\\ä:1".to_owned() });
            let intent = [Intent::Serve, Intent::Evict, Intent::Drain][self.below(3) as usize];
            let labels = BTreeMap::from([("zone".to_owned(), "{}".to_owned())]);
            durable.settings.insert(id, StoreSettings { intent, labels });
            durable.rules.push(ColumnRule { range: self.range(), replicas: 1 });
            durable.marks.insert(Mark::SafePoint, self.below(1 << 60));
        }
        durable
    }

    /// A byte changed, added or removed, the end cut, a large number or many brackets.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = 8 + self.below(bytes.len() as u64 - 7) as usize;
            let at = at.min(bytes.len());
            match self.below(6) {
                0 => bytes.insert(at, b"{}[]\",:-.0e9"[self.below(12) as usize]),
                1 => bytes.truncate(at.max(8)),
                2 => drop(bytes.drain(at..(at + 1).min(bytes.len()))),
                3 => drop(bytes.splice(at..at, *b"99999999999999999999e999")),
                4 => drop(bytes.splice(at..at, std::iter::repeat_n(b'[', 5_000))),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = self.below(256) as u8),
            }
        }
    }
}

#[test]
fn damaged_states_are_refused_or_come_back() {
    let rounds = std::env::var("GARBAGE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let mut chance = Chance(1);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let durable = chance.durable();
        let mut bytes = durable.encode();
        assert_eq!(Durable::decode(&bytes).expect("it was just made"), durable, "round {round}");
        chance.spoil(&mut bytes);
        if round % 2 == 0 {
            // In the format before, whose checksum does not cover the magic.
            bytes[..4].copy_from_slice(MAGIC_2);
        }
        let covered = match round % 2 {
            0 => bytes[8..].to_vec(),
            _ => [&bytes[..4], &bytes[8..]].concat(),
        };
        bytes[4..8].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
        match Durable::decode(&bytes) {
            Ok(durable) => {
                taken += 1;
                assert_eq!(Durable::decode(&durable.encode()).expect("just made"), durable);
            }
            Err(e) => {
                refused += 1;
                assert!(matches!(e, Error::Corrupt(_)), "round {round}: {e}");
            }
        }
        let garbage: Vec<u8> = (0..chance.below(60)).map(|_| chance.below(256) as u8).collect();
        assert!(matches!(Durable::decode(&garbage), Err(Error::Corrupt(_))));
    }
    assert!(taken > 0 && refused > taken / 100, "{taken} taken, {refused} refused");
}
