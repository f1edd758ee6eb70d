//! fjall's side of [`crate::gc`]: a compaction filter of the write family. It must never decide by
//! itself what goes.

use crate::gc::{CompactionGc, GcSafePoint};
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a filter for each compaction, with the safe point of its beginning.
pub(super) struct GcFilterFactory {
    pub safe_point: GcSafePoint,
    /// Records removed so far.
    pub removed: Arc<AtomicU64>,
}

impl Factory for GcFilterFactory {
    fn name(&self) -> &str {
        "damask.gc"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let gc = CompactionGc::new(&self.safe_point);
        Box::new(GcFilter { gc, removed: self.removed.clone() })
    }
}

struct GcFilter {
    gc: CompactionGc,
    removed: Arc<AtomicU64>,
}

impl CompactionFilter for GcFilter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        if self.gc.may_go(item.key(), &item.value()?) {
            self.removed.fetch_add(1, Ordering::Relaxed);
            return Ok(Verdict::Remove);
        }
        Ok(Verdict::Keep)
    }
}
