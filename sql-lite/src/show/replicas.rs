//! The seam to whoever places column replicas. It must never name a region or a store.

use damask_types::key::KeyRange;

/// Places column replicas and tells how far they are.
pub trait ColumnReplicas: Send + Sync + 'static {
    /// Asks for so many column replicas of every region of this range; more than there are column
    /// nodes is an error, in words for the user.
    fn set(&self, range: KeyRange, replicas: u32) -> Result<(), String>;
    /// Asks for none of this range.
    fn remove(&self, range: &KeyRange) -> Result<(), String>;
    /// How many replicas are caught up, and how many are wanted, over all regions of the range.
    fn progress(&self, range: &KeyRange) -> (u32, u32);
    /// Raft log indexes: up to where every column replica has applied, and up to where the leader
    /// has committed, each added up over the regions of the range (equal: all is there). `None`: a
    /// region has no leader or no column replica.
    fn indexes(&self, range: &KeyRange) -> Option<(u64, u64)>;
    /// How long it takes until what is committed now is in every column replica of the range, in
    /// milliseconds, as measured by waiting for it; `None`: more than a second.
    fn lag_ms(&self, range: &KeyRange) -> Option<u64>;
}
