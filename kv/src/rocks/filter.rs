//! RocksDB's side of [`crate::gc`]: a compaction filter of the write family. It must never decide
//! by itself what goes.

use crate::gc::{CompactionGc, GcSafePoint};
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const NAME: &CStr = c"damask.gc";

/// Makes a filter for each compaction, with the safe point of its beginning.
pub(super) struct GcFilterFactory {
    pub safe_point: GcSafePoint,
    /// Records removed so far.
    pub removed: Arc<AtomicU64>,
}

impl CompactionFilterFactory for GcFilterFactory {
    type Filter = GcFilter;

    fn create(&mut self, _: CompactionFilterContext) -> GcFilter {
        GcFilter { gc: CompactionGc::new(&self.safe_point), removed: self.removed.clone() }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// The filter of one compaction.
pub(super) struct GcFilter {
    gc: CompactionGc,
    removed: Arc<AtomicU64>,
}

impl CompactionFilter for GcFilter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if self.gc.may_go(key, value) {
            self.removed.fetch_add(1, Ordering::Relaxed);
            CompactionDecision::Remove
        } else {
            CompactionDecision::Keep
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}
