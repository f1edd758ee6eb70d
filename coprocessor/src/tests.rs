//! The read path over in-memory doubles: units, retries, queues, fragments, both endpoints.

mod admission;
mod pushed;

use crate::testing::*;
use crate::*;
use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use damask_deltatree::{ChangeBatch, ColumnStore, HandleRange, MemoryColumnStore};
use damask_env::RealClock;
use damask_kv::{Cf, Engine, MemoryEngine, WriteBatch};
use damask_learner::ColumnView;
use damask_raftstore::{Applied, Error as RegionError, ReadPermit};
use damask_types::Datum;
use damask_types::codec::{encode_key, encode_key_ts};
use damask_types::key::{handle_range, index_key, row_key, row_range};
use damask_types::row::encode_row;
use damask_types::schema::{IndexState, IntWidth};
use damask_types::*;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use std::collections::HashMap;
use std::sync::Arc;

const TABLE: TableId = TableId(100);
const TS: Timestamp = Timestamp(100);

fn column(id: i64, name: &str, ty: ColumnType) -> ColumnSchema {
    ColumnSchema {
        id: ColumnId(id),
        name: name.into(),
        ty,
        nullable: true,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}

fn table() -> Arc<TableSchema> {
    let int = ColumnType::Int { width: IntWidth::Big, unsigned: false };
    Arc::new(TableSchema {
        id: TABLE,
        database: "d".into(),
        name: "t".into(),
        version: 1,
        columns: vec![
            column(1, "id", int.clone()),
            column(2, "v", int),
            column(3, "s", ColumnType::VarChar { len: 10 }),
        ],
        handle_column: Some(ColumnId(1)),
        indexes: vec![IndexSchema {
            readable_from: damask_types::Timestamp::ZERO,
            id: IndexId(1),
            name: "v".into(),
            columns: vec![ColumnId(2)],
            unique: false,
            primary: false,
            state: IndexState::Public,
        }],
        column_replicas: 1,
        max_column_id: ColumnId(3),
        max_index_id: IndexId(1),
        comment: String::new(),
    })
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
    ]))
}

fn spec(source: Source) -> ScanSpec {
    ScanSpec {
        table: table(),
        source,
        columns: (1..=3).map(|id| ScanColumn::Column(ColumnId(id))).collect(),
        schema: schema(),
        ts: TS,
        prune: Vec::new(),
        limit: None,
        batch_rows: 100,
        parts: 1,
    }
}

/// Row `i`: v = i * 2, s = its text; every seventh v is NULL.
fn cells(i: i64) -> [Datum; 2] {
    let v = if i % 7 == 0 { Datum::Null } else { Datum::Int(i * 2) };
    [v, Datum::Text(format!("s{i}"))]
}

fn batch(rows: i64) -> RecordBatch {
    let v = (0..rows).map(|i| (i % 7 != 0).then_some(i * 2));
    let s = (0..rows).map(|i| Some(format!("s{i}")));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..rows)),
        Arc::new(Int64Array::from_iter(v)),
        Arc::new(StringArray::from_iter(s)),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns fit")
}

fn context() -> RegionContext {
    RegionContext { region: RegionId(1), epoch: Epoch { conf_ver: 1, version: 1 } }
}

fn put(batch: &mut WriteBatch, key: &[u8], value: Vec<u8>) {
    let write = Write::new(WriteKind::Put, Timestamp(9), Some(value));
    batch.put(Cf::Write, encode_key_ts(key, Timestamp(10)), write.encode());
}

/// Rows and index entries of `rows` rows.
fn engine(rows: i64) -> Arc<MemoryEngine> {
    let engine = Arc::new(MemoryEngine::new());
    let mut changes = WriteBatch::default();
    for i in 0..rows {
        let [v, s] = cells(i);
        let row = encode_row(&[(ColumnId(2), &v), (ColumnId(3), &s)]);
        put(&mut changes, &row_key(TABLE, i), row);
        let entry = index_key(TABLE, IndexId(1), std::slice::from_ref(&v), Some(i));
        put(&mut changes, &entry, vec![b'0']);
    }
    engine.write(changes).expect("writes");
    engine
}

