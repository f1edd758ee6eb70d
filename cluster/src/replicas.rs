//! `ALTER TABLE … SET COLUMN REPLICA` as the placement driver's column rules, and what the
//! optimizer asks of it.

use crate::placement::Announce;
use damask_pd::{ColumnRule, Pd, Placement};
use damask_sql_lite::database::ColumnReplicas;
use damask_sql_lite::query::{TableFacts, TableSize};
use damask_types::key::row_range;
use damask_types::{KeyRange, TableSchema};
use std::sync::Arc;

/// Bytes that a row takes with its key, about.
const ROW_BYTES: f64 = 100.0;
/// Rows of a table whose size is not known yet: enough to prefer a key to a scan.
const ROWS_UNKNOWN: f64 = 1000.0;

/// Column replicas by rule; sizes by report.
pub struct Replicas {
    /// Placement.
    pub pd: Arc<Pd>,
    /// Asked to look at once.
    pub announce: Announce,
    /// Column stores of this cluster.
    pub stores: u32,
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
        let rule = ColumnRule { range, replicas };
        self.pd.set_column_rule(rule).map_err(|e| e.to_string())?;
        self.announce.hurry();
        Ok(())
    }

    fn remove(&self, range: &KeyRange) -> Result<(), String> {
        self.pd.remove_column_rule(range).map_err(|e| e.to_string())?;
        self.announce.hurry();
        Ok(())
    }

    fn progress(&self, range: &KeyRange) -> (u32, u32) {
        let progress = self.pd.column_progress(range);
        (progress.ready as u32, progress.wanted as u32)
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
        table.column_replicas > 0 && self.pd.column_progress(&row_range(table.id)).is_complete()
    }
}
