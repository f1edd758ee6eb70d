//! Where chunks wait until all of a region's content is there: a file for each region, in a folder
//! of their own. Nothing in it is ever served: only a machine's import makes it the region's content.
//!
//! ```text
//! file   chunk*                       nothing is synced, and a restart forgets it, until
//!        seal: ends of the chunks, u64 LE each
//!              4   how many, u32 LE
//!              4   crc32 of the ends, LE
//!              4   magic "DSE1"
//! ```
//! A seal is written, and all of it synced, before a machine begins to replace anything in more
//! than one write: after a crash in between the import is done again from there.

use super::verify;
use crate::error::{Error, Result};
use damask_env::{Disk, File, MemoryDisk};
use damask_types::RegionId;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

/// The folder.
const FOLDER: &str = "staged";
/// Ends a sealed file.
const MAGIC: &[u8; 4] = b"DSE1";
/// Bytes of a seal, beside the ends.
const SEAL: u64 = 12;

/// One stream's chunks, one behind the other.
struct Staged {
    stream: u64,
    file: Arc<dyn File>,
    /// Where each ends.
    ends: Vec<u64>,
}

/// Chunks of regions that are on their way here.
pub(crate) struct Staging {
    disk: Arc<dyn Disk>,
    /// What is synced outlives the process.
    is_durable: bool,
    regions: HashMap<RegionId, Staged>,
}

fn io(e: std::io::Error) -> Error {
    Error::io(FOLDER, &e)
}

fn name(region: RegionId) -> String {
    format!("{FOLDER}/{region}")
}

