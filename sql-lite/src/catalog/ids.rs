//! AUTO_INCREMENT values and hidden row ids, taken from the cluster in batches by small
//! transactions of their own. A value is never given twice, whatever becomes of the transaction
//! that asked; what is left of a batch when the process ends is lost.

use super::store::{number, transact};
use crate::error::{Error, Result};
use damask_txn::Client;
use damask_types::TableId;
use damask_types::schema::catalog as keys;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Ids of a table's first batch.
const BATCH_MIN: u64 = 4_000;
/// Batches double up to this.
const BATCH_MAX: u64 = 32_000;

/// Which counter of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// AUTO_INCREMENT.
    AutoIncrement,
    /// Hidden row ids.
    RowId,
}

#[derive(Debug, Default)]
struct Batch {
    next: u64,
    end: u64,
    size: u64,
}

/// A table's counter.
type Key = (TableId, Counter);

/// All counters of this node.
pub struct Ids {
    client: Client,
    batches: Mutex<HashMap<Key, Arc<Mutex<Batch>>>>,
}

fn stored_key((table, counter): Key) -> Vec<u8> {
    match counter {
        Counter::AutoIncrement => keys::auto_increment_key(table),
        Counter::RowId => keys::row_id_key(table),
    }
}

impl Ids {
    pub(super) fn new(client: Client) -> Ids {
        Ids { client, batches: Mutex::new(HashMap::new()) }
    }

    fn batch(&self, key: Key) -> Arc<Mutex<Batch>> {
        self.batches.lock().entry(key).or_default().clone()
    }

    /// `n` consecutive values; returns the first. Values start at 1.
    pub fn allocate(&self, table: TableId, counter: Counter, n: u64) -> Result<u64> {
        let key = (table, counter);
        let batch = self.batch(key);
        let mut batch = batch.lock();
        if batch.end - batch.next < n {
            batch.size = (batch.size * 2).clamp(BATCH_MIN, BATCH_MAX);
            let take = batch.size.max(n);
            let stored = stored_key(key);
            let (first, end) = transact(&self.client, |txn| {
                let next = number(txn, &stored)?.max(1);
                // The greatest number is never given: nothing would be above it.
                let end = next.saturating_add(take);
                if end - next < n {
                    return Err(exhausted());
                }
                crate::failure::catalog(txn.put(stored.clone(), end.to_string().into_bytes()))?;
                Ok((next, end))
            })?;
            // A batch that follows the last one without a gap is joined to it.
            if first != batch.end || batch.next == batch.end {
                batch.next = first;
            }
            batch.end = end;
        }
        let first = batch.next;
        batch.next += n;
        Ok(first)
    }

    /// A value was given by hand: values to come are above it.
    pub fn advance(&self, table: TableId, counter: Counter, used: u64) -> Result<()> {
        let key = (table, counter);
        let batch = self.batch(key);
        let mut batch = batch.lock();
        let next = used.saturating_add(1);
        if next <= batch.next {
            return Ok(());
        }
        if next <= batch.end {
            batch.next = next;
            return Ok(());
        }
        let stored = stored_key(key);
        transact(&self.client, |txn| {
            let now = number(txn, &stored)?;
            if now < next {
                crate::failure::catalog(txn.put(stored.clone(), next.to_string().into_bytes()))?;
            }
            Ok(())
        })?;
        (batch.next, batch.end) = (0, 0);
        Ok(())
    }

    /// The next value, for SHOW CREATE TABLE; `None` if this node has not given any.
    pub fn peek(&self, table: TableId) -> Option<u64> {
        let batch = self.batches.lock().get(&(table, Counter::AutoIncrement)).cloned()?;
        let batch = batch.lock();
        (batch.next > 1).then_some(batch.next)
    }

    /// The table is gone, or its counter was set anew.
    pub fn forget(&self, table: TableId) {
        let mut batches = self.batches.lock();
        batches.retain(|(id, _), _| *id != table);
    }
}

/// No value is left.
pub fn exhausted() -> Error {
    Error::auto_increment_exhausted("Failed to read auto-increment value from storage engine")
}
