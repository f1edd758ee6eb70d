//! A whole engine in one file, as a start for your own: sorted maps behind a lock, copied for every
//! snapshot. Run it, and the suite says what is missing: `cargo run --example new_engine`.

use bytes::Bytes;
use damask_kv::engine::is_empty_range;
use damask_kv::{
    BatchIngestion, Capabilities, Cf, Cursor, Engine, Error, Estimate, Ingestion, Op, Pair, Result,
    Snapshot, WriteBatch,
};
use damask_types::ErrorKind;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

type Families = [BTreeMap<Vec<u8>, Vec<u8>>; 4];

/// Copy-on-write: a snapshot shares the maps, the next write copies them.
#[derive(Default)]
struct CopyEngine {
    families: Mutex<Arc<Families>>,
}

impl Engine for CopyEngine {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(View(self.families.lock().clone()))
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        batch.validate()?;
        let mut shared = self.families.lock();
        let families = Arc::make_mut(&mut shared);
        for op in batch.ops {
            match op {
                Op::Put(cf, key, value) => drop(families[cf as usize].insert(key, value)),
                Op::Delete(cf, key) => drop(families[cf as usize].remove(&key)),
                Op::DeleteRange(_, start, end) if is_empty_range(&start, &end) => {}
                Op::DeleteRange(cf, start, end) => families[cf as usize]
                    .retain(|key, _| *key < start || (!end.is_empty() && *key >= end)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        let view = View(self.families.lock().clone());
        let pairs = view.pairs(cf, start, end);
        let bytes = pairs.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        Ok(Estimate { bytes, keys: pairs.len() as u64 })
    }

    fn checkpoint(&self, _: &Path) -> Result<()> {
        Err(Error::new("checkpoint", ErrorKind::Invalid, "no files"))
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>> {
        Ok(Box::new(BatchIngestion::new(self, cf)))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { persistent: false, checkpoint: false, ingest: false }
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

struct View(Arc<Families>);

impl View {
    fn pairs(&self, cf: Cf, start: &[u8], end: &[u8]) -> Vec<(&[u8], &[u8])> {
        let inside = |key: &[u8]| key >= start && (end.is_empty() || key < end);
        let pairs = self.0[cf as usize].iter().filter(|(key, _)| inside(key));
        pairs.map(|(key, value)| (key.as_slice(), value.as_slice())).collect()
    }
}

impl Snapshot for View {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0[cf as usize].get(key).map(|value| Bytes::copy_from_slice(value)))
    }

    fn cursor<'a>(&'a self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Box<dyn Cursor + 'a>> {
        Ok(Box::new(Walk { pairs: self.pairs(cf, start, end), at: None }))
    }
}

struct Walk<'a> {
    pairs: Vec<Pair<'a>>,
    at: Option<usize>,
}

impl Walk<'_> {
    fn go(&mut self, at: Option<usize>) -> Result<Option<Pair<'_>>> {
        self.at = at.filter(|at| *at < self.pairs.len());
        Ok(self.current())
    }
}

impl Cursor for Walk<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.go(Some(self.pairs.partition_point(|(k, _)| *k < key)))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.go(self.pairs.partition_point(|(k, _)| *k <= key).checked_sub(1))
    }

    fn seek_to_last(&mut self) -> Result<Option<Pair<'_>>> {
        self.go(self.pairs.len().checked_sub(1))
    }

    fn next(&mut self) -> Result<Option<Pair<'_>>> {
        self.go(self.at.map(|at| at + 1))
    }

    fn prev(&mut self) -> Result<Option<Pair<'_>>> {
        self.go(self.at.and_then(|at| at.checked_sub(1)))
    }

    fn current(&self) -> Option<Pair<'_>> {
        self.at.map(|at| self.pairs[at])
    }
}

/// Runs the suite.
pub fn main() {
    damask_kv::testing::suite(|_| Ok(CopyEngine::default()));
    println!("the engine does what the seam says");
}