fn row_endpoint(engine: Arc<MemoryEngine>) -> RowEndpoint {
    let region = Arc::new(FixedRegions::now(&[], 1).remove(0));
    RowEndpoint::new(
        engine,
        Box::new(move |_, _, done| {
            let applied = Applied { index: 1, term: 1 };
            done(Ok(ReadPermit { region: region.clone(), term: 1, applied }));
        }),
    )
}

fn column_endpoint(rows: i64) -> ColumnEndpoint {
    let store = MemoryColumnStore::new();
    let all = batch(rows);
    let named = Schema::new(vec![
        Field::new("2", DataType::Int64, true),
        Field::new("3", DataType::Utf8, true),
    ]);
    let columns = vec![all.column(1).clone(), all.column(2).clone()];
    let change = ChangeBatch {
        table: TABLE,
        handles: Int64Array::from_iter_values(0..rows),
        versions: UInt64Array::from(vec![10; rows as usize]),
        deleted: BooleanArray::from(vec![false; rows as usize]),
        columns: RecordBatch::try_new(Arc::new(named), columns).expect("columns fit"),
    };
    store.apply(&change).expect("applies");
    ColumnEndpoint::over(Box::new(move |_, _, ranges, _| {
        let handles = ranges.iter().map(|range| {
            let handle = |key: &[u8]| key::decode_row_key(&key[..19.min(key.len())]).map(|r| r.1);
            let first = handle(&range.start).unwrap_or(i64::MIN);
            let last = match handle(&range.end) {
                Some(after) if range.end.len() == 19 => after - 1,
                Some(last) => last,
                None => i64::MAX,
            };
            HandleRange { first, last }
        });
        Ok(ColumnView {
            table: TABLE,
            snapshot: store.snapshot(TABLE).expect("a snapshot"),
            handles: handles.collect(),
            applied: Applied { index: 1, term: 1 },
        })
    }))
}

fn dispatch(
    regions: Arc<FixedRegions>,
    rows: Arc<dyn Endpoint>,
    columns: Arc<dyn Endpoint>,
) -> (Arc<Dispatch>, Arc<Resolved>) {
    let endpoints = HashMap::from([(ROW_STORE, rows), (COLUMN_STORE, columns)]);
    let locks = Arc::new(Resolved::default());
    let clock = Arc::new(RealClock::default());
    let dispatch = Dispatch::new(regions, Arc::new(Fixed(endpoints)), locks.clone(), clock);
    (Arc::new(dispatch), locks)
}

fn memory(rows: i64) -> Arc<MemoryEndpoint> {
    let endpoint = MemoryEndpoint::new();
    endpoint.put(TABLE, (0..rows).collect(), batch(rows));
    endpoint
}

fn handles(parts: Vec<Part>) -> Vec<i64> {
    let batches = parts.into_iter().flatten().map(|b| b.expect("reads"));
    let ids = batches.flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec());
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    ids
}

#[test]
fn endpoints_keep_their_promises() {
    let rows = row_endpoint(engine(20));
    suite(&rows, context(), &spec(Source::Rows), 20);
    let columns = column_endpoint(20);
    suite(&columns, context(), &spec(Source::Columns), 20);
    // A batch of versions is what the doubles lack; the rest they keep too.
    let double = memory(20);
    let parts = double.open(context(), &[row_range(TABLE)], &Arc::new(spec(Source::Rows)));
    assert_eq!(handles(parts.expect("opens")).len(), 20);
}

#[test]
fn rows_and_columns_read_the_same_values() {
    let read = |endpoint: &dyn Endpoint, source| {
        let parts = endpoint.open(context(), &[row_range(TABLE)], &Arc::new(spec(source)));
        let batches = parts.expect("opens").into_iter().flatten().map(|b| b.expect("reads"));
        let batches: Vec<_> = batches.collect();
        arrow::compute::concat_batches(&schema(), &batches).expect("one schema")
    };
    let rows = read(&row_endpoint(engine(250)), Source::Rows);
    let columns = read(&column_endpoint(250), Source::Columns);
    assert_eq!(rows, batch(250));
    assert_eq!(columns, batch(250));
}

#[test]
fn wide_row_ranges_split_into_parts_without_loss() {
    let endpoint = row_endpoint(engine(10_000));
    let spec = Arc::new(ScanSpec { parts: 4, ..spec(Source::Rows) });
    let parts = endpoint.open(context(), &[row_range(TABLE)], &spec).expect("opens");
    assert_eq!(parts.len(), 4);
    assert_eq!(handles(parts), (0..10_000).collect::<Vec<_>>());
}

