//! What a crash would leave of a memory engine. It must never be used where memory counts: every
//! durable pair is held a second time.

use crate::engine::{Cf, Op, WriteBatch, is_empty_range};
use std::collections::BTreeMap;

type Durable = BTreeMap<Vec<u8>, Vec<u8>>;

/// The durable pairs, and the batches that are not durable yet.
#[derive(Default)]
pub(super) struct Journal {
    durable: [Durable; 4],
    pending: Vec<WriteBatch>,
}

impl Journal {
    pub fn wrote(&mut self, batch: &WriteBatch) {
        self.pending.push(batch.clone());
    }

    pub fn synced(&mut self) {
        for batch in std::mem::take(&mut self.pending) {
            batch.ops.into_iter().for_each(|op| apply(&mut self.durable, op));
        }
    }

    pub fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// Batches that make the state after a crash: one of durable pairs, then a prefix.
    pub fn after_crash(&self, keep: usize) -> Vec<WriteBatch> {
        let mut durable = WriteBatch::default();
        for cf in Cf::ALL {
            for (key, value) in &self.durable[cf as usize] {
                durable.put(cf, key.clone(), value.clone());
            }
        }
        let prefix = self.pending.iter().take(keep).cloned();
        std::iter::once(durable).chain(prefix).collect()
    }
}

fn apply(families: &mut [Durable; 4], op: Op) {
    match op {
        Op::Put(cf, key, value) => {
            families[cf as usize].insert(key, value);
        }
        Op::Delete(cf, key) => {
            families[cf as usize].remove(&key);
        }
        Op::DeleteRange(cf, start, end) => {
            if is_empty_range(&start, &end) {
                return;
            }
            let inside = |key: &Vec<u8>| *key >= start && (end.is_empty() || *key < end);
            families[cf as usize].retain(|key, _| !inside(key));
        }
    }
}
