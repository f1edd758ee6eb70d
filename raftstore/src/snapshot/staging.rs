//! Where chunks wait until all of a region's content is there: a file each, in a folder of their
//! own. Nothing in it outlives a restart, so that nothing is synced; and nothing in it is ever
//! served: only a machine's import makes it the region's content.

use super::verify;
use crate::error::{Error, Result};
use damask_env::{Disk, File};
use damask_types::RegionId;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;

/// The folder.
const FOLDER: &str = "staged";

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
        Ok(Staging { disk, regions: HashMap::new() })
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
        let starts = std::iter::once(0).chain(staged.ends.iter().copied());
        let spans = starts.zip(staged.ends.iter().copied()).filter(|(start, end)| start < end);
        Ok(spans.map(|(start, end)| staged.file.read_at(start, (end - start) as usize).map_err(io)))
    }

    /// Forgets what there is of a region.
    pub fn clear(&mut self, region: RegionId) -> Result<()> {
        if self.regions.remove(&region).is_some() {
            self.disk.remove(&name(region)).map_err(io)?;
        }
        Ok(())
    }
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