#[test]
fn index_entries_give_columns_and_handles() {
    let endpoint = row_endpoint(engine(50));
    let fields =
        vec![Field::new("v", DataType::Int64, true), Field::new("handle", DataType::Int64, false)];
    let spec = Arc::new(ScanSpec {
        source: Source::Index(IndexId(1)),
        columns: vec![ScanColumn::Column(ColumnId(2)), ScanColumn::Handle],
        schema: Arc::new(Schema::new(fields)),
        ..spec(Source::Rows)
    });
    let prefix = index_key(TABLE, IndexId(1), &[Datum::Int(20)], None);
    let parts = endpoint.open(context(), &[KeyRange::prefix(&prefix)], &spec).expect("opens");
    let batches: Vec<_> = parts.into_iter().flatten().map(|b| b.expect("reads")).collect();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().values().to_vec(), [20]);
    assert_eq!(batches[0].column(1).as_primitive::<Int64Type>().values().to_vec(), [10]);
}

#[test]
fn a_lock_refuses_the_open_before_any_row() {
    let engine = engine(10);
    let mut changes = WriteBatch::default();
    let lock = Lock::new(LockKind::Put, row_key(TABLE, 3), Timestamp(50), 1000);
    changes.put(Cf::Lock, encode_key(&row_key(TABLE, 3)), lock.encode());
    engine.write(changes).expect("writes");
    let endpoint = row_endpoint(engine);
    let open = |range, ts| {
        endpoint.open(context(), &[range], &Arc::new(ScanSpec { ts, ..spec(Source::Rows) }))
    };
    match open(row_range(TABLE), TS) {
        Err(EndpointError::Locked(locks)) => assert_eq!(locks[0].key, row_key(TABLE, 3)),
        _ => panic!("the lock was not seen"),
    }
    assert!(open(handle_range(TABLE, 4, 9), TS).is_ok(), "outside of the range");
    assert!(open(row_range(TABLE), Timestamp(49)).is_ok(), "a later transaction's lock");
}

#[test]
fn a_refused_unit_is_located_again_and_read_once() {
    let believed = FixedRegions::cut_at(&[]);
    let rows = memory(100);
    rows.set_truth(FixedRegions::now(&[row_key(TABLE, 30), row_key(TABLE, 60)], 2));
    let (dispatch, _) = dispatch(believed, rows.clone(), memory(0));
    let parts = dispatch.open(&[row_range(TABLE)], &Arc::new(spec(Source::Rows)));
    assert_eq!(handles(parts.expect("opens")), (0..100).collect::<Vec<_>>());
    assert_eq!(rows.opens().len(), 4, "one refused, three regions");
}

#[test]
fn locks_are_resolved_and_the_unit_is_read_again() {
    let rows = memory(10);
    let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(5), 1);
    let held = KeyLock { key: row_key(TABLE, 1), lock };
    rows.fail([EndpointError::Locked(vec![held.clone()]), RegionError::Busy("test").into()]);
    let (dispatch, locks) = dispatch(FixedRegions::cut_at(&[]), rows, memory(0));
    let parts = dispatch.open(&[row_range(TABLE)], &Arc::new(spec(Source::Rows)));
    assert_eq!(handles(parts.expect("opens")).len(), 10);
    assert_eq!(*locks.0.lock(), vec![held]);
}

#[test]
fn a_corrupt_store_is_not_asked_again() {
    let rows = memory(10);
    rows.fail([EndpointError::storage(ErrorKind::Corrupt, "bad block")]);
    let (dispatch, _) = dispatch(FixedRegions::cut_at(&[]), rows.clone(), memory(0));
    let failed = dispatch.open(&[row_range(TABLE)], &Arc::new(spec(Source::Rows)));
    assert_eq!(failed.err().expect("fails").kind, ErrorKind::Corrupt);
    assert_eq!(rows.opens().len(), 1);
}

