//! Pages with a cache of decoded columns before them, and the keys that find them. It must never
//! hand out a page of another run.
//!
//! ```text
//! page    'p' | run u64 | chunk u32 | group u16       numbers big-endian
//! meta    'm' | run u64         runs of a table  't' | table u64       mark  'k' | key u64
//! ```

use super::codec;
use super::pages::Pages;
use super::run::Column;
use crate::error::Result;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// (run, chunk, group).
type Place = (u64, u32, u16);

#[derive(Default)]
struct Cache {
    columns: HashMap<Place, (Column, usize, bool)>,
    /// The order in which columns are given up, unless read again meanwhile.
    queue: VecDeque<Place>,
    bytes: usize,
}

impl Cache {
    fn get(&mut self, place: Place) -> Option<Column> {
        let (column, _, used) = self.columns.get_mut(&place)?;
        *used = true;
        Some(column.clone())
    }

    fn put(&mut self, place: Place, column: &Column, bytes: usize, limit: usize) {
        if self.columns.insert(place, (column.clone(), bytes, false)).is_none() {
            self.queue.push_back(place);
            self.bytes += bytes;
        }
        while self.bytes > limit {
            let Some(place) = self.queue.pop_front() else { return };
            match self.columns.get_mut(&place) {
                Some((_, _, used)) if *used => {
                    *used = false;
                    self.queue.push_back(place);
                }
                Some((_, bytes, _)) => {
                    self.bytes -= *bytes;
                    self.columns.remove(&place);
                }
                None => {}
            }
        }
    }

    fn forget(&mut self, run: u64) {
        let bytes = &mut self.bytes;
        self.columns.retain(|place, (_, size, _)| {
            if place.0 == run {
                *bytes -= *size;
            }
            place.0 != run
        });
        self.queue.retain(|place| place.0 != run);
    }
}

/// Pages of runs.
pub(super) struct Shelf {
    pub pages: Box<dyn Pages>,
    cache_bytes: usize,
    cache: Mutex<Cache>,
    /// Runs that nobody reads any more: id, large.
    garbage: Mutex<Vec<(u64, bool)>>,
}

pub(super) fn page_key(run: u64, chunk: usize, group: u16) -> Vec<u8> {
    let mut key = vec![b'p'];
    key.extend_from_slice(&run.to_be_bytes());
    key.extend_from_slice(&(chunk as u32).to_be_bytes());
    key.extend_from_slice(&group.to_be_bytes());
    key
}

/// The first key of a run's pages.
pub(super) fn run_start(run: u64) -> Vec<u8> {
    page_key(run, 0, 0)
}

/// A key of a small pair.
pub(super) fn key(kind: u8, id: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// The number in a key behind its first byte.
pub(super) fn id_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}

impl Shelf {
    pub fn new(pages: Box<dyn Pages>, cache_bytes: usize) -> Arc<Shelf> {
        let (cache, garbage) = (Mutex::default(), Mutex::default());
        Arc::new(Shelf { pages, cache_bytes, cache, garbage })
    }

    pub fn column(
        &self,
        run: u64,
        large: bool,
        chunk: usize,
        group: u16,
    ) -> Result<Option<Column>> {
        let place = (run, chunk as u32, group);
        if let Some(column) = self.cache.lock().get(place) {
            return Ok(Some(column));
        }
        let Some(page) = self.pages.get(large, &page_key(run, chunk, group))? else {
            return Ok(None);
        };
        let bytes = page.len();
        let column = codec::decode_column(page)?;
        self.cache.lock().put(place, &column, bytes, self.cache_bytes);
        Ok(Some(column))
    }

    /// Notes a run for `sweep`.
    pub fn discard(&self, run: u64, large: bool) {
        self.garbage.lock().push((run, large));
    }

    /// Removes the pages of runs that nobody reads.
    pub fn sweep(&self) -> Result<()> {
        let garbage = std::mem::take(&mut *self.garbage.lock());
        for (run, large) in garbage {
            self.cache.lock().forget(run);
            self.pages.remove(large, &run_start(run), &run_start(run + 1))?;
        }
        Ok(())
    }

    pub fn cached_bytes(&self) -> u64 {
        self.cache.lock().bytes as u64
    }
}
