//! A region's content as chunks: what goes with a snapshot message, and what a learner decodes.
//! It must never hand out a pair of a chunk whose checksum is wrong.
//!
//! ```text
//! chunk   0  4  magic "DSC1"
//!         4  4  crc32 of the rest, LE
//!         8  …  pair*
//! pair    family u8 (0 default, 1 lock, 2 write), key length, key, value length, value
//! ```
//! Lengths are varints. Pairs are ordered by family, then key, over all chunks; keys are the
//! engine's (`enc(key) !ts`).

use crate::command::take_bytes;
use crate::error::{Error, Result};
use crate::machine::SnapshotChunks;
use damask_kv::Cf;
use damask_types::codec::{put_var_u64, take_u8};

/// A chunk is closed when it has this many bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// The families in a snapshot, in order.
pub const FAMILIES: [Cf; 3] = [Cf::Default, Cf::Lock, Cf::Write];

const MAGIC: &[u8; 4] = b"DSC1";
const HEADER: usize = 8;

/// Makes chunks of pairs that come in order.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    chunks: SnapshotChunks,
    open: Vec<u8>,
}

impl ChunkWriter {
    /// No pairs yet.
    pub fn new() -> ChunkWriter {
        ChunkWriter::default()
    }

    /// Adds a pair; families and keys must not go back.
    pub fn push(&mut self, family: Cf, key: &[u8], value: &[u8]) {
        if self.open.is_empty() {
            self.open.extend_from_slice(MAGIC);
            self.open.resize(HEADER, 0);
        }
        self.open.push(family as u8);
        for bytes in [key, value] {
            put_var_u64(&mut self.open, bytes.len() as u64);
            self.open.extend_from_slice(bytes);
        }
        if self.open.len() >= CHUNK_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        let mut chunk = std::mem::take(&mut self.open);
        let crc = crc32fast::hash(&chunk[HEADER..]);
        chunk[4..HEADER].copy_from_slice(&crc.to_le_bytes());
        self.chunks.push(chunk);
    }

    /// All chunks; none if there was no pair.
    pub fn finish(mut self) -> SnapshotChunks {
        if !self.open.is_empty() {
            self.close();
        }
        self.chunks
    }
}

/// Reads the pairs of one chunk.
#[derive(Clone, Copy, Debug)]
pub struct ChunkReader<'a> {
    rest: &'a [u8],
}

/// A pair of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPair<'a> {
    /// Its family.
    pub family: Cf,
    /// The engine's key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl<'a> ChunkReader<'a> {
    /// Checks the checksum.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn new(chunk: &'a [u8]) -> Result<ChunkReader<'a>> {
        if chunk.len() < HEADER || &chunk[..4] != MAGIC {
            return Err(Error::corrupt("not a snapshot chunk"));
        }
        let crc = u32::from_le_bytes(chunk[4..HEADER].try_into().expect("4 bytes"));
        let rest = &chunk[HEADER..];
        if crc32fast::hash(rest) != crc {
            return Err(Error::corrupt("a snapshot chunk has a wrong checksum"));
        }
        Ok(ChunkReader { rest })
    }

    /// The next pair; `None` at the end.
    pub fn next_pair(&mut self) -> Result<Option<ChunkPair<'a>>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let family = match take_u8(&mut self.rest)? {
            0 => Cf::Default,
            1 => Cf::Lock,
            2 => Cf::Write,
            _ => return Err(Error::corrupt("a snapshot chunk names an unknown family")),
        };
        let key = take_bytes(&mut self.rest)?;
        Ok(Some(ChunkPair { family, key, value: take_bytes(&mut self.rest)? }))
    }
}

/// Are all checksums right?
pub fn verify(chunks: &SnapshotChunks) -> Result<()> {
    chunks.iter().try_for_each(|chunk| ChunkReader::new(chunk).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::key::Hex;

    #[test]
    fn pairs_come_back_in_order_over_chunks() {
        let mut writer = ChunkWriter::new();
        let value = vec![7; CHUNK_BYTES / 3];
        for i in 0..10u8 {
            writer.push(FAMILIES[usize::from(i / 4)], &[i], &value);
        }
        let chunks = writer.finish();
        assert!(chunks.len() > 2);
        let mut seen = Vec::new();
        for chunk in &chunks {
            let mut reader = ChunkReader::new(chunk).unwrap();
            while let Some(pair) = reader.next_pair().unwrap() {
                assert_eq!(pair.value, value);
                seen.push((pair.family, pair.key[0]));
            }
        }
        let expected: Vec<_> = (0..10u8).map(|i| (FAMILIES[usize::from(i / 4)], i)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn bytes_are_fixed_and_damage_is_seen() {
        let mut writer = ChunkWriter::new();
        writer.push(Cf::Lock, b"k", b"v");
        let mut chunks = writer.finish();
        assert_eq!(Hex(&chunks[0]).to_string(), "44534331417801a701016b0176");
        for byte in 0..chunks[0].len() {
            chunks[0][byte] ^= 4;
            assert!(verify(&chunks).is_err(), "byte {byte}");
            chunks[0][byte] ^= 4;
        }
        assert!(verify(&chunks).is_ok());
    }
}
