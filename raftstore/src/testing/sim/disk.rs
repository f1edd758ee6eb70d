//! A log store that loses at a crash what was not synced, but for a prefix of the batches. It must
//! never make more durable than a sync that began after the append.

use super::watch::Watch;
use crate::error::Result;
use crate::log_store::{GroupLog, LogBatch, LogEntry, LogOp, LogStore, MemoryLogStore};
use damask_types::RegionId;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) struct SimLog {
    visible: MemoryLogStore,
    durable: MemoryLogStore,
    pending: Mutex<Pending>,
    watch: Arc<Mutex<Watch>>,
}

#[derive(Default)]
struct Pending {
    batches: VecDeque<LogBatch>,
    appended: u64,
}

impl SimLog {
    pub fn new(watch: Arc<Mutex<Watch>>) -> SimLog {
        let (visible, durable) = (MemoryLogStore::new(), MemoryLogStore::new());
        SimLog { visible, durable, pending: Mutex::default(), watch }
    }

    /// Batches appended so far: what a sync that begins now covers.
    pub fn appended(&self) -> u64 {
        self.pending.lock().appended
    }

    /// Batches that a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.pending.lock().batches.len()
    }

    /// A sync that began when so many batches were appended has succeeded.
    pub fn synced_to(&self, appended: u64) -> Result<()> {
        let mut pending = self.pending.lock();
        while pending.appended - (pending.batches.len() as u64) < appended {
            let Some(batch) = pending.batches.pop_front() else { break };
            self.keep(&self.durable, batch)?;
        }
        Ok(())
    }

    /// What becomes durable is watched: who votes alone may lead again in a term that it has lost
    /// with its power, and with that all that it had appended in it and had told nobody.
    fn keep(&self, durable: &MemoryLogStore, batch: LogBatch) -> Result<()> {
        // One by one: an operation may replace what the next one continues.
        for (id, op) in batch {
            if let LogOp::Append(entries) = &op
                && let Some(first) = entries.first()
            {
                let mut before = durable.term(id, first.index - 1)?.unwrap_or(0);
                let mut watch = self.watch.lock();
                for entry in entries {
                    watch.appended(id, entry, before);
                    before = entry.term;
                }
            }
            durable.append(vec![(id, op)])?;
        }
        Ok(())
    }

    /// The log after a crash that kept so many batches which were not synced.
    pub fn crash(&self, keep: usize) -> Result<SimLog> {
        let durable = copy(&self.durable)?;
        for batch in self.pending.lock().batches.iter().take(keep) {
            self.keep(&durable, batch.clone())?;
        }
        let visible = copy(&durable)?;
        let pending = Mutex::default();
        Ok(SimLog { visible, durable, pending, watch: self.watch.clone() })
    }
}

fn copy(from: &MemoryLogStore) -> Result<MemoryLogStore> {
    let to = MemoryLogStore::new();
    for (id, log) in from.recover()? {
        let mut ops = vec![(id, LogOp::Reset(log.truncated))];
        if log.last.index > log.truncated.index {
            let mut entries = Vec::new();
            let (low, high) = (log.truncated.index + 1, log.last.index + 1);
            from.entries(id, low, high, u64::MAX, &mut entries)?;
            ops.push((id, LogOp::Append(entries)));
        }
        ops.push((id, LogOp::HardState(log.hard)));
        ops.extend(log.restoring.map(|at| (id, LogOp::Restoring(at))));
        to.append(ops)?;
    }
    Ok(to)
}

impl LogStore for SimLog {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        self.visible.recover()
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.visible.group(group)
    }

    fn append(&self, batch: LogBatch) -> Result<()> {
        let mut pending = self.pending.lock();
        pending.batches.push_back(batch.clone());
        pending.appended += 1;
        self.visible.append(batch)
    }

    fn sync(&self) -> Result<()> {
        self.synced_to(self.appended())
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        self.visible.entries(group, low, high, max_bytes, out)
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        self.visible.term(group, index)
    }

    fn purge(&self) -> Result<()> {
        Ok(())
    }
}
