//! In-memory doubles of the read path's seams, and the suite that every [`Endpoint`] must pass.
//! They must never be used for data that has to last.

use crate::dispatch::{Endpoints, ResolveLocks};
use crate::spec::*;
use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use damask_pd::{Locate, Route};
use damask_raftstore::Error as RegionError;
use damask_types::key::row_key;
use damask_types::{
    Epoch, ErrorKind, KeyLock, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId,
    TableId, Timestamp,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The only store of rows.
pub const ROW_STORE: StoreId = StoreId(1);
/// The only store of columns.
pub const COLUMN_STORE: StoreId = StoreId(2);

/// Regions cut at fixed keys, each with a voter on [`ROW_STORE`] and a learner on
/// [`COLUMN_STORE`].
pub struct FixedRegions {
    regions: Mutex<Vec<Region>>,
}

impl FixedRegions {
    /// Regions between these keys, ascending.
    pub fn cut_at(keys: &[Vec<u8>]) -> Arc<FixedRegions> {
        Arc::new(FixedRegions { regions: Mutex::new(regions(keys, 1)) })
    }

    /// What is true now; clients may still believe the old.
    pub fn now(keys: &[Vec<u8>], version: u64) -> Vec<Region> {
        regions(keys, version)
    }
}

fn regions(keys: &[Vec<u8>], version: u64) -> Vec<Region> {
    let starts = [Vec::new()].into_iter().chain(keys.iter().cloned());
    let ends = keys.iter().cloned().chain([Vec::new()]);
    let peer = |id, store, role| Peer { id: PeerId(id), store, role };
    let region = |(i, (start, end)): (usize, (Vec<u8>, Vec<u8>))| {
        let id = i as u64 + 1;
        Region {
            id: RegionId(id),
            range: KeyRange { start, end },
            epoch: Epoch { conf_ver: 1, version },
            peers: vec![
                peer(id * 10 + 1, ROW_STORE, PeerRole::Voter),
                peer(id * 10 + 2, COLUMN_STORE, PeerRole::Learner),
            ],
        }
    };
    starts.zip(ends).enumerate().map(region).collect()
}

impl Locate for FixedRegions {
    fn locate(&self, key: &[u8]) -> Option<Route> {
        let regions = self.regions.lock();
        let region = regions.iter().find(|r| r.range.contains(key))?.clone();
        let leader = region.peers.first().copied();
        Some(Route { region, leader })
    }

    fn locate_range(&self, range: &KeyRange) -> Vec<Route> {
        let regions = self.regions.lock();
        let inside = regions.iter().filter(|r| r.range.intersect(range).is_some());
        inside.map(|r| Route { region: r.clone(), leader: r.peers.first().copied() }).collect()
    }

    fn update(&self, newer: Vec<Region>) {
        let mut regions = self.regions.lock();
        regions.retain(|r| newer.iter().all(|n| n.range.intersect(&r.range).is_none()));
        regions.extend(newer);
        regions.sort_by(|a, b| a.range.start.cmp(&b.range.start));
    }

    fn set_leader(&self, _: RegionId, _: Option<Peer>) {}

    fn invalidate(&self, _: RegionId) {}
}

/// Tables as record batches, read as rows or columns. No index, no versions.
#[derive(Default)]
pub struct MemoryEndpoint {
    tables: Mutex<HashMap<TableId, (Vec<i64>, RecordBatch)>>,
    failures: Mutex<VecDeque<EndpointError>>,
    truth: Mutex<Option<Vec<Region>>>,
    opens: Mutex<Vec<RegionContext>>,
}

impl MemoryEndpoint {
    /// Without tables.
    pub fn new() -> Arc<MemoryEndpoint> {
        Arc::default()
    }

    /// Puts a table: ascending handles, and a batch with one column for each of the schema's, in
    /// its order.
    pub fn put(&self, table: TableId, handles: Vec<i64>, columns: RecordBatch) {
        self.tables.lock().insert(table, (handles, columns));
    }

    /// The next opens fail so.
    pub fn fail(&self, failures: impl IntoIterator<Item = EndpointError>) {
        self.failures.lock().extend(failures);
    }

    /// Regions as they are: an open with another epoch is refused with these.
    pub fn set_truth(&self, regions: Vec<Region>) {
        *self.truth.lock() = Some(regions);
    }

    /// Every open so far.
    pub fn opens(&self) -> Vec<RegionContext> {
        self.opens.lock().clone()
    }
}

impl Endpoint for MemoryEndpoint {
    fn open(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, EndpointError> {
        self.opens.lock().push(context);
        if let Some(failure) = self.failures.lock().pop_front() {
            return Err(failure);
        }
        if let Some(truth) = &*self.truth.lock() {
            let known = |r: &Region| r.id == context.region && r.epoch == context.epoch;
            if !truth.iter().any(known) {
                return Err(RegionError::EpochNotMatch { current: truth.clone() }.into());
            }
        }
        let tables = self.tables.lock();
        let Some((handles, batch)) = tables.get(&spec.table.id) else { return Ok(Vec::new()) };
        let inside = |handle: &i64| {
            let key = row_key(spec.table.id, *handle);
            ranges.iter().any(|range| range.contains(&key))
        };
        let found = handles.iter().enumerate().filter(|(_, h)| inside(h));
        let mut rows: Vec<u32> = found.map(|(i, _)| i as u32).collect();
        rows.truncate(spec.limit.unwrap_or(usize::MAX));
        let batch = answer(spec, handles, batch, rows)?;
        let size = batch.num_rows().div_ceil(spec.parts.max(1)).max(1);
        let pieces = (0..batch.num_rows()).step_by(size);
        let part = |from: usize| -> Part {
            let piece = batch.slice(from, size.min(batch.num_rows() - from));
            let step = spec.batch_rows.max(1);
            let starts = (0..piece.num_rows()).step_by(step).collect::<Vec<_>>();
            let slices = starts
                .into_iter()
                .map(move |at| Ok(piece.slice(at, step.min(piece.num_rows() - at))));
            Box::new(slices)
        };
        Ok(pieces.map(part).collect())
    }
}

fn answer(
    spec: &ScanSpec,
    handles: &[i64],
    batch: &RecordBatch,
    rows: Vec<u32>,
) -> Result<RecordBatch, EndpointError> {
    let count = rows.len();
    let whole = rows.first().zip(rows.last()).map_or(Some(0), |(first, last)| {
        ((last - first) as usize + 1 == count).then_some(*first as usize)
    });
    let indices = UInt32Array::from(rows);
    let handles: ArrayRef = Arc::new(arrow::array::Int64Array::from(handles.to_vec()));
    let columns = spec.columns.iter().zip(spec.schema.fields()).map(|(column, field)| {
        let source = match column {
            ScanColumn::Handle => handles.clone(),
            ScanColumn::Column(id) => {
                let at = spec
                    .table
                    .position(*id)
                    .ok_or_else(|| EndpointError::storage(ErrorKind::Invalid, "no such column"))?;
                batch.column(at).clone()
            }
        };
        let found = match whole {
            Some(first) => source.slice(first, count),
            None => take(&source, &indices, None)?,
        };
        Ok(cast(&found, field.data_type())?)
    });
    let columns = columns.collect::<Result<_, EndpointError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    Ok(RecordBatch::try_new_with_options(spec.schema.clone(), columns, &options)?)
}

/// One endpoint for each store.
pub struct Fixed(pub HashMap<StoreId, Arc<dyn Endpoint>>);

impl Endpoints for Fixed {
    fn endpoint(&self, store: StoreId) -> Option<Arc<dyn Endpoint>> {
        self.0.get(&store).cloned()
    }
}

/// Remembers the locks that it was given, and says that they are gone.
#[derive(Default)]
pub struct Resolved(pub Mutex<Vec<KeyLock>>);

impl ResolveLocks for Resolved {
    fn resolve(&self, locks: Vec<KeyLock>, _: Timestamp) -> Result<(), String> {
        self.0.lock().extend(locks);
        Ok(())
    }
}

/// What every endpoint must do. `endpoint` holds table `table` (a handle column first, then
/// whatever) with the rows of handles `0..rows` at `ts`, in one region `context`.
///
/// # Panics
/// With the first promise that is broken.
pub fn suite(endpoint: &dyn Endpoint, context: RegionContext, spec: &ScanSpec, rows: i64) {
    let table = spec.table.id;
    let read = |ranges: &[KeyRange], spec: ScanSpec| -> Vec<i64> {
        let parts = endpoint.open(context, ranges, &Arc::new(spec)).expect("opens");
        let batches = parts.into_iter().flatten().map(|batch| batch.expect("reads"));
        let handles =
            batches.flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec());
        let mut handles: Vec<i64> = handles.collect();
        handles.sort_unstable();
        handles
    };
    let field = Field::new("handle", DataType::Int64, false);
    let only_handle = ScanSpec {
        columns: vec![ScanColumn::Handle],
        schema: Arc::new(Schema::new(vec![field])),
        prune: Vec::new(),
        ..spec.clone()
    };
    let all = [damask_types::key::row_range(table)];
    for (parts, batch_rows) in [(1, 8192), (1, 3), (4, 8192), (7, 2)] {
        let spec = ScanSpec { parts, batch_rows, ..only_handle.clone() };
        let want: Vec<i64> = (0..rows).collect();
        assert_eq!(read(&all, spec), want, "every row once, {parts} parts");
    }
    let point = |h: i64| KeyRange::point(&row_key(table, h));
    let some = [point(0), damask_types::key::handle_range(table, 2, 4), point(rows + 5)];
    assert_eq!(read(&some, only_handle.clone()), vec![0, 2, 3, 4], "only what was asked for");
    let limited = ScanSpec { limit: Some(2), ..only_handle.clone() };
    let parts = endpoint.open(context, &all, &Arc::new(limited)).expect("opens");
    for part in parts {
        let rows: usize = part.map(|b| b.expect("reads").num_rows()).sum();
        assert!(rows <= 2, "a part ends at the limit");
    }
    let counted =
        ScanSpec { columns: Vec::new(), schema: Arc::new(Schema::empty()), ..only_handle.clone() };
    let parts = endpoint.open(context, &all, &Arc::new(counted)).expect("opens");
    let found: usize = parts.into_iter().flatten().map(|b| b.expect("counts").num_rows()).sum();
    assert_eq!(found as i64, rows, "without columns there is a count");
    let past = ScanSpec { ts: Timestamp(1), ..only_handle };
    assert_eq!(read(&all, past), Vec::<i64>::new(), "nothing before the first version");
}
