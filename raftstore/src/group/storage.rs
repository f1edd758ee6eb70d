//! What raft-rs reads of a group: its log through the seam, and a snapshot's description once the
//! content is at hand. It must never make up an answer: what cannot be read stops the store.

use crate::error::Error;
use crate::log_store::{EntryKind, GroupLog, HardState, LogEntry, LogStore};
use crate::machine::{Applied, RegionState, SnapshotSource};
use crate::wire;
use damask_types::{PeerId, RegionId};
use parking_lot::Mutex;
use raft::eraftpb::{self, Entry, EntryType, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::sync::Arc;

/// A region's content at an index, kept until raft-rs asks for it.
pub(crate) struct Exported {
    pub state: RegionState,
    /// Tells it from every other export.
    pub stream: u64,
    pub source: Arc<dyn SnapshotSource>,
}

/// What a group and its storage share.
#[derive(Default)]
pub(super) struct Cell {
    pub wanted: bool,
    pub exported: Option<Exported>,
    pub failure: Option<Error>,
    /// What the log store said of the group, as long as nobody changed that.
    pub log: Option<GroupLog>,
}

pub(super) struct GroupStorage {
    pub region: RegionId,
    pub log: Arc<dyn LogStore>,
    pub initial: RaftState,
    pub cell: Arc<Mutex<Cell>>,
}

impl GroupStorage {
    /// raft-rs aborts on such an error; the store then stops with the reason kept here.
    fn fail(&self, e: Error) -> raft::Error {
        let text = e.to_string();
        self.cell.lock().failure = Some(e);
        raft::Error::Store(StorageError::Other(text.into()))
    }

    /// raft-rs asks for the ends of the log several times for each message, of thousands of groups:
    /// the log store is asked once after each change.
    fn log(&self) -> GroupLog {
        let ask = || self.log.group(self.region).unwrap_or_default();
        let known = *self.cell.lock().log.get_or_insert_with(ask);
        debug_assert_eq!((known.truncated, known.last), (ask().truncated, ask().last));
        known
    }
}

impl Storage for GroupStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.log().truncated.index {
            return Err(StorageError::Compacted.into());
        }
        let mut out = Vec::new();
        let max = max_size.into().unwrap_or(u64::MAX);
        self.log.entries(self.region, low, high, max, &mut out).map_err(|e| self.fail(e))?;
        Ok(out.into_iter().map(to_entry).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.log.term(self.region, index).map_err(|e| self.fail(e))? {
            Some(term) => Ok(term),
            None if index == 0 => Ok(0),
            None if index < self.log().truncated.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log().truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log().last.index)
    }

    /// One that was taken before the receiver was added would not make it a replica.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let truncated = self.log().truncated.index;
        let mut cell = self.cell.lock();
        match &cell.exported {
            Some(Exported { state, .. })
                if state.applied.index >= request_index.max(truncated)
                    && state.region.peer(PeerId(to)).is_some() =>
            {
                let mut data = Vec::new();
                wire::put_region(&mut data, &state.region);
                wire::put_merge(&mut data, &state.merge);
                let conf_state = Some(wire::conf_state(&state.region));
                let Applied { index, term } = state.applied;
                let metadata = Some(SnapshotMetadata { conf_state, index, term });
                Ok(Snapshot { data, metadata })
            }
            _ => {
                cell.wanted = true;
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

fn to_entry(entry: LogEntry) -> Entry {
    let entry_type = match entry.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::Change => EntryType::EntryConfChangeV2,
    };
    let LogEntry { index, term, data, context, .. } = entry;
    Entry { entry_type: entry_type as i32, term, index, data, context, sync_log: false }
}

pub(crate) fn from_entry(entry: Entry) -> LogEntry {
    let kind = match entry.entry_type {
        0 => EntryKind::Normal,
        _ => EntryKind::Change,
    };
    let Entry { index, term, data, context, .. } = entry;
    LogEntry { index, term, kind, data, context }
}

pub(crate) fn from_hard_state(hs: &eraftpb::HardState) -> HardState {
    HardState { term: hs.term, vote: hs.vote, commit: hs.commit }
}
