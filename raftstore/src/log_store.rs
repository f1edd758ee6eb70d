//! The raft logs of every group of a store behind one seam, so that one sync serves them all.
//! It knows no region's meaning and never decides what may be removed.
//!
//! `append` makes operations visible to reads, `sync` makes everything appended before durable. A
//! crash keeps whole batches, in order: a prefix that holds at least what was synced.

use crate::error::{Error, Result};
use crate::log_index::LogIndex;
use crate::machine::Applied;
use damask_types::RegionId;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// What an entry's bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// A command (`command::Command`), or nothing.
    #[default]
    Normal,
    /// A change of the replicas; the context says which.
    Change,
}

/// One entry of one group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place; the first of a new region is 6.
    pub index: u64,
    /// The leader's term.
    pub term: u64,
    /// What `data` and `context` are.
    pub kind: EntryKind,
    /// The payload.
    pub data: Vec<u8>,
    /// Goes with the payload.
    pub context: Vec<u8>,
}

impl LogEntry {
    /// Bytes that it weighs in limits.
    pub fn size(&self) -> usize {
        self.data.len() + self.context.len() + 16
    }
}

/// What a replica must not forget. `vote` is a peer id, 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: u64,
    /// Who got this replica's vote in it.
    pub vote: u64,
    /// Committed as far as known; may lag behind the truth.
    pub commit: u64,
}

/// What the log store knows of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLog {
    /// Term, vote, commit.
    pub hard: HardState,
    /// The last removed entry: entries start one above.
    pub truncated: Applied,
    /// The last entry, or `truncated`.
    pub last: Applied,
    /// A snapshot at this position was about to replace the log.
    pub restoring: Option<Applied>,
}

/// One change of one group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// Adds entries, contiguous; a tail from the first one's index on is cut before.
    Append(Vec<LogEntry>),
    /// Replaces the hard state.
    HardState(HardState),
    /// Entries up to here are not needed any more.
    CompactTo(Applied),
    /// Forgets all entries and the marker; the log continues after this position.
    Reset(Applied),
    /// Marks that the state machine is about to be replaced at this position.
    Restoring(Applied),
    /// Forgets the group.
    Destroy,
}

/// Changes that survive a crash together, in order.
pub type LogBatch = Vec<(RegionId, LogOp)>;

/// The logs of all groups of a store.
pub trait LogStore: Send + Sync + 'static {
    /// Every group, as visible now: right after opening, what survived.
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>>;
    /// One group; `None` if there is no such log.
    fn group(&self, group: RegionId) -> Option<GroupLog>;
    /// Visible on return, in memory at least.
    fn append(&self, batch: LogBatch) -> Result<()>;
    /// Every `append` that returned before is durable. After a failure only reopening helps.
    fn sync(&self) -> Result<()>;
    /// Adds entries `low..high` to `out`, stopping (after at least one) above `max_bytes`.
    /// All of them must exist.
    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()>;
    /// The term at an index, from the truncated position to the last entry; `None` elsewhere.
    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>>;
    /// Gives space back. May read, write and sync; not for the raft thread.
    fn purge(&self) -> Result<()>;
}

/// A log store that keeps everything in memory and nothing after it is dropped.
#[derive(Debug, Default)]
pub struct MemoryLogStore {
    groups: Mutex<BTreeMap<RegionId, LogIndex<LogEntry>>>,
}

impl MemoryLogStore {
    /// An empty store.
    pub fn new() -> MemoryLogStore {
        MemoryLogStore::default()
    }
}

impl LogStore for MemoryLogStore {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        Ok(self.groups.lock().iter().map(|(id, log)| (*id, log.summary())).collect())
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.groups.lock().get(&group).map(LogIndex::summary)
    }

    fn append(&self, batch: LogBatch) -> Result<()> {
        let mut groups = self.groups.lock();
        for (id, op) in batch {
            if op == LogOp::Destroy {
                groups.remove(&id);
                continue;
            }
            let log = groups.entry(id).or_default();
            match op {
                LogOp::Append(entries) => {
                    for entry in entries {
                        log.push(entry.index, entry.term, entry, &mut drop)?;
                    }
                }
                LogOp::HardState(hard) => log.hard = hard,
                LogOp::CompactTo(to) => log.compact(to, &mut drop),
                LogOp::Reset(to) => log.reset(to, &mut drop),
                LogOp::Restoring(at) => log.restoring = Some(at),
                LogOp::Destroy => unreachable!("handled above"),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        let groups = self.groups.lock();
        let log = groups.get(&group).ok_or_else(|| missing(group, low))?;
        let mut bytes = 0;
        for index in low..high {
            let entry = log.get(index).ok_or_else(|| missing(group, index))?;
            bytes += entry.size() as u64;
            if index > low && bytes > max_bytes {
                break;
            }
            out.push(entry.clone());
        }
        Ok(())
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        Ok(self.groups.lock().get(&group).and_then(|log| log.term(index)))
    }

    fn purge(&self) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn missing(group: RegionId, index: u64) -> Error {
    Error::Invalid(format!("entry {index} of group {group} is not in the log"))
}
