//! Where the bound of an oracle is kept: the seam, and a file. It must never return a bound that
//! was not written whole.
//!
//! ```text
//! "DTSO"  version u32  bound u64  crc32 u32        big-endian; the crc covers the 16 bytes before
//! ```

use crate::error::Error;
use damask_env::Disk;
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"DTSO";
const VERSION: u32 = 1;
const LEN: usize = 20;

/// The file's bytes.
pub(crate) fn encode(bound: Timestamp) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&VERSION.to_be_bytes());
    out[8..16].copy_from_slice(&bound.0.to_be_bytes());
    let crc = crc32fast::hash(&out[..16]);
    out[16..].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The bound in the file's bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Timestamp, Error> {
    let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("the saved bound: {what}"));
    let bytes: &[u8; LEN] = bytes.try_into().map_err(|_| corrupt("wrong length"))?;
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    if &bytes[..4] != MAGIC {
        return Err(corrupt("not a bound"));
    }
    if u32_at(16) != crc32fast::hash(&bytes[..16]) {
        return Err(corrupt("wrong checksum"));
    }
    if u32_at(4) != VERSION {
        return Err(corrupt("a version that this program does not know"));
    }
    Ok(Timestamp(u64::from_be_bytes(bytes[8..16].try_into().expect("8 bytes"))))
}

/// Where an oracle keeps its bound. One oracle at a time writes; a replicated store makes sure.
pub trait BoundStore: Send + Sync {
    /// The bound that was saved last, by whichever oracle; ZERO if none ever was. A replicated
    /// store answers only as the leader, with everything that was committed before it became one.
    fn load(&self) -> Result<Timestamp, Error>;
    /// Saves a bound; durable when it returns. After an error it may be saved or not.
    fn save(&self, bound: Timestamp) -> Result<(), Error>;
    /// May timestamps that have been taken below the saved bound be given out? Asked after they
    /// were taken: a replicated store refuses (`Reroute`) once its lease may have ended, since a
    /// successor gives out later ones.
    fn may_serve(&self) -> Result<(), Error>;
}

/// A file on a disk of this process's own.
pub struct FileBound {
    disk: Arc<dyn Disk>,
    name: String,
}

impl FileBound {
    /// In the file of this name.
    pub fn new(disk: Arc<dyn Disk>, name: &str) -> FileBound {
        FileBound { disk, name: name.to_owned() }
    }
}

impl BoundStore for FileBound {
    fn load(&self) -> Result<Timestamp, Error> {
        match self.disk.map(&self.name) {
            Ok(content) => decode(&content),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Timestamp::ZERO),
            Err(e) => Err(e.into()),
        }
    }

    fn save(&self, bound: Timestamp) -> Result<(), Error> {
        self.disk.replace(&self.name, &encode(bound))?;
        Ok(())
    }

    fn may_serve(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A bound in memory that several oracles may share, of which one holds the lease: the model of a
/// replicated store.
#[derive(Clone, Default)]
pub struct MemoryBound {
    shared: Arc<Mutex<(Timestamp, u64)>>,
    /// The lease that this handle has taken.
    lease: u64,
}

impl MemoryBound {
    /// Nothing was saved yet.
    pub fn new() -> MemoryBound {
        MemoryBound::default()
    }

    /// A handle for the next leader. From here on every earlier handle is refused.
    pub fn elect(&self) -> MemoryBound {
        let mut shared = self.shared.lock();
        shared.1 += 1;
        MemoryBound { shared: self.shared.clone(), lease: shared.1 }
    }

    fn check(&self, lease: u64) -> Result<(), Error> {
        if lease == self.lease {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Reroute, "another oracle is the leader"))
    }
}

impl BoundStore for MemoryBound {
    fn load(&self) -> Result<Timestamp, Error> {
        let shared = self.shared.lock();
        self.check(shared.1)?;
        Ok(shared.0)
    }

    fn save(&self, bound: Timestamp) -> Result<(), Error> {
        let mut shared = self.shared.lock();
        self.check(shared.1)?;
        shared.0 = bound;
        Ok(())
    }

    fn may_serve(&self) -> Result<(), Error> {
        self.check(self.shared.lock().1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let bytes = encode(Timestamp(0x0102_0304_0506_0708));
        let expected = [
            0x44, 0x54, 0x53, 0x4f, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, //
        ];
        assert_eq!(bytes[..16], expected);
        assert_eq!(bytes[16..], crc32fast::hash(&expected).to_be_bytes());
        assert_eq!(decode(&bytes).expect("whole"), Timestamp(0x0102_0304_0506_0708));
    }

    #[test]
    fn conforms() {
        let disk = Arc::new(damask_env::MemoryDisk::new());
        crate::testing::bound_suite(|round| {
            Box::new(FileBound::new(disk.clone(), &format!("bound-{round}")))
        });
        crate::testing::bound_suite(|_| Box::new(MemoryBound::new()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = encode(Timestamp(77));
        for at in 0..LEN * 8 {
            let mut bad = bytes;
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(decode(&bad).expect_err("flipped").kind(), ErrorKind::Corrupt);
        }
        for len in 0..LEN {
            assert_eq!(decode(&bytes[..len]).expect_err("cut").kind(), ErrorKind::Corrupt);
        }
    }

    /// Bytes of any kind and length, among them the right ones with others behind or between.
    #[test]
    fn no_bytes_break_the_decoder() {
        let mut seed = 1u64;
        let mut chance = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        for round in 0..20_000 {
            let mut bytes: Vec<u8> = match round % 2 {
                0 => (0..chance(60)).map(|_| chance(256) as u8).collect(),
                _ => encode(Timestamp(chance(1 << 30) << 20)).to_vec(),
            };
            for _ in 0..=chance(3) {
                let at = chance(bytes.len() as u64 + 1) as usize;
                match chance(3) {
                    0 => bytes.insert(at, chance(256) as u8),
                    1 => bytes.truncate(at),
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = chance(256) as u8),
                }
            }
            match decode(&bytes) {
                Ok(bound) => assert_eq!(encode(bound)[..], bytes, "what is accepted is whole"),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{bytes:?}"),
            }
        }
    }
}