impl Staging {
    /// Removes what an earlier run has left.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Staging> {
        for left in disk.list(FOLDER).map_err(io)? {
            disk.remove(&format!("{FOLDER}/{left}")).map_err(io)?;
        }
        Ok(Staging { disk, is_durable: true, regions: HashMap::new() })
    }

    /// In memory: nothing can be sealed.
    pub fn in_memory() -> Staging {
        let disk = Arc::new(MemoryDisk::new());
        Staging { disk, is_durable: false, regions: HashMap::new() }
    }

    /// The chunks of a region that an earlier run has sealed.
    ///
    /// # Errors
    /// `Corrupt` if they are not there, or not whole: nobody else has what is missing here.
    pub fn sealed(disk: &dyn Disk, region: RegionId) -> Result<Vec<Range<u64>>> {
        let wrong = |what| {
            Error::corrupt(format!(
                "region {region}: a snapshot was being put in place, and {what}"
            ))
        };
        let file = disk.open(&name(region)).map_err(io)?;
        let len = file.len().map_err(io)?;
        let seal_at = len.checked_sub(SEAL).ok_or_else(|| wrong("its parts are gone"))?;
        let seal = file.read_at(seal_at, SEAL as usize).map_err(io)?;
        let word = |at: usize| u32::from_le_bytes(seal[at..at + 4].try_into().expect("4 bytes"));
        let bytes = u64::from(word(0)) * 8;
        let whole = seal[8..] == MAGIC[..] && bytes <= seal_at;
        if !whole {
            return Err(wrong("its parts were never sealed"));
        }
        let ends = file.read_at(seal_at - bytes, bytes as usize).map_err(io)?;
        if crc32fast::hash(&ends) != word(4) {
            return Err(wrong("the seal of its parts is damaged"));
        }
        let end = |at: &[u8]| u64::from_le_bytes(at.try_into().expect("8 bytes"));
        let ends: Vec<u64> = ends.chunks_exact(8).map(end).collect();
        let spans = spans(&ends);
        let ascend = ends.is_sorted() && ends.last().is_none_or(|last| *last == seal_at - bytes);
        if ascend { Ok(spans) } else { Err(wrong("the seal of its parts is damaged")) }
    }

    /// Reads sealed chunks.
    pub fn read_sealed<'a>(
        disk: &'a dyn Disk,
        region: RegionId,
        spans: &'a [Range<u64>],
    ) -> impl Iterator<Item = Result<Vec<u8>>> + 'a {
        spans.iter().map(move |span| {
            let file = disk.open(&name(region)).map_err(io)?;
            file.read_at(span.start, (span.end - span.start) as usize).map_err(io)
        })
    }

    /// Makes a stream's chunks, which are all here, outlive a crash. False: they do not, for there
    /// is no disk, or no room on it.
    ///
    /// # Errors
    /// A chunk that is damaged by now, or a disk that fails.
    pub fn seal(&mut self, region: RegionId, stream: u64) -> Result<bool> {
        if !self.is_durable {
            return Ok(false);
        }
        for chunk in self.chunks(region, stream)? {
            verify(&chunk?)?;
        }
        let Some(staged) = self.regions.get(&region) else { return Ok(false) };
        let ends: Vec<u8> = staged.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        let (count, crc) = (staged.ends.len() as u32, crc32fast::hash(&ends));
        let seal = [&ends[..], &count.to_le_bytes(), &crc.to_le_bytes(), MAGIC].concat();
        let before = staged.ends.last().copied().unwrap_or(0);
        if no_room(region, u64::from(count), staged.file.append(&seal))?.is_none() {
            staged.file.truncate(before).map_err(io)?;
            return Ok(false);
        }
        staged.file.sync().map_err(io)?;
        self.disk.sync_folder(FOLDER).map_err(io)?;
        Ok(true)
    }

    /// Keeps a stream's chunk, if it is the next one and sound. The first one of another stream
    /// takes the place of whatever was there.
    pub fn put(&mut self, region: RegionId, stream: u64, at: u64, chunk: &[u8]) -> Result<bool> {
        if verify(chunk).is_err() {
            tracing::warn!(%region, at, "a damaged chunk of a snapshot is dropped");
            return Ok(false);
        }
        if at == 0 {
            let file = self.disk.open(&name(region)).and_then(|file| {
                file.truncate(0)?;
                Ok(file)
            });
            let Some(file) = no_room(region, at, file)? else { return Ok(false) };
            self.regions.insert(region, Staged { stream, file, ends: Vec::new() });
        }
        let next = |s: &&mut Staged| s.stream == stream && s.ends.len() as u64 == at;
        let Some(staged) = self.regions.get_mut(&region).filter(next) else { return Ok(false) };
        let before = staged.ends.last().copied().unwrap_or(0);
        if no_room(region, at, staged.file.append(chunk))?.is_none() {
            // Those before it stay, and it comes again.
            staged.file.truncate(before).map_err(io)?;
            return Ok(false);
        }
        staged.ends.push(before + chunk.len() as u64);
        Ok(true)
    }

    /// The chunks of a stream, in order, one in memory at a time.
    ///
    /// # Errors
    /// `Invalid` if another stream's are there, or none.
    pub fn chunks(
        &self,
        region: RegionId,
        stream: u64,
    ) -> Result<impl Iterator<Item = Result<Vec<u8>>> + '_> {
        let staged = self.regions.get(&region).filter(|s| s.stream == stream);
        let staged = staged.ok_or_else(|| {
            Error::Invalid(format!("region {region}: the snapshot to install is not here"))
        })?;
        let read = |span: Range<u64>| {
            staged.file.read_at(span.start, (span.end - span.start) as usize).map_err(io)
        };
        Ok(spans(&staged.ends).into_iter().map(read))
    }

    /// Forgets what there is of a region.
    pub fn clear(&mut self, region: RegionId) -> Result<()> {
        if self.regions.remove(&region).is_some() {
            self.disk.remove(&name(region)).map_err(io)?;
        }
        Ok(())
    }
}

/// Chunks by where they end; those without a pair have no bytes.
fn spans(ends: &[u64]) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let spans = starts.zip(ends.iter().copied()).filter(|(start, end)| start < end);
    spans.map(|(start, end)| start..end).collect()
}

