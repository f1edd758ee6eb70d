//! GC inside a compaction: while an engine rewrites files of the write family, records go that
//! nobody can read. It must never remove what needs an order or a second family: the newest delete
//! of a key, and a Put whose value is in the default family; both are left to the sweep.
//!
//! ```text
//! this compaction's input   key!9 Put   key!5 Del   key!4 Roll   key!3 Put   key!1 Put (long)
//! safe point 7              keep        keep        remove       remove      keep
//! ```
//!
//! A compaction sees some of a key's records, not all. It is enough: what it removes is either a
//! rollback or a lock record, which hides nothing, or is older than a Put or Delete at or below the
//! safe point that this same compaction keeps. That one goes later only if a newer one is kept, or,
//! by the sweep, after everything older. The engine writes a tombstone for what is removed unless
//! it is at the bottom, so no older copy of the same record comes back.

use super::{GcSafePoint, KeyGc, Verdict};
use damask_types::codec::split_key_ts;
use damask_types::{Timestamp, WriteKind, WriteRef};

/// Decides for one compaction, which passes its pairs in key order: a key's records newest first.
#[derive(Debug)]
pub(crate) struct CompactionGc {
    safe_point: Timestamp,
    /// The encoded key whose records are passing, and the last one's version.
    key: Vec<u8>,
    commit_ts: Timestamp,
    gc: KeyGc,
}

impl CompactionGc {
    /// With the safe point as it is now.
    pub fn new(safe_point: &GcSafePoint) -> CompactionGc {
        let safe_point = safe_point.get();
        let gc = KeyGc::new(safe_point);
        CompactionGc { safe_point, key: Vec::new(), commit_ts: Timestamp::ZERO, gc }
    }

    /// May this pair of the write family be removed?
    pub fn may_go(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.safe_point == Timestamp::ZERO {
            return false;
        }
        // Bytes that are no record stay: a read will name them.
        let (Ok((prefix, commit_ts)), Ok(write)) = (split_key_ts(key), WriteRef::decode(value))
        else {
            return false;
        };
        if prefix != self.key {
            self.key.clear();
            self.key.extend_from_slice(prefix);
            self.gc = KeyGc::new(self.safe_point);
        } else if commit_ts == self.commit_ts {
            // An older copy of the record before it, which some snapshot may still read.
            return false;
        }
        self.commit_ts = commit_ts;
        let long = write.kind == WriteKind::Put && write.short_value.is_none();
        self.gc.visit(commit_ts, &write) == Verdict::Remove && !long
    }
}

#[cfg(test)]
mod tests;
