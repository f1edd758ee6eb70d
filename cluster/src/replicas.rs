//! `ALTER TABLE … SET COLUMN REPLICA` as the placement driver's column rules.

use crate::placement::Announce;
use damask_pd::{ColumnRule, Pd, Placement};
use damask_sql_lite::database::ColumnReplicas;
use damask_types::KeyRange;
use std::sync::Arc;

/// Column replicas by rule.
pub struct Replicas {
    /// Placement.
    pub pd: Arc<Pd>,
    /// Asked to look at once.
    pub announce: Announce,
}

impl ColumnReplicas for Replicas {
    fn set(&self, range: KeyRange, replicas: u32) -> Result<(), String> {
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
