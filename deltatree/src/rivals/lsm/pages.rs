//! Where runs are kept: a small ordered map of bytes with a log, and large files of pages that are
//! loaded past it. A seam with two sides: this one in memory, and RocksDB. It must never lose a
//! commit that returned.

use crate::error::Result;
use crate::store::Written;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Why pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The first time they leave memory.
    Flush,
    /// Young runs are made one.
    Compaction,
    /// Young runs are made one with the oldest.
    Merge,
}

/// A key and its bytes; `None` removes the key.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Writes one file of pages, keys ascending.
pub(super) trait Loading {
    fn put(&mut self, key: &[u8], page: &[u8]) -> Result<()>;
    /// All or nothing; durable.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// The keeper of pages. A page is found among the large or the small ones, as its run says.
pub(super) trait Pages: Send + Sync {
    fn get(&self, large: bool, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Small pairs whose key begins so.
    fn list(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
    /// Changes of small pairs, all or none; durable.
    fn commit(&self, changes: Vec<Change>) -> Result<()>;
    fn load(&self, cause: Cause) -> Result<Box<dyn Loading + '_>>;
    /// Removes pages of `[start, end)`; a crash may bring them back.
    fn remove(&self, large: bool, start: &[u8], end: &[u8]) -> Result<()>;
    /// The first key at or behind `start`.
    fn next(&self, large: bool, start: &[u8]) -> Result<Option<Vec<u8>>>;
    fn written(&self) -> Written;
    fn disk_bytes(&self) -> u64;
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct Maps {
    small: Map,
    large: Map,
    written: Written,
}

/// Pages in memory: they are gone with it.
#[derive(Default)]
pub(super) struct MemoryPages(Mutex<Maps>);

impl Pages for MemoryPages {
    fn get(&self, large: bool, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let maps = self.0.lock();
        Ok(if large { &maps.large } else { &maps.small }.get(key).cloned())
    }

    fn list(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let maps = self.0.lock();
        let pairs = maps.small.range(prefix.to_vec()..);
        let pairs = pairs.take_while(|(key, _)| key.starts_with(prefix));
        Ok(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&self, changes: Vec<Change>) -> Result<()> {
        let mut maps = self.0.lock();
        for (key, value) in changes {
            match value {
                Some(value) => {
                    maps.written.log += (key.len() + value.len()) as u64;
                    maps.small.insert(key, value);
                }
                None => drop(maps.small.remove(&key)),
            }
        }
        Ok(())
    }

    fn load(&self, cause: Cause) -> Result<Box<dyn Loading + '_>> {
        Ok(Box::new(MemoryLoading { pages: self, cause, pairs: Vec::new() }))
    }

    fn remove(&self, large: bool, start: &[u8], end: &[u8]) -> Result<()> {
        let mut maps = self.0.lock();
        let map = if large { &mut maps.large } else { &mut maps.small };
        let keys: Vec<_> = map.range(start.to_vec()..end.to_vec()).map(|p| p.0.clone()).collect();
        keys.iter().for_each(|key| drop(map.remove(key)));
        Ok(())
    }

    fn next(&self, large: bool, start: &[u8]) -> Result<Option<Vec<u8>>> {
        let maps = self.0.lock();
        let map = if large { &maps.large } else { &maps.small };
        Ok(map.range(start.to_vec()..).next().map(|pair| pair.0.clone()))
    }

    fn written(&self) -> Written {
        self.0.lock().written
    }

    fn disk_bytes(&self) -> u64 {
        let maps = self.0.lock();
        let pairs = maps.small.iter().chain(&maps.large);
        pairs.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

struct MemoryLoading<'a> {
    pages: &'a MemoryPages,
    cause: Cause,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Adds bytes to what a cause wrote.
pub(super) fn count(written: &mut Written, cause: Cause, bytes: u64) {
    match cause {
        Cause::Flush => written.flush += bytes,
        Cause::Compaction => written.compaction += bytes,
        Cause::Merge => written.merge += bytes,
    }
}

impl Loading for MemoryLoading<'_> {
    fn put(&mut self, key: &[u8], page: &[u8]) -> Result<()> {
        self.pairs.push((key.to_vec(), page.to_vec()));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let bytes = self.pairs.iter().map(|(key, page)| (key.len() + page.len()) as u64).sum();
        let mut maps = self.pages.0.lock();
        count(&mut maps.written, self.cause, bytes);
        maps.large.extend(self.pairs);
        Ok(())
    }
}
