//! The bound's bytes on disk. It must never return a bound that was not written whole.
//!
//! ```text
//! "DTSO"  version u32  bound u64  crc32 u32        big-endian; the crc covers the 16 bytes before
//! ```

use crate::error::Error;
use damask_env::Disk;
use damask_types::{ErrorKind, Timestamp};
use std::io;

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

/// The saved bound; `None` if nothing was ever saved.
pub(crate) fn load(disk: &dyn Disk, name: &str) -> Result<Option<Timestamp>, Error> {
    match disk.map(name) {
        Ok(content) => decode(&content).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Saves the bound; durable when it returns.
pub(crate) fn save(disk: &dyn Disk, name: &str, bound: Timestamp) -> Result<(), Error> {
    disk.replace(name, &encode(bound))?;
    Ok(())
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
}
