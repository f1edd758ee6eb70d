//! Bulk loads: sorted pairs that come in beside the write path. What backends share: the check of
//! the order, and a plain form for engines without files. It must never let half a load be seen.

use crate::engine::{Cf, Engine, Ingestion, KEY_BYTES_MAX, Op, VALUE_BYTES_MAX, WriteBatch};
use crate::error::{Error, Result};
use damask_types::ErrorKind;

/// Keys of a load must rise; counts the pairs.
#[derive(Debug, Default)]
pub struct Ascending {
    last: Vec<u8>,
    pairs: u64,
}

impl Ascending {
    /// Refuses a pair that no batch could hold, or whose key does not follow.
    pub fn check(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let invalid = |detail: String| Err(Error::new("ingest", ErrorKind::Invalid, detail));
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return invalid(format!("key of {} bytes", key.len()));
        }
        if value.len() > VALUE_BYTES_MAX {
            return invalid(format!("value of {} bytes", value.len()));
        }
        if self.pairs > 0 && key <= self.last.as_slice() {
            return invalid("keys must rise".to_owned());
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        self.pairs += 1;
        Ok(())
    }

    /// Pairs so far.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }
}

/// A load that is one batch: for engines without a path of their own. Holds all pairs in memory.
pub struct BatchIngestion<'a> {
    engine: &'a dyn Engine,
    cf: Cf,
    order: Ascending,
    batch: WriteBatch,
}

impl<'a> BatchIngestion<'a> {
    /// Into this family.
    pub fn new(engine: &'a dyn Engine, cf: Cf) -> BatchIngestion<'a> {
        BatchIngestion { engine, cf, order: Ascending::default(), batch: WriteBatch::default() }
    }
}

impl Ingestion for BatchIngestion<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.order.check(key, value)?;
        self.batch.ops.push(Op::Put(self.cf, key.to_vec(), value.to_vec()));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        self.engine.write(self.batch)?;
        self.engine.sync()?;
        Ok(self.order.pairs())
    }
}