/// A full disk is no reason to stop: nothing that was promised is in doubt. `None`: it is full.
fn no_room<T>(region: RegionId, at: u64, done: std::io::Result<T>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            tracing::warn!(%region, at, "no room for a chunk of a snapshot: {e}");
            Ok(None)
        }
        Err(e) => Err(io(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ChunkBuilder;
    use super::*;
    use damask_env::{Fault, MemoryDisk};
    use damask_kv::Cf;

    const REGION: RegionId = RegionId(7);

    fn chunk(key: &str) -> Vec<u8> {
        let mut builder = ChunkBuilder::default();
        builder.push(Cf::Lock, key.as_bytes(), b"v");
        builder.finish()
    }

    fn all(staging: &Staging, stream: u64) -> Vec<Vec<u8>> {
        staging.chunks(REGION, stream).unwrap().map(|c| c.unwrap()).collect()
    }

    #[test]
    fn only_the_next_sound_chunk_of_the_stream_is_kept() {
        let mut staging = Staging::open(Arc::new(MemoryDisk::new())).unwrap();
        let (a, b) = (chunk("a"), chunk("b"));
        assert!(!staging.put(REGION, 1, 1, &b).unwrap(), "the first one is missing");
        assert!(staging.put(REGION, 1, 0, &a).unwrap());
        assert!(!staging.put(REGION, 1, 2, &b).unwrap(), "a gap");
        assert!(!staging.put(REGION, 2, 1, &b).unwrap(), "another stream");
        let mut damaged = b.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(!staging.put(REGION, 1, 1, &damaged).unwrap());
        assert!(staging.put(REGION, 1, 1, &b).unwrap());
        assert!(!staging.put(REGION, 1, 1, &b).unwrap(), "it is there");
        assert!(staging.put(REGION, 1, 2, &[]).unwrap());
        assert_eq!(all(&staging, 1), [a, b.clone()]);
        assert!(staging.chunks(REGION, 2).is_err());
        assert!(staging.put(REGION, 2, 0, &b).unwrap(), "a new stream begins");
        assert_eq!(all(&staging, 2), [b]);
        staging.clear(REGION).unwrap();
        assert!(staging.chunks(REGION, 2).is_err());
    }

    #[test]
    fn a_full_disk_keeps_what_is_there_until_it_has_room() {
        let disk = Arc::new(MemoryDisk::new());
        let mut staging = Staging::open(disk.clone()).unwrap();
        let (a, b) = (chunk("a"), chunk("b"));
        assert!(staging.put(REGION, 1, 0, &a).unwrap());
        let capacity = Some(a.len() as u64);
        disk.set_fault(Fault { capacity, ..Fault::default() });
        assert!(!staging.put(REGION, 1, 1, &b).unwrap());
        disk.set_fault(Fault::default());
        assert!(staging.put(REGION, 1, 1, &b).unwrap());
        assert_eq!(all(&staging, 1), [a, b]);
    }

    fn sealed(disk: &MemoryDisk) -> Result<Vec<Vec<u8>>> {
        let spans = Staging::sealed(disk, REGION)?;
        Staging::read_sealed(disk, REGION, &spans).collect()
    }

    #[test]
    fn what_is_sealed_outlives_a_crash_and_what_is_damaged_is_named() {
        let disk = Arc::new(MemoryDisk::new());
        let mut staging = Staging::open(disk.clone()).unwrap();
        let all = [chunk("a"), chunk("b"), Vec::new(), chunk("c")];
        for (at, chunk) in all.iter().enumerate() {
            assert!(staging.put(REGION, 1, at as u64, chunk).unwrap());
        }
        assert!(sealed(&disk.crash_image(|n| n)).is_err(), "not yet");
        assert!(staging.seal(REGION, 2).is_err(), "another stream");
        assert!(staging.seal(REGION, 1).unwrap());
        let image = disk.crash_image(|_| 0);
        let chunks = [&all[..2], &all[3..]].concat();
        assert_eq!(sealed(&image).unwrap(), chunks);
        // Cut or damaged in the seal.
        let file = name(REGION);
        let whole = image.map(&file).unwrap().to_vec();
        for len in 0..whole.len() {
            image.replace(&file, &whole[..len]).unwrap();
            assert_eq!(sealed(&image).unwrap_err().kind(), damask_types::ErrorKind::Corrupt);
        }
        let ends: usize = all.iter().map(Vec::len).sum();
        for at in ends..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            image.replace(&file, &damaged).unwrap();
            assert!(sealed(&image).is_err(), "byte {at}");
        }
        assert!(!Staging::in_memory().seal(REGION, 1).unwrap());
    }

    #[test]
    fn no_room_for_a_seal_is_no_failure() {
        let disk = Arc::new(MemoryDisk::new());
        let mut staging = Staging::open(disk.clone()).unwrap();
        let a = chunk("a");
        assert!(staging.put(REGION, 1, 0, &a).unwrap());
        disk.set_fault(Fault { capacity: Some(a.len() as u64), ..Fault::default() });
        assert!(!staging.seal(REGION, 1).unwrap());
        assert_eq!(self::all(&staging, 1), [a]);
    }

    #[test]
    fn a_restart_leaves_nothing() {
        let disk = Arc::new(MemoryDisk::new());
        let mut staging = Staging::open(disk.clone()).unwrap();
        assert!(staging.put(REGION, 1, 0, &chunk("a")).unwrap());
        assert_eq!(disk.list(FOLDER).unwrap().len(), 1);
        let again = Staging::open(disk.clone()).unwrap();
        assert!(disk.list(FOLDER).unwrap().is_empty() && again.chunks(REGION, 1).is_err());
    }
}
