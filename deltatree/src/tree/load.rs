//! Sorted rows straight into the stable space: a snapshot of a region, a bulk load. It must never
//! remove a row: it takes only ranges that hold none, the others go through the delta.
//!
//! ```text
//!  segment without rows │────────────────────────────────│
//!  after the load       │ empty │ new files │ ... │ empty │   one manifest makes it durable
//! ```
//! Nothing is removed, so it does no harm that the rows are durable before the next `sync`: after
//! a crash they are rows newer than the marks.

use super::segment::Segment;
use super::{DeltaTree, Table, chunk, merge, stable};
use crate::error::{Error, Result};
use crate::plain::sorted_inside;
use crate::store::{HandleRange, RowsIter};
use damask_types::{ErrorKind, TableId};
use parking_lot::Mutex;
use std::sync::atomic::Ordering;

impl DeltaTree {
    /// Writes rows into stable files and puts these in place; false: the range is not free, and
    /// nothing was taken from `rows`.
    pub(super) fn load(&self, id: TableId, range: HandleRange, rows: RowsIter<'_>) -> Result<bool> {
        if range.first > range.last {
            return Ok(false);
        }
        let mut manifest = self.merging.lock();
        let table = self.table_or_new(id);
        let synced = self.synced.load(Ordering::Acquire);
        let Some((own, merged)) = table.lock().seal_empty(range, synced) else {
            return Ok(false);
        };
        let mut files = Vec::new();
        let written = self.write_loaded((id, &table), range, merged, rows, &mut files);
        let (loaded, bytes) = match written {
            Ok(done) => done,
            Err(e) => {
                table.lock().segments_at(own.first, 1)[0].unseal();
                files.iter().for_each(|id| drop(self.disk.remove(&stable::file_name(*id))));
                return Err(e);
            }
        };
        let empty = |first, last| Segment::new(HandleRange { first, last }, None, merged);
        let mut segments = Vec::new();
        if own.first < range.first {
            segments.push(empty(own.first, range.first - 1));
        }
        segments.extend(loaded);
        if range.last < own.last {
            segments.push(empty(range.last + 1, own.last));
        }
        let mut next = manifest.clone();
        let all = next.tables.entry(id).or_insert_with(|| table.lock().durable());
        let at = all.partition_point(|segment| segment.first < own.first);
        all.splice(at..=at, segments.iter().map(|segment| segment.durable));
        if let Err(e) = self.store(&next) {
            // the manifest may name the new files: they stay
            table.lock().segments_at(own.first, 1)[0].unseal();
            return Err(e);
        }
        *manifest = next;
        table.lock().replace_segments(own.first, 1, segments, self.config.chunk_rows);
        self.meters.flush.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    fn write_loaded(
        &self,
        (id, table): (TableId, &Mutex<Table>),
        range: HandleRange,
        merged: u64,
        rows: RowsIter<'_>,
        files: &mut Vec<u64>,
    ) -> Result<(Vec<Segment>, u64)> {
        let mut last = None;
        let mut checked = rows.map(|batch| {
            let batch = batch?;
            if batch.table != id {
                return Err(Error::new("ingest", ErrorKind::Invalid, "rows of another table"));
            }
            last = sorted_inside(&batch, range, last)?;
            let rows = chunk::Rows::sorted(&batch)?;
            table.lock().admit(&rows)?;
            self.meters.applied.fetch_add(rows.bytes as u64, Ordering::Relaxed);
            Ok(rows)
        });
        let next_file = || self.next_file.fetch_add(1, Ordering::Relaxed);
        let (disk, config) = (&*self.disk, &self.config);
        let merge = merge::Merge { disk, table: id, config, safe_point: 0, next_file: &next_file };
        let (outputs, bytes) = merge.load(range.first, &mut checked, files)?;
        Ok((self.open_merged(id, &outputs, range.last, merged)?, bytes))
    }
}