#[test]
fn units_follow_regions_and_ranges() {
    let regions = FixedRegions::cut_at(&[row_key(TABLE, 10), row_key(TABLE, 20)]);
    let (dispatch, _) = dispatch(regions, memory(0), memory(0));
    let ranges = [handle_range(TABLE, 5, 12), handle_range(TABLE, 15, 25)];
    let units = dispatch.units(&ranges).expect("all regions are known");
    let shape: Vec<_> = units.iter().map(|u| (u.region.id.0, u.ranges.len())).collect();
    assert_eq!(shape, [(1, 1), (2, 2), (3, 1)]);
}

fn scan(dispatch: Arc<Dispatch>, source: Source, partitions: usize) -> Arc<RegionScanExec> {
    let spec = Arc::new(ScanSpec { parts: 3, ..spec(source) });
    let statistics = datafusion::common::Statistics::new_unknown(&spec.schema);
    let plan = ScanPlan {
        dispatch,
        spec,
        ranges: vec![row_range(TABLE)],
        filter: None,
        projection: Some(vec![0]),
        fetch: None,
        statistics,
        reason: "test".into(),
    };
    Arc::new(RegionScanExec::new(plan, partitions).expect("a scan"))
}

fn run(plan: Arc<dyn ExecutionPlan>) -> datafusion::common::Result<Vec<RecordBatch>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    runtime.expect("a runtime").block_on(collect(plan, SessionContext::new().task_ctx()))
}

#[test]
fn partitions_share_the_work_of_a_scan() {
    let cuts: Vec<_> = (1..8).map(|i| row_key(TABLE, i * 100)).collect();
    let (dispatch, _) = dispatch(FixedRegions::cut_at(&cuts), memory(800), memory(0));
    let scan = scan(dispatch, Source::Rows, 4);
    assert_eq!(scan.regions(), 8);
    for _ in 0..2 {
        let plan = (scan.clone() as Arc<dyn ExecutionPlan>).reset_state().expect("resets");
        let batches = run(plan).expect("runs");
        let mut ids: Vec<i64> = batches
            .iter()
            .flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..800).collect::<Vec<_>>());
    }
}

#[test]
fn a_failed_unit_fails_the_scan_and_ends_it() {
    let cuts: Vec<_> = (1..8).map(|i| row_key(TABLE, i * 100)).collect();
    let rows = memory(800);
    rows.fail([EndpointError::storage(ErrorKind::Io, "no disk")]);
    let (dispatch, _) = dispatch(FixedRegions::cut_at(&cuts), rows, memory(0));
    let failed = run(scan(dispatch, Source::Rows, 4)).expect_err("fails");
    assert!(failed.to_string().contains("no disk"), "{failed}");
}

#[test]
fn a_lookup_reads_the_rows_of_its_handles() {
    let engine = engine(500);
    let (dispatch, _) = dispatch(
        FixedRegions::cut_at(&[row_key(TABLE, 100)]),
        Arc::new(row_endpoint(engine)),
        memory(0),
    );
    let index = damask_types::key::index_prefix(TABLE, IndexId(1));
    let handle = Field::new("handle", DataType::Int64, false);
    let entries = ScanPlan {
        dispatch: dispatch.clone(),
        spec: Arc::new(ScanSpec {
            source: Source::Index(IndexId(1)),
            columns: vec![ScanColumn::Handle],
            schema: Arc::new(Schema::new(vec![handle])),
            ..spec(Source::Rows)
        }),
        ranges: vec![KeyRange::prefix(&index)],
        filter: None,
        projection: None,
        fetch: None,
        statistics: datafusion::common::Statistics::new_unknown(&Schema::empty()),
        reason: String::new(),
    };
    let rows = ScanPlan {
        spec: Arc::new(spec(Source::Rows)),
        ranges: Vec::new(),
        statistics: datafusion::common::Statistics::new_unknown(&schema()),
        ..entries.clone()
    };
    let input = Arc::new(RegionScanExec::new(entries, 1).expect("a scan"));
    let lookup = IndexLookupExec::new(input, rows).expect("a lookup");
    let batches = run(Arc::new(lookup)).expect("runs");
    let all = arrow::compute::concat_batches(&schema(), &batches).expect("one schema");
    let order = arrow::compute::sort_to_indices(all.column(0), None, None).expect("sorts");
    let sorted = arrow::compute::take_record_batch(&all, &order).expect("takes");
    assert_eq!(sorted, batch(500));
}
