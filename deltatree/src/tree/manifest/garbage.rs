//! Bytes of any kind as a manifest: one that comes back byte for byte, or `Corrupt`. The checksum
//! is made right after the damage, so that what is behind it is met too; it must never panic, nor
//! take memory by a number that it has read.
//!
//! A fuzz target, the same in each run. A longer walk: `GARBAGE_ROUNDS=10000000 cargo test
//! --release -p damask-deltatree garbage`.

use super::*;
use damask_types::ErrorKind;

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

    fn manifest(&mut self) -> Manifest {
        let mut manifest = Manifest { first_log: self.below(1 << 40), ..Manifest::default() };
        let mut last = 0;
        for _ in 0..self.below(4) {
            let mut first = i64::MIN;
            let segments = (0..=self.below(3)).map(|_| {
                let file = (self.below(9) != 0).then(|| last + 1 + self.below(9));
                last = file.unwrap_or(last);
                let segment = Durable { first, file, merged: self.below(1 << 60) };
                first = first.wrapping_add(1 + self.below(1 << 40) as i64);
                segment
            });
            let segments = segments.collect();
            manifest.tables.insert(TableId(self.below(1 << 50) as i64), segments);
        }
        manifest
    }

    /// A byte changed, added or removed, the end cut, or a number as large as numbers are.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() as u64 + 1) as usize;
            match self.below(5) {
                0 => bytes.insert(at, self.below(256) as u8),
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..(at + 1).min(bytes.len()))),
                3 => bytes.iter_mut().skip(at & !3).take(4).for_each(|b| *b = 0xFF),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = self.below(256) as u8),
            }
        }
    }
}

#[test]
fn damaged_manifests_are_refused_or_come_back() {
    let rounds = std::env::var("GARBAGE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let mut chance = Chance(1);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let manifest = chance.manifest();
        let mut bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).expect("it was just made"), manifest, "round {round}");
        match round % 8 {
            0 => bytes = (0..chance.below(60)).map(|_| chance.below(256) as u8).collect(),
            _ => chance.spoil(&mut bytes),
        }
        if let Some(at) = bytes.len().checked_sub(4) {
            let crc = crc32fast::hash(&bytes[..at]);
            bytes[at..].copy_from_slice(&crc.to_le_bytes());
        }
        match Manifest::decode(&bytes) {
            Ok(manifest) => {
                taken += 1;
                assert_eq!(manifest.encode(), bytes, "round {round}: there is one form of each");
            }
            Err(e) => {
                refused += 1;
                assert_eq!(e.kind(), ErrorKind::Corrupt, "round {round}");
            }
        }
    }
    assert!(taken > 0 && refused > taken / 100, "{taken} taken, {refused} refused");
}
