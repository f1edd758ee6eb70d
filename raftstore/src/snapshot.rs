//! A region's content as chunks: what a leader streams to a replica that is too far behind
//! (`store_core/snapshots.rs`), and what a learner decodes. It must never hand out a pair of a
//! chunk whose checksum is wrong.
//!
//! ```text
//! chunk   0  4  magic "DSC1"
//!         4  4  crc32 of the rest, LE
//!         8  …  pair*
//! pair    family u8 (0 default, 1 lock, 2 write), key length, key, value length, value
//! ```
//! Lengths are varints. Pairs are ordered by family, then key, over all chunks; keys are the
//! engine's (`enc(key) !ts`).

mod staging;

pub(crate) use staging::Staging;

use crate::command::take_bytes;
use crate::error::{Error, Result};
use crate::machine::{SnapshotChunks, SnapshotPiece, SnapshotSource};
use damask_kv::Cf;
use damask_types::codec::{put_var_u64, take_u8, take_var_u64};

/// A chunk is closed when it has this many bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// The families in a snapshot, in order.
pub const FAMILIES: [Cf; 3] = [Cf::Default, Cf::Lock, Cf::Write];

const MAGIC: &[u8; 4] = b"DSC1";
const HEADER: usize = 8;

/// One chunk in the making.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    bytes: Vec<u8>,
}

impl ChunkBuilder {
    /// Adds a pair; families and keys must not go back.
    pub fn push(&mut self, family: Cf, key: &[u8], value: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(MAGIC);
            self.bytes.resize(HEADER, 0);
        }
        self.bytes.push(family as u8);
        for bytes in [key, value] {
            put_var_u64(&mut self.bytes, bytes.len() as u64);
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// No pair yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// With its checksum; no bytes at all if there was no pair.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.bytes.is_empty() {
            let crc = crc32fast::hash(&self.bytes[HEADER..]);
            self.bytes[4..HEADER].copy_from_slice(&crc.to_le_bytes());
        }
        self.bytes
    }
}

/// Makes chunks of pairs that come in order.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    chunks: SnapshotChunks,
    open: ChunkBuilder,
}

impl ChunkWriter {
    /// No pairs yet.
    pub fn new() -> ChunkWriter {
        ChunkWriter::default()
    }

    /// Adds a pair; families and keys must not go back.
    pub fn push(&mut self, family: Cf, key: &[u8], value: &[u8]) {
        self.open.push(family, key, value);
        if self.open.len() >= CHUNK_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        self.chunks.push(std::mem::take(&mut self.open).finish());
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

/// Is the checksum right? No bytes are a chunk without a pair.
pub fn verify(chunk: &[u8]) -> Result<()> {
    if chunk.is_empty() { Ok(()) } else { ChunkReader::new(chunk).map(|_| ()) }
}

/// A content that is in memory as a whole: its parts are its chunks, whatever size is asked for.
#[derive(Debug)]
pub struct Whole {
    chunks: SnapshotChunks,
}

impl Whole {
    /// Of these chunks.
    pub fn new(chunks: SnapshotChunks) -> Whole {
        Whole { chunks }
    }
}

impl SnapshotSource for Whole {
    fn read(&self, from: &[u8], _bytes: usize) -> Result<SnapshotPiece> {
        let at = if from.is_empty() { 0 } else { take_var_u64(&mut &*from)? as usize };
        let next = (at + 1 < self.chunks.len()).then(|| {
            let mut position = Vec::new();
            put_var_u64(&mut position, at as u64 + 1);
            position
        });
        match self.chunks.get(at) {
            Some(chunk) => Ok(SnapshotPiece { chunk: chunk.clone(), next }),
            None if at == 0 => Ok(SnapshotPiece { chunk: Vec::new(), next: None }),
            None => Err(Error::Invalid(format!("a snapshot has no part {at}"))),
        }
    }
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
            assert!(verify(&chunks[0]).is_err(), "byte {byte}");
            chunks[0][byte] ^= 4;
        }
        assert!(verify(&chunks[0]).is_ok());
    }
}
