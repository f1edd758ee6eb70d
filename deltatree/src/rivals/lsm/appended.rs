//! One run in memory that grows at its end, for columns without updates. It must never hold a
//! handle twice.

use super::run::{Rows, Run, grown, in_memory};
use super::scan::LsmSnapshot;
use crate::error::{Error, Result};
use crate::store::{ChangeBatch, ColumnSnapshot};
use damask_types::ErrorKind;
use std::sync::Arc;

/// The run.
#[derive(Default)]
pub(in crate::rivals) struct Appended(Option<Arc<Run>>);

impl Appended {
    /// Adds rows whose handles ascend, behind all others.
    pub fn append(&mut self, batch: &ChangeBatch) -> Result<()> {
        let rows = Rows::sorted(batch)?;
        let handles = rows.handles.values();
        let Some(first) = handles.first() else { return Ok(()) };
        let last = self.0.as_ref().and_then(|run| Some(run.data.chunks.last()?.last));
        if last.is_some_and(|last| *first <= last) || handles.windows(2).any(|w| w[0] == w[1]) {
            let detail = "append-only columns take rows behind all others only";
            return Err(Error::new("apply", ErrorKind::Invalid, detail));
        }
        let run = match &self.0 {
            None => in_memory(rows.names.clone(), rows.chunks()),
            Some(run) if run.data.names == rows.names => grown(run, rows.chunks()),
            Some(_) => {
                let detail = "append-only columns keep their columns";
                return Err(Error::new("apply", ErrorKind::Invalid, detail));
            }
        };
        self.0 = Some(Arc::new(run));
        Ok(())
    }

    /// Rows and bytes.
    pub fn size(&self) -> (u64, u64) {
        self.0.as_ref().map_or((0, 0), |run| (run.rows() as u64, run.bytes()))
    }
}

/// A view of it.
pub(in crate::rivals) fn snapshot(rows: Option<&Appended>) -> Arc<dyn ColumnSnapshot> {
    let runs = rows.and_then(|rows| rows.0.clone()).into_iter().collect();
    Arc::new(LsmSnapshot { runs: Arc::new(runs), naive: false })
}
