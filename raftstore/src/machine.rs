//! The state machine seam: what a committed log is applied to. Rows (here, over an `Engine`),
//! columns (in `learner`), nothing (for benches). Called by one apply thread of a store; reads go
//! around it, to whatever it writes.
//!
//! A machine keeps, for each region, an [`Applied`] and a region description, moved in the same
//! atomic write as the data. It returns only deterministic errors as answers to a command;
//! anything local (disk, decode) is an `Err` and stops the replica.

use crate::error::Result;
use crate::merge::MergeState;
use damask_types::{KeyRange, Record, Region, RegionId};
use std::sync::Arc;

/// How far a region's log has been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Index of the last applied entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// A region as a machine knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionState {
    /// Its description; a removed replica has `tombstone` set and keeps the epoch.
    pub region: Region,
    /// How far it is applied.
    pub applied: Applied,
    /// This store's replica was removed: late messages must not bring it back.
    pub tombstone: bool,
    /// What merges have left: a machine keeps it and hands it back.
    pub merge: MergeState,
}

/// An import that has begun, and not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// What the region is to be.
    pub state: RegionState,
    /// What goes with its old content.
    pub replaced: Vec<RegionState>,
}

/// One committed entry, or what the store core made of it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Transaction records for one region.
    Write(Vec<Record>),
    /// New descriptions (a conf change, a split's parent and children, a merge's grown region and
    /// the tombstone of the one that it took in, whose keys' content stays). A region not known
    /// before is created with the given `applied`.
    Regions(Vec<RegionState>),
}

/// Effects of one region, to be applied in order and together with `applied`.
#[derive(Clone, Debug)]
pub struct ApplyBatch {
    /// Which region.
    pub region: RegionId,
    /// Where its log stands after this batch.
    pub applied: Applied,
    /// In order; may be empty (an empty entry only moves `applied`).
    pub effects: Vec<Effect>,
}

/// How much a range holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSize {
    /// Rough bytes.
    pub bytes: u64,
    /// Rough number of records: versions of rows.
    pub keys: u64,
    /// User keys inside of the range, ascending, at which parts of about the same size begin: one
    /// less than the parts that were asked for, or fewer where there are not enough keys.
    pub cuts: Vec<Vec<u8>>,
}

/// A region's whole content at one applied index, as chunks of at most about 1 MiB:
/// every family's pairs in key order, in the form `snapshot::Chunk` draws.
pub type SnapshotChunks = Vec<Vec<u8>>;

/// A part of a region's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPiece {
    /// As `snapshot::Chunk` draws; no bytes at all if there is no pair.
    pub chunk: Vec<u8>,
    /// Where the part after it begins; `None`: it is the last one.
    pub next: Option<Vec<u8>>,
}

/// A region's whole content at one applied index, to be read part by part: memory holds one part
/// at a time, and the content stays as it is for as long as this is held.
pub trait SnapshotSource: Send + Sync + std::fmt::Debug {
    /// The part that begins at a position that an earlier part has named (`next`); the first one
    /// begins at the empty position. It ends with the pair by which it has `bytes`. The same
    /// position and size always give the same part.
    fn read(&self, from: &[u8], bytes: usize) -> Result<SnapshotPiece>;
}

/// What a committed log is applied to.
pub trait StateMachine: Send + Sync + 'static {
    /// Every region known, tombstones too, as a crash would leave them now.
    fn recover(&self) -> Result<Vec<RegionState>>;
    /// Applies batches of several regions, each atomically; visible to readers on return.
    fn apply(&self, batches: Vec<ApplyBatch>) -> Result<()>;
    /// All that was applied before is durable when it returns: log entries may then be removed.
    /// Returns, for each region, the index up to which its log is no longer needed.
    fn sync(&self) -> Result<Vec<(RegionId, u64)>>;
    /// Everything in the region at its applied index (which the caller holds still).
    fn export(&self, region: &Region) -> Result<SnapshotChunks>;
    /// As `export`, but to be read part by part. A machine that has no better way keeps it all.
    fn source(&self, region: &Region) -> Result<Arc<dyn SnapshotSource>> {
        Ok(Arc::new(crate::snapshot::Whole::new(self.export(region)?)))
    }
    /// Replaces the region's range by the chunks and its state by `state`, and leaves the
    /// tombstones of the regions that it took in elsewhere, and that are replaced with it; durable
    /// on return; after a crash in the middle either all of the old or all of the new is found by
    /// `recover`.
    fn import(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: SnapshotChunks,
    ) -> Result<()>;
    /// As `import`, of chunks that were put aside as they came. If they outlive a crash (`kept`) it
    /// may take several writes: until the last one nobody may read the range, and after a crash
    /// `unfinished` asks for all of it again. A machine that has no better way takes all chunks
    /// into memory first.
    fn import_staged(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: &mut dyn Iterator<Item = Result<Vec<u8>>>,
        _kept: bool,
    ) -> Result<()> {
        self.import(state, replaced, chunks.collect::<Result<SnapshotChunks>>()?)
    }
    /// An import that a crash has cut short: it is to be done again before anything else is asked
    /// of the machine.
    fn unfinished(&self) -> Result<Option<Unfinished>> {
        Ok(None)
    }
    /// Removes the range's data and leaves the tombstone in `state`; durable on return.
    fn destroy(&self, state: &RegionState) -> Result<()>;
    /// Rough size of a range; and, for more than one part, where to cut it into so many. Only the
    /// size is cheap.
    fn size(&self, range: &KeyRange, parts: usize) -> Result<RangeSize>;
}
