//! `ALTER TABLE … SET COLUMN REPLICA` as the placement driver's column rules, and what the
//! optimizer asks of it.

use crate::placement::Announce;
use damask_pd::{ColumnRule, Pd, Placement};
use damask_sql_lite::database::ColumnReplicas;
use damask_sql_lite::query::{TableFacts, TableSize};
use damask_types::key::row_range;
use damask_types::{KeyRange, TableSchema};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

/// Bytes that a row takes with its key, about.
const ROW_BYTES: f64 = 100.0;
/// Rows of a table whose size is not known yet: enough to prefer a key to a scan.
const ROWS_UNKNOWN: f64 = 1000.0;

/// Column replicas by rule; sizes by report.
///
/// A table whose replicas have all caught up once stays available (TiDB's AVAILABLE) until its rule
/// changes or a region has no replica: a learner that falls behind is waited for by its readers.
pub struct Replicas {
    /// Placement.
    pub pd: Arc<Pd>,
    /// Asked to look at once.
    pub announce: Announce,
    /// Column stores of this cluster.
    pub stores: u32,
    /// Starts of the ranges that were complete once.
    pub complete: Mutex<HashSet<Vec<u8>>>,
}

impl Replicas {
    fn is_available(&self, range: &KeyRange) -> bool {
        if self.pd.column_progress(range).is_complete() {
            self.complete.lock().insert(range.start.clone());
            return true;
        }
        self.complete.lock().contains(&range.start) && self.every_region_learns(range)
    }

    fn every_region_learns(&self, range: &KeyRange) -> bool {
        let regions = self.pd.regions();
        let mut inside = regions.iter().filter(|r| r.region.range.intersect(range).is_some());
        inside.all(|r| r.region.learners().next().is_some())
    }
}

impl ColumnReplicas for Replicas {
    fn set(&self, range: KeyRange, replicas: u32) -> Result<(), String> {
        if replicas > self.stores {
            return Err(format!(
                "the tiflash replica count: {replicas} should be less than the total tiflash \
                 server count: {}",
                self.stores
            ));
        }
        self.complete.lock().remove(&range.start);
        let rule = ColumnRule { range, replicas };
        self.pd.set_column_rule(rule).map_err(|e| e.to_string())?;
        self.announce.hurry();
        Ok(())
    }

    fn remove(&self, range: &KeyRange) -> Result<(), String> {
        self.complete.lock().remove(&range.start);
        self.pd.remove_column_rule(range).map_err(|e| e.to_string())?;
        self.announce.hurry();
        Ok(())
    }

    fn progress(&self, range: &KeyRange) -> (u32, u32) {
        let progress = self.pd.column_progress(range);
        let ready = if self.is_available(range) { progress.wanted } else { progress.ready };
        (ready as u32, progress.wanted as u32)
    }
}

impl TableFacts for Replicas {
    fn size(&self, table: &TableSchema) -> TableSize {
        let range = row_range(table.id);
        let (mut bytes, mut regions) = (0u64, 0usize);
        for status in self.pd.regions() {
            if let Some(part) = status.region.range.intersect(&range) {
                regions += 1;
                // A region that holds other tables too counts half: nobody has looked inside.
                bytes += if part == status.region.range { status.bytes } else { status.bytes / 2 };
            }
        }
        let rows = (bytes as f64 / ROW_BYTES).max(ROWS_UNKNOWN);
        TableSize { rows, regions: regions.max(1) as f64 }
    }

    fn columns_ready(&self, table: &TableSchema) -> bool {
        table.column_replicas > 0 && self.is_available(&row_range(table.id))
    }
}
